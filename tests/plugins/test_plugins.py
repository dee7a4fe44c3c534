"""Parts of the package that Airflow loads by itself: provider, connection type, pools, policy."""

from __future__ import annotations

import datetime as dt
import json
import os
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.cli import init
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.plugins.provider import get_provider_info
from tests.support import airflow_home
from tests.support.airflow_home import Airflow, run_airflow

pytestmark = pytest.mark.airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


@pytest.fixture
def session(airflow: Airflow) -> Iterator[Any]:
    """Yield a session of a database without our pools and without connections; they are removed afterwards."""
    from airflow.models.connection import Connection
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    def clear() -> None:
        with create_session() as other:
            other.execute(delete(Pool).where(Pool.pool != Pool.DEFAULT_POOL_NAME))
            other.execute(delete(Connection))

    clear()
    with create_session() as opened:
        yield opened
    clear()


#: Pools that belong to no connection.
OTHERS = {"pacsifier": 4, "conversion": max(1, (os.cpu_count() or 1) - 1)}


def pools(session: Any) -> dict[str, int]:
    """Return the slots of our pools."""
    from airflow.models.pool import Pool

    session.commit()
    return {str(pool.pool): pool.slots for pool in Pool.get_pools(session=session) if pool.pool != "default_pool"}


def dicom(**extra: Any) -> str:
    """Return a connection of type dicom in the form of an environment variable."""
    return json.dumps({"conn_type": "dicom", "host": "pacs", "port": 104, "extra": extra})


def test_the_provider_fits_airflows_schema(airflow: Airflow) -> None:
    import airflow as installed
    import jsonschema

    schema = json.loads((Path(installed.__path__[0]) / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)
    from pacsifier_ops.hooks.channels import ChannelHook
    from pacsifier_ops.hooks.deid_api import DeidApiHook
    from pacsifier_ops.hooks.dicom import DicomHook
    from pacsifier_ops.hooks.dicomweb import DicomWebHook
    from pacsifier_ops.hooks.stores import KheopsHook, ObjectStoreHook, XnatHook

    hooks: list[Any] = [DicomHook, DicomWebHook, DeidApiHook, ObjectStoreHook, XnatHook, KheopsHook, ChannelHook]
    for connection, hook in zip(get_provider_info()["connection-types"], hooks, strict=True):
        assert {key: text for key, text in connection.items() if key not in ("conn-fields", "ui-field-behaviour")} == {
            "connection-type": hook.conn_type,
            "hook-class-name": f"{hook.__module__}.{hook.__name__}",
            "hook-name": hook.hook_name,
        }


@pytest.mark.parametrize("group", ["apache_airflow_provider", "airflow.plugins", "airflow.policy"])
def test_entry_points_are_installed(group: str) -> None:
    assert any(point.value.startswith("pacsifier_ops.") for point in entry_points(group=group))


def test_airflow_lists_provider_and_plugin(airflow: Airflow) -> None:
    environment = airflow_home.migrated(airflow.home.parent)[1]
    providers = json.loads(airflow_home.run_airflow(environment, "providers", "list", "--output", "json"))
    assert "pacsifier-ops" in {provider["package_name"] for provider in providers}
    from airflow import plugins_manager, settings
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    assert {"dicom", "deid_api"} <= set(ProvidersManagerTaskRuntime().hooks)
    assert "pacsifier" in {plugin.name for plugin in plugins_manager._get_plugins()[0]}
    assert "pacsifier_ops.plugins.policy" in {p.__name__ for p in settings.get_policy_plugin_manager().get_plugins()}


def test_pools_of_all_connections(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.models.connection import Connection
    from airflow.models.pool import Pool

    from pacsifier_ops.hooks.pools import make_pools

    monkeypatch.delenv("AIRFLOW_CONN_PACS_DEFAULT", raising=False)
    monkeypatch.setenv("AIRFLOW_CONN_PACS_ENV", dicom(called_aet="PACS", max_associations=3))
    monkeypatch.setenv("AIRFLOW_CONN_PACS_URI", "dicom://pacs:104/?called_aet=PACS&max_associations=5")
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", dicom())
    monkeypatch.setenv("AIRFLOW_CONN_GARBAGE", "{this is not JSON")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "postgres://elsewhere/")
    extra = '{"called_aet": "PACS", "max_associations": 2}'
    session.add(Connection("pacs_db", "dicom", host="pacs", port=104, extra=extra))
    session.add(Connection("pacs_db_broken", "dicom", host="", port=104, extra=extra))
    session.add(Connection("pacs_db_unknown", "dicom", host="pacs", extra='{"called_aet": "PACS", "AET": "X"}'))
    session.commit()
    expected = {**OTHERS, "pacs_env": 3, "pacs_uri": 5, "pacs_db": 2}
    assert make_pools(session) == expected and pools(session) == expected
    monkeypatch.setenv("AIRFLOW_CONN_PACS_ENV", dicom(called_aet="PACS", max_associations=7))
    assert make_pools(session) == {**expected, "pacs_env": 7} == pools(session)
    # How many conversions run at once depends on the machines, so what somebody has set stays.
    Pool.create_or_update_pool("conversion", 12, "", False, session=session)
    session.commit()
    assert make_pools(session)["conversion"] == pools(session)["conversion"] == 12


def test_init_makes_pools_and_folders(
    session: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "a" / "b"))
    monkeypatch.setenv("AIRFLOW_CONN_PACS_DEFAULT", dicom(called_aet="PACS"))
    assert init.main([]) == init.main([]) == 0
    assert (tmp_path / "a" / "b").is_dir()
    assert pools(session) == {**OTHERS, "pacs_default": 4}
    assert "pool pacs_default: 4 slots" in capsys.readouterr().out


