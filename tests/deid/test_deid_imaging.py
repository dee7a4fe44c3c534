"""Physics in private elements: it stays, dcm2niix makes of it what it made before, and nothing else comes along."""

from __future__ import annotations

import csv
import gzip
import random
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import imaging, profile, reading, verifier, vocabulary, writing
from pacsifier_ops.deid.engine import Engine
from pacsifier_ops.deid.numbers import Calendar
from pacsifier_ops.deid.rules import ProfileOption
from pacsifier_ops.deid.verifier import Identifiers
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret
from tests.support import niix, physics
from tests.support.places import DATA, REPO
from tests.support.realfiles import REAL

PERSON = Person("P7XK2M9QW4", -11)
TABLES = REPO / "pacsifier_ops" / "deid" / "tables"
#: What must never come through: names, ids and dates in the spellings that devices use.
PLANTED = (
    "Doe^Jane",
    "DOE",
    "Doe",
    "Jane Doe",
    "4711234",
    "47112345678",
    "19700101",
    "1970-01-01",
    "20180102",
    "DrDoe",
)
NEEDLES = [text.encode() for text in ("Doe", "DOE", "Jane", "4711234", "19700101", "20180102", "1970-01-01")]


@cache
def engine(extended: bool = True) -> Engine:
    drop = () if extended else (ProfileOption.SAFE_PRIVATE_EXTENDED,)
    return Engine(profile.compile(profile.load("research", drop=drop)), Secret(b"s" * 32))


