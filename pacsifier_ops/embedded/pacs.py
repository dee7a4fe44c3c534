"""An embedded PACS: C-ECHO, C-FIND, C-GET, C-MOVE and C-STORE over an index of files in memory.

It serves demonstrations and tests. It supports Study Root and Patient Root (PS3.4 C.6), sends files as they are stored,
and has faults that reproduce errors of real archives on demand.
"""

from __future__ import annotations

import math
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from socketserver import BaseServer
from typing import Any, Literal

from pydicom import dcmread
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_FIND_RSP, C_STORE_RSP
from pynetdicom.dimse_primitives import C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import encode, split_dataset
from pynetdicom.pdu_primitives import A_RELEASE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import ThreadedAssociationServer

from pacsifier_ops.base.config import check_ae_title
from pacsifier_ops.base.files import write_atomic
from pacsifier_ops.dimse.transport import HANDLERS, Secure, tuned

#: Query/retrieve levels from the root down, each with its unique key (PS3.4 C.6).
LEVELS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
#: Keys at PATIENT level and, with these, at STUDY level (PS3.4 C.6.1.1). Below, all attributes of an object are keys.
PATIENT_KEYS = {
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientIDs",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "NumberOfPatientRelatedStudies",
    "NumberOfPatientRelatedSeries",
    "NumberOfPatientRelatedInstances",
}
STUDY_KEYS = {
    *PATIENT_KEYS,
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
    "ReferringPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "Occupation",
    "AdditionalPatientHistory",
    "ModalitiesInStudy",
    "SOPClassesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
}
#: Keys that an archive computes (PS3.4 C.3.4): the values of an attribute below an entity, or their number.
COMPUTED = {
    "NumberOfPatientRelatedStudies": ("PATIENT", "StudyInstanceUID"),
    "NumberOfPatientRelatedSeries": ("PATIENT", "SeriesInstanceUID"),
    "NumberOfPatientRelatedInstances": ("PATIENT", "SOPInstanceUID"),
    "NumberOfStudyRelatedSeries": ("STUDY", "SeriesInstanceUID"),
    "NumberOfStudyRelatedInstances": ("STUDY", "SOPInstanceUID"),
    "NumberOfSeriesRelatedInstances": ("SERIES", "SOPInstanceUID"),
    "ModalitiesInStudy": ("STUDY", "Modality"),
    "SOPClassesInStudy": ("STUDY", "SOPClassUID"),
}

VERIFICATION = "1.2.840.10008.1.1"
PATIENT_ROOT, STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1", "1.2.840.10008.5.1.4.1.2.2"
FIND, MOVE, GET = ({f"{root}.{service}" for root in (PATIENT_ROOT, STUDY_ROOT)} for service in (1, 2, 3))
STORAGE = {cx.abstract_syntax for cx in AllStoragePresentationContexts}

SUCCESS, PENDING, CANCEL = 0x0000, 0xFF00, 0xFE00
NOT_AUTHORIZED, OUT_OF_RESOURCES, MISMATCH = 0x0124, 0xA700, 0xA900
SUB_OPERATIONS_FAILED, DESTINATION_UNKNOWN, UNABLE_TO_PROCESS = 0xA702, 0xA801, 0xC000

#: A-ASSOCIATE-RJ: result, source, reason (PS3.8 9.3.4).
REJECT_TRANSIENT, REJECT_CALLING, REJECT_CALLED = (2, 3, 2), (1, 1, 3), (1, 1, 7)


