"""What the head of a de-identified file says of how the image was made: the attributes of `tables/technique.csv`.

All is read from what the de-identification has written, and never from the source. So a value is there where the
profile lets it stay, and as the profile lets it stay. Attributes of multi-frame objects are those of their functional
groups (PS3.3 C.7.6.16), where all frames agree.
"""

from __future__ import annotations

import csv
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.datadict import dictionary_VR

from pacsifier_ops.base.tables import INTEGER, NUMBER, TEXT
from pacsifier_ops.deid.slices import Frame
from pacsifier_ops.dicom.elements import LONGEST, Encoding, Plain, data_set, values, walk
from pacsifier_ops.dicom.encoding import ITEM, Elements, Syntax
from pacsifier_ops.dicom.files import decoded, layout, top_level
from pacsifier_ops.dicom.uids import DEFLATED

_TABLE = Path(__file__).parent / "tables" / "technique.csv"
_TYPES = {"text": TEXT, "integer": INTEGER, "number": NUMBER}
#: Where a column stands: in the table of series, in that of instances, or in both.
SERIES, INSTANCES, BOTH = "series", "instances", "both"

_CHARACTER_SET, _SYNTAX, _CLASS, _FRAMES = 0x00080005, 0x00020010, 0x00080016, 0x00280008
_IMAGE_TYPE = 0x00080008
_POSITION, _ORIENTATION = 0x00200032, 0x00200037
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
#: Functional groups (PS3.3 C.7.6.16, C.8.13, C.8.15) with attributes of the table, or of those below.
_GROUPS = frozenset(
    (
        *(0x00289110, 0x00209113, 0x00209116, 0x00209111, 0x00209071),
        *(0x00189112, 0x00189114, 0x00189115, 0x00189117, 0x00189226),
        *(0x00189325, 0x00189314, 0x00189321, 0x00189329),
    )
)
#: Attributes by which images at the same position differ, so that none is a second copy: number, image type, times,
#: echo, inversion, phase, diffusion, energy.
_APART = frozenset(
    (
        *(0x00080008, 0x00080032, 0x00080033, 0x0008002A, 0x00200012, 0x00200100, 0x00181060, 0x00181063, 0x00541300),
        *(0x00180081, 0x00180082, 0x00180086, 0x00180060, 0x00181210, 0x00189087, 0x00189089, 0x00209241),
        *(0x00189082, 0x00189079, 0x00189117, 0x00189074, 0x00189151, 0x00089007, 0x00209056, 0x00209128, 0x00209156),
    )
)
#: Segmentations, of which several may lie on one position (PS3.3 A.51), and slide microscopy have no slices to judge.
_NO_SLICES = (b"1.2.840.10008.5.1.4.1.1.66.4", b"1.2.840.10008.5.1.4.1.1.77.1.6")
#: Longest list of frames that is read.
_MOST_FRAMES = 1 << 16
_EVERY = 0xFFFFFFFE
#: Farthest place of an image in mm, and largest number of frames: others cannot be reckoned with.
_FARTHEST, _LARGEST = 1e6, 2**31 - 1


@dataclass(frozen=True, eq=False)  # to compare them by their content takes long
class Column:
    """A column of the tables.

    Attributes:
        name: of the column.
        tags: the attributes; the first that has a value counts.
        place: number of the value among several, from 0; None: all of them.
        kind: type of the column, see `base.tables`.
        where: SERIES, INSTANCES or BOTH.
        meaning: in words, with the unit; empty if the attribute says it all.
    """

    name: str
    tags: tuple[int, ...]
    place: int | None
    kind: str
    where: str
    meaning: str


@cache
def columns() -> tuple[Column, ...]:
    """Return the columns of the tables, in order."""
    with _TABLE.open(encoding="utf-8", newline="") as stream:
        return tuple(
            Column(
                line["column"],
                tuple(int(tag, 16) for tag in line["tags"].split()),
                int(line["place"]) if line["place"] else None,
                _TYPES[line["type"]],
                line["in"],
                line["meaning"],
            )
            for line in csv.DictReader(stream)
        )


@cache
def version() -> str:
    """Return what changes where files have to be read anew: a digest of the table and of this module, hexadecimal."""
    return hashlib.sha256(_TABLE.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]


