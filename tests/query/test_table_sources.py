"""Query tables from Parquet files and SQL queries, with types and a column map."""

from __future__ import annotations

import datetime as dt
import os
import pickle
import resource
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydicom import dcmread

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.embedded.phantoms import demo_cohort
from pacsifier_ops.onebox import omop
from pacsifier_ops.query.problems import TableRefused
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.query.table import QueryTable, parse_query_table, read_query_table
from pacsifier_ops.query.typed import write_rows
from tests.support.places import REPO


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(tmp_path / "state"))


def stored(folder: Path, **columns: Any) -> Path:
    """A Parquet file."""
    parquet.write_table(pa.table(columns), folder / "table.parquet")
    return folder / "table.parquet"


def database(folder: Path, *statements: str) -> Path:
    path = folder / "omop.duckdb"
    with duckdb.connect(str(path)) as made:
        for one in statements:
            made.execute(one)
    return path


def asked(folder: Path, text: str) -> str:
    """A file with a query."""
    (folder / "query.sql").write_text(text)
    return str(folder / "query.sql")


def keys(table: QueryTable) -> list[dict[str, str]]:
    assert not table.problems
    return [row.keys for row in table.rows]


def messages(table: QueryTable) -> list[tuple[int, str, str]]:
    return [(one.line, one.column, one.message) for one in table.problems]


def refused(path: Path, **options: str) -> str:
    with pytest.raises(TableRefused) as caught:
        read_query_table(path, Reading(**options))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return str(caught.value)


# Types


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array(["00045322", " 45322 ", "NA"]), ["00045322", "45322", "NA"]),
        (pa.array([45322, 2**63 - 1, 7], pa.int64()), ["45322", str(2**63 - 1), "7"]),
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        (pa.array([45322.0, float(2**53 - 1)]), ["45322", str(2**53 - 1)]),
        (pa.array([Decimal("45322.00"), Decimal("12345678901234567.00")]), ["45322", "12345678901234567"]),
        (pa.array(["00045322"]).dictionary_encode(), ["00045322"]),
        (pa.array(["00045322"], pa.large_string()), ["00045322"]),
    ],
)
def test_values_of_text(values: pa.Array, texts: list[str], tmp_path: Path) -> None:
    table = read_query_table(stored(tmp_path, PatientID=values))
    assert keys(table) == [{"PatientID": text} for text in texts]
    assert [row.line for row in table.rows] == list(range(1, len(texts) + 1))
    assert ["floating" in note for note in table.notes] == ([True] if values.type == pa.float64() else [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([float(2**53)]), "its last digits may be lost"),
        (pa.array([1e300]), "its last digits may be lost"),
        (pa.array([2.0**24], pa.float32()), "its last digits may be lost"),
        (pa.array([0.5]), "a number with a fraction"),
        (pa.array([float("nan")]), "no number"),
        (pa.array([float("inf")]), "no number"),
        (pa.array([-1]), "a negative number"),
        (pa.array([True]), "true or false"),
        (pa.array([dt.date(2018, 1, 2)]), "a date, and no text"),
        (pa.array([b"45322"]), "no value of a query"),
        (pa.array([["45322"]]), "no value of a query"),
        (pa.array([dt.timedelta(1)]), "no value of a query"),
        (pa.array(["45322.0"]), "a whole number with decimals"),
    ],
)
def test_values_that_are_no_id(values: pa.Array, message: str, tmp_path: Path) -> None:
    columns = {"PatientID": pa.concat_arrays([values, pa.nulls(1, values.type)]), "StudyDate": ["20180102"] * 2}
    table = read_query_table(stored(tmp_path, **columns))
    [(line, column, text)] = messages(table)
    assert (line, column) == (1, "PatientID") and message in text
    assert [row.keys for row in table.rows] == [{"StudyDate": "20180102"}]  # a null asks for nothing


MIDNIGHT, LATER = dt.datetime(2018, 1, 2), dt.datetime(2018, 1, 2, 10, 30)


