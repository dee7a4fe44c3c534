"""Runs with web archives, through `dag.test()`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, Airflow
from tests.support.faulty_web import FaultyWeb

pytestmark = pytest.mark.airflow

PASSWORD = "s3cr3t-of-the-archive"
TABLE = f"PatientID\n{KUNIGUNDE['patient_id']}\n"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return airflow_home.build(tmp_path / "held")


@pytest.fixture
def web(files: list[Path], tmp_path: Path) -> Iterator[FaultyWeb]:
    with FaultyWeb(tmp_path / "web", user="reader", password=PASSWORD) as running:
        running.load(files)
        yield running


@pytest.fixture
def airflow(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, web: FaultyWeb
) -> Airflow:
    entered = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    entered.table(TABLE)
    connect(monkeypatch, web)
    return entered


def connect(monkeypatch: pytest.MonkeyPatch, web: FaultyWeb, name: str = "vna", **extra: Any) -> None:
    connection = {
        "conn_type": "dicomweb",
        "host": web.url,
        "login": web.user,
        "password": web.password,
        "extra": {"retry_wait": 0.01, **extra},
    }
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))


def holds(folder: Path, word: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


@pytest.mark.slow
def test_the_password_stays_in_the_connection(
    airflow: Airflow, files: list[Path], state_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = airflow.run(pacs="vna")
    assert run.state == "success"
    found = {dcmread(path).SOPInstanceUID for path in (airflow.data / "out").rglob("*.dcm")}
    assert found == airflow_home.of_patients(files, KUNIGUNDE)
    for folder in (state_root, airflow.data, airflow.home):
        assert not holds(folder, PASSWORD)
    assert PASSWORD not in "".join(capfd.readouterr())


def test_a_web_archive_as_destination_of_moves_is_named(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, state_root: Path
) -> None:
    fields = {"conn_type": "dicom", "host": "127.0.0.1", "port": 1, "extra": {"called_aet": "PACS"}}
    monkeypatch.setenv("AIRFLOW_CONN_PACS_DEFAULT", json.dumps(fields))
    run = airflow.run(retrieve="move", destination="vna")
    assert run.state == "failed"
    told = "".join(path.read_text() for path in state_root.glob("runs/*/failures.jsonl"))
    assert "vna: speaks DICOMweb, and images are moved to DICOM nodes only" in told
