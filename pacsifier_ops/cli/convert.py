"""`pacsifier-convert`: convert de-identified images to NIfTI, as plain folders or as a BIDS data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache, partial

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import add_flags, request_from
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.convert import steps
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import Question
from pacsifier_ops.study.cohort import search_of


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    p = argparse.ArgumentParser(
        prog="pacsifier-convert",
        description="Convert the images of a released, or de-identified, folder to NIfTI.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    add_flags(p, p, ConvertRequest)
    p.add_argument("--version", action="version", version=__version__)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = parser().parse_args(argv)
    request = request_from(ConvertRequest, args)

    search = cache(partial(search_of, data_set=request.in_folder))

    def prepare(run: Run, stopped: Question) -> list[int]:
        search(run)  # without it, nothing could be published in the end
        return steps.prepare(run, request, cancelled=stopped)

    return carry_out(
        "pacsifier-convert",
        prepare,
        steps.Converting,
        steps.report,
        request.out_folder,
        request.accept_incomplete,
        last=lambda run, stopped: steps.assemble(run, search(run), stopped),
    )


if __name__ == "__main__":
    sys.exit(main())
