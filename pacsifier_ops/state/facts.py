"""What was read from the files of a tree, kept from run to run, so that only new and changed files are read again.

A file is known by its inode, size, and times of change. The system sets the change time (ctime) of a file whenever its
content or its attributes change, and no tool can set it back. A restored backup therefore is read once as a whole.
Numbers of devices are no part of it: they change when a file system is mounted anew.

There are two exceptions. A program that has mapped a file into its memory may change it again within half a minute, and
the time stays. File systems without a change time of their own, such as sshfs, show the time that tools can set. So a
file is read once more when it is copied to `released/`, and only what was approved is released.

The time has a granularity. A file that has changed within the last seconds may change again, and keep its time, so that
it is read again in the next run.

A disk may also lose what it holds, and tell nobody. So all files are read again after some days, see
`settings.verify_days`, and when `forget_facts` was called.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pacsifier_ops import __version__
from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.base.files import ascii_json, atomic_stream, packed, private_folder, storage_errors
from pacsifier_ops.state.tree import state_folder

#: Largest granularity of times of file systems, in nanoseconds: that of FAT.
_GRANULARITY = 2 * 10**9
#: The same for times that are no whole hundredths of a second: what the clocks of systems tick, and more.
_FINE = 10**8
#: Folder of the facts of a tree, in its state.
FACTS = "facts"
#: Says that a file has to be read again, though it has not changed.
AGAIN: Any = object()

T = TypeVar("T")


class Facts(Generic[T]):
    """What was read from the files of a tree. A context manager, which keeps what was asked in it.

    A folder that is no tree of ours, or cannot be written to, has nothing kept of it: each file is read.

    The facts of a folder are one line. It is written again as it is where no file of the folder is new.

    Args:
        root: the tree.
        name: of the facts, of which one process at a time keeps them.
        read: reads a file. What it raises is not kept.
        pack: makes a JSON value of what was read.
        unpack: undoes this, for the path of the file as it was asked for; None: there is nothing to undo.
        version: of what `read` depends on beside the file. Facts of another version are not used.
        whole: all files are asked for, and what is known of others is forgotten.
        renew: returns the JSON value of an unchanged file as it is to be kept now, from the kept one, the path and the
            identity of the file; AGAIN if the file has to be read again. None: it is kept as it is.

    Attributes:
        files_read: number of files that were read.
        since: time since when facts are kept, in seconds since the epoch: none is older.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        read: Callable[[Path], T],
        pack: Callable[[T], Any] = lambda fact: fact,
        unpack: Callable[[Any, Path | str], T] | None = None,
        version: str = "",
        whole: bool = True,
        renew: Callable[[Any, Path | str, list[int]], Any] | None = None,
    ) -> None:
        self._whole, self._renew = whole, renew
        self._root, self._file, self._read, self._pack, self._unpack = root, _file(root, name), read, pack, unpack
        self._start = len(str(root / "x")) - 1
        self._before: dict[str, bytes] = {}
        self._now: dict[str, _Folder] = {}
        self._held: set[str] = set()
        self._told: list[tuple[str, list[int], T]] = []
        self._settled = self.files_read = 0
        self.since, self._version = time.time(), f"{__version__} {version}"

    def __enter__(self) -> Self:
        """Read what was kept.

        Raises:
            ConfigError: see `settings.verify_days`.
            StorageError: the state root cannot be read.
        """
        self._settled = settled_before(self._root)
        # What is damaged is no fact, and another version may read files in another way.
        with (
            storage_errors("the state root"),
            suppress(FileNotFoundError, ValueError, TypeError),
            self._file.open("rb") as stream,
        ):
            version, since = json.loads(stream.readline())
            if version == self._version and 0 <= time.time() - since < settings.verify_days() * 86400:
                self.since = since
                for line in stream:
                    digest, _, rest = line.rstrip(b"\n").partition(b"\t")
                    if digest == _digest(rest):
                        folder, _, facts = rest.partition(b"\t")
                        self._before[json.loads(folder)] = facts
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._settled:
            return
        if error is None:
            self._keep_told()
            self._keep(self._whole)
        else:  # what was read so far need not be read again
            with suppress(OSError, StorageError):
                self._keep(whole=False)

    def _keep(self, whole: bool) -> None:
        known = {name: folder for name, folder in self._now.items() if folder.asked}
        held = {name: self._before[name] for name in self._held if name in self._before}
        lines = {name: self._before.get(name, b"{}") for name in known} | (held if whole else self._before)
        for name, folder in known.items():
            if not whole:
                folder.asked = folder.kept | folder.asked
            if folder.asked != folder.kept:
                lines[name] = _json(folder.asked)
        if lines == self._before:
            return
        with (
            storage_errors("the state root"),
            atomic_stream(private_folder(self._file.parent) / self._file.name) as stream,
        ):
            stream.write(_json([self._version, self.since]) + b"\n")
            for name, line in lines.items():
                rest = _json(name) + b"\t" + line
                stream.write(_digest(rest) + b"\t" + rest + b"\n")

    def __call__(self, path: Path | str, status: os.stat_result | None = None) -> T:
        """Return what a file holds, read again only where it may have changed.

        Args:
            path: the file, below the tree; as text it is looked up in half the time.
            status: its status as it is now; None: it is looked at.

        Raises:
            OSError: it cannot be read; or what `read` raises.
        """
        above, _, name = str(path)[self._start :].rpartition("/")
        identity = identity_of(status or os.stat(path))
        folder = self._folder(above)
        name = packed(name)
        kept = folder.kept.get(name)
        value = AGAIN
        if kept is not None and kept[0] == identity:
            value = kept[1] if self._renew is None else self._renew(kept[1], path, identity)
        if kept is not None and value is not AGAIN:
            folder.asked[name] = kept if value is kept[1] else [identity, value]
            return value if self._unpack is None else self._unpack(value, path)
        fact = self._read(Path(path))
        self.files_read += 1
        if identity[-1] < self._settled and identity_of(os.stat(path)) == identity:
            folder.asked[name] = [identity, self._pack(fact)]
        return fact

    def tell(self, path: str, fact: T) -> None:
        """Keep what a file holds that was just written, if it is still the same file when it cannot change unseen.

        Args:
            path: the file, below the tree, in its place.

        Raises:
            OSError: it cannot be looked at.
        """
        self._told.append((path, identity_of(os.stat(path)), fact))

    def _keep_told(self) -> None:
        newest = max((identity[-1] for _, identity, _ in self._told), default=0)
        if not self._told or not wait_until_settled(self._root, newest):
            return
        for path, identity, fact in self._told:
            if identity_at(path) == identity:
                above, _, name = path[self._start :].rpartition("/")
                self._folder(above).asked[packed(name)] = [identity, self._pack(fact)]

    def hold(self, folder: str) -> None:
        """Keep what is known of a folder, of which nothing is asked, since it is as it was (see `standing`).

        Args:
            folder: its path below the tree.
        """
        self._held.add(packed(folder))

    def _folder(self, name: str) -> _Folder:
        name = packed(name)
        folder = self._now.get(name)
        if folder is None:
            folder = self._now[name] = _Folder()
            with suppress(ValueError):  # a damaged line is no fact
                kept = json.loads(self._before.get(name, b"{}"))
                folder.kept = kept if isinstance(kept, dict) else {}
        return folder


