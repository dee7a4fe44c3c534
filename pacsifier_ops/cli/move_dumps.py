"""`pacsifier-move-csv`, also named `pacsifier-move-dumps`: move info dumps out of a data folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import add_flags, request_from
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.handover import dumps
from pacsifier_ops.handover.request import DumpsRequest

_COMMAND = "pacsifier-move-csv"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments: those of PACSIFIER, and one more."""
    p = argparse.ArgumentParser(
        prog=_COMMAND,
        description="Move the info dumps of an output folder, its mapper.json and its date_offsets.csv to the same "
        "paths in another folder, and report the files that are left and are not DICOM. Nothing is overwritten.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    add_flags(p, p.add_argument_group("beyond PACSIFIER"), DumpsRequest)
    p.add_argument("--version", action="version", version=__version__)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = parser().parse_args(argv)
    request = request_from(DumpsRequest, args)
    return carry_out(
        _COMMAND,
        lambda run, stopped: dumps.prepare(run, request, cancelled=stopped),
        dumps.MovingWorker,
        dumps.report,
        request.info_folder,
        request.accept_incomplete,
    )


if __name__ == "__main__":
    sys.exit(main())
