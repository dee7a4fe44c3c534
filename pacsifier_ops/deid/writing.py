"""Writes objects as files: a preamble of zeros, new file meta information, and the elements of the engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.dicom.encoding import (
    END_OF_SEQUENCE,
    UNDEFINED,
    Elements,
    Fragments,
    Syntax,
    Value,
    deflated,
    header,
    item,
)
from pacsifier_ops.dicom.heads import file_head
from pacsifier_ops.dicom.vrs import padded

_MOST = 0xFFFFFFFE
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
    encoded = items(value, syntax) if isinstance(value, list) else value
    length = UNDEFINED if type(encoded) is Fragments else len(encoded)
    return RawDataElement(tag, vr, length, encoded, 0, syntax.implicit, syntax.little)


def write(dataset: Dataset, path: Path) -> None:
    """Write an object as a file (PS3.10 7), in the transfer syntax that its file meta information names.

    Raises:
        Unfit: an element cannot be encoded.
        OSError: the disk is full or the folder is not writable.
    """
    syntax = Syntax.of(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    elements = sorted(dataset.values(), key=lambda element: int(element.tag))
    body = [part for element in elements for part in _encoded(element, dataset, syntax)]
    if syntax.deflated:
        body = [deflated(b"".join(body))]
    head = file_head(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax.uid)
    with path.open("wb") as stream:
        stream.writelines([head, *body])


def _encoded(element: DataElement | RawDataElement, dataset: Dataset, syntax: Syntax) -> Iterable[bytes]:
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
    return b"".join(part for tag, (vr, value) in elements.items() for part in _element(tag, vr, value, syntax))


def _element(tag: int, vr: str, value: Value, syntax: Syntax, *, undefined: bool = False) -> Iterable[bytes]:
    """Encode an element, with an explicit length wherever the standard allows one."""
    encoded = items(value, syntax) if isinstance(value, list) else value
    undefined = undefined or type(encoded) is Fragments
    if len(encoded) > _MOST:
        raise Unfit("an element is too long for its length field")
    head = header(tag, vr, UNDEFINED if undefined else len(encoded), implicit=syntax.implicit, little=syntax.little)
    return (head, encoded, header(END_OF_SEQUENCE, "", 0, little=syntax.little)) if undefined else (head, encoded)
