"""Runs of the study DAG through `dag.test()`."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.messages import outbox
from pacsifier_ops.state import audit
from tests.support import airflow_home
from tests.support.airflow_home import Airflow, DagRun

pytestmark = pytest.mark.airflow

STUDY = "pacsifier_study"


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def study(airflow: Airflow, **conf: Any) -> DagRun:
    given = {"queryfile": "table.csv", "project": "p", "source": "local", "release": "limit", **conf}
    return airflow.run_dag(STUDY, **given)


def test_a_small_cohort_from_the_archive_to_a_node(airflow: Airflow, tmp_path: Path) -> None:
    files = airflow_home.build(tmp_path / "pacs")
    airflow.table("PatientID\n*-*\n")
    with EmbeddedPacs() as pacs, EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "research") as node:
        pacs.add(files)
        airflow.connect(pacs)
        airflow.connect(node, "research")
        run = study(airflow, upload="research")
        assert run.state == "success"
    released = airflow.data / "studies" / "p" / "released"
    assert len(list(released.rglob("*.dcm"))) == len(files)
    told = {waits.message.about: waits.message for waits in outbox.waiting()}
    assert set(told) == {"released", "complete"} and {one.project for one in told.values()} == {"p"}
    assert told["complete"].counts["deidentified"] == len(files)
    assert told["released"].counts["new"] == len(files) + 8  # and its tables, card and linker
    key, extra = releases()
    assert key.startswith("p/20")
    assert (extra["project"], extra["new"]) == ("p", extra["files"])
    listed = Path(extra["new_files"]).read_text(encoding="utf-8").splitlines()
    assert {name for name in listed if name.endswith(".dcm")} == {
        str(path.relative_to(released)) for path in released.rglob("*.dcm")
    }


def test_who_may_take_de_identified_data_only_and_what_is_told_of_it(
    airflow: Airflow, tmp_path: Path, state_root: Path
) -> None:
    files = airflow_home.build(tmp_path / "pacs")
    airflow.table("PatientID\n*-*\n")
    people = {"owners": ["anna"], "ethics": "EC 2026-00123", "expires": "2999-12-31"}
    with EmbeddedPacs() as pacs, EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "research") as node:
        pacs.add(files)
        airflow.connect(pacs, may_take="dag_test", may_identified="nobody")
        airflow.connect(node, "research", may_send="dag_test", may_identified="dag_test")
        refused = study(airflow, karnak="research", album_name="knee", **people)
        assert refused.state == "failed" and refused.tasks["set_up"] == {-1: "failed"} and not pacs.peak_associations
        assert not list(state_root.glob("runs/*/stages.json"))  # nobody can go on by marking the step as a success
        run = study(airflow, upload="research", remove_identified="remove", **people)
        assert run.state == "success"
    lines = [json.loads(line) for line in (state_root / "audit" / "audit.jsonl").read_text().splitlines()]
    assert audit.verify().problem == ""
    assert [line["event"] for line in lines] == [
        "refused",
        "started",
        "approved",
        "released",
        "exported",
        "removing",
        "removed",
    ]
    no, started, approved, released, exported, removing, removed = lines
    assert (no["right"], no["connections"], no["by"]) == ("identified", ["pacs_default"], "dag_test")
    assert {name: started[name] for name in people} == people and started["by"] == "dag_test"
    assert started["connections"] == ["pacs_default", "research"]
    assert released["digest"] == approved["digest"] and released["by"] == "limits"
    assert (exported["to"], exported["objects"]) == ("research", len(files))
    assert removing["files"] == removed["files"] == len(files)
    assert len({line["run"] for line in (started, approved, released, removed)}) == 1
    assert airflow_home.traces(state_root / "audit", airflow_home.identifiers(files)) == []
    inside = (state_root / "runs" / started["run"] / "report.html").read_text()
    outside = (airflow.data / "studies" / "p" / "released" / "report" / "report.html").read_text()
    for report in (inside, outside):
        assert "anna" in report and "EC 2026-00123" in report and "2999-12-31" in report


@pytest.mark.slow
def test_a_study_of_what_one_archive_tells_and_another_gives(
    airflow: Airflow, tmp_path: Path, state_root: Path
) -> None:
    files = airflow_home.build(tmp_path / "pacs")
    airflow.table("PatientID\n*-*\n")
    with EmbeddedPacs() as index, EmbeddedPacs(aet="STORE") as store:
        for archive in (index, store):
            archive.add(files)
        airflow.connect(index, fetch_from="store", may_take="dag_test")
        airflow.connect(store, "store", may_take="anna")
        refused = study(airflow)
        assert refused.state == "failed" and refused.tasks["set_up"] == {-1: "failed"}
        assert not index.peak_associations and not store.peak_associations
        airflow.connect(store, "store", may_take="dag_test")
        assert study(airflow).state == "success"
        assert store.retrieves and not index.retrieves
    no, started, *_ = [json.loads(line) for line in (state_root / "audit" / "audit.jsonl").read_text().splitlines()]
    assert (no["event"], no["right"], "store" in no["connections"]) == ("refused", "take", True)
    assert started["connections"] == ["pacs_default", "store"]
    released = airflow.data / "studies" / "p" / "released"
    assert len(list(released.rglob("*.dcm"))) == len(files)


@pytest.mark.slow
def test_a_data_set_goes_straight_to_a_store_and_is_released_when_that_has_it(
    airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state_root: Path, capfd: Any
) -> None:
    files = airflow_home.build(tmp_path / "pacs")
    airflow.table("PatientID\n*-*\n")
    share = tmp_path / "share"
    connection = {"conn_type": "fs", "extra": {"path": str(share), "may_send": "dag_test", "may_identified": "nobody"}}
    monkeypatch.setenv("AIRFLOW_CONN_SHARE", json.dumps(connection))
    with EmbeddedPacs() as pacs, EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "research") as node:
        pacs.add(files)
        airflow.connect(pacs)
        airflow.connect(node, "research")
        nowhere = study(airflow, release_to="nowhere")
        assert nowhere.tasks["set_up"] == {-1: "failed"}
        told = capfd.readouterr().out
        assert "release_to: there is no connection nowhere; make one of type dicom, dicomweb, " in told
        refused = study(airflow, release_to="research")
        assert refused.tasks["set_up"] == {-1: "failed"} and not pacs.peak_associations
        before = releases()
        broken = study(airflow, release_to="share")  # the share is not mounted
        assert broken.state == "failed" and broken.tasks["set_up"] == {-1: "failed"} and not pacs.peak_associations
        assert "release_to: share: path is no folder, or it is not mounted" in capfd.readouterr().out
        assert releases() == before and not [one for one in outbox.waiting() if one.message.about == "released"]
        share.mkdir()
        none = study(airflow, release_to="share", release="nobody")
        assert none.tasks["release_to.prepare"] == none.tasks["release"] == {-1: "skipped"} and not any(share.iterdir())
        run = study(airflow, release_to="share", remove_identified="remove")
        assert run.state == "success"
    released = airflow.data / "studies" / "p" / "released"
    there = {path.relative_to(share).as_posix() for path in share.rglob("*") if path.is_file()}
    assert len([name for name in there if name.endswith(".dcm")]) == len(files)
    assert not list(released.rglob("*.dcm")) and (released / "series.csv").exists()
    assert not list((airflow.data / "studies" / "p" / "identified").rglob("*.dcm"))
    extra = releases()[1]
    assert {*Path(extra["new_files"]).read_text(encoding="utf-8").splitlines(), "manifest.jsonl"} == there
    told = [json.loads(line)["event"] for line in (state_root / "audit" / "audit.jsonl").read_text().splitlines()]
    assert told[-4:] == ["released", "exported", "removing", "removed"]


def releases() -> tuple[str, dict[str, Any]]:
    """Return partition key and content of the last event of the asset of all releases."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        of = select(AssetModel.id).where(AssetModel.name == "pacsifier_releases")
        events = select(AssetEvent.partition_key, AssetEvent.extra).where(AssetEvent.asset_id.in_(of))
        key, extra = session.execute(events.order_by(AssetEvent.id.desc())).first() or ("", {})
    return str(key), dict(extra)