@pytest.mark.parametrize(
    ("values", "day"),
    [
        (pa.array([dt.date(2018, 1, 2)]), "20180102"),
        (pa.array([dt.date(2018, 1, 2)], pa.date64()), "20180102"),
        (pa.array([MIDNIGHT], pa.timestamp("s")), "20180102"),
        (pa.array([MIDNIGHT], pa.timestamp("ns")), "20180102"),
        (pa.array([MIDNIGHT], pa.timestamp("us", "UTC")), "20180102"),
        # Midnight in Zurich, which is the day before in UTC.
        (pa.array([dt.datetime(2018, 1, 1, 23)], pa.timestamp("us", "Europe/Zurich")), "20180102"),
        (pa.array(["20180102"]), "20180102"),
        (pa.array([20180102]), "20180102"),
        (pa.array([20180102.0]), "20180102"),
    ],
)
def test_days(values: pa.Array, day: str, tmp_path: Path) -> None:
    path = stored(tmp_path, PatientID=["1"], StudyDate=values, anchor_date=values)
    table = read_query_table(path)
    assert keys(table) == [{"PatientID": "1", "StudyDate": day}] and table.rows[0].anchor == day
    zone = getattr(values.type, "tz", None)
    assert sum(f"the time zone {zone};" in note for note in table.notes) == (2 if zone else 0)


def test_moments_are_no_days(tmp_path: Path) -> None:
    zoned = pa.array([dt.datetime(2018, 1, 1, 23)], pa.timestamp("us", "UTC"))
    table = read_query_table(stored(tmp_path, PatientID=["1"], StudyDate=[LATER], anchor_date=zoned))
    assert [column for _, column, _ in messages(table)] == ["StudyDate", "anchor_date"]
    assert [text.partition(";")[0] for *_, text in messages(table)] == [
        "a date with a time of day",
        "a date with a time of day of the time zone UTC",
    ]


def test_times(tmp_path: Path) -> None:
    times = pa.array([dt.time(10, 15), dt.time(10, 15, 30, 250000)], pa.time64("ns"))
    table = read_query_table(stored(tmp_path, PatientID=["1", "2"], StudyTime=times))
    assert [row.keys["StudyTime"] for row in table.rows] == ["101500", "101530.250000"]
    table = read_query_table(stored(tmp_path, PatientID=["1"], StudyTime=[1500]))
    assert "hours and minutes (HHMM)" in table.rows[0].warnings[0]


def test_a_day_that_python_does_not_have_names_its_column_alone(tmp_path: Path) -> None:
    beyond = pa.array([10**18], pa.timestamp("us"))
    assert "column 2: cannot be read" in refused(stored(tmp_path, PatientID=["1"], StudyDate=beyond))


def test_damaged_files(tmp_path: Path) -> None:
    path = stored(tmp_path, PatientID=["Mustermann"])
    data = path.read_bytes()
    for damaged in (data[:-20], data[:4] + bytes(len(data) - 8) + data[-4:], b"PAR1"):
        path.write_bytes(damaged)
        assert "cannot be read as a Parquet file" in refused(path)
    path.write_bytes(data)
    assert "has no sheets" in refused(path, sheet="1")
    (tmp_path / "x.duckdb").write_bytes(bytes(8) + b"DUCK" + bytes(4000))
    assert "name with the option sql" in refused(tmp_path / "x.duckdb")
    assert "sql: " in refused(tmp_path / "x.duckdb", sql=asked(tmp_path, "select 1"))


def test_the_same_in_memory(tmp_path: Path) -> None:
    path = stored(tmp_path, PatientID=["007"])
    assert keys(parse_query_table(path.read_bytes())) == [{"PatientID": "007"}]
    made = database(tmp_path, "create table person as select '007' as mrn")
    sql = asked(tmp_path, "select mrn as PatientID from person")
    assert keys(parse_query_table(made.read_bytes(), Reading(sql=sql))) == [{"PatientID": "007"}]


# Column map

MAP = "PatientID = mrn, row_id = case_no, anchor_date = operation_date"


def test_a_column_map(tmp_path: Path) -> None:
    path = stored(
        tmp_path,
        mrn=["007", "008"],
        surgeon=["Dr. Who", None],
        case_no=[1, 2],
        Modality=["CT", "CT"],
        operation_date=[dt.date(2018, 1, 2), None],
        weight=[80.5, float("nan")],
    )
    table = read_query_table(path, Reading(columns=MAP))
    assert table.columns == ("PatientID", "row_id", "Modality", "anchor_date")
    assert keys(table) == [{"PatientID": "007", "Modality": "CT"}, {"PatientID": "008", "Modality": "CT"}]
    assert [(row.row_id, row.anchor) for row in table.rows] == [("1", "20180102"), ("2", "")]
    assert table.others == ("surgeon", "weight") and table.beside == {1: ("Dr. Who", "80.5"), 2: ("", "")}
    said = repr(table.notes)
    assert "2 further column(s)" in said and not {"surgeon", "weight", "mrn"} & set(said.replace("'", " ").split())


