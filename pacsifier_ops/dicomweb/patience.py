"""Waiting for an archive that says nothing: a stop is noticed within a second, however long it may take to answer."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import cache
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    import socket

    import requests
    from _typeshed import WriteableBuffer
    from urllib3.connectionpool import HTTPConnectionPool

#: Seconds between two looks at whether a stop was requested.
_LOOK = 1.0


def watch(session: requests.Session, go_on: Callable[[], None]) -> None:
    """Let whoever waits for an answer in a session call `go_on` each second; what it raises ends the wait."""
    adapter = _Adapter(go_on)
    session.mount("https://", adapter)
    session.mount("http://", adapter)


class _Adapter(HTTPAdapter):
    """Makes connections whose answers are read patiently, see `_Patient`; those through proxies and TLS as well."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        class Answer(HTTPResponse):
            def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
                super().__init__(sock, *args, **kwargs)
                raw = self.fp.detach()
                self.fp = io.BufferedReader(_Patient(raw, sock, go_on))

        @cache
        def patient(usual: type[Any]) -> type[Any]:
            return type(usual.__name__, (usual,), {"response_class": Answer})

        self._patient = patient
        super().__init__()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        if "ConnectionCls" not in vars(pool):
            pool.ConnectionCls = self._patient(pool.ConnectionCls)
        return pool


class _Patient(io.RawIOBase):
    """Reads from a socket. Its own timeout holds, and `go_on` is called while nothing comes."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, go_on: Callable[[], None]) -> None:
        self._raw, self._sock, self._go_on = raw, sock, go_on

    def readable(self) -> bool:
        return True

    def readinto(self, into: WriteableBuffer) -> int:
        limit = self._sock.gettimeout()
        until = time.monotonic() + (limit or float("inf"))
        # Short waits, and no look at whether bytes are there: those of TLS may be none of the answer.
        self._sock.settimeout(min(_LOOK, limit or _LOOK))
        try:
            while True:
                try:
                    return self._sock.recv_into(into)
                except TimeoutError:
                    self._go_on()
                    if time.monotonic() >= until:
                        raise
        finally:
            self._sock.settimeout(limit)

    def close(self) -> None:
        self._raw.close()
        super().close()
