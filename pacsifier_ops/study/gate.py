"""The last gate before a release: every file of the data set is searched for everybody of the cohort.

De-identification has searched each object for its own patient. Here each file, with its name, is searched for all
patients of the study, those who were left out included: an object in a wrong folder, a table that somebody put there.

| what                                                           | then                                          |
|----------------------------------------------------------------|-----------------------------------------------|
| full names; UIDs that were replaced; PatientIDs and accession  | nobody can release it                         |
| numbers of six characters or more; files that cannot be read;  |                                               |
| dates of a patient in the names of the patient's folders and   |                                               |
| files, and of anybody in texts such as the manifest; files     |                                               |
| that the de-identification has not made, whoever they are of   |                                               |
| parts of names, names that are everyday words, shorter ids     | it is listed, and released with a waiver only |

By the verifier's rules (`deid.verifier`), with one look at each file however large the cohort is. Dates are those of
birth, and those of studies where the profile does not keep them. In a cohort, somebody's birthday is anybody's day: so
a day that one of the moved dates falls on says nothing, and in objects de-identification has searched for the dates of
their own patient.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.base.files import readable, storage_errors
from pacsifier_ops.extract.outcome import planned
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.folder import Run, never, stage_run
from pacsifier_ops.state.approved import approved_of
from pacsifier_ops.state.facts import Facts
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.run import ANONYMIZE, EXTRACT

if TYPE_CHECKING:
    from pacsifier_ops.deid.identifiers import SearchTerms
    from pacsifier_ops.deid.verifier import FileContent

#: Dates (`YYYYMMDD`), with the attribute that they are from.
Dates = Mapping[str, int]
_NONE: Dates = MappingProxyType({})

#: What a profile does with dates.
_KEPT, _MOVED, _GONE = "kept", "moved", "gone"

#: Findings kept of each kind; the rest is counted.
MOST = 1000

#: Characters of a text that is no DICOM file, which are searched at once.
_PIECE = 1 << 20
#: Rows of a table that are searched at once.
_ROWS = 10_000


@dataclass
class GateFindings:
    """What the gate found.

    Attributes:
        searched: files that were searched.
        patients: people they were searched for.
        blocking, waivable: path of the file, what was found, and where in it; no values. At most MOST of each.
        counts: how many of each there are.
    """

    searched: int = 0
    patients: int = 0
    blocking: list[tuple[str, str]] = field(default_factory=list)
    waivable: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, path: str, told: Iterable[str]) -> None:
        """Keep findings in a file."""
        for text in told:
            self.counts[kind] += 1
            if self.counts[kind] <= MOST:
                getattr(self, kind).append((path, text))


class Gate:
    """Searches for a cohort.

    Args:
        people: names, and ids of any kind, of each patient.
        uids: UIDs that were replaced.
        pseudonyms: who they become.
        dates: dates (`YYYYMMDD`) that must not be told of each of these, by the name of their folder.
        free: dates that say nothing: on which a moved date falls, or the data set was made.
        made: SHA-256 of the files that the de-identification has made, by path.
    """

    def __init__(
        self,
        people: Iterable[tuple[Iterable[str], Iterable[str]]],
        uids: Iterable[str],
        pseudonyms: Iterable[str],
        dates: Mapping[str, Iterable[str]] = MappingProxyType({}),
        free: Collection[str] = (),
        made: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        from pacsifier_ops.deid.identifiers import dates_of, normal, terms_of_cohort

        every = [(set(names) - {""}, set(ids) - {""}) for names, ids in people]
        self.patients, self._uids, self._made = len(every), frozenset(uids), made
        self._certain, self._doubtful = terms_of_cohort(every, frozenset(map(normal, pseudonyms)))
        self._dates = {folder: dates_of(frozenset(days) - set(free)) for folder, days in dates.items()}
        self._all_dates = {day: tag for days in self._dates.values() for day, tag in days.items()}

    @classmethod
    def of(cls, run: Run, data_set: Path) -> Gate:
        """For everybody that a study has asked for, and everybody in its data set.

        Args:
            data_set: the de-identified folder.
        """
        from pacsifier_ops.deid.run import series_of, store_of
        from pacsifier_ops.deid.values import shifted_date
        from pacsifier_ops.deid.whose import identifying

        births: dict[str, set[str]] = {}
        studies: dict[str, set[str]] = {}
        names: dict[str, set[str]] = {}
        ids: dict[str, set[str]] = {}

        def person(patient_id: str, told: Mapping[str, Iterable[str]]) -> None:
            names.setdefault(patient_id, set()).update(told.get("PatientName", ()))
            ids.setdefault(patient_id, {identifying(patient_id)}).update(told.get("AccessionNumber", ()))
            births.setdefault(patient_id, set()).update(told.get("PatientBirthDate", ()))
            studies.setdefault(patient_id, set()).update(told.get("StudyDate", ()))

        asked: set[str] = set()
        for item in planned(stage_run(run, EXTRACT)):
            person(item.attributes.get("PatientID", ""), {key: [value] for key, value in item.attributes.items()})
            asked |= {item.study_uid, item.series_uid}
        replaced: dict[str, str] = {}
        pseudonyms: set[str] = set()
        fate, free = _dates_of_studies(run), _made_on(run)
        dates: dict[str, set[str]] = {}
        if store := store_of(data_set):
            for source in series_of(store):
                person(source.patient_id, source.known)
                asked |= {source.study_uid, source.series_uid}
                pseudonyms.add(source.pseudonym)
                born, examined = births[source.patient_id], studies[source.patient_id]
                gone = fate == _GONE or (fate == _MOVED and source.shift != 0)
                dates.setdefault(source.target.split("/")[0], set()).update(born, examined if gone else ())
                if fate != _GONE:
                    free |= {shifted_date(day, source.shift if gone else 0) or "" for day in examined}
                for settled in store.settled(source.key).values():
                    replaced |= settled.uids
        # A profile may keep UIDs; where it replaces them, those of patients who were left out must not be there either.
        uids = (replaced.keys() | (asked if replaced else set())) - set(replaced.values())
        here = {day for days in dates.values() for day in days}
        every = [*births.values(), *(studies.values() if fate != _KEPT else ())]
        left_out = {day for days in every for day in days} - here
        made = approved_of(data_set)
        people = ((names[key], ids[key]) for key in ids)
        return cls(people, uids, pseudonyms, {**dates, "": left_out}, free, made.files if made else {})

    def search(self, root: Path, paths: Iterable[str], cancelled: Callable[[], bool] = never) -> GateFindings:
        """Search files and their names.

        Args:
            root: folder that the paths are below.

        Raises:
            StorageError: a file cannot be read.
            Cancelled: `cancelled` said so.
        """
        found = GateFindings(patients=self.patients)
        with (
            storage_errors("the de-identified data set, or the state root"),
            Facts(root, "searched", lambda path: self._findings(path, root), version=self._digest()) as findings,
        ):
            for path in paths:
                if cancelled():
                    raise Cancelled("stopped on request")
                for kind, told in findings(root / path).items():
                    found.add(kind, path, told)
                found.searched += 1
        return found

    def _findings(self, path: Path, root: Path) -> dict[str, list[str]]:
        """Return the findings in a file by kind, no values."""
        found: dict[str, list[str]] = {"blocking": [], "waivable": []}
        name = readable(path.relative_to(root))
        for held, dates in _held(path, name, self._dates.get(name.split("/")[0], {}), self._all_dates):
            if isinstance(held, str):
                found["blocking"].append(held)
            else:
                found["blocking"] += self._told(held, self._certain, self._uids, dates)
                found["waivable"] += self._told(held, self._doubtful)
        return found

    def _digest(self) -> str:
        """Return the SHA-256 of all that is searched for, hexadecimal."""
        whole = hashlib.sha256()
        for terms in (self._certain, self._doubtful):
            for of_terms in fields(terms):
                whole.update(repr(sorted(getattr(terms, of_terms.name).items())).encode())
        whole.update(repr(sorted(self._uids)).encode())
        whole.update(repr(sorted((folder, sorted(days.items())) for folder, days in self._dates.items())).encode())
        return whole.hexdigest()

    def refuse_foreign(self, files: Iterable[Mapping[str, Any]], found: GateFindings) -> None:
        """Add the files that the de-identification has not made: they may be of anybody, in any form.

        Args:
            files: `path` and `sha256` of each.
        """
        for file in files:
            if self._made.get(file["path"]) != file["sha256"]:
                found.add("blocking", file["path"], ["it is no file that the de-identification has made"])

    def _told(
        self, held: FileContent, wanted: SearchTerms, uids: frozenset[str] = frozenset(), dates: Dates = _NONE
    ) -> list[str]:
        from pacsifier_ops.deid.verifier import hits

        return sorted(map(str, hits(held, wanted, uids, dates)))


def _dates_of_studies(run: Run) -> str:
    """What the profile of a study does with dates of studies."""
    from pacsifier_ops.deid import profile
    from pacsifier_ops.deid.rules import ProfileOption
    from pacsifier_ops.deid.run import DeidRequest

    try:
        options = profile.load(DeidRequest.of(stage_run(run, ANONYMIZE)).profile).options
    except FileNotFoundError:
        return _GONE
    return (
        _KEPT if ProfileOption.FULL_DATES in options else _MOVED if ProfileOption.MODIFIED_DATES in options else _GONE
    )


def _made_on(run: Run) -> set[str]:
    """The days on which a data set was made and decided on: its report tells them."""
    begun = dt.date.fromisoformat(Study.of(run).started[:10])
    days = (dt.date.today() - begun).days
    told = {f"{begun + dt.timedelta(days=day):%Y%m%d}" for day in range(days + 1)}
    return told | {one.when[:10].replace("-", "") for one in approvals.history(run)}


def _held(path: Path, name: str, own: Dates, every: Dates) -> Iterator[tuple[FileContent | str, Dates]]:
    """What a file and its name hold, in pieces, or why it cannot be searched; and the dates that must not be there.

    Args:
        own: dates of the patient that the file is of.
        every: dates of all patients.
    """
    from pacsifier_ops.deid.verifier import content_of

    # A time may go on where a date ends.
    yield content_of([name, *name.split("/"), *(run[:8] for run in re.findall(r"\d{8,}", name))]), own
    with path.open("rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        yield _object(path), _NONE
    elif head[:4] == b"PK\x03\x04":
        yield from ((held, every) for held in _packed(path.read_bytes()))
    elif head[:4] == b"PAR1":
        yield from ((held, every) for held in _table(path))
    else:
        yield from ((held, every) for held in _texts(path))


def _object(source: Path | bytes) -> FileContent | str:
    from pacsifier_ops.deid.verifier import Unreadable, read

    try:
        return read(source)
    except Unreadable as error:
        return str(error)


def _packed(data: bytes) -> Iterator[FileContent | str]:
    """What the files in a zip hold, and what they are called."""
    from pacsifier_ops.deid.verifier import content_of

    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for entry in archive.infolist():
                yield content_of([entry.filename, entry.comment.decode("utf-8", "replace")])
                content = archive.read(entry)
                yield _object(content) if content[128:132] == b"DICM" else _text(content.decode("utf-8", "replace"))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
        yield "the zip cannot be read"


def _table(path: Path) -> Iterator[FileContent | str]:
    """Yield what a Parquet file holds: names of columns, notes, and values, many rows at once."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            notes = {**(table.metadata.metadata or {})}
            notes.pop(b"ARROW:schema", None)  # the names of the columns again, as Base64
            said = [*table.schema_arrow.names, *(str(note, "utf-8", "replace") for note in notes.values())]
            yield _text("\n".join(said))
            for batch in table.iter_batches(_ROWS):
                for column in batch.columns:
                    yield _text("\n".join(map(str, column.drop_null().to_pylist())))
    except (pyarrow.ArrowException, OSError):
        yield "the Parquet file cannot be read"


def _texts(path: Path) -> Iterator[FileContent]:
    """The text of any other file, in pieces that overlap, so that nothing is cut in two."""
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        before = ""
        while text := stream.read(_PIECE):
            yield _text(before + text)
            before = text[-200:]


def _text(text: str) -> FileContent:
    """A text as a whole, without mark-up, and what of it may be a value of its own."""
    from pacsifier_ops.deid.verifier import content_of

    unmarked = re.sub(r"<[^<>]*>", " ", text)
    return content_of([text, unmarked, *re.split(r"[\r\n\t,;|\"]+", unmarked)])
