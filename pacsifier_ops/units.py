"""A worker that takes units of series: one session for all of them, and one series' failure is not another's."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from pacsifier_ops.accounts import SERIES_COMPLETE, SERIES_FAILED, SERIES_LISTED, RunAccount, SeriesAccount
from pacsifier_ops.errors import PacsifierError, WindowClosed
from pacsifier_ops.files import read_jsonl, storage_errors, write_jsonl
from pacsifier_ops.run import Run


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

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def units(self, numbers: Iterable[int], wait: Callable[[WindowClosed], None] | None = None) -> None:
        """Work on several units, see `unit`; one that fails does not keep the others from being tried.

        Args:
            wait: returns when the node's window may be open again; without one, a closed window ends it all.

        Raises:
            PacsifierError: what ended it all, or else the last that a series failed for.
        """
        failed: PacsifierError | None = None
        for number in numbers:
            try:
                self._in_window(number, wait)
            except PacsifierError as error:
                if self._ends_all(error):
                    raise
                failed = error
        if failed is not None:
            raise failed

    def _in_window(self, number: int, wait: Callable[[WindowClosed], None] | None) -> None:
        while True:
            try:
                self.unit(number)
                return
            except WindowClosed as closed:
                if wait is None:
                    raise
                wait(closed)

    def unit(self, number: int) -> dict[str, int | float]:
        """Work on the series of one unit; what an earlier attempt completed is kept.

        A series that fails for a reason of its own does not keep the others of the unit from being tried.

        Returns:
            Sums over the unit's series, without identifiers.

        Raises:
            PacsifierError: the node or the disk, after the retries that make sense here. The accounts of the series
                done so far are kept.
            WindowClosed: the node's window is; likewise, and the series at hand counts as not attempted.
        """
        results = self._run.part("results", number)
        earlier = (SeriesAccount(**item) for item in read_jsonl(results)) if results.exists() else iter(())
        accounts = {a.number: a for a in earlier if a.state in (SERIES_COMPLETE, SERIES_LISTED)}
        failed: PacsifierError | None = None
        for series in self.series(number):
            if series.number in accounts:
                continue
            accounts[series.number] = account = series.account()
            try:
                self.work(series, account)
                self._failures = 0
            except WindowClosed:
                del accounts[series.number]
                raise
            except PacsifierError as error:
                account.reason = str(error)
                self._failures += 1
                if self._ends_all(error):
                    raise
                failed = error
            finally:
                with storage_errors("the state root"):
                    write_jsonl(results, (asdict(a) for _, a in sorted(accounts.items())))
                if series.number in accounts:
                    self._done(account)
        if failed is not None:
            raise failed
        return RunAccount(self._run.name, "", "", "", "", series=list(accounts.values())).totals()

    def _ends_all(self, error: PacsifierError) -> bool:
        """Whether the next series will fail as well: for its kind, or because so many did one after the other."""
        return not error.of_series or self._failures >= self.FAILURES_IN_A_ROW
