"""The steps of a conversion: prepare → convert → assemble → report.

Each is one function over the run's folder. The DAG's operators and the command line call the same functions. Each may
be killed and called again. Series are converted one by one, in any order; they get their names, are searched for
identifiers and are published together, so that names do not depend on who was first.

The items of a unit are series that are new or have changed, see `series.ToConvert`. The run's folder has the files of
every job (see `runs.job`), and:

| file            | written by | content                                                                    |
|-----------------|------------|----------------------------------------------------------------------------|
| series.jsonl    | prepare    | every series of the folder, see `Listed`                                   |
| rules.yaml      | prepare    | the rules of BIDS                                                          |
| published.jsonl | assemble   | what became of every series that was converted, in this run or before      |
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import InputError, TreeError
from pacsifier_ops.base.files import (
    data_folder,
    folder_of_all,
    name_below,
    packed,
    private_folder,
    read_jsonl,
    storage_errors,
    unpacked,
    write_atomic,
    write_jsonl,
)
from pacsifier_ops.base.identity import digest_of
from pacsifier_ops.base.words import plural
from pacsifier_ops.convert import converter
from pacsifier_ops.convert.assembly import APART, LOST, Assembly, Listed, Publication, Search, order_of
from pacsifier_ops.convert.request import BIDS, ConvertRequest
from pacsifier_ops.convert.rules import read_rules, shipped_rules
from pacsifier_ops.convert.series import (
    CONVERTED,
    FAILED,
    NO_IMAGE,
    UNTRIED,
    Outcome,
    ToConvert,
    convert_series,
    digest_of_series,
    outcome_of,
)
from pacsifier_ops.convert.store import Store
from pacsifier_ops.handover.account import ToolAccount, write_books
from pacsifier_ops.runs import job
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.folder import MOST, Run, in_units, never, now
from pacsifier_ops.runs.job import Question, Worker, begin, cut, prepared
from pacsifier_ops.state import audit
from pacsifier_ops.state.approved import Approved, approved_of, lies_in
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import (
    DEIDENTIFIED,
    Tree,
    marker_of,
    refuse_around,
    refuse_mixed,
    refuse_unfinished,
    state_folder,
    state_of,
)
from pacsifier_ops.state.tree import begin as begin_tree

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile
    from pacsifier_ops.dicom.scan import Scan

#: Files and folders in the run's folder that the first step removes before it begins.
KEPT = (*job.KEPT, "series", "rules", "published")


def prepare(run: Run, request: ConvertRequest, most: int = MOST, cancelled: Question = never) -> list[int]:
    """Find the series of the folder, and divide those that are new or have changed into units.

    Args:
        most: largest number of units.

    Returns:
        Numbers of the units.

    Raises:
        InputError: the folder cannot be read or holds no object.
        ConfigError: the converter, or the rules, cannot be used.
        TreeError: the folder is not finished de-identified data, or out_folder belongs to something else.
        StorageError: the run's folder cannot be written.
        Cancelled: `cancelled` returned True.
    """
    from pacsifier_ops.dicom.scan import scan

    given, target = request.in_folder.resolve(), request.out_folder.resolve()
    request = begin(run, replace(request, in_folder=given, out_folder=target), KEPT)
    version = converter.version(converter.program())
    approved, source = _approved(given), lies_in(given)
    _keep_rules(run, request)
    _check_target(request)
    try:
        found = scan(source, cancelled, approved=approved)
    except OSError as error:
        raise InputError(f"in_folder cannot be read: {error.strerror}") from error
    refuse_unfinished(found.trees)
    refuse_mixed(found.trees)
    if not (found.series or found.bad_files or request.allow_empty):
        raise InputError("in_folder holds no DICOM file")
    store = Store(_open(request))
    items = [_item(number, source, files, version) for number, files in enumerate(_series(found.series.values()), 1)]
    _count_lacking((item for item, _ in items), source, approved, found)
    listed = [replace(one, known=_is_known(store, one)) for _, one in items]
    with storage_errors("the state root"):
        write_jsonl(run.part("series"), listed)
    todo = [item for (item, _), one in zip(items, listed, strict=True) if not one.known]
    units = [(todo[place] for place in part) for part in in_units(len(todo), most)]
    counts = {"series": len(items), "instances": sum(one.objects for one in listed)}
    bad = [asdict(file) for file in found.bad_files]
    state = _state_of(approved)
    return cut(run, units, {"passed_over": found.passed_over, "bad_files": bad, "approved": state, **counts})


def _state_of(approved: Approved) -> str:
    """Return the SHA-256 of an approved list, hexadecimal."""
    whole = hashlib.sha256()
    for line in sorted(approved.files.items()):
        whole.update(f"{line}\n".encode())
    return whole.hexdigest()


def _count_lacking(items: Iterable[ToConvert], source: Path, approved: Approved, found: Scan) -> None:
    """Tell each series how many approved objects of its folder are not what they were: it is no whole series.

    A user may take objects away from a folder that was not released.

    Raises:
        InputError: a file cannot be read.
    """
    there = {str(file.path) for files in (*found.series.values(), found.copies) for file in files}
    lacking: Counter[str] = Counter()
    for name in approved.listed(source):
        if name.endswith(".dcm") and name not in there and (approved.released or os.path.lexists(name)):
            lacking[os.path.dirname(name)] += 1
    series_of: dict[str, list[ToConvert]] = {}
    for item in items:
        for folder in {os.path.dirname(source / unpacked(name)) for name, _, _ in item.files}:
            series_of.setdefault(folder, []).append(item)
    for folder, several in series_of.items():
        if len(several) > 1:  # an object may be in another series than it was
            files = [(source / unpacked(name), sha256) for item in several for name, _, sha256 in item.files]
            try:
                differ = [path for path, sha256 in files if os.path.dirname(path) == folder and digest(path) != sha256]
            except OSError as error:
                raise InputError(f"in_folder cannot be read: {error.strerror}") from error
            lacking[folder] += len(differ)
        for item in several:
            item.lacking += lacking[folder]


def _approved(source: Path) -> Approved:
    """Return the approved list of the folder.

    Raises:
        InputError: it is no folder.
        TreeError: it is not finished de-identified data with such a list.
    """
    if not source.is_dir():
        raise InputError("in_folder is not a folder; give the released, or de-identified, folder")
    refuse_unfinished([source, lies_in(source)])
    if state_of(source) != DEIDENTIFIED:
        raise TreeError(
            "in_folder holds data that may identify patients; images are made of finished de-identified data only: "
            "give the folder released of a study, or one that pacsifier-anonymize has made"
        )
    approved = approved_of(source)
    if approved is None:  # anybody can write a marker
        raise TreeError(
            "in_folder says that it is de-identified, and this state root has no list of what was: it is a copy, or "
            "was moved; convert the original"
        )
    return approved


def _keep_rules(run: Run, request: ConvertRequest) -> None:
    if request.layout == BIDS:
        _, data = read_rules(Path(request.bids_rules) if request.bids_rules else shipped_rules())
        with storage_errors("the state root"):
            write_atomic(run.folder / "rules.yaml", data)


def _check_target(request: ConvertRequest) -> None:
    source, target = request.in_folder, request.out_folder
    if target == source or source in target.parents or target in source.parents:
        raise TreeError("out_folder and in_folder lie in each other; give a folder apart")
    refuse_around(target, DEIDENTIFIED, "out_folder", below=False)
    marker = marker_of(target)
    if not marker and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TreeError("out_folder holds something else already; give an empty folder, or one that is not there yet")
    if marker and marker.get("images_of") != _identity(request):
        raise TreeError(
            "out_folder holds something else: images of another folder, or in another layout; give a folder apart"
        )


def _identity(request: ConvertRequest) -> dict[str, str]:
    """Return what the images of a folder are bound to."""
    return {"of": state_folder(request.in_folder).name, "layout": request.layout}


def _open(request: ConvertRequest) -> Tree:
    """Open the folder of the images; create it if necessary.

    Raises:
        StorageError: it cannot be written.
        TreeError: it lies in other data.
    """
    target = request.out_folder
    with storage_errors("out_folder"):
        data_folder(target)
        if not marker_of(target):
            begin_tree(target, {"state": DEIDENTIFIED, "images_of": _identity(request)}, "out_folder")
    with storage_errors("the state root"):
        return Tree(target, private_folder(state_folder(target)))


def _series(found: Iterable[Sequence[DicomFile]]) -> list[list[DicomFile]]:
    """Return the files of each series of each patient, in the order of patients, studies and series."""
    parts: dict[tuple[str, ...], list[DicomFile]] = {}
    for files in found:
        for file in files:
            parts.setdefault((file.patient_id, file.issuer, file.study_uid, file.series_uid), []).append(file)

    def place(files: Sequence[DicomFile]) -> tuple[Any, ...]:
        first = files[0]
        return (first.patient_id, first.issuer, first.study_date, first.study_time, first.study_uid, *order_of(first))

    each = [sorted(files, key=_place_in_series) for files in parts.values()]
    return sorted(each, key=place)


def _place_in_series(file: DicomFile) -> tuple[int, str]:
    number = file.instance_number.strip()
    return (int(number) if re.fullmatch(r"-?\d{1,12}", number, re.ASCII) else 10**12, file.sop_instance_uid)


def _item(number: int, root: Path, files: Sequence[DicomFile], version: str) -> tuple[ToConvert, Listed]:
    first = files[0]
    patient = f"{first.patient_id}\0{first.issuer}" if first.patient_id else f"study:{first.study_uid}\0"
    study = f"{patient}\0{first.study_uid}"
    key = digest_of(f"{study}\0{first.series_uid}")
    state = digest_of_series([(file.sop_instance_uid, file.sha256) for file in files], version)
    names = [name_below(file.path, root) for file in files]
    folder = folder_of_all(names)
    item = ToConvert(
        number,
        key,
        state,
        first.study_uid,
        first.series_uid,
        first.modality,
        first.series_number,
        folder,
        [[packed(name), file.sop_class_uid, file.sha256] for name, file in zip(names, files, strict=True)],
    )
    return item, Listed(
        number,
        key,
        state,
        patient,
        study,
        first.patient_id,
        first.study_date,
        first.study_time,
        first.series_uid,
        first.series_number,
        folder,
        len(files),
    )


def _is_known(store: Store, one: Listed) -> bool:
    record = store.record(one.key)
    return record is not None and record.digest == one.digest and store.whole(record)


# The work on one unit


def convert(run: Run, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Convert the series of one unit. One that cannot be converted does not stop the others.

    Returns:
        The numbers of series by outcome, and of images.

    Raises:
        StorageError: the folder of the images, or the run's, cannot be written.
        Cancelled: `cancelled` returned True; converted series stay.
    """
    with Converting(run, cancelled) as worker:
        return worker.unit(unit)


