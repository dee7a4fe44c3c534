"""The steps that move identifying text files out of a folder of images: prepare → move → report.

These files are the info dumps beside the series, and `mapper.json` and `date_offsets.csv`, which PACSIFIER's
anonymization writes. They keep their paths below another folder. Every other file is then inspected, and listed if it
is not DICOM. Each step is one function over the run's folder. The DAG's operators and the command line call the same
functions. Each may be killed and called again.

Its files are those of every job (see `runs.job`): the items of a unit are folders of patients, see Place.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pacsifier_ops.base import cells
from pacsifier_ops.base.errors import Cancelled, InputError, TreeError
from pacsifier_ops.base.files import (
    CHANGED,
    below,
    fsync_folder,
    name_below,
    packed,
    private_folder,
    readable,
    storage_errors,
    unpacked,
    unreadable,
    write_atomic,
)
from pacsifier_ops.base.identity import digest_of
from pacsifier_ops.base.words import plural
from pacsifier_ops.handover.account import ToolAccount, write_books
from pacsifier_ops.handover.request import DumpsRequest
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.folder import MOST, Run, in_units, never, now
from pacsifier_ops.runs.job import NOT_ATTEMPTED, Question, Worker, begin, cut, prepared
from pacsifier_ops.state.facts import Facts
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.standing import UNKNOWN, Standing, stamps_of, whole
from pacsifier_ops.state.tree import (
    CONTROL,
    DEIDENTIFIED,
    IDENTIFIED,
    LOGS,
    Tree,
    marker_of,
    refuse_around,
    refuse_unfinished,
)

#: Prefix of patients' folders; suffix of the files that are moved out of them; files beside them that are moved.
_PATIENT, _DUMP, _LINKAGE = "sub-", ".csv", ("mapper.json", "date_offsets.csv")

#: The list of moved files, in info_folder.
LISTING = "moved.csv"
_COLUMNS = ("File", "Bytes", "SHA256", "Listed", "DataFolder")

MOVED, THERE, LEFT = "moved", "already there", "left"

#: Why a file that is not DICOM is left.
_LOG, _NEW_ID = "left: a log of runs", "left: a de-identification reads it"
_MANIFEST, _LINK, _NOT_DICOM = (
    "left: a table of the data set, or its card",
    "left: a link that leads outside, or nowhere",
    "left",
)
#: Kinds of other files that are left; the report counts them.
_DAMAGED, _INNER_LINK = "damaged DICOM", "link to something in the folder"

_OTHER_FILE = "info_folder has another file of this name; remove the wrong one, then run again"
_BEHIND_LINK = "its path here or in info_folder contains a link; links are not followed"
_ONE_FILE = "both folders show the same file, as through a mount; it was not removed"
_GONE = "the file was removed after the run began"


@dataclass
class Place:
    """A folder whose files are moved, and these files: a line of a unit.

    Attributes:
        number: ordinal of the patient in the run, from 1; 0 for the files beside the patients' folders.
        folder: folder of the patient, below data_folder, as text of `packed`.
        files: paths of the files, below data_folder, as texts of `packed`.
    """

    number: int
    folder: str
    files: list[str]

    def account(self) -> MovedFiles:
        """Return the result before any file is moved."""
        names = [readable(Path(unpacked(name))) for name in (self.files or [self.folder or "."])]
        return MovedFiles(self.number, problems=[(name, NOT_ATTEMPTED) for name in names])


@dataclass
class MovedFiles:
    """The result for a Place.

    Attributes:
        number: number of the Place.
        done: path below data_folder, and MOVED, or THERE if the same file was in info_folder already.
        problems: path, and why the file could not be moved or inspected.
        left: path and reason of each file that is not DICOM and is left.
        dicom: number of DICOM files.
        passed_over: number of other files, by their kind.
    """

    number: int
    done: list[tuple[str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    dicom: int = 0
    passed_over: dict[str, int] = field(default_factory=dict)


# prepare


def prepare(run: Run, request: DumpsRequest, most: int = MOST, cancelled: Question = never) -> list[int]:
    """List the files to be moved, and divide the patients' folders into units.

    Args:
        most: largest number of units.
        cancelled: asked before every folder; True ends the step.

    Returns:
        Numbers of the units.

    Raises:
        InputError: the folders cannot be used, or one contains the other. No file was moved.
        TreeError: a folder is half de-identified or in use, or info_folder is for de-identified data. No file was
            moved.
        StorageError: the state root or info_folder cannot be written.
        Cancelled: `cancelled` returned True.
    """
    data, info = request.data_folder.resolve(), request.info_folder.resolve()
    begin(run, replace(request, data_folder=data, info_folder=info))
    _check_folders(data, info)
    try:
        found = [(packed(folder), [packed(name) for name in names]) for folder, names in _places(data, cancelled)]
    except OSError as error:
        raise InputError(f"data_folder cannot be read: {error.strerror}") from error
    if not info.exists():
        with storage_errors("info_folder"):
            private_folder(info)
            fsync_folder(info.parent)
    patients = in_units(len(found) - 1, most) or [range(0)]
    # The files beside the patients' folders go with the first patient.
    places = [[*([] if unit.start else [0]), *(i + 1 for i in unit)] for unit in patients]
    counts = {"patients": len(found) - 1, "files": sum(len(names) for _, names in found)}
    return cut(run, [(Place(i, *found[i]) for i in unit) for unit in places], counts)


def _check_folders(data: Path, info: Path) -> None:
    if not data.is_dir():
        raise InputError("data_folder is not a folder; give the folder of the images")
    if info.exists() and not info.is_dir():
        raise InputError("info_folder is not a folder; give a folder, or a name that is free")
    if _within(data, info) or _within(info, data):
        raise InputError("data_folder and info_folder overlap; give two separate folders")
    refuse_unfinished([data, info])
    refuse_around(info, IDENTIFIED, "info_folder")
    for folder in (data, info):
        if (tree := Tree.around(folder)) is not None and tree.in_use(shared()):
            raise TreeError("another run is at work in data_folder or info_folder; wait until it has ended")


def _within(folder: Path, other: Path) -> bool:
    """Whether a folder is another one or lies below it. Links and mounts may give a folder several names."""
    return other.exists() and any(above.exists() and above.samefile(other) for above in (folder, *folder.parents))


def _places(root: Path, cancelled: Question = never) -> Iterator[tuple[Path, Iterable[Path]]]:
    """Yield `.` and the files beside the patients' folders, then each of these folders and its files to be moved.

    Paths are below the root, in order. Links are left out.
    """
    yield Path(), (Path(name) for name in _LINKAGE if _is_file(root / name))
    for folder in sorted(root.iterdir()):
        if cancelled():
            raise Cancelled("stopped on request")
        if _is_patient(folder):
            found = (path for path in _files(folder, ending=_DUMP) if path.suffix and _is_file(path))
            yield folder.relative_to(root), (path.relative_to(root) for path in found)


def _is_patient(path: Path) -> bool:
    return path.name.startswith(_PATIENT) and path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


# move


def move(run: Run, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Move the files of one unit, and inspect the others. A file that cannot be moved does not stop the rest.

    Returns:
        The number of files that were moved, were there already, are left, or are problems.

    Raises:
        Cancelled: `cancelled` returned True; every file is whole, in one of the folders or in both.
        TreeError: data_folder is being de-identified.
        StorageError: a folder cannot be written; every file is whole.
    """
    with MovingWorker(run, cancelled) as worker:
        return worker.unit(unit)


