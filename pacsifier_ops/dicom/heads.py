"""The head of a file: File Meta Information (PS3.10 7.1), and the identifying UIDs of its object."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from pacsifier_ops.dicom.elements import HEAD, walk
from pacsifier_ops.dicom.encoding import UNDEFINED, element
from pacsifier_ops.dicom.uids import (
    DEFLATED,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    PRIVATE_IMPLICIT,
    is_storable_uid,
    is_uid,
)

_PREAMBLE = b"\0" * 128 + b"DICM"
_SOP_INSTANCE, _PATIENT_ID, _ISSUER, _STUDY, _SERIES, _CHARACTER_SET = (
    0x00080018,
    0x00100020,
    0x00100021,
    0x0020000D,
    0x0020000E,
    0x00080005,
)
#: UIDs of the levels, and of the SOP class, by keyword.
UIDS = {
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": _SOP_INSTANCE,
    "StudyInstanceUID": _STUDY,
    "SeriesInstanceUID": _SERIES,
}
#: Maximum number of inflated bytes of a deflated data set to search for its UIDs.
_DEFLATED_HEAD = 4 * 1024 * 1024
_COMPARED_AT_ONCE = 1024 * 1024


@dataclass(frozen=True)
class Identity:
    """The identifying attributes of an object."""

    sop_instance_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    issuer: str


def read_identity(stream: BinaryIO, transfer_syntax_uid: str) -> Identity:
    """Read identifying attributes of an encoded data set, up to Series Instance UID (0020,000E).

    Args:
        stream: positioned at the first byte of the data set.
        transfer_syntax_uid: encoding of the data set.

    Raises:
        ValueError: it cannot be read, or a UID is missing or malformed.
    """
    if transfer_syntax_uid in DEFLATED:
        stream = BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(_DEFLATED_HEAD), _DEFLATED_HEAD))
    try:
        start = stream.tell()
        # pydicom asks for the position at every element, which costs a call of the system where it reads from a file.
        begin = stream.read(HEAD)
        head = _identifying(BytesIO(begin), transfer_syntax_uid, whole=len(begin) < HEAD)
        if head is None:
            stream.seek(start)
            head = _identifying(stream, transfer_syntax_uid)
            assert head is not None
        uids = [_raw(head, tag).rstrip(b"\0 ").decode("ascii") for tag in (_SOP_INSTANCE, _STUDY, _SERIES)]
        patient_id, issuer = _text(head, _PATIENT_ID), _text(head, _ISSUER)
    except Exception:
        raise ValueError("the data set cannot be read") from None
    if not all(map(is_storable_uid, uids)):
        raise ValueError("a UID of the data set is missing or malformed")
    return Identity(uids[0], uids[1], uids[2], patient_id, issuer)


def quick_identity(begin: bytes, transfer_syntax_uid: str) -> Identity | None:
    """Return what `read_identity` does, if the begin of a data set shows it without any doubt; else None.

    This takes a tenth of the time.
    """
    if transfer_syntax_uid == ExplicitVRBigEndian or transfer_syntax_uid in DEFLATED:
        return None
    tags = (_SOP_INSTANCE, _STUDY, _SERIES, _PATIENT_ID, _ISSUER)
    implicit = transfer_syntax_uid in (ImplicitVRLittleEndian, PRIVATE_IMPLICIT)
    texts = _texts(begin, implicit, tags, _SERIES)
    if texts is None or not all(map(is_storable_uid, texts[:3])):
        return None
    return Identity(*texts[:3], *(text.strip("\0 ") for text in texts[3:]))


def quick_whole(begin: bytes, size: int, implicit: bool, followed: bool) -> tuple[str, Identity] | None:
    """Return SOP Class UID and identity of a whole data set, if its begin shows them without any doubt; else None.

    Args:
        begin: first bytes of the data set, which is little endian.
        size: length of the data set in bytes.
        implicit: whether it has implicit VR.
        followed: return None also where the elements do not end exactly at the end of the data set.
    """
    tags = (UIDS["SOPClassUID"], _SOP_INSTANCE, _STUDY, _SERIES, _PATIENT_ID, _ISSUER)
    texts = _texts(begin, implicit, tags, None if followed else _SERIES, size if followed else None)
    if texts is None or not all(map(is_uid, texts[:4])):
        return None
    return texts[0], Identity(*texts[1:4], *(text.strip("\0 ") for text in texts[4:]))


def quick_uids(data_set: bytes, implicit: bool) -> dict[str, str] | None:
    """Return the UIDs of a little endian data set, by keyword; None if it does not show them without any doubt."""
    uids = _texts(data_set, implicit, tuple(UIDS.values()))
    if uids is None or not all(not uid or is_storable_uid(uid) for uid in uids):
        return None
    return dict(zip(UIDS, uids, strict=True))


def _texts(
    data: bytes, implicit: bool, tags: Sequence[int], last: int | None = None, size: int | None = None
) -> list[str] | None:
    """Return texts of a little endian data set without padding at their end, empty where it has none.

    Args:
        data: the data set, or its begin if `last` or `size` is given.
        implicit: whether it has implicit VR.
        tags: attributes of the texts.
        last: the last of them in order; None: the data set is followed to its end.
        size: length of the whole data set, see `walk`.

    Returns:
        None where it takes more to decide: see `walk`, and where pydicom would decode a text, or object to
            SpecificCharacterSet.
    """
    found: dict[int, bytes] = {}
    end = walk(data, implicit, (_CHARACTER_SET, *tags), UNDEFINED if last is None else last, found, size)
    # Where nothing follows, the data set may go on behind the begin.
    if end is None or not data or (end == (len(data) if size is None else size)) is not (last is None):
        return None
    if not all(value.isascii() and b"\x1b" not in value for value in found.values()):
        return None
    character_set, *texts = (found.get(tag, b"").decode("ascii").rstrip("\0 ") for tag in (_CHARACTER_SET, *tags))
    return texts if all(term in python_encoding for term in character_set.split("\\")) else None


def _identifying(stream: BinaryIO, transfer_syntax_uid: str, whole: bool = True) -> Dataset | None:
    """Read the attributes of `Identity`; return None where the stream is not the whole data set, and may lack some."""
    past = False

    def past_series(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal past
        past = bool(tag > _SERIES)
        return past

    try:
        head = read_dataset(
            stream,
            transfer_syntax_uid in (ImplicitVRLittleEndian, PRIVATE_IMPLICIT),
            transfer_syntax_uid != ExplicitVRBigEndian,
            stop_when=past_series,
            specific_tags=[_CHARACTER_SET, _SOP_INSTANCE, _PATIENT_ID, _ISSUER, _STUDY, _SERIES],
        )
    except Exception:
        if whole:
            raise
        return None
    return head if past or whole else None


def _raw(head: Dataset, tag: int) -> bytes:
    """Return the encoded value. pydicom's conversion would check it, and print the value in a warning."""
    return head.get_item(tag).value or b"" if tag in head else b""


