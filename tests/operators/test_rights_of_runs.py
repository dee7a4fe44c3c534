"""Rights of runs, through `dag.test()`: checked by the first step, before anything is asked of a PACS.

Airflow calls the user who starts such a run `dag_test`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.state import audit
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, Airflow
from tests.support.embedded import config_of

pytestmark = pytest.mark.airflow

TABLE = f"PatientID\n{KUNIGUNDE['patient_id']}\n"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return airflow_home.build(tmp_path / "held")


@pytest.fixture
def pacs(files: list[Path]) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs() as running:
        running.add(files)
        yield running


@pytest.fixture
def airflow(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pacs: EmbeddedPacs
) -> Airflow:
    entered = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    entered.table(TABLE)
    return entered


def told(state_root: Path) -> list[dict[str, Any]]:
    assert audit.verify().problem == ""
    return [json.loads(line) for line in (state_root / "audit" / "audit.jsonl").read_text().splitlines()]


def failures(state_root: Path) -> str:
    return "\n".join(path.read_text() for path in state_root.glob("runs/*/failures.jsonl"))


@pytest.mark.parametrize(
    ("rights", "conf", "right"),
    [
        ({"may_take": "anna"}, {}, "take"),
        ({"may_take": "dag_test", "may_identified": "anna"}, {}, "identified"),
        ({"may_take": "dag_test", "may_urgent": "nobody"}, {"urgency": "urgent"}, "urgent"),
        ({"may_take": "role:Trials"}, {}, "take"),
    ],
)
def test_a_run_without_a_right_ends_at_once(
    airflow: Airflow,
    pacs: EmbeddedPacs,
    state_root: Path,
    rights: dict[str, str],
    conf: dict[str, str],
    right: str,
) -> None:
    airflow.connect(pacs, **rights)
    run = airflow.run(**conf)
    assert run.state == "failed" and run.tasks["prepare"] == {-1: "failed"}
    assert not pacs.queries and not pacs.peak_associations
    (line,) = told(state_root)
    assert (line["event"], line["by"], line["right"], line["connections"]) == (
        "refused",
        "dag_test",
        right,
        ["pacs_default"],
    )
    assert f"may_{right} of this connection does not name them" in failures(state_root)


def test_a_configuration_is_no_way_around_rights(
    airflow: Airflow, pacs: EmbeddedPacs, state_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (airflow.data / "config.json").write_text(json.dumps(config_of(pacs)))
    airflow.connect(pacs, may_take="anna")
    monkeypatch.setenv("PACSIFIER_RIGHTS", "stated")
    assert airflow.run(config="config.json").state == "failed" and not pacs.peak_associations
    assert told(state_root)[0]["right"] == "take"
    sentence = "may not take images from config: it does not state may_take, and PACSIFIER_RIGHTS says that nobody may"
    assert sentence in failures(state_root)


def test_a_broken_statement_ends_the_run_with_a_sentence(
    airflow: Airflow, pacs: EmbeddedPacs, state_root: Path
) -> None:
    airflow.connect(pacs, may_take="dag_test,,anna")
    assert airflow.run().state == "failed" and not pacs.peak_associations
    assert "connection pacs_default: may_take is not understood" in failures(state_root)


def test_a_run_with_its_rights_is_told_and_names_no_patient(
    airflow: Airflow, pacs: EmbeddedPacs, files: list[Path], state_root: Path
) -> None:
    airflow.connect(pacs, may_take="anna, dag_test", may_identified="dag_test", may_urgent="dag_test")
    assert airflow.run(urgency="urgent").state == "success"
    (line,) = told(state_root)
    assert line["event"] == "started" and line["job"] == "pacsifier_extract" and line["urgency"] == "urgent"
    assert line["cohort"] == audit.keyed(TABLE.encode()) and line["connections"] == ["pacs_default"]
    assert airflow_home.traces(state_root / "audit", airflow_home.identifiers(files)) == []


@pytest.mark.parametrize(
    ("kind", "run_id", "name", "who"),
    [
        ("manual", "manual__1", "anna", "anna"),
        ("scheduled", "scheduled__1", None, ""),
        ("backfill", "backfill__1", "ben", "ben"),
        ("backfill", "scheduled__1", None, "whoever started this backfill"),
        ("backfill", "manual__1", "anna", "whoever started this backfill"),
    ],
)
def test_a_backfill_of_existing_runs_has_the_rights_of_none_of_them(
    airflow: Airflow, kind: str, run_id: str, name: str | None, who: str
) -> None:
    from airflow.utils.types import DagRunType

    from pacsifier_ops.operators.base import starter

    dag_run = SimpleNamespace(run_type=DagRunType(kind), run_id=run_id, triggering_user_name=name)
    assert starter({"dag_run": dag_run}) == who


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(aet="STORE", folder=tmp_path / "stored") as running:
        yield running


def test_what_is_not_de_identified_needs_a_right_of_its_own_to_be_sent(
    airflow: Airflow, store: EmbeddedPacs, files: list[Path], state_root: Path
) -> None:
    airflow_home.build(airflow.data / "out")
    airflow.connect(store, may_send="dag_test", may_identified="anna")
    conf = {"upload_directory": "out", "out_directory": "logs"}
    assert airflow.run_dag("pacsifier_upload", **conf).state == "failed"
    # A marker that somebody has written says nothing.
    (airflow.data / "out" / ".pacsifier").mkdir()
    (airflow.data / "out" / ".pacsifier" / "tree.json").write_text('{"state": "de-identified"}')
    assert airflow.run_dag("pacsifier_upload", **conf).state == "failed"
    assert [line["right"] for line in told(state_root)] == ["identified", "identified"] and not store.peak_associations
    (airflow.data / "out" / ".pacsifier" / "tree.json").unlink()
    airflow.connect(store, may_send="dag_test", may_identified="dag_test")
    assert airflow.run_dag("pacsifier_upload", **conf).state == "success"
    started, exported = told(state_root)[2:]
    assert (started["event"], exported["event"], exported["to"]) == ("started", "exported", "pacs_default")
    assert exported["objects"] == len(files) and exported["run"] == started["run"]


def test_a_probe_takes_an_image(airflow: Airflow, pacs: EmbeddedPacs, state_root: Path) -> None:
    airflow.connect(pacs, may_take="anna")
    assert airflow.run_dag("pacsifier_probe").state == "failed"
    assert not pacs.peak_associations and told(state_root)[0]["job"] == "pacsifier_probe"
