"""Writes objects as files: a preamble of zeros, new file meta information, and the elements of the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid.sr import text_of
from pacsifier_ops.dicom.encoding import (
    END_OF_SEQUENCE,
    UNDEFINED,
    Elements,
    Fragments,
    Stretch,
    Syntax,
    Value,
    deflated,
    header,
    item,
    pieces,
)
from pacsifier_ops.dicom.heads import file_head
from pacsifier_ops.dicom.vrs import padded

if TYPE_CHECKING:
    from pacsifier_ops.deid.engine import Deidentified

_MOST = 0xFFFFFFFE
#: Length in bytes from which a part of a file is written by itself.
_LONG = 1 << 16
#: Maximum length in bytes of values whose encoding is cached.
_SHORT = 256
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_META = Syntax("", implicit=False, little=True, deflated=False, encapsulated=False)


def dataset_of(elements: Elements, syntax: Syntax, charset: str | list[str]) -> Dataset:
    """Make a pydicom data set of elements. It decodes values on access and is written without changes."""
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
    encoded = items(value, syntax) if isinstance(value, list) else bytes(value) if type(value) is Stretch else value
    length = UNDEFINED if type(encoded) is Fragments else len(encoded)
    return RawDataElement(tag, vr, length, encoded, 0, syntax.implicit, syntax.little)


def write(made: Deidentified | Dataset, path: Path) -> str:
    """Write an object as a file (PS3.10 7), in its transfer syntax.

    Args:
        made: the object; its data set where that was changed.
        path: the file.

    Returns:
        SHA-256 of what was written, hexadecimal.

    Raises:
        Unfit: an element cannot be encoded.
        OSError: the disk is full or the folder is not writable.
    """
    if isinstance(made, Dataset):
        syntax = Syntax.of(str(made.file_meta.get("TransferSyntaxUID", "")))
        uids = str(made.SOPClassUID), str(made.SOPInstanceUID)
        elements = sorted(made.values(), key=lambda element: int(element.tag))
        body = [part for element in elements for part in _encoded(element, made, syntax)]
    else:
        syntax = made.syntax
        uids = text_of(made.elements, _SOP_CLASS), text_of(made.elements, _SOP_INSTANCE)
        body = _parts(sorted(made.elements.items()), syntax)
    if syntax.deflated:
        body = [deflated(b"".join(map(bytes, body)))]
    head = file_head(*uids, syntax.uid)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for part in _runs([head, *body]):
            digest.update(part)
            stream.write(part)
    return digest.hexdigest()


def _runs(parts: Iterable[bytes | Stretch]) -> Iterator[bytes | memoryview]:
    """Yield parts of a file: short ones joined, long ones in pieces."""
    short: list[bytes] = []
    for part in parts:
        if isinstance(part, bytes) and len(part) < _LONG:
            short.append(part)
        else:
            yield b"".join(short)
            short.clear()
            yield from pieces(part)
    yield b"".join(short)


def _encoded(element: DataElement | RawDataElement, dataset: Dataset, syntax: Syntax) -> Iterable[bytes | Stretch]:
    """Encode an element: an element of the engine as it is, an element that was set later as pydicom encodes it."""
    if isinstance(element, RawDataElement) and element.VR and element.value is not None:
        undefined = element.length == UNDEFINED
        return _element(element.tag, element.VR, element.value, syntax, undefined=undefined)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax.little, syntax.implicit
    try:
        write_data_element(buffer, element, dataset.original_character_set or default_encoding)
    except Exception:  # pydicom raises many types of exception here
        raise Unfit("an element that was changed cannot be encoded") from None
    return (buffer.getvalue(),)


def items(found: list[Elements], syntax: Syntax) -> bytes:
    """Encode the items of a sequence, each with an explicit length."""
    return b"".join(item(encode(one, syntax), little=syntax.little) for one in found)


def encode(elements: Elements, syntax: Syntax) -> bytes:
    """Encode the elements of a data set or an item."""
    return b"".join(map(bytes, _parts(elements.items(), syntax)))


def _parts(elements: Iterable[tuple[int, tuple[str, Value]]], syntax: Syntax) -> list[bytes | Stretch]:
    """Encode elements; long values are parts of their own."""
    parts: list[bytes | Stretch] = []
    for tag, (vr, value) in elements:
        if type(value) is bytes and len(value) <= _SHORT:
            parts.append(_short_element(tag, vr, value, syntax.implicit, syntax.little))
        else:
            parts.extend(_element(tag, vr, value, syntax))
    return parts


@lru_cache(maxsize=1 << 15)
def _short_element(tag: int, vr: str, value: bytes, implicit: bool, little: bool) -> bytes:
    """Encode an element, with a cache: most elements of a series are the same."""
    return header(tag, vr, len(value), implicit=implicit, little=little) + value


def _element(tag: int, vr: str, value: Value, syntax: Syntax, *, undefined: bool = False) -> Iterable[bytes | Stretch]:
    """Encode an element, with an explicit length wherever the standard allows one."""
    encoded = items(value, syntax) if isinstance(value, list) else value
    undefined = undefined or type(encoded) is Fragments
    if len(encoded) > _MOST:
        raise Unfit("an element is too long for its length field")
    head = header(tag, vr, UNDEFINED if undefined else len(encoded), implicit=syntax.implicit, little=syntax.little)
    return (head, encoded, header(END_OF_SEQUENCE, "", 0, little=syntax.little)) if undefined else (head, encoded)
