"""Reads an object completely and strictly (PS3.5 7, PS3.10 7): every byte must be interpreted.

An object with other bytes is refused. Other readers are lenient: they accept a length beyond the end, a repeated tag,
or bytes after the last element. In each of these places one reader may see an identifier that another does not see.
Reasons of a refusal name no tag: in a damaged file, bytes that look like a tag may be part of a name.

Common errors of devices and tools are mended where the bytes have only one interpretation. Every byte is then
interpreted, or not copied. Each correction is counted (see MENDED), and the result is encoded correctly.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import tables
from pacsifier_ops.dicom import vrs
from pacsifier_ops.dicom.charsets import DEFAULT, Charset, corrected
from pacsifier_ops.dicom.encoding import PIXEL_DATA, UNDEFINED, Elements, Fragments, Stretch, Syntax, Value, pieces

#: Maximum depth of nested sequences. An object with deeper ones is refused.
MOST_DEEP = 64
#: Maximum size of an inflated data set in bytes.
MOST_INFLATED = 2**30
#: Maximum number of headers that are kept.
_MOST_HEADERS = 20_000
#: Runs of elements: maximum number that is kept, minimum number of elements; maximum size in bytes of an element,
#: and of a run.
_MOST_RUNS, _FEWEST, _LARGEST, _LONGEST = 1000, 4, 1 << 12, 1 << 16
#: Larger files (bytes) are mapped instead of read into memory. Pixel data above the second size are not copied.
_MAPPED, _STRETCH = 1 << 26, 1 << 14
#: Bytes that are read at once.
_PIECE = 1 << 20

#: Corrections, by the id under which they are counted.
MENDED = {
    "mended/no-preamble": "the preamble and the prefix DICM are missing",
    "mended/file-meta": "file meta information is missing, is in implicit VR, or names no transfer syntax",
    "mended/transfer-syntax": "elements are in another VR encoding than the transfer syntax says",
    "mended/items": "items are in another VR encoding than their sequence",
    "mended/deflated": "a deflated data set has a zlib header, or zeros or the trailer of gzip behind it",
    "mended/zeros": "zeros stand behind the last element",
    "mended/odd-length": "a value has an odd length",
    "mended/length": "the field of a length is of the wrong size, or its reserved bytes are not zero",
    "mended/vr": "a value representation is none of PS3.5",
    "mended/order": "elements are not in order",
    "mended/twice": "an element is there twice, and is the same",
    "mended/delimiter": "a delimiter is the wrong one, has a length, or is missing behind the pixels",
    "mended/no-sequence": "a sequence is text or bytes; it is left out",
    "mended/character-set": "a character set is misspelt",
}

_PREAMBLE = 128
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_ENDS = frozenset((_ITEM_END, _SEQUENCE_END))
_CHARACTER_SET, _TRANSFER_SYNTAX = 0x00080005, 0x00020010
_FIRST_GROUP = 0x00080000
_SPECIAL = frozenset((_CHARACTER_SET, PIXEL_DATA))
_FRAMES, _REPRESENTATION = 0x00280008, 0x00280103
_SHORT = frozenset(vr.encode() for vr in vrs.SHORT)
_LONG = frozenset(vr.encode() for vr in vrs.LONG)
_NAMES = {vr.encode(): vr for vr in vrs.SHORT | vrs.LONG}

#: Values that writers use for a VR that they do not know, or that is newer than PS3.5.
_UNKNOWN_VRS = frozenset((b"??", b"\0\0", b"  ", b"--", b"OX", b"XS", b"UK"))
#: VRs of numbers: a byte more or less would change the value.
_NUMBERS = frozenset(("AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"))
_IMPLICIT_SYNTAX, _EXPLICIT_SYNTAX, _BIG_SYNTAX = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
)

_LENGTH_PAST_END = "its encoding is damaged: a length leads past the end of what holds the element"
_TRUNCATED = "its encoding is damaged: it ends in the middle of an element"


class Parsed(Dataset):
    """A data set from a file.

    As a pydicom data set it decodes values on access. The engine uses `elements` only, so it ignores later changes of
    the data set.

    Attributes:
        elements: all elements of the file, as they were encoded.
        layout: the same in order: runs that were there before, and the tags of all others.
        syntax: transfer syntax of the elements.
        meta: values of the file meta information, by tag.
        mended: number of corrections, by id (MENDED).
        looked_at: tags of the elements whose values were asked for, as of a pydicom data set.
    """

    elements: Elements
    layout: Layout
    syntax: Syntax
    meta: dict[int, bytes]
    mended: dict[str, int]

    def __init__(self, reader: _Reader, form: _Form) -> None:
        super().__init__()
        self.looked_at: set[int]
        self.__dict__.update(_reader=reader, _form=form, looked_at=set())
        object.__delattr__(self, "_dict")

    def __getattr__(self, name: str) -> Any:
        if name == "_dict":  # few objects are looked at as a pydicom data set: its elements are made then
            self._dict = self._reader.raw(self.elements, self._form)
            return self._dict
        if name == "file_meta":
            self.file_meta = FileMetaDataset(
                {
                    BaseTag(tag): RawDataElement(BaseTag(tag), None, len(value), value, 0, False, True)
                    for tag, value in self.meta.items()
                }
            )
            return self.file_meta
        return super().__getattr__(name)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.looked_at.add(int(getattr(found, "tag", 0)))
        if isinstance(found, DataElement) and isinstance(found.value, Stretch):
            found.value = bytes(found.value)
        return found

    def get_item(self, key: Any, *more: Any, **options: Any) -> Any:
        found = super().get_item(key, *more, **options)
        self.looked_at.add(int(getattr(found, "tag", 0)))
        return found


def read(path: Path) -> Parsed:
    """Read a file.

    Raises:
        Unfit: it is not DICOM, or not encoded as the standard says.
        OSError: it cannot be read at all.
    """
    with path.open("rb", buffering=0) as stream:
        if os.fstat(stream.fileno()).st_size < _MAPPED:
            return parse(stream.readall())
        # What cannot be read is an error here; in a mapping, it would end the process.
        while stream.read(_PIECE):
            pass
        return parse(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


#: Attributes that identify the object and its patient. They must be text: other VRs could be read in two ways.
_IDENTIFYING = (0x00080016, 0x00080018, 0x00080060, 0x00100020, 0x0020000D, 0x0020000E)


def parse(data: bytes | mmap.mmap) -> Parsed:
    """Read the bytes of a file. Native pixel data refer to them (see `Stretch`).

    Raises:
        Unfit: see `read`.
    """
    mended: Counter[str] = Counter()
    meta, start = _meta(data, _start_offset(data, mended), mended)
    named = meta[_TRANSFER_SYNTAX].strip(b" \0").decode("latin-1") if _TRANSFER_SYNTAX in meta else ""
    syntax = Syntax.of(named or _likely_syntax(data, start, mended))
    if syntax.deflated:
        data, start = _inflate(data[start:], mended), 0
    reader = _Reader(data, syntax.encapsulated, _form(syntax.implicit, syntax.little), mended)
    form = reader.form_of(start, len(data), _form(syntax.implicit, syntax.little))
    if form.implicit != syntax.implicit:
        mended["mended/transfer-syntax"] += 1
        if not (syntax.encapsulated or syntax.deflated):
            syntax = Syntax.of(_IMPLICIT_SYNTAX if form.implicit else _EXPLICIT_SYNTAX)
    elements, _ = reader.elements(start, len(data), form, 0, whole=True)
    layout = reader.layout
    if form.implicit and not syntax.implicit:
        _resolve_signedness(elements)
        layout = [*elements]
    if any(elements[tag][0] not in (*vrs.STRINGS, "UN") for tag in _IDENTIFYING if tag in elements):
        raise Unfit("its UIDs, PatientID or Modality have another value representation than the standard's")
    parsed = Parsed(reader, form)
    # To set an attribute of a pydicom data set takes longer than to read ten elements.
    parsed.__dict__.update(elements=elements, layout=layout, syntax=syntax, meta=meta, mended=dict(mended))
    found = elements.get(_CHARACTER_SET)
    charset = Charset.of(found[1]) if found and isinstance(found[1], bytes) else DEFAULT
    codecs = [codec if codec != "ascii" else "iso8859" for codec in charset.codecs]
    parsed.set_original_encoding(syntax.implicit, syntax.little, codecs)
    return parsed


def sequence(value: bytes, depth: int = 0) -> list[Elements]:
    """Return the items of a sequence of VR UN, which is encoded in implicit VR little endian (PS3.5 6.2.2).

    Raises:
        Unfit: the value is no sequence.
    """
    form = _form(True, True)
    items, _ = _Reader(value, False, form, Counter()).items(0, len(value), form, depth, delimited=False)
    return items


def _start_offset(data: bytes | mmap.mmap, mended: Counter[str]) -> int:
    """Return the offset of the file meta information, or of the data set where there is none."""
    if data[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return _PREAMBLE + 4
    begins = data[:2] in (b"\2\0", b"\x08\0") and int.from_bytes(data[2:4], "little") <= 0x18
    if not begins and data[:4] != b"\0\x08\0\5":
        raise Unfit("it is no DICOM file: the prefix DICM is missing")
    mended["mended/no-preamble"] += 1
    return 0


def _likely_syntax(data: bytes | mmap.mmap, start: int, mended: Counter[str]) -> str:
    """Return the transfer syntax of a data set that declares none: the uncompressed one that it looks like."""
    mended["mended/file-meta"] += 1
    if data[start : start + 2] == b"\0\x08":
        return _BIG_SYNTAX
    return _EXPLICIT_SYNTAX if data[start + 4 : start + 6] in _NAMES else _IMPLICIT_SYNTAX


def _meta(data: bytes | mmap.mmap, position: int, mended: Counter[str]) -> tuple[dict[int, bytes], int]:
    """Return file meta information, and the offset of the data set. The group length is ignored."""
    found: dict[int, bytes] = {}
    implicit = data[position : position + 2] == b"\2\0" and data[position + 4 : position + 6] not in _NAMES
    if implicit:
        mended["mended/file-meta"] += 1
    while data[position : position + 2] == b"\2\0":
        try:
            _, number, vr, length = struct.unpack_from("<HH2sH", data, position)
            position += 8
            if implicit:
                vr, length = b"UN", int.from_bytes(data[position - 4 : position], "little")
            elif vr in _LONG:
                (length,) = struct.unpack_from("<L", data, position)
                position += 4
        except struct.error:
            raise Unfit(_TRUNCATED) from None
        if vr not in _NAMES or position + length > len(data) or 0x00020000 + number in found:
            raise Unfit("its file meta information is damaged")
        found[0x00020000 + number] = data[position : position + length]
        position += length
    return found, position


def _inflate(data: bytes, mended: Counter[str]) -> bytes:
    """Inflate a data set (RFC 1951). Some writers use a zlib stream, or append the trailer of gzip."""
    wrapped = data[:1] == b"\x78" and int.from_bytes(data[:2], "big") % 31 == 0
    inflate = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
    try:
        plain = inflate.decompress(data, MOST_INFLATED)
    except zlib.error:
        raise Unfit("its encoding is damaged: the data set cannot be inflated") from None
    rest = inflate.unused_data
    trailer = struct.pack("<LL", zlib.crc32(plain), len(plain) & UNDEFINED)
    if not inflate.eof or rest.removeprefix(trailer).strip(b"\0"):
        raise Unfit("its deflated data set is too large or ends too early, or bytes follow it")
    if wrapped or rest not in (b"", b"\0"):
        mended["mended/deflated"] += 1
    return plain


def _resolve_signedness(elements: Elements) -> None:
    """Decide between US and SS (PS3.3 C.7.6.3). Explicit VR has to declare one of them; implicit VR does not."""
    signed = elements.get(_REPRESENTATION, ("US", b""))[1] == b"\1\0"
    known = tables.dictionary()
    for tag, (vr, value) in elements.items():
        if signed and vr == "US" and "SS" in known.get(tag, ()):
            elements[tag] = "SS", value


@lru_cache(maxsize=4096)
def public_vr(tag: int) -> str:
    """Return the VR of a public attribute by PS3.6, the first of several; empty where it is unknown."""
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UL" if not tag & 0xFFFF else ""


@lru_cache(maxsize=4096)
def private_vr(tag: int, creator: str) -> str:
    """Return the VR of a private attribute by the known dictionaries; empty where it is unknown."""
    if not creator:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else ""
    creator = tables.in_capitals().get(creator, creator)
    if safe := tables.safe_private().get((creator, tag & 0xFFFF00FF)):
        return min(safe)
    if line := tables.imaging_private().get((creator, tag & 0xFFFF00FF)):
        return line["vr"].partition("/")[0]
    try:
        return private_dictionary_VR(tag, creator)[:2]
    except KeyError:
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Successive elements that were the same in two objects, as in the images of a series.

    It is equal to itself alone, so that much can be known of it without a look at its elements.

    Attributes:
        encoded: their bytes.
        elements: the elements.
        first, last: tags of the first and the last one.
    """

    encoded: bytes
    elements: Elements
    first: int
    last: int


