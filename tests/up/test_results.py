"""The page Results with a real browser: questions are answered there, and released images looked at."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.onebox import up as local
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.folder import Run, dag_run_name
from tests.support.airflow_home import Up
from tests.support.browser import Browser
from tests.support.shared import USER, VIEWER, SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

#: Folder for the pictures of the documentation; these tests take them if it is given.
PICTURES = os.environ.get("PACSIFIER_PICTURES")

STUDY = "pacsifier_study"
#: A head and a body of the demonstration, in two and three series.
ROWS = "AccessionNumber\nACC123421A\nACC200316A\n"


@pytest.fixture(scope="module")
def up(shared: SharedAirflow) -> Up:
    return shared.up


@contextmanager
def logged_in(up: Up, user: str) -> Iterator[Browser]:
    """The browser of a user."""
    with Browser(1280, 1000) as page:
        page.open(up.url)
        page.log_in(user, local.password(up.home, user))
        page.wait_for("a", "Dags", exact=True)
        yield page


def begin(up: Up, project: str, **conf: Any) -> str:
    """Start a study whose cohort a person has to allow, and return the id of its run once it asks."""
    (up.home / "data" / f"{project}.csv").write_text(ROWS)
    run = up.start(STUDY, project=project, queryfile=f"{project}.csv", source="local", max_series=1, **conf)
    up.question(run, STUDY)
    return run


def page_of(run: str) -> str:
    return f"pacsifier/runs/{STUDY}/{urllib.parse.quote(run, safe='')}"


def framed(up: Up, run: str) -> str:
    return f"{up.url}/dags/{STUDY}/runs/{urllib.parse.quote(run, safe='')}/plugin/pacsifier-results"


def folder_of(up: Up, run: str) -> Run:
    return Run(up.home / "state" / "runs" / dag_run_name(STUDY, run))


def picture(browser: Browser, up: Up, tmp_path: Path, name: str) -> None:
    """Take a picture for the documentation."""
    browser.evaluate("scrollTo(0, 0)")
    browser.screenshot((Path(PICTURES) if PICTURES else tmp_path) / f"{name}.png", up.home)


def answer(browser: Browser, word: str, reason: str) -> None:
    """Answer the question on the page; the first click asks whether one is sure."""
    browser.fill("textarea", reason)
    browser.click(".answers button", word, exact=True)
    browser.click(".answers button", f"{word}: are you sure?")


@pytest.fixture(scope="module")
def released(up: Up, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the id of a run whose questions were answered on its page, within and outside of Airflow's frame."""
    tmp_path = tmp_path_factory.mktemp("pictures")
    run = begin(up, "answered")
    with logged_in(up, USER) as browser:
        browser.open(framed(up, run))
        browser.wait_for("[aria-labelledby=question] p", "May this cohort be retrieved?")
        browser.wait_for(".note", "Approve and waive: There are no findings to waive.")
        assert not browser.sees(".answers button", "Approve and waive")
        picture(browser, up, tmp_path, "question-framed")
        answer(browser, "Approve", "As the protocol has it <b>")
        up.wait_for(lambda: bool(up._call(page_of(run))["decisions"]))
        up.question(run, STUDY)
        gate = folder_of(up, run).folder / "gate.json"
        found = json.loads(gate.read_text())
        gate.write_text(json.dumps({**found, "waivable": [["a/b.dcm", "a word"]], "counts": {"waivable": 1}}))
        browser.open(f"{up.url}/{page_of(run)}")
        browser.wait_for("[aria-labelledby=question] p", "May this data set be released?")
        browser.wait_for(".contact-sheet")  # in the frame beside the question
        assert not browser.sees(".answers button", "Approve", exact=True)
        picture(browser, up, tmp_path, "question")
        browser.look(dark=True, width=390)
        assert browser.too_wide() == 0
        picture(browser, up, tmp_path, "question-narrow")
        browser.look()
        answer(browser, "Approve and waive", "Looked at all sheets")
        browser.wait_for("td", "Looked at all sheets")
    assert up.outcome(run, STUDY) == "success"
    return run


