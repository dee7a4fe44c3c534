"""A session with one PACS: one association at a time, within the number of associations that the PACS allows us."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode
from pynetdicom.pdu_primitives import A_ABORT
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import (
    AssociationAborted,
    AssociationBusy,
    AssociationRejected,
    Cancelled,
    FileUnreadable,
    MoveDestinationUnknown,
    NothingMoved,
    OutOfResources,
    PacsError,
    PacsSilent,
    PacsTimeout,
    PacsUnreachable,
    TlsFailed,
    Unsupported,
)
from pacsifier_ops.base.files import storage_errors
from pacsifier_ops.dicom.files import is_truncated
from pacsifier_ops.dicom.heads import UIDS, quick_uids
from pacsifier_ops.dimse import tls
from pacsifier_ops.dimse.messages import PENDING, PENDING_KEYS_UNSUPPORTED, store_request
from pacsifier_ops.dimse.sink import ReceivedObject, attach
from pacsifier_ops.dimse.transport import Secure, make_ae, send_data, tuned
from pacsifier_ops.state.approved import DIFFERS

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile

#: Transfer syntaxes proposed for every storage SOP class of a C-GET association, each in its own presentation context:
#: an archive that may choose among several within one context may transcode, or fail.
GET_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless SV1
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-Lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.92",  # JPEG 2000 Part 2 Lossless
    "1.2.840.10008.1.2.4.93",  # JPEG 2000 Part 2
    "1.2.840.10008.1.2.4.201",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
    "1.2.840.10008.1.2.4.111",  # JPEG XL JPEG Recompression
    "1.2.840.10008.1.2.4.112",  # JPEG XL
    "1.2.840.10008.1.2.5",  # RLE Lossless
    "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    "1.2.840.10008.1.2.4.100",  # MPEG-2 Main Level
    "1.2.840.10008.1.2.4.101",  # MPEG-2 High Level
    "1.2.840.10008.1.2.4.102",  # MPEG-4 High 4.1
    "1.2.840.10008.1.2.4.103",  # MPEG-4 BD
    "1.2.840.10008.1.2.4.104",  # MPEG-4 High 4.2 2D
    "1.2.840.10008.1.2.4.105",  # MPEG-4 High 4.2 3D
    "1.2.840.10008.1.2.4.106",  # MPEG-4 Stereo
    "1.2.840.10008.1.2.4.107",  # HEVC Main
    "1.2.840.10008.1.2.4.108",  # HEVC Main 10
)
#: Maximum number of presentation contexts of an association (PS3.8 9.3.2.2: odd ids of one byte).
MAX_CONTEXTS = 128
_QUERY_CONTEXTS = (
    Verification,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
#: Number of storage SOP classes that fit on one association beside the query contexts.
CLASSES_PER_ASSOCIATION = (MAX_CONTEXTS - len(_QUERY_CONTEXTS)) // len(GET_TRANSFER_SYNTAXES)
#: Number of pairs of SOP class and transfer syntax that fit on one association beside them: two contexts each.
KINDS_PER_ASSOCIATION = (MAX_CONTEXTS - len(_QUERY_CONTEXTS)) // 2

#: A presentation context to propose: abstract syntax, transfer syntaxes, and whether we act as SCP (receive).
Proposal = tuple[str, tuple[str, ...], bool]
#: Counts of sub-operations in responses to a retrieve.
_COUNTS = ("NumberOfCompletedSuboperations", "NumberOfFailedSuboperations", "NumberOfWarningSuboperations")
_PLAIN = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_READ_AT_ONCE = 1024 * 1024

#: Maximum number of further matches after a C-CANCEL.
_WHILE_CANCELLING = 100

#: Reasons of PS3.8 Table 9-21 in words, by source and reason of an A-ASSOCIATE-RJ.
_REJECTIONS = {
    (1, 2): "it does not support this application context",
    (1, 3): "it does not know our calling AE title: have {calling} declared on the PACS",
    (1, 7): (
        "it does not answer to the called AE title {called}: check called_aet (server_AET), and that our calling "
        "AE title {calling} is declared on the PACS"
    ),
    (2, 2): "it does not support our protocol version",
    (3, 1): "it is temporarily congested",
    (3, 2): "its limit of associations is reached",
}

T = TypeVar("T")


@dataclass
class Matches(Generic[T]):
    """The result of a C-FIND (PS3.4 C.4.1).

    Attributes:
        identifiers: the matches, as they were read.
        status: the final status.
        keys_unsupported: the archive returned 0xFF01: it did not match on some optional key.
        unreadable: there are more matches, which cannot be decoded.
    """

    identifiers: list[T] = field(default_factory=list)
    status: int = 0
    keys_unsupported: bool = False
    unreadable: bool = False


@dataclass
class RetrieveResult:
    """The result of a C-GET or C-MOVE (PS3.4 C.4.2, C.4.3). Counts are the peer's claims and no proof.

    Each count is the maximum of all responses.

    Attributes:
        status: the final status.
        completed, failed, warning: numbers of sub-operations.
        unreadable: number of objects received by C-GET and refused, because they have no valid UIDs.
        failed_uids: SOP Instance UIDs that the peer lists as failed; the list is optional.
        told: how a peer that speaks another language says that it failed; no value of a patient.
    """

    status: int
    completed: int = 0
    failed: int = 0
    warning: int = 0
    unreadable: int = 0
    failed_uids: list[str] = field(default_factory=list)
    told: str = ""

    @property
    def untouched(self) -> bool:
        """Whether there was no sub-operation, so that nothing was sent, whatever the status."""
        return self.completed + self.failed + self.warning == 0


@dataclass(frozen=True)
class Peer:
    """Attributes of a peer from the association negotiation (PS3.7 D.3.3, PS3.8 D.1).

    Attributes:
        implementation_class_uid, implementation_version: identify its software; the latter may be empty.
        maximum_pdu: maximum length of a PDU that it receives, in bytes; 0 means no limit.
        accepted: abstract syntaxes that it accepted.
    """

    implementation_class_uid: str
    implementation_version: str
    maximum_pdu: int
    accepted: frozenset[str]


@dataclass(frozen=True)
class Sent:
    """The result of a C-STORE.

    Attributes:
        status: status of the response (PS3.4 B.2.3).
        sha256: digest of the encoded data set, hexadecimal.
    """

    status: int
    sha256: str


def query(level: str, **keys: str | list[str]) -> Dataset:
    """Make an identifier at a level (PS3.4 C.4.1.1.3). Values are text in UTF-8; empty values are return keys."""
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def values_of(identifier: Dataset, keyword: str) -> list[str]:
    """Return the decoded values of an attribute as text; [] where it is absent or empty."""
    element = identifier.get(keyword)
    if element is None or element == "":
        return []
    items: Iterable[Any] = element if isinstance(element, (MultiValue, list)) else [element]
    return [text for text in (str(item).strip(" \0") for item in items) if text]


class Session:
    """A session with one PACS. The association is opened when it is first needed, and kept for further calls.

    An open association occupies one of the PACS's slots. `close` releases both, so call it before waiting for anything
    else. Use as a context manager. Not thread-safe.

    Args:
        node: the PACS.
        slot: acquires a slot of the PACS; returns a context manager that keeps it.
        incoming: folder for objects received by C-GET.
        cancelled: called between messages; True aborts the association.
        progress: called with the size in bytes of every object received by C-GET.
        before_transfer: called with the slot acquired, before images are requested or sent. An exception prevents that.

    Attributes:
        waited: seconds that it has waited for slots so far.
    """

    waited = 0.0

    def __init__(
        self,
        node: PacsNode,
        slot: Callable[[], AbstractContextManager[object]],
        incoming: Path | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda size: None,
        before_transfer: Callable[[], None] = lambda: None,
    ) -> None:
        self.node = node
        self._slot = slot
        self._incoming = incoming
        self._errors: list[Exception] = []
        self._received: list[ReceivedObject] = []
        self._cancelled = cancelled
        self._progress = progress
        self._before_transfer = before_transfer
        self._stack = ExitStack()
        self._association: Association | None = None
        self._proposed: frozenset[Proposal] = frozenset()
        self._timed_out = threading.Event()
        self._answered = False
        self._messages = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(abort=kind is not None)

    @property
    def is_open(self) -> bool:
        """Whether an association is open, so that a slot is occupied."""
        return self._association is not None

    def close(self, abort: bool = False) -> None:
        """Release (or abort) the association and its slot."""
        association, self._association = self._association, None
        try:
            if association is not None and association.is_established:
                association.abort() if abort else association.release()
        finally:
            self._stack.close()

    # Services

    def echo(self) -> None:
        """Send a C-ECHO (PS3.4 A).

        Raises:
            PacsError: the text gives the reason.
        """
        association = self._open()
        if not self._accepts(association, Verification):
            return  # an association was accepted; this peer offers no further verification
        # Not `_check`: archives answer an echo of any node, so this does not prove that they accept us.
        status = association.send_c_echo()
        if "Status" not in status:
            raise self._connection_lost(association)
        if status.Status != 0x0000:
            raise PacsError(f"{self.node.name}: C-ECHO ended with status 0x{status.Status:04X}")

    def peer(self) -> Peer:
        """Return what the PACS declares and accepts in the association negotiation.

        Raises:
            PacsError: no association could be established.
        """
        association = self._open()
        acceptor = association.acceptor
        return Peer(
            str(acceptor.implementation_class_uid or ""),
            str(acceptor.implementation_version_name or ""),
            int(acceptor.maximum_length or 0),
            frozenset(str(cx.abstract_syntax) for cx in association.accepted_contexts),
        )

    def find(self, identifier: Dataset, most: int = 0) -> Matches[Dataset]:
        """Send a C-FIND in the Study Root model (PS3.4 C.4.1). The caller evaluates the final status.

        Args:
            identifier: the query.
            most: after this number of matches a C-CANCEL is sent; if it has no effect, the association is aborted. 0:
                never.

        Raises:
            PacsError: the association failed, or the PACS offers no Study Root C-FIND.
        """
        return self._find(identifier, _decoded, most)

    def find_uids(self, identifier: Dataset) -> Matches[dict[str, str]]:
        """Send a C-FIND as `find` does; of the matches read only UIDs, as text by keyword, empty where not returned.

        Raises:
            PacsError: see `find`.
        """
        return self._find(identifier, _uids, 0)

    def _find(self, identifier: Dataset, read: Callable[[bytes, UID], T], most: int) -> Matches[T]:
        association = self._open()
        model = StudyRootQueryRetrieveInformationModelFind
        self._require(association, model, "C-FIND")
        provider = association.dimse
        provider.matches, provider.most = [], most
        answer, came = Matches[T](), 0
        for status, _ in association.send_c_find(identifier, model, msg_id=1):
            self._check(association, status)
            answer.status = status.Status
            if status.Status not in (PENDING, PENDING_KEYS_UNSUPPORTED):
                continue
            if not most or len(provider.matches) < most:  # a match without a data set
                answer.unreadable = True
                answer.keys_unsupported |= status.Status == PENDING_KEYS_UNSUPPORTED
                continue
            came += 1
            if came == 1:
                association.send_c_cancel(1, query_model=model)
            elif came > _WHILE_CANCELLING + 1:
                self.close(abort=True)
                break
        syntax = next(cx.transfer_syntax[0] for cx in association.accepted_contexts if cx.abstract_syntax == model)
        matches, provider.matches = provider.matches, []
        for pending, encoded in matches:
            answer.keys_unsupported |= pending == PENDING_KEYS_UNSUPPORTED
            try:
                answer.identifiers.append(read(encoded, syntax))
            except Exception:  # pydicom raises many types
                answer.unreadable = True
        return answer

    def get(self, identifier: Dataset, classes: Iterable[str]) -> RetrieveResult:
        """Send a C-GET (PS3.4 C.4.3). `take` returns the received objects, also after an error.

        Args:
            identifier: the objects to retrieve.
            classes: SOP Class UIDs to propose, at most CLASSES_PER_ASSOCIATION.

        Raises:
            ClassesRefused: the PACS rejects every presentation context of one of the classes.
            Unsupported: the PACS offers no C-GET.
            PacsError: the association failed, or the PACS is out of resources.
            StorageError: an object could not be written.
        """
        wanted = frozenset(classes)
        if len(wanted) > CLASSES_PER_ASSOCIATION:
            raise ValueError(f"at most {CLASSES_PER_ASSOCIATION} SOP classes fit on one association")
        association = self._open(frozenset((uid, (ts,), True) for uid in wanted for ts in GET_TRANSFER_SYNTAXES))
        model = StudyRootQueryRetrieveInformationModelGet
        self._require(association, model, "C-GET")
        self._before_transfer()
        accepted = {cx.abstract_syntax for cx in association.accepted_contexts if cx.as_scp}
        if refused := wanted - accepted:
            raise ClassesRefused(f"{self.node.name}: refuses to send {len(refused)} SOP class(es) by C-GET", refused)
        return self._retrieve_result(association, association.send_c_get(identifier, model))

    def take(self) -> list[ReceivedObject]:
        """Return the objects received since the last call, in order."""
        received, self._received = self._received, []
        return received

    def move(self, identifier: Dataset, destination: str, arrived: Callable[[], object]) -> RetrieveResult:
        """Send a C-MOVE to an AE title (PS3.4 C.4.2).

        Args:
            identifier: the objects to move.
            destination: AE title of the destination.
            arrived: returns a value that changes while objects arrive at the destination. Many archives send no
                response until all objects are sent; while the value changes, their silence does not count as a failure.

        Raises:
            Unsupported: the PACS offers no C-MOVE.
            MoveDestinationUnknown: the PACS does not know the destination.
            NothingMoved: it sent nothing, and gives no reason.
            PacsError: the association failed, or the PACS is out of resources.
        """
        association = self._open()
        model = StudyRootQueryRetrieveInformationModelMove
        self._require(association, model, "C-MOVE")
        self._before_transfer()
        with _arrivals_as_responses(association, arrived):
            return self._retrieve_result(
                association, association.send_c_move(identifier, destination, model), destination
            )

    def ready_to_send(self, kinds: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Negotiate C-STORE of these pairs of SOP Class UID and Transfer Syntax UID.

        Each pair gets its own presentation context: a peer that may choose among several transfer syntaxes could choose
        one that differs from the object's.

        Args:
            kinds: the pairs, at most KINDS_PER_ASSOCIATION.

        Returns:
            The pairs that the peer accepts.

        Raises:
            PacsError: no association could be established.
        """
        if len(kinds) > KINDS_PER_ASSOCIATION:
            raise ValueError(f"at most {KINDS_PER_ASSOCIATION} kinds of objects fit on one association")
        association = self._open(_to_send(kinds))
        self._before_transfer()
        return {kind for kind in kinds if _context_for(association, *kind)}

    def accepts(self, sop_class: str) -> list[str]:
        """Return the transfer syntaxes proposed by `ready_to_send` that the peer accepts for a SOP class."""
        association = self._open()
        found = (cx for cx in association.accepted_contexts if cx.abstract_syntax == sop_class)
        return sorted({str(cx.transfer_syntax[0]) for cx in found})

    def send(self, file: DicomFile) -> Sent:
        """Send the data set of a file by C-STORE (PS3.4 B.2), unchanged. The caller evaluates the status.

        Raises:
            Unsupported: the peer does not accept its SOP class in its transfer syntax.
            PacsError: the association failed.
            FileUnreadable: the file cannot be read, or has changed; the peer has not stored any part of it.
            Cancelled: a stop was requested.
        """
        association = self._open(_to_send([(file.sop_class_uid, file.transfer_syntax_uid)]))
        context = _context_for(association, file.sop_class_uid, file.transfer_syntax_uid)
        if context is None:
            raise Unsupported(f"{self.node.name}: refuses the SOP class, or the transfer syntax, of an object")
        self._messages = self._messages % 0xFFFF + 1
        command = store_request(self._messages, file.sop_class_uid, file.sop_instance_uid)
        digest = hashlib.sha256()
        try:
            whole = send_data(association, context, command, self._read(file, digest.update))
            _, answer = association.dimse.get_msg(block=True) if whole else (None, None)
            if self._cancelled():
                raise Cancelled("stopped on request")
        except BaseException:
            self.close(abort=True)  # the message is sent or answered partly
            raise
        if not isinstance(answer, C_STORE) or answer.Status is None:
            if association.is_established:
                self._timed_out.set()  # the association is still established: the peer is silent
            raise self._connection_lost(association)
        self._answered = True
        return Sent(int(answer.Status), digest.hexdigest())

    def _read(self, file: DicomFile, seen: Callable[[bytes], object]) -> Iterator[bytes]:
        """Yield the data set of a file in pieces. The same pass computes the required digest of the whole file."""
        left = file.size - file.offset
        try:
            with file.path.open("rb", buffering=0) as stream:
                whole = hashlib.sha256(stream.read(file.offset)) if file.sha256 else None
                stream.seek(file.offset)
                while piece := stream.read(_READ_AT_ONCE):
                    seen(piece)
                    if whole is not None:
                        whole.update(piece)
                    left -= len(piece)
                    yield piece
                status = os.fstat(stream.fileno())
        except OSError as error:
            raise FileUnreadable(f"it cannot be read to its end: {error.strerror}") from error
        if left or (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
            # The last fragment is not sent yet, so the peer has no complete object to store.
            raise FileUnreadable("it changed while it was being sent")
        if whole is not None and whole.hexdigest() != file.sha256:
            raise FileUnreadable(DIFFERS)  # the last fragment is not sent yet either

    # Internals

    def _retrieve_result(
        self, association: Association, responses: Iterator[tuple[Dataset, Dataset | None]], destination: str = ""
    ) -> RetrieveResult:
        final, failed, counts, remaining = Dataset(), Dataset(), [0, 0, 0], 0
        for status, identifier in responses:
            self._check(association, status)
            final, failed = status, identifier or Dataset()
            counts = [max(int(final.get(name) or 0), count) for name, count in zip(_COUNTS, counts, strict=True)]
            remaining = int(final.get("NumberOfRemainingSuboperations") or 0)
        counts = [max(pair) for pair in zip(counts, association.dimse.pending or counts, strict=True)]
        association.dimse.pending = None
        errors, self._errors[:] = list(self._errors), []
        refuse_full_disk(errors)
        if final.Status == 0 and final.get(_COUNTS[0]) is None:
            # The final response need not have counts (PS3.7 9.1.4.1.7): then the last remaining sub-operations have
            # succeeded.
            counts[0] += remaining
        completed, unsent, warned = counts
        failed_uids = values_of(failed, "FailedSOPInstanceUIDList")
        outcome = RetrieveResult(int(final.Status), completed, unsent, warned, len(errors), failed_uids)
        if outcome.status == 0xA801 or (destination and outcome.status >= 0xC000 and outcome.untouched):
            # Some archives use one failure status for an unknown destination and for one that does not respond.
            node = self.node
            unknown = outcome.status == 0xA801
            known = "does not know the move destination" if unknown else "could not send anything to"
            where = f"this machine and port {node.receiver_port}" if destination == node.destination else "that node"
            text = (
                f"{node.name}: {known} {destination} (0x{outcome.status:04X}); have AE title {destination} declared on "
                f"the PACS with the address of {where}, and see that it listens there"
            )
            raise MoveDestinationUnknown(text) if unknown else NothingMoved(text, outcome.status)
        if 0xA700 <= outcome.status <= 0xA7FF and outcome.untouched:
            raise OutOfResources(f"{self.node.name}: out of resources (0x{outcome.status:04X})")
        return outcome

    def _check(self, association: Association, status: Dataset) -> None:
        if self._cancelled():
            association.abort()
            raise Cancelled("stopped on request")
        if "Status" not in status:
            raise self._connection_lost(association)
        self._answered = True

    def _connection_lost(self, association: Association) -> PacsError:
        """Return the error of an association that ended unexpectedly. The next call opens a new one."""
        timed_out = self._timed_out.is_set()
        self.close(abort=True)
        if timed_out:
            return PacsSilent(f"{self.node.name}: no answer within {self.node.dimse_timeout:g} s")
        hint = ""
        if not self._answered and association.dimse.pending is None:
            hint = (
                f" before it answered anything; if that stays so, our calling AE title {self.node.calling_aet} is "
                "probably not declared on the PACS"
            )
        return AssociationAborted(f"{self.node.name}: the association was aborted or the connection lost{hint}")

    def _accepts(self, association: Association, abstract_syntax: str) -> bool:
        return any(cx.abstract_syntax == abstract_syntax for cx in association.accepted_contexts)

    def _require(self, association: Association, model: str, service: str) -> None:
        if not self._accepts(association, model):
            raise Unsupported(f"{self.node.name}: does not offer {service} in the Study Root model")

    def _open(self, proposal: frozenset[Proposal] = frozenset()) -> Association:
        """Return the open association if it covers a proposal, else a new one that does."""
        if self._association is not None:
            if self._association.is_established and proposal <= self._proposed:
                return self._association
            self.close()
        union = proposal | self._proposed
        proposal = union if len(union) <= MAX_CONTEXTS - len(_QUERY_CONTEXTS) else proposal
        began = time.monotonic()
        self._stack.enter_context(self._slot())
        self.waited += time.monotonic() - began
        try:
            try:
                self._association = self._associate(proposal)
            except AssociationAborted:
                # A rejection can be lost when the peer closes the connection right after it; try once more.
                self._association = self._associate(proposal)
        except BaseException:
            self._stack.close()
            raise
        self._proposed = proposal
        return self._association

    def _associate(self, proposal: frozenset[Proposal]) -> Association:
        node = self.node
        secure = None
        if node.tls:
            secure = Secure(tls.requestor_context(node.name, node.tls_files), node.host, node.acse_timeout)
        connected, gave_up = threading.Event(), threading.Event()
        self._timed_out = gave_up
        replies: list[Any] = []

        def on_sent(event: evt.Event) -> None:
            # While we wait for a response, only a time-out (of ACSE or DIMSE) makes the library abort.
            if isinstance(event.primitive, A_ABORT):
                gave_up.set()

        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, lambda event: connected.set()),
            *tuned(secure),
            *(attach(self._incoming, self._keep, on_error=self._errors.append) if self._incoming else ()),
            (evt.EVT_ACSE_RECV, lambda event: replies.append(event.primitive)),
            (evt.EVT_ACSE_SENT, on_sent),
        ]
        ae: AE = make_ae(
            node.calling_aet,
            connect_timeout=node.connect_timeout,
            acse_timeout=node.acse_timeout,
            dimse_timeout=node.dimse_timeout,
        )
        started = time.monotonic()
        roles = [build_role(uid, scp_role=True) for uid in sorted({uid for uid, _, ours in proposal if ours})]
        try:
            for host in _addresses(node):
                association = ae.associate(
                    host,
                    node.port,
                    contexts=_contexts(proposal),
                    ae_title=node.called_aet,
                    ext_neg=roles,
                    evt_handlers=handlers,
                )
                if connected.is_set():
                    break
        except OSError as error:
            raise self._unreachable(started) from error
        if association.is_established:
            association.dimse.cancelled = self._cancelled
            return association
        if not connected.is_set():
            raise self._unreachable(started)
        if secure is not None and secure.errors:
            raise TlsFailed(f"{node.name}: {node.address}: {tls.in_words(secure.errors[0])}")
        # A peer that responds and disconnects at once may look unreachable to the library, which then leaves the
        # response unread.
        while association.dul.receive_pdu() is not None:
            pass
        rejection = next((p for p in replies if getattr(p, "result", None) in (0x01, 0x02)), None)
        if rejection is not None:
            raise self._rejected(rejection)
        if gave_up.is_set() and not replies:
            raise PacsTimeout(f"{node.name}: no answer to the association request within {node.acse_timeout:g} s")
        raise AssociationAborted(
            f"{node.name}: {node.address} took the connection but no association came about; "
            f"is a DICOM node listening there{'' if node.tls else ', and does it want TLS'}?"
        )

    def _unreachable(self, started: float) -> PacsUnreachable:
        node = self.node
        return PacsUnreachable(
            f"{node.name}: cannot connect to {node.host} port {node.port}: {_why_unreachable(node, started)}"
        )

    def _rejected(self, primitive: Any) -> PacsError:
        node = self.node
        why = _REJECTIONS.get(
            (primitive.result_source, primitive.diagnostic),
            f"no reason given (source {primitive.result_source}, reason {primitive.diagnostic})",
        ).format(calling=node.calling_aet, called=node.called_aet)
        # Some archives return 'local limit exceeded' as permanent; the source shows that it is transient.
        transient = primitive.result == 0x02 or primitive.result_source == 3
        kind = AssociationBusy if transient else AssociationRejected
        return kind(f"{node.name}: rejected the association: {why}")

    def _keep(self, item: ReceivedObject) -> int:
        self._received.append(item)
        self._progress(item.size)
        return 0x0000


