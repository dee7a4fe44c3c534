"""Two Celery workers, PostgreSQL, Redis, the standing receiver and Orthanc: runs are complete, also after kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pacsifier_ops.base.files import read_json, read_jsonl
from pacsifier_ops.runs.folder import Run, dag_run_name
from tests.conftest import missing_programs
from tests.support import airflow_home
from tests.support.airflow_home import DAG_ID, KUNIGUNDE, THEOBALD, ZEBEDAEUS
from tests.support.command import check_tree, files
from tests.support.processes import eventually, living
from tests.support.topology import ASSOCIATIONS, STORES, WORKERS, Topology, kill
from tests.support.truth import Truth

pytestmark = [pytest.mark.peers, pytest.mark.stores, pytest.mark.airflow, pytest.mark.slow]

BUSY, IMAGES = "HHL-33018-LS", 100
NIGHTLY = "pacsifier_nightly"


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Four series of three patients, and eight of one more."""
    folder = tmp_path_factory.mktemp("cohort")
    return Truth.of([*airflow_home.build(folder / "few"), *airflow_home.build_busy(folder / "many", BUSY, IMAGES)])


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory, truth: Truth) -> Iterator[Topology]:
    if line := missing_programs(STORES):
        pytest.fail(line)
    folder = tmp_path_factory.mktemp("topology")
    with Topology(folder / "home", folder / "orthanc") as running:
        running.pacs.load([instance.path for instance in truth.instances])
        yield running


@pytest.fixture(autouse=True)
def shared_state(state_root: Path, topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the runs of the topology."""
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(topology.home / "state"))


def table(*patients: str) -> str:
    return "PatientID\n" + "".join(f"{patient}\n" for patient in patients)


def check_run(topology: Topology, truth: Truth, run: str, out: Path, *patients: str) -> None:
    """Check that a run succeeded and is complete, and that its images are those of these patients, and whole."""
    assert topology.outcome(run) == "success"
    path = f"dags/{DAG_ID}/dagRuns/{quote(run)}/taskInstances/report/xcomEntries/return_value"
    result: dict[str, Any] = topology.get(path)["value"]
    assert result["verdict"] == "complete"
    series = set().union(*(truth.series({"PatientID": patient}) for patient in patients))
    check_tree(out, truth.of_series(series), killed=True)


def check_nothing_is_left(topology: Topology, truth: Truth, folder: Path) -> None:
    """Check that the spool is empty, only the receiver holds a lease, and no patient is in Airflow."""
    assert not [path for path in (topology.home / "data" / ".spool").rglob("*") if path.is_file()]
    slots = (topology.home / "state" / "leases").rglob("slot-*")
    owners = [
        read_json(path)["owner"]["pid"] for path in slots
    ]  # the slot of a killed process stays until another needs it
    # The receiver holds two: its address, and the place where it keeps what it receives.
    holders = set(living(owners))
    assert holders == {topology.part("cli.receiver")[0]}
    words = airflow_home.identifiers(instance.path for instance in truth.instances)
    assert airflow_home.traces(topology.home / "state" / "runs", words)  # the search does find them in the state root
    for place in (topology.holdings(folder), topology.home / "airflow", topology.home / "logs"):
        assert airflow_home.traces(place, words) == []


def associations(port: int) -> int:
    """Return the number of connections from this machine to one of its ports."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    ends = ((remote, state) for _, _, remote, state, *_ in map(str.split, lines))
    return sum(remote.endswith(f":{port:04X}") and state == "01" for remote, state in ends)


@contextmanager
def few_associations(port: int) -> Iterator[None]:
    """Check that meanwhile the associations with a PACS reach its limit, and never exceed it."""
    counts, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            counts.append(associations(port))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert max(counts) == ASSOCIATIONS


def test_one_run_by_the_api_and_one_of_the_night_at_the_same_time(
    topology: Topology, truth: Truth, tmp_path: Path
) -> None:
    data = topology.home / "data"
    inbox = data / "nightly" / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "Zebedaeus.csv").write_text(table(ZEBEDAEUS["patient_id"], THEOBALD["patient_id"]))
    os.utime(inbox / "Zebedaeus.csv", (time.time() - 600,) * 2)
    night = topology._call(f"api/v2/dags/{NIGHTLY}/dagRuns", {"logical_date": None})["dag_run_id"]
    run = topology.trigger(table(KUNIGUNDE["patient_id"]), out_directory="api")
    check_run(topology, truth, run, data / "api", KUNIGUNDE["patient_id"])
    path = f"dags/{NIGHTLY}/dagRuns/{quote(night)}"
    topology.wait_for(lambda: topology.get(path)["state"] in ("success", "failed"))
    assert topology.get(path)["state"] == "success"
    (result,) = (data / "nightly" / "done").glob("*/result.json")
    started = read_json(result)
    check_run(
        topology,
        truth,
        started["run_id"],
        Path(started["out_directory"]),
        ZEBEDAEUS["patient_id"],
        THEOBALD["patient_id"],
    )
    check_nothing_is_left(topology, truth, tmp_path / "held")


