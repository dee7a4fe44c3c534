"""Tables as CSV and Parquet. Most cases went wrong for others: project and number of the public report are given."""

from __future__ import annotations

import csv
import gc
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from pacsifier_ops.base import tables
from pacsifier_ops.base.tables import BOOLEAN, INTEGER, TEXT, parquet_of, write_table
from pacsifier_ops.deid import books as deid_books
from pacsifier_ops.handover import reports
from pacsifier_ops.pseudonyms.steps import LOG_COLUMNS as PSEUDONYM_COLUMNS
from pacsifier_ops.query.keys import COLUMNS as QUERY_COLUMNS
from pacsifier_ops.runs.books import LOG_COLUMNS
from pacsifier_ops.study import handover
from pacsifier_ops.study import report as manager

COLUMNS = {"PatientID": TEXT, "Expected": INTEGER, "Completed": BOOLEAN, "Reason": TEXT}
TYPES = {"PatientID": "string", "Expected": "int64", "Completed": "bool", "Reason": "string"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def written(path: Path, *rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The rows of a table as its Parquet file has them."""
    write_table(path, COLUMNS, rows)
    return [tuple(row.values()) for row in parquet.read_table(parquet_of(path)).to_pylist()]


def cells_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))[1:]


@pytest.mark.parametrize(
    "text",
    [
        "00123",  # molgenis-service-armadillo #1029: ids lost their zeros
        "1e5",
        "NA",  # a name of somebody, and pandas' word for nothing
        "16500101",  # pandas #47832: nanoseconds begin in 1677
        "20150512-20150612",
        " P1 ",
        "Müller^Kunigunde=山田",
        "a\0b\r\nc",
    ],
)
def test_text_of_others_stays_as_it_is(text: str, path: Path) -> None:
    assert written(path, (text, 1, True, "")) == [(text, 1, True, None)]
    (read,) = pandas.read_parquet(parquet_of(path)).PatientID
    assert read == text


@pytest.mark.parametrize("text", ["=1+2", "-rf", "@SUM(A1)", "'=1"])
def test_the_guard_against_formulas_is_for_spreadsheets_only(text: str, path: Path) -> None:
    """tableExport.jquery.plugin #296: programs read the guard as part of the value."""
    assert written(path, (text, -3, True, ""))[0][:2] == (text, -3)
    assert cells_of(path) == [[f"'{text}", "-3", "True", ""]]


def test_numbers_stay_whole_where_some_are_missing(path: Path) -> None:
    """pipelinewise-target-snowflake #404: they became floats, and were rounded."""
    written(path, ("P1", 2**63 - 1, None, ""), ("P2", None, False, ""), ("P3", "", True, ""))
    read = pandas.read_parquet(parquet_of(path))
    assert read.dtypes.astype(str).to_dict() == COLUMNS
    assert read.Expected[0] == 2**63 - 1 and read.Expected.isna().tolist() == [False, True, True]
    assert read.Completed.isna().tolist() == [True, False, False]


def test_nothing_is_null_in_every_column(path: Path) -> None:
    """polars #14638: nulls came back as empty texts."""
    assert written(path, ("", "", "", None)) == [(None, None, None, None)] and cells_of(path) == [["", "", "", ""]]


def test_the_types_of_columns_do_not_depend_on_rows(path: Path) -> None:
    """arrow #2110, duckdb #9608, fink-client #234: a column without values had another type; tables did not join."""
    one, two, three = (path.with_name(f"{number}.csv") for number in range(3))
    written(one), written(two, (None, None, None, None)), written(three, ("P1", 1, True, "x"))
    schemas = [parquet.read_schema(parquet_of(each)) for each in (one, two, three)]
    assert all({field.name: str(field.type) for field in schema} == TYPES for schema in schemas)
    assert schemas[0].equals(schemas[1], check_metadata=True) and schemas[1].equals(schemas[2], check_metadata=True)
    joined = pyarrow.concat_tables(parquet.read_table(parquet_of(each)) for each in (one, two, three))
    frame = pandas.concat(pandas.read_parquet(parquet_of(each)) for each in (one, two, three))
    assert joined.num_rows == len(frame) == 2 and frame.dtypes.astype(str).to_dict() == COLUMNS


def test_a_text_column_takes_whatever_it_gets(path: Path) -> None:
    """arrow #43298: a number among texts ended the export."""
    assert written(path, ("P1", 1, True, 46), (17, 1, True, "x")) == [("P1", 1, True, "46"), ("17", 1, True, "x")]


@pytest.mark.parametrize("value", ["False", "0", 0, 2])
def test_what_is_no_boolean_is_not_taken_for_one(value: object, path: Path) -> None:
    with pytest.raises(ValueError, match="booleans"):
        written(path, ("P1", 1, value, ""))


def test_what_is_no_utf8_does_not_end_the_export(path: Path) -> None:
    """questdb #7191: one surrogate lost the whole table."""
    assert written(path, ("M\udcfcller", 1, True, "\ud800"), ("P2", 2, True, "")) == [
        ("M?ller", 1, True, "?"),
        ("P2", 2, True, None),
    ]
    assert cells_of(path) == [["M?ller", "1", "True", "?"], ["P2", "2", "True", ""]]


def test_equal_rows_give_equal_bytes(path: Path) -> None:
    """arrow #40202: a data set is known by its digest."""
    written(path, ("P1", 1, True, "x"))
    first = parquet_of(path).read_bytes()
    written(path, ("P1", 1, True, "x"))
    assert parquet_of(path).read_bytes() == first


def test_no_two_columns_differ_in_case_only() -> None:
    """duckdb #13053: such a table could not be read."""
    queried = dict.fromkeys(QUERY_COLUMNS, TEXT)
    log = {**LOG_COLUMNS, "PACS": TEXT}
    for columns in (
        {**queried, **log},
        {"Folder": TEXT, **log},
        {**queried, **PSEUDONYM_COLUMNS},
        {**queried, **manager.ROW_COLUMNS},
        manager.SERIES_COLUMNS,
        handover.SERIES_COLUMNS,
        deid_books._COLUMNS,
        reports._COLUMNS,
    ):
        assert len({name.lower() for name in columns}) == len(columns)


def test_both_files_are_whole_and_protected(path: Path, tmp_path: Path) -> None:
    written(path, ("P1", 1, True, "x"))
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    assert {stat.S_IMODE(each.stat().st_mode) for each in before} == {0o600} and len(before) == 2

    def failing() -> Iterator[tuple[Any, ...]]:
        yield "P2", 2, True, ""
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_table(path, COLUMNS, failing())
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
    (tmp_path / "scratch").mkdir()
    write_table(path, COLUMNS, [], 0o444, tmp_path / "scratch")
    assert {stat.S_IMODE(each.stat().st_mode) for each in before} == {0o444}


def test_a_row_with_too_few_values_is_refused(path: Path) -> None:
    with pytest.raises(ValueError):
        written(path, ("P1", 1, True))
    assert not list(path.parent.iterdir())


def test_a_large_table_is_never_in_memory_as_a_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", 1000)
    write_table(path, COLUMNS, [])  # so that imports do not count
    most, alive = 0, 0

    class Row(tuple[Any, ...]):
        def __new__(cls, *values: Any) -> Row:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, values)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    write_table(path, COLUMNS, (Row(f"P{number}", number, True, "") for number in range(20_000)))
    gc.collect()
    assert most <= 2001 and parquet.read_metadata(parquet_of(path)).num_rows == 20_000
    assert parquet.read_table(parquet_of(path)).column("Expected").to_pylist() == [*range(20_000)]


def test_duckdb_reads_the_same(path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    rows = [("00123", 1, True, "Müller"), ("=1+2", None, False, None)]
    assert written(path, *rows) == rows
    told = duckdb.sql(f"SELECT * FROM '{parquet_of(path)}'")
    assert told.fetchall() == rows and list(map(str, told.types)) == ["VARCHAR", "BIGINT", "BOOLEAN", "VARCHAR"]


def test_tables_are_known_without_what_writes_them() -> None:
    code = (
        "import sys, pacsifier_ops.study.report, pacsifier_ops.deid.books, pacsifier_ops.runs.books\n"
        "print({'pandas', 'pyarrow'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_table_is_written_without_pandas(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pacsifier_ops.base.tables import TEXT, write_table\n"
        f"write_table(Path({str(path)!r}), {{'name': TEXT}}, [('x',)]); print('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
