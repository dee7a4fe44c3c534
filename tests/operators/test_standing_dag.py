"""A night in which nothing has changed, through `dag.test()`: no task is mapped, and the run ends complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.state import facts
from tests.support import airflow_home

pytestmark = [pytest.mark.airflow, pytest.mark.slow]


def test_a_study_of_which_nothing_has_changed_ends_complete(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    airflow = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    files = airflow_home.build(tmp_path / "pacs")
    airflow.table("PatientID\n*-*\n")
    given: dict[str, Any] = {"queryfile": "table.csv", "project": "p", "source": "local", "release": "limit"}
    given |= {"upload": "research", "verify": "changed", "dicomdir": True}
    with EmbeddedPacs() as pacs, EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "research") as node:
        pacs.add(files)
        airflow.connect(pacs)
        airflow.connect(node, "research")
        runs = [airflow.run_dag("pacsifier_study", **given) for _ in range(3)]
        assert [run.state for run in runs] == ["success"] * 3
        assert len(pacs.sent) == len(node.offered) == len(files)
    for task in ("extract.retrieve", "anonymize.deidentify", "upload.store"):
        assert runs[0].tasks[task].keys() == set(range(4)) and runs[2].tasks[task] == {-1: "skipped"}, task
    for stage in ("extract", "anonymize", "upload"):
        assert runs[2].tasks[f"{stage}.report"] == {-1: "success"}
    counts = [run.returned["report"][0] for run in runs]
    assert {told["verdict"] for told in counts} == {"complete"}
    assert [told["delivered"] for told in counts] == [len(files)] * 3
