"""Files that people name: query tables, configurations, mapping files, profiles. All are opened here and nowhere else.

A path may lead anywhere: to a pipe or a device, of which to open it may never end; to itself; to a file of a terabyte;
to brackets within brackets until Python gives up. Whoever named it is told what is wrong, in words without a value.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pacsifier_ops.base.errors import InputError

if TYPE_CHECKING:
    import yaml

#: Bytes at most of a file with an entry for each patient, and of one that people write by hand.
LARGE, SMALL = 256 * 2**20, 4 * 2**20

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Unusable(InputError):
    """A file that somebody named cannot be used; the text says why, and does not name it.

    Attributes:
        line, column: where, from 1; 0 where that is not known.
    """

    def __init__(self, why: str, line: int = 0, column: int = 0) -> None:
        super().__init__(why)
        self.line, self.column = line, column


def open_given(path: Path, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        follow: through a link as well; else a link is refused: it may lead to what who put it there may not read.

    Raises:
        Unusable: it is not there, no regular file, or may not be read.
    """
    try:
        # To open a device may set it going, so it is looked at first; it may change meanwhile, so nothing waits for it.
        _regular(os.stat(path, follow_symlinks=follow))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        handle = os.open(path, flags)
        try:
            _regular(os.fstat(handle))
        except BaseException:
            os.close(handle)
            raise
        return os.fdopen(handle, "rb")
    except OSError as error:
        raise Unusable(f"cannot be read ({reason(error)})") from None
    except ValueError:  # what Python says of a NUL, or of letters that the system has none for
        raise Unusable("cannot be read (its path has characters that no path can have)") from None


def reason(error: OSError) -> str:
    """Why the system refuses a path, in words that do not name it."""
    if error.errno == errno.ELOOP:
        return "a link that leads to itself, or is not followed"
    return error.strerror or type(error).__name__


def _regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = next((word for test, word in _KINDS if test(status.st_mode)), "something else")
    kind = "a link" if stat.S_ISLNK(status.st_mode) else kind
    raise Unusable(f"cannot be read (it is {kind}, no regular file)")


def read_given(path: Path, most: int = SMALL, follow: bool = True) -> bytes:
    """The content of a file.

    Args:
        most: bytes that it may hold.
        follow: see `open_given`.

    Raises:
        Unusable: as `open_given`, or it is too large.
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
    """The text of a file in UTF-8, with a byte order mark or without.

    Raises:
        Unusable: it is none.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unusable("is not UTF-8 text; save it as UTF-8") from None


def json_of(data: bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON file (RFC 8259: neither NaN nor Infinity are numbers).

    Args:
        pairs: makes something of an object's keys and values, as they are there.

    Raises:
        Unusable: it is no JSON.
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
    """The nodes of a YAML file; None of an empty one.

    Raises:
        Unusable: it is no YAML.
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
        raise Unusable("is not YAML; check indentation, colons and quotes", line) from None
    return node
