"""Zeroes data in compressed pixel data that are not pixels. No rule for attributes reaches them.

| stream                                     | data that become zeros                                                  |
|--------------------------------------------|-------------------------------------------------------------------------|
| JPEG, JPEG-LS (ISO/IEC 10918-1, 14495-1)   | comments; Exif, XMP, Photoshop, previews; bytes after the end           |
| JPEG 2000 (ISO/IEC 15444-1, -15)           | comments, also of tiles; unknown segments; bytes after the end          |
| the file format JP2 around it              | boxes that decoders do not need, such as XML and UUID; text of profiles |

Nothing is decoded, and no length changes, so that offset tables stay valid. Application data about colours and
resolution stay: JFIF, Adobe, `mrfx` of JPEG-LS, the numbers of a colour profile in one segment. Other application data
become a comment. Markers between scans are found, too; the scans are skipped.

A damaged stream is cleaned up to the damage. RLE and video are not searched: in RLE, only a decoder finds the end of a
segment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pacsifier_ops.deid import icc
from pacsifier_ops.dicom.encoding import Fragments

#: First bytes of streams: JPEG and JPEG-LS, JPEG 2000, JP2.
_JPEG, _CODESTREAM, _BOXES = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"
_BEGINS = (_JPEG, _CODESTREAM, _BOXES)
#: Maximum number, plus one, of fragments within one header that begin like an image.
_PREVIEWS = 8
#: A marker within a scan, apart from stuffed bytes and RST.
_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
#: JPEG: end of image, start of scan, comment; markers without a segment; markers of application data or unknown ones.
_EOI, _SOS, _COM = 0xD9, 0xDA, 0xFE
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_APPLICATION = frozenset((*range(0xE0, 0xF7), *range(0xF9, 0xFE)))  # F7 and F8 are JPEG-LS
#: Number of bytes of an application segment that stay, by its beginning; all of JFIF apart from the preview.
_NEEDED = {(0xE0, b"JFIF\0"): 14, (0xEE, b"Adobe"): 12, (0xE8, b"mrfx"): 5}
#: Beginning of an application segment with a whole colour profile (ICC.1 B.4).
_PROFILE = b"ICC_PROFILE\0\1\1"
#: JPEG 2000: start of tile-part, start of data, comment; segments that decoders know.
_SOT, _SOD, _REMARK = 0x90, 0x93, 0x64
_SEGMENTS = frozenset((*range(0x50, 0x64), *range(0x72, 0x7B), _SOT))
#: JP2: boxes that stay; `free` is a box without content.
_BOX_KEPT = frozenset((b"jP  ", b"ftyp", b"ihdr", b"bpcc", b"pclr", b"cmap", b"cdef", b"res "))


def cleaned(value: Fragments, frames: int) -> Fragments:
    """Zero all data in encapsulated pixel data that are not pixels.

    Args:
        value: the items, beginning with the offset table.
        frames: number of frames.

    Returns:
        The same object where nothing changed.
    """
    parts = list(_parts(value))[1:]  # the first one is the offset table
    begins = [number for number, (start, _) in enumerate(parts) if value.startswith(_BEGINS, start)]
    made = bytearray()
    at = 0
    while at < len(begins):
        first, at = begins[at], at + 1
        for _ in range(_PREVIEWS):  # an image: a fragment that begins like one, and those up to the next
            places = parts[first : begins[at] if at < len(begins) else len(parts)]
            stream = _Stream(b"".join([value[start:stop] for start, stop in places]))
            stream.read()
            if stream.end or not stream.in_header or at == len(begins) or len(begins) <= frames:
                break
            at += 1  # the next fragment begins with a preview within the header
        # With fewer streams than frames, a fragment has several images, and their ends are unknown.
        if stream.end and len(begins) >= frames:
            stream.zero(stream.end, len(stream.data), padding=b"\0\xff")
        if not stream.edits:
            continue
        made = made or bytearray(value)
        new, offset = stream.edited(), 0
        for start, stop in places:
            made[start:stop] = new[offset : offset + stop - start]
            offset += stop - start
    return Fragments(made) if made else value


def _parts(value: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of the content of each item."""
    at = 0
    while at + 8 <= len(value):
        start = at + 8
        at = start + int.from_bytes(value[at + 4 : start], "little")
        yield start, at


class _EndOfStream(Exception):
    """The stream continues after the last byte."""


class _InvalidStream(Exception):
    """The stream is not valid."""