@dataclass
class Faults:
    """Faults of the PACS. They can be changed at any time and apply to later requests.

    Attributes:
        result_limit: C-FIND stops after this number of matches; 0: no limit.
        result_limit_status: final status of a truncated C-FIND, 0x0000, 0xA700 or 0xFE00.
        relational: where False, the unique keys of the levels above are required, else the status is 0xA900.
        image_level: where False, the status of a C-FIND at IMAGE level is 0xA900.
        ignored_keys: keywords on which it does not match.
        unreturned_keys: keywords that its responses lack.
        emptied_keys: keywords that it returns without value.
        image_only_keys: keywords that its responses lack above IMAGE level.
        unindexed_keys: keywords without stored values: no value matches, and none is returned.
        answer_charset: character set of its responses; letters that the set lacks are dropped. None: the object's;
            empty: ASCII, undeclared.
        torn, torn_times: matches with one of these UIDs lack their last bytes, this number of times; None: always.
        stall: seconds before it responds to a C-FIND.
        withhold: SOP Instance UIDs that it lists and fails to send.
        withhold_silently: SOP Instance UIDs that it lists, does not send, and counts as completed.
        abort_after: aborts the association after this number of sub-operations of one retrieve, once.
        abort_sends_on: where True, C-MOVE sends the rest after the abort.
        success_without_suboperations: every retrieve ends with Success and sends nothing.
        retrieve_status, retrieve_status_times: this number of retrieves end at once with this status.
        failed_list: where False, responses to a retrieve list no failed SOP Instance UIDs.
        counts: where False, the final response to a retrieve has no numbers of sub-operations.
        nearline: Series Instance UIDs that have to be recalled before they can be sent; InstanceAvailability shows it.
        recall: seconds that a recall takes from the first retrieve on.
        recalling: behaviour of a retrieve meanwhile: `silent` waits until the recall is done, and then sends, also
            where the peer has disconnected; `refuses` (0xA702); `fails` (0xC000); `nothing` succeeds without sending;
            `part` sends the first instance of each series, and fails with the rest.
        coerced: UIDs, by keyword, of which every sent object gets a new one: StudyInstanceUID, SeriesInstanceUID,
            SOPInstanceUID; or AffectedSOPInstanceUID, in the command alone.
        intruders: files that are sent in addition with every retrieve.
        patient_keys_below_study: where False, responses below STUDY level lack keys of the patient.
        corrected: by keyword, values in responses that replace values in the files; the files are sent unchanged.
        store_status, store_status_from, store_status_times: status of incoming C-STOREs, beginning with this number (0
            is the first one ever), this number of times; None: always. A warning stores the object.
        store_abort_after: aborts the association after this number of C-STOREs, once.
        store_unlisted: SOP Instance UIDs that it accepts with success, and loses.
        refused_classes, refused_syntaxes: SOP classes and transfer syntaxes without presentation context.
        delay: seconds before each C-STORE that it sends or responds to.
        reject: rejects associations, as `transient` (local limit exceeded) or for the `called_aet`.
        get_supported: where False, no presentation context for C-GET is accepted.
        allowed_calling_aets: AE titles that may associate; None: all.
    """

    result_limit: int = 0
    result_limit_status: int = SUCCESS
    relational: bool = True
    image_level: bool = True
    ignored_keys: set[str] = field(default_factory=set)
    unreturned_keys: set[str] = field(default_factory=set)
    emptied_keys: set[str] = field(default_factory=set)
    image_only_keys: set[str] = field(default_factory=set)
    unindexed_keys: set[str] = field(default_factory=set)
    answer_charset: str | None = None
    torn: set[str] = field(default_factory=set)
    torn_times: int | None = None
    stall: float = 0.0
    withhold: set[str] = field(default_factory=set)
    withhold_silently: set[str] = field(default_factory=set)
    abort_after: int | None = None
    abort_sends_on: bool = False
    success_without_suboperations: bool = False
    retrieve_status: int | None = None
    retrieve_status_times: int = 1
    failed_list: bool = True
    counts: bool = True
    nearline: set[str] = field(default_factory=set)
    recall: float = 0.0
    recalling: Literal["silent", "refuses", "fails", "nothing", "part"] = "silent"
    coerced: set[str] = field(default_factory=set)
    intruders: list[Path] = field(default_factory=list)
    patient_keys_below_study: bool = True
    corrected: dict[str, dict[str, str]] = field(default_factory=dict)
    store_status: int | None = None
    store_status_from: int = 0
    store_status_times: int | None = None
    store_abort_after: int | None = None
    store_unlisted: set[str] = field(default_factory=set)
    refused_classes: set[str] = field(default_factory=set)
    refused_syntaxes: set[str] = field(default_factory=set)
    delay: float = 0.0
    reject: Literal["transient", "called_aet"] | None = None
    get_supported: bool = True
    allowed_calling_aets: set[str] | None = None


def _values(element: DataElement | None) -> list[str]:
    """Return the non-empty values of an element as text, without surrounding blanks."""
    if element is None or element.value is None:
        return []
    several = element.value if element.VM > 1 else [element.value]
    return [text for value in several if (text := str(value).strip())]


def _span(text: str) -> tuple[str, str]:
    """Return first and last moment of a date or time; missing parts are open (the time `10` is a whole hour)."""
    digits = text.replace(".", "").replace(":", "")
    return digits.ljust(20, "0"), digits.ljust(20, "9")


def _like(wanted: str, stored: str, flags: re.RegexFlag = re.NOFLAG) -> bool:
    pattern = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in wanted)
    return re.fullmatch(pattern, stored, flags | re.DOTALL) is not None


