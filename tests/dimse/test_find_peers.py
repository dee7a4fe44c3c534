"""Every kind of key against real archives: which series a row finds, by `pacsifier --info`.

One table with many rows per archive; the truth of every row is worked out by brute force over the files.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pacs
from tests.support.command import LOG_COLUMNS, extract, files, series_of_lines, write_table
from tests.support.truth import Truth

pytestmark = pytest.mark.peers

Row = dict[str, str]
KEYS = (
    *(
        "StudyDate",
        "StudyTime",
        "SeriesDescription",
        "PatientID",
        "ProtocolName",
        "StudyInstanceUID",
        "PatientName",
    ),
    *(
        "PatientBirthDate",
        "SeriesInstanceUID",
        "DeviceSerialNumber",
        "AcquisitionDate",
        "Modality",
        "ImageType",
    ),
    *("SeriesNumber", "StudyDescription", "AccessionNumber", "SequenceName"),
)
FURTHER = (
    *("PatientSex", "StudyID", "ReferringPhysicianName", "BodyPartExamined", "InstitutionName", "StationName"),
    "ModalitiesInStudy",
)
DUMP = [*(key for key in KEYS if key != "AcquisitionDate"), "AcquisitionDate"]
#: dcmqrscp neither matches nor returns these at any level.
SILENT = {
    "SeriesDescription",
    "ProtocolName",
    "DeviceSerialNumber",
    "AcquisitionDate",
    "ImageType",
    "SequenceName",
    "BodyPartExamined",
    "InstitutionName",
    "StationName",
}

NAMES = (
    *("Jürgen Müller", "MULLER, JURGEN", "müller^anna", "M?ller*", "Mueller", "*üller^J*"),
    *("Doe^John", "doe john paul", "Doe*", "Doe^Johnny", "sean o'neil", "Jean Pierre Dupont"),
    *("роза люксембург", "Пушкин*", "Tarou Yamada", "太郎 山田", "やまだ^たろう", "Yamada^Tarou=山田^太郎"),
)


def rows_of(truth: Truth) -> Iterator[Row]:
    """Rows for every kind of key, from what the archive holds, and some for what it does not hold."""
    for key in (*KEYS, *FURTHER):
        cells = [
            cell for cell in truth.distinct(key) if cell.strip("*?-^") and not (key != "ImageType" and "\\" in cell)
        ]
        yield from ({key: cell} for cell in cells[:: max(1, len(cells) - 1)])
    yield from ({"PatientName": name} for name in NAMES)
    # Ranges, open ranges, parts of a time
    for dates in ("20150512-20150612", "20190303-20190303", "20210607-", "-20120101", "18000101-18000102"):
        yield {"StudyDate": dates}
    yield {"AcquisitionDate": "20210608-20210609", "PatientID": "KEYS"}
    yield {"AcquisitionDate": "20210608-", "PatientID": "KEYS"}
    for times in ("08", "0815", "081530", "081530.25", "081530-081530", "0815-2359", "-0000", "2359-"):
        yield {"StudyTime": times, "StudyDate": "20210607-20210608"}
    # Wildcards; letters whose case differs; values that only contain, begin or end with the cell
    for key, cell in (
        ("PatientID", "12342?"),
        ("PatientID", "123421*"),
        ("PatientID", "A?1"),
        ("PatientID", "keys"),
        ("PatientID", "45322"),
        ("ProtocolName", "BEAT_SelfNav*"),
        ("ProtocolName", "beat_*"),
        ("SeriesDescription", "Sch*del*"),
        ("SeriesDescription", "Schädel T1*"),
        ("SeriesDescription", "Sch?del T1 übersicht"),
        ("StudyDescription", "Kopf Größe"),
        ("StudyDescription", "*Gr??e"),
        ("StudyDescription", "PT 01; a, b"),
        ("AccessionNumber", "ACC0001"),
        ("AccessionNumber", "A B 1"),
        ("AccessionNumber", "ACC1?"),
        ("AccessionNumber", "nowhere"),
        ("DeviceSerialNumber", "SN-*"),
        ("SequenceName", "*tfl3d1*"),
    ):
        yield {key: cell}
    # One value or several of ImageType; a series with two kinds of images
    for kind in (
        *(
            "ORIGINAL",
            "DERIVED",
            "MPR",
            "M",
            "SCREEN SAVE",
            "ORIGINAL\\PRIMARY",
            "DERIVED\\SECONDARY\\SCREEN SAVE",
        ),
        *("ORIGINAL\\PRIMARY\\M\\ND", "PRIMARY\\ORIGINAL", "DERIVED\\PRIMARY\\MPR", "SCREEN*"),
    ):
        yield {"ImageType": kind, "PatientID": "KEYS"}
    # Several values of a key; ModalitiesInStudy with and without something that narrows the search
    for key in ("StudyInstanceUID", "SeriesInstanceUID"):
        yield {key: "\\".join((*truth.distinct(key)[:3], "1.2.3"))}
    yield from (
        {"Modality": "CT\\OT", "PatientID": "KEYS"},
        {"Modality": "O?\\MR", "PatientID": "KEYS"},
        {"Modality": "NM\\XA", "PatientID": "KEYS"},
        {"ModalitiesInStudy": "OT", "PatientID": "KEYS", "Modality": "CT"},
        {"ModalitiesInStudy": "NM\\OT", "StudyDate": "20210607"},
        {"ModalitiesInStudy": "XA", "StudyDate": "20210607"},
        {"ModalitiesInStudy": "MR\\OT"},
        {"ReferringPhysicianName": "zoe favre", "StudyDate": "20210607"},
        {"BodyPartExamined": "HEAD", "PatientID": "KEYS"},
        {"InstitutionName": "Hôpital*", "PatientID": "KEYS"},
        {"StationName": "nowhere", "PatientID": "KEYS"},
    )
    # Combinations
    yield from (
        {"ProtocolName": "BEAT_SelfNav*", "Modality": "CT", "PatientBirthDate": "19920611"},
        {"PatientID": "KEYS", "SeriesNumber": "1"},
        {"PatientID": "KEYS", "SeriesNumber": "02"},
        {"PatientID": "KEYS", "Modality": "MR", "SeriesNumber": "4"},
        {"PatientID": "KEYS", "Modality": "CT"},
        {"PatientID": "KEYS", "StudyDate": "20210608"},
        {"PatientID": "KEYS", "ImageType": "DERIVED", "SeriesNumber": "4"},
        {"PatientID": "KEYS", "SequenceName": "*tfl*", "Modality": "MR"},
        {"PatientID": "KEYS", "DeviceSerialNumber": "SN-0815", "ImageType": "ORIGINAL\\PRIMARY"},
        {"AccessionNumber": "ACC0001", "SeriesNumber": "10"},
        {"PatientID": "A-1", "SeriesDescription": "Phantom CT"},
        {"PatientID": "A.1", "StudyDate": "20190303"},
        {"PatientName": "Doe John", "StudyDate": "20180102"},
        {"PatientName": "Müller", "PatientID": "N1", "StudyDescription": "Kopf*"},
        {"PatientID": "NODATE", "Modality": "CT"},
        {"PatientID": "STAR*1"},
        {"StudyDate": "20190304", "SeriesDescription": "Twin"},
    )


def expected(pacs: Pacs, row: Row) -> set[str] | None:
    """The series that answer the row, or None where the archive leaves it undecidable."""
    silent = SILENT & row.keys() if pacs.peer.name == "dcmqrscp" else set()
    rest = {key: cell for key, cell in row.items() if key not in silent}
    candidates = pacs.truth.series(rest)
    return None if silent and candidates else candidates


def latin(text: str) -> bool:
    """Whether ISO 8859-1, in which Orthanc answers, can write the text."""
    return text.encode("latin-1", "ignore").decode("latin-1") == text


def test_every_kind_of_key_finds_its_series_and_no_other(archive: Pacs, tmp_path: Path, state_root: Path) -> None:
    rows = [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows_of(archive.truth))]
    table = write_table(tmp_path / "table.csv", rows)
    result = extract(archive.peer.config(tmp_path), table, tmp_path / "out", "--info").ended(0, 3)
    accounts, found = series_of_lines(state_root)
    wrong, undecidable = [], 0
    for line, row in enumerate(rows, start=2):
        state, reason, wanted = accounts[line]["state"], accounts[line]["reason"], expected(archive, row)
        mangled = archive.peer.name == "orthanc" and not latin(row.get("PatientName", ""))
        if wanted is None or (mangled and state == "undecidable"):
            undecidable += 1
            good = state == "undecidable" and any(key in reason for key in row) and not found[line]
        else:
            good = found[line] == wanted and state == ("found" if wanted else "empty")
        if not good:
            more, less = (len(found[line] - wanted), len(wanted - found[line])) if wanted is not None else ("?", "?")
            wrong.append(f"{row}: {state}, {more} series too many, {less} missing; {reason}")
    assert not wrong, "\n".join(wrong)
    assert accounts.keys() == {*range(2, len(rows) + 2)}
    assert result.code == (3 if undecidable else 0)
    assert not files(tmp_path / "out")


def test_log_has_a_line_per_series_and_per_row_without_any(archive: Pacs, tmp_path: Path) -> None:
    rows = [{"PatientID": "KEYS", "Modality": "CT"}, {"PatientID": "nobody"}, {"PatientID": "TWINS"}]
    table = write_table(tmp_path / "table.csv", rows)
    log = extract(archive.peer.config(tmp_path), table, tmp_path / "out", "--info").ended(0).log
    assert tuple(log[0]) == ("PatientID", "Modality", *LOG_COLUMNS)
    series = [archive.truth.series(row) for row in rows]
    assert [line["PatientID"] for line in log] == ["KEYS"] * len(series[0]) + ["nobody"] + ["TWINS"] * len(series[2])
    assert {line["SeriesInstanceUID"] for line in log} == set.union({""}, *series)


def test_where_wildcards_are_characters_they_find_nobody_else(archive: Pacs, tmp_path: Path, state_root: Path) -> None:
    rows = [{"PatientID": "STAR*1"}, {"PatientID": "STAR?1"}, {"PatientName": "Star*"}]
    table = write_table(tmp_path / "table.csv", rows)
    command = ("--info", "--match", "exact")
    # Of names that have lost their letters, Orthanc cannot be asked for one with an asterisk in it.
    extract(archive.peer.config(tmp_path), table, tmp_path / "out", *command).ended(0, 3)
    accounts, found = series_of_lines(state_root)
    assert [accounts[line]["state"] for line in (2, 3)] == ["found", "empty"]
    assert accounts[4]["state"] == ("undecidable" if archive.peer.name == "orthanc" else "empty")
    (wanted,) = {i.series for i in archive.truth.instances if i.patient == "STAR*1"}
    assert [found[line] for line in (2, 3, 4)] == [{wanted}, set(), set()]


def test_info_dumps_hold_what_the_archive_answers(archive: Pacs, tmp_path: Path) -> None:
    """Umlauts, blanks and empty values come through whole; one dump per series, beside where its folder would be."""
    rows = [{"PatientID": patient} for patient in ("N1", "N11", "KEYS", "TWINS", "NODESC", "NODATE", "A-1", "A.1")]
    table = write_table(tmp_path / "table.csv", rows)
    extract(archive.peer.config(tmp_path), table, tmp_path / "out", "--info").ended(0)
    heads = {i.series: i for row in rows for i in archive.truth.of_series(archive.truth.series(row)).values()}
    dumps = list((tmp_path / "out").glob("sub-*/**/*.csv"))
    seen = set()
    for path in dumps:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.DictReader(stream))
        assert len(lines) == 1 and list(lines[0]) == DUMP
        head = heads[lines[0]["SeriesInstanceUID"]]
        seen.add(head.series)
        for key in DUMP:
            told = not (archive.peer.name == "dcmqrscp" and key in SILENT)
            # A series may hold images of two kinds; the archive tells of one of them.
            if key != "ImageType" or head.head.SeriesNumber != 4:
                assert lines[0][key] == ("\\".join(head.values(key)) if told else ""), key
    assert seen == heads.keys() and len(dumps) == len(heads)


def test_the_archives_hold_what_the_rows_need(archive: Pacs) -> None:
    """Guards the tests above against a cohort that lost its traps."""
    for row in (
        {"PatientID": "A-1"},
        {"PatientID": "A.1"},
        {"PatientName": "Müller"},
        {"AccessionNumber": "ACC0001"},
    ):
        assert archive.truth.series(row)
    assert len(archive.truth.series({"PatientName": "Müller", "PatientID": "N*"})) == 2
    assert len(archive.truth.series({"PatientID": "123421", "StudyDate": "20150512", "SeriesNumber": "2"})) >= 1
