"""A DICOMweb server of our own (PS3.18) that holds files, is correct by default, and fails as it is told to.

Services: QIDO-RS (10.6), WADO-RS of studies, series, instances and their metadata (10.4), STOW-RS (10.5), and a token
endpoint of OAuth2 client credentials (RFC 6749, 4.4). It is made for tests of clients, from the standard and from what
others reported of servers; it knows nothing of our client.

A fault has a name, a value, and may happen only a number of times, only after a number of requests, or only for some
paths:

    any of `qido.`, `wado.`, `stow.`, `any.` +
      status      {"status": 503, "headers": {...}, "body": b"..."}: this instead of an answer
      html        200 with a login page
      drop        the connection ends without an answer
      cut         fraction of the body after which the connection ends
      silent      seconds before the answer begins
      trickle     (bytes, seconds): so many bytes at a time, with a wait after each
      redirect    302 to this URL; `{path}` in it is replaced
      redirect_code   another status of it
      gzip        Content-Encoding: gzip, whatever was asked for
      chunked     Transfer-Encoding: chunked instead of a Content-Length

    qido.page_limit     never more than so many results at once; says so in a Warning 299
    qido.silent_limit   the same, and does not say so
    qido.total          X-Total-Count: "right", or what it lies
    qido.warning        text of a Warning 299 that tells something else
    qido.ignore_offset  always the first page
    qido.unstable       every page of another order
    qido.none           how nothing is told: "204" (as the standard has it), "empty" (200, no body), "list" (200, [])
    qido.refuse_key     400 for a request with this keyword
    qido.ignore_key     does not match by this keyword
    qido.ignore_all     returns all there is
    qido.vr             {keyword: VR}: another VR than that of the dictionary
    qido.no_value       keyword that comes without a Value
    qido.no_key         keyword that does not come
    qido.bulk           keyword that comes with a BulkDataURI instead of a Value
    qido.text_numbers   numbers as JSON strings
    qido.latin1         text in Latin-1 instead of UTF-8
    qido.duplicate      every result twice
    qido.foreign        one more result, of this SOP Instance UID, whatever was asked for
    qido.xml            dicom+xml although JSON was asked for
    qido.object         one object instead of a list of them

    wado.boundary       how the header names it: "quoted" (as it does), "unquoted", "missing", "wrong"
    wado.delimiter      the boundary itself
    wado.lf             LF instead of CRLF
    wado.preamble, wado.epilogue   bytes before and after the parts
    wado.no_close       no closing delimiter
    wado.short          bytes that lack at the end of the body; HTTP's own frame is right
    wado.part_type      Content-Type of a part; "" is none
    wado.part_length    Content-Length of parts: "right", or what it lies
    wado.single         application/dicom without multipart
    wado.wrong          SOP Instance UID of the object that comes for the first asked for
    wado.twice          the first object comes twice
    wado.foreign        SOP Instance UID of an object that comes on top
    wado.partial        206, with so many objects only
    wado.leave_out      SOP Instance UID that does not come with its series, with 200
    wado.missing        SOP Instance UID that is unknown: 404 for it, left out elsewhere
    wado.no_star        406 for transfer-syntax=*
    wado.transcode      everything comes in Explicit VR Little Endian, asked for or not
    wado.truncate       bytes that lack at the end of each object, in a frame that is right
    wado.header         a header of this many bytes before the first part
    wado.zip            application/zip

    stow.refuse         {SOP Instance UID or "*": Failure Reason}
    stow.exists         Failure Reason for what is there already
    stow.code           this status, whatever became of the objects
    stow.no_body        no body, whatever became of the objects
    stow.limit          413 for requests of more bytes
    stow.no_chunks      411 for requests without Content-Length
    stow.drop_after     the connection ends after so many parts; they are stored
    stow.drop_before    the connection ends after so many parts; nothing is stored
    stow.lost           all is stored, and the connection ends without an answer
    stow.nothing        200 without a body, and nothing is stored
    stow.forget         SOP Instance UID that is reported as stored, and is not
    stow.warn           Warning Reason for all, with 202
    stow.xml            answers in XML although JSON was asked for
    stow.late           number of searches that do not see yet what was stored
    stow.coerce         {keyword: value} written into what is stored
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import gzip
import itertools
import json
import mmap
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian

Key = tuple[str, str, str]
#: Study, Series and SOP Instance UID.

LOGIN_PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body><form>Please log in</form></body></html>"

_STUDY = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
)
_SERIES = (
    "Modality",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "RequestAttributesSequence",
    "BodyPartExamined",
    "ProtocolName",
)
_INSTANCE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "InstanceNumber",
    "Rows",
    "Columns",
    "BitsAllocated",
    "NumberOfFrames",
)


@dataclass
class Fault:
    """One fault.

    Attributes:
        name, value: see the module's docstring.
        times: how often it happens; None is always.
        after: how often it does not happen before.
        path: happens only where the path of the request matches this regular expression somewhere.
    """

    name: str
    value: Any = True
    times: int | None = None
    after: int = 0
    path: str = ""


@dataclass(frozen=True)
class Request:
    """A request as it came.

    Attributes:
        path: without the query, below the server's root.
        query: pairs in their order.
        headers: names in lower case.
        status: of the answer; 0 where there was none.
        size: bytes of its body.
        service: qido, wado, stow or token; those who build on this server have others.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    status: int
    size: int
    service: str


