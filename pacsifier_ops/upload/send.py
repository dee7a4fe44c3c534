"""Upload of one series by C-STORE (PS3.4 B.2): skips what the destination has confirmed, evaluates each response."""

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
from pacsifier_ops.state.turns import Place
from pacsifier_ops.upload.run import Outgoing

#: SOP class and transfer syntax of an object.
Kind = tuple[str, str]

#: How often an object is sent again after the status `out of resources`, or after a broken association.
RETRIES = 2
#: After this many refused objects in a row, the cause is not in the objects.
REFUSALS_IN_A_ROW = 3

#: Warnings (PS3.4 B.2.3): the destination has stored the object.
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


def failure_text(status: int) -> str:
    """Return a failure status of C-STORE with its meaning (PS3.4 B.2.3, PS3.7 9.1.1.1.9)."""
    words = _FAILURES.get(status) or _FAILURE_RANGES.get(status >> 8)
    words = words or ("cannot understand the object" if status >> 12 == 0xC else "not a status of C-STORE")
    return f"0x{status:04X}, {words}"


@dataclass
class Sender(AtNode):
    """Sends series from one folder to one destination, over one session.

    Attributes:
        node, leases: the destination, and the leases that enforce its limits.
        root: the folder that is uploaded.
        resend: send also instances that the destination has confirmed before.
        cancelled: called regularly; True ends the work.
        progress: called with the size in bytes of every object that the destination has accepted.
        note: called with the path of every file that was not delivered, and the reason. The text identifies patients.
        place: see `AtNode`.
    """

    node: PacsNode
    leases: Leases
    root: Path
    resend: bool = False
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda size: None
    note: Callable[[str], None] = lambda text: None
    place: Callable[[], Place] = Place

    def __post_init__(self) -> None:
        self.use_session()

    def send(self, outgoing: Outgoing, account: SeriesAccount) -> None:
        """Send one series, and write the outcome into `account`.

        Raises:
            PacsifierError: the destination or the disk failed. Objects that were accepted before count as delivered.
        """
        destination = self.node.key
        lease = delivery_lease(destination, outgoing.series)
        with self.alone(lease), Deliveries(destination, outgoing.series) as deliveries:
            upload = SeriesUpload(self, outgoing.objects(self.root), deliveries)
            with settled(account, upload.settle):
                upload.run()


class SeriesUpload:
    """The upload of one series, with all its attempts. Every file is in exactly one of these collections.

    Attributes:
        pending: files to be sent, by SOP Instance UID.
        present: SOP Instance UIDs that the destination had confirmed before.
        stored: status of the C-STORE response, success or a warning, by SOP Instance UID.
        failed: reason why a file was not delivered, by SOP Instance UID.
    """

    def __init__(self, sender: Sender, files: Sequence[DicomFile], deliveries: Deliveries) -> None:
        self.pending = {file.sop_instance_uid: file for file in files}
        self.present: set[str] = set()
        self.stored: dict[str, int] = {}
        self.failed: dict[str, str] = {}
        self._sender, self._session, self._name = sender, sender.session, sender.node.name
        self._deliveries = deliveries
        self._tries: Counter[str] = Counter()
        self._refused_in_a_row = 0
        self._bytes = 0

    def run(self) -> None:
        """Send what the destination does not have; repeat after an error that may be temporary while objects arrive."""
        if not self._sender.resend:
            self._skip_confirmed()
        if self.pending:
            self._sender.wait_for_turn()
        while self.pending:
            before = len(self.stored)
            try:
                self._sender.again(self._attempt)
            except PacsError as error:
                if not error.retryable or len(self.stored) == before:
                    raise

    def settle(self, account: SeriesAccount) -> None:
        """Write the outcome into the account."""
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
            remarks.append(
                f"{account.missing} of {account.expected} instances missing: {'; '.join(parts) or 'not sent'}"
            )
        for status, count in Counter(filter(None, self.stored.values())).items():
            remarks.append(f"{count} taken with a warning (0x{status:04X}, {WARNINGS[status]})")
        account.state = SERIES_INCOMPLETE if account.missing else SERIES_COMPLETE
        account.reason = "; ".join(remarks)

    def _skip_confirmed(self) -> None:
        """Move confirmed instances from `pending` to `present`: the file or its data set is the one that was sent."""
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
        """Send every pending file once.

        Raises:
            PacsError: the association failed, or the destination is out of resources.
        """
        self._refused_in_a_row = 0
        kinds = sorted({file.kind for file in self.pending.values()})
        for start in range(0, len(kinds), KINDS_PER_ASSOCIATION):
            some = kinds[start : start + KINDS_PER_ASSOCIATION]
            accepted = self._session.ready_to_send(some)
            refusals = {kind: self._refusal_reason(kind) for kind in some if kind not in accepted}
            # Objects that failed before come last, so that they do not keep the others from being sent.
            for uid, file in sorted(self.pending.items(), key=lambda item: self._tries[item[0]]):
                if file.kind in refusals:
                    self._fail(uid, refusals[file.kind])
                elif file.kind in accepted:
                    self._send(uid, file)
        if self.pending:
            raise OutOfResources(f"{self._name}: refused {len(self.pending)} object(s), maybe temporarily")

    def _send(self, uid: str, file: DicomFile) -> None:
        """Send one object and evaluate the response. An object that is to be sent again stays pending."""
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
            self._sender.progress(file.size - file.offset)
        else:
            self._handle_failure(uid, sent.status)

    def _handle_failure(self, uid: str, status: int) -> None:
        """Evaluate a failure status: the object stays pending, or has failed.

        Raises:
            OutOfResources: the destination refuses all objects for now.
        """
        self._tries[uid] += 1
        self._refused_in_a_row += 1
        all_refused = self._refused_in_a_row >= REFUSALS_IN_A_ROW
        if status >> 8 == 0xA7 and not (self._tries[uid] > RETRIES and (self.stored or self.present)):
            if all_refused:
                raise OutOfResources(f"{self._name}: refuses one object after the other ({failure_text(status)})")
        elif status >> 12 == 0xC and self._tries[uid] == 1 and not all_refused:
            pass  # some archives use this status for single objects when they are busy
        else:
            times = f", {self._tries[uid]} times" if self._tries[uid] > 1 else ""
            self._fail(uid, f"refused by the destination{times} ({failure_text(status)})")

    def _refusal_reason(self, kind: Kind) -> str:
        """Return why the destination accepts no presentation context for a kind, and which it would accept."""
        sop_class, syntax = (_name(uid) for uid in kind)
        accepted = " or ".join(_name(uid) for uid in self._session.accepts(kind[0]))
        instead = f"it accepts this SOP class in {accepted} only" if accepted else "it does not accept this SOP class"
        return f"refused by the destination: {sop_class} in {syntax}; {instead}"

    def _fail(self, uid: str, reason: str) -> None:
        """Move a file from `pending` to `failed`."""
        file = self.pending.pop(uid)
        self.failed[uid] = reason
        self._sender.note(f"not delivered: {file.path}: {reason}")


def _name(uid: str) -> str:
    """Return the name of a SOP class or transfer syntax with its UID; the UID alone if the standard has no name."""
    name = UID(uid).name
    return name if name == uid else f"{name} ({uid})"
