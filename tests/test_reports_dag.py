"""A run of the reports DAG through `dag.test()`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.phantoms import write
from tests import airflow_home
from tests.airflow_home import REPO, Airflow
from tests.test_reports import carestream, report, written

pytestmark = pytest.mark.airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def run(**conf: Any) -> tuple[str, dict[str, list[str]], list[Any]]:
    """One run to its end, no task tried twice: its state, the states of its tasks, and what they returned."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.xcom import XComModel
    from airflow.sdk.definitions.mappedoperator import MappedOperator
    from airflow.utils.session import create_session
    from sqlalchemy import select

    dag = DagBag(REPO / "dags").dags["pacsifier_reports"]
    for task in dag.tasks:
        kept: Any = task.partial_kwargs if isinstance(task, MappedOperator) else vars(task)
        kept["retries"] = 0
    done = dag.test(run_conf=conf)
    states: dict[str, list[str]] = {}
    for ti in sorted(done.get_task_instances(), key=lambda ti: ti.map_index):
        states.setdefault(ti.task_id, []).append(str(ti.state))
    with create_session() as session:
        xcoms = session.scalars(select(XComModel).where(XComModel.run_id == done.run_id)).all()
        returned = [XComModel.deserialize_value(xcom) for xcom in xcoms if xcom.key == "return_value"]
    return str(done.state), states, returned


def test_texts_lie_beside_their_objects_and_nothing_of_them_is_in_airflows_home(airflow: Airflow) -> None:
    said = "Wurzelbacher hat keine Beschwerden im Zwerchfell."
    files = write(
        [report(number, *carestream(f"{said} {number}"), PatientName="Wurzelbacher^Kunigunde") for number in (1, 2)],
        airflow.data / "tree" / "sub-Wurzelbacher",
    )
    state, states, returned = run(data_folder="tree")
    assert (state, states) == ("success", {"prepare": ["success"], "extract": ["success"] * 2, "report": ["success"]})
    assert {text.decode() for text in written(airflow.data / "tree").values()} == {f"{said} 1", f"{said} 2"}
    assert all(airflow_home.simple(value) for value in returned)
    words = airflow_home.identifiers(files) | airflow_home.words_of(said)
    assert airflow_home.traces(airflow.home, words - {"Clean_Report", "CarestreamPACSReports"}) == []

    files[0].write_bytes(files[0].read_bytes()[:-2])
    state, states, returned = run(data_folder="tree", out_folder="texts")
    assert state == "failed" and states["report"] == ["failed"] and len(written(airflow.data / "texts")) == 1
    assert run(data_folder="tree", out_folder="texts", accept_incomplete=True)[0] == "success"
    assert run(data_folder="../elsewhere")[0] == "failed"
