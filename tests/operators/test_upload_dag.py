"""Runs of the upload DAG through `dag.test()`, against an embedded PACS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support import airflow_home
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(folder=tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def airflow(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pacs: EmbeddedPacs
) -> Airflow:
    entered = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    entered.connect(pacs)
    return entered


def run(**conf: Any) -> tuple[str, dict[str, list[str]], dict[str, list[Any]]]:
    """One run to its end: its state, the states of its tasks, and what they returned."""
    done = airflow_home.run_dag("pacsifier_upload", **{"upload_directory": "tree", **conf})
    return done.state, done.states, done.returned


def test_a_folder_is_sent_and_nothing_of_it_is_in_airflows_home(
    airflow: Airflow, pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    files = airflow_home.build(airflow.data / "tree" / "sub-Wurzelbacher")
    (airflow.data / "tree" / "notes.txt").write_text("Wurzelbacher")
    state, states, returned = run()
    assert (state, states) == ("success", {"prepare": ["success"], "store": ["success"] * 4, "report": ["success"]})
    assert set(pacs.stored) == {path.stem for path in files}
    assert all(airflow_home.simple(value) for values in returned.values() for value in values)
    assert returned["report"][0]["verdict"] == "complete" and returned["report"][0]["received"] == len(files)
    assert (airflow.data / "upload" / "logs" / "pacsifier_log.csv").exists()
    words = airflow_home.identifiers(files)
    assert airflow_home.traces(tmp_path / "state" / "runs", words)  # the search does find them in the state root
    assert airflow_home.traces(airflow.home, words) == []

    state, _, returned = run()
    assert state == "success" and returned["report"][0]["present"] == len(files) == len(pacs.offered)


def test_an_incomplete_run_fails_unless_that_was_accepted(airflow: Airflow, pacs: EmbeddedPacs) -> None:
    cut = airflow_home.build(airflow.data / "tree")[0]
    cut.write_bytes(cut.read_bytes()[:-2])
    state, states, returned = run()
    assert state == "failed" and states["store"] == ["success"] * 4 and states["report"] == ["failed"]
    state, _, returned = run(accept_incomplete=True)
    assert state == "success" and returned["report"][0]["missing"] == 1


def test_paths_outside_the_data_root_are_refused(airflow: Airflow, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(upload_directory="../pacs")[0] == "failed"
    assert "upload_directory: the path leads outside the data root" in capfd.readouterr().out


def test_a_folder_elsewhere_gets_the_files_and_needs_the_rights(
    airflow: Airflow, pacs: EmbeddedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = airflow_home.build(airflow.data / "tree")
    share = tmp_path / "share"
    share.mkdir()

    def connect(**extra: Any) -> None:
        connection = {"conn_type": "fs", "extra": {"path": str(share), **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_SHARE", json.dumps(connection))

    connect(may_send="dag_test", may_identified="anna")
    assert run(pacs="share")[0] == "failed" and not any(share.iterdir())
    connect(may_send="dag_test", may_identified="dag_test")
    state, states, returned = run(pacs="share")
    assert (state, states["store"]) == ("success", ["success"] * 4)
    assert returned["report"][0]["received"] == len(files)
    there = {path.name: path.read_bytes() for path in share.rglob("*.dcm")}
    assert there == {path.name: path.read_bytes() for path in files}
    assert (share / "manifest.jsonl").exists() and not pacs.stored
    connect(pth="misspelt")
    assert run(pacs="share")[0] == "failed"
