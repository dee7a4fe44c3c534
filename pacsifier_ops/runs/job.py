"""What all jobs have in common, from what was asked for to the verdict. Each runs in steps over its run's folder:

| file                   | written by  | what                                                    |
|------------------------|-------------|---------------------------------------------------------|
| request.json           | the first   | what was asked for                                      |
| scan.json              | the first   | how much there is to do, and what is left out           |
| expected.json          | the first   | the same in counts, see `expect`                        |
| units/<unit>.jsonl     | the first   | the items of one unit, a line each                      |
| results/<unit>.jsonl   | the work    | what became of each item of the unit so far, a line each |
| accounts.json          | the last    | the closed account                                      |
| report.html            | the last    | the same for people                                     |
| summary.json           | the last    | how the run ended, in counts only                       |

A job adds files of its own. Each step may be killed and called again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from pacsifier_ops.base.errors import InputError, Later, PacsifierError, Recalling, WindowClosed
from pacsifier_ops.base.files import read_json, read_jsonl, storage_errors, write_atomic, write_json
from pacsifier_ops.runs.folder import Kept, Run, never, now

#: What the steps of every job keep in the run's folder; forgotten when the first one begins anew.
KEPT = ("scan", "expected", "units", "results", "accounts", "summary")

#: Why there is no result.
NOT_ATTEMPTED = "not attempted: the run ended before"

#: What a line of results, or of rows found, counts as in the progress of its run: numbers by names, such as
#: `series complete`, `images received`, `rows empty`, `bytes`, `seconds`.
COUNTED = "counted"

Question = Callable[[], bool]

R = TypeVar("R", bound=Kept)


def begin(run: Run, request: R, kept: Sequence[str] = KEPT) -> R:
    """Forget what an earlier attempt of the run left, and keep what it is asked for; returns that, with the time.

    Raises:
        OSError: the run's folder cannot be written.
    """
    run.forget(kept)
    request = replace(request, **{"started": vars(request)["started"] or now()})
    request.keep(run)
    return request


def cut(run: Run, units: Sequence[Iterable[Any]], found: Mapping[str, Any]) -> list[int]:
    """Write the items of each unit, and what there is in all; returns the numbers of the units.

    Args:
        units: the items of each, dataclasses.
        found: content of scan.json; its `series` and `instances` are what is expected.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    count = 0

    with storage_errors("the state root"):
        for number, items in enumerate(units):
            lines = [asdict(item) for item in items]
            run.write_part("units", number, lines)
            count += len(lines)
        write_json(run.folder / "scan.json", found)
    expect(run, items=count, **{name: found[name] for name in ("series", "instances") if name in found})
    return list(range(len(units)))


def expect(run: Run, **counts: int) -> None:
    """Keep how much there is to do: `rows`, `bad_rows`, `repeated_rows`, `series`, `instances`, or `items`.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    with storage_errors("the state root"):
        write_json(run.folder / "expected.json", {**expected(run), **counts})


def expected(run: Run) -> dict[str, int]:
    """How much there is to do, as far as it is known (see `expect`)."""
    with suppress(FileNotFoundError):
        return dict(read_json(run.folder / "expected.json"))
    return {}


def prepared(run: Run, what: str = "the folder was looked at") -> dict[str, Any]:
    """What the first step has found: the content of scan.json.

    Args:
        what: it does.

    Raises:
        InputError: the run ended before.
    """
    try:
        return dict(read_json(run.folder / "scan.json"))
    except FileNotFoundError:
        raise InputError(f"the run ended before {what}; see the error of the step prepare") from None


class Account(Protocol):
    """The closed account of a run, a dataclass."""

    @property
    def verdict(self) -> str:
        """Of `accounts.EXIT_CODES`."""

    def totals(self) -> Mapping[str, int | float]:
        """Sums over the run, without any identifier: fit for XCom and logs."""

    def summary(self) -> dict[str, Any]:
        """How the run ended, in counts only: fit for everybody who may see the run."""


def write_account(run: Run, account: Any) -> None:
    """Write the closed account for machines; it may identify patients.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    with storage_errors("the state root"):
        values = {**asdict(account), "verdict": account.verdict, "totals": account.totals()}
        write_json(run.folder / "accounts.json", values)


def write_summary(run: Run, account: Account) -> None:
    """Write how the run ended: the last of its files.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    with storage_errors("the state root"):
        write_json(run.folder / "summary.json", account.summary())


def close(run: Run, account: Account, page: str) -> None:
    """Write the closed account, the report, and how the run ended.

    Args:
        page: the report, HTML.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    write_account(run, account)
    with storage_errors("the state root"):
        write_atomic(run.report, page)
    write_summary(run, account)


def summary_of(run: Run) -> dict[str, Any]:
    """How a run ended, in counts (see `Account.summary`); empty before."""
    with suppress(FileNotFoundError):
        return dict(read_json(run.folder / "summary.json"))
    return {}


def started(run: Run) -> str | None:
    """When a run was asked for what it is to do, ISO 8601 or empty; None before it was."""
    with suppress(FileNotFoundError):
        return str(read_json(run.folder / "request.json").get("started", ""))
    return None


Item = TypeVar("Item")
Result = TypeVar("Result")


