"""Writes objects: the preamble zero, file meta information made anew, everything else as the engine left it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from pacsifier_ops.deid.encoding import LONG_VRS, SHORT_VRS, UNDEFINED, Elements, Fragments, Syntax, Value
from pacsifier_ops.deid.values import padded
from pacsifier_ops.errors import Unfit

#: Names this implementation in files (PS3.10 7.1), as in associations.
IMPLEMENTATION_CLASS_UID = "2.25.182441154510849794285626515091719410876"
IMPLEMENTATION_VERSION = "PACSIFIER_OPS"

_MOST = 0xFFFFFFFE
_META = Syntax("", implicit=False, little=True, deflated=False, encapsulated=False)


def dataset_of(elements: Elements, syntax: Syntax, charset: str | list[str]) -> Dataset:
    """A data set of pydicom that decodes what is asked for, and is written as it is."""
    made = Dataset({BaseTag(tag): _raw(BaseTag(tag), *elements[tag], syntax) for tag in sorted(elements)})
    made.set_original_encoding(syntax.implicit, syntax.little, charset)
    meta = {0x00020010: ("UI", padded(syntax.uid.encode("ascii"), "UI"))}
    for tag, source in ((0x00020002, 0x00080016), (0x00020003, 0x00080018)):
        value = elements[source][1] if source in elements else b""
        if isinstance(value, bytes) and value:
            meta[tag] = ("UI", value)
    made.file_meta = FileMetaDataset({BaseTag(tag): _raw(BaseTag(tag), *meta[tag], _META) for tag in sorted(meta)})
    return made


def _raw(tag: BaseTag, vr: str, value: Value, syntax: Syntax) -> RawDataElement:
    encoded = items(value, syntax) if isinstance(value, list) else value
    length = UNDEFINED if type(encoded) is Fragments else len(encoded)
    return RawDataElement(tag, vr, length, encoded, 0, syntax.implicit, syntax.little)


def write(dataset: Dataset, path: Path) -> None:
    """Write an object as a file (PS3.10 7), in the transfer syntax that its file meta information names.

    Raises:
        Unfit: an element cannot be written.
        OSError: the disk is full or the folder not writable.
    """
    syntax = Syntax.of(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    elements = sorted(dataset.values(), key=lambda element: int(element.tag))
    body = [part for element in elements for part in _encoded(element, dataset, syntax)]
    if syntax.deflated:
        body = [_deflated(b"".join(body))]
    head = _head(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax.uid)
    with path.open("wb") as stream:
        stream.writelines([head, *body])


def _encoded(element: DataElement | RawDataElement, dataset: Dataset, syntax: Syntax) -> Iterable[bytes]:
    """An element of the engine as it is, one that somebody set since as pydicom encodes it."""
    if isinstance(element, RawDataElement) and element.VR and element.value is not None:
        undefined = element.length == UNDEFINED
        return _element(element.tag, element.VR, element.value, syntax, undefined=undefined)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax.little, syntax.implicit
    try:
        write_data_element(buffer, element, dataset.original_character_set or default_encoding)
    except Exception:  # whatever pydicom finds wrong with it
        raise Unfit("an element that was changed cannot be encoded") from None
    return (buffer.getvalue(),)


def items(found: list[Elements], syntax: Syntax) -> bytes:
    """The items of a sequence, each with its length."""
    form = _form(syntax.little)
    encoded: list[bytes] = []
    for item in found:
        content = encode(item, syntax)
        encoded += (form.item(0xFFFE, 0xE000, len(content)), content)
    return b"".join(encoded)


def encode(elements: Elements, syntax: Syntax) -> bytes:
    """The elements of a data set or an item, one after the other."""
    return b"".join(part for tag, (vr, value) in elements.items() for part in _element(tag, vr, value, syntax))


def _element(tag: int, vr: str, value: Value, syntax: Syntax, *, undefined: bool = False) -> Iterable[bytes]:
    """An element; lengths are explicit wherever the standard lets them be."""
    form, group, number = _form(syntax.little), tag >> 16, tag & 0xFFFF
    encoded = items(value, syntax) if isinstance(value, list) else value
    undefined = undefined or type(encoded) is Fragments
    length = len(encoded)
    if length > _MOST:
        raise Unfit("an element is too long to be written with its length")
    if syntax.implicit:
        head = form.implicit(group, number, UNDEFINED if undefined else length)
    elif vr in SHORT_VRS and length <= 0xFFFE:
        head = form.short(group, number, vr.encode(), length)
    else:  # of a VR whose length field is too small, it is UN (PS3.5 6.2.2)
        code = vr.encode() if vr in LONG_VRS else b"UN"
        head = form.long(group, number, code, 0, UNDEFINED if undefined else length)
    return (head, encoded, form.item(0xFFFE, 0xE0DD, 0)) if undefined else (head, encoded)


class _Form:
    """Headers of elements in one order of bytes."""

    def __init__(self, order: str) -> None:
        self.implicit = self.item = struct.Struct(f"{order}HHL").pack
        self.short = struct.Struct(f"{order}HH2sH").pack
        self.long = struct.Struct(f"{order}HH2sHL").pack


_LITTLE, _BIG = _Form("<"), _Form(">")


def _form(little: bool) -> _Form:
    return _LITTLE if little else _BIG


@lru_cache(maxsize=256)
def _constant(sop_class: str, syntax: str) -> tuple[bytes, bytes]:
    """File meta information before and behind the SOP Instance UID."""
    return (
        b"".join((*_element(0x00020001, "OB", b"\0\1", _META), *_text(0x00020002, "UI", sop_class))),
        b"".join(
            (
                *_text(0x00020010, "UI", syntax),
                *_text(0x00020012, "UI", IMPLEMENTATION_CLASS_UID),
                *_text(0x00020013, "SH", IMPLEMENTATION_VERSION),
            )
        ),
    )


def _head(sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """Preamble, prefix and file meta information."""
    before, behind = _constant(sop_class, syntax)
    meta = b"".join((before, *_text(0x00020003, "UI", sop_instance), behind))
    length = b"".join(_element(0x00020000, "UL", struct.pack("<L", len(meta)), _META))
    return bytes(128) + b"DICM" + length + meta


def _text(tag: int, vr: str, text: str) -> Iterable[bytes]:
    return _element(tag, vr, padded(text.encode("ascii"), vr), _META)


def _deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(data) + deflate.flush()
    return packed + b"\0" * (len(packed) & 1)
