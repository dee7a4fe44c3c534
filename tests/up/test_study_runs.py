"""Studies under the real scheduler: approvals over the API, with all outcomes, and no patient data in Airflow."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from pacsifier_ops.base.files import read_json
from pacsifier_ops.runs.folder import dag_run_name
from tests.support import airflow_home
from tests.support.airflow_home import Up
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

STUDY = "pacsifier_study"
APPROVE, REJECT = "Approve", "Reject"


class Person:
    """A user who answers over the API."""

    def __init__(self, up: Up) -> None:
        self._up = up

    def answer(self, run: str, word: str) -> dict[str, Any]:
        """Answer the question."""
        question = self._up.question(run, STUDY)
        task = question["task_instance"]["task_id"]
        body = {"chosen_options": [word], "params_input": {}}
        self._up.patch(f"dags/{STUDY}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails", body)
        return question

    def mark_success(self, run: str) -> None:
        """Mark the waiting task as a success, as users can in the graph."""
        task = self._up.question(run, STUDY)["task_instance"]["task_id"]
        self._up.patch(f"dags/{STUDY}/dagRuns/{run}/taskInstances/{task}", {"new_state": "success"})


def start(up: Up, project: str, accession: str = "QACC990*", **conf: Any) -> str:
    (up.home / "data" / f"{project}.csv").write_text(f"AccessionNumber\n{accession}\n")
    given = {"project": project, "queryfile": f"{project}.csv", "source": "local", **conf}
    return up.start(STUDY, **given)


def states(up: Up, run: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in up.tasks(run, dag=STUDY)}


def released(up: Up, project: str) -> int:
    return len(list((up.home / "data" / "studies" / project / "released").rglob("*.dcm")))


def test_a_person_releases_a_cohort_and_a_data_set(shared: SharedAirflow) -> None:
    airflow, files = shared.up, shared.files
    person = Person(airflow)
    run = start(airflow, "approved", max_series=1, upload="research")
    cohort = person.answer(run, APPROVE)
    assert cohort["task_instance"]["task_id"] == "extract.approve" and "4 series" in cohort["body"]
    release = person.answer(run, APPROVE)
    assert release["task_instance"]["task_id"] == "approve" and released(airflow, "approved") == 0
    assert airflow.outcome(run, STUDY) == "success"
    assert released(airflow, "approved") == len(files)
    pools = {task["task_id"]: task["pool"] for task in airflow.tasks(run, dag=STUDY)}
    assert (pools["extract.find"], pools["upload.store"], pools["check"]) == (
        "pacs_default",
        "research",
        "default_pool",
    )
    # A second run has nothing new, so there is no question.
    again = start(airflow, "approved", max_series=1, upload="research")
    assert airflow.outcome(again, STUDY) == "success"
    decided, undecided = (
        airflow.home / "state" / "runs" / dag_run_name(STUDY, one) / "decisions" for one in (run, again)
    )
    assert (decided / "release.asked").exists() and not (undecided / "release.asked").exists()
    word = read_json(decided / "release.json")
    assert (word["word"], word["who"]) == ("approved", "admin")
    events = airflow.get(f"assets/events?source_dag_id={STUDY}&limit=100&order_by=timestamp")["asset_events"]
    first, second = (event["extra"] for event in events if event["name"] == "pacsifier_approved")
    assert first["files"] == first["new"] > len(files) and second["new"] == 0
    # A DAG takes what is new in each release, by its partition.
    keys = [
        event["partition_key"]
        for event in events
        if event["extra"].get("new_files") and "approved/" in event["partition_key"]
    ]
    assert len(keys) == 2 and keys[0] == keys[1]

    def taken() -> list[dict[str, int]]:
        runs = airflow.get("dags/site_new_files/dagRuns")["dag_runs"]
        ours = [one["dag_run_id"] for one in runs if one["partition_key"] == keys[0] and one["state"] == "success"]
        path = "dags/site_new_files/dagRuns/{}/taskInstances/new_files/xcomEntries/return_value"
        return [airflow.get(path.format(quote(one, safe="")))["value"] for one in ours]

    airflow.wait_for(lambda: any(counts != {"approved": 0} for counts in taken()))
    assert {"approved": first["new"]} in taken()


@pytest.fixture(scope="module")
def unapproved(shared: SharedAirflow) -> dict[str, str]:
    """Return runs without an approval, by their projects; all run at once, each with one small series."""
    conf: dict[str, dict[str, Any]] = {
        "rejected-cohort": {"max_series": 1, "accession": "QACC990171"},
        "rejected": {"accession": "QACC990399"},
        "timed-out": {"accession": "QACC990399", "patience": 0.002},
        "marked": {"accession": "QACC990399"},
    }
    return {name: start(shared.up, name, **{"upload": "research", **conf[name]}) for name in conf}


def test_a_cohort_that_is_rejected_is_not_fetched(shared: SharedAirflow, unapproved: dict[str, str]) -> None:
    airflow, run = shared.up, unapproved["rejected-cohort"]
    Person(airflow).answer(run, REJECT)
    assert airflow.outcome(run, STUDY) == "failed"
    assert not list((airflow.home / "data" / "studies" / "rejected-cohort").rglob("*.dcm"))


@pytest.mark.parametrize("way", ["rejected", "timed-out", "marked"])
def test_without_a_persons_word_nothing_is_released(
    shared: SharedAirflow, unapproved: dict[str, str], way: str
) -> None:
    airflow, run = shared.up, unapproved[way]
    if way == "rejected":
        Person(airflow).answer(run, REJECT)
    elif way == "marked":
        Person(airflow).mark_success(run)
    assert airflow.outcome(run, STUDY) == "failed"
    assert released(airflow, way) == 0
    ended = states(airflow, run)
    assert ended["release"] in ("failed", "upstream_failed") and ended["upload.store"] in ("upstream_failed", "skipped")
    assert ended["approve"] == ("success" if way == "marked" else "failed")


def test_nothing_of_the_cohort_is_in_the_schedulers_home(shared: SharedAirflow) -> None:
    airflow, files = shared.up, shared.files
    words = airflow_home.identifiers(files)
    assert airflow_home.traces(airflow.home / "state", words), "the search finds them where they may be"
    assert airflow_home.traces(airflow.home / "airflow", words) == []
