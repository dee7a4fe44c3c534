"""Extractions as people start them: through the web interface, with a real browser, and over the REST API.

The third way, by night, is in test_nightly_dag.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.onebox import up as local
from tests.support.airflow_home import Up, tree
from tests.support.browser import Browser
from tests.support.places import REPO
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

#: Folder for the pictures of the documentation; these tests take them if it is given.
PICTURES = os.environ.get("PACSIFIER_PICTURES")

GOOD = "PatientID,StudyDate\n123421,20150512\n124588,20150512-20150612\n"
BAD = "PatientID,StudyDate\n123421,20150231\n124588,20150512-20150612\n"


@pytest.fixture(scope="module")
def up(shared: SharedAirflow) -> Up:
    return shared.up


@pytest.fixture
def browser(up: Up) -> Iterator[Browser]:
    """A browser that is logged in."""
    with Browser(1280, 1000) as page:
        page.open(up.url)
        page.log_in(local.USER, local.password(up.home))
        page.wait_for("a", "Extract", exact=True)
        yield page


@pytest.fixture
def picture(browser: Browser, up: Up, tmp_path: Path) -> Any:
    """Takes a picture for the documentation."""
    folder = Path(PICTURES) if PICTURES else tmp_path

    def take(name: str) -> None:
        browser.screenshot(folder / f"{name}.png", up.home)

    return take


def images(up: Up, out: str) -> int:
    """Return the number of images in an output folder."""
    return sum(path.endswith(".dcm") for path in tree(up.home / "data" / out))


def test_through_the_form(up: Up, browser: Browser, picture: Any) -> None:
    before = newest(up)
    browser.open(f"{up.url}/dags/pacsifier_extract")
    browser.click("button", "Trigger", exact=True)
    browser.click("[role=dialog] button", "What", exact=True)
    browser.wait_for("[role=dialog]", "if the path could identify a person, give an id")
    browser.fill("[name=element_queryfile]", "queries/example1.csv")
    browser.wait_for("[role=dialog]", "What happens to the images of the series that are found.")
    browser.wait_for("[role=dialog]", "as handed in, else wildcards")
    picture("form")
    browser.click("[role=dialog] button", "Where to", exact=True)
    browser.fill("[name=element_out_directory]", "by-form")
    browser.click("[role=dialog] button", "Trigger", exact=True)
    up.wait_for(lambda: newest(up) != before)
    run = newest(up)
    assert up.outcome(run) == "success"
    browser.open(f"{up.url}/dags/pacsifier_extract/runs/{run}")
    browser.wait_for("td", "row 2: series 1, CT")
    picture("airflow")
    browser.click("a", "Results")
    browser.wait_for("p", "All that was asked for is there, and accounted for.")
    picture("results")
    browser.click("a#report")
    browser.wait_for("body", "Instances count once")
    assert images(up, "by-form") > 0


def test_through_the_intake_page(up: Up, browser: Browser, tmp_path: Path) -> None:
    browser.click("a", "Extract", exact=True)
    browser.wait_for("label", "Choose a csv, xlsx, Parquet or DuckDB file")
    table = tmp_path / "table.csv"
    table.write_text(BAD)
    browser.choose("#table", table)
    browser.wait_for("#said", "1 row can be asked, 1 row has a problem.")
    browser.wait_for("#problems tr", "Line 2, StudyDate")
    browser.wait_for("#note", "Rows with problems are left out.")
    browser.wait_for("h1", "New extraction")
    table.write_text("Patient ID;StudyDate\n1;12.05.2015\n")
    browser.choose("#table", table)
    browser.wait_for("#problems td", "12.05.2015")  # the cell, shown to the user who sent it
    browser.select("#date_format", "DD.MM.YYYY")
    browser.wait_for("#said", "1 row can be asked.")  # read again with the option
    browser.wait_for("#preview td", "20150512")
    browser.wait_for("#preview", "column 1 was read as PatientID")
    browser.select("#date_format", "")
    browser.wait_for("#problems td", "12.05.2015")  # read again, and no more while the file changes
    table.write_text(GOOD)
    browser.choose("#table", table)
    browser.wait_for("#said", "2 rows can be asked.")
    assert not browser.sees("#problems")
    browser.fill("[data-job=pacsifier_extract] [name=out_directory]", "by-page")
    browser.click("#start")
    browser.wait_for("p", "All that was asked for is there, and accounted for.")
    browser.wait_for("figcaption", "Series 1, CT")
    assert browser.sees("a#report")
    run = up.get(f"dags/pacsifier_extract/dagRuns/{newest(up)}")
    assert re.fullmatch(r"req-[0-9a-f]{24}", run["conf"]["queryfile"])
    assert images(up, "by-page") > 0


def newest(up: Up) -> str:
    """Return the id of the latest run; empty if there is none."""
    runs = up.get("dags/pacsifier_extract/dagRuns?order_by=-start_date&limit=1")["dag_runs"]
    return str(runs[0]["dag_run_id"]) if runs else ""


def test_the_lines_of_the_documentation_on_the_api_work(up: Up, tmp_path: Path) -> None:
    missing = [name for name in ("bash", "curl", "jq") if not shutil.which(name)]
    if missing and os.environ.get("PACSIFIER_REQUIRE_PEERS") != "1":
        pytest.skip(f"programs are missing; install them: apt-get install {' '.join(missing)}")
    lines = "".join(re.findall(r"```sh\n(.*?)```", (REPO / "docs" / "rest-api.md").read_text(), re.DOTALL))
    assert "http://127.0.0.1:8080" in lines
    (tmp_path / "queries.csv").write_text(BAD)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines.replace("http://127.0.0.1:8080", up.url)],
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        input=f"{local.USER}\n{local.password(up.home)}\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^line 2 StudyDate: ", done.stdout, re.MULTILINE)
    assert re.search(r"^(queued|running)$", done.stdout, re.MULTILINE)
    assert re.search(r"^failed$", done.stdout, re.MULTILINE)  # a row with a problem makes the run incomplete
    assert '"verdict": "incomplete"' in done.stdout
    assert "124588" in (tmp_path / "report.html").read_text() and "124588" not in done.stdout
    assert images(up, "heart-study") > 0


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"retrieve": "everything"}, "'everything' is not one of ['save', 'move', 'none']"),
        ({"max_series": 0}, "0 is less than the minimum of 1"),
        ({"strict": "yes"}, "'yes' is not of type 'boolean'"),
    ],
)
def test_a_bad_conf_is_refused_by_the_api_with_the_reason(up: Up, conf: dict[str, Any], said: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        conf = {"queryfile": "queries/example1.csv", **conf}
        up._call("api/v2/dags/pacsifier_extract/dagRuns", {"logical_date": None, "conf": conf})
    assert refused.value.code == 400 and said in refused.value.__notes__[0]
