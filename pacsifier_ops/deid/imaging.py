"""Cleans private elements that describe the acquisition of an MR image (option `safe_private_extended`).

Without them a mosaic lacks the number of slices, an EPI the slice times, a diffusion weighted image the direction.
`tables/imaging_private.csv` lists them. Four of them are files of their own; `tables/imaging_fields.csv` lists the
parts of these that stay:

| form           | content                                                            | result                      |
|----------------|--------------------------------------------------------------------|-----------------------------|
| `@csa`         | CSA header of Siemens (SV10, and the older form without that name) | one of the listed fields    |
| `@protocol`    | XProtocol of Siemens, with a block ASCCONV of keys and values      | a block of the listed keys  |
| `@ge-protocol` | protocol data block of GE, compressed by gzip                      | one of the listed keys      |
| `@ge-user`     | user data of GE, a structure in C                                  | zeros, but for four numbers |

A value is copied only if it was parsed and is valid: a number within its range, or a text that matches a pattern
without room for a name. Other values are removed, and a header that cannot be parsed is removed as a whole. Dates,
UIDs, names, free text, unlisted fields, and bytes after the end never stay.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from pacsifier_ops.deid import tables
from pacsifier_ops.dicom import vrs

#: Id of the rule for these elements.
RULE = "imaging-private"

#: Maximum size of a header or a block in bytes, also inflated.
_MOST = 1 << 22
#: Maximum number of fields of a CSA header, and of items of one field.
_FIELDS, _ITEMS = 1024, 4096
_NUMBER = re.compile(r"[+-]?(?:\d{1,10}(?:\.\d{0,16})?|\.\d{1,16})(?:[eE][+-]?\d{1,3})?|0x[0-9a-fA-F]{1,8}", re.ASCII)
_TEXT = bytes([0, *range(32, 127)])
_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}


@dataclass(frozen=True)
class Form:
    """The condition for a value to stay.

    Attributes:
        vrs: possible VRs of the element, the usual one first; for a field, the VR that the result has.
        most: maximum number of values; 0 for any number.
        ranges: valid ranges of a number.
        pattern: pattern of each value of a text.
        parser: parser that rewrites an opaque value, such as `csa`; empty for other values.
    """

    vrs: tuple[str, ...]
    most: int
    ranges: tuple[tuple[float, float], ...] = ()
    pattern: re.Pattern[str] | None = None
    parser: str = ""

    @classmethod
    def of(cls, vr: str, vm: str, written: str) -> Form:
        """Parse the form in a row of the tables: `low..high|low..high`, `/pattern/`, `@parser`, `items`.

        Raises:
            ValueError: the text has no such form.
        """
        vrs, last = tuple(vr.split("/")), vm.rpartition("-")[2]
        most = int(last) if last.isdecimal() else 0
        if written.startswith("@") and written[1:] in _PARSERS:
            return cls(vrs, most, parser=written[1:])
        if len(written) > 2 and written[0] == written[-1] == "/":
            return cls(vrs, most, pattern=re.compile(written[1:-1], re.ASCII))
        if written == "items" and vr == "SQ":
            return cls(vrs, most)
        ranges = [one.partition("..") for one in written.split("|")]
        return cls(vrs, most, tuple((float(low), float(high)) for low, _, high in ranges))

    def fits(self, text: str) -> bool:
        """Return whether one value as characters has this form. An empty value has."""
        if not text:
            return True
        if self.pattern:
            return self.pattern.fullmatch(text) is not None
        return _NUMBER.fullmatch(text) is not None and self.holds(_number(text))

    def holds(self, number: float) -> bool:
        """Return whether a number is in one of the ranges."""
        return any(low <= number <= high for low, high in self.ranges)


def _number(text: str) -> float:
    return float(int(text, 16)) if text.startswith("0x") else float(text)


@cache
def private() -> Mapping[tuple[str, int], Form]:
    """Return the forms of private elements, by private creator and tag without its block."""
    return {key: Form.of(line["vr"], line["vm"], line["values"]) for key, line in tables.imaging_private().items()}


@cache
def fields(parser: str) -> Mapping[str, Form]:
    """Return the forms of parts of a header that stay, by name; `[]` stands for any index."""
    lines = tables.imaging_fields().items()
    return {name: Form.of(line["vr"], line["vm"], line["values"]) for (by, name), line in lines if by == parser}


@cache
def digest() -> str:
    """Return the SHA-256 of the tables, in hexadecimal digits."""
    lines = [list(line.values()) for line in (*tables.imaging_private().values(), *tables.imaging_fields().values())]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def kept(creator: str, tag: int, vr: str, value: bytes, big_endian: bool = False) -> bytes | None:
    """Return the part of the value of a private element that stays.

    Args:
        creator: private creator.
        tag: with or without its block.
        vr: VR of the element.
        value: its encoded value.
        big_endian: byte order of the data set.

    Returns:
        The value, rewritten if it is a header; None where nothing stays.
    """
    form = private().get((tables.in_capitals().get(creator, creator), tag & 0xFFFF00FF))
    if form is None or vr not in form.vrs:
        return None
    if form.parser:
        return _rewritten(form.parser, value) if len(value) <= _MOST else None
    return (_short if len(value) <= 256 else _checked)(form, vr, value, big_endian)


@lru_cache(maxsize=8)
def _rewritten(parser: str, value: bytes) -> bytes | None:
    """Rewrite a header; cached, because headers repeat in a series."""
    return _PARSERS[parser](value)


def _checked(form: Form, vr: str, value: bytes, big_endian: bool) -> bytes | None:
    """Return the valid values."""
    if vr in _BINARY:
        size = vrs.SIZES[vr]
        count = len(value) // size
        if len(value) % size or (form.most and count > form.most):
            return None
        numbers = struct.unpack(f"{'>' if big_endian else '<'}{count}{_BINARY[vr]}", value)
        # Text read as a number is close to zero.
        text = (
            len(value) >= 8 and not value.translate(None, _TEXT) and any(0 < abs(number) < 1e-3 for number in numbers)
        )
        return value if all(map(form.holds, numbers)) and not text else None
    if vr not in vrs.STRINGS or not value.isascii():
        return None
    texts = [text.strip(" \0") for text in value.decode("ascii").split("\\")]
    if len(texts) > (form.most or len(texts)):
        return None
    if all(map(form.fits, texts)):
        return value
    # One invalid number removes all; of terms, the other values stay in place.
    left = "\\".join(text if form.pattern and form.fits(text) else "" for text in texts)
    return vrs.padded(left.encode("ascii"), vr) if left.strip("\\") else None


#: Cached, because values repeat in a series.
_short = lru_cache(maxsize=8192)(_checked)


def texts(value: bytes) -> list[bytes]:
    """Return hidden content of a value that is a CSA header (SV10) or compressed by gzip, for the final check.

    This is the items of fields, names of fields that the tables do not have, and decompressed text.
    """
    if value[:4] == _SIGNATURE[:4]:
        try:
            found = list(csa(value))
        except _Damaged:
            return []
        others = [name.encode("latin-1") for name, _ in found if name not in fields("csa")]
        return [*others, *(item for _, items in found for item in items)]
    text = ge_protocol(value) if value[4:6] == b"\x1f\x8b" else None
    return [text] if text else []


class _Damaged(Exception):
    """A header is not valid."""


# Siemens: CSA headers. A header has a number of fields, a field a description and items, an item a text.

_SIGNATURE = b"SV10\4\3\2\1"
_COUNT, _FIELD, _ITEM = struct.Struct("<LL"), struct.Struct("<64si4siii"), struct.Struct("<4i")
#: Marker after the number of fields and of items.
_CHECK, _CHECKS = 77, (77, 205)
#: Type number of a field, which accompanies its VR.
_TYPES = {"CS": 16, "DS": 3, "FD": 4, "FL": 5, "IS": 6, "LO": 19, "LT": 20, "SH": 22, "SL": 7, "SS": 8, "ST": 23}
_TYPES |= {"UI": 25, "UL": 9, "UN": 0, "US": 10, "UT": 27}


def _csa(value: bytes) -> bytes | None:
    try:
        made = [(name, form, _of_field(form, items)) for name, items in csa(value) if (form := fields("csa").get(name))]
    except _Damaged:
        return None
    fields_of = [(name, form.vrs[0], form.most, items) for name, form, items in made]
    return csa_of(fields_of, value[:4] == _SIGNATURE[:4]) if fields_of else None


def csa(value: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the fields of a CSA header, and the items of each, cut at their terminator.

    Raises:
        _Damaged: it is none.
    """
    named = value[:4] == _SIGNATURE[:4]
    at = len(_SIGNATURE) if named else 0
    count, check = _unpacked(_COUNT, value, at)
    at += _COUNT.size
    if not 0 < count <= _FIELDS or check != _CHECK:
        raise _Damaged
    first: int | None = None
    for _ in range(count):
        name, _vm, _vr, _type, items, check = _unpacked(_FIELD, value, at)
        at += _FIELD.size
        first = items if first is None else first
        if check not in _CHECKS or not 0 <= items <= _ITEMS:
            raise _Damaged
        texts = []
        for _ in range(items):
            lengths = _unpacked(_ITEM, value, at)
            at += _ITEM.size
            # Before headers began with a name, lengths were too large, by the number of items of the first field.
            length = lengths[1] if named else lengths[0] - first
            if not 0 <= length <= len(value) - at:
                raise _Damaged
            texts.append(value[at : at + length].split(b"\0")[0])
            at += length + -length % 4
        yield name.split(b"\0")[0].decode("latin-1"), texts


