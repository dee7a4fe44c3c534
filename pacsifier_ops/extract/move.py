"""One series from the PACS to a third node by C-MOVE (PS3.4 C.4.2).

What was sent is known from the sub-operations that the PACS counts, and from the destination where it can be asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import NotApproved, NothingMoved, OutOfResources
from pacsifier_ops.base.files import read_jsonl
from pacsifier_ops.dimse.attempts import AtNode, open_session, pause, retrying
from pacsifier_ops.dimse.find import Expectation, Finder
from pacsifier_ops.dimse.session import RetrieveResult, query
from pacsifier_ops.extract.recall import Recall, put_aside
from pacsifier_ops.extract.retrieve import REFUSALS, identifiers
from pacsifier_ops.extract.run import Planned
from pacsifier_ops.runs.accounts import (
    SERIES_COMPLETE,
    SERIES_INCOMPLETE,
    SERIES_RECALLED,
    SERIES_UNVERIFIABLE,
    SeriesAccount,
)
from pacsifier_ops.runs.series import settled
from pacsifier_ops.state.deliveries import Deliveries, Delivery, delivery_lease
from pacsifier_ops.state.leases import Leases

#: Many archives say nothing until all is sent. They are granted, beside dimse_timeout, so many seconds per instance.
SECONDS_PER_INSTANCE = 30.0
#: So many instances asked for one by one, of which not one was sent, are no matter of the instances any more.
FAILURES_IN_A_ROW = 10
#: Waits for a destination that does not list at once what it took, in multiples of its retry_wait.
PATIENCE = (0.5, 1, 2, 4)


@dataclass
class Mover(AtNode):
    """Has one PACS send series to another node, over one session.

    Attributes:
        node: the PACS.
        aet: AE title of the destination, as the PACS knows it.
        destination: the destination as a node that can be asked what it holds; None where it cannot.
        resend: move what the destination has confirmed before as well.
        only: list of what may be moved, a line per file; None: all.
    """

    node: PacsNode
    leases: Leases
    aet: str
    destination: PacsNode | None = None
    resend: bool = False
    cancelled: Callable[[], bool] = lambda: False
    only: Path | None = None

    def __post_init__(self) -> None:
        self.use_session()
        self._only = _instances(self.only) if self.only else None
        self.finder = Finder(self.session)
        self.key = self.destination.key if self.destination else f"{self.aet} of {self.node.key}"

    def move(self, planned: Planned, account: SeriesAccount) -> None:
        """Have one series sent, and write into `account` how that ended; or put it aside, see `recall`.

        Raises:
            PacsifierError: the PACS or the destination. What was not sent is in the account instead.
        """
        lease = delivery_lease(self.key, planned.series)
        with self.alone(lease), Deliveries(self.key, planned.series) as deliveries:
            transfer = SeriesMove(self, planned, deliveries)
            with settled(account, transfer.settle):
                transfer.run()
            if account.state == SERIES_RECALLED:
                put_aside(account, self.node.recall_wait)

    def may_move(self, planned: Planned) -> set[str] | None:
        """SOP Instance UIDs that may be moved of a series; None where all may."""
        if self._only is None:
            return None
        return self._only.get((planned.study_uid, planned.series_uid), set())

    def listed(self, planned: Planned) -> set[str] | None:
        """SOP Instance UIDs that the destination holds of a series; None where it cannot be asked.

        Raises:
            PacsError: it does not answer.
        """
        if self.destination is None:
            return None
        keys = {"StudyInstanceUID": planned.study_uid, "SeriesInstanceUID": planned.series_uid}
        session = open_session(
            self.destination, self.leases, cancelled=self.cancelled, before_waiting=self.session.close
        )
        with session:
            identifier = query("IMAGE", **keys, SOPInstanceUID="")
            answer = retrying(partial(session.find, identifier), session, self.cancelled)
        return {str(image.SOPInstanceUID) for image in answer.identifiers if image.get("SOPInstanceUID")}


def _instances(path: Path) -> dict[tuple[str, str], set[str]]:
    """SOP Instance UIDs by Study and Series Instance UID, of a list of files.

    Raises:
        NotApproved: it is not there.
    """
    found: dict[tuple[str, str], set[str]] = {}
    try:
        for study_uid, series_uid, uid in filter(None, (file["instance"] for file in read_jsonl(path))):
            found.setdefault((study_uid, series_uid), set()).add(uid)
    except FileNotFoundError:
        raise NotApproved("there is no list of what was approved to be moved; clear the step check") from None
    return found


class SeriesMove:
    """The moving of one series, over as many rounds and attempts as it takes.

    Attributes:
        expectation: what the PACS lists.
        present: SOP Instance UIDs that the destination had before, and that are not to be moved again.
        confirmed: those that it has taken in this run, by the counts of the PACS or by its own list.
        uncounted: instances sent of a series of which the PACS gives no list.
    """

    def __init__(self, mover: Mover, planned: Planned, deliveries: Deliveries) -> None:
        self.planned = planned
        self.expectation = Expectation(None, planned.instances)
        self.present: set[str] = set()
        self.confirmed: set[str] = set()
        self.uncounted = 0
        self._by, self._node, self._session = mover, mover.node, mover.session
        self._deliveries = deliveries
        self._outcome: RetrieveResult | None = None
        self._refusals = 0
        self._warned = 0
        self._unlisted = 0
        self._broken = False
        self._before: set[str] | None = None
        self._nothing: NothingMoved | None = None
        self._held_back: set[str] = set()
        self._recall = Recall(mover.node, mover.finder, planned)

    def run(self) -> None:
        """Have sent what is missing: once as a whole, once more by SOP Instance UID; again where an error may pass."""
        self._by.again(self._expect)
        self._before = self._by.listed(self.planned)
        if not self._by.resend:
            self.present = self._expected() & (
                self._deliveries.confirmed.keys() if self._before is None else self._before
            )
        if self._missing():
            self._by.wait_for_turn()
        # As a whole, what has come to the series since would be sent as well.
        for whole in (not self.present and self._by.may_move(self.planned) is None, False):
            if self._recall.why or not self._missing():
                break
            self._by.again(partial(self._ask_unless_recalled, whole))
            self._check_destination()
        if self._recall.why or self.confirmed or self.uncounted:
            return
        if self._nothing is not None and self._missing():
            raise self._nothing

    def settle(self, account: SeriesAccount) -> None:
        """Write into the account how the series ended."""
        listed = self.expectation.instances is not None
        expected = len(self._expected()) if listed else self.expectation.count
        present = len(self.present) if listed else self._counted_before()
        arrived = len(self.confirmed) if listed else min(self.uncounted, (expected or 0) - present)
        account.expected, account.present, account.received = expected, present, arrived
        account.unverifiable = self.uncounted if expected is None else 0
        account.missing = (expected or 0) - account.present - account.received
        account.missing_uids = sorted(self._expected() - self.present - self.confirmed)
        account.warned, account.method = self._warned, "move" if self._outcome else ""
        account.state, account.reason = self._verdict(account)

    def _verdict(self, account: SeriesAccount) -> tuple[str, str]:
        if self._recall.why and self._missing():
            return SERIES_RECALLED, self._recall.told(account)
        if account.missing:
            held_back = self._held_back - self.present - self.confirmed
            held = f"{len(held_back)} of them were not approved, and are not moved" if held_back else ""
            why = self._why() if account.missing > len(held_back) else ""
            told = "; ".join(filter(None, (held, why)))
            return SERIES_INCOMPLETE, f"{account.missing} of {account.expected} instances missing: {told}"
        if account.expected is None:
            return SERIES_UNVERIFIABLE, "the archive tells neither the instances of the series nor their number"
        warned = f"{self._warned} taken with a warning of the destination" if self._warned else ""
        return SERIES_COMPLETE, warned

    def _why(self) -> str:
        outcome = self._outcome
        if outcome is None:
            return "they were not asked for"
        if self._unlisted:
            return f"the archive reports {self._unlisted} of them as sent, and {self._by.aet} does not list them"
        if outcome.untouched and outcome.status == 0:
            return "the archive reported success without sending anything"
        return (
            f"the archive could not send them to {self._by.aet} (last status 0x{outcome.status:04X}, "
            f"{outcome.failed} failed); see that it listens, and takes objects of this kind"
        )

    def _expect(self) -> None:
        planned = self.planned
        self.expectation = self._by.finder.expectation(planned.study_uid, planned.series_uid, planned.instances)
        if (only := self._by.may_move(planned)) is not None:
            if self.expectation.instances is None:
                # Without a list the series can only be moved as a whole, and nobody knows what that holds by now.
                self.expectation = Expectation(dict.fromkeys(only, ""))
            self._held_back = self._expected() - only
        self._recall.look()

    def _expected(self) -> set[str]:
        return set(self.expectation.instances or ())

    def _missing(self) -> list[str]:
        """SOP Instance UIDs that are missing; [""] where something is, but nobody can say what."""
        if self.expectation.instances is not None:
            return sorted(self._expected() - self.present - self.confirmed - self._held_back)
        return [""] if self._counted_before() + self.uncounted < (self.expectation.count or 1) else []

    def _counted_before(self) -> int:
        """Where the PACS gives no list: how many instances the destination had before, as far as they count."""
        count = self.expectation.count
        if count is None or self._before is None or self._by.resend:
            return 0
        return min(len(self._before), count)

    # Moving

    def _ask_unless_recalled(self, whole: bool) -> None:
        with self._recall.watched(self._missing, self._why):
            self._ask(whole)

    def _ask(self, whole: bool) -> None:
        """Ask the PACS to send what is missing; the series as a whole where nothing is there and `whole` says so.

        Raises:
            OutOfResources: nothing could be sent, and a later attempt may succeed.
        """
        if self._broken and (there := self._by.listed(self.planned)) is not None:
            self._confirm(self._arrived_since(there))
        missing, before = self._missing(), len(self.confirmed) + self.uncounted
        if not missing:
            return
        whole = (whole and not self.confirmed) or missing == [""]
        for uids, identifier in self._requests(missing, whole):
            self._move(uids, identifier, alone_if_unclear=not whole)
        outcome = self._outcome
        if outcome and 0xA700 <= outcome.status <= 0xA7FF and len(self.confirmed) + self.uncounted == before:
            self._refusals += 1
            if self._refusals <= REFUSALS:
                raise OutOfResources(f"{self._node.name}: could send nothing (0x{outcome.status:04X})")

    def _requests(self, uids: list[str], whole: bool) -> Iterator[tuple[list[str], Dataset]]:
        for identifier in identifiers(self.planned, uids, whole):
            asked = identifier.get("SOPInstanceUID", uids)
            yield [asked] if isinstance(asked, str) else list(map(str, asked)), identifier

    def _move(self, uids: list[str], identifier: Dataset, alone_if_unclear: bool) -> None:
        """One C-MOVE request of instances; judge its counts.

        Args:
            alone_if_unclear: where the PACS counts failures without naming them, ask for each instance alone.
        """
        until = time.monotonic() + SECONDS_PER_INSTANCE * len(uids)

        def arrived() -> float:
            """Changes as long as the PACS is granted to say nothing."""
            return min(time.monotonic(), until)

        self._broken = True  # until it has answered, nobody knows what it has sent
        self._nothing = None
        try:
            outcome = self._session.move(identifier, self._by.aet, arrived)
        except NothingMoved as error:
            # Said also where one object of many cannot be sent, and part of them was.
            outcome, self._nothing = RetrieveResult(error.status), error
        self._outcome, self._broken = outcome, False
        sent = outcome.completed + outcome.warning
        failed = set(outcome.failed_uids).intersection(uids)
        unnamed = outcome.failed > len(outcome.failed_uids)  # what has failed may be among those asked for
        if uids == [""]:
            # The PACS may send more than it counts for the series; what it says has failed is missing all the same.
            most = (self.expectation.count or sent + outcome.failed) - outcome.failed
            self.uncounted, self._warned = max(self.uncounted, min(sent, most)), outcome.warning
        elif sent >= len(uids) - len(failed) and not unnamed:
            self._confirm(set(uids) - failed)
            self._warned += outcome.warning
        elif (sent or self._nothing) and alone_if_unclear and len(uids) > 1:
            self._move_one_by_one(uids)

    def _move_one_by_one(self, uids: list[str]) -> None:
        before = len(self.confirmed)
        for number, uid in enumerate(uids):
            if number >= FAILURES_IN_A_ROW and len(self.confirmed) == before:
                return
            for asked, single in self._requests([uid], whole=False):
                self._move(asked, single, alone_if_unclear=False)

    def _confirm(self, uids: Iterable[str]) -> None:
        self.confirmed = self.confirmed.union(uids)
        for uid in sorted(self.confirmed - self._deliveries.confirmed.keys()):
            self._deliveries.add(Delivery(uid))

    def _arrived_since(self, there: set[str]) -> set[str]:
        """What of the series the destination lists, and did not before."""
        return (self._expected() & there) - (self._before or set())

    def _check_destination(self) -> None:
        """Compare with what the destination lists, which counts for more than what the PACS says it sent."""
        if self.expectation.instances is None:
            self._count_at_destination()
            return
        reported = set(self.confirmed)
        for there in self._looks():
            self.confirmed = (reported & there) | self._arrived_since(there)
            if reported <= self.confirmed:
                break
        self._unlisted = len(reported - self.confirmed)
        self._confirm(self.confirmed)

    def _count_at_destination(self) -> None:
        """The same for a series of which the PACS gives no list."""
        reported = self.uncounted
        for there in self._looks():
            self.uncounted = min(reported, max(0, len(there) - self._counted_before()))
            if self.uncounted == reported:
                break
        self._unlisted = reported - self.uncounted

    def _looks(self) -> Iterator[set[str]]:
        """What the destination lists, now and some times later; nothing where it cannot be asked."""
        if self._by.destination is None:
            return
        for factor in (0, *PATIENCE):
            pause(factor * self._by.destination.retry_wait, self._by.cancelled)
            there = self._by.listed(self.planned)
            if there is not None:
                yield there
