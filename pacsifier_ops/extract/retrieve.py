"""Retrieval of one series into the output tree by C-GET or C-MOVE (PS3.4 C.4.2, C.4.3).

The expected instances are queried first. What arrives is compared with them, recorded in the ledger and published.
"""

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
from stat import S_IMODE

from pydicom.dataset import Dataset
from pynetdicom import AllStoragePresentationContexts, sop_class

from pacsifier_ops.archive.attempts import AtNode
from pacsifier_ops.archive.find import Expectation, Finder, expectation_of_giver, listed_instances
from pacsifier_ops.base import cells
from pacsifier_ops.base.config import ACCEPT_ARCHIVE, ArchiveNode, WebNode
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
from pacsifier_ops.dimse.receiver import last_arrival, spooled
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
from pacsifier_ops.extract.recall import Recall, postpone
from pacsifier_ops.extract.receiving import Receivers, series_lease
from pacsifier_ops.extract.run import Planned, new_id_path
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
from pacsifier_ops.state.listings import KeptListing
from pacsifier_ops.state.tree import Tree, file_name
from pacsifier_ops.state.turns import Place

#: How often a request that ended with `out of resources` (0xA7xx) and without any object is repeated.
REFUSALS = 2
#: SOP Instance UIDs per request at IMAGE level. A list of UIDs of 64 characters then fits into one PDU.
UIDS_PER_REQUEST = 100
#: Seconds to wait for the next object after C-MOVE has ended: some archives end it before the last object has arrived.
ARRIVAL_GRACE = 2.0

#: Registered storage SOP classes (PS3.4 B.5).
REGISTERED = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
#: Keywords of the SOP classes that are likely in series of a modality.
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


_ACCEPT = (
    "ask the PACS team which patient they belong to; accept_patient_id_of: archive takes them for the patient of the "
    "data base"
)
#: Remark on the objects of a series in quarantine, by reason. The most important reason comes first.
_QUARANTINED = {
    TWO_VERSIONS: (
        "{} different objects came under the same SOP Instance UIDs, and none of them is used: ask the PACS team which "
        "are right, and who else sends to our receiver"
    ),
    ANOTHER_PATIENT: (
        "the archive's data base gives one PatientID for the series, and {} object(s) that came contain another one; "
        "this happens where a patient is corrected in the data base only: " + _ACCEPT
    ),
    ANOTHER_ISSUER: (
        "the archive's data base gives one IssuerOfPatientID for the series, and {} object(s) that came contain "
        "another one: " + _ACCEPT
    ),
    NOT_AS_BEFORE: (
        "{} object(s) that came differ from objects with the same SOP Instance UIDs that were fetched before; the "
        "earlier ones were kept: ask the PACS team which are right"
    ),
    UNASKED: "{} object(s) came that were not requested",
}


def likely_classes(modality: str) -> list[str]:
    """Return the UIDs of the SOP classes that are likely in a series of a modality; they fit on one association."""
    others = ("SecondaryCaptureImageStorage", "MultiFrameTrueColorSecondaryCaptureImageStorage")
    return [str(getattr(sop_class, keyword)) for keyword in _LIKELY.get(modality, others)]


def identifiers(planned: Planned, uids: list[str], whole: bool) -> Iterator[Dataset]:
    """Yield the identifiers of C-GET or C-MOVE requests (PS3.4 C.4.2.1.4, C.4.3.1.3).

    Args:
        planned: the series.
        uids: SOP Instance UIDs to request.
        whole: request the series as a whole instead.
    """
    keys = {"StudyInstanceUID": planned.study_uid, "SeriesInstanceUID": planned.series_uid}
    if whole:
        yield query("SERIES", **keys)
        return
    for chunk in chunks(uids, UIDS_PER_REQUEST):
        yield query("IMAGE", **keys, SOPInstanceUID=chunk)


