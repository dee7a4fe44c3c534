"""The steps of a DICOMDIR run: prepare → copy → assemble → report.

Each is one function over the run's folder. The DAG's operators and the command line call the same functions. Each may
be killed and called again. A DICOMDIR exists only while all the files that it lists exist.

The items of a unit are series, see SeriesToCopy. The run's folder has the files of every job (see `runs.job`), and:

| file                 | written by | content                                                   |
|----------------------|------------|-----------------------------------------------------------|
| index/<volume>.jsonl | prepare    | the directory records of a volume                         |
| written.json         | assemble   | number of file-sets with a DICOMDIR                       |
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import Cancelled, InputError, TreeError
from pacsifier_ops.base.files import (
    atomic_stream,
    below,
    data_file,
    data_folder,
    name_below,
    packed,
    private_file,
    private_folder,
    read_json,
    read_jsonl,
    readable,
    storage_errors,
    unpacked,
    unreadable,
    write_json,
)
from pacsifier_ops.base.words import plural
from pacsifier_ops.handover.account import ToolAccount, write_books
from pacsifier_ops.handover.copies import NO_COPY, Copied, Copier, Known, Wanted, keep_copies, known_copies
from pacsifier_ops.handover.request import DicomdirRequest
from pacsifier_ops.runs import job
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.folder import MOST, Run, in_units, never, now
from pacsifier_ops.runs.job import Question, Worker, begin, cut, prepared
from pacsifier_ops.state import audit
from pacsifier_ops.state.approved import Approved, approved_of, lies_in, refuse_changed, refuse_released_below
from pacsifier_ops.state.facts import AGAIN, Facts, identity_of, wait_until_settled
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import IDENTIFIED, Tree, marker_of, refuse_mixed, refuse_unfinished, state_of

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile
    from pacsifier_ops.dicom.scan import Scan
    from pacsifier_ops.handover.layout import FileSet, FileSetSeries
    from pacsifier_ops.handover.records import DirectoryObject

#: Files and folders in the run's folder that the first step removes before it begins.
KEPT = (*job.KEPT, "index", "written")

#: Bytes of a megabyte; largest size of a volume, in megabytes.
MEGABYTE, LARGEST_VOLUME = 10**6, 10**9

#: Name of an unfinished file, which a killed run may leave (see `atomic_stream`).
_UNFINISHED = re.compile(r"\.([A-Z0-9.]+)\.[0-9a-f]{8}\.part", re.ASCII)
_NOT_COPIED = "not copied: the run ended before"
#: Bytes that are read at once.
_PIECE = 1 << 20
#: Time of the entries of a zip file, which must have one: the earliest of the format.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass
class SeriesToCopy:
    """A series to be copied: a line of a unit.

    Attributes:
        number: ordinal in the run, from 1.
        modality: Modality (0008,0060).
        files: for each file, path below in_folder (text of `packed`), size in bytes, mtime_ns, path below out_folder,
            approved SHA-256, empty if nobody has approved it, and path (text of `packed`) and identity of its copy in
            an earlier file-set, see `Wanted`.
    """

    number: int
    modality: str
    files: list[list[Any]]

    def account(self) -> CopiedFiles:
        """Return the result before any file is copied."""
        files = [[path, _NOT_COPIED, 0, "", 0] for _, _, _, path, *_ in self.files]
        return CopiedFiles(self.number, files)


@dataclass
class CopiedFiles:
    """The result for a series.

    Attributes:
        number: number of the series.
        files: for each file, path below out_folder, why it was not copied (else empty), and mtime_ns, SHA-256 and
            ctime_ns of the copy.
    """

    number: int
    files: list[list[Any]]


def describe_all(found: Scan, cancelled: Question = never) -> Iterator[DirectoryObject]:
    """Yield the objects of a scan with the values for their directory records.

    Damaged files are added to the bad files of the scan. What was read of an approved file is kept with its digest, and
    the copy is compared with that digest.

    Raises:
        Cancelled: `cancelled` returned True.
        StorageError: the state root cannot be read or written.
    """
    from pacsifier_ops.handover.records import DirectoryObject, describe, record_type
    from pacsifier_ops.runs.accounts import FileAccount

    file: DicomFile

    def look(path: Path) -> DirectoryObject:
        described = describe(file)
        refuse_changed(path, file.ctime_ns, file.sha256)
        return described

    def packed_values(one: DirectoryObject) -> list[Any]:
        return [one.file.sha256, one.part10, {str(tag): value.decode("latin-1") for tag, value in one.values.items()}]

    def unpacked_values(kept: list[Any], path: Path | str) -> DirectoryObject:
        values = {int(tag): text.encode("latin-1") for tag, text in kept[2].items()}
        return DirectoryObject(file, record_type(file.sop_class_uid), values, kept[1])

    def of_same_content(kept: list[Any], path: Path | str, identity: list[int]) -> Any:
        return kept if kept[0] == file.sha256 else AGAIN

    root = found.trees[0]
    with Facts(root, "records", look, packed_values, unpacked_values, renew=of_same_content) as described:
        for files in found.series.values():
            for file in files:
                if cancelled():
                    raise Cancelled("stopped on request")
                try:
                    yield described(file.path) if file.sha256 else describe(file)
                except ValueError as error:
                    found.bad_files.append(FileAccount(readable(file.path.relative_to(root)), str(error)))
                except OSError as error:
                    found.bad_files.append(FileAccount(readable(file.path.relative_to(root)), unreadable(error)))


def _patientless(found: Scan, approved: Approved | None) -> list[DirectoryObject]:
    """Remove the objects that belong to no patient from the bad files, and return them. No UID occurs twice."""
    from pacsifier_ops.dicom.scan import SECOND_COPY
    from pacsifier_ops.handover.records import describe_patientless

    taken: dict[str, DirectoryObject] = {}
    left = []
    for bad in found.bad_files:
        path = found.trees[0] / bad.path
        sha256 = approved.sha256(path) if approved else ""
        described = describe_patientless(path) if path.is_file() and (sha256 or not approved) else None
        if described is None:
            left.append(bad)
            continue
        described = replace(described, file=replace(described.file, sha256=sha256))
        try:
            if sha256:
                refuse_changed(path, described.file.ctime_ns, sha256)
        except ValueError as error:
            left.append(replace(bad, reason=str(error)))
            continue
        first = taken.setdefault(described.file.sop_instance_uid, described)
        if first is described or digest(first.file.path) == digest(path):
            found.passed_over[SECOND_COPY] += first is not described
        else:
            left.append(bad)
    found.bad_files[:] = left
    return list(taken.values())


def prepare(run: Run, request: DicomdirRequest, most: int = MOST, cancelled: Question = never) -> list[int]:
    """Inspect every file of the folder, plan the file-sets, and divide the series into units.

    Args:
        most: largest number of units.

    Returns:
        Numbers of the units.

    Raises:
        InputError: the folder cannot be read or holds no object, or a file is larger than a volume.
        TreeError: the folder is half de-identified or in use, or the out folder holds other files.
        StorageError: the run's folder cannot be written.
        Cancelled: `cancelled` returned True.
    """
    from pacsifier_ops.dicom.scan import scan
    from pacsifier_ops.handover.layout import lay_out, volumes

    given, target = request.in_folder.resolve(), request.out_folder.resolve()
    source = lies_in(given)
    request = begin(run, replace(request, in_folder=source, out_folder=target), KEPT)
    _check_folders(request)
    approved = approved_of(given)
    try:
        found = scan(source, cancelled, approved=approved)
    except OSError as error:
        raise InputError(f"in_folder cannot be read: {error.strerror}") from error
    _check_trees(found.trees)
    if approved is None:
        refuse_released_below(found.trees)
    layout = lay_out(describe_all(found, cancelled), _patientless(found, approved))
    if not (layout.studies or found.bad_files):
        raise InputError("in_folder holds no DICOM file that could be handed over")
    plan = FileSetPlan.of(volumes(layout, request.volume_size * MEGABYTE), bool(request.volume_size))
    stale = _check_target(request, plan)
    with storage_errors("the state root"):
        known = known_copies(source) if approved else None  # only what was approved may be shared
    units = _write_plan(run, source, layout, found, plan, most, known)
    with storage_errors("out_folder"):
        for path in stale:
            path.unlink(missing_ok=True)
    return units


@dataclass(frozen=True)
class FileSetPlan:
    """The planned content of the out folder.

    Attributes:
        volumes: folder of each file-set below the out folder, empty or with a slash at its end, and its series.
        files: every object by its path below the out folder.
    """

    volumes: list[tuple[str, list[FileSetSeries]]]
    files: dict[str, DicomFile]

    @classmethod
    def of(cls, volumes: list[list[FileSetSeries]], folders: bool) -> FileSetPlan:
        """Return the plan of volumes, with a folder for each if `folders`."""
        named = [(f"VOL{number:03d}/" if folders else "", volume) for number, volume in enumerate(volumes, 1)]
        return cls(
            named, {f"{root}{p.path}": p.object.file for root, volume in named for one in volume for p in one.objects}
        )

    @property
    def roots(self) -> list[str]:
        """Return the folders of the file-sets below the out folder."""
        return [root for root, _ in self.volumes]

    def names(self, request: DicomdirRequest) -> set[str]:
        """Return all paths that may be below the out folder."""
        from pacsifier_ops.handover.fileset import DICOMDIR

        packed = {path.name for path in zips(request, self.roots) if path.parent == request.out_folder}
        return {*self.files, *packed, *(f"{root}{DICOMDIR}" for root in self.roots)}


def _check_folders(request: DicomdirRequest) -> None:
    source, target = request.in_folder, request.out_folder
    if not source.is_dir():
        raise InputError("in_folder is not a folder; give the folder whose DICOM files are to be handed over")
    if source == target or source in target.parents or target in source.parents:
        raise InputError("in_folder and out_folder overlap; give two separate folders")
    if not 0 <= request.volume_size <= LARGEST_VOLUME:
        raise InputError(f"volume_size is negative or above {LARGEST_VOLUME:,}; give the megabytes of a volume")
    if any(marker_of(folder) for folder in (target, *target.parents)):
        raise TreeError("out_folder is part of another data set; give a separate folder")
    _check_trees([source])


def _check_trees(trees: Sequence[Path]) -> None:
    refuse_unfinished(trees)
    for root in trees:
        tree = Tree.existing(root)
        if tree is not None and tree.in_use(shared()):
            raise TreeError("in_folder is being written by another run; wait until that has ended")
    refuse_mixed(trees)


def _check_target(request: DicomdirRequest, plan: FileSetPlan) -> list[Path]:
    """Refuse an out folder that holds other files than those of a run for the same files.

    Returns:
        Files of earlier runs that must be removed before any copy: DICOMDIRs, zip files, and unfinished files.

    Raises:
        TreeError: there are other files.
    """
    target, known = request.out_folder, plan.names(request)
    stale = []
    for entry, name, unfinished in _files_of(target):
        if name not in known:
            raise _other_content()
        if unfinished or name not in plan.files:
            stale.append(Path(entry.path))
        elif _instance(Path(entry.path)) != plan.files[name].sop_instance_uid:
            raise _other_content()
    for path in zips(request, plan.roots) if request.zip else ():
        if path.exists() and target not in path.parents:
            if not _is_packed(path):
                raise TreeError("another file has the name of the zip file; give another out_folder")
            stale.append(path)
    return stale


def _instance(path: Path) -> str:
    """Return the SOP Instance UID of a file; empty if it is no object."""
    from pacsifier_ops.dicom.files import inspect
    from pacsifier_ops.handover.records import describe_patientless

    try:
        file = inspect(path)
    except OSError:
        return ""
    except ValueError:
        described = describe_patientless(path)
        file = described.file if described else None
    return file.sop_instance_uid if file else ""


def _files_of(target: Path) -> Iterator[tuple[os.DirEntry[str], str, bool]]:
    """Yield the files below the out folder: entry, path below the folder, and whether it is an unfinished file.

    For an unfinished file, the second is the path that the finished file would have.

    Raises:
        TreeError: there are links, or the folder cannot be read.
    """
    if target.exists() and not target.is_dir():
        raise TreeError("out_folder is not a folder; give another one")
    try:
        for entry, problem in below(target) if target.exists() else ():
            if problem is not None:
                raise problem
            if entry.is_symlink():
                raise _other_content()
            if not entry.is_dir():
                name, unfinished = name_below(entry.path, target), _UNFINISHED.fullmatch(entry.name)
                if unfinished:
                    name = name.removesuffix(entry.name) + unfinished[1]
                yield entry, name, unfinished is not None
    except OSError as error:
        raise TreeError(f"out_folder cannot be read: {error.strerror}") from error


def _other_content() -> TreeError:
    return TreeError(
        "out_folder holds something else than a file-set of the same files; give an empty folder, or one that does not "
        "exist"
    )


def _write_plan(
    run: Run, source: Path, layout: FileSet, found: Scan, plan: FileSetPlan, most: int, known: Known | None
) -> list[int]:
    """Write the directory records and the units into the run's folder; return the numbers of the units."""
    from pacsifier_ops.handover.layout import index

    series = [(root, one) for root, volume in plan.volumes for one in volume]
    remarks = Counter((file.series_uid, remark) for file, remark in layout.remarks)
    example = {
        (file.series_uid, remark): readable(file.path.relative_to(source)) for file, remark in reversed(layout.remarks)
    }
    with storage_errors("the state root"):
        for number, (_, volume) in enumerate(plan.volumes):
            entries = ([entry.depth, entry.path, entry.body.decode("latin-1")] for entry in index(volume))
            run.write_part("index", number, entries)
    counts = {
        "patients": layout.patients,
        "studies": sum(bool(study[0].above) for study in layout.studies),
        "series": sum(bool(one.above) for one in layout.series()),
        "objects": len(plan.files),
        "file-sets": len(plan.volumes),
        "outside of the media profiles": layout.outside,
        "records with keys made up": layout.made_up,
    }
    lines = [
        (example[key], f"{key[1]} ({plural(count, 'object')})" if count > 1 else key[1])
        for key, count in remarks.items()
    ]
    bad = [asdict(file) for file in found.bad_files]
    plain = {"roots": plan.roots, "counts": counts, "remarks": lines, "copies_since": known and known.since}

    def item(number: int, root: str, one: FileSetSeries) -> SeriesToCopy:
        files = [(p.object.file, root + p.path) for p in one.objects]
        values = [
            [
                packed(name_below(f.path, source)),
                f.size,
                f.mtime_ns,
                path,
                f.sha256,
                *(known.copy(f.sha256) if known else NO_COPY),
            ]
            for f, path in files
        ]
        return SeriesToCopy(number, files[0][0].modality, values)

    units = [(item(i + 1, *series[i]) for i in unit) for unit in in_units(len(series), most)]
    return cut(run, units, {**plain, "passed_over": found.passed_over, "bad_files": bad})


