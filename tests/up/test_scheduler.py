"""Extractions under the real scheduler, by C-GET and C-MOVE, with failing ones among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydicom import dcmread

from pacsifier_ops.base.files import read_json
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, ZEBEDAEUS
from tests.support.command import Result
from tests.support.processes import command_of
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]


@dataclass
class Record:
    """The results of the runs under the real scheduler."""

    home: Path
    pacs: EmbeddedPacs
    words: set[str]
    secrets: set[str]
    runs: dict[str, list[dict[str, Any]]]
    states: dict[str, str]
    command: Result
    pools: dict[str, int]
    hooks: list[dict[str, Any]]
    plugins: list[str]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, shared: SharedAirflow) -> Record:
    """Run DAGs by C-GET and C-MOVE, failing ones, and the command line at once against one PACS."""
    folder, pacs, up, home = tmp_path_factory.mktemp("scheduler"), shared.busy, shared.up, shared.up.home
    patients = {"ours": "LQD-90551-AB", "theirs": "LQD-90552-CD"}
    busy = [p for who in patients.values() for p in airflow_home.build_busy(folder / who, who)]
    pacs.add([*shared.files, *busy])
    pacs.faults.delay = 0.4
    tables = {
        "get": f"PatientID\n{patients['ours']}\n",
        "move": "PatientName,AccessionNumber\nWurzelbacher*,\n,QACC990288\n",
        "crooked": "PatientID\nZQX-71830-KW\n",
        "strict": "PatientID,PatientBirthDate\nZQX-71830-KW,19370231\n",
        "blocked": "PatientID\nWPL-20477-TQ\n",
        "both": f"PatientID\n{patients['ours']}\nZQX-71830-KW\n",
    }
    conf: dict[str, dict[str, Any]] = {
        "get": {"method": "get"},
        "move": {"method": "move"},
        "crooked": {"pacs": "pacs_crooked"},
        "strict": {"strict": True},
        "blocked": {},
        "both": {"pacs": ["pacs_crooked", "pacs_busy"], "search": "all"},
    }
    blocked = home / "data" / "blocked" / "sub-WPL_20477_TQ"
    blocked.parent.mkdir()
    blocked.write_text("")
    ids = {
        name: up.trigger(table, **{"out_directory": name, "pacs": "pacs_busy", **conf[name]})
        for name, table in tables.items()
    }
    up.wait_for(lambda: any(t["state"] == "running" for t in up.tasks(ids["get"], "retrieve")))
    command = up.command_line(f"PatientID\n{patients['theirs']}\n", pacs, folder / "out")
    up.wait_for(lambda: any(t["state"] == "up_for_retry" for t in up.tasks(ids["blocked"])))
    states = {name: up.outcome(ids[name]) for name in ids if name != "blocked"}
    up.patch(f"dags/{airflow_home.DAG_ID}/dagRuns/{quote(ids['blocked'])}", {"state": "failed"})
    pseudonymize = "pacsifier_pseudonymize"
    linking = up.start(pseudonymize, in_folder="move", project="scheduled")
    states["pseudonyms"] = up.outcome(linking, pseudonymize)
    people: dict[str, str] = read_json(home / "state/projects/scheduled/new_ids_scheduled.json")
    token = str(read_json(home / "deid" / "config.json")["deid_token"])
    pools = up.get("pools?limit=100")["pools"]
    return Record(
        home=home,
        pacs=pacs,
        words=airflow_home.identifiers([*shared.files, *busy]) | {"19370231", airflow_home.TABLE_NAME},
        secrets={token, *people.values()},
        runs={name: up.tasks(run) for name, run in ids.items()},
        states=states,
        command=command,
        pools={pool["name"]: pool["slots"] for pool in pools},
        hooks=up.ui("connections/hook_meta"),
        plugins=[plugin["name"] for plugin in up.get("plugins")["plugins"]],
    )


def test_the_scheduler_runs_it_by_c_get_and_c_move(record: Record, shared: SharedAirflow) -> None:
    assert record.states == {
        "get": "success",
        "move": "success",
        "crooked": "success",
        "strict": "failed",
        "both": "success",
        "pseudonyms": "success",
    }
    out = record.home / "data"
    assert len(list((out / "get").glob("sub-*/*/*/*.dcm"))) == 24
    wanted = airflow_home.of_patients(shared.files, KUNIGUNDE, ZEBEDAEUS)
    wanted = airflow_home.of_patients(shared.files, KUNIGUNDE, ZEBEDAEUS)
    assert {p.stem for p in (out / "move").glob("sub-*/*/*/*.dcm")} == wanted
    moved = {str(i.SeriesInstanceUID) for service, _, i in record.pacs.retrieves if service == "C-MOVE"}
    assert moved == {dcmread(p).SeriesInstanceUID for p in shared.files if p.stem in wanted}
    assert [t["map_index"] for t in record.runs["get"] if t["task_id"] == "retrieve"] == list(range(8))
    assert not list((out / ".spool").glob("[0-9]*/*"))  # the spool of the standing receiver


def test_pacs_and_leases_bound_dag_runs_and_command_line_together(record: Record) -> None:
    assert record.command.code == 0, record.command.said
    assert len(list(record.command.out.glob("sub-*/*/*/*.dcm"))) == 24
    assert 3 <= record.pacs.peak_associations <= 4


def test_tasks_wait_in_the_pool_of_their_connection(record: Record) -> None:
    assert {"pacs_default": 4, "pacs_busy": 4, "pacs_crooked": 4, "pacsifier": 4}.items() <= record.pools.items()
    assert "pacs_broken" not in record.pools
    for name, pool in {"get": "pacs_busy", "crooked": "pacs_crooked"}.items():
        for task in record.runs[name]:
            assert task["pool"] == (pool if task["task_id"] in ("find", "retrieve") else "default_pool"), task
    # Each series is fetched in the pool of its archive.
    both = {task["map_index"]: task["pool"] for task in record.runs["both"] if task["task_id"] == "retrieve"}
    assert set(both.values()) == {"pacs_crooked", "pacs_busy"}
    assert [both[index] for index in sorted(both)] == sorted(both.values(), reverse=True)


def test_tasks_talk_to_a_server_of_their_own(shared: SharedAirflow) -> None:
    # In one process, the log of a user's request waits for the database on the event loop, and a task's request that
    # holds the database waits for the loop: one of two triggers in a busy hour was answered with 500.
    servers = {part.pid for part in shared.up.family() if "api_server" in command_of(part)}
    assert len(servers) == 2


def test_the_user_interface_knows_the_package(record: Record) -> None:
    (hook,) = (hook for hook in record.hooks if hook["connection_type"] == "dicom")
    assert hook["hook_class_name"] == "pacsifier_ops.hooks.dicom.DicomHook" and hook["hook_name"] == "DICOM node (PACS)"
    assert "pacsifier" in record.plugins


def test_nothing_of_the_cohort_is_in_the_schedulers_home(record: Record) -> None:
    assert airflow_home.traces(record.home / "state", record.words)
    assert len(record.secrets) == 3  # the token of the De-ID service, and two pseudonyms
    for folder in ("airflow", "logs"):
        assert airflow_home.traces(record.home / folder, record.words | record.secrets) == []