def test_a_scheduler_that_starts_makes_pools(session: Any, airflow: Airflow) -> None:
    environment = {**os.environ, "AIRFLOW_CONN_PACS_DEFAULT": dicom(called_aet="PACS")}
    said = run_airflow(environment, "scheduler", "--num-runs", "1", "--skip-serve-logs")
    # Another process reads the database: tests that open it as a file have released the locks of this one.
    listed = json.loads(run_airflow(environment, "pools", "list", "--output", "json"))
    found = {pool["pool"]: int(pool["slots"]) for pool in listed if pool["pool"] != "default_pool"}
    assert found == {**OTHERS, "pacs_default": 4}, said


def run_that_finds_nothing(airflow: Airflow, session: Any) -> Any:
    """Run an extraction that finds nothing; return its DAG run, of this session."""
    from airflow.models.dagrun import DagRun
    from sqlalchemy import select

    airflow.table("PatientID\nNOBODY\n")
    with EmbeddedPacs() as pacs:
        airflow.connect(pacs)
        run_id = airflow.run(retrieve="none").run_id
    return session.scalar(select(DagRun).where(DagRun.run_id == run_id))


def test_tasks_get_the_pool_of_their_connection(airflow: Airflow, session: Any) -> None:
    from airflow.models.connection import Connection
    from airflow.models.xcom import XComModel

    from pacsifier_ops.hooks.constants import COMMON_POOL, NODES, URGENCY
    from pacsifier_ops.hooks.pools import make_pools
    from pacsifier_ops.plugins.policy import task_instance_mutation_hook

    dag_run = run_that_finds_nothing(airflow, session)
    (find,) = (ti for ti in dag_run.task_instances if ti.task_id == "find")
    (prepare,) = (ti for ti in dag_run.task_instances if ti.task_id == "prepare")
    assert find.pool == "pacs_default"  # which did not exist; a task in a missing pool never starts
    make_pools(session)
    session.commit()

    def pool(task_instance: Any, *told: str, **conf: Any) -> str:
        dag_run.conf, task_instance.pool = conf, "default_pool"
        whose = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id, "task_id": "prepare"}
        XComModel.clear(**whose, map_index=-1, session=session)
        if told:
            XComModel.set(NODES, {NODES: list(told), URGENCY: "normal"}, **whose, session=session)
        task_instance_mutation_hook(task_instance, dag_run)
        return str(task_instance.pool)

    assert pool(find, "pacs_default") == "pacs_default"
    assert pool(find, "never_made") == "pacsifier"
    assert pool(find, "pacs_default", pacs="another") == "pacs_default"  # the XCom of the first step overrides the conf
    assert pool(find, COMMON_POOL) == "pacsifier"
    assert pool(prepare, "pacs_default") == "default_pool"
    # A connection that is made while Airflow runs gets its pool with its first task.
    session.add(Connection("made_later", "dicom", host="pacs", port=104, extra='{"called_aet": "P"}'))
    session.commit()
    assert pool(find, "made_later") == "made_later" and pools(session)["made_later"] == 4
    # Of a run that an earlier version has begun, a list is told.
    XComModel.set(
        NODES, ["pacs_default"], dag_id=dag_run.dag_id, run_id=dag_run.run_id, task_id="prepare", session=session
    )
    task_instance_mutation_hook(find, dag_run)
    assert find.pool == "pacs_default"
    # As for a probe, which has no first step.
    assert pool(find) == "pacs_default"
    assert pool(find, pacs="never_made") == "pacsifier"
    assert pool(find, pacs="pacs_default", config="config.json") == "pacsifier"


