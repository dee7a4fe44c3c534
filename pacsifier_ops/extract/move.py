"""C-MOVE of one series from the PACS to another node (PS3.4 C.4.2).

The PACS counts the sub-operations. If the destination can be queried, its list of instances decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset

from pacsifier_ops.archive.attempts import AtNode, pause, retrying, slot_of
from pacsifier_ops.archive.find import Expectation, Finder, expectation_of_giver, has_none_of, listed_instances
from pacsifier_ops.base.config import ACCEPT_ARCHIVE, ArchiveNode, PacsNode
from pacsifier_ops.base.errors import NotApproved, NothingMoved, OutOfResources, PacsError
from pacsifier_ops.base.files import read_jsonl
from pacsifier_ops.dimse.session import RetrieveResult, Session, query
from pacsifier_ops.extract.recall import Recall, postpone
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
from pacsifier_ops.state.turns import Place

#: Seconds per instance that an archive may take without a response, in addition to dimse_timeout. Many send no pending
#: responses.
SECONDS_PER_INSTANCE = 30.0
#: After this many single instances that were all not sent, the cause is not in the instances, and the series ends.
FAILURES_IN_A_ROW = 10
#: Waits between queries of a destination that does not list new instances at once, in multiples of its retry_wait.
LISTING_WAITS = (0.5, 1, 2, 4)


@dataclass
class Mover(AtNode):
    """Has one PACS send series to another node, over one session.

    Attributes:
        node, leases: the PACS, and the leases that enforce its limits.
        aet: AE title of the destination, as the PACS knows it.
        destination: the destination, if it can be queried; else None.
        resend: move also instances that the destination has confirmed before.
        cancelled: called regularly; True ends the work.
        only: JSON lines file of the instances that may be moved; None: all.
        place: see `AtNode`.
    """

    node: ArchiveNode
    leases: Leases
    aet: str
    destination: PacsNode | None = None
    resend: bool = False
    cancelled: Callable[[], bool] = lambda: False
    only: Path | None = None
    place: Callable[[], Place] = Place

    def __post_init__(self) -> None:
        self.use_session()
        self._allowed = _allowed_instances(self.only) if self.only else None
        self.finder = Finder(self.asking)
        self.key = self.destination.key if self.destination else f"{self.aet} of {self.node.key}"

    def move(self, planned: Planned, account: SeriesAccount) -> None:
        """Have one series sent, and write the outcome into `account`.

        A series that the archive recalls from slow storage is postponed, see `recall`.

        Raises:
            PacsifierError: the PACS or the destination failed. Instances that were not sent raise nothing; the account
                has them.
        """
        lease = delivery_lease(self.key, planned.series)
        with self.alone(lease), Deliveries(self.key, planned.series) as deliveries:
            transfer = SeriesMove(self, planned, deliveries)
            with settled(account, transfer.settle):
                transfer.run()
            if account.state == SERIES_RECALLED:
                postpone(account, self.node.recall_wait)

    def allowed_uids(self, planned: Planned) -> set[str] | None:
        """Return the SOP Instance UIDs of a series that may be moved; None if all may."""
        if self._allowed is None:
            return None
        return self._allowed.get((planned.study_uid, planned.series_uid), set())

    def listed_at_destination(self, planned: Planned) -> set[str] | None:
        """Return the SOP Instance UIDs of a series that the destination lists; None if it cannot be queried.

        Raises:
            PacsError: the destination does not answer.
        """
        if self.destination is None:
            return None
        keys = {"StudyInstanceUID": planned.study_uid, "SeriesInstanceUID": planned.series_uid}
        slot = slot_of(self.destination, self.leases, self.cancelled, before_waiting=self.close)
        with Session(self.destination, slot, cancelled=self.cancelled) as session:
            identifier = query("IMAGE", **keys, SOPInstanceUID="")
            answer = retrying(partial(session.find, identifier), session, self.cancelled)
        return {str(image.SOPInstanceUID) for image in answer.identifiers if image.get("SOPInstanceUID")}


def _allowed_instances(path: Path) -> dict[tuple[str, str], set[str]]:
    """Return the SOP Instance UIDs of a list of files, by Study and Series Instance UID.

    Args:
        path: JSON lines file, with the UIDs of each file under `instance`.

    Raises:
        NotApproved: the list does not exist.
    """
    found: dict[tuple[str, str], set[str]] = {}
    try:
        for study_uid, series_uid, uid in filter(None, (file["instance"] for file in read_jsonl(path))):
            found.setdefault((study_uid, series_uid), set()).add(uid)
    except FileNotFoundError:
        raise NotApproved("the list of approved instances does not exist; clear the step check") from None
    return found


class SeriesMove:
    """The move of one series, with all its rounds and attempts.

    Attributes:
        planned: the series.
        expectation: the instances that the PACS lists.
        present: SOP Instance UIDs that the destination had before, and that are not moved again.
        confirmed: SOP Instance UIDs moved in this run, according to the PACS or to the destination's own list.
        unnamed_count: number of instances moved, if the PACS does not list the instances of the series.
    """

    def __init__(self, mover: Mover, planned: Planned, deliveries: Deliveries) -> None:
        self.planned = planned
        self.expectation = Expectation(None, planned.instances)
        self.present: set[str] = set()
        self.confirmed: set[str] = set()
        self.unnamed_count = 0
        self._mover, self._node, self._session = mover, mover.node, mover.session
        self._deliveries = deliveries
        self._outcome: RetrieveResult | None = None
        self._refusals = 0
        self._warning_count = 0
        self._not_listed_count = 0
        self._unanswered = False
        self._listed_before: set[str] | None = None
        self._nothing_moved: NothingMoved | None = None
        self._not_allowed: set[str] = set()
        # What an archive that was not asked for the instances lists of them; None: it was, or does not tell.
        self._given: set[str] | None = None
        # Whether that archive has the study under another patient.
        self._another_patient = False
        self._recall = Recall(mover, mover.finder, planned)

    def run(self) -> None:
        """Have sent what is missing: the whole series first, then single instances.

        Each round is repeated after an error that may be temporary.
        """
        self._mover.again(self._expect)
        self._listed_before = self._mover.listed_at_destination(self.planned)
        if not self._mover.resend:
            self.present = self._expected() & (
                self._deliveries.confirmed.keys() if self._listed_before is None else self._listed_before
            )
        # A request for the whole series would also send instances that were stored after the approval, and those that
        # only the archive has that gives them; its counts would then stand for others.
        as_listed = self._mover.allowed_uids(self.planned) is None
        if self._missing():
            if self._mover.is_split:
                self._ask_giver()
                as_listed = as_listed and self._given == self._expected()
                if self._another_patient:
                    return
            self._mover.wait_for_turn()
        for whole in (not self.present and as_listed, False):
            if self._recall.reason or not self._missing():
                break
            self._mover.again(partial(self._request_unless_recalled, whole))
            self._check_destination()
        if self._recall.reason or not self._missing():
            return
        if self._mover.is_split:
            self._given = listed_instances(self._session, self.planned.series)
        nothing = not (self.confirmed or self.unnamed_count)
        # Archives that know one failure status only use it also for a series that they do not have.
        if nothing and self._nothing_moved is not None and not has_none_of(self._given, self._missing()):
            raise self._nothing_moved

    def _ask_giver(self) -> None:
        """Ask the archive that gives the images what it has of the series, and of whom: no object passes through us."""
        self._given = listed_instances(self._session, self.planned.series)
        if self._mover.asked.accept_patient_id_of != ACCEPT_ARCHIVE:
            study, attributes = self.planned.study_uid, self.planned.attributes
            asked = partial(Finder(self._session).has_another_patient, study, attributes)
            try:
                self._another_patient = self._mover.again(asked)
            except PacsError as error:
                if error.retryable:
                    raise
                # It need not answer queries.

    def settle(self, account: SeriesAccount) -> None:
        """Write the outcome into the account."""
        listed = self.expectation.instances is not None
        expected = len(self._expected()) if listed else self.expectation.count
        present = len(self.present) if listed else self._count_before()
        arrived = len(self.confirmed) if listed else min(self.unnamed_count, (expected or 0) - present)
        account.expected, account.present, account.received = expected, present, arrived
        account.unverifiable = self.unnamed_count if expected is None else 0
        account.missing = (expected or 0) - account.present - account.received
        account.missing_uids = sorted(self._expected() - self.present - self.confirmed)
        account.warned, account.method = self._warning_count, "move" if self._outcome else ""
        account.state, account.reason = self._verdict(account)

    def _verdict(self, account: SeriesAccount) -> tuple[str, str]:
        """Return the state of the series and its reason."""
        if self._recall.reason and self._missing():
            return SERIES_RECALLED, self._recall.account_reason(account)
        if account.missing:
            not_approved = len(self._not_allowed - self.present - self.confirmed)
            reasons = [f"{not_approved} of them were not approved, and are not moved"] if not_approved else []
            if account.missing > not_approved:
                reasons.append(self._missing_reason())
            return (
                SERIES_INCOMPLETE,
                f"{account.missing} of {account.expected} instances missing: {'; '.join(reasons)}",
            )
        if account.expected is None:
            return (
                SERIES_UNVERIFIABLE,
                "the archive gives neither a list of the instances of the series nor their number",
            )
        warned = f"{self._warning_count} taken with a warning of the destination" if self._warning_count else ""
        return SERIES_COMPLETE, warned

    def _missing_reason(self) -> str:
        """Return why instances are missing, from the last response of the PACS."""
        outcome, aet = self._outcome, self._mover.aet
        if self._another_patient:
            return (
                f"{self._node.name} has the study under another patient than {self._mover.asked.name}, so nothing is "
                "moved: ask the PACS team which patient it belongs to; accept_patient_id_of: archive has it moved"
            )
        if self._given == set() and not (self.confirmed or self.unnamed_count):
            return f"{self._node.name} does not have the series, and {self._mover.asked.name} does"
        if self._given is not None and (unknown := set(self._missing()) - self._given - {""}):
            return f"{self._node.name} does not list {len(unknown)} of them, and {self._mover.asked.name} does"
        if outcome is None:
            return "they were not requested"
        if self._not_listed_count:
            return f"the archive reports {self._not_listed_count} of them as sent, and {aet} does not list them"
        if outcome.untouched and outcome.status == 0:
            return "the archive reported success without sending anything"
        return (
            f"the archive could not send them to {aet} (last status 0x{outcome.status:04X}, "
            f"{outcome.failed} failed); check that it is running and accepts these SOP classes"
        )

    def _expect(self) -> None:
        """Query the expected instances."""
        planned = self.planned
        self.expectation = self._mover.finder.expectation(planned.study_uid, planned.series_uid, planned.instances)
        if self.expectation.instances is None and self._mover.is_split:
            self.expectation = expectation_of_giver(self._session, planned.series, self.expectation.count)
        if (only := self._mover.allowed_uids(planned)) is not None:
            if self.expectation.instances is None:
                # Without a list, the series could only be moved as a whole, with instances that were not approved.
                self.expectation = Expectation(dict.fromkeys(only, ""))
            self._not_allowed = self._expected() - only
        self._recall.refresh()

    def _expected(self) -> set[str]:
        return set(self.expectation.instances or ())

    def _missing(self) -> list[str]:
        """Return the missing SOP Instance UIDs; [""] if something is missing and the archive does not list what."""
        if self.expectation.instances is not None:
            return sorted(self._expected() - self.present - self.confirmed - self._not_allowed)
        return [""] if self._count_before() + self.unnamed_count < (self.expectation.count or 1) else []

    def _count_before(self) -> int:
        """Return how many instances the destination had before, for a series of which the PACS gives no list."""
        count = self.expectation.count
        if count is None or self._listed_before is None or self._mover.resend:
            return 0
        return min(len(self._listed_before), count)

    # Moving

    def _request_unless_recalled(self, whole: bool) -> None:
        """Move what is missing, and find out whether the archive has to recall it."""
        with self._recall.watch(self._missing, self._missing_reason):
            self._request(whole)

    def _request(self, whole: bool) -> None:
        """Request that the PACS sends what is missing.

        Args:
            whole: request the series as a whole if none of its instances was sent.

        Raises:
            OutOfResources: nothing was sent, and a later attempt may succeed.
        """
        if self._unanswered and (listed := self._mover.listed_at_destination(self.planned)) is not None:
            self._confirm(self._arrived_since(listed))
        missing, before = self._missing(), len(self.confirmed) + self.unnamed_count
        if not missing:
            return
        if self._given is not None:
            missing.sort(
                key=lambda uid: uid not in (self._given or ())
            )  # after a few failures, the rest is not asked for
        whole = (whole and not self.confirmed) or missing == [""]
        for uids, identifier in self._requests(missing, whole):
            self._move(uids, identifier, alone_if_unclear=not whole)
        outcome = self._outcome
        if outcome and 0xA700 <= outcome.status <= 0xA7FF and len(self.confirmed) + self.unnamed_count == before:
            self._refusals += 1
            if self._refusals <= REFUSALS:
                raise OutOfResources(f"{self._node.name}: could send nothing (0x{outcome.status:04X})")

    def _requests(self, uids: list[str], whole: bool) -> Iterator[tuple[list[str], Dataset]]:
        """Yield the identifiers of C-MOVE requests, each with its SOP Instance UIDs."""
        for identifier in identifiers(self.planned, uids, whole):
            asked = identifier.get("SOPInstanceUID", uids)
            yield [asked] if isinstance(asked, str) else list(map(str, asked)), identifier

    def _move(self, uids: list[str], identifier: Dataset, alone_if_unclear: bool) -> None:
        """Send one C-MOVE request, and evaluate its counts.

        Args:
            uids: the SOP Instance UIDs of the request, or [""].
            identifier: its identifier.
            alone_if_unclear: if the PACS counts failures without naming them, request each instance alone.
        """
        until = time.monotonic() + SECONDS_PER_INSTANCE * len(uids)

        def arrived() -> float:
            """Return a changing number for as long as the PACS may stay silent; the session waits while it changes."""
            return min(time.monotonic(), until)

        self._unanswered = True
        self._nothing_moved = None
        try:
            outcome = self._session.move(identifier, self._mover.aet, arrived)
        except NothingMoved as error:
            # Archives use this status also if they could send only a part of the objects.
            outcome, self._nothing_moved = RetrieveResult(error.status), error
        self._outcome, self._unanswered = outcome, False
        sent = outcome.completed + outcome.warning
        failed = set(outcome.failed_uids).intersection(uids)
        unnamed = outcome.failed > len(outcome.failed_uids)
        if uids == [""]:
            # The PACS may send more instances than it gave as the number of the series. The failed ones stay missing.
            most = (self.expectation.count or sent + outcome.failed) - outcome.failed
            self.unnamed_count, self._warning_count = max(self.unnamed_count, min(sent, most)), outcome.warning
        elif sent >= len(uids) - len(failed) and not unnamed:
            self._confirm(set(uids) - failed)
            self._warning_count += outcome.warning
        elif (sent or self._nothing_moved) and alone_if_unclear and len(uids) > 1:
            self._move_one_by_one(uids)

    def _move_one_by_one(self, uids: list[str]) -> None:
        """Request each instance alone."""
        before = len(self.confirmed)
        for number, uid in enumerate(uids):
            if number >= FAILURES_IN_A_ROW and len(self.confirmed) == before:
                return
            for asked, single in self._requests([uid], whole=False):
                self._move(asked, single, alone_if_unclear=False)

    def _confirm(self, uids: Iterable[str]) -> None:
        """Record instances as delivered."""
        new = set(uids)
        self.confirmed |= new
        for uid in sorted(uid for uid in new if uid not in self._deliveries.confirmed):
            self._deliveries.add(Delivery(uid))

    def _arrived_since(self, listed: set[str]) -> set[str]:
        """Return the expected instances among `listed` that the destination did not list before."""
        return (self._expected() & listed) - (self._listed_before or set())

    def _check_destination(self) -> None:
        """Compare the counts of the PACS with the destination's list, which decides."""
        if self.expectation.instances is None:
            self._count_at_destination()
            return
        reported = set(self.confirmed)
        for listed in self._listings():
            self.confirmed = (reported & listed) | self._arrived_since(listed)
            if reported <= self.confirmed:
                break
        self._not_listed_count = len(reported - self.confirmed)
        self._confirm(self.confirmed)

    def _count_at_destination(self) -> None:
        """Compare the counts of a series of which the PACS gives no list."""
        reported = self.unnamed_count
        for listed in self._listings():
            self.unnamed_count = min(reported, max(0, len(listed) - self._count_before()))
            if self.unnamed_count == reported:
                break
        self._not_listed_count = reported - self.unnamed_count

    def _listings(self) -> Iterator[set[str]]:
        """Yield the instances that the destination lists, now and after each of LISTING_WAITS.

        Yield nothing if it cannot be queried.
        """
        if self._mover.destination is None:
            return
        for factor in (0, *LISTING_WAITS):
            pause(factor * self._mover.destination.retry_wait, self._mover.cancelled)
            listed = self._mover.listed_at_destination(self.planned)
            if listed is not None:
                yield listed
