"""The worker of jobs that transfer series."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pacsifier_ops.base.errors import PacsifierError, Recalling
from pacsifier_ops.runs.accounts import IMAGES, SERIES_COMPLETE, SERIES_FAILED, SERIES_LISTED, RunAccount, SeriesAccount
from pacsifier_ops.runs.job import NOT_ATTEMPTED, Worker
from pacsifier_ops.state.turns import NORMAL, Line, Place, count_turn, place_of

if TYPE_CHECKING:
    from pacsifier_ops.archive.attempts import AtPlace


@contextmanager
def settled(account: SeriesAccount, settle: Callable[[SeriesAccount], None]) -> Iterator[None]:
    """Whatever happens to a series, let `settle` write into its account how far it came, and how long that took."""
    started = time.monotonic()
    try:
        yield
        settle(account)
    except Exception as error:
        settle(account)
        told = isinstance(error, PacsifierError)
        account.state, account.reason = SERIES_FAILED, str(error) if told else f"unexpected {type(error).__name__}"
        raise
    finally:
        account.seconds = time.monotonic() - started


class Series(Protocol):
    """A series of a unit."""

    number: int

    def account(self) -> SeriesAccount:
        """Its account before anything is done."""


S = TypeVar("S", bound=Series)


class SeriesWorker(Worker[S, SeriesAccount]):
    """Transfers series. A later call skips completed series, and looks at recalled ones when their time has come.

    Attributes:
        urgency: see `turns.Place`; at_node: the work at the node, once it is open. Set by each job.
    """

    result = SeriesAccount
    urgency = NORMAL
    at_node: AtPlace

    def place(self) -> Place:
        """Return where the run stands among others at the node."""
        return place_of(self._run.folder, self.urgency)

    def give_way(self) -> None:
        """Let somebody who goes first have the association."""
        self.at_node.give_way()

    def rest(self) -> None:
        """Close the association."""
        self.at_node.close()

    def transfer(self, series: S, account: SeriesAccount) -> None:
        """Transfer a series, and write the outcome into its account."""
        raise NotImplementedError

    @classmethod
    def account(cls, item: S) -> SeriesAccount:
        """Return the account of a series that no worker has tried."""
        account = item.account()
        account.reason = NOT_ATTEMPTED
        return account

    @classmethod
    def standing(cls, item: S, present: int, handed_on: int = 0) -> dict[str, Any]:
        """Return the line of the result of a series for which there is nothing to do.

        Args:
            present: number of its instances, which the target has all.
            handed_on: number of those that were handed on and removed from there.
        """
        account = item.account()
        account.state, account.reason, account.missing, account.missing_uids = SERIES_COMPLETE, "", 0, []
        account.expected, account.present, account.handed_on = present, present, handed_on
        return cls.line(account)

    def stays(self, result: SeriesAccount, resumed: bool) -> bool:
        """Keep completed and recalled series; after a pause, all but failed ones."""
        if resumed:
            return result.state != SERIES_FAILED
        return bool(result.look_at) or result.state in (SERIES_COMPLETE, SERIES_LISTED)

    def begin(self, item: S, kept: SeriesAccount | None) -> SeriesAccount:
        """Begin with an empty account; `attempt` adds the counts of an earlier look."""
        return self.account(item)

    def is_settled(self, result: SeriesAccount) -> bool:
        """Skip a series unless it is recalled and its time has come."""
        return not (result.look_at and dt.datetime.fromisoformat(result.look_at) <= dt.datetime.now(dt.UTC))

    def attempt(self, item: S, result: SeriesAccount, before: SeriesAccount | None) -> SeriesAccount:
        """Transfer a series; instances that an earlier look brought in this run count as received."""
        if before is not None:
            result.recalls, result.sending = list(before.recalls), before.sending
        try:
            return self.work(item, result)
        finally:
            if before is not None and before.look_at:
                result.add_earlier(before)

    def work(self, item: S, result: SeriesAccount) -> SeriesAccount:
        """See `transfer`. It counts for the place of the run, and for the rate of the node."""
        result.reason = ""
        node, waited = self.at_node.node, self.at_node.waited
        try:
            self.transfer(item, result)
        except PacsifierError as error:
            result.reason = str(error)
            raise
        finally:
            if result.method:  # the node has worked for it, whatever came of it
                count_turn(self._run.folder)
        if result.received:
            took = max(0.0, result.seconds - (self.at_node.waited - waited))
            Line(node.key).measured(result.received, result.bytes, took)
        return result

    def end(self, results: Sequence[SeriesAccount]) -> None:
        """Raise Recalling with the next time to look, if the archive recalls series."""
        waiting = [account.look_at for account in results if account.look_at]
        if waiting:
            self.rest()
            raise Recalling(len(waiting), dt.datetime.fromisoformat(min(waiting)))

    @classmethod
    def counts(cls, result: SeriesAccount) -> dict[str, int | float]:
        """Return state, images, bytes and seconds."""
        images = {f"images {name}": getattr(result, name) for name in IMAGES}
        return {f"series {result.state}": 1, "bytes": result.bytes, "seconds": result.seconds, **images}

    def totals(self, results: Sequence[SeriesAccount]) -> dict[str, int | float]:
        """Return sums over the series."""
        return RunAccount("", "", "", "", "", series=list(results)).totals()
