"""Runs of the DAG that converts to NIfTI, through `dag.test()`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import airflow_home, scans
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def run(**conf: Any) -> tuple[str, dict[str, list[str]], dict[str, list[Any]]]:
    """One run to its end: its state, the states of its tasks, and what they returned."""
    done = airflow_home.run_dag("pacsifier_convert", **{"in_folder": "out", "out_folder": "nii", **conf})
    return done.state, done.states, done.returned


def test_a_deidentified_folder_becomes_a_bids_data_set(airflow: Airflow, tmp_path: Path) -> None:
    images = [*scans.ct(), *scans.t1w()]
    scans.deidentified(images, airflow.data)
    state, states, returned = run(layout="bids")
    single = {name: ["success"] for name in ("prepare", "assemble", "report")}
    assert (state, states) == ("success", {**single, "convert": ["success"] * 2})
    assert {Path(name).name for name in scans.names(airflow.data / "nii") if name.endswith(".nii.gz")} and (
        len(list((airflow.data / "nii" / "bids").rglob("*.nii.gz"))) == 2
    )
    assert all(airflow_home.simple(value) for values in returned.values() for value in values)
    assert returned["report"][0]["verdict"] == "complete" and returned["report"][0]["images"] == 2
    for trace in (scans.PATIENT, "Wurzelbacher"):
        assert airflow_home.traces(airflow.home, [trace]) == []
    # a night with nothing new: nothing is mapped, and all is still there
    state, states, returned = run(layout="bids")
    assert state == "success" and states["assemble"] == ["success"] and returned["assemble"][0]["published"] == 2


def test_identified_data_is_refused_and_a_failed_series_fails_the_run(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow_home.build(airflow.data / "tree")
    state, states, _ = run(in_folder="tree")
    assert state == "failed" and states["prepare"] == ["failed"]
    source = scans.deidentified(scans.ct(), airflow.data)
    victim = next(source.rglob("00001-*")) / sorted(path.name for path in next(source.rglob("00001-*")).iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:-10])
    state, states, _ = run()
    assert state == "failed" and states["assemble"] == ["success"] and states["report"] == ["failed"]
