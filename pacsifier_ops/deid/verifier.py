"""The final check: whether a de-identified file still identifies the patient.

`Identifiers.of` collects the identifiers of the object before de-identification. `search` reads the finished file again
and looks for them, in decoded values and in bytes. It does not rely on the engine.

The method of comparison for each kind of identifier, chosen so that a hit is meaningful:

| identifier                                | where and how                                                            |
|-------------------------------------------|--------------------------------------------------------------------------|
| parts of names; ids; birth dates          | in text, as whole words                                                  |
| names of four letters                     | the same, but not in opaque bytes                                        |
| whole names, in either order              | in text, as consecutive words                                            |
| short parts and ids, such as Eva or 12345 | as a whole text                                                          |
| names in Han, kana, Hangul                | anywhere in text; one character only without a neighbour of the script   |
| everyday words, short ids of procedures   | as the whole value of the same attribute, or of a name                   |
| ids of digits in numbers (IS, DS), UIDs   | as a whole number, or a whole component                                  |
| other dates, where dates are shifted      | like birth dates; in numbers at their beginning                          |
| dates of the patient's other objects      | in numbers of any VR: with a year of four digits, in any order           |
| UIDs that had to be replaced              | as a whole UID                                                           |

Text is compared without case and accents; ä equals a as well as ae. Everyday words are those that the cleaning of
descriptions keeps, and names of devices, departments and placeholders. Times are ignored. Pixels and samples are not
searched, but other data in compressed pixel streams are.

Bytes are searched element by element. Most elements of a series are the same in every file: `Searched` remembers the
bytes of those that are clean. It shares nothing with the engine, which remembers other things.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator, read_sequence
from pydicom.uid import UID

from pacsifier_ops.deid import imaging, tables
from pacsifier_ops.deid.identifiers import (
    BETWEEN,
    CHARACTER_SET,
    IDS,
    LONE,
    WORD,
    ByPrefix,
    Identifiers,
    SearchTerms,
    charset_of,
    expand_umlauts,
    forms_of,
    readings,
    tags_of,
    words_of,
    written,
)
from pacsifier_ops.deid.numbers import is_one_of, numbers_in
from pacsifier_ops.dicom import vrs
from pacsifier_ops.dicom.charsets import DEFAULT, Charset
from pacsifier_ops.query.names import fold

__all__ = ["Identifiers", "Searched", "search"]

_UNDEFINED = 0xFFFFFFFF
_NONE: Mapping[str, int] = {}
_ITEM, _ITEM_BIG = b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"
_TRANSFER_SYNTAX, _PIXEL_DATA, _FRAMES = 0x00020010, 0x7FE00010, 0x00280008
#: SamplesPerPixel, NumberOfFrames, Rows, Columns and BitsAllocated: they determine the size of native pixels.
_DIMENSIONS = frozenset({0x00280002, _FRAMES, 0x00280010, 0x00280011, 0x00280100})
#: Larger values (bytes) are copied only when their VR is known; larger files are mapped instead of read into memory.
_LARGE, _MAPPED = 1 << 16, 1 << 16
#: Maximum length in bytes of elements that are remembered as clean, and maximum numbers of them, and of patients.
_SHORT, _MOST, _MOST_PATIENTS = 1 << 10, 20_000, 8
#: Minimum number of clean elements that are compared at once, maximum number of such runs; number of bytes by which
#: they are found, and maximum length in bytes.
_FEWEST, _MOST_RUNS, _RUN, _LONGEST = 2, 1000, 12, 1 << 16
#: Markers of comments and application data, by the first bytes of a stream: JPEG and JPEG-LS; JPEG 2000.
_NON_PIXEL_MARKERS = {b"\xff\xd8": (0xFE, *range(0xE0, 0xF0)), b"\xff\x4f": (0x64,)}
#: Markers that precede the pixels: start of scan, start of tile-part, end of image.
_FIRST_PIXELS = (0xDA, 0x90, 0xD9)
#: Pixels and samples: numbers, too many to search.
_BULK = tags_of("PixelData FloatPixelData DoubleFloatPixelData WaveformData SpectroscopyData")


def search(source: Path | bytes, identifiers: Identifiers, searched: Searched | None = None) -> list[str]:
    """Search a file for identifiers.

    Args:
        source: the file, or its bytes.
        identifiers: identifiers of the original object.
        searched: what was found clean in other files, and need not be searched again.

    Returns:
        The hits in words: which attribute's value was found where, without the value. Or why the file cannot be
            searched. Empty where the file is clean.

    Raises:
        OSError: the file cannot be read at all.
    """
    try:
        content = read(source, None if searched is None else searched.for_terms_of(identifiers))
    except Unreadable as error:
        return [str(error)]
    terms = identifiers.terms
    dates = {day: tag for day, tag in terms.dates.items() if day not in identifiers.dates}
    found = hits(content, terms, identifiers.uids, dates)
    places = set(map(_place, _dates_in_numbers(content, identifiers.days - identifiers.dates)))
    found |= {Hit("a date", place) for place in places - {hit.where for hit in found}}
    if not found:
        for clean, element, uids in content.new:
            if len(clean) >= _MOST:
                clean.clear()
            clean[element] = uids
    return [str(hit) for hit in sorted(found)]


#: UIDs in clean elements. The tag is 0 for UIDs in the bytes of an element.
_Uids: TypeAlias = tuple[tuple[int, str], ...]


class _Clean(dict[bytes, _Uids]):
    """UIDs in elements that are clean, by the bytes of the element with its header.

    Attributes:
        runs: bytes and UIDs of clean elements that followed each other, by their first bytes.
        alone: the clean elements of the last file that were in no run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[bytes, tuple[bytes, _Uids]] = {}
        self.alone: set[bytes] = set()

    def keep_runs(self, data: bytes | mmap.mmap, found: list[tuple[int, bytes, _Uids]]) -> None:
        """Keep runs of clean elements that the last file had as well: start, bytes and UIDs of each, in order."""
        run: list[tuple[int, bytes, _Uids]] = []
        began = ended = 0
        for one in [*found, (-1, b"", ())]:
            start, element, _ = one
            same = element in self.alone
            if same and run and start == ended and start + len(element) - began <= _LONGEST:
                run.append(one)
                ended += len(element)
                continue
            if len(run) >= _FEWEST:
                if len(self.runs) >= _MOST_RUNS:
                    self.runs.clear()
                self.runs[data[began : began + _RUN]] = (
                    data[began:ended],
                    tuple(uid for *_, uids in run for uid in uids),
                )
            run, began, ended = [one] if same else [], start, start + len(element)
        self.alone = {element for _, element, _ in found}