class MovingWorker(Worker[Place, MovedFiles]):
    """Moves the files of units of a run."""

    item, result = Place, MovedFiles

    def open(self, stack: ExitStack) -> None:
        """Make a folder for unfinished files."""
        self._request = DumpsRequest.of(self._run)
        self._scratch = stack.enter_context(_workplace(self._request))

    def work(self, place: Place, result: MovedFiles) -> MovedFiles:
        """Move the files of a place, and inspect the others."""
        folders = packed(self._request.data_folder), packed(self._request.info_folder)
        with ExitStack() as stack:
            # All runs take the leases in one order: another run may move files in the opposite direction.
            for folder in sorted(folders):
                stack.enter_context(shared().acquire(f"dumps:{folder}/{place.folder}", cancelled=self._cancelled))
            return _Moving(self._request, place, self._scratch, self._cancelled).run()

    def totals(self, results: Sequence[MovedFiles]) -> dict[str, int | float]:
        """Return the number of files by result."""
        return {
            MOVED: _count(results, MOVED),
            "already_there": _count(results, THERE),
            LEFT: sum(len(result.left) for result in results),
            "problems": sum(len(result.problems) for result in results),
        }


@contextmanager
def _workplace(request: DumpsRequest) -> Iterator[Path]:
    """Yield a folder in info_folder for unfinished files. Meanwhile the data set of the images counts as in use."""
    tree, info = Tree.around(request.data_folder), request.info_folder
    with ExitStack() as stack:
        if tree is not None:
            stack.enter_context(tree.workplace(shared()))
            refuse_unfinished([request.data_folder])
        yield stack.enter_context((Tree.existing(info) or Tree(info, info)).workplace(shared()))