def _value_matches(vr: str, wanted: str, stored: str) -> bool:
    """Match one value by range, single value or wildcard (PS3.4 C.2.2.2)."""
    if vr in ("DA", "TM", "DT"):
        first, dash, last = wanted.partition("-")
        last = last if dash else first
        begin, end = _span(stored)
        return (not first or end >= _span(first)[0]) and (not last or begin <= _span(last)[1])
    if vr in ("IS", "DS", "US", "SS", "UL", "SL", "FL", "FD"):
        return float(wanted) == float(stored)
    if vr == "UI":
        return wanted == stored
    if vr == "PN":
        names = [stored, *stored.split("=")]
        return any(_like(wanted.rstrip("^"), name.rstrip("^"), re.IGNORECASE) for name in names)
    return _like(wanted, stored)


def matches(wanted: DataElement, stored: DataElement | None) -> bool:
    """Match an attribute (PS3.4 C.2.2.2): universal, single value, wildcard, range, UID list, sequence.

    Names match without case, as a whole or by one of their component groups. An attribute with several values matches
    where one of them does. One UID of a list has to match; several values of another key must all match.
    """
    if wanted.VR == "SQ":
        keys = [key for item in wanted.value for key in item]
        items = stored.value if stored is not None else []
        found = any(all(matches(key, item.get(key.tag)) for key in keys) for item in items)
        return found or all(matches(key, None) for key in keys)
    texts = _values(wanted)
    if all(not text.strip("*") for text in texts):
        return True
    quantifier = any if wanted.VR == "UI" else all
    return quantifier(any(_value_matches(wanted.VR, t, s) for s in _values(stored)) for t in texts)


def _read(path: Path) -> FileDataset | None:
    """Read an object's attributes without its pixel data; None where the file has no storable object."""
    try:
        header = dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, EOFError, ValueError):
        return None
    meta = header.file_meta
    keys = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    if not all(header.get(key) for key in keys) or "TransferSyntaxUID" not in meta:
        return None
    announced = meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID")
    return header if announced == (header.SOPClassUID, header.SOPInstanceUID) else None


def _data_set(path: Path) -> bytes:
    """Return the encoded data set of a file, without preamble and file meta information (PS3.10 7.1)."""
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def _coerced(path: Path, keywords: Iterable[str]) -> tuple[str, bytes]:
    """Return the UID and the encoded data set of a file, with new UIDs for these keywords."""
    image = dcmread(path)
    for keyword in set(keywords) - {"AffectedSOPInstanceUID"}:
        setattr(image, keyword, generate_uid())
    syntax = UID(image.file_meta.TransferSyntaxUID)
    encoded = encode(image, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated) or b""
    return generate_uid() if "AffectedSOPInstanceUID" in keywords else str(image.SOPInstanceUID), encoded


def keep_responses(assoc: Association) -> None:
    """Keep the thread of an association that we have requested from taking a response that another thread waits for.

    It looks for requests of the peer, and there are none. pynetdicom pauses it, and may take it for paused too early.
    """
    if assoc.is_requestor:
        take = assoc.dimse.get_msg
        assoc.dimse.get_msg = lambda block=False: take(block) if block else (None, None)


def _store(
    assoc: Association,
    instance: FileDataset,
    message_id: int,
    originator: dict[str, Any],
    coerced: Collection[str] = (),
) -> int:
    """Send one object as it is stored (PS3.7 9.1.1), apart from coerced UIDs. Return the status.

    It fails where no accepted presentation context has its SOP class and its transfer syntax.
    """
    meta = instance.file_meta
    fitting = (
        cx.context_id
        for cx in assoc.accepted_contexts
        if cx.as_scu
        and cx.abstract_syntax == meta.MediaStorageSOPClassUID
        and cx.transfer_syntax[0] == meta.TransferSyntaxUID
    )
    context_id = next(fitting, None)
    if context_id is None or not assoc.is_established:
        return OUT_OF_RESOURCES
    request = C_STORE()
    request.MessageID = message_id
    request.Priority = 2
    request.AffectedSOPClassUID = meta.MediaStorageSOPClassUID
    # Bypass the library's check: archives store and send UIDs that the standard forbids.
    path = Path(str(instance.filename))
    uid, data_set = _coerced(path, coerced) if coerced else (meta.MediaStorageSOPInstanceUID, _data_set(path))
    request._affected_sop_instance_uid = UID(uid)
    request.MoveOriginatorApplicationEntityTitle = originator.get("originator_aet")
    request.MoveOriginatorMessageID = originator.get("originator_id")
    request.DataSet = BytesIO(data_set)
    # The association's own thread must not take the response.
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused and assoc.is_alive():
        time.sleep(0.0001)
    try:
        assoc.dimse.send_msg(request, context_id)
        _, response = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    return response.Status or SUCCESS if isinstance(response, C_STORE) else OUT_OF_RESOURCES


