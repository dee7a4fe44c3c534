"""The DAG files: they can be read quickly, and their forms describe every param."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops import __version__
from pacsifier_ops.runs.approvals import LONGEST_PATIENCE
from tests.support import airflow_home
from tests.support.airflow_home import Airflow
from tests.support.places import REPO

pytestmark = pytest.mark.airflow

FILES = sorted((REPO / "dags").glob("*.py"))


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


@pytest.fixture
def dags(airflow: Airflow) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(REPO / "dags")
    assert not bag.import_errors
    return bag.dags


def test_every_file_holds_the_dag_of_its_name(dags: dict[str, Any]) -> None:
    assert {Path(dag.fileloc).stem for dag in dags.values()} == set(dags) == {path.stem for path in FILES}


#: Prints the modules that each file imports and Airflow does not. It forks, because importing Airflow takes long.
_READING = """
import json, os, runpy, sys
import airflow.sdk, airflow.sdk.definitions.dag, airflow.sdk.definitions.param
before = set(sys.modules)
for path in sys.argv[1:]:
    if os.fork() == 0:
        runpy.run_path(path)
        print(json.dumps([path, [name.partition(".")[0] for name in set(sys.modules) - before]]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def imports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the modules that each file imports."""
    environment = {**os.environ, **airflow_home.migrated(tmp_path_factory.getbasetemp())[1]}
    command = [sys.executable, "-c", _READING, *map(str, FILES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    return {Path(path).stem: set(brought) for path, brought in told}


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_reading_a_file_imports_nothing_heavy(imports: dict[str, set[str]], name: str) -> None:
    brought = imports[name]
    assert "pacsifier_ops" in brought
    if name == "pacsifier_nightly":
        brought.discard("sqlalchemy")  # imported by an operator of Airflow; forked tasks have it loaded
    heavy = {"pandas", "pyarrow", "numpy", "pynetdicom", "pydicom", "openpyxl", "sqlalchemy", "fastapi"}
    assert brought.isdisjoint(heavy)


def test_dags_and_params_explain_themselves(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        assert dag.description and dag.doc_md and dag.tags
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema["title"] and param.schema["section"] and param.description, name
            shown = {None if value == "null" else value for value in param.schema.get("values_display", {})}
            assert shown == set(param.schema.get("enum", ())), name
            if name not in ("queryfile", "album_name"):  # these have no default
                param.resolve()  # the default is one of those allowed


def test_dags_of_another_version_are_an_import_error_that_says_what_to_do(airflow: Airflow, tmp_path: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    text = (REPO / "dags" / "pacsifier_upload.py").read_text(encoding="utf-8")
    (tmp_path / "pacsifier_upload.py").write_text(text.replace(f'common("{__version__}")', 'common("0.1")'))
    (error,) = DagBag(tmp_path).import_errors.values()
    assert "this file belongs to version 0.1" in error and "`pacsifier-init --dags FOLDER`" in error


def test_dags_have_an_owner_limits_and_a_text_for_every_task(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    tasks = [task for dag in dags.values() for task in dag.tasks]
    assert {task.owner for task in tasks} == {"pacsifier"}
    assert all(task.doc_md and "Args:" not in task.doc_md for task in tasks)
    assert dags["pacsifier_study"].get_task("extract.retrieve").doc_md.startswith("Retrieve the series of one unit")
    assert all((task.execution_timeout is None) == task.task_id.endswith("approve") for task in tasks)
    # No task has copies of the DAG's params, which Airflow would keep and read with each of them.
    assert {name for task in tasks for name in task.params} == {"reason"}
    assert dags["pacsifier_extract"].dagrun_timeout.total_seconds() / 3600 > LONGEST_PATIENCE
    monkeypatch.setenv("PACSIFIER_OWNER", "imaging")
    monkeypatch.setenv("PACSIFIER_TASK_HOURS", "0")
    monkeypatch.setenv("PACSIFIER_RUN_DAYS", "5")
    dag = DagBag(REPO / "dags" / "pacsifier_upload.py").dags["pacsifier_upload"]
    assert (dag.owner, dag.get_task("store").execution_timeout) == ("imaging", None)
    assert dag.dagrun_timeout == timedelta(days=5)


def test_the_form_of_a_study_has_the_keys_of_its_file(dags: dict[str, Any]) -> None:
    from pacsifier_ops.study.project import FORM, Study

    params = dags["pacsifier_study"].params
    assert set(params) == {*FORM, "project_file"}
    for name in FORM:
        default = getattr(Study(), name)
        assert (params[name] or type(default)()) == default, name


def test_the_last_task_of_a_job_is_the_teardown_of_its_run(dags: dict[str, Any]) -> None:
    # Airflow does not skip a teardown where somebody marks the run, so the account is closed whatever happens.
    with_report = {name: dag for name, dag in dags.items() if "report" in dag.task_dict}
    assert set(dags) - set(with_report) == {"pacsifier_messages", "pacsifier_nightly", "pacsifier_probe"}
    for dag in with_report.values():
        assert [task.task_id for task in dag.tasks if task.is_teardown and task.on_failure_fail_dagrun] == ["report"]
        assert [task.task_id for task in dag.leaves] == ["report"]
        # Whoever cancels a run spares them by these names, see `web.tasks`.
        reports = {task.task_type for task in dag.tasks if task.task_id.rpartition(".")[2] == "report"}
        assert all(name.endswith("ReportOperator") for name in reports)


def test_a_stage_begins_only_if_the_first_task_of_the_one_before_succeeded(dags: dict[str, Any]) -> None:
    tasks = dags["pacsifier_study"].task_dict
    for before, after in (
        *(("extract", "pseudonyms.prepare"), ("pseudonyms", "anonymize.prepare"), ("anonymize", "dumps.prepare")),
        *(("dumps", "check"), ("karnak", "karnak_upload.prepare")),
    ):
        assert {f"{before}.prepare", f"{before}.report"} <= tasks[after].upstream_task_ids


def test_numbers_in_forms_have_bounds(dags: dict[str, Any]) -> None:
    found = 0
    for dag in dags.values():
        for name in dag.params:
            schema = dag.params.get_param(name).schema
            kinds = schema.get("type", [])
            if {"integer", "number"}.intersection([kinds] if isinstance(kinds, str) else kinds):
                found += 1
                assert schema["maximum"] <= 10**9, (dag.dag_id, name)
                assert "minimum" in schema or "exclusiveMinimum" in schema, (dag.dag_id, name)
    assert found


def test_dags_can_be_serialized_for_the_scheduler(dags: dict[str, Any]) -> None:
    import msgspec
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in dags.values():
        kept = DagSerialization.serialize_dag(dag)
        assert msgspec.msgpack.encode(kept)  # the DAG processor sends this
        again = DagSerialization.deserialize_dag(kept)
        assert again.task_dict.keys() == dag.task_dict.keys()


def test_only_numbers_are_rendered(dags: dict[str, Any]) -> None:
    """Rendered fields are kept in the database, and shown in the user interface."""
    from pacsifier_ops import operators as package
    from pacsifier_ops.operators import nightly
    from pacsifier_ops.operators.base import PacsifierOperator

    modules = [import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    operators = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, PacsifierOperator)
    ]
    for operator in operators:
        # The arguments of a job in a user's DAG are in the DAG file anyway.
        for name in set(operator.template_fields) - {"arguments"}:
            assert operator.__init__.__annotations__[name] == "int", f"{operator.__name__}.{name}"
    used = {task.operator_class if task.is_mapped else type(task) for dag in dags.values() for task in dag.tasks}
    assert used <= {*operators, nightly.NightlyStartOperator} and not nightly.NightlyStartOperator.template_fields


def test_an_option_of_a_request_is_in_its_form(airflow: Airflow) -> None:
    from pacsifier_ops.operators.params import form
    from tests.base.test_options import Bread

    params = form(Bread)
    assert [*params] == ["flour", "recipe", "oven", "salted", "seeds", "crust", "loaves", "hours"]
    assert {name: param.value for name, param in params.items()} == {
        "flour": "in",
        "recipe": None,
        "oven": None,
        "salted": True,
        "seeds": [],
        "crust": "thin",
        "loaves": None,
        "hours": 2.5,
    }
    text, choice = params["flour"].schema, params["crust"].schema
    draft = "http://json-schema.org/draft-07/schema#"
    assert text == {"$schema": draft, "type": "string", "minLength": 1, "title": "Flour", "section": "What"}
    assert choice["values_display"] == {"thin": "thin: like paper", "thick": "thick: like bark"}
    assert params["loaves"].schema["type"] == ["null", "integer"] and params["loaves"].schema["maximum"] == 9
    assert params["hours"].schema["exclusiveMinimum"] == 0
    assert params["seeds"].schema["items"] == {"type": "string", "enum": ["rye", "oat"]}