def test_a_pool_is_made_once_within_a_transaction_and_beside_another(session: Any) -> None:
    from airflow.models.connection import Connection
    from airflow.models.pool import Pool

    from pacsifier_ops.hooks.pools import pool_for

    session.add(Connection("fresh", "dicom", host="pacs", port=104, extra='{"called_aet": "P"}'))
    session.commit()
    with session.no_autoflush:
        assert pool_for("fresh", session) == pool_for("fresh", session) == "fresh"
    session.commit()
    assert [pool.slots for pool in Pool.get_pools(session=session) if pool.pool == "fresh"] == [4]


def test_runs_take_turns(airflow: Airflow, session: Any) -> None:
    from airflow.models.dagbag import DBDagBag
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel

    from pacsifier_ops.hooks.constants import ITEMS
    from pacsifier_ops.plugins.policy import task_instance_mutation_hook

    dag_run = run_that_finds_nothing(airflow, session)
    dag = DBDagBag().get_dag_for_run(dag_run, session)
    assert dag is not None

    def weight(task: str, unit: int = -1, urgency: str = "normal", items: int = 1) -> int:
        whose = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id}
        XComModel.clear(**whose, task_id="prepare", map_index=-1, session=session)
        XComModel.set(ITEMS, items, **whose, task_id="plan", session=session)
        dag_run.conf = {"urgency": urgency}
        version = dag_run.created_dag_version_id
        instance = TaskInstance(dag.get_task(task), dag_version_id=version, run_id=dag_run.run_id, map_index=unit)
        task_instance_mutation_hook(instance, dag_run)
        return int(instance.priority_weight or 0)

    # It is not the step that counts, but how much of a run was done.
    assert weight("find", 7) == weight("retrieve", 7) < weight("find", 6) < weight("prepare") == weight("report")
    assert weight("retrieve", 499, "urgent") > weight("plan") > weight("retrieve", 499)
    # Series count, not units: those of a large run have many.
    assert weight("retrieve", 3, items=20) == weight("retrieve", 60)
    # A bulk run goes after small runs, and takes one turn for ten of a large one.
    assert weight("retrieve", 1023) > weight("retrieve", 0, "bulk") == weight("retrieve", 1024)
    assert weight("retrieve", 100, "bulk") == weight("retrieve", 2024)


