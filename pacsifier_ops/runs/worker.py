"""A worker that takes units of series: one session for all of them, and one series' failure is not another's."""

from __future__ import annotations

import datetime as dt
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from pacsifier_ops.base.errors import Later, PacsifierError, Recalling, WindowClosed
from pacsifier_ops.base.files import read_jsonl, storage_errors
from pacsifier_ops.runs.accounts import SERIES_COMPLETE, SERIES_FAILED, SERIES_LISTED, RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run


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


def _stays(account: SeriesAccount, resumed: bool) -> bool:
    """Whether what an earlier call made of a series stays, or stays until it is looked at again."""
    if resumed:
        return account.state != SERIES_FAILED
    return bool(account.look_at) or account.state in (SERIES_COMPLETE, SERIES_LISTED)


def _is_due(account: SeriesAccount) -> bool:
    return bool(account.look_at) and dt.datetime.fromisoformat(account.look_at) <= dt.datetime.now(dt.UTC)


NOT_ATTEMPTED = "not attempted: the run ended before"


def accounts_of(run: Run, series: Callable[..., Series]) -> list[SeriesAccount]:
    """The account of every series of a run's units, in order; one without a result was not attempted.

    Args:
        series: makes a series of what a line of a unit holds.
    """
    accounts: dict[int, SeriesAccount] = {}
    for part in run.parts("units"):
        for item in read_jsonl(part):
            account = series(**item).account()
            account.reason = NOT_ATTEMPTED
            accounts[account.number] = account
    for part in run.parts("results"):
        for item in read_jsonl(part):
            accounts[item["number"]] = SeriesAccount(**item)
    return [accounts[number] for number in sorted(accounts)]


class Worker(Generic[S]):
    """Works on units of a run, one after the other. A context manager.

    Args:
        run: whose units.
        done: told the account of every series as it ends.
    """

    #: So many series that fail one after the other are no matter of the series any more.
    FAILURES_IN_A_ROW = 3

    def __init__(self, run: Run, done: Callable[[SeriesAccount], None] = lambda account: None) -> None:
        self._run, self._done = run, done
        self._failures = 0
        self._stack = ExitStack()

    @abstractmethod
    def open(self, stack: ExitStack) -> None:
        """Get what the work needs; what `stack` holds is given back at the end."""

    @abstractmethod
    def series(self, unit: int) -> Iterable[S]:
        """The series of a unit."""

    @abstractmethod
    def work(self, series: S, account: SeriesAccount) -> None:
        """Do what there is to do with a series; its account says how it ended."""

    def rest(self) -> None:
        """Give back what others may wait for; called before a pause."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def units(self, numbers: Iterable[int], wait: Callable[[Later], None] | None = None) -> None:
        """Work on several units, see `unit`; one that fails does not keep the others from being tried.

        Those with series that the archive recalls come at the end once more, as often as they are to be looked at.

        Args:
            wait: returns when the work can go on; without one, a closed window or a recall ends it all.

        Raises:
            PacsifierError: what ended it all, or else the last that a series failed for.
        """
        failed: PacsifierError | None = None
        aside: dict[int, Recalling] = {}

        def go_on(number: int, resumed: bool = False) -> None:
            nonlocal failed
            try:
                self.unit(number, resumed)
            except Later as later:
                if wait is None:
                    raise
                if isinstance(later, Recalling):
                    aside[number] = later
                else:
                    wait(later)
                    go_on(number, resumed=True)
            except PacsifierError as error:
                if self._ends_all(error):
                    raise
                failed = error

        for number in numbers:
            go_on(number)
        while aside and wait is not None:
            self.rest()
            number = min(aside, key=lambda number: aside[number].at)
            wait(aside.pop(number))
            go_on(number, resumed=True)
        if failed is not None:
            raise failed

    def unit(self, number: int, resumed: bool = False) -> dict[str, int | float]:
        """Work on the series of one unit; what an earlier attempt completed is kept.

        A series that fails for a reason of its own does not keep the others of the unit from being tried.

        Args:
            resumed: this goes on where an earlier call was to wait: what ended incomplete then is kept as well.

        Returns:
            Sums over the unit's series, without identifiers.

        Raises:
            PacsifierError: the node or the disk, after the retries that make sense here. The accounts of the series
                done so far are kept.
            WindowClosed: the node's window is; likewise, and the series at hand is as it was before.
            Recalling: all is done but for series that the archive recalls.
        """
        results = self._run.part("results", number)
        earlier = [SeriesAccount(**item) for item in read_jsonl(results)] if results.exists() else []
        before = {account.number: account for account in earlier}
        accounts = {account.number: account for account in earlier if _stays(account, resumed)}
        failed: PacsifierError | None = None
        for series in self.series(number):
            look = accounts.get(series.number)
            if look and not _is_due(look):
                continue
            accounts[series.number] = account = series.account()
            if last := before.get(series.number):
                account.recalls, account.sending = list(last.recalls), last.sending
            try:
                self.work(series, account)
                self._failures = 0
            except WindowClosed:
                accounts.pop(series.number)
                if look:
                    accounts[series.number] = look
                raise
            except PacsifierError as error:
                account.reason = str(error)
                self._failures += 1
                if self._ends_all(error):
                    raise
                failed = error
            finally:
                if look and accounts.get(series.number) is account:
                    account.add_earlier(look)
                with storage_errors("the state root"):
                    self._run.write_part("results", number, (asdict(a) for _, a in sorted(accounts.items())))
                if accounts.get(series.number) is account:
                    self._done(account)
        waiting = [account.look_at for account in accounts.values() if account.look_at]
        if waiting:
            self.rest()
            raise Recalling(len(waiting), dt.datetime.fromisoformat(min(waiting)))
        if failed is not None:
            raise failed
        return RunAccount(self._run.name, "", "", "", "", series=list(accounts.values())).totals()

    def _ends_all(self, error: PacsifierError) -> bool:
        """Whether the next series will fail as well: for its kind, or because so many did one after the other."""
        return not error.of_series or self._failures >= self.FAILURES_IN_A_ROW
