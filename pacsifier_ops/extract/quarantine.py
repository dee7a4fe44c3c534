"""Quarantine: objects that arrived and are not used, in the run's folder. Files are never overwritten.

    <quarantine>/<StudyInstanceUID>_<SeriesInstanceUID>/<reason>/<SOPInstanceUID>.<SHA-256 of the file>.dcm

The series is the one that was being fetched. Objects that belong to none are in the folder `nobodys` instead. Because
of the digest, two versions of an object are two files, and an object that arrived twice is one file.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base.files import private_folder, storage_errors
from pacsifier_ops.base.identity import SeriesId

#: Reasons, which are names of folders. The object was not requested.
UNASKED = "unasked"
#: The object has another PatientID, or another issuer of it, than the archive's C-FIND response for the series.
ANOTHER_PATIENT, ANOTHER_ISSUER = "another-patient", "another-issuer"
#: Different objects arrived with the same SOP Instance UID, or the object differs from the one fetched before.
TWO_VERSIONS, NOT_AS_BEFORE = "two-versions", "not-as-before"

#: Folder of objects that belong to no series that was being fetched.
_NO_SERIES = "nobodys"


@dataclass(frozen=True)
class Quarantine:
    """The quarantine of a run. Several processes may use it at the same time.

    Attributes:
        folder: its folder; created when necessary.
    """

    folder: Path

    def put(self, path: Path, name: str, reason: str, series: SeriesId | None = None) -> Path:
        """Move a file into the quarantine, and return its new path. A file of the same name is the same, and stays.

        Args:
            path: the file.
            name: SOP Instance UID and digest of the file.
            reason: one of the reasons above.
            series: the series that was being fetched; None: the object belongs to none.

        Raises:
            StorageError: the quarantine cannot be written.
        """
        with storage_errors("the quarantine folder"):
            private_folder(self.folder)
            folder = private_folder(private_folder(self._of(series)) / reason)
            target, unfinished = folder / f"{name}.dcm", folder / f".{name}.part"
            if target.exists():
                path.unlink()
            else:
                shutil.move(path, unfinished)  # copies if the run's folder is on another file system
                os.replace(unfinished, target)
        return target

    @property
    def without_series(self) -> Path:
        """Folder of objects that belong to no series that was being fetched."""
        return self._of(None)

    def counts(self, series: SeriesId | None = None) -> Counter[str]:
        """Return the number of objects by reason.

        Args:
            series: the series; None: objects that belong to none.

        Raises:
            StorageError: the quarantine cannot be read.
        """
        with storage_errors("the quarantine folder"):
            return Counter(path.parent.name for path in self._of(series).glob("*/*.dcm"))

    def all_counts(self) -> Counter[str]:
        """Return the number of all objects by reason.

        Raises:
            StorageError: the quarantine cannot be read.
        """
        with storage_errors("the quarantine folder"):
            return Counter(path.parent.name for path in self.folder.glob("*/*/*.dcm"))

    def _of(self, series: SeriesId | None) -> Path:
        return self.folder / (_NO_SERIES if series is None else str(series))
