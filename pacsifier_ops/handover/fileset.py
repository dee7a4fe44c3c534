"""Writes the DICOMDIR of a file-set: the Basic Directory (PS3.10 8, PS3.3 F), whose records point at one another.

Every record's length is known before it is written, and so is every offset: records go out one after the other, each
before what is below it. Nothing in the file tells when or where it was made: the same records give the same bytes.
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

# Next record, in-use flag, lower level: what stands before a record's own elements (PS3.3 F.3.2.2).
_PLACE = struct.Struct("<HH2sHL HH2sHH HH2sHL")
_ITEM_HEAD, _SEQUENCE_HEAD = struct.Struct("<HHL"), struct.Struct("<HH2sHL")
#: Bytes that offsets can count.
_MOST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class DirectoryRecord:
    """A record at its place.

    Attributes:
        depth: 0 for a record of the root entity, one more for those below another.
        path: of the file that it stands for, below the file-set, with forward slashes; empty above the objects.
        body: its elements from Directory Record Type on.
    """

    depth: int
    path: str
    body: bytes

    @property
    def size(self) -> int:
        """Bytes in the DICOMDIR."""
        return _ITEM_HEAD.size + _PLACE.size + len(self.body)


def populated(records: Sequence[DirectoryRecord], kept: Container[str]) -> list[DirectoryRecord]:
    """The records of the kept files, and of those above the ones that have such a file below them."""
    left: list[DirectoryRecord] = []
    wanted = -1  # depth of the record that the last one kept, seen from behind, belongs to
    for record in reversed(records):
        if record.path in kept if record.path else record.depth == wanted:
            left.append(record)
            wanted = record.depth - 1
    return left[::-1]


def directory(records: Sequence[DirectoryRecord]) -> Iterator[bytes]:
    """The DICOMDIR of records, each after the one that it is below, in pieces.

    Raises:
        InputError: it would have more bytes than offsets can count.
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(struct.pack("<LL", record.depth, len(record.body)) + record.body)
    meta, name = _meta(digest.digest()), element(0x00041130, "CS", f"FS{digest.hexdigest()[:14].upper()}".encode())
    fixed = len(element(0x00041200, "UL", bytes(4))) * 2 + len(element(0x00041212, "US", bytes(2)))
    start = len(meta) + len(name) + fixed + _SEQUENCE_HEAD.size
    places = list(accumulate((record.size for record in records), initial=start))
    if places[-1] > _MOST:
        raise InputError("the files are too many for one DICOMDIR; give a volume_size")
    roots = [place for place, record in zip(places, records, strict=False) if record.depth == 0]
    yield meta + name
    yield element(0x00041200, "UL", struct.pack("<L", roots[0] if roots else 0))
    yield element(0x00041202, "UL", struct.pack("<L", roots[-1] if roots else 0))
    yield element(0x00041212, "US", struct.pack("<H", 0))
    yield _SEQUENCE_HEAD.pack(0x0004, 0x1220, b"SQ", 0, places[-1] - start)
    for record, (following, below) in zip(records, _links(records, places), strict=True):
        yield _ITEM_HEAD.pack(0xFFFE, 0xE000, record.size - _ITEM_HEAD.size)
        yield _PLACE.pack(
            *(0x0004, 0x1400, b"UL", 4, following),
            *(0x0004, 0x1410, b"US", 2, 0xFFFF),
            *(0x0004, 0x1420, b"UL", 4, below),
        )
        yield record.body


def _links(records: Sequence[DirectoryRecord], places: Sequence[int]) -> list[tuple[int, int]]:
    """Of each record, the offset of the next one at its level, and of the first one below it; 0 where there is none."""
    links = []
    first: list[int] = []  # by depth, seen from behind
    for place, record in zip(reversed(places[:-1]), reversed(records), strict=True):
        first += [0] * (record.depth + 2 - len(first))
        links.append((first[record.depth], first[record.depth + 1]))
        first[record.depth :] = [place]
    return links[::-1]


def _meta(digest: bytes) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 7.1); the UID is a name-based one below 2.25 (PS3.5 B.2)."""
    uid = f"2.25.{UUID(bytes=digest[:16], version=5).int}"
    return file_head(MediaStorageDirectoryStorage, uid, ExplicitVRLittleEndian)
