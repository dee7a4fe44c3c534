"""What runs of the tools for handing over are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base.options import Flag, Section, option, result_folder, same, source_folder
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.pseudonyms.secret import DEFAULT_PROJECT
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.folder import Kept


@dataclass(frozen=True)
class KarnakRequest(Kept):
    """What a tagging was asked for. Paths that are not given are empty; of the rest, the options tell.

    Attributes:
        allow_empty: it is no error if there is no object.
        started: ISO 8601.
    """

    in_folder: Path = option(
        "Folder",
        "The folder whose objects are to be tagged, with all below it, as a path below the data root.",
        Section.WHAT,
        form="out",
        path=source_folder,
        flag=Flag("folder of the files, with all below it", "-d"),
    )
    out_folder: Path = option(
        "Output folder",
        "Where tagged copies go, as a path below the data root. It is made if need be. Without: in place.",
        Section.WHERE_TO,
        form=None,
        path=result_folder,
        like="in_folder",
        flag=Flag("where tagged copies go, made if need be (in place)", "-o", extra=True),
    )
    album_name: str = option(
        "Album",
        "Name of the Kheops album that Karnak is to put them into; ASCII, no backslash.",
        Section.WHAT,
        longest=64,
        pattern=r"^[ -\[\]-~]+$",
        flag=Flag("album of all of them", "-a", metavar="NAME"),
    )
    project: str = same(
        DeidRequest,
        "project",
        help="Its linkage says who becomes whom, unless a file of pseudonyms is given.",
        flag=Flag(
            f"whose linkage says who becomes whom where no --new_ids are given ({DEFAULT_PROJECT})",
            metavar="NAME",
            extra=True,
        ),
    )
    new_ids: str = same(
        DeidRequest,
        "new_ids",
        flag=Flag("JSON file of pseudonyms by PatientID (the project's)", "-n", metavar="FILE"),
    )
    day_shift: str = same(
        DeidRequest,
        "day_shift",
        help="Path below the data root of a JSON file of days by PatientID; with a file of pseudonyms only. Without, "
        "the day shift of everybody in that file is 0.",
        flag=Flag("JSON file of days by PatientID; with --new_ids only (0)", "-s", metavar="FILE"),
    )
    leave_out: bool = option(
        "Leave out who is unknown",
        "Objects of patients of whom nobody says who they become are left out, and the run is incomplete. Otherwise "
        "one such patient ends the run before anything is touched.",
        Section.WHO,
        default=False,
    )
    accept_incomplete: bool = common.accept_incomplete()
    allow_empty: bool = False
    started: str = ""

    @property
    def in_place(self) -> bool:
        """Whether the objects are tagged where they are."""
        return self.in_folder == self.out_folder


@dataclass(frozen=True)
class DicomdirRequest(Kept):
    """What a file-set was asked for; of the rest, the options tell.

    Attributes:
        started: ISO 8601.
    """

    in_folder: Path = option(
        "Folder",
        "The folder to be handed over, with all below it, as a path below the data root.",
        Section.WHAT,
        form="out",
        path=source_folder,
        flag=Flag("folder of the files, with all below it (./data)", "-d", default=Path("data")),
    )
    out_folder: Path = option(
        "Folder for the file-set",
        "A path below the data root. It is made if need be; what it holds must be of the same files.",
        Section.WHERE_TO,
        form="dicomdir",
        path=result_folder,
        flag=Flag("where the file-set goes, made if need be", "-o"),
    )
    zip: bool = option(
        "Zip file",
        "Pack the file-set as well, into a zip file beside it.",
        Section.WHERE_TO,
        default=False,
        flag=Flag("pack the file-set as well, into a zip file beside it", extra=True),
    )
    volume_size: int = option(
        "Size of a volume",
        "Megabytes (10^6 bytes), such as 700 for CDs or 4700 for DVDs: the files are cut into volumes VOL001, VOL002, "
        "… of that size at most, each a file-set of its own. 0 makes a single one.",
        Section.WHERE_TO,
        default=0,
        least=0,
        flag=Flag(
            "cut it into volumes of so many megabytes at most, such as 700 or 4700, each a file-set of its own",
            metavar="MB",
            extra=True,
            free=True,
        ),
    )
    accept_incomplete: bool = common.accept_incomplete()
    started: str = ""


@dataclass(frozen=True)
class DumpsRequest(Kept):
    """What a moving of dumps was asked for; of the rest, the options tell.

    Attributes:
        started: ISO 8601.
    """

    data_folder: Path = option(
        "Data folder",
        "The folder of the images, as an extraction made it, as a path below the data root.",
        Section.WHAT,
        form="out",
        path=source_folder,
        flag=Flag("folder of the images", "-d"),
    )
    info_folder: Path = option(
        "Info folder",
        "Where they go, a path below the data root. It is made if need be, for its owner only.",
        Section.WHERE_TO,
        form="info",
        path=result_folder,
        flag=Flag("where they go; made if need be", "-o"),
    )
    accept_incomplete: bool = common.accept_incomplete()
    started: str = ""


@dataclass(frozen=True)
class ReportsRequest(Kept):
    """What an extraction of reports was asked for; of the rest, the options tell.

    Attributes:
        started: ISO 8601.
    """

    folder: Path = option(
        "Folder",
        "The folder whose reports are wanted, with all below it, as a path below the data root.",
        Section.WHAT,
        name="data_folder",
        form="out",
        path=source_folder,
        flag=Flag("folder of the files, with all below it", "-d"),
    )
    out_folder: Path = option(
        "Folder for the texts",
        "A path below the data root. It is made if need be. Without it, texts lie beside their objects.",
        Section.WHERE_TO,
        form=None,
        path=result_folder,
        like="data_folder",
        flag=Flag("where the texts go, made if need be", "-o", extra=True),
    )
    overwrite: bool = option(
        "Overwrite",
        "Replace files that have the name of a text and hold something else.",
        Section.WHERE_TO,
        default=False,
        flag=Flag("replace files of the same name that differ", extra=True),
    )
    accept_incomplete: bool = common.accept_incomplete()
    started: str = ""
