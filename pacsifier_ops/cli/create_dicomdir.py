"""`pacsifier-create-dicomdir`: make a file-set with a DICOMDIR of the DICOM files of a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import add_flags, request_from
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.handover import dicomdir as steps
from pacsifier_ops.handover.request import DicomdirRequest


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments: those of PACSIFIER, and a few more."""
    p = argparse.ArgumentParser(
        prog="pacsifier-create-dicomdir",
        description="Copy the DICOM files of a folder into a file-set with a DICOMDIR (PS3.10 8).",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    add_flags(p, p.add_argument_group("beyond PACSIFIER"), DicomdirRequest)
    p.add_argument("--version", action="version", version=__version__)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = parser().parse_args(argv)
    request = request_from(DicomdirRequest, args)
    return carry_out(
        "pacsifier-create-dicomdir",
        lambda run, stopped: steps.prepare(run, request, cancelled=stopped),
        steps.CopyWorker,
        steps.report,
        request.out_folder,
        request.accept_incomplete,
        last=steps.assemble,
    )


if __name__ == "__main__":
    sys.exit(main())
