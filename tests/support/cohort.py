"""The cohort that the real peers hold: the demonstration's, and series set up so that a wrong key shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from pacsifier_ops.embedded.phantoms import demo_cohort, phantom_series, write

SMALL: dict[str, Any] = {"rows": 8, "columns": 8, "n_images": 2}
#: Patient with one study of twelve series of twenty images: long enough to be interrupted.
LONG = "LONG"


def build(folder: Path) -> list[Path]:
    """Write the cohort below `folder`; returns its files.

    Names in half-width kana are left out: Orthanc cannot decode ISO 2022 IR 13.
    """
    demo = [path for path in demo_cohort(folder / "demo") if "ISO 2022 IR 13" not in _charset(path)]
    return [*demo, *write(_traps(), folder / "traps")]


def build_long(folder: Path) -> list[Path]:
    """Write the patient LONG below `folder`; returns its files."""
    return write(_long(), folder)


def _charset(path: Path) -> str:
    return str(dcmread(path, specific_tags=["SpecificCharacterSet"]).get("SpecificCharacterSet", ""))


def _series(patient_id: str, patient_name: str, **attributes: Any) -> list[Dataset]:
    return phantom_series(patient_id=patient_id, patient_name=patient_name, **(SMALL | attributes))


def _traps() -> Iterator[Dataset]:
    yield from _documented_examples()
    yield from _names()
    yield from _collisions()
    yield from _kinds_of_keys()


def _documented_examples() -> Iterator[Dataset]:
    """Patients and days of PACSIFIER's five examples, with neighbours that must stay out."""
    for day in ("20150511", "20150512", "20150513"):
        yield from _series("123421", "Example^One", study_date=day)
    yield from _series("123421", "Example^One", study_date="20150512", series_number=2)
    yield from _series("1234210", "Example^Longer", study_date="20150512")
    for day in ("20120101", "20180102"):
        yield from _series("45322", "Example^Two", study_date=day)
    yield from _series("45322 B", "Example^Blank", study_date="20120101")
    for day in ("20150511", "20150512", "20150601", "20150612", "20150613"):
        yield from _series("124588", "Example^Four", study_date=day)
    for number, (protocol, modality, born) in enumerate(
        (
            ("BEAT_SelfNav_3D", "CT", "19920611"),
            ("BEAT_SelfNav_3D", "MR", "19920611"),
            ("BEAT_SelfNav", "CT", "19920612"),
            ("BEAT SelfNav", "CT", "19920611"),
            ("beat_selfnav", "CT", "19920611"),
        ),
        start=1,
    ):
        yield from _series(
            f"EX5-{number}",
            f"Example^Five{number}",
            study_date="20160101",
            ProtocolName=protocol,
            modality=modality,
            PatientBirthDate=born,
        )


def _names() -> Iterator[Dataset]:
    """Names and texts in several character sets."""
    latin, cyrillic, utf8 = "ISO_IR 100", "ISO_IR 144", "ISO_IR 192"
    yield from _series(
        "N1",
        "Müller^Jürgen",
        charset=latin,
        SeriesDescription="Schädel T1 übersicht",
        StudyDescription="Kopf Größe",
    )
    yield from _series("N2", "Mueller^Juergen", charset=latin, SeriesDescription="Schaedel T1")
    yield from _series("N3", "MÜLLER^ANNA", charset=utf8)
    yield from _series("N4", "Люксембург^Роза", charset=cyrillic)
    yield from _series("N5", "Пушкин^Александр", charset=utf8)
    yield from _series("N6", "Yamada^Tarou=山田^太郎=やまだ^たろう", charset=["", "ISO 2022 IR 87"])
    yield from _series("N7", "Doe^John", charset="")
    yield from _series("N8", "Doe^John^Paul", charset="")
    yield from _series("N9", "John^Doe", charset="")
    yield from _series("N10", "Doering^John", charset="")
    yield from _series("N11", "O'Neil^Séan", charset=utf8, AccessionNumber="A B 1", StudyDescription="PT 01; a, b")
    yield from _series("N12", "Dupont^Jean-Pierre", charset=utf8)


def _collisions() -> Iterator[Dataset]:
    """Patients, studies and series whose folders would be called the same."""
    for patient in ("A-1", "A.1", "A 1"):
        yield from _series(patient, f"Collision^{len(patient)}", study_date="20190303")
    yield from _series("A-1", "Collision^3", study_date="20190303", series_number=1, SeriesDescription="Phantom_CT")
    for twin in range(3):
        yield from _series(
            "TWINS", "Twins", study_date="20190304", series_uid=f"2.25.4{twin}", SeriesDescription="Twin"
        )
    for second in range(2):
        yield from _series(
            "TWINS",
            "Twins",
            study_date="20190305",
            study_uid=f"2.25.5{second}",
            SeriesDescription="Equal times",
        )
    yield from _series("STAR*1", "Star^Of", study_date="20190307")
    yield from _series("STAR21", "Star^None", study_date="20190307")
    yield from _series("NODESC", "Empty^Description", SeriesDescription="")
    yield from _series("NODATE", "Empty^Date", study_date="", study_time="", AcquisitionDate="20190306")


def _kinds_of_keys() -> Iterator[Dataset]:
    """One patient, one study; series that differ in one attribute each."""

    def series(number: int, **attributes: Any) -> list[Dataset]:
        return _series(
            "KEYS",
            "Keys^Of",
            study_date="20210607",
            study_time="081530.250",
            series_number=number,
            StudyID="S-77",
            PatientSex="F",
            ReferringPhysicianName="Favre^Zoé",
            InstitutionName="Hôpital Nord",  # to Orthanc, one of the study
            **attributes,
        )

    further = {"StationName": "MR-7", "BodyPartExamined": "HEAD"}
    yield from series(
        1, AccessionNumber="ACC0001", modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "ND"], **further
    )
    yield from series(2, AccessionNumber="ACC0001", modality="MR", ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    yield from series(3, AccessionNumber="ACC0001", modality="MR", ImageType=["ORIGINAL", "SECONDARY", "M"])
    yield from series(
        4,
        AccessionNumber="ACC0001",
        modality="MR",
        ImageType=lambda image: ["ORIGINAL", "PRIMARY"] if image else ["DERIVED", "PRIMARY", "MPR"],
    )
    yield from series(5, AccessionNumber="ACC0001", modality="MR", SequenceName="*tfl3d1_16ns")
    yield from series(6, AccessionNumber="ACC0001", modality="MR", DeviceSerialNumber="SN-0815")
    yield from series(7, AccessionNumber="ACC0001", modality="MR", AcquisitionDate="20210608")
    yield from series(10, AccessionNumber="ACC0001", modality="CT", transfer_syntax=ImplicitVRLittleEndian)
    yield from series(11, AccessionNumber="ACC0001", modality="CT", transfer_syntax=RLELossless)
    yield from series(12, AccessionNumber="ACC0001", modality="OT", SeriesDescription="capture")
    for number, time in enumerate(("000000", "081529.999999", "081530", "081531", "235959.5", ""), start=1):
        yield from _series(
            f"TIME{number}",
            "Time^Of",
            study_date="20210608",
            study_time=time,
            AccessionNumber=f"ACC1{number}",
        )


def _long() -> Iterator[Dataset]:
    for number in range(1, 13):
        yield from _series(LONG, "Long^Study", series_number=number, n_images=20)
