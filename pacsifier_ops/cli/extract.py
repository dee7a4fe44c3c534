"""`pacsifier --save`, `--move` and `--info`: from a table of queries to series here, or at another node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from pacsifier_ops.accounts import MOVE
from pacsifier_ops.cli.crew import Crew, Progress, carry_out, stoppable
from pacsifier_ops.config import PacsNode
from pacsifier_ops.errors import Cancelled
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Planned, Request
from pacsifier_ops.run import Run, noted_warnings
from pacsifier_ops.units import Worker


def extract(request: Request, node: PacsNode, destination: PacsNode | None, verbose: bool) -> int:
    """Run an extraction; returns the exit code.

    Args:
        destination: see `steps.prepare`.
        verbose: tell of every series.

    Raises:
        PacsifierError: it could not begin.
    """
    run = Run.fresh()
    with stoppable() as stopped, noted_warnings(run):
        batches = steps.prepare(run, request, node, node.max_associations, destination)
        crew = Crew(node.max_associations, stopped)
        return carry_out(
            run,
            lambda: _work(run, node, destination, batches, crew, verbose),
            steps.report,
            request.out_directory,
            request.accept_incomplete,
            stopped,
        )


def _work(
    run: Run, node: PacsNode, destination: PacsNode | None, batches: list[int], crew: Crew, verbose: bool
) -> None:
    """Find, plan, retrieve or move, with as many workers as the PACS grants associations.

    Raises:
        PacsifierError: what ended it all, or else the first that kept something from being found or fetched.
    """
    errors = crew.work(batches, lambda take: [steps.find(run, node, batch, crew.cancelled) for batch in take])
    if crew.cancelled() or not run.parts("found"):
        raise errors[0] if errors else Cancelled("stopped on request")
    plan = steps.plan(run, node)
    print(f"{plan.series} series found, about {plan.instances} images", flush=True)
    with closing(steps.receivers_for(run, node)) as receivers, Progress(plan.series, verbose) as bar:

        def worker() -> Worker[Planned]:
            if Request.of(run).retrieve == MOVE:
                return steps.Moving(run, node, destination, crew.cancelled, bar.done)
            return steps.Retrieval(run, node, crew.cancelled, bar.arrived, bar.done, receivers)

        def work(units: Iterator[int]) -> None:
            with worker() as busy:
                busy.units(units, crew.wait)

        errors += crew.work(plan.units, work)
    if errors:
        raise errors[0]
