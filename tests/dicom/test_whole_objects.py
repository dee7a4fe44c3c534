"""`whole_object` tells of a file what three readers tell one after the other, and refuses what one of them refuses."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_files
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MediaStorageDirectoryStorage,
)

from pacsifier_ops.dicom.files import BEGIN, WholeObject, check_whole, inspect, whole_object
from pacsifier_ops.dicom.heads import read_identity


def slowly(path: Path) -> WholeObject | None:
    """By the three readers."""
    try:
        file = inspect(path)
        if file is None:
            return None
        check_whole(file)
        with path.open("rb") as stream:
            stream.seek(file.offset)
            identity = read_identity(stream, file.transfer_syntax_uid)
    except ValueError:
        return None
    return WholeObject(file.sop_class_uid, file.transfer_syntax_uid, identity)


def quickly(path: Path, most: int = BEGIN) -> WholeObject | None:
    with path.open("rb") as stream:
        begin = stream.read(most)
    try:
        return whole_object(path, begin, path.stat().st_size)
    except ValueError:
        return None


def encoded(syntax: str = ExplicitVRLittleEndian, **values: object) -> bytes:
    """A small object."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, "1.2.3"
    ds.PatientID, ds.IssuerOfPatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "P1", "H", "1.2", "1.2.1"
    ds.Rows = ds.Columns = 4
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    if syntax == JPEG2000Lossless:
        ds.PixelData = encapsulate([b"abcd" * 8])
        ds["PixelData"].is_undefined_length = True
        ds["PixelData"].VR = "OB"
    else:
        ds.PixelData = bytes(32)
        ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, "1.2.3"
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless]


def test_of_real_files_of_all_kinds() -> None:
    told = 0
    for name in get_testdata_files("*.dcm"):
        path = Path(name)
        for most in (BEGIN, 600, 0):
            assert quickly(path, most) == slowly(path), f"{path.name}, {most} bytes"
        told += slowly(path) is not None
    assert told > 30


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_cut_at_every_byte_or_longer_than_it_is(tmp_path: Path, syntax: str) -> None:
    whole, path = encoded(syntax), tmp_path / "one.dcm"
    path.write_bytes(whole)
    found = quickly(path)
    assert found and found == slowly(path)
    assert (found.sop_class_uid, found.transfer_syntax_uid) == (CTImageStorage, syntax)
    assert (found.identity.patient_id, found.identity.issuer, found.identity.series_uid) == ("P1", "H", "1.2.1")
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert quickly(path) == slowly(path), f"the first {size} of {len(whole)} bytes"
        if size > len(whole) - 32:
            assert quickly(path) is None
    for more in (b"\0", b"\0" * 8, b"\xfe\xff\x0d\xe0\0\0\0\0", b"\r\n--", whole):
        path.write_bytes(whole + more)
        assert quickly(path) == slowly(path)


@pytest.mark.parametrize(
    "values",
    [
        {"SOPInstanceUID": ""},
        {"StudyInstanceUID": "1.2.x"},
        {"SeriesInstanceUID": "../../x"},
        {"SOPClassUID": "no"},
        {"PatientID": "Müller", "SpecificCharacterSet": "ISO_IR 100"},
        {"PatientID": " P 2 "},
        {"SpecificCharacterSet": "NONE SUCH"},
        {"ImageComments": "x" * 9000, "PatientComments": "y" * 70_000},
    ],
)
@pytest.mark.parametrize("syntax", SYNTAXES[:2])
@pytest.mark.filterwarnings("ignore")
def test_odd_values(tmp_path: Path, values: dict[str, str], syntax: str) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(encoded(syntax, **values))
    assert quickly(path) == slowly(path)


def test_a_dicomdir_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(encoded())
    ds = dcmread(path)
    ds.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    ds.save_as(path)
    assert quickly(path) is None is slowly(path)
