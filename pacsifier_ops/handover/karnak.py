"""The steps of tagging objects for a Karnak gateway: prepare → tag → report.

Karnak de-identifies the objects that it receives, and reads the pseudonym from the objects themselves. The tags are
those of PACSIFIER, private and of VR LO: (000B,xx01) is the code of the patient, which is the pseudonym, (000B,xx02)
the album, and (000B,xx03) the number of days by which dates are moved.

Each step is one function over the run's folder. The DAG's operators and the command line call the same functions. Each
may be killed and called again. Its files are those of every job (see `runs.job`): the items of a unit are series, see
SeriesToTag.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.base.errors import Cancelled, InputError, PatientsRefused, TreeError
from pacsifier_ops.base.files import (
    CHANGED,
    fsync_folder,
    packed,
    private_file,
    private_folder,
    read_json,
    readable,
    storage_errors,
    unpacked,
    unreadable,
)
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.words import plural
from pacsifier_ops.handover.account import ToolAccount, write_books
from pacsifier_ops.handover.request import KarnakRequest
from pacsifier_ops.pseudonyms.linkage import (
    Keyed,
    Linkage,
    Person,
    own_names,
    read_day_shifts,
    read_new_ids,
    taken_twice,
)
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.folder import MOST, Run, in_units, never, now
from pacsifier_ops.runs.job import NOT_ATTEMPTED, Question, Worker, begin, cut, prepared
from pacsifier_ops.runs.progress import NOT_TAGGED, TAGGED, UNCHANGED
from pacsifier_ops.state.approved import approve, approved_of, refuse_changed
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import SeriesLedger, digest
from pacsifier_ops.state.tree import IDENTIFIED, Tree, marker_of, refuse_unfinished

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile
    from pacsifier_ops.dicom.scan import Scan

#: Group and private creator of the block, and the last two hexadecimal digits of the tags in it.
GROUP, CREATOR = 0x000B, "CHUV_DEV_TML"
PATIENT_CODE, ALBUM_NAME, DAY_SHIFT = 0x01, 0x02, 0x03

#: The block of the tags, unless another creator has reserved it. A gateway that is configured with full tags finds them
#: only there.
USUAL_BLOCK = 0x10

ELSEWHERE = "with tags in another block"

_NO_PATIENT = "it has no PatientID, so nobody can say whose it is"
_SEVERAL_IDS = "it has several values in PatientID"
NOT_LINKED = "its patient has no pseudonym"
_OTHER_FILE = "out_folder has another file of this name; move that file away, or give another out_folder"
_LINK = "link to a file of the folder"


@dataclass
class SeriesToTag:
    """A series to be tagged: a line of a unit.

    Attributes:
        number: ordinal in the run, from 1.
        modality: Modality (0008,0060).
        series_uid: SeriesInstanceUID.
        home: root of the data set of the files, or the folder itself if they are in none, as text of `packed`.
        files: paths below the folder, as texts of `packed`.
        people: pseudonym and day shift in days, by PatientID.
        approved: approved SHA-256 of each file, hexadecimal; empty if the folder has no list of approved files.
        study_uid: StudyInstanceUID.
    """

    number: int
    modality: str
    series_uid: str
    home: str
    files: list[str]
    people: dict[str, tuple[str, int]]
    approved: list[str] = field(default_factory=list)
    study_uid: str = ""

    @property
    def series(self) -> SeriesId:
        """Return the identity of the series."""
        return SeriesId(self.study_uid, self.series_uid)

    def account(self) -> TaggedFiles:
        """Return the result before any file is tagged."""
        problems = [(readable(Path(unpacked(name))), NOT_ATTEMPTED) for name in self.files]
        return TaggedFiles(self.number, INCOMPLETE, {}, problems)


@dataclass
class TaggedFiles:
    """The result for a series.

    Attributes:
        number: number of the series.
        state: COMPLETE, or INCOMPLETE if there are problems.
        counts: the numbers of files that were TAGGED, that had the right tags already (UNCHANGED), and, among both,
            that have them in another block (ELSEWHERE).
        problems: path below the folder, and why the file could not be tagged.
        made: SHA-256 of the tagged files by path below out_folder, if the files were approved.
    """

    number: int
    state: str = COMPLETE
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)


# prepare


def prepare(run: Run, request: KarnakRequest, most: int = MOST, cancelled: Question = never) -> list[int]:
    """Inspect every file of the folder, find the pseudonym of every patient, and divide the series into units.

    Args:
        most: largest number of units.

    Returns:
        Numbers of the units.

    Raises:
        InputError: the request cannot be met, or a patient has no pseudonym. No file was changed.
        PatientsRefused: patients cannot be told apart, or pseudonyms are not unique. No file was changed.
        TreeError: a folder is half de-identified, de-identified, in use, or part of another data set.
        StorageError: the state root or out_folder cannot be written.
    """
    from pacsifier_ops.dicom.scan import scan
    from pacsifier_ops.handover.private_block import check_value

    source, target = request.in_folder.resolve(), request.out_folder.resolve()
    try:
        album = check_value(request.album_name)
    except ValueError as error:
        raise InputError(f"album_name {error}") from None
    request = begin(run, replace(request, in_folder=source, out_folder=target, album_name=album))
    _check_folders(request)
    try:
        found = scan(source, cancelled, every=True, approved=approved_of(source))
    except OSError as error:
        raise InputError(f"in_folder cannot be read: {error.strerror}") from error
    _check_trees(found.trees)
    bad = [(file.path, file.reason) for file in found.bad_files]
    series = _series(found, source, bad)
    if not (series or bad or request.allow_empty):
        raise InputError("in_folder holds no DICOM file")
    if request.leave_out:
        series = _without_unknown(request, series, bad)
    people = _people(run, request, [file for files in series.values() for file in files])
    if not request.in_place:
        Tree.open(target)
    return _write_units(run, request, found, series, people, bad, most)


def _check_folders(request: KarnakRequest) -> None:
    source, target = request.in_folder, request.out_folder
    if not source.is_dir():
        raise InputError("in_folder is not a folder; give the folder whose objects are to be tagged")
    _check_trees((source, *source.parents))
    if request.in_place:
        return
    if source in target.parents or target in source.parents:
        raise InputError("in_folder and out_folder overlap; give two separate folders, or the same one for both")
    if any(marker_of(folder) for folder in target.parents):
        raise TreeError("out_folder is part of another data set; give a separate folder")


def _check_trees(trees: Iterable[Path]) -> None:
    """Refuse folders that are not identified, or that another run is at work in."""
    for folder in trees:
        refuse_unfinished([folder])
        if marker_of(folder).get("state", IDENTIFIED) != IDENTIFIED:
            raise TreeError(
                "in_folder, or a folder above or below it, holds data that is de-identified: its patients have their "
                "pseudonyms already, and its manifest lists the digest of every file; tag the identified data"
            )
        if (tree := Tree.existing(folder)) is not None and tree.in_use(shared()):
            raise TreeError("another run is at work in in_folder; wait until it has ended, then run again")


def _series(found: Scan, root: Path, bad: list[tuple[str, str]]) -> dict[tuple[Path, SeriesId], list[DicomFile]]:
    """Return the objects by data set and series. Those without one PatientID are added to the bad files."""
    trees = set(found.trees)
    home_of = {folder: tree.root if (tree := Tree.around(folder)) else folder for folder in trees}
    series: dict[tuple[Path, SeriesId], list[DicomFile]] = {}
    for file in (file for files in found.series.values() for file in files):
        if file.path.is_symlink():
            found.passed_over[_LINK] += 1  # the target of the link is in the folder, and is tagged there
        elif not file.patient_id or "\\" in file.patient_id:
            bad.append((readable(file.path.relative_to(root)), _SEVERAL_IDS if file.patient_id else _NO_PATIENT))
        else:
            nearest = next(folder for folder in file.path.parents if folder in trees)
            series.setdefault((home_of[nearest], file.series), []).append(file)
    return series


def _without_unknown(
    request: KarnakRequest, series: Mapping[tuple[Path, SeriesId], list[DicomFile]], bad: list[tuple[str, str]]
) -> dict[tuple[Path, SeriesId], list[DicomFile]]:
    """Return the objects of patients with pseudonym and day shift. The others are added to the bad files."""
    codes, days = _sources(request, {file.patient_id for files in series.values() for file in files})
    unknown = {patient for patient in codes if codes[patient] is None or days[patient] is None}
    bad += [
        (readable(file.path.relative_to(request.in_folder)), NOT_LINKED)
        for files in series.values()
        for file in files
        if file.patient_id in unknown
    ]
    known = {key: [file for file in files if file.patient_id not in unknown] for key, files in series.items()}
    return {key: files for key, files in known.items() if files}


def _people(run: Run, request: KarnakRequest, files: Sequence[DicomFile]) -> dict[str, Person]:
    """Return pseudonym and day shift by PatientID.

    Raises:
        InputError: a patient has no pseudonym or day shift (problems.txt lists these PatientIDs), or a file of them
            cannot be used.
        PatientsRefused: two patients have one PatientID, or would have one pseudonym. The error names patients by their
            ordinal in the order of PatientIDs.
    """
    patients = sorted({file.patient_id for file in files})
    issuers: dict[str, set[str]] = {}
    for file in files:
        issuers.setdefault(file.patient_id, set()).update({file.issuer} - {""})
    if two := [place for place, patient in enumerate(patients) if len(issuers[patient]) > 1]:
        raise PatientsRefused("objects with one PatientID have two IssuerOfPatientIDs: these are two patients", two)
    codes, days = _sources(request, patients)
    reasons = []
    for what, given in (("pseudonym", codes), ("day shift", days)):
        if missing := [patient for patient in patients if given[patient] is None]:
            reasons.append(f"{len(missing)} of {len(patients)} patients have no {what}")
            run.note("\n".join((f"patients without a {what}:", *missing)))
    if reasons:
        raise InputError(f"{', '.join(reasons)}; nothing was touched; {run.folder / 'problems.txt'} names them")
    people = {p: Person(codes[p] or "", days[p] or 0) for p in patients}
    twice = taken_twice({patient: person.pseudonym for patient, person in people.items()})
    if places := [place for place, patient in enumerate(patients) if patient in twice]:
        raise PatientsRefused("several patients would have one pseudonym", places)
    if places := own_names(people):
        raise PatientsRefused("the pseudonym is a PatientID of these data; it would hide nobody", places)
    return people


def _sources(request: KarnakRequest, patients: Iterable[str]) -> tuple[dict[str, str | None], dict[str, int | None]]:
    """Return pseudonyms and day shifts by PatientID; None for a patient without one."""
    if request.new_ids:
        names = read_new_ids(Path(request.new_ids))
        shifts = read_day_shifts(Path(request.day_shift)) if request.day_shift else None
    elif request.day_shift:
        raise InputError("day_shift needs new_ids; without both, the project's linkage has the day shifts as well")
    else:
        linked = Linkage(request.project).people().given
        names = Keyed({key: person.pseudonym for key, person in linked.items()})
        shifts = Keyed({key: person.shift for key, person in linked.items()})
    return {p: names.of(p) for p in patients}, {p: shifts.of(p) if shifts else 0 for p in patients}


def _write_units(
    run: Run,
    request: KarnakRequest,
    found: Scan,
    series: Mapping[tuple[Path, SeriesId], Sequence[DicomFile]],
    people: Mapping[str, Person],
    bad: list[tuple[str, str]],
    most: int,
) -> list[int]:
    """Write the units into the run's folder; return their numbers."""

    def item(number: int, home: Path, key: SeriesId, files: Sequence[DicomFile]) -> SeriesToTag:
        patients = {file.patient_id: people[file.patient_id] for file in files}
        return SeriesToTag(
            number=number,
            modality=files[0].modality,
            series_uid=key.series_uid,
            home=packed(home),
            files=[packed(file.path.relative_to(request.in_folder)) for file in files],
            people={patient: (person.pseudonym, person.shift) for patient, person in patients.items()},
            approved=[file.sha256 for file in files] if files[0].sha256 else [],
            study_uid=key.study_uid,
        )

    order = list(series.items())
    counts = {"series": len(order), "instances": sum(map(len, series.values())), "patients": len(people)}
    units = [(item(i + 1, *order[i][0], order[i][1]) for i in unit) for unit in in_units(len(order), most)]
    return cut(run, units, {"passed_over": found.passed_over, "bad_files": bad, **counts})