def _decoded(encoded: bytes, syntax: UID) -> Dataset:
    """Decode a match.

    Raises:
        ValueError: it is empty, or cut off: pydicom would accept the rest of the last value as the whole one.
        Exception: it cannot be decoded.
    """
    if not encoded or is_truncated(encoded):
        raise ValueError("the match is not whole")
    return decode(BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)


def _uids(encoded: bytes, syntax: UID) -> dict[str, str]:
    """Return the UIDs of a match by keyword. Raise what `_decoded` does."""
    found = quick_uids(encoded, syntax.is_implicit_VR)
    if found is None:
        match = _decoded(encoded, syntax)
        found = {keyword: str(match.get(keyword) or "") for keyword in UIDS}
    return found


def _addresses(node: PacsNode) -> list[str | tuple[str, int, int]]:
    """Return the addresses of the node's host: its first IPv4 address, then its first IPv6 one, with flow and scope.

    Raises:
        OSError: the name is unknown.
    """
    found = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)
    four = [str(address[0]) for family, *_, address in found if family == socket.AF_INET]
    six = [(str(a[0]), int(a[2]), int(a[3])) for family, *_, a in found if family == socket.AF_INET6]  # type: ignore[misc]
    return [*four[:1], *six[:1]]


def _why_unreachable(node: PacsNode, started: float) -> str:
    """Return why no TCP connection was established. The library gives no reason, so connect once more."""
    silent = f"no answer within {node.connect_timeout:g} s; check the address, and that no firewall is in between"
    if time.monotonic() - started >= node.connect_timeout:
        return silent
    try:
        socket.create_connection((node.host, node.port), node.connect_timeout).close()
    except socket.gaierror:
        return "the name is not known; check the host, or how this machine resolves names"
    except ConnectionRefusedError:
        return "nothing listens there; check the port, and that the PACS runs"
    except TimeoutError:
        return silent
    except OSError as error:
        return f"there is no way to it ({error.strerror}); check the address and the network"
    return "the connection failed, but a second attempt succeeded"


