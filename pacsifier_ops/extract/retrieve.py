"""One series from the PACS into the tree: expected first, fetched, compared, published, recorded."""

from __future__ import annotations

import os
import shutil
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom import AllStoragePresentationContexts, sop_class

from pacsifier_ops.base import cells
from pacsifier_ops.base.config import ACCEPT_ARCHIVE, PacsNode
from pacsifier_ops.base.errors import (
    AssociationAborted,
    MoveDestinationUnknown,
    NothingMoved,
    OutOfResources,
    PacsError,
    PacsSilent,
    ReceiverGone,
    Unsupported,
)
from pacsifier_ops.base.files import (
    fsync_files,
    fsync_folder,
    private_file,
    private_folder,
    storage_errors,
    write_atomic,
)
from pacsifier_ops.base.waiting import pause
from pacsifier_ops.dicom.heads import same_object
from pacsifier_ops.dicom.uids import fault_of
from pacsifier_ops.dimse.attempts import AtNode
from pacsifier_ops.dimse.find import Expectation, Finder
from pacsifier_ops.dimse.receiver import spooled, waiting
from pacsifier_ops.dimse.session import (
    CLASSES_PER_ASSOCIATION,
    ClassesRefused,
    RetrieveResult,
    chunks,
    query,
)
from pacsifier_ops.dimse.sink import ReceivedObject
from pacsifier_ops.extract.quarantine import (
    ANOTHER_ISSUER,
    ANOTHER_PATIENT,
    NOT_AS_BEFORE,
    TWO_VERSIONS,
    UNASKED,
    Quarantine,
)
from pacsifier_ops.extract.recall import Recall, put_aside
from pacsifier_ops.extract.receiving import Receivers, series_lease
from pacsifier_ops.extract.run import Planned
from pacsifier_ops.query.keys import DUMP_COLUMNS
from pacsifier_ops.runs.accounts import (
    SERIES_COMPLETE,
    SERIES_INCOMPLETE,
    SERIES_RECALLED,
    SERIES_UNVERIFIABLE,
    SeriesAccount,
)
from pacsifier_ops.runs.series import settled
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.ledger import Entry, SeriesLedger
from pacsifier_ops.state.tree import Tree, file_name

#: So often an archive that tried to send and sent nothing, out of resources, is asked again.
REFUSALS = 2
#: SOP Instance UIDs per IMAGE level request; a list of 64-character UIDs then stays within one PDU.
UIDS_PER_REQUEST = 100
#: Some archives end C-MOVE before the last object arrived; wait while something still comes in, in seconds.
ARRIVAL_GRACE = 2.0

