"""Small situations with the outcome written by hand: sentences of docs/selection.md, and what went wrong for others.

A case lists series as (study, day and time, attributes); what is expected is written by hand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from tests.support.cohort_world import COLUMNS

#: The anchor of all cases.
ANCHOR = date(2020, 3, 10)
#: A study, its StudyDate with StudyTime after a T, and attributes of one series of it.
Series = tuple[str, str, dict[str, str]]


@dataclass(frozen=True)
class Case:
    """One situation.

    Attributes:
        sentence: what of docs/selection.md it shows.
        series: in the archive; named A1, A2, B1 by study and place.
        selection: of the row.
        kept: names of the series that are taken.
        left: reasons of those that are not.
        keys: of the row; None is the patient.
        archive: an archive can hold it: one value of an attribute of the study, and numbers that are numbers.
    """

    sentence: str
    series: list[Series]
    selection: dict[str, Any]
    kept: str
    left: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] | None = None
    archive: bool = True


def lines_of(case: Case, number: int = 0) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The series as `tests.support.cohort_world` has them, and their names by UID.

    Args:
        number: tells the patients, studies and accession numbers of one case from those of others.
    """
    lines, names, counts = [], {}, Counter[str]()
    for study, day, attributes in case.series:
        counts[study] += 1
        name = f"{study}{counts[study]}"
        day, _, clock = day.partition("T")
        uid = study_uid(study, number)
        line = dict.fromkeys(COLUMNS, "") | {
            "PatientID": "P",
            "PatientBirthDate": "19700101",
            "StudyInstanceUID": uid,
            "SeriesInstanceUID": f"{uid}.{counts[study]}",
            "StudyDate": day,
            "StudyTime": clock,
            "SeriesNumber": str(counts[study]),
            "Modality": "CT",
            "NumberOfSeriesRelatedInstances": "1",
        }
        told: dict[str, Any] = _numbered(line | attributes, number)
        if "|" in told["ImageType"]:
            told["ImageType"] = [[value] for value in told["ImageType"].split("|")]
        lines.append(told)
        names[f"{uid}.{counts[study]}"] = name
    return lines, names


def keys_of(case: Case, number: int = 0) -> dict[str, str]:
    """The row's keys."""
    keys = {"PatientID": "P"} if case.keys is None else case.keys
    if "StudyInstanceUID" in keys:
        return {"StudyInstanceUID": study_uid(keys["StudyInstanceUID"], number)}
    return _numbered(keys, number)


def study_uid(study: str, number: int) -> str:
    """Of the study's name; letters and numbers keep their order as text."""
    return f"1.2.{1000 + number}.{study if study.isdigit() else ord(study)}"


def _numbered(values: dict[str, str], number: int) -> dict[str, str]:
    told = {word: f"{text}{number}" for word in ("PatientID", "AccessionNumber") if (text := values.get(word))}
    return values | told


def one(study: str, day: str, **attributes: str) -> Series:
    return study, day, attributes


def rules(**series: Any) -> dict[str, Any]:
    undecided = {"undecided": series.pop("undecided")} if "undecided" in series else {}
    return {"series": series} | undecided


def described(*texts: str) -> list[Series]:
    return [one("A", "20200310", SeriesDescription=text) for text in texts]


CT_MR = [one("A", "20200310"), one("A", "20200310", Modality="MR")]
THIN = {"name": "thin", "SliceThickness": "<=1.5"}
SCOUTS = {"name": "scouts", "SeriesDescription": ["*scout*", "*topogram*"]}

