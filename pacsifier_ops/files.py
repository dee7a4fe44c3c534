"""Files that are whole or not there: atomic writes, protected folders, confined paths."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pacsifier_ops.errors import PathRefused

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


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


def write_atomic(path: Path, data: str | bytes, mode: int = PRIVATE_FILE) -> None:
    """Write `data` so that `path` holds the old content or the new, never a part.

    Raises:
        OSError: the disk is full or the folder not writable; `path` is then as it was.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically, readable by the owner only."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically, readable by the owner only."""
    lines = (json.dumps(v, ensure_ascii=False, separators=(",", ":")) + "\n" for v in values)
    write_atomic(path, "".join(lines))


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yield the values of a file made by `write_jsonl`."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


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