@pytest.mark.slow
def test_a_cohort_of_a_database_and_its_linker(airflow: Airflow, tmp_path: Path, state_root: Path) -> None:
    files = airflow_home.build(tmp_path / "pacs")
    database = tmp_path / "hospital.db"
    patients = [airflow_home.KUNIGUNDE, airflow_home.ZEBEDAEUS, airflow_home.THEOBALD]
    with closing(sqlite3.connect(database)) as made, made:
        made.execute("create table operations (mrn text, fallnummer_xq integer, op_tag_xq date, operateur_xq text)")
        rows = [
            (one["patient_id"], 4711081500 + n, f"1994-01-0{n + 1}", "Sauerbruch-Xq") for n, one in enumerate(patients)
        ]
        made.executemany("insert into operations values (?, ?, ?, ?)", rows)
    (airflow.data / "operations.sql").write_text(
        "select mrn as PatientID, fallnummer_xq as row_id, replace(op_tag_xq, '-', '') as anchor_date, operateur_xq\n"
        "from operations -- of the ward Quarantaenestation\n"
    )
    (airflow.data / "broken.sql").write_text("select Sauerbruch_Xq from operations")
    (airflow.data / "changing.sql").write_text("delete from operations")
    connection = {"conn_type": "sqlite", "host": str(database)}
    columns = "PatientID = PatientID"
    with EmbeddedPacs() as pacs, pytest.MonkeyPatch.context() as patch:
        pacs.add(files)
        airflow.connect(pacs)
        patch.setenv("AIRFLOW_CONN_HOSPITAL", json.dumps(connection))
        asked = {"queryfile": None, "sql_conn": "hospital", "columns": columns}
        unnamed = airflow.run(sql="operations.sql", **asked)
        assert unnamed.tasks["prepare"] == {-1: "failed"}  # nobody has said that tables may come from it
        patch.setenv("PACSIFIER_DATABASES", "hospital")
        for name in ("broken.sql", "changing.sql"):
            assert airflow.run(sql=name, **asked).tasks["prepare"] == {-1: "failed"}
        run = study(airflow, sql="operations.sql", **asked)
        assert run.state == "success"
        with closing(sqlite3.connect(database)) as made:
            assert made.execute("select count(*) from operations").fetchone() == (3,)
    [home] = (state_root / "projects" / "p" / "data_sets").iterdir()
    linked = pd.read_parquet(home / "linker.parquet")
    assert {(line.row_id, line.anchor_date, line.operateur_xq) for line in linked.itertuples()} == {
        (str(row_id), day.replace("-", ""), who) for _, row_id, day, who in rows
    }
    assert sorted(linked.days) == [-8, -8, 88, 519]  # 24 December, 31 March, and 6 June of the year after
    # Neither values nor names of columns nor the query are in Airflow, or beside the data.
    words = {"Sauerbruch-Xq", "operateur_xq", "fallnummer_xq", "op_tag_xq", "Quarantaenestation", "Sauerbruch_Xq"}
    words |= {str(4711081500 + n) for n in range(3)} | airflow_home.identifiers(files)
    assert airflow_home.traces(airflow.home, words) == []
    assert airflow_home.traces(airflow.data / "studies" / "p" / "released", words) == []
    told = [path.read_text() for path in state_root.glob("runs/**/problems.txt")]
    assert sum("no such column" in text and "Sauerbruch_Xq" in text for text in told) == 1
