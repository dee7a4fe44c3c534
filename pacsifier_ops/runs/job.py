"""The shape of every job: a request, units of items, a worker on them, a closed account with a verdict.

The first step finds the items and cuts them into units, the work step does one unit, the last step closes the account.
Each step may be killed and called again. These files in the run's folder are common to all jobs; a job adds its own:

| file                   | written by      | content                                          |
|------------------------|-----------------|--------------------------------------------------|
| request.json           | the first step  | the request                                      |
| scan.json              | the first step  | what was found, and what is left out             |
| expected.json          | the first step  | counts of what was found, see `expect`           |
| units/<unit>.jsonl     | the first step  | the items of one unit, one per line              |
| results/<unit>.jsonl   | the work step   | the results of these items so far, one per line; |
|                        |                 | the last line of an item holds                   |
| accounts.json          | the last step   | the closed account                               |
| report.html            | the last step   | the account for people                           |
| summary.json           | the last step   | the account in counts only                       |
"""

from __future__ import annotations

import datetime as dt
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from pacsifier_ops.base.errors import GaveWay, InputError, Later, PacsifierError, Recalling, WindowClosed
from pacsifier_ops.base.files import (
    atomic_stream,
    read_appended,
    read_json,
    read_jsonl,
    storage_errors,
    write_atomic,
    write_json,
)
from pacsifier_ops.runs.approvals import Decision, stop_if_cancelled
from pacsifier_ops.runs.figures import Figures, keep
from pacsifier_ops.runs.folder import KeptRequest, Run, never, now
from pacsifier_ops.runs.standing import PLAN, STAMPS
from pacsifier_ops.state.same import store_once

#: Files and folders of every job that the first step removes before it begins.
KEPT = ("scan", "expected", "units", "results", STAMPS, PLAN, "accounts", "summary")

#: Reason of an item without a result.
NOT_ATTEMPTED = "not attempted: the run ended before"

#: Key of a line of results, or of rows found, with its counts for `progress`: numbers by names such as
#: `series complete`, `images received`, `rows empty`, `bytes`, `seconds`.
COUNTED = "counted"
#: Key of a line of results with the name of its item. Of several lines of an item the last holds: also where a task
#: that was given up still works beside the one that replaces it.
ITEM = "item"

Question = Callable[[], bool]

R = TypeVar("R", bound=KeptRequest)


def begin(run: Run, request: R, kept: Sequence[str] = KEPT) -> R:
    """Remove what an earlier attempt of the run left, keep the request, and return it with the time of the start.

    Args:
        kept: files and folders to remove.

    Raises:
        OSError: the run's folder cannot be written.
    """
    run.forget(kept)
    request = replace(request, **{"started": vars(request)["started"] or now()})
    request.keep(run)
    return request


def cut(
    run: Run,
    units: Sequence[Iterable[Any]],
    found: Mapping[str, Any],
    standing: Iterable[tuple[Any, Any]] = (),
    root: Path | None = None,
) -> list[int]:
    """Write the items of each unit, scan.json and expected.json; return the numbers of the units.

    Args:
        units: the items of each unit, dataclasses.
        found: content of scan.json; `series` and `instances` of it go into expected.json.
        standing: items that there is nothing to do for, see `write_standing`.
        root: tree that the items are about, if many runs may have the same ones; see `state.same`.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    count = 0

    with storage_errors("the state root"):
        for number, items in enumerate(units):
            lines = list(items)
            run.write_part("units", number, lines)
            count += len(lines)
        count += write_standing(run, len(units), standing)
        write_json(run.folder / "scan.json", found)
    if root:
        for path in run.parts("units"):
            store_once(path, root)
    expect(run, items=count, **{name: found[name] for name in ("series", "instances") if name in found})
    return list(range(len(units)))


def write_standing(run: Run, unit: int, standing: Iterable[tuple[Any, Any]]) -> int:
    """Write the items that there is nothing to do for, with their results, as units which nobody works on.

    Args:
        unit: number of the first of them.
        standing: the items, and the lines of their results (see `Worker.line`).

    Returns:
        The number of these items.

    Raises:
        OSError: the run's folder cannot be written.
    """
    count, rest = 0, iter(standing)
    while some := list(islice(rest, 1000)):
        run.write_part("units", unit, (item for item, _ in some))
        run.write_part("results", unit, (line for _, line in some))
        unit, count = unit + 1, count + len(some)
    return count


def expect(run: Run, **counts: int) -> None:
    """Add counts to expected.json: `rows`, `bad_rows`, `repeated_rows`, `series`, `instances`, or `items`.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    with storage_errors("the state root"):
        write_json(run.folder / "expected.json", {**expected(run), **counts})


def expected(run: Run) -> dict[str, int]:
    """Return the counts that `expect` has kept so far."""
    with suppress(FileNotFoundError):
        return dict(read_json(run.folder / "expected.json"))
    return {}


