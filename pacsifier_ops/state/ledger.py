"""Records of instances retrieved into a tree, by SOP Instance UID: one small file per series.

Only the holder of a series' lease writes its file, before the instances' files get their final names. So a file under
its final name is always in the ledger. A kill in between leaves an entry without a file; the instance then counts as
missing and is retrieved again.

A file that was passed on and is not needed any more is first marked in the ledger, and then removed. Its instance is
not retrieved again.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base.files import private_folder, read_json, write_json
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.state.facts import identity_at


@dataclass
class Entry:
    """One instance.

    Attributes:
        file: file name within the series folder.
        size: size in bytes.
        mtime_ns: modification time when it was published, in nanoseconds.
        sha256: digest of the whole file.
        sop_class_uid, transfer_syntax_uid: of the retrieved object.
        source: name of the PACS from which it came.
        handed_on: time when it was found to be delivered, so that the file may be removed, ISO 8601; empty: not
            delivered.
    """

    file: str
    size: int
    mtime_ns: int
    sha256: str
    sop_class_uid: str
    transfer_syntax_uid: str
    source: str
    handed_on: str = ""

    def proven_by(self, folder: Path, status: os.stat_result | None = None) -> bool:
        """Return whether `folder` contains the published file. The digest is computed only if its time has changed.

        Args:
            status: of the file, if it was looked at.
        """
        try:
            status = status or os.stat(self._in(folder))
        except OSError:
            return False
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.mtime_ns or digest(folder / self.file) == self.sha256

    def is_removed(self, folder: Path) -> bool:
        """Return whether the file was handed on, and then removed from `folder`."""
        return bool(self.handed_on) and not os.path.lexists(self._in(folder))

    def _in(self, folder: Path) -> str:
        return f"{folder}/{self.file}"  # a series may have thousands of files, and Path takes longer than the system


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class SeriesLedger:
    """The entries of one series in one tree.

    Earlier versions had one file for all series with a Series Instance UID, in any study. It is used while the series
    has none. Entries for another study's series have no files in the folder, so they prove nothing.

    Args:
        state: state folder of the tree.
        series: the series.
    """

    def __init__(self, state: Path, series: SeriesId) -> None:
        self._path = _path(state, series.digest)
        self._series = series
        self.entries: dict[str, Entry] = {}
        before = _path(state, series.before.digest)
        # A lost or damaged file proves nothing: its instances are retrieved again.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            kept = read_json(self._path if self._path.exists() else before)
            self.entries = {uid: Entry(**entry) for uid, entry in kept["instances"].items()}

    def save(self) -> None:
        """Store the entries durably."""
        private_folder(self._path.parent)
        instances = {uid: vars(entry) for uid, entry in self.entries.items()}
        write_json(
            self._path, {"study": self._series.study_uid, "series": self._series.series_uid, "instances": instances}
        )


def ledger_seen(state: Path, series: SeriesId) -> list[int]:
    """Return the identity of the file with the entries of a series, see `facts.identity_of`; empty if there is none."""
    return identity_at(_path(state, series.digest)) or identity_at(_path(state, series.before.digest))


def _path(state: Path, name: str) -> Path:
    return state / "ledger" / name[:2] / f"{name[2:]}.json"