class Searched:
    """Elements that are clean: no identifier is in them apart from UIDs, which differ between objects.

    Whether an element is clean depends on its bytes, its encoding and character sets, and on what is searched for.
    """

    def __init__(self) -> None:
        self._clean: dict[Hashable, defaultdict[tuple[_Form, Charset], _Clean]] = {}

    def for_terms_of(self, identifiers: Identifiers) -> defaultdict[tuple[_Form, Charset], _Clean]:
        """Return the elements that are clean of these identifiers, by their encoding and character sets."""
        key = replace(identifiers, uids=frozenset())
        found = self._clean.get(key)
        if found is None:
            if len(self._clean) >= _MOST_PATIENTS:
                self._clean.clear()
            found = self._clean[key] = defaultdict(_Clean)
        return found


class Hit(NamedTuple):
    """One hit.

    Attributes:
        what: keyword of the attribute that the identifier is from, or `a UID that had to be replaced`.
        where: tag of the attribute with the hit; `the bytes of the file` where it is unknown.
    """

    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.what} found in {self.where}"


def hits(
    content: FileContent, terms: SearchTerms, uids: AbstractSet[str], dates: Mapping[str, int] = _NONE
) -> set[Hit]:
    """Search the content of a file.

    Args:
        content: the content.
        terms: identifiers to search for.
        uids: UIDs that must not occur.
        dates: dates (`YYYYMMDD`) that must not occur, with the tag that they are from.
    """
    found = {*_in_text(content, terms, dates), *_in_values(content, terms, dates), *_in_bytes(content, terms, dates)}
    every = {Hit(_name(source), _place(tag)) for source, tag in found}
    return every | {Hit("a UID that had to be replaced", _place(tag)) for tag in _old_uids(content, uids)}


