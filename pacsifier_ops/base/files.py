"""Files that are complete or absent: atomic writes, protected folders, confined paths."""

from __future__ import annotations

import errno
import fcntl
import grp
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from pacsifier_ops.base.errors import ConfigError, PathRefused, StorageError, TreeError

# Reading the umask means setting it, which is not thread-safe.
_UMASK = os.umask(0o077)
os.umask(_UMASK)

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
#: Maximum depth of folders. Python's recursion and the system's paths have limits as well.
LEVELS = 200
_FSYNCS_AT_ONCE = 8
#: Modes of data that a group may read: new files in its folders get the group of the folder.
_GROUP_FILE, _GROUP_FOLDER = 0o640, 0o2750

#: Environment variables: the group that may read identifying data, and the mode of files of released data.
GROUP, RELEASED = "PACSIFIER_GROUP", "PACSIFIER_RELEASED_MODE"


@cache
def _group(name: str) -> int:
    try:
        is_number = re.fullmatch("[0-9]{1,10}", name) and int(name) < 2**32 - 1
        return int(name) if is_number else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"{GROUP} names no group of this machine; make it, or take the setting out") from None


@cache
def _released(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text) or not int(text, 8) & 0o400 or int(text, 8) & 0o111:
        raise ConfigError(f"{RELEASED} is no mode of a file that its owner can read, such as 0640")
    return int(text, 8)


def group() -> int | None:
    """Return the group that may read identifying data; None: the owner alone.

    Raises:
        ConfigError: the setting names no group.
    """
    name = os.environ.get(GROUP, "").strip()
    return _group(name) if name else None


def private_file() -> int:
    """Return the mode of files that identify patients."""
    return PRIVATE_FILE if group() is None else _GROUP_FILE


def data_file() -> int:
    """Return the mode of files of a data set that identifies nobody: by the setting, else by the user's umask.

    Raises:
        ConfigError: the setting is no mode.
    """
    text = os.environ.get(RELEASED, "").strip()
    return _released(text) if text else 0o666 & ~_UMASK


def data_folder(folder: Path) -> Path:
    """Create a folder of such a data set and its parents, if necessary. Return it."""
    mode = data_file()
    mode |= (mode & 0o444) >> 2  # readers may also enter
    for missing in _missing(folder):
        missing.mkdir(exist_ok=True)
        if os.environ.get(RELEASED, "").strip():
            missing.chmod(mode | 0o300)
    return folder


def _missing(folder: Path) -> list[Path]:
    """Return the missing folders among a folder and its parents, the outermost first."""
    if folder.is_dir():  # most are
        return []
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
    _fsync(folder)


def fsync_files(paths: Iterable[Path]) -> None:
    """Make the contents of files durable.

    Several wait at once: a file system with a journal then writes the journal once for all of them.

    Raises:
        OSError: the content of one of them could not be written.
    """
    todo = list(paths)
    if len(todo) < 2:  # a thread takes longer to begin
        return _fsync_all(todo)
    with ThreadPoolExecutor(_FSYNCS_AT_ONCE) as threads:
        for _ in threads.map(_fsync_all, (todo[start::_FSYNCS_AT_ONCE] for start in range(_FSYNCS_AT_ONCE))):
            pass


def _fsync_all(paths: Iterable[Path]) -> None:
    for path in paths:
        _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_folder(folder: Path) -> Path:
    """Create `folder` and its parents, if necessary, for the owner and the group of the setting. Return it.

    Raises:
        ConfigError: the setting names no group, or we are not a member.
        OSError: the folder cannot be created.
    """
    for missing in _missing(folder):
        missing.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        if group() is not None:
            close_folder(missing)
    return folder


