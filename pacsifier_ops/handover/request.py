"""Requests of the hand-over jobs: Karnak tags, DICOMDIR, info dumps, texts of reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base.options import Flag, Section, option, result_folder, same, source_folder
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.pseudonyms.secret import DEFAULT_PROJECT
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.folder import KeptRequest


@dataclass(frozen=True)
class KarnakRequest(KeptRequest):
    """Request of a tagging run. Paths that are not given are empty. The options describe the other fields.

    Attributes:
        allow_empty: a folder without any object is no error.
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
        "Folder for tagged copies, as a path below the data root. It is created if necessary. If it is not given, the "
        "objects are tagged in place.",
        Section.WHERE_TO,
        form=None,
        path=result_folder,
        like="in_folder",
        flag=Flag("folder for tagged copies, created if necessary (in place)", "-o", extra=True),
    )
    album_name: str = option(
        "Album",
        "Name of the Kheops album that Karnak puts the objects into; ASCII, no backslash.",
        Section.WHAT,
        longest=64,
        pattern=r"^[ -\[\]-~]+$",
        flag=Flag("album of all objects", "-a", metavar="NAME"),
    )
    project: str = same(
        DeidRequest,
        "project",
        help="Its linkage has pseudonyms and day shifts, unless a file of pseudonyms is given.",
        flag=Flag(
            f"project whose linkage has pseudonyms and day shifts, without --new_ids ({DEFAULT_PROJECT})",
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
        help="Path below the data root of a JSON file of days by PatientID; only with a file of pseudonyms. If it is "
        "not given, the day shift of every patient in that file is 0.",
        flag=Flag("JSON file of days by PatientID; with --new_ids only (0)", "-s", metavar="FILE"),
    )
    leave_out: bool = option(
        "Leave out unknown patients",
        "Objects of patients without a pseudonym are left out, and the run is incomplete. Otherwise one such patient "
        "ends the run before any file is changed.",
        Section.WHO,
        default=False,
    )
    accept_incomplete: bool = common.accept_incomplete()
    allow_empty: bool = False
    started: str = ""

    @property
    def in_place(self) -> bool:
        """Whether the objects are tagged in their own folder."""
        return self.in_folder == self.out_folder


@dataclass(frozen=True)
class DicomdirRequest(KeptRequest):
    """Request of a DICOMDIR run. The options describe the other fields.

    Attributes:
        started: ISO 8601.
    """

    in_folder: Path = option(
        "Folder",
        "The folder to hand over, with all below it, as a path below the data root.",
        Section.WHAT,
        form="out",
        path=source_folder,
        flag=Flag("folder of the files, with all below it (./data)", "-d", default=Path("data")),
    )
    out_folder: Path = option(
        "Folder for the file-set",
        "A path below the data root. It is created if necessary. It may only hold what a run for the same files left.",
        Section.WHERE_TO,
        form="dicomdir",
        path=result_folder,
        flag=Flag("folder for the file-set, created if necessary", "-o"),
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
        "Maximum in megabytes (10^6 bytes), such as 700 for CDs or 4700 for DVDs. The files are divided into volumes "
        "VOL001, VOL002, …, each a file-set of its own. 0 makes a single file-set.",
        Section.WHERE_TO,
        default=0,
        least=0,
        flag=Flag(
            "divide it into volumes of at most so many megabytes, such as 700 or 4700, each a file-set of its own",
            metavar="MB",
            extra=True,
            free=True,
        ),
    )
    accept_incomplete: bool = common.accept_incomplete()
    started: str = ""


@dataclass(frozen=True)
class DumpsRequest(KeptRequest):
    """Request of a run that moves info dumps. The options describe the other fields.

    Attributes:
        started: ISO 8601.
    """

    data_folder: Path = option(
        "Data folder",
        "The folder of the images that an extraction made, as a path below the data root.",
        Section.WHAT,
        form="out",
        path=source_folder,
        flag=Flag("folder of the images", "-d"),
    )
    info_folder: Path = option(
        "Info folder",
        "Folder for the dumps, as a path below the data root. It is created if necessary, for its owner only.",
        Section.WHERE_TO,
        form="info",
        path=result_folder,
        flag=Flag("folder for the dumps, created if necessary", "-o"),
    )
    accept_incomplete: bool = common.accept_incomplete()
    started: str = ""


@dataclass(frozen=True)
class ReportsRequest(KeptRequest):
    """Request of an extraction of reports. The options describe the other fields.

    Attributes:
        started: ISO 8601.
    """

    folder: Path = option(
        "Folder",
        "The folder whose reports are extracted, with all below it, as a path below the data root.",
        Section.WHAT,
        name="data_folder",
        form="out",
        path=source_folder,
        flag=Flag("folder of the files, with all below it", "-d"),
    )
    out_folder: Path = option(
        "Folder for the texts",
        "A path below the data root. It is created if necessary. If it is not given, texts go beside their objects.",
        Section.WHERE_TO,
        form=None,
        path=result_folder,
        like="data_folder",
        flag=Flag("folder for the texts, created if necessary", "-o", extra=True),
    )
    overwrite: bool = option(
        "Overwrite",
        "Replace files that have the name of a text and other content.",
        Section.WHERE_TO,
        default=False,
        flag=Flag("replace files that have the same name and other content", extra=True),
    )
    accept_incomplete: bool = common.accept_incomplete()
    started: str = ""