def read(source: Path | bytes, clean: defaultdict[tuple[_Form, Charset], _Clean] | None = None) -> FileContent:
    """Read the content of a DICOM file for `hits`.

    Args:
        source: the file, or its bytes.
        clean: elements to leave out, apart from their UIDs (see `Searched`).

    Raises:
        Unreadable: it cannot be searched; the text gives the reason.
        OSError: the file cannot be read at all.
    """
    if isinstance(source, bytes):
        return _read_checked(source, clean)
    with source.open("rb", buffering=0) as stream:
        if os.fstat(stream.fileno()).st_size < _MAPPED:
            return _read_checked(stream.readall(), clean)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_checked(data, clean)


def content_of(texts: Iterable[str]) -> FileContent:
    """Prepare texts that are no DICOM file for `hits`: cells of tables, or names of files."""
    content = FileContent()
    for text in texts:
        content.texts.append((0, text.encode("ascii") if text.isascii() else text))
        content.pieces.append(text.encode("utf-8", "surrogateescape"))
    return content


#: Characters of numbers, dates and UIDs; characters of text in any encoding.
_NUMERIC = b"0123456789+-.eE: \\\0"
_PRINTABLE = bytes([0, 9, 10, 12, 13, 27, *range(32, 127), *range(160, 256)])
_UID = re.compile(rb"[0-2]\.[\d.]{8,}\d")


@dataclass(slots=True)
class FileContent:
    """The content of a file, by the method of search: tag and value. Values other than plain ASCII are decoded.

    Attributes:
        texts: values of text VRs, and binary values that look like text.
        codes: other text, which is never compared as a whole.
        named: names (key 0) and ids (key: their tag), for comparison as a whole: key, tag and value.
        numbers: values of IS and DS.
        dates: values of DA and DT.
        uids: values of UI.
        measures: numbers of any VR that is wide enough for a date: tag, VR, value, little endian.
        binary: values of other VRs.
        pieces: the bytes of the file without pixels and samples, element by element.
        clean_uids: tag and UID of elements that are left out, because they are clean otherwise.
        new: elements that are not: where to keep each if it is clean, its bytes, its UIDs.
    """

    texts: list[tuple[int, bytes | str]] = field(default_factory=list)
    codes: list[tuple[int, bytes | str]] = field(default_factory=list)
    named: list[tuple[int, int, bytes | str]] = field(default_factory=list)
    numbers: list[tuple[int, bytes]] = field(default_factory=list)
    dates: list[tuple[int, bytes]] = field(default_factory=list)
    uids: list[tuple[int, bytes]] = field(default_factory=list)
    measures: list[tuple[int, str, bytes, bool]] = field(default_factory=list)
    binary: list[tuple[int, bytes]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    clean_uids: list[tuple[int, str]] = field(default_factory=list)
    new: list[tuple[_Clean, bytes, tuple[tuple[int, str], ...]]] = field(default_factory=list)


class Unreadable(Exception):
    """The file is not valid; the text gives the reason."""


def _read_checked(data: bytes | mmap.mmap, clean: defaultdict[tuple[_Form, Charset], _Clean] | None) -> FileContent:
    try:
        return _read(data, clean)
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(f"the file cannot be read again ({type(error).__name__})") from None


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _place(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})" if tag else "the bytes of the file"