def csa_of(made: list[tuple[str, str, int, list[bytes]]], named: bool = True) -> bytes:
    """Build a CSA header.

    Args:
        made: name, VR, number of values and items of each field.
        named: whether it begins with its name (SV10).
    """
    first = len(made[0][3]) if made and not named else 0
    parts = [_SIGNATURE if named else b"", _COUNT.pack(len(made), _CHECK)]
    for name, vr, vm, items in made:
        parts.append(_FIELD.pack(name.encode("latin-1"), vm, vr.encode(), _TYPES.get(vr, 0), len(items), _CHECK))
        for item in items:
            text = item + b"\0" if item else b""
            parts.append(_ITEM.pack(len(text) + first, len(text), _CHECK, len(text)))
            parts.append(text + bytes(-len(text) % 4))
    return b"".join(parts)


def _of_field(form: Form, items: list[bytes]) -> list[bytes]:
    """Return the items of a field, with invalid ones emptied; all are emptied where there are too many."""
    if form.parser:
        return [_PARSERS[form.parser](item) or b"" for item in items]
    texts = [item.decode("latin-1").strip() for item in items]
    full = [text for text in texts if text]
    fit = len(full) <= (form.most or len(full)) and all(map(form.fits, full))
    return [text.encode("latin-1") if fit else b"" for text in texts]