class Worker(Generic[Item, Result]):
    """Works on units of a run, one after the other. A context manager.

    What became of an item is kept when its work ends, however it ends: a worker that is killed loses the item at hand,
    and the next one goes on from there. An item that fails for a reason of its own does not keep the others of its unit
    from being tried.

    Args:
        run: whose units.
        cancelled: the work asks it before every file; True ends the work, what is done stays so.
        done: told what became of every item as it ends.

    Attributes:
        item, result: the dataclasses of the lines of a unit, and of its results.
    """

    item: ClassVar[type[Any]]
    result: ClassVar[type[Any]]

    #: So many items that fail one after the other are no matter of the items any more.
    FAILURES_IN_A_ROW = 3

    def __init__(
        self, run: Run, cancelled: Question = never, done: Callable[[Result], None] = lambda result: None
    ) -> None:
        self._run, self._cancelled, self._done = run, cancelled, done
        self._failures = 0
        self._stack = ExitStack()

    # What a job does

    def open(self, stack: ExitStack) -> None:
        """Get what the work needs; what `stack` holds is given back at the end."""

    @classmethod
    def account(cls, item: Item) -> Result:
        """What is said of an item before anything is done, or if nothing is."""
        account: Result = item.account()  # type: ignore[attr-defined]
        return account

    @abstractmethod
    def work(self, item: Item, result: Result) -> Result:
        """Do what there is to do with an item; returns what became of it.

        Args:
            result: what is said where the work ends early; may be filled as it goes on, and returned.
        """

    @abstractmethod
    def totals(self, results: Sequence[Result]) -> dict[str, int | float]:
        """Sums over a unit, without identifiers."""

    @staticmethod
    def key(line: Any) -> Any:
        """What an item and its result have in common, and no other."""
        return line.number

    def counts(self, result: Result) -> dict[str, int | float]:
        """What a result counts as in the progress of the run (see COUNTED)."""
        return {}

    def stays(self, result: Result, resumed: bool) -> bool:
        """Whether an earlier result stays, until the item is worked on again."""
        return True

    def is_settled(self, result: Result) -> bool:
        """Whether an item of which there is a result is left as it is."""
        return False

    def begin(self, item: Item, kept: Result | None) -> Result:
        """The result to begin with: the earlier one, if it stays, for what this attempt does not get to."""
        return self.account(item) if kept is None else kept

    def attempt(self, item: Item, result: Result, before: Result | None) -> Result:
        """Work on an item; `before` is what an earlier call made of it."""
        return self.work(item, result)

    def end(self, results: Sequence[Result]) -> None:
        """Look at what became of a unit."""

    def rest(self) -> None:
        """Give back what others may wait for; called before a pause."""

    # What they have in common

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @classmethod
    def items(cls, run: Run, unit: int) -> Iterator[Item]:
        """The items of a unit."""
        return (cls.item(**line) for line in read_jsonl(run.part("units", unit)))

    @classmethod
    def _results(cls, run: Run, unit: int) -> dict[Any, Result]:
        path = run.part("results", unit)
        lines = read_jsonl(path) if path.exists() else ()
        results = (cls.result(**{name: line[name] for name in line if name != COUNTED}) for line in lines)
        return {cls.key(result): result for result in results}

    @classmethod
    def outcomes(cls, run: Run) -> Iterator[tuple[Item, Result]]:
        """Every item of a run, and what became of it, in order; of those that nobody got to, that."""
        for part in run.parts("units"):
            results = cls._results(run, int(part.stem))
            for item in cls.items(run, int(part.stem)):
                yield item, results.get(cls.key(item)) or cls.account(item)

    def _lines(self, results: Mapping[Any, Result]) -> Iterator[dict[str, Any]]:
        for key in sorted(results):
            line: dict[str, Any] = asdict(results[key])  # type: ignore[call-overload]
            yield {**line, COUNTED: self.counts(results[key])}

    def unit(self, number: int, resumed: bool = False) -> dict[str, int | float]:
        """Work on the items of one unit.

        Args:
            resumed: this goes on where an earlier call was to wait.

        Returns:
            Sums over the unit, without identifiers.

        Raises:
            PacsifierError: what ended the work, or else the last that an item failed for.
            Cancelled: `cancelled` said so.
            WindowClosed: the node's window is; the item at hand is as it was before.
            Recalling: all is done but for series that the archive recalls.
            StorageError: the run's folder cannot be written.
        """
        before = self._results(self._run, number)
        results = {key: result for key, result in before.items() if self.stays(result, resumed)}
        failed: PacsifierError | None = None
        for item in self.items(self._run, number):
            key = self.key(item)
            kept = results.get(key)
            if kept is not None and self.is_settled(kept):
                continue
            results[key] = self.begin(item, kept)
            try:
                results[key] = self.attempt(item, results[key], before.get(key))
                self._failures = 0
            except WindowClosed:
                results[key] = self.account(item)
                raise
            except PacsifierError as error:
                self._failures += 1
                if self._ends_all(error):
                    raise
                failed = error
            finally:
                ended = results[key]
                if ended == self.account(item):  # nobody got to it
                    del results[key]
                    results |= {} if kept is None else {key: kept}
                with storage_errors("the state root"):
                    self._run.write_part("results", number, self._lines(results))
                if results.get(key) is ended:
                    self._done(ended)
        self.end(list(results.values()))
        if failed is not None:
            raise failed
        return self.totals(list(results.values()))

    def units(self, numbers: Iterable[int], wait: Callable[[Later], None] | None = None) -> None:
        """Work on several units, see `unit`; one that fails does not keep the others from being tried.

        Those with series that the archive recalls come at the end once more, as often as they are to be looked at.

        Args:
            wait: returns when the work can go on; without one, a closed window or a recall ends it all.

        Raises:
            PacsifierError: what ended it all, or else the last that an item failed for.
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

    def _ends_all(self, error: PacsifierError) -> bool:
        """Whether the next item will fail as well: for its kind, or because so many did one after the other."""
        return not error.of_series or self._failures >= self.FAILURES_IN_A_ROW
