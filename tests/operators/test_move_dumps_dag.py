"""A run of the DAG that moves info dumps, through `dag.test()`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support import airflow_home
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def test_dumps_of_an_extraction_move_patient_by_patient(airflow: Airflow, tmp_path: Path) -> None:
    files = airflow_home.build(tmp_path / "pacs")
    airflow.table("PatientID\n*-*\n")
    with EmbeddedPacs() as pacs:
        pacs.add(files)
        airflow.connect(pacs)
        assert airflow.run().state == "success"
    run = airflow.run_dag("pacsifier_move_dumps", data_folder="out", info_folder="info")
    assert (run.state, run.states) == (
        "success",
        {"prepare": ["success"], "move": ["success"] * 3, "report": ["success"]},
    )
    assert run.labels["move"] == [f"patient {number}" for number in (1, 2, 3)]
    assert len(list((airflow.data / "info").rglob("0*.csv"))) == 4
    assert not list((airflow.data / "out").glob("sub-*/**/*.csv"))
    assert all(airflow_home.simple(value) for task in run.xcoms.values() for value in task.values())
    assert airflow_home.traces(airflow.home, airflow_home.identifiers(files)) == []
    assert airflow.run_dag("pacsifier_move_dumps", data_folder="../out").state == "failed"