def _count(results: Iterable[MovedFiles], outcome: str) -> int:
    return sum(how == outcome for result in results for _, how in result.done)


class _Moving:
    """Moves the files of one place. The caller holds its leases.

    All files are copied or linked to info_folder first. Once these are on the disk, the files in data_folder are
    removed. A kill in between leaves both, and the next run finds that they are equal.
    """

    def __init__(self, request: DumpsRequest, place: Place, scratch: Path, cancelled: Question) -> None:
        self._data, self._info = request.data_folder, request.info_folder
        self._place, self._scratch, self._cancelled = place, scratch, cancelled
        self._result, self._passed_over = MovedFiles(place.number), Counter[str]()

    def run(self) -> MovedFiles:
        """Move the files, inspect the others, and return the result."""
        self._move([Path(unpacked(name)) for name in self._place.files])
        folder = self._data / unpacked(self._place.folder)
        if folder == self._data or self._result.problems:
            self._inspect(folder)
        else:
            self._inspect_patient(folder)
        return replace(self._result, passed_over=dict(self._passed_over))

    def _move(self, names: Iterable[Path]) -> None:
        transferred: list[tuple[Path, os.stat_result]] = []
        for name in names:
            if self._cancelled():
                raise Cancelled("stopped on request")
            try:
                if (before := self._transfer(name)) is not None:
                    transferred.append((name, before))
            except ValueError as error:
                self._result.problems.append((readable(name), str(error)))
            except OSError as error:
                self._result.problems.append((readable(name), unreadable(error)))
        with storage_errors("info_folder"):
            for folder in {above for name, _ in transferred for above in name.parents}:
                fsync_folder(self._info / folder)
        with storage_errors("data_folder"):
            for name, before in transferred:
                with suppress(FileNotFoundError):
                    if _same((self._data / name).lstat(), before):
                        (self._data / name).unlink()
                    else:
                        self._result.problems.append((readable(name), CHANGED))

    def _transfer(self, name: Path) -> os.stat_result | None:
        """Link or copy a file to info_folder.

        Returns:
            The status of the file in data_folder, which can now be removed; None if an earlier attempt removed it.

        Raises:
            ValueError: the file cannot be moved; the reason in words.
            OSError: the file cannot be read.
            StorageError: info_folder cannot be written.
        """
        source, target = self._data / name, self._info / name
        if not os.path.lexists(source) and _is_file(target):
            self._result.done.append((readable(name), MOVED))  # by an earlier attempt
            return None
        if not os.path.lexists(source):
            raise ValueError(_GONE)
        if not _is_file(source) or source.parent.resolve() != source.parent:
            raise ValueError(_BEHIND_LINK)
        before, sha256 = source.stat(), digest(source)
        with storage_errors("info_folder"):
            for folder in (self._info / above for above in reversed(name.parents)):
                if folder.is_symlink():
                    raise ValueError(_BEHIND_LINK)
                if folder.exists() and not folder.is_dir():
                    raise ValueError(_OTHER_FILE)
                private_folder(folder)
            outcome = MOVED if self._create(target, source, sha256) else THERE
            if not _is_file(target):
                raise ValueError(_OTHER_FILE)
            if target.samefile(source) and target.stat().st_nlink == 1:
                raise ValueError(_ONE_FILE)
            if digest(target) != sha256:
                raise ValueError(_OTHER_FILE)
        self._result.done.append((readable(name), outcome))
        return before

    def _create(self, target: Path, source: Path, sha256: str) -> bool:
        """Link or copy `source` to `target`. Return False if there is a file already; it stays as it is.

        Raises:
            ValueError: the copy does not have this SHA-256.
        """
        if _linked(source, target):
            return True
        if os.path.lexists(target):
            return False
        ready = self._scratch / secrets.token_hex(8)
        shutil.copy2(source, ready)
        with ready.open("rb") as stream:
            os.fsync(stream.fileno())
        if digest(ready) != sha256:
            raise ValueError(CHANGED)
        if _linked(ready, target):
            ready.unlink()
            return True
        if os.path.lexists(target):
            return False
        os.rename(ready, target)
        return True

    def _inspect_patient(self, folder: Path) -> None:
        """Inspect the folder of a patient, unless it is as it was and the files in it are known."""
        name = folder.name
        # Several tasks inspect places of one tree at the same time, so each place has its own file.
        with Standing(self._data, f"kinds/{digest_of(self._place.folder)}") as standing:
            before = self._stamp(name)
            if kept := standing.get(name, before):
                self._result.dicom, left, passed_over = kept
                self._result.left += [(path, why) for path, why in left]
                self._passed_over.update(passed_over)
                return
            self._inspect(folder)
            if not self._result.problems and self._stamp(name) == before:
                found = [self._result.dicom, self._result.left, dict(self._passed_over)]
                standing.put(name, before, found, self._since)

    def _stamp(self, name: str) -> str:
        with suppress(OSError):
            return whole(stamps_of(self._data, name))
        return UNKNOWN

    def _inspect(self, folder: Path) -> None:
        """Inspect every file that is left in the place, and enter it into the result."""
        reported = {path for path, _ in self._result.problems}
        with Facts(self._data, f"kinds/{digest_of(self._place.folder)}", _kind_of_content) as content:
            self._since = content.since
            for path in _files(folder, without=_PATIENT if folder == self._data else ""):
                if self._cancelled():
                    raise Cancelled("stopped on request")
                name = readable(name_below(path, self._data))
                if name in reported:
                    continue
                try:
                    kind = self._kind(path, name, content)
                except OSError as error:
                    self._result.problems.append((name, unreadable(error)))
                    continue
                if kind.startswith(LEFT):
                    self._result.left.append((name, kind))
                elif kind:
                    self._passed_over[kind] += 1
                else:
                    self._result.dicom += 1

    def _kind(self, path: Path, name: str, content: Facts[str]) -> str:
        """Return the kind of a file, or the reason why it is left; empty for a DICOM file.

        Args:
            name: its path below the folder of the data.
            content: returns the same by the content of the file alone.

        Raises:
            OSError: the file or folder cannot be read.
        """
        from pacsifier_ops.deid.books import BOOKS

        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return _NOT_DICOM
        if stat.S_ISLNK(status.st_mode):
            return _INNER_LINK if _leads_into(path, self._data) else _LINK
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)
        if not stat.S_ISREG(status.st_mode):
            return _NOT_DICOM  # opening a pipe, a socket or a device may block for ever
        if name.startswith(f"{LOGS}/"):
            return _LOG
        if path.name == "new_id.txt":
            return _NEW_ID
        if name in BOOKS and marker_of(self._data).get("state") == DEIDENTIFIED:
            return _MANIFEST
        return content(path, status)


