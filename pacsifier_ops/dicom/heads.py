"""The head of a file: File Meta Information (PS3.10 7.1), and the identifying UIDs of its object."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from pacsifier_ops.dicom import vrs
from pacsifier_ops.dicom.encoding import UNDEFINED, element
from pacsifier_ops.dicom.files import end_of_items
from pacsifier_ops.dicom.uids import (
    DEFLATED,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    PRIVATE_IMPLICIT,
    is_storable_uid,
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
#: Number of bytes at the begin of a data set. Most hold its identifying attributes in them.
HEAD = 16 * 1024
_COMPARED_AT_ONCE = 1024 * 1024
#: Heads of elements (PS3.5 7.1), and groups that a data set has none of: command elements, and delimiters of items.
_EXPLICIT_HEAD, _IMPLICIT_HEAD, _LONG_LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHL"), struct.Struct("<L")
_NO_ELEMENTS = (0x0000, 0xFFFE)
#: VRs of sequences; implicit VR names none.
_SEQUENCES = (b"", b"SQ", b"UN")
_SHORT, _LONG = (frozenset(vr.encode() for vr in names) for names in (vrs.SHORT, vrs.LONG))


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
    found = dict.fromkeys((_SOP_INSTANCE, _STUDY, _SERIES, _PATIENT_ID, _ISSUER, _CHARACTER_SET), "")
    end = _walk(begin, transfer_syntax_uid in (ImplicitVRLittleEndian, PRIVATE_IMPLICIT), found, _SERIES)
    # Where nothing follows, the data set may go on behind the begin.
    if end is None or end == len(begin):
        return None
    instance, study, series, patient_id, issuer, character_set = found.values()
    if not all(map(is_storable_uid, (instance, study, series))) or not _known(character_set):
        return None
    return Identity(instance, study, series, patient_id.strip("\0 "), issuer.strip("\0 "))


def quick_uids(data_set: bytes, implicit: bool) -> dict[str, str] | None:
    """Return the UIDs of a little endian data set, by keyword; None if it does not show them without any doubt."""
    found = dict.fromkeys((*UIDS.values(), _CHARACTER_SET), "")
    if not data_set or _walk(data_set, implicit, found, UNDEFINED) != len(data_set):
        return None
    character_set = found.pop(_CHARACTER_SET)
    if not all(not uid or is_storable_uid(uid) for uid in found.values()) or not _known(character_set):
        return None
    return dict(zip(UIDS, found.values(), strict=True))


def _known(character_set: str) -> bool:
    """Return whether all values of Specific Character Set are defined terms, so that pydicom does not object to it."""
    return all(term in python_encoding for term in character_set.split("\\"))


def _walk(data: bytes, implicit: bool, found: dict[int, str], last: int) -> int | None:
    """Read values of a little endian data set, up to a tag or its end.

    Args:
        data: the data set, or its begin.
        implicit: whether it has implicit VR.
        found: receives the values of its keys, without padding at the end.
        last: tag of the last element to read.

    Returns:
        The offset of the first element above `last`, or the end. None where another reader has to decide: tags are not
        in order, a VR is unknown, a value is not ASCII, or the data end within an element.
    """
    if implicit and data[4:6].isalpha():
        return None  # it looks like explicit VR
    at, before, vr = 0, 0, b""
    try:
        while at < len(data):
            if implicit:
                group, number, length = _IMPLICIT_HEAD.unpack_from(data, at)
            else:
                group, number, vr, length = _EXPLICIT_HEAD.unpack_from(data, at)
                if vr in _LONG:
                    (length,) = _LONG_LENGTH.unpack_from(data, at + 8)
                elif vr not in _SHORT:
                    return None
            tag = group << 16 | number
            if tag > last:
                return at
            if tag <= before or group in _NO_ELEMENTS:
                return None
            before, value = tag, at + (8 if implicit or vr in _SHORT else 12)
            if length == UNDEFINED:
                if vr not in _SEQUENCES or tag in found:
                    return None
                at = end_of_items(data, value, implicit, vr)
                continue
            at = value + length
            if tag in found and at <= len(data):
                text = data[value:at].decode("ascii")
                if "\x1b" in text:
                    return None
                found[tag] = text.rstrip("\0 ")
    except (struct.error, ValueError):  # the latter also of a text that is not ASCII
        return None
    return at if at == len(data) else None


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
