"""DICOM files as they lie on a disk: what they are, who they are, and whether they are whole.

Files are walked element by element (PS3.5 7, PS3.10 7); no value is decoded but what names the object, and pixel
data are stepped over.
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

#: All others, also those yet to come, have lengths of 32 bits.
_SHORT = frozenset(vr.encode() for vr in vrs.SHORT)
_MEDIA_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
_CHARACTER_SET, _SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080005, 0x00080016, 0x00080018, 0x00080060
_DESCRIPTION, _STUDY, _SERIES, _SERIES_NUMBER = 0x0008103E, 0x0020000D, 0x0020000E, 0x00200011
_STUDY_DATE, _STUDY_TIME, _ACCESSION = 0x00080020, 0x00080030, 0x00080050
_INSTANCE_NUMBER = 0x00200013
#: Dates that most objects have, before InstanceNumber: when it was made, series, acquisition, content; captured; begun.
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
#: Longest value that can be a name, in bytes; longer ones are stepped over.
_LONGEST = 4096
_PIECE = 1 << 16


class Directory(ValueError):
    """A DICOMDIR (PS3.10 8): it lists objects, and is none."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A file that holds one object.

    Attributes:
        path: the file.
        offset: first byte of the data set.
        size: bytes of the file.
        mtime_ns: when it was last changed, in nanoseconds since the epoch; tools can set it.
        ctime_ns: when it or what is known of it was last changed, likewise; no tool can set it.
        sop_class_uid, sop_instance_uid, study_uid, series_uid: as in the data set.
        transfer_syntax_uid: as in the File Meta Information; without one, what the data set looks like.
        modality, series_number, description, study_date, study_time, patient_id, issuer, patient_name, birth_date,
            accession, instance_number: text of the data set, empty where it has none; issuer is IssuerOfPatientID.
        dates: the other days (`YYYYMMDD`) that it tells at its top level up to there, with backslashes between them.
        sha256: what the whole file must be like to be handed over, hexadecimal; empty where nobody has said so.
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
        """Which series it is of."""
        return SeriesId(self.study_uid, self.series_uid)

    @property
    def kind(self) -> tuple[str, str]:
        """SOP Class UID and Transfer Syntax UID: what a presentation context is proposed for."""
        return self.sop_class_uid, self.transfer_syntax_uid

    def digest(self) -> str:
        """SHA-256 of the data set as it is in the file, hexadecimal.

        Raises:
            OSError: the file cannot be read.
        """
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(self.offset)
            return hashlib.file_digest(stream, "sha256").hexdigest()


def inspect(path: Path) -> DicomFile | None:
    """Tell what a file is; reads no further than Instance Number (0020,0013).

    A file without preamble (PS3.10 7.1) is taken for DICOM where it begins with an element of group 0002 or 0008.

    Returns:
        None where it is not DICOM.

    Raises:
        Directory: it is a DICOMDIR.
        ValueError: it is DICOM, but broken; the reason in words.
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
            # Without a prefix, implicit VR is but a likeness of a few bytes.
            if announced or (first is not None and not first.implicit):
                raise
            return None


def check_whole(file: DicomFile) -> None:
    """Follow the structure of a file to its end, reading no pixel data.

    What was cut off exactly between two elements cannot be told from what never was there.

    Raises:
        ValueError: the file is truncated, or its elements cannot be followed, or it is not what it was when
            `inspect` saw it; the reason in words.
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
    """Values as they are encoded, of attributes at the top level of a data set; empty where they are long.

    Text is encoded in the same way in every transfer syntax, numbers and sequences are not.

    Args:
        wanted: tags of the attributes.
        last: the last of these tags; nothing behind it is read.

    Raises:
        ValueError: the elements cannot be followed; the reason in words.
        OSError: it cannot be read.
    """
    with file.path.open("rb") as stream:
        source, encoding = _data_set(_Plain(stream, file.size, file.offset), file.transfer_syntax_uid)
        return {tag: value for tag, value in _elements(source, encoding, wanted, last) if tag in wanted}


@dataclass(frozen=True, slots=True)
class Element:
    """An element at the top level of a data set, and where it lies.

    Attributes:
        tag: the attribute.
        start: first byte of its header.
        value: first byte of its value.
        end: first byte behind it; where its length is undefined, behind its delimiter.
    """

    tag: int
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class Layout:
    """How a data set is encoded, and where its elements lie, in the order in which they do."""

    implicit: bool
    little: bool
    elements: list[Element]


def layout(stream: BinaryIO, start: int, size: int, transfer_syntax_uid: str) -> Layout:
    """Follow a data set to its end, reading no values.

    Args:
        start: where it begins in the stream.
        size: where it ends.
        transfer_syntax_uid: how it is encoded; a deflated one is inflated before.

    Raises:
        ValueError: it is truncated, or its elements cannot be followed; the reason in words.
        OSError: it cannot be read.
    """
    source = _Plain(stream, size, start)
    _, encoding = _data_set(source, transfer_syntax_uid)
    found = []
    while not source.ended():
        at = source.at
        tag, vr, length = _header(source, encoding)
        if tag >> 16 in (0x0000, 0xFFFE):
            raise _lost()
        value = source.at
        if length == UNDEFINED:
            _skip_items(source, encoding, vr)
        else:
            source.skip(length)
        found.append(Element(tag, at, value, source.at))
    return Layout(encoding.implicit, encoding.little, found)