class Converting(Worker[ToConvert, Outcome]):
    """Converts the series of units of a run."""

    item, result = ToConvert, Outcome

    def open(self, stack: ExitStack) -> None:
        """Read the request, and make a folder for unfinished files."""
        self._request = ConvertRequest.of(self._run)
        tree = _open(self._request)
        self._store = Store(tree)
        self._scratch = stack.enter_context(tree.workplace(shared()))
        self._program = converter.program()

    def work(self, item: ToConvert, result: Outcome) -> Outcome:
        """Convert a series, unless it was converted and waits already."""
        if record := self._store.converted(item.key, item.digest):
            return outcome_of(item.number, record)
        request, source = self._request, lies_in(self._request.in_folder)
        refuse_unfinished([source])
        seconds = request.time_limit * 60
        return convert_series(
            *(item, source, self._scratch, self._store, seconds),
            *(self._cancelled, self._run.note, self._program),
        )

    def is_settled(self, result: Outcome) -> bool:
        """Whether a series with this result is not converted again in this run."""
        return result.outcome == NO_IMAGE

    def totals(self, results: Sequence[Outcome]) -> dict[str, int | float]:
        """Return the numbers of series by outcome, and of images."""
        outcomes = Counter(result.outcome.replace(" ", "_") for result in results)
        return {**outcomes, "images": sum(result.images for result in results)}

    @classmethod
    def counts(cls, result: Outcome) -> dict[str, int | float]:
        """See `job.Worker.counts`."""
        return {f"series {result.outcome}": 1}


