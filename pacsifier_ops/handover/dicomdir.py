"""The steps of a DICOMDIR run: prepare → copy → assemble → report.

Each is one function over the run's folder; the DAG's operators and the command line call the same ones. Each may be
killed and called again. A DICOMDIR is there only while all the files that it lists are.

The items of a unit are series, see ToCopy. Beside the files of every job (see `runs.job`):

| file                 | written by | what                                                      |
|----------------------|------------|-----------------------------------------------------------|
| index/<volume>.jsonl | prepare    | the directory records of a volume                         |
| written.json         | assemble   | how many file-sets have their DICOMDIR                    |
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

from pacsifier_ops.base.errors import Cancelled, FileUnreadable, InputError, StorageError, TreeError
from pacsifier_ops.base.files import (
    atomic_stream,
    below,
    data_file,
    data_folder,
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
from pacsifier_ops.handover.request import DicomdirRequest
from pacsifier_ops.runs import job
from pacsifier_ops.runs.folder import MOST, Run, never, now, slices
from pacsifier_ops.runs.job import Question, Worker, begin, cut, prepared
from pacsifier_ops.state.approved import DIFFERS, Approved, approved_of, refuse_released_below
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import IDENTIFIED, Tree, marker_of, refuse_mixed, refuse_unfinished, state_of

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile
    from pacsifier_ops.dicom.scan import Scan
    from pacsifier_ops.handover.layout import FileSet, FileSetSeries
    from pacsifier_ops.handover.records import Described

#: What the steps keep in the run's folder; forgotten when the first one begins anew.
KEPT = (*job.KEPT, "index", "written")

#: Bytes of a megabyte, as media are sold; and megabytes of a volume at most.
MEGABYTE, LARGEST_VOLUME = 10**6, 10**9

_LEFT_OVER = re.compile(r"\.([A-Z0-9.]+)\.[0-9a-f]{8}\.part", re.ASCII)
_NOT_COPIED = "not copied: the run ended before"
_CHANGED = "the file changed while it was being copied; run it again"
_PIECE = 1 << 20
#: What a zip file says that its entries were made; it cannot say nothing.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass
class ToCopy:
    """A series to be copied: a line of a unit.

    Attributes:
        number: ordinal in the run, from 1.
        files: path below in_folder (see `packed`), size, mtime_ns, path below out_folder, and SHA-256 as it was
            approved of each.
    """

    number: int
    modality: str
    files: list[list[Any]]

    def account(self) -> CopiedFiles:
        """Return the result before any file is copied."""
        files = [[path, _NOT_COPIED, 0, ""] for _, _, _, path, *_ in self.files]
        return CopiedFiles(self.number, files)


@dataclass
class CopiedFiles:
    """What became of the files of a series.

    Attributes:
        number: of the series.
        files: path below out_folder, why it is not there, or empty, and mtime_ns and SHA-256 of the copy of each.
    """

    number: int
    files: list[list[Any]]


def catalogue(found: Scan, cancelled: Question = never) -> Iterator[Described]:
    """Read what the directory records of objects hold; those that are damaged are added to the bad files.

    Raises:
        Cancelled: `cancelled` said so.
    """
    from pacsifier_ops.handover.records import describe
    from pacsifier_ops.runs.accounts import FileAccount

    for files in found.series.values():
        for file in files:
            if cancelled():
                raise Cancelled("stopped on request")
            name = readable(file.path.relative_to(found.trees[0]))
            try:
                described = describe(file)
                _refuse_other(file)
                yield described
            except ValueError as error:
                found.bad_files.append(FileAccount(name, str(error)))
            except OSError as error:
                found.bad_files.append(FileAccount(name, unreadable(error)))


def _refuse_other(file: DicomFile) -> None:
    """Make sure that what was read of a file, for records that others share, is of what was approved.

    Raises:
        ValueError: it is not.
        OSError: it cannot be read.
    """
    if file.sha256 and (_digest(file.path) != file.sha256 or file.path.stat().st_ctime_ns != file.ctime_ns):
        raise ValueError(DIFFERS)


def _patientless(found: Scan, approved: Approved | None) -> list[Described]:
    """The objects that belong to no patient, taken out of the bad files; no SOP Instance UID twice."""
    from pacsifier_ops.dicom.scan import SECOND_COPY
    from pacsifier_ops.handover.records import describe_patientless

    taken: dict[str, Described] = {}
    for bad in list(found.bad_files):
        path = found.trees[0] / bad.path
        sha256 = approved.sha256(path) if approved else ""
        described = describe_patientless(path) if path.is_file() and (sha256 or not approved) else None
        if described is None:
            continue
        described = replace(described, file=replace(described.file, sha256=sha256))
        try:
            _refuse_other(described.file)
        except ValueError as error:
            found.bad_files[found.bad_files.index(bad)] = replace(bad, reason=str(error))
            continue
        first = taken.setdefault(described.file.sop_instance_uid, described)
        if first is described or _digest(first.file.path) == _digest(path):
            found.bad_files.remove(bad)
            found.passed_over[SECOND_COPY] += first is not described
    return list(taken.values())


def prepare(run: Run, request: DicomdirRequest, most: int = MOST, cancelled: Question = never) -> list[int]:
    """Look at every file of the folder, give each its place and its records, and cut the series into units.

    Args:
        most: units to be made at most.

    Returns:
        Numbers of the units to be copied.

    Raises:
        InputError: the folder cannot be read, holds nothing to be handed over, or a file is larger than a volume.
        TreeError: it is half de-identified, or being written; or the out folder holds something else.
        StorageError: the run's folder cannot be written.
        Cancelled: `cancelled` said so.
    """
    from pacsifier_ops.dicom.scan import scan
    from pacsifier_ops.handover.layout import lay_out, volumes

    source, target = request.in_folder.resolve(), request.out_folder.resolve()
    request = begin(run, replace(request, in_folder=source, out_folder=target), KEPT)
    _check_folders(request)
    approved = approved_of(source)
    try:
        found = scan(source, cancelled, approved=approved)
    except OSError as error:
        raise InputError(f"in_folder cannot be read: {error.strerror}") from error
    _check_trees(found.trees)
    if approved is None:
        refuse_released_below(found.trees)
    layout = lay_out(catalogue(found, cancelled), _patientless(found, approved))
    if not (layout.studies or found.bad_files):
        raise InputError("in_folder holds no DICOM file that could be handed over")
    plan = FileSetPlan.of(volumes(layout, request.volume_size * MEGABYTE), bool(request.volume_size))
    left_over = _check_target(request, plan)
    units = _write_plan(run, source, layout, found, plan, most)
    with storage_errors("out_folder"):
        for path in left_over:
            path.unlink(missing_ok=True)
    return units


@dataclass(frozen=True)
class FileSetPlan:
    """What is to be in the out folder.

    Attributes:
        volumes: each file-set's folder below the out folder, empty or ending in a slash, and what is in it.
        files: every object, by its path below the out folder.
    """

    volumes: list[tuple[str, list[FileSetSeries]]]
    files: dict[str, DicomFile]

    @classmethod
    def of(cls, cut: list[list[FileSetSeries]], apart: bool) -> FileSetPlan:
        """The plan of volumes, each in a folder of its own where they are to be `apart`."""
        named = [(f"VOL{number:03d}/" if apart else "", volume) for number, volume in enumerate(cut, 1)]
        return cls(
            named, {f"{root}{p.path}": p.object.file for root, volume in named for one in volume for p in one.objects}
        )

    @property
    def roots(self) -> list[str]:
        """The folders of the file-sets."""
        return [root for root, _ in self.volumes]

    def names(self, request: DicomdirRequest) -> set[str]:
        """All names that may be below the out folder."""
        from pacsifier_ops.handover.fileset import DICOMDIR

        packed = {path.name for path in zips(request, self.roots) if path.parent == request.out_folder}
        return {*self.files, *packed, *(f"{root}{DICOMDIR}" for root in self.roots)}


def _check_folders(request: DicomdirRequest) -> None:
    source, target = request.in_folder, request.out_folder
    if not source.is_dir():
        raise InputError("in_folder is not a folder; give the folder whose DICOM files are to be handed over")
    if source == target or source in target.parents or target in source.parents:
        raise InputError("in_folder and out_folder overlap; give an out_folder of its own")
    if not 0 <= request.volume_size <= LARGEST_VOLUME:
        raise InputError(f"volume_size is negative or above {LARGEST_VOLUME:,}; give the megabytes of a volume")
    if any(marker_of(folder) for folder in (target, *target.parents)):
        raise TreeError("out_folder lies in another data set; give a folder of its own")
    _check_trees([source])


def _check_trees(trees: Sequence[Path]) -> None:
    refuse_unfinished(trees)
    for root in trees:
        tree = Tree.existing(root)
        if tree is not None and tree.in_use(shared()):
            raise TreeError("in_folder is being written by another run; wait until that has ended")
    refuse_mixed(trees)


def _check_target(request: DicomdirRequest, plan: FileSetPlan) -> list[Path]:
    """Make sure that the out folder holds nothing but what a run for the same files has left.

    Returns:
        Files there that are to go first: DICOMDIRs, their zip files, and what a killed run left half written.

    Raises:
        TreeError: there is something else.
    """
    target, known = request.out_folder, plan.names(request)
    going = []
    for path, name, half in _files_of(target):
        if name not in known:
            raise _something_else()
        if half or name not in plan.files:
            going.append(path)
        elif _instance(path) != plan.files[name].sop_instance_uid:
            raise _something_else()
    for path in zips(request, plan.roots) if request.zip else ():
        if path.exists() and target not in path.parents:
            if not _is_packed(path):
                raise TreeError("the name of the zip file is taken by something else; give another out_folder")
            going.append(path)
    return going


def _instance(path: Path) -> str:
    """SOP Instance UID of a file; empty where it is no object."""
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


def _files_of(target: Path) -> Iterator[tuple[Path, str, bool]]:
    """The files below the out folder: path, name below it, and whether it is a half written one of that name.

    Raises:
        TreeError: there are links, or it cannot be read.
    """
    if target.exists() and not target.is_dir():
        raise TreeError("out_folder is not a folder; give another one")
    try:
        for entry, problem in below(target) if target.exists() else ():
            if problem is not None:
                raise problem
            if entry.is_symlink():
                raise _something_else()
            if not entry.is_dir():
                half = _LEFT_OVER.fullmatch(entry.name)
                path = Path(entry.path)
                name = path.with_name(half[1] if half else entry.name).relative_to(target).as_posix()
                yield path, name, half is not None
    except OSError as error:
        raise TreeError(f"out_folder cannot be read: {error.strerror}") from error


def _something_else() -> TreeError:
    return TreeError(
        "out_folder holds something else than what was begun there with the same files; give an empty folder, or one "
        "that is not there yet"
    )


def _write_plan(run: Run, source: Path, layout: FileSet, found: Scan, plan: FileSetPlan, most: int) -> list[int]:
    from pacsifier_ops.handover.layout import index

    series = [(root, one) for root, volume in plan.volumes for one in volume]
    remarks = Counter((file.series_uid, remark) for file, remark in layout.remarks)
    named = {
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
    told = [
        (named[key], f"{key[1]} ({plural(count, 'object')})" if count > 1 else key[1]) for key, count in remarks.items()
    ]
    bad = [asdict(file) for file in found.bad_files]
    plain = {"roots": plan.roots, "counts": counts, "remarks": told}

    def line(number: int, root: str, one: FileSetSeries) -> ToCopy:
        files = [(p.object.file, root + p.path) for p in one.objects]
        values = [[packed(f.path.relative_to(source)), f.size, f.mtime_ns, path, f.sha256] for f, path in files]
        return ToCopy(number, files[0][0].modality, values)

    units = [(line(i + 1, *series[i]) for i in unit) for unit in slices(len(series), most)]
    return cut(run, units, {**plain, "passed_over": found.passed_over, "bad_files": bad})


def copy(run: Run, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Copy the files of a unit into the file-set, those that are not there already.

    Returns:
        How many are there, and how many could not be copied.

    Raises:
        StorageError: the out folder cannot be written, or does not give back what was written.
        Cancelled: `cancelled` said so; what is copied stays.
    """
    with Copying(run, cancelled) as copying:
        return copying.unit(unit)