Layout: TypeAlias = "list[Run | int]"


@dataclass(frozen=True)
class _Form:
    """Encoding of elements: implicit or explicit VR, and byte order."""

    implicit: bool
    little: bool

    def __post_init__(self) -> None:
        order = "<" if self.little else ">"
        header = "HHL" if self.implicit else "HH2sH"
        object.__setattr__(self, "header", struct.Struct(order + header).unpack_from)
        object.__setattr__(self, "item", struct.Struct(order + "HHL").unpack_from)
        object.__setattr__(self, "long", struct.Struct(order + "L").unpack_from)

    header: Any = None
    item: Any = None
    long: Any = None
    #: Headers of 8 bytes that were read before: tag, VR and length. Whatever needs a closer look is not among them:
    #: private creators, private elements of implicit VR, sequences, odd lengths, character sets, pixel data.
    ordinary: dict[bytes, tuple[int, str, int]] = field(default_factory=dict, compare=False, repr=False)
    #: Runs by the header of their first element, and the elements of the last object that were in none.
    runs: dict[bytes, Run] = field(default_factory=dict, compare=False, repr=False)
    others: Elements = field(default_factory=dict, compare=False, repr=False)

    def keep(self, header: bytes, tag: int, vr: str, length: int) -> None:
        """Keep an ordinary header."""
        if len(self.ordinary) >= _MOST_HEADERS:
            self.ordinary.clear()
        self.ordinary[header] = tag, vr, length

    def keep_runs(self, data: bytes | mmap.mmap, found: Elements, single: list[tuple[int, int, int]]) -> None:
        """Keep the runs of an object: elements that follow each other, and were the same in the last object.

        Args:
            data: the bytes that the elements are from.
            found: the elements.
            single: tag, start and end of those that are in no run so far, and of which the bytes alone decide.
        """
        tags: list[int] = []
        began = ended = 0
        for tag, start, stop in [*single, (-1, 0, 0)]:
            same = tag in self.others and self.others[tag] == found[tag]
            if same and tags and start == ended and stop - began <= _LONGEST:
                tags.append(tag)
                ended = stop
                continue
            if len(tags) >= _FEWEST:
                if len(self.runs) >= _MOST_RUNS:
                    self.runs.clear()
                elements = {one: found[one] for one in tags}
                self.runs[data[began : began + 8]] = Run(data[began:ended], elements, tags[0], tags[-1])
            tags, began, ended = [tag] if same else [], start, stop
        self.others.clear()
        self.others.update((tag, found[tag]) for tag, *_ in single)


