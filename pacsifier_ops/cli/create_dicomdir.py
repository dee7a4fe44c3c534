"""`pacsifier-create-dicomdir`: a file-set with a DICOMDIR of the DICOM files of a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import given
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.handover import dicomdir as steps


def parser() -> argparse.ArgumentParser:
    """The command's arguments: PACSIFIER's, and a few more."""
    p = argparse.ArgumentParser(
        prog="pacsifier-create-dicomdir",
        description="Copy the DICOM files of a folder into a file-set with a DICOMDIR (PS3.10 8).",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    p.add_argument(
        "--in_folder",
        "-d",
        type=given,
        default=Path("data"),
        help="folder of the files, with all below it (./data)",
    )
    p.add_argument("--out_folder", "-o", type=given, required=True, help="where the file-set goes, made if need be")
    p.add_argument("--version", action="version", version=__version__)
    more = p.add_argument_group("beyond PACSIFIER")
    more.add_argument("--zip", action="store_true", help="pack the file-set as well, into a zip file beside it")
    more.add_argument(
        "--volume_size",
        type=int,
        default=0,
        metavar="MB",
        help="cut it into volumes of so many megabytes at most, such as 700 or 4700, each a file-set of its own",
    )
    more.add_argument("--accept_incomplete", action="store_true", help="end with exit code 0 if something is missing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    request = steps.DicomdirRequest(
        in_folder=args.in_folder.absolute(),
        out_folder=args.out_folder.absolute(),
        zip=args.zip,
        volume_size=args.volume_size,
        accept_incomplete=args.accept_incomplete,
    )
    return carry_out(
        "pacsifier-create-dicomdir",
        lambda run, stopped: steps.prepare(run, request, cancelled=stopped),
        steps.Copying,
        steps.report,
        request.out_folder,
        request.accept_incomplete,
        last=steps.assemble,
    )


if __name__ == "__main__":
    sys.exit(main())
