"""Runs with web archives, through `dag.test()`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.nightly import Folders
from pacsifier_ops.nightly.inbox import collect
from pacsifier_ops.state.turns import Line
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, Airflow
from tests.support.embedded import config_of
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


# One archive is searched, another gives the images


@pytest.fixture
def index(files: list[Path]) -> Iterator[EmbeddedPacs]:
    """What is searched; images come from the web archive."""
    with EmbeddedPacs() as running:
        running.add(files)
        yield running


def told_in(state_root: Path) -> str:
    return "".join(path.read_text() for path in state_root.glob("runs/*/failures.jsonl"))


@pytest.mark.slow
def test_searched_by_one_connection_and_fetched_by_another(
    airflow: Airflow,
    web: FaultyWeb,
    index: EmbeddedPacs,
    files: list[Path],
    state_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    airflow.connect(index, fetch_from="vna")
    entered: dict[str, list[str]] = {}
    enter = Line.enter

    def watched(self: Line, run: str, entry: Any) -> None:
        entered[entry.pacs] = entry.task_ids
        enter(self, run, entry)

    monkeypatch.setattr(Line, "enter", watched)
    run = airflow.run(info=True)
    assert run.state == "success"
    found = {dcmread(path).SOPInstanceUID for path in (airflow.data / "out").rglob("*.dcm")}
    assert found == airflow_home.of_patients(files, KUNIGUNDE)
    assert not index.retrieves and web.count("wado") and web.count("qido") == 1  # the look whether it is there
    # Who waits for the one goes by its searches, who waits for the other by its transfers.
    assert entered == {"pacs_default": ["find"], "vna": ["retrieve", "move", "store"]}
    (started,) = (line for line in _audit(state_root) if line["event"] == "started")
    assert started["connections"] == ["pacs_default", "vna"]
    for folder in (state_root, airflow.data, airflow.home):
        assert not holds(folder, PASSWORD)
    assert PASSWORD not in "".join(capfd.readouterr())


def _audit(state_root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state_root / "audit" / "audit.jsonl").read_text().splitlines()]


def test_a_run_needs_the_rights_of_both_connections(
    airflow: Airflow, web: FaultyWeb, index: EmbeddedPacs, state_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow.connect(index, fetch_from="vna")
    connect(monkeypatch, web, may_take="anna")
    assert airflow.run().tasks["prepare"] == {-1: "failed"}
    assert not index.queries and not web.requests
    assert "may take images from vna" in told_in(state_root) or "take images from vna" in told_in(state_root)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"conn_type": "http", "host": "127.0.0.1"}, "fetch_from: connection other: is of type http, and no archive"),
        ({"conn_type": "xnat", "host": "https://x"}, "fetch_from: connection other: is of type xnat, and no archive"),
        (
            {"conn_type": "dicomweb", "host": "http://127.0.0.1:9", "extra": {"fetch_from": "vna"}},
            "fetch_from names other, which has a fetch_from itself",
        ),
        (None, "fetch_from: there is no connection other"),
    ],
)
def test_a_fetch_from_that_cannot_be_used_is_told_at_once(
    airflow: Airflow,
    index: EmbeddedPacs,
    state_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    described: dict[str, Any] | None,
    said: str,
) -> None:
    airflow.connect(index, fetch_from="other")
    if described:
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(described))
    assert airflow.run().tasks["prepare"] == {-1: "failed"}
    assert not index.queries and f"pacs_default: {said}" in told_in(state_root)


@pytest.mark.slow
def test_the_configuration_of_fetch_from_is_below_the_data_root(
    airflow: Airflow, web: FaultyWeb, index: EmbeddedPacs, state_root: Path, tmp_path: Path
) -> None:
    """Else anybody who may write a configuration there could use what others keep elsewhere, with its password."""
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"url": web.url, "login": web.user, "password": web.password}))
    (airflow.data / "link.json").symlink_to(secret)
    for n, path in enumerate((str(secret), "link.json"), 1):
        (airflow.data / "config.json").write_text(json.dumps(config_of(index, fetch_from=path)))
        assert airflow.run(config="config.json").tasks["prepare"] == {-1: "failed"}
        assert told_in(state_root).count("fetch_from: the path leads outside the data root") == n
    assert not web.requests and not index.queries
    (airflow.data / "config.json").write_text(json.dumps(config_of(index, fetch_from="near/secret.json")))
    (airflow.data / "near").mkdir()
    secret.rename(airflow.data / "near/secret.json")
    assert airflow.run(config="config.json").state == "success" and web.count("wado")


def test_the_test_button_looks_at_both(
    airflow: Airflow, web: FaultyWeb, index: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacsifier_ops.hooks.dicom import DicomHook
    from pacsifier_ops.hooks.dicomweb import DicomWebHook

    airflow.connect(index, fetch_from="vna")
    well, words = DicomHook("pacs_default").test_connection()
    assert well and words.endswith("Images are fetched from vna, which answers.")
    airflow.connect(index, name="images")
    connect(monkeypatch, web, fetch_from="images")
    well, words = DicomWebHook("vna").test_connection()
    assert well and words.endswith("Images are fetched from images, which answers.")
    index.stop()
    well, words = DicomWebHook("vna").test_connection()
    assert not well and words.startswith("images: ")
    connect(monkeypatch, web, fetch_from="nothing")
    assert DicomWebHook("vna").test_connection() == (
        False,
        "fetch_from: there is no connection nothing; make one of type dicom or dicomweb",
    )


# What looks before runs begin


def test_a_night_knows_web_archives(
    airflow: Airflow, web: FaultyWeb, index: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacsifier_ops.operators.nightly import _connect

    folders = Folders(airflow.data / "nightly")
    folders.inbox.mkdir(parents=True, exist_ok=True)
    airflow.connect(index, fetch_from="vna")
    airflow.connect(index, name="broken", fetch_from="nothing")
    for name in ("vna", "pacs_default", "broken"):
        for path, text in ((f"{name}.csv", TABLE), (f"{name}.yaml", f"pacs: {name}")):
            (folders.inbox / path).write_text(text)
            os.utime(folders.inbox / path, (time.time() - 600,) * 2)
    collected = collect(folders, "2026-11-30", _connect, pause=0)
    assert {start.conf["pacs"] for start in collected.starts} == {"vna", "pacs_default"}
    (rejected,) = folders.rejected.iterdir()
    assert "pacs: broken: fetch_from: there is no connection nothing" in (rejected / "reasons.txt").read_text()
    assert not web.requests and not index.queries