def close_folder(folder: Path) -> None:
    """Restrict a folder to its owner and the group of the setting.

    Raises:
        ConfigError: the setting names no group, or we are not a member.
        OSError: the folder belongs to another user.
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
    """Open a file that identifies patients, created if necessary, with the mode of such files."""
    handle = os.open(path, flags | os.O_CREAT, private_file())
    if group() is not None:  # whatever the umask removes
        os.fchmod(handle, private_file())
    return handle


@contextmanager
def atomic_stream(path: Path, mode: int | None = None, scratch: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a stream whose content replaces `path` when the block succeeds.

    Until then, and after an error, the old content stays.

    Args:
        path: the file.
        mode: mode of the file; default: that of a file that identifies patients.
        scratch: folder on the same file system for the incomplete file, which a kill may leave there; default: the
            folder of `path`.

    Raises:
        OSError: the disk is full or a folder is not writable; `path` is unchanged.
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


#: ioctl by which a file shares the blocks of another until one of them is changed, on file systems that can do it.
_FICLONE = 0x40049409


def clone(source: BinaryIO, copy: BinaryIO) -> bool:
    """Make an empty file a copy of another one that shares its blocks. Return whether the file system can do it.

    Raises:
        OSError: there is no space, or the disk fails.
    """
    try:
        fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return False
    return True


def write_atomic(path: Path, data: str | bytes, mode: int | None = None, scratch: Path | None = None) -> None:
    """Write `data` to `path` as `atomic_stream` does."""
    with atomic_stream(path, mode, scratch) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


#: Writes a value as JSON in ASCII, without spaces. `json.dumps` makes an encoder for each value where it is told how.
ascii_json = json.JSONEncoder(separators=(",", ":")).encode

_decode = json.JSONDecoder().raw_decode


def json_line(line: str) -> Any:
    """Return `json.loads(line)`. For a line that is one value and no more, it takes a third of the time.

    Raises:
        ValueError: the line is no JSON value.
    """
    try:
        value, end = _decode(line)
        if end == len(line) or line[end:] == "\n":
            return value
    except ValueError:
        pass
    return json.loads(line)  # it decides about all other lines


def _fields(value: Any) -> dict[str, Any]:
    """Return a dataclass as JSON does it: unlike `asdict`, without a copy of each of its values."""
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return {field.name: getattr(value, field.name) for field in fields(value)}


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_fields).encode


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically, with the mode of a file that identifies patients."""
    write_atomic(path, _json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value, or dataclass, per line, atomically, with the mode of a file that identifies patients."""
    with atomic_stream(path) as stream:
        for value in values:
            stream.write(_json(value).encode() + b"\n")


def append_jsonl(path: Path, value: Any) -> None:
    """Append one JSON value as a line, durably, to a file with the mode of a file that identifies patients."""
    with os.fdopen(private_handle(path, os.O_WRONLY | os.O_APPEND), "ab") as stream:
        stream.write(_json(value).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def write_once(path: Path, text: str) -> str:
    """Return the content of a file, for its owner alone; write `text` unless a process has written the file first."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        write_atomic(temporary, text, PRIVATE_FILE)
        with suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
        fsync_folder(path.parent)
    return path.read_text(encoding="ascii").strip()


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yield the values of a file of `write_jsonl`."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json_line(line)


def read_appended(path: Path) -> Iterator[Any]:
    """Yield the values of a file of `write_jsonl` and `append_jsonl`.

    A line that is not whole is left out: a process was killed, or had no space, while it appended. Where another one
    has appended meanwhile, such a line is not the last one, and may hold the beginning of another.
    """
    with path.open("rb") as stream:
        for line in stream:
            with suppress(ValueError):
                yield json_line(line.decode())


def resolved(path: str | os.PathLike[str], what: str) -> Path:
    """Return a user's path as absolute path, with links resolved. It need not exist.

    Raises:
        PathRefused: it is a loop of links, too deep, or no valid path; names `what` (the parameter), never the path.
    """
    try:
        found = Path(path).resolve()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.stat(found)
    except RuntimeError:  # raised by Path.resolve for a loop, up to Python 3.12
        raise PathRefused(f"{what}: the path leads through a link that leads to itself") from None
    except ValueError:
        raise PathRefused(f"{what}: the path has characters that no path can have") from None
    except OSError as error:
        raise PathRefused(f"{what}: the path cannot be used ({error.strerror})") from None
    if len(found.parts) > LEVELS:
        raise PathRefused(f"{what}: the path is more than {LEVELS} folders deep; give a shorter one")
    return found


def readable(path: Path | str) -> str:
    """Return a path as text that any file and page can contain, with forward slashes."""
    text = str(path)
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "replace")


def name_below(path: Path | str, root: Path) -> str:
    """Return `path.relative_to(root)` as text. pathlib takes ten times as long, and a folder may hold a million files.

    Raises:
        ValueError: the path is not below the folder.
    """
    text, above = str(path), str(root)
    above = "" if above == "." else f"{above.rstrip('/')}/"
    if not text.startswith(above):
        raise ValueError("the path is not below the folder")
    return text[len(above) :]


#: Beginning of the reasons of files that could be valid, but cannot be read.
UNREADABLE = "it cannot be read"
#: Reason of a file that a run has not treated, because it changed meanwhile.
CHANGED = "the file changed while the run was looking at it"


def folder_of_all(names: Iterable[str]) -> str:
    """Return the innermost folder of files, from their paths below another one, as text for people; `.`: that one."""
    return readable(os.path.commonpath({os.path.dirname(name) for name in names}) or ".")


def packed(path: Path | str) -> str:
    """Return a path as text for JSON. Names need not be UTF-8, so each byte becomes one letter."""
    text = str(path)
    return text if text.isascii() else os.fsencode(text).decode("latin-1")


def unpacked(text: str) -> str:
    """Return the path of a text of `packed`."""
    return text if text.isascii() else os.fsdecode(text.encode("latin-1"))


def unreadable(error: OSError) -> str:
    """Return why a file cannot be read, without its name."""
    return f"{UNREADABLE}: {error.strerror or type(error).__name__}"


def confined(path: str | os.PathLike[str], root: Path, what: str) -> Path:
    """Resolve `path` (relative to `root`, or absolute below it), and refuse a path that leads outside.

    Links are resolved before the check, so a link to the outside is refused as well.

    Raises:
        PathRefused: see `resolved`; or the path leads outside. Names `what` (the parameter), never the path's target.
    """
    root = root.resolve()
    found = resolved(root / path, what)
    if found != root and root not in found.parents:
        raise PathRefused(f"{what}: the path leads outside the data root; give a path below it")
    return found


def below(
    folder: Path,
    leave_out: Callable[[os.DirEntry[str]], bool] = lambda entry: False,
    enter: Callable[[os.DirEntry[str]], bool] = lambda entry: True,
) -> Iterator[tuple[os.DirEntry[str], OSError | None]]:
    """Yield all entries below a folder in the order of paths, a folder before its content; links are not followed.

    Python's own functions (os.walk before 3.12, shutil.rmtree before 3.13) are recursive, and fail at a depth of about
    a thousand folders.

    Args:
        folder: the folder.
        leave_out: whether to skip an entry with all its content.
        enter: whether to go into a folder.

    Yields:
        Each entry, and the error that prevents a folder from being read.

    Raises:
        TreeError: folders are nested more deeply than LEVELS.
        OSError: the folder itself cannot be read.
    """
    ahead = [_entries(folder)]
    while ahead:
        entry = next(ahead[-1], None)
        if entry is None:
            ahead.pop()
        elif not leave_out(entry):
            problem = None
            if entry.is_dir(follow_symlinks=False) and enter(entry):
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
