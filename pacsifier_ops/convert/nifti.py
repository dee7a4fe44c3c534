"""The header of a NIfTI-1 or NIfTI-2 file (nifti.nimh.nih.gov): what it says, and its free texts, which are emptied.

A converter writes time of day, patient and study into `descrip`, `aux_file`, `intent_name` and `db_name`, and may add
extensions of any content. None of it is needed to read the image.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_PIECE = 1 << 20


@dataclass(frozen=True)
class _Form:
    """Offsets of fields in bytes.

    Attributes:
        size: of the header.
        magic, dim, bitpix, offset: offset and struct format of these fields.
        texts: offset and length of the free texts.
    """

    size: int
    magic: tuple[int, bytes]
    dim: tuple[int, str]
    bitpix: int
    offset: tuple[int, str]
    texts: tuple[tuple[int, int], ...]


_ONE = _Form(348, (344, b"n+1\0"), (40, "8h"), 72, (108, "f"), ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16)))
_TWO = _Form(540, (4, b"n+2\0\r\n\x1a\n"), (16, "8q"), 14, (168, "q"), ((240, 80), (320, 24), (508, 16)))


@dataclass(frozen=True)
class Image:
    """An image.

    Attributes:
        dims: lengths of its axes, in voxels: x, y, z, t and so on.
    """

    dims: tuple[int, ...]

    @property
    def volumes(self) -> int:
        """Number of its volumes."""
        count = 1
        for length in self.dims[3:]:
            count *= length
        return count


def clean(path: Path) -> Image:
    """Check a NIfTI file, empty the free texts of its header, and take its extensions off. Return what it is.

    Raises:
        ValueError: it is no NIfTI file, or not whole; says why.
        OSError: it cannot be read or written.
    """
    with path.open("r+b") as stream:
        head = bytearray(stream.read(_TWO.size + 4))
        form, order = _form_of(head)
        dims, start, length = _shape(head, form, order)
        size = os.fstat(stream.fileno()).st_size
        if size < start + length:
            raise ValueError("an image is not whole")
        if size > start + length:
            raise ValueError("an image has more bytes than its header says")
        if start != form.size + 4 or any(head[form.size : form.size + 4]):
            raise ValueError("an image has an extension")
        for offset, count in form.texts:
            stream.seek(offset)
            stream.write(bytes(count))
    return Image(dims)


def texts(path: Path) -> str:
    """Return what a compressed NIfTI file says beside its image: free texts and extensions. Ours have none.

    Raises:
        ValueError: it is no NIfTI file.
        OSError: it cannot be read.
    """
    with gzip.open(path) as stream:
        head = bytearray(stream.read(_TWO.size + 4))
        form, order = _form_of(head)
        start = int(struct.unpack_from(order + form.offset[1], head, form.offset[0])[0])
        stream.seek(form.size)
        rest = stream.read(max(0, start - form.size))
    parts = [bytes(head[offset : offset + count]) for offset, count in form.texts] + [rest]
    return "\n".join(text for part in parts if (text := part.strip(b"\0 ").decode("utf-8", "replace")))


def pack(source: Path, target: Path) -> None:
    """Compress a file: equal files give equal bytes, so neither name nor time is in it.

    Raises:
        OSError: it cannot be read or written.
    """
    with (
        source.open("rb") as stream,
        target.open("xb") as raw,
        gzip.GzipFile("", "wb", zlib.Z_DEFAULT_COMPRESSION, raw, 0) as packed,
    ):
        while piece := stream.read(_PIECE):
            packed.write(piece)


def _form_of(head: bytearray) -> tuple[_Form, str]:
    for form in (_ONE, _TWO):
        for order in "<>":
            if len(head) >= form.size + 4 and struct.unpack_from(f"{order}i", head)[0] == form.size:
                at, magic = form.magic
                if head[at : at + len(magic)] == magic:
                    return form, order
    raise ValueError("an image is no NIfTI file")


def _shape(head: bytearray, form: _Form, order: str) -> tuple[tuple[int, ...], int, int]:
    """Return lengths of the axes, offset of the voxels and their length in bytes."""
    rank, *lengths = struct.unpack_from(order + form.dim[1], head, form.dim[0])
    dims = tuple(lengths[:rank])
    bits = struct.unpack_from(f"{order}h", head, form.bitpix)[0]
    start = int(struct.unpack_from(order + form.offset[1], head, form.offset[0])[0])
    if not 1 <= rank <= 7 or any(length < 1 for length in dims) or bits < 1:
        raise ValueError("the header of an image is damaged")
    count = 1
    for length in dims:
        count *= length
    return dims, start, (count * bits + 7) // 8
