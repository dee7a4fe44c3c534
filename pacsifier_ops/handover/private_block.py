"""Sets elements in a private block of an object, which is reserved if necessary (PS3.5 7.8.1).

The data set is not encoded anew: the elements before and after the group of the block keep every byte.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import BinaryIO

from pydicom.uid import ExplicitVRLittleEndian

from pacsifier_ops.base.files import CHANGED
from pacsifier_ops.dicom.encoding import deflated, element
from pacsifier_ops.dicom.files import DicomFile, Layout, layout
from pacsifier_ops.dicom.uids import DEFLATED

#: Largest size of a data set after inflation, in bytes.
_MOST_INFLATED = 2**30
#: Bytes that are read at once.
_PIECE = 1 << 20


def check_value(text: str) -> str:
    """Return a text without blanks around it, if it is a value of VR LO in every character set (PS3.5 6.2).

    Raises:
        ValueError: it is none. The message does not contain the text.
    """
    text = text.strip(" ")
    if not re.fullmatch(r"[ -\[\]-~]{1,64}", text):
        raise ValueError("does not fit into a tag; give 1 to 64 ASCII characters, no backslash")
    return text


@dataclass(frozen=True)
class Change:
    """A change of a file: `new` replaces the bytes from `start` up to `end`.

    Attributes:
        start, end: offsets in the file, in bytes; `end` is exclusive.
        new: the new bytes.
        block: number of the private block, from 0x10 to 0xFF.
        needed: whether the new bytes differ from those in the file.
    """

    start: int
    end: int
    new: bytes
    block: int
    needed: bool


def change(file: DicomFile, group: int, creator: str, values: Mapping[int, str]) -> Change:
    """Return the change of a file after which one private block has these values.

    The same elements in other blocks of the creator are removed.

    Args:
        group: group of the block; an odd number.
        creator: private creator of the block; a block is reserved if there is none.
        values: values of VR LO (see `check_value`), by the last two hexadecimal digits of their tags.

    Raises:
        ValueError: the file is damaged, was changed since it was inspected, or has no free block; the reason in words.
        OSError: the file cannot be read.
    """
    with _opened(file) as stream:
        if file.transfer_syntax_uid not in DEFLATED:
            return _change(stream, file.offset, file.size, file.transfer_syntax_uid, group, creator, values)
        stream.seek(file.offset)
        plain = _inflated(stream.read())
    found = _change(io.BytesIO(plain), 0, len(plain), ExplicitVRLittleEndian, group, creator, values)
    if not found.needed:
        return replace(found, start=file.size, end=file.size, new=b"")
    packed = deflated(plain[: found.start] + found.new + plain[found.end :])
    return replace(found, start=file.offset, end=file.size, new=packed)


def pieces(file: DicomFile, changed: Change) -> Iterator[bytes]:
    """Yield the content of a file after the change.

    Raises:
        ValueError: the file cannot be read, or was changed since it was inspected.
    """
    try:
        with _opened(file) as stream:
            yield from _range(stream, 0, changed.start)
            yield changed.new
            yield from _range(stream, changed.end, file.size)
    except OSError as error:  # the caller takes an OSError for a failure to write
        raise ValueError(f"it cannot be read: {error.strerror or type(error).__name__}") from error


def _opened(file: DicomFile) -> BinaryIO:
    stream = file.path.open("rb")
    status = os.fstat(stream.fileno())
    if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        stream.close()
        raise ValueError(CHANGED)
    return stream


def _range(stream: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    stream.seek(start)
    while start < end:
        piece = stream.read(min(_PIECE, end - start))
        if not piece:
            raise ValueError(CHANGED)
        start += len(piece)
        yield piece


def _change(
    stream: BinaryIO, start: int, size: int, syntax: str, group: int, creator: str, values: Mapping[int, str]
) -> Change:
    whole = layout(stream, start, size, syntax)
    tags = [element.tag for element in whole.elements]
    if any(one >= other for one, other in pairwise(tags)):
        raise ValueError("its elements are not in order of tags, or a tag occurs twice")
    inside = [element for element in whole.elements if element.tag >> 16 == group]
    behind = next((element.start for element in whole.elements if element.tag >> 16 > group), size)
    begin = inside[0].start if inside else behind
    stream.seek(begin)
    old = stream.read(behind - begin)
    encoded = {element.tag & 0xFFFF: old[element.start - begin : element.end - begin] for element in inside}
    creators = {
        element.tag & 0xFFFF: old[element.value - begin : element.end - begin].strip(b" \0")
        for element in inside
        if 0x10 <= element.tag & 0xFFFF <= 0xFF
    }
    ours = {number for number, name in creators.items() if name == creator.encode("ascii")}
    # A block that no creator has reserved may still have elements. Reserving it would make them ours.
    taken = {*creators, *(number >> 8 for number in encoded)}
    block = min(ours) if ours else next((number for number in range(0x10, 0x100) if number not in taken), 0)
    if not block:
        raise ValueError(f"all blocks of group {group:04X} are reserved by others")
    others = {n: element for n, element in encoded.items() if n >> 8 not in ours or n & 0xFF not in values}
    if not ours:
        others[block] = _text(whole, group, block, creator)
    new = _group(others, block, whole, group, values)
    return Change(begin, behind, new, block, new != old)


def _group(elements: dict[int, bytes], block: int, whole: Layout, group: int, values: Mapping[int, str]) -> bytes:
    """Return the encoded group with these values in a block.

    Args:
        elements: the encoded elements that stay, by element number; the values are added to it.
        values: by the last two hexadecimal digits of their tags.
    """
    for last, value in values.items():
        elements[block << 8 | last] = _text(whole, group, block << 8 | last, value)
    length = elements.pop(0x0000, None)
    content = b"".join(elements[number] for number in sorted(elements))
    if length is None:
        return content
    order = "<" if whole.little else ">"
    length = element(
        group << 16, "UL", struct.pack(f"{order}L", len(content)), implicit=whole.implicit, little=whole.little
    )
    return length + content


def _text(whole: Layout, group: int, number: int, text: str) -> bytes:
    return element(group << 16 | number, "LO", text.encode("ascii"), implicit=whole.implicit, little=whole.little)


def _inflated(packed: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(packed, _MOST_INFLATED)
    except zlib.error:
        raise ValueError("its deflated data set cannot be inflated") from None
    if not inflater.eof or inflater.unused_data.strip(b"\0"):
        raise ValueError("its deflated data set is too large or ends too early, or bytes follow it")
    return plain
