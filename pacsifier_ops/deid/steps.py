"""The steps of a de-identification: prepare, convert, report.

Each step is one function over the run's folder, for the operators of the DAG and for the command. A step may be killed
and called again: an object with an outcome is not converted again, and all workers have the same result.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.durable import Durable
from pacsifier_ops.base.errors import Cancelled, FileUnreadable, InputError, TreeError
from pacsifier_ops.base.files import (
    UNREADABLE,
    atomic_stream,
    data_file,
    data_folder,
    folder_of_all,
    fsync_folder,
    name_below,
    packed,
    read_json,
    read_jsonl,
    readable,
    storage_errors,
    unpacked,
    write_atomic,
    write_json,
    write_jsonl,
)
from pacsifier_ops.deid.identity import FOLDER, FolderRecords, ObjectGroup, PatientAssigner, identifying, split_key
from pacsifier_ops.deid.inplace import CLEARED, clear, put_apart, take_place
from pacsifier_ops.deid.names import Namer
from pacsifier_ops.deid.people import SourcePatient, Sources, who_becomes_whom
from pacsifier_ops.deid.policy import Policy
from pacsifier_ops.deid.run import (
    DEIDENTIFIED,
    EXCLUDED,
    QUARANTINED,
    STAGED,
    WITHDRAWN,
    Counts,
    DeidRequest,
    Settled,
    SourceSeries,
    Store,
    series_of,
    store_of,
)
from pacsifier_ops.deid.standing import (
    counts_of,
    keep_converted,
    key_of,
    plan_before,
    seen_before,
    standing_parts,
)
from pacsifier_ops.pseudonyms.linkage import Linkage, Person
from pacsifier_ops.pseudonyms.secret import project_folder
from pacsifier_ops.runs import job
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import MOST, Run, in_units, never, slices
from pacsifier_ops.runs.job import NOT_ATTEMPTED, Question, Worker, begin, cut, prepared, write_account, write_summary
from pacsifier_ops.runs.progress import DEIDENTIFICATION
from pacsifier_ops.runs.standing import note_plan, noted_plan, standing_keys
from pacsifier_ops.state.approved import approve
from pacsifier_ops.state.leases import LeaseBusy, shared
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.same import store_once
from pacsifier_ops.state.standing import UNKNOWN
from pacsifier_ops.state.tree import APPROVED, CONVERTING, IDENTIFIED, Tree, marker_of, write_marker
from pacsifier_ops.state.tree import DEIDENTIFIED as FINISHED

if TYPE_CHECKING:
    from pacsifier_ops.deid.books import DeidAccount
    from pacsifier_ops.deid.contact import ContactSheets
    from pacsifier_ops.deid.convert import Converted, Converter
    from pacsifier_ops.deid.technique import Head
    from pacsifier_ops.dicom.files import DicomFile
    from pacsifier_ops.dicom.scan import Scan

#: Maximum number of objects in a part of a series. Several workers share a larger series.
PART = 200

#: Files and folders of the steps in the run's folder. The first step removes them before it begins.
KEPT = (*job.KEPT, "manifest", "sheets")

_AT_WORK = "somebody is at work in the folder; wait until that has ended, then run again"
_NOT_CONVERTING = "out_folder is not being converted by this run any more; begin with the step prepare"
_NOT_LINKED = "its patient has no pseudonym"
_SEVERAL_IDS = "it has several values in PatientID"


# prepare


def prepare(
    run: Run, request: DeidRequest, most: int = MOST, secret: str = "", cancelled: Question = never
) -> list[int]:
    """Scan the folder, assign pseudonyms and names of folders, and cut the series into units.

    Args:
        run: the run.
        request: its request.
        most: maximum number of units.
        secret: secret of the project, where it is stored elsewhere (see `project_secret`).
        cancelled: called for each file; True stops the scan.

    Returns:
        Numbers of the units to be converted.

    Raises:
        InputError: the request cannot be carried out, or sources of pseudonyms disagree. No file was changed.
        TreeError: one of the folders is in another state than it should be.
        StorageError: output folder or state root cannot be written.
    """
    from pacsifier_ops.deid.look import look
    from pacsifier_ops.dicom.scan import scan, texts_of_runs, with_texts

    folders = request.in_folder.resolve(), request.out_folder.resolve()
    request = begin(run, replace(request, in_folder=folders[0], out_folder=folders[1]), KEPT)
    _check_folders(request)
    how = Policy.of(request, secret)
    marker = marker_of(request.out_folder)
    begun = marker.get("state") == CONVERTING
    if begun and marker.get(CLEARED):
        write_marker(request.out_folder, {**marker, "run": run.name})
        return _planned(
            run, request.out_folder, [], set(), {"passed_over": {}, "sources": {}, "strangers": {}, "nameless": 0}, most
        )  # no original is left
    Linkage(request.project)  # refuses a folder that is open to others, also if no patient is looked up
    try:
        seen = seen_before(request, how.stamp)
        texts = texts_of_runs(request.in_folder, cancelled, look)
        if texts is not None and (before := plan_before(request, seen)):
            told, sources, account = before
            with shared().acquire(f"deid:{request.out_folder}", cancelled=cancelled), storage_errors("the state root"):
                Tree.convert(request.out_folder, how.stamp, request.in_place, run.name)
            note_plan(run, seen, account)
            return _planned(run, request.out_folder, sources, set(map(key_of, sources)), with_texts(told, texts), most)
        found = scan(request.in_folder, cancelled, look=look)
        if texts is None or texts_of_runs(request.in_folder, cancelled, look) != texts:
            seen = UNKNOWN  # a run has added one meanwhile
    except OSError as error:
        raise InputError(f"in_folder cannot be read: {error.strerror}") from error
    _check_trees(found.trees, request)
    kept = project_folder(request.project) / "folders.json"
    with shared().acquire(f"folders:{kept}", cancelled=cancelled) as lease, storage_errors("the state root"):
        records = FolderRecords(kept, how.secret)
        files = (f for files in (*found.series.values(), found.copies) for f in files)
        assigner = PatientAssigner(files, request, _groups_before(request), records)
        groups, unreadable, nameless = _grouped(found, assigner, request.in_folder)
        if not (groups or unreadable or begun or request.allow_empty):
            raise InputError("in_folder holds no DICOM file")
        answer = who_becomes_whom(_patients(groups), _sources(request, how))
        lease.check()
        names = [name for identity, name in map(split_key, answer.people) if identity == FOLDER]
        records.keep({name: assigner.groups[name] for name in names})
    unreadable += _unlinked(groups, answer.people, request.in_folder)
    with shared().acquire(f"deid:{request.out_folder}", cancelled=cancelled), storage_errors("the state root"):
        tree = Tree.convert(request.out_folder, how.stamp, request.in_place, run.name)
        if request.in_place and tree.in_use(shared()):
            raise TreeError(_AT_WORK)
        store = Store(tree, marker_of(tree.root)["id"])
        if request.in_place:
            write_json(store.homes, assigner.as_kept())
        sources = _catalogued(store, groups, nameless, answer.people, Namer(store, request, how.rules, how.secret))
        unreadable = [*_moved_before(store, groups, request), *unreadable]
        write_jsonl(store.unreadable, {item["path"]: item for item in unreadable}.values())
    nameless_here = sum(len(source.nameless) for source in sources)
    told = {"passed_over": found.passed_over, "sources": answer.sources, "strangers": answer.strangers, "texts": texts}
    note_plan(run, seen, since=found.since)
    standing = standing_parts(run, request, how.stamp, store, sources)
    return _planned(run, request.out_folder, sources, standing, {**told, "nameless": nameless_here}, most)


def _check_folders(request: DeidRequest) -> None:
    if not request.in_folder.is_dir():
        raise InputError("in_folder is not a folder; give the folder whose objects are to be de-identified")
    _check_trees([request.in_folder], request)
    if not request.in_place and any(marker_of(folder) for folder in request.out_folder.parents):
        raise TreeError("out_folder lies within another data set; give a folder apart")
    kept = (settings.state_root(), settings.spool())
    if request.in_place and any(request.in_folder in (own, *own.parents) for own in map(Path.resolve, kept)):
        raise InputError("the folder holds the state root or the spool, and would be cleared of it; give another one")
    if request.in_folder in request.out_folder.parents or request.out_folder in request.in_folder.parents:
        raise InputError("in_folder and out_folder lie one within the other; give folders apart, or the same one")


def _check_trees(trees: Iterable[Path], request: DeidRequest) -> None:
    """Check that folders have identified data. A folder that is converted in place may be half done.

    Raises:
        TreeError: they have other data, or another job uses them.
    """
    for folder in (*trees, *request.in_folder.parents):
        state = marker_of(folder).get("state", IDENTIFIED)
        going_on = request.in_place and folder == request.in_folder and state == CONVERTING
        if state != IDENTIFIED and not going_on:
            raise TreeError(f"in_folder, or a folder above or below it, holds data that is {state} already")
        if request.in_place and (tree := Tree.existing(folder)) is not None and tree.in_use(shared()):
            raise TreeError(_AT_WORK)


def _groups_before(request: DeidRequest) -> dict[str, ObjectGroup]:
    """Return the patients of folders or studies as they were before a conversion in place began."""
    store = store_of(request.out_folder)
    if not (request.in_place and store and store.homes.exists()):
        return {}
    return {name: ObjectGroup(*map(set, said)) for name, said in read_json(store.homes).items()}


def _grouped(
    found: Scan, assigner: PatientAssigner, root: Path
) -> tuple[dict[tuple[str, str, str], list[DicomFile]], list[dict[str, Any]], set[Path]]:
    """Return the objects by patient, study and series; the unusable files with the reason; and the files of objects
    without PatientID.
    """
    from pacsifier_ops.dicom.scan import SECOND_COPY

    groups: dict[tuple[str, str, str], list[DicomFile]] = {}
    bad = {file.path: file.reason for file in found.bad_files}
    nameless: set[Path] = set()
    for file in (file for files in found.series.values() for file in files):
        patient, reason = file.patient_id, _SEVERAL_IDS if "\\" in file.patient_id else ""
        if not patient:
            patient, reason = assigner.patient_of(file)
            file = replace(file, patient_id=patient)
            nameless.add(file.path)
        if reason:
            bad[readable(file.path.relative_to(root))] = reason
        else:
            groups.setdefault((patient, file.study_uid, file.series_uid), []).append(file)
    for file in found.copies:  # where the patient is unknown, a copy is as good as the other
        if not file.patient_id and assigner.scattered(file):
            bad[readable(file.path.relative_to(root))] = assigner.patient_of(file)[1]
            found.passed_over -= Counter([SECOND_COPY])
    return groups, [{"path": p, "reason": r, "missing": r.startswith(UNREADABLE)} for p, r in bad.items()], nameless


def _patients(groups: Mapping[tuple[str, str, str], Sequence[DicomFile]]) -> Iterable[SourcePatient]:
    patients: dict[str, SourcePatient] = {}
    for (patient_id, *_), files in groups.items():
        patient = patients.setdefault(patient_id, SourcePatient(patient_id))
        if split_key(patient_id)[0] == FOLDER:
            patient.names.add(identifying(patient_id))
        patient.issuers |= {file.issuer for file in files} - {""}
        patient.folders |= {Path(folder) for folder in {os.path.dirname(file.path) for file in files}}
        patient.names |= {file.patient_name for file in files} - {""}
        patient.numbers |= {value for file in files for value in (file.birth_date, file.accession)} - {""}
    return patients.values()


def _sources(request: DeidRequest, how: Policy) -> Sources:
    from pacsifier_ops.deid.rules import ProfileOption

    new_ids, day_shift = (Path(name) if name else None for name in (request.new_ids, request.day_shift))
    store = store_of(request.out_folder)
    earlier = series_of(store) if store else ()
    return Sources(
        request.in_folder,
        new_ids,
        day_shift,
        Linkage(request.project),
        how.secret,
        before={source.patient_id: source.person for source in earlier},
        linked_only=request.linked_only,
        moving=ProfileOption.MODIFIED_DATES in how.rules.options,
    )


def _unlinked(
    groups: dict[tuple[str, str, str], list[DicomFile]], people: Mapping[str, Person], root: Path
) -> list[dict[str, Any]]:
    """Remove the objects of patients without pseudonym from `groups`, and return them; they go to quarantine."""
    left = [files for group in [*groups] if group[0] not in people for files in groups.pop(group)]
    return [{"path": readable(f.path.relative_to(root)), "reason": _NOT_LINKED, "missing": False} for f in left]


def _catalogued(
    store: Store,
    groups: Mapping[tuple[str, str, str], list[DicomFile]],
    nameless: AbstractSet[Path],
    people: Mapping[str, Person],
    namer: Namer,
) -> list[SourceSeries]:
    """Return the series of this run in parts, with their target folders. Add the new ones to the store.

    Args:
        store: the store of the output tree.
        groups: the objects by patient, study and series.
        nameless: files of objects without PatientID.
        people: new identity by PatientID.
        namer: gives folders their names.
    """
    from pacsifier_ops.deid.numbers import are_counted

    known = {source.key: source for source in series_of(store)}
    telling = _telling(known.values(), groups)
    keys = {group: namer.key(group) for group in groups}
    ordered = sorted(groups, key=lambda group: (people[group[0]].pseudonym, *namer.order(groups[group][0])))
    chosen = []
    for group in ordered:
        files, key, person = groups[group], keys[group], people[group[0]]
        paths = [name_below(file.path, namer.root) for file in files]
        if key in known and known[key].person != person:
            raise InputError("a patient would become somebody else than in an earlier run into the same folder")
        source = known[key] = SourceSeries(
            number=known[key].number if key in known else len(known) + 1,
            key=key,
            patient_id=group[0],
            study_uid=group[1],
            series_uid=group[2],
            modality=files[0].modality,
            series_number=files[0].series_number,
            description=files[0].description,
            pseudonym=person.pseudonym,
            shift=person.shift,
            folder=folder_of_all(paths),
            target=namer.folder(files[0], person, days_of(telling[group[0]]), telling[group[0]].get("PatientName", ())),
            known={name: sorted(values) for name, values in telling[group[0]].items()},
            counted=are_counted((file.instance_number for file in files), days_of(telling[group[0]])),
        )
        lines = [[packed(p), f.size, f.mtime_ns, f.sop_instance_uid] for p, f in zip(paths, files, strict=True)]
        without = {line[-1] for line, file in zip(lines, files, strict=True) if file.path in nameless}
        if without and (text := identifying(group[0])):  # it is in no object, and must not be in a result
            source.known["PatientID"] = [text]
        parts = slices(len(lines), -(-len(lines) // PART))
        for number, part in enumerate(parts):
            chosen.append(replace(source, parts=len(parts), part=number, files=[lines[place] for place in part]))
            chosen[-1].nameless = [line[-1] for line in chosen[-1].files if line[-1] in without]
    write_json(store.names, namer.names.given)
    write_jsonl(store.series, known.values())
    return chosen


#: Attributes whose values identify a patient wherever they are, with the fields of `DicomFile`.
_TELLING = {
    "PatientName": "patient_name",
    "PatientBirthDate": "birth_date",
    "AccessionNumber": "accession",
    "StudyDate": "study_date",
    "AcquisitionDate": "dates",
}


def days_of(telling: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """Return the dates (`YYYYMMDD`) among the identifying values of a patient."""
    return frozenset(day.replace(".", "") for name in ("StudyDate", "AcquisitionDate") for day in telling.get(name, ()))


def _telling(
    before: Iterable[SourceSeries], groups: Mapping[tuple[str, str, str], list[DicomFile]]
) -> dict[str, dict[str, set[str]]]:
    """Return identifying values by PatientID and keyword, from all objects: one object may lack those of another."""
    found: dict[str, dict[str, set[str]]] = {}
    for source in before:
        values = found.setdefault(source.patient_id, {name: set() for name in _TELLING})
        for name in _TELLING:
            values[name] |= set(source.known.get(name, ()))
    for (patient_id, *_), files in groups.items():
        values = found.setdefault(patient_id, {name: set() for name in _TELLING})
        for name, attribute in _TELLING.items():
            values[name] |= {getattr(file, attribute) for file in files} - {""}
        values["AcquisitionDate"] = set("\\".join(values["AcquisitionDate"]).split("\\")) - {""}
    for patient_id, values in found.items():
        if split_key(patient_id)[0] == FOLDER:  # the name of a folder may be that of a person
            values["PatientName"].add(identifying(patient_id))
    return found


def _moved_before(
    store: Store, groups: Mapping[tuple[str, str, str], list[DicomFile]], request: DeidRequest
) -> Iterable[dict[str, Any]]:
    """Return the unusable files that an earlier run moved apart; in place only."""
    if not (request.in_place and store.unreadable.exists()):
        return []

    there = {readable(file.path.relative_to(request.in_folder)) for files in groups.values() for file in files}
    return [item for item in read_jsonl(store.unreadable) if not item["missing"] and item["path"] not in there]


def _planned(
    run: Run,
    root: Path,
    sources: Sequence[SourceSeries],
    standing: AbstractSet[str],
    told: Mapping[str, Any],
    most: int,
) -> list[int]:
    work = [source for source in sources if key_of(source) not in standing]
    units = [(work[place] for place in unit) for unit in in_units(len(work), most)]
    counts = {"series": len(sources), "instances": sum(len(source.files) for source in sources)}
    stands = ((one, Converting.line(counts_of(one))) for one in sources if key_of(one) in standing)
    return cut(run, units, {**told, **counts}, stands, root)


# convert


def convert(run: Run, unit: int, secret: str = "", cancelled: Question = never) -> dict[str, int | float]:
    """De-identify the objects of one unit: see `Converting.unit`."""
    with Converting(run, secret, cancelled) as converting:
        return converting.unit(unit)


@dataclass(frozen=True)
class _Made:
    """An object that is converted, and has no outcome yet.

    Attributes:
        path: its source file.
        item: its outcome to be.
        result: the de-identified file, still without its name; of no use where there is none.
        before: its former outcome.
    """

    path: Path
    item: Settled
    result: Path
    before: Settled | None


class Converting(Worker[SourceSeries, Counts]):
    """Converts units of a run.

    Args:
        run: the run.
        secret: secret of the project, where it is stored elsewhere.
        cancelled: called before each object; True ends the work. Outcomes so far stay.
        done: called with the counts of each series.
        sheets: what makes the contact sheets, where the caller has begun it; it is closed with the worker.
    """

    item, result = SourceSeries, Counts

    def __init__(
        self,
        run: Run,
        secret: str = "",
        cancelled: Question = never,
        done: Callable[[Counts], None] = lambda counts: None,
        sheets: ContactSheets | None = None,
    ) -> None:
        super().__init__(run, cancelled, done)
        self._secret, self._given = secret, sheets

    def open(self, stack: ExitStack) -> None:
        """Prepare the conversion.

        Raises:
            TreeError: this run does not convert into out_folder any more.
        """
        from pacsifier_ops.deid.contact import ContactSheets

        self._request = request = DeidRequest.of(self._run)
        self._tree, marker = self._converting()
        self._store = Store(self._tree, marker["id"])
        self._base = _base(request)
        self._apart = apart_of(self._run, request)
        self._sheets = stack.enter_context(self._given or ContactSheets())

    def _converting(self) -> tuple[Tree, dict[str, Any]]:
        root = self._request.out_folder
        tree, marker = Tree.existing(root), marker_of(root)
        if tree is None or marker.get("state") != CONVERTING:
            raise TreeError(_NOT_CONVERTING)
        return tree, marker

    @cached_property
    def _converter(self) -> Converter:
        """The converter. In most nights most units have no new object, and need none of what takes time to prepare."""
        if self._request.contact_sheets:
            self._sheets.begin()
        from pacsifier_ops.deid.convert import Converter

        how = Policy.of(self._request, self._secret)
        tree, marker = self._converting()
        if marker.get("stamp") != how.stamp:
            raise TreeError(_NOT_CONVERTING)
        return Converter(how, self._stack.enter_context(tree.workplace(shared())), self._run.note)

    @staticmethod
    def key(line: SourceSeries | Counts) -> tuple[int, int]:
        """Return number of the series, and of the part."""
        return line.number, line.part

    @classmethod
    def account(cls, source: SourceSeries) -> Counts:
        """Return the counts before any object is de-identified."""
        return Counts(source.number, source.modality, reason=NOT_ATTEMPTED, part=source.part)

    def begin(self, source: SourceSeries, kept: Counts | None) -> Counts:
        """Begin with zero: objects that an earlier attempt has settled count as present."""
        return self.account(source)

    @classmethod
    def counts(cls, result: Counts) -> dict[str, int | float]:
        """Return state, images, bytes and seconds."""
        names = {"present": "present", "missing": "missing", **DEIDENTIFICATION}
        images = {f"images {shown}": getattr(result, name) for name, shown in names.items()}
        return {f"series {result.state}": 1, "bytes": result.bytes, "seconds": result.seconds, **images}

    def totals(self, results: Sequence[Counts]) -> dict[str, int | float]:
        """Return the number of objects by outcome."""
        return {"series": len(results), **{name: sum(getattr(one, name) for one in results) for name in _TOTALS}}

    def work(self, source: SourceSeries, counts: Counts) -> Counts:
        """De-identify the objects of a series, or of a part of one, that have no outcome yet."""
        started = time.monotonic()
        try:
            self._series(source, counts)
        finally:
            counts.seconds = time.monotonic() - started
        return counts

    def _series(self, source: SourceSeries, counts: Counts) -> None:
        from pacsifier_ops.deid.inventory import keep_heads

        counts.reason = "not ended"
        fresh: list[Settled] = []
        heads: dict[str, Head] = {}
        settled = self._store.settled(source.key, {uid for *_, uid in source.files})
        seen = {old for item in settled.values() for old in item.uids}
        with storage_errors("out_folder"), Durable(partial(self._settle, source, counts)) as durable:
            for name, size, mtime, uid in source.files:
                if self._cancelled():
                    raise Cancelled("stopped on request")
                before = settled.get(uid)
                path = self._request.in_folder / unpacked(name)
                if before and (before.size, before.mtime_ns) == (size, mtime) and self._stands(before):
                    counts.present += 1
                    if self._request.in_place:
                        self._take_away(path, before)
                    continue
                try:
                    result = self._converter.convert(path, source, uid)
                except FileUnreadable as error:
                    counts.missing += 1
                    counts.reason = str(error)
                    continue
                item = self._outcome(source, path, (size, mtime, uid), result)
                item.uids = {old: new for old, new in result.uids.items() if old not in seen}
                seen |= item.uids.keys()
                if item.file:
                    fresh.append(item)
                    if result.head is not None:
                        heads[item.new_uid] = result.head
                durable.add(_Made(path, item, result.path, before), result.path if item.file else None, item.written)
        with storage_errors("the state root"):
            heads = keep_heads(self._store, self._base, source.key, fresh, heads)
        if self._request.contact_sheets and source.parts == 1:
            make_sheet(self._sheets, self._store, self._base, source, counts.deidentified > 0, heads)
        if not counts.missing:
            counts.state, counts.reason = COMPLETE, ""

    def _outcome(self, source: SourceSeries, path: Path, file: tuple[int, int, str], result: Converted) -> Settled:
        """Return the outcome of an object.

        Args:
            file: size, modification time in ns, and SOP Instance UID of the source file when it was scanned.
        """
        size, mtime, uid = file
        shown = readable(path.relative_to(self._request.in_folder))
        item = Settled(uid, shown, size, mtime, result.outcome, result.reason)
        if result.outcome == DEIDENTIFIED:
            item.new_uid, item.rules, item.file = result.new_uid, result.rules, f"{source.target}/{result.new_uid}.dcm"
            status = result.path.stat()
            item.written, item.written_ns, item.sha256 = status.st_size, status.st_mtime_ns, result.sha256
        return item

    def _settle(self, source: SourceSeries, counts: Counts, made: Sequence[_Made]) -> None:
        """Store the outcomes of objects, then move the results to their places: no file there lacks an outcome.

        Args:
            made: the objects; their results are durable.
        """
        results = [one for one in made if one.item.file]
        with storage_errors("out_folder"):
            for one in made:
                if one.before and one.before.file:
                    (self._base / one.before.file).unlink(missing_ok=True)
        with storage_errors("the state root"):
            if results or any(one.before and one.before.file for one in made):
                self._store.sheet(source.number).unlink(missing_ok=True)  # also where the worker does not reach its end
            for one in made:
                self._store.settle(source.key, one.item, durable=self._request.in_place and one is made[-1])
        with storage_errors("out_folder"):
            if results:
                data_folder(self._base / source.target)
                for one in results:
                    one.result.chmod(data_file())
                    os.replace(one.result, self._base / one.item.file)
                fsync_folder(self._base / source.target)
        for one in made:
            if self._request.in_place:
                self._take_away(one.path, one.item)
            name = {DEIDENTIFIED: "deidentified", EXCLUDED: "excluded"}.get(one.item.outcome, "in_quarantine")
            setattr(counts, name, getattr(counts, name) + 1)
            counts.bytes += one.item.size

    def _stands(self, item: Settled) -> bool:
        """Return whether an object is de-identified, and its result unchanged in its place."""
        return item.outcome == DEIDENTIFIED and item.stands_in(self._base)

    def _take_away(self, path: Path, item: Settled) -> None:
        """Remove the original of a verified output, or move it apart where there is no output; in place only."""
        if item.outcome != DEIDENTIFIED:
            put_apart(path, self._apart / item.outcome / path.relative_to(self._request.in_folder))
            return
        with storage_errors("the folder that is converted"):
            path.unlink(missing_ok=True)


_TOTALS = ("present", "deidentified", "excluded", "in_quarantine", "missing", "bytes")


def make_sheet(
    sheets: ContactSheets, store: Store, base: Path, source: SourceSeries, fresh: bool, heads: Mapping[str, Head] = {}
) -> None:
    """Make the contact sheet of a series, unless it exists and the objects are the same.

    Args:
        fresh: objects of the series have changed.
        heads: of objects, by new UID, where they are known; those of the others are looked up.
    """
    from pacsifier_ops.deid.inventory import images_of

    path = store.sheet(source.number)
    if fresh or not path.exists():
        with storage_errors("the state root"):
            sheet = sheets.of(images_of(store, base, source.key, heads))
            write_atomic(path, sheet or b"")


def _base(request: DeidRequest) -> Path:
    """Return the folder of the outputs of a run at this time."""
    root = request.out_folder
    return root / STAGED if request.in_place and not marker_of(root).get(CLEARED) else root


def apart_of(run: Run, request: DeidRequest) -> Path:
    """Return the protected folder for files that leave a folder that is converted in place."""
    return project_folder(request.project) / "apart" / run.name


# report


def report(run: Run, secret: str = "") -> DeidAccount:
    """Close the account, write manifest, linkage and report, and mark the output tree as de-identified.

    It works on the results of an interrupted run as well. A folder that is converted in place is cleared when all
    objects have an outcome.

    Args:
        run: the run.
        secret: secret of the project, where it is stored elsewhere.

    Returns:
        The account, with the verdict of the run.

    Raises:
        InputError: the run ended before the folder was scanned.
        TreeError: the output folder is not that of this run.
        StorageError: a file cannot be written or moved.
        LeaseBusy: another run still converts into the output folder, so it is not finished.
    """
    from pacsifier_ops.deid import books
    from pacsifier_ops.deid import report as pages
    from pacsifier_ops.deid.card import About

    prepared(run)
    request = DeidRequest.of(run)
    how = Policy.of(request, secret)
    tree, marker = Tree.existing(request.out_folder), marker_of(request.out_folder)
    if tree is None or marker.get("stamp") != how.stamp:
        raise TreeError("out_folder is not what this run left; begin with the step prepare")
    store = Store(tree, marker["id"])
    seen, before, _ = noted_plan(run)
    if before and seen_before(request, how.stamp) == seen:
        account = books.account_again(run, request, before)
    else:
        account = _closed(run, request, how, tree, marker, store)
    linkage = books.linkage_files(request, store, how.rules)
    account.linkage = str(linkage[0].parent)
    with storage_errors("the state root or out_folder"):
        files = [*linkage, *(tree.root / name for name in books.BOOKS), tree.state / APPROVED]
        standing = books.Standing(tree, store, About.of(request, how.rules), files)
        hold = standing.hold()
        if not hold:
            books.write_linkage(request, store, how.rules)
            books.write(request, tree, store, how.rules, _base(request))
        with store.manifest.open("rb") as manifest, atomic_stream(run.part("manifest")) as own:
            shutil.copyfileobj(manifest, own)
    store_once(run.part("manifest"), tree.root)
    keep_converted(run, request, how.stamp, store, account, partial(Converting.outcomes, run))
    write_account(run, account)
    pages.write(run, account, store)
    write_summary(run, account)
    with shared().acquire(f"deid:{tree.root}"):
        marker = marker_of(tree.root)
        if account.verdict == COMPLETE and marker.get("run") == run.name:  # a later run marks the tree itself
            if tree.in_use(shared()):
                raise LeaseBusy("others still convert into out_folder; close the books again when they have ended")
            with storage_errors("the state root or out_folder"):
                if not hold:
                    approve(tree.root, _made(store, tree.root), keep_former=False)
                    standing.keep()
                write_marker(tree.root, {**marker, "state": FINISHED})
    return account


def _closed(
    run: Run, request: DeidRequest, how: Policy, tree: Tree, marker: Mapping[str, Any], store: Store
) -> DeidAccount:
    """Finish the output tree, and count what is in it."""
    from pacsifier_ops.deid import books
    from pacsifier_ops.deid.contact import ContactSheets

    if not request.in_place and marker.get("run") == run.name:
        _withdraw(run, request, store)
    if request.contact_sheets:
        with ContactSheets() as sheets:
            for source, stands in _whole_series(run):
                make_sheet(sheets, store, _base(request), source, fresh=not stands)
    account = books.close(run, request, store, how.rules, Converting.outcomes(run))
    account.apart = str(apart_of(run, request)) if request.in_place else ""
    if request.in_place and not account.missing and marker["state"] == CONVERTING:
        if not marker.get(CLEARED):
            clear(tree.root, apart_of(run, request) / "left")
        take_place(tree.root)
    books.check_outputs(account, store, _base(request))
    return account


def _made(store: Store, root: Path) -> Iterator[dict[str, str]]:
    """Yield path and SHA-256 of each file of a finished data set."""
    from pacsifier_ops.deid import books
    from pacsifier_ops.deid.inventory import with_digest

    for source in series_of(store):
        for item in store.settled(source.key).values():
            if item.outcome == DEIDENTIFIED:
                with_digest(store, source.key, item, root)
                yield {"path": readable(Path(item.file)), "sha256": item.sha256}
    yield from ({"path": name, "sha256": digest(root / name)} for name in books.BOOKS)


def _withdraw(run: Run, request: DeidRequest, store: Store) -> None:
    """Remove results of objects whose patient or series has changed, or that another file contradicts."""
    planned = {line[-1]: source.key for source, _ in Converting.outcomes(run) for line in source.files}
    unfit = {item["path"] for item in read_jsonl(store.unreadable) if not item["missing"]}
    for source in series_of(store):
        for uid, item in store.settled(source.key).items():
            if item.outcome == DEIDENTIFIED and (
                planned[uid] != source.key if uid in planned else item.source in unfit and _same_file(request, item)
            ):
                with storage_errors("out_folder"):
                    (_base(request) / item.file).unlink(missing_ok=True)
                with storage_errors("the state root"):
                    store.sheet(source.number).unlink(missing_ok=True)
                    gone = Settled(uid, item.source, item.size, item.mtime_ns, QUARANTINED, WITHDRAWN)
                    store.settle(source.key, gone, durable=True)


def _same_file(request: DeidRequest, item: Settled) -> bool:
    """Return whether the source file of an object is unchanged in its place."""
    try:
        status = (request.in_folder / item.source).stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (item.size, item.mtime_ns)


def _whole_series(run: Run) -> Iterator[tuple[SourceSeries, bool]]:
    """Yield the series of a run, and whether the sheet of each stands if it is there.

    That of a series in parts stands if all its parts do. That of another one was made with it, unless somebody stopped
    the worker before.
    """
    standing, found = standing_keys(run), dict[str, tuple[SourceSeries, bool]]()
    for source, _ in Converting.outcomes(run):
        if source.parts > 1:
            _, others = found.get(source.key, (source, True))
            found[source.key] = source, others and key_of(source) in standing
        else:
            yield source, True
    yield from found.values()
