"""`pacsifier`: find, describe and save series, from a config.json and a table of queries."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

from pacsifier_ops import __version__
from pacsifier_ops.accounts import EXIT_CODES, RunAccount, SeriesAccount
from pacsifier_ops.config import METHODS, PacsNode, read_config
from pacsifier_ops.errors import InputError, PacsifierError
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Request, Run

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
    with _stoppable() as stopped:
        batches = steps.prepare(run, request, node)
        error: BaseException | None = None
        try:
            _work(run, node, batches, stopped, args.verbose)
        except PacsifierError as problem:
            error = problem
        account = steps.report(run)
    with suppress(BrokenPipeError):  # as in `pacsifier ... | head`
        _tell(account, run, error)
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
    """Find, plan, retrieve: in parallel up to the connection's limit. The first error ends it all.

    Raises:
        PacsifierError: the first error.
    """
    with ThreadPoolExecutor(node.max_associations, "pacsifier") as pool:
        failed = threading.Event()

        def cancelled() -> bool:
            return failed.is_set() or stopped()

        def everywhere(task: Callable[[int], object], numbers: list[int]) -> None:
            jobs = [pool.submit(task, number) for number in numbers]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            broken = [job for job in done if job.exception()]
            if broken:
                failed.set()
                for job in jobs:
                    job.cancel()
                wait(jobs)
                raise broken[0].exception() or AssertionError

        everywhere(lambda batch: steps.find(run, node, batch, cancelled), batches)
        plan = steps.plan(run, node)
        print(f"{plan.series} series found, about {plan.instances} images", flush=True)
        with (
            closing(steps.receivers_for(run, node)) as receivers,
            Progress(plan.series, plan.instances, verbose) as bar,
        ):
            everywhere(
                lambda unit: steps.retrieve(run, node, unit, cancelled, bar.arrived, bar.done, receivers), plan.units
            )


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


def _tell(account: RunAccount, run: Run, error: BaseException | None) -> None:
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
    print(f"log:    {run.request.out_directory}/logs/pacsifier_log.csv")
    print(f"report: {run.report}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
