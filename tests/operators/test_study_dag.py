"""Runs of the study DAG through `dag.test()`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    assert told["released"].counts["new"] == len(files) + 6  # and its tables and card
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
