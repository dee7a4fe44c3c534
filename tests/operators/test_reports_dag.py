"""A run of the reports DAG through `dag.test()`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.phantoms import write
from tests.handover.test_reports import carestream, report, written
from tests.support import airflow_home
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def run(**conf: Any) -> tuple[str, dict[str, list[str]], list[Any]]:
    """One run to its end: its state, the states of its tasks, and what they returned."""
    done = airflow_home.run_dag("pacsifier_reports", **conf)
    return done.state, done.states, [value for values in done.returned.values() for value in values]


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
