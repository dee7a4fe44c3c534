"""DICOM files on a disk: their identifying attributes, and whether they are complete.

The reader follows the elements of a file (PS3.5 7, PS3.10 7). It decodes only identifying attributes, and skips pixel
data.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Container, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.dicom.elements import (
    BIG,
    EXPLICIT,
    HEAD,
    IMPLICIT,
    NO_ELEMENTS,
    Encoding,
    Plain,
    damaged,
    data_set,
    elements,
    guess,
    read_header,
    skip_items,
    values,
    walk,
)
from pacsifier_ops.dicom.encoding import UNDEFINED
from pacsifier_ops.dicom.heads import Identity, quick_whole, read_identity
from pacsifier_ops.dicom.uids import DEFLATED, PRIVATE_IMPLICIT, is_uid

_MEDIA_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
_CHARACTER_SET, _SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080005, 0x00080016, 0x00080018, 0x00080060
_DESCRIPTION, _STUDY, _SERIES, _SERIES_NUMBER = 0x0008103E, 0x0020000D, 0x0020000E, 0x00200011
_STUDY_DATE, _STUDY_TIME, _ACCESSION = 0x00080020, 0x00080030, 0x00080050
_INSTANCE_NUMBER = 0x00200013
#: Number of bytes that most files have before the data set, and more.
_FILE_META = 1024
#: First bytes of a file in which most objects show what they are, up to their pixel data.
BEGIN = 1 << 16
#: Prefix, and the header of the first element, which gives the length of the others in group 0002 (PS3.10 7.1).
_GROUP_LENGTH = b"DICM\x02\0\0\0UL\x04\0"
_IMPLICIT = (ImplicitVRLittleEndian, PRIVATE_IMPLICIT)
#: Dates that most objects have, up to InstanceNumber: of creation, series, acquisition, content, capture and
#: acquisition start.
_DATES = (0x00080012, 0x00080021, 0x00080022, 0x00080023, 0x0008002A, 0x00181012, 0x00189516)
_PATIENT_NAME, _PATIENT_ID, _ISSUER, _BIRTH_DATE = 0x00100010, 0x00100020, 0x00100021, 0x00100030
_UIDS = {
    _SOP_CLASS: "SOP Class UID",
    _SOP_INSTANCE: "SOP Instance UID",
    _STUDY: "Study Instance UID",
    _SERIES: "Series Instance UID",
}
_NAMES = frozenset(
    (
        *(*_UIDS, _CHARACTER_SET, _STUDY_DATE, _STUDY_TIME, _ACCESSION, _MODALITY, _DESCRIPTION),
        *(_PATIENT_NAME, _PATIENT_ID, _ISSUER, _BIRTH_DATE, _SERIES_NUMBER, _INSTANCE_NUMBER, *_DATES),
    )
)


class Directory(ValueError):
    """A DICOMDIR (PS3.10 8): it lists objects, and is none itself."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    """The identifying attributes of a file with one object.

    Attributes:
        path: the file.
        offset: offset of the data set in bytes.
        size: size of the file in bytes.
        mtime_ns: time of the last change, in nanoseconds since the epoch; tools can set it.
        ctime_ns: time of the last change of the file or its metadata, in the same unit; no tool can set it.
        sop_class_uid, sop_instance_uid, study_uid, series_uid: values of the data set.
        transfer_syntax_uid: value of the File Meta Information; where it is missing, the encoding that the data set
            has.
        modality, series_number, description, study_date, study_time, patient_id, issuer, patient_name, birth_date,
            accession, instance_number: texts of the data set, empty where it has none; issuer is IssuerOfPatientID.
        dates: other dates (`YYYYMMDD`) at the top level up to InstanceNumber, joined by backslashes.
        sha256: digest that the whole file must have to be sent, hexadecimal; empty where none is required.
    """

    path: Path
    offset: int
    size: int
    mtime_ns: int
    ctime_ns: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    modality: str = ""
    series_number: str = ""
    description: str = ""
    study_date: str = ""
    study_time: str = ""
    patient_id: str = ""
    issuer: str = ""
    patient_name: str = ""
    birth_date: str = ""
    accession: str = ""
    instance_number: str = ""
    dates: str = ""
    sha256: str = ""

    @property
    def series(self) -> SeriesId:
        """Study and series UID of the object."""
        return SeriesId(self.study_uid, self.series_uid)

    @property
    def kind(self) -> tuple[str, str]:
        """SOP Class UID and Transfer Syntax UID, for which a presentation context is proposed."""
        return self.sop_class_uid, self.transfer_syntax_uid

    def digest(self) -> str:
        """Return the SHA-256 of the encoded data set, hexadecimal.

        Raises:
            OSError: the file cannot be read.
        """
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(self.offset)
            return hashlib.file_digest(stream, "sha256").hexdigest()


def inspect(path: Path) -> DicomFile | None:
    """Read the identifying attributes of a file, up to Instance Number (0020,0013).

    A file without preamble (PS3.10 7.1) counts as DICOM where it begins with an element of group 0002 or 0008.

    Returns:
        The attributes; None where the file is not DICOM.

    Raises:
        Directory: it is a DICOMDIR.
        ValueError: it is DICOM, but damaged; the text gives the reason.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        head = stream.read(_FILE_META + HEAD)
        source = Plain(stream, status.st_size, 0, head)
        announced = head[128:132] == b"DICM"
        source.at = 132 if announced else 0
        first = guess(head[source.at : source.at + 8])
        if not announced and first is None:
            return None
        try:
            return _identify(path, source, status, first)
        except ValueError:
            # Without the prefix, a few bytes may look like implicit VR by chance.
            if announced or (first is not None and not first.implicit):
                raise
            return None


