"""A session with one web archive: the services of `dimse.session.Session` that searching and fetching need.

A query is QIDO-RS (PS3.18 10.6), a retrieval WADO-RS (PS3.18 10.4). What is known of a C-FIND or C-GET is said in its
terms, such as the status 0xA700 for an answer that was cut off, so that all else need not know what an archive speaks.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydicom.dataset import Dataset

from pacsifier_ops.base.config import WebNode
from pacsifier_ops.base.errors import AssociationAborted, PacsError, Unsupported
from pacsifier_ops.base.files import PRIVATE_FILE, storage_errors
from pacsifier_ops.dicomweb.answers import decoded, matches_of, target, uids_of, widened
from pacsifier_ops.dicomweb.multipart import Broken, Buffer, Parts, media_type
from pacsifier_ops.dicomweb.transport import Transport
from pacsifier_ops.dimse.session import Matches, RetrieveResult, query, values_of
from pacsifier_ops.dimse.sink import ReceivedObject

if TYPE_CHECKING:
    import requests

#: Matches to ask for at once. Archives may return fewer, so the end is where a page is empty.
PAGE = 1000
#: Objects as the archive holds them: without `*`, it would decompress them (PS3.18 8.7.3.3.2).
_AS_THEY_ARE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_ONE_AS_IT_IS = f"{_AS_THEY_ARE}, application/dicom; transfer-syntax=*"
#: Images are packed already, if they can be; to pack them again costs time.
_UNPACKED = {"Accept-Encoding": "identity"}
#: Statuses in terms of DIMSE (PS3.4 C.4): success, some failed, cut off, not understood, failed.
_SUCCESS, _SOME_FAILED, _CUT_OFF, _NOT_UNDERSTOOD, _FAILED = 0x0000, 0xB000, 0xA700, 0xA900, 0xC000
_QUERY_REFUSED = (400, 404, 405, 406, 413, 414, 415, 422, 501)
_RETRIEVAL_REFUSED = (400, 404, 405, 406, 410, 413, 414, 415, 422, 501)
_TOO_MUCH = (413,)
_FIELD = "includefield"

T = TypeVar("T")


@dataclass
class _Page:
    """A page of an answer.

    Attributes:
        found: the matches; None where they cannot be read.
        status: in terms of C-FIND.
        total: number of all matches, as far as it is told.
        more: the archive says that it has more (PS3.18 8.3.4.4).
    """

    found: list[Any] | None
    status: int = _SUCCESS
    total: int = 0
    more: bool = False


class WebSession:
    """A session with one web archive. A slot of the archive is occupied from the first request until `close`.

    While it waits because the archive asks for it, the session is closed, and its next request opens it again.

    For the arguments and attributes see `dimse.session.Session`. Use as a context manager. Not thread-safe.
    """

    waited = 0.0

    def __init__(
        self,
        node: WebNode,
        slot: Callable[[], AbstractContextManager[object]],
        incoming: Path | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda size: None,
        before_transfer: Callable[[], None] = lambda: None,
    ) -> None:
        self.node = node
        self._slot, self._incoming = slot, incoming
        self._progress, self._before_transfer = progress, before_transfer
        self._transport = Transport(node, cancelled, self.close)
        self._received: list[ReceivedObject] = []
        self._stack = ExitStack()
        self._is_open = False
        # Random, since several sessions may share the folder; the number of the object follows.
        self._prefix, self._numbers = secrets.token_hex(8), count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(abort=kind is not None)

    @property
    def is_open(self) -> bool:
        """Whether a slot is occupied."""
        return self._is_open

    def close(self, abort: bool = False) -> None:
        """Close the connections, and release the slot."""
        self._is_open = False
        self._transport.close()
        self._stack.close()

    def _open(self) -> Transport:
        if not self._is_open:
            began = time.monotonic()
            self._stack.enter_context(self._slot())
            self.waited += time.monotonic() - began
            self._is_open = True
        return self._transport

    # Queries

    def echo(self) -> None:
        """Ask for one study, of whatever patient, and throw the answer away.

        Raises:
            PacsError: the archive does not answer, or does not answer as DICOMweb.
        """
        answer = self._find(query("STUDY", StudyInstanceUID=""), uids_of, 1)
        if answer.unreadable:  # as Orthanc's own services, which have a list of studies as well
            raise PacsError(
                f"{self.node.name}: answers a query for studies, and not with DICOM; give the address whose /studies "
                "is that of DICOMweb, such as https://vna.example/dicom-web"
            )
        if answer.status:
            raise Unsupported(f"{self.node.name}: refuses a query for studies; check the address of the connection")

    def find(self, identifier: Dataset, most: int = 0) -> Matches[Dataset]:
        """Query as a C-FIND does, see `dimse.session.Session.find`. The caller evaluates the final status.

        Args:
            identifier: the query.
            most: number of matches that are enough; 0: all.

        Raises:
            PacsError: the archive does not answer, or does not answer as DICOMweb.
        """
        return self._find(identifier, decoded, most)

    def find_uids(self, identifier: Dataset) -> Matches[dict[str, str]]:
        """Query as `find` does; of the matches read only UIDs, as text by keyword, empty where not returned."""
        return self._find(identifier, uids_of, 0)

    def _find(self, identifier: Dataset, read: Callable[[Any], T], most: int) -> Matches[T]:
        path, params = target(identifier)
        answer = self._pages(path, params, read, most)
        if not (answer.identifiers or answer.status or answer.unreadable) and (wide := widened(params)) != params:
            return self._pages(path, wide, read, most)
        return answer

    def _pages(self, path: str, params: Sequence[tuple[str, str]], read: Callable[[Any], T], most: int) -> Matches[T]:
        """Ask for page after page. Where it is not certain that the last one was the end, the answer counts as cut."""
        answer, seen, passed, total, more = Matches[T](), set[str](), 0, 0, False
        while True:
            offset = [("offset", str(passed))] if passed else []
            page = self._page(path, [*params, ("limit", str(most or PAGE)), *offset])
            if page.status or page.found is None:
                answer.status, answer.unreadable = page.status, page.found is None
                return answer
            new = {which: match for match in page.found if (which := repr(match)) not in seen}
            repeated = passed > 0 and len(new) < len(set(map(repr, page.found)))
            passed, total = passed + len(page.found), max(total, page.total)
            seen |= new.keys()
            for match in new.values():
                try:
                    answer.identifiers.append(read(match))
                except Exception:  # pydicom raises many types
                    answer.unreadable = True
            if most and len(seen) >= most:
                return answer
            if repeated:
                # The order changed between two pages; or the archive does not know `offset`, and says if it has more.
                cut = total != len(seen) if total else bool(new) or more or page.more or len(page.found) >= PAGE
                break
            if not new:
                cut = total > passed or more
                break
            more = page.more
        answer.status = _CUT_OFF if cut else _SUCCESS
        return answer

    def _page(self, path: str, params: Sequence[tuple[str, str]]) -> _Page:
        """Ask for a page."""
        with self._open().ask("GET", path, params, allowed=_QUERY_REFUSED) as answer:
            if answer.status_code == 400 and any(name == _FIELD for name, _ in params):
                # Some archives refuse a query for a field that they do not know, rather than leave it out.
                return self._page(path, [one for one in params if one[0] != _FIELD])
            if answer.status_code in _QUERY_REFUSED:
                if path.count("/") == 1:
                    self._refuse_foreign(answer)
                return _Page([], _CUT_OFF if answer.status_code in _TOO_MUCH else _NOT_UNDERSTOOD)
            total = answer.headers.get("X-Total-Count", "")
            warning = answer.headers.get("Warning", "").lower()
            more = warning.lstrip().startswith("299") and "additional results" in warning
            body = self._transport.whole(answer)
            self._refuse_web_page(answer, body)
        try:
            found = matches_of(body)
        except ValueError:
            return _Page(None)
        return _Page(found, total=int(total) if total.isdigit() else 0, more=more)

    def _refuse_foreign(self, answer: requests.Response) -> None:
        """Raise where a whole resource is not there: that is no DICOMweb, rather than a query not understood."""
        if answer.status_code in (404, 405):
            raise Unsupported(
                f"{self.node.name}: has no QIDO-RS at this address (HTTP {answer.status_code}); give the one whose "
                "/studies can be queried"
            )

    def _refuse_web_page(self, answer: requests.Response, begin: bytes) -> None:
        kind, _ = media_type(answer.headers.get("Content-Type", ""))
        if kind in ("text/html", "application/xhtml+xml") or begin.lstrip()[:9].lower().startswith(
            (b"<!doctype", b"<html")
        ):
            raise PacsError(
                f"{self.node.name}: answers with a web page, maybe to log in, and not with DICOM; check the address "
                "and the login of the connection"
            )

    # Retrieval

    def get(self, identifier: Dataset, classes: Iterable[str] = ()) -> RetrieveResult:
        """Retrieve the objects of an identifier of C-GET: a series, or instances one by one.

        `take` returns the received objects, also after an error. Objects are taken as the archive holds them.

        Raises:
            Unsupported: the archive sends no objects as it holds them.
            PacsError: the connection failed, or the archive is busy.
            StorageError: an object could not be written.
        """
        self._open()
        self._before_transfer()
        path = "".join(
            f"/{name}/{identifier[keyword].value}"
            for name, keyword in (("studies", "StudyInstanceUID"), ("series", "SeriesInstanceUID"))
        )
        result = RetrieveResult(_SUCCESS)
        if identifier.QueryRetrieveLevel == "SERIES":
            self._fetch(path, _AS_THEY_ARE, result)
        else:
            for uid in values_of(identifier, "SOPInstanceUID"):
                self._fetch(f"{path}/instances/{uid}", _ONE_AS_IT_IS, result)
        if result.failed and not result.completed:
            result.status = _FAILED
        elif result.failed:
            result.status = _SOME_FAILED
        return result

    def take(self) -> list[ReceivedObject]:
        """Return the objects received since the last call, in order."""
        received, self._received = self._received, []
        return received

    def move(self, identifier: Dataset, destination: str, arrived: Callable[[], object]) -> RetrieveResult:
        """Refuse: DICOMweb has no C-MOVE.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(f"{self.node.name}: speaks DICOMweb, which has no C-MOVE; images can be fetched from it only")

    def _fetch(self, path: str, accept: str, result: RetrieveResult) -> None:
        """Retrieve one resource, and count what came."""
        with self._transport.ask("GET", path, accept=accept, headers=_UNPACKED, allowed=_RETRIEVAL_REFUSED) as answer:
            if answer.status_code == 406:
                raise Unsupported(
                    f"{self.node.name}: does not send objects as it holds them (HTTP 406 for transfer-syntax=*)"
                )
            if answer.status_code in _RETRIEVAL_REFUSED:
                result.failed, result.told = result.failed + 1, f"HTTP {answer.status_code}"
                return
            if answer.status_code == 206:  # PS3.18 10.4.3.2: some objects could not be sent
                result.failed += 1
            kind, params = media_type(answer.headers.get("Content-Type", ""))
            pieces = self._transport.pieces(answer)
            if kind == "application/dicom":
                self._keep(pieces, result)
            elif kind.startswith("multipart/") and params.get("boundary"):
                self._keep_all(Parts(pieces, params["boundary"]), result)
            elif kind.startswith("multipart/"):
                raise PacsError(f"{self.node.name}: sends objects without saying how they are told apart (no boundary)")
            elif answer.status_code != 204:
                self._refuse_web_page(answer, next(pieces, b""))
                raise PacsError(f"{self.node.name}: answers a retrieval with something else than DICOM")

    def _keep_all(self, parts: Parts, result: RetrieveResult) -> None:
        try:
            for _, content in parts:
                self._keep(content, result)
        except Broken as error:
            raise AssociationAborted(f"{self.node.name}: {error}") from None

    def _keep(self, content: Iterable[Buffer], result: RetrieveResult) -> None:
        """Write one object as it comes; it gets its final name when it is whole."""
        assert self._incoming is not None
        part = self._incoming / f"{self._prefix}-{next(self._numbers)}.part"
        try:
            item = _identified(part, *_write(part, content))
            if item is None:
                result.unreadable += 1
                return
            with storage_errors("a received object could not be stored"):
                os.rename(part, item.path)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
        self._received.append(item)
        result.completed += 1
        self._progress(item.size)


