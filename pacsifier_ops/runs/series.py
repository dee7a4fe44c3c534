"""A worker on series that are transferred: one session for all of them, and one series' failure is not another's."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from pacsifier_ops.base.errors import PacsifierError, Recalling
from pacsifier_ops.runs.accounts import IMAGES, SERIES_COMPLETE, SERIES_FAILED, SERIES_LISTED, RunAccount, SeriesAccount
from pacsifier_ops.runs.job import NOT_ATTEMPTED, Worker


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
    """A worker on series. What an earlier attempt completed is kept, and so is when to look at a recall again."""

    result = SeriesAccount

    def transfer(self, series: S, account: SeriesAccount) -> None:
        """Do what there is to do with a series; its account says how it ended."""
        raise NotImplementedError

    @classmethod
    def account(cls, item: S) -> SeriesAccount:
        """Nobody has tried it."""
        account = item.account()
        account.reason = NOT_ATTEMPTED
        return account

    def stays(self, result: SeriesAccount, resumed: bool) -> bool:
        """What ended well stays; where the work goes on after a pause, what ended incomplete as well."""
        if resumed:
            return result.state != SERIES_FAILED
        return bool(result.look_at) or result.state in (SERIES_COMPLETE, SERIES_LISTED)

    def begin(self, item: S, kept: SeriesAccount | None) -> SeriesAccount:
        """Anew: see `attempt` for what an earlier look brought."""
        return self.account(item)

    def is_settled(self, result: SeriesAccount) -> bool:
        """All but what is to be looked at by now."""
        return not (result.look_at and dt.datetime.fromisoformat(result.look_at) <= dt.datetime.now(dt.UTC))

    def attempt(self, item: S, result: SeriesAccount, before: SeriesAccount | None) -> SeriesAccount:
        """Transfer a series; what an earlier look brought in this run counts as received."""
        if before is not None:
            result.recalls, result.sending = list(before.recalls), before.sending
        try:
            return self.work(item, result)
        finally:
            if before is not None and before.look_at:
                result.add_earlier(before)

    def work(self, item: S, result: SeriesAccount) -> SeriesAccount:
        """See `transfer`."""
        result.reason = ""
        try:
            self.transfer(item, result)
        except PacsifierError as error:
            result.reason = str(error)
            raise
        return result

    def end(self, results: Sequence[SeriesAccount]) -> None:
        """Say when the series are to be looked at that the archive recalls."""
        waiting = [account.look_at for account in results if account.look_at]
        if waiting:
            self.rest()
            raise Recalling(len(waiting), dt.datetime.fromisoformat(min(waiting)))

    def counts(self, result: SeriesAccount) -> dict[str, int | float]:
        """Its state, images and bytes."""
        images = {f"images {name}": getattr(result, name) for name in IMAGES}
        return {f"series {result.state}": 1, "bytes": result.bytes, "seconds": result.seconds, **images}

    def totals(self, results: Sequence[SeriesAccount]) -> dict[str, int | float]:
        """Sums over the series."""
        return RunAccount("", "", "", "", "", series=list(results)).totals()