#: A value of a cell; None where there is none.
Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a file says.

    Attributes:
        values: a value for each of `columns()`.
        frames: the images in the file, where each has a place in space; otherwise empty.
        images: number of images in the file.
    """

    values: tuple[Value, ...]
    frames: tuple[Frame, ...]
    images: int


#: What a file says that cannot be read.
def unknown() -> Head:
    """Return the head of a file that cannot be read."""
    return Head((None,) * len(columns()), (), 0)


@cache
def _wanted() -> tuple[frozenset[int], int]:
    """Return the tags to read at the top level, and the last of them."""
    tags = {tag for column in columns() for tag in column.tags} | _APART | {_CHARACTER_SET, _POSITION, _ORIENTATION}
    return frozenset(tags), max(tags)


def read(path: Path) -> Head:
    """Read the head of a file.

    Raises:
        ValueError: it is none that this package has written.
        OSError: it cannot be read.
    """
    wanted, last = _wanted()
    with path.open("rb") as stream:
        top = top_level(stream, wanted, last)
        groups: list[dict[int, bytes]] = []
        if _is_grouped(top.values):
            with suppress(ValueError, struct.error, zlib.error):  # without them, the object has no geometry
                groups = _groups(stream, top.transfer_syntax_uid, top.offset, alike=_without_slices(top.values))
    return _head(top.values, groups, top.transfer_syntax_uid, little=top.little)


def of(elements: Elements, syntax: Syntax) -> Head | None:
    """Return the head of an object that is written so; None where its file has to be read (see `read`).

    Args:
        elements: its elements, as they are encoded.
        syntax: its transfer syntax.
    """
    top: dict[int, bytes] = {}
    for tag in _wanted()[0] & elements.keys():
        value = elements[tag][1]
        if type(value) is not bytes:
            return None
        top[tag] = value if len(value) <= LONGEST else b""
    return None if _is_grouped(top) else _head(top, [], syntax.uid, little=syntax.little)


def _is_grouped(top: Mapping[int, bytes]) -> bool:
    """Return whether an object may have functional groups."""
    return _whole(top.get(_FRAMES, b"")) > 1 or _POSITION not in top


def _without_slices(top: Mapping[int, bytes]) -> bool:
    return top.get(_CLASS, b"").startswith(_NO_SLICES)


def _head(top: Mapping[int, bytes], groups: list[dict[int, bytes]], syntax: str, *, little: bool) -> Head:
    found = {**top, _SYNTAX: syntax.encode()}
    images = _whole(found.get(_FRAMES, b"")) or 1
    shown = found if not groups else {**_agreed(groups), **{tag: value for tag, value in found.items() if value}}
    charset = found.get(_CHARACTER_SET, b"")
    cells = tuple([_cell(column, shown, charset, little) for column in columns()])
    mosaic = b"MOSAIC" in found.get(_IMAGE_TYPE, b"")  # many slices in one image, and a place of its own for none
    if _without_slices(top) or mosaic:
        return Head(cells, (), images)
    each = groups or ([found] if images == 1 else [])
    frames = tuple(frame for one in each if (frame := _frame(one, found)))
    return Head(cells, frames if len(frames) == len(each) else (), images)


# Functional groups


def _groups(stream: BinaryIO, syntax: str, offset: int, *, alike: bool) -> list[dict[int, bytes]]:
    """Return the attributes of each frame: those that frames share, and its own.

    Args:
        alike: return what frames share alone, once.
    """
    if syntax in DEFLATED:
        stream.seek(offset)
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read())
        stream, offset, syntax = BytesIO(inflated), 0, "1.2.840.10008.1.2.1"
        size = len(inflated)
    else:
        size = stream.seek(0, 2)
    places = {one.tag: one for one in layout(stream, offset, size, syntax).elements if one.tag in (_SHARED, _PER_FRAME)}
    if not places:
        return []
    _, encoding = data_set(Plain(stream, size, offset), syntax)

    def within(tag: int) -> Iterator[dict[int, bytes]]:
        if tag in places:
            stream.seek(places[tag].value)
            yield from (_flat(item, encoding) for item in _items(stream.read(places[tag].end - places[tag].value)))

    shared = next(within(_SHARED), {})
    return [shared] if alike else [{**shared, **own} for own in islice(within(_PER_FRAME), _MOST_FRAMES)]


def _flat(item: bytes, encoding: Encoding) -> dict[int, bytes]:
    """Return the attributes of all functional groups of a frame, and the groups."""
    flat = _elements(item, encoding, _GROUPS)
    for group in list(flat.values()):
        for inner in _items(group):
            flat |= _elements(inner, encoding, _wanted()[0])
    return flat


def _items(data: bytes) -> Iterator[bytes]:
    """Yield the items of a sequence. This package writes each with its length."""
    at = 0
    while at + 8 <= len(data):
        little = data[at : at + 2] == b"\xfe\xff"
        group, number, length = struct.unpack_from("<HHL" if little else ">HHL", data, at)
        if group << 16 | number != ITEM or at + 8 + length > len(data):
            raise ValueError("it is no item with a length")
        yield data[at + 8 : at + 8 + length]
        at += 8 + length


def _elements(data: bytes, encoding: Encoding, wanted: frozenset[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    if encoding.little and walk(data, encoding.implicit, wanted, _EVERY, found) is not None:
        return found
    return values(Plain(BytesIO(data), len(data)), encoding, wanted, _EVERY)


def _agreed(groups: list[dict[int, bytes]]) -> dict[int, bytes]:
    """Return the attributes that are the same in all frames."""
    first = dict(groups[0])
    for one in groups[1:]:
        for tag in [tag for tag, value in first.items() if one.get(tag) != value]:
            del first[tag]
    return first


# Values


def _frame(of: Mapping[int, bytes], top: Mapping[int, bytes]) -> Frame | None:
    position = _numbers(of.get(_POSITION, b""))
    orientation = _numbers(of.get(_ORIENTATION) or top.get(_ORIENTATION, b""))
    if len(position) != 3 or len(orientation) != 6 or max(map(abs, (*position, *orientation))) > _FARTHEST:
        return None
    apart = hashlib.sha256(b"\0".join(b"%d=%b" % (tag, of[tag]) for tag in sorted(_APART & of.keys())))
    return Frame(position, orientation, apart.hexdigest()[:12])


@lru_cache(1 << 14)
def _numbers(value: bytes) -> tuple[float, ...]:
    """Return the numbers of a DS; none where one is no number."""
    with suppress(ValueError):
        numbers = tuple(float(part) for part in value.decode("ascii", "replace").strip("\0 ").split("\\"))
        if all(map(math.isfinite, numbers)):
            return numbers
    return ()


def _cell(column: Column, found: Mapping[int, bytes], charset: bytes, little: bool) -> Value:
    for tag in column.tags:
        if (value := found.get(tag)) and (cell := _value(tag, value, column, charset, little)) is not None:
            return cell
    return None


@lru_cache(1 << 14)
def _value(tag: int, value: bytes, column: Column, charset: bytes, little: bool) -> Value:
    """Return a value as a cell. Slices of a series have most of their values in common."""
    form = _BINARY.get(_vr(tag))
    if form is not None:
        with suppress(struct.error):
            digits = "{:.7g}" if form == "f" else "{!r}"
            numbers = struct.iter_unpack(("<" if little else ">") + form, value)
            parts = [digits.format(number) for (number,) in numbers]
            return _typed(parts, column)
        return None
    return _typed([part.strip("\0 ") for part in decoded(value, charset).split("\\")], column)


def _typed(parts: list[str], column: Column) -> Value:
    if column.place is not None:
        parts = parts[column.place : column.place + 1]
    if column.kind == TEXT:
        return "\\".join(parts) if any(parts) else None
    with suppress(ValueError, IndexError, OverflowError):
        number = float(parts[0])
        if not math.isfinite(number):
            return None
        if column.kind == NUMBER:
            return number
        return int(number) if number == int(number) and abs(number) < 2**53 else None
    return None


def _whole(value: bytes) -> int:
    with suppress(ValueError, OverflowError):
        number = int(float(value.decode("ascii", "replace").strip("\0 ")))
        return number if 0 <= number <= _LARGEST else 0
    return 0


#: Numbers by VR (PS3.5 6.2).
_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}


@cache
def _vr(tag: int) -> str:
    return dictionary_VR(tag)


def as_kept(head: Head) -> list[Any]:
    """Return a head as JSON."""
    return [head.values, head.frames, head.images]


def of_kept(kept: list[Any]) -> Head:
    """Undo `as_kept`."""
    values, frames, images = kept
    return Head(tuple(values), tuple(Frame(tuple(p), tuple(o), apart) for p, o, apart in frames), images)