class _Drop(Exception):
    """End the connection now, by a reset, or where `quiet` by an end that looks regular."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__()
        self.quiet = quiet


@dataclass
class FaultyWeb:
    """The server.

    Attributes:
        folder: what it is given is kept below it.
        faults: what goes wrong; to be changed at any time.
        user, password: basic authentication; empty is none.
        token: bearer token; empty is none.
        client: id and secret that get a token at `token_url`; None is no such endpoint.
        uses: requests that a token of `token_url` is good for; None is any number.
        tls: SSL context to serve with; None is none.
        host: name by which it is called.
        root: path of DICOMweb.
        pages: results at once where the request names no limit.
        errors: what the server itself did wrong; a test that saw one proves nothing.
    """

    folder: Path
    faults: list[Fault] = field(default_factory=list)
    user: str = ""
    password: str = ""
    token: str = ""
    client: tuple[str, str] | None = None
    uses: int | None = None
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    root: str = "/dicom-web"
    pages: int | None = None

    held: dict[Key, Path] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    sent: int = 0
    received: int = 0

    _heads: dict[Key, Dataset] = field(default_factory=dict)
    _hidden: dict[Key, int] = field(default_factory=dict)
    _tokens: dict[str, int | None] = field(default_factory=dict)
    _now: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def handler(self) -> type[Handler]:
        """What answers requests."""
        return Handler

    # What a test does with it.

    def start(self) -> None:
        web = self

        class Bound(self.handler):  # type: ignore[name-defined]
            server_web = web

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """Keep what the server itself did wrong; clients that end a connection are no news."""
                if not isinstance(sys.exception(), OSError):
                    web.errors.append(traceback.format_exc())

        self.folder.mkdir(parents=True, exist_ok=True)
        self._server = Server(("127.0.0.1", 0), Bound)
        if self.tls:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(20)
            self._server = None

    def __enter__(self) -> FaultyWeb:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def origin(self) -> str:
        assert self._server
        return f"http{'s' if self.tls else ''}://{self.host}:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """Base of DICOMweb."""
        return self.origin + self.root

    @property
    def token_url(self) -> str:
        return self.origin + "/token"

    def load(self, files: Iterable[Path]) -> None:
        """Hold files as they are; nothing is copied."""
        for path in files:
            self._hold(path)

    def fail(self, name: str, value: Any = True, **how: Any) -> Fault:
        """Add a fault."""
        fault = Fault(name, value, **how)
        with self._lock:
            self.faults.append(fault)
        return fault

    def reset(self) -> None:
        """No faults, no memory of requests; what it holds stays."""
        with self._lock:
            self.faults.clear()
            self.requests.clear()
            self.happened.clear()
            self._hidden.clear()
            self.peak = self.sent = self.received = 0

    def clear(self) -> None:
        """`reset`, and hold nothing."""
        self.reset()
        with self._lock:
            self.held.clear()
            self._heads.clear()

    def contents(self) -> dict[str, bytes]:
        """SOP Instance UID → bytes of all it holds."""
        found: dict[str, bytes] = {}
        for (_, _, uid), path in self.held.items():
            assert uid not in found
            found[uid] = path.read_bytes()
        return found

    def count(self, service: str = "", status: int | None = None) -> int:
        """Number of requests for a service (qido, wado, stow, token) that were answered so."""
        return sum(
            (not service or one.service == service) and (status is None or one.status == status)
            for one in self.requests
        )

    # What the handler asks.

    def take(self, name: str, path: str = "") -> Any:
        """Value of a fault that is to happen now; None is none."""
        with self._lock:
            for fault in self.faults:
                if fault.name != name or fault.times == 0 or not re.search(fault.path, path):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                self.happened[name] += 1
                return fault.value
        return None

    def _hold(self, path: Path) -> Key:
        head = dcmread(path, stop_before_pixels=True, force=True)
        key = (str(head.StudyInstanceUID), str(head.SeriesInstanceUID), str(head.SOPInstanceUID))
        with self._lock:
            self.held[key] = path
            self._heads[key] = head
        return key

    def heads(self) -> list[tuple[Key, Dataset]]:
        with self._lock:
            return [(key, head) for key, head in self._heads.items() if self._hidden.get(key, 0) <= 0]

    def searched(self) -> None:
        """One search more: what is hidden for a number of them comes nearer."""
        with self._lock:
            for key in self._hidden:
                self._hidden[key] -= 1

    def issue(self) -> str:
        word = f"token-{uuid.uuid4().hex}"
        with self._lock:
            self._tokens[word] = self.uses
        return word

    def admits(self, header: str) -> bool:
        """Whether an Authorization header opens it."""
        kind, _, word = header.partition(" ")
        with self._lock:
            if not (self.user or self.token or self.client):
                return True
            if self.user and kind.lower() == "basic":
                return word == base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if kind.lower() != "bearer":
                return False
            if self.token and word == self.token:
                return True
            left = self._tokens.get(word, 0)
            if left is not None and left <= 0:
                return False
            self._tokens[word] = left if left is None else left - 1
            return True


class Handler(BaseHTTPRequestHandler):
    server_web: FaultyWeb
    protocol_version = "HTTP/1.1"
    #: Seconds after which a client that says nothing is left.
    timeout = 60

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_OPTIONS(self) -> None:
        self._serve()

    def _serve(self) -> None:
        web = self.server_web
        parts = urlsplit(self.path)
        self.below = unquote(parts.path).removeprefix(web.root)
        self.query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        self.service = self._kind()
        self.status = self.size = 0
        self.read = False
        with web._lock:
            web._now += 1
            web.peak = max(web.peak, web._now)
        try:
            self._route()
        except (_Drop, OSError) as error:
            self.close_connection = True
            with contextlib.suppress(OSError):
                if not getattr(error, "quiet", False):
                    # To linger for no time is to reset.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
        finally:
            headers = {name.lower(): value for name, value in self.headers.items()}
            with web._lock:
                web._now -= 1
                web.requests.append(
                    Request(self.command, self.below, self.query, headers, self.status, self.size, self.service)
                )

    def _kind(self) -> str:
        """Name of the service."""
        if self.below.endswith("/token"):
            return "token"
        if self.command == "POST":
            return "stow"
        names = self.below.strip("/").split("/")
        return "qido" if names[-1] in ("studies", "series", "instances") else "wado"

    def _route(self) -> None:
        web = self.server_web
        if self.service == "token":
            return self._token()
        if not self._admitted():
            self._skip_body()
            scheme = "Bearer" if web.token or web.client else "Basic"
            return self._answer(401, b"", {"WWW-Authenticate": f'{scheme} realm="pacs"'})
        if (status := self._fault("status")) is not None:
            self._skip_body()
            return self._answer(status["status"], status.get("body", b""), status.get("headers", {}))
        if self._fault("html"):
            self._skip_body()
            return self._answer(200, LOGIN_PAGE, {"Content-Type": "text/html; charset=utf-8"})
        if self._fault("drop"):
            raise _Drop
        if (silence := self._fault("silent")) is not None:
            time.sleep(silence)
        if (target := self._fault("redirect")) is not None:
            self._skip_body()
            code = self._fault("redirect_code") or 302
            return self._answer(code, b"", {"Location": target.replace("{path}", self.path)})
        return self._work()

    def _admitted(self) -> bool:
        return self.server_web.admits(self.headers.get("Authorization", ""))

    def _heads(self) -> list[tuple[Key, Dataset]]:
        """What can be found."""
        return self.server_web.heads()

    def _forbidden(self, key: Key) -> int | None:
        """Failure Reason of an object that may not be stored."""
        return None

    def _kept(self, key: Key) -> None:
        """An object was stored."""

    def _work(self) -> None:
        """Answer a request that may come in, and that nothing general goes wrong with."""
        if self.command == "POST":
            return self._stow()
        names = self.below.strip("/").split("/")
        return self._qido(names) if self.service == "qido" else self._wado(names)

    def _fault(self, name: str) -> Any:
        """A fault of this service, or of any."""
        web = self.server_web
        found = web.take(f"{self.service}.{name}", self.below)
        return web.take(f"any.{name}", self.below) if found is None else found

    def _own(self, name: str) -> Any:
        return self.server_web.take(f"{self.service}.{name}", self.below)

    # Answers.

    def _answer(self, status: int, body: bytes | list[bytes | Path], headers: dict[str, str] | None = None) -> None:
        """Send an answer; its body may come in pieces, of bytes and of files."""
        web = self.server_web
        pieces: list[bytes | Path] = [body] if isinstance(body, bytes) else body
        given = dict(headers or {})
        if status != 204 and self._fault("gzip"):
            pieces = [gzip.compress(b"".join(_bytes(piece) for piece in pieces))]
            given["Content-Encoding"] = "gzip"
        total = sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in pieces)
        cut = self._fault("cut")
        left = total if cut is None else max(0, min(total - 1, int(total * cut)))
        chunked = bool(self._fault("chunked")) and status not in (204, 304)
        trickle = self._fault("trickle")
        self.status = status
        self.send_response(status)
        for name, value in given.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif status != 204:
            self.send_header("Content-Length", str(total))
        self.end_headers()
        for block in _blocks(pieces, trickle[0] if trickle else 1 << 16):
            part = block[:left]
            left -= len(part)
            if chunked:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if part else b"")
            else:
                self.wfile.write(part)
            with web._lock:
                web.sent += len(part)
            if left <= 0 and cut is not None:
                raise _Drop(quiet=True)
            if trickle:
                time.sleep(trickle[1])
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    # Requests with a body.

    def _body(self, seen: Callable[[bytes], None] = lambda _: None) -> Path:
        """The body in a file; `seen` gets every block as it comes."""
        web = self.server_web
        self.read = True
        path = web.folder / f"body-{next(web._numbers)}"
        with path.open("wb") as out:
            for block in self._incoming():
                out.write(block)
                self.size += len(block)
                with web._lock:
                    web.received += len(block)
                seen(block)
        return path

    def _incoming(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                while size:
                    block = self.rfile.read(min(size, 1 << 16))
                    if not block:
                        raise _Drop
                    size -= len(block)
                    yield block
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            block = self.rfile.read(min(left, 1 << 16))
            if not block:
                raise _Drop
            left -= len(block)
            yield block

    def _skip_body(self) -> None:
        if self.command in ("POST", "PUT") and not self.read:
            self._body().unlink()

    def _token(self) -> None:
        web = self.server_web
        body = self._body()
        form = {name: values[0] for name, values in parse_qs(body.read_text()).items()}
        body.unlink()
        if (status := web.take("token.status")) is not None:
            return self._answer(status["status"], status.get("body", b""), status.get("headers", {}))
        kind, _, word = self.headers.get("Authorization", "").partition(" ")
        given = (form.get("client_id", ""), form.get("client_secret", ""))
        if kind.lower() == "basic":
            name, _, secret = base64.b64decode(word).decode().partition(":")
            given = (unquote(name), unquote(secret))
        if given != web.client or form.get("grant_type") != "client_credentials":
            return self._json(401, {"error": "invalid_client"})
        seconds = web.take("token.seconds")
        return self._json(
            200,
            {"access_token": web.issue(), "token_type": "Bearer", "expires_in": 3600 if seconds is None else seconds},
        )

    def _json(self, status: int, content: Any, kind: str = "application/json", **headers: str) -> None:
        self._answer(status, json.dumps(content, ensure_ascii=False).encode(), {"Content-Type": kind, **headers})

    # QIDO-RS, PS3.18 10.6.

    def _qido(self, names: list[str]) -> None:
        web = self.server_web
        level = names[-1]
        keys: dict[str, str] = {}
        fields: set[str] = set()
        limit, offset = web.pages, 0
        for name, value in self.query:
            if name == "limit":
                limit = int(value)
            elif name == "offset":
                offset = int(value)
            elif name == "includefield":
                fields |= {_keyword(one) for one in value.split(",")}
            elif name != "fuzzymatching":
                keys[_keyword(name)] = value
        refused = self._own("refuse_key")
        if refused in keys or any(tag_for_keyword(one) is None for one in keys):
            return self._answer(400, b"unknown attribute", {"Content-Type": "text/plain"})
        if self._own("ignore_all"):
            keys = {}
        if (ignored := self._own("ignore_key")) is not None:
            keys.pop(ignored, None)
        for place, keyword in (("studies", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
            if place in names[:-1]:
                keys[keyword] = names[names.index(place) + 1]
        results = list(self._results(level, keys, fields, relational="studies" not in names[:-1]))
        web.searched()
        if (uid := self._own("foreign")) is not None:
            results += [
                one
                for one in self._results(level, {}, fields, True, of=uid)
                if one["0020000D"] not in [other["0020000D"] for other in results]
            ]
        if self._own("duplicate"):
            results = [one for result in results for one in (result, result)]
        total = len(results)
        if self._own("unstable"):
            random.Random(web.happened["qido.unstable"]).shuffle(results)
        if self._own("ignore_offset"):
            offset = 0
        headers = {}
        ceiling, silent = self._own("page_limit"), self._own("silent_limit")
        for one in (ceiling, silent):
            limit = min(one, limit or one) if one is not None else limit
        page = results[offset:] if limit is None else results[offset : offset + limit]
        more = total - offset - len(page)
        if ceiling is not None and more > 0:
            headers["Warning"] = (
                f'299 {self.headers["Host"]}: "There are {more} additional results that can be requested"'
            )
        if (said := self._own("warning")) is not None:
            headers["Warning"] = f'299 {self.headers["Host"]}: "{said}"'
        if (said := self._own("total")) is not None:
            headers["X-Total-Count"] = str(total if said == "right" else said)
        none = self._own("none") or "204"
        if not page and none in ("204", "empty"):
            return self._answer(204 if none == "204" else 200, b"", headers)
        self._spoil(page)
        if self._own("xml"):
            body = b'<?xml version="1.0" encoding="UTF-8"?><NativeDicomModel xml:space="preserve"/>'
            return self._answer(200, body, {"Content-Type": "application/dicom+xml", **headers})
        content: Any = page[0] if self._own("object") and page else page
        text = json.dumps(content, ensure_ascii=False)
        body = text.encode("latin-1", "replace") if self._own("latin1") else text.encode()
        return self._answer(200, body, {"Content-Type": "application/dicom+json", **headers})

    def _results(
        self, level: str, keys: dict[str, str], fields: set[str], relational: bool, of: str = ""
    ) -> Iterator[dict[str, Any]]:
        heads = self._heads()
        depth = {"studies": 1, "series": 2, "instances": 3}[level]
        groups: dict[tuple[str, ...], list[tuple[Key, Dataset]]] = {}
        for key, head in heads:
            groups.setdefault(key[:depth], []).append((key, head))
        for name, members in sorted(groups.items()):
            if of and not any(key[2] == of for key, _ in members):
                continue
            found = self._describe(name, members, heads)
            if not all(_matches(found, keyword, value) for keyword, value in keys.items()):
                continue
            wanted = [*_STUDY, "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"]
            if depth > 1:
                wanted = [*(wanted if relational else ["StudyInstanceUID"]), *_SERIES, "NumberOfSeriesRelatedInstances"]
            if depth > 2:
                wanted = [*wanted, *_INSTANCE, "AvailableTransferSyntaxUID"]
            shown = Dataset()
            for element in found:
                keyword = keyword_for_tag(element.tag)
                if keyword in wanted or keyword in fields or "all" in fields or keyword in keys:
                    shown.add(element)
            shown.SpecificCharacterSet = "ISO_IR 192"
            result = shown.to_json_dict()
            path = "".join(f"/{one}/{uid}" for one, uid in zip(("studies", "series", "instances"), name, strict=False))
            result["00081190"] = {"vr": "UR", "Value": [self.server_web.url + path]}
            result["00080056"] = {"vr": "CS", "Value": ["ONLINE"]}
            yield dict(sorted(result.items()))

    @staticmethod
    def _describe(
        name: tuple[str, ...], members: list[tuple[Key, Dataset]], heads: list[tuple[Key, Dataset]]
    ) -> Dataset:
        found = Dataset()
        for element in members[0][1]:
            if element.VR != "SQ" and not element.tag.is_private and element.tag.group > 2:
                found.add(element)
        study = [(key, head) for key, head in heads if key[0] == name[0]]
        found.ModalitiesInStudy = sorted({str(head.get("Modality", "")) for _, head in study})
        found.NumberOfStudyRelatedSeries = len({key[1] for key, _ in study})
        found.NumberOfStudyRelatedInstances = len(study)
        found.NumberOfSeriesRelatedInstances = sum(key[:2] == members[0][0][:2] for key, _ in heads)
        found.AvailableTransferSyntaxUID = str(members[0][1].file_meta.TransferSyntaxUID)
        return found

    def _spoil(self, page: list[dict[str, Any]]) -> None:
        """Make single elements wrong."""
        others, empty, absent, bulk = (self._own(one) for one in ("vr", "no_value", "no_key", "bulk"))
        texts = self._own("text_numbers")
        for result in page:
            for keyword, vr in (others or {}).items():
                if _tag(keyword) in result:
                    result[_tag(keyword)]["vr"] = vr
            if empty and _tag(empty) in result:
                result[_tag(empty)].pop("Value", None)
            if absent:
                result.pop(_tag(absent), None)
            if bulk and _tag(bulk) in result:
                element = result[_tag(bulk)]
                element.pop("Value", None)
                element["BulkDataURI"] = f"{self.server_web.url}/bulk/1"
            if texts:
                for element in result.values():
                    if element["vr"] in ("IS", "DS", "US") and "Value" in element:
                        element["Value"] = [str(one) for one in element["Value"]]

    # WADO-RS, PS3.18 10.4.

    def _wado(self, names: list[str]) -> None:
        web = self.server_web
        pairs = dict(zip(names[::2], names[1::2], strict=False))
        wanted = (pairs.get("studies"), pairs.get("series"), pairs.get("instances"))
        missing = self._own("missing")
        if len(names) % 2 and names[-1] != "metadata":
            return self._answer(404, b"")
        with web._lock:
            chosen = [
                (key, path)
                for key, path in sorted(web.held.items())
                if all(part is None or part == uid for part, uid in zip(wanted, key, strict=True)) and key[2] != missing
            ]
        if not chosen or wanted[0] is None:
            return self._answer(404, b"not found", {"Content-Type": "text/plain"})
        if names[-1] == "metadata":
            return self._json(200, [self._metadata(path) for _, path in chosen], "application/dicom+json")
        accept = self.headers.get("Accept", "*/*")
        star = re.search(r'transfer-syntax\s*=\s*"?\*', accept) is not None
        if star and self._own("no_star"):
            return self._answer(406, b"")
        if self._own("zip"):
            return self._answer(200, b"PK\x05\x06" + bytes(18), {"Content-Type": "application/zip"})
        leave_out = self._own("leave_out")
        chosen = [one for one in chosen if one[0][2] != leave_out or wanted[2]]
        status = 200
        if (some := self._own("partial")) is not None:
            chosen, status = chosen[:some], 206
        everything = bool(self._own("transcode"))
        objects = [self._encoded(path, accept, star and not everything) for _, path in chosen]
        if (other := self._own("wrong")) is not None:
            objects[0] = self._by_uid(other)
        if self._own("twice"):
            objects.insert(1, objects[0])
        if (foreign := self._own("foreign")) is not None:
            objects.append(self._by_uid(foreign))
        if (short := self._own("truncate")) is not None:
            objects = [_bytes(one)[:-short] for one in objects]
        single = "multipart" not in accept and "application/dicom" in accept and wanted[2] is not None
        if (single or self._own("single")) and objects:
            return self._answer(status, [objects[0]], {"Content-Type": "application/dicom"})
        return self._multipart(status, objects)

    def _by_uid(self, uid: str) -> Path:
        return next(path for key, path in self.server_web.held.items() if key[2] == uid)

    @staticmethod
    def _metadata(path: Path) -> dict[str, Any]:
        found = dcmread(path, stop_before_pixels=True)
        return {tag: element for tag, element in found.to_json_dict().items() if "InlineBinary" not in element}

    @staticmethod
    def _encoded(path: Path, accept: str, star: bool) -> bytes | Path:
        """The object, in Explicit VR Little Endian unless its own transfer syntax was asked for (PS3.18 8.7.3.5.2)."""
        syntax = dcmread(path, specific_tags=["SOPInstanceUID"]).file_meta.TransferSyntaxUID
        if star or str(syntax) in accept or syntax == ExplicitVRLittleEndian:
            return path
        whole = dcmread(path)
        if syntax.is_compressed:
            whole.decompress()
        whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        out = BytesIO()
        whole.save_as(out, implicit_vr=False, little_endian=True)
        return out.getvalue()

    def _multipart(self, status: int, objects: list[bytes | Path]) -> None:
        boundary = self._own("delimiter") or uuid.uuid4().hex
        new = b"\n" if self._own("lf") else b"\r\n"
        kind, length = self._own("part_type"), self._own("part_length")
        pieces: list[bytes | Path] = [self._own("preamble") or b""]
        stuffing = self._own("header")
        for number, one in enumerate(objects):
            head = (b"" if not number and not pieces[0] else new) + f"--{boundary}".encode() + new
            lines = [f"Content-Type: {'application/dicom' if kind is None else kind}".encode()] if kind != "" else []
            if length is not None:
                size = len(one) if isinstance(one, bytes) else one.stat().st_size
                lines.append(f"Content-Length: {size if length == 'right' else length}".encode())
            if stuffing and not number:
                lines.append(b"X-Stuffing: " + b"x" * stuffing)
            pieces += [head + b"".join(line + new for line in lines) + new, one]
        if not self._own("no_close"):
            pieces.append(new + f"--{boundary}--".encode() + new)
        pieces.append(self._own("epilogue") or b"")
        if short := self._own("short"):
            pieces = [b"".join(map(_bytes, pieces))[:-short]]
        shown = {
            "unquoted": f"; boundary={boundary}",
            "missing": "",
            "wrong": '; boundary="of-another-letter"',
        }.get(self._own("boundary") or "", f'; boundary="{boundary}"')
        return self._answer(status, pieces, {"Content-Type": f'multipart/related; type="application/dicom"{shown}'})

    # STOW-RS, PS3.18 10.5.

    def _stow(self) -> None:
        web = self.server_web
        if self.headers.get("Expect", "").lower() == "100-continue":
            pass  # BaseHTTPRequestHandler has sent 100
        if "Content-Length" not in self.headers and self._own("no_chunks"):
            self._skip_body()
            return self._answer(411, b"")
        limit = self._own("limit")
        if limit is not None and int(self.headers.get("Content-Length") or 0) > limit:
            self._skip_body()
            return self._answer(413, b"")
        kind = self.headers.get("Content-Type", "")
        named = re.search(r'boundary="?([^";,]+)"?', kind)
        if "multipart/related" not in kind or not named:
            self._skip_body()
            return self._answer(415, b"")
        delimiter = b"--" + named[1].encode()
        before, behind = self._own("drop_before"), self._own("drop_after")
        ends = before if before is not None else behind
        count, tail = 0, b""

        def seen(block: bytes) -> None:
            nonlocal count, tail
            joined = tail + block
            count += joined.count(delimiter)
            tail = joined[-(len(delimiter) - 1) :]
            if ends is not None and count > ends:
                raise _Drop

        try:
            body = self._body(seen)
        except _Drop:
            if behind is not None:
                newest = max(web.folder.glob("body-*"), key=lambda path: int(path.name[5:]))
                for part in list(_parts(newest, delimiter))[:behind]:
                    self._keep(part)
            raise
        if limit is not None and body.stat().st_size > limit:
            return self._answer(413, b"")
        if self._own("nothing"):
            return self._answer(200, b"")
        study = self.below.strip("/").split("/")[1] if self.below.strip("/") != "studies" else ""
        good: list[tuple[str, str, str]] = []
        bad: list[tuple[str, str, int]] = []
        refuse, exists, forget = self._own("refuse") or {}, self._own("exists"), self._own("forget")
        for part in _parts(body, delimiter):
            try:
                head = dcmread(BytesIO(part), stop_before_pixels=True)
                key: Key = (str(head.StudyInstanceUID), str(head.SeriesInstanceUID), str(head.SOPInstanceUID))
                sop_class = str(head.SOPClassUID)
            except Exception:
                bad.append(("", "", 0xC000))
                continue
            reason = refuse.get(key[2], refuse.get("*"))
            if study and key[0] != study:
                reason = 0xA901
            if (forbidden := self._forbidden(key)) is not None:
                reason = forbidden
            if exists is not None and key in web.held:
                reason = exists
            if reason is not None:
                bad.append((sop_class, key[2], reason))
                continue
            if key[2] != forget:
                self._keep(part)
            path = "".join(f"/{one}/{uid}" for one, uid in zip(("studies", "series", "instances"), key, strict=True))
            good.append((sop_class, key[2], web.url + path))
        body.unlink()
        if self._own("lost"):
            raise _Drop
        warn = self._own("warn")
        status = 409 if bad and not good else 202 if bad or warn is not None else 200
        if not good and not bad:
            status = 400
        if (code := self._own("code")) is not None:
            status = code
        if self._own("no_body"):
            return self._answer(status, b"")
        answer = _stored(good, bad, warn)
        if self._own("xml"):
            return self._answer(status, _xml(answer), {"Content-Type": "application/dicom+xml"})
        return self._json(status, answer, "application/dicom+json")

    def _keep(self, part: bytes) -> None:
        web = self.server_web
        path = web.folder / f"stored-{next(web._numbers)}.dcm"
        path.write_bytes(part)
        if (changes := self._own("coerce")) is not None:
            changed = dcmread(path)
            for keyword, value in changes.items():
                setattr(changed, keyword, value)
            changed.save_as(path)
        key = web._hold(path)
        self._kept(key)
        if (late := self._own("late")) is not None:
            with web._lock:
                web._hidden[key] = late


def _parts(body: Path, delimiter: bytes) -> Iterator[bytes]:
    """Contents of the whole parts of a multipart body."""
    if not body.stat().st_size:
        return
    with body.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(delimiter)
        while at >= 0 and data[at + len(delimiter) : at + len(delimiter) + 2] != b"--":
            start = data.find(b"\r\n\r\n", at)
            end = data.find(b"\r\n" + delimiter, start)
            if start < 0 or end < 0:
                return
            yield data[start + 4 : end]
            at = end + 2


def _stored(good: list[tuple[str, str, str]], bad: list[tuple[str, str, int]], warn: int | None) -> dict[str, Any]:
    """Store Instances Response, PS3.18 Table I.1-1."""

    def item(sop_class: str, uid: str, tag: str, vr: str, value: Any) -> dict[str, Any]:
        found = {"00081150": {"vr": "UI", "Value": [sop_class]}, "00081155": {"vr": "UI", "Value": [uid]}}
        return {**(found if uid else {}), tag: {"vr": vr, "Value": [value]}}

    answer: dict[str, Any] = {}
    if bad:
        failed = [item(kind, uid, "00081197", "US", reason) for kind, uid, reason in bad]
        answer["00081198"] = {"vr": "SQ", "Value": failed}
    if good:
        done = [item(kind, uid, "00081190", "UR", url) for kind, uid, url in good]
        for one in done if warn is not None else ():
            one["00081196"] = {"vr": "US", "Value": [warn]}
        answer["00081199"] = {"vr": "SQ", "Value": done}
    return answer


def _xml(answer: dict[str, Any]) -> bytes:
    """The same in the Native DICOM Model, PS3.19 A.1."""

    def attribute(tag: str, element: dict[str, Any]) -> str:
        inner = "".join(
            f'<Item number="{number}">{dataset(value)}</Item>'
            if element["vr"] == "SQ"
            else f'<Value number="{number}">{value}</Value>'
            for number, value in enumerate(element["Value"], 1)
        )
        names = f'tag="{tag}" vr="{element["vr"]}" keyword="{keyword_for_tag(tag)}"'
        return f"<DicomAttribute {names}>{inner}</DicomAttribute>"

    def dataset(content: dict[str, Any]) -> str:
        return "".join(attribute(tag, element) for tag, element in sorted(content.items()))

    return f'<?xml version="1.0" encoding="UTF-8"?><NativeDicomModel>{dataset(answer)}</NativeDicomModel>'.encode()


def _bytes(piece: bytes | Path) -> bytes:
    return piece if isinstance(piece, bytes) else piece.read_bytes()


def _blocks(pieces: list[bytes | Path], size: int) -> Iterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield from (piece[at : at + size] for at in range(0, len(piece), size))
            continue
        with piece.open("rb") as file:
            while block := file.read(size):
                yield block


def _keyword(name: str) -> str:
    """Keyword of an attribute that a request names by keyword or tag; the last one of a path into a sequence."""
    last = name.rpartition(".")[2]
    return keyword_for_tag(last) if re.fullmatch("[0-9A-Fa-f]{8}", last) else last


def _tag(keyword: str) -> str:
    return f"{tag_for_keyword(keyword):08X}"


def _matches(found: Dataset, keyword: str, value: str) -> bool:
    """Matching of PS3.18 8.3.4.1, which is that of PS3.4 C.2.2.2."""
    if not value:
        return True
    if keyword not in found or found[keyword].is_empty:
        return False
    element = found[keyword]
    held = [str(one) for one in (element.value if element.VM > 1 else [element.value])]
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return bool(set(re.split(r"[,\\]", value)) & set(held))
    if vr in ("DA", "TM", "DT") and "-" in value:
        low, _, high = value.partition("-")
        return any((not low or one >= low) and (not high or one[: len(high)] <= high) for one in held)
    pattern = value.replace("[", "[[]")
    if vr == "PN":
        pattern, held = pattern.casefold(), [one.casefold() for one in held]
    return any(fnmatch.fnmatchcase(one, pattern) for one in held)