def check_whole(file: DicomFile) -> None:
    """Follow the structure of a file to its end, without reading pixel data.

    A file that was cut exactly between two elements looks complete.

    Raises:
        ValueError: the file is truncated, its elements cannot be followed, or it has changed since `inspect`; the text
            gives the reason.
        OSError: it cannot be read.
    """
    with file.path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
            raise ValueError("the file changed while the upload was running")
        source, encoding = data_set(Plain(stream, file.size, file.offset), file.transfer_syntax_uid)
        for _ in elements(source, encoding):
            pass


@dataclass(frozen=True, slots=True)
class WholeObject:
    """What a file is that was followed to its end."""

    sop_class_uid: str
    transfer_syntax_uid: str
    identity: Identity


def whole_object(path: Path, begin: bytes, size: int) -> WholeObject:
    """Return what a new file is, see `inspect`, `check_whole` and `read_identity`.

    Most objects are followed in their begin alone: the file is opened only where that leaves a doubt.

    Args:
        path: the file.
        begin: its first bytes; `BEGIN` of them are enough for most.
        size: its size in bytes.

    Raises:
        ValueError: it is no DICOM object, is damaged or truncated, or has no valid UIDs; the text gives the reason.
        OSError: it cannot be read.
    """
    if found := _quick_object(path, begin, size):
        return found
    file = inspect(path)
    if file is None:
        raise ValueError("it is not DICOM")
    check_whole(file)
    with path.open("rb") as stream:
        stream.seek(file.offset)
        identity = read_identity(stream, file.transfer_syntax_uid)
    return WholeObject(file.sop_class_uid, file.transfer_syntax_uid, identity)


def _quick_object(path: Path, begin: bytes, size: int) -> WholeObject | None:
    """Return what `whole_object` does for a usual object; None where another reader has to decide."""
    if begin[128:140] != _GROUP_LENGTH:
        return None
    start = 144 + int.from_bytes(begin[140:144], "little")
    meta: dict[int, bytes] = {}
    wanted = (_MEDIA_CLASS, _TRANSFER_SYNTAX)
    if walk(begin[144:start], False, wanted, 0x0002FFFF, meta) != start - 144 or begin[start : start + 2] == b"\x02\0":
        return None
    syntax = _text(meta.get(_TRANSFER_SYNTAX, b""))
    if _text(meta.get(_MEDIA_CLASS, b"")) == MediaStorageDirectoryStorage or not is_uid(syntax):
        return None
    if syntax == ExplicitVRBigEndian or syntax in DEFLATED:
        return None
    data, left, implicit = begin[start:], size - start, syntax in _IMPLICIT
    found = quick_whole(data, left, implicit, followed=True)
    if found is None and (found := quick_whole(data, left, implicit, followed=False)):
        # Compressed pixel data, for one: its fragments are followed in the file.
        try:
            with path.open("rb") as stream:
                for _ in elements(Plain(stream, size, start, begin), IMPLICIT if implicit else EXPLICIT):
                    pass
        except ValueError:
            return None
    return WholeObject(found[0], syntax, found[1]) if found else None


