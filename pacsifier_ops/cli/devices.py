"""`pacsifier-devices`: propose entries of the device catalogue, from a site's own ultrasound images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pacsifier_ops import __version__
from pacsifier_ops.base.errors import PacsifierError, PathRefused
from pacsifier_ops.base.files import private_file, private_folder, storage_errors, write_atomic
from pacsifier_ops.base.places import refuse_reserved
from pacsifier_ops.cli.options import path_type
from pacsifier_ops.deid import propose

#: Name of the file with the proposed entries.
PROPOSALS = "devices.json"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    p = argparse.ArgumentParser(
        prog="pacsifier-devices",
        description="Look for burned-in text on the ultrasound images of a folder, and propose an entry of the device "
        "catalogue for each device and image size. A proposal contains areas, and no data of patients. The sheet "
        "beside it shows images of patients.",
        epilog="Look at the sheet, enter your name and the date in the field approved of the entry, and give the file "
        "to pacsifier-anonymize --devices. Exit codes: 0 proposed, 1 error, 2 bad input, 3 nothing to propose.",
    )
    p.add_argument(
        "--in_folder",
        "-d",
        type=path_type,
        required=True,
        help="folder with images of several patients, not de-identified",
    )
    p.add_argument(
        "--out_folder", "-o", type=path_type, required=True, help="folder for the proposals, created if necessary"
    )
    p.add_argument("--version", action="version", version=__version__)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = parser().parse_args(argv)
    try:
        return _propose(args.in_folder.absolute(), args.out_folder.absolute())
    except PacsifierError as error:
        print(f"pacsifier-devices: {error}", file=sys.stderr)
        return error.exit_code


def _propose(images: Path, out: Path) -> int:
    """Write a proposal for each device, and return the exit code.

    Raises:
        PathRefused: one of the folders cannot be used.
        StorageError: the proposals cannot be written.
    """
    if not images.is_dir():
        raise PathRefused("--in_folder: is not a folder; give the folder with the images")
    refuse_reserved(out, "--out_folder")
    if out == images or images in out.parents or out in images.parents:
        raise PathRefused("--out_folder: overlaps the folder with the images; give another one")
    if (out / PROPOSALS).exists():
        raise PathRefused(f"--out_folder: has a {PROPOSALS} already, maybe with approvals; give another folder")
    entries = []
    for model, found in sorted(propose.devices_in(images).items()):
        name = f"{model.manufacturer} {model.model}, {model.columns}x{model.rows}"
        proposal = propose.propose(model, found)
        if proposal is None:
            print(
                f"{name}: fewer than {propose.PATIENTS} patients with images that can be decoded; nothing is proposed"
            )
            continue
        with storage_errors("--out_folder"):
            private_folder(out)
            write_atomic(out / f"{model.id}.png", proposal.sheet, private_file())
        entries.append(proposal.entry)
        print(f"{name}: {proposal.images} images of {proposal.patients} patients; look at {out / model.id}.png")
    if not entries:
        print("nothing to propose: give a folder with ultrasound images of several patients")
        return 3
    lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
    with storage_errors("--out_folder"):
        write_atomic(out / PROPOSALS, f'{{\n  "shipped": true,\n  "devices": [\n{lines}\n  ]\n}}\n')
    print(f"proposed: {out / PROPOSALS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