def _kind_of_content(path: Path) -> str:
    from pacsifier_ops.dicom.files import Directory, inspect
    from pacsifier_ops.dicom.scan import DICOMDIR

    try:
        return "" if inspect(path) else _NOT_DICOM
    except Directory:
        return DICOMDIR
    except ValueError:
        return _DAMAGED


def _linked(path: Path, name: Path) -> bool:
    """Give a file a second name. Return False if the name is taken, or the file systems do not allow it."""
    try:
        os.link(path, name)
    except OSError:
        return False
    return True


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_size, one.st_mtime_ns) == (other.st_ino, other.st_size, other.st_mtime_ns)


def _leads_into(link: Path, folder: Path) -> bool:
    """Whether a link leads to something below a folder."""
    try:
        return folder in link.resolve(strict=True).parents
    except (OSError, RuntimeError):  # it leads nowhere, or to itself
        return False


def _files(folder: Path, without: str = "", ending: str = "") -> Iterator[Path]:
    """Yield all files and links below a folder, and the folders that cannot be read; in order.

    Args:
        without: prefix of the names of folders to leave out; empty: none.
        ending: end of the names of the files, in lower case.
    """

    def leave_out(entry: os.DirEntry[str]) -> bool:
        named = entry.name == CONTROL or (without != "" and entry.name.startswith(without))
        return named and entry.is_dir(follow_symlinks=False)

    try:
        for entry, problem in below(folder, leave_out):
            if entry.name.lower().endswith(ending) and (problem or not entry.is_dir(follow_symlinks=False)):
                yield Path(entry.path)
    except OSError:
        yield folder


