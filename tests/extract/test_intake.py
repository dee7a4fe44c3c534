"""Intake of query tables: they are checked as a whole, kept under an opaque id, and shown as they were read."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from pyarrow import parquet

from pacsifier_ops.base.errors import ConfigError, StorageError
from pacsifier_ops.extract import intake
from pacsifier_ops.extract.arrival import rows_of
from pacsifier_ops.extract.requests import is_request_id, reading_options, table_path
from tests.support.disks import disk, mount


def take(data: str | bytes, **options: str) -> dict[str, Any]:
    """Return the answer to a table, after a check that it is plain JSON."""
    taken = intake.check_and_keep(data.encode() if isinstance(data, str) else data, options).as_json()
    return dict(json.loads(json.dumps(taken)))


def kept(state_root: Path) -> list[Path]:
    return [path for path in (state_root / "requests").rglob("*") if path.is_file() and path.name != "handed-in"]


def workbook(*rows: list[object]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def test_a_good_table_is_kept_unchanged_and_shown_as_it_was_read(state_root: Path) -> None:
    asks = "007;20200101-20200131;CT;sub7"
    data = f"PatientID;StudyDate;Modality;new_ids\n {asks}\n\n;;MR;\n{asks}\n"
    taken = take(data)
    assert taken["all_usable"] and not taken["problems"] and taken["columns"][0] == "PatientID"
    assert (taken["rows"], taken["bad_rows"], taken["repeated_rows"]) == (2, 0, 1)
    first, second = taken["preview"]
    assert first == {
        "line": 2,
        "keys": {"PatientID": "007", "StudyDate": "20200101-20200131", "Modality": "CT"},
        "beside": {},
        "new_id": "sub7",
    }
    assert second["keys"] == {"Modality": "MR"} and taken["repeats"] == [{"line": 5, "same_as": 2}]
    (warning,) = taken["warnings"]
    assert warning["lines"] == [4] and "large part of the archive" in warning["message"]
    assert is_request_id(taken["request"]) and table_path(taken["request"]).read_text() == data
    (path,) = kept(state_root)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


def test_what_a_row_says_beside_is_shown_as_it_was_read(state_root: Path) -> None:
    said = {"date_format": "DD.MM.YYYY", "columns": "PatientID = mrn, anchor_date = operation, row_id = case"}
    taken = take("mrn;operation;case;ward\n7;12.05.2015;K-1;A\n8;;;B\n", **said)
    assert taken["columns"] == ["PatientID", "anchor_date", "row_id"]
    assert [row["beside"] for row in taken["preview"]] == [{"anchor_date": "20150512", "row_id": "K-1"}, {}]


def test_options_for_reading_a_table_are_kept_with_it(state_root: Path) -> None:
    said = {"date_format": "DD.MM.YYYY", "match": "exact"}
    taken = take("Patient ID;StudyDate\nA*1;12.05.2015\n2;05/12/2015\n", **said, sheet="")
    assert taken["preview"] == [
        {"line": 2, "keys": {"PatientID": "A*1", "StudyDate": "20150512"}, "beside": {}, "new_id": ""}
    ]
    assert taken["notes"] == ["column 1 was read as PatientID"]
    [problem] = taken["problems"]
    assert (problem["line"], problem["column"], problem["value"]) == (3, "StudyDate", "05/12/2015")
    nothing: dict[str, Any] = dict.fromkeys(("sheet", "hidden_rows", "date_format", "match"))
    assert reading_options(taken["request"], nothing) == said
    # The params of a run have priority, and only requests keep options.
    assert reading_options(taken["request"], {**nothing, "match": "wildcards"}) == {**said, "match": "wildcards"}
    assert reading_options("queries/demo.csv", nothing) == {}
    assert reading_options(take("PatientID\n1\n")["request"], nothing) == {}
    assert [row.keys["StudyDate"] for row in rows_of(taken["request"], 2)] == ["20150512"]
    assert len(kept(state_root)) == 3
    with pytest.raises(ConfigError, match="match is none of wildcards, exact"):
        take("PatientID\n1\n", match="regex")


def test_workbooks_keep_their_kind() -> None:
    data = workbook(["PatientID", "StudyDate"], ["007", "20200101"], ["008", "2020"])
    taken = take(data)
    assert table_path(taken["request"]).suffix == ".xlsx" and table_path(taken["request"]).read_bytes() == data
    assert [(p["line"], p["column"]) for p in taken["problems"]] == [(3, "StudyDate")] and not taken["all_usable"]


@pytest.mark.parametrize(
    ("data", "line", "column", "words"),
    [
        (b"", 0, "", "is empty"),
        (b"\x89PNG\r\n\0\0", 0, "", "neither text nor"),
        (b"PK\x03\x04 and nothing more", 0, "", "cannot be read as an .xlsx workbook"),
        (b"PatientID,StudyDay\n1,2\n", 1, "column 2", "did you mean StudyDate?"),
        (b"PatientID,StudyDate\n1,yesterday\n", 2, "StudyDate", "write the date as YYYYMMDD"),
    ],
)
def test_a_table_without_usable_rows_is_reported_and_not_kept(
    data: bytes, line: int, column: str, words: str, state_root: Path
) -> None:
    taken = take(data)
    (problem,) = taken["problems"]
    assert taken["request"] is None and not taken["all_usable"] and not kept(state_root)
    assert (problem["line"], problem["column"]) == (line, column) and words in problem["message"]


def test_long_answers_are_cut_and_counted() -> None:
    bad = "".join(f"{number},yesterday\n" for number in range(700))
    good = "".join(f"{number},\n{number},\n" for number in range(1000, 1100))
    taken = take(f"PatientID,StudyDate\n{bad}{good}")
    assert (taken["problem_count"], len(taken["problems"])) == (700, intake.PROBLEMS_SHOWN)
    assert (taken["rows"], len(taken["preview"])) == (100, intake.SHOWN)
    assert (taken["repeated_rows"], len(taken["repeats"])) == (100, intake.SHOWN)


def test_a_too_large_table_is_not_read(state_root: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(intake.LARGEST_UNPACKED + 1))
    assert len(stream.getvalue()) < 100_000
    for data in (stream.getvalue(), b"PatientID\n" + bytes(intake.LARGEST)):
        (problem,) = take(data)["problems"]
        assert "is too large" in problem["message"]
    sheet = io.BytesIO()
    with zipfile.ZipFile(sheet, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"<row/>" * (intake.LINES + 1))
    rows = io.BytesIO()
    parquet.write_table(pa.table({"PatientID": ["1"] * (intake.LINES + 1)}), rows)
    for data in (b"PatientID\n" + b"1\n" * intake.LINES, sheet.getvalue(), rows.getvalue()):
        (problem,) = take(data)["problems"]
        assert "has too many lines; cut it into several tables of at most 200,000" in problem["message"]
    assert not kept(state_root)


def test_of_the_state_root_only_requests_need_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(tmp_path / "mounted"))
    with ExitStack() as stack:
        root = stack.enter_context(disk(tmp_path / "mounted", "mode=0700"))
        requests = stack.enter_context(disk(root / "requests", "mode=0700"))
        assert mount(root, "remount,ro")
        assert table_path(take("PatientID\n1\n")["request"]).exists()
        assert mount(requests, "remount,ro")
        with pytest.raises(StorageError, match="the state root: Read-only file system"):
            take("PatientID\n1\n")
