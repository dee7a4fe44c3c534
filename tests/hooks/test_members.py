"""Who has the roles that connections name, by the auth manager of Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.files import read_json
from pacsifier_ops.onebox import up as local
from pacsifier_ops.runs.folder import Run, dag_run_name
from pacsifier_ops.runs.people import MEMBERS, person_of
from tests.support import airflow_home
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow

FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


def connection(**rights: str) -> str:
    extra = {"called_aet": "PACS", **rights}
    return json.dumps({"conn_type": "dicom", "host": "pacs", "port": 104, "extra": extra})


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def members(dag_id: str, run_id: str) -> Any:
    path = Run.planned(dag_run_name(dag_id, run_id)).folder / MEMBERS
    return read_json(path) if path.exists() else None


def test_roles_of_the_simple_auth_manager(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    from pacsifier_ops.hooks.members import keep_members

    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "anna:op,ben:op,carl:viewer")
    monkeypatch.setenv("AIRFLOW_CONN_PACS_RIGHTS", connection(may_take="role:Op, dora, role:Trials"))
    monkeypatch.setenv("AIRFLOW_CONN_PACS_BROKEN", connection(may_take="role:,"))
    keep_members("d", "r")
    assert members("d", "r") == {"Op": ["anna", "ben"]}
    person = person_of(Run.planned(dag_run_name("d", "r")), "anna")
    assert person.members == {"Op": frozenset({"anna", "ben"})}


def test_nothing_is_written_where_no_connection_names_a_role_or_no_task_is_ours(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacsifier_ops.hooks.members import OnRun, keep_members

    class Something:
        dag_id, run_id = "d", "other"

        class dag:
            tasks = ()

    monkeypatch.setenv("AIRFLOW_CONN_PACS_RIGHTS", connection(may_take="anna"))
    keep_members("d", "users-only")
    monkeypatch.setenv("AIRFLOW_CONN_PACS_RIGHTS", connection(may_take="role:op"))
    run: Any = Something()
    OnRun().on_dag_run_running(run, "started")
    assert members("d", "users-only") is None and members("d", "other") is None
    assert person_of(Run.planned(dag_run_name("d", "other")), "anna").members == {}


@pytest.mark.slow
def test_roles_of_fab(tmp_path: Path) -> None:
    home = {**local.airflow_environment(tmp_path), "AIRFLOW__CORE__AUTH_MANAGER": FAB}
    airflow_home.run_airflow(home, "db", "migrate")
    code = """
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.providers.fab.auth_manager.models import Group
with get_application_builder() as builder:
    users = builder.sm
    trials, other = users.add_role("Trials"), users.add_role("Other")
    for name, role in (("anna", trials), ("ben", other), ("carl", other), ("dora", trials)):
        made = users.add_user(name, name, name, f"{name}@example", role, "secret")
        if name == "carl":
            users.session.add(Group(name="team", users=[made], roles=[trials]))
        made.active = name != "dora"
    users.session.commit()

from types import SimpleNamespace as S
from pacsifier_ops.hooks.members import OnRun
from pacsifier_ops.runs.folder import Run, dag_run_name
from pacsifier_ops.runs.people import admit, person_of
from pacsifier_ops.base.errors import NotAllowed
from pacsifier_ops.hooks.dicom import DicomHook
OnRun().on_dag_run_running(S(dag_id="d", run_id="r", dag=S(tasks=[S(_task_module="pacsifier_ops.x")])), "started")
run, node = Run.planned(dag_run_name("d", "r")), DicomHook("pacs_rights").get_conn()
for name in ("anna", "ben", "carl", "dora"):
    try:
        admit(person_of(run, name), [("take", node)])
        print("may", name)
    except NotAllowed:
        pass
"""
    rights = connection(may_take="role:Trials, role:Missing")
    environment = {**os.environ, **home, "AIRFLOW_CONN_PACS_RIGHTS": rights}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("may ")] == ["may anna", "may carl"]