class Copying(Worker[ToCopy, CopiedFiles]):
    """Copies the files of units of a run."""

    item, result = ToCopy, CopiedFiles

    def open(self, stack: ExitStack) -> None:
        """Find out for whom the file-set is."""
        self._request = DicomdirRequest.of(self._run)
        self._mode = _mode(self._request)

    def work(self, series: ToCopy, result: CopiedFiles) -> CopiedFiles:
        """Copy the files of a series."""
        request = self._request
        for place, (name, size, mtime, path, sha256) in enumerate(_as_approved(series)):
            if self._cancelled():
                raise Cancelled("stopped on request")
            target = request.out_folder / path
            try:
                with storage_errors("out_folder"):
                    copied = _copy(request.in_folder / unpacked(name), target, size, mtime, sha256, self._mode)
                    result.files[place] = [path, "", target.stat().st_mtime_ns, copied]
            except FileUnreadable as error:
                result.files[place] = [path, str(error), 0, ""]
        return result

    def totals(self, results: Sequence[CopiedFiles]) -> dict[str, int | float]:
        """Return the number of copied and of failed files."""
        problems = [problem for result in results for _, problem, *_ in result.files]
        failed = sum(map(bool, problems))
        return {"copied": len(problems) - failed, "failed": failed}


def _mode(request: DicomdirRequest) -> int:
    """Mode of the files of a file-set: it is as identified as the objects in it."""
    return private_file() if state_of(request.in_folder) == IDENTIFIED else data_file()


