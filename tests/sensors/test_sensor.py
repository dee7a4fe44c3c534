"""Waiting for the arrival of images: one look, the trigger, and the sensor in Airflow."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import (
    AssociationRejected,
    Cancelled,
    ConfigError,
    InputError,
    PacsTimeout,
    PacsUnreachable,
    QueryTableError,
    Undecidable,
)
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract.arrival import Arrived, count_arrived, rows_of
from pacsifier_ops.extract.requests import take_in
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import LeaseBusy, shared
from tests.support import airflow_home
from tests.support.airflow_home import Airflow
from tests.support.embedded import node_of, series
from tests.support.faulty_web import FaultyWeb
from tests.support.peers import KINDS, OUR_AET, free_port
from tests.support.shared import Crooked

PATIENT, OTHER = "ZQX-71830-KW", "YVJ-55912-ZS"


def request_of(folder: Path, cells: str) -> str:
    """Take in a query table, and return its id."""
    table = folder / "table.csv"
    table.write_text(cells, encoding="utf-8")
    return take_in(table)


def no_slot_is_held(node: PacsNode) -> bool:
    """Whether the PACS has no association."""
    with shared().acquire(f"pacs:{node.key}", wait=0):
        return True


@pytest.fixture
def pacs() -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs() as running:
        yield running


@pytest.fixture
def arrive(pacs: EmbeddedPacs, tmp_path: Path) -> Callable[..., list[Path]]:
    """Add series to the PACS."""

    def store(*images: list[Dataset]) -> list[Path]:
        files = write([image for one in images for image in one], tmp_path / "images")
        pacs.add(files)
        return files

    return store


# One look


def test_a_look_counts_rows_series_and_instances(
    pacs: EmbeddedPacs, arrive: Callable[..., list[Path]], tmp_path: Path
) -> None:
    request = request_of(tmp_path, f"PatientID,Modality\n{PATIENT},\n{OTHER},CT\n{PATIENT},CT\n")
    node, rows = node_of(pacs), rows_of(request, None)
    assert count_arrived(node, rows) == Arrived(0, 0, 0)
    arrive(series(PATIENT, modality="MR", n_images=3))
    assert count_arrived(node, rows) == Arrived(1, 1, 3)
    arrive(series(PATIENT, modality="CT", series_number=2, n_images=2), series(OTHER, modality="MR"))
    assert count_arrived(node, rows) == Arrived(2, 2, 5)
    assert count_arrived(node, rows, minimum=2) == Arrived(1, 2, 5)
    arrive(series(OTHER, modality="CT", series_number=2))
    assert count_arrived(node, rows) == Arrived(3, 3, 6)
    assert count_arrived(node, rows_of(request, 3)) == Arrived(1, 1, 1)
    assert count_arrived(node, rows_of(request, 4)) == Arrived(1, 1, 2)
    assert no_slot_is_held(node)
    pacs.faults.unreturned_keys = {"NumberOfSeriesRelatedInstances"}
    assert count_arrived(node, rows) == Arrived(3, 3, 6)


@pytest.mark.parametrize(
    "word", ["", "table.csv", PATIENT, "1.2.3", "req-0123456789ABCDEF01234567", "req-/../0123456789012345678"]
)
def test_only_the_id_of_a_request_is_accepted(word: str) -> None:
    with pytest.raises(InputError, match="request is not the id of a request") as raised:
        rows_of(word, None)
    assert not word or word not in str(raised.value)


def test_rows_are_found_by_their_lines(tmp_path: Path) -> None:
    cells = f"PatientID,StudyDate\n{PATIENT},\n\n{OTHER},20150231\n{PATIENT},\n"
    request = request_of(tmp_path, cells)
    assert [row.line for row in rows_of(request, 2)] == [row.line for row in rows_of(request, 5)] == [2]
    for line in (0, 1, 3, 6):
        with pytest.raises(QueryTableError, match=f"no row on line {line}; its header is on line 1"):
            rows_of(request, line)
    for bad in (None, 4):
        with pytest.raises(QueryTableError, match="line 4, StudyDate: ") as raised:
            rows_of(request, bad)
        assert "20150231" not in str(raised.value)
    with pytest.raises(InputError, match="there is no request with this id"):
        rows_of("req-" + "0" * 24, None)
    with pytest.raises(QueryTableError, match="not known"):
        rows_of(request_of(tmp_path, f"PatientIdd\n{PATIENT}\n"), None)


def test_errors_of_a_look_say_whether_to_look_again(
    pacs: EmbeddedPacs, arrive: Callable[..., list[Path]], tmp_path: Path
) -> None:
    arrive(series(PATIENT, ProtocolName="Kopf"))
    rows = rows_of(request_of(tmp_path, f"PatientID,ProtocolName\n{PATIENT},Kopf\n"), None)
    with pytest.raises(PacsUnreachable) as unreachable:
        count_arrived(node_of(pacs, port=free_port()), rows)
    node = node_of(pacs, max_associations=1)
    with shared().acquire(f"pacs:{node.key}"), pytest.raises(LeaseBusy) as busy:
        count_arrived(node, rows)
    pacs.faults.stall = 60
    with pytest.raises(PacsTimeout) as timeout:
        count_arrived(node_of(pacs, dimse_timeout=0.2), rows)
    pacs.faults.stall = 0
    assert unreachable.value.retryable and busy.value.retryable and timeout.value.retryable
    with pytest.raises(Cancelled):
        count_arrived(node, rows, cancelled=lambda: True)
    pacs.faults.ignored_keys = pacs.faults.unreturned_keys = {"ProtocolName"}
    with pytest.raises(Undecidable, match="ProtocolName"):
        count_arrived(node, rows)
    pacs.faults.reject = "called_aet"
    with pytest.raises(AssociationRejected):
        count_arrived(node, rows)
    assert no_slot_is_held(node)


def test_warnings_of_pydicom_are_suppressed_in_all_threads(tmp_path: Path) -> None:
    """Warnings quote values, and `catch_warnings` in one thread undoes that of another."""
    rows = rows_of(request_of(tmp_path, f"PatientID\n{PATIENT}\n"), None)
    seen: list[Arrived] = []
    with Crooked(SeriesNumber="Wurzelbacher") as crooked, warnings.catch_warnings(record=True) as heard:
        crooked.add(write(series(PATIENT), tmp_path / "images"))
        looks = [threading.Thread(target=lambda: seen.append(count_arrived(node_of(crooked), rows))) for _ in range(3)]
        for thread in looks:
            thread.start()
        while any(thread.is_alive() for thread in looks):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                time.sleep(0.01)
        warnings.warn("others are heard", stacklevel=1)
    assert seen == [Arrived(1, 1, 1)] * 3
    assert [str(warning.message) for warning in heard] == ["others are heard"]


# The trigger


@pytest.fixture
def airflow(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pacs: EmbeddedPacs
) -> Airflow:
    entered = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    entered.connect(pacs)
    return entered


def trigger(request: str, **arguments: Any) -> Any:
    """Return a trigger with short times, serialized and made again."""
    from pacsifier_ops.triggers.dicom import DicomArrivalTrigger

    usual = {"row": None, "pacs": "pacs_default", "minimum": 1, "settle": 0, "poke_interval": 0.05, "timeout": 60}
    path, kwargs = DicomArrivalTrigger(request=request, run="run", **(usual | arguments)).serialize()
    assert path == "pacsifier_ops.triggers.dicom.DicomArrivalTrigger"
    assert all(value is None or isinstance(value, int | float | str) for value in kwargs.values())
    again = DicomArrivalTrigger(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)
    return again


def outcome(waiting: Any, meanwhile: Callable[[asyncio.Task[Any]], Awaitable[None]] | None = None) -> dict[str, Any]:
    """Return the event of a trigger, after a function has run meanwhile."""

    async def wait() -> dict[str, Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(anext(waiting.run()))
        if meanwhile:
            await meanwhile(task)
        payload: dict[str, Any] = (await task).payload
        return payload

    return asyncio.run(wait())


async def looks(pacs: EmbeddedPacs, count: int = 3) -> None:
    """Wait for a number of looks (each has at least one query here)."""
    enough = len(pacs.queries) + 3 * count
    while len(pacs.queries) < enough:
        await asyncio.sleep(0.02)


@pytest.mark.airflow
def test_the_trigger_waits_until_series_arrive_and_settle(
    airflow: Airflow, pacs: EmbeddedPacs, arrive: Callable[..., list[Path]], tmp_path: Path
) -> None:
    waiting = trigger(request_of(tmp_path, f"PatientID\n{PATIENT}\n"), settle=3600)

    async def meanwhile(task: asyncio.Task[Any]) -> None:
        await looks(pacs)
        arrive(series(PATIENT, n_images=2))
        await looks(pacs)
        assert not task.done()  # it is there, but the archive may still be receiving
        waiting.settle = 1.5
        for number in range(2, 22):  # series arrive one after the other, for longer than that
            arrive(series(PATIENT, series_number=number))
            await asyncio.sleep(0.1)

    assert outcome(waiting, meanwhile) == {"state": "arrived", "rows": 1, "series": 21, "instances": 22}


@pytest.mark.airflow
def test_the_trigger_looks_again_after_a_temporary_error(
    airflow: Airflow, pacs: EmbeddedPacs, arrive: Callable[..., list[Path]], tmp_path: Path
) -> None:
    arrive(series(PATIENT))
    pacs.faults.reject = "transient"

    async def meanwhile(task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(0.5)
        assert not task.done()
        pacs.faults.reject = None

    waiting = trigger(request_of(tmp_path, f"PatientID\n{PATIENT}\n"))
    assert outcome(waiting, meanwhile) == {"state": "arrived", "rows": 1, "series": 1, "instances": 1}


@pytest.mark.airflow
def test_the_trigger_gives_the_reason_of_every_other_end(
    airflow: Airflow,
    pacs: EmbeddedPacs,
    arrive: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrive(series(PATIENT, n_images=2))
    request = request_of(tmp_path, f"PatientID\n{PATIENT}\n{OTHER}\n")
    late = outcome(trigger(request, timeout=0.3))
    assert late["state"] == "late"
    assert late["message"] == "not all there after 0.3 s: 1 of 2 row(s) with enough series; 1 series, 2 instances"
    assert outcome(trigger(request, timeout=3600, since=time.time() - 3600))["state"] == "late"  # from before a restart
    monkeypatch.setenv("AIRFLOW_CONN_PACS_WRONG", json.dumps({"conn_type": "dicom", "host": "127.0.0.1", "port": 1}))
    for arguments, words in (
        ({"pacs": "no_such"}, "there is no connection no_such"),
        ({"pacs": "pacs_wrong"}, "called_aet, the AE title of the PACS, is missing"),
        ({"row": 4}, "no row on line 4"),
    ):
        ended = outcome(trigger(request, **arguments))
        assert ended["state"] == "failed" and words in ended["message"]
    folder = Run.named("run").folder
    ended = outcome(trigger(request, poke_interval="now and then"))
    assert ended == {
        "state": "unforeseen",
        "message": f"unexpected TypeError; the details are in {folder}/problems.txt",
    }
    assert "TypeError: " in (folder / "problems.txt").read_text()


@pytest.mark.airflow
def test_the_trigger_stops_when_cancelled(airflow: Airflow, pacs: EmbeddedPacs, tmp_path: Path) -> None:
    async def cancel() -> None:
        task = asyncio.ensure_future(anext(waiting.run()))
        await looks(pacs, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    waiting = trigger(request_of(tmp_path, f"PatientID\n{PATIENT}\n"))
    asyncio.run(cancel())  # returns when the thread has ended
    assert waiting._stopped.is_set() and no_slot_is_held(node_of(pacs))


@pytest.mark.airflow
@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_files_stored_into_a_real_archive_meanwhile(
    airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    first = write(series(PATIENT, n_images=2), tmp_path / "first")
    second = write(series(OTHER, n_images=3), tmp_path / "second")
    request = request_of(tmp_path, f"PatientID\n{PATIENT}\n{OTHER}\n")
    peer = KINDS[kind](tmp_path / kind)
    connection = {
        "conn_type": "dicom",
        "host": "127.0.0.1",
        "port": peer.port,
        "extra": {"called_aet": peer.aet, "calling_aet": OUR_AET},
    }
    monkeypatch.setenv("AIRFLOW_CONN_PACS_DEFAULT", json.dumps(connection))
    node = PacsNode(kind, "127.0.0.1", peer.port, peer.aet, OUR_AET)

    async def meanwhile(task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(0.3)  # no archive listens yet
        await asyncio.to_thread(peer.start)
        await asyncio.to_thread(peer.store, first)
        assert await asyncio.to_thread(count_arrived, node, rows_of(request, None)) == Arrived(1, 1, 2)
        assert not task.done()
        await asyncio.to_thread(peer.store, second)

    try:
        ended = outcome(trigger(request, settle=1), meanwhile)
    finally:
        peer.stop()
    assert ended == {"state": "arrived", "rows": 2, "series": 2, "instances": 5}


# The sensor

DAG = """
from airflow.sdk import DAG, Param, task
from pacsifier_ops.sensors.dicom import DicomArrivalSensor

