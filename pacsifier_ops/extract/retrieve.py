"""One series from the PACS into the tree: expected first, fetched, compared, published, recorded."""

from __future__ import annotations

import csv
import io
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pynetdicom import sop_class

from pacsifier_ops.accounts import (
    SERIES_COMPLETE,
    SERIES_INCOMPLETE,
    SERIES_UNVERIFIABLE,
    SeriesAccount,
)
from pacsifier_ops.config import PacsNode
from pacsifier_ops.dimse.find import Expectation, Finder
from pacsifier_ops.dimse.receiver import spooled
from pacsifier_ops.dimse.session import (
    CLASSES_PER_ASSOCIATION,
    Cancelled,
    Outcome,
    Session,
    chunks,
    query,
)
from pacsifier_ops.dimse.sink import ReceivedObject
from pacsifier_ops.errors import PacsifierError, StorageError, Unsupported
from pacsifier_ops.extract.receiving import Receivers
from pacsifier_ops.files import fsync_folder, private_folder, write_atomic
from pacsifier_ops.leases import Lease, LeaseBusy, Leases, Pacer
from pacsifier_ops.ledger import Entry, SeriesLedger
from pacsifier_ops.query.keys import DUMP_COLUMNS
from pacsifier_ops.tree import Tree

#: Seconds between the attempts after an error that may pass by itself.
BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0)
#: SOP Instance UIDs per IMAGE level request; a list of 64-character UIDs then stays within one PDU.
UIDS_PER_REQUEST = 100
#: Some archives end C-MOVE before the last object arrived; wait while something still comes in, in seconds.
ARRIVAL_GRACE = 2.0

#: Registered storage SOP classes (PS3.4 B.5).
REGISTERED = frozenset(str(uid) for uid in sop_class._STORAGE_CLASSES.values())
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
    "RTPLANStorage": ("RTPlanStorage", "RTIonPlanStorage"),
    "RTDOSEStorage": ("RTDoseStorage",),
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

T = TypeVar("T")

# Reading the umask means setting it, which is not safe once there are threads.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@dataclass
class Planned:
    """A series to be retrieved, as `plan` wrote it.

    Attributes:
        number: ordinal in the run, from 1.
        lines: lines of the query table that ask for it.
        attributes: text of what the archive returned, by keyword.
        folder: path of the series folder below the output folder.
        new_id: pseudonym given in the query table, or empty.
    """

    number: int
    lines: list[int]
    study_uid: str
    series_uid: str
    attributes: dict[str, str]
    folder: str
    new_id: str = ""

    @property
    def instances(self) -> int | None:
        """NumberOfSeriesRelatedInstances, where the archive gave it."""
        text = self.attributes.get("NumberOfSeriesRelatedInstances", "")
        return int(text) if text.isdigit() else None

    def account(self) -> SeriesAccount:
        """A fresh account of this series."""
        return SeriesAccount(
            number=self.number,
            lines=self.lines,
            study_uid=self.study_uid,
            series_uid=self.series_uid,
            modality=self.attributes.get("Modality", ""),
            series_number=self.attributes.get("SeriesNumber", ""),
            description=self.attributes.get("SeriesDescription", ""),
            folder=self.folder,
            expected=self.instances,
        )


def likely_classes(modality: str) -> list[str]:
    """SOP classes that a series of a modality most likely holds, as many as fit on one association."""
    words = _LIKELY.get(modality, ("SecondaryCaptureImageStorage", "MultiFrameTrueColorSecondaryCaptureImageStorage"))
    return [str(getattr(sop_class, word)) for word in words]


def open_session(
    node: PacsNode,
    leases: Leases,
    incoming: Path | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda size: None,
) -> Session:
    """A session with the PACS under the limit on its associations, which holds whoever asks."""

    def slot() -> Lease:
        return leases.acquire(f"pacs:{node.key}", limit=node.max_associations, cancelled=cancelled)

    return Session(node, slot, incoming, cancelled, progress)


def pause(seconds: float, cancelled: Callable[[], bool]) -> None:
    """Wait, unless cancelled.

    Raises:
        Cancelled: somebody wants us to stop.
    """
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if cancelled():
            raise Cancelled("stopped on request")
        time.sleep(min(left, 0.05))


