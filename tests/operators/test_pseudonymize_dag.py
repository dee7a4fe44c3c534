"""Runs of the pseudonymization DAG through `dag.test()`, against a De-ID service over TLS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.authority import Authority
from pacsifier_ops.embedded.deid_server import DeidServer
from pacsifier_ops.pseudonyms.linkage import Linkage
from pacsifier_ops.pseudonyms.secret import project_secret
from tests.support import airflow_home, deid_faults
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow

#: These values occur nowhere else in the searched home.
PATIENTS = [f"HJK-4471{number:02d}-QW" for number in range(12)]
TABLE = "PatientID,StudyDate\n" + "".join(f"{patient},20200101\n" for patient in PATIENTS)
TOKEN = "vN7-token-of-the-De-ID-service-x4Lq"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@pytest.fixture
def service(authority: Authority) -> Iterator[DeidServer]:
    tls = authority.issue("server", "127.0.0.1").context(ssl.Purpose.CLIENT_AUTH)
    with DeidServer(tls, TOKEN) as running:
        yield running


@pytest.fixture
def airflow(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    authority: Authority,
    service: DeidServer,
) -> Airflow:
    entered = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    extra = {"ca": str(authority.path), "batch_size": 5, "retry_wait": 0.01, "read_timeout": 0.5}
    connection = {"conn_type": "deid_api", "host": service.url, "password": TOKEN, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_DEID_DEFAULT", json.dumps(connection))
    entered.table(TABLE)
    return entered


def run(**conf: Any) -> tuple[str, dict[str, list[str]]]:
    """One run to its end: its state, and the states of its tasks."""
    done = airflow_home.run_dag("pacsifier_pseudonymize", **{"queryfile": "table.csv", **conf})
    return done.state, done.states


def leaked(home: Path, project: str, *more: str) -> list[str]:
    """Return the places in Airflow's home with a patient, a pseudonym or a secret of a project."""
    people = Linkage(project).people().given
    return airflow_home.traces(home, [TOKEN, *more, *PATIENTS, *(person.pseudonym for person in people.values())])


def test_every_patient_is_asked_for_once_and_linked(airflow: Airflow, service: DeidServer) -> None:
    state, tasks = run(project="study")
    assert state == "success" and tasks["pseudonymize"] == ["success"] * 3  # batches of 5
    assert [call.path.endswith("_shift") for call in service.calls] == [False, True] * 3
    assert sorted(patient for call in service.calls[::2] for patient in call.patients) == PATIENTS
    people = Linkage("study").people()
    assert len(people.given) == 12 and all(people.of(patient) for patient in PATIENTS)
    log = (Linkage("study").folder / "log_get_pseudonyms.csv").read_text().splitlines()
    assert len(log) == 13 and log[0] == "PatientID,StudyDate,NewPseudonym,DayShift"
    assert leaked(airflow.home, "study") == []

    airflow.table(TABLE + "HJK-447199-QW,\n")
    state, tasks = run(project="study")
    assert (
        state == "success"
        and service.calls[6:]
        and {call.patients for call in service.calls[6:]} == {("HJK-447199-QW",)}
    )
    before = len(service.calls)
    state, tasks = run(project="study")  # all patients are linked: no request is sent
    assert state == "success" and tasks["pseudonymize"] == ["skipped"] and len(service.calls) == before


@pytest.mark.parametrize("faults", deid_faults.faults(PATIENTS).values(), ids=deid_faults.faults(PATIENTS))
def test_errors_of_the_service_lose_no_data_and_reveal_no_patient(
    airflow: Airflow, service: DeidServer, faults: dict[str, Any]
) -> None:
    for name, value in faults.items():
        setattr(service.faults, name, value)
    state, tasks = run(project="faulty")
    assert state == "failed" and "failed" in tasks["pseudonymize"]
    assert leaked(airflow.home, "faulty") == []
    kept = dict(Linkage("faulty").people().given)
    assert set(kept) <= set(PATIENTS[:10])  # of batches without an error

    service.faults = type(service.faults)()
    state, _ = run(project="faulty")
    assert state == "success"
    people = Linkage("faulty").people()
    assert len(people.given) == 12 and all(people.given[patient] == kept[patient] for patient in kept)


def test_a_changed_answer_is_an_error_and_changes_nothing(airflow: Airflow, service: DeidServer) -> None:
    assert run(project="study")[0] == "success"
    linkage = Linkage("study")
    kept = linkage.new_ids.read_bytes()
    linkage.day_shifts.unlink()  # like a backup that was restored in part: all patients are asked for again
    service.faults.pseudonyms = {PATIENTS[3]: "D999999999999"}
    state, tasks = run(project="study")
    assert state == "failed" and tasks["pseudonymize"] == ["failed", "success", "success"]
    assert linkage.new_ids.read_bytes() == kept
    assert leaked(airflow.home, "study", "D999999999999") == []


@pytest.mark.parametrize(("project", "connection"), [("kept", "KEPT"), ("kept here", "KEPT:HERE")])
def test_the_projects_secret_may_be_kept_in_airflow(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, project: str, connection: str
) -> None:
    secret = "c0ffee" * 12
    kept = {"conn_type": "generic", "password": secret}
    monkeypatch.setenv(f"AIRFLOW_CONN_PACSIFIER_PROJECT_{connection}", json.dumps(kept))
    assert run(project=project, source="local")[0] == "success"
    assert not (Linkage(project).folder / "secret").exists()
    assert project_secret(project, secret).fingerprint
    assert leaked(airflow.home, "kept", secret) == []


def test_a_mapping_file_gives_pseudonyms_and_its_errors_name_lines(airflow: Airflow) -> None:
    mapping = airflow.data / "mapping.csv"
    mapping.write_text("".join(f"{patient},Tulpe {number}\n" for number, patient in enumerate(PATIENTS[:-1])))
    state, tasks = run(project="tulips", source="custom", mappingfile="mapping.csv")
    assert state == "failed" and tasks["pseudonymize"] == ["failed"]
    with mapping.open("a") as stream:
        stream.write(f"{PATIENTS[-1]},Tulpe 11\n")
    assert run(project="tulips", source="custom", mappingfile="mapping.csv")[0] == "success"
    people = Linkage("tulips").people().given
    assert {person.pseudonym for person in people.values()} == {f"Tulpe {number}" for number in range(12)}
    assert all(-30 <= person.shift <= 30 and person.shift for person in people.values())
    assert leaked(airflow.home, "tulips", "Tulpe") == []


@pytest.mark.parametrize(
    "conf",
    [{"in_folder": "x"}, {"queryfile": None}, {"mappingfile": "m.csv"}, {"source": "custom"}, {"projekt": "study"}],
)
def test_wrong_combinations_of_params_are_refused_before_any_request(
    airflow: Airflow, service: DeidServer, conf: dict[str, Any]
) -> None:
    state, tasks = run(**conf)
    assert state == "failed" and tasks["prepare"] == ["failed"] and not service.calls
