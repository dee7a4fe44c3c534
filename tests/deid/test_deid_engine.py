"""The engine: what becomes of an object, element by element; and that nothing else of it changes."""

from __future__ import annotations

import io
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import profile, reading, writing
from pacsifier_ops.deid.engine import Deidentified, Engine
from pacsifier_ops.deid.rules import ProfileOption
from pacsifier_ops.embedded.phantoms import phantom_series, shipped_files
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret

PERSON = Person("P7XK2M9QW4", -11)
SECRET = Secret(b"s" * 32)
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
TALAIRACH = "1.2.840.10008.1.4.1.1"
SIEMENS = "SIEMENS MR HEADER"


@cache
def engine(name: str = "research", *more: ProfileOption) -> Engine:
    return Engine(profile.compile(profile.load(name, add=more)), SECRET)


def phantom(syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> Dataset:
    """One object of Jane Doe."""
    return phantom_series(
        patient_id="4711234",
        patient_name="Doe^Jane",
        transfer_syntax=syntax,
        rows=8,
        columns=8,
        n_images=1,
        **attributes,
    )[0]


def encoded(ds: Dataset) -> bytes:
    """A data set as a file, in the transfer syntax that its file meta information names."""
    stream = io.BytesIO()
    syntax = pydicom.uid.UID(ds.file_meta.TransferSyntaxUID)
    pydicom.dcmwrite(
        stream, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, enforce_file_format=True
    )
    return stream.getvalue()


def written(outcome: Deidentified, tmp_path: Path) -> bytes:
    path = tmp_path / "out.dcm"
    writing.write(outcome.dataset, path)
    return path.read_bytes()


def after(ds: Dataset, name: str = "research", *more: ProfileOption, person: Person = PERSON) -> Dataset:
    """What becomes of a data set."""
    return engine(name, *more).deidentify(ds, person).dataset


def raw(ds: Dataset, tag: int) -> bytes | None:
    """The bytes of a value, None where there is none."""
    element = ds.get_item(tag)
    return None if element is None else element.value


def explicit(tag: int, vr: str, value: bytes) -> bytes:
    """An element in explicit VR little endian, not checked by anybody."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    length = struct.pack("<HL", 0, len(value)) if vr in ("SQ", "UN", "OB", "UT") else struct.pack("<H", len(value))
    return head + length + value


def with_elements(*elements: tuple[int, str, bytes]) -> reading.Parsed:
    """An object with elements that no library would write."""
    found = {
        0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
        0x00080018: ("UI", b"1.2.3\0"),
        0x00080060: ("CS", b"CT"),
        0x00100010: ("PN", b"Doe^Jane"),
        **{tag: (vr, value + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)) for tag, vr, value in elements},
    }
    body = b"".join(explicit(tag, *found[tag]) for tag in sorted(found))
    return reading.parse(
        bytes(128) + b"DICM" + explicit(0x00020010, "UI", ExplicitVRLittleEndian.encode() + b"\0") + body
    )


# The object as a whole


@pytest.mark.parametrize("name", ["Doe^Jane", ""])
def test_names_that_other_objects_tell_go_too(name: str) -> None:
    before = phantom(
        SeriesDescription="CT Stein Axel", ManufacturerModelName="Stein", ImageType=["ORIGINAL", "IRIS GALAN"]
    )
    before.PatientName = name
    alone, told = (
        engine().deidentify(before, PERSON, names=names).dataset for names in ((), ("Stein^Axel", "Galan^Iris"))
    )
    assert alone.SeriesDescription == "CT Stein Axel" and alone.ImageType[1] == "IRIS GALAN"
    assert told.SeriesDescription == "CT" and told.ImageType[1] == ""
    assert (alone.ManufacturerModelName, told.ManufacturerModelName) == ("Stein", "REMOVED")


def test_a_name_at_birth_and_other_names_of_the_object_go_too() -> None:
    before = phantom(SeriesDescription="CT Stein Axel", OtherPatientNames="Stein^Axel")
    assert after(before).SeriesDescription == "CT"


@pytest.mark.parametrize("syntax", [*SYNTAXES, RLELossless], ids=lambda syntax: syntax.name)
def test_it_is_written_in_its_own_syntax_and_the_pixels_stay_as_they_are(syntax: str, tmp_path: Path) -> None:
    before = phantom(ExplicitVRLittleEndian if syntax != RLELossless else RLELossless, AccessionNumber="A 17")
    before.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        pixels = before.PixelData
        before.PixelData = b"".join(pixels[place : place + 2][::-1] for place in range(0, len(pixels), 2))
    before.preamble = b"Doe^Jane" * 16
    source = reading.parse(encoded(before))
    made = written(engine().deidentify(source, PERSON), tmp_path)
    assert made == written(engine().deidentify(reading.parse(encoded(before)), PERSON), tmp_path)
    assert made[:132] == bytes(128) + b"DICM"
    result = pydicom.dcmread(io.BytesIO(made))
    assert result.file_meta.TransferSyntaxUID == syntax
    assert result.PixelData == before.PixelData and result.Rows == 8
    assert (result.PatientID, result.PatientName) == (PERSON.pseudonym, PERSON.pseudonym)
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID != before.SOPInstanceUID
    assert sorted(element.tag.element for element in result.file_meta) == [0, 1, 2, 3, 16, 18, 19]
    assert not any(word in made for word in (b"Doe", b"4711234", b"A 17", before.SOPInstanceUID.encode()))
    assert reading.parse(made).elements.keys() == result.keys()


def test_another_secret_and_another_person_have_nothing_in_common(tmp_path: Path) -> None:
    before = phantom(AccessionNumber="A17")
    one = engine().deidentify(before, PERSON)
    other = Engine(engine().rules, Secret(b"o" * 32)).deidentify(before, Person("P2", 3))
    uids = [element.value for outcome in (one, other) for element in outcome.dataset if element.VR == "UI"]
    assert {uid for uid in uids if uids.count(uid) > 1} == {before.SOPClassUID}
    assert one.dataset.AccessionNumber != other.dataset.AccessionNumber
    assert one.dataset.StudyDate != other.dataset.StudyDate
    assert one.uids.keys() == other.uids.keys() == {
        before.StudyInstanceUID, before.SeriesInstanceUID, before.SOPInstanceUID, before.FrameOfReferenceUID
    }  # fmt: skip


@pytest.mark.parametrize("name", profile.NAMES)
def test_real_objects_are_no_worse_than_before_for_other_parsers(name: str, tmp_path: Path) -> None:
    if not all(map(shutil.which, ("dciodvfy", "dcmdump", "dcmftest"))):
        pytest.skip("needs dciodvfy, dcmdump and dcmftest: install the packages dicom3tools and dcmtk")
    sources = [path for path in shipped_files() if path.stat().st_size < 1_000_000][::4]
    for number, path in enumerate(sources):
        out = tmp_path / f"{number}.dcm"
        writing.write(engine(name).deidentify(reading.read(path), PERSON).dataset, out)
        subprocess.run(["dcmdump", "-q", str(out)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["dcmftest", str(out)], check=True, stdout=subprocess.DEVNULL)
        assert _missing(out) - _missing(path) <= _EXCEPT, path.name


#: See test_deid_validity; dciodvfy of 2022 takes ContentDescription (type 2) for type 1.
_EXCEPT = {"ContentDescription", "ReferencedSeriesSequence"}


def _missing(path: Path) -> set[str]:
    """Attributes that dciodvfy misses, or finds to be wrong."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True)
    lines = [line for line in done.stderr.decode("latin-1").splitlines() if line.startswith("Error")]
    return {
        name for line in lines if "Value invalid" not in line for name in re.findall("<([A-Z][A-Za-z]+)>", line)[:1]
    }


def test_an_attribute_that_is_newer_than_the_library_is_read_as_what_it_is() -> None:
    # MetalArtifactReductionSequence with MetalArtifactReductionApplied, and a name, by one who does not know it.
    inner = struct.pack("<HHL", 0x0010, 0x0010, 8) + b"Doe^Jane" + struct.pack("<HHL", 0x0018, 0x9391, 4) + b"YES "
    made = after(with_elements((0x00189390, "UN", struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner)))
    (item,) = made[0x00189390].value
    assert made[0x00189390].VR == "SQ" and item[0x00189391].value == "YES"
    assert item.PatientName == PERSON.pseudonym


def test_it_tells_what_was_done() -> None:
    made = after(phantom())
    assert made.PatientIdentityRemoved == "YES"
    assert "\\".join(made.DeidentificationMethod) == engine().rules.method
    assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == [
        "113100", "113103", "113104", "113105", "113107", "113108", "113109", "113111"
    ]  # fmt: skip
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    again = after(made, "basic")
    assert list(again.DeidentificationMethod)[-1] == engine("basic").rules.method
    assert len(again.DeidentificationMethodCodeSequence) == 8
    assert again.LongitudinalTemporalInformationModified == "REMOVED"


def test_rules_are_counted_by_their_ids() -> None:
    before = phantom()
    counts = engine().deidentify(before, PERSON).counts
    assert counts["E.1-1/modified_dates"] == 8 and counts["uid/keep"] == 1
    assert sum(counts.values()) == len(before)


# Dates and ages

DATES = {"StudyDate": "20200301", "AcquisitionDateTime": "20200301123456.5+0100", "ContentDate": "1990.01.31"}


def test_dates_of_a_patient_move_together() -> None:
    made = after(phantom(**DATES, PatientAge="093Y"), person=Person("P1", -1))
    assert (made.StudyDate, made.AcquisitionDateTime, made["ContentDate"].value) == (
        "20200229", "20200229123456.5+0100", "1990.01.30"
    )  # fmt: skip
    assert made.StudyTime == "101500" and made.PatientAge == "090Y" and made.PatientBirthDate == ""


def test_what_was_done_to_dates_is_told() -> None:
    fate = "LongitudinalTemporalInformationModified"
    assert after(phantom(), person=Person("P1", 0)).get(fate) == "UNMODIFIED"
    assert after(phantom(), "pacsifier").get(fate) == "UNMODIFIED"
    assert after(phantom(), "pacsifier").StudyDate == "20180102"
    assert after(phantom(), "basic").get(fate) == "REMOVED"
    # What an earlier de-identification did is not undone by a later one.
    assert after(phantom(**{fate: "MODIFIED"}), "pacsifier").get(fate) == "MODIFIED"


@pytest.mark.parametrize(
    "value", [b"20200301-20200305 ", b"01.03.2020", b"202003", b"Doe^Jane", b"20200230", b"\xff\xff", b"20200301\\12"]
)
def test_a_date_that_is_none_does_not_pass(value: bytes) -> None:
    made = after(with_elements(*((tag, "DA", value) for tag in (0x00080020, 0x00080021, 0x00080022))))
    assert [raw(made, tag) for tag in (0x00080020, 0x00080021, 0x00080022)] == [b"", None, None]
    assert raw(after(with_elements((0x00080020, "DA", value)), "pacsifier"), 0x00080020) in (b"", b"20200301\\ ")


# UIDs


def test_references_hold_across_objects() -> None:
    image, other = phantom(), phantom()
    other.SOPInstanceUID = "1.2.3.4"
    other.ReferencedImageSequence = [Dataset()]
    other.ReferencedImageSequence[0].ReferencedSOPInstanceUID = image.SOPInstanceUID
    other.ReferencedImageSequence[0].ReferencedSOPClassUID = image.SOPClassUID
    (item,) = after(other).ReferencedImageSequence
    assert item.ReferencedSOPInstanceUID == after(image).SOPInstanceUID
    assert item.ReferencedSOPClassUID == image.SOPClassUID


def test_only_registered_uids_stay_each_by_itself() -> None:
    for uid, stays in ((TALAIRACH, True), (f"{TALAIRACH}.1", False), ("1.2.840.10008.9", False)):
        made = after(with_elements((0x00200052, "UI", uid.encode() + b"\0" * (len(uid) % 2))))
        assert (made.FrameOfReferenceUID == uid) is stays, uid


@pytest.mark.parametrize("value", [b"1.2.Doe^Jane", b"1.02.3", b"Doe^Jane", b"1." + b"2" * 80])
def test_what_is_no_uid_is_replaced_as_well(value: bytes) -> None:
    made = after(
        with_elements((0x0008001A, "UI", value), (0x0020000D, "UI", value), (0x00200052, "UI", value + b" \0"))
    )
    new = made[0x0020000D].value
    assert new.startswith("2.25.") and made[0x0008001A].value == made[0x00200052].value == new


def test_uids_stay_where_the_profile_says_so() -> None:
    before = phantom()
    rules = profile.compile(profile.load("basic", add=[ProfileOption.UIDS]))
    made = Engine(rules, SECRET).deidentify(before, PERSON)
    assert made.dataset.SOPInstanceUID == before.SOPInstanceUID and not made.uids


# Values that stay


def test_what_is_not_valid_is_emptied_and_the_rest_stays() -> None:
    made = after(
        with_elements(
            (0x00080008, "CS", b"ORIGINAL\\DOE^JANE\\AXIAL"),
            (0x00080070, "LO", b"ACME\nDoe"),
            (0x00180050, "DS", b"Doe^Jane"),
            (0x00181151, "IS", b"1.5 "),
            (0x00200032, "DS", b"-0.12345678901234567\\Doe\\12"),
            (0x00280010, "US", b"abc "),
            (0x00280011, "US", b"\1\0"),
        )
    )
    assert raw(made, 0x00080008) == b"ORIGINAL\\\\AXIAL "
    assert [raw(made, tag) for tag in (0x00080070, 0x00180050, 0x00181151)] == [b"REMOVED ", b"", b""]
    assert raw(made, 0x00200032) == b"-0.12345678901234567\\\\12  "
    assert raw(made, 0x00280010) is None and raw(made, 0x00280011) == b"\1\0"  # two numbers, where one has its place


def test_an_element_of_another_vr_is_held_to_both() -> None:
    made = after(
        with_elements(
            (0x00080020, "LO", b"20200301"),
            (0x00080021, "LO", b"Doe^Jane"),
            (0x00080070, "OB", b"Doe^Jane"),
            (0x00100020, "SH", b"4711"),
            (0x00180050, "LO", b"Doe^Jane"),
            (0x00180060, "UT", b"120 "),
            (0x0020000D, "LO", b"1.2.34"),
            (0x00280010, "CS", b"DOE "),
            (0x00280011, "SS", b"\1\0"),
        )
    )
    assert raw(made, 0x00080020) == b"20200219" and raw(made, 0x00080021) is None
    assert raw(made, 0x00080070) is None and raw(made, 0x00100020) == PERSON.pseudonym.encode()
    assert raw(made, 0x00180050) is None and raw(made, 0x00180060) == b"120 "
    assert raw(made, 0x0020000D) == SECRET.uid("1.2.34").encode() + b"\0" * (len(SECRET.uid("1.2.34")) % 2)
    assert raw(made, 0x00280010) is None and raw(made, 0x00280011) == b"\1\0"


@pytest.mark.parametrize(("tag", "vr"), [(0x00100020, "OB"), (0x00080016, "UL"), (0x0020000D, "FD")])
def test_what_an_object_is_and_whose_is_not_read_in_two_ways(tag: int, vr: str) -> None:
    with pytest.raises(Unfit, match="another value representation"):
        after(with_elements((tag, vr, b"4711" * 2)))


_CT = b"1.2.840.10008.5.1.4.1.1.2\0"


def test_a_uid_that_claims_to_be_the_standards_and_is_not_goes() -> None:
    forged = b"1.2.840.10008.4711"
    assert raw(after(with_elements((0x00081150, "UI", forged))), 0x00081150) != forged
    assert raw(after(with_elements((0x00081150, "UI", _CT))), 0x00081150) == _CT


def test_bytes_behind_the_last_pixel_are_refused_unless_they_are_zero() -> None:
    size = ((0x00280002, b"\1\0"), (0x00280010, b"\2\0"), (0x00280011, b"\2\0"), (0x00280100, b"\x10\0"))
    image = [(tag, "US", value) for tag, value in size]
    assert len(raw(after(with_elements(*image, (0x7FE00010, "OB", bytes(20)))), 0x7FE00010) or b"") == 20
    with pytest.raises(Unfit, match="pixel data"):
        after(with_elements(*image, (0x7FE00010, "OB", bytes(8) + b"Doe^Jane")))


# Sequences


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_fifty_sequences_deep(syntax: str, tmp_path: Path) -> None:
    before = phantom(syntax)
    item = before
    for _ in range(50):
        item.ReferencedImageEvidenceSequence = [Dataset()]
        item = item.ReferencedImageEvidenceSequence[0]
        item.is_undefined_length_sequence_item = True
        item.PatientName, item.StudyDate, item.ReferencedSOPInstanceUID = "Doe^Jane", "20200301", "1.2.3.4"
    made = written(engine().deidentify(reading.parse(encoded(before)), PERSON), tmp_path)
    assert b"Doe" not in made
    item = pydicom.dcmread(io.BytesIO(made))
    for _ in range(50):
        (item,) = item.ReferencedImageEvidenceSequence
        assert (item.PatientName, item.StudyDate) == (PERSON.pseudonym, "20200219")
    assert item.ReferencedSOPInstanceUID == SECRET.uid("1.2.3.4")
    with pytest.raises(Unfit, match="deep"):
        reading.parse(_deep(100))


def _deep(depth: int) -> bytes:
    content = explicit(0x00100010, "PN", b"Doe^Jane")
    for _ in range(depth):
        content = explicit(0x00081140, "SQ", b"\xfe\xff\0\xe0" + struct.pack("<L", len(content)) + content)
    return bytes(128) + b"DICM" + explicit(0x00020010, "UI", ExplicitVRLittleEndian.encode() + b"\0") + content


def test_a_sequence_of_unknown_vr_is_known_by_its_tag() -> None:
    inside = struct.pack("<HHL", 0x10, 0x10, 8) + b"Doe^Jane" + struct.pack("<HHL", 0x40, 0x7, 8) + b"Lung Doe"
    item = b"\xfe\xff\0\xe0" + struct.pack("<L", len(inside)) + inside
    made = after(
        with_elements((0x00400275, "UN", item), (0x0008103E, "UN", b"Lung Doe"), (0x00080021, "UN", b"20200301"))
    )
    assert (made[0x00400275].VR, made[0x0008103E].value, made[0x00080021].value) == ("SQ", "Lung", "20200219")
    assert made[0x00400275][0].PatientName == PERSON.pseudonym
    assert made[0x00400275][0].ScheduledProcedureStepDescription == "Lung"
    with pytest.raises(Unfit):
        after(with_elements((0x00400275, "UN", b"Doe^Jane")))


def test_a_dummy_of_a_sequence_has_one_item_that_says_nothing() -> None:
    before = phantom()
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "4711", "99HUG", "Doe^Jane"
    code.NumericValue = ["1", "2"]
    graphic, text = Dataset(), Dataset()
    text.UnformattedTextValue, text.AnchorPointVisibility, text.AnchorPoint = "Doe^Jane", "Y", [3.0, 4.0]
    graphic.TextObjectSequence, graphic.GraphicLayer = [text, text], "DOE"
    graphic.ReferencedImageSequence = [code]
    before.GraphicAnnotationSequence = [graphic, graphic]
    before.SOPClassUID = "1.2.840.10008.5.1.4.1.1.11.1"
    (item,) = after(before, "basic").GraphicAnnotationSequence
    (text,) = item.TextObjectSequence
    assert re.fullmatch("[A-Z0-9]{12}", item.GraphicLayer) and "Jane" not in str(item)
    assert text.UnformattedTextValue == "REMOVED" and list(text.AnchorPoint) == [0.0, 0.0]
    assert text.AnchorPointVisibility == "Y"


# Private elements


def test_private_elements_stay_if_their_creator_is_known_to_be_safe() -> None:
    made = after(
        with_elements(
            (0x00090010, "LO", b"ACME"),
            (0x00091001, "LO", b"Doe^Jane"),
            (0x00190001, "LO", b"Doe^Jane"),
            (0x00190010, "LO", SIEMENS.encode() + b" "),
            (0x00190011, "LO", SIEMENS.encode() + b" "),
            (0x00190110, "IS", b"12"),
            (0x0019100C, "IS", b"1000"),
            (0x00191008, "CS", b"DOE "),
            (0x0019100D, "UN", b"NONE"),
            (0x0019100E, "UN", b"Doe^Jane and"),
            (0x0019110C, "IS", b"Doe^Jane"),
            (0x0019120C, "IS", b"2000"),
            (0x00290010, "LO", SIEMENS.encode() + b" "),
            (0x0029100C, "LO", b"Doe^Jane"),
        )
    )
    private = {int(tag): raw(made, tag) for tag, _ in made.items() if tag.is_private}
    assert private == {
        0x00190010: b"SIEMENS MR HEADER ",
        0x0019100C: b"1000",
        0x0019100D: b"NONE",
    }
    assert not [tag for tag, _ in after(made, "basic").items() if tag.is_private]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_safe_private_elements_stay_in_every_syntax(syntax: str) -> None:
    before = phantom(syntax)
    before.private_block(0x0019, SIEMENS, create=True).add_new(0x0C, "IS", "1000")
    before.private_block(0x0021, "ACME", create=True).add_new(0x01, "LO", "Doe^Jane")
    made = after(reading.parse(encoded(before)))
    assert [raw(made, tag) for tag, _ in made.items() if tag.is_private] == [b"SIEMENS MR HEADER ", b"1000"]


def test_elements_of_other_groups_and_trailing_padding_go() -> None:
    made = after(
        with_elements(
            (0x00041500, "CS", b"DOE "),
            (0x00080000, "UL", b"\0\0\0\0"),
            (0x60003000, "OB", b"Doe^Jane"),
            (0x60020022, "LO", b"Doe^Jane"),
            (0x50000030, "SH", b"Doe^Jane"),
            (0x04000561, "SQ", b""),
            (0xFFFCFFFC, "OB", b"Doe^Jane"),
        )
    )
    assert [int(tag) for tag, _ in made.items() if tag.group not in (0x08, 0x10, 0x12, 0x28)] == []
    assert 0x00080000 not in made


# Text


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192"])
def test_text_stays_in_its_character_set(charset: str, tmp_path: Path) -> None:
    before = phantom(charset=charset, StudyDescription="Schädel Doe", Manufacturer="Schädel Systems")
    before.ReferencedStudySequence = []
    made = written(engine().deidentify(before, PERSON), tmp_path)
    result = pydicom.dcmread(io.BytesIO(made))
    assert (result.SpecificCharacterSet, result.StudyDescription) == (charset, "Schädel")
    assert result.Manufacturer == "Schädel Systems"


def test_an_item_may_have_a_character_set_of_its_own() -> None:
    before = phantom(charset="ISO_IR 192", StudyDescription="Schädel")
    item = Dataset()
    item.SpecificCharacterSet = "ISO_IR 100"
    item.ScheduledProcedureStepDescription = "Schädel Müller"
    before.RequestAttributesSequence = Sequence([item])
    (found,) = after(before).RequestAttributesSequence
    assert found.ScheduledProcedureStepDescription == "Schädel"


def test_text_that_its_character_set_does_not_have_does_not_pass() -> None:
    text = "Lung Müller".encode()
    made = after(with_elements((0x00080070, "LO", text), (0x00081030, "LO", text)))
    assert (raw(made, 0x00080070), raw(made, 0x00081030)) == (b"REMOVED ", b"Lung")
    with pytest.raises(Unfit, match="SpecificCharacterSet"):
        after(with_elements((0x00080005, "CS", b"LATIN1")))


def test_meanings_of_codes_are_those_of_the_standard() -> None:
    def code(value: str, scheme: str, meaning: str) -> list[Dataset]:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return [item]

    meanings = [
        after(phantom(AnatomicRegionSequence=code(*told))).AnatomicRegionSequence[0].CodeMeaning
        for told in (
            ("T-D1100", "SRT", "Doe^Jane"),
            ("T-D1100", "SRT", "Kopf"),
            ("4711", "99HUG", "Lung Doe"),
            ("4711", "99HUG", "Doe^Jane"),
        )
    ]
    assert meanings == ["Head", "Kopf", "Lung", "REMOVED"]


# Structured reports


def content(value_type: str, concept: tuple[str, str, str], **attributes: Any) -> Dataset:
    """A content item (PS3.3 C.17.3)."""
    item, name = Dataset(), Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", value_type
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = concept
    item.ConceptNameCodeSequence = [name]
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def measured(concept: tuple[str, str, str], value: str, unit: str) -> Dataset:
    number, units = Dataset(), Dataset()
    units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = unit, "UCUM", "unit"
    number.NumericValue, number.MeasurementUnitsCodeSequence = value, [units]
    return content("NUM", concept, MeasuredValueSequence=[number])


def report(items: Iterable[Dataset]) -> Dataset:
    made = phantom(ContentSequence=list(items), ValueType="CONTAINER")
    made.SOPClassUID = ComprehensiveSRStorage
    return made


def test_structured_content_is_cleaned_by_concept() -> None:
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
    finding = ("121071", "DCM", "Finding")
    container = content("CONTAINER", ("121070", "DCM", "Findings"), ContinuityOfContent="SEPARATE")
    container.ContentSequence = [
        content("TEXT", finding, TextValue="Lung nodule, Doe"),
        content("TEXT", finding, TextValue="Doe^Jane"),
        content("PNAME", ("121008", "DCM", "Person Observer Name"), PersonName="Doe^Jane"),
    ]
    made = after(
        report(
            [
                content("TEXT", ("121106", "DCM", "Comment"), TextValue="Doe^Jane"),
                content("PNAME", ("121029", "DCM", "Subject Name"), PersonName="Doe^Jane"),
                content("DATETIME", ("121125", "DCM", "DateTime of Recording"), DateTime="20200301120000"),
                content("DATE", ("111018", "DCM", "Content Date"), Date="20200301"),
                content("UIDREF", ("112040", "DCM", "Tracking Unique Identifier"), UID="1.2.3.4"),
                content("IMAGE", ("111040", "DCM", "Original Source"), ReferencedSOPSequence=[image]),
                measured(("121033", "DCM", "Subject Age"), "93", "a"),
                measured(("121033", "DCM", "Subject Age"), "30000", "h"),
                measured(("121033", "DCM", "Subject Age"), "33000", "d"),
                measured(("112058", "DCM", "Calcium score"), "93", "mm"),
                content("CODE", ("121058", "DCM", "Procedure reported"), ConceptCodeSequence=[_item(CodeValue="1")]),
                container,
                content("DOE", finding, TextValue="Doe^Jane"),
            ]
        ),
        "pacsifier",
    )
    found: dict[str, list[Dataset]] = {}
    for item in made.ContentSequence:
        found.setdefault(item.ConceptNameCodeSequence[0].CodeMeaning, []).append(item)
    assert "Doe" not in str(made)
    assert found["Subject Name"][0].PersonName == PERSON.pseudonym
    assert found["Tracking Unique Identifier"][0].UID in {SECRET.uid("1.2.3.4")}
    ages = [item.MeasuredValueSequence[0].NumericValue for item in found["Subject Age"]]
    assert ages == [90, 30000, 32872]
    assert "Comment" not in found
    below = next(item for item in made.ContentSequence if item.ValueType == "CONTAINER").ContentSequence
    assert [item.get("TextValue") for item in below if item.ValueType == "TEXT"] == ["Lung nodule", "REMOVED"]


def test_no_number_of_a_report_tells_an_age_over_89() -> None:
    items = [measured((value, scheme, "Age"), "95", "a") for value, scheme in (("121033", "DCM"), ("1", "99LOCAL"))]
    items.append(measured(("1", "99LOCAL", "Age"), "45", "a"))
    for item in items:
        number = item.MeasuredValueSequence[0]
        number.FloatingPointValue = float(number.NumericValue)
        number.RationalNumeratorValue, number.RationalDenominatorValue = int(number.NumericValue), 1
    made = [item.MeasuredValueSequence[0] for item in after(report(items), "pacsifier").ContentSequence]
    assert [number.NumericValue for number in made] == [90, 90, 45]
    assert [number.get("FloatingPointValue") for number in made] == [None, None, 45]
    assert [number.get("RationalNumeratorValue") for number in made] == [None, None, 45]
    context = items[1]
    context.update(context.MeasuredValueSequence[0])
    context.NumericValue = "97"
    del context.MeasuredValueSequence
    made = after(phantom(AcquisitionContextSequence=[context]), "pacsifier").AcquisitionContextSequence
    assert [item.NumericValue for item in made] == [90]


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def test_references_by_position_follow_the_items_that_they_are_to() -> None:
    finding = ("121071", "DCM", "Finding")
    gone = content("TEXT", ("121106", "DCM", "Comment"), TextValue="Doe^Jane")
    to_kept, to_gone = Dataset(), Dataset()
    to_kept.RelationshipType = to_gone.RelationshipType = "INFERRED FROM"
    to_kept.ReferencedContentItemIdentifier, to_gone.ReferencedContentItemIdentifier = [1, 3, 2], [1, 1]
    outer = content("CONTAINER", ("121070", "DCM", "Findings"), ContinuityOfContent="SEPARATE")
    outer.ContentSequence = [gone, content("TEXT", finding, TextValue="Lung")]
    conclusion = measured(("112058", "DCM", "Calcium score"), "93", "mm")
    conclusion.ContentSequence = [to_gone, to_kept]
    made = after(report([gone, to_gone, outer, conclusion]), "pacsifier")
    first, second = made.ContentSequence
    assert [item.TextValue for item in first.ContentSequence] == ["Lung"]
    (reference,) = second.ContentSequence
    assert list(reference.ReferencedContentItemIdentifier) == [1, 1, 1]


# What cannot be


def test_objects_without_identity_or_encoding_are_refused() -> None:
    with pytest.raises(Unfit, match="SOP Instance UID"):
        after(with_elements((0x00080018, "UI", b"")))
    with pytest.raises(Unfit, match="encoded"):
        after(Dataset())


def test_the_patients_name_goes_from_descriptions_even_where_it_is_a_word() -> None:
    for name, text, left in (
        ("Long^Jane", "Thorax long axis", "Thorax axis"),
        ("Doe^Jane", "Thorax long axis", "Thorax long axis"),
    ):
        ds = phantom()
        ds.PatientName, ds.SeriesDescription, ds.StudyDescription = name, text, text
        new = after(ds, "default")
        assert (new.SeriesDescription, new.StudyDescription) == (left, left), name
    ds = phantom()
    ds.SpecificCharacterSet, ds.PatientName, ds.SeriesDescription = "GB18030", "左^小东", "左 Thorax 左膝关节"
    assert str(after(ds, "default").SeriesDescription) == "Thorax 左膝关节"