def _as_approved(series: ToCopy) -> Iterator[list[Any]]:
    """The files of a series.

    Raises:
        InputError: an earlier version has listed them, and could not say what they must be like.
    """
    for values in series.files:
        if len(values) != 5:
            raise InputError("the files were listed by an earlier version of this package; begin with the step prepare")
        yield values


def _copy(source: Path, target: Path, size: int, mtime: int, approved: str, mode: int) -> str:
    """Copy a file, unless it is there; the copy is read again and compared. Returns its SHA-256.

    Args:
        approved: what that must be, hexadecimal; empty where nobody has said so.
        mode: of the copy.

    Raises:
        FileUnreadable: the file cannot be read, or is another one.
    """
    if target.is_file() and target.stat().st_size == size:
        there = _digest(target)
        if there == (approved or _source_digest(source, size, mtime)):
            return there
    (data_folder if mode == data_file() else private_folder)(target.parent)
    sha256 = hashlib.sha256()
    with atomic_stream(target, mode) as stream:
        for piece in _pieces(source, size, mtime):
            sha256.update(piece)
            stream.write(piece)
        if approved and sha256.hexdigest() != approved:
            raise FileUnreadable(DIFFERS)
    if _digest(target) != sha256.hexdigest():
        target.unlink()
        raise StorageError("out_folder does not give back what was written; check the disk, then run again")
    return sha256.hexdigest()


