"""Reads an object completely and strictly (PS3.5 7, PS3.10 7): what is not understood to the last byte is not fit.

Other readers forgive: a length that leads past the end, a tag that is there twice, bytes behind the last element. Each
is a place where an identifier may lie that one reader sees and another does not. Reasons name no tag: in a damaged
file, what looks like one may be somebody's name.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pydicom.datadict import DicomDictionary, dictionary_VR, private_dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag

from pacsifier_ops.deid import tables, values
from pacsifier_ops.deid.charsets import DEFAULT, Charset
from pacsifier_ops.deid.encoding import LONG_VRS, PIXEL_DATA, SHORT_VRS, UNDEFINED, Elements, Fragments, Syntax, Value
from pacsifier_ops.errors import Unfit

#: Sequences in sequences that are followed; deeper ones are nobody's.
MOST_DEEP = 64
#: Bytes that a deflated data set may have.
MOST_INFLATED = 2**30

_PREAMBLE = 128
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARACTER_SET, _TRANSFER_SYNTAX = 0x00080005, 0x00020010
_SHORT = frozenset(vr.encode() for vr in SHORT_VRS)
_LONG = frozenset(vr.encode() for vr in LONG_VRS)
_NAMES = {vr.encode(): vr for vr in SHORT_VRS | LONG_VRS}

_PAST = "its encoding is damaged: a length leads past the end of what holds the element"
_CUT = "its encoding is damaged: it ends in the middle of an element"


class Parsed(Dataset):
    """A data set that was read.

    As a data set of pydicom, it decodes what is asked for. The engine goes by `elements`: what is changed in the
    data set after reading is not seen by it.

    Attributes:
        elements: everything that the file held, as it was encoded.
        syntax: how.
    """

    elements: Elements
    syntax: Syntax


def read(path: Path) -> Parsed:
    """Read a file.

    Raises:
        Unfit: it is none of DICOM, or not encoded as the standard says.
        OSError: it cannot be read at all.
    """
    return parse(path.read_bytes())


#: Attributes that say what an object is and whose; they are text, and nobody must read them in two ways.
_NAMING = (0x00080016, 0x00080018, 0x00080060, 0x00100020, 0x0020000D, 0x0020000E)


def parse(data: bytes) -> Parsed:
    """Read the bytes of a file.

    Raises:
        Unfit: as `read`.
    """
    if data[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise Unfit("it is no DICOM file: the prefix DICM is missing")
    meta, start = _meta(data)
    syntax = Syntax.of(meta[_TRANSFER_SYNTAX].strip(b" \0").decode("latin-1") if _TRANSFER_SYNTAX in meta else "")
    if syntax.deflated:
        data, start = _inflated(data[start:]), 0
    form = _Form(syntax.implicit, syntax.little)
    reader = _Reader(data, syntax.encapsulated, form)
    elements, _ = reader.elements(start, len(data), form, 0)
    if any(elements[tag][0] not in (*values.STRINGS, "UN") for tag in _NAMING if tag in elements):
        raise Unfit("its UIDs, PatientID or Modality have another value representation than the standard's")
    parsed = Parsed(reader.raw)
    parsed.elements, parsed.syntax = elements, syntax
    parsed.file_meta = FileMetaDataset(
        {
            BaseTag(tag): RawDataElement(BaseTag(tag), None, len(value), value, 0, False, True)
            for tag, value in meta.items()
        }
    )
    found = elements.get(_CHARACTER_SET)
    charset = Charset.of(found[1]) if found and isinstance(found[1], bytes) else DEFAULT
    codecs = [codec if codec != "ascii" else "iso8859" for codec in charset.codecs]
    parsed.set_original_encoding(syntax.implicit, syntax.little, codecs)
    return parsed


def sequence(value: bytes, depth: int = 0) -> list[Elements]:
    """The items of a sequence whose VR is UN, which is encoded in implicit VR little endian (PS3.5 6.2.2).

    Raises:
        Unfit: it is no sequence.
    """
    form = _Form(True, True)
    items, _ = _Reader(value, False, form).items(0, len(value), form, depth, delimited=False)
    return items


def _meta(data: bytes) -> tuple[dict[int, bytes], int]:
    """File meta information, and where the data set begins. Its group length is not relied on."""
    found: dict[int, bytes] = {}
    position = _PREAMBLE + 4
    while data[position : position + 2] == b"\2\0":
        try:
            _, number, vr, length = struct.unpack_from("<HH2sH", data, position)
            position += 8
            if vr in _LONG:
                (length,) = struct.unpack_from("<L", data, position)
                position += 4
        except struct.error:
            raise Unfit(_CUT) from None
        if vr not in _NAMES or position + length > len(data) or 0x00020000 + number in found:
            raise Unfit("its file meta information is damaged")
        found[0x00020000 + number] = data[position : position + length]
        position += length
    return found, position


def _inflated(data: bytes) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflate.decompress(data, MOST_INFLATED)
    except zlib.error:
        raise Unfit("its encoding is damaged: the data set cannot be inflated") from None
    if not inflate.eof or inflate.unused_data not in (b"", b"\0"):
        raise Unfit("its deflated data set is too large or ends too early, or bytes follow it")
    return plain


@lru_cache(maxsize=4096)
def public_vr(tag: int) -> str:
    """VR of a public attribute by PS3.6, the first if there are several; empty where it is not known."""
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UL" if not tag & 0xFFFF else ""


@lru_cache(maxsize=4096)
def private_vr(tag: int, creator: str) -> str:
    """VR of a private attribute, as far as somebody told; empty where it is not known."""
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


@cache
def _tags() -> dict[int, BaseTag]:
    return {tag: BaseTag(tag) for tag in DicomDictionary}


@dataclass(frozen=True)
class _Form:
    """How elements are encoded."""

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


class _Reader:
    """Reads elements from bytes; keeps those of the top level as pydicom wants to have them, in `raw`."""

    def __init__(self, data: bytes, encapsulated: bool, form: _Form) -> None:
        self._data, self._encapsulated, self._form = data, encapsulated, form
        self.raw: dict[BaseTag, RawDataElement] = {}

    def elements(
        self, position: int, end: int, form: _Form, depth: int, *, delimited: bool = False
    ) -> tuple[Elements, int]:
        """Elements up to the end, or to an item's delimiter, and where they end."""
        data, implicit, header = self._data, form.implicit, form.header
        found: Elements = {}
        creators: dict[int, str] = {}
        last = -1
        while position < end:
            if position + 8 > end:
                raise Unfit(_CUT)
            if implicit:
                group, number, length = header(data, position)
                code = b""
            else:
                group, number, code, length = header(data, position)
            tag = group << 16 | number
            if tag == _ITEM_END and delimited:
                if form.item(data, position)[2]:
                    raise Unfit("its encoding is damaged: a delimiter has a length")
                return found, position + 8
            if tag <= last:
                raise Unfit("its encoding is damaged: an element is there twice, or not in order")
            last = tag
            position += 8
            if implicit:
                vr = self._vr(tag, group, creators)
            elif code in _SHORT:
                vr = _NAMES[code]
            elif code in _LONG:
                vr = _NAMES[code]
                if length or position + 4 > end:
                    raise Unfit("its encoding is damaged: bytes that are reserved are not zero")
                (length,) = form.long(data, position)
                position += 4
            else:
                raise Unfit("its encoding is damaged: a value representation is none of PS3.5")
            if group == 0xFFFE:
                raise Unfit("its encoding is damaged: an item or a delimiter stands where none may")
            start = position
            value: Value
            within = form
            if length == UNDEFINED:
                if tag == PIXEL_DATA and self._encapsulated and vr in ("OB", "OW"):
                    value, stop, position = self._fragments(start, end)
                else:
                    vr, within = self._undefined(vr, tag, form)
                    value, position = self.items(start, end, within, depth + 1, delimited=True)
                    stop = position - 8
            else:
                position = stop = start + length
                if stop > end:
                    raise Unfit(_PAST)
                if length & 1:
                    raise Unfit("its encoding is damaged: a value has an odd length")
                if vr == "SQ":
                    vr, value = self._measured(start, stop, form, depth + 1, guessed=implicit and bool(group & 1))
                else:
                    value = data[start:stop]
                    if group & 1 and 0x10 <= number <= 0xFF:
                        creators[group << 8 | number] = value.strip(b" \0").decode("latin-1")
                if tag == PIXEL_DATA and ((self._encapsulated and not depth) or vr == "UN"):
                    raise Unfit("its pixel data are not encoded as its transfer syntax says")
                if vr == "UN" and length and not form.little and not group & 1:
                    raise Unfit("it has a public element of VR UN, of which the order of bytes is not known")
            found[tag] = (vr, value)
            if not depth:
                self._keep(tag, vr, value, data[start:stop] if type(value) is list else value, start, within)
        if delimited:
            raise Unfit("its encoding is damaged: an item has no end")
        return found, position

    def _keep(self, tag: int, vr: str, value: Value, encoded: Any, start: int, form: _Form) -> None:
        name = _tags().get(tag) or BaseTag(tag)
        length = UNDEFINED if type(value) is Fragments else len(encoded)
        self.raw[name] = RawDataElement(name, vr, length, encoded, start, form.implicit, form.little)

    def _vr(self, tag: int, group: int, creators: dict[int, str]) -> str:
        """VR of an element that does not tell it."""
        if group & 1:
            return private_vr(tag, creators.get(group << 8 | (tag >> 8 & 0xFF), "")) or "UN"
        return public_vr(tag) or "UN"

    def _measured(self, start: int, stop: int, form: _Form, depth: int, *, guessed: bool) -> tuple[str, Value]:
        """A sequence that has a length; what nobody but a dictionary of private attributes calls one may be none."""
        try:
            return "SQ", self.items(start, stop, form, depth, delimited=False)[0]
        except Unfit:
            if guessed:
                return "UN", self._data[start:stop]
            raise

    def _undefined(self, vr: str, tag: int, form: _Form) -> tuple[str, _Form]:
        """VR of what has no length but delimiters, and how its items are encoded.

        Raises:
            Unfit: only sequences can be so, and what nothing is known of.
        """
        if vr == "SQ":
            return vr, form
        if vr != "UN" or (not tag & 0x10000 and public_vr(tag) not in ("SQ", "")):
            raise Unfit("its encoding is damaged: an element without a length is no sequence")
        if not form.little:
            raise Unfit("it has a sequence of VR UN, little endian, in a data set that is big endian")
        return "SQ", form if form.implicit else _Form(True, True)

    def items(self, position: int, end: int, form: _Form, depth: int, *, delimited: bool) -> tuple[list[Elements], int]:
        """Items of a sequence up to its end or its delimiter, and where they end."""
        if depth > MOST_DEEP:
            raise Unfit(f"its sequences are nested more than {MOST_DEEP} deep")
        found: list[Elements] = []
        while position < end:
            if position + 8 > end:
                raise Unfit(_CUT)
            group, number, length = form.item(self._data, position)
            tag = group << 16 | number
            position += 8
            if tag == _SEQUENCE_END and delimited and not length:
                return found, position
            if tag != _ITEM:
                raise Unfit("its encoding is damaged: a sequence holds what is no item")
            if length == UNDEFINED:
                item, position = self.elements(position, end, form, depth, delimited=True)
            elif position + length > end:
                raise Unfit(_PAST)
            else:
                item, position = self.elements(position, position + length, form, depth)
            found.append(item)
        if delimited:
            raise Unfit("its encoding is damaged: a sequence has no end")
        return found, position

    def _fragments(self, start: int, end: int) -> tuple[Fragments, int, int]:
        """Encapsulated pixel data: the items, where they end, and where their delimiter does (PS3.5 A.4)."""
        position = start
        while position + 8 <= end:
            group, number, length = self._form.item(self._data, position)
            tag = group << 16 | number
            if tag == _SEQUENCE_END and not length:
                if position == start:
                    break
                return Fragments(self._data[start:position]), position, position + 8
            if tag != _ITEM or length == UNDEFINED or length & 1:
                break
            position += 8 + length
        raise Unfit("its pixel data are not encapsulated as PS3.5 A.4 says")