#: Registered storage SOP classes (PS3.4 B.5).
REGISTERED = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
_LIKELY = {
    "CT": (
        "CTImageStorage",
        "EnhancedCTImageStorage",
        "SecondaryCaptureImageStorage",
        "LegacyConvertedEnhancedCTImageStorage",
    ),
    "MR": (
        "MRImageStorage",
        "EnhancedMRImageStorage",
        "SecondaryCaptureImageStorage",
        "LegacyConvertedEnhancedMRImageStorage",
    ),
    "PT": ("PositronEmissionTomographyImageStorage", "EnhancedPETImageStorage", "SecondaryCaptureImageStorage"),
    "NM": ("NuclearMedicineImageStorage", "SecondaryCaptureImageStorage"),
    "US": ("UltrasoundImageStorage", "UltrasoundMultiFrameImageStorage", "SecondaryCaptureImageStorage"),
    "CR": ("ComputedRadiographyImageStorage", "DigitalXRayImageStorageForPresentation"),
    "DX": (
        "DigitalXRayImageStorageForPresentation",
        "DigitalXRayImageStorageForProcessing",
        "ComputedRadiographyImageStorage",
    ),
    "MG": (
        "DigitalMammographyXRayImageStorageForPresentation",
        "DigitalMammographyXRayImageStorageForProcessing",
        "BreastTomosynthesisImageStorage",
        "SecondaryCaptureImageStorage",
    ),
    "XA": (
        "XRayAngiographicImageStorage",
        "EnhancedXAImageStorage",
        "XRay3DAngiographicImageStorage",
        "SecondaryCaptureImageStorage",
    ),
    "RF": ("XRayRadiofluoroscopicImageStorage", "EnhancedXRFImageStorage", "SecondaryCaptureImageStorage"),
    "SR": ("BasicTextSRStorage", "EnhancedSRStorage", "ComprehensiveSRStorage", "XRayRadiationDoseSRStorage"),
    "RTSTRUCT": ("RTStructureSetStorage",),
    "RTPLAN": ("RTPlanStorage", "RTIonPlanStorage"),
    "RTDOSE": ("RTDoseStorage",),
    "RTIMAGE": ("RTImageStorage",),
    "SEG": ("SegmentationStorage", "SurfaceSegmentationStorage"),
    "PR": ("GrayscaleSoftcopyPresentationStateStorage", "ColorSoftcopyPresentationStateStorage"),
    "KO": ("KeyObjectSelectionDocumentStorage",),
    "DOC": ("EncapsulatedPDFStorage", "EncapsulatedCDAStorage"),
    "ES": ("VLEndoscopicImageStorage", "VideoEndoscopicImageStorage"),
    "XC": ("VLPhotographicImageStorage", "VideoPhotographicImageStorage"),
    "OP": ("OphthalmicPhotography8BitImageStorage", "OphthalmicPhotography16BitImageStorage"),
    "OPT": ("OphthalmicTomographyImageStorage",),
    "SM": ("VLWholeSlideMicroscopyImageStorage", "VLMicroscopicImageStorage"),
    "ECG": ("TwelveLeadECGWaveformStorage", "GeneralECGWaveformStorage"),
}


#: What is said of objects that went to quarantine, by reason; in the order of their weight.
_ACCEPT = "see with the PACS team whose they are; accept_patient_id_of: archive has them taken for the former's"
_QUARANTINED = {
    TWO_VERSIONS: (
        "{} different objects came under SOP Instance UIDs that they share, and none of them is used: see with the "
        "PACS team which are right, and who else sends to our receiver"
    ),
    ANOTHER_PATIENT: (
        "the archive's data base gives one PatientID for the series, and {} object(s) that came hold another, as where "
        "a patient was corrected and the files were not: " + _ACCEPT
    ),
    ANOTHER_ISSUER: (
        "the archive's data base gives one IssuerOfPatientID for the series, and {} object(s) that came hold another: "
        + _ACCEPT
    ),
    NOT_AS_BEFORE: (
        "{} object(s) that came differ from those of the same SOP Instance UIDs that were fetched before, which are "
        "as they were: see with the PACS team which are right"
    ),
    UNASKED: "{} object(s) came that nobody asked for",
}


def likely_classes(modality: str) -> list[str]:
    """SOP classes that a series of a modality most likely holds, as many as fit on one association."""
    words = _LIKELY.get(modality, ("SecondaryCaptureImageStorage", "MultiFrameTrueColorSecondaryCaptureImageStorage"))
    return [str(getattr(sop_class, word)) for word in words]


def identifiers(planned: Planned, uids: list[str], whole: bool) -> Iterator[Dataset]:
    """What to ask a retrieve for: a series as a whole, or some of its instances (PS3.4 C.4.2.1.4)."""
    keys = {"StudyInstanceUID": planned.study_uid, "SeriesInstanceUID": planned.series_uid}
    if whole:
        yield query("SERIES", **keys)
        return
    for chunk in chunks(uids, UIDS_PER_REQUEST):
        yield query("IMAGE", **keys, SOPInstanceUID=chunk)