# report


def report(run: Run) -> ToolAccount:
    """Close the account, and write the listing in info_folder and the report. An unfinished run is closed as well.

    Returns:
        The account; its `verdict` is that of the run.

    Raises:
        InputError: the run ended before the step prepare had listed the files.
        StorageError: listing or report cannot be written.
    """
    found, request = prepared(run, "the files to be moved were listed"), DumpsRequest.of(run)
    results = [result for _, result in MovingWorker.outcomes(run)]
    done = [(path, how) for result in results for path, how in result.done]
    left = [(path, why) for result in results for path, why in result.left]
    _write_listing(request, {path for path, _ in done})
    account = ToolAccount(
        run=run.name,
        action="dumps moved",
        started=request.started,
        finished=now(),
        ended=ended_by(run),
        folder=str(request.data_folder),
        out_folder=str(request.info_folder),
        counts={
            "patients": found["patients"],
            **{outcome: _count(results, outcome) for outcome in (MOVED, THERE)},
            LEFT: len(left),
            "DICOM files": sum(result.dicom for result in results),
        },
        done=[*done, *left],
        problems=[(path, why) for result in results for path, why in result.problems],
        passed_over=dict(sum((Counter(result.passed_over) for result in results), Counter[str]())),
    )
    write_books(run, account, "Dumps moved", *_outcome(account))
    return account


def _outcome(account: ToolAccount) -> Iterator[str]:
    """Yield the sentences of the verdict."""
    if account.problems:
        yield f"{plural(len(account.problems), 'thing')} could not be done; the list below says what and why."
    if left := account.counts[LEFT]:
        which = "file that is not DICOM is" if left == 1 else "files that are not DICOM are"
        yield f"{left} {which} left in the data folder; the list below names them."
    elif not account.problems:
        yield "Nothing but DICOM is left in the data folder."


def _write_listing(request: DumpsRequest, moved: Collection[str]) -> None:
    """Add every file in info_folder that the listing does not name. Lines that it has stay.

    A killed run may have moved files without listing them, so the folder is searched.

    Args:
        moved: paths below the folder of the files that this run moved.
    """
    path = request.info_folder / LISTING
    with storage_errors("info_folder"), shared().acquire(f"dumps:{packed(path)}"):
        before = path.read_bytes() if path.exists() else _line(_COLUMNS)
        known = {cells.plain(line[0]) for line in csv.reader(io.StringIO(before.decode("utf-8", "replace"))) if line}
        lines = [before if before.endswith(b"\n") else before + b"\n"]
        for _, files in _places(request.info_folder):
            for name in files:
                if (shown := readable(name)) not in known:
                    file = request.info_folder / name
                    source = str(request.data_folder) if shown in moved else ""
                    lines.append(_line((shown, file.stat().st_size, digest(file), now(), readable(Path(source)))))
        if len(lines) > 1:
            write_atomic(path, b"".join(lines))
    if not marker_of(request.info_folder):  # a folder that is no data set keeps no control folder
        with suppress(OSError):
            (request.info_folder / CONTROL / "incoming").rmdir()
            (request.info_folder / CONTROL).rmdir()


def _line(values: Iterable[object]) -> bytes:
    return cells.line(values).encode()
