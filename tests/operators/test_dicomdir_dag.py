"""A run of the DICOMDIR DAG through `dag.test()`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.fileset import FileSet

from tests.support import airflow_home
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def run(**conf: Any) -> tuple[str, dict[str, list[str]], dict[str, list[Any]]]:
    """One run to its end: its state, the states of its tasks, and what they returned."""
    done = airflow_home.run_dag("pacsifier_dicomdir", **{"in_folder": "tree", "out_folder": "disc", **conf})
    return done.state, done.states, done.returned


def test_a_folder_becomes_a_file_set_and_nothing_of_it_is_in_airflows_home(airflow: Airflow, tmp_path: Path) -> None:
    files = airflow_home.build(airflow.data / "tree" / "sub-Wurzelbacher")
    state, states, returned = run(zip=True)
    single = {name: ["success"] for name in ("prepare", "assemble", "report")}
    assert (state, states) == ("success", {**single, "copy": ["success"] * 4})
    listed = {instance.SOPInstanceUID for instance in FileSet(airflow.data / "disc" / "DICOMDIR")}
    assert listed == {path.stem for path in files} and (airflow.data / "disc.zip").exists()
    assert all(airflow_home.simple(value) for values in returned.values() for value in values)
    assert returned["report"][0]["verdict"] == "complete" and returned["report"][0]["copied"] == len(files)
    words = airflow_home.identifiers(files)
    assert airflow_home.traces(tmp_path / "state" / "runs", words)  # the search does find them in the state root
    assert airflow_home.traces(airflow.home, words) == []


def test_missing_files_fail_the_run_and_a_folder_outside_the_data_root_is_refused(airflow: Airflow) -> None:
    cut = airflow_home.build(airflow.data / "tree")[0]
    cut.write_bytes(cut.read_bytes()[:300])
    state, states, _ = run()
    assert state == "failed" and states["assemble"] == ["success"] and states["report"] == ["failed"]
    state, states, _ = run(out_folder="../disc")
    assert state == "failed" and states["prepare"] == ["failed"]