def retrying(action: Callable[[], T], session: Session, delays: Iterable[float], cancelled: Callable[[], bool]) -> T:
    """Do something with a session, again after each delay (seconds) where the error may pass by itself."""
    for delay in delays:
        try:
            return action()
        except PacsifierError as error:
            if not error.retryable or isinstance(error, StorageError):
                raise
            session.close(abort=True)
        pause(delay, cancelled)
    return action()


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn OSError into a StorageError that names `what`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{what}: {error.strerror or type(error).__name__}; free space or mend the folder, then run again"
        ) from error


@dataclass
class Retriever:
    """Retrieves series of one PACS into one tree, over one session.

    Attributes:
        receivers: where C-MOVE to us ends.
        incoming: folder for objects on their way in, on the tree's file system.
        quarantine: folder for objects that nobody asked for.
        progress: told the bytes of every object that arrives.
    """

    node: PacsNode
    leases: Leases
    tree: Tree
    receivers: Receivers
    incoming: Path
    quarantine: Path
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda size: None

    def __post_init__(self) -> None:
        node = self.node
        self.session = open_session(node, self.leases, self.incoming, self.cancelled, self.progress)
        self.finder = Finder(self.session)
        self.pacer = Pacer(self.leases, f"pacs:{node.key}", node.batch_size, node.batch_wait_time)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close(abort=kind is not None)

    def retrieve(self, planned: Planned, account: SeriesAccount) -> None:
        """Bring one series into the tree, and write into `account` how it ended.

        Whatever happens, objects that arrived whole are published, so that the next attempt fetches only
        what is missing.

        Raises:
            PacsifierError: the PACS, the receiver or the disk. What the data were like is in the account instead.
        """
        started = time.monotonic()
        with self._alone(planned.series_uid):
            ledger = SeriesLedger(self.tree.state, planned.series_uid)
            folder = self.tree.root / planned.folder
            transfer = Transfer(self, planned, {uid for uid, e in ledger.entries.items() if e.proven_by(folder)})
            try:
                transfer.run()
            except PacsifierError as error:
                account.reason = str(error)
                raise
            finally:
                self._publish(planned, ledger, transfer.received)
                transfer.settle(account)
                account.seconds = time.monotonic() - started

    @contextmanager
    def _alone(self, series_uid: str) -> Iterator[None]:
        """Hold the series' lease; whoever has to wait for it gives back the PACS slot first."""
        name = f"series:{series_uid}"
        try:
            lease = self.leases.acquire(name, wait=0)
        except LeaseBusy:
            self.session.close()
            lease = self.leases.acquire(name, cancelled=self.cancelled)
        with lease:
            yield

    def _publish(self, planned: Planned, ledger: SeriesLedger, received: Mapping[str, ReceivedObject]) -> None:
        """Give whole files their final names: data on disk first, then the ledger, then the names."""
        if not received:
            return
        folder = self.tree.root / planned.folder
        with storage_errors("the output folder"):
            folder.mkdir(parents=True, exist_ok=True)
            renames = []
            for uid, item in received.items():
                path = self._on_our_file_system(item.path)
                path.chmod(0o666 & ~_UMASK)
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
                ledger.entries[uid] = Entry(
                    file=f"{uid}.dcm",
                    size=item.size,
                    mtime_ns=path.stat().st_mtime_ns,
                    sha256=item.sha256,
                    sop_class_uid=item.sop_class_uid,
                    transfer_syntax_uid=item.transfer_syntax_uid,
                    source=self.node.name,
                )
                renames.append((path, folder / f"{uid}.dcm"))
            ledger.save()
            for path, final in renames:
                os.replace(path, final)
            fsync_folder(folder)

    def _on_our_file_system(self, path: Path) -> Path:
        """The file itself where a rename will do, else a copy beside the tree (a spool on another file system)."""
        if path.stat().st_dev == self.incoming.stat().st_dev:
            return path
        moved = self.incoming / path.name
        shutil.move(path, moved)
        return moved


