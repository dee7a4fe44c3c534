"""The page Results with a real browser: questions are answered there, and released images looked at."""

from __future__ import annotations

import os
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
from tests.support.shared import USER, SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

#: Folder for the pictures of the documentation; these tests take them if it is given.
PICTURES = os.environ.get("PACSIFIER_PICTURES")

STUDY = "pacsifier_study"


@pytest.fixture(scope="module")
def up(shared: SharedAirflow) -> Up:
    return shared.up


@contextmanager
def logged_in(up: Up, user: str, width: int = 1280, height: int = 1000) -> Iterator[Browser]:
    """A browser of a user."""
    with Browser(width, height) as page:
        page.open(up.url)
        page.fill("[name=username]", user)
        page.fill("[name=password]", local.password(up.home, user))
        page.click("button", "Sign in")
        page.wait_for("a", "Dags", exact=True)
        yield page


def begin(up: Up, project: str, **conf: Any) -> str:
    """Start a study on the cohort, and return the id of its run."""
    (up.home / "data" / f"{project}.csv").write_text("AccessionNumber\nQACC990*\n")
    return up.start(STUDY, project=project, queryfile=f"{project}.csv", source="local", **conf)


def page_of(run: str) -> str:
    return f"pacsifier/runs/{STUDY}/{urllib.parse.quote(run, safe='')}"


def framed(up: Up, run: str) -> str:
    return f"{up.url}/dags/{STUDY}/runs/{urllib.parse.quote(run, safe='')}/plugin/pacsifier-results"


def picture(browser: Browser, tmp_path: Path, name: str) -> None:
    browser.screenshot((Path(PICTURES) if PICTURES else tmp_path) / f"{name}.png")


@pytest.fixture(scope="module")
def released(up: Up, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the id of the run of a study whose questions were answered on its page, within and outside of Airflow."""
    tmp_path = tmp_path_factory.mktemp("pictures")
    run = begin(up, "answered", max_series=1)
    up.question(run, STUDY)
    with logged_in(up, USER) as browser:
        browser.open(framed(up, run))
        browser.wait_for("[aria-labelledby=question] p", "May this cohort be retrieved?")
        browser.wait_for(".note", "Approve and waive: There are no findings to waive.")
        picture(browser, tmp_path, "question-framed")
        browser.fill("textarea", "As the protocol has it <b>")
        browser.click(".answers button", "Approve", exact=True)
        browser.click(".answers button", "Approve: are you sure?")
        up.wait_for(lambda: bool(up._call(page_of(run))["decisions"]))
        up.question(run, STUDY)
        browser.open(f"{up.url}/{page_of(run)}")
        browser.wait_for("[aria-labelledby=question] p", "May this data set be released?")
        browser.wait_for("figure, .contact-sheet")  # in the frame beside the question
        picture(browser, tmp_path, "question")
        browser.fill("textarea", "Looked at all sheets")
        browser.click(".answers button", "Approve", exact=True)
        browser.click(".answers button", "Approve: are you sure?")
        browser.wait_for("td", "Looked at all sheets")
    assert up.outcome(run, STUDY) == "success"
    return run


def test_answers_on_the_page_are_kept_with_their_reason(up: Up, released: str) -> None:
    told = up._call(page_of(released))
    made = [(one["subject"], one["word"], one["who"], one["reason"]) for one in told["decisions"]]
    assert made == [
        ("cohort", "approved", USER, "As the protocol has it <b>"),
        ("release", "approved", USER, "Looked at all sheets"),
    ]
    folder = Run(up.home / "state" / "runs" / dag_run_name(STUDY, released))
    decision = approvals.decision_on(folder, approvals.RELEASE)
    assert decision and decision.reason == "Looked at all sheets"
    assert "Looked at all sheets" in folder.report.read_text()
    # It may say something about the source, so it does not go with the data.
    assert "Looked at all sheets" not in (folder.folder / "handover" / "report.html").read_text()