def test_a_worker_killed_in_the_middle_of_a_retrieval(topology: Topology, truth: Truth, tmp_path: Path) -> None:
    out, spool = topology.home / "data" / "killed", topology.home / "data" / ".spool"
    with few_associations(topology.pacs.port):
        run = topology.trigger(table(BUSY), out_directory="killed")
        begun: list[str] = []

        def begins() -> list[str]:
            begun[:] = [s for s in truth.series({"PatientID": BUSY}) if 5 < arrived(spool, s) < IMAGES // 2]
            return begun

        eventually(begins, pause=0.002)
        series = begun[0]
        topology.pacs.send_signal(signal.SIGSTOP)
        try:
            topology.wait_for(lambda: associations(topology.pacs.port) == ASSOCIATIONS)
            task = next(t for t in topology.tasks(run, "retrieve") if series in series_of(run, t["map_index"]))
            assert task["state"] == "running" and arrived(spool, series) < IMAGES
            (worker,) = (n for n in WORKERS if task["pid"] in [process.pid for process in topology.part(n)])
            victims = topology.part(worker)
            lost = [t for t in topology.tasks(run, "retrieve") if t["pid"] in [process.pid for process in victims]]
            assert len(files(out)) < len(truth.of_series(truth.series({"PatientID": BUSY})))
            kill(victims)
        finally:
            topology.pacs.send_signal(signal.SIGCONT)
        check_run(topology, truth, run, out, BUSY)
    tries = {t["map_index"]: t["try_number"] for t in topology.tasks(run, "retrieve")}
    again = {t["map_index"] for t in lost if t["state"] == "running"}
    assert task["map_index"] in again and all(count == 1 + (n in again) for n, count in tries.items())
    check_nothing_is_left(topology, truth, tmp_path / "held")


def test_tasks_that_a_killed_worker_had_not_begun_are_not_lost(topology: Topology, truth: Truth) -> None:
    """The processes of the worker are stopped, so it has tasks that have not begun; the other worker takes none."""
    other, (worker, *rest) = topology.part(WORKERS[0]), topology.part(WORKERS[1])
    for process in [*other, *rest]:
        process.suspend()
    try:
        time.sleep(2)  # a worker waits at Redis for a second at a time
        run = topology.trigger(table(KUNIGUNDE["patient_id"]), out_directory="taken")
        topology.wait_for(lambda: topology.redis.client().hlen("unacked") == 1)
        assert [t["state"] for t in topology.tasks(run, "prepare")] == ["queued"]
        kill([worker, *rest])
    finally:
        for process in other:
            process.resume()
    check_run(topology, truth, run, topology.home / "data" / "taken", KUNIGUNDE["patient_id"])
    assert {t["try_number"] for t in topology.tasks(run) if t["state"] == "success"} == {1}


def arrived(spool: Path, series: str) -> int:
    """Return the number of objects of a series in the spool."""
    return len(list(spool.glob(f"*_{series}/*")))


def series_of(run: str, unit: int) -> list[str]:
    """Return the Series Instance UIDs of a unit of a DAG run."""
    folder = Run.existing(dag_run_name(DAG_ID, run))
    assert folder
    return [item["series_uid"] for item in read_jsonl(folder.part("units", unit))]
