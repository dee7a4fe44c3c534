"""`pacsifier-extract-carestream-report`: the text of structured reports, of Carestream's and any other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import add_flags, asked
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.handover import reports
from pacsifier_ops.handover.request import ReportsRequest

_COMMAND = "pacsifier-extract-carestream-report"


def parser() -> argparse.ArgumentParser:
    """The command's arguments: PACSIFIER's, and a few more."""
    p = argparse.ArgumentParser(
        prog=_COMMAND,
        description="Write the text of structured reports, and the documents that objects hold, beside their objects. "
        "A text is as identified as its object is.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    add_flags(p, p.add_argument_group("beyond PACSIFIER"), ReportsRequest)
    p.add_argument("--version", action="version", version=__version__)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    request = asked(ReportsRequest, args)
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