def prepared(run: Run, what: str = "the folder was looked at") -> dict[str, Any]:
    """Return the content of scan.json.

    Args:
        what: the first step does, for the error.

    Raises:
        InputError: the run ended before.
    """
    try:
        return dict(read_json(run.folder / "scan.json"))
    except FileNotFoundError:
        raise InputError(f"the run ended before {what}; see the error of the step prepare") from None


class Account(Protocol):
    """The closed account of a run, a dataclass.

    Attributes:
        ended: the decision of a person that ended the run, see `approvals.ended_by`.
    """

    @property
    def ended(self) -> Decision | None:
        """See above."""

    @property
    def verdict(self) -> str:
        """One of the keys of `accounts.EXIT_CODES`."""

    def totals(self) -> Mapping[str, int | float]:
        """Return sums over the run without identifiers, for XCom and logs."""

    def summary(self) -> dict[str, Any]:
        """Return the account in counts only, for everybody who may see the run."""

    def figures(self) -> Figures:
        """Return the counts for monitoring."""


def write_account(run: Run, account: Any) -> None:
    """Write accounts.json, which may identify patients.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    lists = {name: value for name, value in vars(account).items() if isinstance(value, list)}
    rest = asdict(replace(account, **{name: [] for name in lists}))
    with storage_errors("the state root"):
        head = {name: value for name, value in rest.items() if name not in lists}
        head |= {"verdict": account.verdict, "totals": account.totals()}
        write_accounts(run.folder / "accounts.json", head, **lists)


def write_accounts(path: Path, head: Mapping[str, Any], **lists: Iterable[Any]) -> None:
    """Write an account as one JSON object, with a line per item of its lists. No list is in memory as text.

    Args:
        head: the object without the lists.
        lists: items by key; plain values or dataclasses.
    """
    with atomic_stream(path) as stream:
        stream.write(json.dumps(head, ensure_ascii=False, indent=1)[:-2].encode(errors="replace"))
        for name, items in lists.items():
            stream.write(f',\n "{name}": ['.encode())
            for place, item in enumerate(items):
                value = asdict(item) if hasattr(item, "__dataclass_fields__") else item
                text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
                stream.write((",\n  " if place else "\n  ").encode() + text.encode(errors="replace"))
            stream.write(b"]")
        stream.write(b"\n}\n")


def write_summary(run: Run, account: Account) -> None:
    """Write figures.json (see `runs.figures`) and summary.json, the last file of a run.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    summary, figures = account.summary(), account.figures()
    figures.counts["pacsifier_runs", str(summary["action"]), account.verdict] += 1
    keep(run, figures)
    with storage_errors("the state root"):
        write_json(run.folder / "summary.json", {**summary, **_by(account.ended, account.verdict)})


def write_unbegun(run: Run, ended: Decision) -> dict[str, Any]:
    """Write summary.json of a run that a person ended before its first step had; return its content.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    summary = {"verdict": ended.word, "started": started(run) or "", "finished": now(), "totals": {}}
    summary |= _by(ended, ended.word)
    with storage_errors("the state root"):
        write_json(run.folder / "summary.json", summary)
    return summary


def _by(ended: Decision | None, verdict: str) -> dict[str, str]:
    return {"by": ended.who} if ended and ended.word == verdict else {}


def close(run: Run, account: Account, page: str) -> None:
    """Write accounts.json, report.html and summary.json.

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
    """Return the summary of a run (see `Account.summary`); empty until the run has ended."""
    with suppress(FileNotFoundError):
        return dict(read_json(run.folder / "summary.json"))
    return {}


def started(run: Run) -> str | None:
    """Return the time at which a run got its request, ISO 8601 or empty; None for a run without a request."""
    with suppress(FileNotFoundError):
        return str(read_json(run.folder / "request.json").get("started", ""))
    return None


Item = TypeVar("Item")
Result = TypeVar("Result")