@dataclass
class Retriever(AtNode):
    """Retrieves series of one PACS into one tree, over one session.

    Attributes:
        receivers: where C-MOVE to us ends.
        incoming: folder for objects on their way in, on the tree's file system.
        quarantine: for objects that are not what was asked for.
        progress: told the bytes of every object that arrives.
        refetch: fetch what was handed on and removed as well.
    """

    node: PacsNode
    leases: Leases
    tree: Tree
    receivers: Receivers
    incoming: Path
    quarantine: Quarantine
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda size: None
    refetch: bool = False

    def __post_init__(self) -> None:
        self.use_session(self.incoming, self.progress)
        self.finder = Finder(self.session)

    def retrieve(self, planned: Planned, account: SeriesAccount) -> None:
        """Bring one series into the tree, and write into `account` how it ended.

        Whatever happens, objects that arrived whole are published, so that the next attempt fetches only
        what is missing. A series that the archive recalls from slow storage is put aside, see `recall`.

        Raises:
            PacsifierError: the PACS, the receiver or the disk. What the data were like is in the account instead.
        """
        with self.alone(series_lease(planned.series)):
            ledger = SeriesLedger(self.tree.state, planned.series)
            folder = self.tree.root / planned.folder
            transfer = Transfer(self, planned, ledger.entries, folder, account.sending)
            with settled(account, transfer.settle):
                try:
                    transfer.run()
                finally:
                    self._publish(folder, ledger, transfer)
                    transfer.put_rest_aside()
            if account.state == SERIES_RECALLED:
                put_aside(account, self.node.recall_wait)

    def _publish(self, folder: Path, ledger: SeriesLedger, transfer: Transfer) -> None:
        """Give whole files their final names: data on disk first, then the ledger, then the names."""
        received = transfer.fit_to_publish()
        if not received:
            return
        with storage_errors("the output folder"):
            private_folder(folder)
            for item in received.values():
                item.path.chmod(private_file())
            fsync_files(item.path for item in received.values())
            for uid, item in received.items():
                ledger.entries[uid] = Entry(
                    file=file_name(self.tree.naming, item.sop_class_uid, uid),
                    size=item.size,
                    mtime_ns=item.path.stat().st_mtime_ns,
                    sha256=item.sha256,
                    sop_class_uid=item.sop_class_uid,
                    transfer_syntax_uid=item.transfer_syntax_uid,
                    source=self.node.name,
                )
        with storage_errors("the state root"):
            ledger.save()
        with storage_errors("the output folder"):
            for uid, item in received.items():
                os.replace(item.path, folder / ledger.entries[uid].file)
                transfer.published.add(uid)
            fsync_folder(folder)


