"""The steps of moving what identifies patients out of a folder of images: prepare → move → report.

These are the info dumps beside the series, and what PACSIFIER's anonymization leaves: `mapper.json` and
`date_offsets.csv`. They go into the same folders below another one. Then every file that is left is looked at: is it
DICOM? Each step is one function over the run's folder; the DAG's operators and the command line call the same ones.
Each may be killed and called again.

Its files are those of every job (see `runs.job`): the items of a unit are folders, see Place.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pacsifier_ops.base import cells
from pacsifier_ops.base.errors import Cancelled, InputError, TreeError
from pacsifier_ops.base.files import (
    below,
    fsync_folder,
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
from pacsifier_ops.runs.folder import MOST, Run, never, now, slices
from pacsifier_ops.runs.job import NOT_ATTEMPTED, Question, Worker, begin, cut, prepared
from pacsifier_ops.state.facts import Facts
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import digest
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

#: Begins the names of patients' folders; what is moved out of these, wherever it lies, and from beside them.
_PATIENT, _DUMP, _LINKAGE = "sub-", ".csv", ("mapper.json", "date_offsets.csv")

#: The list of what was moved, in info_folder.
LISTING = "moved.csv"
_COLUMNS = ("File", "Bytes", "SHA256", "Listed", "DataFolder")

MOVED, THERE, LEFT = "moved", "already there", "left"

#: Why a file that is no DICOM is left.
_LOG, _NEW_ID = "left: a log of runs", "left: a de-identification reads it"
_MANIFEST, _LINK, _NOT_DICOM = "left: manifest of the data set", "left: a link that leads outside, or nowhere", "left"
#: What is left, and no more than that.
_DAMAGED, _INNER_LINK = "damaged DICOM", "link to something in the folder"

_OTHER_FILE = "another file has its place in info_folder; keep the one that is right, then run again"
_BEHIND_LINK = "it lies behind a link, or its place in info_folder does; links are not followed"
_ONE_FILE = "both folders show one and the same file, as through a mount; it was not removed"
_CHANGED = "it changed while the run was looking at it"
_GONE = "it was there when the run began, and is gone"


@dataclass
class Place:
    """A folder that files are moved out of: a line of a unit.

    Attributes:
        number: ordinal of a patient in the run, from 1; 0 for what lies beside the patients' folders.
        folder: the patient's, below data_folder (see `packed`).
        files: paths below data_folder, likewise.
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
    """What became of the files of a place.

    Attributes:
        number: of the place.
        done: path below the folder, and MOVED or THERE: the same file was in info_folder already.
        problems: path, and why it could not be moved, or looked at.
        left: path and why, of what is no DICOM.
        dicom: files that are DICOM.
        passed_over: how many others there are, by what they are.
    """

    number: int
    done: list[tuple[str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    dicom: int = 0
    passed_over: dict[str, int] = field(default_factory=dict)


# prepare


def prepare(run: Run, request: DumpsRequest, most: int = MOST, cancelled: Question = never) -> list[int]:
    """List what is to be moved, and cut the patients' folders into units.

    Args:
        most: units to be made at most.

    Returns:
        Numbers of the units.

    Raises:
        InputError: the folders cannot be used, or lie one within the other. Nothing was touched.
        TreeError: one of them is half de-identified, or in use; or info_folder is for de-identified data. Likewise.
        StorageError: the state root or info_folder cannot be written.
        Cancelled: `cancelled` said so.
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
    patients = slices(len(found) - 1, most) or [range(0)]
    # What lies beside the patients' folders goes with the first of them.
    places = [[*([] if unit.start else [0]), *(i + 1 for i in unit)] for unit in patients]
    counts = {"patients": len(found) - 1, "files": sum(len(names) for _, names in found)}
    return cut(run, [(Place(i, *found[i]) for i in unit) for unit in places], counts)


def _check_folders(data: Path, info: Path) -> None:
    if not data.is_dir():
        raise InputError("data_folder is not a folder; give the folder of the images")
    if info.exists() and not info.is_dir():
        raise InputError("info_folder is not a folder; give one, or a name that is free")
    if _within(data, info) or _within(info, data):
        raise InputError("data_folder and info_folder lie one within the other; give folders apart")
    refuse_unfinished([data, info])
    refuse_around(info, IDENTIFIED, "info_folder")
    for folder in (data, info):
        if (tree := _home(folder)) is not None and tree.in_use(shared()):
            raise TreeError("somebody is at work in data_folder or info_folder; wait until that has ended")


def _within(folder: Path, other: Path) -> bool:
    """Whether a folder is another one or lies below it, by whatever names."""
    return other.exists() and any(above.exists() and above.samefile(other) for above in (folder, *folder.parents))


def _home(folder: Path) -> Tree | None:
    """The tree that a folder is, or is part of."""
    return next((tree for above in (folder, *folder.parents) if (tree := Tree.existing(above))), None)


def _places(root: Path, cancelled: Question = never) -> Iterator[tuple[Path, Iterable[Path]]]:
    """The patients' folders, and the files of each that are to be moved; first `.`, for what lies beside them.

    Paths are below the root, in order. Links are left out.
    """
    yield Path(), (Path(name) for name in _LINKAGE if _is_file(root / name))
    for folder in sorted(root.iterdir()):
        if cancelled():
            raise Cancelled("stopped on request")
        if _is_patient(folder):
            found = (path for path in _files(folder) if path.suffix.lower() == _DUMP and _is_file(path))
            yield folder.relative_to(root), (path.relative_to(root) for path in found)


def _is_patient(path: Path) -> bool:
    return path.name.startswith(_PATIENT) and path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


# move


def move(run: Run, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Move the files of one unit, and look at what is left; one that cannot be moved is no other's harm.

    Returns:
        How many were moved or there already, are left and no DICOM, or are problems.

    Raises:
        Cancelled: `cancelled` said so; every file is whole, in one of the folders or in both.
        TreeError: data_folder is being de-identified meanwhile.
        StorageError: a folder cannot be written; likewise.
    """
    with Relocation(run, cancelled) as relocation:
        return relocation.unit(unit)


class Relocation(Worker[Place, MovedFiles]):
    """Moves the files of units of a run."""

    item, result = Place, MovedFiles

    def open(self, stack: ExitStack) -> None:
        """Make room for unfinished files."""
        self._request = DumpsRequest.of(self._run)
        self._scratch = stack.enter_context(_workplace(self._request))

    def work(self, place: Place, result: MovedFiles) -> MovedFiles:
        """Move the files of a place, and look at what is left."""
        folders = packed(self._request.data_folder), packed(self._request.info_folder)
        with ExitStack() as stack:
            # In the same order for everybody: somebody may be moving them back.
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
    """A folder in info_folder for unfinished files; the tree of the images knows meanwhile that somebody is at work."""
    tree, info = _home(request.data_folder), request.info_folder
    with ExitStack() as stack:
        if tree is not None:
            stack.enter_context(tree.workplace(shared()))
            refuse_unfinished([request.data_folder])
        yield stack.enter_context((Tree.existing(info) or Tree(info, info)).workplace(shared()))


def _count(results: Iterable[MovedFiles], outcome: str) -> int:
    return sum(how == outcome for result in results for _, how in result.done)


class _Moving:
    """The moving of the files of one place, under its leases.

    Every file is put into info_folder first; once these are on the disk, the others are removed. A kill in between
    leaves both, and the next run finds that they are the same.
    """

    def __init__(self, request: DumpsRequest, place: Place, scratch: Path, cancelled: Question) -> None:
        self._data, self._info = request.data_folder, request.info_folder
        self._place, self._scratch, self._cancelled = place, scratch, cancelled
        self._result, self._passed_over = MovedFiles(place.number), Counter[str]()

    def run(self) -> MovedFiles:
        """Move the files, look at what is left, and tell what became of them."""

        self._move([Path(unpacked(name)) for name in self._place.files])
        self._check(self._data / unpacked(self._place.folder))
        return replace(self._result, passed_over=dict(self._passed_over))

    def _move(self, names: Iterable[Path]) -> None:

        put: list[tuple[Path, os.stat_result]] = []
        for name in names:
            if self._cancelled():
                raise Cancelled("stopped on request")
            try:
                if (before := self._put(name)) is not None:
                    put.append((name, before))
            except ValueError as error:
                self._result.problems.append((readable(name), str(error)))
            except OSError as error:
                self._result.problems.append((readable(name), unreadable(error)))
        with storage_errors("info_folder"):
            for folder in {above for name, _ in put for above in name.parents}:
                fsync_folder(self._info / folder)
        with storage_errors("data_folder"):
            for name, before in put:
                with suppress(FileNotFoundError):
                    if _same((self._data / name).lstat(), before):
                        (self._data / name).unlink()
                    else:
                        self._result.problems.append((readable(name), _CHANGED))

    def _put(self, name: Path) -> os.stat_result | None:
        """Have a file in info_folder as well; returns the status of the one that can go, None where it went before.

        Raises:
            ValueError: it cannot be moved; the reason in words.
            OSError: it cannot be read.
            StorageError: info_folder cannot be written.
        """
        source, target = self._data / name, self._info / name
        if not os.path.lexists(source) and _is_file(target):
            self._tell(name, MOVED)  # by an earlier attempt
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
            outcome = MOVED if self._link(source, target, sha256) else THERE
            if not _is_file(target):
                raise ValueError(_OTHER_FILE)
            if target.samefile(source) and target.stat().st_nlink == 1:
                raise ValueError(_ONE_FILE)
            if digest(target) != sha256:
                raise ValueError(_OTHER_FILE)
        self._tell(name, outcome)
        return before

    def _link(self, source: Path, target: Path, sha256: str) -> bool:
        """Have a file at `target`, and never in place of another; False where there is one."""
        if _linked(source, target):
            return True
        if os.path.lexists(target):
            return False
        ready = self._scratch / secrets.token_hex(8)
        shutil.copy2(source, ready)
        with ready.open("rb") as stream:
            os.fsync(stream.fileno())
        if digest(ready) != sha256:
            raise ValueError(_CHANGED)
        if _linked(ready, target):
            ready.unlink()
            return True
        if os.path.lexists(target):
            return False
        os.rename(ready, target)
        return True

    def _tell(self, name: Path, outcome: str) -> None:

        self._result.done.append((readable(name), outcome))

    def _check(self, folder: Path) -> None:
        """Look at every file that is left in the place."""

        told = {path for path, _ in self._result.problems}
        # Several tasks look at places of one tree.
        with Facts(self._data, f"kinds/{digest_of(self._place.folder)}", _kind_of_content) as content:
            for path in _files(folder, without=_PATIENT if folder == self._data else ""):
                if self._cancelled():
                    raise Cancelled("stopped on request")
                name = readable(path.relative_to(self._data))
                if name in told:
                    continue
                try:
                    kind = self._kind(path, content)
                except OSError as error:
                    self._result.problems.append((name, unreadable(error)))
                    continue
                if kind.startswith(LEFT):
                    self._result.left.append((name, kind))
                elif kind:
                    self._passed_over[kind] += 1
                else:
                    self._result.dicom += 1

    def _kind(self, path: Path, content: Callable[[Path], str]) -> str:
        """Return what a file is; empty where it is DICOM.

        Args:
            content: returns what a file is by its content.

        Raises:
            OSError: it cannot be read, or the folder that it is cannot.
        """
        name = path.relative_to(self._data)
        if path.is_symlink():
            return _INNER_LINK if _leads_into(path, self._data) else _LINK
        if path.is_dir():
            os.listdir(path)
        if not path.is_file():
            return _NOT_DICOM  # a pipe, a socket or a device: to open it may never end
        if name.parts[0] == LOGS:
            return _LOG
        if name.name == "new_id.txt":
            return _NEW_ID
        if str(name) in ("manifest.csv", "manifest.parquet") and marker_of(self._data).get("state") == DEIDENTIFIED:
            return _MANIFEST
        return content(path)


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
    """Give a file a second name; False where the name is taken, or on another file system, or one without links."""
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


def _files(folder: Path, without: str = "") -> Iterator[Path]:
    """All that is no folder below a folder, links among it, and folders that cannot be read; in order.

    Args:
        without: leave out folders in it whose name begins like this.
    """

    def left_out(entry: os.DirEntry[str]) -> bool:
        named = entry.name == CONTROL or (without != "" and entry.name.startswith(without))
        return named and entry.is_dir(follow_symlinks=False)

    try:
        for entry, problem in below(folder, left_out):
            if problem is not None or not entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)
    except OSError:
        yield folder


# report


def report(run: Run) -> ToolAccount:
    """Close the books: the listing in info_folder, accounts, the report. Works on whatever the run left.

    Returns:
        The account; its `verdict` is the run's.

    Raises:
        InputError: the run ended before it was known what is to be moved.
        StorageError: listing or report cannot be written.
    """
    found, request = prepared(run, "it was known what is to be moved"), DumpsRequest.of(run)
    results = [result for _, result in Relocation.outcomes(run)]
    done = [(path, how) for result in results for path, how in result.done]
    left = [(path, why) for result in results for path, why in result.left]
    _list(request, {path for path, _ in done})
    account = ToolAccount(
        run=run.name,
        action="dumps moved",
        started=request.started,
        finished=now(),
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
    write_books(run, account, "Dumps moved", *_told(account))
    return account


def _told(account: ToolAccount) -> Iterator[str]:
    if account.problems:
        yield f"{plural(len(account.problems), 'thing')} could not be done; the list below says what and why."
    if left := account.counts[LEFT]:
        which = "file that is no DICOM is" if left == 1 else "files that are no DICOM are"
        yield f"{left} {which} left in the data folder: see what was done."
    elif not account.problems:
        yield "Nothing but DICOM is left in the data folder."


def _list(request: DumpsRequest, moved: Collection[str]) -> None:
    """Have the listing name every file that was moved to info_folder; what it says already stays as it is.

    A run that was killed could not list what it had moved: such files are found where they are.
    """

    path = request.info_folder / LISTING
    with storage_errors("info_folder"), shared().acquire(f"dumps:{packed(path)}"):
        said = path.read_bytes() if path.exists() else _line(_COLUMNS)
        known = {cells.plain(line[0]) for line in csv.reader(io.StringIO(said.decode("utf-8", "replace"))) if line}
        lines = [said if said.endswith(b"\n") else said + b"\n"]
        for _, files in _places(request.info_folder):
            for name in files:
                if (shown := readable(name)) not in known:
                    file = request.info_folder / name
                    source = str(request.data_folder) if shown in moved else ""
                    lines.append(_line((shown, file.stat().st_size, digest(file), now(), readable(Path(source)))))
        if len(lines) > 1:
            write_atomic(path, b"".join(lines))
    if not marker_of(request.info_folder):  # it is no tree, and needs no folder of a tree
        with suppress(OSError):
            (request.info_folder / CONTROL / "incoming").rmdir()
            (request.info_folder / CONTROL).rmdir()


def _line(values: Iterable[object]) -> bytes:
    return cells.line(values).encode()
