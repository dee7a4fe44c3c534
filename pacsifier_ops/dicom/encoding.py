"""Encoded data sets: elements by tag, values as bytes. Reader, engine and writer exchange them.

Values are decoded only where necessary, so that unchanged values keep their bytes.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, Union

from pydicom.uid import UID, UID_dictionary

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.dicom import vrs


class Fragments(bytes):
    """The items of encapsulated pixel data, without the sequence delimiter (PS3.5 A.4)."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A long value that is not copied: bytes `start` to `stop` of a file, which is in memory or mapped."""

    data: bytes | mmap.mmap
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __bytes__(self) -> bytes:
        return self.data[self.start : self.stop]

    def __getitem__(self, places: slice) -> bytes:
        """Return a copy of a part; steps are not supported."""
        start, stop, _ = places.indices(len(self))
        return self.data[self.start + start : self.start + max(start, stop)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stretch):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(pieces(self), pieces(other), strict=True))

    def __hash__(self) -> int:
        return hash((len(self), self[:_PIECE]))


#: Maximum number of bytes that are taken from a long value at once.
_PIECE = 1 << 20


def pieces(value: bytes | Stretch, start: int = 0) -> Iterator[memoryview]:
    """Yield the bytes of a value from an offset on, in pieces that are not copied."""
    if isinstance(value, bytes):
        value = Stretch(value, 0, len(value))
    view = memoryview(value.data)
    for at in range(value.start + start, value.stop, _PIECE):
        yield view[at : min(at + _PIECE, value.stop)]
        if isinstance(value.data, mmap.mmap):  # what was read of a mapped file need not stay in memory
            first = max(0, at - _PIECE)  # pages before the piece are mapped with it
            first -= first % mmap.PAGESIZE
            value.data.madvise(mmap.MADV_DONTNEED, first, min(at + _PIECE, value.stop) - first)


#: Value of an element; for a sequence, its items.
Value: TypeAlias = Union[bytes, Fragments, Stretch, "list[Elements]"]
#: VR and value by tag, in order.
Elements: TypeAlias = dict[int, tuple[str, Value]]

UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
ITEM, END_OF_ITEM, END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


@dataclass(frozen=True, slots=True)
class Syntax:
    """A transfer syntax (PS3.5 10)."""

    uid: str
    implicit: bool
    little: bool
    deflated: bool
    encapsulated: bool

    @classmethod
    def of(cls, uid: str) -> Syntax:
        """Return the transfer syntax of a UID.

        Raises:
            Unfit: PS3.5 has no such transfer syntax.
        """
        return _syntax(uid)


@lru_cache(maxsize=128)
def _syntax(text: str) -> Syntax:
    if text not in UID_dictionary or not (uid := UID(text)).is_transfer_syntax:
        raise Unfit("its transfer syntax is none of the standard's")
    return Syntax(text, uid.is_implicit_VR, uid.is_little_endian, uid.is_deflated, uid.is_encapsulated)


class _Form:
    """Packs headers of elements in one byte order (PS3.5 7.1)."""

    def __init__(self, order: str) -> None:
        self.implicit = struct.Struct(f"{order}HHL").pack
        self.short = struct.Struct(f"{order}HH2sH").pack
        self.long = struct.Struct(f"{order}HH2sHL").pack


_LITTLE, _BIG = _Form("<"), _Form(">")


def header(tag: int, vr: str, length: int, *, implicit: bool = False, little: bool = True) -> bytes:
    """Encode tag, VR and length of an element. The VR is UN where its length field is too short (PS3.5 6.2.2)."""
    form, group, number = _LITTLE if little else _BIG, tag >> 16, tag & 0xFFFF
    if implicit or group == 0xFFFE:
        return form.implicit(group, number, length)
    if vr in vrs.SHORT and length <= 0xFFFE:
        return form.short(group, number, vr.encode(), length)
    return form.long(group, number, vr.encode() if vr in vrs.LONG else b"UN", 0, length)


def element(tag: int, vr: str, value: bytes, *, implicit: bool = False, little: bool = True) -> bytes:
    """Encode an element, with its value padded."""
    value = vrs.padded(value, vr)
    return header(tag, vr, len(value), implicit=implicit, little=little) + value


def item(elements: bytes, *, little: bool = True) -> bytes:
    """Encode an item of a sequence with explicit length."""
    return header(ITEM, "", len(elements), little=little) + elements


def deflated(plain: bytes) -> bytes:
    """Deflate a data set, to an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflater.compress(plain) + deflater.flush()
    return packed + b"\0" * (len(packed) & 1)