def attributes(stream: BinaryIO, file: DicomFile, wanted: Container[int], last: int) -> dict[int, bytes]:
    """Return encoded values of attributes at the top level of a data set; empty for long values.

    Text has the same encoding in every transfer syntax; numbers and sequences do not.

    Args:
        stream: the file.
        file: what it is.
        wanted: tags of the attributes.
        last: the last of these tags; reading ends there.

    Raises:
        ValueError: the elements cannot be followed; the text gives the reason.
        OSError: the file cannot be read.
    """
    return values(*data_set(Plain(stream, file.size, file.offset), file.transfer_syntax_uid), wanted, last)


@dataclass(frozen=True, slots=True)
class TopLevel:
    """Attributes at the top level of a data set, as they are encoded.

    Attributes:
        transfer_syntax_uid: of the file.
        offset: offset of the data set in bytes.
        little: byte order of numbers.
        values: by tag; empty for long values, and of sequences of undefined length.
    """

    transfer_syntax_uid: str
    offset: int
    little: bool
    values: dict[int, bytes]


def top_level(stream: BinaryIO, wanted: Container[int], last: int) -> TopLevel:
    """Read attributes of a file with File Meta Information (PS3.10 7.1), such as this package writes.

    Args:
        stream: the file.
        wanted: tags of the attributes.
        last: the last of these tags; reading ends there.

    Raises:
        ValueError: it is no such file, or its elements cannot be followed.
        OSError: it cannot be read.
    """
    size = os.fstat(stream.fileno()).st_size
    head = stream.read(_FILE_META + HEAD)
    if head[128:132] != b"DICM":
        raise ValueError("it has no File Meta Information")
    source = Plain(stream, size, 132, head)
    syntax = _file_meta(source, None).get(_TRANSFER_SYNTAX, "")
    offset = source.at
    data, encoding = data_set(source, syntax)
    return TopLevel(syntax, offset, encoding.little, values(data, encoding, wanted, last))


