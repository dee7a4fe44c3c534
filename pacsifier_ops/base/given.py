"""Reads files that users name: query tables, configurations, mapping files, profiles. All of them are opened here.

A path may lead to a pipe or a device, where opening may block forever; to itself; to a file of a terabyte; or to
brackets nested until Python fails. The user gets an error that says what is wrong, without a value.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pacsifier_ops.base.errors import InputError

if TYPE_CHECKING:
    import yaml

#: Maximum size in bytes of a file with an entry per patient, and of a file that people write by hand.
LARGE, SMALL = 256 * 2**20, 4 * 2**20

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Unusable(InputError):
    """A user's file cannot be used; the text gives the reason without its name.

    Attributes:
        line, column: position, from 1; 0 where it is unknown.
    """

    def __init__(self, why: str, line: int = 0, column: int = 0) -> None:
        super().__init__(why)
        self.line, self.column = line, column


def open_given(path: Path, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: the file.
        follow: follow a link. Otherwise a link is refused: it may lead to a file that its creator may not read.

    Raises:
        Unusable: it does not exist, is no regular file, or may not be read.
    """
    try:
        # Opening a device may start it, so check the path first. It may change meanwhile, so open it without blocking.
        _regular(os.stat(path, follow_symlinks=follow))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        return _as_stream(os.open(path, flags))
    except OSError as error:
        raise Unusable(f"cannot be read ({reason(error)})") from None
    except ValueError:  # raised for NUL, and for letters that the system's encoding lacks
        raise Unusable("cannot be read (its path has characters that no path can have)") from None


def open_below(root: Path, name: str) -> BinaryIO:
    """Open a regular file below a folder for reading. No link below the folder is followed: the file is in it.

    Args:
        root: the folder.
        name: path of the file below it, with forward slashes.

    Raises:
        Unusable: it does not exist, is no regular file, may not be read, or is not below the folder.
    """
    *folders, file = name.split("/")
    if not {*folders, file}.isdisjoint(("", ".", "..")):
        raise Unusable("is not below the folder")
    folder = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    plain = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
    with ExitStack() as opened:
        try:
            handle = os.open(root, folder)
            opened.callback(os.close, handle)
            for one in folders:
                handle = os.open(one, folder | os.O_NOFOLLOW, dir_fd=handle)
                opened.callback(os.close, handle)
            handle = os.open(file, plain, dir_fd=handle)
        except (OSError, ValueError) as error:
            raise Unusable(f"cannot be read ({reason(error) if isinstance(error, OSError) else 'its path'})") from None
    return _as_stream(handle)


def reason(error: OSError) -> str:
    """Return why the system refuses a path, without its name."""
    if error.errno == errno.ELOOP:
        return "a link that leads to itself, or is not followed"
    return error.strerror or type(error).__name__


def _as_stream(handle: int) -> BinaryIO:
    """Return the stream of an open file; one that is no regular file is closed.

    Raises:
        Unusable: it is no regular file.
    """
    try:
        _regular(os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def _regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((word for test, word in _KINDS if test(status.st_mode)), "something else")
    kind = "a link" if stat.S_ISLNK(status.st_mode) else kind
    raise Unusable(f"cannot be read (it is {kind}, no regular file)")


def read_given(path: Path, most: int = SMALL, follow: bool = True) -> bytes:
    """Return the content of a file.

    Args:
        path: the file.
        most: maximum size in bytes.
        follow: see `open_given`.

    Raises:
        Unusable: see `open_given`; or the file is too large.
    """
    with open_given(path, follow) as stream:
        try:
            data = stream.read(most + 1)
        except OSError as error:
            raise Unusable(f"cannot be read ({reason(error)})") from None
    if len(data) > most:
        raise Unusable(f"is too large; such a file has at most {most // 2**20 or 1} MB")
    return data


def text_of(data: bytes) -> str:
    """Decode a file in UTF-8, with a byte order mark or without.

    Raises:
        Unusable: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unusable("is not UTF-8 text; save it as UTF-8") from None


def json_of(data: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse a JSON file (RFC 8259: NaN and Infinity are no numbers).

    Args:
        data: content of the file.
        pairs: converts the keys and values of an object, duplicates included.

    Raises:
        Unusable: it is not JSON.
    """
    text = text_of(data)
    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        line, column = error.lineno, error.colno
        raise Unusable(f"is not valid JSON (line {line}, column {column})", line, column) from None
    except ValueError:  # NaN, or a number of thousands of digits
        raise Unusable("is not valid JSON (a number that is none, or beyond all measure)") from None
    except RecursionError:
        raise Unusable("is not valid JSON (nested too deeply)") from None


def _no_number(text: str) -> None:
    raise ValueError(text)


def yaml_of(data: bytes) -> yaml.Node | None:
    """Parse the nodes of a YAML file; None for an empty file.

    Raises:
        Unusable: it is not YAML.
    """
    import yaml

    text = text_of(data)
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise Unusable("is not YAML (nested too deeply)") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # the text of the error quotes the file
        line = mark.line + 1 if mark else 0
        raise Unusable("is not YAML; check indentation, quotes, and colons, which a blank follows", line) from None
    return node
