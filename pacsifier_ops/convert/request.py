"""Request of a conversion to NIfTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base.options import Flag, Section, any_file, option, result_folder, source_folder
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.folder import KeptRequest

#: Values of `layout`.
NIFTI, BIDS = "nifti", "bids"


@dataclass(frozen=True)
class ConvertRequest(KeptRequest):
    """Request of a conversion. The options describe the other fields.

    Attributes:
        allow_empty: a folder without any object is no error.
        started: ISO 8601.
    """

    in_folder: Path = option(
        "Folder",
        "The released, or de-identified, folder whose images are converted, as a path below the data root.",
        Section.WHAT,
        form="released",
        path=source_folder,
        flag=Flag("folder of the de-identified files, with all below it", "-d"),
    )
    out_folder: Path = option(
        "Folder for the images",
        "A path below the data root. It is created if necessary, and belongs to one folder of objects.",
        Section.WHERE_TO,
        form="nifti",
        path=result_folder,
        flag=Flag("folder for the images, created if necessary", "-o"),
    )
    layout: str = option(
        "Layout",
        "How the images are named and ordered.",
        Section.WHERE_TO,
        default=NIFTI,
        choices={NIFTI: "in the folders of their series", BIDS: "as a BIDS data set, by rules"},
        flag=Flag("nifti: in the folders of their series; bids: as a BIDS data set (nifti)", "-l"),
    )
    bids_rules: str = option(
        "Rules",
        "Only with bids: path below the data root of a YAML file of rules. Empty: those of the package.",
        Section.WHERE_TO,
        default="",
        path=any_file,
        flag=Flag("YAML file of rules, with --layout bids (those of the package)", metavar="FILE"),
    )
    time_limit: int = option(
        "Time limit",
        "Minutes that the converter may work on one series.",
        Section.HOW,
        default=60,
        most=10_080,
        flag=Flag("minutes that the converter may work on one series (60)", metavar="MINUTES"),
    )
    accept_incomplete: bool = common.accept_incomplete()
    allow_empty: bool = False
    started: str = ""
