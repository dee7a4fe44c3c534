"""Runs of the probe DAG through `dag.test()`, against an embedded PACS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support import airflow_home
from tests.support.airflow_home import Airflow
from tests.support.peers import free_port

pytestmark = pytest.mark.airflow


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return airflow_home.build(tmp_path / "held")


@pytest.fixture
def pacs(files: list[Path]) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs() as running:
        running.add(files)
        running.destinations["PACSIFIER"] = ("127.0.0.1", free_port())
        yield running


@pytest.fixture
def airflow(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pacs: EmbeddedPacs
) -> Airflow:
    entered = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    entered.connect(pacs, receiver_port=pacs.destinations["PACSIFIER"][1], retry_wait=0.01)
    return entered


def run() -> tuple[str, Any]:
    """One run: its state, and what the task returned."""
    done = airflow_home.run_dag("pacsifier_probe")
    return done.state, next((values[0] for values in done.returned.values()), None)


def test_a_probe_leaves_a_page_and_no_trace_of_a_patient(
    airflow: Airflow, pacs: EmbeddedPacs, files: list[Path], state_root: Path
) -> None:
    state, returned = run()
    assert state == "success"
    assert airflow_home.simple(returned) and returned["yes"] > 10
    assert "C-MOVE to us" in Path(returned["page"]).read_text()
    assert pacs.sent
    words = airflow_home.identifiers(files)
    assert airflow_home.traces(airflow.home, words) == []
    assert airflow_home.traces(state_root, words) == []


def test_a_pacs_that_does_not_answer_fails_the_run(airflow: Airflow, pacs: EmbeddedPacs, state_root: Path) -> None:
    pacs.stop()
    assert run() == ("failed", None)
    (page,) = state_root.glob("runs/*/probe.html")
    assert "Not reachable" in page.read_text()