def test_images_come_in_the_pool_of_the_archive_that_gives_them(airflow: Airflow, session: Any) -> None:
    from airflow.models.connection import Connection
    from airflow.models.dagbag import DBDagBag
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel

    from pacsifier_ops.hooks.constants import ARCHIVES, GIVERS, NODES
    from pacsifier_ops.plugins.policy import task_instance_mutation_hook

    dag_run = run_that_finds_nothing(airflow, session)
    dag = DBDagBag().get_dag_for_run(dag_run, session)
    assert dag is not None
    for name in ("index", "web", "store"):
        session.add(Connection(name, "dicom", host="pacs", port=104, extra='{"called_aet": "P"}'))
    session.commit()
    whose = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id}
    XComModel.clear(**whose, task_id="prepare", map_index=-1, session=session)
    told = {NODES: ["index", "web"], GIVERS: {"index": "store"}}
    XComModel.set(NODES, told, **whose, task_id="prepare", session=session)
    XComModel.set(ARCHIVES, {"index": 0, "web": 2}, **whose, task_id="plan", session=session)

    def pool(task: str, unit: int) -> str:
        version = dag_run.created_dag_version_id
        instance = TaskInstance(dag.get_task(task), dag_version_id=version, run_id=dag_run.run_id, map_index=unit)
        task_instance_mutation_hook(instance, dag_run)
        return str(instance.pool)

    assert [pool("find", unit) for unit in (0, 3)] == ["index", "index"]
    assert [pool(task, unit) for task in ("retrieve", "move") for unit in (1, 2)] == ["store", "web"] * 2


def test_a_run_that_has_waited_for_an_hour_gets_a_turn(airflow: Airflow, session: Any) -> None:
    """Whenever others come, which alone can keep it waiting; unless it had a turn meanwhile."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select, update

    from pacsifier_ops.plugins.policy import _FORGOTTEN, _let_forgotten_run_begin

    waiting, new = (run_that_finds_nothing(airflow, session) for _ in range(2))
    mine = (TaskInstance.run_id == waiting.run_id, TaskInstance.task_id == "find")

    def first(hours: float, served: float) -> bool:
        ago = [dt.datetime.now(dt.UTC) - dt.timedelta(hours=one) for one in (hours, served)]
        values = {"state": "scheduled", "scheduled_dttm": ago[0], "start_date": ago[1], "end_date": None}
        session.execute(update(TaskInstance).where(*mine).values(**values, priority_weight=-9, pool="of_a_pacs"))
        session.commit()
        _let_forgotten_run_begin("another", session)
        _let_forgotten_run_begin("of_a_pacs", session)
        session.commit()
        return bool(session.scalar(select(TaskInstance.priority_weight).where(*mine)) == _FORGOTTEN)

    assert new.run_id != waiting.run_id
    assert not first(hours=0.9, served=9) and not first(hours=2, served=0.9) and first(hours=2, served=9)


def test_all_operators_that_talk_to_a_node_are_in_its_pool() -> None:
    from pacsifier_ops import operators as package
    from pacsifier_ops.hooks.constants import POOLED
    from pacsifier_ops.operators.base import TalksToNode

    for info in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{info.name}")
    assert {operator.__name__ for operator in TalksToNode.__subclasses__()} == set(POOLED)


def test_the_page_of_a_run_mentions_rows_with_several_studies(airflow: Airflow) -> None:
    from pacsifier_ops.runs.progress import Progress
    from pacsifier_ops.web import pages
    from pacsifier_ops.web.views import RunView

    summary = {"verdict": "complete", "series": {}, "totals": {"rows_with_several_studies": 1}}
    shown = pages.run_page("/pacsifier", "", RunView("d", "r", "success", progress=Progress(), summary=summary))
    assert "1 row found several studies, all of which are included." in shown


def test_the_page_of_a_run_says_what_it_waits_for(airflow: Airflow) -> None:
    from pacsifier_ops.web import pages
    from pacsifier_ops.web.views import RunView
    from pacsifier_ops.web.waiting import SLOTS, Reason, Waiting

    waiting = Waiting([Reason(SLOTS, "2 tasks for one of the 4 associations", "pacs", 3)], "2026-01-31T20:15:00+00:00")
    view = RunView("d", "r", "running", waiting=waiting)
    shown = pages.run_page("/pacsifier", "", view)
    assert "2 tasks for one of the 4 associations" in shown and "2026-01-31 20:15:00" in shown
    told = view.as_json("", "")["waiting"]
    assert told["for"][0]["place"] == 3 and told["expected_end"] == "2026-01-31T20:15:00+00:00"
    # A run that has ended, or does all that it may, waits for nothing.
    for nothing in (None, Waiting()):
        assert 'id="waiting"' not in pages.run_page("/pacsifier", "", RunView("d", "r", "running", waiting=nothing))
