"""`pacsifier --upload`: send the DICOM files of a folder to a PACS or another destination."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pacsifier_ops.base.config import Node, PacsNode
from pacsifier_ops.base.start import allow
from pacsifier_ops.cli.crew import Crew, ProgressLine, begun, carry_out, print_result, stoppable
from pacsifier_ops.runs.folder import noted_warnings
from pacsifier_ops.runs.job import prepared
from pacsifier_ops.upload import steps
from pacsifier_ops.upload.run import UploadRequest


def upload(request: UploadRequest, node: Node, verbose: bool) -> int:
    """Run an upload, and return the exit code.

    Args:
        node: the destination.
        verbose: print a line for every series.

    Raises:
        PacsifierError: the run could not begin.
    """
    if not isinstance(node, PacsNode):
        allow("requests")
    run = begun("pacsifier --upload", nodes=[node])
    with stoppable() as stopped, noted_warnings(run):
        units = steps.prepare(run, request, node, cancelled=stopped)
        series = prepared(run)["series"]
        print(f"{series} series to be sent", flush=True)
        crew = Crew(node.max_associations, stopped)

        def work() -> None:
            with ProgressLine(series, verbose) as bar:

                def send(share: Iterator[int]) -> None:
                    with steps.Sending(run, node, crew.cancelled, bar.arrived, bar.done) as sending:
                        sending.units(share, crew.wait)

                errors = crew.work(units, send)
            if errors:
                raise errors[0]

        show = partial(print_result, run, request.out_directory)
        report = partial(steps.report, node=lambda: node, cancelled=stopped)
        return carry_out(run, work, report, show, request.accept_incomplete, stopped)
