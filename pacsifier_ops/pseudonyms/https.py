"""Posts JSON over HTTPS to a service that authenticates us by a token.

It uses the adapter of requests without a session. A session would send the token to redirects, take another token from
.netrc, and let the environment replace the trusted authorities.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from requests.utils import resolve_proxies
from urllib3 import exceptions as urllib3

from pacsifier_ops.base.errors import ConfigError, DeidError, DeidUnavailable
from pacsifier_ops.dimse.tls import context_for

#: Maximum size of a response in bytes; that of a batch is a thousandth of it.
_LARGEST = 1 << 26
_PIECE = 1 << 16

#: Advice by OpenSSL's error code of a certificate (X509_V_ERR_…); for other codes, the authority is unknown.
_ADVICE = {
    9: "it is not valid yet; check the clocks of both machines",
    10: "it has expired; have it renewed",
    62: "it names another host; give the host as the certificate names it",
    64: "it names another host; give the host by the name in the certificate, not by its address",
}
_UNKNOWN = "it comes from no authority that is trusted; give the file of the hospital's authorities as ca"


@dataclass(frozen=True)
class HttpAnswer:
    """The response of a service."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Adapter(HTTPAdapter):
    """Uses our TLS context, whatever the caller or the environment requests for verification."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(*args, ssl_context=self._context, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        conn.cert_reqs = "CERT_REQUIRED"


class Caller:
    """Calls a service. The connection stays open between calls, inside the context manager.

    Args:
        where: name of the place in errors.
        ca: PEM file of the authorities of the service's certificate; empty: those of the system.
        connect_timeout: seconds for the connection.
        read_timeout: seconds from the request to the last byte of the response.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, where: str, ca: str, connect_timeout: float, read_timeout: float) -> None:
        self._where, self._timeouts = where, (connect_timeout, read_timeout)
        if ca and not Path(ca).is_file():
            raise ConfigError(f"{where}: ca: there is no such file")
        try:
            self._adapter = _Adapter(context_for(ssl.Purpose.SERVER_AUTH, ca))
        except OSError:
            raise ConfigError(f"{where}: ca holds no certificate in PEM format") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._adapter.close()

    def post(self, url: str, authorization: str, content: Any) -> HttpAnswer:
        """Post JSON once.

        Args:
            url: URL of the service.
            authorization: value of the Authorization header.
            content: JSON-ready content.

        Raises:
            DeidUnavailable: there was no response, or an incomplete one.
            DeidError: the connection is not trusted, or the response far too large.
        """
        headers = {"Authorization": authorization, "Accept": "application/json"}
        try:
            request = requests.Request("POST", url, headers, json=content).prepare()
            response = self._adapter.send(
                request,
                stream=True,
                timeout=self._timeouts,
                verify=True,
                proxies=resolve_proxies(request, None, True),
            )
            with response:
                return HttpAnswer(response.status_code, response.headers, self._body(response.raw))
        except (urllib3.HTTPError, OSError) as error:  # requests' own errors are OSErrors
            wrong = self._explain(error)
        raise wrong

    def _body(self, raw: Any) -> bytes:
        until, body = time.monotonic() + self._timeouts[1], b""
        while piece := raw.read1(_PIECE, decode_content=True):
            body += piece
            if len(body) > _LARGEST:
                raise DeidError(f"{self._where}: the answer is far too large; check the URL")
            if time.monotonic() > until:
                raise DeidUnavailable(f"{self._where}: {self._silent}")
        return body

    @property
    def _silent(self) -> str:
        return f"no whole answer within {self._timeouts[1]:g} s; it may be busy, or batch_size too large for it"

    def _explain(self, error: Exception) -> DeidError:
        """Explain a failed call to an administrator."""
        causes = list(_causes(error))

        def found(*kinds: type[BaseException]) -> Any:
            return next((cause for cause in causes if isinstance(cause, kinds)), None)

        if refused := found(ssl.SSLCertVerificationError):
            advice = _ADVICE.get(refused.verify_code, _UNKNOWN)
            return DeidError(f"{self._where}: its certificate is not accepted ({refused.verify_message}): {advice}")
        if found(requests.exceptions.ProxyError, urllib3.ProxyError):
            why = "the proxy of this machine does not lead to it; check HTTPS_PROXY, or name the host in NO_PROXY"
        elif found(socket.gaierror):
            why = "the name of the host is not known; check it, or how this machine resolves names"
        elif found(ConnectionRefusedError):
            why = "nothing listens there; check host and port, and that the service runs"
        elif found(requests.exceptions.ConnectTimeout):
            why = f"no connection within {self._timeouts[0]:g} s; check the host, and that no firewall is in between"
        elif found(requests.exceptions.ReadTimeout, urllib3.ReadTimeoutError, TimeoutError):
            why = self._silent
        elif found(ssl.SSLError) and not found(ssl.SSLEOFError, ssl.SSLZeroReturnError):
            reason = found(ssl.SSLError).reason or "no reason given"
            return DeidError(f"{self._where}: no TLS connection came about ({reason}); does it speak TLS at this port?")
        elif found(requests.exceptions.InvalidURL, urllib3.LocationParseError):
            return DeidError(f"{self._where}: the URL names no host; check it")
        elif found(urllib3.ProtocolError, ssl.SSLError, ConnectionError):
            why = "it hung up before its answer was whole"
        else:
            reason = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), "")
            why = f"there is no way to it ({reason or type(causes[-1]).__name__}); check the host and the network"
        return DeidUnavailable(f"{self._where}: {why}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes: requests and urllib3 wrap errors as arguments of others."""
    found: list[BaseException] = [error]
    for one in found:
        yield one
        for other in (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__):
            if isinstance(other, BaseException) and not any(other is known for known in found):
                found.append(other)