@dataclass
class Retriever(AtNode):
    """Retrieves series of one PACS into one tree, over one session, or two (see `AtNode`).

    Attributes:
        node, leases: the PACS, and the leases that enforce its limits.
        tree: the output tree.
        receivers: finds or starts the receiver for C-MOVE to us.
        incoming: folder for objects that arrive, on the file system of the tree.
        quarantine: folder for objects that were not requested.
        cancelled: called regularly; True ends the work.
        progress: called with the size in bytes of every object that arrives.
        refetch: fetch also instances that were handed on and removed from the tree.
        relist: ask the archive for the instances of each series, see `KeptListing`.
        place: see `AtNode`.
    """

    node: ArchiveNode
    leases: Leases
    tree: Tree
    receivers: Receivers
    incoming: Path
    quarantine: Quarantine
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda size: None
    refetch: bool = False
    relist: bool = True
    place: Callable[[], Place] = Place

    def __post_init__(self) -> None:
        self.use_session(self.incoming, self.progress)
        self.finder = Finder(self.asking)

    def retrieve(self, planned: Planned, account: SeriesAccount) -> None:
        """Fetch one series into the tree, and write the outcome into `account`.

        Complete objects are published even if the retrieval fails, so the next attempt fetches only what is missing. A
        series that the archive recalls from slow storage is postponed, see `recall`.

        Raises:
            PacsifierError: the PACS, the receiver or the disk failed. Missing or wrong objects raise nothing; the
                account has them.
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
                    transfer.quarantine_rest()
            transfer.keep_listing(account)
            if account.state == SERIES_RECALLED:
                postpone(account, self.node.recall_wait)

    def _publish(self, folder: Path, ledger: SeriesLedger, transfer: Transfer) -> None:
        """Give complete files their final names.

        The data are synchronized to disk first, then the ledger is written, then the files are renamed. A run that is
        killed in between leaves no file that the ledger does not know.
        """
        received = transfer.publishable()
        if not received:
            return
        with storage_errors("the output folder"):
            private_folder(folder)
            fsync_files(item.path for item in received.values())
            for uid, item in received.items():
                status = item.path.stat()
                if S_IMODE(status.st_mode) != private_file():
                    item.path.chmod(private_file())
                ledger.entries[uid] = Entry(
                    file=file_name(self.tree.naming, item.sop_class_uid, uid),
                    size=item.size,
                    mtime_ns=status.st_mtime_ns,
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
    """The retrieval of one series, with all its rounds and attempts.

    Args:
        retriever: the session and folders to use.
        planned: the series.
        entries: the ledger of the series, by SOP Instance UID.
        folder: folder of the series.
        sending: an earlier C-MOVE of this run ended without a final response, so the archive may still be sending.

    Attributes:
        present: SOP Instance UIDs that were in the tree before, or were handed on.
        handed_on: those of them that were handed on and are no longer in the tree.
        received: objects to be published, by SOP Instance UID; they are in the retriever's incoming folder.
        published: SOP Instance UIDs of files with their final names.
        expectation: the instances that the archive lists; of two archives, the one that is asked for them.
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
        self.handed_on = {uid for uid, e in entries.items() if e.is_removed(folder) and not retriever.refetch}
        self.present = {uid for uid, entry in entries.items() if entry.proven_by(folder)} | self.handed_on
        self.received: dict[str, ReceivedObject] = {}
        self.published: set[str] = set()
        self.expectation = Expectation(None, planned.instances)
        self._entries, self._folder = entries, folder
        self._retriever = retriever
        self._node = retriever.node
        self._session = retriever.session
        # The first object for each SOP Instance UID that was not present, including objects in quarantine.
        self._arrived: dict[str, ReceivedObject] = {}
        # SOP Instance UIDs of objects that another sender may have sent: they were in the spool before the request, or
        # arrived while the archive reported failures only.
        self._doubtful: set[str] = set()
        self._two_versions: set[str] = set()
        self._changed: set[str] = set()
        # Whether the archive's data base decides to which patient an object belongs.
        self._archive_decides = False
        self._accepted_uids: set[str] = set()
        self._arrival_count = 0
        # Number of arrived objects that the archive does not list, and of objects that it counted as sent and that did
        # not arrive.
        self._unexpected_count = self._absent_count = 0
        self._uncollected_folder = Path()
        self._counts: Counter[str] = Counter()
        self._bytes = 0
        self._outcome: RetrieveResult | None = None
        self._refusals = 0
        self._failure = ""
        self._methods: set[str] = set()
        # Of an archive that only gives: number of missing instances that it does not list either, or it lists none.
        self._unknown_count, self._unsearchable = 0, False
        self._recall = Recall(retriever, retriever.finder, planned)
        self._was_sending = self._sending = sending
        archives = retriever.asked.key, retriever.node.key
        self._listing = KeptListing(retriever.tree.root, archives, planned.series)
        self._asked = 0.0  # time of the last query for the instances, in seconds since the epoch

    def run(self) -> None:
        """Fetch what is missing: the whole series first, then single instances, at last by C-MOVE instead of C-GET.

        C-GET cannot bring objects for which none of our presentation contexts fits, because of their transfer syntax
        (JPIP) or their SOP class. Each round is repeated after an error that may be temporary.
        """
        if not self._retriever.relist and self._listing.holds(self.planned.instances, self.present):
            return
        self._listing.forget()
        self._retriever.again(self._expect)
        if self._missing():
            self._retriever.wait_for_turn()
        usual = self._node.method
        for whole, method in ((not self.present, usual), (False, usual), (False, "move")):
            if self._recall.reason or not self._missing() or self._arrived_under_other_uids():
                break
            if method != usual and not (self._can_move() and "get" in self._methods):
                break
            self._retriever.again(partial(self._fetch_unless_recalled, whole, method))
            self._retriever.again(self._quarantine_unlisted)
        if self._retriever.is_split and self._missing():
            listed = listed_instances(self._session, self.planned.series)
            self._unsearchable = listed is None
            self._unknown_count = 0 if listed is None else len(set(self._missing()) - listed - {""})

    def keep_listing(self, account: SeriesAccount) -> None:
        """Keep what the archive lists, if it counts as many, and exactly these are here.

        Raises:
            StorageError: the state root cannot be written.
        """
        listed = self.expectation.instances
        complete = account.state == SERIES_COMPLETE and listed is not None and not account.reason
        if complete and listed is not None and len(listed) == self.planned.instances:
            self._listing.keep(listed, self._asked)

    def publishable(self) -> dict[str, ReceivedObject]:
        """Return the received objects that may be published, by SOP Instance UID.

        They were certainly sent by the archive. If it lists the instances of the series, they are among these.
        """
        listed = self.expectation.instances
        certain = {uid: item for uid, item in self.received.items() if uid not in self._doubtful}
        return {uid: item for uid, item in certain.items() if listed is None or uid in listed}

    def quarantine_rest(self) -> None:
        """Put received objects that were not published into quarantine."""
        for uid in self.received.keys() - self.published:
            self._put_into_quarantine(self.received.pop(uid), UNASKED)

    def settle(self, account: SeriesAccount) -> None:
        """Write the outcome into the account."""
        have, listed = self.present | self.published, self.expectation.instances
        self._counts = self._retriever.quarantine.counts(self.planned.series)
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
        """Return the state of the series and its reason."""
        if self._recall.reason and self._missing():
            return SERIES_RECALLED, self._recall.account_reason(account)
        if account.missing:
            # If everything that is missing arrived, the remarks on the quarantine give the reason.
            why = f": {self._missing_reason()}" if self._missing() or not self._counts else ""
            where = f" at {self._node.name}" if self._retriever.is_split else ""
            return SERIES_INCOMPLETE, f"{account.missing} of {account.expected} instances missing{where}{why}"
        if account.expected is None:
            nothing = "" if account.delivered else ", and sent none"
            return (
                SERIES_UNVERIFIABLE,
                f"the archive gives neither a list of the instances of the series nor their number{nothing}",
            )
        if account.unverifiable:
            where = "on disk or handed on" if account.handed_on else "on disk"
            return SERIES_UNVERIFIABLE, f"{account.unverifiable} instances {where} are not listed by the archive"
        return (SERIES_INCOMPLETE if self._changed else SERIES_COMPLETE), ""

    def _remarks(self) -> Iterator[str]:
        """Yield the remarks on a series in any state."""
        counts = self._counts
        if remarks := [text.format(counts[reason]) for reason, text in _QUARANTINED.items() if counts[reason]]:
            yield f"in quarantine ({self._retriever.quarantine.folder}): {'; '.join(remarks)}"
        if accepted := self._accepted_uids & self.published:
            yield (
                f"{len(accepted)} instances contain another PatientID, or another issuer of it, than the archive's "
                "data base gives; they were accepted (accept_patient_id_of)"
            )

    def _arrived_under_other_uids(self) -> bool:
        """Return whether the missing instances probably arrived under other UIDs.

        The archive counts at least as many as sent, and at least as many objects arrived that it does not list.
        """
        outcome, missing = self._outcome, len(self._missing())
        return outcome is not None and 0 < missing <= min(self._unexpected_count, outcome.completed + outcome.warning)

    def _missing_reason(self) -> str:
        """Return why instances are missing, in words without identifiers."""
        missing = self._missing()
        if self._arrived_under_other_uids():
            return (
                "as many came under UIDs that the archive does not list; some archives assign new UIDs when they send"
            )
        faults = {uid: fault for uid in missing if uid and (fault := fault_of(uid))}
        if not faults:
            return self._not_sent_reason()
        words = " or ".join(sorted(set(faults.values())))
        reason = (
            f"{len(faults)} with a SOP Instance UID that the standard forbids ({words}; PS3.5 9.1), which not every "
            "archive can send: ask the PACS team to give them valid ones"
        )
        return reason if len(faults) == len(missing) else f"{reason}; of the others: {self._not_sent_reason()}"

    def _not_sent_reason(self) -> str:
        """Return why the archive has not sent instances, from its last response."""
        outcome = self._outcome
        if self._unknown_count:
            return f"it does not list {self._unknown_count} of them, and {self._retriever.asked.name} does"
        if self._failure or outcome is None:
            return self._failure or "they were not requested"
        if outcome.unreadable:
            return (
                f"{outcome.unreadable} objects came without their series or SOP Instance UID, or with another SOP "
                "Instance UID than their C-STORE request"
            )
        if self._absent_count:
            return (
                f"the archive counts {self._absent_count} as sent that did not come for this series; objects under "
                f"other study or series UIDs are put into {self._uncollected_folder}"
            )
        if outcome.untouched and outcome.status == 0:
            return "the archive reported success without sending anything"
        if "move" in self._methods and outcome.failed and not self.received:
            return (
                f"the archive could not send them (0x{outcome.status:04X}); check that it reaches this machine at port "
                f"{self._node.receiver_port} under AE title {self._node.destination}"
            )
        if outcome.told and self._unsearchable and isinstance(self._node, WebNode):
            return (
                f"the archive did not send them ({outcome.told} below {self._node.url}, where nothing can be searched "
                "either: if that is so for all series, the address is wrong)"
            )
        return f"the archive did not send them ({outcome.told or f'last status 0x{outcome.status:04X}'})"

    def _expect(self) -> None:
        """Query the expected instances, whether the data base decides about the patient, and the availability."""
        planned, self._asked = self.planned, time.time()
        self.expectation = self._retriever.finder.expectation(planned.study_uid, planned.series_uid, planned.instances)
        if self.expectation.instances is None and self._retriever.is_split:
            self.expectation = expectation_of_giver(self._session, planned.series, self.expectation.count)
        # If the archive has the study under two patients, the difference does not come from a corrected data base.
        asked = ACCEPT_ARCHIVE in (planned.accept_patient_id_of, self._retriever.asked.accept_patient_id_of)
        self._archive_decides = asked and not self._retriever.finder.has_several_patients(planned.study_uid)
        self._recall.refresh()

    def _source_lists_missing(self) -> bool:
        """Return whether the archive that gives the images lists anything of what is missing."""
        if not self._retriever.is_split:
            return bool(self.expectation.instances)
        listed, missing = listed_instances(self._session, self.planned.series) or set(), set(self._missing())
        return bool(listed if missing == {""} else listed & missing)

    def _missing(self) -> list[str]:
        """Return the missing SOP Instance UIDs; [""] if something is missing and the archive does not list what."""
        sent = self._sent_uids()  # includes objects in quarantine: another request would only bring them again
        have = self.present | sent
        if self.expectation.instances is not None:
            return sorted(self.expectation.instances.keys() - have)
        if self.expectation.count is None:
            return [] if sent else [""]
        return [""] if len(have) < self.expectation.count else []

    def _sent_uids(self) -> set[str]:
        """Return the SOP Instance UIDs of the objects that the archive has sent, including those in quarantine."""
        return self._arrived.keys() - self._doubtful

    # Fetching

    def _fetch_unless_recalled(self, whole: bool, method: str) -> None:
        """Fetch what is missing, and find out whether the archive has to recall it."""
        with self._recall.watch(self._missing, self._missing_reason):
            self._fetch(whole, method)

    def _fetch(self, whole: bool, method: str) -> None:
        """Request what is missing.

        Args:
            whole: request the series as a whole if none of its objects has arrived.
            method: auto, get or move.

        Raises:
            OutOfResources: the archive sent nothing, and a later attempt may succeed.
        """
        missing = self._missing()
        if not missing:
            return  # the attempt before ended with an error, but everything arrived
        self._outcome, before = None, len(self._sent_uids())
        self._fetch_missing(missing, whole, method)
        outcome = self._outcome
        if outcome and 0xA700 <= outcome.status <= 0xA7FF and len(self._sent_uids()) == before:
            self._refusals += 1
            if self._refusals > REFUSALS:
                return  # the archive cannot send these objects, but maybe those of other series
            raise OutOfResources(f"{self._node.name}: could send nothing (0x{outcome.status:04X})")

    def _fetch_missing(self, missing: list[str], whole: bool, method: str) -> None:
        """Request instances by C-GET as far as possible, and the others by C-MOVE."""
        whole = (whole and not self._sent_uids()) or missing == [""]
        instances = self.expectation.instances or {}
        class_of = {uid: instances.get(uid, "") for uid in missing}
        by_move = {uid for uid, sop_class in class_of.items() if self._needs_move(sop_class, method)}
        while by_get := {uid: sop_class for uid, sop_class in class_of.items() if uid not in by_move}:
            try:
                self._get(by_get, whole and not by_move)
                break
            except ClassesRefused as error:
                refused = [uid for uid, sop_class in by_get.items() if sop_class in error.classes] or list(by_get)
                alone = len(refused) == len(class_of) and "get" not in self._methods
                if method != "auto" or (alone and not self._can_move()):
                    raise
                self._failure = "" if self._can_move() else str(error)
                by_move.update(refused)
            except Unsupported:
                if method != "auto":
                    raise
                by_move = set(missing)
        if by_move and (method == "move" or self._can_move() or "get" not in self._methods):
            self._try_move([uid for uid in missing if uid in by_move], whole and len(by_move) == len(missing))

    def _can_move(self) -> bool:
        """Return whether C-MOVE is possible where C-GET is not."""
        return self._node.method == "auto" and bool(self._node.receiver_port)

    def _needs_move(self, sop_class: str, method: str) -> bool:
        """Return whether objects of a SOP class, empty if unknown, are requested by C-MOVE without trying C-GET."""
        return method == "move" or (method == "auto" and self._can_move() and sop_class not in REGISTERED)

    def _try_move(self, uids: list[str], whole: bool) -> None:
        """Request instances by C-MOVE; an error after a successful C-GET is a reason for missing instances only."""
        try:
            self._move(uids, whole)
        except ReceiverGone:
            raise
        except PacsError as error:
            if "get" not in self._methods:
                raise
            self._failure = f"C-GET did not bring them, nor did C-MOVE: {error}"

    def _get(self, class_of: Mapping[str, str], whole: bool) -> None:
        """Request instances by C-GET, in groups of SOP classes that fit on one association.

        Args:
            class_of: SOP Class UID, empty if unknown, by SOP Instance UID.
            whole: request the series as a whole.
        """
        known = sorted(set(class_of.values()) - {""})
        groups = [
            (group, [uid for uid in class_of if class_of[uid] in group])
            for group in chunks(known, CLASSES_PER_ASSOCIATION)
        ]
        if unknown := [uid for uid in class_of if not class_of[uid]]:
            # Presentation contexts must be proposed without knowing the SOP classes; the modality suggests them.
            groups.append((likely_classes(self.planned.attributes.get("Modality", "")), unknown))
        for classes, uids in groups:
            for identifier in identifiers(self.planned, uids, whole and len(groups) == 1):
                try:
                    self._outcome = self._session.get(identifier, classes)
                finally:
                    objects = self._session.take()
                    self._methods.update(["get"] if objects or self._outcome else [])
                    self._sort_arrivals(objects)

    def _move(self, uids: list[str], whole: bool) -> None:
        """Request instances by C-MOVE to our receiver, and collect them from its spool."""
        spool = self._retriever.receivers.spool()
        if self._sending and self._still_sending(spool):
            return
        # Objects of a killed attempt or of another sender may be in the spool. They count once the archive sends the
        # same ones.
        self._collect(spool, requested=False)
        left, whole = set(self._missing()), whole and not self._sent_uids()
        missing = [uid for uid in uids if uid in left]
        arrived = partial(last_arrival, spool, self.planned.series)
        self._methods.add("move")
        for identifier in self._move_identifiers(missing, whole):
            before, sent = self._arrival_count, self._sent_uids()
            try:
                self._outcome = self._session.move(identifier, self._node.destination, arrived)
                reported = self._outcome.completed + self._outcome.warning
                self._await_arrivals(spool, before + reported)
                self._absent_count = max(0, before + reported - self._arrival_count)
                self._uncollected_folder = self._retriever.receivers.uncollected_folder(spool)
            except MoveDestinationUnknown as error:
                if self._retriever.receivers.has_stopped(spool):
                    raise ReceiverGone(
                        f"{self._node.name}: the receiver that another run shared with us stopped"
                    ) from error
                # Archives that know one failure status only use it also for a series that they no longer have. That
                # cannot be the case if the archive lists the series.
                invalid = isinstance(error, NothingMoved) and fault_of(str(identifier.get("SOPInstanceUID", "1")))
                if self._source_lists_missing() and not invalid:
                    raise
                self._outcome, self._failure = None, str(error)
            except (AssociationAborted, PacsSilent):
                self._sending = True
                raise
            finally:
                self._collect(spool)
            if self._outcome and self._outcome.failed and not (self._outcome.completed or self._outcome.warning):
                # The archive reports that it sent nothing, so another sender may have sent these. If the archive did,
                # it sends the same again at the next request.
                self._doubtful |= self._sent_uids() - sent
            self._retriever.receivers.check()

    def _move_identifiers(self, uids: list[str], whole: bool) -> Iterator[Dataset]:
        """Yield the identifiers of C-MOVE requests.

        An invalid SOP Instance UID is requested alone: an archive that fails with it fails with all others of the same
        request.
        """
        invalid = dict.fromkeys(uid for uid in uids if uid and fault_of(uid))
        if valid := [uid for uid in uids if uid not in invalid]:
            yield from identifiers(self.planned, valid, (whole and not invalid) or valid == [""])
        for uid in invalid:
            yield from identifiers(self.planned, [uid], whole=False)

    def _still_sending(self, spool: Path) -> bool:
        """Collect what has arrived since the last request, and return whether another request is unnecessary.

        It is if nothing is missing any more. It is also if objects have arrived since an earlier look at a series that
        is recalled: then the archive is sending.
        """
        before = len(self._sent_uids())
        self._await_arrivals(spool)
        if self._was_sending and len(self._sent_uids()) > before and self._missing():
            self._recall.reason = "the archive still sends"
        self._sending = bool(self._recall.reason)
        return self._sending or not self._missing()

    def _await_arrivals(self, spool: Path, count: int | None = None) -> None:
        """Collect objects until all have arrived, or until none has arrived for ARRIVAL_GRACE seconds.

        Args:
            spool: spool folder of the receiver.
            count: number of arrivals to wait for; None: wait until nothing is missing.
        """
        self._collect(spool)
        seen, until = self._arrival_count, time.monotonic() + ARRIVAL_GRACE
        while (self._missing() if count is None else self._arrival_count < count) and time.monotonic() < until:
            pause(0.05, self._retriever.cancelled)
            self._collect(spool)
            if self._arrival_count != seen:
                seen, until = self._arrival_count, time.monotonic() + ARRIVAL_GRACE

    def _collect(self, spool: Path, requested: bool = True) -> None:
        """Move the objects of the series from the spool into our incoming folder, and sort them.

        Args:
            spool: spool folder of the receiver.
            requested: the archive was requested to send them.
        """
        # FileNotFoundError: the receiver has stopped and removed its spool.
        with storage_errors("the spool"), suppress(FileNotFoundError):
            for item in spooled(spool, self.planned.series):
                taken = self._retriever.incoming / item.path.name
                shutil.move(item.path, taken)
                self._sort_arrivals([replace(item, path=taken)], requested)

    def _sort_arrivals(self, objects: Iterable[ReceivedObject], requested: bool = True) -> None:
        """Compare objects with the request: keep the right ones, put the others into quarantine.

        Args:
            objects: the objects that arrived.
            requested: the archive was requested to send them; otherwise they are doubtful.
        """
        for item in objects:
            self._arrival_count += 1
            uid = item.sop_instance_uid
            doubtful = set() if requested else {uid}
            if (item.study_uid, item.series_uid) != self.planned.series:
                self._unexpected_count += 1
                self._put_into_quarantine(item, UNASKED)
            elif uid in self._arrived:
                self._compare_with_first(item)
                self._doubtful -= {uid} - doubtful
            elif uid in self.present:
                self._compare_with_present(item)
            elif (mismatch := self._patient_mismatch(item)) and not self._archive_decides:
                self._arrived[uid] = replace(item, path=self._put_into_quarantine(item, mismatch))
                self._doubtful |= doubtful
            else:
                self._arrived[uid] = self.received[uid] = item
                self._doubtful |= doubtful
                self._accepted_uids.update([uid] if mismatch else [])
                self._bytes += item.size

    def _patient_mismatch(self, item: ReceivedObject) -> str:
        """Return the reason for quarantine if an object has another patient than the archive gives; empty otherwise.

        The issuers of the PatientID are compared only if both are known.
        """
        attributes = self.planned.attributes
        if _normalized(item.patient_id) != _normalized(attributes.get("PatientID", "")):
            return ANOTHER_PATIENT
        issuers = {_normalized(item.issuer), _normalized(attributes.get("IssuerOfPatientID", ""))} - {""}
        return ANOTHER_ISSUER if len(issuers) > 1 else ""

    def _compare_with_first(self, item: ReceivedObject) -> None:
        """Compare an object with the first one of its SOP Instance UID; if they differ, put both into quarantine."""
        uid, first = item.sop_instance_uid, self._arrived[item.sop_instance_uid]
        if item.path == first.path:
            return
        if item.sha256 == first.sha256 or (uid not in self._two_versions and self._is_same_object(item, first.path)):
            item.path.unlink(missing_ok=True)
            return
        if uid not in self._two_versions:
            self._two_versions.add(uid)
            self.received.pop(uid, None)
            self._arrived[uid] = replace(first, path=self._put_into_quarantine(first, TWO_VERSIONS))
        self._put_into_quarantine(item, TWO_VERSIONS)

    def _compare_with_present(self, item: ReceivedObject) -> None:
        """Compare an object with the one that was fetched before; if they differ, the earlier one is kept."""
        uid = item.sop_instance_uid
        entry = self._entries[uid]
        path = self._folder / entry.file
        if item.sha256 == entry.sha256 or (uid not in self.handed_on and self._is_same_object(item, path)):
            item.path.unlink()
            return
        self._changed.add(uid)
        self._put_into_quarantine(item, NOT_AS_BEFORE)

    def _is_same_object(self, item: ReceivedObject, path: Path) -> bool:
        with storage_errors("the output folder"):
            return same_object(item.path, path)

    def _quarantine_unlisted(self) -> None:
        """Put received objects that the archive does not list into quarantine; query the list once more before."""
        if not self._unlisted():
            return
        self._expect()  # the archive may have stored new instances since the last query
        unlisted = self._unlisted()
        self._unexpected_count += len(unlisted - self._additional(unlisted))
        for uid in unlisted:
            self._put_into_quarantine(self.received.pop(uid), UNASKED)

    def _additional(self, unlisted: set[str]) -> set[str]:
        """Return which unlisted objects the archive that gives the images has on top: they came under no new UID."""
        if not self._retriever.is_split:
            return set()
        listed = listed_instances(self._session, self.planned.series)
        return unlisted if listed is None else unlisted & listed

    def _unlisted(self) -> set[str]:
        """Return the SOP Instance UIDs of received objects that the archive does not list."""
        listed = self.expectation.instances
        return set() if listed is None else self.received.keys() - listed.keys()

    def _put_into_quarantine(self, item: ReceivedObject, reason: str) -> Path:
        return self._retriever.quarantine.put(item.path, item.name, reason, self.planned.series)


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def write_dump(tree: Tree, scratch: Path, planned: Planned) -> None:
    """Write the info dump of a series: a CSV file beside its folder, with PACSIFIER's columns.

    Args:
        tree: the output tree.
        scratch: folder for unfinished files, on the file system of the tree.
        planned: the series, with the values of the dump.

    Raises:
        StorageError: the output folder cannot be written.
    """
    text = cells.line(DUMP_COLUMNS) + cells.line([planned.attributes.get(name) for name in DUMP_COLUMNS])
    _write(tree.root / f"{planned.folder}.csv", text, scratch)


def write_new_id(tree: Tree, scratch: Path, planned: Planned) -> None:
    """Write the pseudonym of a patient from the query table to `sub-<PatientID>/new_id.txt`, see `write_dump`."""
    _write(new_id_path(tree, planned.folder), planned.new_id, scratch)


def _write(path: Path, text: str, scratch: Path) -> None:
    with storage_errors("the output folder"):
        private_folder(path.parent)
        write_atomic(path, text, scratch=scratch)
