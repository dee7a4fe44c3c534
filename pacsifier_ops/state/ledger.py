"""What has been fetched into a tree, by SOP Instance UID: one small file per series.

A series' file is written by the holder of the series' lease alone, before the files it describes get
their final names. So a file on disk under its final name is always in the ledger, and a kill in between
leaves an entry without a file: the instance counts as missing and is fetched again.

A file that was handed on, and is needed no more, is first marked so in the ledger and then removed. Its instance is
not fetched again.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pacsifier_ops.base.files import private_folder, read_json, write_json
from pacsifier_ops.base.identity import SeriesId


@dataclass
class Entry:
    """One instance.

    Attributes:
        file: name within the series folder.
        size: bytes. mtime_ns: modification time when it was published, in nanoseconds.
        sha256: digest of the whole file.
        sop_class_uid, transfer_syntax_uid: of the object as fetched.
        source: name of the PACS it came from.
        handed_on: when it was found to be delivered, so that the file may go, ISO 8601; empty: it was not.
    """

    file: str
    size: int
    mtime_ns: int
    sha256: str
    sop_class_uid: str
    transfer_syntax_uid: str
    source: str
    handed_on: str = ""

    def proven_by(self, folder: Path) -> bool:
        """Whether the file lies in `folder` as it was published; its digest is taken only if its times changed."""
        path = folder / self.file
        try:
            status = path.stat()
        except OSError:
            return False
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.mtime_ns or digest(path) == self.sha256

    def gone_on(self, folder: Path) -> bool:
        """Whether the file was handed on and is not in `folder` any more."""
        return bool(self.handed_on) and not os.path.lexists(folder / self.file)


def digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class SeriesLedger:
    """The entries of one series in one tree.

    Earlier versions kept one of all series of a Series Instance UID, whatever the study. It counts as long as there is
    none of the series: what it tells of another study's has no files in the folder, and proves nothing.

    Args:
        state: the tree's state folder.
    """

    def __init__(self, state: Path, series: SeriesId) -> None:
        self._path = _path(state, series.digest)
        self._series = series
        self.entries: dict[str, Entry] = {}
        before = _path(state, series.before.digest)
        # One that is lost or cannot be read proves nothing: its instances are fetched again.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            kept = read_json(self._path if self._path.exists() else before)
            self.entries = {uid: Entry(**entry) for uid, entry in kept["instances"].items()}

    def save(self) -> None:
        """Keep the entries, durably."""
        private_folder(self._path.parent)
        instances = {uid: asdict(entry) for uid, entry in self.entries.items()}
        write_json(
            self._path, {"study": self._series.study_uid, "series": self._series.series_uid, "instances": instances}
        )


def _path(state: Path, name: str) -> Path:
    return state / "ledger" / name[:2] / f"{name[2:]}.json"