def _write(path: Path, content: Iterable[Buffer]) -> tuple[int, str, bytes]:
    """Write an object into a new file; return its size, its digest and its first bytes."""
    from pacsifier_ops.dicom.files import BEGIN

    digest, size, begin = hashlib.sha256(), 0, b""
    with storage_errors("a received object could not be stored"):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        for piece in content:
            left = memoryview(piece)
            if size < BEGIN:
                begin += left[: BEGIN - size]
            size += len(left)
            digest.update(left)
            with storage_errors("a received object could not be stored"):
                while left:
                    left = left[os.write(handle, left) :]
    finally:
        with storage_errors("a received object could not be stored"):
            os.close(handle)
    return size, digest.hexdigest(), begin


def _identified(path: Path, size: int, sha256: str, begin: bytes) -> ReceivedObject | None:
    """Return what a file is; None where it is no whole object, or has no valid UIDs."""
    from pacsifier_ops.dicom.files import whole_object

    try:
        found = whole_object(path, begin, size)
    except ValueError:
        return None
    identity = found.identity
    return ReceivedObject(
        path=path.with_suffix(".dcm"),
        sop_class_uid=found.sop_class_uid,
        sop_instance_uid=identity.sop_instance_uid,
        transfer_syntax_uid=found.transfer_syntax_uid,
        study_uid=identity.study_uid,
        series_uid=identity.series_uid,
        patient_id=identity.patient_id,
        issuer=identity.issuer,
        size=size,
        sha256=sha256,
    )
