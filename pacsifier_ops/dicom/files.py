"""DICOM files on a disk: their identifying attributes, and whether they are complete.

The reader follows the elements of a file (PS3.5 7, PS3.10 7). It decodes only identifying attributes, and skips pixel
data.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.dicom import vrs
from pacsifier_ops.dicom.encoding import END_OF_ITEM, END_OF_SEQUENCE, ITEM, UNDEFINED
from pacsifier_ops.dicom.uids import DEFLATED, PRIVATE_IMPLICIT, is_uid

#: All other VRs, also future ones, have lengths of 32 bits.
_SHORT = frozenset(vr.encode() for vr in vrs.SHORT)
_MEDIA_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
_CHARACTER_SET, _SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080005, 0x00080016, 0x00080018, 0x00080060
_DESCRIPTION, _STUDY, _SERIES, _SERIES_NUMBER = 0x0008103E, 0x0020000D, 0x0020000E, 0x00200011
_STUDY_DATE, _STUDY_TIME, _ACCESSION = 0x00080020, 0x00080030, 0x00080050
_INSTANCE_NUMBER = 0x00200013
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
#: Maximum length of an identifying value in bytes; longer values are skipped.
_LONGEST = 4096
#: Number of bytes that are inflated, and read of a file, at once.
_PIECE, _READ = 1 << 16, 1 << 13


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
        source = _Plain(stream, status.st_size)
        head = stream.read(140)
        announced = head[128:132] == b"DICM"
        source.at = 132 if announced else 0
        first = _guess(head[source.at :])
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
        source, encoding = _data_set(_Plain(stream, file.size, file.offset), file.transfer_syntax_uid)
        for _ in _elements(source, encoding):
            pass


def attributes(file: DicomFile, wanted: Container[int], last: int) -> dict[int, bytes]:
    """Return encoded values of attributes at the top level of a data set; empty for long values.

    Text has the same encoding in every transfer syntax; numbers and sequences do not.

    Args:
        file: the file.
        wanted: tags of the attributes.
        last: the last of these tags; reading ends there.

    Raises:
        ValueError: the elements cannot be followed; the text gives the reason.
        OSError: the file cannot be read.
    """
    with file.path.open("rb") as stream:
        source, encoding = _data_set(_Plain(stream, file.size, file.offset), file.transfer_syntax_uid)
        return {tag: value for tag, value in _elements(source, encoding, wanted, last) if tag in wanted}


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
    source = _Plain(stream, size, start)
    _, encoding = _data_set(source, transfer_syntax_uid)
    found = []
    while not source.ended():
        at = source.at
        tag, vr, length = _header(source, encoding)
        if tag >> 16 in (0x0000, 0xFFFE):
            raise _damaged()
        value = source.at
        if length == UNDEFINED:
            _skip_items(source, encoding, vr)
        else:
            source.skip(length)
        found.append(Element(tag, at, value, source.at))
    return Layout(encoding.implicit, encoding.little, found)


def is_truncated(data_set: bytes) -> bool:
    """Return whether a data set ends within an element, in both encodings of C-FIND responses (PS3.5 A.1, A.2).

    pydicom accepts a truncated last value.
    """
    for encoding in (_IMPLICIT, _EXPLICIT):
        try:
            for _ in _elements(_Plain(BytesIO(data_set), len(data_set)), encoding):
                pass
        except (ValueError, struct.error):
            continue
        return False
    return True


def _identify(path: Path, source: _Plain, status: os.stat_result, first: _Encoding | None) -> DicomFile:
    meta = _file_meta(source, first)
    if meta.get(_MEDIA_CLASS) == MediaStorageDirectoryStorage:
        raise Directory("a DICOMDIR")
    syntax = meta.get(_TRANSFER_SYNTAX) or _syntax_of(source)
    if not is_uid(syntax):
        raise ValueError("its Transfer Syntax UID is malformed")
    offset = source.at
    data_set, encoding = _data_set(source, syntax)
    values = dict.fromkeys(_NAMES, b"")
    values |= {tag: value for tag, value in _elements(data_set, encoding, _NAMES, _INSTANCE_NUMBER) if value}
    uids = {tag: _text(values[tag]) for tag in _UIDS}
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
        modality=_text(values[_MODALITY]),
        series_number=_text(values[_SERIES_NUMBER]),
        description=_decoded(values[_DESCRIPTION], values[_CHARACTER_SET]),
        study_date=_text(values[_STUDY_DATE]),
        study_time=_text(values[_STUDY_TIME]),
        patient_id=_decoded(values[_PATIENT_ID], values[_CHARACTER_SET]),
        issuer=_decoded(values[_ISSUER], values[_CHARACTER_SET]),
        patient_name=_decoded(values[_PATIENT_NAME], values[_CHARACTER_SET]),
        birth_date=_text(values[_BIRTH_DATE]),
        accession=_decoded(values[_ACCESSION], values[_CHARACTER_SET]),
        instance_number=_text(values[_INSTANCE_NUMBER]),
        dates=_days(values[tag] for tag in _DATES),
    )


def _days(values: Iterable[bytes]) -> str:
    days = (text.strip().replace(".", "")[:8] for value in values for text in _text(value).split("\\"))
    return "\\".join(sorted({day for day in days if len(day) == 8 and day.isdecimal()}))


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")


def _decoded(value: bytes, character_set: bytes) -> str:
    """Decode text in the data set's character set (PS3.5 6.1)."""
    if value.isascii() and b"\x1b" not in value:
        return _text(value)
    try:
        encodings = convert_encodings(_text(character_set).split("\\"))
        return decode_bytes(value, encodings, {"\\", "^", "="}).strip("\0 ")
    except (LookupError, UnicodeError):
        return value.decode("ascii", "replace").strip("\0 ")


