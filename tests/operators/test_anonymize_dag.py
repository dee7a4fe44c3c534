"""Runs of the de-identification DAG through `dag.test()`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from pacsifier_ops.pseudonyms.linkage import Linkage
from pacsifier_ops.pseudonyms.secret import project_secret
from tests.support import airflow_home
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow

PSEUDONYM = "KRYPTONYM-8841"


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def run(**conf: Any) -> tuple[str, dict[str, list[str]], dict[str, list[Any]]]:
    """One run to its end: its state, the states of its tasks, and what they returned."""
    done = airflow_home.run_dag("pacsifier_anonymize", **{"in_folder": "tree", **conf})
    return done.state, done.states, done.returned


def test_a_folder_is_deidentified_and_no_patient_is_in_airflows_home(airflow: Airflow, tmp_path: Path) -> None:
    files = airflow_home.build(airflow.data / "tree" / "sub-Wurzelbacher")
    (airflow.data / "ids.json").write_text(json.dumps({airflow_home.THEOBALD["patient_id"]: PSEUDONYM}))
    files[-1].write_bytes(files[-1].read_bytes()[:-2])
    state, states, returned = run(new_ids="ids.json", project="study")
    assert (state, states) == (
        "success",
        {"prepare": ["success"], "deidentify": ["success"] * 4, "report": ["success"]},
    )
    told = returned["report"][0]
    assert (told["verdict"], told["deidentified"], told["quarantined"]) == ("complete", len(files) - 1, 1)
    assert all(airflow_home.simple(value) for values in returned.values() for value in values)
    results = [dcmread(path) for path in (airflow.data / "deidentified").rglob("*.dcm")]
    people = Linkage("study").people().given
    assert len(results) == len(files) - 1 and {str(image.PatientID) for image in results} <= {
        person.pseudonym for person in people.values()
    }
    words = airflow_home.identifiers(files) | {PSEUDONYM, *(person.pseudonym for person in people.values())}
    words |= {str(image.SOPInstanceUID) for image in results} | {project_secret("study")._key.hex()}
    assert airflow_home.traces(tmp_path / "state", words)  # the search does find them in the state root
    assert airflow_home.traces(airflow.home, words) == []

    state, _, again = run(new_ids="ids.json", project="study")
    assert state == "success" and sum(unit["present"] for unit in again["deidentify"]) == len(files) - 1


def test_contradicting_sources_end_the_run_at_the_first_task(
    airflow: Airflow, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = airflow_home.build(airflow.data / "tree")
    (airflow.data / "ids.json").write_text(json.dumps({airflow_home.THEOBALD["patient_id"]: PSEUDONYM}))
    (airflow.data / "tree" / "new_id.txt").write_text("ANOTHER-KRYPTONYM")
    state, states, _ = run(new_ids="ids.json")
    assert state == "failed" and states["deidentify"] == ["upstream_failed"]
    assert "new_id.txt" in capfd.readouterr().out and not (airflow.data / "deidentified").exists()
    words = airflow_home.identifiers(files) | {PSEUDONYM, "ANOTHER-KRYPTONYM"}
    assert airflow_home.traces(airflow.home, words) == []


def test_paths_that_lead_outside_and_unknown_params_are_refused(
    airflow: Airflow, capfd: pytest.CaptureFixture[str]
) -> None:
    airflow_home.build(airflow.data / "tree")
    for conf, said in (
        ({"out_folder": "../elsewhere"}, "out_folder: the path leads outside the data root"),
        ({"profile": "../profile.yaml"}, "profile: the path leads outside the data root"),
        ({"fuzz_dates": True}, "did you mean fuzz_acq_dates?"),
    ):
        assert run(**conf)[0] == "failed" and said in capfd.readouterr().out
