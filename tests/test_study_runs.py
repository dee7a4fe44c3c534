"""Studies under the real scheduler: a person's word by the API, in every way it may go, and who learns what of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.files import read_json
from tests import airflow_home
from tests.airflow_home import Up

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

STUDY = "pacsifier_study"
APPROVE, REJECT = "Approve", "Reject"


class Person:
    """Somebody who answers over the API."""

    def __init__(self, up: Up) -> None:
        self._up = up

    def asked(self, run: str) -> dict[str, Any]:
        """The question that the run waits with."""
        path = f"dags/{STUDY}/dagRuns/{run}/hitlDetails"
        self._up.wait_for(lambda: any(not item["response_received"] for item in self._up.get(path)["hitl_details"]))
        (question,) = (item for item in self._up.get(path)["hitl_details"] if not item["response_received"])
        return dict(question)

    def answer(self, run: str, word: str) -> dict[str, Any]:
        """Answer it."""
        question = self.asked(run)
        task = question["task_instance"]["task_id"]
        body = {"chosen_options": [word], "params_input": {}}
        self._up.patch(f"dags/{STUDY}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails", body)
        return question

    def mark_success(self, run: str) -> None:
        """Mark the waiting task a success by hand, as the graph lets one."""
        task = self.asked(run)["task_instance"]["task_id"]
        self._up.patch(f"dags/{STUDY}/dagRuns/{run}/taskInstances/{task}", {"new_state": "success"})


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, list[Path]]]:
    folder = tmp_path_factory.mktemp("study_runs")
    files = airflow_home.build(folder / "pacs")
    with EmbeddedPacs() as pacs, EmbeddedPacs(aet="RESEARCH", folder=folder / "research") as node:
        pacs.add(files)
        with Up(folder / "home", {"pacs_small": pacs, "research": node}) as running:
            yield running, files


def start(up: Up, project: str, **conf: Any) -> str:
    (up.home / "data" / "queries").mkdir(exist_ok=True)
    (up.home / "data" / "queries" / "all.csv").write_text("PatientID\n*-*\n")
    given = {"project": project, "queryfile": "queries/all.csv", "pacs": "pacs_small", "source": "local", **conf}
    return up.start(STUDY, **given)


def states(up: Up, run: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in up.tasks(run, dag=STUDY)}


def released(up: Up, project: str) -> int:
    return len(list((up.home / "data" / "studies" / project / "released").rglob("*.dcm")))


def test_a_person_releases_a_cohort_and_a_data_set(up: tuple[Up, list[Path]]) -> None:
    airflow, files = up
    person = Person(airflow)
    run = start(airflow, "approved", max_series=1, upload="research")
    cohort = person.answer(run, APPROVE)
    assert cohort["task_instance"]["task_id"] == "extract.approve" and "4 series" in cohort["body"]
    release = person.answer(run, APPROVE)
    assert release["task_instance"]["task_id"] == "approve" and released(airflow, "approved") == 0
    assert airflow.outcome(run, STUDY) == "success"
    assert released(airflow, "approved") == len(files)
    pools = {task["task_id"]: task["pool"] for task in airflow.tasks(run, dag=STUDY)}
    assert (pools["extract.find"], pools["upload.store"], pools["check"]) == ("pacs_small", "research", "default_pool")
    # Again: nothing is new, so nobody is asked.
    again = start(airflow, "approved", max_series=1, upload="research")
    assert airflow.outcome(again, STUDY) == "success"
    (decided,) = (
        path
        for path in airflow.home.glob(f"state/runs/{STUDY}-*/decisions/release.json")
        if (path.parent / "release.asked").exists()
    )
    assert read_json(decided)["word"] == "approved" and read_json(decided)["who"] == "admin"
    first, second = airflow.get("assets/events?limit=100&order_by=timestamp")["asset_events"]
    assert first["extra"]["project"] == "approved" and first["extra"]["files"] == first["extra"]["new"] > len(files)
    assert second["extra"]["new"] == 0


def test_a_cohort_that_is_rejected_is_not_fetched(up: tuple[Up, list[Path]]) -> None:
    airflow, _ = up
    run = start(airflow, "rejected-cohort", max_series=1)
    Person(airflow).answer(run, REJECT)
    assert airflow.outcome(run, STUDY) == "failed"
    assert not list((airflow.home / "data" / "studies" / "rejected-cohort").rglob("*.dcm"))


@pytest.mark.parametrize("way", ["rejected", "timed-out", "marked"])
def test_without_a_persons_word_nothing_is_released(up: tuple[Up, list[Path]], way: str) -> None:
    airflow, _ = up
    person, patience = Person(airflow), 0.002 if way == "timed-out" else 1
    run = start(airflow, way, upload="research", patience=patience)
    if way == "rejected":
        person.answer(run, REJECT)
    elif way == "marked":
        person.mark_success(run)
    assert airflow.outcome(run, STUDY) == "failed"
    assert released(airflow, way) == 0
    ended = states(airflow, run)
    assert ended["release"] in ("failed", "upstream_failed") and ended["upload.store"] in ("upstream_failed", "skipped")
    assert ended["approve"] == ("success" if way == "marked" else "failed")


def test_nothing_of_the_cohort_is_in_the_schedulers_home(up: tuple[Up, list[Path]]) -> None:
    airflow, files = up
    words = airflow_home.identifiers(files)
    assert airflow_home.traces(airflow.home / "state", words), "the search finds them where they may be"
    assert airflow_home.traces(airflow.home / "airflow", words) == []
