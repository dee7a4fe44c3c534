"""Upload of one series to a destination: skips what it has confirmed, evaluates each answer, tries again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pacsifier_ops.archive.attempts import AtPlace
from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import (
    AssociationAborted,
    FileUnreadable,
    OutOfResources,
    PacsError,
    PacsTimeout,
)
from pacsifier_ops.base.files import unreadable
from pacsifier_ops.dicom.files import DicomFile, check_whole
from pacsifier_ops.runs.accounts import SERIES_COMPLETE, SERIES_INCOMPLETE, SeriesAccount
from pacsifier_ops.runs.series import settled
from pacsifier_ops.state.approved import DIFFERS
from pacsifier_ops.state.deliveries import Deliveries, Delivery, delivery_lease
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.turns import Place
from pacsifier_ops.upload.destination import Answer, Outcome
from pacsifier_ops.upload.kinds import destination_at
from pacsifier_ops.upload.run import Outgoing

#: How often an object is sent again after the status `out of resources`, or after a broken association.
RETRIES = 2
#: After this many refused objects in a row, the cause is not in the objects.
REFUSALS_IN_A_ROW = 3


@dataclass
class Sender(AtPlace):
    """Sends series from one folder to one destination, over one session.

    Attributes:
        node, leases: the destination, and the leases that enforce its limits.
        root: the folder that is uploaded.
        resend: send also instances that the destination has confirmed before.
        cancelled: called regularly; True ends the work.
        progress: called with the size in bytes of every object that the destination has accepted.
        note: called with the path of every file that was not delivered, and the reason. The text identifies patients.
        place: see `AtPlace`.
        ends: what is sent belongs to a transfer that has begun, so it does not wait for the node's window.
        data_set: see `Destination`.
    """

    node: Node
    leases: Leases
    root: Path
    resend: bool = False
    cancelled: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] = lambda size: None
    note: Callable[[str], None] = lambda text: None
    place: Callable[[], Place] = Place
    ends: bool = False
    data_set: str = ""

    def __post_init__(self) -> None:
        self.destination = destination_at(
            self.node, self.leases, self.cancelled, self._begin, lambda: self.place(), self.root, self.data_set
        )
        self.session = self.destination
        self.use_pace()

    def _check_window(self) -> None:
        if not self.ends:
            super()._check_window()

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
        stored: the destination's warning, empty without one, by SOP Instance UID.
        failed: reason why a file was not delivered, by SOP Instance UID.
    """

    def __init__(self, sender: Sender, files: Sequence[DicomFile], deliveries: Deliveries) -> None:
        self.pending = {file.sop_instance_uid: file for file in files}
        self.present: set[str] = set()
        self.stored: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self._sender, self._destination, self._name = sender, sender.destination, sender.node.name
        self._deliveries = deliveries
        self._tries: Counter[str] = Counter()
        self._refused_in_a_row = 0
        self._bytes = self._altered = 0

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
        account.warned = sum(map(bool, self.stored.values()))
        account.bytes, account.method = self._bytes, self._destination.method if self._bytes else ""
        remarks = []
        if account.missing:
            reasons = Counter(self.failed.values())
            several = len(reasons) > 1
            parts = [f"{reason} ({count} of them)" if several else reason for reason, count in reasons.most_common()]
            remarks.append(
                f"{account.missing} of {account.expected} instances missing: {'; '.join(parts) or 'not sent'}"
            )
        for warning, count in Counter(filter(None, self.stored.values())).items():
            remarks.append(f"{count} taken with a warning ({warning})")
        if self._altered:
            remarks.append(f"{self._altered} had another content at the destination than what was sent")
        account.state = SERIES_INCOMPLETE if account.missing else SERIES_COMPLETE
        account.reason = "; ".join(remarks)

    def _skip_confirmed(self) -> None:
        """Move confirmed instances from `pending` to `present`: the file or its data set is the one that was sent.

        What a destination does not list any more, where it can be asked, is sent again. So is what it lists with
        another mark than when it was sent, if its content is another one.
        """
        recorded = [file for uid, file in self.pending.items() if uid in self._deliveries.confirmed]
        there = self._sender.again(lambda: self._destination.there(recorded)) if recorded else None
        marks = self._sender.again(lambda: self._destination.marks(recorded)) if recorded else {}
        for file in recorded:
            uid = file.sop_instance_uid
            known = self._deliveries.confirmed[uid]
            if not known.sha256 or (there is not None and uid not in there):
                continue
            mark = marks.get(uid, known.mark)
            now = Delivery(uid, known.sha256, file.size, file.ctime_ns, file.sha256, mark)
            if replace(now, mark=known.mark) != known:
                try:
                    if file.sha256 and digest(file.path) != file.sha256:
                        self._fail(uid, DIFFERS)
                        continue
                    if not self._is_same(file, known):
                        continue
                except OSError as error:
                    self._fail(uid, unreadable(error))
                    continue
            if known.mark and mark != known.mark and not self._sender.again(partial(self._destination.holds, file)):
                self._altered += 1
                continue
            if now != known:
                self._deliveries.add(now)
            self.present.add(uid)
            del self.pending[uid]

    def _is_same(self, file: DicomFile, known: Delivery) -> bool:
        """Return whether a destination has what it would have if the file were sent again."""
        if self._destination.keeps_files and file.sha256 and known.approved:
            return file.sha256 == known.approved
        if self._destination.keeps_files and (known.size, known.ctime_ns) != (file.size, file.ctime_ns):
            return False  # of the file that was sent, its data set alone is known
        return file.digest() == known.sha256

    # Sending

    def _attempt(self) -> None:
        """Send every pending file once.

        Raises:
            PacsError: the association failed, or the destination is out of resources.
        """
        self._refused_in_a_row = 0
        # Objects that failed before come last, so that they do not keep the others from being sent.
        order = sorted(self.pending.values(), key=lambda file: self._tries[file.sop_instance_uid])
        for files, refusals in self._destination.rounds(order):
            for uid, reason in refusals.items():
                self._fail(uid, reason)
            self._send([file for file in files if self._is_whole(file)])
        if self.pending:
            raise OutOfResources(f"{self._name}: refused {len(self.pending)} object(s), maybe temporarily")

    def _is_whole(self, file: DicomFile) -> bool:
        """Whether a file can be sent; it has failed otherwise."""
        try:
            if file.sop_class_uid:  # what lies beside the objects has another structure
                check_whole(file)
        except ValueError as error:
            self._fail(file.sop_instance_uid, str(error))
        except OSError as error:
            self._fail(file.sop_instance_uid, unreadable(error))
        else:
            return True
        return False

    def _send(self, files: Sequence[DicomFile]) -> None:
        """Send a portion and evaluate the answers. An object that is to be sent again stays pending."""
        if not files:
            return
        again = self._sender.resend or any(file.sop_instance_uid in self._deliveries.confirmed for file in files)
        try:
            answers = self._destination.put(files, again)
        except (FileUnreadable, ValueError, OSError) as error:
            if len(files) > 1:  # one of them; nothing was stored
                for file in files:
                    self._send([file])
                return
            self._fail(files[0].sop_instance_uid, unreadable(error) if isinstance(error, OSError) else str(error))
            return
        except (AssociationAborted, PacsTimeout) as error:
            for file in files:
                uid = file.sop_instance_uid
                self._tries[uid] += 1
                if self._tries[uid] > RETRIES and (self.stored or self.present):
                    self._fail(uid, f"the association broke with it, {self._tries[uid]} times")
            raise error
        for file in files:
            self._evaluate(file, answers[file.sop_instance_uid])

    def _evaluate(self, file: DicomFile, answer: Answer) -> None:
        uid = file.sop_instance_uid
        if answer.outcome is Outcome.STORED:
            self._deliveries.add(Delivery(uid, answer.sha256, file.size, file.ctime_ns, file.sha256, answer.mark))
            self.stored[uid] = answer.text
            del self.pending[uid]
            self._refused_in_a_row = 0
            self._bytes += file.size - file.offset
            self._sender.progress(file.size - file.offset)
        elif answer.outcome is Outcome.UNFIT:
            self._fail(uid, answer.text)
        else:
            self._handle_failure(uid, answer)

    def _handle_failure(self, uid: str, answer: Answer) -> None:
        """Evaluate a refusal: the object stays pending, or has failed.

        Raises:
            OutOfResources: the destination refuses all objects for now.
        """
        self._tries[uid] += 1
        self._refused_in_a_row += 1
        all_refused = self._refused_in_a_row >= REFUSALS_IN_A_ROW
        if answer.outcome is Outcome.BUSY and not (self._tries[uid] > RETRIES and (self.stored or self.present)):
            if all_refused:
                raise OutOfResources(f"{self._name}: refuses one object after the other ({answer.text})")
        elif answer.outcome is Outcome.DOUBTFUL and self._tries[uid] == 1 and not all_refused:
            pass  # it may pass
        else:
            times = f", {self._tries[uid]} times" if self._tries[uid] > 1 else ""
            self._fail(uid, f"refused by the destination{times} ({answer.text})")

    def _fail(self, uid: str, reason: str) -> None:
        """Move a file from `pending` to `failed`."""
        file = self.pending.pop(uid)
        self.failed[uid] = reason
        self._sender.note(f"not delivered: {file.path}: {reason}")