def _unpacked(form: struct.Struct, value: bytes, at: int) -> tuple[Any, ...]:
    try:
        return form.unpack_from(value, at)
    except struct.error:
        raise _Damaged from None


# Siemens: protocols

_BEGIN, _END = b"### ASCCONV BEGIN", b"### ASCCONV END"
_INDEX = re.compile(r"\[\d{1,3}\]", re.ASCII)


def _protocol(value: bytes) -> bytes | None:
    begin = value.find(_BEGIN)
    end = value.find(_END, begin + 1)
    if begin < 0 or end < 0:
        return None
    lines = value[begin:end].decode("latin-1").splitlines()[1:]
    known, found = fields("protocol"), []
    for line in lines:
        key, equals, text = (part.strip() for part in line.partition("="))
        form = known.get(_INDEX.sub("[]", key))
        if form and equals and text and form.fits(text.strip('"') if form.pattern else text):
            found.append(f"{key}\t = \t{text}\n")
    made = "".join(["\n### ASCCONV BEGIN ###\n", *found, "### ASCCONV END ###\n"]).encode("ascii")
    return made + bytes(len(made) & 1)


# GE


def _ge_protocol(value: bytes) -> bytes | None:
    """Rewrite four bytes of length and gzip data. A line of the text is a key and a value in quotation marks."""
    text = ge_protocol(value)
    if text is None:
        return None
    known, found = fields("ge-protocol"), []
    for line in text.decode("latin-1").splitlines():
        key, _, quoted = line.partition(" ")
        form = known.get(key)
        if form and len(quoted) >= 2 and quoted[0] == quoted[-1] == '"' and form.fits(quoted[1:-1]):
            found.append(f"{key} {quoted}\n")
    made = gzip.compress(("\n" + "".join(found)).encode("ascii"), mtime=0)
    made = struct.pack("<L", len(made)) + made
    return made + bytes(len(made) & 1)


def ge_protocol(value: bytes) -> bytes | None:
    """Return the text of a protocol data block; None where it is none."""
    (length,) = struct.unpack("<L", value[:4]) if len(value) >= 4 else (0,)
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = inflater.decompress(value[4 : 4 + length], _MOST)
    except zlib.error:
        return None
    return text if inflater.eof else None


#: Offset of the field with the header's offset, and minimum size of a header in bytes.
_OFFSET, _LEAST = 24, 918


def _ge_user(value: bytes) -> bytes | None:
    """Keep version of the header, EPI flag, polarity of the phase encoding, and view order."""
    if len(value) < _OFFSET + 2:
        return None
    start = int.from_bytes(value[_OFFSET : _OFFSET + 2], "little")
    if 0 < start < _OFFSET + 2 or start + _LEAST > len(value):
        return None
    (version,) = struct.unpack_from("<f", value, start)
    if not 5 <= version <= 40:
        return None
    later = version >= 25.002
    flags = start + (0x4C if later else 0)
    order = flags + 0x0394 - (0x8C if later else 0)
    made = bytearray(len(value))
    struct.pack_into("<f", made, start, math.floor(version * 1000 + 0.5) / 1000)
    made[_OFFSET : _OFFSET + 2] = value[_OFFSET : _OFFSET + 2]
    for place, mask in ((flags + 0x30, 0x0004), (flags + 0x3A, 0x0800), (order, 0xFFFF)):
        number = int.from_bytes(value[place : place + 2], "little") & mask
        made[place : place + 2] = (number if mask != 0xFFFF or number < 4 else 0).to_bytes(2, "little")
    return bytes(made)


_PARSERS: dict[str, Callable[[bytes], bytes | None]] = {
    "csa": _csa,
    "protocol": _protocol,
    "ge-protocol": _ge_protocol,
    "ge-user": _ge_user,
}