def rows(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tag_of(row: dict[str, str]) -> int:
    return int(f"{row['tag_pattern'][1:5]}10{row['tag_pattern'][8:10]}", 16)


def converted(images: list[Path], tmp_path: Path, extended: bool = True) -> tuple[niix.Made, niix.Made]:
    """What dcm2niix makes of files, and of what the engine made of them; files that are not fit are in neither."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    for number, path in enumerate(images):
        try:
            outcome = engine(extended).deidentify(reading.read(path), PERSON)
        except Unfit:
            continue
        writing.write(outcome.dataset, after / f"{number:04}.dcm")
        (before / f"{number:04}.dcm").write_bytes(path.read_bytes())
    return niix.made(before, tmp_path / "made-before"), niix.made(after, tmp_path / "made-after")


def saved(images: list[Dataset], folder: Path) -> list[Path]:
    folder.mkdir()
    for number, image in enumerate(images):
        image.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


# What researchers need stays


@pytest.mark.parametrize("name", physics.SERIES)
def test_a_series_converts_to_what_it_converted_to_before(name: str, tmp_path: Path) -> None:
    make, wanted = physics.SERIES[name]
    before, after = converted(saved(make(), tmp_path / "in"), tmp_path)
    told = {key for sidecar in before.sidecars.values() for key in sidecar} | {
        Path(name).suffix for name in before.images
    }
    assert set(wanted) <= told
    assert niix.differences(before, after) == []


@pytest.mark.parametrize("name", [name for name in physics.SERIES if name != "canon"])
def test_without_the_option_it_does_not(name: str, tmp_path: Path) -> None:
    before, after = converted(saved(physics.SERIES[name][0](), tmp_path / "in"), tmp_path, extended=False)
    assert niix.differences(before, after)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="no real files: PACSIFIER_REAL_FILES names no folder")
def test_real_images_convert_to_what_they_converted_to_before(tmp_path: Path) -> None:
    different, equal = defaultdict(list), 0
    for number, path in enumerate(sorted(path for path in REAL.rglob("*") if path.is_file())):
        data = path.read_bytes()
        if data[128:132] != b"DICM" or pydicom.dcmread(path, specific_tags=["Modality"]).get("Modality") != "MR":
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        before, after = converted([path], folder)
        # What is drawn on an overlay goes; what dcm2niix cannot read before, it need not be able to read afterwards.
        found = [one for one in niix.differences(before, after) if "_ROI" not in one]
        if found and before.images:
            different[path.name] = found
        equal += bool(before.images) and not found
    # The model of one has words that nobody knows, "Super Dooper Scanner".
    assert different.pop("jpeg2000-multiframe-multifragments.dcm") == ["11: ManufacturersModelName"]
    # Somebody took away private creators of these: nobody can tell whose elements they are.
    assert set(different) <= {"4-001.dcm", "IM-0001-0113-0001.dcm", "IM-0001-9600-0001.dcm"}, different
    assert equal > 60


# Who it is goes


@pytest.mark.parametrize("name", physics.SERIES)
def test_nothing_of_the_patient_is_in_what_stays(name: str) -> None:
    for image in physics.SERIES[name][0]():
        outcome = engine().deidentify(image, PERSON)
        kept = [element for element in outcome.dataset.iterall() if element.tag.is_private]
        assert kept or name == "canon"
        for element in kept:
            value = element.value if isinstance(element.value, bytes) else str(element.value).encode()
            value += b"".join(imaging.texts(value))
            assert not [needle for needle in NEEDLES if needle in value], element.tag


def test_every_element_of_the_table_refuses_what_is_none_of_its_form() -> None:
    for row in rows("imaging_private.csv"):
        for vr in row["vr"].split("/"):
            for value in _planted(vr):
                kept = imaging.kept(row["private_creator"], tag_of(row), vr, value)
                assert not kept or not any(needle in kept for needle in NEEDLES), (row, value)
                # GE counts the microseconds of a series: eight digits are a minute.
                if vr in ("FL", "FD", "UL", "SL") and row["name"] != "AcquisitionDuration":
                    assert kept is None, (row, value)
        assert imaging.kept("DOE", tag_of(row), row["vr"].split("/")[0], b"1 ") is None


def _planted(vr: str) -> Iterator[bytes]:
    """Names, ids and dates as values of a VR."""
    codes = {"FL": "f", "FD": "d", "UL": "L", "SL": "l"}
    if vr in codes:
        for number in (19700101, 20180102, 47112345):
            yield struct.pack("<" + codes[vr], number)
    for text in PLANTED:
        for value in (text, f"{text}\\1", f"1\\{text}", f"1 {text}", f"{text}*", f"1\0{text}", f"p2 {text}"):
            yield value.encode() + b" " * (-len(value) % 8)


def test_numbers_are_as_many_as_there_may_be() -> None:
    kept = lambda value: imaging.kept("SIEMENS MR HEADER", 0x0019100A, "US", value)  # noqa: E731
    assert kept(b"\3\0") == b"\3\0"
    assert kept(b"\3\0DO") is kept(b"\3") is kept(b"DO") is None
    assert imaging.kept("SIEMENS MR HEADER", 0x0019100A, "US", b"\0\3", big_endian=True) == b"\0\3"
    assert imaging.kept("SIEMENS MR HEADER", 0x0019100A, "LO", b"3 ") is None
    assert imaging.kept("SIEMENS MR SDI 02", 0x00211175, "CS", b"PRIMARY\\DOE JANE\\ND ") == b"PRIMARY\\\\ND "
    not_a_number = struct.pack("<d", float("nan"))
    assert imaging.kept("SIEMENS MR HEADER", 0x00191028, "FD", not_a_number) is None


def test_no_pattern_of_the_tables_is_a_persons_name() -> None:
    words = (DATA / "names.txt").read_text(encoding="utf-8")
    names = [name for line in words.splitlines() if not line.startswith("#") for name in line.split()]
    names = [name for name in names if not vocabulary.clean(name)]  # Head, Hand and Fuss are words of imaging
    forms = [*imaging.private().values()]
    forms += [form for parser in ("csa", "protocol", "ge-protocol") for form in imaging.fields(parser).values()]
    assert len(names) > 200
    for form in forms:
        for name in names if form.pattern else ():
            for spelt in (name, name.upper(), name.lower(), f"{name}^{name}"):
                assert not form.fits(spelt), (form, spelt)


def test_every_line_of_the_tables_says_where_it_is_from_and_why_it_may_stay() -> None:
    for row in (*rows("imaging_private.csv"), *rows("imaging_fields.csv")):
        assert row["name"] and row["source"] and row["reason"] and row["values"], row
        if row["values"][0] not in "/@i":
            for low, high in (one.split("..") for one in row["values"].split("|")):
                assert float(low) < float(high)
    # No field of a header has room for a date, which is eight digits.
    for row in rows("imaging_fields.csv"):
        if row["values"][0] not in "/@" and row["name"] != "MosaicRefAcqTimes":
            assert float(row["values"].split("..")[1]) < 1e7, row


def test_a_number_that_is_a_date_of_the_patient_goes() -> None:
    calendar = Calendar.of(frozenset({"20180102"}), -11, frozenset(), frozenset())
    for number, stays in ((180102.0, False), (20180102.0, False), (180777.0, True)):
        image = physics.ge()[0]
        image.private_block(0x0019, "GEMS_ACQU_01").add_new(0x5A, "FL", number)
        assert (0x0019105A in engine().deidentify(image, PERSON, calendar).dataset) is stays


# CSA headers


def header(named: bool = True) -> bytes:
    items = [f"{text}\0Doe".encode() for text in ("3",)]
    return physics.csa(
        {
            "UsedPatientWeight": ("IS", ["4711234"]),
            "NumberOfImagesInMosaic": ("US", items),
            "B_value": ("IS", ["Doe"]),
            "Doe": ("LO", ["1"]),
            "MosaicRefAcqTimes": ("FD", ["0.0", "1000.0", "19700101"]),
            "PhaseEncodingDirectionPositive": ("IS", ["1", "4711234"]),
            "ImaCoilString": ("LO", ["HE1-4"]),
            "SliceThickness": ("DS", ["3.0"]),
        },
        named,
    )


@pytest.mark.parametrize("named", [True, False])
def test_a_csa_header_is_written_anew_from_the_listed_fields(named: bool) -> None:
    kept = imaging.kept("SIEMENS CSA HEADER", 0x00291010, "OB", header(named) + b"Doe^Jane")
    assert kept is not None and kept.startswith(b"SV10") is named
    assert {name: [item for item in items if item] for name, items in imaging.csa(kept)} == {
        "NumberOfImagesInMosaic": [b"3"],
        "B_value": [],
        "MosaicRefAcqTimes": [],
        "PhaseEncodingDirectionPositive": [],
        "ImaCoilString": [b"HE1-4"],
        "SliceThickness": [b"3.0"],
    }
    assert not any(needle in kept for needle in NEEDLES)
    assert imaging.kept("SIEMENS CSA HEADER", 0x00291010, "OB", kept) == kept


def test_what_stands_in_unused_bytes_of_a_csa_header_goes() -> None:
    clean = header()
    expected = imaging.kept("SIEMENS CSA HEADER", 0x00291010, "OB", clean)
    for place in [match.end() for match in re.finditer(b"NumberOfImagesInMosaic", clean)]:
        filled = bytearray(clean)
        filled[place + 1 : place + 9] = b"Doe Jane"  # behind the name of the field
        at = place - len("NumberOfImagesInMosaic") + 64
        filled[at : at + 4] = b"DOE1"  # number of values
        filled[at + 6 : at + 8] = b"DO"  # behind its VR
        filled[at + 8 : at + 12] = b"Jane"  # how its type is told
        item = at + 20
        filled[item : item + 4] = filled[item + 8 : item + 16][:4] = b"Doe1"
        assert imaging.kept("SIEMENS CSA HEADER", 0x00291010, "OB", bytes(filled)) == expected


@pytest.mark.parametrize("named", [True, False])
def test_a_csa_header_that_cannot_be_read_goes(named: bool) -> None:
    whole = header(named)
    for end in range(0, len(whole) - 4, 7):
        assert imaging.kept("SIEMENS CSA HEADER", 0x00291010, "OB", whole[:end]) is None
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place : place + 4] = b"\xff\xff\xff\x7f"
        kept = imaging.kept("SIEMENS CSA HEADER", 0x00291010, "OB", bytes(damaged)) or b""
        assert not any(needle in kept for needle in NEEDLES)
    for other in (b"STEP;\nHE" * 20, b"Doe^Jane" * 20, b"SV10" + b"Doe^Jane" * 20):
        assert imaging.kept("SIEMENS CSA HEADER", 0x00291010, "OB", other) is None


@pytest.mark.parametrize(("creator", "tag", "name"), [
    ("SIEMENS CSA HEADER", 0x00291010, "siemens"),
    ("SIEMENS CSA HEADER", 0x00291020, "siemens"),
    ("GEMS_SERS_01", 0x0025101B, "ge"),
    ("GEMS_PARM_01", 0x0043102A, "ge"),
])  # fmt: skip
def test_whatever_stands_in_a_header_does_not_come_through(creator: str, tag: int, name: str) -> None:
    whole, chance = physics.SERIES[name][0]()[0][tag].value, random.Random(5)
    for _ in range(1000):
        changed = bytearray(whole)
        for _ in range(chance.choice((1, 2, 5))):
            at = chance.randrange(len(changed))
            planted = chance.choice((b"Doe^Jane", b"\0Doe\0", b"19700101", b"\xff\xff\xff\x7f", b"\0\0\0\0"))
            changed[at : at + chance.choice((0, len(planted), 40))] = planted
        kept = imaging.kept(creator, tag, "OB", bytes(changed))
        if kept is not None:
            assert imaging.kept(creator, tag, "OB", kept) == kept
            assert not any(needle in kept + b"".join(imaging.texts(kept)) for needle in NEEDLES)


# Protocols


def test_a_protocol_of_siemens_keeps_the_listed_keys() -> None:
    kept = imaging.kept("SIEMENS MR SDS 01", 0x00211019, "OB", physics.PROTOCOL)
    assert kept is not None and len(kept) % 2 == 0 and kept.startswith(b"\n### ASCCONV BEGIN ###\n")
    lines = dict(re.findall(r"(\S+)\t = \t(\S+)", kept.decode("ascii")))
    assert lines["sSliceArray.ucMode"] == "0x4" and lines["tSequenceFileName"] == '""%SiemensSeq%\\ep2d_bold""'
    assert lines["sGRADSPEC.asGPAData[0].lOffsetX"] == "-1718"
    assert not any(needle in kept for needle in NEEDLES) and b"ulVersion" not in kept and b"107.5" not in kept
    assert imaging.kept("SIEMENS MR SDS 01", 0x00211019, "OB", b"<XProtocol> Doe^Jane") is None


@pytest.mark.parametrize("planted", ["Doe", "19700101", "4711234 Doe", '""Doe""', "3 # Doe", "0x4711234F", "1e30"])
def test_a_value_of_a_protocol_that_does_not_fit_goes(planted: str) -> None:
    for key in ("sFastImaging.lEPIFactor", "tSequenceFileName", "alTE[0]", "sWipMemBlock.adFree[2]", "alTE[4711234]"):
        value = f"### ASCCONV BEGIN ###\n{key} = {planted}\nlContrasts = 1\n### ASCCONV END ###\n".encode()
        kept = imaging.kept("SIEMENS MR SDS 01", 0x00211019, "OB", value)
        assert kept is not None and b"lContrasts\t = \t1\n" in kept and key.encode() not in kept


def test_a_protocol_of_ge_loses_the_name_of_its_file_and_its_time() -> None:
    image = physics.ge()[0]
    before = image[0x0025101B].value
    assert b"Ex4711234" in before
    kept = imaging.kept("GEMS_SERS_01", 0x0025101B, "OB", before)
    assert kept is not None and kept[8:12] == bytes(4) and not kept[7] & 8
    assert gzip.decompress(kept[4:]).decode().split("\n") == [
        *("", 'PSEQ "Gradient Echo"', 'IOPT "EPI, FMRI"', 'SLICEORDER "1"', 'VIEWORDER "1"', 'NOSLC "4"', "")
    ]
    for other in (b"", b"Doe^Jane", before[:60], b"\x10\0\0\0" + b"Doe^Jane" * 2):
        assert imaging.kept("GEMS_SERS_01", 0x0025101B, "OB", other) is None


def test_of_user_data_of_ge_four_numbers_stay() -> None:
    kept = imaging.kept("GEMS_PARM_01", 0x0043102A, "OB", physics.ge_user())
    assert kept is not None and len(kept) == 2048
    start = 64 + 0x4C
    found = {place: number for place, number in enumerate(kept) if number}
    assert set(found) <= {24, *range(64, 68), start + 0x30, start + 0x3B, start + 0x0394 - 0x8C}
    assert (found[start + 0x30], found[start + 0x3B], found[start + 0x0394 - 0x8C]) == (4, 8, 2)
    assert imaging.kept("GEMS_PARM_01", 0x0043102A, "OB", b"Doe Jane" * 256) is None


# Rules, and what an object tells


def test_the_option_adds_to_the_standards_list() -> None:
    rules, without = engine().rules, engine(False).rules
    assert rules.digest != without.digest
    assert rules.codes == without.codes  # no code of CID 7050 tells of a list of our own
    assert rules.method.split("\\")[1:] == ["private elements of MR devices kept or rewritten by a list"]
    assert all(len(value) <= 64 for value in rules.method.split("\\"))
    found = rules.of("1.2.840.10008.5.1.4.1.1.4", "MR")
    for row in rows("imaging_private.csv"):
        vr = row["vr"].split("/")[0]
        assert found.find(tag_of(row), vr, row["private_creator"]).id == imaging.RULE
        assert found.find(tag_of(row), "PN", row["private_creator"]).id == "private"
        assert found.find(tag_of(row), vr, "Doe^Jane").id == "private"
    assert not [
        row for row in rows("imaging_private.csv") if set(row["vr"].split("/")) & {"DA", "DT", "TM", "UI", "PN"}
    ]


def test_an_object_tells_of_the_list() -> None:
    made = engine().deidentify(physics.siemens()[0], PERSON).dataset
    assert list(made.DeidentificationMethod) == engine().rules.method.split("\\")
    assert {code.CodeValue for code in made.DeidentificationMethodCodeSequence} >= {"113100", "113111"}


def test_a_site_may_say_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("extends: research\nrules:\n  - creator: SIEMENS CSA HEADER\n    action: remove\n")
    made = Engine(profile.compile(profile.load(path)), Secret(b"s" * 32)).deidentify(physics.siemens()[0], PERSON)
    assert 0x00291010 not in made.dataset and 0x0019100A in made.dataset


def test_creators_may_be_written_in_capitals() -> None:
    for image in physics.philips():
        for element in [element for element in image if element.tag.is_private_creator]:
            element.value = element.value.upper()
        kept = engine().deidentify(image, PERSON).dataset
        assert [tag in kept for tag in (0x20011003, 0x20011022, 0x2005100E, 0x200510B0)] == [True] * 4


def test_elements_whose_vr_an_archive_did_not_know_stay_as_well() -> None:
    image = physics.siemens()[0]
    for tag in (0x0019100A, 0x00191029, 0x00291010, 0x0051100F):
        image[tag].VR = "UN"
        if not isinstance(image[tag].value, bytes):
            image[tag] = pydicom.DataElement(
                tag, "UN", {0x0019100A: b"\3\0", 0x0051100F: b"HE1-4 "}.get(tag, bytes(24))
            )
    made = engine().deidentify(image, PERSON).dataset
    assert [made[tag].VR for tag in (0x0019100A, 0x00191029, 0x00291010, 0x0051100F)] == ["US", "FD", "OB", "LO"]


# The verifier


def test_the_verifier_looks_into_headers() -> None:
    identifiers = Identifiers.of(physics.siemens()[0], PERSON)
    for tag, creator, group, value in (
        (0x10, "SIEMENS CSA HEADER", 0x0029, physics.csa({"ImaCoilString": ("LO", ["Jane Doe"])})),
        (0x10, "SIEMENS CSA HEADER", 0x0029, physics.csa({"B_value": ("IS", ["4711234"])})),
        (0x10, "SIEMENS CSA HEADER", 0x0029, physics.csa({"Jane": ("IS", ["1"])})),
        (0x20, "SIEMENS CSA HEADER", 0x0029, physics.csa({"MrPhoenixProtocol": ("UN", [physics.PROTOCOL])})),
        (0x1B, "GEMS_SERS_01", 0x0025, _packed(b'SEDESC "Jane Doe"\n')),
    ):
        made = engine().deidentify(physics.siemens()[0], PERSON).dataset
        block = made.private_block(group, creator, create=True)
        if tag in block:
            del block[tag]
        block.add_new(tag, "OB", value + bytes(len(value) & 1))
        assert verifier.search(_file(made), identifiers), value
    assert verifier.search(_file(engine().deidentify(physics.siemens()[0], PERSON).dataset), identifiers) == []


def _packed(text: bytes) -> bytes:
    packed = gzip.compress(text)
    return struct.pack("<L", len(packed)) + packed


def _file(made: Dataset) -> bytes:
    import io

    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_vendors_are_all_there() -> None:
    creators = {re.split("[ _]", row["private_creator"])[0] for row in rows("imaging_private.csv")}
    assert creators == {"SIEMENS", "GEMS", "Philips", "Image", "TOSHIBA", "CANON"}