# Structure


class _Source(Protocol):
    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; raise ValueError where there are fewer."""

    def skip(self, count: int) -> None:
        """Skip `count` bytes; raise ValueError where there are fewer."""

    def ended(self) -> bool:
        """Return whether nothing is left."""


class _Plain:
    """A file without compression."""

    def __init__(self, stream: BinaryIO, size: int, at: int = 0) -> None:
        self.stream, self._size, self.at = stream, size, at
        self._ready, self._begin = b"", 0  # bytes that were read, and their offset

    def take(self, count: int) -> bytes:
        start = self.at - self._begin
        self.skip(count)
        if not 0 <= start <= len(self._ready) - count:
            self._begin, start = self.at - count, 0
            self.stream.seek(self._begin)
            self._ready = self.stream.read(max(count, _READ))
        data = self._ready[start : start + count]
        if len(data) < count:
            raise _truncated()
        return data

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > self._size:
            raise _truncated()

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes, or the rest."""
        self.stream.seek(self.at)
        return self.stream.read(count)

    def ended(self) -> bool:
        return self.at == self._size


class _Inflated:
    """A deflated data set (PS3.5 A.5), inflated piece by piece."""

    def __init__(self, packed: _Plain) -> None:
        self._stream, self._inflater, self._ready = packed.stream, zlib.decompressobj(-zlib.MAX_WBITS), b""
        self._stream.seek(packed.at)

    def take(self, count: int) -> bytes:
        return b"".join(self._pieces(count))

    def skip(self, count: int) -> None:
        for _ in self._pieces(count):
            pass

    def ended(self) -> bool:
        return not self._fill()

    def _pieces(self, count: int) -> Iterator[bytes]:
        while count:
            if not self._fill():
                raise _truncated()
            piece, self._ready = self._ready[:count], self._ready[count:]
            count -= len(piece)
            yield piece

    def _fill(self) -> bool:
        """Inflate a piece unless one is ready. Return False at the end of the data set."""
        while not self._ready and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._stream.read(_PIECE)
            try:
                # Also without further input: the inflater may hold output that did not fit into the last piece.
                self._ready = self._inflater.decompress(packed, _PIECE)
            except zlib.error:
                raise ValueError("what was deflated cannot be inflated") from None
            if not (packed or self._ready or self._inflater.eof):
                raise _truncated()
        return bool(self._ready)


class _Form:
    """Unpacks headers of elements in one byte order (PS3.5 7.1)."""

    def __init__(self, order: str) -> None:
        self.implicit = struct.Struct(f"{order}HHL").unpack
        self.explicit = struct.Struct(f"{order}HH2sH").unpack
        self.long = struct.Struct(f"{order}L").unpack


_LITTLE_ENDIAN, _BIG_ENDIAN = _Form("<"), _Form(">")


def _truncated() -> ValueError:
    return ValueError("the file is truncated")


@dataclass(frozen=True)
class _Encoding:
    implicit: bool
    little: bool


_IMPLICIT, _EXPLICIT, _BIG = _Encoding(True, True), _Encoding(False, True), _Encoding(False, False)
_PLAIN_SYNTAX = {
    _IMPLICIT: str(ImplicitVRLittleEndian),
    _EXPLICIT: str(ExplicitVRLittleEndian),
    _BIG: str(ExplicitVRBigEndian),
}