SENTENCES = [
    Case("everything is optional", [one("A", "20200101"), one("B", "")], {}, "A1 B1"),
    # 1. Study date
    Case("without a readable StudyDate, days", [one("A", "")], {"days": [-3, 3]}, "", {"A1": "no study date"}),
    Case("no such day", [one("A", "20150230")], {"anchor": "closest"}, "", {"A1": "no study date"}),
    Case("priors need dates", [one("A", "")], {"priors": {"studies": 1}}, "", {"A1": "no study date"}),
    Case("age needs dates", [one("A", "", PatientAge="040Y")], {"age": [18, None]}, "", {"A1": "no study date"}),
    Case(
        "dates are read divided as well",
        [one("A", "2020-03-10"), one("B", "2020.03.11"), one("C", "2020-0312")],
        {"days": [0, 5]},
        "A1 B1",
        {"C1": "no study date"},
    ),
    Case(
        "the first series with a readable value counts",
        [one("A", ""), one("A", "20200310"), one("A", "20200401")],
        {"days": [0, 0]},
        "A1 A2 A3",
        archive=False,
    ),
    Case(
        "a study without a PatientID is a patient of its own",
        [
            one("A", "20200311", PatientID="", AccessionNumber="Y"),
            one("B", "20200312", PatientID="", AccessionNumber="Y"),
        ],
        {"anchor": "closest", "studies": 1},
        "A1 B1",
        keys={"AccessionNumber": "Y"},
    ),
    # 2. Days
    Case(
        "both ends count",
        [one("A", "20200209"), one("B", "20200208"), one("C", "20200409"), one("D", "20200410")],
        {"days": [-30, 30]},
        "A1 C1",
        {"B1": "outside days", "D1": "outside days"},
    ),
    Case("null: open", [one("A", "19990101"), one("B", "20200311")], {"days": [None, 0]}, "A1", {"B1": "outside days"}),
    Case("times do not count", [one("A", "20200311T000001")], {"days": [-1, 0]}, "", {"A1": "outside days"}),
    Case(
        "first after: a day before the anchor is left out",
        [one("A", "20200309"), one("B", "20200315")],
        {"anchor": "first after"},
        "B1",
        {"A1": "outside days"},
    ),
    Case(
        "last before: a day after it is left out",
        [one("A", "20200309"), one("B", "20200311")],
        {"anchor": "last before"},
        "A1",
        {"B1": "outside days"},
    ),
    Case("the day of the anchor is after it", [one("A", "20200310")], {"anchor": "first after"}, "A1"),
    Case("the day of the anchor is before it", [one("A", "20200310")], {"anchor": "last before"}, "A1"),
    Case(
        "days: [1, 30] to have it neither",
        [one("A", "20200310"), one("B", "20200312")],
        {"anchor": "first after", "days": [1, 30], "studies": 1},
        "B1",
        {"A1": "outside days"},
    ),
    Case(
        "left out by this rule may come back as priors",
        [one("A", "20200310"), one("B", "20190101"), one("C", "20180101")],
        {"days": [-3, 3], "priors": {"studies": 1}},
        "A1 B1",
        {"C1": "outside days"},
    ),
    # 3. Age
    Case(
        "full years, the day before",
        [one("A", "20200310", PatientBirthDate="20020311")],
        {"age": [18, None]},
        "",
        {"A1": "age"},
    ),
    Case("full years, on the birthday", [one("A", "20200310", PatientBirthDate="20020310")], {"age": [18, None]}, "A1"),
    Case("both ends count: still 65", [one("A", "20200310", PatientBirthDate="19540311")], {"age": [18, 65]}, "A1"),
    Case(
        "both ends count: 66", [one("A", "20200310", PatientBirthDate="19540310")], {"age": [18, 65]}, "", {"A1": "age"}
    ),
    Case(
        "29 February: not on 28 February",
        [one("A", "20190228", PatientBirthDate="20000229")],
        {"age": [19, None]},
        "",
        {"A1": "age"},
    ),
    Case("29 February: on 1 March", [one("A", "20190301", PatientBirthDate="20000229")], {"age": [19, None]}, "A1"),
    Case("the birth date counts first", [one("A", "20200310", PatientAge="005Y")], {"age": [18, None]}, "A1"),
    Case(
        "PatientAge in years",
        [one("A", "20200310", PatientBirthDate="", PatientAge="017Y")],
        {"age": [18, None]},
        "",
        {"A1": "age"},
    ),
    Case(
        "a year of 12 months", [one("A", "20200310", PatientBirthDate="", PatientAge="216M")], {"age": [18, None]}, "A1"
    ),
    Case(
        "rounded down",
        [one("A", "20200310", PatientBirthDate="", PatientAge="215M")],
        {"age": [18, None]},
        "",
        {"A1": "age"},
    ),
    Case("52 weeks", [one("A", "20200310", PatientBirthDate="", PatientAge="936W")], {"age": [18, None]}, "A1"),
    Case("365 days", [one("A", "20200310", PatientBirthDate="", PatientAge="730D")], {"age": [2, 2]}, "A1"),
    Case("unknown", [one("A", "20200310", PatientBirthDate="")], {"age": [18, None]}, "", {"A1": "age unknown"}),
    Case(
        "unknown, keep", [one("A", "20200310", PatientBirthDate="")], {"age": [18, None], "unknown_age": "keep"}, "A1"
    ),
    Case(
        "a birth date after the study is not readable",
        [one("A", "20200310", PatientBirthDate="20200311", PatientAge="040Y")],
        {"age": [18, None]},
        "A1",
    ),
    Case(
        "PatientAge of any series of the study",
        [one("A", "20200310", PatientBirthDate=""), one("A", "20200310", PatientBirthDate="", PatientAge="040Y")],
        {"age": [18, None]},
        "A1 A2",
    ),
    # 4. Series
    Case(
        "without regard to case",
        described("SCOUT", "Lung"),
        rules(exclude=[SCOUTS]),
        "A2",
        {"A1": "excluded by scouts"},
    ),
    Case("blanks around it", described(" thorax "), rules(include=[{"SeriesDescription": "Thorax"}]), "A1"),
    Case(
        "as a whole",
        described("scout", "a scout"),
        rules(exclude=[{"SeriesDescription": "scout"}]),
        "A2",
        {"A1": "excluded by exclude 1"},
    ),
    Case(
        "? for one",
        described("T1", "T12"),
        rules(include=[{"SeriesDescription": "T?"}]),
        "A1",
        {"A2": "not included"},
    ),
    Case(
        "brackets are plain",
        described("a [b]", "a b"),
        rules(include=[{"SeriesDescription": "A [B]"}]),
        "A1",
        {"A2": "not included"},
    ),
    Case(
        "one value of several",
        [one("A", "20200310", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER")],
        rules(exclude=[{"name": "localizers", "ImageType": "localizer"}]),
        "",
        {"A1": "excluded by localizers"},
    ),
    Case(
        "a series that has a localizer among its images",
        [one("A", "20200310", ImageType="LOCALIZER|AXIAL", NumberOfSeriesRelatedInstances="2")],
        rules(exclude=[{"ImageType": "LOCALIZER"}]),
        "",
        {"A1": "excluded by exclude 1"},
    ),
    Case(
        "all its conditions",
        CT_MR,
        rules(include=[{"Modality": ["CT", "MR"], "SeriesNumber": "1"}]),
        "A1",
        {"A2": "not included"},
    ),
    Case(
        "numbers, not text",
        [one("A", "20200310", SliceThickness=text) for text in ("1.50", "1.5E0", "10", "1")],
        rules(include=[{"SliceThickness": 1.5}]),
        "A1 A2",
        {"A3": "not included", "A4": "not included"},
    ),
    Case(
        "<=1.5, and the end counts",
        [one("A", "20200310", SliceThickness=text) for text in ("1.50", "1.51")],
        rules(include=[{"SliceThickness": "<=1.5"}]),
        "A1",
        {"A2": "not included"},
    ),
    Case(
        "<2 and >2, and the end does not",
        described("a", "b", "c"),
        rules(include=[{"SeriesNumber": ["<2", ">2"]}]),
        "A1 A3",
        {"A2": "not included"},
    ),
    Case(
        ">=2, and the end counts",
        described("a", "b", "c"),
        rules(include=[{"SeriesNumber": ">=2"}]),
        "A2 A3",
        {"A1": "not included"},
    ),
    Case(
        "1..3, both ends",
        [one("A", "20200310", SliceThickness=text) for text in ("1", "3.0", "3.1")],
        rules(include=[{"SliceThickness": "1..3"}]),
        "A1 A2",
        {"A3": "not included"},
    ),
    Case(
        "a rule without a name is called by its place",
        described("a", "b"),
        rules(exclude=[SCOUTS, {"SeriesDescription": "b"}]),
        "A1",
        {"A2": "excluded by exclude 2"},
    ),
    Case("shown: an undecided exclude excludes nothing", described(""), rules(exclude=[SCOUTS]), "A1"),
    Case(
        "leave out: an undecided exclude leaves out as well",
        described("", "Lung"),
        rules(exclude=[SCOUTS], undecided="leave out"),
        "A2",
        {"A1": "undecided: scouts"},
    ),
    Case(
        "an undecided include includes nothing",
        [one("A", "20200310")],
        rules(include=[THIN]),
        "",
        {"A1": "undecided: thin"},
    ),
    Case(
        "does not match where one condition fails",
        CT_MR,
        rules(include=[{"Modality": "MR", "SliceThickness": "<=1.5"}]),
        "",
        {"A1": "not included", "A2": "undecided: include 1"},
    ),
    Case(
        "excludes go before includes",
        described("Scout"),
        rules(include=[{"Modality": "MR"}], exclude=[SCOUTS]),
        "",
        {"A1": "excluded by scouts"},
    ),
    Case(
        "different values in the images of a series",
        [one("A", "20200310", SliceThickness="5\\1", NumberOfSeriesRelatedInstances="2")],
        rules(include=[{"SliceThickness": "<=1.5"}]),
        "A1",
    ),
    Case(
        "the first that does, before any that is undecided",
        [one("A", "20200310", Modality="SR")],
        rules(exclude=[SCOUTS, {"name": "texts", "Modality": "SR"}, {"Modality": "S?"}], undecided="leave out"),
        "",
        {"A1": "excluded by texts"},
    ),
    Case(
        "where a number is asked for, as no number",
        [one("A", "20200310", SeriesNumber="x")],
        rules(include=[{"SeriesNumber": ">=0"}]),
        "",
        {"A1": "undecided: include 1"},
        archive=False,
    ),
    # 5. Studies
    Case(
        "closest: of equal ones the earlier day",
        [one("A", "20200313"), one("B", "20200307")],
        {"anchor": "closest", "studies": 1},
        "B1",
        {"A1": "not chosen"},
    ),
    Case(
        "of the studies that still have a series",
        [one("A", "20200310", Modality="SR"), one("B", "20200320")],
        {"anchor": "closest", "studies": 1, **rules(include=[{"Modality": "CT"}])},
        "B1",
        {"A1": "not included"},
    ),
    Case(
        "within a day the earlier StudyTime, those without after",
        [one("A", "20200310"), one("B", "20200310T1200"), one("C", "20200310T080000")],
        {"anchor": "closest", "studies": 2},
        "B1 C1",
        {"A1": "not chosen"},
    ),
    Case(
        "with last before the later one",
        [one("A", "20200310"), one("B", "20200310T1200"), one("C", "20200310T080000")],
        {"anchor": "last before", "studies": 1},
        "B1",
        {"A1": "not chosen", "C1": "not chosen"},
    ),
    Case(
        "then the StudyInstanceUID, as text",
        [one("9", "20200310"), one("10", "20200310")],
        {"anchor": "closest", "studies": 1},
        "101",
        {"91": "not chosen"},
    ),
    Case(
        "all: by date",
        [one("A", "20200312"), one("B", "20100101"), one("C", "20150101")],
        {"studies": 2},
        "B1 C1",
        {"A1": "not chosen"},
    ),
    Case(
        "a time to the hour is its first moment",
        [one("A", "20200310T1000"), one("B", "20200310T10"), one("C", "20200310T09:59:59")],
        {"anchor": "closest", "studies": 2},
        "A1 C1",
        {"B1": "not chosen"},
    ),
    Case(
        "all: those without a readable date last",
        [one("A", ""), one("B", "20200101")],
        {"studies": 1},
        "B1",
        {"A1": "not chosen"},
    ),
    # 6. Priors
    Case(
        "before the earliest that was taken, the latest first",
        [one("A", "20200310"), one("B", "20200311"), one("C", "20190101"), one("D", "20200101"), one("E", "20210101")],
        {"days": [0, 5], "priors": {"studies": 1}},
        "A1 B1 D1",
        {"C1": "outside days", "E1": "outside days"},
    ),
    Case(
        "of the same day with both times known and earlier",
        [one("A", "20200310T100000"), one("B", "20200310T090000"), one("C", "20200310T110000"), one("D", "20200310")],
        {"anchor": "last before", "studies": 2, "priors": {"studies": 5}},
        "A1 B1 C1",
        {"D1": "not chosen"},
    ),
    Case(
        "at most days before it",
        [one("A", "20200310"), one("B", "20200309"), one("C", "20200308")],
        {"days": [0, 0], "priors": {"studies": 5, "days": 1}},
        "A1 B1",
        {"C1": "outside days"},
    ),
    Case(
        "share a value of each named attribute",
        [one("A", "20200310", BodyPartExamined="CHEST"), one("B", "20200101", BodyPartExamined="chest", Modality="MR")],
        {"days": [0, 0], "priors": {"studies": 5, "same": ["Modality", "BodyPartExamined"]}},
        "A1",
        {"B1": "outside days"},
    ),
    Case(
        "no priors without a study",
        [one("A", "20190101")],
        {"days": [0, 0], "priors": {"studies": 1}},
        "",
        {"A1": "outside days"},
    ),
    Case(
        "shared values are compared as text",
        [one("A", "20200310", SliceThickness="1.0"), one("B", "20200101", SliceThickness="1")],
        {"days": [0, 0], "priors": {"same": ["SliceThickness"]}},
        "A1",
        {"B1": "outside days"},
    ),
    Case(
        "priors: the first studies are taken, or all",
        [one("A", "20200310"), one("B", "20200101"), one("C", "20190101")],
        {"days": [0, 0], "priors": {"days": 3650}},
        "A1 B1 C1",
    ),
    # 7. One series of a study
    Case(
        "thinnest, unknown last",
        [one("A", "20200310"), one("A", "20200310", SliceThickness="3"), one("A", "20200310", SliceThickness="1.0")],
        {"prefer": ["thinnest"]},
        "A3",
        {"A1": "not preferred", "A2": "not preferred"},
    ),
    Case(
        "thinnest, the least of its values",
        [
            one("A", "20200310", SliceThickness="2"),
            one("A", "20200310", SliceThickness="5\\1", NumberOfSeriesRelatedInstances="2"),
        ],
        {"prefer": ["thinnest"]},
        "A2",
        {"A1": "not preferred"},
    ),
    Case(
        "by each word in turn",
        [
            one("A", "20200310", SliceThickness="1", NumberOfSeriesRelatedInstances="9"),
            one("A", "20200310", SliceThickness="1.0", NumberOfSeriesRelatedInstances="10"),
        ],
        {"prefer": ["thinnest", "most images"]},
        "A2",
        {"A1": "not preferred"},
    ),
    Case(
        "latest",
        [one("A", "20200310", SeriesDate="20200310", SeriesTime="0900"), one("A", "20200310", SeriesDate="20200310")],
        {"prefer": ["latest"]},
        "A1",
        {"A2": "not preferred"},
    ),
    Case(
        "the smaller SeriesNumber, an unknown one last",
        [one("A", "20200310", SeriesNumber=text) for text in ("", "10", "9")],
        {"prefer": ["latest"]},
        "A3",
        {"A1": "not preferred", "A2": "not preferred"},
    ),
]

#: Situations that others reported.
REPORTED = [
    Case(
        "Several studies of one accession number: none is taken in silence (FLIP issue 73)",
        [
            one("A", "20200310", AccessionNumber="X"),
            one("B", "20200310", AccessionNumber="X", PatientID="Q"),
            one("C", "20200312", AccessionNumber="X"),
        ],
        {"anchor": "closest", "studies": 1},
        "A1 B1",
        {"C1": "not chosen"},
        {"AccessionNumber": "X"},
    ),
    Case(
        "Rows at series level: a row with the study's key takes each series once (FLIP pull 1124, OHDSI ImageWG 12)",
        described("a", "b", "c"),
        {},
        "A1 A2 A3",
        keys={"StudyInstanceUID": "A"},
    ),
    Case(
        "Blocklists must ignore case (ADIT pull 377, Loris-MRI pull 786)",
        described("COR", "Cor mpr", "Topogramm", "Thorax"),
        rules(exclude=[{"name": "reformats", "SeriesDescription": ["*cor*", "*topo*"]}]),
        "A4",
        dict.fromkeys(("A1", "A2", "A3"), "excluded by reformats"),
    ),
    Case(
        "Excludes with a pattern in the middle, not only at the beginning (Loris-MRI pull 786)",
        described("my scout 1"),
        rules(exclude=[SCOUTS]),
        "",
        {"A1": "excluded by scouts"},
    ),
    Case(
        "One excluded description, and several (Loris-MRI pull 326)",
        described("b", "Screen Save"),
        rules(exclude=[{"name": "captures", "SeriesDescription": "screen save"}]),
        "A1",
        {"A2": "excluded by captures"},
    ),
    Case(
        "PatientAge without a unit is no age (example-dicom-structural issue 2)",
        [one("A", "20200310", PatientBirthDate="", PatientAge="42")],
        {"age": [18, None]},
        "",
        {"A1": "age unknown"},
    ),
    Case(
        "PatientAge in days, weeks, months (covid-chest-imaging-database issue 98)",
        [
            one("A", "20200310", PatientBirthDate="", PatientAge="018M"),
            one("B", "20200310", PatientBirthDate="", PatientAge="002Y"),
        ],
        {"age": [1, 1]},
        "A1",
        {"B1": "age"},
    ),
    Case(
        "Born on 29 February, on 28 February of another year (dayjs issue 1000, moment issue 5678)",
        [one("A", "20170228", PatientBirthDate="20160229")],
        {"age": [1, None]},
        "",
        {"A1": "age"},
    ),
    Case(
        "Born on 1 March, on 29 February (firely-cql-sdk issue 189)",
        [one("A", "20240229", PatientBirthDate="20030301")],
        {"age": [21, None]},
        "",
        {"A1": "age"},
    ),
    Case(
        "Two examinations of one day: the date does not tell them apart (shanoir-ng issue 2783)",
        [one("A", "20200310T0900"), one("B", "20200310T0800")],
        {"anchor": "closest", "studies": 1},
        "B1",
        {"A1": "not chosen"},
    ),
    Case(
        "Order of priors comes from dates, never from numbers of studies (MLRG issue 9, cxrmate issue 1)",
        [one("1", "20200101"), one("2", "20190101"), one("3", "20200310")],
        {"anchor": "closest", "studies": 1, "priors": {"studies": 1}},
        "11 31",
        {"21": "not chosen"},
    ),
    Case(
        "At most two priors of the last five years with the same modality (dcm4chee-arc-light issue 1995)",
        [
            one("A", "20200310"),
            one("B", "20190101"),
            one("C", "20180101", Modality="MR"),
            one("D", "20170101"),
            one("E", "20160101"),
            one("F", "20100101"),
        ],
        {"anchor": "closest", "studies": 1, "priors": {"studies": 2, "days": 1826, "same": ["Modality"]}},
        "A1 B1 D1",
        {"C1": "not chosen", "E1": "not chosen", "F1": "not chosen"},
    ),
    Case(
        "Studies without a date vanish from lists filtered by date (dicom-server issue 405): here with a reason",
        [one("A", ""), one("B", "20200310")],
        {"anchor": "closest", "days": [None, None]},
        "B1",
        {"A1": "no study date"},
    ),
    Case(
        "Series acquired after midnight: the study's date counts, not the series' (shanoir-ng issue 3360)",
        [one("A", "20200310T235900", SeriesDate="20200311", SeriesTime="000500")],
        {"days": [0, 0]},
        "A1",
    ),
    Case(
        "Days are calendar days whatever the zone (OHDSI Atlas pull 2152, fo-dicom issue 1511)",
        [one("A", "20200309T235959"), one("B", "20200310T000000"), one("C", "20200329T023000"), one("D", "20200409")],
        {"days": [0, 30]},
        "B1 C1 D1",
        {"A1": "outside days"},
    ),
]
