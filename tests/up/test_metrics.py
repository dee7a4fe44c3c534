"""The page of metrics of a running Airflow: its form, its numbers, who gets it, and that no patient is in it."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, Up
from tests.support.shared import VIEWER, SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

STUDY = "pacsifier_study"

Labels = frozenset[tuple[str, str]]


def scrape(up: Up, token: str) -> str:
    """Return the metrics as Prometheus gets them."""
    request = urllib.request.Request(f"{up.url}/pacsifier/metrics", headers={"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return str(answer.read().decode())


def samples(text: str) -> dict[tuple[str, Labels], float]:
    """Return the value of each sample, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: dict[tuple[str, Labels], float], name: str, **labels: str) -> float | None:
    """Return the value of a sample; None: it is not there."""
    return found.get((name, frozenset(labels.items())))


def test_metrics_tell_what_was_done_and_what_goes_on(shared: SharedAirflow) -> None:
    up = shared.up
    token = up.token(VIEWER)
    before = samples(scrape(up, token))
    here = {"pacs": "pacs_crooked", "action": "save"}
    assert of(before, "pacsifier_images_total", **here, state="missing") == 0, "a count is there from the beginning"
    assert of(before, "pacsifier_associations", pacs="pacs_crooked") == 0
    assert of(before, "pacsifier_associations_limit", pacs="pacs_crooked") == 4
    assert of(before, "pacsifier_pool_slots", pool="pacs_default", state="open") is not None

    run = up.trigger(f"PatientID\n{KUNIGUNDE['patient_id']}\n", pacs="pacs_crooked", out_directory="metrics")
    assert up.outcome(run) == "success"
    text = scrape(up, token)
    after = samples(text)
    done = of(before, "pacsifier_images_total", **here, state="received") or 0
    assert of(after, "pacsifier_images_total", **here, state="received") == done + 5
    assert (of(after, "pacsifier_transferred_bytes_total", **here) or 0) > 0
    assert (of(after, "pacsifier_runs_total", action="save", verdict="complete") or 0) >= 1
    assert of(after, "pacsifier_rows_total", pacs="pacs_crooked", state="found") is not None
    words = airflow_home.identifiers(shared.files)
    assert not [word for word in words if word in text]
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "metrics"], input=text, text=True, check=True)


def test_a_question_that_waits_is_told_until_it_is_answered(shared: SharedAirflow) -> None:
    up = shared.up
    token = up.token(VIEWER)
    (up.home / "data" / "asking.csv").write_text("AccessionNumber\nQACC990*\n")
    run = up.start(STUDY, project="asking", queryfile="asking.csv", source="local", max_series=1)
    task = up.question(run, STUDY)["task_instance"]["task_id"]
    asked = {"dag": STUDY, "task": task}
    found = samples(scrape(up, token))
    assert of(found, "pacsifier_questions", **asked) == 1
    assert (of(found, "pacsifier_question_wait_seconds", **asked) or 0) > 0
    assert (of(found, "pacsifier_active_runs", dag=STUDY, state="running") or 0) >= 1
    assert (of(found, "pacsifier_tasks", dag=STUDY, state="awaiting_input") or 0) >= 1
    answer = {"chosen_options": ["Reject"], "params_input": {}}
    up.patch(f"dags/{STUDY}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails", answer)
    assert up.outcome(run, STUDY) == "failed"
    found = samples(scrape(up, token))
    assert of(found, "pacsifier_questions", **asked) is None
    assert (of(found, "pacsifier_runs_total", action="study", verdict="rejected") or 0) >= 1


@pytest.mark.parametrize("token", ["", "nonsense"])
def test_nobody_gets_them_without_a_login(shared: SharedAirflow, token: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        scrape(shared.up, token)
    assert refused.value.code in (401, 403)
