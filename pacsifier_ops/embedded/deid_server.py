"""A De-ID service for demonstrations and tests: pseudonyms and date shifts over HTTPS, and faults on demand.

It has the interface of PACSIFIER's De-ID service: `POST <path>` and `POST <path>_shift` with a token, a project and a
list of PatientIDs. `python -m pacsifier_ops.embedded.deid_server` runs it in the foreground.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import secrets
import signal
import socket
import ssl
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pacsifier_ops.base.files import PRIVATE_FILE, read_json, write_atomic
from pacsifier_ops.embedded.authority import Authority
from pacsifier_ops.query.pseudonym import MOST_DAYS

#: Response of a proxy or a login page in place of a service.
WEB_PAGE = b"<!DOCTYPE html>\n<html><title>Please log in</title><form action='/login'></form></html>\n"


@dataclass
class ServiceFaults:
    """Faults of the service. They can be changed at any time and apply to later calls.

    Attributes:
        times: number of calls for which the faults below, down to `cut`, apply; None: all.
        status: HTTP status of responses; 0: the correct one.
        headers: additional headers of all responses, such as Retry-After and Location.
        body: content of responses in place of its JSON.
        content_type: Content-Type of responses.
        delay: seconds before a response.
        drip: seconds between two bytes of a response.
        cut: disconnects before a response, or within it.
        missing: patients that responses lack.
        prefix: text before the PatientIDs in responses.
        pseudonyms, shifts: values in place of its own, by PatientID; also for patients that were not requested.
    """

    times: int | None = None
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"
    delay: float = 0.0
    drip: float = 0.0
    cut: Literal["", "before", "within"] = ""
    missing: frozenset[str] = frozenset()
    prefix: str = ""
    pseudonyms: Mapping[str, Any] = field(default_factory=dict)
    shifts: Mapping[str, Any] = field(default_factory=dict)

    def due(self) -> bool:
        """Count a call, and return whether the counted faults apply to it."""
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass(frozen=True)
class Call:
    """A call as the service received it.

    Attributes:
        path: path of the request.
        token: content of the header `Authorization`.
        project, patients: content of the request.
    """

    path: str
    token: str
    project: str = ""
    patients: tuple[str, ...] = ()


class DeidServer:
    """The service; it runs inside the context manager.

    The pseudonyms and shifts of a project's patients are equal in all calls.

    Args:
        tls: TLS context with its certificate.
        token: token that callers must send.
        host, port: address; port 0 means a free one.
        path: path of the pseudonyms; that of the date shifts ends in `_shift`.
        faults: its faults.

    Attributes:
        calls: the calls received, in order.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        token: str,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str = "/api/pseudonyms",
        faults: ServiceFaults | None = None,
    ) -> None:
        self.token, self.host, self.path = token, host, path
        self.faults = faults or ServiceFaults()
        self.calls: list[Call] = []
        self.stopped = threading.Event()
        self._server = _Server((host, port), self, tls)
        self.port: int = self._server.server_address[1]
        self.url = f"https://{host}:{self.port}{path}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, call: Call) -> dict[str, Any]:
        """Return the values for the patients of a call, by the keys of the response."""
        shifts = call.path.endswith("_shift")
        own, changed = (shift, self.faults.shifts) if shifts else (pseudonym, self.faults.pseudonyms)
        values = {patient: own(call.project, patient) for patient in call.patients} | dict(changed)
        return {
            f"{self.faults.prefix}{patient}": value
            for patient, value in values.items()
            if patient not in self.faults.missing
        }


def _number(project: str, patient: str) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps([project, patient]).encode()).digest(), "big")


def pseudonym(project: str, patient: str) -> str:
    """Return the pseudonym of a patient in a project. It is no secret, so this is for demonstrations only."""
    return f"D{_number(project, patient) % 10**12:012d}"


