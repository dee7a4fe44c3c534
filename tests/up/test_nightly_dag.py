"""The nightly DAG: two nights of an Airflow as `make up` starts it, and the schedule and params of the DAGs."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.nightly.options import OPTIONS
from tests.support import airflow_home
from tests.support.airflow_home import DAG_ID, Up
from tests.support.places import REPO
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

NIGHTLY = "pacsifier_nightly"
#: Before midnight and after it, in any zone of Europe.
NIGHTS = {"2024-03-30": "2024-03-30T19:00:00Z", "2024-03-31": "2024-04-01T00:30:00Z"}


def put(folder: Path, name: str, text: str, age: float = 600) -> None:
    """Write a file with a modification time of `age` seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    os.utime(folder / name, (time.time() - age,) * 2)


def a_night(up: Up, run_after: str) -> tuple[str, dict[str, list[str]]]:
    """Run the nightly DAG to its end; return its state and those of its tasks."""
    body: dict[str, Any] = {"dag_run_id": secrets.token_hex(4), "logical_date": None, "run_after": run_after}
    path = f"dags/{NIGHTLY}/dagRuns/{up._call(f'api/v2/dags/{NIGHTLY}/dagRuns', body)['dag_run_id']}"
    up.wait_for(lambda: up.get(path)["state"] in ("success", "failed"))
    states: dict[str, list[str]] = {}
    for task in up.get(f"{path}/taskInstances?limit=100")["task_instances"]:
        states.setdefault(task["task_id"], []).append(task["state"])
    return up.get(path)["state"], states


def runs(up: Up) -> dict[str, dict[str, Any]]:
    """Wait for the end of all runs of the extract DAG, and return them."""

    def found() -> dict[str, dict[str, Any]]:
        path = f"dags/{DAG_ID}/dagRuns?limit=100&run_id_pattern=nightly__%25"
        return {run["dag_run_id"]: run for run in up.get(path)["dag_runs"]}

    up.wait_for(lambda: all(run["state"] in ("success", "failed") for run in found().values()))
    return found()


def images(folder: Path) -> int:
    return len(list(folder.rglob("*.dcm")))


def test_two_nights_run_everything_once_and_completely(shared: SharedAirflow) -> None:
    up, home = shared.up, shared.up.home
    nightly, results = home / "data" / "nightly", home / "data" / "results"
    first, second = NIGHTS
    assert a_night(up, NIGHTS[first])[0] == "success"  # it has nothing to do, and creates the folders
    inbox = nightly / "inbox"
    put(inbox, "Wurzelbacher.csv", "PatientID\nZQX-71830-KW\n")
    put(inbox, "Zebedaeus.csv", "PatientID\nYVJ-55912-ZS\n")
    put(inbox, "Zebedaeus.yaml", 'out_directory: "study {{ run_id }}"\ninfo: false\n')
    put(inbox, "Schnuerpel.csv", "PatientID\nZQX-71830-KW\n,YVJ-55912-ZS\n")
    put(inbox, "Schnuerpel.yaml", "strict: true\n")
    put(inbox, "Quandtmeyer.csv", "PatientID\nWPL-20477-TQ\n", age=112)  # copied just before, so the night waits
    put(nightly / "projects" / "heart-7", "project.yaml", "enabled: true\nqueryfile: Theobald.csv\n")
    put(nightly / "projects" / "heart-7", "Theobald.csv", "StudyDate\n19950606\n", age=112)
    put(nightly / "projects" / "broken", "project.yaml", "enabled: perhaps\n")

    state, tasks = a_night(up, NIGHTS[first])
    assert state == "failed"  # because of the broken project, and only at the end
    assert tasks == {
        "collect": ["success"],
        "start": ["success"] * 3,
        "projects": ["success"],
        "start_projects": ["success"],
        "finish": ["failed"],
    }
    assert not list(inbox.iterdir())
    assert [path.parent.name for path in nightly.glob("*/*/reasons.txt")].count("broken") == 1
    after_first = runs(up)

    put(nightly / "projects" / "broken", "project.yaml", "enabled: false\n")
    put(inbox, "Wurzelbacher.csv", "PatientID\nZQX-71830-KW\n")
    state, tasks = a_night(up, NIGHTS[second])
    assert (state, tasks["start"], tasks["start_projects"]) == ("success", ["success"], ["success"])
    after_second = runs(up)
    labels = [
        task["rendered_map_index"]
        for run in up.get(f"dags/{NIGHTLY}/dagRuns")["dag_runs"]
        for task in up.get(f"dags/{NIGHTLY}/dagRuns/{run['dag_run_id']}/taskInstances")["task_instances"]
        if task["map_index"] >= 0
    ]
    state, tasks = a_night(up, NIGHTS[second])  # the same night again
    assert (state, tasks["start"], tasks["start_projects"]) == ("success", ["skipped"], ["skipped"])
    assert runs(up).keys() == after_second.keys()

    assert len(after_first) == 4 and after_first.keys() < after_second.keys() and len(after_second) == 6
    assert {run["state"] for run in after_second.values()} == {"success"}
    assert all(after_second[run_id]["end_date"] == run["end_date"] for run_id, run in after_first.items())
    assert set(labels) == after_second.keys()
    assert {run_id for run_id in after_second if run_id.endswith("heart-7")} == {
        f"nightly__{night}__heart-7" for night in NIGHTS
    }

    done = {folder.name: json.loads((folder / "result.json").read_text()) for folder in (nightly / "done").iterdir()}
    assert {result["run_id"] for result in done.values()} == {
        run_id for run_id in after_second if not run_id.endswith("heart-7")
    }
    for result in [*done.values(), json.loads((nightly / "projects" / "heart-7" / "result.json").read_text())]:
        accounts = json.loads((Path(result["report"]).parent / "accounts.json").read_text())
        assert accounts["verdict"] == "complete" and Path(result["report"]).exists()
        assert result["page"].startswith(f"{up.url}/pacsifier/runs/{DAG_ID}/nightly__")
    held = {name: images(Path(result["out_directory"])) for name, result in done.items()}
    assert sorted(held.values()) == [2, 2, 5, 5]
    assert {Path(result["out_directory"]).parent for result in done.values()} == {results, home / "data"}
    assert images(home / "data" / "study {{ run_id }}") == 2, "options are no templates"
    assert images(results / "heart-7") == 2
    (reasons,) = (nightly / "rejected").glob("*/reasons.txt")
    assert reasons.read_text().startswith("Schnuerpel.csv: line 3: ")

    words = {*airflow_home.identifiers(shared.files), "Schnuerpel", "Zebedaeus", "Theobald"}
    assert airflow_home.traces(home / "state", words)  # the search does find them in the state root
    assert airflow_home.traces(home / "airflow", words) == []


