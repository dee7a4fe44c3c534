"""Processes that de-identify the units of a run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Event
from multiprocessing.util import Finalize
from pathlib import Path

from pacsifier_ops.base.errors import Cancelled, WorkerLost
from pacsifier_ops.deid import steps
from pacsifier_ops.pseudonyms.secret import VARIABLE
from pacsifier_ops.runs.folder import Run, noted_warnings

#: What the processes are forked from has loaded these, the first before all others. Each would load them anew else.
_LOADED = (
    "pacsifier_ops.cli.lean",
    "pacsifier_ops.deid.convert",
    "pacsifier_ops.deid.contact",
    "pacsifier_ops.deid.profile",
    "yaml",
)


def load() -> None:
    """Have the server that the processes are forked from load the libraries. It is not waited for."""
    _context()
    forkserver.ensure_running()


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_LOADED])
    return context


def convert(
    run: Run, units: Sequence[int], count: int, done: Callable[[int], None], stopped: Callable[[], bool]
) -> None:
    """Convert units of a run. To start the processes takes half a second.

    Args:
        run: the run.
        units: numbers of the units.
        count: number of processes.
        done: called with the number of units so far, a few times a second.
        stopped: whether the work must end.

    Raises:
        PacsifierError: the error of a unit. All other units were tried.
    """
    context = _context()
    stop = context.Event()
    pool = ProcessPoolExecutor(count, context, _begin, (run.folder, stop, dict(os.environ)))
    try:
        _convert(pool, units, done, stopped)
    except BrokenProcessPool as error:
        raise WorkerLost(
            "a converting process died: too little memory, or a large file was cut short; run it again"
        ) from error
    finally:
        stop.set()  # they end with what they are at
        pool.shutdown(cancel_futures=True)


def _convert(
    pool: ProcessPoolExecutor, units: Sequence[int], done: Callable[[int], None], stopped: Callable[[], bool]
) -> None:
    failed: BaseException | None = None
    pending = {pool.submit(_unit, unit) for unit in units}
    while pending:
        if stopped():
            raise Cancelled("stopped on request")
        ended, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        done(len(units) - len(pending))
        for future in ended:
            failed = future.exception() or failed
    if failed is not None:
        raise failed


# In a converting process


_run: Run
_stop: Event
_converting: steps.Converting | None = None


def _begin(folder: Path, stop: Event, environment: Mapping[str, str]) -> None:
    """Prepare the process. It ignores Ctrl-C, which the parent handles, and ends with its parent.

    Args:
        folder: of the run.
        stop: set where somebody wants all to end.
        environment: the parent's; the process that this one is forked from may be older.
    """
    os.environ.clear()
    os.environ.update(environment)
    global _run, _stop
    _run, _stop = Run(folder), stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _unit(number: int) -> None:
    global _converting
    with noted_warnings(_run):
        if _converting is None:
            _converting = steps.Converting(_run, os.environ.get(VARIABLE, ""), _stop.is_set).__enter__()
            Finalize(None, _converting.__exit__, (None, None, None), exitpriority=1)
        _converting.unit(number)