def shift(project: str, patient: str) -> int:
    """Return the date shift of a patient in a project, never 0."""
    place = _number(project, patient) // 10**12 % (2 * MOST_DAYS)
    return place - MOST_DAYS if place < MOST_DAYS else place - MOST_DAYS + 1


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], service: DeidServer, tls: ssl.SSLContext) -> None:
        self.service = service
        super().__init__(address, _Handler)
        # The handshake runs in the connection's own thread, so a silent client does not block others.
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore callers that disconnect, or do not accept our certificate."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True
    server: _Server
    connection: ssl.SSLSocket

    _REFUSALS: ClassVar = {401: "Invalid token.", 404: "Not found.", 400: "Give a project and a PatientIDList."}

    def do_POST(self) -> None:
        """Respond to a call."""
        service, faults = self.server.service, self.server.service.faults
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = _call(self.path, self.headers.get("Authorization") or "", body)
        service.calls.append(call)
        due = faults.due()
        if due and faults.delay and service.stopped.wait(faults.delay):
            return
        if due and faults.cut == "before":
            self._hang_up()
            return
        status, answer = self._answer(call, _asked(body))
        if due and faults.status:
            status = faults.status
        content = json.dumps(answer).encode()
        if due and faults.body is not None:
            content = faults.body
        self.send_response(status)
        self.send_header("Content-Type", faults.content_type if due else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in faults.headers.items() if due else ():
            self.send_header(name, value)
        self.end_headers()
        if due and faults.cut == "within":
            self.wfile.write(content[: len(content) // 2])
            self._hang_up()
        elif due and faults.drip:
            for byte in content:
                self.wfile.write(bytes([byte]))
                if service.stopped.wait(faults.drip):
                    return
        else:
            self.wfile.write(content)

    def _answer(self, call: Call, patients: Sequence[str] | None) -> tuple[int, Any]:
        service = self.server.service
        if not hmac.compare_digest(call.token.encode(), f"token {service.token}".encode()):
            status = 401
        elif call.path not in (service.path, f"{service.path}_shift"):
            status = 404
        elif patients is None:
            status = 400
        else:
            return 200, service.answer(call)
        return status, {"detail": self._REFUSALS[status]}

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        # Below TLS, without its close message, like a machine that fails.
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def _asked(body: bytes) -> tuple[str, ...] | None:
    """Return the PatientIDs of a request; None where its form is wrong."""
    try:
        given = json.loads(body)
        patients = tuple(item["PatientID"] for item in given["PatientIDList"])
        well = set(given) == {"project", "PatientIDList"} and isinstance(given["project"], str)
    except (ValueError, TypeError, KeyError):
        return None
    return patients if well and all(isinstance(patient, str) for patient in patients) else None


def _call(path: str, token: str, body: bytes) -> Call:
    patients = _asked(body)
    return Call(path, token) if patients is None else Call(path, token, json.loads(body)["project"], patients)


def _token(folder: Path) -> str:
    """Return the token of the service that had the folder before, so that its clients can go on; else a new one."""
    path = folder / "config.json"
    return str(read_json(path)["deid_token"]) if path.exists() else secrets.token_urlsafe(24)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the De-ID API over HTTPS until Ctrl-C or SIGTERM. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pacsifier_ops.embedded.deid_server", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address it listens on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8444, help="0 takes a free one (default %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="gets ca.pem, and config.json with URL and token; default a temporary one"
    )
    arguments = parser.parse_args(argv)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())

    with tempfile.TemporaryDirectory(prefix="pacsifier-deid-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = Authority(folder, "ca")
        hosts = dict.fromkeys((arguments.host, "127.0.0.1", "localhost"))
        tls = authority.issue("server", *hosts).context(ssl.Purpose.CLIENT_AUTH)
        with DeidServer(tls, _token(folder), arguments.host, arguments.port) as server:
            config = {"deid_URL": server.url, "deid_token": server.token}
            write_atomic(folder / "config.json", json.dumps(config, indent=4), PRIVATE_FILE)
            print(f"the De-ID service listens on {server.url}; {authority.path}, {folder / 'config.json'}", flush=True)
            ended.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