def _data_set(source: _Plain, transfer_syntax_uid: str) -> tuple[_Source, _Encoding]:
    """Return the reader and the encoding of the data set at the position of `source`."""
    if transfer_syntax_uid in DEFLATED:
        return _Inflated(source), _EXPLICIT
    if transfer_syntax_uid in (ImplicitVRLittleEndian, PRIVATE_IMPLICIT):
        return source, _IMPLICIT
    return source, _BIG if transfer_syntax_uid == ExplicitVRBigEndian else _EXPLICIT


def _guess(head: bytes) -> _Encoding | None:
    """Return the encoding of elements of group 0002 or 0008; None where the bytes do not look like elements."""
    if len(head) < 8 or head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
        return None
    little = head[0] != 0
    if _is_vr(head[4:6]):
        return _EXPLICIT if little else _BIG
    element, length = struct.unpack("<HL", head[2:8])
    plausible = little and element <= 0x18 and length <= _LONGEST and length % 2 == 0
    return _IMPLICIT if plausible else None


def _is_vr(letters: bytes) -> bool:
    return letters.isalpha() and letters.isupper()


def _file_meta(source: _Plain, first: _Encoding | None) -> dict[int, str]:
    """Return elements of group 0002, by the standard explicit VR little endian. `source` ends at the data set."""
    values: dict[int, str] = {}
    while not source.ended() and source.peek(2) == b"\x02\0":
        tag, value = next(_elements(source, first or _EXPLICIT, (_MEDIA_CLASS, _TRANSFER_SYNTAX)))
        values[tag] = _text(value)
    return values


def _syntax_of(source: _Plain) -> str:
    """Return the transfer syntax of a data set without File Meta Information."""
    encoding = _guess(source.peek(8))
    if encoding is None:
        raise ValueError("it names no transfer syntax, and its data set begins with no element that could tell")
    return _PLAIN_SYNTAX[encoding]


def _elements(
    source: _Source, encoding: _Encoding, wanted: Container[int] = (), last: int = UNDEFINED
) -> Iterator[tuple[int, bytes]]:
    """Yield the tags of the top level of a data set, with the value of those that are wanted and short.

    Ends before the first tag above `last`.
    """
    while not source.ended():
        tag, vr, length = _header(source, encoding)
        if tag > last:
            return
        value = b""
        if tag >> 16 in (0x0000, 0xFFFE):
            raise _damaged()
        if length == UNDEFINED:
            _skip_items(source, encoding, vr)
        elif tag in wanted and length <= _LONGEST:
            value = source.take(length)
        else:
            source.skip(length)
        yield tag, value


def _header(source: _Source, encoding: _Encoding) -> tuple[int, bytes, int]:
    """Return tag, VR (empty for implicit VR) and length of the next element or item."""
    head = source.take(8)
    form = _LITTLE_ENDIAN if encoding.little else _BIG_ENDIAN
    group, element, length = form.implicit(head)
    tag = group << 16 | element
    if encoding.implicit or group == 0xFFFE:
        return tag, b"", length
    _, _, vr, length = form.explicit(head)
    if vr in _SHORT:
        return tag, vr, length
    if not _is_vr(vr):
        raise _damaged()
    return tag, vr, form.long(source.take(4))[0]


def _skip_items(source: _Source, encoding: _Encoding, vr: bytes) -> None:
    """Skip a sequence or encapsulated pixel data of undefined length with all nested items (PS3.5 7.5, A.4)."""
    # The open sequences and items, from the outside: whether it is a sequence, and its encoding. UN means implicit VR
    # (PS3.5 6.2.2).
    stack = [(True, _IMPLICIT if vr == b"UN" else encoding)]
    while stack:
        in_sequence, encoding = stack[-1]
        tag, vr, length = _header(source, encoding)
        if tag == (END_OF_SEQUENCE if in_sequence else END_OF_ITEM):
            stack.pop()
        elif in_sequence is not (tag == ITEM):
            raise _damaged()
        elif length != UNDEFINED:
            source.skip(length)
        else:
            stack.append((not in_sequence, _IMPLICIT if vr == b"UN" else encoding))


def end_of_items(data: bytes, at: int, implicit: bool, vr: bytes) -> int:
    """Return the offset behind a sequence of undefined length in little endian, whose first item is at `at`.

    Raises:
        ValueError: the data end before, or its items cannot be followed.
    """
    source = _Plain(BytesIO(data), len(data), at)
    _skip_items(source, _IMPLICIT if implicit else _EXPLICIT, vr)
    return source.at


def _damaged() -> ValueError:
    return ValueError("its elements cannot be followed: it is damaged, or not encoded as its Transfer Syntax UID says")