class Transfer:
    """The fetching of one series, over as many rounds and attempts as it takes."""

    def __init__(self, retriever: Retriever, planned: Planned, present: set[str]) -> None:
        self.planned = planned
        self.present = present
        self.received: dict[str, ReceivedObject] = {}
        self.expectation = Expectation(None)
        self._by = retriever
        self._node = retriever.node
        self._session = retriever.session
        self._quarantined: set[str] = set()
        self._seen: set[Path] = set()
        self._bytes = 0
        self._outcome = Outcome(0)
        self._method = ""

    def run(self) -> None:
        """Fetch what is missing: once as a whole, once more by SOP Instance UID; again where an error may pass."""
        self._again(self._set_expectation)
        if self._wanting():
            self._wait_for_turn()
        for whole in (not self.present, False):
            if self._wanting():
                self._again(partial(self._fetch, whole))

    def _again(self, action: Callable[[], None]) -> None:
        retrying(action, self._session, BACK_OFF, self._by.cancelled)

    def _set_expectation(self) -> None:
        self.expectation = self._expect()

    def settle(self, account: SeriesAccount) -> None:
        """Write into the account how the series ended."""
        have = self.present | self.received.keys()
        account.bytes, account.method, account.quarantined = self._bytes, self._method, len(self._quarantined)
        if self.expectation.instances is not None:
            expected = self.expectation.instances.keys()
            account.expected = len(expected)
            account.received = len(self.received.keys() & expected)
            account.present = len((self.present - self.received.keys()) & expected)
            account.missing = len(expected - have)
            account.unverifiable = len(have - expected)
        else:
            account.expected = self.expectation.count
            covered = min(len(have), account.expected or 0)
            account.present = min(len(self.present - self.received.keys()), covered)
            account.received = covered - account.present
            account.missing = (account.expected or 0) - covered
            account.unverifiable = len(have) - covered
        if not account.reason:
            account.state, account.reason = self._verdict(account)

    def _verdict(self, account: SeriesAccount) -> tuple[str, str]:
        if account.missing:
            return SERIES_INCOMPLETE, f"{account.missing} of {account.expected} instances missing: {self._why()}"
        if account.expected is None:
            return SERIES_UNVERIFIABLE, "the archive tells neither the instances of the series nor their number"
        if account.quarantined:
            return SERIES_COMPLETE, f"{account.quarantined} object(s) that nobody asked for were put into quarantine"
        return SERIES_COMPLETE, ""

    def _why(self) -> str:
        outcome = self._outcome
        if outcome.untouched and outcome.status == 0:
            return "the archive reported success without sending anything"
        if self._method == "move" and outcome.failed and not self.received:
            return (
                f"the archive could not send them; check that it reaches this machine at port "
                f"{self._node.receiver_port} under AE title {self._node.destination}"
            )
        return f"the archive did not send them (last status 0x{outcome.status:04X})"

    def _expect(self) -> Expectation:
        planned = self.planned
        return self._by.finder.expectation(planned.study_uid, planned.series_uid, planned.instances)

    def _wanting(self) -> set[str] | None:
        """SOP Instance UIDs that are missing; {""} where something is missing but nobody can say what."""
        have = self.present | self.received.keys()
        if self.expectation.instances is not None:
            return self.expectation.instances.keys() - have
        if self.expectation.count is not None:
            return {""} if len(have) < self.expectation.count else set()
        return {""} if not self.received else set()

    def _wait_for_turn(self) -> None:
        if self._node.batch_size and self._node.batch_wait_time:
            self._session.close()
            self._by.pacer.wait_turn(cancelled=self._by.cancelled)

    # Fetching

    def _fetch(self, whole: bool) -> None:
        """Ask for what is missing; for the series as a whole where nothing of it is here and `whole` says so."""
        whole = whole and not self.received
        missing = sorted(self._wanting() or ())
        instances = self.expectation.instances or {}
        classes = {instances.get(uid, "") for uid in missing}
        method = self._choose(classes)
        try:
            if method == "get":
                self._get(missing, instances, whole)
            else:
                self._move(missing, whole)
        except Unsupported:
            if method == "move" or self._node.method != "auto":
                raise
            self._move(missing, whole)

    def _choose(self, classes: set[str]) -> str:
        if self._node.method != "auto":
            return self._node.method
        if classes <= REGISTERED:
            return "get"
        return "move" if self._node.receiver_port or classes - {""} else "get"

    def _get(self, missing: list[str], instances: Mapping[str, str], whole: bool) -> None:
        self._method = "get"
        likely = likely_classes(self.planned.attributes.get("Modality", ""))
        class_of = {uid: instances.get(uid) or "" for uid in missing}
        known = sorted(set(class_of.values()) - {""})
        # Where the archive does not tell the SOP classes, the modality suggests what to be ready for.
        groups = list(chunks(known, CLASSES_PER_ASSOCIATION)) + ([likely] if "" in class_of.values() else [])
        for group in groups:
            uids = [uid for uid in missing if (class_of[uid] or likely[0]) in group]
            for identifier in self._identifiers([u for u in uids if u], (whole and len(groups) == 1) or uids == [""]):
                try:
                    self._outcome = self._session.get(identifier, group)
                finally:
                    self._accept(self._session.take())

    def _move(self, missing: list[str], whole: bool) -> None:
        self._method = "move"
        spool = self._by.receivers.spool()
        self._collect(spool)  # an attempt that was killed may have left whole objects
        arrived = partial(_entries, spool / self.planned.series_uid)
        for identifier in self._identifiers([m for m in missing if m], whole or missing == [""]):
            try:
                self._outcome = self._session.move(identifier, self._node.destination, arrived)
                self._await_arrivals(spool)
            finally:
                self._collect(spool)
            self._by.receivers.check()

    def _identifiers(self, uids: list[str], whole: bool) -> Iterator[object]:
        planned = self.planned
        keys = {"StudyInstanceUID": planned.study_uid, "SeriesInstanceUID": planned.series_uid}
        if whole:
            yield query("SERIES", **keys)
            return
        for chunk in chunks(uids, UIDS_PER_REQUEST):
            yield query("IMAGE", **keys, SOPInstanceUID=chunk)

    def _await_arrivals(self, spool: Path) -> None:
        seen, until = -1, time.monotonic() + ARRIVAL_GRACE
        while self._wanting() and time.monotonic() < until and not self._outcome.untouched:
            self._collect(spool)
            if len(self.received) != seen:
                seen, until = len(self.received), time.monotonic() + ARRIVAL_GRACE
            pause(0.1, self._by.cancelled)

    def _collect(self, spool: Path) -> None:
        arrived = list(spooled(spool, self.planned.series_uid, self._seen))
        self._seen.update(item.path for item in arrived)
        self._accept({item.sop_instance_uid: item for item in arrived})

    def _accept(self, arrived: Mapping[str, ReceivedObject]) -> None:
        """Take what belongs to the series; put the rest into quarantine."""
        planned = self.planned
        unlisted = self.expectation.instances is not None and arrived.keys() - self.expectation.instances.keys()
        if unlisted:
            self.expectation = self._expect()  # the archive may have received more since it was asked
        for uid, item in arrived.items():
            ours = item.series_uid == planned.series_uid and item.study_uid == planned.study_uid
            listed = self.expectation.instances is None or uid in self.expectation.instances
            if not (ours and listed):
                self._quarantined.add(uid)
                with storage_errors("the quarantine folder"):
                    shutil.move(item.path, private_folder(self._by.quarantine) / f"{uid}.dcm")
                continue
            if uid in self.received and self.received[uid].path != item.path:
                self.received[uid].path.unlink(missing_ok=True)
            self.received[uid] = item
            self._bytes += item.size


def _entries(folder: Path) -> int:
    """How many files lie in a folder that may not be there."""
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:
        return 0


def write_dump(tree: Tree, planned: Planned) -> None:
    """Write the info dump of a series: one csv beside its folder, PACSIFIER's columns.

    Raises:
        StorageError: the output folder cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, DUMP_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerow(planned.attributes)
    path = tree.root / f"{planned.folder}.csv"
    with storage_errors("the output folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.getvalue(), 0o666 & ~_UMASK)


def write_new_id(tree: Tree, planned: Planned) -> None:
    """Write the pseudonym that the query table gives for a patient to `sub-X/new_id.txt`."""
    path = tree.root / planned.folder.split("/")[0] / "new_id.txt"
    with storage_errors("the output folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, planned.new_id, 0o666 & ~_UMASK)