class Worker(Generic[Item, Result]):
    """Works on units of a run, one after the other. A context manager.

    The result of an item is appended when the work on the item ends, also by an error or a cancellation. A killed
    worker loses the result of one item at most. An item that fails for a reason of its own does not stop the
    others of its unit.

    Args:
        run: the run.
        cancelled: asked by the work before every file; True ends the work. Results so far stay.
        done: called with the result of every item.

    Attributes:
        item, result: dataclasses of the lines of a unit, and of the lines of its results.
    """

    item: ClassVar[type[Any]]
    result: ClassVar[type[Any]]

    #: After this many failed items in a row, the cause is not in the items, and the work ends.
    FAILURES_IN_A_ROW = 3

    def __init__(
        self, run: Run, cancelled: Question = never, done: Callable[[Result], None] = lambda result: None
    ) -> None:
        self._run, self._cancelled, self._done = run, cancelled, done
        self._failures = 0
        self._stack = ExitStack()

    # Defined by each job

    def open(self, stack: ExitStack) -> None:
        """Acquire what the work needs; `stack` releases it at the end."""

    @classmethod
    def account(cls, item: Item) -> Result:
        """Return the result of an item that no worker has tried."""
        account: Result = item.account()  # type: ignore[attr-defined]
        return account

    @abstractmethod
    def work(self, item: Item, result: Result) -> Result:
        """Work on an item, and return its result.

        Args:
            result: kept where the work raises. The work may fill it on its way, and return it.
        """

    @abstractmethod
    def totals(self, results: Sequence[Result]) -> dict[str, int | float]:
        """Return sums over the results of a unit, without identifiers."""

    @staticmethod
    def key(line: Any) -> Any:
        """Return the key that an item and its result share."""
        return line.number

    @classmethod
    def counts(cls, result: Result) -> dict[str, int | float]:
        """Return the counts of a result for `progress` (see COUNTED)."""
        return {}

    def stays(self, result: Result, resumed: bool) -> bool:
        """Whether a result of an earlier call is kept until its item is worked on again."""
        return True

    def is_settled(self, result: Result) -> bool:
        """Whether an item with this result is not worked on again."""
        return False

    def begin(self, item: Item, kept: Result | None) -> Result:
        """Return the result to begin with: the one of an earlier call, if it was kept."""
        return self.account(item) if kept is None else kept

    def attempt(self, item: Item, result: Result, before: Result | None) -> Result:
        """Work on an item; `before` is its result of an earlier call."""
        return self.work(item, result)

    def end(self, results: Sequence[Result]) -> None:
        """Look at the results of a unit after its last item."""

    def rest(self) -> None:
        """Release what others may wait for; called before a pause."""

    def give_way(self) -> None:
        """Release what somebody waits for who goes first; called before every item."""

    # Common to all jobs

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
        """Yield the items of a unit."""
        return (cls.item(**line) for line in read_jsonl(run.part("units", unit)))

    @classmethod
    def _results(cls, run: Run, unit: int) -> dict[Any, Result]:
        path = run.part("results", unit)
        lines = read_appended(path) if path.exists() else ()
        try:
            results = [
                cls.result(**{name: line[name] for name in line if name not in (COUNTED, ITEM)}) for line in lines
            ]
        except TypeError:
            raise InputError("the run was begun by an earlier version; begin it anew with the step prepare") from None
        return {cls.key(result): result for result in results}

    @classmethod
    def outcomes(cls, run: Run) -> Iterator[tuple[Item, Result]]:
        """Yield every item of a run with its result, by unit: those that stood come last. See `account` for others."""
        for part in run.parts("units"):
            results = cls._results(run, int(part.stem))
            for item in cls.items(run, int(part.stem)):
                yield item, results.get(cls.key(item)) or cls.account(item)

    @classmethod
    def line(cls, result: Result) -> dict[str, Any]:
        """Return the line of a result in the file of results."""
        line = {field.name: getattr(result, field.name) for field in fields(result)}  # type: ignore[arg-type]
        return {**line, COUNTED: cls.counts(result), ITEM: str(cls.key(result))}

    def unit(self, number: int, resumed: bool = False, overtaken: Question = never) -> dict[str, int | float]:
        """Work on the items of one unit.

        Args:
            resumed: the call continues an earlier one that had to wait.
            overtaken: asked before every item; True ends the work for now.

        Returns:
            Sums over the unit, without identifiers.

        Raises:
            PacsifierError: what ended the work, or else the last that an item failed for.
            Cancelled: `cancelled` said so; or the run was cancelled (see `approvals`), then between two items.
            WindowClosed: the node's window is; the item at hand is as it was before.
            Recalling: all is done but for series that the archive recalls.
            GaveWay: `overtaken` said so.
            StorageError: the run's folder cannot be written.
        """
        before = self._results(self._run, number)
        results = {key: result for key, result in before.items() if self.stays(result, resumed)}
        with storage_errors("the state root"):
            self._run.write_part("results", number, (self.line(results[key]) for key in sorted(results)))
        failed: PacsifierError | None = None
        for item in self.items(self._run, number):
            key = self.key(item)
            kept = results.get(key)
            if kept is not None and self.is_settled(kept):
                continue
            stop_if_cancelled(self._run)
            self.give_way()
            if overtaken():
                self.rest()
                raise GaveWay(dt.datetime.now(dt.UTC))
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
                if ended == self.account(item):  # the work ended before it began
                    del results[key]
                    results |= {} if kept is None else {key: kept}
                else:
                    with storage_errors("the state root"):
                        self._run.append_to_part("results", number, self.line(ended))
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
