"""Writes the DICOMDIR of a file-set: the Basic Directory (PS3.10 8, PS3.3 F), whose records refer to each other.

The length of every record is known before it is written, and so is every offset. A record is written before the records
below it. The same records give the same bytes: the file holds no time or place of its creation.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from uuid import UUID

from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.dicom.encoding import element
from pacsifier_ops.dicom.heads import file_head

#: Name of the file (PS3.10 8.6).
DICOMDIR = "DICOMDIR"

# Offset of the next record, in-use flag, offset of the lower level: the first elements of a record (PS3.3 F.3.2.2).
_LINKS = struct.Struct("<HH2sHL HH2sHH HH2sHL")
_ITEM_HEAD, _SEQUENCE_HEAD = struct.Struct("<HHL"), struct.Struct("<HH2sHL")
#: The largest offset, in bytes.
_LARGEST_OFFSET = 2**32 - 1


@dataclass(frozen=True, slots=True)
class DirectoryRecord:
    """A directory record.

    Attributes:
        depth: 0 for a record of the root entity, and one more for each level below.
        path: path of the file in the file-set, with forward slashes; empty for patients, studies and series.
        body: its encoded elements from Directory Record Type (0004,1430) on.
    """

    depth: int
    path: str
    body: bytes

    @property
    def size(self) -> int:
        """Return the size of the record in the DICOMDIR, in bytes."""
        return _ITEM_HEAD.size + _LINKS.size + len(self.body)


def records_of(records: Sequence[DirectoryRecord], files: Container[str]) -> list[DirectoryRecord]:
    """Return the records of some files, and the patients, studies and series above them.

    Args:
        records: all records, each before those below it.
        files: paths in the file-set.
    """
    chosen: list[DirectoryRecord] = []
    parent = -1  # depth of the record above the one chosen last; the records are walked backwards
    for record in reversed(records):
        if record.path in files if record.path else record.depth == parent:
            chosen.append(record)
            parent = record.depth - 1
    return chosen[::-1]


def directory(records: Sequence[DirectoryRecord]) -> Iterator[bytes]:
    """Yield the content of the DICOMDIR.

    Args:
        records: each before those below it.

    Raises:
        InputError: the file would be larger than 2^32 - 1 bytes, the largest offset.
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(struct.pack("<LL", record.depth, len(record.body)) + record.body)
    meta, name = _meta(digest.digest()), element(0x00041130, "CS", f"FS{digest.hexdigest()[:14].upper()}".encode())
    fixed = len(element(0x00041200, "UL", bytes(4))) * 2 + len(element(0x00041212, "US", bytes(2)))
    start = len(meta) + len(name) + fixed + _SEQUENCE_HEAD.size
    offsets = list(accumulate((record.size for record in records), initial=start))
    if offsets[-1] > _LARGEST_OFFSET:
        raise InputError("there are too many files for one DICOMDIR; give a volume_size")
    roots = [offset for offset, record in zip(offsets, records, strict=False) if record.depth == 0]
    yield meta + name
    yield element(0x00041200, "UL", struct.pack("<L", roots[0] if roots else 0))
    yield element(0x00041202, "UL", struct.pack("<L", roots[-1] if roots else 0))
    yield element(0x00041212, "US", struct.pack("<H", 0))
    yield _SEQUENCE_HEAD.pack(0x0004, 0x1220, b"SQ", 0, offsets[-1] - start)
    for record, (following, below) in zip(records, _links(records, offsets), strict=True):
        yield _ITEM_HEAD.pack(0xFFFE, 0xE000, record.size - _ITEM_HEAD.size)
        yield _LINKS.pack(
            *(0x0004, 0x1400, b"UL", 4, following),
            *(0x0004, 0x1410, b"US", 2, 0xFFFF),
            *(0x0004, 0x1420, b"UL", 4, below),
        )
        yield record.body


def _links(records: Sequence[DirectoryRecord], offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Return for each record the offset of the next one at its level, and of the first one below it; 0: there is none.

    Args:
        offsets: offset of each record, and of the end of the file.
    """
    links = []
    following: list[int] = []  # offset of the record met last, by depth; the records are walked backwards
    for offset, record in zip(reversed(offsets[:-1]), reversed(records), strict=True):
        following += [0] * (record.depth + 2 - len(following))
        links.append((following[record.depth], following[record.depth + 1]))
        following[record.depth :] = [offset]
    return links[::-1]


def _meta(digest: bytes) -> bytes:
    """Return preamble, prefix and File Meta Information (PS3.10 7.1), with a name-based UID below 2.25 (PS3.5 B.2)."""
    uid = f"2.25.{UUID(bytes=digest[:16], version=5).int}"
    return file_head(MediaStorageDirectoryStorage, uid, ExplicitVRLittleEndian)
