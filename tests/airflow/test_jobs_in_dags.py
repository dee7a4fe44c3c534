"""Jobs in a DAG of the user: their arguments, the params of the run, and their results for other tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.messages import outbox
from pacsifier_ops.runs.folder import Run, dag_run_name, stage_run, stages_in
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, THEOBALD, ZEBEDAEUS, Airflow

pytestmark = pytest.mark.airflow

DAG_ID = "own"
CODE = """
from airflow.sdk import DAG, Param, task
from pacsifier_ops.airflow import deidentify, extract

@task(multiple_outputs=True)
def tables():
    return {"first": "first.csv"}

@task(trigger_rule="all_done")
def told(folder, verdict, series):
    return {"folder": folder, "verdict": verdict, "series": series}

with DAG("own", schedule=None, params={"out_directory": "shared", "accept_incomplete": False, "other": 1}):
    found = tables()
    one = extract("one", queryfile=found["first"], out_directory="{{ params.other }}/one", info=False)
    two = extract("two", queryfile="others.csv")
    made = deidentify(in_folder=one.output["folder"], out_folder="clean", project="own")
    told(made.output["folder"], made.output["verdict"], one.output["series"])
    one >> two
"""


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(CODE)
    return path


def test_jobs_take_arguments_and_leave_the_rest_to_the_run(airflow: Airflow, file: Path, tmp_path: Path) -> None:
    files = airflow_home.build(tmp_path / "pacs")
    airflow.table(f"PatientID\n{KUNIGUNDE['patient_id']}\n", "first.csv")
    airflow.table(f"PatientID\n{THEOBALD['patient_id']}\n{ZEBEDAEUS['patient_id']}\n", "others.csv")
    with EmbeddedPacs() as pacs:
        pacs.add(files)
        airflow.connect(pacs)
        run = airflow_home.run_dag(DAG_ID, file, something_of_the_sites="x", project="another", info=False)
    assert run.state == "success", run.states
    clean = airflow.data / "clean"
    assert run.returned["told"] == [{"folder": str(clean), "verdict": "complete", "series": 2}]
    assert len(list((airflow.data / "1" / "one").glob("sub-*/*/*/*.dcm"))) == 5
    assert not list((airflow.data / "1" / "one").glob("sub-*/**/*.csv"))
    assert len(list((airflow.data / "shared").glob("sub-*/*/*/*.dcm"))) == 4  # the folder is a param of the run
    assert list((airflow.data / "shared").glob("sub-*/**/*.csv"))  # a conf that is no param of the DAG changes nothing
    assert len(list(clean.rglob("*.dcm"))) == 5
    whole = Run.named(dag_run_name(DAG_ID, run.run_id))
    assert sorted(stages_in(whole)) == ["deidentify", "one", "two"] and stages_in(whole)[0] == "one"
    assert all(stage_run(whole, name).report.exists() for name in ("one", "two", "deidentify"))
    words = airflow_home.identifiers(files)
    assert airflow_home.traces(airflow.home / "airflow", words) == []


def test_a_job_that_fails_says_why_and_stops_what_follows(airflow: Airflow, file: Path, capfd: Any) -> None:
    telling = CODE.replace("schedule=None", 'schedule=None, default_args={"on_failure_callback": tell_failure}')
    file.write_text(telling.replace("import deidentify", "import tell_failure, deidentify"))
    run = airflow_home.run_dag(DAG_ID, file)
    assert run.state == "failed"
    assert run.states["one.prepare"] == ["failed"] and run.states["deidentify.prepare"] == ["upstream_failed"]
    said = "".join(capfd.readouterr())
    assert "queryfile" in said or "first.csv" in said or "pacs_default" in said
    assert [(one.message.about, one.message.dag_id) for one in outbox.waiting()] == [("failed", DAG_ID)]


SKIPPED = """
from pathlib import Path
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException
from pacsifier_ops.airflow import deidentify

@task
def fetch():
    if Path("{flag}").exists():
        raise {error}
    return "raw"

@task
def mine(verdict):
    return verdict

with DAG("own", schedule=None):
    job = deidentify(in_folder=fetch(), out_folder="clean", project=None, delete_identifiable="{{{{ 1 == 2 }}}}")
    mine(job.output["verdict"])
"""


@pytest.mark.parametrize(
    ("error", "states"),
    [
        ("AirflowSkipException('nothing tonight')", {"fetch": "skipped", "prepare": "skipped", "report": "skipped"}),
        ("ValueError('broken')", {"fetch": "failed", "prepare": "upstream_failed", "report": "failed"}),
    ],
)
def test_the_report_of_an_earlier_attempt_is_no_result(
    airflow: Airflow, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, states: dict[str, str]
) -> None:
    from pacsifier_ops.operators import base

    monkeypatch.setattr(base, "dag_run_name", lambda *_: "own-cleared")  # both attempts belong to one run
    airflow_home.build(airflow.data / "raw")
    file.write_text(SKIPPED.format(flag=tmp_path / "flag", error=error))
    first = airflow_home.run_dag(DAG_ID, file)
    assert first.state == "success" and first.returned["mine"] == ["complete"]
    (tmp_path / "flag").touch()
    again = airflow_home.run_dag(DAG_ID, file)
    told = {task.removeprefix("deidentify."): state for task, (state, *_) in again.states.items()}
    assert states.items() <= told.items() and told["mine"] == states["prepare"]


def test_an_argument_that_is_no_option_is_an_error_of_the_file(airflow: Airflow, file: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    file.write_text(CODE.replace("queryfile=", "query_file="))
    (error,) = DagBag(file).import_errors.values()
    assert "one: query_file is not known (did you mean queryfile?)" in error


def test_a_missing_required_option_is_an_error(airflow: Airflow, file: Path, capfd: Any) -> None:
    file.write_text(CODE.replace('queryfile=found["first"], ', ""))
    assert airflow_home.run_dag(DAG_ID, file).states["one.prepare"] == ["failed"]
    assert "queryfile is empty; give a path below the data root" in "".join(capfd.readouterr())


def test_a_dag_with_jobs_can_be_serialized_and_has_pages(airflow: Airflow, file: Path) -> None:
    import msgspec
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    bag = DagBag(file)
    assert not bag.import_errors
    kept = DagSerialization.serialize_dag(bag.dags[DAG_ID])
    assert msgspec.msgpack.encode(kept)
    again = DagSerialization.deserialize_dag(kept)
    assert {"one.prepare", "one.find", "two.report", "deidentify.deidentify"} <= again.task_dict.keys()
    assert again.get_task("deidentify.prepare").upstream_task_ids == {"one.report"}
