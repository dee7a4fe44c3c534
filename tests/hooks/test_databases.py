"""Query tables that come over a connection of Airflow to a database: PostgreSQL itself, and drivers that misbehave."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pacsifier_ops.base.errors import ConfigError, DatabaseFailed
from pacsifier_ops.onebox import postgres
from pacsifier_ops.onebox.postgres import Postgres
from pacsifier_ops.query.problems import TableRefused
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.query.table import read_query_table
from pacsifier_ops.runs.folder import Run
from tests.support import airflow_home
from tests.support.processes import started, until

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL with a table of operations."""
    with tempfile.TemporaryDirectory(prefix="pacsifier-") as folder:
        made, *_ = postgres.of_home(Path(folder))
        assert made
        with started(made.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            assert until(lambda: made.is_ready() or process.poll() is not None, pause=0.05) and made.is_ready()
            with connected(made) as connection:
                connection.execute(
                    "create table operations as select * from (values"
                    " ('007', 45322::numeric, date '2018-01-02', timestamptz '2018-01-02 00:00+00', 1.5::float8,"
                    " 4611::bigint),"
                    " ('008', 45323::numeric(12, 2), null, null, null, 9007199254740993))"
                    " as t(mrn, case_no, day, moment, weight, account)"
                )
            yield made


def connected(server: Postgres, **more: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(server.url.replace("+psycopg", ""), **more)


@pytest.fixture
def fetch(
    server: Postgres, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """Fetches a table by a query; `more` are arguments of the driver."""
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    from pacsifier_ops.hooks import databases

    monkeypatch.setenv("PACSIFIER_DATABASES", "omop ris")

    def fetched(query: str, **more: Any) -> Path:
        monkeypatch.setattr(
            databases, "_hook", lambda name: SimpleNamespace(get_conn=lambda: connected(server, **more))
        )
        (tmp_path / "query.sql").write_text(query)
        return databases.fetch_table(Run.fresh(), "omop", str(tmp_path / "query.sql"))

    return fetched


COLUMNS = "PatientID = mrn, row_id = case_no, anchor_date = day"


@pytest.mark.parametrize("more", [{}, {"row_factory": dict_row}])
def test_a_table_of_postgresql(fetch: Any, more: dict[str, Any]) -> None:
    path = fetch("select * from operations order by mrn;", **more)
    assert path.stat().st_mode & 0o777 == 0o600
    table = read_query_table(path, Reading(columns=COLUMNS, sql="query.sql", sql_conn="omop"))
    assert [(row.keys["PatientID"], row.row_id, row.anchor) for row in table.rows] == [
        ("007", "45322", "20180102"),
        ("008", "45323", ""),
    ]
    assert table.others == ("moment", "weight", "account")
    assert table.beside == {1: ("20180102", "1.5", "4611"), 2: ("", "", "9007199254740993")}
    table = read_query_table(path, Reading(columns="PatientID = mrn, anchor_date = moment"))
    assert table.rows[0].anchor == "20180102" and any("time zone" in note for note in table.notes)


@pytest.mark.parametrize(
    "query",
    [
        "delete from operations",
        "select 1; delete from operations",
        "with gone as (delete from operations returning *) select * from gone",
        "select * into other from operations",
        "-- select\nupdate operations set mrn = 'x'",
        "/* select */ truncate operations",
        "",
        "begin",
    ],
)
def test_what_is_more_than_one_select_is_not_sent(query: str, fetch: Any, server: Postgres) -> None:
    with pytest.raises(TableRefused, match="sql: "):
        fetch(query)
    with connected(server) as connection:
        assert connection.execute("select count(*) from operations").fetchone() == (2,)


def test_what_a_query_writes_all_the_same_is_rolled_back(fetch: Any, server: Postgres) -> None:
    with connected(server) as connection:
        connection.execute(
            "create or replace function clean() returns text language sql as"
            " $$ delete from operations; select 'x'::text $$"
        )
    assert fetch("select clean() as mrn").exists()
    with connected(server) as connection:
        assert connection.execute("select count(*) from operations").fetchone() == (2,)


@pytest.mark.parametrize(
    "query",
    [
        "select Mustermann from operations",
        "select mrn::int / 0 from operations",
        "select cast(mrn || 'Mustermann' as int) from operations",
    ],
)
def test_errors_of_the_driver_tell_their_kind_alone(query: str, fetch: Any) -> None:
    with pytest.raises(DatabaseFailed) as caught:
        fetch(query)
    assert "Mustermann" not in str(caught.value) and caught.value.__cause__ is not None


def test_connections_that_nobody_has_named(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_DATABASES", "other")
    with pytest.raises(ConfigError, match="none of the connections that query tables may come from"):
        fetch("select 1")


def test_connections_that_are_no_database(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    from pacsifier_ops.hooks import databases

    monkeypatch.setenv("AIRFLOW_CONN_ODD", '{"conn_type": "nothing_known"}')
    monkeypatch.setenv("AIRFLOW_CONN_NODE", '{"conn_type": "dicom"}')
    for name, why in (("odd", "knows no hook"), ("node", "is of no database"), ("missing", "there is no connection")):
        with pytest.raises(ConfigError, match=why):
            databases._hook(name)
