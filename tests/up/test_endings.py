"""How runs end in a running Airflow: cancelled, marked by hand, failed; with closed books, and why."""

from __future__ import annotations

import json
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.onebox import up as local
from tests.support import airflow_home
from tests.support.airflow_home import DAG_ID, Up, traces
from tests.support.browser import Browser
from tests.support.shared import VIEWER, SharedAirflow
from tests.up.test_web import HTML, Visitor
from tests.up.test_window_dag import opening

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

STUDY, ANONYMIZE = "pacsifier_study", "pacsifier_anonymize"
PATIENT = "LQD-90561-EN"
#: A table whose search takes a while.
LONG = "PatientID\n" + "".join(f"NOBODY-{number}\n" for number in range(40))


@pytest.fixture(scope="module")
def up(shared: SharedAirflow) -> Up:
    return shared.up


@pytest.fixture(scope="module")
def admin(up: Up) -> Visitor:
    return Visitor(up.url, up.token(local.USER))


@pytest.fixture
def pacs(up: Up, tmp_path: Path) -> Iterator[EmbeddedPacs]:
    """A slow PACS with eight series of a patient, behind a connection of the name of the folder."""
    with EmbeddedPacs() as running:
        running.add(airflow_home.build_busy(tmp_path / "images", PATIENT))
        running.faults.delay = 0.5
        yield running


def connect(up: Up, pacs: EmbeddedPacs, name: str, **extra: Any) -> None:
    """Make a connection to a PACS, whose tasks run in the common pool."""
    extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", "method": "get", **extra}
    connection = {"conn_type": "dicom", "host": pacs.host, "port": pacs.port, "extra": json.dumps(extra)}
    up._call("api/v2/connections", {"connection_id": name, **connection})


def page(run: str, dag: str = DAG_ID) -> str:
    """Return the address of the page of a run."""
    return f"pacsifier/runs/{dag}/{urllib.parse.quote(run, safe='')}"


def states(up: Up, run: str, task: str = "", dag: str = DAG_ID) -> Counter[str]:
    return Counter(str(one["state"]) for one in up.tasks(run, task, dag))


def wait_for_state(up: Up, run: str, task: str, ready: Callable[[Counter[str]], bool], dag: str = DAG_ID) -> None:
    up.wait_for(lambda: ready(states(up, run, task, dag)))


def mark(up: Up, run: str, state: str, dag: str = DAG_ID) -> None:
    """Mark a run by hand, as Airflow's own page does."""
    up.patch(f"dags/{dag}/dagRuns/{urllib.parse.quote(run)}", {"state": state})


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_run_that_is_marked_by_hand_closes_its_books_and_is_never_green(
    up: Up, admin: Visitor, pacs: EmbeddedPacs, state: str
) -> None:
    connect(up, pacs, f"marked_{state}")
    run = up.trigger(LONG, pacs=f"marked_{state}", out_directory=f"marked-{state}", accept_incomplete=True)
    wait_for_state(up, run, "find", lambda found: found["success"] > 2)
    mark(up, run, state)
    assert up.outcome(run) == "failed"
    summary = admin.ask(f"{page(run)}/summary").json()
    assert (summary["verdict"], summary["by"]) == ("cancelled", "somebody in Airflow")
    shown = admin.ask(page(run), **HTML).body.decode()
    assert f"Cancelled by somebody in Airflow: {summary['rows']['failed']} rows not asked" in shown
    assert (up.home / "data" / f"marked-{state}" / "logs" / "pacsifier_log.csv").exists()
    assert admin.ask(f"{page(run)}/report").status == 200
    # Also afterwards, the verdict decides.
    mark(up, run, "success")
    assert up.get(f"dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run)}")["state"] == "failed"


def test_a_report_that_is_marked_as_success_by_hand_is_no_verdict(up: Up, pacs: EmbeddedPacs) -> None:
    connect(up, pacs, "marked_report")
    run = up.trigger(LONG, pacs="marked_report", out_directory="marked-report")
    wait_for_state(up, run, "find", lambda found: found["success"] > 0)
    up.patch(f"dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run)}/taskInstances/report", {"new_state": "success"})
    assert up.outcome(run) == "failed"


