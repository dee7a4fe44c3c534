"""Dates that would give the shift away: in numbers, shared by many patients, and as time since an event."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.datadict import DicomDictionary

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import profile, tables
from pacsifier_ops.deid.engine import Engine
from pacsifier_ops.deid.identifiers import Identifiers
from pacsifier_ops.deid.numbers import BirthDateFound, Calendar, are_counted
from pacsifier_ops.deid.rules import ProfileOption
from pacsifier_ops.deid.verifier import search
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.pseudonyms.linkage import Person
from tests.deid.test_anonymize import content, deidentify, images
from tests.deid.test_deid_engine import PERSON, SECRET, SIEMENS, encoded, engine, phantom
from tests.support.airflow_home import KUNIGUNDE, ZEBEDAEUS

TABLES = Path(tables.__file__).parent / "tables"
DAY, BIRTH = "20230117", "19610329"
CALENDAR = Calendar.of(frozenset([DAY]), PERSON.shift, frozenset([BIRTH]), frozenset(["1674000000"]))


def seconds(text: str) -> int:
    return int((datetime.strptime(text, "%Y%m%d") - datetime(1970, 1, 1)).total_seconds())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("20230117", "20230106"),
        ("2023011710", "2023010610"),
        ("17012023", "06012023"),
        ("01172023", "01062023"),
        ("1172023", "1062023"),
        ("230117", "230106"),
        ("170123", "060123"),
        ("011723", "010623"),
        ("2301171011", "2301061011"),
        ("2023017", "2023006"),
        ("2459962", "2459951"),  # Julian
        ("738903", "738892"),  # MATLAB
        ("23017", "23006"),
        ("59961", "59950"),  # Modified Julian
        ("44943", "44932"),  # spreadsheets
        ("19374", "19363"),  # Unix
        ("66491", "66480"),  # M
        ("1673950272", str(1673950272 - 11 * 86400)),
        ("1673950272123", str(1673950272123 - 11 * 86_400_000)),
        ("20230118", "20230107"),  # a day after: read, or made anew
        ("230118", "230107"),
        ("20190304", "20190221"),  # a date, whoever's
    ],
)
def test_a_number_that_is_a_date_moves_as_the_others_do(before: str, after: str) -> None:
    assert CALENDAR.moved(before) == after


@pytest.mark.parametrize("days", [-1, 1])
def test_a_number_that_moved_by_a_day_is_no_true_date(days: int) -> None:
    source, person = of_the_day(SeriesNumber=int(DAY)), Person("P1", days)
    known = Identifiers.of(source, person, engine("default").rules)
    made = engine("default").deidentify(source, person, Calendar.of(known.days, days, frozenset(), frozenset())).dataset
    assert made.SeriesNumber == int(DAY) + days and search(encoded(made), known) == []


@pytest.mark.parametrize(
    "number", ["1", "301", "1001", "1701", "10102", "30101", "100201", "201001", "999999", "10000001", "2147483647"]
)
def test_an_ordinary_number_stays(number: str) -> None:
    assert CALENDAR.moved(number) is None


def test_few_ordinary_numbers_are_taken_for_dates() -> None:
    """Of a patient with ten dates; those of series and acquisitions may have five digits, others not."""
    calendar = Calendar.of(
        frozenset((date(2019, 3, 1) + timedelta(163 * n)).strftime("%Y%m%d") for n in range(10)),
        *(PERSON.shift, frozenset(), frozenset()),
    )
    five, six = (range(10**size, 10 ** (size + 1), 10 ** (size - 3) - 1) for size in (4, 5))
    assert not any(calendar.moved(str(number)) for number in range(1, 10_000))
    assert sum(calendar.moved(str(number)) is not None for number in five) < 20  # of 10,000
    assert not any(calendar.moved(str(number), 6) for number in five)
    assert sum(calendar.moved(str(number), 6) is not None for number in six) < 10  # of 9,090
    assert sum(calendar.is_patient_date(number) for number in six) < 3


def test_no_number_stays_a_date_of_birth_and_none_that_identifies_is_moved() -> None:
    for text in (BIRTH, "29031961", "290361"):
        with pytest.raises(BirthDateFound):
            CALENDAR.moved(text)
    assert CALENDAR.moved("1674000000") is None  # a PatientID; moved, nobody would find it
    assert Calendar.of(frozenset([DAY]), 0, frozenset(), frozenset()).moved(DAY) is None
    # Dates that stand for none, of data that was de-identified before, make no date of 01.01.00.
    nobodys = Calendar.of(frozenset(["19000101", "00010101", "19700101"]), PERSON.shift, frozenset(), frozenset())
    assert not any(map(nobodys.moved, ("10100", "10170", "700101", "19000101"))) and not nobodys.is_patient_date(
        19000101
    )


def after(ds: Dataset, name: str = "default", *more: ProfileOption, calendar: Calendar = CALENDAR) -> Dataset:
    return engine(name, *more).deidentify(ds, PERSON, calendar).dataset


def of_the_day(**attributes: Any) -> Dataset:
    ds = phantom(study_date=DAY)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def test_orders_move_and_references_follow_and_measurements_stay() -> None:
    ds = of_the_day(SeriesNumber=230117, AcquisitionNumber=44943, InstanceNumber=44943, TemporalPositionIndex=230117)
    ds.StackID, ds.ExposureTime, ds.WindowCenter, ds.OtherStudyNumbers = "20230117", 230117, "170123", [1, 170123]
    ds.ROIContourSequence, ds.StructureSetROISequence = [Dataset()], [Dataset()]
    ds.ROIContourSequence[0].ReferencedROINumber = ds.StructureSetROISequence[0].ROINumber = "230117"
    made = after(ds)
    assert (made.SeriesNumber, made.AcquisitionNumber, made.InstanceNumber) == (230106, 44932, 44943)
    assert (made.TemporalPositionIndex, made.StackID, list(made.OtherStudyNumbers)) == (230106, "20230106", [1, 60123])
    assert after(of_the_day(SeriesNumber=-230117)).SeriesNumber == -230106
    assert (made.ExposureTime, made.WindowCenter) == (230117, 170123)
    assert made.ROIContourSequence[0].ReferencedROINumber == made.StructureSetROISequence[0].ROINumber == 230106
    assert after(ds, "pacsifier", calendar=Calendar()).SeriesNumber == 230117


def test_images_that_are_counted_keep_their_numbers() -> None:
    counted = Calendar.of(frozenset([DAY]), PERSON.shift, frozenset(), frozenset(), counted=True)
    assert after(of_the_day(InstanceNumber=230117), calendar=counted).InstanceNumber == 230117
    assert after(of_the_day(InstanceNumber=230117)).InstanceNumber == 230106
    assert after(of_the_day(InstanceNumber=20230117), calendar=counted).InstanceNumber == 20230106


@pytest.mark.parametrize(
    ("numbers", "counted"),
    [
        (range(230101, 230141, 2), True),  # some are near the date, some are none
        ((230113, 230115, 230117), True),
        ((230117, 230118), True),  # time 230, slices 117 and 118
        ((230117, 230401), True),
        ((2300117, 2300119), True),
        ((230117,), False),
        ((230115, 230117), False),  # all are dates: none becomes the same as another
        ((1, 2, 3, 230117), False),
    ],
)
def test_either_all_numbers_of_a_series_are_dates_or_none(numbers: Iterable[int], counted: bool) -> None:
    assert are_counted(map(str, numbers), frozenset([DAY])) is counted


def test_images_that_are_counted_in_steps_keep_their_order(tmp_path: Path) -> None:
    size: dict[str, Any] = {"n_images": 5, "rows": 8, "columns": 8}
    who: dict[str, Any] = KUNIGUNDE
    made = phantom_series(**who, study_date=DAY, **size)
    for number, ds in enumerate(made):
        ds.InstanceNumber, ds.SliceThickness = 230109 + 5 * number, number + 1
    write(made, tmp_path / "in")
    deidentify(tmp_path / "in", tmp_path / "out")
    found = {int(ds.SliceThickness): int(ds.InstanceNumber) for ds in images(tmp_path / "out").values()}
    assert found == {number + 1: 230109 + 5 * number for number in range(5)}


def test_an_order_that_is_the_date_of_birth_is_refused() -> None:
    with pytest.raises(Unfit, match=r"PatientBirthDate found in \(0020,0011\)"):
        after(of_the_day(SeriesNumber=290361))


@pytest.mark.parametrize(
    ("vr", "day", "other"),
    [("IS", "230117", "1000"), ("DS", "20230117.4", "20.4"), ("UL", seconds(DAY), 1000), ("FL", 20230117.0, 2.5)],
)
def test_a_private_number_that_is_a_date_goes(tmp_path: Path, vr: str, day: Any, other: Any) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("extends: research\nrules:\n- {creator: MAKER, action: clean}\n")
    rules = Engine(profile.compile(profile.load(site)), SECRET)
    ds = of_the_day()
    block = ds.private_block(0x0019, "MAKER", create=True)
    for value in (day, other):
        block.add_new(0x0C, vr, value)
        assert ((0x0019, 0x100C) in rules.deidentify(ds, PERSON, CALENDAR).dataset) == (value == other)
    # Those that the standard has for safe, too.
    block = ds.private_block(0x0019, SIEMENS, create=True)
    block.add_new(0x0C, "IS", "1000")
    assert (0x0019, 0x110C) in after(ds, "research")
    block.add_new(0x0C, "IS", "230117")
    assert (0x0019, 0x110C) not in after(ds, "research")


@pytest.mark.parametrize(
    ("keyword", "value", "found"),
    [
        ("ExposureTime", 17012023, "a date found in (0018,1150)"),
        ("SliceLocation", "01172023.5", "a date found in (0020,1041)"),
        ("FrameReferenceTime", 20230117, "StudyDate found in (0054,1300)"),
        ("TransducerFrequency", 20230117, "a date found in (0018,6030)"),
        ("EffectiveEchoTime", 17012023.0, "a date found in (0018,9082)"),
        ("TableSpeed", 20230117.0, "a date found in (0018,9309)"),
        ("ReconstructionAngle", 1172023.0, "a date found in (0018,9319)"),
        ("RecommendedDisplayFrameRateInFloat", 20230117.0, "a date found in (0008,9459)"),  # which holds 20230116
        ("FrameAcquisitionDuration", 1673953689.25, "a date found in (0018,9220)"),
        ("FrameAcquisitionDuration", 1673953689250.0, "a date found in (0018,9220)"),
        ("FrameAcquisitionDuration", 1773953689.0, ""),
        ("DiffusionBValue", 170123.0, ""),
        ("ExposureTime", 230117, ""),
    ],
)
def test_a_date_in_a_measurement_is_found_afterwards(keyword: str, value: Any, found: str) -> None:
    source = of_the_day(**{keyword: value})
    known = Identifiers.of(source, PERSON, engine("default").rules)
    assert "; ".join(search(encoded(after(source)), known)) == found
    assert search(encoded(after(of_the_day())), known) == []


# Runs


def series(patient: dict[str, Any], number: str, day: str = DAY, **rest: Any) -> list[Dataset]:
    size: dict[str, Any] = {"n_images": 1, "rows": 8, "columns": 8}
    made = phantom_series(**patient, study_date=day, study_time="070809", series_number=int(number), **size)
    for ds in made:
        ds.SeriesNumber = number
        for keyword, value in rest.items():
            setattr(ds, keyword, value)
    return made


def test_folders_manifest_and_objects_have_the_moved_number(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    # Of another study's date, too, and of one that stands in no StudyDate.
    for place, (number, day) in enumerate([("230117", DAY), ("110222", DAY), ("4", "20220211"), ("60522", DAY)]):
        write(series(KUNIGUNDE, number, day, ContentDate="20220506" if number == "4" else day), source / str(place))
    _, account = deidentify(source, out)
    assert account.totals()["deidentified"] == 4
    made = images(out)
    shift = (datetime.strptime(min(ds.StudyDate for ds in made.values()), "%Y%m%d") - datetime(2022, 2, 11)).days
    moved = {
        int((datetime.strptime(text, form) + timedelta(shift)).strftime(form))
        for text, form in (("230117", "%y%m%d"), ("110222", "%d%m%y"), ("060522", "%d%m%y"))
    }
    assert {int(ds.SeriesNumber) for ds in made.values()} == {*moved, 4}
    for path, ds in made.items():
        assert int(path.split("/")[-2].partition("-")[0]) == ds.SeriesNumber
    assert not [path for path, data in content(out).items() if b"20220506" in data]
    before = content(out)
    deidentify(source, out)
    assert content(out) == before


def test_where_dates_go_or_stay_numbers_do_likewise(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write(series(KUNIGUNDE, "230117"), source / "a")
    write(series(ZEBEDAEUS, "220211", "20220211"), source / "b")
    write(series(ZEBEDAEUS, "240904", "20220211"), source / "c")  # nobody's date
    deidentify(source, tmp_path / "basic", profile="basic")
    numbers = {int(ds.SeriesNumber) for ds in images(tmp_path / "basic").values()}
    assert len(numbers) == 3 and numbers & {230117, 220211, 240904} == {240904}
    for path in images(tmp_path / "basic"):
        assert int(path.split("/")[2].partition("-")[0]) in numbers
    deidentify(source, tmp_path / "full", profile="pacsifier")
    assert {int(ds.SeriesNumber) for ds in images(tmp_path / "full").values()} == {230117, 220211, 240904}
    deidentify(source, tmp_path / "fuzzed", profile="pacsifier", fuzz_acq_dates=True)
    numbers = {int(ds.SeriesNumber) for ds in images(tmp_path / "fuzzed").values()}
    assert len(numbers) == 3 and numbers & {230117, 220211, 240904} == {240904}


def test_an_id_that_might_be_a_date_is_not_moved_but_left_out(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    who = {**KUNIGUNDE, "patient_id": "1673950272"}  # seconds since 1970
    write(series(who, "1673950272"), source / "a")
    write(series(who, "3"), source / "b")
    _, account = deidentify(source, out)
    assert account.totals()["deidentified"] == 2
    for path, data in content(out).items():
        assert b"1673950272" not in data and "1673950272" not in path


# What dates are


def test_every_date_of_the_dictionary_is_judged() -> None:
    with (TABLES / "dates.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    fates, concepts = tables.dates()
    assert all(row["fate"] in ("moved", "shared", "kept", "birth") and row["why"] for row in rows)
    assert len(rows) == len(fates) + len(concepts)
    known = {tag for tag, entry in DicomDictionary.items() if entry[0] in ("DA", "DT", "TM")}
    listed = {tag for tag, row in tables.attributes()[0].items() if ProfileOption.MODIFIED_DATES in row.options}
    others = {0x00080201, 0x00340007, 0x04000310}  # a time zone, and time stamps that nobody can read
    assert fates.keys() == known | listed - others
    dated = {(c.value, c.scheme) for c in tables.concepts() if c.value_type in ("DATE", "DATETIME", "TIME")}
    assert concepts.keys() == dated


SHARED = {
    "SourceStrengthReferenceDate": "19000101",
    "EffectiveDateTime": "19000101",
    "InformationIssueDateTime": "19000101",
    "ContextGroupLocalVersion": "19000101",
    "CalibrationDate": None,
    "DateOfLastCalibration": None,
    "DateOfGainCalibration": None,
    "ExpiryDate": None,
    "ProductExpirationDateTime": None,
    "ContributionDateTime": None,
}


@pytest.mark.parametrize("name", ["default", "research"])
@pytest.mark.parametrize(("keyword", "after_it"), SHARED.items())
def test_a_date_that_many_share_goes_where_dates_move(name: str, keyword: str, after_it: str | None) -> None:
    made = after(of_the_day(**{keyword: "20230201"}), name)
    assert made.get(keyword) == after_it
    assert after(of_the_day(**{keyword: "20230201"}), "pacsifier").get(keyword) == "20230201"
    assert after(of_the_day(ContextGroupVersion="20200201"), name).ContextGroupVersion == "20200201"


@pytest.mark.parametrize("day", ["20000101", "20010101", "19991231", "19800106", "19900101", "20000101120000"])
def test_a_date_that_a_clock_begins_with_goes_unless_the_patient_was_there(day: str) -> None:
    keyword = "ContentDate" if len(day) == 8 else "AcquisitionDateTime"
    assert not after(of_the_day(**{keyword: day})).get(keyword)
    assert after(of_the_day(**{keyword: day}), calendar=around(day[:8])).get(keyword) == moved(day[:8]) + day[8:]
    assert after(of_the_day(**{keyword: day}), "pacsifier").get(keyword) == day
    # No number is taken for that day, or moved with it.
    alone = Calendar.of(frozenset([DAY, day[:8]]), PERSON.shift, frozenset(), frozenset())
    assert alone.moved(day[2:8]) is None


def around(day: str) -> Calendar:
    return Calendar.of(frozenset([day, moved(day, 300)]), PERSON.shift, frozenset(), frozenset())


def moved(day: str, days: int = PERSON.shift) -> str:
    return (datetime.strptime(day, "%Y%m%d") + timedelta(days)).strftime("%Y%m%d")


def test_a_folder_is_not_called_by_a_date_that_a_clock_begins_with(tmp_path: Path) -> None:
    write(series(KUNIGUNDE, "1", "20000101"), tmp_path / "in")
    deidentify(tmp_path / "in", tmp_path / "out")
    for path, ds in images(tmp_path / "out").items():
        assert not ds.StudyDate and "2000" not in path and "1999" not in path


@pytest.mark.parametrize("keyword", ["ContextGroupVersion", "TemplateVersion"])
def test_a_version_that_may_be_a_date_of_the_patient_goes_and_is_looked_for(keyword: str) -> None:
    for version, left in (
        ("20020904", "20020904"),
        ("20020904000000", "20020904000000"),
        ("20020904101500", "19000101"),  # no version has a time of day
        ("20230119", "19000101"),
        ("20221125", "19000101"),
        (f"{DAY}101500", "19000101"),
    ):
        ds = of_the_day()
        ds.ProcedureCodeSequence = [Dataset()]
        setattr(ds.ProcedureCodeSequence[0], keyword, version)
        assert after(ds).ProcedureCodeSequence[0].get(keyword) == left
        assert after(ds, "pacsifier", calendar=Calendar()).ProcedureCodeSequence[0].get(keyword) == version
    source = of_the_day(**{keyword: DAY})
    known = Identifiers.of(source, PERSON, engine("default").rules)
    made = after(source)
    assert search(encoded(made), known) == []
    setattr(made, keyword, DAY)
    assert any("found in" in hit for hit in search(encoded(made), known))


def test_uptake_can_still_be_reckoned() -> None:
    dose = Dataset()
    dose.RadiopharmaceuticalStartDateTime, dose.RadiopharmaceuticalStartTime = f"{DAY}235500.000000", "235500"
    dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = "250000000", "6586.2"
    before = of_the_day(
        SeriesDate="20230118", SeriesTime="010200", AcquisitionDate="20230118", AcquisitionTime="010203"
    )
    before.RadiopharmaceuticalInformationSequence, before.DecayCorrection = [dose], "START"
    before.PatientWeight = "71"
    made = after(before, "research")
    assert made.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime == "20230106235500.000000"

    def uptake(ds: Dataset) -> float:
        given = ds.RadiopharmaceuticalInformationSequence[0]
        start = datetime.strptime(given.RadiopharmaceuticalStartDateTime[:14], "%Y%m%d%H%M%S")
        scan = datetime.strptime(ds.SeriesDate + ds.SeriesTime[:6], "%Y%m%d%H%M%S")
        left = 2 ** (-(scan - start).total_seconds() / given.RadionuclideHalfLife)
        return float(ds.PatientWeight) * 1000 / (float(given.RadionuclideTotalDose) * left)

    assert uptake(made) == uptake(before)


@pytest.mark.parametrize(
    ("event", "name", "stays"),
    [
        ("BASELINE", "default", True),
        ("REGISTRATION", "research", True),
        ("TRIALSTART", "default", False),  # the same for all: with it, the offset is the date
        ("BIRTH", "default", False),  # days since birth are an age of any size
        ("", "default", False),
        ("BASELINE", "basic", False),
        ("TRIALSTART", "pacsifier", True),
    ],
)
def test_time_since_an_event_follows_the_dates(event: str, name: str, stays: bool) -> None:
    ds = of_the_day(LongitudinalTemporalOffsetFromEvent=12.5, LongitudinalTemporalEventType=event)
    made = after(ds, name)
    there = made.get("LongitudinalTemporalOffsetFromEvent"), made.get("LongitudinalTemporalEventType")
    assert there == ((12.5, event) if stays else (None, None))
    ds.LongitudinalTemporalOffsetFromEvent = 20230117.0
    assert "LongitudinalTemporalOffsetFromEvent" not in after(ds, "default")