def is_torn(data_set: bytes) -> bool:
    """Whether a data set ends within an element, in either of the encodings that answers come in (PS3.5 A.1, A.2).

    pydicom takes what is left of the last value for all of it.
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
    """Text in the data set's character set (PS3.5 6.1)."""
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
        """The next `count` bytes, or ValueError where there are fewer."""

    def skip(self, count: int) -> None:
        """Step over `count` bytes, or ValueError where there are fewer."""

    def ended(self) -> bool:
        """Whether nothing is left."""


class _Plain:
    """A file as it lies on the disk."""

    def __init__(self, stream: BinaryIO, size: int, at: int = 0) -> None:
        self.stream, self._size, self.at = stream, size, at

    def take(self, count: int) -> bytes:
        start = self.at
        self.skip(count)
        self.stream.seek(start)
        data = self.stream.read(count)
        if len(data) < count:
            raise _truncated()
        return data

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > self._size:
            raise _truncated()

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, or what is left."""
        self.stream.seek(self.at)
        return self.stream.read(count)

    def ended(self) -> bool:
        return self.at == self._size


class _Inflated:
    """A deflated data set (PS3.5 A.5), unpacked piece by piece."""

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
        """Make sure that something is ready; False at the end of what was deflated."""
        while not self._ready and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._stream.read(_PIECE)
            try:
                # Also without further input: the inflater may hold back what did not fit into the last piece.
                self._ready = self._inflater.decompress(packed, _PIECE)
            except zlib.error:
                raise ValueError("what was deflated cannot be inflated") from None
            if not (packed or self._ready or self._inflater.eof):
                raise _truncated()
        return bool(self._ready)


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
    """How to walk a data set whose first byte `source` stands at."""
    if transfer_syntax_uid in DEFLATED:
        return _Inflated(source), _EXPLICIT
    if transfer_syntax_uid in (ImplicitVRLittleEndian, PRIVATE_IMPLICIT):
        return source, _IMPLICIT
    return source, _BIG if transfer_syntax_uid == ExplicitVRBigEndian else _EXPLICIT


def _guess(head: bytes) -> _Encoding | None:
    """How elements are encoded that begin in group 0002 or 0008; None where they do not look like elements."""
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
    """The elements of group 0002, explicit VR little endian by the standard; `source` ends at the data set."""
    values: dict[int, str] = {}
    while not source.ended() and source.peek(2) == b"\x02\0":
        tag, value = next(_elements(source, first or _EXPLICIT, (_MEDIA_CLASS, _TRANSFER_SYNTAX)))
        values[tag] = _text(value)
    return values


def _syntax_of(source: _Plain) -> str:
    """The transfer syntax of a data set that has no File Meta Information to say it."""
    encoding = _guess(source.peek(8))
    if encoding is None:
        raise ValueError("it names no transfer syntax, and its data set begins with no element that could tell")
    return _PLAIN_SYNTAX[encoding]


def _elements(
    source: _Source, encoding: _Encoding, wanted: Container[int] = (), last: int = UNDEFINED
) -> Iterator[tuple[int, bytes]]:
    """Walk the top level of a data set: tag, and the value of those that are wanted and short.

    Ends before the first tag above `last`.
    """
    while not source.ended():
        tag, vr, length = _header(source, encoding)
        if tag > last:
            return
        value = b""
        if tag >> 16 in (0x0000, 0xFFFE):
            raise _lost()
        if length == UNDEFINED:
            _skip_items(source, encoding, vr)
        elif tag in wanted and length <= _LONGEST:
            value = source.take(length)
        else:
            source.skip(length)
        yield tag, value


def _header(source: _Source, encoding: _Encoding) -> tuple[int, bytes, int]:
    """Tag, VR (empty where there is none) and length of the element or item that comes next."""
    head = source.take(8)
    order = "<" if encoding.little else ">"
    group, element, length = struct.unpack(order + "HHL", head)
    tag, vr = group << 16 | element, head[4:6]
    if encoding.implicit or group == 0xFFFE:
        return tag, b"", length
    if vr in _SHORT:
        return tag, vr, struct.unpack(order + "H", head[6:])[0]
    if not _is_vr(vr):
        raise _lost()
    return tag, vr, struct.unpack(order + "L", source.take(4))[0]


def _skip_items(source: _Source, encoding: _Encoding, vr: bytes) -> None:
    """Step over a sequence or encapsulated pixel data of undefined length, with all that is nested (PS3.5 7.5, A.4)."""
    # What is open: a sequence, of which items come next, or an item, of which elements do. UN hides implicit VR
    # (PS3.5 6.2.2).
    stack = [(True, _IMPLICIT if vr == b"UN" else encoding)]
    while stack:
        in_sequence, encoding = stack[-1]
        tag, vr, length = _header(source, encoding)
        if tag == (END_OF_SEQUENCE if in_sequence else END_OF_ITEM):
            stack.pop()
        elif in_sequence is not (tag == ITEM):
            raise _lost()
        elif length != UNDEFINED:
            source.skip(length)
        else:
            stack.append((not in_sequence, _IMPLICIT if vr == b"UN" else encoding))


def _lost() -> ValueError:
    return ValueError("its elements cannot be followed: it is damaged, or not encoded as its Transfer Syntax UID says")
