"""Common parts of the hand-over commands: they run the steps, and print the result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.base.places import refuse_reserved
from pacsifier_ops.cli import crew
from pacsifier_ops.cli.crew import stoppable
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.runs.folder import Run, noted_warnings
from pacsifier_ops.runs.job import Question, Worker


def carry_out(
    command: str,
    prepare: Callable[[Run, Question], list[int]],
    worker: Callable[[Run, Question], Worker[Any, Any]],
    close: Callable[[Run], ToolAccount],
    out: Path,
    accept_incomplete: bool = False,
    last: Callable[[Run, Question], object] = lambda run, stopped: None,
) -> int:
    """Run the steps of a job one after the other, print the result, and return the exit code.

    Args:
        command: name of the command; its messages begin with it.
        prepare: the first step; returns the numbers of the units. Its errors end the run.
        worker: works on the units.
        close: closes the account, also after an error.
        out: folder for the results; it must not be reserved for others.
        accept_incomplete: return 0 whatever the verdict is.
        last: a step after the units.
    """
    run = crew.begun(command)
    with stoppable() as stopped, noted_warnings(run):

        def work() -> None:
            with worker(run, stopped) as busy:
                busy.units(units)
            last(run, stopped)

        def show(account: ToolAccount, error: Exception | None) -> None:
            _show(command, account, run, error)

        try:
            refuse_reserved(out, "the folder for the results", alone=True)
            units = prepare(run, stopped)
            return crew.carry_out(run, work, close, show, accept_incomplete, stopped, PacsifierError)
        except PacsifierError as problem:
            print(f"{command}: {problem}", file=sys.stderr)
            return problem.exit_code


def _show(command: str, account: ToolAccount, run: Run, error: Exception | None) -> None:
    """Print the result of a run."""
    for name, reason in account.problems:
        print(f"{name}: {reason}", file=sys.stderr)
    if error is not None:
        print(f"{command}: {error}", file=sys.stderr)
    for reason, count in account.passed_over.items():
        print(f"passed over: {count} file(s), {reason}")
    print(f"{account.verdict}: {', '.join(f'{count} {name}' for name, count in account.counts.items())}")
    print(f"report: {run.report}", flush=True)
