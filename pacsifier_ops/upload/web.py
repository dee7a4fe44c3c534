"""HTTP to destinations that speak it: sessions, errors in our words, and bodies that are streamed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from pacsifier_ops.base.errors import (
    AssociationAborted,
    DestinationRefused,
    OutOfResources,
    PacsTimeout,
    PacsUnreachable,
    TlsFailed,
)
from pacsifier_ops.base.waiting import pause
from pacsifier_ops.upload.destination import Destination
from pacsifier_ops.upload.filestore import PIECE
from pacsifier_ops.upload.nodes import WebNode

#: Statuses of a server that is busy.
BUSY = (429, 502, 503, 504)
#: Longest wait that it may ask for, in seconds, and largest answer that is read, in bytes.
_LONGEST, _LARGEST = 60.0, 64 << 20


@dataclass(frozen=True)
class Reply:
    """An answer: status, headers in small letters, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Streamed:
    """A body of known length that is made while it is sent.

    Args:
        parts: for each part its length in bytes, and a function that yields its pieces.
    """

    def __init__(self, parts: Sequence[tuple[int, Callable[[], Iterator[bytes]]]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(length for length, _ in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        for _, pieces in self._parts:
            yield from pieces()


class WebDestination(Destination):
    """A destination that speaks HTTP."""

    @property
    def web(self) -> WebNode:
        """The node."""
        assert isinstance(self.node, WebNode)
        return self.node

    def connect(self, stack: ExitStack) -> None:
        """Make the session; it connects by itself."""
        import requests
        from requests.auth import HTTPBasicAuth

        node, session = self.web, requests.Session()
        stack.callback(session.close)
        session.trust_env = False  # no proxy, and no login from a file, that the connection does not name
        session.verify = node.ca or True
        if node.certificate:
            session.cert = (node.certificate, node.certificate_key) if node.certificate_key else node.certificate
        if node.token:
            session.headers["Authorization"] = f"Bearer {node.token}"
        elif node.login:
            session.auth = HTTPBasicAuth(node.login.encode(), node.password.encode())
        self._session = session

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send a request and return the answer, whatever its status.

        Args:
            path: below the URL of the node, with a slash at the beginning.
            body: bytes, or `Streamed`.
            headers: with underscores for hyphens.

        Raises:
            OutOfResources: the server is busy; it was granted the time that it asked for.
            DestinationRefused: it does not let us in.
            PacsError: there was no answer.
        """
        with self._asked(method, path, body, headers) as response:
            content = response.raw.read(_LARGEST, decode_content=True)
            received = {key.lower(): value for key, value in response.headers.items()}
            return Reply(response.status_code, received, content)

    def download(self, path: str, target: Path, **headers: str) -> Reply:
        """Write the body of an answer to a file, and return the answer without it; for the arguments see `ask`."""
        with self._asked("GET", path, None, headers) as response, target.open("wb") as stream:
            for piece in response.iter_content(PIECE):
                self.go_on()
                stream.write(piece)
            received = {key.lower(): value for key, value in response.headers.items()}
            return Reply(response.status_code, received, b"")

    @contextmanager
    def _asked(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Iterator[Any]:
        self.open()
        self.go_on()
        node, name = self.web, self.node.name
        with self._errors():
            response = self._session.request(
                method,
                node.url.rstrip("/") + path,
                data=body,
                headers={key.replace("_", "-"): value for key, value in headers.items()},
                timeout=(node.connect_timeout, node.answer_timeout),
                allow_redirects=False,
                stream=True,
            )
            with response:
                status = response.status_code
                if status in BUSY:
                    pause(min(_LONGEST, _seconds(response.headers.get("retry-after", ""))), self._cancelled)
                    raise OutOfResources(f"{name}: the server is busy ({status})")
                if status in (401, 403):
                    raise DestinationRefused(f"{name}: the server does not let us in ({status}); check login or token")
                if 300 <= status < 400:
                    raise DestinationRefused(f"{name}: the server leads elsewhere ({status}); give that URL as host")
                yield response

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import requests
        from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

        name = self.node.name
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise TlsFailed(f"{name}: no TLS: check ca, certificate and key, and the host's name") from error
        except requests.exceptions.ConnectTimeout as error:
            raise PacsUnreachable(f"{name}: the server does not answer") from error
        except requests.exceptions.Timeout as error:
            raise PacsTimeout(f"{name}: the server is silent for {self.web.answer_timeout:g} s") from error
        except requests.exceptions.ConnectionError as error:
            cause = error.args[0] if error.args else None
            cause = cause.reason if isinstance(cause, MaxRetryError) else cause
            if isinstance(cause, NewConnectionError):
                raise PacsUnreachable(f"{name}: the server does not answer") from error
            raise AssociationAborted(f"{name}: the connection was lost") from error
        except (requests.exceptions.RequestException, HTTPError) as error:
            raise AssociationAborted(f"{name}: the connection was lost ({type(error).__name__})") from error


def _seconds(text: str) -> float:
    """Return the seconds of a header Retry-After (RFC 9110 10.2.3)."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
