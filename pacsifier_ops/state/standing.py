"""What was found out of folders and series, and still stands: nothing that it depends on has changed.

The work on a folder is a function of its files, and of what else it depends on. Both are put together into a stamp, and
the result is kept with the stamp. A later run with the same stamp has the same result, and looks at no file by itself.

A folder is known by its files: their names, inodes, sizes, and times of change (see `facts`, also for what this cannot
see). It takes about 5 microseconds a file, so this is what a night without news costs.

Whoever works on what a result depends on takes the stamp before the work and after it, and keeps the result if both are
the same: then the work has changed nothing, and nobody else has meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pacsifier_ops import __version__
from pacsifier_ops.base import settings
from pacsifier_ops.base.files import ascii_json, atomic_stream, private_folder, storage_errors
from pacsifier_ops.state.facts import facts_folder, identity_at, settled_before
from pacsifier_ops.state.tree import CONTROL, OF_RUNS

#: The stamp of what cannot be told to be as it was. Nothing stands with it.
UNKNOWN = ""
#: The stamp of a folder that is not there, for what may stand without it.
NO_FOLDER = "none"


def stamp_of(*parts: object) -> str:
    """Return a stamp of several parts: texts, numbers, other stamps, and lists of such.

    Returns:
        SHA-256, hexadecimal; UNKNOWN if one of the parts is.
    """
    if any(part == UNKNOWN for part in parts):
        return UNKNOWN
    return hashlib.sha256(ascii_json([__version__, *parts]).encode()).hexdigest()


def stamps_of(root: Path, folder: str = "") -> dict[str, str]:
    """Return the stamps of all folders of a tree, by path below it; `""` is the tree itself. CONTROL is left out.

    The stamp of a folder covers its files, and not the folders in it. It is UNKNOWN if the folder holds something else,
    such as a link, or a file that has just changed and may change again with the same time.

    Args:
        root: the tree. Nothing stands in a folder that is no tree of ours.
        folder: path of a folder below it, to look at this and the folders in it alone.

    Raises:
        OSError: the tree cannot be read; FileNotFoundError if there is none.
    """
    settled = settled_before(root)
    return {name: _stamp(entries, settled) for name, entries in _folders(root, folder)}


def stamps_if_readable(root: Path) -> dict[str, str]:
    """Return the stamps of all folders of a tree; none if one of them cannot be read, so that nothing stands."""
    with suppress(OSError):
        return stamps_of(root)
    return {}


def stamp_of_tree(root: Path) -> str:
    """Return the stamp of all folders of a tree but those of runs (see OF_RUNS).

    Returns:
        UNKNOWN if it cannot be read, or another tree lies in it: that may come into another state.
    """
    with suppress(OSError):
        stamps = stamps_of(root)
        if not any(name and os.path.lexists(f"{root}/{name}/{CONTROL}") for name in stamps):
            return whole({name: stamp for name, stamp in stamps.items() if name.partition("/")[0] not in OF_RUNS})
    return UNKNOWN


def stamp_of_folder(folder: Path, root: Path) -> str:
    """Return the stamp of one folder of a tree, see `stamps_of`; UNKNOWN if it is not there."""
    for _, entries in _folders(folder) if folder.is_dir() else ():
        return _stamp(entries, settled_before(root))
    return UNKNOWN


def stamp_now(folder: Path, root: Path) -> str:
    """Return the stamp of a folder of a tree as it is now; NO_FOLDER if it is not there."""
    return stamp_of_folder(folder, root) if os.path.lexists(folder) else NO_FOLDER


def _stamp(entries: Iterable[os.DirEntry[str]], settled: int) -> str:
    lines, newest = [], 0
    for entry in entries:
        if not entry.is_file(follow_symlinks=False):
            return UNKNOWN
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # somebody is at work in the folder
            return UNKNOWN
        changed = status.st_ctime_ns
        lines.append(f"{entry.name}/{status.st_ino} {status.st_size} {status.st_mtime_ns} {changed}")
        newest = max(newest, changed)
    lines.sort()
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(data).hexdigest() if newest < settled else UNKNOWN


def _folders(root: Path, folder: str = "") -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield each folder: its path below the tree, and its entries but the folders."""
    above = len(f"{root}/")
    start = str(root / folder)
    folders = [start]
    while folders:
        folder = folders.pop()
        try:
            found = list(os.scandir(folder))
        except FileNotFoundError:
            if folder == start:
                raise
            continue  # somebody is at work in the folder above
        below = {entry: entry.is_dir(follow_symlinks=False) for entry in found}
        folders += [entry.path for entry in found if below[entry] and entry.name != CONTROL]
        yield folder[above:], [entry for entry in found if not below[entry]]