# tag


def tag(run: Run, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Tag the objects of one unit. An object that cannot be tagged does not stop the others.

    Returns:
        The numbers of objects that were tagged, that had the right tags already, and that could not be tagged.

    Raises:
        Cancelled: `cancelled` returned True; every file is whole, with or without the tags.
        StorageError: a folder cannot be written; every file is whole.
    """
    with TaggingWorker(run, cancelled) as worker:
        return worker.unit(unit)


class TaggingWorker(Worker[SeriesToTag, TaggedFiles]):
    """Tags the objects of units of a run."""

    item, result = SeriesToTag, TaggedFiles

    def open(self, stack: ExitStack) -> None:
        """Read the request."""
        self._request = KarnakRequest.of(self._run)
        self._workplaces: dict[str, tuple[Tree, Path]] = {}

    def work(self, series: SeriesToTag, result: TaggedFiles) -> TaggedFiles:
        """Tag the objects of a series."""
        from pacsifier_ops.extract.receiving import series_lease

        if series.home not in self._workplaces:
            tree = _output_tree(self._request, series)
            self._workplaces[series.home] = tree, self._stack.enter_context(tree.workplace(shared()))
        with shared().acquire(series_lease(series.series), cancelled=self._cancelled):
            return _Tagging(self._request, series, *self._workplaces[series.home], self._cancelled).run()

    @classmethod
    def counts(cls, result: TaggedFiles) -> dict[str, int | float]:
        """Return the state of the series and its images by result."""
        images = {f"images {name}": result.counts.get(name, 0) for name in (TAGGED, UNCHANGED)}
        return {f"series {result.state}": 1, **images, f"images {NOT_TAGGED}": len(result.problems)}

    def totals(self, results: Sequence[TaggedFiles]) -> dict[str, int | float]:
        """Return the number of files by result."""
        total = sum((Counter(result.counts) for result in results), Counter[str]())
        return {TAGGED: total[TAGGED], UNCHANGED: total[UNCHANGED], "problems": sum(len(r.problems) for r in results)}


def _output_tree(request: KarnakRequest, series: SeriesToTag) -> Tree:
    """Return the data set that tagged objects are written to. In a folder that is none, it holds unfinished files."""
    folder = Path(unpacked(series.home)) if request.in_place else request.out_folder
    return Tree.existing(folder) or Tree(folder, folder)


class _Tagging:
    """Tags one series. The caller holds its lease.

    The tagged files are written to a scratch folder, entered in the ledger of the data set, and then moved to their
    names. The ledger must know a tagged file if it knew the file before: else an extraction would fetch the file again,
    and undo the tags. A kill in between leaves entries that do not match their files. Such files are tagged, or
    fetched, once more.
    """

    def __init__(
        self, request: KarnakRequest, series: SeriesToTag, tree: Tree, scratch: Path, cancelled: Question
    ) -> None:
        self._request, self._series, self._scratch, self._cancelled = request, series, scratch, cancelled
        self._ledger = SeriesLedger(tree.state, series.series)
        self._ledger_changed = False
        self._elsewhere = 0
        self._ready: list[tuple[Path, Path]] = []
        self._made: dict[str, str] = {}

    def run(self) -> TaggedFiles:
        """Tag the files, and return the result."""
        result, counts = TaggedFiles(self._series.number), Counter[str]()
        approved = self._series.approved or [""] * len(self._series.files)
        for name, sha256 in zip((Path(unpacked(name)) for name in self._series.files), approved, strict=True):
            if self._cancelled():
                raise Cancelled("stopped on request")
            try:
                counts[self._tag(name, sha256)] += 1
            except ValueError as error:
                result.problems.append((readable(name), str(error)))
            except OSError as error:
                result.problems.append((readable(name), unreadable(error)))
        self._publish()
        counts[ELSEWHERE] = self._elsewhere
        state = INCOMPLETE if result.problems else COMPLETE
        return replace(result, counts=dict(counts), state=state, made=self._made)

    def _tag(self, name: Path, approved: str) -> str:
        """Write the tagged file to the scratch folder, unless the output folder has it already.

        Args:
            name: path below in_folder.
            approved: required SHA-256, hexadecimal; empty: none.

        Returns:
            TAGGED or UNCHANGED.

        Raises:
            ValueError: the file cannot be tagged; the reason in words.
            OSError: the file cannot be read.
            StorageError: the tagged file cannot be written.
        """
        from pacsifier_ops.dicom.files import inspect
        from pacsifier_ops.handover.private_block import change, pieces

        source, target = self._request.in_folder / name, self._request.out_folder / name
        file = inspect(source)
        if file is None or file.patient_id not in self._series.people:
            raise ValueError(CHANGED)
        pseudonym, shift = self._series.people[file.patient_id]
        values = {PATIENT_CODE: pseudonym, ALBUM_NAME: self._request.album_name, DAY_SHIFT: str(shift)}
        changed = change(file, GROUP, CREATOR, values)
        self._elsewhere += changed.block != USUAL_BLOCK
        if not changed.needed if self._request.in_place else _has_content(target, file, pieces(file, changed)):
            if approved:
                refuse_changed(file.path, file.ctime_ns, approved)
                self._made[readable(name)] = digest(target)
            return UNCHANGED
        mode = stat.S_IMODE(source.stat().st_mode) if self._request.in_place else private_file()
        ready = self._scratch / f"{len(self._ready)}.dcm"
        with storage_errors("the output folder"), ready.open("wb") as stream:
            stream.writelines(pieces(file, changed))
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        if approved:
            refuse_changed(file.path, file.ctime_ns, approved)
            self._made[readable(name)] = digest(ready)
        self._ready.append((ready, target))
        entry = self._ledger.entries.get(file.sop_instance_uid)
        if entry and entry.file == target.name and entry.proven_by(target.parent):
            status = ready.stat()
            self._ledger.entries[file.sop_instance_uid] = replace(
                entry, size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=digest(ready)
            )
            self._ledger_changed = True
        return TAGGED

    def _publish(self) -> None:
        """Save the ledger, then move the tagged files to their names."""
        if self._ledger_changed:
            with storage_errors("the state root"):
                self._ledger.save()
        with storage_errors("the output folder"):
            for ready, target in self._ready:
                private_folder(target.parent)
                os.replace(ready, target)
            for folder in {target.parent for _, target in self._ready}:
                fsync_folder(folder)


def _has_content(target: Path, file: DicomFile, content: Iterator[bytes]) -> bool:
    """Whether a file of the output folder has this content. False: it does not exist, or an earlier run made it.

    Raises:
        ValueError: the file there is another object, or no object.
        OSError: the file cannot be read.
    """
    from pacsifier_ops.dicom.files import inspect

    if not target.is_symlink() and not target.exists():
        return False
    if target.is_symlink() or not target.is_file():
        raise ValueError(_OTHER_FILE)
    with target.open("rb") as stream:
        if all(piece == stream.read(len(piece)) for piece in content) and not stream.read(1):
            return True
    try:
        there = inspect(target)
    except ValueError:
        there = None
    if there is None or there.sop_instance_uid != file.sop_instance_uid:
        raise ValueError(_OTHER_FILE)
    return False


# report


def report(run: Run) -> ToolAccount:
    """Close the account, and write the report. An unfinished run is closed as well.

    Returns:
        The account; its `verdict` is that of the run.

    Raises:
        InputError: the run ended before the step prepare had found the pseudonym of every patient.
        StorageError: the report cannot be written.
    """
    found, request = prepared(run, "the pseudonym of every patient was found"), KarnakRequest.of(run)
    results = [result for _, result in TaggingWorker.outcomes(run)]
    total = sum((Counter(result.counts) for result in results), Counter[str]())
    account = ToolAccount(
        run=run.name,
        action="Karnak tags",
        started=request.started,
        finished=now(),
        ended=ended_by(run),
        folder=str(request.in_folder),
        out_folder=str(request.out_folder),
        counts={
            "patients": found["patients"],
            "series": found["series"],
            **{name: total[name] for name in (TAGGED, UNCHANGED)},
            **({ELSEWHERE: total[ELSEWHERE]} if total[ELSEWHERE] else {}),
        },
        problems=[(path, why) for path, why in (*found["bad_files"], *(p for r in results for p in r.problems))],
        passed_over=found["passed_over"],
    )
    if not request.in_place and approved_of(request.in_folder) is not None:
        # The tagged files count as approved, so that they can be sent. Those of earlier runs stay on the list: their
        # originals may have been removed since.
        before = approved_of(request.out_folder)
        made = dict(before.files) if before else {}
        for result in results:
            made.update(result.made)
        with storage_errors("the state root"):
            approve(request.out_folder, ({"path": path, "sha256": sha256} for path, sha256 in made.items()))
    write_books(run, account, "Karnak tags", *_outcome(request, account))
    return account


def _outcome(request: KarnakRequest, account: ToolAccount) -> Iterator[str]:
    """Yield the sentences of the verdict."""
    if account.problems:
        yield f"{plural(len(account.problems), 'file')} could not be tagged; the list below says which and why."
    else:
        yield "Every object has the tags."
    if elsewhere := account.counts.get(ELSEWHERE):
        yield (
            f"In {plural(elsewhere, 'object')} another creator has the block ({GROUP:04X},{USUAL_BLOCK:02X}xx), so "
            "the tags are in a later one. A gateway that is configured with full tags does not find them."
        )
    if request.new_ids and not request.day_shift:
        yield "No day shifts were given: the shift of every patient is 0, and dates stay as they are."


def all_but_unknown(run: Run) -> bool:
    """Whether a run has ended and tagged every object, except those of patients without a pseudonym."""
    path = run.folder / "accounts.json"
    return path.exists() and all(reason == NOT_LINKED for _, reason in read_json(path)["problems"])
