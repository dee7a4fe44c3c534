"""`pacsifier`: find, describe and save series, from a config.json and a table of queries."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

from pacsifier_ops import __version__
from pacsifier_ops.accounts import EXIT_CODES, RunAccount, SeriesAccount
from pacsifier_ops.config import METHODS, PacsNode, read_config
from pacsifier_ops.errors import Cancelled, InputError, PacsifierError
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Request
from pacsifier_ops.run import Run, noted_warnings

INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The command's arguments: PACSIFIER's, and a few more."""
    p = argparse.ArgumentParser(
        prog="pacsifier",
        description="Find series in a PACS by a table of queries; save them, or describe them.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 4 unbalanced books, 130 interrupted.",
    )
    p.add_argument("--config", "-c", type=Path, required=True, help="configuration of the PACS (config.json)")
    p.add_argument("--queryfile", "-q", type=Path, required=True, help="query table (csv or xlsx)")
    p.add_argument("--save", "-s", action="store_true", help="retrieve the images of the series found")
    p.add_argument(
        "--info", "-i", action="store_true", help="write a csv with header values beside each series' folder"
    )
    p.add_argument(
        "--out_directory",
        "-d",
        type=Path,
        default=Path("data"),
        help="output folder, made if need be (default: ./data)",
    )
    p.add_argument("--resume", action="store_true", help="accepted as before: what is there is always skipped")
    p.add_argument("--verbose", "-v", action="store_true", help="tell of every series")
    p.add_argument("--version", action="version", version=__version__)
    more = p.add_argument_group("beyond PACSIFIER")
    more.add_argument("--method", choices=METHODS, help="how images are fetched: C-GET, C-MOVE to us, or what fits")
    more.add_argument(
        "--max_series", type=int, metavar="N", help="stop before fetching if more series are found (10000)"
    )
    more.add_argument("--strict", action="store_true", help="ask the PACS nothing if any row of the table is bad")
    more.add_argument("--accept_incomplete", action="store_true", help="end with exit code 0 if something is missing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if not (args.save or args.info):
        arguments.error("nothing to do: give --save, --info or both")
    if args.max_series is not None and args.max_series < 1:
        arguments.error("--max_series: give a number above 0")
    try:
        return _run(args)
    except PacsifierError as error:
        print(f"pacsifier: {error}", file=sys.stderr)
        return error.exit_code


def _run(args: argparse.Namespace) -> int:
    node = read_config(args.config)
    request = Request(
        queryfile=args.queryfile,
        out_directory=args.out_directory.absolute(),
        info=args.info,
        retrieve="save" if args.save else "none",
        method=args.method,
        strict=args.strict,
        accept_incomplete=args.accept_incomplete,
        max_series=args.max_series,
    )
    run = Run.fresh()
    with _stoppable() as stopped, noted_warnings(run):
        batches = steps.prepare(run, request, node, most=node.max_associations)
        error: Exception | None = None
        try:
            _work(run, node, batches, stopped, args.verbose)
        except Exception as problem:  # whatever happened, the books are closed first
            error = problem
        account = steps.report(run)
    with suppress(BrokenPipeError):  # as in `pacsifier ... | head`
        _tell(account, run, error)
    if error is not None and not isinstance(error, PacsifierError):
        raise error
    if stopped():
        return INTERRUPTED
    if isinstance(error, InputError):
        return error.exit_code
    return 0 if args.accept_incomplete else EXIT_CODES[account.verdict]


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or SIGTERM) asks to stop: what is whole is kept, the books are closed. A second one ends at once."""
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


def _work(run: Run, node: PacsNode, batches: list[int], stopped: Callable[[], bool], verbose: bool) -> None:
    """Find, plan, retrieve, with as many workers as the PACS grants associations.

    Raises:
        PacsifierError: what ended it all, or else the first that kept something from being found or fetched.
    """
    crew = Crew(node.max_associations, stopped)
    errors = crew.work(batches, lambda take: [steps.find(run, node, batch, crew.cancelled) for batch in take])
    if crew.cancelled() or not run.parts("found"):
        raise errors[0] if errors else Cancelled("stopped on request")
    plan = steps.plan(run, node)
    print(f"{plan.series} series found, about {plan.instances} images", flush=True)

    def retrieve(units: Iterator[int]) -> None:
        with steps.Retrieval(run, node, crew.cancelled, bar.arrived, bar.done, receivers) as retrieval:
            retrieval.units(units)

    with closing(steps.receivers_for(run, node)) as receivers, Progress(plan.series, plan.instances, verbose) as bar:
        errors += crew.work(plan.units, retrieve)
    if errors:
        raise errors[0]


class Crew:
    """Workers that share out numbers among them, in order.

    Args:
        size: how many work at once.
        stopped: whether somebody wants all to end.
    """

    def __init__(self, size: int, stopped: Callable[[], bool]) -> None:
        self._size, self._stopped = size, stopped
        self._broken = threading.Event()

    def cancelled(self) -> bool:
        """Whether workers are to end: somebody wants it, or one of them cannot go on."""
        return self._broken.is_set() or self._stopped()

    def work(self, numbers: Sequence[int], worker: Callable[[Iterator[int]], object]) -> list[Exception]:
        """Let workers take numbers until there are none; each is called once, with an iterator over its share.

        Returns:
            What they raised, in order. An error that is not one of a single series ends the others too.
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
            # In pieces, for a signal is handled between two waits only.
            while thread.is_alive():
                thread.join(0.2)
        return errors


class Progress:
    """A line that shows series, images and MB/s while they come; on a terminal only, unless verbose."""

    def __init__(self, series: int, images: int, verbose: bool) -> None:
        self._series, self._images, self._verbose = series, images, verbose
        self._ended = self._arrived = self._bytes = 0
        self._started = self._shown = time.monotonic()
        self._lock = threading.Lock()
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._show()
            print(file=sys.stderr)

    def arrived(self, size: int) -> None:
        """An object of `size` bytes arrived."""
        with self._lock:
            self._arrived += 1
            self._bytes += size
            if self._live and time.monotonic() - self._shown > 0.1:
                self._show()

    def done(self, account: SeriesAccount) -> None:
        """A series ended."""
        with self._lock:
            self._ended += 1
            if self._verbose:
                print(f"{account.folder}: {account.state} {account.reason}".rstrip(), flush=True)
            if self._live:
                self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        rate = self._bytes / 1e6 / max(0.001, self._shown - self._started)
        share = self._ended / max(1, self._series)
        bar = "█" * round(24 * share) + "░" * (24 - round(24 * share))
        text = f"{bar} {self._ended}/{self._series} series  {self._arrived} images  {rate:.1f} MB/s"
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def _tell(account: RunAccount, run: Run, error: Exception | None) -> None:
    totals = account.totals()
    for row in account.rows:
        if row.reason:
            print(f"line {row.line}: {row.state}: {row.reason}", file=sys.stderr)
    for series in account.series:
        if series.reason:
            print(f"{series.folder}: {series.state}: {series.reason}", file=sys.stderr)
    for text in account.discrepancies:
        print(f"unbalanced: {text}", file=sys.stderr)
    if error is not None:
        print(f"pacsifier: {error}", file=sys.stderr)
    print(
        f"{account.verdict}: {totals['rows']} rows, {totals['series']} series; of {totals['expected']} images expected "
        f"{totals['present']} were there, {totals['received']} received, {totals['missing']} missing"
    )
    print(f"log:    {Request.of(run).out_directory}/logs/pacsifier_log.csv")
    print(f"report: {run.report}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
