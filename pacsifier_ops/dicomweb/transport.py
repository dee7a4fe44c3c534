"""HTTP with one web archive: login, certificates, waits that it asks for, and errors without values.

A body that is sent is a function that returns its pieces: it is asked for anew where the login has to be renewed.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from pacsifier_ops.base.config import WebNode
from pacsifier_ops.base.errors import (
    AssociationAborted,
    AssociationRejected,
    Cancelled,
    OutOfResources,
    PacsError,
    PacsTimeout,
    PacsUnreachable,
    TlsFailed,
)
from pacsifier_ops.base.quiet import quiet
from pacsifier_ops.base.start import allow
from pacsifier_ops.base.waiting import pause

if TYPE_CHECKING:
    import requests
    from requests.auth import HTTPBasicAuth

#: Longest wait in seconds that an archive may ask for before we try again (Retry-After, RFC 9110 10.2.3).
LONGEST_WAIT = 120.0
#: Bytes of one piece of a body, and of the longest answer that is not images.
BLOCK, LONGEST_ANSWER = 1 << 20, 256 << 20
#: Seconds before its end at which a token counts as expired.
_EARLY = 30.0
_BUSY = (429, 503)
#: Redirects to follow, within the archive.
_REDIRECTS = 5
#: Asks for a body, or for each of its pieces.
Body = Callable[[], Iterable[bytes]]


class Transport:
    """Sends requests to a web archive. Not thread-safe. No text of its errors has an address or what was answered.

    Args:
        node: the archive.
        cancelled: called between pieces of bodies, and each second while none comes; True ends the work.
        release: called before a wait that the archive asks for; gives back what others may wait for.
    """

    def __init__(
        self,
        node: WebNode,
        cancelled: Callable[[], bool] = lambda: False,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._node, self._cancelled, self._release = node, cancelled, release
        allow("requests")
        self._http: requests.Session | None = None
        self._token, self._token_ends = "", 0.0

    def close(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http is not None:
            http.close()

    @contextmanager
    def ask(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]] = (),
        accept: str = "application/dicom+json",
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        allowed: Iterable[int] = (),
    ) -> Iterator[requests.Response]:
        """Send a request. The answer's body is read by `pieces` or `whole`, within the context.

        Args:
            method: of HTTP.
            path: below the address of the archive, beginning with a slash.
            query: parameters.
            accept: media types.
            headers: further headers.
            body: called for the body; None: there is none.
            allowed: statuses beside 2xx that are returned; all others are raised.

        Raises:
            PacsError: no answer, or a status that is not allowed. Retryable where that may help.
        """
        answer = self._send(method, path, query, accept, headers, body)
        if answer.status_code == 401 and self._node.token_url:
            answer.close()
            self._token = ""  # the token may have ended early
            answer = self._send(method, path, query, accept, headers, body)
        try:
            if not (200 <= answer.status_code < 300 or answer.status_code in allowed):
                self._refuse(answer)
            yield answer
        finally:
            answer.close()

    def pieces(self, answer: requests.Response) -> Iterator[bytes]:
        """Yield the body of an answer as it comes.

        Raises:
            PacsError: the connection ended before the body did.
            Cancelled: a stop was requested.
        """
        packed = "Content-Encoding" in answer.headers  # urllib3 copies what it unpacks
        with self._typed():
            while True:
                self._go_on()
                piece = answer.raw.read1(BLOCK, decode_content=packed)
                if not piece:
                    return
                yield piece

    def whole(self, answer: requests.Response) -> bytes:
        """Return the body of an answer.

        Raises:
            PacsError: see `pieces`; or the answer is too long.
        """
        found = bytearray()
        for piece in self.pieces(answer):
            found += piece
            if len(found) > LONGEST_ANSWER:
                raise PacsError(f"{self._node.name}: an answer is longer than {LONGEST_ANSWER >> 20} MB")
        return bytes(found)

    def _send(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]],
        accept: str,
        headers: Mapping[str, str] | None,
        body: Body | None,
    ) -> requests.Response:
        # Some servers take + for a plus sign, and wildcards with a percent sign for other letters.
        asked = urlencode(list(query), quote_via=quote, safe="*?,")
        url = f"{self._node.url}{path}{'?' if asked else ''}{asked}"
        for _ in range(_REDIRECTS):
            answer = self._send_once(method, url, accept, headers, body)
            if not answer.is_redirect or body is not None:
                return answer
            answer.close()
            url, before = urljoin(url, answer.headers["Location"]), url
            if urlsplit(url)[:2] != urlsplit(before)[:2]:
                raise PacsError(
                    f"{self._node.name}: redirects to another place, where neither login nor requests are sent; give "
                    "the address that it redirects to in the connection, if it is the right one"
                )
        raise PacsError(f"{self._node.name}: redirects a request in circles; check the address")

    def _send_once(
        self, method: str, url: str, accept: str, headers: Mapping[str, str] | None, body: Body | None
    ) -> requests.Response:
        self._go_on()
        node = self._node
        with self._typed():
            return self._session().request(
                method,
                url,
                headers={"Accept": accept, **self._login(), **(headers or {})},
                data=None if body is None else _Pieces(body(), self._go_on),
                auth=_NoNetrc() if not node.login or node.token_url else _account(node),
                allow_redirects=False,
                stream=True,
                timeout=(node.connect_timeout, node.answer_timeout),
                # With the request: that of a session is put aside where the environment names a bundle.
                verify=node.tls_ca or None,
            )

    def _session(self) -> requests.Session:
        if self._http is None:
            import requests

            quiet("urllib3", "requests", least=logging.CRITICAL)  # they quote addresses at any level
            from pacsifier_ops.dicomweb.patience import watch

            node, self._http = self._node, requests.Session()
            watch(self._http, self._go_on)
            if node.tls_certificate:
                self._http.cert = (node.tls_certificate, node.tls_key) if node.tls_key else node.tls_certificate
        return self._http

    def _login(self) -> dict[str, str]:
        """Return the header of a bearer token."""
        node = self._node
        if node.token_url:
            return {"Authorization": f"Bearer {self._client_token()}"}
        return {"Authorization": f"Bearer {node.password}"} if node.password and not node.login else {}

    def _client_token(self) -> str:
        """Return the token of the OAuth 2 client (RFC 6749 4.4), a new one where the last has ended.

        Raises:
            AssociationRejected: the client gets none.
        """
        if self._token and time.monotonic() < self._token_ends:
            return self._token
        node = self._node
        asked = {"grant_type": "client_credentials", **({"scope": node.scope} if node.scope else {})}
        answer = self._session().post(
            node.token_url,
            data=asked,
            auth=_account(node),
            headers={"Accept": "application/json"},
            timeout=(node.connect_timeout, node.answer_timeout),
            verify=node.tls_ca or None,
            allow_redirects=False,
        )
        if answer.status_code in _BUSY or answer.status_code >= 500:
            raise PacsUnreachable(f"{node.name}: the service of tokens answers with HTTP {answer.status_code}")
        try:
            told = answer.json() if answer.ok else {}
            self._token, lasts = str(told["access_token"]), float(told.get("expires_in", 300))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise AssociationRejected(
                f"{node.name}: the service of tokens gives none (HTTP {answer.status_code}); check token_url, scope, "
                "and the login and password of the client"
            ) from None
        self._token_ends = time.monotonic() + max(0.0, lasts - _EARLY)
        return self._token

    def _go_on(self) -> None:
        if self._cancelled():
            raise Cancelled("stopped on request")

    def _refuse(self, answer: requests.Response) -> None:
        """Raise the error of a status (RFC 9110 15). Where the archive asks for a wait, it is over then."""
        name, status = self._node.name, answer.status_code
        if status in (401, 403, 407):
            raise AssociationRejected(
                f"{name}: refuses us (HTTP {status}); check login, password, token or certificate of the connection, "
                "and what the account may do"
            )
        if status in _BUSY:
            if wait := min(_wait_of(answer), LONGEST_WAIT):
                self._release()
                pause(wait, self._cancelled)
            raise OutOfResources(f"{name}: is busy (HTTP {status})")
        if status == 408 or status >= 500:
            raise AssociationAborted(f"{name}: failed with HTTP {status}; its log tells more")
        raise PacsError(f"{name}: refuses a request (HTTP {status}); check the address of the connection")

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Turn errors of `requests` and `urllib3` into ours. Theirs quote addresses, with UIDs in them."""
        import requests
        import urllib3

        name = self._node.name
        try:
            yield
        except (requests.exceptions.SSLError, urllib3.exceptions.SSLError):
            raise TlsFailed(
                f"{name}: no TLS connection; check the address, and tls_ca, tls_certificate and tls_key"
            ) from None
        except (requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError):
            raise PacsUnreachable(
                f"{name}: no connection within {self._node.connect_timeout:g} s; check the address"
            ) from None
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
            raise PacsTimeout(f"{name}: no answer within {self._node.answer_timeout:g} s") from None
        except requests.exceptions.ChunkedEncodingError:
            raise AssociationAborted(f"{name}: the connection ended in the middle of an answer") from None
        except requests.exceptions.ConnectionError as error:
            if _was_connected(error):
                raise AssociationAborted(f"{name}: closed the connection") from None
            raise PacsUnreachable(f"{name}: cannot be reached; check the address, and that it runs") from None
        except (urllib3.exceptions.HTTPError, ConnectionError):
            raise AssociationAborted(f"{name}: the connection ended in the middle of an answer") from None
        except (requests.exceptions.RequestException, OSError) as error:
            if isinstance(error, requests.exceptions.RequestException):
                raise PacsError(f"{name}: a request failed ({type(error).__name__}); check the address") from None
            if getattr(error, "filename", None) in (None, self._node.tls_ca, self._node.tls_certificate):
                raise TlsFailed(f"{name}: tls_ca, tls_certificate or tls_key cannot be read on this machine") from None
            raise