def test_a_column_map_of_text_and_workbooks(tmp_path: Path) -> None:
    import openpyxl

    path = tmp_path / "table"
    path.write_text("mrn;note;case_no;operation_date\n007;a, b;A-1;02.01.2018\n;x;A-2;\n")
    table = read_query_table(path, Reading(columns=MAP, date_format="DD.MM.YYYY"))
    assert [(row.keys, row.row_id, row.anchor) for row in table.rows] == [({"PatientID": "007"}, "A-1", "20180102")]
    assert table.beside == {2: ("a, b",), 3: ("x",)} and [line for line, *_ in messages(table)] == [3]
    book = openpyxl.Workbook()
    book.active.append(["notes of mine"])
    sheet = book.create_sheet()
    sheet.append(["mrn", "note", "case_no", "operation_date"])
    sheet.append(["007", None, 5, dt.date(2018, 1, 2)])
    book.save(tmp_path / "table.xlsx")
    table = read_query_table(tmp_path / "table.xlsx", Reading(columns=MAP))
    assert [(row.keys, row.row_id, row.anchor) for row in table.rows] == [({"PatientID": "007"}, "5", "20180102")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("PatientID", "pair 1 is not understood"),
        ("PatientID = ", "pair 1: nothing stands behind ="),
        ("PatientID = hospital, Patient = x", "pair 2: what stands before = is no column of ours"),
        ("PatientID = hospital, PatientID = x", "pair 2: PatientID is there twice"),
        ('PatientID = "hospital', "pair 1 is not understood"),
    ],
)
def test_a_column_map_that_is_none(columns: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("=", "[=]")) as caught:
        Reading(columns=columns)
    assert "hospital" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "header", "message"),
    [
        ("PatientID = Mustermann", "mrn", "pair 1 (PatientID) names a column that is not in the table"),
        ("PatientID = 3", "mrn,b", "pair 1 (PatientID) names a column that is not in the table"),
        ("PatientID = a", "A,a,b", ""),
        ("PatientID = a", "A,A,b", "names two columns"),
        ("PatientID = a, row_id = a", "a,b", "pair 2 (row_id) names the column of another pair"),
        ("row_id = a", "a,b", "no column is one to ask by"),
        ("PatientID = a", "a,accessionnumber", "column 2: spelled almost as AccessionNumber"),
        ("PatientID = a", "a,StudyDate,StudyDate", "StudyDate: there twice"),
        ("PatientID = a", "a,PatientID", ""),
        ('PatientID = "a, b"', '"a, b",c', ""),
        ("PatientID = 2", "x,y", ""),
        ("patient id = x", "x,y", ""),
    ],
)
def test_a_column_map_that_does_not_fit(columns: str, header: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(header + "\n" + ",".join("123456789"[: header.count(",") + 1 - header.count('"a')]) + "\n")
    if not message:
        assert len(keys(read_query_table(path, Reading(columns=columns)))) == 1
    else:
        text = refused(path, columns=columns)
        assert message in text and "Mustermann" not in text


def test_names_of_others_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("mrn,age,Age,,age,\n1,2,3,4,5,6\n")
    table = read_query_table(path, Reading(columns="PatientID=mrn"))
    assert table.others == ("age", "Age_2", "column 4", "age_3") or messages(table)


# SQL over files

COHORT = (
    "create table person as select * from (values (1, '007'), (2, '008'), (3, null)) as t(person_id, mrn)",
    "create table visit as select * from (values (1, date '2018-01-02'), (2, date '2019-05-05')) as t(person_id, day)",
)


def test_a_query_over_a_database(tmp_path: Path) -> None:
    path = database(tmp_path, *COHORT)
    sql = asked(
        tmp_path,
        "-- who; and when\nwith v as (select * from visit)\n"
        "select mrn, day, person_id from person join v using (person_id) order by 1;",
    )
    table = read_query_table(path, Reading(sql=sql, columns="PatientID = MRN, anchor_date = day, row_id = person_id"))
    assert [(r.line, r.keys["PatientID"], r.anchor, r.row_id) for r in table.rows] == [
        (1, "007", "20180102", "1"),
        (2, "008", "20190505", "2"),
    ]


def test_a_query_that_fails_tells_its_line_and_its_author_what_duckdb_says(tmp_path: Path) -> None:
    path = database(tmp_path, "CREATE TABLE person (mrn VARCHAR)")
    for text, told, said in (
        ("SELECT\n mrn AS PatientID\nFROMM person", "is no SQL that DuckDB understands, line 3;", "syntax error"),
        ("SELECT\n mnr AS PatientID\nFROM person", "names a column that is not there, or mixes types", "mnr"),
    ):
        with pytest.raises(TableRefused) as caught:
            read_query_table(path, Reading(sql=asked(tmp_path, text)))
        assert told in str(caught.value) and said not in str(caught.value)
        assert said in caught.value.shown()


def test_a_query_over_csv_and_parquet(tmp_path: Path) -> None:
    sql = asked(tmp_path, "select PatientID from source where kind = 'x'")
    (tmp_path / "table.csv").write_text("PatientID;kind\n007;x\n008;y\n")
    assert keys(read_query_table(tmp_path / "table.csv", Reading(sql=sql))) == [{"PatientID": "007"}]
    path = stored(tmp_path, PatientID=["007", "008"], kind=["x", "y"])
    assert keys(read_query_table(path, Reading(sql=sql))) == [{"PatientID": "007"}]


def test_sums_and_big_integers_of_a_query(tmp_path: Path) -> None:
    path = database(tmp_path, "create table t as select 9007199254740993::bigint as n")
    table = read_query_table(path, Reading(sql=asked(tmp_path, "select sum(n) as PatientID from t")))
    assert keys(table) == [{"PatientID": "9007199254740993"}]
    table = read_query_table(path, Reading(sql=asked(tmp_path, "select n::double as PatientID from t")))
    assert "last digits may be lost" in messages(table)[0][2]


SECRET = "Mustermann-4711"


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_text('{outside}')",
        "select * from '{outside}'",
        "select * from read_csv('{outside}', header = false)",
        "select * from read_blob('{folder}/*')",
        "select * from glob('{folder}/*')",
        "select * from read_csv('http://127.0.0.1:1/x.csv')",
        "select * from secret_view",
        "select * from sniff_csv('{outside}')",
        "select * from query('select * from read_text(''{outside}'')')",
        "select * from read_text('{beside}')",
        "select * from secrets",
        "copy person to '{folder}/stolen.csv'",
        "copy (select 1) to '{folder}/stolen.csv'",
        "attach '{outside}' as other",
        "install httpfs",
        "load '{outside}'",
        "set enable_external_access = true",
        "pragma enable_external_access = true",
        "export database '{folder}/stolen'",
        "create table person2 as select 1",
        "insert into person values (4, 'x')",
        "drop table person",
        "delete from person",
        "select 1 as PatientID; drop table person",
        "select 1 as PatientID; select * from read_text('{outside}')",
        "with x as (insert into person values (4, 'x') returning *) select * from x",
        "call pragma_version()",
        "explain select 1",
        "",
        "select '{secret}'::int as PatientID",
        "select nothing_{secret} from person",
        "select mrn::int as PatientID from names",
    ],
)
def test_a_query_reaches_nothing_but_its_table(query: str, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    outside, beside = folder / "secret.csv", tmp_path / "beside.csv"
    for path in (outside, beside):
        path.write_text(f"PatientID\n{SECRET}\n")
    made = database(
        tmp_path,
        *COHORT,
        f"create view secret_view as select content as PatientID from read_text('{outside}')",
        f"create table names as select '{SECRET}' as mrn",
    )
    before = {path for path in tmp_path.rglob("*") if path.name != "state"}, made.read_bytes()
    secrets = [SECRET]  # a variable of this program, by whose name a query could ask
    sql = asked(
        tmp_path, query.format(outside=outside, folder=folder, beside=beside, secret=secrets[0].replace("-", "_"))
    )
    text = refused(made, sql=sql)
    assert text.startswith("the query table cannot be used: sql: ") and "4711" not in text and str(folder) not in text
    after = {path for path in tmp_path.rglob("*") if path.name != "state"} - {Path(sql)}
    assert (after, made.read_bytes()) == before


def test_a_query_that_has_no_end_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacsifier_ops.query.sql._SECONDS", 1.0)
    made = database(tmp_path, "create table t as select range as n from range(100000)")
    assert "sql: " in refused(made, sql=asked(tmp_path, "select count(*) as PatientID from t a, t b, t c"))


def test_a_result_without_end_is_too_large(tmp_path: Path) -> None:
    made = database(tmp_path, "create table t as select 1 as n")
    assert "is too large" in refused(made, sql=asked(tmp_path, "select range as PatientID from range(100000000)"))


@pytest.mark.parametrize(
    "query",
    [
        "select repeat('x', 50000000) as PatientID from range(2000)",
        "select range(10000000) as PatientID from range(2000)",
        "select repeat('é', 3000000) as PatientID from range(200)",
    ],
)
def test_values_without_end_need_no_memory_of_ours(query: str, tmp_path: Path) -> None:
    """DuckDB's own limit of memory leaves them out; its process has one."""
    made = database(tmp_path, "create table t as select 1 as n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = refused(made, sql=asked(tmp_path, query))
    assert "is too large" in text or "memory" in text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20  # kB


@pytest.mark.parametrize("name", ["query.txt", "missing.sql", "folder.sql"])
def test_files_that_are_no_query(name: str, tmp_path: Path) -> None:
    (tmp_path / "query.txt").write_text("select 1 as PatientID")
    (tmp_path / "folder.sql").mkdir()
    assert "sql: " in refused(database(tmp_path, *COHORT), sql=str(tmp_path / name))


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="sql is missing"):
        Reading(sql_conn="research")
    with pytest.raises(ConfigError, match="leave sheet or sql out"):
        Reading(sql="a.sql", sheet="1")


# Rows of databases


def test_rows_of_a_database_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / "source.parquet"
    rows: list[list[Any]] = [
        ["007", 1, Decimal("45322"), dt.date(2018, 1, 2), 2**63, LATER.time()],
        [None, None, Decimal("2.5"), None, None, None],
    ]
    names = ["PatientID", "case_no", "StudyID", "StudyDate", "AccessionNumber", "StudyTime"]
    assert write_rows(path, names, [rows[:1], rows[1:]]) == 2 and path.stat().st_mode & 0o777 == 0o600
    table = read_query_table(path, Reading(columns="row_id = case_no", sql="a.sql", sql_conn="research"))
    assert [one[:2] for one in messages(table)] == [(1, "AccessionNumber"), (2, "StudyID")]  # 19 digits; a fraction
    assert table.bad_rows[0].cells == {
        **{"PatientID": "007", "row_id": "1", "StudyID": "45322", "StudyDate": "20180102"},
        **{"AccessionNumber": str(2**63), "StudyTime": "103000"},
    }


def test_mixed_types_of_a_column_stay_what_they_are(tmp_path: Path) -> None:
    # SQLite gives each value a type of its own.
    path = tmp_path / "source.parquet"
    write_rows(path, ["PatientID"], [[["007"], [45322], [45322.0], [9007199254740993], [None]]])
    table = read_query_table(path)
    assert [row.keys["PatientID"] for row in table.rows] == ["007", "45322", "9007199254740993"]
    assert [line for line, *_ in messages(table)] == [3]


def test_a_hundred_thousand_rows_need_little_memory(tmp_path: Path) -> None:
    many = 100_000
    stored(
        tmp_path,
        mrn=[f"{n:08}" for n in range(many)],
        case_no=list(range(many)),
        day=[dt.date(2018, 1, 1) + dt.timedelta(n % 999) for n in range(many)],
        **{f"more_{n}": ["something"] * many for n in range(5)},
    )
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pacsifier_ops.query.reading import Reading\n"
        "from pacsifier_ops.query.table import read_query_table\n"
        "reading = Reading(columns='PatientID = mrn, row_id = case_no, anchor_date = day')\n"
        "table = read_query_table(Path(sys.argv[1]), reading)\n"
        # Not ru_maxrss, which counts the process that this one was started from.
        "status = Path('/proc/self/status').read_text().splitlines()\n"
        "print(len(table.rows), next(int(line.split()[1]) for line in status if 'VmHWM' in line) // 1024)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    arguments = [sys.executable, "-c", program, str(tmp_path / "table.parquet")]
    rows, megabytes = map(
        int, subprocess.run(arguments, env=environment, capture_output=True, check=True).stdout.split()
    )
    assert rows == many and megabytes < 700


# The example of an OMOP database


def test_the_omop_example_names_the_patients_and_studies_of_the_demonstration(tmp_path: Path) -> None:
    omop.make(tmp_path / "omop.duckdb")
    archive = [dcmread(path, stop_before_pixels=True) for path in demo_cohort(tmp_path / "pacs")]
    patients = {str(image.PatientID) for image in archive}
    studies = {(str(image.PatientID), str(image.StudyInstanceUID)) for image in archive}
    folder = REPO / "include" / "omop"
    reading = Reading(sql=str(folder / "operations.sql"), columns="PatientID = PatientID")
    table = read_query_table(tmp_path / "omop.duckdb", reading)
    assert {row.keys["PatientID"] for row in table.rows} - patients == {"700001"} and not table.problems
    assert all(row.anchor and row.row_id for row in table.rows) and len(table.rows) == 11
    assert table.others == ("operation", "ward", "about_years_old")
    table = read_query_table(tmp_path / "omop.duckdb", Reading(sql=str(folder / "images.sql")))
    assert {(row.keys["PatientID"], row.keys["StudyInstanceUID"]) for row in table.rows} <= studies
    assert len(table.rows) == 4  # three of the series are of a study with another one
    with duckdb.connect(str(tmp_path / "omop.duckdb"), read_only=True) as made:
        series = made.execute("select image_series_uid from image_occurrence").fetchall()
    assert {uid for (uid,) in series} <= {str(image.SeriesInstanceUID) for image in archive}


def test_small_files_of_much_are_too_large(tmp_path: Path) -> None:
    # A dictionary has a long value once, and nulls and lists of one number take no room at all.
    again = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), ["x" * 100_000])
    for columns in ({"PatientID": again}, {f"c{number}": pa.nulls(30_000) for number in range(900)}):
        assert "is too large" in refused(stored(tmp_path, **columns))
    many = pa.ListArray.from_arrays(pa.array([0, 30_000_000], pa.int32()), pa.nulls(30_000_000, pa.int8()))
    assert "is too large" in refused(stored(tmp_path, PatientID=["1"], more=many), columns="PatientID = PatientID")
    with pytest.raises(TableRefused, match="is too large"):
        write_rows(tmp_path / "rows.parquet", ["c"] * 900, [[(None,) * 900] * 10_000] * 3)


