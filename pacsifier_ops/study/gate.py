"""The gate: the search of the whole data set for identifiers of the cohort, before a release.

De-identification has searched each object for identifiers of its own patient. The gate searches each file and its name
for those of all patients of the study, also of patients who were left out. It finds an object in a wrong folder, or a
table that somebody put into the data set.

| finding                                                        | consequence                                   |
|----------------------------------------------------------------|-----------------------------------------------|
| full names; UIDs that were replaced; PatientIDs and accession  | blocking: the data set cannot be released     |
| numbers of six characters or more; files that cannot be read;  |                                               |
| dates of a patient in the names of the patient's folders and   |                                               |
| files; dates of any patient in texts such as the manifest;     |                                               |
| files that the de-identification did not make                  |                                               |
| parts of names, names that are everyday words, shorter ids     | waivable: it is listed; a person may waive it |

The rules are those of the verifier (`deid.verifier`). Each file is read once, however large the cohort is.

A number of a table, of JSON, or of the diffusion is compared as numbers of objects are: as a whole, and from six digits
on. So 512 rows are not the patient 512, nor is a b-value of 1000 the patient 1000. Digests of files of the data set are
no text: any digits may stand in them.

Dates are birth dates, and study dates if the profile does not keep them. In a large cohort nearly every day is a date
of some patient. So a day on which a shifted date falls is no finding, and objects are not searched for dates here: the
de-identification has searched them for those of their own patient.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.base.files import read_jsonl, storage_errors
from pacsifier_ops.base.tables import holds_the_same, parquet_of
from pacsifier_ops.extract.outcome import planned
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.folder import Run, never, stage_run
from pacsifier_ops.state.approved import approved_of, approved_seen
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.standing import Standing, stamp_of
from pacsifier_ops.state.tree import marker_of
from pacsifier_ops.study.listing import LIST, files_of, parts_of
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.run import ANONYMIZE, EXTRACT
from pacsifier_ops.study.searched import NO_DATES, Dates, Findings, Search, Terms

if TYPE_CHECKING:
    import pyarrow

    from pacsifier_ops.deid.run import Store
    from pacsifier_ops.deid.verifier import FileContent

#: What a profile does with dates of studies.
_KEPT, _SHIFTED, _REMOVED = "kept", "shifted", "removed"

#: Number of findings of each kind that are kept; further ones are only counted.
MOST = 1000

#: Number of characters of a text that are searched at once.
_PIECE = 1 << 20
#: Rows of a table that are searched at once.
_ROWS = 10_000

#: Files that hold numbers beside an image, and in tables of BIDS the columns that are counts of ours (see `convert`).
_OF_NUMBERS: Mapping[str, Collection[str]] = {".bval": (), ".bvec": (), ".tsv": ("sessions", "days_from_first")}
#: A number without zeros before it, as they are written there.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", re.ASCII)


@dataclass
class GateFindings:
    """What the gate found.

    Attributes:
        searched: number of files that were searched.
        read: number of files that were read for it, see `searched`.
        patients: number of patients whose identifiers were searched for.
        blocking, waivable: path of the file, and the kind and place of the identifier in it, without its value. At most
            MOST of each.
        counts: number of findings of each kind.
    """

    searched: int = 0
    read: int = 0
    patients: int = 0
    blocking: list[tuple[str, str]] = field(default_factory=list)
    waivable: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, path: str, findings: Iterable[str]) -> None:
        """Add findings in a file.

        Args:
            kind: `blocking` or `waivable`.
        """
        for finding in findings:
            self.counts[kind] += 1
            if self.counts[kind] <= MOST:
                getattr(self, kind).append((path, finding))


class Gate:
    """Searches files for identifiers of a cohort.

    Args:
        people: names, and ids of any kind, of each patient.
        uids: UIDs that were replaced.
        pseudonyms: pseudonyms of the patients.
        dates: forbidden dates (`YYYYMMDD`) of each patient, by the name of the patient's folder.
        free: dates that are no finding: a shifted date falls on them, or the data set was made on them.
        made: returns the SHA-256 of the files that the de-identification made, by path.
        digests: other SHA-256, hexadecimal, that the data set names.
    """

    def __init__(
        self,
        people: Iterable[tuple[Iterable[str], Iterable[str]]],
        uids: Iterable[str],
        pseudonyms: Iterable[str],
        dates: Mapping[str, Iterable[str]] = MappingProxyType({}),
        free: Collection[str] = (),
        made: Callable[[], Mapping[str, str]] = dict,
        digests: Iterable[str] = (),
    ) -> None:
        from pacsifier_ops.deid.identifiers import dates_of, normal, terms_of_cohort

        every = [(set(names) - {""}, set(ids) - {""}) for names, ids in people]
        self.patients, self._find_made, self._more = len(every), made, frozenset(digests)
        certain, doubtful = terms_of_cohort(every, frozenset(map(normal, pseudonyms)))
        self._terms = Terms(certain, doubtful, frozenset(uids))
        self._dates = {folder: dates_of(frozenset(days) - set(free)) for folder, days in dates.items()}
        self._all_dates = {day: tag for days in self._dates.values() for day, tag in days.items()}

    @classmethod
    def of(cls, run: Run | None, data_set: Path) -> Gate:
        """Return the gate for all patients that a study asked for, and all patients in its data set.

        Args:
            run: the study's run; None: the data set belongs to no study. Then dates of studies are not searched, since
                it is not known what the profile has made of them.
            data_set: the de-identified folder.
        """
        from pacsifier_ops.deid.card import day_of
        from pacsifier_ops.deid.identity import identifying
        from pacsifier_ops.deid.run import series_of, store_of
        from pacsifier_ops.deid.values import shifted_date

        births: dict[str, set[str]] = {}
        studies: dict[str, set[str]] = {}
        names: dict[str, set[str]] = {}
        ids: dict[str, set[str]] = {}

        def add(patient_id: str, known: Mapping[str, Iterable[str]]) -> None:
            names.setdefault(patient_id, set()).update(known.get("PatientName", ()))
            ids.setdefault(patient_id, {identifying(patient_id)}).update(known.get("AccessionNumber", ()))
            births.setdefault(patient_id, set()).update(known.get("PatientBirthDate", ()))
            studies.setdefault(patient_id, set()).update(known.get("StudyDate", ()))

        asked: set[str] = set()
        for item in planned(stage_run(run, EXTRACT)) if run else ():
            add(item.attributes.get("PatientID", ""), {key: [value] for key, value in item.attributes.items()})
            asked |= {item.study_uid, item.series_uid}
        replaced: dict[str, str] = {}
        pseudonyms: set[str] = set()
        study_dates, free = (_study_dates(run), _days_of(run)) if run else (_KEPT, set())
        dates: dict[str, set[str]] = {}
        digests = []
        if store := store_of(data_set):
            profile = str(marker_of(data_set).get("stamp", {}).get("profile", ""))
            digests = [profile] if re.fullmatch("[0-9a-f]{64}", profile) else []  # anybody can write a marker
            free.add(day_of(store).replace("-", ""))
            with Standing(data_set, "replaced") as standing:
                for source in series_of(store):
                    add(source.patient_id, source.known)
                    asked |= {source.study_uid, source.series_uid}
                    pseudonyms.add(source.pseudonym)
                    born, examined = births[source.patient_id], studies[source.patient_id]
                    changed = study_dates == _REMOVED or (study_dates == _SHIFTED and source.shift != 0)
                    dates.setdefault(source.target.split("/")[0], set()).update(born, examined if changed else ())
                    if study_dates != _REMOVED:
                        free |= {shifted_date(day, source.shift if changed else 0) or "" for day in examined}
                    replaced |= _replaced(store, source.key, standing)
        # A profile may keep UIDs. If it replaces them, those of patients who were left out are forbidden as well.
        uids = (replaced.keys() | (asked if replaced else set())) - set(replaced.values())
        in_data_set = {day for days in dates.values() for day in days}
        every = [*births.values(), *(studies.values() if study_dates != _KEPT else ())]
        left_out = {day for days in every for day in days} - in_data_set
        people = ((names[key], ids[key]) for key in ids)

        def made() -> Mapping[str, str]:
            listed = approved_of(data_set)
            return listed.files if listed else {}

        return cls(people, uids, pseudonyms, {**dates, "": left_out}, free, made, digests)

    @cached_property
    def _made(self) -> Mapping[str, str]:
        return self._find_made()

    @cached_property
    def _digests(self) -> frozenset[str]:
        return frozenset(self._made.values()) | self._more

    def search_list(self, run: Run, root: Path, cancelled: Callable[[], bool] = never) -> GateFindings:
        """Search the files of the list of a run, and their names.

        Args:
            root: the data set.

        Raises:
            StorageError: a file cannot be read.
            Cancelled: `cancelled` returned True.
        """
        with self._searching(root) as (found, search):
            changed = []
            for part in parts_of(run):
                if search.is_clean(part):
                    found.searched += part.files
                else:
                    changed.append(part)
            for part, there in files_of(run, changed):
                before = found.counts.total()
                self._add(found, search, (file["path"] for file in there), cancelled)
                if found.counts.total() == before:
                    search.found_clean(part, [file["path"] for file in there])
        return found

    def search(self, root: Path, paths: Iterable[str], cancelled: Callable[[], bool] = never) -> GateFindings:
        """Search files and their names.

        Args:
            root: a folder.
            paths: paths of the files below it.

        Raises:
            StorageError: a file cannot be read.
            Cancelled: `cancelled` returned True.
        """
        with self._searching(root) as (found, search):
            self._add(found, search, paths, cancelled)
        return found

    @contextmanager
    def _searching(self, root: Path) -> Iterator[tuple[GateFindings, Search]]:
        found = GateFindings(patients=self.patients)
        with storage_errors("the de-identified data set, or the state root"), self._search(root) as search:
            yield found, search
            found.read = search.files_read

    def _add(self, found: GateFindings, search: Search, paths: Iterable[str], cancelled: Callable[[], bool]) -> None:
        for path in paths:
            if cancelled():
                raise Cancelled("stopped on request")
            for kind, findings in search(path).items():
                found.add(kind, path, findings)
            found.searched += 1

    def each(
        self, root: Path, paths: Iterable[str], cancelled: Callable[[], bool] = never
    ) -> Iterator[tuple[str, Findings]]:
        """Yield the path of each file with its own findings; see `search`."""
        with storage_errors("the files, or the state root"), self._search(root) as search:
            for path in paths:
                if cancelled():
                    raise Cancelled("stopped on request")
                yield path, search(path)

    def _search(self, root: Path) -> Search:
        return Search(root, self._terms, self._digest_of_dates(), self._pieces, self._names)

    def _pieces(self, path: Path, name: str) -> Iterator[tuple[FileContent | str, Dates]]:
        own = self._dates.get(name.split("/")[0], NO_DATES)
        yield from _contents(path, name, own, self._all_dates, self._digests)

    def _names(self, names: list[str]) -> tuple[FileContent, Dates]:
        """Return the content of the names of files of one folder, and the dates that are forbidden in them."""
        from pacsifier_ops.deid.verifier import content_of

        texts = dict.fromkeys(text for name in names for text in _texts_of_name(name))
        return content_of(texts), self._dates.get(names[0].split("/")[0], NO_DATES) if names else NO_DATES

    def _digest_of_dates(self) -> str:
        """Return the SHA-256 of the dates of the search, hexadecimal."""
        dates = sorted((folder, sorted(days.items())) for folder, days in self._dates.items())
        return hashlib.sha256(repr(dates).encode()).hexdigest()

    def add_foreign(self, run: Run, root: Path, found: GateFindings, own: Mapping[str, str]) -> None:
        """Add each file that the de-identification did not make to the findings: it may be of any patient.

        Args:
            run: the run, whose list has the files of the data set.
            root: the data set.
            own: SHA-256 of the files that the study has made itself, by path.

        Raises:
            StorageError: the state root cannot be read or written.
        """
        path = run.part(LIST)
        with storage_errors("the state root"), Standing(root, "made") as standing:
            stamp = stamp_of(digest(path), sorted(own.items()), approved_seen(root))
            if standing.get(LIST, stamp):
                return
            made = {**self._made, **own}
            foreign = [file["path"] for file in read_jsonl(path) if made.get(file["path"]) != file["sha256"]]
            for name in foreign:
                found.add("blocking", name, ["it is no file that the de-identification has made"])
            if not foreign:
                standing.put(LIST, stamp, True)


def _replaced(store: Store, key: str, standing: Standing) -> dict[str, str]:
    """Return the UIDs that were replaced in a series, with the new ones."""
    stamp = stamp_of(store.seen(key))  # lines are only added to the file, so another content has another size
    kept: dict[str, str] | None = standing.get(key, stamp)
    if kept is None:
        kept = {}
        for settled in store.settled(key).values():
            kept |= settled.uids
        standing.put(key, stamp, kept)
    return kept


def _study_dates(run: Run) -> str:
    """Return what the profile of a study does with dates of studies: _KEPT, _SHIFTED or _REMOVED."""
    from pacsifier_ops.deid import profile
    from pacsifier_ops.deid.rules import ProfileOption
    from pacsifier_ops.deid.run import DeidRequest

    try:
        options = profile.load(DeidRequest.of(stage_run(run, ANONYMIZE)).profile).options
    except FileNotFoundError:
        return _REMOVED
    if ProfileOption.FULL_DATES in options:
        return _KEPT
    return _SHIFTED if ProfileOption.MODIFIED_DATES in options else _REMOVED


def _days_of(run: Run) -> set[str]:
    """Return the days on which the data set was made and decided on. Its report names them."""
    begun = dt.date.fromisoformat(Study.of(run).started[:10])
    days = (dt.date.today() - begun).days
    made = {f"{begun + dt.timedelta(days=day):%Y%m%d}" for day in range(days + 1)}
    return made | {one.when[:10].replace("-", "") for one in approvals.history(run)}


def _contents(
    path: Path, name: str, own: Dates, every: Dates, digests: Collection[str]
) -> Iterator[tuple[FileContent | str, Dates]]:
    """Yield the name and the content of a file, in pieces, each with the dates that are forbidden in it.

    Args:
        path: the file.
        name: its path below the data set.
        own: dates of the patient of its folder.
        every: dates of all patients.
        digests: SHA-256 of files of the data set.

    Yields:
        The piece, or the reason why the file cannot be searched; and the dates.
    """
    from pacsifier_ops.deid.verifier import content_of

    yield content_of(_texts_of_name(name)), own
    with path.open("rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        yield _object(path), NO_DATES
    elif head[:4] == b"PK\x03\x04":
        yield from ((content, every) for content in _zipped(path.read_bytes()))
    elif head[:4] == b"PAR1":
        yield from ((content, every) for content in _table(path, digests))
    elif path.suffix == ".csv" and holds_the_same(path):
        # The Parquet file beside it tells numbers from texts.
        yield from ((content, every) for content in _table(parquet_of(path), digests))
    elif path.suffix == ".json" and (content := _json(path, digests)):
        yield content, every
    elif path.suffix in _OF_NUMBERS and (values := _numbers(path, _OF_NUMBERS[path.suffix])):
        yield _mixed(values, digests), every
    else:
        yield from ((content, every) for content in _texts(path))


def _texts_of_name(name: str) -> list[str]:
    # In a name, a time may follow a date without a gap.
    return [name, *name.split("/"), *(run[:8] for run in re.findall(r"\d{8,}", name))]


def _object(source: Path | bytes) -> FileContent | str:
    from pacsifier_ops.deid.verifier import Unreadable, read

    try:
        return read(source)
    except Unreadable as error:
        return str(error)


def _zipped(data: bytes) -> Iterator[FileContent | str]:
    """Yield names and content of the files in a zip."""
    from pacsifier_ops.deid.verifier import content_of

    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for entry in archive.infolist():
                yield content_of([entry.filename, entry.comment.decode("utf-8", "replace")])
                content = archive.read(entry)
                yield _object(content) if content[128:132] == b"DICM" else _text(content.decode("utf-8", "replace"))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
        yield "the zip cannot be read"


def _table(path: Path, digests: Collection[str]) -> Iterator[FileContent | str]:
    """Yield the content of a Parquet file: names of columns, metadata, and values, _ROWS rows at once."""
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            notes = {**(table.metadata.metadata or {})}
            notes.pop(b"ARROW:schema", None)  # the columns again, as Base64
            yield _text("\n".join([*_names(table.schema_arrow), *map(_decoded, (*notes, *notes.values()))]))
            for batch in table.iter_batches(_ROWS):
                for column in batch.columns:
                    for values in _values(column):
                        yield _mixed(values, digests)
    except Exception:  # reading foreign files raises many types of exception
        yield "the Parquet file cannot be read"


def _json(path: Path, digests: Collection[str]) -> FileContent | None:
    """Return the content of a JSON file; None where it is none."""
    values: list[Any] = []

    def collect(pairs: list[tuple[str, Any]]) -> None:
        # Also of keys that are there twice, of which a dictionary would have one.
        values.extend(one for pair in pairs for one in pair)

    def flat(value: Any) -> Iterator[Any]:
        if isinstance(value, list):
            for one in value:
                yield from flat(one)
        elif value is not None:
            yield value

    try:
        values.append(json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=collect))
    except (ValueError, RecursionError):
        return None
    return _mixed(list(flat(values)), digests)


def _numbers(path: Path, named: Collection[str]) -> list[Any]:
    """Return the words of a file of numbers, those of the diffusion, or the cells of a table of BIDS.

    Args:
        path: the file.
        named: columns of the table that hold numbers; empty: all words are.
    """
    values: list[Any] = []
    columns: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        cells = line.split("\t") if named else line.split()
        for place, cell in enumerate(cells):
            numeric = not named or (place < len(columns) and columns[place] in named)
            values.append(float(cell) if numeric and _NUMBER.fullmatch(cell) else cell)
        columns = columns or cells
    return values


def _mixed(values: list[Any], digests: Collection[str]) -> FileContent:
    """Return the content of texts and numbers, without digests."""
    values = [float(value) if isinstance(value, Decimal) else value for value in values]
    # Most values of a column are there in many rows.
    texts = [value for value in dict.fromkeys(values) if not isinstance(value, int | float) and value not in digests]
    content = _text("\n".join(map(_decoded, texts)))
    numbers = {str(value) for value in values if isinstance(value, int)}
    numbers |= {_number(value) for value in values if isinstance(value, float)}
    content.numbers.append((0, "\\".join(sorted(numbers)).encode()))
    return content


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else f"{value:.15g}"


def _names(fields: Iterable[pyarrow.Field]) -> Iterator[str]:
    """Yield the names of columns and of the columns within them, and their metadata."""
    for one in fields:
        yield one.name
        for pair in (one.metadata or {}).items():
            yield from map(_decoded, pair)
        inner = getattr(one.type, "storage_type", one.type)
        yield from _names(map(inner.field, range(inner.num_fields)))


def _values(column: pyarrow.Array) -> Iterator[list[Any]]:
    """Yield the values of a column, also those of a dictionary that no row refers to: pandas keeps such categories."""
    import pyarrow

    if isinstance(column, pyarrow.ExtensionArray):
        inner = [column.storage]
    elif isinstance(column, pyarrow.DictionaryArray):
        inner = [column.dictionary]
    elif isinstance(column, pyarrow.MapArray):
        inner = [column.keys, column.items]
    elif isinstance(column, pyarrow.StructArray):
        inner = column.flatten()
    elif pyarrow.types.is_nested(column.type):
        inner = [column.flatten()]
    else:
        yield column.drop_null().to_pylist()
        return
    for one in inner:
        yield from _values(one)


def _decoded(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _texts(path: Path) -> Iterator[FileContent]:
    """Yield the text of any other file in pieces. They overlap, so that no identifier is cut in two."""
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        before = ""
        while text := stream.read(_PIECE):
            yield _text(before + text)
            before = text[-200:]


def _text(text: str) -> FileContent:
    """Return a text: as it is, without mark-up, and cut into parts that may be values of their own."""
    from pacsifier_ops.deid.verifier import content_of

    unmarked = re.sub(r"<[^<>]*>", " ", text)
    return content_of([text, unmarked, *re.split(r"[\r\n\t,;|\"]+", unmarked)])
