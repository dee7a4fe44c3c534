"""What is publicly known stays: words that machines write, and codes of public schemes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_files
from pydicom.datadict import keyword_dict

from pacsifier_ops.deid import codes, machine, profile, vocabulary
from pacsifier_ops.deid.engine import Engine
from pacsifier_ops.embedded.phantoms import phantom_series
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret
from tests.support.places import DATA

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # devices write values that pydicom warns of

SECRET = Secret(b"a secret of this module's own ...")
PERSON = Person("P0001", -11)
TABLES = Path(machine.__file__).parent / "tables"


def after(ds: Dataset, name: str = "default") -> Dataset:
    return Engine(profile.compile(profile.load(name)), SECRET).deidentify(ds, PERSON).dataset


def an_image(**attributes: Any) -> Dataset:
    return phantom_series(patient_id="4711234", patient_name="Doe^Jane", rows=8, columns=8, n_images=1, **attributes)[0]


def a_code(value: str, scheme: str, meaning: str, **attributes: Any) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    for keyword, more in attributes.items():
        setattr(code, keyword, more)
    return code


# Words


@pytest.mark.parametrize(
    "value",
    [
        *("B30f", "I31f", "*tfl3d1_16ns", "*epfid2d1_64", "syngo MR E11", "syngo CT 2011A", "VB17A", "07", "2.6.3.7"),
        *("27", "LightSpeed16", "Biograph64_mCT", "SOMATOM Definition AS+", "MR Software release:12.0_M5_0606.b"),
        *("measured,AC_CT_Thorax", "OSEM2D 2i8s", "Model-based", "HeadNeck_20_TCS", "T1TFE", "CSA MPR", "EPI_GEMS"),
        *(
            "Carl Zeiss Meditec",
            "Philips Medical Systems",
            "GE MEDICAL SYSTEMS",
            "TSPINE",
            "HFS",
            "PFR",
            "M",
            "LABELMAP",
        ),
    ],
)
def test_what_devices_write_stays_as_it_is(value: str) -> None:
    assert machine.clean(value) == value


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("measured,Krokowski/Davos^CT Thorax 3.0 B30f", "measured CT Thorax 3.0 B30f"),
        ("measured,/MAR^CT Breast 3.0 B30f", "measured CT Breast 3.0 B30f"),
        ("KROKOWSKI", ""),
        ("SPITAL DAVOS", ""),
        ("USZ", ""),
        ("Dr. Lang", ""),
        ("HEAD KROKOWSKI", ""),  # Head is a surname too
        ("BRAIN KROKOWSKI 12", "BRAIN"),
        ("19600512", ""),
        ("12.05.1960", ""),
        ("syngo MR E11 2010/06/30", "syngo MR"),
        ("AB123456", ""),
        ("MUELLER1960", ""),
        ("王", ""),
        ("MGH Pathology Manual Annotations", "Pathology Manual Annotations"),
    ],
)
def test_names_towns_clinics_dates_and_numbers_of_somebody_go(value: str, left: str) -> None:
    assert machine.clean(value) == left


@pytest.mark.parametrize(
    ("value", "patient", "left"),
    [
        ("IRIS GALAN", "Galan^Iris", ""),
        ("Vida Sola 3", "Vida^Sola", ""),
        ("STONE RAY", "Stone^Ray", ""),
        ("HART", "Hart^Gray", ""),
        ("MAGNETOM Vida", "Vida^Sola", "MAGNETOM Vida"),  # a device: a cohort's models would tell by one that lacks
        ("ORIGINAL", "Original^Axial", "ORIGINAL"),
        ("TC de la columna", "de la Torre^Maria", "TC de la columna"),
        ("IRIS GALAN", "Doe^Jane", "IRIS GALAN"),
    ],
)
def test_the_patients_own_name_goes_from_what_devices_write(value: str, patient: str, left: str) -> None:
    assert machine.clean(value, patient) == left


@pytest.mark.parametrize("value", ["Hr. Lang", "Lang, Dr.", "Lang MD", "Madame Lang", "Oberarzt Lang", "Dr. med. Lang"])
def test_what_stands_beside_a_title_goes_from_what_devices_write(value: str) -> None:
    assert machine.clean(value) == ""


def test_no_name_stays_beside_an_unknown_word_that_descriptions_would_not_keep() -> None:
    text = (DATA / "names.txt").read_text(encoding="utf-8")
    names = {word for part in text.split("# ")[2:] for word in part.splitlines()[1:] for word in word.split()}
    assert len(names) > 400
    for name in (*names, "Wing", "Zeiss", "Philips", "Force", "Leonardo", "Amira", "White"):
        if machine.clean(f"{name} Krokowski"):
            assert vocabulary.clean(f"{name} Krokowski"), name


def _device_values(ds: Dataset, tags: frozenset[int]) -> Iterator[str]:
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from _device_values(item, tags)
        elif element.tag in tags or (element.VR == "CS" and not element.tag.is_private and element.tag != 0x00041500):
            values = element.value if isinstance(element.value, pydicom.multival.MultiValue) else [element.value]
            yield from (str(value) for value in values if value)


def test_most_values_that_devices_wrote_into_public_files_stay() -> None:
    with (TABLES / "unlisted.csv").open(encoding="utf-8", newline="") as file:
        tags = frozenset(keyword_dict[row["keyword"]] for row in csv.DictReader(file) if row["basic"] == "W")
    values: list[str] = []
    for path in get_testdata_files("*.dcm"):
        try:
            values += _device_values(pydicom.dcmread(path), tags)
        except Exception:  # files that nobody can read are among them
            continue
    stay = [value for value in values if machine.clean(value.strip(" \0")) == value.strip(" \0")]
    assert len(values) > 800 and len(stay) >= 0.98 * len(values), sorted(set(values) - set(stay))


def test_a_machines_attributes_are_emptied_removed_or_a_dummy_by_their_type() -> None:
    made = after(
        an_image(
            SequenceName="Krokowski",
            Manufacturer="Krokowski",
            BodyPartExamined="KROKOWSKI",
            ImageType=["ORIGINAL", "PRIMARY", "KROKOWSKI", "MOSAIC"],
            ContentLabel="SPITAL_DAVOS",
            ScanOptions=["FS", "DAVOS"],
            SegmentAlgorithmName="TotalSegmentator Davos",
            PatientSex="KROKOWSKI",
        ),
        "research",
    )
    assert "SequenceName" not in made and "Krokowski".lower() not in str(made).lower() and "DAVOS" not in str(made)
    assert (made.Manufacturer, made.ContentLabel, made.BodyPartExamined) == ("REMOVED", "REMOVED", "")
    assert (made.SegmentAlgorithmName, made.PatientSex) == ("TotalSegmentator", "")
    assert list(made.ImageType) == ["ORIGINAL", "PRIMARY", "", "MOSAIC"] and list(made.ScanOptions) == ["FS", ""]


@pytest.mark.parametrize(
    ("before", "left"),
    [
        ("SIEMENS Spital Davos", "SIEMENS"),
        (" GE MEDICAL SYSTEMS", "GE MEDICAL SYSTEMS"),
        ("Krokowski Medical Devices", "REMOVED"),  # "Medical" would be taken for Mediso
        ("Krokowski Philips", "REMOVED"),
    ],
)
def test_what_is_left_of_a_manufacturer_reads_like_no_other_one(before: str, left: str) -> None:
    assert after(an_image(Manufacturer=before), "research").Manufacturer.strip() == left


def test_what_tells_parts_apart_still_does() -> None:
    before = an_image()
    paths = [Dataset(), Dataset(), Dataset()]
    for path, name in zip(paths, ("1", "Krokowski", "Davos"), strict=True):
        path.OpticalPathIdentifier = name
    before.OpticalPathSequence, before.ReferencedOpticalPathIdentifier = paths, "Davos"
    made = after(before)
    names = [path.OpticalPathIdentifier for path in made.OpticalPathSequence]
    assert names[0] == "1" and len(set(names)) == 3 and made.ReferencedOpticalPathIdentifier == names[2] != "Davos"


# Codes


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        *(("121071", "DCM"), ("MR", "DCM"), ("10200004", "SCT"), ("T-A0100", "SRT"), ("8867-4", "LN"), ("cm2", "UCUM")),
        *(
            ("{SUVbw}g/ml", "UCUM"),
            ("ml/100ml/s", "UCUM"),
            ("mm[Hg]", "UCUM"),
            ("RID10311", "RADLEX"),
            ("I67.1", "I10"),
        ),
        *(
            ("C67447", "NCIt"),
            ("en-US", "RFC5646"),
            ("5.6.3-9-1", "SCPECG"),
            ("12738006", "SCT"),
            ("A-100", "99SMS_CTMR"),
        ),
        *(("1.2.840.10008.1.1", "DCMUID"), ("250137", "99PMP"), ("GEU-1005-33", "99GEMS")),
    ],
)
def test_codes_of_public_schemes_are_public(value: str, scheme: str) -> None:
    assert codes.is_public(value, scheme)


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        *(
            ("SGH0101", "RP"),
            ("M2195", "GEIIS"),
            ("CT0001", "SIEMENS_RIS"),
            ("4711", "99HUG"),
            ("4711", ""),
            ("1", "1.2.3"),
        ),
        *(("KROKOWSKI", "DCM"), ("19600512", "DCM"), ("Krokowski", "SCT"), ("12738007", "SCT"), ("8867-5", "LN")),
        *(
            ("Krokowski", "UCUM"),
            ("{Krokowski}", "UCUM"),
            ("Davos", "RADLEX"),
            ("KROKOWSKI", "99GEMS"),
            ("Anna", "IBSI"),
        ),
        *(
            ("1.2.276.0.7230010.3.1", "DCMUID"),
            ("4711234567", "FMA"),
            ("USZ", "ISO3166_1"),
            ("USZ0815", "99GEMS"),
            ("USZ_12345", "RRID"),
        ),
        ("756.1234.5678.97", "99SIEMENS"),
        ("17.12.1959", "99GEMS"),
        ("tom-Otto-Hans", "RFC5646"),
        ("{Klein Lang}", "UCUM"),
    ],
)
def test_codes_of_sites_and_what_only_claims_to_be_a_public_code_are_local(value: str, scheme: str) -> None:
    assert not codes.is_public(value, scheme)


def test_local_codes_become_tokens_that_still_group_and_public_ones_stay() -> None:
    local = {"CodingSchemeVersion": "Davos 2", "CodingSchemeUID": "1.2.276.99.1", "MappingResource": "99DAVOS"}
    local |= {"ContextIdentifier": "99DAVOS", "ContextUID": "1.2.276.99.2", "MappingResourceUID": "1.2.840.10008.8.1.1"}
    before = an_image()
    before.ProcedureCodeSequence = [
        a_code("DAVOS4711", "99DAVOS", "CT Thorax Davos", **local),
        a_code("DAVOS4711", "99ZERMATT", "CT Thorax"),
        a_code("KROKOWSKI", "DCM", "Krokowski"),
        a_code("CT", "DCM", "Computed Tomography", ContextIdentifier="29", CodingSchemeUID="1.2.840.10008.2.16.4"),
    ]
    before.PerformedProtocolCodeSequence = [a_code("DAVOS4711", "99DAVOS", "nativ")]
    made = after(before)
    one, two, three, public = made.ProcedureCodeSequence
    assert one.CodeValue == made.PerformedProtocolCodeSequence[0].CodeValue
    assert len({one.CodeValue, two.CodeValue, three.CodeValue, "DAVOS4711"}) == 4 and len(one.CodeValue) == 12
    assert {code.CodingSchemeDesignator for code in (one, two, three)} == {"99DEIDENTIFIED"}
    assert (one.CodeMeaning, three.CodeMeaning) == ("CT Thorax", "REMOVED")
    assert one.MappingResourceUID == "1.2.840.10008.8.1.1"
    gone = ("CodingSchemeVersion", "CodingSchemeUID", "ContextIdentifier", "ContextUID")
    assert not any(keyword in one for keyword in gone) and "DAVOS" not in str(made).upper()
    assert (public.CodeValue, public.CodingSchemeDesignator, public.ContextIdentifier) == ("CT", "DCM", "29")
    assert public.CodingSchemeUID == "1.2.840.10008.2.16.4"


def test_long_codes_and_urns_of_sites_become_tokens_as_well() -> None:
    before = an_image()
    long, urn = Dataset(), Dataset()
    long.LongCodeValue, long.CodingSchemeDesignator, long.CodeMeaning = "DAVOS-" * 5, "99DAVOS", "CT"
    urn.URNCodeValue, urn.CodeMeaning = "urn:oid:1.2.276.99.4711", "CT"
    before.ProcedureCodeSequence = [long, urn]
    long, urn = after(before).ProcedureCodeSequence
    assert len(long.LongCodeValue) == len(urn.URNCodeValue) == 12 and "CodingSchemeDesignator" not in urn


def test_schemes_of_sites_are_not_told_of() -> None:
    before = an_image()
    public, local = Dataset(), Dataset()
    public.CodingSchemeDesignator, public.CodingSchemeUID = "SCT", "2.16.840.1.113883.6.96"
    local.CodingSchemeDesignator, local.CodingSchemeUID = "99DAVOS", "1.2.276.99.1"
    local.CodingSchemeName, local.CodingSchemeResponsibleOrganization = "Codes of Davos", "Spital Davos"
    before.CodingSchemeIdentificationSequence = [public, local]
    made = after(before)
    assert [item.CodingSchemeDesignator for item in made.CodingSchemeIdentificationSequence] == ["SCT"]
    assert made.CodingSchemeIdentificationSequence[0].CodingSchemeUID == "2.16.840.1.113883.6.96"
    before.CodingSchemeIdentificationSequence = [local]
    assert "CodingSchemeIdentificationSequence" not in after(before)


def test_the_basic_profile_leaves_codes_as_the_table_of_the_standard_does() -> None:
    before = an_image()
    before.ProcedureCodeSequence = [a_code("DAVOS4711", "99DAVOS", "CT")]
    assert after(before, "basic").ProcedureCodeSequence[0].CodeValue == "DAVOS4711"
    assert after(before, "pacsifier").ProcedureCodeSequence[0].CodeValue != "DAVOS4711"
