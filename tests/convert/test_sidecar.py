"""What stands beside an image: nothing that the converter knows of a person, a day, a place or a device."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from pacsifier_ops.convert import sidecar
from pacsifier_ops.convert.sidecar import CODES, NUMBERS, TEXTS, filtered
from tests.support import scans
from tests.support.scans import converted, deidentified, names

#: All keys that this version of dcm2niix can write, from its source.
KEYS = (Path(__file__).with_name("dcm2niix_keys.txt")).read_text(encoding="ascii").split()

#: Those that tell who, when, where, whose device, or in somebody's words.
TELLING = re.findall(
    r"\w+",
    """
    AccessionNumber AcquisitionDate AcquisitionDateTime AcquisitionNumber AcquisitionTime CoilString ConversionComments
    DeviceSerialNumber FmriExternalInfo ImageComments InstitutionAddress InstitutionName InstitutionalDepartmentName
    PatientAge PatientBirthDate PatientID PatientName PatientSex PatientSize PatientWeight ProcedureStepDescription
    PulseSequenceDetails ReferringPhysicianName SeriesInstanceUID SeriesNumber StationName StudyDescription StudyID
    StudyInstanceUID TimeZero WipMemBlock ConsistencyInfo DeepLearningDetails BodyPart BidsGuess
    """,
)


@pytest.mark.parametrize("value", ["Wurzelbacher^K", 20180102, [["Wurzelbacher"]], {"a": "Wurzelbacher"}])
def test_no_key_that_tells_is_kept_whatever_its_value(value: object) -> None:
    assert filtered(dict.fromkeys(TELLING, value), None) == {}
    assert filtered(dict.fromkeys(TELLING, value), Dataset()) == {}


@pytest.mark.parametrize(
    "value", ["Wurzelbacher^Kunigunde", "02.01.2018", "12:30:00", "a b", {"x": 1}, [1, ["x"]], None]
)
def test_no_text_and_no_object_is_kept_of_any_key_of_the_converter(value: object) -> None:
    assert filtered(dict.fromkeys([*KEYS, "NewKey"], value), None) == {}


def test_numbers_are_kept_as_they_are() -> None:
    said = dict.fromkeys(KEYS, 0.25)
    kept = filtered(said, None)
    assert kept.keys() == {key for key in KEYS if key in NUMBERS} and set(TELLING).isdisjoint(kept)
    assert filtered({"SliceTiming": [0, 0.5], "EchoTime": float("inf"), "FlipAngle": [[1], [2]]}, None) == {
        "SliceTiming": [0, 0.5],
        "FlipAngle": [[1], [2]],
    }


def test_every_key_of_the_lists_is_one_of_the_converter() -> None:
    assert set(KEYS) >= NUMBERS | CODES
    assert not (NUMBERS & CODES) and not (set(TEXTS) & (NUMBERS | CODES))


def test_texts_are_those_of_the_header_and_not_of_the_converter() -> None:
    header = Dataset()
    header.SeriesDescription, header.ImageType, header.StationName = "t1", ["ORIGINAL", "PRIMARY"], "STATION7"
    header.SoftwareVersions, header.InstitutionName = ["syngo", "E11"], "Hospital"
    said = {"SeriesDescription": "t1_of_Wurzelbacher", "ProtocolName": "Wurzelbacher", "StationName": "S"}
    assert filtered(said, header) == {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "SeriesDescription": "t1",
        "SoftwareVersions": ["syngo", "E11"],
    }
    assert filtered(said, None) == {}


def test_a_damaged_header_is_no_obstacle() -> None:
    header = Dataset.from_json({"0008103E": {"vr": "LO", "Value": [None]}})
    header._dict[Tag(0x00180060)] = RawDataElement(Tag(0x00180060), "DS", 1, b"x", 0, False, True)
    assert isinstance(filtered({}, header), dict)


@pytest.mark.parametrize("profile", ["default", "research"])
def test_what_a_profile_takes_out_is_in_no_sidecar(profile: str, tmp_path: Path) -> None:
    images = scans.t1w(
        description="t1 of Wurzelbacher",
        InstitutionName="Spital Wurzelbach",
        StationName="WURZEL1",
        OperatorsName="Kuni",
    )
    source = deidentified(images, tmp_path, profile)
    converted(source, tmp_path / "nii")
    found = [name for name in names(tmp_path / "nii") if name.endswith(".json")]
    assert found
    for name in found:
        text = (tmp_path / "nii" / name).read_text()
        assert not any(word in text for word in ("urzel", "WURZEL", "Kuni", "4711", "2018", "2.25.")), text
        assert json.loads(text)["EchoTime"] == 0.00298


def test_the_lists_are_in_order() -> None:
    assert sidecar.TEXTS["ManufacturersModelName"] == "ManufacturerModelName"
