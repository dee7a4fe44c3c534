"""The quick readers of a data set return what pydicom does, or nothing."""

from __future__ import annotations

import warnings
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode

from pacsifier_ops.dicom.files import is_truncated
from pacsifier_ops.dicom.heads import HEAD, UIDS, Identity, quick_identity, quick_uids, read_identity
from tests.support.shipped import inspected

SYNTAXES = {False: str(ExplicitVRLittleEndian), True: str(ImplicitVRLittleEndian)}


def encoded(implicit: bool, undefined: bool = False) -> bytes:
    """A small data set, with a sequence before its UIDs."""
    item, dataset = Dataset(), Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.4"
    dataset.ReferencedImageSequence = Sequence([item])
    dataset["ReferencedImageSequence"].is_undefined_length = item.is_undefined_length_sequence_item = undefined
    dataset.add_new(0x00091001, "UN", b"private")
    dataset.PatientID, dataset.IssuerOfPatientID = " P1", "Basel"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.5", "1.2.6"
    dataset.InstanceNumber = 7
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit, True
    write_dataset(stream, dataset)
    return stream.getvalue()


def identity(data: bytes, syntax: str) -> Identity | None:
    """What pydicom reads; None where it refuses the data set."""
    try:
        return read_identity(BytesIO(data), syntax)
    except ValueError:
        return None


def uids(data: bytes, implicit: bool) -> dict[str, str] | None:
    """What pydicom reads; None where the data set is cut off, or it cannot decode it."""
    if is_truncated(data):
        return None
    try:
        found = decode(BytesIO(data), implicit, True)
        return {keyword: str(found.get(keyword) or "") for keyword in UIDS}
    except Exception:
        return None


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("undefined", [False, True])
def test_a_regular_data_set_is_read_quickly(implicit: bool, undefined: bool) -> None:
    data = encoded(implicit, undefined)
    assert quick_identity(data, SYNTAXES[implicit]) == Identity("1.2.4", "1.2.5", "1.2.6", "P1", "Basel")
    assert quick_uids(data, implicit) == {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": "1.2.4",
        "StudyInstanceUID": "1.2.5",
        "SeriesInstanceUID": "1.2.6",
    }


def test_real_files_have_the_same_identity() -> None:
    quick = 0
    for file in inspected():
        data = file.path.read_bytes()[file.offset :]
        found = quick_identity(data[:HEAD], file.transfer_syntax_uid)
        if found is not None:
            assert found == identity(data, file.transfer_syntax_uid), file.path.name
            quick += 1
    assert quick > 150


@given(st.booleans(), st.booleans(), st.dictionaries(st.integers(0, 250), st.integers(0, 255)), st.integers(0, 300))
def test_whatever_the_bytes_are_pydicom_says_the_same(
    implicit: bool, undefined: bool, changed: dict[int, int], cut: int
) -> None:
    data = bytearray(encoded(implicit, undefined))
    for place, value in changed.items():
        if place < len(data):
            data[place] = value
    damaged = bytes(data[: len(data) - cut])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for as_implicit in (False, True):
            found = quick_identity(damaged, SYNTAXES[as_implicit])
            assert found in (None, identity(damaged, SYNTAXES[as_implicit]))
            listed = quick_uids(damaged, as_implicit)
            assert listed in (None, uids(damaged, as_implicit))