@dataclass(frozen=True, slots=True)
class Element:
    """An element at the top level of a data set, with its offsets in bytes.

    Attributes:
        tag: tag of the attribute.
        start: offset of its header.
        value: offset of its value.
        end: offset after it; for undefined length, after its delimiter.
    """

    tag: int
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The encoding of a data set, and its elements in the order of the file."""

    implicit: bool
    little: bool
    elements: list[Element]


def layout(stream: BinaryIO, start: int, size: int, transfer_syntax_uid: str) -> Layout:
    """Follow a data set to its end, without reading values.

    Args:
        stream: the file.
        start: offset of the data set in bytes.
        size: offset of its end.
        transfer_syntax_uid: its encoding. The caller inflates a deflated data set before.

    Raises:
        ValueError: it is truncated, or its elements cannot be followed; the text gives the reason.
        OSError: it cannot be read.
    """
    source = Plain(stream, size, start)
    _, encoding = data_set(source, transfer_syntax_uid)
    found = []
    while not source.ended():
        at = source.at
        tag, vr, length = read_header(source, encoding)
        if tag >> 16 in NO_ELEMENTS:
            raise damaged()
        value = source.at
        if length == UNDEFINED:
            skip_items(source, encoding, vr)
        else:
            source.skip(length)
        found.append(Element(tag, at, value, source.at))
    return Layout(encoding.implicit, encoding.little, found)


def is_truncated(data_set: bytes) -> bool:
    """Return whether a data set ends within an element, in both encodings of C-FIND responses (PS3.5 A.1, A.2).

    pydicom accepts a truncated last value.
    """
    for encoding in (IMPLICIT, EXPLICIT):
        try:
            for _ in elements(Plain(BytesIO(data_set), len(data_set)), encoding):
                pass
        except (ValueError, struct.error):
            continue
        return False
    return True


def _identify(path: Path, source: Plain, status: os.stat_result, first: Encoding | None) -> DicomFile:
    meta = _file_meta(source, first)
    if meta.get(_MEDIA_CLASS) == MediaStorageDirectoryStorage:
        raise Directory("a DICOMDIR")
    syntax = meta.get(_TRANSFER_SYNTAX) or _syntax_of(source)
    if not is_uid(syntax):
        raise ValueError("its Transfer Syntax UID is malformed")
    offset = source.at
    found = dict.fromkeys(_NAMES, b"") | values(*data_set(source, syntax), _NAMES, _INSTANCE_NUMBER)
    uids = {tag: _text(found[tag]) for tag in _UIDS}
    if wrong := [_UIDS[tag] for tag, uid in uids.items() if not is_uid(uid)]:
        raise ValueError(f"missing or malformed: {', '.join(wrong)}")
    return DicomFile(
        path=path,
        offset=offset,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        sop_class_uid=uids[_SOP_CLASS],
        sop_instance_uid=uids[_SOP_INSTANCE],
        transfer_syntax_uid=syntax,
        study_uid=uids[_STUDY],
        series_uid=uids[_SERIES],
        modality=_text(found[_MODALITY]),
        series_number=_text(found[_SERIES_NUMBER]),
        description=decoded(found[_DESCRIPTION], found[_CHARACTER_SET]),
        study_date=_text(found[_STUDY_DATE]),
        study_time=_text(found[_STUDY_TIME]),
        patient_id=decoded(found[_PATIENT_ID], found[_CHARACTER_SET]),
        issuer=decoded(found[_ISSUER], found[_CHARACTER_SET]),
        patient_name=decoded(found[_PATIENT_NAME], found[_CHARACTER_SET]),
        birth_date=_text(found[_BIRTH_DATE]),
        accession=decoded(found[_ACCESSION], found[_CHARACTER_SET]),
        instance_number=_text(found[_INSTANCE_NUMBER]),
        dates=_days(found[tag] for tag in _DATES),
    )


def _days(values: Iterable[bytes]) -> str:
    days = (text.strip().replace(".", "")[:8] for value in values for text in _text(value).split("\\"))
    return "\\".join(sorted({day for day in days if len(day) == 8 and day.isdecimal()}))


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")


def decoded(value: bytes, character_set: bytes) -> str:
    """Decode text in the data set's character set (PS3.5 6.1)."""
    if value.isascii() and b"\x1b" not in value:
        return _text(value)
    try:
        encodings = convert_encodings(_text(character_set).split("\\"))
        return decode_bytes(value, encodings, {"\\", "^", "="}).strip("\0 ")
    except (LookupError, UnicodeError):
        return value.decode("ascii", "replace").strip("\0 ")


_PLAIN_SYNTAX = {
    IMPLICIT: str(ImplicitVRLittleEndian),
    EXPLICIT: str(ExplicitVRLittleEndian),
    BIG: str(ExplicitVRBigEndian),
}


def _file_meta(source: Plain, first: Encoding | None) -> dict[int, str]:
    """Return elements of group 0002, by the standard explicit VR little endian. `source` ends at the data set."""
    meta: dict[int, str] = {}
    while not source.ended() and source.ahead(2) == b"\x02\0":
        tag, value = next(elements(source, first or EXPLICIT, (_MEDIA_CLASS, _TRANSFER_SYNTAX)))
        meta[tag] = _text(value)
    return meta


def _syntax_of(source: Plain) -> str:
    """Return the transfer syntax of a data set without File Meta Information."""
    encoding = guess(source.ahead(8))
    if encoding is None:
        raise ValueError("it names no transfer syntax, and its data set begins with no element that could tell")
    return _PLAIN_SYNTAX[encoding]
