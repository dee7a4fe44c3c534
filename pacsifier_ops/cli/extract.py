"""`pacsifier --save`, `--move` and `--info`: retrieve, move or list the series of a query table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

from pacsifier_ops.base.config import ArchiveNode, PacsNode, with_givers
from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.cli.crew import Crew, ProgressLine, begun, carry_out, print_result, stoppable
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.fetching import Fetching
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs.accounts import MOVE
from pacsifier_ops.runs.folder import Run, noted_warnings


def extract(request: Request, archives: Sequence[ArchiveNode], destination: PacsNode | None, verbose: bool) -> int:
    """Run an extraction, and return the exit code.

    Args:
        archives: in the order in which they are queried.
        destination: see `steps.prepare`.
        verbose: print a line for every series.

    Raises:
        PacsifierError: the run could not begin.
    """
    nodes = filter(None, (*with_givers(archives), destination))
    run = begun("pacsifier", request.queryfile, nodes)
    with stoppable() as stopped, noted_warnings(run):
        batches = steps.prepare(run, request, archives, archives[0].max_associations, destination)
        return carry_out(
            run,
            lambda: _work(run, archives, destination, batches, stopped, verbose),
            steps.report,
            partial(print_result, run, request.out_directory),
            request.accept_incomplete,
            stopped,
        )


def _work(
    run: Run,
    archives: Sequence[ArchiveNode],
    destination: PacsNode | None,
    batches: list[int],
    stopped: Callable[[], bool],
    verbose: bool,
) -> None:
    """Find, plan, and retrieve or move, with one worker for each association that a PACS allows.

    Raises:
        PacsifierError: the error that ended the work, else the first error of a row or a series.
    """
    crew = Crew(archives[0].max_associations, stopped)
    errors = crew.work(batches, lambda take: [steps.find(run, archives, batch, crew.cancelled) for batch in take])
    if crew.cancelled() or not run.parts("found"):
        raise errors[0] if errors else Cancelled("stopped on request")
    plan, request = steps.plan(run, archives), Request.of(run)
    word = "selected" if request.selection else "found"
    print(f"{plan.series} series {word}, about {plan.instances} images", flush=True)
    for sentence in steps.told_of_selection(run):
        print(f"  {sentence}", flush=True)
    busy = [node for node in archives if plan.units_of.get(node.name)]
    with ProgressLine(plan.series, verbose) as bar:

        def fetch(share: Iterator[int]) -> None:
            for number in share:
                node = busy[number]
                errors.extend(_fetch(run, node, destination, plan.units_of[node.name], stopped, bar))

        # All archives are worked on at once.
        errors += Crew(len(busy), stopped).work(range(len(busy)), fetch)
    if errors:
        raise errors[0]


def _fetch(
    run: Run,
    node: ArchiveNode,
    destination: PacsNode | None,
    units: list[int],
    stopped: Callable[[], bool],
    bar: ProgressLine,
) -> list[Exception]:
    """Retrieve or move the units of one archive, and return the errors."""
    crew = Crew(node.source.max_associations, stopped)
    with closing(steps.open_receivers(run, node)) as receivers:

        def worker() -> Fetching:
            if Request.of(run).retrieve == MOVE:
                return steps.Moving(run, node, destination, crew.cancelled, bar.done)
            return steps.Retrieval(run, node, crew.cancelled, bar.arrived, bar.done, receivers)

        def work(share: Iterator[int]) -> None:
            with worker() as busy:
                busy.units(share, crew.wait)

        return crew.work(units, work)