def _pieces(source: Path, size: int, mtime: int) -> Iterator[bytes]:
    """The content of a file that is still as it was seen.

    Raises:
        FileUnreadable: it cannot be read, or is another one.
    """
    try:
        with source.open("rb", buffering=0) as stream:
            read = 0
            while piece := stream.read(_PIECE):
                read += len(piece)
                yield piece
            status = os.fstat(stream.fileno())
    except OSError as error:
        raise FileUnreadable(f"it cannot be read: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns, read) != (size, mtime, size):
        raise FileUnreadable(_CHANGED)


def _source_digest(source: Path, size: int, mtime: int) -> str:
    sha256 = hashlib.sha256()
    for piece in _pieces(source, size, mtime):
        sha256.update(piece)
    return sha256.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def assemble(run: Run, cancelled: Question = never) -> dict[str, int]:
    """Write the DICOMDIR of every file-set, and its zip file where that is wanted.

    Returns:
        How many files and how many file-sets.

    Raises:
        InputError: the files are not all copied, or too many for a DICOMDIR.
        TreeError: somebody else has changed the out folder.
        StorageError: the out folder cannot be written.
        Cancelled: `cancelled` said so.
    """
    from pacsifier_ops.handover.fileset import DICOMDIR, DirectoryRecord, directory, populated

    found, request = prepared(run), DicomdirRequest.of(run)
    results = [file for _, result in Copying.outcomes(run) for file in result.files]
    if any(problem == _NOT_COPIED for _, problem, *_ in results):
        raise InputError("the run ended before all files were copied; see the error of the step copy")
    copied = {path: mtime for path, problem, mtime, _ in results if not problem}
    digests = {path: sha256 for path, problem, _, sha256 in results if not problem}
    _check_copies(request, found["roots"], copied)
    written = 0
    for number, root in enumerate(found["roots"]):
        if cancelled():
            raise Cancelled("stopped on request")
        here = {path.removeprefix(root) for path in copied if path.startswith(root)}
        lines = read_jsonl(run.part("index", number))
        records = populated([DirectoryRecord(depth, path, body.encode("latin-1")) for depth, path, body in lines], here)
        if not records:
            continue
        folder = request.out_folder / root
        with storage_errors("out_folder"):
            with atomic_stream(folder / DICOMDIR, _mode(request)) as stream:
                stream.writelines(directory(records))
            if request.zip:
                packed = {DICOMDIR: _digest(folder / DICOMDIR), **{name: digests[root + name] for name in sorted(here)}}
                _pack(zips(request, found["roots"])[number], folder, packed, _mode(request), cancelled)
        written += 1
    with storage_errors("the state root"):
        write_json(run.folder / "written.json", {"file-sets": written})
    return {"files": len(copied), "file_sets": written}


def _check_copies(request: DicomdirRequest, roots: Sequence[str], copied: dict[str, int]) -> None:
    """Make sure that the out folder holds the copies and nothing else; what a killed attempt left half written goes."""
    from pacsifier_ops.handover.fileset import DICOMDIR

    target, packed = request.out_folder, zips(request, roots)
    known = {*copied, *(f"{root}{DICOMDIR}" for root in roots)}
    known |= {path.name for path in packed if path.parent == target}
    missing = dict(copied)
    with storage_errors("out_folder"):
        for path, name, half in _files_of(target):
            if name not in known:
                raise _changed()
            if half:
                path.unlink()
            elif name in copied and path.stat().st_mtime_ns == copied[name]:
                del missing[name]
        for path in packed:
            for left in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
                left.unlink()
    if missing:
        raise _changed()


def _changed() -> TreeError:
    return TreeError("out_folder was changed while the run was going on; run it again, with nobody else at it")


def zips(request: DicomdirRequest, roots: Sequence[str]) -> list[Path]:
    """The zip files of the file-sets: beside the out folder, or those of volumes inside it beside theirs."""
    folder = request.out_folder
    return [folder / f"{root.rstrip('/')}.zip" if root else folder.with_name(f"{folder.name}.zip") for root in roots]


def _is_packed(path: Path) -> bool:
    from pacsifier_ops.handover.fileset import DICOMDIR

    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()[:1] == [DICOMDIR]
    except (zipfile.BadZipFile, OSError):
        return False


def _pack(path: Path, folder: Path, names: Mapping[str, str], mode: int, cancelled: Question) -> None:
    """Pack files as they are: images hardly get smaller, and the same files give the same bytes.

    Args:
        names: of the files, below the folder, and the SHA-256 of each, which is looked at while they are packed.

    Raises:
        TreeError: one of them has been changed since it was copied; there is no zip file then.
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
    """Close the books. Works on whatever the run left.

    Raises:
        InputError: the run ended before the folder was looked at.
        StorageError: the report cannot be written.
    """
    found, request = prepared(run), DicomdirRequest.of(run)
    problems = [(item["path"], item["reason"]) for item in found["bad_files"]]
    copied = 0
    for series, result in Copying.outcomes(run):
        for (name, *_), (_, problem, *_) in zip(series.files, result.files, strict=True):
            if problem:
                problems.append((readable(Path(unpacked(name))), problem))
            else:
                copied += 1
    done = run.folder / "written.json"
    written = read_json(done)["file-sets"] if done.exists() else 0
    if copied and not written:
        problems.append(("DICOMDIR", "not written: the run ended before"))
    account = ToolAccount(
        run=run.name,
        action="DICOMDIR",
        started=request.started,
        finished=now(),
        folder=str(request.in_folder),
        out_folder=str(request.out_folder),
        counts={**found["counts"], "copied": copied, "file-sets": written},
        done=[(name, remark) for name, remark in found["remarks"]],
        problems=problems,
        passed_over=found["passed_over"],
    )
    write_books(run, account, "DICOMDIR")
    return account
