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
from tests.support.airflow_home import DAG_ID, KUNIGUNDE, THEOBALD, ZEBEDAEUS, Up, traces, words_of
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
        browser.fill("[name=username]", user)
        browser.fill("[name=password]", local.password(up.home, user))
        browser.click("button", "Sign in")
        browser.wait_for("#run-list table, #run-list p")
        yield browser


def picture(browser: Browser, name: str, tmp_path: Path) -> None:
    """Keep a picture of the page, for people to look at."""
    browser.screenshot(Path(os.environ.get("PACSIFIER_PICTURES", tmp_path)) / f"{name}.png")


def conf_of(up: Up, run: str, dag: str = DAG_ID) -> dict[str, Any]:
    return dict(up.get(f"dags/{dag}/dagRuns/{urllib.parse.quote(run)}")["conf"])


def send(user: Visitor, table: str = TABLE) -> dict[str, Any]:
    answer = user.send(table.encode())
    assert answer.status == 201
    return dict(answer.json())


def ask(user: Visitor, path: str, body: Any = None, method: str = "") -> Any:
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
        browser.fill(f"[data-job={STUDY}] [name=project]", "newcomer")
        picture(browser, "study-form", tmp_path)
        browser.click("#start")
        browser.wait_for("dd", STUDY)
        browser.wait_for("[aria-labelledby=question]", "May this data set be released?")
        browser.click("a", "Answer in Airflow")
        browser.wait_for("body", "May this data set be released?")
        browser.click("button", "Approve", exact=True)
        browser.open(f"{up.url}/pacsifier/")
        browser.wait_for("#run-list tr", f"newcomer {USER} pacs_default")
        browser.click("#run-list a", "Study")
        browser.wait_for(".word", "Complete")
        browser.wait_for("#stage-release", "released")
    released = up.home / "data" / "studies" / "newcomer" / "released"
    assert list(released.glob("sub-*/**/*.dcm")) and (released / "manifest.csv").is_file()