def _without_uid(event: evt.Event) -> None:
    """Remove the UID from a response to our C-STORE: the library drops a response with a UID of over 64 characters."""
    if isinstance(event.message, C_STORE_RSP) and "AffectedSOPInstanceUID" in event.message.command_set:
        del event.message.command_set.AffectedSOPInstanceUID


def _has_stored(status: int) -> bool:
    """Return whether a C-STORE status means that the object is stored: success, or a warning (PS3.4 B.2.3)."""
    return status == SUCCESS or status >> 12 == 0xB


def _entity(level: str, header: Dataset) -> tuple[str, ...]:
    """Return the patient, study, series or instance of an object, by its unique keys from the patient down."""
    return tuple(str(header.get(key) or "") for key in list(LEVELS.values())[: list(LEVELS).index(level) + 1])


def _failed(instances: Iterable[FileDataset], transfer_syntax: str) -> BytesIO:
    """Return the identifier with the failed sub-operations (PS3.4 C.4.2.1.4.2)."""
    identifier, syntax = Dataset(), UID(transfer_syntax)
    identifier.FailedSOPInstanceUIDList = [instance.SOPInstanceUID for instance in instances]
    return BytesIO(encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated) or b"")


class _Server(ThreadedAssociationServer):
    """Leaves the memory of ended associations to Python's own garbage collection.

    pynetdicom collects all garbage of the process after every sixty checks of the port. In a process with much memory,
    such as one that runs Airflow, that takes most of a core.
    """

    def service_actions(self) -> None:
        """Do nothing."""