def copy(run: Run, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Copy the files of a unit that are not in the file-set already.

    Returns:
        The number of files that are there, and of files that could not be copied.

    Raises:
        StorageError: the out folder cannot be written, or a copy differs from what was written.
        Cancelled: `cancelled` returned True; the copies stay.
    """
    with CopyWorker(run, cancelled) as worker:
        return worker.unit(unit)


class CopyWorker(Worker[SeriesToCopy, CopiedFiles]):
    """Copies the files of units of a run."""

    item, result = SeriesToCopy, CopiedFiles

    def open(self, stack: ExitStack) -> None:
        """Read the request, and set the mode of the copies."""
        self._request = DicomdirRequest.of(self._run)
        self._mode = _mode(self._request)

    def work(self, series: SeriesToCopy, result: CopiedFiles) -> CopiedFiles:
        """Copy the files of a series."""
        source, out = self._request.in_folder, self._request.out_folder
        folder = out / os.path.dirname(result.files[0][0])
        mode = self._mode & ~0o222 if series.files[0][4] else self._mode  # approved ones may be shared
        with storage_errors("out_folder"):
            (data_folder if self._mode == data_file() else private_folder)(folder)
            copier = Copier(folder, mode)
            try:
                with copier:
                    for name, size, mtime, path, sha256, earlier, identity in _as_approved(series):
                        if self._cancelled():
                            raise Cancelled("stopped on request")
                        places = f"{source}/{unpacked(name)}", f"{out}/{path}"
                        copier.copy(Wanted(*places, size, mtime, sha256, unpacked(earlier), identity))
            finally:
                for place, (path, *_) in enumerate(result.files):
                    if copied := copier.results.get(f"{out}/{path}"):
                        result.files[place] = [path, copied.problem, copied.mtime, copied.sha256, copied.ctime]
        return result

    def totals(self, results: Sequence[CopiedFiles]) -> dict[str, int | float]:
        """Return the numbers of copied and of failed files."""
        problems = [problem for result in results for _, problem, *_ in result.files]
        failed = sum(map(bool, problems))
        return {"copied": len(problems) - failed, "failed": failed}


def _mode(request: DicomdirRequest) -> int:
    """Return the mode of the files of a file-set: that of identifying files if its objects identify patients."""
    return private_file() if state_of(request.in_folder) == IDENTIFIED else data_file()


def _as_approved(series: SeriesToCopy) -> Iterator[list[Any]]:
    """Yield the files of a series.

    Raises:
        InputError: an earlier version of the package listed them, without their approved SHA-256.
    """
    for values in series.files:
        if len(values) != 7:
            raise InputError("the files were listed by an earlier version of this package; begin with the step prepare")
        yield values


def assemble(run: Run, cancelled: Question = never) -> dict[str, int]:
    """Write the DICOMDIR of every file-set, and its zip file if the request says so.

    Returns:
        The numbers of files and of file-sets.

    Raises:
        InputError: not all files are copied, or there are too many for a DICOMDIR.
        TreeError: the out folder was changed meanwhile.
        StorageError: the out folder cannot be written.
        Cancelled: `cancelled` returned True.
    """
    from pacsifier_ops.handover.fileset import DICOMDIR, DirectoryRecord, directory, records_of

    found, request = prepared(run), DicomdirRequest.of(run)
    results = [file for _, result in CopyWorker.outcomes(run) for file in result.files]
    if any(problem == _NOT_COPIED for _, problem, *_ in results):
        raise InputError("the run ended before all files were copied; see the error of the step copy")
    copies = {path: Copied(problem, *rest) for path, problem, *rest in results if not problem}
    since = found["copies_since"]
    newest = max((copy.ctime for copy in copies.values()), default=0)
    may_be_kept = since is not None and wait_until_settled(request.out_folder, newest)
    statuses = _check_copies(request, found["roots"], copies)
    written = 0
    for number, root in enumerate(found["roots"]):
        if cancelled():
            raise Cancelled("stopped on request")
        here = {path.removeprefix(root) for path in copies if path.startswith(root)}
        lines = read_jsonl(run.part("index", number))
        planned = [DirectoryRecord(depth, path, body.encode("latin-1")) for depth, path, body in lines]
        records = records_of(planned, here)
        if not records:
            continue
        folder = request.out_folder / root
        with storage_errors("out_folder"):
            with atomic_stream(folder / DICOMDIR, _mode(request)) as stream:
                stream.writelines(directory(records))
            if request.zip:
                packed = {
                    DICOMDIR: digest(folder / DICOMDIR),
                    **{name: copies[root + name].sha256 for name in sorted(here)},
                }
                _pack(zips(request, found["roots"])[number], folder, packed, _mode(request), cancelled)
        written += 1
    with storage_errors("the state root"):
        if may_be_kept:
            as_compared = ((name, copy) for name, copy in copies.items() if statuses[name].st_ctime_ns == copy.ctime)
            kept = {copy.sha256: [name, *identity_of(statuses[name])] for name, copy in as_compared}
            keep_copies(request.in_folder, Known(since, str(request.out_folder), kept))
        write_json(_written(run), {"file-sets": written})
    return {"files": len(copies), "file_sets": written}


def is_written(run: Run) -> bool:
    """Return whether a run has written the DICOMDIR of all its file-sets."""
    return _written(run).exists()


def _written(run: Run) -> Path:
    return run.folder / "written.json"


def _check_copies(
    request: DicomdirRequest, roots: Sequence[str], copies: Mapping[str, Copied]
) -> dict[str, os.stat_result]:
    """Make sure that the out folder holds the copies and no other files. Remove unfinished files of a killed attempt.

    Args:
        copies: by path below the out folder.

    Returns:
        The status of each copy.

    Raises:
        TreeError: there are other files, or copies are missing or changed.
    """
    from pacsifier_ops.handover.fileset import DICOMDIR

    target, packed = request.out_folder, zips(request, roots)
    known = {*copies, *(f"{root}{DICOMDIR}" for root in roots)}
    known |= {path.name for path in packed if path.parent == target}
    statuses: dict[str, os.stat_result] = {}
    with storage_errors("out_folder"):
        for entry, name, unfinished in _files_of(target):
            if name not in known:
                raise _changed()
            if unfinished:
                os.unlink(entry.path)
            elif name in copies and (status := os.lstat(entry.path)).st_mtime_ns == copies[name].mtime:
                statuses[name] = status
        for path in packed:
            for unfinished_zip in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
                unfinished_zip.unlink()
    if len(statuses) < len(copies):
        raise _changed()
    return statuses


def _changed() -> TreeError:
    return TreeError("out_folder was changed during the run; make sure that nobody else writes to it, then run again")


def zips(request: DicomdirRequest, roots: Sequence[str]) -> list[Path]:
    """Return the paths of the zip files: in the out folder for volumes, else one beside the out folder."""
    folder = request.out_folder
    return [folder / f"{root.rstrip('/')}.zip" if root else folder.with_name(f"{folder.name}.zip") for root in roots]


def _is_packed(path: Path) -> bool:
    """Whether a file is a zip file of a file-set."""
    from pacsifier_ops.handover.fileset import DICOMDIR

    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()[:1] == [DICOMDIR]
    except (zipfile.BadZipFile, OSError):
        return False


def _pack(path: Path, folder: Path, names: Mapping[str, str], mode: int, cancelled: Question) -> None:
    """Write files into a zip file, without compression: images hardly shrink, and equal files give equal bytes.

    Args:
        path: of the zip file.
        names: SHA-256 of each file, hexadecimal, by path below the folder; they are checked while the files are read.
        mode: of the zip file.

    Raises:
        TreeError: a file was changed since it was copied. No zip file is written.
    """
    with atomic_stream(path, mode) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, sha256 in names.items():
            if cancelled():
                raise Cancelled("stopped on request")
            seen = hashlib.sha256()
            entry = zipfile.ZipInfo(name, _NO_TIME)
            entry.external_attr, entry.file_size = 0o644 << 16, (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as out:
                while piece := source.read(_PIECE):
                    seen.update(piece)
                    out.write(piece)
            if seen.hexdigest() != sha256:
                raise _changed()


def report(run: Run) -> ToolAccount:
    """Close the account, and write the report. An unfinished run is closed as well.

    Raises:
        InputError: the run ended before the step prepare had inspected the folder.
        StorageError: the report cannot be written.
    """
    found, request = prepared(run), DicomdirRequest.of(run)
    problems = [(item["path"], item["reason"]) for item in found["bad_files"]]
    copied = 0
    for series, result in CopyWorker.outcomes(run):
        for (name, *_), (_, problem, *_) in zip(series.files, result.files, strict=True):
            if problem:
                problems.append((readable(Path(unpacked(name))), problem))
            else:
                copied += 1
    written = read_json(_written(run))["file-sets"] if is_written(run) else 0
    if copied and not written:
        problems.append(("DICOMDIR", "not written: the run ended before"))
    account = ToolAccount(
        run=run.name,
        action="DICOMDIR",
        started=request.started,
        finished=now(),
        ended=ended_by(run),
        folder=str(request.in_folder),
        out_folder=str(request.out_folder),
        counts={**found["counts"], "copied": copied, "file-sets": written},
        done=[(name, remark) for name, remark in found["remarks"]],
        problems=problems,
        passed_over=found["passed_over"],
    )
    write_books(run, account, "DICOMDIR")
    audit.record(audit.EXPORTED, run=run.name, to="folder", objects=copied, verdict=account.verdict)
    return account