@cache
def _form(implicit: bool, little: bool) -> _Form:
    return _Form(implicit, little)


class _Reader:
    """Reads elements from bytes."""

    def __init__(self, data: bytes | mmap.mmap, encapsulated: bool, form: _Form, mended: Counter[str]) -> None:
        self._data, self._encapsulated, self._form, self._mended = data, encapsulated, form, mended
        #: Sequences of the top level: start, end and encoding of their items.
        self._sequences: dict[int, tuple[int, int, _Form]] = {}
        #: See `Parsed`.
        self.layout: Layout = []

    def elements(
        self, position: int, end: int, form: _Form, depth: int, *, delimited: bool = False, whole: bool = False
    ) -> tuple[Elements, int]:
        """Return the elements up to the end, or to the item's delimiter, and the offset after them.

        With `whole` they are the data set of an object, up to the end of the file.
        """
        data, implicit, header = self._data, form.implicit, form.header
        found: Elements = {}
        creators: dict[int, str] = {}
        last = -1
        ordered = True
        ordinary = form.ordinary
        runs: Mapping[bytes, Run] = form.runs if whole else {}
        layout: Layout = []
        single: list[tuple[int, int, int]] = []
        while position < end:
            eight = data[position : position + 8]
            run = runs.get(eight)
            if run and run.first > last and data[position : position + len(run.encoded)] == run.encoded:
                found.update(run.elements)
                layout.append(run)
                position += len(run.encoded)
                last = run.last
                continue
            head = ordinary.get(eight)
            if head is not None and head[0] > last:
                tag, vr, length = head
                at, position, last = position, position + 8 + length, tag
                if position > end:
                    raise Unfit(_TRUNCATED if at + 8 > end else _LENGTH_PAST_END)
                found[tag] = vr, data[at + 8 : position]
                layout.append(tag)
                single.append((tag, at, position))
                continue
            if position + 8 > end:
                if not depth and self._zeros(position, end):
                    position = end
                    break
                raise Unfit(_TRUNCATED)
            if implicit:
                group, number, length = header(data, position)
                code = b""
            else:
                group, number, code, length = header(data, position)
            tag = group << 16 | number
            if delimited and tag in _ENDS:
                return found if ordered else _sorted(found), self._end_of_item(tag, position, form)
            if tag <= last:
                if not tag and not depth and self._zeros(position, end):
                    position = end
                    break
                self._check_disorder(tag, implicit)
                ordered = False
            else:
                last = tag
            at = position
            position += 8
            regular = length != UNDEFINED and tag not in _SPECIAL and not (implicit and group & 1)
            if implicit:
                vr = self._vr(tag, group, creators)
            elif code in _SHORT:
                vr = _NAMES[code]
            elif code in _LONG and not length and position + 4 <= end:
                vr = _NAMES[code]
                (length,) = form.long(data, position)
                position += 4
            else:
                vr, length, position = self._irregular_header(tag, code, length, position, end, form)
                regular = False
            if group == 0xFFFE:
                raise Unfit("its encoding is damaged: an item or a delimiter stands where none may")
            start = position
            value: Value
            within = form
            if length == UNDEFINED:
                if tag == PIXEL_DATA and self._encapsulated and vr in ("OB", "OW"):
                    value, stop, position = self._fragments(start, end, 0 if depth else _number(found, _FRAMES))
                else:
                    vr, within = self._form_of_undefined_length(vr, tag, form)
                    value, position = self.items(start, end, within, depth + 1, delimited=True)
                    stop = position - 8
            else:
                position = stop = start + length
                if stop > end:
                    raise Unfit(_LENGTH_PAST_END)
                if vr == "SQ":
                    regular = False
                    vr, value = self._value_of_defined_length(
                        start, stop, form, depth + 1, guessed=implicit and bool(group & 1)
                    )
                elif tag == PIXEL_DATA and length > _STRETCH and not (depth or length & 1 or self._encapsulated):
                    value = Stretch(data, start, stop)
                else:
                    value = data[start:stop]
                    if length & 1:
                        value, position = self._pad_odd_value(value, vr, tag, stop, end, form)
                    if group & 1 and 0x10 <= number <= 0xFF:
                        creators[group << 8 | number] = value.strip(b" \0").decode("latin-1")
                    elif tag == _CHARACTER_SET and value != (right := corrected(value)):
                        self._mended["mended/character-set"] += 1
                        value = right
                    elif (not group & 1 if implicit else code in _SHORT) and not length & 1 and tag not in _SPECIAL:
                        form.keep(data[at : at + 8], tag, vr, length)
                if tag == PIXEL_DATA and ((self._encapsulated and not depth) or vr == "UN"):
                    raise Unfit("its pixel data are not encoded as its transfer syntax says")
                if vr == "UN" and length and not form.little and not group & 1:
                    raise Unfit("it has a public element of VR UN, of which the order of bytes is not known")
            if tag in found and not ordered:
                if not _same(found[tag], (vr, value)):
                    raise Unfit("its encoding is damaged: an element is there twice, with two values")
                self._mended["mended/twice"] += 1
                continue
            found[tag] = (vr, value)
            layout.append(tag)
            if regular and not length & 1 and position - at <= _LARGEST:
                single.append((tag, at, position))
            elif not depth and type(value) is list:
                self._sequences[tag] = start, stop, within
        if delimited:
            raise Unfit("its encoding is damaged: an item has no end")
        if not ordered:
            found = _sorted(found)
        elif whole:
            form.keep_runs(data, found, single)
        if whole:
            self.layout = layout if ordered else [*found]
        return found, position

    # What is mended

    def form_of(self, position: int, end: int, form: _Form) -> _Form:
        """Return the actual encoding of elements, with or without VRs. It can differ from the declared one."""
        if position + 8 > end or not form.little:
            return form
        code = self._data[position + 4 : position + 6]
        group, number, length = _IMPLICIT.header(self._data, position)
        past = length != UNDEFINED and position + 8 + length > end
        if form.implicit:
            return _EXPLICIT if code in _NAMES and past else form
        tag = group << 16 | number
        guessed = code not in _NAMES and code not in _UNKNOWN_VRS and tag >= _FIRST_GROUP and tag < _ITEM
        known = bool(group & 1) or bool(public_vr(tag))
        return _IMPLICIT if guessed and known and not past else form

    def _zeros(self, position: int, end: int) -> bool:
        """Return whether only zeros follow, as in a file that was padded to a sector."""
        if not self._only_zeros(position, end):
            return False
        self._mended["mended/zeros"] += 1
        return True

    def _only_zeros(self, position: int, end: int) -> bool:
        return not any(map(any, pieces(Stretch(self._data, position, end))))

    def _end_of_item(self, tag: int, position: int, form: _Form) -> int:
        """Return the end of an item of undefined length: after its delimiter, or before that of its sequence."""
        length = form.item(self._data, position)[2]
        if length and length != UNDEFINED:
            raise Unfit("its encoding is damaged: a delimiter has a length")
        if length or tag == _SEQUENCE_END:
            self._mended["mended/delimiter"] += 1
        return position if tag == _SEQUENCE_END else position + 8

    def _check_disorder(self, tag: int, implicit: bool) -> None:
        """Check that a tag out of order is an element, and not other bytes that look like one."""
        if not _FIRST_GROUP <= tag < _ITEM or (implicit and not tag & 0x10000 and not public_vr(tag)):
            raise Unfit("its encoding is damaged: an element is there twice, or not in order")
        self._mended["mended/order"] += 1

    def _irregular_header(
        self, tag: int, code: bytes, short: int, position: int, end: int, form: _Form
    ) -> tuple[str, int, int]:
        """Return VR, length and offset of a value whose header violates PS3.5 7.1.2. Only one interpretation may fit.

        Args:
            tag: tag of the element.
            code: bytes at the place of the VR.
            short: the length, if its field has two bytes.
            position: offset after these.
            end: offset where the enclosing item or data set ends.
            form: encoding of the elements.
        """
        if code not in _LONG and code not in _UNKNOWN_VRS:
            raise Unfit("its encoding is damaged: a value representation is none of PS3.5")
        ways = [(short, position)]
        if position + 4 <= end:
            ways.append((form.long(self._data, position)[0], position + 4))
        ways = [way for way in ways if self._element_follows(tag, sum(way), end, form)]
        if len(ways) != 1:
            raise Unfit("its encoding is damaged: the length of a value is not certain")
        self._mended["mended/vr" if code in _UNKNOWN_VRS else "mended/length"] += 1
        return _NAMES.get(code, "UN"), *ways[0]

    def _element_follows(self, tag: int, position: int, end: int, form: _Form) -> bool:
        """Return whether an element, a delimiter or the end follows a value."""
        if position + 8 > end:
            return position == end
        if form.implicit:
            group, number, length = form.header(self._data, position)
            code = b"UN" if position + 8 + length <= end or length == UNDEFINED else b""
        else:
            group, number, code, _ = form.header(self._data, position)
        following = group << 16 | number
        return following in _ENDS or (tag < following < _ITEM and (code in _NAMES or code in _UNKNOWN_VRS))

    def _pad_odd_value(self, value: bytes, vr: str, tag: int, stop: int, end: int, form: _Form) -> tuple[bytes, int]:
        """Return a value of odd length with padding, and the offset of the next element.

        Some writers do not count the padding. For numbers the missing byte is unknown. They stay as they are, and the
        engine removes them.
        """
        self._mended["mended/odd-length"] += 1
        if stop < end and self._data[stop] in b"\0 " and not self._element_follows(tag, stop, end, form):
            stop += self._element_follows(tag, stop + 1, end, form)
        return value if vr in _NUMBERS else vrs.padded(value, vr if vr in vrs.STRINGS else "UN"), stop

    def raw(self, elements: Elements, form: _Form) -> dict[BaseTag, RawDataElement]:
        """Return the elements of the top level in pydicom's form."""
        found = {}
        for tag, (vr, value) in elements.items():
            within, encoded = form, value
            if isinstance(value, list):
                start, stop, within = self._sequences[tag]
                encoded = self._data[start:stop]
            name = BaseTag(tag)
            length = UNDEFINED if type(value) is Fragments else len(encoded)
            found[name] = RawDataElement(name, vr, length, encoded, 0, within.implicit, within.little)
        return found

    def _vr(self, tag: int, group: int, creators: dict[int, str]) -> str:
        """Return the VR of an element in implicit VR."""
        if group & 1:
            return private_vr(tag, creators.get(group << 8 | (tag >> 8 & 0xFF), "")) or "UN"
        return public_vr(tag) or "UN"

    def _value_of_defined_length(
        self, start: int, stop: int, form: _Form, depth: int, *, guessed: bool
    ) -> tuple[str, Value]:
        """Read a value of defined length as a sequence. What only a private dictionary calls a sequence may be none."""
        try:
            return "SQ", self.items(start, stop, form, depth, delimited=False)[0]
        except Unfit:
            if guessed:
                return "UN", self._data[start:stop]
            if self._data[start : start + 4] in (b"\xfe\xff\0\xe0", b"\xff\xfe\xe0\0"):
                raise
            self._mended["mended/no-sequence"] += 1
            return "OB", vrs.padded(self._data[start:stop], "OB")  # no rule treats it as a sequence

    def _form_of_undefined_length(self, vr: str, tag: int, form: _Form) -> tuple[str, _Form]:
        """Return the VR of an element of undefined length, and the encoding of its items.

        Raises:
            Unfit: the element is neither a sequence nor of unknown VR.
        """
        if vr == "SQ":
            return vr, form
        if vr != "UN" or (not tag & 0x10000 and public_vr(tag) not in ("SQ", "")):
            raise Unfit("its encoding is damaged: an element without a length is no sequence")
        if not form.little:
            raise Unfit("it has a sequence of VR UN, little endian, in a data set that is big endian")
        return "SQ", form if form.implicit else _form(True, True)

    def items(self, position: int, end: int, form: _Form, depth: int, *, delimited: bool) -> tuple[list[Elements], int]:
        """Return the items of a sequence up to its end or its delimiter, and the offset after them."""
        if depth > MOST_DEEP:
            raise Unfit(f"its sequences are nested more than {MOST_DEEP} deep")
        found: list[Elements] = []
        while position < end:
            if position + 8 > end:
                raise Unfit(_TRUNCATED)
            group, number, length = form.item(self._data, position)
            tag = group << 16 | number
            position += 8
            if tag in _ENDS and length in (0, UNDEFINED):
                if self._ends_sequence(tag, position, end, delimited=delimited, plain=not length):
                    return found, position
                continue
            if tag != _ITEM:
                raise Unfit("its encoding is damaged: a sequence holds what is no item")
            stop = end if length == UNDEFINED else position + length
            if stop > end:
                raise Unfit(_LENGTH_PAST_END)
            within = form
            if (self._data[position + 4 : position + 6] in _NAMES) is form.implicit:  # it looks like the other encoding
                within = self.form_of(position, stop, form)
                if within is not form:
                    self._mended["mended/items"] += 1
            item, position = self.elements(position, stop, within, depth, delimited=length == UNDEFINED)
            found.append(item)
        if delimited:
            raise Unfit("its encoding is damaged: a sequence has no end")
        return found, position

    def _ends_sequence(self, tag: int, position: int, end: int, *, delimited: bool, plain: bool) -> bool:
        """Return whether a delimiter ends the sequence. Some writers add delimiters, or use the wrong one.

        Args:
            tag: tag of the delimiter.
            position: offset after the delimiter.
            end: offset where the sequence ends at the latest.
            delimited: the sequence has undefined length.
            plain: the delimiter has length 0, as it must.
        """
        if tag == _SEQUENCE_END and delimited:
            if not plain:
                self._mended["mended/delimiter"] += 1
            return True
        self._mended["mended/delimiter"] += 1
        following = self._data[position : position + 4]
        if tag == _ITEM_END and following in (b"\xfe\xff\0\xe0", b"\xfe\xff\xdd\xe0"):
            return False
        if not delimited and position != end:
            raise Unfit("its encoding is damaged: a delimiter stands where none may")
        return True

    def _fragments(self, start: int, end: int, frames: int) -> tuple[Fragments, int, int]:
        """Return encapsulated pixel data, the offset of the sequence delimiter, and the offset after it (PS3.5 A.4).

        Args:
            start: offset of the first item.
            end: offset where the data set ends.
            frames: number of frames; 0 where it is unknown.
        """
        found: list[bytes] = []
        starts: list[int] = []  # offsets of all items in the file
        position, item = start, self._form.item
        while position + 8 <= end:
            group, number, length = item(self._data, position)
            tag = group << 16 | number
            if tag == _SEQUENCE_END and length in (0, UNDEFINED) and found:
                if length:
                    self._mended["mended/delimiter"] += 1
                return _joined(found, starts), position, position + 8
            if tag != _ITEM or length == UNDEFINED or position + 8 + length > end:
                break
            stop = position + 8 + length
            starts.append(position)
            if length & 1:
                self._mended["mended/odd-length"] += 1
                header = self._data[position : position + 4] + struct.pack("<L", length + 1)
                found.append(header + self._data[position + 8 : stop] + b"\0")
                if self._data[stop : stop + 1] == b"\0" and self._data[stop + 1 : stop + 3] == b"\xfe\xff":
                    stop += 1
            else:
                found.append(self._data[position:stop])
            position = stop
        # All frames are there and nothing follows: the writer omitted the delimiter.
        if len([part for part in found if part]) > max(frames, 1) and (
            position == end or self._only_zeros(position, end)
        ):
            self._mended["mended/delimiter"] += 1
            return _joined(found, starts), position, end
        raise Unfit("its pixel data are not encapsulated as PS3.5 A.4 says")