class EmbeddedPacs:
    """A PACS in this process.

    Args:
        aet: its AE title; associations with another called AE title are rejected.
        host, port: its address; port 0 means a free one, which it keeps from the first start on.
        destinations: host and port of C-MOVE destinations, by AE title; may be changed while it runs.
        folder: folder for objects received by C-STORE; without one C-STORE is refused (0x0124).
        faults: its faults.
        tls: TLS context for DICOM over TLS (PS3.15 B).
        move_tls: TLS context for associations with C-MOVE destinations.

    Attributes:
        peak_associations: maximum number of associations that were open at once.
        queries: level and identifier of every C-FIND.
        retrieves: service ("C-GET", "C-MOVE"), level and identifier of every retrieve.
        recalls: Series Instance UID of every recall that a retrieve began, or queued, in order.
        sent: SOP Instance UIDs that peers accepted, in order.
        offered: SOP Instance UIDs of every incoming C-STORE, in order.
        stored: SOP Instance UIDs of the objects that C-STORE added, in order.
        suboperations: numbers of C-STORE sub-operations reported as completed, warning and failed.
    """

    def __init__(
        self,
        *,
        aet: str = "DEMOPACS",
        host: str = "127.0.0.1",
        port: int = 0,
        destinations: Mapping[str, tuple[str, int]] | None = None,
        folder: Path | None = None,
        faults: Faults | None = None,
        tls: ssl.SSLContext | None = None,
        move_tls: ssl.SSLContext | None = None,
    ) -> None:
        check_ae_title(aet, "AE title of the embedded PACS")
        self.aet, self.host, self.port = aet, host, port
        self.destinations = dict(destinations or {})
        self.folder = folder
        self.faults = faults or Faults()
        self.tls, self.move_tls = tls, move_tls
        self.peak_associations = 0
        self.queries: list[tuple[str, Dataset]] = []
        self.retrieves: list[tuple[str, str, Dataset]] = []
        self.recalls: list[str] = []
        self.sent: list[str] = []
        self.offered: list[str] = []
        self.stored: list[str] = []
        self.suboperations: Counter[str] = Counter()
        self._index: dict[str, dict[str, list[FileDataset]]] = {level: {} for level in LEVELS}
        self._classes: set[str] = set()
        self._recalled: dict[str, float] = {}
        self._open: set[Association] = set()
        self._lock = threading.Lock()
        self._server: ThreadedAssociationServer | None = None

    # ---- life

    def add(self, paths: Iterable[Path]) -> int:
        """Index files in place, by their headers; files without a storable object are skipped.

        The first file of an instance stays: of a SOP Instance UID within patient, study and series.

        Returns:
            Number of objects that were added.
        """
        headers = [header for path in paths if (header := _read(path)) is not None]
        with self._lock:
            return sum(self._add(header) for header in headers)

    def _add(self, header: FileDataset) -> bool:
        others = self._index["IMAGE"].get(str(header.SOPInstanceUID), ())
        if any(_entity("IMAGE", header) == _entity("IMAGE", other) for other in others):
            return False
        self._classes.add(str(header.SOPClassUID))
        for level, key in LEVELS.items():
            self._index[level].setdefault(str(header.get(key) or ""), []).append(header)
        return True

    def start(self) -> EmbeddedPacs:
        """Listen and serve in threads. Return the PACS itself.

        Raises:
            OSError: the port is in use.
        """
        entity = AE(self.aet)
        entity.require_called_aet = True
        entity.maximum_associations = 1000
        self._server = _Server(
            entity,
            (self.host, self.port),
            self.aet,
            [build_context(VERIFICATION)],
            evt_handlers=[
                *(tuned(Secure(self.tls)) if self.tls else HANDLERS),
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_ACCEPTED, self._opened),
                (evt.EVT_ACSE_RECV, self._release_received),
                (evt.EVT_ABORTED, self._closed),
                (evt.EVT_CONN_CLOSE, self._closed),
                (evt.EVT_DIMSE_SENT, self._truncate),
                (evt.EVT_DIMSE_RECV, _without_uid),
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_C_FIND, self._on_find),
                (evt.EVT_C_GET, self._on_get),
                (evt.EVT_C_MOVE, self._on_move),
            ],
        )
        self.port = self._server.server_address[1]
        serve = {"poll_interval": 0.05}
        threading.Thread(target=self._server.serve_forever, kwargs=serve, daemon=True).start()
        return self

    def stop(self) -> None:
        """Abort open associations and stop listening. It may be started again, on the same port."""
        if self._server is None:
            return
        server, self._server = self._server, None
        # The server's own shutdown also unregisters it from an entity that does not know it.
        BaseServer.shutdown(server)
        server.server_close()
        for assoc in server.active_associations:
            assoc.abort()

    def __enter__(self) -> EmbeddedPacs:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- associations

    def _requested(self, event: evt.Event) -> None:
        """Reject the association, or decide which of the proposed presentation contexts are accepted."""
        assoc, faults = event.assoc, self.faults
        request: Any = assoc.requestor.primitive
        allowed = faults.allowed_calling_aets
        reason = None
        if faults.reject == "transient":
            reason = REJECT_TRANSIENT
        elif faults.reject == "called_aet":
            reason = REJECT_CALLED
        elif allowed is not None and request.calling_ae_title not in allowed:
            reason = REJECT_CALLING
        if reason:
            assoc.acse.send_reject(*reason)
            assoc.kill()
            return
        assoc.acceptor.supported_contexts = self._supported(request.presentation_context_definition_list)

    def _supported(self, proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
        """Return the supported contexts: storage in any transfer syntax, and in either role because of C-GET."""
        faults = self.faults
        services = {VERIFICATION} | FIND | MOVE | (GET if faults.get_supported else set())
        supported: dict[str, PresentationContext] = {}
        for context in proposed:
            uid = str(context.abstract_syntax)
            if uid in services:
                supported[uid] = build_context(uid)
            elif (uid in STORAGE or uid in self._classes) and uid not in faults.refused_classes:
                storage = supported.setdefault(uid, build_context(uid, []))
                taken = [syntax for syntax in context.transfer_syntax if syntax not in faults.refused_syntaxes]
                storage.transfer_syntax = [*storage.transfer_syntax, *taken]
                storage.scu_role = storage.scp_role = True
        return list(supported.values())

    def _opened(self, event: evt.Event) -> None:
        with self._lock:
            self._open.add(event.assoc)
            self.peak_associations = max(self.peak_associations, len(self._open))

    def _closed(self, event: evt.Event) -> None:
        with self._lock:
            self._open.discard(event.assoc)

    def _release_received(self, event: Any) -> None:
        # Count it as closed here already: the peer may open its next association before this one is closed.
        if isinstance(event.primitive, A_RELEASE):
            self._closed(event)

    # ---- services

    def _on_store(self, event: Any) -> int:
        faults, uid = self.faults, str(event.request.AffectedSOPInstanceUID)
        time.sleep(faults.delay)
        with self._lock:
            number = len(self.offered)
            self.offered.append(uid)
            abort = faults.store_abort_after is not None and number >= faults.store_abort_after
            faults.store_abort_after = None if abort else faults.store_abort_after
            status = SUCCESS
            if faults.store_status is not None and number >= faults.store_status_from:
                left = faults.store_status_times
                status = faults.store_status if left != 0 else SUCCESS
                faults.store_status_times = left - 1 if left else left
        if abort:
            event.assoc.abort()
        if abort or not _has_stored(status):
            return status
        return self._keep(uid, event.encoded_dataset()) or status

    def _keep(self, uid: str, file: bytes) -> int:
        """Write and index an object unchanged. Return the status."""
        if self.folder is None:
            return NOT_AUTHORIZED
        if not re.fullmatch(r"[0-9.]{1,64}", uid):
            return MISMATCH
        if uid in self._index["IMAGE"] or uid in self.faults.store_unlisted:
            return SUCCESS
        path = self.folder / f"{uid}.dcm"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, file)
        self.add([path])
        if uid not in self._index["IMAGE"]:
            path.unlink()
            return MISMATCH
        self.stored.append(uid)
        return SUCCESS

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        identifier = event.identifier
        level = str(identifier.get("QueryRetrieveLevel"))
        self.queries.append((level, identifier))
        time.sleep(self.faults.stall)
        if not self._consistent(event) or (level == "IMAGE" and not self.faults.image_level):
            yield MISMATCH, None
            return
        answers = self._answers(level, identifier)
        limit = self.faults.result_limit or None
        for answer in islice(answers, limit):
            if event.is_cancelled:
                yield CANCEL, None
                return
            yield PENDING, answer
        if limit and next(answers, None) is not None:
            yield self.faults.result_limit_status, None

    def _truncate(self, event: evt.Event) -> None:
        """Truncate a response to a C-FIND before it is sent."""
        message, faults = event.message, self.faults
        if faults.torn and faults.torn_times != 0 and isinstance(message, C_FIND_RSP):
            match = message.data_set.getvalue()
            if any(uid.encode() in match for uid in faults.torn):
                message.data_set = BytesIO(match[:-7])
                faults.torn_times = None if faults.torn_times is None else faults.torn_times - 1

    def _on_get(self, event: Any) -> Iterator[Any]:
        self.retrieves.append(("C-GET", str(event.identifier.get("QueryRetrieveLevel")), event.identifier))
        wanted = self._wanted(event)
        event.assoc.send_c_store = self._sender(event.assoc)
        event.assoc.dimse.send_msg = self._responder(event, wanted)
        yield from self._sub_operations(event, wanted)

    def _on_move(self, event: Any) -> Iterator[Any]:
        self.retrieves.append(("C-MOVE", str(event.identifier.get("QueryRetrieveLevel")), event.identifier))
        destination = self.destinations.get(str(event.move_destination).strip())
        wanted = self._wanted(event) if destination else []
        event.assoc.dimse.send_msg = self._responder(event, wanted)
        if destination is None:
            yield None, None
            return
        pairs = {(h.file_meta.MediaStorageSOPClassUID, h.file_meta.TransferSyntaxUID): None for h in wanted}

        def use_our_sender(opened: Any) -> None:
            opened.assoc.send_c_store = self._sender(opened.assoc)

        tuning = tuned(Secure(self.move_tls, destination[0])) if self.move_tls else HANDLERS
        handlers = [*tuning, (evt.EVT_DIMSE_RECV, _without_uid), (evt.EVT_ESTABLISHED, use_our_sender)]
        # 128 contexts are the maximum (PS3.8 9.3.2.2); objects without one fail. A refusal associates as well.
        contexts = [build_context(*pair) for pair in pairs] or AllStoragePresentationContexts
        known: dict[str, Any] = {"contexts": contexts[:128], "evt_handlers": handlers}
        yield (*destination, known)

        def send_on(rest: list[FileDataset]) -> None:
            late = AE(self.aet).associate(*destination, ae_title=str(event.move_destination), **known)
            for instance in rest if late.is_established else ():
                late.send_c_store(instance)
            late.release()

        yield from self._sub_operations(event, wanted, send_on)

    def _sub_operations(
        self, event: evt.Event, wanted: list[FileDataset], send_on: Callable[[list[FileDataset]], None] | None = None
    ) -> Iterator[Any]:
        """Yield the number of sub-operations, then each object; or the status with which the retrieve ends.

        Args:
            event: the request.
            wanted: the objects to send.
            send_on: sends the remaining objects after the requesting association has ended.
        """
        faults = self.faults
        status = None if self._consistent(event) else MISMATCH
        with self._lock:
            if status is None and faults.retrieve_status is not None and faults.retrieve_status_times > 0:
                faults.retrieve_status_times -= 1
                status = faults.retrieve_status
        away = [instance for instance in wanted if not self._is_online(str(instance.SeriesInstanceUID))]
        if status is None and away:
            status = self._recall(away)
            if faults.recalling == "nothing":
                wanted = []
            # The association itself notices only after this that the peer has disconnected.
            if send_on and event.assoc.dul.state_machine.current_state != "Sta6":
                send_on(wanted)
                return
        if status is not None:
            yield max(1, len(wanted))
            yield status, None
            return
        yield 0 if faults.success_without_suboperations else len(wanted)
        for number, instance in enumerate(wanted):
            if event.is_cancelled:
                yield CANCEL, None
                return
            with self._lock:
                abort = faults.abort_after is not None and number >= faults.abort_after
                faults.abort_after = None if abort else faults.abort_after
            if abort:
                event.assoc.abort()
                if send_on and faults.abort_sends_on:
                    send_on(wanted[number:])
                return
            yield PENDING, instance

    def _is_online(self, series_uid: str) -> bool:
        ready = self._recalled.get(series_uid, math.inf)
        return series_uid not in self.faults.nearline or time.monotonic() >= ready

    def _recall(self, instances: list[FileDataset]) -> int | None:
        """Recall the series of these instances. Return the status with which the retrieve ends at once, or None."""
        faults = self.faults
        for uid in sorted({str(instance.SeriesInstanceUID) for instance in instances}):
            self.recalls.append(uid)
            self._recalled.setdefault(uid, time.monotonic() + faults.recall)
        while faults.recalling == "silent" and self._server is not None:
            if all(self._is_online(str(instance.SeriesInstanceUID)) for instance in instances):
                break
            time.sleep(0.01)
        return {"refuses": SUB_OPERATIONS_FAILED, "fails": UNABLE_TO_PROCESS}.get(faults.recalling)

    def _responder(self, event: Any, wanted: list[FileDataset]) -> Callable[[Any, int], None]:
        """Return a replacement of `assoc.dimse.send_msg`, with the final responses and faults of real archives."""
        dimse = event.assoc.dimse

        def send(message: Any, context_id: int) -> None:
            if isinstance(message, (C_GET, C_MOVE)) and message.Status != PENDING:
                if message.Status == DESTINATION_UNKNOWN and wanted:  # the destination is known, but not reachable
                    message.Status = SUB_OPERATIONS_FAILED
                    message.NumberOfCompletedSuboperations = message.NumberOfWarningSuboperations = 0
                    message.NumberOfFailedSuboperations = len(wanted)
                    message.Identifier = _failed(wanted, event.context.transfer_syntax)
                if not self.faults.failed_list:
                    message.Identifier = None
                if not self.faults.counts:
                    for result in ("Remaining", "Completed", "Failed", "Warning"):
                        setattr(message, f"NumberOf{result}Suboperations", None)
            type(dimse).send_msg(dimse, message, context_id)

        return send

    def _sender(self, assoc: Association) -> Callable[..., Dataset]:
        """Return a replacement of `assoc.send_c_store`, which sends unchanged files and has the faults of sending."""
        keep_responses(assoc)

        def send(instance: FileDataset, msg_id: int = 1, **originator: Any) -> Dataset:
            faults, uid = self.faults, str(instance.SOPInstanceUID)
            time.sleep(faults.delay)
            if uid in faults.withhold or (faults.recalling == "part" and not self._may_send(instance)):
                code = OUT_OF_RESOURCES
            elif uid in faults.withhold_silently:
                code = SUCCESS
            else:
                code = _store(assoc, instance, msg_id, originator, faults.coerced)
                if _has_stored(code):
                    self.sent.append(uid)
            result = "completed" if code == SUCCESS else "warning" if _has_stored(code) else "failed"
            with self._lock:
                self.suboperations[result] += 1
            status = Dataset()
            status.Status = code
            return status

        return send

    def _may_send(self, instance: FileDataset) -> bool:
        """Return whether an instance is online, or the first of its series."""
        series = str(instance.SeriesInstanceUID)
        return self._is_online(series) or instance is self._index["SERIES"][series][0]

    # ---- the index

    def _consistent(self, event: evt.Event) -> bool:
        """Return whether the identifier fits the information model: its level, and the keys of the levels above."""
        identifier, model = event.identifier, str(event.context.abstract_syntax)
        levels = list(LEVELS) if model.startswith(PATIENT_ROOT) else list(LEVELS)[1:]
        level = identifier.get("QueryRetrieveLevel")
        if level not in levels:
            return False
        above = [] if self.faults.relational else levels[: levels.index(level)]
        retrieve = model not in FIND
        needed = [LEVELS[name] for name in [*above, *([level] if retrieve else [])]]
        return all(identifier.get(key) for key in needed)

    def _candidates(self, level: str, identifier: Dataset) -> Iterable[FileDataset]:
        """Return the objects below the lowest UID of the identifier; all objects where it has none."""
        with self._lock:
            for name in reversed(list(LEVELS)[1 : list(LEVELS).index(level) + 1]):
                key = LEVELS[name]
                if key in self.faults.ignored_keys or key not in identifier:
                    continue
                if uids := _values(identifier[key]):
                    found = [self._index[name].get(uid, []) for uid in uids]
                    return list(chain.from_iterable(found))
            return list(chain.from_iterable(self._index[level].values()))

    def _wanted(self, event: evt.Event) -> list[FileDataset]:
        """Return the objects of a retrieve: those that match all of its unique keys (PS3.4 C.4.2, C.4.3)."""
        identifier = event.identifier
        if not self._consistent(event):
            return []
        level = str(identifier.QueryRetrieveLevel)
        keys = [identifier[key] for key in LEVELS.values() if key in identifier]
        found = [
            instance
            for instance in self._candidates(level, identifier)
            if all(matches(key, instance.get(key.tag)) for key in keys)
        ]
        return found + [h for path in self.faults.intruders if (h := _read(path)) is not None]

    def _answers(self, level: str, identifier: Dataset) -> Iterator[Dataset]:
        known = {"PATIENT": PATIENT_KEYS, "STUDY": STUDY_KEYS}.get(level)
        keys = [
            key
            for key in identifier
            if key.keyword not in ("QueryRetrieveLevel", "SpecificCharacterSet", "RetrieveAETitle")
            and key.tag.element != 0
            and (known is None or key.keyword in known)
        ]
        entities: dict[tuple[str, ...], FileDataset] = {}
        for header in self._candidates(level, identifier):
            entities.setdefault(_entity(level, header), header)
        for first in entities.values():
            elements = {key.tag: self._element(first, key) for key in keys}
            ignored = self.faults.ignored_keys
            if all(key.keyword in ignored or matches(key, elements[key.tag]) for key in keys):
                yield self._answer(level, first, keys, elements)

    def _answer(
        self,
        level: str,
        first: FileDataset,
        keys: list[DataElement],
        elements: Mapping[Any, DataElement | None],
    ) -> Dataset:
        """Return one match, in the character set of the stored object."""
        answer, faults = Dataset(), self.faults
        charset = faults.answer_charset
        if shown := first.get("SpecificCharacterSet") if charset is None else charset:
            answer.SpecificCharacterSet = shown
        answer.QueryRetrieveLevel = level
        answer.RetrieveAETitle = self.aet
        for key in keys:
            element = elements[key.tag]
            unreturned = faults.unreturned_keys | faults.unindexed_keys
            if level in ("SERIES", "IMAGE") and not faults.patient_keys_below_study:
                unreturned |= PATIENT_KEYS
            if level != "IMAGE":
                unreturned |= faults.image_only_keys
            if key.keyword in unreturned:
                continue
            if element is None or key.keyword in faults.emptied_keys:
                element = DataElement(key.tag, key.VR, None)
            elif charset is not None and key.VR in ("LO", "PN", "SH"):
                element = DataElement(key.tag, key.VR, _without_letters(element, charset))
            answer[key.tag] = element
        return answer

    def _element(self, first: FileDataset, key: DataElement) -> DataElement | None:
        """Return the value of a key for the entity of `first`: computed, or the attribute of its first object."""
        if key.keyword in self.faults.unindexed_keys:
            return None
        corrections = self.faults.corrected.get(key.keyword, {})
        if (
            corrected := corrections.get(str(first.get(key.tag, DataElement(key.tag, key.VR, "")).value or ""))
        ) is not None:
            return DataElement(key.tag, key.VR, corrected)
        if key.keyword == "InstanceAvailability":
            online = self._is_online(str(first.SeriesInstanceUID))
            return DataElement(key.tag, key.VR, "ONLINE" if online else "NEARLINE")
        if key.keyword not in COMPUTED:
            return first.get(key.tag)
        owner, attribute = COMPUTED[key.keyword]
        with self._lock:
            indexed = self._index[owner][str(first.get(LEVELS[owner]) or "")]
            objects = [o for o in indexed if _entity(owner, o) == _entity(owner, first)]
        values = sorted({str(o.get(attribute) or "") for o in objects} - {""})
        return DataElement(key.tag, key.VR, len(values) if key.keyword.startswith("NumberOf") else values)


def _without_letters(element: DataElement, charset: str) -> str:
    """Return the text of an element without the letters that a character set lacks."""
    encoding = convert_encodings(charset)[0] if charset else "ascii"
    return str(element.value or "").encode(encoding, "ignore").decode(encoding)
