"""The request of an upload run, and its items.

The files of the run are those of every job (`runs.job`). The items of a unit are series, see `Outgoing`; their results
are accounts of series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import folder_of_all, name_below, packed, unpacked
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.options import Flag, Section, option, result_folder, source_folder
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.folder import KeptRequest

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile


@dataclass(frozen=True)
class UploadRequest(KeptRequest):
    """What an upload run is asked for. The options describe themselves.

    Attributes:
        pacs: name of the connection or configuration of the destination.
        allow_empty: a folder without DICOM files is no error.
        release: path of the list of a data set whose release this is (see `study.release`). Exactly its files are sent,
            those beside the objects as well; empty: the objects that may leave the folder.
        data_set: name by which stores know what is sent, see `deliveries.data_set_name`.
        started: time of the start, ISO 8601.
    """

    folder: Path = option(
        "Folder",
        "The folder to be sent, with all folders in it: a path below the data root.",
        Section.WHAT,
        name="upload_directory",
        form="out",
        path=source_folder,
        flag=Flag("folder of DICOM files, for --upload (default: ./data)", "-ud", default=Path("data")),
    )
    out_directory: Path = option(
        "Folder for the log",
        "The log goes to logs/ in this folder, a path below the data root. It is made if it does not exist.",
        Section.WHERE_TO,
        form="upload",
        path=result_folder,
        after="config",
        flag=Flag(),
    )
    resend: bool = option(
        "Send again",
        "Send also instances that the destination has confirmed before.",
        Section.WHAT,
        default=False,
        flag=Flag(),
    )
    pacs: str = common.node(
        "Destination",
        "Id of the connection to which the files are sent: of type dicom, or of a store of files or objects.",
        Section.WHERE_TO,
        receives=True,
    )
    config: str = common.configuration(Section.WHERE_TO)
    accept_incomplete: bool = common.accept_incomplete()
    urgency: str = common.urgency()
    allow_empty: bool = False
    release: str = ""
    data_set: str = ""
    started: str = ""


#: What an upload keeps in its run's folder beside the files of every job, and its first step removes before it begins:
#: the list of what a store has whole, which is the manifest that was put there.
IN_STORE = "in-store"

#: Number of values of a file in `Outgoing.files`, and the indices of its SOP Class UID and SOP Instance UID.
_VALUES, SOP_CLASS, SOP_INSTANCE = 9, 5, 6


@dataclass
class Outgoing:
    """A series of files to be sent: a line of a unit.

    Attributes:
        number: number of the series in the run, from 1.
        study_uid, series_uid, modality, series_number, description: what the files have in common.
        folder: common parent folder of its files, below the uploaded folder.
        files: for each file its path below the uploaded folder (see `packed`), offset of the data set in bytes, size in
            bytes, mtime_ns, ctime_ns, SOP Class UID, SOP Instance UID, Transfer Syntax UID, and SHA-256 in the list of
            approved files or empty.
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
        """Return the series of these files.

        Args:
            number: number of the series in the run, from 1.
            root: the uploaded folder.
            files: its files, at least one.
        """
        first = files[0]
        paths = [name_below(file.path, root) for file in files]
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
            folder_of_all(paths),
            [[packed(path), *values] for path, values in zip(paths, rest, strict=True)],
        )

    @property
    def series(self) -> SeriesId:
        """Study and Series Instance UID."""
        return SeriesId(self.study_uid, self.series_uid)

    def objects(self, root: Path) -> list[DicomFile]:
        """Return its files.

        Args:
            root: the uploaded folder.

        Raises:
            InputError: an earlier version listed them, without the values that they are checked against.
        """
        from pacsifier_ops.dicom.files import DicomFile

        if any(len(file) != _VALUES for file in self.files):
            raise InputError(
                "the files were listed by an earlier version of this package; run it again from the step prepare"
            )
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
        """Return the account of this series before anything is sent: all instances are missing."""
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