_IMPLICIT, _EXPLICIT = _form(True, True), _form(False, True)


def _joined(items: list[bytes], starts: list[int]) -> Fragments:
    """Join items. Where fragments were padded, the Basic Offset Table is adapted (PS3.5 A.4).

    Args:
        items: the table, and the fragments, with their headers.
        starts: original offset of each.
    """
    before = [start - starts[1] for start in starts[1:]]
    after = list(accumulate(map(len, items[1:-1]), initial=0))[: len(before)]
    if before != after and not len(items[0]) % 4:
        table = struct.unpack(f"<{len(items[0]) // 4 - 2}L", items[0][8:])
        moved = dict(zip(before, after, strict=True))
        # A table with invalid offsets is emptied, which the standard allows.
        offsets = [moved[offset] for offset in table] if moved.keys() >= set(table) else []
        if not set(table) <= set(after):
            items[0] = items[0][:4] + struct.pack(f"<{len(offsets) + 1}L", 4 * len(offsets), *offsets)
    return Fragments(b"".join(items))


def _sorted(found: Elements) -> Elements:
    """Return elements in order. Disorder can also mean damage, so each must have a VR of PS3.6.

    Raises:
        Unfit: an element has another VR.
    """
    known = tables.dictionary()
    if any(not tag & 0x10000 and vr != "UN" and vr not in known.get(tag, ()) for tag, (vr, _) in found.items()):
        raise Unfit("its encoding is damaged: elements are not in order, and one has another VR than the standard's")
    return dict(sorted(found.items()))


def _same(one: tuple[str, Value], other: tuple[str, Value]) -> bool:
    """Return whether two elements have the same VR and value, apart from padding."""
    values_of = [value.rstrip(b" \0") if type(value) is bytes else value for _, value in (one, other)]
    return one[0] == other[0] and values_of[0] == values_of[1]


def _number(found: Elements, tag: int) -> int:
    """Return the number that an element contains as characters; 0 where it has none."""
    text = found[tag][1] if tag in found else b""
    text = text.strip(b" \0") if isinstance(text, bytes) else b""
    return int(text) if text.isdigit() and len(text) < 10 else 0