def file_stamp(path: Path, settled: int) -> str:
    """Return the stamp of a file, which need not be there.

    Args:
        path: the file.
        settled: time before which it has changed if it cannot change again and keep its time, see `settled_before`.

    Returns:
        UNKNOWN if it has just changed.
    """
    identity = identity_at(path)
    return stamp_of(identity) if not identity or identity[-1] < settled else UNKNOWN


def whole(stamps: dict[str, str]) -> str:
    """Return the stamp of all folders of a tree together, from their stamps."""
    return UNKNOWN if UNKNOWN in stamps.values() else stamp_of(sorted(stamps.items()))


class Standing:
    """Results that stand, by key. A context manager, which keeps them when it ends without an error.

    They belong to the facts of a tree, and `forget_facts` forgets them. One that is older than `settings.verify_days`
    does not stand any more.

    Args:
        root: the tree. Nothing is kept of a folder that is no tree of ours.
        name: of the results, of which one process at a time keeps them.
        every: all keys are asked for, and what is known of others is forgotten.
    """

    def __init__(self, root: Path, name: str, every: bool = True) -> None:
        self._root, self._every = root, every
        self._path = facts_folder(root) / f"{name}.standing"
        self._before: dict[str, bytes] = {}
        self._now: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        """Read what was kept.

        Raises:
            ConfigError: see `settings.verify_days`.
            StorageError: the state root cannot be read.
        """
        now, longest = time.time(), settings.verify_days() * 86400
        with storage_errors("the state root"), suppress(FileNotFoundError), self._path.open("rb") as stream:
            for line in stream:
                digest, _, rest = line.rstrip(b"\n").partition(b"\t")
                if digest != _digest(rest):
                    continue  # what is damaged does not stand
                key, _, kept = rest.partition(b"\t")
                if 0 <= now - float(kept.split(b"\t", 2)[1]) < longest:
                    self._before[json.loads(key)] = kept
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lines = self._now if self._every else self._before | self._now
        if error is not None or lines == self._before or not settled_before(self._root):
            return
        with (
            storage_errors("the state root"),
            atomic_stream(private_folder(self._path.parent) / self._path.name) as out,
        ):
            for key, kept in lines.items():
                line = ascii_json(key).encode() + b"\t" + kept
                out.write(_digest(line) + b"\t" + line + b"\n")

    def get(self, key: str, stamp: str) -> Any:
        """Return the result that was kept of a key, a JSON value, if its stamp was this one; None: nothing stands."""
        kept = self._before.get(key, b"")
        if stamp != UNKNOWN and kept.startswith(f"{stamp}\t".encode()):
            self._now[key] = kept
            return json.loads(kept.split(b"\t", 2)[2])
        return None

    def oldest(self) -> float | None:
        """Return the time at which the oldest of these results was found out, in seconds since the epoch."""
        return min((float(kept.split(b"\t", 2)[1]) for kept in (self._before | self._now).values()), default=None)

    def put(self, key: str, stamp: str, value: Any, since: float | None = None) -> None:
        """Keep a result.

        Args:
            stamp: of all that it depends on; with UNKNOWN, nothing is kept.
            value: the result, a JSON value other than None.
            since: time at which it was found out, in seconds since the epoch; None: now.
        """
        if stamp != UNKNOWN:
            begun = time.time() if since is None else since
            self._now[key] = b"\t".join((stamp.encode(), repr(begun).encode(), ascii_json(value).encode()))


def _digest(line: bytes) -> bytes:
    """Return what tells a damaged line from a whole one."""
    return b"%08x" % zlib.crc32(line)
