"""`pacsifier-extract-carestream-report`: extract the text of structured reports of any manufacturer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import add_flags, request_from
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.handover import reports
from pacsifier_ops.handover.request import ReportsRequest

_COMMAND = "pacsifier-extract-carestream-report"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments: those of PACSIFIER, and a few more."""
    p = argparse.ArgumentParser(
        prog=_COMMAND,
        description="Write the text of structured reports, and encapsulated documents, beside their objects. A text "
        "identifies patients if its object does.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    add_flags(p, p.add_argument_group("beyond PACSIFIER"), ReportsRequest)
    p.add_argument("--version", action="version", version=__version__)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = parser().parse_args(argv)
    request = request_from(ReportsRequest, args)
    return carry_out(
        _COMMAND,
        lambda run, stopped: reports.prepare(run, request, cancelled=stopped),
        reports.ReportsWorker,
        reports.report,
        request.out_folder,
        request.accept_incomplete,
    )


if __name__ == "__main__":
    sys.exit(main())