with DAG("waiting", schedule=None, params={"request": "", "row": None, "timeout": 60}):
    arrived = DicomArrivalSensor(
        task_id="arrived",
        request="{{ params.request }}",
        row="{{ params.row }}",
        settle=0,
        poke_interval=0.05,
        timeout=0.5,
        soft_fail=SOFT_FAIL,
    )

    @task
    def doubled(counts):
        return {name: 2 * count for name, count in counts.items()}

    doubled(arrived.output)
"""


@pytest.fixture
def waiting_dag(airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a DAG that waits and then goes on. Return states, results and rendered fields."""
    folder = tmp_path / "dags"
    folder.mkdir()
    bundles = airflow_home.bundles({"tests": folder})
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", bundles)

    def run(soft_fail: bool = False, **params: Any) -> dict[str, Any]:
        from airflow.dag_processing.dagbag import DagBag
        from airflow.models.renderedtifields import RenderedTaskInstanceFields

        (folder / "waiting.py").write_text(DAG.replace("SOFT_FAIL", str(soft_fail)))
        bag = DagBag(folder)
        assert not bag.import_errors
        done = bag.dags["waiting"].test(run_conf=params)
        tasks = {ti.task_id: ti for ti in done.get_task_instances()}
        return {
            "states": {name: str(ti.state) for name, ti in tasks.items()},
            "counts": tasks["doubled"].xcom_pull(task_ids="doubled", run_id=done.run_id),
            "rendered": RenderedTaskInstanceFields.get_templated_fields(tasks["arrived"]),
        }

    return run


