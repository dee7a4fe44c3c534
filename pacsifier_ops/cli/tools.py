"""What the commands of the tools for handing over share: a run of their own, and how it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pacsifier_ops.base.errors import Cancelled, PacsifierError
from pacsifier_ops.base.places import refuse_reserved
from pacsifier_ops.cli.crew import stoppable
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.runs.accounts import EXIT_CODES
from pacsifier_ops.runs.folder import Run, noted_warnings

#: A step over a run's folder; asks now and then whether it is to stop.
Stopped = Callable[[], bool]


def carry_out(
    command: str,
    prepare: Callable[[Run, Stopped], list[int]],
    work: Callable[[Run, int, Stopped], object],
    close: Callable[[Run], ToolAccount],
    out: Path,
    accept_incomplete: bool = False,
) -> int:
    """Run the steps of a tool one after the other, and tell how it ended; returns the exit code.

    Args:
        command: name of the command, begins its messages.
        prepare: gives the numbers of the units; what it raises ends it all, and nothing was touched.
        work: does a unit.
        close: closes the books, whatever happened.
        out: the folder for the results, which is to be nobody else's.
    """
    run = Run.fresh()
    with stoppable() as stopped, noted_warnings(run):
        try:
            refuse_reserved(out, "the folder for the results", alone=True)
            units = prepare(run, stopped)
            error: PacsifierError | None = None
            try:
                for unit in units:
                    work(run, unit, stopped)
            except PacsifierError as problem:
                error = problem
            account = close(run)
        except PacsifierError as problem:
            print(f"{command}: {problem}", file=sys.stderr)
            return problem.exit_code
    with suppress(BrokenPipeError):  # as in `… | head`
        _tell(command, account, run, error)
    if error is not None:
        return error.exit_code
    if stopped():
        return Cancelled.exit_code
    return 0 if accept_incomplete else EXIT_CODES[account.verdict]


def _tell(command: str, account: ToolAccount, run: Run, error: PacsifierError | None) -> None:
    for name, reason in account.problems:
        print(f"{name}: {reason}", file=sys.stderr)
    if error is not None:
        print(f"{command}: {error}", file=sys.stderr)
    for reason, count in account.passed_over.items():
        print(f"passed over: {count} file(s), {reason}")
    print(f"{account.verdict}: {', '.join(f'{count} {name}' for name, count in account.counts.items())}")
    print(f"report: {run.report}", flush=True)
