"""What a destination has confirmed, so that it is not sent there again.

One file of JSON lines per destination and series, only ever added to, each line as soon as the destination has
confirmed an instance. A line that a kill tore is not one.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pacsifier_ops.base import settings
from pacsifier_ops.base.files import private_folder, private_handle, storage_errors
from pacsifier_ops.base.identity import SeriesId, digest_of


@dataclass(frozen=True)
class Delivery:
    """One instance that a destination has confirmed.

    Attributes:
        uid: SOP Instance UID.
        sha256: digest of the data set as it was sent, hexadecimal; empty where others sent it.
        size, ctime_ns: of the file it was sent from: bytes, and when its inode was last changed, in nanoseconds since
            the epoch; 0 without a file. Tools keep a modification time, but none can set this one.
        approved: SHA-256 of the whole file as it was approved, hexadecimal, where it was; checked as it was sent.
    """

    uid: str
    sha256: str = ""
    size: int = 0
    ctime_ns: int = 0
    approved: str = ""


def delivery_lease(destination: str, series: SeriesId) -> str:
    """Name of the lease under which a series is sent to a destination, by one process at a time."""
    return f"deliver:{destination}:{series}"


class Deliveries:
    """What a destination has confirmed of one series. A context manager; write under the lease `delivery_lease`.

    Earlier versions kept that of all series of a Series Instance UID together; it counts as well.

    Args:
        destination: names the node; any text, the same every time.

    Attributes:
        confirmed: deliveries by SOP Instance UID, the last of each.

    Raises:
        StorageError: the state root cannot be read.
    """

    def __init__(self, destination: str, series: SeriesId) -> None:
        folder = settings.state_root() / "delivered" / digest_of(destination)
        before, self._path = (folder / n[:2] / f"{n[2:]}.jsonl" for n in (series.before.digest, series.digest))
        self._stream: BinaryIO | None = None
        self.confirmed: dict[str, Delivery] = {}
        with storage_errors("the state root"):
            self._read(before)
            self._read(self._path)

    def add(self, delivery: Delivery) -> None:
        """Keep that the destination confirmed an instance; a kill of this process takes nothing away.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            if self._stream is None:
                self._stream = self._open()
            self._stream.write(json.dumps(asdict(delivery), separators=(",", ":")).encode() + b"\n")
        self.confirmed[delivery.uid] = delivery

    def close(self) -> None:
        """Make what was added survive a power cut as well.

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
                delivery = Delivery(**json.loads(line))
            except (ValueError, TypeError):
                continue  # torn: what it was to say is not known, so it is sent once more
            self.confirmed[delivery.uid] = delivery

    def _open(self) -> Any:
        private_folder(self._path.parent)
        handle = private_handle(self._path, os.O_RDWR | os.O_APPEND)
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            os.write(handle, b"\n")  # the last line is torn; it must not swallow the next
        return os.fdopen(handle, "ab", buffering=0)
