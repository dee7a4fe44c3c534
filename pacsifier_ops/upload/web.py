"""Destinations that speak HTTP: whole answers, and bodies that are made while they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacsifier_ops.base.config import WebNode
from pacsifier_ops.dicomweb.transport import Transport
from pacsifier_ops.upload.destination import Destination, quiet
from pacsifier_ops.upload.filestore import Reading

#: Statuses that an answer is read of; others are errors of the transport.
READ = (400, 404, 405, 409, 411, 413, 415, 422, 501)


@dataclass(frozen=True)
class Reply:
    """An answer: status, headers in small letters, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class Streamed:
    """A body of known length that is made while it is sent.

    Args:
        parts: bytes; and for each part that is made its length in bytes, and a function that yields its pieces.
    """

    def __init__(self, parts: Sequence[bytes | tuple[int, Callable[[], Iterable[bytes]]]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) if isinstance(part, bytes) else part[0] for part in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from part[1]()


def file_part(reading: Reading) -> tuple[int, Callable[[], Iterable[bytes]]]:
    """Return the part of a body that is a file."""
    return reading.size, lambda: reading


class WebDestination(Destination):
    """A destination that speaks HTTP."""

    @property
    def web(self) -> WebNode:
        """The node."""
        assert isinstance(self.node, WebNode)
        return self.node

    def connect(self, stack: ExitStack) -> None:
        """Make the transport; it connects by itself."""
        quiet("urllib3", "requests")
        self._transport = Transport(self.web, self._cancelled)
        stack.callback(self._transport.close)

    def ask(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]] = (),
        body: Streamed | None = None,
        accept: str = "application/dicom+json",
        target: Path | None = None,
        **headers: str,
    ) -> Reply:
        """Send a request and return the answer.

        Args:
            method, path, query, accept: see `Transport.ask`.
            body: what is sent.
            target: the file for the answer's body, if it is not to be in memory.
            headers: further headers, with underscores for hyphens.

        Raises:
            PacsError: no answer, or a status that is not among READ. Retryable where that may help.
        """
        self.open()
        more: dict[str, Any] = {key.replace("_", "-"): value for key, value in headers.items()}
        sent = None if body is None else lambda: body
        transport = self._transport
        with transport.ask(method, path, query, accept, more, sent, READ) as answer:
            received = {key.lower(): value for key, value in answer.headers.items()}
            if target is None:
                return Reply(answer.status_code, received, transport.whole(answer))
            with target.open("wb") as stream:
                for piece in transport.pieces(answer):
                    stream.write(piece)
            return Reply(answer.status_code, received)