@contextmanager
def _arrivals_as_responses(association: Association, arrived: Callable[[], object]) -> Iterator[None]:
    """Count an association as active while objects arrive at the move destination."""
    done = threading.Event()

    def watch() -> None:
        last = arrived()
        while not done.wait(min(1.0, (association.dimse_timeout or 1.0) / 4)):
            stream, seen = association.dul.socket, arrived()
            if seen != last and stream is not None:
                stream.heard = time.monotonic()
            last = seen

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def refuse_full_disk(errors: Iterable[Exception]) -> None:
    """Raise StorageError where the disk prevented an object from being stored. Other errors concern single objects."""
    for error in errors:
        if isinstance(error, OSError):
            with storage_errors("a received object could not be stored"):
                raise error


class ClassesRefused(Unsupported):
    """The PACS does not send these SOP classes by C-GET; it may send others.

    Attributes:
        classes: their UIDs.
    """

    def __init__(self, text: str, classes: frozenset[str]) -> None:
        super().__init__(text)
        self.classes = classes


def _contexts(proposal: Iterable[Proposal]) -> list[PresentationContext]:
    query_contexts = [build_context(uid, list(_PLAIN)) for uid in _QUERY_CONTEXTS]
    # In the order of the transfer syntaxes: some archives use the first one that they support.
    rank = {uid: number for number, uid in enumerate(GET_TRANSFER_SYNTAXES)}
    ordered = sorted(proposal, key=lambda item: (item[0], rank.get(item[1][0], len(rank)), item[1]))
    return query_contexts + [build_context(uid, list(syntaxes)) for uid, syntaxes, _ in ordered]


def _to_send(kinds: Collection[tuple[str, str]]) -> frozenset[Proposal]:
    """Return the presentation contexts to propose for objects to send.

    There is one more for each SOP class, which shows whether the class is accepted at all.
    """
    plain = {(uid, _PLAIN, False) for uid, syntax in kinds}
    return frozenset({(uid, (syntax,), False) for uid, syntax in kinds} | plain)


def _context_for(association: Association, sop_class: str, transfer_syntax: str) -> int | None:
    """Return the id of the presentation context for a SOP class and a transfer syntax."""
    for cx in association.accepted_contexts:
        if cx.as_scu and (cx.abstract_syntax, cx.transfer_syntax[0]) == (sop_class, transfer_syntax):
            return int(cx.context_id)
    return None


def chunks(items: Sequence[str], size: int) -> Iterator[list[str]]:
    """Cut a sequence into lists of at most `size` items."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