def _in_text(content: FileContent, terms: SearchTerms, dates: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Yield hits in text: tag of the identifier, and tag of the attribute."""
    for values, whole in ((content.texts, terms.whole), (content.codes, {})):
        if any(_matches([value for _, value in values], terms, dates, whole)):
            for tag, value in values:
                for source in _matches([value], terms, dates, whole):
                    yield source, tag


def _matches(
    values: list[bytes | str], terms: SearchTerms, dates: Mapping[str, int], whole: Mapping[str, int]
) -> Iterator[int]:
    ascii_text = b"\x1d".join([value for value in values if isinstance(value, bytes)]).decode("ascii").lower()
    others = [value for value in values if isinstance(value, str)]
    joined = BETWEEN.join([ascii_text, *map(fold, others), *(fold(expand_umlauts(value)) for value in others)])
    found = WORD.findall(joined.replace("\\", BETWEEN).replace("=", BETWEEN))
    words, text = set(found), f" {' '.join(found)} "
    yield from (terms.words[word] for word in terms.words.keys() & words)
    for word in terms.phrases_by_word.keys() & words:
        yield from (source for phrase, source in terms.phrases_by_word[word] if phrase in text)
    if not text.isascii():
        yield from (source for part, source in terms.parts.items() if part in text)
        yield from (terms.lone[one] for one in terms.lone.keys() & set(LONE.findall(text)))
    if whole:
        every = {value.strip() for value in text.split(BETWEEN)}
        yield from (whole[value] for value in whole.keys() & every)
    for date, source in dates.items():
        forms, phrases, _ = written(date)
        if not words.isdisjoint(forms) or any(phrase in text for phrase in phrases):
            yield source


def _in_values(content: FileContent, terms: SearchTerms, dates: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Yield hits of values that are compared as a whole."""
    for key, tag, value in content.named:
        text = value if isinstance(value, str) else value.decode("ascii")
        for one in re.split(r"[\\=]", text):
            for form in forms_of(one):
                if (source := terms.same.get((key, form))) is not None:
                    yield source, tag
    for tag, data in content.numbers:
        there = {one.strip("\0 +").lstrip("0") for one in data.decode("latin-1").split("\\")}
        yield from ((terms.numbers[number], tag) for number in terms.numbers.keys() & there)
    for tag, data in content.uids:
        for uid in data.decode("latin-1").split("\\"):
            # Replacement UIDs contain a number of 128 bits, in which any other number can occur by chance.
            registered = uid.strip("\0 ") in tables.registered_uids()
            if terms.numbers and not registered and not re.match(r"2\.25\.\d{30}", uid):
                yield from ((terms.numbers[part], tag) for part in terms.numbers.keys() & set(uid.split(".")))
    for date, source in dates.items():
        for tag, data in content.dates:
            if re.search(rb"(?<!\d)" + date.encode(), data.replace(b".", b"")):
                yield source, tag
        for tag, data in content.numbers:
            if date.encode() in data and re.search(rb"(?:^|\\)[ +]*" + date.encode(), data):
                yield source, tag


def _dates_in_numbers(content: FileContent, days: frozenset[str]) -> Iterator[int]:
    """Yield tags of attributes with numbers that contain a date."""
    if days:
        for tag, vr, value, little in content.measures:
            if any(is_one_of(days, number) for number in numbers_in(vr, value, little)):
                yield tag


def _in_bytes(content: FileContent, terms: SearchTerms, dates: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Yield hits in binary values, and in all bytes."""
    opaque = [
        terms.in_binary,
        ByPrefix({(form, 1): source for day, source in dates.items() for form in written(day)[2]}),
    ]
    if any(_found_in(b"\0\0".join(value for _, value in content.binary), opaque)):
        for tag, value in content.binary:
            for source in _found_in(value, opaque):
                yield source, tag
    if any(_found_in(b"\0\0".join(content.pieces), [terms.in_all])):
        for piece in content.pieces:
            for source in _found_in(piece, [terms.in_all]):
                yield source, 0


def _found_in(data: bytes, terms: Iterable[ByPrefix]) -> Iterator[int]:
    data = data.lower()
    for form, width, source in (form for forms in terms for form in forms.candidates_in(data)):
        at = data.find(form)
        while at >= 0:
            before, end = data[max(at - width, 0) : at], at + len(form)
            if not (_continues_word(before, form[:width]) or _continues_word(data[end : end + width], form[-width:])):
                yield source
                break
            at = data.find(form, at + 1)


def _continues_word(beside: bytes, end: bytes) -> bool:
    """Return whether the neighbouring character continues a word: letter next to letter, digit next to digit."""
    one, other = beside.strip(b"\0"), end.strip(b"\0")
    if len(one) != 1:
        return False
    return one.isdigit() if other.isdigit() else one.isalpha()


def _old_uids(content: FileContent, uids: AbstractSet[str]) -> Iterator[int]:
    """Yield tags of attributes with UIDs that had to be replaced."""
    yield from (tag for tag, uid in content.clean_uids if uid in uids)
    yield from (tag for tag, uid in _uids_in(content.uids, content.pieces) if uid in uids)


def _uids_in(values: Iterable[tuple[int, bytes]], pieces: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the UIDs of values of UI, and those in bytes, with tag 0."""
    for tag, data in values:
        yield from ((tag, one.strip("\0 ")) for one in data.decode("latin-1").split("\\"))
    for piece in pieces:
        yield from ((0, found.decode()) for found in _UID.findall(piece))


# The content of a file


_SHORT_VRS, _LONG_VRS = ({vr.encode() for vr in of} for of in (vrs.SHORT, vrs.LONG))


class _Form(NamedTuple):
    """Encoding of elements: implicit or explicit VR, and byte order."""

    implicit: bool
    little: bool

    @property
    def header(self) -> Callable[[bytes | mmap.mmap, int], tuple[Any, ...]]:
        """Read group, number, VR if it is explicit, and length of an element; the length may be in `long`."""
        return struct.Struct(("<" if self.little else ">") + ("HHL" if self.implicit else "HH2sH")).unpack_from

    @property
    def long(self) -> Callable[[bytes | mmap.mmap, int], tuple[Any, ...]]:
        """Read a length of 32 bits."""
        return struct.Struct("<L" if self.little else ">L").unpack_from

    def number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.little else "big")


_EXPLICIT = _Form(False, True)


def _read(data: bytes | mmap.mmap, clean: defaultdict[tuple[_Form, Charset], _Clean] | None) -> FileContent:
    """Read a file element by element. Of repeated elements, all are read.

    Raises:
        Unreadable: bytes are missing, or left over.
        Exception: any exception of pydicom.
    """
    if data[128:132] != b"DICM":
        raise Unreadable("the file is not a DICOM file")
    content = FileContent()
    start, syntax = _file_meta(data)
    _sort_binary(content, 0, data[:128])
    content.binary.append((0, data[132:start]))
    content.pieces.append(data[:start])
    if syntax.is_deflated:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data, start = inflater.decompress(data[start:]), 0
        content.pieces.append(inflater.unused_data)
    form = _Form(syntax.is_implicit_VR, syntax.is_little_endian)
    described = dict[int, bytes]()
    at, charset = _read_regular(content, data, start, form, described, defaultdict(_Clean) if clean is None else clean)
    stream = BytesIO(data) if isinstance(data, bytes) else data
    stream.seek(at)
    _sort(content, _without_bulk(content, data, stream, form, described), form, charset)
    if stream.tell() != len(data):
        raise Unreadable("the file holds more than can be read, or ends within a value")
    return content


def _read_regular(
    content: FileContent,
    data: bytes | mmap.mmap,
    at: int,
    form: _Form,
    described: dict[int, bytes],
    clean: defaultdict[tuple[_Form, Charset], _Clean],
) -> tuple[int, Charset]:
    """Read elements of a data set up to one that is irregular: of undefined length, of another VR, or cut off.

    Args:
        content: where the elements go that are not clean.
        data: the bytes of the file.
        at: offset of the first element.
        form: encoding of the data set.
        described: where attributes of the pixels are kept.
        clean: see `Searched`.

    Returns:
        Offset of the irregular element, or of the end; character sets there.
    """
    charset = DEFAULT
    here = clean[form, charset]
    header, long = form.header, form.long
    alone: list[tuple[int, bytes, _Uids]] = []
    while at + _RUN <= len(data):
        run = here.runs.get(data[at : at + _RUN])
        if run is not None and data[at : at + len(run[0])] == run[0]:
            content.clean_uids.extend(run[1])
            at += len(run[0])
            continue
        if form.implicit:
            group, number, length = header(data, at)
            value = at + 8
        else:
            group, number, vr, length = header(data, at)
            value = at + 8
            if vr in _LONG_VRS:
                (length,) = long(data, value)
                value += 4
            elif vr not in _SHORT_VRS:
                break
        tag, end = group << 16 | number, value + length
        if length == _UNDEFINED or end > len(data) or group == 0xFFFE:
            break
        if tag in _BULK:
            content.pieces.append(data[at:value])
            pixels_end = value + min(length, _size_of_pixels(described, form) if tag == _PIXEL_DATA else length)
            content.pieces.append(data[pixels_end:end])
            at = end
            continue
        element = data[at:end]
        uids = here.get(element)
        if uids is not None:
            content.clean_uids.extend(uids)
            if tag not in _DIMENSIONS and tag != CHARACTER_SET:
                alone.append((at, element, uids))
        else:
            before = len(content.uids)
            _sort(content, data_element_generator(BytesIO(element), *form), form, charset)
            content.pieces.append(element)
            if length <= _SHORT:
                content.new.append((here, element, tuple(_uids_in(content.uids[before:], [element]))))
        if tag in _DIMENSIONS:
            described[tag] = data[value:end]
        elif tag == CHARACTER_SET:
            charset = charset_of(data[value:end])
            here.keep_runs(data, alone)
            here, alone = clean[form, charset], []
        at = end
    here.keep_runs(data, alone)
    return at, charset


def _file_meta(data: bytes | mmap.mmap) -> tuple[int, UID]:
    """Return the end of the file meta information, and the transfer syntax."""
    at, syntax = 132, b""
    header, long = _EXPLICIT.header, _EXPLICIT.long
    while data[at : at + 2] == b"\2\0":
        _, number, vr, length = header(data, at)
        at += 8
        if vr in _LONG_VRS:
            (length,) = long(data, at)
            at += 4
        if vr not in _SHORT_VRS | _LONG_VRS or at + length > len(data):
            raise Unreadable("the file meta information cannot be read again")
        if number == _TRANSFER_SYNTAX & 0xFFFF:
            syntax = data[at : at + length]
        at += length
    return at, UID(syntax.decode("ascii").rstrip("\0 "))


def _without_bulk(
    content: FileContent, data: bytes | mmap.mmap, stream: Any, form: _Form, described: dict[int, bytes]
) -> Iterator[Any]:
    """Yield the elements of a data set without pixels and samples, and collect the other bytes in `content.pieces`."""
    begin = stream.tell()
    for element in data_element_generator(stream, *form, defer_size=_LARGE):
        if element.tag in _BULK:
            content.pieces.append(data[begin : element.value_tell])
            begin = _end(data, element, _size_of_pixels(described, form) if element.tag == _PIXEL_DATA else _UNDEFINED)
            for remark in _non_pixel_data(data, element.value_tell, begin) if element.length == _UNDEFINED else ():
                _sort_binary(content, int(element.tag), remark)
        elif isinstance(element, RawDataElement) and element.value is None and element.length:  # a large value
            yield element._replace(value=data[element.value_tell : element.value_tell + element.length])
        else:
            if element.tag in _DIMENSIONS:
                described[element.tag] = element.value
            yield element
    content.pieces.append(data[begin:])


def _end(data: bytes | mmap.mmap, element: RawDataElement, most: int) -> int:
    """Return the end of pixels or samples: of the last fragment, or of the native pixels by the image's dimensions."""
    place = element.value_tell
    if element.length != _UNDEFINED:
        if place + element.length > len(data):
            raise Unreadable("the file ends within a value")
        return place + min(element.length, most)
    while data[place : place + 4] == _ITEM:
        place += 8 + int.from_bytes(data[place + 4 : place + 8], "little")
    return place


def _non_pixel_data(data: bytes | mmap.mmap, place: int, end: int) -> Iterator[bytes]:
    """Yield data in compressed pixels that are not pixels.

    These are comments and application data of JPEG and JPEG 2000 (ISO/IEC 10918-1 B.2.4, 15444-1 A.9.2), and bytes
    after the end of an image.
    """
    while place < end:
        begin, place = place + 8, place + 8 + int.from_bytes(data[place + 4 : place + 8], "little")
        kinds = _NON_PIXEL_MARKERS.get(data[begin : begin + 2], ())
        marker = begin + 2
        while kinds and marker + 4 <= place and data[marker] == 0xFF and data[marker + 1] not in _FIRST_PIXELS:
            length = int.from_bytes(data[marker + 2 : marker + 4], "big")
            if data[marker + 1] in kinds:
                remark = data[marker + 4 : min(marker + 2 + length, place)]
                if remark.startswith((b"Exif\0", b"http://ns.adobe.com/")):
                    raise Unreadable("the pixel data contain metadata of a photograph (Exif, XMP)")
                yield remark
            marker += 2 + length
        last = data.rfind(b"\xff\xd9", begin, place)
        if kinds and last >= 0 and data[last + 2 : place].strip(b"\0\xff"):
            yield data[last + 2 : place]


def _size_of_pixels(described: Mapping[int, bytes], form: _Form) -> int:
    """Return the size of native pixels in bytes by the image's attributes (PS3.5 8.1.1), or an upper limit."""
    try:
        frames = int(described.get(_FRAMES) or b"1")
        bits = prod(form.number(described[tag]) for tag in _DIMENSIONS - {_FRAMES})
    except (KeyError, ValueError):
        return _UNDEFINED
    return -(-frames * bits // 8)


def _sort(content: FileContent, elements: Iterable[Any], form: _Form, charset: Charset) -> None:
    """Sort the elements of a data set or an item by method of search, recursively."""
    usual = _usual_vrs()
    for element in elements:
        tag, vr, value = int(element.tag), element.VR, element.value
        if vr is None or vr == "UN":
            vr = usual.get(tag, "UN")
        if vr == "SQ":
            within = form if element.VR != "UN" else _Form(True, True)
            for item in _items(value, within):
                _sort(content, item, within, charset)
            continue
        if not value or tag in _BULK:
            continue
        if len(value) != element.length != _UNDEFINED:
            raise Unreadable("the file ends within a value")
        if tag == CHARACTER_SET:
            charset = charset_of(value)
        kind = _METHODS.get(vr, "binary")
        if kind in ("texts", "codes"):
            texts = _decoded(value, charset)
            into = content.texts if kind == "texts" else content.codes
            into.extend((tag, text) for text in texts)
            if vr == "PN" or tag in IDS:
                content.named.extend((0 if vr == "PN" else tag, tag, text) for text in texts)
        elif kind == "binary":
            _sort_binary(content, tag, value)
        elif kind:
            if kind == "numbers" and len(value) > 7:
                content.measures.append((tag, vr, value, form.little))
            if kind == "measures":
                content.measures.append((tag, vr, value, form.little))
                continue
            if kind != "times":
                getattr(content, kind).append((tag, value))
            if value.translate(None, _NUMERIC):
                content.codes.extend((tag, text) for text in _decoded(value, charset))


#: The method of search by VR: the field of `FileContent`. Numbers of a fixed size cannot contain text.
_METHODS = {
    **dict.fromkeys(words_of("AE LO LT PN SH ST UC UR UT"), "texts"),
    **dict.fromkeys(words_of("AS CS"), "codes"),
    **{"DA": "dates", "DT": "dates", "DS": "numbers", "IS": "numbers", "TM": "times", "UI": "uids"},
    **dict.fromkeys(words_of("FD FL SL SV UL UV"), "measures"),
    **dict.fromkeys(words_of("AT SS US"), ""),
}


def _items(value: Any, form: _Form) -> Iterator[Iterable[Any]]:
    """Yield the elements of each item of a sequence."""
    at = 0
    if isinstance(value, bytes):
        item = _ITEM if form.little else _ITEM_BIG
        while value[at : at + 4] == item and value[at + 4 : at + 8] != b"\xff\xff\xff\xff":
            end = at + 8 + form.number(value[at + 4 : at + 8])
            if end > len(value):
                raise Unreadable("the file ends within a value")
            yield data_element_generator(BytesIO(value[at + 8 : end]), *form)
            at = end
        value = read_sequence(BytesIO(value[at:]), *form, len(value) - at, "ascii") if at < len(value) else []
    yield from (item.values() for item in value or ())


def _sort_binary(content: FileContent, tag: int, value: bytes) -> None:
    """Sort a binary value. Text fields of a file inside it are searched one by one."""
    for text in imaging.texts(value):
        if text.translate(None, _NUMERIC):
            _sort_binary(content, tag, text)
        elif text:
            content.numbers.append((tag, text))
    if value.translate(None, _PRINTABLE):
        content.binary.append((tag, value))
        with suppress(UnicodeDecodeError):
            if (read := value.strip(b"\0").decode()).isprintable() and not read.isascii():
                content.texts.append((tag, read))
    elif len(value) > 1:
        content.texts.extend((tag, text) for text in _decoded(value.replace(b"\0", b""), DEFAULT))


def _decoded(value: bytes, charset: Charset) -> list[bytes | str]:
    """Decode a text in all plausible character sets; ASCII stays as it is."""
    if value.isascii() and b"\x1b" not in value:
        return [value]
    more = [value.decode("latin-1")] if b"\x1b" not in value else []
    return list(dict.fromkeys([*readings(value, charset), *more]))


@cache
def _usual_vrs() -> Mapping[int, str]:
    return {tag: entry[0] for tag, entry in DicomDictionary.items()}
