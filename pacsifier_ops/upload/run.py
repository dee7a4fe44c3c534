"""What an upload run is asked for, and what it works on.

Its files are those of every job (see `runs.job`): the items of a unit are series, see Outgoing; their results are
accounts of series.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import packed, readable, unpacked
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.options import Flag, Section, option, result_folder, source_folder
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.folder import KeptRequest

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile


@dataclass(frozen=True)
class UploadRequest(KeptRequest):
    """What a run was asked for; of the rest, the options tell.

    Attributes:
        allow_empty: it is no error if there is no object.
        pacs: name of the connection or configuration of the destination.
        started: ISO 8601.
    """

    folder: Path = option(
        "Folder",
        "The folder to be sent, with all below it, as a path below the data root.",
        Section.WHAT,
        name="upload_directory",
        form="out",
        path=source_folder,
        flag=Flag("folder of DICOM files, for --upload (default: ./data)", "-ud", default=Path("data")),
    )
    out_directory: Path = option(
        "Folder for the log",
        "The log goes to logs/ in this folder, a path below the data root. It is made if need be.",
        Section.WHERE_TO,
        form="upload",
        path=result_folder,
        after="config",
        flag=Flag(),
    )
    resend: bool = option(
        "Send again",
        "Send also what the destination has confirmed before.",
        Section.WHAT,
        default=False,
        flag=Flag(),
    )
    pacs: str = common.node(
        "Destination", "Id of a connection of type dicom: where the files are sent.", Section.WHERE_TO
    )
    config: str = common.configuration(Section.WHERE_TO)
    accept_incomplete: bool = common.accept_incomplete()
    allow_empty: bool = False
    started: str = ""


#: How many values are kept of a file, and which of them are its SOP Class UID and its SOP Instance UID.
_VALUES, SOP_CLASS, SOP_INSTANCE = 9, 5, 6


@dataclass
class Outgoing:
    """A series to be sent: a line of a unit.

    Attributes:
        number: ordinal in the run, from 1.
        folder: common parent of its files, below the uploaded folder.
        files: path below the uploaded folder (see `packed`), offset, size, mtime_ns, ctime_ns, SOP Class UID, SOP
            Instance UID, Transfer Syntax UID, and SHA-256 as it was approved, of each; the rest they have in common.
    """

    number: int
    study_uid: str
    series_uid: str
    modality: str
    series_number: str
    description: str
    folder: str
    files: list[list[Any]]

    @classmethod
    def of(cls, number: int, root: Path, files: Sequence[DicomFile]) -> Outgoing:
        """The series of these files below `root`."""
        first = files[0]
        paths = [file.path.relative_to(root) for file in files]
        rest = [
            [
                *(f.offset, f.size, f.mtime_ns, f.ctime_ns),
                *(f.sop_class_uid, f.sop_instance_uid, f.transfer_syntax_uid, f.sha256),
            ]
            for f in files
        ]
        return cls(
            number,
            first.study_uid,
            first.series_uid,
            first.modality,
            first.series_number,
            first.description,
            readable(Path(os.path.commonpath([path.parent for path in paths]) or ".")),
            [[packed(path), *values] for path, values in zip(paths, rest, strict=True)],
        )

    @property
    def series(self) -> SeriesId:
        """Which series it is."""
        return SeriesId(self.study_uid, self.series_uid)

    def objects(self, root: Path) -> list[DicomFile]:
        """Its files.

        Raises:
            InputError: an earlier version has listed them, and could not say what they must be like.
        """
        from pacsifier_ops.dicom.files import DicomFile

        if any(len(file) != _VALUES for file in self.files):
            raise InputError("the files were listed by an earlier version of this package; begin with the step prepare")
        return [
            DicomFile(
                root / unpacked(path),
                *(offset, size, mtime, ctime, cls, uid, syntax),
                *(self.study_uid, self.series_uid),
                sha256=sha256,
            )
            for path, offset, size, mtime, ctime, cls, uid, syntax, sha256 in self.files
        ]

    def account(self) -> SeriesAccount:
        """The account of this series before anything is sent: all of it is missing."""
        return SeriesAccount(
            number=self.number,
            lines=[],
            study_uid=self.study_uid,
            series_uid=self.series_uid,
            modality=self.modality,
            series_number=self.series_number,
            description=self.description,
            folder=self.folder,
            expected=len(self.files),
            missing=len(self.files),
            missing_uids=[file[SOP_INSTANCE] for file in self.files],
        )