class Transfer:
    """The fetching of one series, over as many rounds and attempts as it takes.

    Args:
        sending: the archive was asked before in this run, did not say that it had done, and may still be sending.

    Attributes:
        present: SOP Instance UIDs that lay in the tree before, or were handed on.
        handed_on: those that were handed on and do not lie in the tree any more.
        received: objects of the series that arrived, in the retriever's incoming folder.
        published: SOP Instance UIDs that got their final names.
    """

    def __init__(
        self,
        retriever: Retriever,
        planned: Planned,
        entries: Mapping[str, Entry],
        folder: Path,
        sending: bool = False,
    ) -> None:
        self.planned = planned
        self.handed_on = {uid for uid, e in entries.items() if e.gone_on(folder) and not retriever.refetch}
        self.present = {uid for uid, entry in entries.items() if entry.proven_by(folder)} | self.handed_on
        self.received: dict[str, ReceivedObject] = {}
        self.published: set[str] = set()
        self.expectation = Expectation(None, planned.instances)
        self._entries, self._folder = entries, folder
        self._by = retriever
        self._node = retriever.node
        self._session = retriever.session
        # All that came for the series and was not present, used or not, by SOP Instance UID: the first of each.
        self._came: dict[str, ReceivedObject] = {}
        # Of these, what the archive has not sent, as far as anybody knows, and may be anybody's: it lay in the spool
        # before the archive was asked, or came while that could send nothing.
        self._doubtful: set[str] = set()
        self._two_versions: set[str] = set()
        self._changed: set[str] = set()
        # Whether the archive's data base has the last word on whose the objects are.
        self._accepts = False
        self._accepted: set[str] = set()
        self._arrivals = 0
        # How many of these the archive does not list; and how many it counted as sent, of which nothing was seen.
        self._strange = self._unseen = 0
        self._strays = Path()
        self._counts: Counter[str] = Counter()
        self._bytes = 0
        self._outcome: RetrieveResult | None = None
        self._refusals = 0
        self._remark = ""
        self._methods: set[str] = set()
        self._recall = Recall(self._node, retriever.finder, planned)
        self._begun_before = self._sending = sending

    def run(self) -> None:
        """Fetch what is missing: once as a whole, once more by SOP Instance UID; again where an error may pass.

        What C-GET has not brought then is asked for by C-MOVE: there are objects that no presentation context of ours
        takes, for their transfer syntax (JPIP) or their SOP class.
        """
        self._by.again(self._expect)
        if self._missing():
            self._by.wait_for_turn()
        method = self._node.method
        for whole, how in ((not self.present, method), (False, method), (False, "move")):
            if self._recall.why or not self._missing() or self._came_otherwise():
                break
            if how == "move" and method != how and not (self._may_move() and "get" in self._methods):
                break
            self._by.again(partial(self._fetch_unless_recalled, whole, how))
            self._by.again(self._sort_out_unlisted)

    def fit_to_publish(self) -> dict[str, ReceivedObject]:
        """What the archive has sent and is expected, or is not known not to be."""
        listed = self.expectation.instances
        certain = {uid: item for uid, item in self.received.items() if uid not in self._doubtful}
        return {uid: item for uid, item in certain.items() if listed is None or uid in listed}

    def put_rest_aside(self) -> None:
        """Put into quarantine what came and was not published, for a failure came before it could be sorted out."""
        for uid in self.received.keys() - self.published:
            self._put_into_quarantine(self.received.pop(uid), UNASKED)

    def settle(self, account: SeriesAccount) -> None:
        """Write into the account how the series ended."""
        have, listed = self.present | self.published, self.expectation.instances
        self._counts = self._by.quarantine.counts(self.planned.series)
        account.bytes, account.quarantined = self._bytes, self._counts.total()
        account.method = " and ".join(sorted(self._methods))
        account.sending = self._sending
        if listed is not None:
            account.expected = len(listed)
            covered = have & listed.keys()
            account.received = len(self.published & covered)
        else:
            account.expected = self.expectation.count
            covered = set(sorted(have)[: account.expected or 0])
            account.received = min(len(self.published), len(covered))
        account.present = len(covered) - account.received
        account.handed_on = len(self.handed_on - self.published)
        account.missing = (account.expected or 0) - len(covered)
        account.missing_uids = sorted((listed or {}).keys() - have)
        account.unverifiable = len(have) - len(covered)
        account.state, reason = self._verdict(account)
        account.reason = "; ".join(filter(None, (reason, *self._remarks())))

    def _verdict(self, account: SeriesAccount) -> tuple[str, str]:
        if self._recall.why and self._missing():
            return SERIES_RECALLED, self._recall.told(account)
        if account.missing:
            # Where all that is missing came, the quarantine says why.
            why = f": {self._why()}" if self._missing() or not self._counts else ""
            return SERIES_INCOMPLETE, f"{account.missing} of {account.expected} instances missing{why}"
        if account.expected is None:
            nothing = "" if account.delivered else ", and sent none"
            return (
                SERIES_UNVERIFIABLE,
                f"the archive tells neither the instances of the series nor their number{nothing}",
            )
        if account.unverifiable:
            where = "on disk or handed on" if account.handed_on else "on disk"
            return SERIES_UNVERIFIABLE, f"{account.unverifiable} instances {where} that the archive does not list"
        return (SERIES_INCOMPLETE if self._changed else SERIES_COMPLETE), ""

    def _remarks(self) -> Iterator[str]:
        """What is to be said of a series however it ended."""
        if told := [text.format(self._counts[why]) for why, text in _QUARANTINED.items() if self._counts[why]]:
            yield f"in quarantine ({self._by.quarantine.folder}): {'; '.join(told)}"
        if self._accepted & self.published:
            yield (
                f"{len(self._accepted & self.published)} instances hold another PatientID, or issuer of it, than the "
                "archive's data base gives, which was accepted (accept_patient_id_of)"
            )

    def _came_otherwise(self) -> bool:
        """Whether the archive counts all that is missing as sent, and as much came under UIDs that it does not list."""
        outcome, missing = self._outcome, len(self._missing())
        return outcome is not None and 0 < missing <= min(self._strange, outcome.completed + outcome.warning)

    def _why(self) -> str:
        """Why something is missing."""
        missing = self._missing()
        if self._came_otherwise():
            return "as many came under UIDs that the archive does not list, as where it gives new ones when it sends"
        faults = {uid: fault for uid in missing if uid and (fault := fault_of(uid))}
        if not faults:
            return self._why_not_sent()
        words = " or ".join(sorted(set(faults.values())))
        told = (
            f"{len(faults)} with a SOP Instance UID that the standard forbids ({words}; PS3.5 9.1), which not every "
            "archive can send: have the PACS team give them valid ones"
        )
        return told if len(faults) == len(missing) else f"{told}; of the others: {self._why_not_sent()}"

    def _why_not_sent(self) -> str:
        outcome = self._outcome
        if self._remark or outcome is None:
            return self._remark or "they were not asked for"
        if outcome.unreadable:
            return (
                f"{outcome.unreadable} objects came that do not say which series and instance they are, or say another "
                "instance than was announced"
            )
        if self._unseen:
            return (
                f"the archive counts {self._unseen} as sent that did not come for this series; if they came under "
                f"other study or series UIDs, they are in {self._strays}, or will be there"
            )
        if outcome.untouched and outcome.status == 0:
            return "the archive reported success without sending anything"
        if "move" in self._methods and outcome.failed and not self.received:
            return (
                f"the archive could not send them (0x{outcome.status:04X}); check that it reaches this machine at port "
                f"{self._node.receiver_port} under AE title {self._node.destination}"
            )
        return f"the archive did not send them (last status 0x{outcome.status:04X})"

    def _expect(self) -> None:
        planned = self.planned
        self.expectation = self._by.finder.expectation(planned.study_uid, planned.series_uid, planned.instances)
        # What the archive itself holds under another patient is no matter of a data base that was corrected.
        asked = ACCEPT_ARCHIVE in (planned.accept_patient_id_of, self._node.accept_patient_id_of)
        self._accepts = asked and not self._by.finder.of_several(planned.study_uid)
        self._recall.look()

    def _missing(self) -> list[str]:
        """SOP Instance UIDs that are missing; [""] where something is, but nobody can say what."""
        sent = self._sent()  # what is in quarantine would come once more
        have = self.present | sent
        if self.expectation.instances is not None:
            return sorted(self.expectation.instances.keys() - have)
        if self.expectation.count is None:
            return [] if sent else [""]
        return [""] if len(have) < self.expectation.count else []

    def _sent(self) -> set[str]:
        """SOP Instance UIDs of what the archive has sent, be it used or not."""
        return self._came.keys() - self._doubtful

    # Fetching

    def _fetch_unless_recalled(self, whole: bool, how: str) -> None:
        with self._recall.watched(self._missing, self._why):
            self._fetch(whole, how)

    def _fetch(self, whole: bool, how: str) -> None:
        """Ask for what is missing; for the series as a whole where nothing of it is here and `whole` says so.

        Args:
            how: auto, get or move.
        """
        missing = self._missing()
        if not missing:
            return  # the attempt before this one ended badly, but brought everything
        self._outcome, before = None, len(self._sent())
        self._fetch_missing(missing, whole, how)
        outcome = self._outcome
        if outcome and 0xA700 <= outcome.status <= 0xA7FF and len(self._sent()) == before:
            self._refusals += 1
            if self._refusals > REFUSALS:
                return  # it is about these objects, which it cannot send; others it may
            raise OutOfResources(f"{self._node.name}: could send nothing (0x{outcome.status:04X})")

    def _fetch_missing(self, missing: list[str], whole: bool, how: str) -> None:
        whole = (whole and not self._sent()) or missing == [""]
        instances = self.expectation.instances or {}
        class_of = {uid: instances.get(uid, "") for uid in missing}
        by_move = [uid for uid, sop_class in class_of.items() if self._goes_by_move(sop_class, how)]
        while by_get := {uid: sop_class for uid, sop_class in class_of.items() if uid not in by_move}:
            try:
                self._get(by_get, whole and not by_move)
                break
            except ClassesRefused as error:
                refused = [uid for uid, sop_class in by_get.items() if sop_class in error.classes] or list(by_get)
                alone = len(refused) == len(class_of) and "get" not in self._methods
                if how != "auto" or (alone and not self._may_move()):
                    raise
                self._remark = "" if self._may_move() else str(error)
                by_move += refused
            except Unsupported:
                if how != "auto":
                    raise
                by_move = missing
        if by_move and (how == "move" or self._may_move() or "get" not in self._methods):
            self._move_or_say_why(by_move, whole and len(by_move) == len(missing))

    def _may_move(self) -> bool:
        return self._node.method == "auto" and bool(self._node.receiver_port)

    def _goes_by_move(self, sop_class: str, how: str) -> bool:
        """Whether objects of a SOP class, empty where it is not known, are asked for by C-MOVE at once."""
        return how == "move" or (how == "auto" and self._may_move() and sop_class not in REGISTERED)

    def _move_or_say_why(self, uids: list[str], whole: bool) -> None:
        """C-MOVE; where C-GET has done its part, that this one fails costs what C-GET has not brought, and no more."""
        try:
            self._move(uids, whole)
        except ReceiverGone:
            raise
        except PacsError as error:
            if "get" not in self._methods:
                raise
            self._remark = f"C-GET did not bring them, nor did C-MOVE: {error}"

    def _get(self, class_of: Mapping[str, str], whole: bool) -> None:
        known = sorted(set(class_of.values()) - {""})
        groups = [
            (group, [uid for uid in class_of if class_of[uid] in group])
            for group in chunks(known, CLASSES_PER_ASSOCIATION)
        ]
        if unknown := [uid for uid in class_of if not class_of[uid]]:
            # The modality suggests what to be ready for.
            groups.append((likely_classes(self.planned.attributes.get("Modality", "")), unknown))
        for classes, uids in groups:
            for identifier in identifiers(self.planned, uids, whole and len(groups) == 1):
                try:
                    self._outcome = self._session.get(identifier, classes)
                finally:
                    came = self._session.take()
                    self._methods.update(["get"] if came or self._outcome else [])
                    self._accept(came)

    def _move(self, uids: list[str], whole: bool) -> None:
        spool = self._by.receivers.spool()
        if self._sending and self._goes_on(spool):
            return
        # An attempt that was killed may have left whole objects, and anybody else: the archive is to send the same.
        self._collect(spool, asked=False)
        left, whole = set(self._missing()), whole and not self._sent()
        missing = [uid for uid in uids if uid in left]
        arrived = partial(waiting, spool, self.planned.series)
        self._methods.add("move")
        for identifier in self._to_move(missing, whole):
            before, sent = self._arrivals, self._sent()
            try:
                self._outcome = self._session.move(identifier, self._node.destination, arrived)
                told = self._outcome.completed + self._outcome.warning
                self._await_arrivals(spool, before + told)
                self._unseen = max(0, before + told - self._arrivals)
                self._strays = self._by.receivers.strays(spool)
            except MoveDestinationUnknown as error:
                if self._by.receivers.gone(spool):
                    raise ReceiverGone(
                        f"{self._node.name}: the receiver that another run shared with us stopped"
                    ) from error
                # An archive with but one failure status may mean that the series is gone; not if it lists it.
                unfit = isinstance(error, NothingMoved) and fault_of(str(identifier.get("SOPInstanceUID", "1")))
                if self.expectation.instances and not unfit:
                    raise
                self._outcome, self._remark = None, str(error)
            except (AssociationAborted, PacsSilent):
                self._sending = True
                raise
            finally:
                self._collect(spool)
            if self._outcome and self._outcome.failed and not (self._outcome.completed or self._outcome.warning):
                # By its own count, it was not the archive; if it was, it sends the same once more.
                self._doubtful |= self._sent() - sent
            self._by.receivers.check()

    def _to_move(self, uids: list[str], whole: bool) -> Iterator[Dataset]:
        """What to ask C-MOVE for. Archives that fail with a UID that the standard forbids fail with all beside it."""
        unfit = [uid for uid in uids if uid and fault_of(uid)]
        if fit := [uid for uid in uids if uid not in unfit]:
            yield from identifiers(self.planned, fit, (whole and not unfit) or fit == [""])
        for uid in unfit:
            yield from identifiers(self.planned, [uid], whole=False)

    def _goes_on(self, spool: Path) -> bool:
        """Take what has come since the archive was last asked; whether that makes it needless to ask once more.

        It does where all is there by now; and in a later look where something came, for the archive is at it.
        """
        before = len(self._sent())
        self._await_arrivals(spool)
        if self._begun_before and len(self._sent()) > before and self._missing():
            self._recall.why = "the archive still sends"
        self._sending = bool(self._recall.why)
        return self._sending or not self._missing()

    def _await_arrivals(self, spool: Path, count: int | None = None) -> None:
        """Wait for what the archive says it sent, while something still comes in: it may be another version.

        Args:
            count: so many arrivals are enough; None: until nothing is missing.
        """
        self._collect(spool)
        seen, until = self._arrivals, time.monotonic() + ARRIVAL_GRACE
        while (self._missing() if count is None else self._arrivals < count) and time.monotonic() < until:
            pause(0.05, self._by.cancelled)
            self._collect(spool)
            if self._arrivals != seen:
                seen, until = self._arrivals, time.monotonic() + ARRIVAL_GRACE

    def _collect(self, spool: Path, asked: bool = True) -> None:
        """Take what lies in the spool of the series to where the spool's owner does not reach.

        Args:
            asked: the archive has been asked to send it.
        """
        with storage_errors("the spool"), suppress(FileNotFoundError):  # its receiver has gone, and with it the spool
            for item in spooled(spool, self.planned.series):
                taken = self._by.incoming / item.path.name
                shutil.move(item.path, taken)
                self._accept([replace(item, path=taken)], asked)

    def _accept(self, arrived: Iterable[ReceivedObject], asked: bool = True) -> None:
        """Compare what came with what was asked for: take what is right, put the rest into quarantine."""
        for item in arrived:
            self._arrivals += 1
            uid = item.sop_instance_uid
            if (item.study_uid, item.series_uid) != self.planned.series:
                self._strange += 1
                self._put_into_quarantine(item, UNASKED)
            elif uid in self._came:
                self._compare(item)
                self._doubtful.difference_update([uid] if asked else [])
            elif uid in self.present:
                self._compare_with_present(item)
            elif (why := self._whose(item)) and not self._accepts:
                self._came[uid] = replace(item, path=self._put_into_quarantine(item, why))
                self._doubtful.update([] if asked else [uid])
            else:
                self._doubtful.update([] if asked else [uid])
                self._came[uid] = self.received[uid] = item
                self._accepted.update([uid] if why else [])
                self._bytes += item.size

    def _whose(self, item: ReceivedObject) -> str:
        """Why an object is not of the patient for whom the archive gives the series; empty where it is."""
        told = {key: self.planned.attributes.get(key, "") for key in ("PatientID", "IssuerOfPatientID")}
        if _plain(item.patient_id) != _plain(told["PatientID"]):
            return ANOTHER_PATIENT
        issuers = {_plain(item.issuer), _plain(told["IssuerOfPatientID"])} - {""}
        return ANOTHER_ISSUER if len(issuers) > 1 else ""

    def _compare(self, item: ReceivedObject) -> None:
        """An object of this SOP Instance UID came before: nobody knows which of two that differ is right."""
        uid, first = item.sop_instance_uid, self._came[item.sop_instance_uid]
        if item.path == first.path:
            return
        if item.sha256 == first.sha256 or (uid not in self._two_versions and self._same(item, first.path)):
            item.path.unlink(missing_ok=True)
            return
        if uid not in self._two_versions:
            self._two_versions.add(uid)
            self.received.pop(uid, None)
            self._came[uid] = replace(first, path=self._put_into_quarantine(first, TWO_VERSIONS))
        self._put_into_quarantine(item, TWO_VERSIONS)

    def _compare_with_present(self, item: ReceivedObject) -> None:
        """The object is in the tree already, or was handed on, and stays what it is."""
        uid = item.sop_instance_uid
        entry = self._entries[uid]
        if item.sha256 == entry.sha256 or (uid not in self.handed_on and self._same(item, self._folder / entry.file)):
            item.path.unlink()
            return
        self._changed.add(uid)
        self._put_into_quarantine(item, NOT_AS_BEFORE)

    def _same(self, item: ReceivedObject, path: Path) -> bool:
        with storage_errors("the output folder"):
            return same_object(item.path, path)

    def _sort_out_unlisted(self) -> None:
        """Ask again for the list where something came that is not on it; what is not even then was not asked for."""
        if not self._unlisted():
            return
        self._expect()  # the archive may have received more since it was asked
        for uid in self._unlisted():
            self._strange += 1
            self._put_into_quarantine(self.received.pop(uid), UNASKED)

    def _unlisted(self) -> set[str]:
        listed = self.expectation.instances
        return set() if listed is None else self.received.keys() - listed.keys()

    def _put_into_quarantine(self, item: ReceivedObject, reason: str) -> Path:
        return self._by.quarantine.put(item.path, item.name, reason, self.planned.series)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def write_dump(tree: Tree, scratch: Path, planned: Planned) -> None:
    """Write the info dump of a series: one csv beside its folder, PACSIFIER's columns.

    Args:
        scratch: folder on the tree's file system for unfinished files.

    Raises:
        StorageError: the output folder cannot be written.
    """
    text = cells.line(DUMP_COLUMNS) + cells.line([planned.attributes.get(name) for name in DUMP_COLUMNS])
    _write(tree.root / f"{planned.folder}.csv", text, scratch)


def write_new_id(tree: Tree, scratch: Path, planned: Planned) -> None:
    """Write the pseudonym that the query table gives for a patient to `sub-X/new_id.txt`; see `write_dump`."""
    _write(tree.root / planned.folder.split("/")[0] / "new_id.txt", planned.new_id, scratch)


def _write(path: Path, text: str, scratch: Path) -> None:
    with storage_errors("the output folder"):
        private_folder(path.parent)
        write_atomic(path, text, scratch=scratch)
