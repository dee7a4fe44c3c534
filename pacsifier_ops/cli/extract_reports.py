"""`pacsifier-extract-carestream-report`: the text of structured reports, of Carestream's and any other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import given
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.handover import reports

_COMMAND = "pacsifier-extract-carestream-report"


def parser() -> argparse.ArgumentParser:
    """The command's arguments: PACSIFIER's, and a few more."""
    p = argparse.ArgumentParser(
        prog=_COMMAND,
        description="Write the text of structured reports, and the documents that objects hold, beside their objects. "
        "A text is as identified as its object is.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    p.add_argument("--data_folder", "-d", type=given, required=True, help="folder of the files, with all below it")
    p.add_argument("--version", action="version", version=__version__)
    more = p.add_argument_group("beyond PACSIFIER")
    more.add_argument("--out_folder", "-o", type=given, help="where the texts go, made if need be")
    more.add_argument("--overwrite", action="store_true", help="replace files of the same name that differ")
    more.add_argument("--accept_incomplete", action="store_true", help="end with exit code 0 if something is missing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    request = reports.ReportsRequest(
        folder=args.data_folder.absolute(),
        out_folder=(args.out_folder or args.data_folder).absolute(),
        overwrite=args.overwrite,
        accept_incomplete=args.accept_incomplete,
    )
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
