"""The page Extract in a real browser, as each of the users of `make up`: what it shows, starts, repeats and deletes."""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.extract.requests import UNSTARTED
from pacsifier_ops.onebox import up as local
from pacsifier_ops.runs.folder import dag_run_name
from tests.support.airflow_home import DAG_ID, KUNIGUNDE, THEOBALD, Up, traces, words_of
from tests.support.browser import Browser
from tests.support.places import REPO
from tests.support.shared import USER, VIEWER, SharedAirflow
from tests.up.test_web import Visitor

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

STUDY = "pacsifier_study"
EXTRACT_FIELD = f"[data-job={DAG_ID}] [name={{}}]"
TABLE = f"PatientID\n{KUNIGUNDE['patient_id']}\n{THEOBALD['patient_id']}\n"


@pytest.fixture(scope="module")
def up(shared: SharedAirflow) -> Up:
    return shared.up


@pytest.fixture(scope="module")
def ursula(up: Up) -> Visitor:
    return Visitor(up.url, up.token(USER))


@contextmanager
def at_page(up: Up, user: str, **size: int) -> Iterator[Browser]:
    """Yield a browser in which a user has logged in and opened the page, as by the menu."""
    with Browser(**size) as browser:
        browser.open(f"{up.url}/pacsifier/")
        browser.log_in(user, local.password(up.home, user))
        browser.wait_for("#run-list table, #run-list p")
        yield browser


def picture(browser: Browser, name: str, tmp_path: Path) -> None:
    """Keep a picture of the page, for people to look at."""
    browser.screenshot(Path(os.environ.get("PACSIFIER_PICTURES", tmp_path)) / f"{name}.png")


def send(user: Visitor, table: str = TABLE) -> dict[str, Any]:
    answer = user.send(table.encode())
    assert answer.status == 201
    return dict(answer.json())


def ask(user: Visitor, path: str, body: Any = None) -> Any:
    """Return status and content of an answer."""
    answer = user.ask(path, None if body is None else json.dumps(body).encode(), Content_Type="application/json")
    return answer.status, answer.json()