class _Pieces:
    """A body. Its length is told where it is known: servers want that, and a body that breaks off is then noticed."""

    def __init__(self, pieces: Iterable[bytes], between: Callable[[], None]) -> None:
        self._pieces, self._between = pieces, between
        if isinstance(pieces, Sized):
            self.len = len(pieces)  # `requests` looks for this attribute

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._between()
            yield piece


class _NoNetrc:
    """Leaves a request as it is. Without an `auth`, `requests` would look for a login in the user's .netrc."""

    def __call__(self, request: Any) -> Any:
        return request


def _account(node: WebNode) -> HTTPBasicAuth:
    """Return login and password of HTTP Basic. `requests` would encode text in Latin-1, which servers rarely expect."""
    from requests.auth import HTTPBasicAuth

    return HTTPBasicAuth(node.login.encode(), node.password.encode())


def _was_connected(error: Exception) -> bool:
    """Return whether the connection was there when it failed."""
    text = repr(error)
    return any(word in text for word in ("RemoteDisconnected", "ConnectionReset", "BrokenPipe", "Connection aborted"))


def _wait_of(answer: requests.Response) -> float:
    """Return the seconds of Retry-After (RFC 9110 10.2.3), 0 where there is none that can be read."""
    told = answer.headers.get("Retry-After", "").strip()
    if told.isdigit():
        return float(told[:9])
    try:
        until = parsedate_to_datetime(told)
        return max(0.0, (until - dt.datetime.now(until.tzinfo or dt.UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