class _Stream:
    """A stream of one image.

    Attributes:
        data: the bytes.
        edits: offsets, and the new bytes there.
        end: offset after the image; 0 where it has no end.
        in_header: the stream ends before the pixels begin.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.edits: list[tuple[int, bytes]] = []
        self.end = 0
        self.in_header = True

    def read(self) -> None:
        """Collect the edits."""
        try:
            if self.data.startswith(_JPEG):
                self.end = self._jpeg()
            elif self.data.startswith(_CODESTREAM):
                self.end = self._codestream(0, len(self.data))
            else:
                self.end = self._boxes(0, len(self.data))
        except _EndOfStream:
            pass
        except _InvalidStream:
            self.in_header = False

    def edited(self) -> bytearray:
        """Return the stream with the edits applied."""
        made = bytearray(self.data)
        for at, new in self.edits:
            made[at : at + len(new)] = new
        return made

    def zero(self, start: int, stop: int, padding: bytes = b"\0") -> None:
        """Zero a range, as far as it exists; skip it where it is padding."""
        stop = min(stop, len(self.data))
        if self.data[start:stop].strip(padding):
            self.edits.append((start, bytes(stop - start)))

    def _jpeg(self) -> int:
        data, at = self.data, 2
        while True:
            at, code = self._marker(at, len(data))
            if code == _EOI:
                return at
            if code in _ALONE:
                continue
            if code < 0xC0 or code == 0xD8:
                raise _InvalidStream
            stop = self._segment(at, len(data))
            if code == _COM:
                self.zero(at + 2, stop)
            elif code in _APPLICATION:
                self._application(code, at, stop)
            at = self._reached(stop, len(data))
            if code == _SOS:
                self.in_header = False
                found = _MARKER.search(data, at)
                if not found:
                    raise _EndOfStream
                at = found.start()

    def _application(self, code: int, at: int, stop: int) -> None:
        """Keep application data that decoders need; turn others into a comment."""
        for (marker, name), length in _NEEDED.items():
            if code == marker and self.data.startswith(name, at + 2):
                self.zero(at + 2 + length, stop)
                return
        begin = at + 2 + len(_PROFILE)
        profile = icc.cleaned(self.data[begin:stop]) if self.data.startswith(_PROFILE, at + 2) else None
        if code == 0xE2 and profile and stop <= len(self.data):
            self.edits.append((begin, profile))
            return
        self.edits.append((at - 1, bytes([_COM])))
        self.zero(at + 2, stop)

    def _codestream(self, at: int, stop: int) -> int:
        data, tile_end, at = self.data, 0, at + 2
        while True:
            at, code = self._marker(at, stop)
            if code == _EOI:
                return at
            if 0x30 <= code < 0x40:
                continue
            if code == _SOD:
                self.in_header = False
                if not tile_end:
                    end = data.find(b"\xff\xd9", at, stop)
                    if end < 0:
                        raise _EndOfStream
                    at = end
                elif at > tile_end:
                    raise _InvalidStream
                else:
                    at = self._reached(tile_end, stop)
                continue
            if code < 0x50 or code > _SOT:
                raise _InvalidStream
            end = self._segment(at, stop)
            if code == _SOT:
                length = int.from_bytes(data[at + 4 : at + 8], "big")
                tile_end = at - 2 + length if length else 0
            elif code == _REMARK:
                self.zero(at + 4, end)
            elif code not in _SEGMENTS:
                self.edits.append((at - 1, bytes([_REMARK])))
                self.zero(at + 2, end)
            at = self._reached(end, stop)

    def _boxes(self, at: int, stop: int) -> int:
        data = self.data
        while at < stop:
            if at + 8 > stop:
                if data[at:stop].strip(b"\0"):
                    raise _InvalidStream
                return at
            length, kind, content = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
            if length == 1:
                length, content = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
            end = at + length if length else stop
            if end < content:
                raise _InvalidStream
            if kind == b"jp2c":
                image_end = self._codestream(content, min(end, stop))
                if not length:
                    return image_end
                self.zero(image_end, end)
            elif kind == b"jp2h":
                self._boxes(content, min(end, stop))
            elif kind == b"colr":
                self._colour(content, min(end, stop))
            elif kind not in _BOX_KEPT:
                self.edits.append((at + 4, b"free"))
                self.zero(content, end)
            at = self._reached(end, stop)
        return at

    def _colour(self, at: int, stop: int) -> None:
        """Clean a colour specification: a number stays, the text of a profile is removed."""
        if self.data[at : at + 1] not in (b"\1", b"\2"):
            self.zero(at + 3, stop)
        elif self.data[at] == 2:
            made = icc.cleaned(self.data[at + 3 : stop])
            if made:
                self.edits.append((at + 3, made))
            else:
                self.zero(at + 3, stop)

    def _marker(self, at: int, stop: int) -> tuple[int, int]:
        """Return the offset after a marker, and its code. Fill bytes may precede it."""
        data = self.data
        while at + 1 < stop and data[at] == data[at + 1] == 0xFF:
            at += 1
        if at + 2 > stop:
            raise _EndOfStream
        if data[at] != 0xFF:
            raise _InvalidStream
        return at + 2, data[at + 1]

    def _segment(self, at: int, stop: int) -> int:
        """Return the end of the segment at an offset."""
        if at + 2 > stop:
            raise _EndOfStream
        length = int.from_bytes(self.data[at : at + 2], "big")
        if length < 2:
            raise _InvalidStream
        return at + length

    def _reached(self, at: int, stop: int) -> int:
        if at > stop:
            raise _EndOfStream
        return at