def _text(head: Dataset, tag: int) -> str:
    """Return a text without surrounding blanks.

    Only text beyond ASCII (or with escape sequences) needs the character set.
    """
    raw = _raw(head, tag)
    plain = raw.isascii() and b"\x1b" not in raw
    return (raw.decode("ascii") if plain else str(head[tag].value)).strip("\0 ")


def same_object(one: Path, other: Path) -> bool:
    """Return whether two files have the same data set and transfer syntax, whoever sent them.

    Raises:
        OSError: one cannot be read.
    """
    with one.open("rb") as first, other.open("rb") as second:
        if read_head(first) != read_head(second):
            return False
        while True:
            pieces = first.read(_COMPARED_AT_ONCE), second.read(_COMPARED_AT_ONCE)
            if pieces[0] != pieces[1]:
                return False
            if not pieces[0]:
                return True


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_aet: str = "") -> bytes:
    """Encode preamble, prefix and File Meta Information (PS3.10 7.1) of an object.

    Args:
        sop_class_uid, sop_instance_uid, transfer_syntax_uid: UIDs of the object.
        source_aet: AE title of the sender; empty if the object is created here.
    """
    meta = b"".join(
        (
            element(0x00020001, "OB", b"\0\1"),
            element(0x00020002, "UI", sop_class_uid.encode()),
            element(0x00020003, "UI", sop_instance_uid.encode()),
            element(0x00020010, "UI", transfer_syntax_uid.encode()),
            element(0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode()),
            element(0x00020013, "SH", IMPLEMENTATION_VERSION.encode()),
            element(0x00020016, "AE", source_aet.encode()) if source_aet else b"",
        )
    )
    return _PREAMBLE + element(0x00020000, "UL", struct.pack("<L", len(meta))) + meta


def read_head(stream: BinaryIO) -> tuple[str, str]:
    """Read a head of `file_head`: SOP Class UID and Transfer Syntax UID. The stream is then at the data set."""
    stream.seek(len(_PREAMBLE) + 8)
    (length,) = struct.unpack("<L", stream.read(4))
    meta = read_dataset(stream, False, True, length)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
