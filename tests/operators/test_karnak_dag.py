"""Runs of the Karnak DAG through `dag.test()`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsifier_ops.pseudonyms.linkage import Linkage, Person
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, THEOBALD, ZEBEDAEUS, Airflow

pytestmark = pytest.mark.airflow

PEOPLE = {
    str(patient["patient_id"]): Person(f"KRNK{number}XQ", 4_711 + number)
    for number, patient in enumerate((KUNIGUNDE, ZEBEDAEUS, THEOBALD), 1)
}


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def test_a_folder_is_tagged_and_no_patient_is_in_airflows_home(airflow: Airflow, tmp_path: Path) -> None:
    files = airflow_home.build(airflow.data / "tree" / "sub-Wurzelbacher")
    conf = {"in_folder": "tree", "out_folder": "tagged", "album_name": "Knee", "project": "knees"}
    Linkage("knees").add({patient: person for patient, person in PEOPLE.items() if patient != THEOBALD["patient_id"]})
    refused = airflow.run_dag("pacsifier_karnak", **conf)
    assert refused.states["prepare"] == ["failed"] and not (airflow.data / "tagged").exists()

    Linkage("knees").add(PEOPLE)
    run = airflow.run_dag("pacsifier_karnak", **conf)
    assert (run.state, run.states) == (
        "success",
        {"prepare": ["success"], "tag": ["success"] * 4, "report": ["success"]},
    )
    assert sorted(run.labels["tag"]) == [f"series {number}, CT" for number in range(1, 5)]
    result = run.xcoms["report"][-1]
    assert (result["verdict"], result["tagged"], result["patients"]) == ("complete", len(files), 3)
    for path in files:
        image = dcmread(airflow.data / "tagged" / path.relative_to(airflow.data / "tree"))
        block, person = image.private_block(0x000B, "CHUV_DEV_TML"), PEOPLE[image.PatientID]
        assert [block[n].value for n in (1, 2, 3)] == [person.pseudonym, "Knee", str(person.shift)]

    assert all(airflow_home.simple(value) for values in run.xcoms.values() for value in values.values())
    words = airflow_home.identifiers(files) | {person.pseudonym for person in PEOPLE.values()}
    assert airflow_home.traces(tmp_path / "state", words)  # the search does find them in the state root
    assert airflow_home.traces(airflow.home, words) == []


def test_files_without_tags_fail_the_run_unless_incomplete_is_accepted(airflow: Airflow) -> None:
    cut = airflow_home.build(airflow.data / "tree")[0]
    cut.write_bytes(cut.read_bytes()[:-2])
    for name, values in (
        ("ids", {patient: person.pseudonym for patient, person in PEOPLE.items()}),
        ("days", {f"sub-{patient}": str(person.shift) for patient, person in PEOPLE.items()}),
    ):
        (airflow.data / f"{name}.json").write_text(json.dumps(values))
    conf = {"in_folder": "tree", "album_name": "Knee", "new_ids": "ids.json", "day_shift": "days.json"}
    run = airflow.run_dag("pacsifier_karnak", **conf)
    assert run.state == "failed" and run.states["tag"] == ["success"] * 4 and run.states["report"] == ["failed"]
    run = airflow.run_dag("pacsifier_karnak", **conf, accept_incomplete=True)
    result = run.xcoms["report"][-1]
    assert (run.state, result["tagged"], result["unchanged"], result["problems"]) == ("success", 0, 8, 1)
