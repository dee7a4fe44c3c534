"""Records of instances that a destination has confirmed, so that they are not sent there again.

There is one file of JSON lines per destination and series. A line is appended as soon as the destination has confirmed
an instance. A line truncated by a kill is ignored.
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pacsifier_ops.base import settings
from pacsifier_ops.base.files import (
    ascii_json,
    json_line,
    private_folder,
    private_handle,
    storage_errors,
    write_once,
)
from pacsifier_ops.base.identity import SeriesId, digest_of
from pacsifier_ops.state.facts import identity_at


@dataclass(frozen=True)
class Delivery:
    """One instance that a destination has confirmed.

    Attributes:
        uid: SOP Instance UID.
        sha256: digest of the sent data set, hexadecimal; empty where another program sent it.
        size, ctime_ns: size of the sent file in bytes, and the last change of its inode, in nanoseconds since the
            epoch; 0 without a file. Tools can preserve a modification time, but none can set this one.
        approved: SHA-256 of the whole approved file, hexadecimal, if there was an approval; it was checked during
            sending.
        mark: what the list of the destination tells of the content, such as an ETag; empty: nothing, or it is not kept.
    """

    uid: str
    sha256: str = ""
    size: int = 0
    ctime_ns: int = 0
    approved: str = ""
    mark: str = ""


def data_set_name(which: str) -> str:
    """Return the name by which destinations know a data set: it tells nothing, and no other state root gives it.

    Args:
        which: what tells the data set from others here, such as its folder.

    Raises:
        StorageError: the state root cannot be written.
    """
    with storage_errors("the state root"):
        key = write_once(private_folder(settings.state_root() / "delivered") / "names.key", secrets.token_hex(32))
    return hmac.new(key.encode(), which.encode(errors="surrogateescape"), "sha256").hexdigest()[:32]


def has_taken(destination: str) -> bool:
    """Return whether a destination has ever confirmed anything.

    Args:
        destination: see `Deliveries`.
    """
    return (settings.state_root() / "delivered" / digest_of(destination)).exists()


def delivery_lease(destination: str, series: SeriesId) -> str:
    """Return the name of the lease under which one process at a time sends a series to a destination."""
    return f"deliver:{destination}:{series}"


def deliveries_seen(place: str, series: SeriesId) -> list[list[int]]:
    """Return the identities of the files with the records of a series, see `facts.identity_of`.

    Args:
        place: digest of the name of the destination.
    """
    return [identity_at(path) for path in _paths(place, series)]


def _paths(place: str, series: SeriesId) -> tuple[Path, Path]:
    """Return the path of the file of earlier versions, and of the present one."""
    folder = settings.state_root() / "delivered" / place
    before, now = (folder / name[:2] / f"{name[2:]}.jsonl" for name in (series.before.digest, series.digest))
    return before, now


class Deliveries:
    """Confirmed instances of one series at a destination. A context manager.

    Hold the lease `delivery_lease` for writing. Earlier versions had one file for all series with a Series Instance
    UID; it is used as well.

    Args:
        destination: name of the node; any text, the same every time.
        series: the series.

    Attributes:
        confirmed: the last delivery by SOP Instance UID.

    Raises:
        StorageError: the state root cannot be read.
    """

    def __init__(self, destination: str, series: SeriesId) -> None:
        before, self._path = _paths(digest_of(destination), series)
        self._stream: BinaryIO | None = None
        self.confirmed: dict[str, Delivery] = {}
        with storage_errors("the state root"):
            self._read(before)
            self._read(self._path)

    def add(self, delivery: Delivery) -> None:
        """Record that the destination confirmed an instance; the record survives a kill of this process.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            if self._stream is None:
                self._stream = self._open()
            kept = {name: value for name, value in asdict(delivery).items() if value or name != "mark"}
            self._stream.write(ascii_json(kept).encode() + b"\n")  # earlier versions know no mark
        self.confirmed[delivery.uid] = delivery

    def close(self) -> None:
        """Make the records survive a power failure as well.

        Raises:
            StorageError: the state root cannot be written.
        """
        stream, self._stream = self._stream, None
        if stream is not None:
            with storage_errors("the state root"), stream:
                os.fsync(stream.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                delivery = Delivery(**json_line(line.decode()))
            except (ValueError, TypeError):
                continue  # truncated: its content is unknown, so the instance is sent again
            self.confirmed[delivery.uid] = delivery

    def _open(self) -> Any:
        private_folder(self._path.parent)
        handle = private_handle(self._path, os.O_RDWR | os.O_APPEND)
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")  # the last line is truncated; it must not absorb the next
        return os.fdopen(handle, "ab", buffering=0)
