"""What the last look finds in an attribute that can go is left out, so that the rest of the object goes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword

from pacsifier_ops.deid import leftout, steps
from pacsifier_ops.deid.books import DeidAccount
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.runs.folder import Run

WHO: dict[str, Any] = {"patient_id": "987654", "patient_name": "Zwetschgenbaum^Notburga", "study_date": "20150512"}


def deidentified(tmp_path: Path, **values: Any) -> tuple[DeidAccount, list[Dataset]]:
    """An object with some attributes, after a run."""
    source, out = tmp_path / "in", tmp_path / "out"
    write(phantom_series(modality="MR", n_images=1, rows=8, columns=8, **WHO, **values), source)
    run = Run.fresh()
    for unit in steps.prepare(run, DeidRequest(source, out, "research", contact_sheets=False)):
        steps.convert(run, unit)
    return steps.report(run), [dcmread(path) for path in out.rglob("*.dcm")]


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"SequenceName": "Zwetschgenbaum"}, ""),
        ({"BodyPartExamined": "ZWETSCHGENBAUM"}, ""),
        ({"SeriesNumber": "987654"}, None),
        ({"AcquisitionNumber": "987654"}, None),
        ({"Manufacturer": "Zwetschgenbaum"}, "REMOVED"),
        ({"SequenceName": "987654"}, ""),
        ({"SoftwareVersions": "syngo 20150512"}, "syngo"),  # a true date beside moved ones
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_can_go_is_left_out_and_nothing_else(values: dict[str, Any], left: Any, tmp_path: Path) -> None:
    (keyword,) = values
    values |= {"series_number": values.pop("SeriesNumber")} if "SeriesNumber" in values else {}
    account, (made,) = deidentified(tmp_path, ScanningSequence="SE", **values)
    assert made.get(keyword) in (left, None) and made.ScanningSequence == "SE" and made.PixelData
    assert account.totals()["quarantined"] == 0
    # Beside an object it would say that the patient's name was in what is empty now.
    assert account.rules.get(leftout.RULE, 0) <= 1 and leftout.RULE not in (tmp_path / "out/manifest.csv").read_text()


def test_what_an_object_cannot_be_without_keeps_it_in_quarantine(tmp_path: Path) -> None:
    account, made = deidentified(tmp_path, SliceLocation="987654")
    assert made == [] and "PatientID found in (0020,1041)" in account.set_apart[0][2]


def test_what_can_go_is_text_that_stands_for_itself() -> None:
    for keyword in ("SequenceName", "SeriesNumber", "SoftwareVersions", "BodyPartExamined", "ProtocolName"):
        assert leftout.may_be_empty(tag_for_keyword(keyword) or 0), keyword
    for keyword in (
        *("SOPInstanceUID", "Modality", "ImageType", "InstanceNumber", "CodeValue", "TextValue", "PixelData", "Rows"),
        *("ImagePositionPatient", "SpecificCharacterSet", "StudyDate"),
    ):
        assert not leftout.may_be_empty(tag_for_keyword(keyword) or 0), keyword
    assert leftout.may_be_empty(0x00291010) and not leftout.may_be_empty(0x00290010)
    reasons = ["PatientID found in (0018,0024)", "PatientID found in the bytes of the file", "x found in (0008,0018)"]
    assert leftout.of(reasons) == {0x00180024}
