"""The parts of a multipart body (RFC 2046 5.1), read as they come: no part is held in memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from typing import TypeAlias

#: A piece of a body. It is to be used before the next one is asked for.
Buffer: TypeAlias = "bytes | memoryview"
#: Longest headers of a part, and longest text before the first one, in bytes.
_LONGEST_HEADERS = 64 << 10
#: What may stand between a boundary and the end of its line.
_PADDING = 64
_EMPTY_LINE = re.compile(rb"\n\r?\n")


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

    A delimiter is a whole line, so its text within a line is part of the object. Some servers end lines with LF alone:
    the first delimiter shows which it is. The length that a part tells counts only where a delimiter follows at once.

    Args:
        pieces: the body, in pieces of any length.
        boundary: parameter of the Content-Type.
    """

    def __init__(self, pieces: Iterable[bytes], boundary: str) -> None:
        self._pieces = iter(pieces)
        self._buffer, self._at = b"", 0
        # Line end and boundary. A literal text is found at some GB/s, a pattern with an optional letter in front not.
        self._sought = b"\n--" + boundary.encode("latin-1")
        self._last = False

    def __iter__(self) -> Iterator[tuple[Mapping[str, str], Iterator[memoryview]]]:
        """Yield the headers of each part, names in small letters, and its content in pieces.

        What is left of a content is read when the next part is asked for.

        Raises:
            Broken: see there.
        """
        if not self._begin():
            return
        while not self._last:
            headers = self._headers()
            content = self._content(headers.get("content-length", ""))
            yield headers, content
            for _ in content:
                pass

    def _more(self) -> bool:
        """Read one more piece behind what is left of the buffer; return whether there was one."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._buffer, self._at = self._buffer[self._at :] + piece, 0
        return True

    def _take(self, most: int) -> memoryview:
        """Return the next bytes of the buffer, without a copy."""
        piece = memoryview(self._buffer)[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def _left(self) -> int:
        return len(self._buffer) - self._at

    def _begin(self) -> bool:
        """Read past the first delimiter; return whether a part follows."""
        self._buffer = b"\n"  # it may stand at the very begin
        while (place := self._delimiter()) is None:
            if self._left() > _LONGEST_HEADERS:
                raise Broken("the answer does not begin with a delimiter")
            if not self._more():
                if not self._buffer.strip():
                    return False
                raise Broken("the answer has no delimiter")
        self._at = place[1]
        if self._buffer.endswith(b"\r\n", 0, self._at):
            self._sought = b"\r" + self._sought
        return not self._last

    def _delimiter(self) -> tuple[int, int] | None:
        """Return where the next delimiter begins (with its line end) and ends, and note whether it is the last.

        None where the buffer has no whole one.
        """
        start = self._at
        while (found := self._buffer.find(self._sought, start)) >= 0:
            after = found + len(self._sought)
            if self._buffer.startswith(b"--", after):
                self._last = True
                return found, after + 2
            end = self._buffer.find(b"\n", after, after + _PADDING)
            if end >= 0 and not self._buffer[after:end].strip():
                return found, end + 1
            if end < 0 and len(self._buffer) < after + _PADDING:
                return None  # the rest of its line has not come yet
            start = found + 1
        return None

    def _headers(self) -> dict[str, str]:
        """Read the headers of a part, with the empty line behind them."""
        while True:
            for empty in (b"\r\n", b"\n"):
                if self._buffer.startswith(empty, self._at):
                    self._at += len(empty)
                    return {}
            if found := _EMPTY_LINE.search(self._buffer, self._at):
                text = self._buffer[self._at : found.start()].decode("latin-1")
                self._at = found.end()
                pairs = (line.partition(":") for line in re.split(r"\r?\n(?![ \t])", text))
                return {name.strip().lower(): value.strip() for name, _, value in pairs}
            if self._left() > _LONGEST_HEADERS or not self._more():
                raise Broken("the answer ends, or goes on and on, in the headers of an object")

    def _content(self, length: str) -> Iterator[memoryview]:
        """Yield the content of a part, and read the delimiter behind it."""
        sought, within, tail = self._sought, False, b""
        told = left = int(length) if length.isascii() and length.isdigit() and len(length) < 16 else 0
        while left:
            if not self._left() and not self._more():
                raise Broken("the answer ends in the middle of an object")
            start, piece = self._at, self._take(left)
            left -= len(piece)
            # A delimiter may stand across two pieces.
            within = within or self._buffer.find(sought, start, self._at) >= 0 or sought in tail + piece[: len(sought)]
            tail = (tail + piece[-len(sought) :])[-len(sought) :]
            yield piece
        while told and self._left() < len(sought) and self._more():
            pass
        if told and not self._buffer.startswith(sought, self._at):
            across = tail[1:] + self._buffer[self._at : self._at + len(sought) - 1]
            if within or sought in across:
                raise Broken("an object is shorter than the answer says")
        while (place := self._delimiter()) is None:
            # The begin of a delimiter may stand at the end.
            if (safe := self._left() - len(sought) - _PADDING) > 0:
                yield self._take(safe)
            if not self._more():
                raise Broken("the answer ends in the middle of an object")
        if rest := self._take(place[0] - self._at):
            yield rest
        self._at = place[1]