@pytest.mark.airflow
def test_a_dag_waits_and_goes_on(
    waiting_dag: Callable[..., dict[str, Any]],
    arrive: Callable[..., list[Path]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arrive(series(PATIENT, n_images=3))
    request = request_of(tmp_path, f"PatientID\n{PATIENT}\n{OTHER}\n")
    run = waiting_dag(request=request, row=2)
    assert run["states"] == {"arrived": "success", "doubled": "success"}
    assert run["counts"] == {"rows": 2, "series": 2, "instances": 6}
    assert run["rendered"] == {"request": request, "row": "2"}
    capfd.readouterr()

    for params, state, words in (
        ({"request": request}, "failed", "AirflowSensorTimeout: not all there after 0.5 s: 1 of 2 row(s)"),
        ({"request": request, "soft_fail": True}, "skipped", ""),
        ({"request": request, "row": 9}, "failed", "AirflowFailException: the request's table has no row on line 9"),
        ({"request": request, "row": "two"}, "failed", "AirflowFailException: row is not the number of a line"),
        ({"request": "req-" + "1" * 24}, "failed", "AirflowFailException: queryfile: there is no request with this id"),
    ):
        assert waiting_dag(**params)["states"]["arrived"] == state
        said = "".join(capfd.readouterr())
        assert words in said
        assert PATIENT not in said and OTHER not in said


@pytest.mark.airflow
@pytest.mark.parametrize("fetch_from", ["", "images"])
def test_a_dag_waits_for_a_web_archive(
    waiting_dag: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fetch_from: str,
) -> None:
    """Of two archives, the one that is searched is asked."""
    request = request_of(tmp_path, f"PatientID\n{PATIENT}\n")
    with FaultyWeb(tmp_path / "web", user="reader", password="s3cr3t-Word") as web:
        described = {"conn_type": "dicomweb", "host": web.url, "login": web.user, "password": web.password}
        extra = {"retry_wait": 0.01, "fetch_from": fetch_from}
        monkeypatch.setenv("AIRFLOW_CONN_PACS_DEFAULT", json.dumps({**described, "extra": extra}))
        nowhere = {"conn_type": "dicom", "host": "127.0.0.1", "port": 1, "extra": {"called_aet": "IMAGES"}}
        monkeypatch.setenv("AIRFLOW_CONN_IMAGES", json.dumps(nowhere))
        assert waiting_dag(request=request)["states"]["arrived"] == "failed"
        assert "not all there after 0.5 s: 0 of 1 row(s)" in "".join(capfd.readouterr())
        web.load(write(series(PATIENT, n_images=2), tmp_path / "images"))
        web.fail("any.status", {"status": 503, "headers": {"Retry-After": "0"}}, times=1)
        run = waiting_dag(request=request)
        assert run["states"] == {"arrived": "success", "doubled": "success"}
        assert run["counts"] == {"rows": 2, "series": 2, "instances": 4}
        said = "".join(capfd.readouterr())
        assert PATIENT not in said and web.password not in said


@pytest.mark.airflow
def test_a_sensor_refuses_wrong_parameters(airflow: Airflow) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from pacsifier_ops.sensors.dicom import DicomArrivalSensor

    request = "req-" + "0" * 24
    assert DicomArrivalSensor.template_fields == ("request", "row")
    assert DicomArrivalSensor(task_id="t", request=request, row=0).row == 0
    with pytest.raises(AirflowSkipException, match="too late"):  # with the reason, which Airflow alone would not give
        DicomArrivalSensor(task_id="t", request=request, soft_fail=True).execute_complete(
            {}, {"state": "late", "message": "too late"}
        )
    with pytest.raises(InputError, match="request is not the id of a request"):
        DicomArrivalSensor(task_id="t", request="queries/table.csv")
    with pytest.raises(ConfigError, match="minimum is below 1"):
        DicomArrivalSensor(task_id="t", request=request, minimum=0)
    with pytest.raises(ConfigError, match="settle is below 0"):
        DicomArrivalSensor(task_id="t", request=request, settle=-1)
