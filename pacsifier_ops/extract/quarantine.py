"""What arrived and is not used, kept apart in the run's folder: by series and reason, and never overwritten.

    <quarantine>/<StudyInstanceUID>_<SeriesInstanceUID>/<reason>/<SOPInstanceUID>.<SHA-256 of the file>.dcm

The series is the one that was being fetched; what was of none is below `nobodys`. The digest in the name keeps
two versions of an object apart, and makes one that came twice one file.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base.files import private_folder, storage_errors
from pacsifier_ops.base.identity import SeriesId

#: Reasons: nobody asked for it; the archive's answer names another patient, or another issuer of the PatientID; another
#: object has its SOP Instance UID; the object of before is another one.
UNASKED, ANOTHER_PATIENT, ANOTHER_ISSUER = "unasked", "another-patient", "another-issuer"
TWO_VERSIONS, NOT_AS_BEFORE = "two-versions", "not-as-before"

_NOBODYS = "nobodys"


@dataclass(frozen=True)
class Quarantine:
    """The quarantine of a run; any process may put something there at any time."""

    folder: Path

    def put(self, path: Path, name: str, reason: str, series: SeriesId | None = None) -> Path:
        """Move a file there; returns its new path. What is there already by that name is the same, and stays.

        Args:
            name: SOP Instance UID and digest of the file.
            series: that was being fetched; None: none was.

        Raises:
            StorageError: it cannot be written.
        """
        with storage_errors("the quarantine folder"):
            private_folder(self.folder)
            folder = private_folder(private_folder(self._of(series)) / reason)
            target, unfinished = folder / f"{name}.dcm", folder / f".{name}.part"
            if target.exists():
                path.unlink()
            else:
                shutil.move(path, unfinished)  # a copy, where the run's folder is on another file system
                os.replace(unfinished, target)
        return target

    @property
    def nobodys(self) -> Path:
        """Where that lies which was of no series."""
        return self._of(None)

    def counts(self, series: SeriesId | None = None) -> Counter[str]:
        """How many objects of a series, or of none, are there, by reason.

        Raises:
            StorageError: it cannot be read.
        """
        with storage_errors("the quarantine folder"):
            return Counter(path.parent.name for path in self._of(series).glob("*/*.dcm"))

    def _of(self, series: SeriesId | None) -> Path:
        return self.folder / (_NOBODYS if series is None else str(series))
