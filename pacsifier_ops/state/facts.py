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

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pacsifier_ops import __version__
from pacsifier_ops.base import settings
from pacsifier_ops.base.files import packed, private_folder, read_jsonl, storage_errors, write_jsonl
from pacsifier_ops.state.tree import state_folder

#: Largest granularity of times of file systems, in nanoseconds: that of FAT.
_GRANULARITY = 2 * 10**9
#: Folder of the facts of a tree, in its state.
FACTS = "facts"

T = TypeVar("T")


class Facts(Generic[T]):
    """What was read from the files of a tree. A context manager, which keeps what was asked in it if it ends well.

    A folder that is no tree of ours, or cannot be written to, has nothing kept of it: each file is read.

    Args:
        root: the tree.
        name: of the facts, of which one process at a time keeps them.
        read: reads a file. What it raises is not kept.
        pack: makes a JSON value of what was read.
        unpack: undoes this, for the path of the file.
        version: of what `read` depends on beside the file. Facts of another version are not used.

    Attributes:
        files_read: number of files that were read.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        read: Callable[[Path], T],
        pack: Callable[[T], Any] = lambda fact: fact,
        unpack: Callable[[Any, Path], T] = lambda value, path: value,
        version: str = "",
    ) -> None:
        self._root, self._file, self._read, self._pack, self._unpack = root, _file(root, name), read, pack, unpack
        self._before: dict[str, list[Any]] = {}
        self._now: dict[str, list[Any]] = {}
        self._settled = self.files_read = 0
        self._since, self._version = time.time(), f"{__version__} {version}"

    def __enter__(self) -> Self:
        """Read what was kept.

        Raises:
            ConfigError: see `settings.verify_days`.
            StorageError: the state root cannot be read.
        """
        if state_folder(self._root.resolve()).is_dir():
            # The clock of the files' own file system, which may be on another machine.
            with suppress(OSError), tempfile.TemporaryFile(dir=self._root) as probe:
                self._settled = os.fstat(probe.fileno()).st_ctime_ns - _GRANULARITY
        # What is damaged is no fact, and another version may read files in another way.
        with storage_errors("the state root"), suppress(FileNotFoundError, ValueError, TypeError):
            (version, since), *lines = read_jsonl(self._file)
            if version == self._version and 0 <= time.time() - since < settings.verify_days() * 86400:
                self._since, self._before = since, {path: rest for path, *rest in lines}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._settled and self._now != self._before:
            head, lines = [self._version, self._since], ([path, *rest] for path, rest in self._now.items())
            with storage_errors("the state root"):
                write_jsonl(private_folder(self._file.parent) / self._file.name, chain([head], lines))

    def __call__(self, path: Path) -> T:
        """Return what a file holds, read again only where it may have changed.

        Raises:
            OSError: it cannot be read; or what `read` raises.
        """
        name, identity = packed(path.relative_to(self._root)), _identity(path)
        kept = self._before.get(name)
        if kept is not None and kept[0] == identity:
            self._now[name] = kept
            return self._unpack(kept[1], path)
        fact = self._read(path)
        self.files_read += 1
        if identity[-1] < self._settled and _identity(path) == identity:
            self._now[name] = [identity, self._pack(fact)]
        return fact


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _file(root: Path, name: str) -> Path:
    return state_folder(root.resolve()) / FACTS / f"{name}.jsonl"


def forget_facts(root: Path) -> None:
    """Forget what was read from the files of a tree, so that each is read again.

    Raises:
        OSError: the state root cannot be written.
    """
    for path in _file(root, "").parent.rglob("*"):
        if path.suffix in (".jsonl", ".part"):  # the latter were left by a process that was killed
            path.unlink(missing_ok=True)
