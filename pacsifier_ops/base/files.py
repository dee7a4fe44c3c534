"""Files that are whole or not there: atomic writes, protected folders, confined paths."""

from __future__ import annotations

import grp
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from pacsifier_ops.base.errors import ConfigError, PathRefused, StorageError, TreeError

# Reading the umask means setting it, which is not safe once there are threads.
_UMASK = os.umask(0o077)
os.umask(_UMASK)

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
#: Folders in folders at most: nobody's data are deeper, and Python's calls and the system's paths have an end.
LEVELS = 200
#: Of what a group may read: its folders hand their group on to what is made in them.
_GROUP_FILE, _GROUP_FOLDER = 0o640, 0o2750

#: Environment variables: the group that may read what identifies, and the mode of files of released data.
GROUP, RELEASED = "PACSIFIER_GROUP", "PACSIFIER_RELEASED_MODE"


@cache
def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"{GROUP} names no group of this machine; make it, or take the setting out") from None


@cache
def _released(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text) or not int(text, 8) & 0o400 or int(text, 8) & 0o111:
        raise ConfigError(f"{RELEASED} is no mode of a file that its owner can read, such as 0640")
    return int(text, 8)


def group() -> int | None:
    """The group that may read what identifies patients; None: nobody but the owner.

    Raises:
        ConfigError: the setting names none.
    """
    name = os.environ.get(GROUP, "").strip()
    return _group(name) if name else None


def private_file() -> int:
    """Mode of files that identify patients."""
    return PRIVATE_FILE if group() is None else _GROUP_FILE


def data_file() -> int:
    """Mode of the files of a data set that identifies nobody: by the setting, else as the user's umask has it.

    Raises:
        ConfigError: the setting is no mode.
    """
    text = os.environ.get(RELEASED, "").strip()
    return _released(text) if text else 0o666 & ~_UMASK


def data_folder(folder: Path) -> Path:
    """Make a folder of such a data set, and what leads to it, if it is not there. Returns it."""
    mode = data_file()
    mode |= (mode & 0o444) >> 2  # who may read may enter
    for missing in _missing(folder):
        missing.mkdir(exist_ok=True)
        if os.environ.get(RELEASED, "").strip():
            missing.chmod(mode | 0o300)
    return folder


def _missing(folder: Path) -> list[Path]:
    """A folder and those that lead to it, as far as they are not there, the outermost first."""
    found: list[Path] = []
    for one in (folder, *folder.parents):
        if one.is_dir():
            break
        found.append(one)
    return found[::-1]


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
    """Make `folder` (and what leads to it) if it is not there; for the owner, and the group of the setting. Returns it.

    Raises:
        ConfigError: the group is none, or we are not in it.
        OSError: it cannot be made.
    """
    for missing in _missing(folder):
        missing.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        if group() is not None:
            close_folder(missing)
    return folder


def close_folder(folder: Path) -> None:
    """Let a folder be open to its owner only, and to the group of the setting.

    Raises:
        ConfigError: the group is none, or we are not in it.
        OSError: it is somebody else's.
    """
    gid = group()
    if gid is None:
        folder.chmod(PRIVATE_FOLDER)
        return
    try:
        os.chown(folder, -1, gid)
    except PermissionError:
        raise ConfigError(f"{GROUP} names a group that this user is not in; add the user to it") from None
    folder.chmod(_GROUP_FOLDER)


def private_handle(path: Path, flags: int) -> int:
    """Open a file that identifies patients, making it where it is not there, with the mode of such."""
    handle = os.open(path, flags | os.O_CREAT, private_file())
    if group() is not None:  # whatever the umask takes away
        os.fchmod(handle, private_file())
    return handle


@contextmanager
def atomic_stream(path: Path, mode: int | None = None, scratch: Path | None = None) -> Iterator[BinaryIO]:
    """A stream whose content is at `path` once the block has ended well; before, and otherwise, the old one is.

    Args:
        mode: of the file; by default, of one that identifies patients.
        scratch: folder on the same file system for the unfinished file, where a kill may leave it; by default
            beside `path`.

    Raises:
        OSError: the disk is full or a folder not writable; `path` is then as it was.
    """
    temporary = (scratch or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"
    mode = private_file() if mode is None else mode
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_atomic(path: Path, data: str | bytes, mode: int | None = None, scratch: Path | None = None) -> None:
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


def resolved(path: str | os.PathLike[str], what: str) -> Path:
    """A path that somebody gave, absolute, its links followed. It need not be there.

    Raises:
        PathRefused: it leads to itself, too deep, or is no path at all; names `what` (the parameter), never the path.
    """
    try:
        found = Path(path).resolve()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.stat(found)
    except RuntimeError:  # what Path.resolve says of a loop, up to Python 3.12
        raise PathRefused(f"{what}: the path leads through a link that leads to itself") from None
    except ValueError:
        raise PathRefused(f"{what}: the path has characters that no path can have") from None
    except OSError as error:
        raise PathRefused(f"{what}: the path cannot be used ({error.strerror})") from None
    if len(found.parts) > LEVELS:
        raise PathRefused(f"{what}: the path is more than {LEVELS} folders deep; give a shorter one")
    return found


def readable(path: Path) -> str:
    """A path as text that any file and page can hold, with forward slashes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


#: Begins the reasons of files that could be fine, if only they could be read.
UNREADABLE = "it cannot be read"


def packed(path: Path) -> str:
    """A path as text for JSON: names need not be UTF-8, and one byte is one letter here."""
    return os.fsencode(path).decode("latin-1")


def unpacked(text: str) -> str:
    """A path that `packed` made text of."""
    return os.fsdecode(text.encode("latin-1"))


def unreadable(error: OSError) -> str:
    """Why a file cannot be read, in words that do not name it."""
    return f"{UNREADABLE}: {error.strerror or type(error).__name__}"


def confined(path: str | os.PathLike[str], root: Path, what: str) -> Path:
    """Resolve `path` (relative to `root`, or absolute below it) and refuse what leads outside.

    Links are followed before the check, so a link out of the root is refused as well.

    Raises:
        PathRefused: as `resolved`, or it leads outside; names `what` (the parameter), never the path's target.
    """
    root = root.resolve()
    found = resolved(root / path, what)
    if found != root and root not in found.parents:
        raise PathRefused(f"{what}: the path leads outside the data root; give a path below it")
    return found


def below(
    folder: Path, leave_out: Callable[[os.DirEntry[str]], bool] = lambda entry: False
) -> Iterator[tuple[os.DirEntry[str], OSError | None]]:
    """All that lies below a folder, in the order of paths, a folder before what is in it; links are not followed.

    Python's own ways to walk (os.walk before 3.12, shutil.rmtree before 3.13) call themselves for each folder, and a
    thousand folders in each other end them.

    Args:
        leave_out: entries that are left out, with all that is in them.

    Yields:
        Each entry, and what keeps a folder from being read.

    Raises:
        TreeError: folders lie deeper in each other than LEVELS.
        OSError: the folder itself cannot be read.
    """
    ahead = [_entries(folder)]
    while ahead:
        entry = next(ahead[-1], None)
        if entry is None:
            ahead.pop()
        elif not leave_out(entry):
            problem = None
            if entry.is_dir(follow_symlinks=False):
                if len(ahead) >= LEVELS:
                    raise TreeError(f"a folder holds more than {LEVELS} folders in each other; give another one")
                try:
                    ahead.append(_entries(Path(entry.path)))
                except OSError as error:
                    problem = error
            yield entry, problem


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))
