"""The parts of a multipart body (RFC 2046 5.1), read as they come: no part is held in memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message

#: Longest headers of a part, in bytes.
_LONGEST_HEADERS = 64 << 10


class Broken(ValueError):
    """The body is not multipart as its header says, or ended before its last delimiter."""


def media_type(header: str) -> tuple[str, dict[str, str]]:
    """Return a Content-Type's type and subtype in small letters, and its parameters."""
    message = Message()
    message["Content-Type"] = header
    params = {str(name).lower(): str(value) for name, value in message.get_params(failobj=[])[1:]}
    return message.get_content_type() if header.strip() else "", params


class Parts:
    """Reads the parts of a body one after the other.

    Some servers end lines with LF alone; this is understood. A delimiter is a whole line, so its text within an object
    is part of the object. Where a part says its length, exactly so many bytes belong to it.

    Args:
        pieces: the body, in pieces of any length.
        boundary: parameter of the Content-Type.
    """

    def __init__(self, pieces: Iterable[bytes], boundary: str) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""
        self._over = False
        mark = re.escape(b"--" + boundary.encode("latin-1"))
        # A delimiter at the begin, and one after an object; what comes after the last one does not count.
        self._first = re.compile(rb"(?:\A|\n)" + mark + rb"(?P<last>--)?[ \t]*(?:\r?\n|\Z)")
        self._next = re.compile(rb"\r?\n" + mark + rb"(?:(?P<last>--)|[ \t]*\r?\n)")
        self._keep = len(boundary) + 80
        self._begun = False

    def __iter__(self) -> Iterator[tuple[Mapping[str, str], Iterator[bytes]]]:
        """Yield the headers of each part, names in small letters, and its content in pieces.

        A content must be read to its end before the next part is asked for.

        Raises:
            Broken: see there.
        """
        if not self._begin():
            return
        last = False
        while not last:
            headers = self._headers()
            content = self._content(headers.get("content-length", ""))
            yield headers, content
            for _ in content:
                pass
            last = self._last

    def _more(self) -> bool:
        """Read one more piece into the buffer; return whether there was one."""
        piece = next(self._pieces, None)
        if piece is None:
            self._over = True
            return False
        self._buffer += piece
        return True

    def _begin(self) -> bool:
        """Read up to the first delimiter; return whether a part follows."""
        while not (found := self._first.search(self._buffer)) or (
            found.end() == len(self._buffer) and not found["last"] and not self._over
        ):
            if len(self._buffer) > _LONGEST_HEADERS:
                raise Broken("the answer does not begin with a delimiter")
            if not self._more():
                if not self._buffer.strip():
                    return False
                if not found:
                    raise Broken("the answer has no delimiter")
                break
        self._buffer = self._buffer[found.end() :] if found else b""
        return bool(found) and not found["last"]

    def _headers(self) -> dict[str, str]:
        """Read the headers of a part, with the empty line behind them."""
        while True:
            if self._buffer.startswith((b"\r\n", b"\n")):
                self._buffer = self._buffer.split(b"\n", 1)[1]
                return {}
            if found := re.search(rb"\r?\n\r?\n", self._buffer):
                lines = re.split(r"\r?\n(?![ \t])", self._buffer[: found.start()].decode("latin-1"))
                self._buffer = self._buffer[found.end() :]
                pairs = (line.partition(":") for line in lines)
                return {name.strip().lower(): value.strip() for name, _, value in pairs}
            if len(self._buffer) > _LONGEST_HEADERS or not self._more():
                raise Broken("the answer ends, or goes on and on, in the headers of an object")

    def _content(self, length: str) -> Iterator[bytes]:
        """Yield the content of a part, and read the delimiter behind it."""
        left = int(length) if length.isdigit() and len(length) < 16 else 0
        while left:
            if not self._buffer and not self._more():
                raise Broken("the answer ends in the middle of an object")
            piece, self._buffer = self._buffer[:left], self._buffer[left:]
            left -= len(piece)
            if piece:
                yield piece
        while not (found := self._next.search(self._buffer)):
            # The begin of a delimiter may stand at the end.
            if (safe := len(self._buffer) - self._keep) > 0:
                piece, self._buffer = self._buffer[:safe], self._buffer[safe:]
                yield piece
            if not self._more():
                raise Broken("the answer ends in the middle of an object")
        if found.start():
            yield self._buffer[: found.start()]
        self._last = bool(found["last"])
        self._buffer = self._buffer[found.end() :]