class _Folder:
    """The facts of the files in a folder.

    Attributes:
        kept: identity and fact by name, as they were kept.
        asked: those that were asked for, as they are now.
    """

    __slots__ = ("asked", "kept")

    def __init__(self) -> None:
        self.kept: dict[str, list[Any]] = {}
        self.asked: dict[str, list[Any]] = {}


def _json(value: Any) -> bytes:
    return ascii_json(value).encode()


def _digest(line: bytes) -> bytes:
    """Return what tells a damaged line from a whole one."""
    return b"%08x" % zlib.crc32(line)


def settled_before(root: Path) -> int:
    """Return the time before which a file of a tree has changed if it cannot change again and keep its time.

    Returns:
        Nanoseconds since the epoch; 0 if the folder is no tree of ours, or cannot be written to.
    """
    if state_folder(root.resolve()).is_dir():
        # The clock of the files' own file system, which may be on another machine.
        with suppress(OSError), tempfile.TemporaryFile(dir=root) as probe:
            return os.fstat(probe.fileno()).st_ctime_ns - _GRANULARITY
    return 0


def wait_until_settled(folder: Path, changed_ns: int) -> bool:
    """Wait until files of a folder that changed at a time, in ns, cannot change again and keep it: mostly 0.1 seconds.

    Returns:
        False if that takes longer than the granularity of any file system, or the folder cannot be written to.
    """
    granularity = min(_FINE, _GRANULARITY) if changed_ns % 10**7 else _GRANULARITY
    with suppress(OSError):
        for _ in range(3):
            with tempfile.TemporaryFile(dir=folder) as probe:
                left = changed_ns + granularity - os.fstat(probe.fileno()).st_ctime_ns
            if left < 0:
                return True
            time.sleep(min(left, granularity) / 10**9 + 0.01)
    return False


def identity_of(status: os.stat_result) -> list[int]:
    """Return what a file is known by: inode, size, and times of change in ns."""
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def identity_at(path: Path | str) -> list[int]:
    """Return the identity of the file at a path; empty if there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return identity_of(os.stat(path))
    return []


def _file(root: Path, name: str) -> Path:
    return facts_folder(root) / f"{name}.jsonl"


def facts_folder(root: Path) -> Path:
    """Return the folder for what is known of the files of a tree; it need not exist."""
    return state_folder(root.resolve()) / FACTS


def forget_facts(root: Path) -> None:
    """Forget what was read from the files of a tree, so that each is read again.

    Raises:
        OSError: the state root cannot be written.
    """
    for path in facts_folder(root).rglob("*"):
        if path.is_file():  # also what was left by a process that was killed
            path.unlink(missing_ok=True)