# Publication


def assemble(run: Run, search: Search, cancelled: Question = never) -> dict[str, int]:
    """Name all converted series, search what is to be written for identifiers, and publish what is clean.

    Images of series that are no longer in the folder are removed.

    Args:
        search: see `Search`.

    Returns:
        The numbers of series that are published, set apart, and removed.

    Raises:
        InputError: the run ended before the folder was looked at.
        TreeError: the folder is not what it was; see `prepare`.
        StorageError: something cannot be read or written.
        Cancelled: `cancelled` returned True; what was published stays.
    """
    found, request = prepared(run), ConvertRequest.of(run)
    _check_target(request)
    tree = _open(request)
    store = Store(tree)
    with (
        shared().acquire(f"images:{tree.key}"),
        storage_errors("out_folder, or the state root"),
        tree.workplace(shared()) as scratch,
    ):
        if _state_of(_approved(request.in_folder)) != found.get("approved"):
            raise TreeError(
                "in_folder holds something else than when this run looked at it; nothing was published: run it again"
            )
        failed = {item.key for item, result in Converting.outcomes(run) if result.outcome == FAILED}
        return Assembly(run, request, store, failed, search, scratch, cancelled).done()


# The account


def report(run: Run) -> ToolAccount:
    """Close the account, and write the report. An unfinished run is closed as well.

    Raises:
        InputError: the run ended before the step prepare had inspected the folder.
        StorageError: the report cannot be written.
    """
    found, request = prepared(run), ConvertRequest.of(run)
    listed = [Listed(**line) for line in read_jsonl(run.part("series"))]
    results = {item.number: result for item, result in Converting.outcomes(run)}
    path = run.part("published")
    published = {line["number"]: Publication(**line) for line in read_jsonl(path)} if path.exists() else {}
    problems = [(item["path"], item["reason"]) for item in found["bad_files"]]
    done: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    no_images: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    unassigned: Counter[str] = Counter()
    for one in listed:
        name = one.folder or f"series {one.number}"
        result = results.get(one.number) or Outcome(one.number, CONVERTED, "")
        publication = published.get(one.number)
        if publication and publication.state != LOST:
            result = Outcome(**publication.outcome)
        remarks.update(result.warnings.keys())
        counts["objects that are no images"] += result.others
        if result.outcome == NO_IMAGE:
            no_images[f"not an image: {result.reason}"] += 1
            counts["series without images"] += 1
        elif result.outcome in (FAILED, UNTRIED):
            counts[f"series {result.outcome}"] += 1
            problems.append((name, f"{'not converted' if result.outcome == FAILED else UNTRIED}: {result.reason}"))
        elif publication is None or publication.state == LOST:
            counts["series not published"] += 1
            problems.append((name, "converted, and not published: the run ended before; run it again"))
        elif publication.state == APART:
            counts["series set apart"] += 1
            kinds = "; ".join(f"{kind} ({count})" for kind, count in sorted(publication.findings.items()))
            problems.append((name, f"set apart, since identifiers of the cohort were found: {kinds}"))
        else:
            counts["series converted"] += 1
            counts["of these new"] += publication.new
            counts["images"] += result.images
            counts["volumes"] += result.volumes
            unassigned.update(publication.unassigned)
            done.append((name, _remark(result, publication)))
            if result.unused:
                counts["objects not used"] += result.unused
                problems.append(
                    (name, f"the converter has not used {plural(result.unused, 'object')} of {result.objects}")
                )
    order = ("series converted", "of these new", "series without images", "series failed", "series set apart")
    rest = sorted(counts.keys() - set(order) - {"images", "volumes"})
    account = ToolAccount(
        run=run.name,
        action="NIfTI",
        started=request.started,
        finished=now(),
        ended=ended_by(run),
        folder=str(request.in_folder),
        out_folder=str(request.out_folder),
        counts={
            "series": len(listed),
            **{name: counts[name] for name in (*order, "images", "volumes")},
            **{name: counts[name] for name in rest if counts[name]},
            **{f"unassigned, {why}": count for why, count in sorted(unassigned.items())},
            **{f"series with a remark, {kind}": count for kind, count in sorted(remarks.items())},
        },
        done=done,
        problems=problems,
        passed_over={**found["passed_over"], **no_images},
    )
    write_books(run, account, "NIfTI")
    audit.record(audit.EXPORTED, run=run.name, to="folder", objects=counts["images"], verdict=account.verdict)
    return account


def _remark(result: Outcome, publication: Publication) -> str:
    parts = [f"{plural(result.images, 'image')} of {plural(result.volumes, 'volume')}"]
    parts += [f"{count} unassigned: {why}" for why, count in publication.unassigned.items()]
    parts += sorted(result.warnings)
    return "; ".join(parts) + ("" if publication.new else "; as before")
