"""`pacsifier-add-karnak-tags`: tag the DICOM files of a folder for a Karnak gateway."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pacsifier_ops import __version__
from pacsifier_ops.cli.options import add_flags, request_from
from pacsifier_ops.cli.tools import carry_out
from pacsifier_ops.handover import karnak
from pacsifier_ops.handover.request import KarnakRequest

_COMMAND = "pacsifier-add-karnak-tags"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments: those of PACSIFIER, and a few more."""
    p = argparse.ArgumentParser(
        prog=_COMMAND,
        description="Write pseudonym, album and day shift into private tags of DICOM files. A Karnak gateway reads "
        "them when it de-identifies the files and puts them into a Kheops album. The files stay identified.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 130 interrupted.",
    )
    add_flags(p, p.add_argument_group("beyond PACSIFIER"), KarnakRequest)
    p.add_argument("--version", action="version", version=__version__)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = parser().parse_args(argv)
    if args.new_ids and not args.day_shift:
        print(f"{_COMMAND}: no --day_shift is given: all day shifts are 0, and dates stay as they are", file=sys.stderr)
    request = request_from(KarnakRequest, args)
    return carry_out(
        _COMMAND,
        lambda run, stopped: karnak.prepare(run, request, cancelled=stopped),
        karnak.TaggingWorker,
        karnak.report,
        request.out_folder,
        request.accept_incomplete,
    )


if __name__ == "__main__":
    sys.exit(main())