def test_answers_on_the_page_are_kept_with_their_reason(up: Up, released: str) -> None:
    told = up._call(page_of(released))
    made = [(one["subject"], one["word"], one["waived"], one["who"], one["reason"]) for one in told["decisions"]]
    assert made == [
        ("cohort", "approved", False, USER, "As the protocol has it <b>"),
        ("release", "approved", True, USER, "Looked at all sheets"),
    ]
    folder = folder_of(up, released)
    decision = approvals.decision_on(folder, approvals.RELEASE)
    assert decision and decision.reason == "Looked at all sheets"
    assert "Looked at all sheets" in folder.report.read_text()
    # It may say something about the source, so it does not go with the data.
    assert "Looked at all sheets" not in (folder.folder / "handover" / "report.html").read_text()


def test_released_images_are_looked_at_on_the_page(up: Up, released: str, tmp_path: Path) -> None:
    lit = (
        "(() => { const c = document.querySelector('#viewport canvas'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; return d.filter((v, i) => i % 4 === 0 && v > 40).length; })()"
    )
    with logged_in(up, USER) as browser:
        browser.open(f"{up.url}/{page_of(released)}")
        places = browser.wait_for("header", "Released data set")
        assert str(up.home / "data" / "studies" / "answered" / "released") in places
        browser.click("a#images")
        browser.wait_for("#shown", "pixels, centre")
        twelve = "[...document.querySelector('#series').options].find(o => o.text.includes('12 files')).value"
        browser.select("#series", browser.evaluate(twelve))
        window = browser.wait_for("#shown", "Image 7 of 12").partition("centre")[2]
        before = browser.evaluate(lit)
        assert before > 1000
        picture(browser, up, tmp_path, "viewer")
        browser.wheel("#viewport", 100)
        browser.wait_for("#shown", "Image 8 of 12")
        browser.click("#viewport")
        browser.press("ArrowUp", "ArrowUp", 38)
        browser.wait_for("#shown", "Image 7 of 12")
        browser.drag("#viewport", 0, 120)
        chosen = browser.wait_for("#shown", "Image 7 of 12").partition("centre")[2]
        assert chosen != window
        up.wait_for(lambda: browser.evaluate(lit) < before)  # drawn after the line beside it has changed
        browser.wheel("#viewport", 100)
        assert browser.wait_for("#shown", "Image 8 of 12").partition("centre")[2] == chosen  # it stays
        browser.click("#reset")
        browser.wheel("#viewport", -100)
        assert browser.wait_for("#shown", "Image 7 of 12").partition("centre")[2] == window
        browser.look(dark=True, width=390)
        assert browser.too_wide() == 0
        picture(browser, up, tmp_path, "viewer-narrow")
        browser.look()
        browser.click("a", "Results of the run")
        browser.click("a#report")
        browser.wait_for("body", "By reason")
        browser.click("a", "Results of the run")
        browser.wait_for("a#images")
        browser.open(framed(up, released))
        browser.click("a#images")
        browser.wait_for("#shown", "pixels, centre")
        picture(browser, up, tmp_path, "viewer-framed")


def test_who_may_not_see_reports_sees_no_images(up: Up, released: str) -> None:
    up.log_in(VIEWER)
    try:
        told = up._call(page_of(released))
        assert told["images"] is None and told["places"] == {}
        for path in ("images", "images/1", "images/1/0/0"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                up._call(f"{page_of(released)}/{path}")
            assert refused.value.code == 403
    finally:
        up.log_in(local.USER)


def test_a_question_is_answered_by_those_who_may_and_links_lead_to_airflow_and_back(up: Up, tmp_path: Path) -> None:
    run = begin(up, "refused")
    with logged_in(up, VIEWER) as browser:
        browser.open(f"{up.url}/{page_of(run)}")
        browser.wait_for("[aria-labelledby=question]", "You may not answer")
        assert not browser.sees("textarea")
        browser.open(framed(up, run))
        browser.click("a", "The run and its tasks")  # within the frame, yet Airflow is not shown inside itself
        browser.wait_for("td", "DeidentifyOperator")  # it lists fifty tasks, and those that have begun come last
        assert "pacsifier-results" not in browser.evaluate("location.pathname")
    with logged_in(up, local.USER) as browser:
        browser.open(framed(up, run))
        browser.wait_for("[aria-labelledby=question]")
        answer(browser, "Reject", "Too many")
        browser.wait_for("td", "Too many")
        assert up.outcome(run, STUDY) == "failed"
        browser.wait_for(".word", "Rejected by admin")
        picture(browser, up, tmp_path, "rejected-framed")
    assert up._call(page_of(run))["decisions"][0]["reason"] == "Too many"
