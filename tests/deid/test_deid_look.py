"""Files that could not be sent on as they are, and are de-identified all the same: forbidden UIDs, odd encodings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UID, ImplicitVRLittleEndian

from pacsifier_ops.deid import steps
from pacsifier_ops.deid.look import look
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.dicom.files import inspect
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.runs.folder import Run

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:Expected implicit VR")
WHO = {"patient_id": "QX9917342", "patient_name": "Zwetschgenbaum^Notburga"}
FORBIDDEN = ["1.2.826.0.1.Notburga", "1.2.826.0.1." + "7" * 58, "1.2.826.0.5.", "REM SAMPLES 1", "1..2"]


def put(folder: Path, uid: str) -> Path:
    """An image whose study, series and instance have a UID that is none."""
    (image,) = phantom_series(modality="MR", n_images=1, rows=8, columns=8, **WHO)  # type: ignore[arg-type]
    image.StudyInstanceUID = image.SeriesInstanceUID = image.SOPInstanceUID = UID(uid)
    image.file_meta.MediaStorageSOPInstanceUID = UID(uid or "1.2.3")
    folder.mkdir(parents=True, exist_ok=True)
    image.save_as(folder / "image", enforce_file_format=True)
    return folder / "image"


@pytest.mark.parametrize("uid", FORBIDDEN)
def test_a_forbidden_uid_is_replaced_like_any_other(uid: str, tmp_path: Path) -> None:
    path = put(tmp_path / "in", uid)
    with pytest.raises(ValueError, match="malformed"):
        inspect(path)
    found = look(path)
    assert found and found.study_uid == found.sop_instance_uid == uid and found.patient_id == WHO["patient_id"]
    run = Run.fresh()
    for unit in steps.prepare(run, DeidRequest(tmp_path / "in", tmp_path / "out", "default", contact_sheets=False)):
        steps.convert(run, unit)
    account = steps.report(run)
    assert account.totals()["deidentified"] == 1, account.set_apart
    (made,) = (dcmread(path) for path in (tmp_path / "out").rglob("*.dcm"))
    assert made.StudyInstanceUID == made.SOPInstanceUID and made.StudyInstanceUID.startswith("2.25.")
    assert uid.encode() not in b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.dcm"))


@pytest.mark.parametrize("uid", ["", "1.2\\3.4"])
def test_no_uid_and_several_are_still_refused(uid: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="malformed"):
        look(put(tmp_path, uid))


def test_what_is_encoded_otherwise_than_it_says_is_seen(tmp_path: Path) -> None:
    (path,) = write(phantom_series(modality="MR", n_images=1, rows=8, columns=8, **WHO), tmp_path)  # type: ignore[arg-type]
    explicit = b"UI\x14\x001.2.840.10008.1.2.1\0"
    data = path.read_bytes()
    assert explicit in data
    path.write_bytes(data.replace(explicit, b"UI\x12\x00" + ImplicitVRLittleEndian.encode() + b"\0"))
    with pytest.raises(ValueError):
        inspect(path)
    found = look(path)
    assert found and found.patient_name == WHO["patient_name"] and found.transfer_syntax_uid == "1.2.840.10008.1.2.1"