def test_a_full_inbox_is_taken_in_completely(shared: SharedAirflow) -> None:
    up, nightly = shared.up, shared.up.home / "data" / "nightly"
    before, done = runs(up), set(nightly.glob("done/*"))
    for number in range(12):
        put(nightly / "inbox", f"burst-{number}.csv", "AccessionNumber\nQACC990171\n")
        put(nightly / "inbox", f"burst-{number}.yaml", "retrieve: none\n")
    state, tasks = a_night(up, NIGHTS["2024-03-31"])  # projects have run in that night
    assert (state, tasks["start"]) == ("success", ["success"] * 12)
    assert not list((nightly / "inbox").iterdir()) and len(set(nightly.glob("done/*")) - done) == 12
    ended = {name: run["state"] for name, run in runs(up).items() if name not in before}
    assert list(ended.values()) == ["success"] * 12


def test_the_evening_is_the_hospitals(tmp_path_factory: pytest.TempPathFactory) -> None:
    code = """
import json, os, sys, time
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

for settings in json.loads(sys.argv[1]):
    os.environ.update(settings)
    time.tzset()
    bag = DagBag("dags/pacsifier_nightly.py")
    dag = bag.dags.get("pacsifier_nightly")
    again = dag and DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    print("says", again.timetable.serialize() if again else list(bag.import_errors.values()))
    for name in settings:
        del os.environ[name]
"""
    given = [
        {"PACSIFIER_TIMEZONE": "Europe/Zurich"},
        {"PACSIFIER_NIGHTLY_SCHEDULE": "30 21 * * 1-5", "TZ": "America/New_York"},
        {"PACSIFIER_NIGHTLY_SCHEDULE": "off"},
        {"PACSIFIER_TIMEZONE": "Zurich"},
        {"PACSIFIER_NIGHTLY_SCHEDULE": "20:00"},
    ]
    _, airflow = airflow_home.migrated(tmp_path_factory.getbasetemp())
    command = [sys.executable, "-c", code, json.dumps(given)]
    done = subprocess.run(command, env={**os.environ, **airflow}, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    zone, cron, off, bad_zone, bad_cron = (
        line.removeprefix("says ") for line in done.stdout.splitlines() if line.startswith("says ")
    )
    assert "'0 20 * * *'" in zone and "'Europe/Zurich'" in zone
    assert "'30 21 * * 1-5'" in cron
    assert off == "{}"
    assert "timezone is not the name of a time zone" in bad_zone
    assert "nightly_schedule is no cron expression" in bad_cron


def test_every_option_is_a_param_of_the_extract_dag_and_allows_what_it_allows(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    dag = airflow_home.fresh_dag()
    for name, option in OPTIONS.items():
        param = dag.params.get_param(name)
        assert set(option.choices) == set(param.schema.get("enum", ())) - {None}
        kinds = {bool: "boolean", int: "integer", str: "string"}
        assert kinds[option.kind] in param.schema.get("type", ["string"])
