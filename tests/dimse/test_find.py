"""Which series a row finds, whatever the archive ignores, keeps to itself or cuts off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from pacsifier_ops.archive.find import Expectation, Finder, FoundSeries
from pacsifier_ops.base.errors import AnswerUnreadable, ResultLimit, Undecidable, Unsupported
from pacsifier_ops.dimse.session import Session
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.extract import steps
from pacsifier_ops.query.keys import MODALITIES
from tests.support.embedded import node_of, planned_run, series, serving, write

pytestmark = pytest.mark.archive

#: A series as these tests name it: patient, number, and the date of its study.
Label = tuple[str, int, str]

HEAD = {"study_date": "20200301", "study_time": "101500", "AccessionNumber": "ACC1", "StudyDescription": "Kopf Größe"}
LATIN = {"charset": "ISO_IR 100"}
COHORT = [
    *series(
        "A100",
        "Müller^Jürgen",
        **LATIN,
        **HEAD,
        SeriesDescription="Head native 5.0",
        ProtocolName="Head",
        BodyPartExamined="HEAD",
    ),
    *series(
        "A100", "Müller^Jürgen", **LATIN, **HEAD, series_number=2, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]
    ),
    *series(
        "A100",
        "Müller^Jürgen",
        **LATIN,
        **HEAD,
        series_number=3,
        modality="MR",
        n_images=2,
        SequenceName="*tfl3d1_16",
        StationName="MR-7",
        ImageType=lambda image: ["ORIGINAL", "PRIMARY", "M"] if image else ["DERIVED", "PRIMARY", "MPR"],
    ),
    *series(
        "A100",
        "Müller^Jürgen",
        **LATIN,
        study_date="20200302",
        study_time="080000",
        AcquisitionDate="20200303",
        ReferringPhysicianName="Favre^Zoé",
    ),
    *series("B200", "Люксембург^Роза", charset="ISO_IR 144", study_date="20200301", study_time="101530"),
    *series(
        "C300",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        charset=["", "ISO 2022 IR 87"],
        study_date="20200401",
        DeviceSerialNumber="SN-1",
        InstitutionName="Hospital",
        PatientBirthDate="19660401",
    ),
    *series(
        "D400",
        "Doe^John",
        charset="",
        study_date="",
        study_time="",
        SeriesDescription="",
        AccessionNumber="ACC4",
        PatientSex="F",
        StudyID="S7",
    ),
    *series("A1001", "Doe^Jane", charset="", study_date="20200302", study_time="235959.5", series_uid="2.25.77"),
]
A1, A2, A3 = ("A100", 1, "20200301"), ("A100", 2, "20200301"), ("A100", 3, "20200301")
A4, E = ("A100", 1, "20200302"), ("A1001", 1, "20200302")
B, C, D = ("B200", 1, "20200301"), ("C300", 1, "20200401"), ("D400", 1, "")
STUDY = str(COHORT[0].StudyInstanceUID)

#: One row for every key; each finds less than its patients have.
ONE_EACH: dict[str, tuple[str, set[Label]]] = {
    "StudyDate": ("20200301", {A1, A2, A3, B}),
    "StudyTime": ("1015", {A1, A2, A3, B, C}),
    "SeriesDescription": ("Head*", {A1}),
    "PatientID": ("A100", {A1, A2, A3, A4}),
    "ProtocolName": ("Head", {A1}),
    "StudyInstanceUID": (STUDY, {A1, A2, A3}),
    "PatientName": ("jurgen muller", {A1, A2, A3, A4}),
    "PatientBirthDate": ("19660401", {C}),
    "SeriesInstanceUID": ("2.25.77", {E}),
    "DeviceSerialNumber": ("SN-1", {C}),
    "Modality": ("MR", {A3}),
    "ImageType": ("DERIVED", {A2, A3}),
    "SeriesNumber": ("3", {A3}),
    "StudyDescription": ("Kopf*", {A1, A2, A3}),
    "AccessionNumber": ("ACC1", {A1, A2, A3}),
    "SequenceName": ("*tfl*", {A3}),
    "AcquisitionDate": ("20200303", {A4}),
    "ModalitiesInStudy": ("MR", {A1, A2, A3}),
    "PatientSex": ("F", {D}),
    "StudyID": ("S7", {D}),
    "ReferringPhysicianName": ("zoe favre", {A4}),
    "BodyPartExamined": ("HEAD", {A1}),
    "InstitutionName": ("Hosp*", {C}),
    "StationName": ("MR-7", {A3}),
}
MORE: list[tuple[dict[str, str], set[Label]]] = [
    ({"StudyDate": "20200301-20200302"}, {A1, A2, A3, A4, B, E}),
    ({"StudyDate": "20200302-"}, {A4, C, E}),
    ({"StudyDate": "-20200301"}, {A1, A2, A3, B}),
    ({"StudyDate": "20200302", "StudyTime": "235959"}, {E}),
    ({"PatientID": "A100?"}, {E}),
    ({"PatientID": "A100", "SeriesNumber": "1", "StudyDate": "20200301"}, {A1}),
    ({"PatientID": "A100", "ImageType": "DERIVED\\SECONDARY\\SCREEN SAVE"}, {A2}),
    ({"PatientID": "A100", "ImageType": "DERIVED\\PRIMARY"}, {A3}),
    ({"PatientID": "A100", "ImageType": "PRIMARY\\DERIVED"}, set()),
    ({"PatientID": "A100", "ImageType": "MPR", "SequenceName": "*tfl*"}, {A3}),
    ({"PatientName": "Роза Люксембург"}, {B}),
    ({"PatientName": "люксембург*"}, {B}),
    ({"PatientName": "山田"}, {C}),
    ({"PatientName": "Doe"}, {D, E}),
    ({"PatientName": "Doe^J*", "StudyDate": "20200302"}, {E}),
    ({"StudyDescription": "Kopf Größe"}, {A1, A2, A3}),
    ({"AccessionNumber": "ACC4"}, {D}),
    ({"AccessionNumber": "nowhere"}, set()),
    ({"Modality": "NM"}, set()),
    ({"Modality": "NM\\MR"}, {A3}),
    ({"Modality": "C?\\MR", "PatientID": "A100", "StudyDate": "20200301"}, {A1, A2, A3}),
    ({"StudyInstanceUID": f"{STUDY}\\1.2.3"}, {A1, A2, A3}),
    ({"SeriesInstanceUID": f"2.25.77\\{COHORT[0].SeriesInstanceUID}"}, {A1, E}),
    ({"ModalitiesInStudy": "MR", "PatientID": "A100", "Modality": "CT"}, {A1, A2}),
    ({"ModalitiesInStudy": "NM\\MR", "StudyDate": "20200301"}, {A1, A2, A3}),
    ({"ModalitiesInStudy": "NM"}, set()),
    ({"ReferringPhysicianName": "Favre", "PatientID": "A100"}, {A4}),
]
ROWS = [({key: value}, found) for key, (value, found) in ONE_EACH.items()] + MORE


@contextmanager
def asking(pacs: EmbeddedPacs, **fields: object) -> Iterator[Session]:
    with Session(node_of(pacs, **fields), nullcontext) as session:
        yield session


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedPacs, Session]]:
    with serving(COHORT, tmp_path_factory.mktemp("cohort")) as pacs, asking(pacs) as session:
        yield pacs, session


@pytest.fixture
def pacs(running: tuple[EmbeddedPacs, Session]) -> EmbeddedPacs:
    pacs, _ = running
    pacs.faults = Faults()
    pacs.queries.clear()
    pacs.retrieves.clear()
    return pacs


@pytest.fixture
def finder(running: tuple[EmbeddedPacs, Session]) -> Finder:
    return Finder(running[1])


Find = Callable[..., list[set[Label]]]


@pytest.fixture
def find(running: tuple[EmbeddedPacs, Session]) -> Find:
    """What rows find, asked one after the other by somebody who knows nothing of the archive yet."""
    return lambda *rows: [labels(found) for found in map(Finder(running[1]).series, rows)]


def labels(found: list[FoundSeries]) -> set[Label]:
    wanted = ("PatientID", "SeriesNumber", "StudyDate")
    return {(a, int(b), c) for a, b, c in ([s.attributes[key] for key in wanted] for s in found)}


def uids(pacs: EmbeddedPacs, row: dict[str, str], **fields: object) -> set[str]:
    with asking(pacs, **fields) as session:
        return {found.series_uid for found in Finder(session).series(row)}


BOTH_MODELS = pytest.mark.parametrize("relational", [True, False], ids=["relational", "hierarchical"])


@BOTH_MODELS
def test_every_kind_of_key(pacs: EmbeddedPacs, find: Find, relational: bool) -> None:
    pacs.faults.relational = relational
    for row, found in ROWS:
        assert find(row) == [found], row
    # And what was learned of the archive does not change what is found.
    assert find(*(row for row, _ in ROWS)) == [found for _, found in ROWS]


def test_relational_archives_are_recognised_and_asked_once_per_row(pacs: EmbeddedPacs, finder: Finder) -> None:
    finder.series({"PatientID": "A100"})
    pacs.queries.clear()
    finder.series({"PatientID": "C300"})
    assert [level for level, _ in pacs.queries] == ["SERIES"]


def test_archives_that_ignore_keys_of_the_upper_levels_are_asked_level_by_level(pacs: EmbeddedPacs, find: Find) -> None:
    """As dcmqrscp does: StudyInstanceUID empty and all the rest ignored."""
    pacs.faults.ignored_keys = {"PatientID", "StudyDate", "AccessionNumber"}
    assert find({"PatientID": "A100"}, {"PatientID": "C300"}) == [{A1, A2, A3, A4}, {C}]
    pacs.queries.clear()
    assert find({"PatientID": "C300"}) == [{C}]
    studies = {str(query.StudyInstanceUID) for level, query in pacs.queries if level == "SERIES"}
    assert len(studies) <= 2, "series of studies that the row excludes were asked for"


@pytest.mark.parametrize(
    ("fault", "relational"),
    [("ignored_keys", True), ("ignored_keys", False), ("unreturned_keys", False), ("emptied_keys", True)],
)
@pytest.mark.parametrize("key", sorted(ONE_EACH))
def test_a_key_that_is_only_matched_or_only_returned(
    pacs: EmbeddedPacs, finder: Finder, key: str, fault: str, relational: bool
) -> None:
    """It finds what it should, or the row is undecidable; never something else."""
    value, found = ONE_EACH[key]
    pacs.faults = Faults(relational=relational, **{fault: {key}})  # type: ignore[arg-type]
    try:
        series_found = finder.series({key: value})
    except (Undecidable, Unsupported) as error:
        assert fault != "ignored_keys"
        # Without the UIDs nothing works; numbers have no pattern, and how others match names and several values
        # is not for us to rely on.
        assert key.endswith("UID") or key.endswith("Name") or key in ("SeriesNumber", "ImageType"), error
        return
    assert len(series_found) == len(found)
    assert fault != "ignored_keys" or labels(series_found) == found


@pytest.mark.parametrize(
    ("way", "relational"),
    [("unreturned_keys", True), ("unreturned_keys", False), ("emptied_keys", False), ("unindexed_keys", True)],
)
@pytest.mark.parametrize("key", sorted(k for k in ONE_EACH if not k.endswith("InstanceUID") and k != MODALITIES))
def test_a_key_neither_matched_nor_returned_is_undecidable(
    pacs: EmbeddedPacs, finder: Finder, key: str, way: str, relational: bool
) -> None:
    ignored = set() if way == "unindexed_keys" else {key}
    pacs.faults = Faults(relational=relational, ignored_keys=ignored, **{way: {key}})  # type: ignore[arg-type]
    value = ONE_EACH[key][0]
    with pytest.raises(Undecidable) as raised:
        finder.series({key: value})
    assert key in str(raised.value) and "pacs" in str(raised.value) and value not in str(raised.value)
    assert not pacs.retrieves


@BOTH_MODELS
@pytest.mark.parametrize("way", ["unreturned_keys", "emptied_keys", "unindexed_keys"])
def test_modalities_of_a_study_are_worked_out_where_the_archive_does_not_tell_them(
    pacs: EmbeddedPacs, find: Find, way: str, relational: bool
) -> None:
    pacs.faults = Faults(relational=relational, ignored_keys={MODALITIES}, **{way: {MODALITIES}})  # type: ignore[arg-type]
    row = {"PatientID": "A100", "Modality": "CT"}
    assert find({**row, MODALITIES: "MR\\NM"}, {**row, MODALITIES: "NM"}) == [{A1, A2}, set()]
    pacs.faults.unreturned_keys = {MODALITIES, "Modality"}
    with pytest.raises(Undecidable, match=MODALITIES):
        find({"PatientID": "A100", MODALITIES: "MR"})


def test_where_wildcards_are_characters_they_find_nobody_else(tmp_path: Path) -> None:
    images = [image for patient in ("A*1", "A?1", "A21") for image in series(patient, AccessionNumber="A1")]
    with serving(images, tmp_path) as pacs, asking(pacs) as session:
        finder = Finder(session)

        def found(exact: bool, **row: str) -> set[str]:
            return {series.attributes["PatientID"] for series in finder.series(row, exact)}

        assert found(False, PatientID="A*1") == {"A*1", "A?1", "A21"}
        assert found(True, PatientID="A*1") == {"A*1"} and found(True, PatientID="A?1") == {"A?1"}
        assert not found(True, PatientName="Phan*") and not found(True, PatientID="A?1", Modality="C*")
        # What an archive matches and does not show, it takes for wildcards.
        pacs.faults = Faults(unreturned_keys={"AccessionNumber"})
        with pytest.raises(Undecidable, match="AccessionNumber"):
            found(True, AccessionNumber="*1*")


def test_without_image_level_keys_of_images_are_undecidable(pacs: EmbeddedPacs, find: Find) -> None:
    pacs.faults.image_level = False
    # Not those of the series, though there is one without a description.
    assert find({"PatientID": "A100"}, {"SeriesDescription": "Head*"}) == [{A1, A2, A3, A4}, {A1}]
    for key in ("ImageType", "SequenceName", "AcquisitionDate"):
        with pytest.raises(Undecidable, match=key):
            find({"PatientID": "A100", key: ONE_EACH[key][0]})


# Character sets


@BOTH_MODELS
def test_answers_that_lack_letters_never_end_a_row_silently_empty(
    pacs: EmbeddedPacs, find: Find, finder: Finder, relational: bool
) -> None:
    pacs.faults = Faults(relational=relational, answer_charset="ISO_IR 100")
    assert find({"PatientName": "Jurgen Müller"}, {"StudyDescription": "Kopf Größe"}) == [
        {A1, A2, A3, A4},
        {A1, A2, A3},
    ]
    for name, wanted in (("Люксембург", 1), ("роза ЛЮКСЕМБУРГ", 1), ("山田", 1), ("Горький", 0)):
        assert len(finder.series({"PatientName": name})) == wanted, name
        assert any("PatientName was left to the archive" in warning for warning in finder.warnings)
    # A part of a word is not the word: what the archive means by it is not what the row does.
    assert finder.series({"PatientName": "Люксембур"}) == [] and "lost letters" in finder.doubt
    # An archive that does not match names either cannot answer at all.
    pacs.faults.ignored_keys = {"PatientName"}
    assert asked(pacs, {"PatientName": "Люксембург"}) == ([], True)


def test_answers_in_ascii_that_say_nothing_of_the_letters_they_lack(pacs: EmbeddedPacs, find: Find) -> None:
    pacs.faults = Faults(answer_charset="")
    assert find({"PatientName": "Müller", "PatientID": "A100"}) == [{A1, A2, A3, A4}]
    pacs.faults.ignored_keys = {"PatientName"}
    assert asked(pacs, {"PatientName": "Müller", "PatientID": "A100"}) == ([], True)
    # Names that cannot be what is left of it are told apart all the same.
    assert find({"PatientName": "Müller", "PatientID": "D400"}) == [set()]


def asked(pacs: EmbeddedPacs, row: dict[str, str], **fields: Any) -> tuple[list[FoundSeries], bool]:
    """What one row finds, and whether there may be more."""
    with Session(node_of(pacs, **fields), nullcontext) as session:
        finder = Finder(session)
        return finder.series(row), bool(finder.doubt)


@BOTH_MODELS
def test_a_name_that_lost_letters_is_told_from_one_that_did_not(tmp_path: Path, relational: bool) -> None:
    """The archive is asked for what it shows: what it finds by that is whole, and another name."""
    people = [
        *series("P1", "Żółć^Łukasz", charset="ISO_IR 192"),
        *series("P2", "Żan^Nguyen", charset="ISO_IR 192"),
        *series("P3", "Anders^Eva", charset="ISO_IR 100"),
        *series("P4", "An^Nguyen", charset="ISO_IR 100"),
    ]
    with serving(people, tmp_path) as pacs:
        pacs.faults = Faults(relational=relational, answer_charset="ISO_IR 100")
        for name, number, doubt in (
            ("Zolc", 0, True),
            ("Zolc Lukasz", 0, True),
            ("Żółć", 1, False),
            ("Andersson Eva", 0, False),  # Anders is all there is
            ("An Nguyen", 1, True),  # and what is left of another one is not taken for it
            ("Nobody", 0, False),
        ):
            found, doubtful = asked(pacs, {"PatientName": name, "StudyDate": "19000101-"})
            assert (len({s.study_uid for s in found}), doubtful) == (number, doubt), name
        # Who says that the letters are kept is believed.
        assert asked(pacs, {"PatientName": "Zolc", "StudyDate": "19000101-"}, letters="kept") == ([], False)


def test_what_an_archive_refuses_proves_nothing(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    pacs.faults = Faults(relational=False, unindexed_keys={"ProtocolName"})
    with pytest.raises(Undecidable, match="no value of ProtocolName"):
        asked(pacs, {"PatientID": "A100", "ProtocolName": "Head"})
    pacs.faults = Faults(image_level=False, answer_charset="")
    with pytest.raises(Undecidable, match="StudyDescription"):
        asked(pacs, {"PatientID": "A100", "StudyDescription": "Kopf Größe"})


@pytest.mark.parametrize("question", range(4))
def test_what_arrives_while_a_row_is_asked_for_is_no_study_that_lacks_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: int
) -> None:
    late = write(series("A100", n_images=1), tmp_path / "late")
    with serving([], tmp_path / "archive") as pacs, asking(pacs) as session:
        ask, asked_so_far = session.find, iter(range(10))

        def find(*args: Any, **more: Any) -> Any:
            if next(asked_so_far) == question:
                pacs.add(late)
            return ask(*args, **more)

        monkeypatch.setattr(session, "find", find)
        assert len(Finder(session).series({"PatientID": "A100"})) == (question == 0)


def test_a_name_of_which_the_set_holds_no_letter(tmp_path: Path) -> None:
    with serving(series("P1", "Żółć^Ewa", charset="ISO_IR 192"), tmp_path) as pacs:
        pacs.faults = Faults(answer_charset="ISO_IR 144")
        for name in ("Zolc", "Żółć", "Ewa"):
            found, doubt = asked(pacs, {"PatientName": name, "StudyDate": "19000101-"})
            assert found or doubt, name


def test_dates_that_an_archive_holds_divided_are_found_by_the_patient(tmp_path: Path) -> None:
    with serving(series("P1", study_date="2020.01.01"), tmp_path) as pacs:
        assert len(uids(pacs, {"PatientID": "P1", "StudyDate": "20200101"})) == 1


# Result limits


def busy() -> Iterator[Dataset]:
    """A day of 24 studies of two series, one every ten minutes from eight; ten days of one study without a time."""
    for number in range(24):
        clock = f"{8 + number // 6:02d}{number % 6 * 10:02d}00"
        for part in (1, 2):
            yield from series(f"DAY{number}", study_date="20210101", study_time=clock, series_number=part)
    for number in range(10):
        yield from series(f"OTHER{number}", study_date=f"202102{number + 1:02d}", study_time="")


@pytest.fixture(scope="module")
def busy_pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPacs]:
    with serving(busy(), tmp_path_factory.mktemp("busy")) as pacs:
        yield pacs


@BOTH_MODELS
@pytest.mark.parametrize("told", ["configured", "out of resources", "cancelled"])
def test_a_result_limit_is_split_by_date_and_time(busy_pacs: EmbeddedPacs, told: str, relational: bool) -> None:
    status = {"configured": 0x0000, "out of resources": 0xA700, "cancelled": 0xFE00}[told]
    busy_pacs.faults = Faults(result_limit=7, result_limit_status=status, relational=relational)
    busy_pacs.queries.clear()
    fields = {"result_limit": 7} if told == "configured" else {}
    for row, count in (
        ({"StudyDate": "20210101"}, 48),
        ({"StudyDate": "20210101-20210205"}, 53),
        ({"StudyDate": "20210101-", "StudyTime": "0800-0959"}, 24),
        ({"PatientID": "DAY*", "StudyDate": "20210101-20210131"}, 48),
        ({"PatientID": "DAY1*"}, 22),
    ):
        assert len(uids(busy_pacs, row, **fields)) == count, row
    assert len(busy_pacs.queries) < 500


def test_studies_that_no_range_finds_are_an_error_not_a_shorter_list(tmp_path: Path) -> None:
    images = [
        image
        for number in range(12)
        for image in series(f"P{number}", study_date="" if number == 3 else "20200101", study_time=f"10{number:02d}00")
    ]
    with serving(images, tmp_path) as pacs:
        pacs.faults = Faults(result_limit=5)
        with pytest.raises(ResultLimit, match="without StudyDate"):
            uids(pacs, {"PatientID": "P*"}, result_limit=5)
        assert len(uids(pacs, {"PatientID": "P*", "StudyDate": "20200101"}, result_limit=5)) == 11
        # One that the archive has not shown cannot be known of; the row says so.
        pacs.faults = Faults(result_limit=3)
        with asking(pacs, result_limit=3) as session:
            finder = Finder(session)
            assert len(finder.series({"PatientID": "P*"})) == 11
            assert "ranges of StudyDate" in finder.doubt


@BOTH_MODELS
def test_an_answer_that_cannot_be_read_is_never_passed_over(tmp_path: Path, relational: bool) -> None:
    images = [i for n in range(3) for i in series("P3", study_date=f"2020010{n + 1}", n_images=2)]
    torn, whole = str(images[2].StudyInstanceUID), {str(i.SeriesInstanceUID) for i in images}
    with serving(images, tmp_path) as pacs:
        pacs.faults = Faults(torn={torn}, relational=relational)
        with pytest.raises(AnswerUnreadable, match="cannot be decoded"):
            uids(pacs, {"PatientID": "P3"})
        pacs.faults.torn_times = 1  # and whole when it is asked for by itself
        assert uids(pacs, {"PatientID": "P3"}) == whole


def test_counts_and_lists_that_prove_nothing(tmp_path: Path) -> None:
    images = [*series("P1", n_images=2), *series("P1", series_number=2, n_images=3)]
    which = str(images[0].StudyInstanceUID), str(images[0].SeriesInstanceUID)
    number = "NumberOfSeriesRelatedInstances"
    with serving(images, tmp_path) as pacs, asking(pacs) as session:

        def expected(count: int | None, **faults: Any) -> Expectation:
            pacs.faults = Faults(**faults)
            return Finder(session).expectation(*which, count)

        nothing: dict[str, Any] = {"corrected": {number: {"": "0"}}}
        assert expected(0, **nothing, image_level=False) == Expectation(None)
        assert expected(0, **nothing, unindexed_keys={"SOPInstanceUID"}) == Expectation(None)
        assert expected(2, image_level=False) == Expectation(None, 2)
        # At IMAGE level it answers for the whole study.
        whole = {"SeriesInstanceUID"}
        assert expected(2, ignored_keys=whole, unreturned_keys=whole) == Expectation(None, 2)
        assert len(expected(2, ignored_keys=whole).instances or {}) == 2


def test_a_pile_up_within_one_second_is_an_error(tmp_path: Path) -> None:
    with serving([i for n in range(8) for i in series(f"P{n}", study_time="101500.5")], tmp_path) as pacs:
        pacs.faults = Faults(result_limit=5)
        for row in ({"StudyDate": "20180102"}, {"PatientID": "P*"}, {"StudyTime": "10", "PatientID": "P*"}):
            with pytest.raises(ResultLimit, match="within one second"):
                uids(pacs, row, result_limit=5)


def test_odd_dates_and_times_do_not_break_the_split(tmp_path: Path) -> None:
    """The 31st of February, a leap second, a time with colons: found, or an error of ours."""
    times = ["235960", "101500", "10:15:00", "24", "2359", "000000.1"]
    images = [i for n, t in enumerate(times) for i in series(f"P{n}", study_date="20200101", study_time=t)]
    images += series("P9", study_date="20200231")
    with serving(images, tmp_path) as pacs:
        for limit in (2, 3, 4):
            pacs.faults = Faults(result_limit=limit)
            for row in ({"PatientID": "P*"}, {"StudyDate": "20200101"}):
                try:
                    found = uids(pacs, row, result_limit=limit)
                except ResultLimit:
                    continue
                assert len(found) == (7 if "PatientID" in row else 6)


def test_a_limit_within_a_study_or_a_series_is_an_error(tmp_path: Path) -> None:
    images = [i for n in range(6) for i in series("P1", series_number=n, SequenceName="x")]
    images += series("P2", n_images=6, SequenceName="x")
    with serving(images, tmp_path) as pacs:
        pacs.faults = Faults(result_limit=4, relational=False)
        with pytest.raises(ResultLimit, match="within one study"):
            uids(pacs, {"PatientID": "P1"}, result_limit=4)
        with pytest.raises(ResultLimit, match="SequenceName"):
            uids(pacs, {"PatientID": "P2", "SequenceName": "x"}, result_limit=4)


# Rows do not disturb each other


def test_an_archive_that_refuses_one_row_answers_the_others(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    pacs.faults = Faults(image_level=False)
    rows = [{"PatientID": "A100", "ImageType": "DERIVED"}, {"PatientID": "C300"}, {"AccessionNumber": "nowhere"}]
    run, _ = planned_run(node_of(pacs), rows, tmp_path / "out", retrieve="none", info=True)
    account = steps.report(run)
    assert [row.state for row in account.rows] == ["undecidable", "found", "empty"]
    assert "ImageType" in account.rows[0].reason and "DERIVED" not in account.rows[0].reason
    assert account.verdict == "incomplete"