def test_cancel_on_the_page_ends_a_retrieval_between_two_series(
    up: Up, admin: Visitor, pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    connect(up, pacs, "cancelled", max_associations=1)
    pacs.faults.delay = 4  # the run lasts until it is cancelled, however long a browser takes
    run = up.trigger(f"PatientID\n{PATIENT}\n", pacs="cancelled", out_directory="cancelled")
    wait_for_state(up, run, "retrieve", lambda found: found["running"] > 0)
    viola = Visitor(up.url, up.token(VIEWER))
    assert 'id="cancel"' not in viola.ask(page(run), **HTML).body.decode()
    assert viola.ask(f"{page(run)}/cancel", b"").status == 403
    assert Visitor(up.url).ask(f"{page(run)}/cancel", b"").status == 401
    assert admin.ask(f"{page(run)}/cancel", b"", Sec_Fetch_Site="cross-site").status == 403
    with Browser() as browser:
        browser.open(f"{up.url}/{page(run)}")
        browser.log_in(local.USER, local.password(up.home))
        browser.click("button", "Cancel", exact=True)
        browser.click("button", "Cancel this run?", exact=True)
        browser.wait_for("p", "Cancelled by admin")
    pacs.faults.delay = 0
    first = admin.ask(f"{page(run)}/cancel", b"")  # once more does no harm
    assert up.outcome(run) == "failed"
    again = admin.ask(f"{page(run)}/cancel", b"")
    assert first.status == again.status == 200 and first.json()["cancelled"] == again.json()["cancelled"]
    told = admin.ask(page(run)).json()
    assert (told["summary"]["verdict"], told["summary"]["by"]) == ("cancelled", "admin")
    series, totals = told["summary"]["series"], told["summary"]["totals"]
    assert series["complete"] + series["failed"] == 8 and series["failed"] > 0
    files = list((up.home / "data" / "cancelled").rglob("*.dcm"))
    assert len(files) == totals["received"] == 3 * series["complete"] == len(pacs.sent)  # no series is cut in two
    assert f"{series['failed']} series not transferred" in admin.ask(page(run), **HTML).body.decode()
    # A run that is cleared goes on, and fetches the rest only.
    up._call(f"api/v2/dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run)}/clear", {"dry_run": False})
    assert up.outcome(run) == "success" and len(pacs.sent) == len(set(pacs.sent)) == 24
    assert admin.ask(f"{page(run)}/cancel", b"").status == 409


def test_cancel_ends_what_waits_for_a_person_and_what_has_not_begun(up: Up, admin: Visitor) -> None:
    (up.home / "data" / "asks.csv").write_text("AccessionNumber\nQACC990399\n")
    run = up.start(STUDY, project="cancelled", queryfile="asks.csv", source="local")
    up.question(run, STUDY)
    assert admin.ask(f"{page(run, STUDY)}/cancel", b"").status == 200
    assert up.outcome(run, STUDY) == "failed"
    told = admin.ask(page(run, STUDY)).json()
    assert told["summary"]["verdict"] == "cancelled" and told["summary"]["stages"]["anonymize"] == "complete"
    assert [(one["subject"], one["word"]) for one in told["decisions"]] == [("run", "cancelled")]
    assert told["questions"] == []  # nobody is told to answer any more
    assert admin.ask(f"{page(run, STUDY)}/report").status == 200
    # A tool, before it begins.
    up.patch(f"dags/{ANONYMIZE}?update_mask=is_paused", {"is_paused": True})
    run = up.start(ANONYMIZE, in_folder="nowhere", out_folder="elsewhere")
    assert admin.ask(f"{page(run, ANONYMIZE)}/cancel", b"").json()["state"] == "queued"
    up.patch(f"dags/{ANONYMIZE}?update_mask=is_paused", {"is_paused": False})
    assert up.outcome(run, ANONYMIZE) == "failed"
    assert states(up, run, dag=ANONYMIZE) == {"upstream_failed": 2, "failed": 1}
    assert admin.ask(f"{page(run, ANONYMIZE)}/summary").json()["verdict"] == "cancelled"
    assert b"Cancelled by admin" in admin.ask(page(run, ANONYMIZE), **HTML).body


def test_cancel_ends_what_waits_for_its_window(up: Up, admin: Visitor, pacs: EmbeddedPacs) -> None:
    connect(up, pacs, "closed", window=opening(3 * 3600), timezone="UTC")
    run = up.trigger(f"PatientID\n{PATIENT}\n", pacs="closed", out_directory="closed")
    wait_for_state(up, run, "retrieve", lambda found: found["deferred"] == 8)
    assert admin.ask(f"{page(run)}/cancel", b"").status == 200
    assert up.outcome(run) == "failed"
    summary = admin.ask(f"{page(run)}/summary").json()
    assert (summary["verdict"], summary["series"]) == ("cancelled", {"failed": 8}) and pacs.sent == []


def test_the_page_says_which_task_failed_first_and_the_others_do_not_fail_after_it(up: Up, admin: Visitor) -> None:
    (up.home / "data" / "mistyped.yaml").write_text("project: knee\nqueryfil: asks.csv\n")
    run = up.start(STUDY, project_file="mistyped.yaml")
    assert up.outcome(run, STUDY) == "failed"
    ended = {task["task_id"]: task for task in up.tasks(run, dag=STUDY)}
    assert {name for name, task in ended.items() if task["state"] == "failed"} == {"set_up", "report"}
    assert all(task["try_number"] <= 1 for task in ended.values())
    assert {task["state"] for task in ended.values()} == {"failed", "upstream_failed", "skipped"}
    failure = admin.ask(page(run, STUDY)).json()["failure"]
    assert failure["task_id"] == "set_up" and "queryfil is not known (did you mean queryfile?)" in failure["sentence"]
    assert b"queryfil is not known" in admin.ask(page(run, STUDY), **HTML).body


def test_a_rejected_study_names_who_rejected_it(up: Up, admin: Visitor) -> None:
    (up.home / "data" / "rejects.csv").write_text("AccessionNumber\nQACC990399\n")
    run = up.start(STUDY, project="rejects", queryfile="rejects.csv", source="local")
    up.question(run, STUDY)
    answer = f"dags/{STUDY}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    up.patch(answer, {"chosen_options": ["Reject"], "params_input": {}})
    assert up.outcome(run, STUDY) == "failed"
    told = admin.ask(page(run, STUDY)).json()
    assert (told["summary"]["verdict"], told["summary"]["by"]) == ("rejected", "admin") and told["failure"] is None
    shown = admin.ask(page(run, STUDY), **HTML).body.decode()
    assert "Rejected by admin" in shown and "Incomplete" not in shown
    assert "Rejected by admin" in admin.ask(f"{page(run, STUDY)}/report").body.decode()


def test_the_page_says_when_a_task_is_tried_again_and_a_cancel_ends_that(
    up: Up, admin: Visitor, pacs: EmbeddedPacs
) -> None:
    connect(up, pacs, "blocked")
    blocked = up.home / "data" / "blocked-run" / f"sub-{PATIENT.replace('-', '_')}"
    blocked.parent.mkdir()
    blocked.write_text("")  # where the folder of the patient is to be
    run = up.trigger(f"PatientID\n{PATIENT}\n", pacs="blocked", out_directory="blocked-run")
    wait_for_state(up, run, "retrieve", lambda found: found["up_for_retry"] > 0)
    told = admin.ask(page(run)).json()
    retry = told["retries"][0]
    assert told["state"] == "running" and told["failure"] is None
    assert retry["task_id"] == "retrieve" and "the output folder" in retry["sentence"] and retry["again"] > "2026"
    assert "It is tried again" in admin.ask(page(run), **HTML).body.decode()
    assert admin.ask(f"{page(run)}/cancel", b"").status == 200
    assert up.outcome(run) == "failed" and admin.ask(f"{page(run)}/summary").json()["verdict"] == "cancelled"


def test_airflow_knows_no_patient_of_these_runs(up: Up, tmp_path: Path) -> None:
    words = airflow_home.identifiers(airflow_home.build_busy(tmp_path, PATIENT))
    assert traces(up.home / "airflow", words) == [] and traces(up.home / "logs", words) == []


def test_a_kill_between_cancelling_and_closing_heals(up: Up, admin: Visitor, pacs: EmbeddedPacs) -> None:
    connect(up, pacs, "killed")
    run = up.trigger(LONG, pacs="killed", out_directory="killed")
    wait_for_state(up, run, "find", lambda found: found["success"] > 0)
    assert admin.ask(f"{page(run)}/cancel", b"").status == 200
    up.restart(killed=True)
    pacs.faults.delay = 0
    assert up.outcome(run) == "failed"
    told = up._call(page(run))
    assert told["summary"]["verdict"] == "cancelled" and told["summary"]["rows"]["failed"] > 0
