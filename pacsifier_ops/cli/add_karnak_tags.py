"""`pacsifier-add-karnak-tags`: tag the DICOM files of a folder for a Karnak gateway."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import given
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.handover import karnak
from pacsifier_ops.pseudonyms.secret import DEFAULT_PROJECT

_COMMAND = "pacsifier-add-karnak-tags"


def parser() -> argparse.ArgumentParser:
    """The command's arguments: PACSIFIER's, and a few more."""
    p = argparse.ArgumentParser(
        prog=_COMMAND,
        description="Write pseudonym, album and day shift into private tags of DICOM files, by which a Karnak gateway "
        "de-identifies them and puts them into a Kheops album. The files stay identified.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    p.add_argument("--in_folder", "-d", type=given, required=True, help="folder of the files, with all below it")
    p.add_argument(
        "--new_ids", "-n", type=given, metavar="FILE", help="JSON file of pseudonyms by PatientID (the project's)"
    )
    p.add_argument(
        "--day_shift",
        "-s",
        type=given,
        metavar="FILE",
        help="JSON file of days by PatientID; with --new_ids only (0)",
    )
    p.add_argument("--album_name", "-a", required=True, metavar="NAME", help="album of all of them")
    p.add_argument("--version", action="version", version=__version__)
    more = p.add_argument_group("beyond PACSIFIER")
    more.add_argument("--out_folder", "-o", type=given, help="where tagged copies go, made if need be (in place)")
    more.add_argument(
        "--project",
        default=DEFAULT_PROJECT,
        metavar="NAME",
        help=f"whose linkage says who becomes whom where no --new_ids are given ({DEFAULT_PROJECT})",
    )
    more.add_argument("--accept_incomplete", action="store_true", help="end with exit code 0 if something is missing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parser().parse_args(argv)
    if args.new_ids and not args.day_shift:
        print(f"{_COMMAND}: no --day_shift is given, so everybody's is 0: dates stay as they are", file=sys.stderr)
    request = karnak.KarnakRequest(
        in_folder=args.in_folder.absolute(),
        out_folder=(args.out_folder or args.in_folder).absolute(),
        album_name=args.album_name,
        new_ids=str(args.new_ids or ""),
        day_shift=str(args.day_shift or ""),
        project=args.project,
        accept_incomplete=args.accept_incomplete,
    )
    return carry_out(
        _COMMAND,
        lambda run, stopped: karnak.prepare(run, request, cancelled=stopped),
        karnak.Tagger,
        karnak.report,
        request.out_folder,
        request.accept_incomplete,
    )


if __name__ == "__main__":
    sys.exit(main())
