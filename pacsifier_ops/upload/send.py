"""One series from the disk to the destination: what it has confirmed before is left out, each C-STORE is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import (
    AssociationAborted,
    FileUnreadable,
    OutOfResources,
    PacsError,
    PacsTimeout,
)
from pacsifier_ops.base.files import unreadable
from pacsifier_ops.dicom.files import DicomFile, check_whole
from pacsifier_ops.dimse.attempts import AtNode
from pacsifier_ops.dimse.session import KINDS_PER_ASSOCIATION
from pacsifier_ops.runs.accounts import SERIES_COMPLETE, SERIES_INCOMPLETE, SeriesAccount
from pacsifier_ops.runs.series import settled
from pacsifier_ops.state.approved import DIFFERS
from pacsifier_ops.state.deliveries import Deliveries, Delivery, delivery_lease
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.upload.run import Outgoing

Kind = tuple[str, str]

#: So often an object is tried again that the destination had no resources for, or that the association broke with.
RETRIES = 2
#: So many objects refused, one after the other, are no matter of the objects any more.
REFUSALS_IN_A_ROW = 3

#: Warnings with which the object is stored nevertheless (PS3.4 B.2.3).
WARNINGS = {
    0xB000: "some elements were coerced",
    0xB006: "some elements were discarded",
    0xB007: "the data set does not match its SOP class",
}
_FAILURES = {
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}
_FAILURE_RANGES = {0xA7: "out of resources", 0xA9: "the data set does not match its SOP class"}


def meaning(status: int) -> str:
    """What a failure status of C-STORE means (PS3.4 B.2.3, PS3.7 9.1.1.1.9), with the status itself."""
    words = _FAILURES.get(status) or _FAILURE_RANGES.get(status >> 8)
    words = words or (
        "it cannot understand the object" if status >> 12 == 0xC else "a status that C-STORE does not have"
    )
    return f"0x{status:04X}, {words}"


@dataclass
class Sender(AtNode):
    """Sends series from one folder to one destination, over one session.

    Attributes:
        root: the folder that is uploaded.
        resend: send what has been confirmed before as well.
        note: told which file was not delivered and why; for the run's own folder, as it names files.
        progress: told the bytes of every object that the destination has taken.
    """

    node: PacsNode
    leases: Leases
    root: Path
    resend: bool = False
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda size: None
    note: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        self.use_session()

    def send(self, outgoing: Outgoing, account: SeriesAccount) -> None:
        """Send one series, and write into `account` how it ended. What is confirmed stays so, whatever happens.

        Raises:
            PacsifierError: the destination or the disk. What became of each file is in the account instead.
        """
        destination = self.node.key
        lease = delivery_lease(destination, outgoing.series)
        with self.alone(lease), Deliveries(destination, outgoing.series) as deliveries:
            shipment = Shipment(self, outgoing.objects(self.root), deliveries)
            with settled(account, shipment.settle):
                shipment.run()


class Shipment:
    """The sending of one series, over as many attempts as it takes. Every file is in exactly one state.

    Attributes:
        pending: files to be sent, by SOP Instance UID.
        present: SOP Instance UIDs that the destination had confirmed before.
        stored: status with which the destination took an object, by SOP Instance UID.
        failed: why a file was not delivered, by SOP Instance UID.
    """

    def __init__(self, sender: Sender, files: Sequence[DicomFile], deliveries: Deliveries) -> None:
        self.pending = {file.sop_instance_uid: file for file in files}
        self.present: set[str] = set()
        self.stored: dict[str, int] = {}
        self.failed: dict[str, str] = {}
        self._by, self._session, self._name = sender, sender.session, sender.node.name
        self._deliveries = deliveries
        self._tries: Counter[str] = Counter()
        self._refused_in_a_row = 0
        self._bytes = 0

    def run(self) -> None:
        """Send what the destination does not have; again where an error may pass, as long as that brings anything."""
        if not self._by.resend:
            self._leave_out_confirmed()
        if self.pending:
            self._by.wait_for_turn()
        while self.pending:
            before = len(self.stored)
            try:
                self._by.again(self._attempt)
            except PacsError as error:
                if not error.retryable or len(self.stored) == before:
                    raise

    def settle(self, account: SeriesAccount) -> None:
        """Write into the account how the series ended."""
        account.present, account.received = len(self.present), len(self.stored)
        account.missing_uids = [*self.failed, *self.pending]
        account.missing = len(account.missing_uids)
        account.warned = sum(status != 0 for status in self.stored.values())
        account.bytes, account.method = self._bytes, "store" if self._bytes else ""
        remarks = []
        if account.missing:
            reasons = Counter(self.failed.values())
            several = len(reasons) > 1
            parts = [f"{reason} ({count} of them)" if several else reason for reason, count in reasons.most_common()]
            why = "; ".join(parts) or "not sent"
            remarks.append(f"{account.missing} of {account.expected} instances missing: {why}")
        for status, count in Counter(filter(None, self.stored.values())).items():
            remarks.append(f"{count} taken with a warning (0x{status:04X}, {WARNINGS[status]})")
        account.state = SERIES_INCOMPLETE if account.missing else SERIES_COMPLETE
        account.reason = "; ".join(remarks)

    def _leave_out_confirmed(self) -> None:
        """Take out what the destination has: the file as it was, or else one that holds the same data set."""
        for uid, file in list(self.pending.items()):
            known = self._deliveries.confirmed.get(uid)
            if known is None or not known.sha256:
                continue
            if (known.size, known.ctime_ns, known.approved) != (file.size, file.ctime_ns, file.sha256):
                try:
                    if file.sha256 and digest(file.path) != file.sha256:
                        self._fail(uid, DIFFERS)
                        continue
                    if file.digest() != known.sha256:
                        continue
                except OSError as error:
                    self._fail(uid, unreadable(error))
                    continue
                self._deliveries.add(Delivery(uid, known.sha256, file.size, file.ctime_ns, file.sha256))
            self.present.add(uid)
            del self.pending[uid]

    # Sending

    def _attempt(self) -> None:
        """Send all that is pending once.

        Raises:
            PacsError: something that others may not share: the association, or that resources are short.
        """
        self._refused_in_a_row = 0
        kinds = sorted({file.kind for file in self.pending.values()})
        for start in range(0, len(kinds), KINDS_PER_ASSOCIATION):
            some = kinds[start : start + KINDS_PER_ASSOCIATION]
            accepted = self._session.ready_to_send(some)
            refusals = {kind: self._refusal(kind) for kind in some if kind not in accepted}
            # What failed before comes last, so that it does not keep the others from being sent.
            for uid, file in sorted(self.pending.items(), key=lambda item: self._tries[item[0]]):
                if file.kind in refusals:
                    self._fail(uid, refusals[file.kind])
                elif file.kind in accepted:
                    self._send(uid, file)
        if self.pending:
            raise OutOfResources(f"{self._name}: refused {len(self.pending)} object(s) for now")

    def _send(self, uid: str, file: DicomFile) -> None:
        """Send one object and judge the answer. Where it is to be tried again, it stays pending."""
        try:
            check_whole(file)
            sent = self._session.send(file)
        except ValueError as error:
            self._fail(uid, str(error))
            return
        except FileUnreadable as error:
            self._fail(uid, str(error))
            return
        except OSError as error:
            self._fail(uid, unreadable(error))
            return
        except (AssociationAborted, PacsTimeout) as error:
            self._tries[uid] += 1
            if self._tries[uid] > RETRIES and (self.stored or self.present):
                self._fail(uid, f"the association broke with it, {self._tries[uid]} times")
            raise error
        if sent.status == 0 or sent.status in WARNINGS:
            self._deliveries.add(Delivery(uid, sent.sha256, file.size, file.ctime_ns, file.sha256))
            self.stored[uid] = sent.status
            del self.pending[uid]
            self._refused_in_a_row = 0
            self._bytes += file.size - file.offset
            self._by.progress(file.size - file.offset)
        else:
            self._refused(uid, sent.status)

    def _refused(self, uid: str, status: int) -> None:
        """Judge a failure status: the object is tried again, or set aside, or the destination can take nothing now."""
        self._tries[uid] += 1
        self._refused_in_a_row += 1
        one_after_the_other = self._refused_in_a_row >= REFUSALS_IN_A_ROW
        if status >> 8 == 0xA7 and not (self._tries[uid] > RETRIES and (self.stored or self.present)):
            if one_after_the_other:
                raise OutOfResources(f"{self._name}: refuses one object after the other ({meaning(status)})")
        elif status >> 12 == 0xC and self._tries[uid] == 1 and not one_after_the_other:
            pass  # some archives say so of an object here and there when they are busy
        else:
            times = f", {self._tries[uid]} times" if self._tries[uid] > 1 else ""
            self._fail(uid, f"refused by the destination{times} ({meaning(status)})")

    def _refusal(self, kind: Kind) -> str:
        """Why objects of a kind cannot be sent: what they are, and what the destination would take."""
        sop_class, syntax = (_name(uid) for uid in kind)
        takes = " or ".join(_name(uid) for uid in self._session.accepts(kind[0]))
        instead = f"of this SOP class it takes {takes} only" if takes else "it does not take this SOP class"
        return f"refused by the destination: {sop_class} in {syntax}; {instead}"

    def _fail(self, uid: str, reason: str) -> None:
        file = self.pending.pop(uid)
        self.failed[uid] = reason
        self._by.note(f"not delivered: {file.path}: {reason}")


def _name(uid: str) -> str:
    """The name of a SOP class or transfer syntax, or its UID where the standard has none for it."""
    name = UID(uid).name
    return name if name == uid else f"{name} ({uid})"
