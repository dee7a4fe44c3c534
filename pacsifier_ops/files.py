"""Files that are whole or not there: atomic writes, protected folders, confined paths."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pacsifier_ops.errors import PathRefused, StorageError

# Reading the umask means setting it, which is not safe once there are threads.
_UMASK = os.umask(0o077)
os.umask(_UMASK)

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
#: Mode of the files of a data set: as the user's umask has it.
DATA_FILE = 0o666 & ~_UMASK
#: Mode of what is released: nobody is to write to it.
RELEASED_FILE = DATA_FILE & ~0o222


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn OSError into a StorageError that names `what`, a place, and no path below it."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{what}: {error.strerror or type(error).__name__}; free space or mend the folder, then run again"
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_folder(folder: Path) -> Path:
    """Make `folder` (and what leads to it) if it is not there; 0700. Returns it."""
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic_stream(path: Path, mode: int = PRIVATE_FILE, scratch: Path | None = None) -> Iterator[BinaryIO]:
    """A stream whose content is at `path` once the block has ended well; before, and otherwise, the old one is.

    Args:
        scratch: folder on the same file system for the unfinished file, where a kill may leave it; by default
            beside `path`.

    Raises:
        OSError: the disk is full or a folder not writable; `path` is then as it was.
    """
    temporary = (scratch or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_atomic(path: Path, data: str | bytes, mode: int = PRIVATE_FILE, scratch: Path | None = None) -> None:
    """Write `data` to `path` as `atomic_stream` does."""
    with atomic_stream(path, mode, scratch) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically, readable by the owner only."""
    write_atomic(path, _json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically, readable by the owner only."""
    with atomic_stream(path) as stream:
        for value in values:
            stream.write(_json(value).encode() + b"\n")


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yield the values of a file made by `write_jsonl`."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def readable(path: Path) -> str:
    """A path as text that any file and page can hold, with forward slashes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def confined(path: str | os.PathLike[str], root: Path, what: str) -> Path:
    """Resolve `path` (relative to `root`, or absolute below it) and refuse what leads outside.

    Links are followed before the check, so a link out of the root is refused as well.

    Raises:
        PathRefused: names `what` (the parameter), never the path's target.
    """
    root = root.resolve()
    resolved = (root / path).resolve()
    if resolved != root and root not in resolved.parents:
        raise PathRefused(f"{what}: the path leads outside the data root; give a path below it")
    return resolved
