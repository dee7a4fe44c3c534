"""Runs of the study DAG through `dag.test()`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.messages import outbox
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
    assert told["released"].counts["new"] == len(files) + 2  # and its manifest