def test_categories_are_the_values_that_they_stand_for(tmp_path: Path) -> None:
    texts = pa.array(["1", None, "1", "02"]).dictionary_encode()
    dates = pa.array([dt.date(1899, 1, 2), dt.date(1899, 1, 2), None, dt.date(2020, 1, 1)]).dictionary_encode()
    assert keys(read_query_table(stored(tmp_path, PatientID=texts, StudyDate=dates))) == [
        {"PatientID": "1", "StudyDate": "18990102"},
        {"StudyDate": "18990102"},
        {"PatientID": "1"},
        {"PatientID": "02", "StudyDate": "20200101"},
    ]


@pytest.mark.parametrize("name", ["cases[1].csv", "case?.csv", "c*.csv", "o'neill [2].csv"])
def test_names_of_files_are_no_patterns(name: str, tmp_path: Path) -> None:
    (tmp_path / "cases1.csv").write_text("PatientID\nother\n")
    (tmp_path / name).write_text("PatientID\n007\n")
    reading = Reading(sql=asked(tmp_path, "select * from source"))
    assert keys(read_query_table(tmp_path / name, reading)) == [{"PatientID": "007"}]


def test_a_long_column_map_is_read_at_once() -> None:
    for text in ("PatientID=" + " " * 1_000_000 + '"x', "PatientID=" + " " * 1_000_000 + "x=", "," * 1_000_000):
        with pytest.raises(ConfigError, match="pair 1 is not understood"):
            Reading(columns=text)
    pairs = Reading(columns='PatientID = "a, ""b"" c" , row_id = 2 ;StudyDate=x\nnew_ids = y\n').map
    assert [(pair.ours, pair.theirs) for pair in pairs] == [
        ("PatientID", 'a, "b" c'),
        ("row_id", "2"),
        ("StudyDate", "x"),
        ("new_ids", "y"),
    ]
