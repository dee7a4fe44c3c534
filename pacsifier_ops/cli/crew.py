"""Common parts of the commands: worker threads, stopping, the progress line, and the messages at the end."""

from __future__ import annotations

import datetime as dt
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import Cancelled, InputError, Later, PacsifierError
from pacsifier_ops.base.terminal import Meter
from pacsifier_ops.base.words import size
from pacsifier_ops.runs import people
from pacsifier_ops.runs.accounts import EXIT_CODES, MOVE, NONE, UPLOAD, RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import Account
from pacsifier_ops.state import audit


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C or SIGTERM asked to stop. A second signal ends the program at once.

    A stopped run keeps whole files, and closes its account.
    """
    event = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        print("\npacsifier: stopping; what has arrived is kept", file=sys.stderr)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def begun(command: str, table: Path | None = None, nodes: Iterable[Node] = (), **facts: Any) -> Run:
    """Return a new run, of whose start the audit file tells. Rights of connections do not hold for commands.

    Args:
        table: query table of the run.
        nodes: that it takes from, or sends to.
        facts: more for the audit file.

    Raises:
        StorageError: the state root cannot be written.
    """
    run = Run.fresh()
    people.started(run, audit.me(), table, job=command, connections=[node.name for node in nodes], **facts)
    return run


class Crew:
    """Worker threads that share a list of numbers.

    Args:
        size: maximum number of threads.
        stopped: whether the user wants the run to stop.
    """

    def __init__(self, size: int, stopped: Callable[[], bool]) -> None:
        self._size, self._stopped = size, stopped
        self._broken = threading.Event()
        self._announced: set[dt.datetime] = set()
        self._announcing = threading.Lock()

    def cancelled(self) -> bool:
        """Whether the workers must end: the user stops the run, or an error concerns all of them."""
        return self._broken.is_set() or self._stopped()

    def wait(self, later: Later) -> None:
        """Wait until the work can go on, for example until the retrieval window opens. Print the reason once.

        Raises:
            Cancelled: the workers must end.
        """
        with self._announcing:
            if later.at not in self._announced:
                self._announced.add(later.at)
                print(f"\npacsifier: {later}; waiting", file=sys.stderr, flush=True)
        while dt.datetime.now(dt.UTC) < later.at:
            if self.cancelled():
                raise Cancelled("stopped on request")
            time.sleep(0.2)

    def work(self, numbers: Sequence[int], worker: Callable[[Iterator[int]], object]) -> list[Exception]:
        """Run the workers until all numbers are taken.

        Args:
            numbers: given out in order.
            worker: called once in each thread, with an iterator that takes the next number.

        Returns:
            The errors of the workers, in order. An error that concerns more than one series ends all workers.
        """
        left = iter(numbers)
        lock = threading.Lock()
        errors: list[Exception] = []

        def share() -> Iterator[int]:
            while not self.cancelled():
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                yield number

        def one() -> None:
            try:
                worker(share())
            except Exception as error:
                errors.append(error)
                if not (isinstance(error, PacsifierError) and error.of_series):
                    self._broken.set()

        threads = [threading.Thread(target=one, daemon=True) for _ in range(min(self._size, len(numbers)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            # Short waits: Python handles a signal only between two of them.
            while thread.is_alive():
                thread.join(0.2)
        return errors


class ProgressLine:
    """A progress line with series, images and MB/s, on a terminal only; with `verbose`, a line for every series."""

    def __init__(self, series: int, verbose: bool) -> None:
        self._meter, self._verbose = Meter(series, "series"), verbose
        self._ended = self._arrived = self._bytes = 0
        self._started = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> ProgressLine:
        self._meter.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        self._meter.__exit__()

    def arrived(self, size: int) -> None:
        """Count an object of `size` bytes that was received or sent."""
        with self._lock:
            self._arrived += 1
            self._bytes += size
            self._show()

    def done(self, account: SeriesAccount) -> None:
        """Count a series that ended."""
        with self._lock:
            self._ended += not account.look_at
            if self._verbose:
                print(f"{_name(account)}: {account.state} {account.reason}".rstrip(), flush=True)
            self._show()

    def _show(self) -> None:
        rate = size(self._bytes / max(0.001, time.monotonic() - self._started))
        # With C-MOVE to another node, no bytes pass here.
        self._meter.show(self._ended, f"{self._arrived} images  {rate}/s" if self._bytes else "")


A = TypeVar("A", bound=Account)


def carry_out(
    run: Run,
    work: Callable[[], None],
    close: Callable[[Run], A],
    show: Callable[[A, Exception | None], None],
    accept_incomplete: bool,
    stopped: Callable[[], bool],
    decides: type[PacsifierError] | tuple[()] = InputError,
) -> int:
    """Do the work of a run, close its account also after an error, print the result, and return the exit code.

    Args:
        show: prints the account, and the error that ended the work, if any.
        accept_incomplete: return 0 whatever the verdict is.
        decides: types of errors whose exit code counts; for all others, the verdict counts.

    Raises:
        Exception: the error of the work, if it is not a PacsifierError.
    """
    error: Exception | None = None
    try:
        work()
    except Exception as problem:
        error = problem
    account = close(run)
    with suppress(BrokenPipeError):  # as in `pacsifier ... | head`
        show(account, error)
    if error is not None and not isinstance(error, PacsifierError):
        raise error
    if stopped():
        return Cancelled.exit_code
    if isinstance(error, PacsifierError) and isinstance(error, decides):
        return error.exit_code
    return 0 if accept_incomplete else EXIT_CODES[account.verdict]


def _name(series: SeriesAccount) -> str:
    """Return the folder of a series, or its number if it has no folder of its own."""
    return f"series {series.number}" if series.folder in ("", ".") else series.folder


def print_result(run: Run, log_folder: Path, account: RunAccount, error: Exception | None) -> None:
    """Print the result of a transfer, and the paths of its log and report."""
    totals = account.totals()
    for note in account.notes:
        print(f"query table: {note}", file=sys.stderr)
    for row in account.rows:
        if row.reason:
            print(f"line {row.line}: {row.state}: {row.reason}", file=sys.stderr)
    for series in account.series:
        if series.reason:
            print(f"{_name(series)}: {series.state}: {series.reason}", file=sys.stderr)
    for file in account.bad_files:
        print(f"{file.path}: bad: {file.reason}", file=sys.stderr)
    for text in account.discrepancies:
        print(f"unbalanced: {text}", file=sys.stderr)
    if error is not None:
        print(f"pacsifier: {error}", file=sys.stderr)
    for reason, count in account.passed_over.items():
        print(f"passed over: {count} file(s), {reason}")
    asked = "" if account.action == UPLOAD else f"{totals['rows']} rows, "
    several = totals["rows_with_several_studies"]
    arrived = "sent" if account.action in (MOVE, UPLOAD) else "received"
    images = (
        "no image was to be fetched"
        if account.action == NONE
        else f"of {totals['expected']} images expected {totals['present']} were there, "
        f"{totals['received']} {arrived}, {totals['missing']} missing"
    )
    print(
        f"{account.verdict}: {asked}{totals['series']} series; {images}"
        + (f"; {totals['bad_files']} bad file(s)" if account.bad_files else "")
        + (f"; {several} row(s) with several studies{'' if account.selection else ', all included'}" if several else "")
    )
    print(f"log:    {log_folder}/logs/pacsifier_log.csv")
    print(f"report: {run.report}", flush=True)
