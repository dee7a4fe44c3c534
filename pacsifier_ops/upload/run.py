"""What an upload run is asked for, and what its steps keep in its folder (see `run.Run`).

| file                 | written by | what                                                             |
|----------------------|------------|------------------------------------------------------------------|
| scan.json            | prepare    | how much there is to send; files passed over, and the bad ones   |
| units/<unit>.jsonl   | prepare    | the series of one unit, see Outgoing                             |
| results/<unit>.jsonl | send       | the account of each series of the unit                           |
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacsifier_ops.accounts import SeriesAccount
from pacsifier_ops.dimse.objects import DicomFile
from pacsifier_ops.identity import SeriesId
from pacsifier_ops.run import Kept
from pacsifier_ops.upload.scan import readable


@dataclass(frozen=True)
class UploadRequest(Kept):
    """What a run was asked for.

    Attributes:
        folder: the folder to be uploaded.
        out_directory: where logs/ goes.
        resend: send what the destination has confirmed before as well.
        allow_empty: it is no error if there is no object.
        accept_incomplete: an incomplete run counts as a success for whoever waits for it.
        pacs: name of the connection or configuration of the destination.
        started: ISO 8601.
    """

    folder: Path
    out_directory: Path
    resend: bool = False
    allow_empty: bool = False
    accept_incomplete: bool = False
    pacs: str = ""
    started: str = ""


@dataclass
class Outgoing:
    """A series to be sent: a line of a unit.

    Attributes:
        number: ordinal in the run, from 1.
        folder: common parent of its files, below the uploaded folder.
        files: path below the uploaded folder (see `packed`), offset, size, mtime_ns, ctime_ns, SOP Class UID, SOP
            Instance UID and Transfer Syntax UID of each; the rest they have in common.
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
            [f.offset, f.size, f.mtime_ns, f.ctime_ns, f.sop_class_uid, f.sop_instance_uid, f.transfer_syntax_uid]
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
        """Its files."""
        return [
            DicomFile(
                root / unpacked(path), offset, size, mtime, ctime, cls, uid, syntax, self.study_uid, self.series_uid
            )
            for path, offset, size, mtime, ctime, cls, uid, syntax in self.files
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
            missing_uids=[file[6] for file in self.files],
        )


def packed(path: Path) -> str:
    """A path as text for JSON: names need not be UTF-8, and one byte is one letter here."""
    return os.fsencode(path).decode("latin-1")


def unpacked(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))