def check(user: Visitor, dag: str = DAG_ID, **conf: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the problems and the remarks of a check, by option."""
    status, found = ask(user, "pacsifier/checks", {"dag_id": dag, "conf": conf})
    assert status == 200, found
    return tuple({one["option"]: one["message"] for one in found[kind]} for kind in ("problems", "remarks"))  # type: ignore[return-value]


def test_a_newcomer_reaches_a_released_data_set_by_the_pages_alone(up: Up, tmp_path: Path) -> None:
    with at_page(up, USER) as browser:
        browser.choose("#table", REPO / "include" / "queries" / "demo.csv")
        browser.wait_for("#said", "can be asked.")
        assert re.fullmatch(r"req-[0-9a-f]{24}", browser.wait_for("#request"))
        browser.click("label.job", "Study")
        project = f"[data-job={STUDY}] [name=project]"
        browser.fill(project, "")
        browser.click("#start")
        browser.wait_for(f"#{STUDY}-project-wrong", "Not fit to name a project")
        browser.fill(project, "newcomer")
        picture(browser, "study-form", tmp_path)
        browser.click("#start")
        browser.wait_for("dd", STUDY)
        run = up.get(f"dags/{STUDY}/dagRuns?order_by=-id&limit=1")["dag_runs"][0]["dag_run_id"]
        up.question(run, STUDY)  # on a busy machine that takes longer than a browser waits
        browser.wait_for("[aria-labelledby=question]", "May this data set be released?")
        browser.click(".answers button", "Approve", exact=True)
        browser.click(".answers button", "Approve: are you sure?")
        assert up.outcome(run, STUDY) == "success"
        browser.open(f"{up.url}/pacsifier/")
        browser.wait_for("#run-list tr", f"newcomer {USER} pacs_default")
        browser.click("#run-list a", "Study")
        browser.wait_for(".word", "Complete")
        browser.wait_for("#stage-release", "released")
    released = up.home / "data" / "studies" / "newcomer" / "released"
    assert list(released.glob("sub-*/**/*.dcm")) and (released / "manifest.csv").is_file()


def test_the_page_is_in_the_menu_and_names_line_column_and_cell(up: Up, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("PatientID,StudyDate\n123421,20150231\n124588,20150512-20150612\n")
    with Browser(1280, 1000) as browser:
        browser.open(up.url)
        browser.log_in(local.USER, local.password(up.home))
        browser.click("a", "Extract", exact=True)
        browser.wait_for("label", "Choose a csv, xlsx, Parquet or DuckDB file")
        browser.choose("#table", tmp_path / "table.csv")
        browser.wait_for("#said", "1 row can be asked, 1 row has a problem.")
        browser.wait_for("#problems tr", "Line 2, StudyDate no such day in the calendar; correct the date 20150231")
        browser.wait_for("h1", "New extraction")
        picture(browser, "intake", tmp_path)  # for the documentation
        (tmp_path / "table.csv").write_text("")
        browser.choose("#table", tmp_path / "table.csv")
        browser.wait_for("#problems tr", "The file is empty; give a header line and at least one row")


def test_the_pacs_is_asked_for_counts_before_anything_is_fetched(up: Up, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(f"{TABLE}nobody\n")
    with at_page(up, USER, height=1400) as browser:
        browser.choose("#table", tmp_path / "table.csv")
        browser.wait_for("#said", "3 rows can be asked.")
        folder = browser.value(EXTRACT_FIELD.format("out_directory"))
        assert re.fullmatch(r"out/\d{4}-\d\d-\d\d-[0-9a-f]{6}", folder)
        browser.click("#count")
        line = browser.wait_for("#counted .sum", "→")
        assert line.startswith(
            "2 rows of 3 found something → 3 series → about 7 images → about 3.7 MB → less than 1 minute"
        )
        picture(browser, "counted", tmp_path)
        assert not list((up.home / "data" / folder).glob("**/*.dcm"))
        browser.click("#start")
        browser.wait_for(".word", "Complete")
        browser.open(f"{up.url}/pacsifier/")
        browser.wait_for("#run-list tr", folder)
        browser.wait_for("#run-list tr", "only counted")
        picture(browser, "runs", tmp_path)
    assert len(list((up.home / "data" / folder).glob("**/*.dcm"))) == 7
    words = {word for patient in (KUNIGUNDE, THEOBALD) for value in patient.values() for word in words_of(value)}
    assert traces(up.home / "airflow", words) == [] and traces(up.home / "logs", words) == []


def test_a_wrong_folder_is_told_before_the_start(up: Up, tmp_path: Path) -> None:
    before = up.get(f"dags/{DAG_ID}/dagRuns?limit=1")["total_entries"]
    (tmp_path / "table.csv").write_text(TABLE)
    with at_page(up, local.USER, width=390, height=1400) as browser:
        browser.choose("#table", tmp_path / "table.csv")
        browser.wait_for("#said", "2 rows can be asked.")
        browser.fill(EXTRACT_FIELD.format("out_directory"), "../elsewhere")
        browser.click("#start")
        browser.wait_for("#pacsifier_extract-out_directory-wrong", "leads outside the data root")
        browser.wait_for("#note", "It was not started")
        assert browser.too_wide() == 0
        picture(browser, "wrong-folder", tmp_path)
    assert up.get(f"dags/{DAG_ID}/dagRuns?limit=1")["total_entries"] == before


def test_who_may_only_look_sees_runs_and_starts_none(up: Up, ursula: Visitor, tmp_path: Path) -> None:
    viola = Visitor(up.url, up.token(VIEWER))
    run = up.start(DAG_ID, queryfile=send(ursula)["request"], out_directory="for-viola")
    assert up.outcome(run) == "success"
    with at_page(up, VIEWER) as browser:
        assert not browser.sees("#table") and not browser.sees("#start")
        browser.wait_for("main .note", "You may see runs here.")
        browser.click("#everybody")
        browser.wait_for("#run-list tr", "for-viola")
        assert not any(browser.sees("#run-list button", deed) for deed in ("Repeat", "Cancel", "Delete"))
        picture(browser, "seen-only", tmp_path)
    page = f"pacsifier/runs/{DAG_ID}/{urllib.parse.quote(run)}"
    assert ask(viola, "pacsifier/checks", {"dag_id": DAG_ID, "conf": {}})[0] == 403
    assert ask(viola, f"{page}/deletion")[0] == viola.ask(page, method="DELETE").status == 403
    (line,) = (one for one in ask(viola, "pacsifier/runs?everybody=true")[1]["runs"] if one["run_id"] == run)
    assert (line["who"], line["pacs"], line["verdict"]) == (local.USER, "pacs_default", "complete")
    assert line["conf"] is None and not line["may_delete"] and not line["may_cancel"]
    assert ask(viola, "pacsifier/runs")[1]["runs"] == []


def test_a_run_is_repeated_and_deleted_and_its_images_stay(up: Up, ursula: Visitor, tmp_path: Path) -> None:
    request = send(ursula)["request"]
    run = json.loads(
        ursula.ask(
            f"api/v2/dags/{DAG_ID}/dagRuns",
            json.dumps({"logical_date": None, "conf": {"queryfile": request, "out_directory": "twice"}}).encode(),
            Content_Type="application/json",
        ).body
    )["dag_run_id"]
    assert up.outcome(run) == "success"
    state, images = up.home / "state", up.home / "data" / "twice"
    folder = state / "runs" / dag_run_name(DAG_ID, run)
    assert folder.is_dir() and (state / "requests" / request).is_dir()
    with at_page(up, USER, height=1400) as browser:
        browser.wait_for("#run-list tr", "twice")
        browser.click("#run-list tr:first-child button", "Repeat")
        browser.wait_for("#said", "The table of Extract twice is taken again.")
        assert browser.value(EXTRACT_FIELD.format("out_directory")) == "twice"
        assert browser.wait_for("#request") == request
        browser.click("#run-list tr:first-child button", "Delete")
        browser.wait_for("#deletion li", "its query table, which no other run uses")
        browser.wait_for("#deletion li", "images, info dumps and logs/pacsifier_log.csv")
        picture(browser, "deletion", tmp_path)
        browser.click("#deletion button", "Delete it")
        up.wait_for(lambda: not browser.sees("#run-list tr", "twice"))
    assert not folder.exists() and not (state / "requests" / request).exists()
    assert ursula.ask(f"api/v2/dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run)}").status == 404
    assert len(list(images.glob("**/*.dcm"))) == 7 and (images / "logs" / "pacsifier_log.csv").is_file()
    again, _ = check(ursula, queryfile=request, out_directory="twice")
    assert again[""] == "queryfile: there is no request with this id"


def test_a_paused_dag_is_told_and_unpaused(up: Up, tmp_path: Path) -> None:
    up.patch(f"dags/{DAG_ID}", {"is_paused": True})
    try:
        with at_page(up, USER) as browser:
            browser.wait_for(".paused", "pacsifier_extract is paused")
            picture(browser, "paused", tmp_path)
            browser.click(".paused button", "Unpause it")
            up.wait_for(lambda: not browser.sees(".paused"))
        assert not up.get(f"dags/{DAG_ID}")["is_paused"]
    finally:
        up.patch(f"dags/{DAG_ID}", {"is_paused": False})


def test_the_check_says_what_would_end_the_run_and_who_used_the_folder(up: Up, ursula: Visitor) -> None:
    first, other = send(ursula)["request"], send(ursula)["request"]
    assert check(ursula, queryfile=first, out_directory="shared-folder") == ({}, {})
    assert up.outcome(up.start(DAG_ID, queryfile=first, out_directory="shared-folder", retrieve="none")) == "success"
    assert check(ursula, queryfile=first, out_directory="shared-folder") == ({}, {})  # the same table
    _, remarks = check(ursula, queryfile=other, out_directory="shared-folder")
    assert "1 earlier run for other tables wrote into this folder" in remarks["out_directory"]
    wrong, _ = check(ursula, queryfile=first, out_directory="", max_series="many", urgency="x")
    assert wrong["out_directory"].startswith("empty") and "whole number" in wrong["max_series"]
    assert wrong["urgency"].startswith("none of ")
    wrong, _ = check(ursula, queryfile=first, window="25-26", retrieve="none", method="get")
    assert "time of day" in wrong["window"] and "method applies to save only" in wrong[""]
    wrong, _ = check(ursula, STUDY, queryfile=first, project="Knee: 1", volume_size=3)
    assert wrong["project"].startswith("not fit to name a project") and "DICOMDIR" in wrong["volume_size"]
    assert ask(ursula, "pacsifier/checks", {"dag_id": DAG_ID, "conf": {"mistyped": 1}})[0] == 400
    assert ask(ursula, "pacsifier/checks", {"dag_id": "pacsifier_probe", "conf": {}})[0] == 404


def test_requests_that_nobody_starts_go_after_a_day(up: Up, ursula: Visitor) -> None:
    kept = up.home / "state" / "requests"
    unstarted, young, queued = (send(ursula)["request"] for _ in range(3))
    up.patch(f"dags/{DAG_ID}", {"is_paused": True})
    try:
        run = up.start(DAG_ID, queryfile=queued, out_directory="queued")
        for request in (unstarted, queued):
            mark = kept / request / "handed-in"
            before = mark.stat().st_mtime - UNSTARTED - 1
            os.utime(mark, (before, before))
        send(ursula)
        assert not (kept / unstarted).exists() and (kept / young).is_dir() and (kept / queued).is_dir()
    finally:
        up.patch(f"dags/{DAG_ID}", {"is_paused": False})
    assert up.outcome(run) == "success"


def test_the_table_of_a_run_that_has_not_begun_outlives_the_run_before(up: Up, ursula: Visitor) -> None:
    conf = {"queryfile": send(ursula)["request"], "out_directory": "outlives", "retrieve": "none"}
    first = up.start(DAG_ID, **conf)
    assert up.outcome(first) == "success"
    page = f"pacsifier/runs/{DAG_ID}/{urllib.parse.quote(first)}"
    up.patch(f"dags/{DAG_ID}", {"is_paused": True})
    try:
        again = up.start(DAG_ID, **conf)
        assert not any("query table" in line for line in ask(ursula, f"{page}/deletion")[1]["goes"])
        assert ursula.ask(page, method="DELETE").status == 200
        assert (up.home / "state" / "requests" / conf["queryfile"]).is_dir()
    finally:
        up.patch(f"dags/{DAG_ID}", {"is_paused": False})
    assert up.outcome(again) == "success"


def test_the_second_click_cancels_the_run_of_the_first(up: Up, ursula: Visitor) -> None:
    def start(folder: str) -> str:
        conf = {"queryfile": send(ursula)["request"], "out_directory": folder}
        body = json.dumps({"logical_date": None, "conf": conf}).encode()
        return str(
            ursula.ask(f"api/v2/dags/{DAG_ID}/dagRuns", body, Content_Type="application/json").json()["dag_run_id"]
        )

    def cancelled(run: str) -> Any:
        return ask(ursula, f"pacsifier/runs/{DAG_ID}/{urllib.parse.quote(run)}")[1]["cancelled"]

    up.patch(f"dags/{DAG_ID}", {"is_paused": True})
    try:
        old = start("old")
        with at_page(up, USER, height=1400) as browser:
            browser.wait_for("#run-list tr", "old")
            browser.click("#run-list tr:first-child button", "Cancel")
            new = start("new")  # it is now the first of the list, which must not move under the hand
            browser.evaluate("listRuns().then(() => document.querySelector('[data-armed]').click())")
            up.wait_for(lambda: cancelled(old) or cancelled(new))
        assert cancelled(old) and not cancelled(new)
    finally:
        up.patch(f"dags/{DAG_ID}", {"is_paused": False})
    assert up.outcome(new) == "success"


def test_a_project_file_takes_the_table_of_the_run(up: Up, ursula: Visitor) -> None:
    studies = up.home / "data" / "studies"
    studies.mkdir(exist_ok=True)
    (studies / "by-file.yaml").write_text(
        "project: by-file\nqueryfile: queries/not-there.csv\ndate_format: DD.MM.YYYY\nsource: local\nrelease: nobody\n"
    )
    page = ursula.ask("pacsifier/", Accept="text/html").body.decode()
    assert '<option value="studies/by-file.yaml">' in page
    conf = {"project_file": "studies/by-file.yaml", "queryfile": send(ursula)["request"]}
    assert check(ursula, STUDY, **conf) == ({}, {})
    run = up.start(STUDY, **conf)
    up.outcome(run, STUDY)
    kept = json.loads((up.home / "state" / "runs" / dag_run_name(STUDY, run) / "request.json").read_text())
    assert (kept["queryfile"], kept["date_format"], kept["project"]) == (conf["queryfile"], "", "by-file")
    assert list((studies / "by-file" / "identified").glob("**/*.dcm"))
    refused = up.start(STUDY, **conf, source="custom")
    assert up.outcome(refused, STUDY) == "failed"
