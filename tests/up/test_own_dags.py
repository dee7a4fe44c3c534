"""The examples of users' DAGs, under the scheduler."""

from __future__ import annotations

import urllib.request
from urllib.parse import quote

import pytest
from pydicom import dcmread

from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, Up
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]


def _page(up: Up, path: str) -> str:
    """Return a page of the user interface."""
    headers = {"Accept": "text/html", "Cookie": f"_token={up.token('admin')}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"{up.url}/{path}", headers=headers), timeout=60) as answer:
        return str(answer.read().decode())


def test_extraction_conversion_and_upload_on_request(shared: SharedAirflow) -> None:
    up, data = shared.up, shared.up.home / "data"
    (data / "queries" / "site.csv").write_text(f"PatientID\n{KUNIGUNDE['patient_id']}\n")
    run = up.start("site_convert", queryfile="queries/site.csv")
    assert up.outcome(run, "site_convert") == "success"
    listed = (data / "convert" / "converted" / "files.txt").read_text().splitlines()
    made = sorted(path.name for path in (data / "convert" / "de-identified").rglob("*.dcm"))
    assert listed == ["complete", *made] and len(made) == 5
    assert shared.research.folder
    there = {str(dcmread(path).SOPInstanceUID) for path in (data / "convert" / "de-identified").rglob("*.dcm")}
    assert there <= {str(dcmread(path).SOPInstanceUID) for path in shared.research.folder.rglob("*.dcm")}
    pools = {task["task_id"]: task["pool"] for task in up.tasks(run, dag="site_convert")}
    assert (pools["extract.find"], pools["extract.retrieve"]) == ("pacs_default", "pacs_default")
    assert (pools["upload.store"], pools["convert"]) == ("research", "default_pool")
    path = f"pacsifier/runs/site_convert/{quote(run, safe='')}"
    told = up._call(path)
    assert {name: stage["state"] for name, stage in told["stages"].items()} == {
        "extract": "complete",
        "deidentify": "complete",
        "upload": "complete",
    }
    page = _page(up, path)
    assert 'id="stage-deidentify"' in page and "keeps no counts" not in page
    report = told["stages"]["deidentify"]["report"]
    assert "complete" in _page(up, report[report.index("pacsifier/") :]).lower()
    assert airflow_home.traces(up.home / "airflow", airflow_home.identifiers(shared.files)) == []


def test_a_night_with_two_archives(shared: SharedAirflow) -> None:
    up, data = shared.up, shared.up.home / "data"
    (data / "queries" / "nightly.csv").write_text(f"PatientID\n{KUNIGUNDE['patient_id']}\n")
    run = up.start("site_nightly")
    assert up.outcome(run, "site_nightly") == "success"
    assert [len(list((data / "archives" / name).glob("sub-*/*/*/*.dcm"))) for name in ("main", "old")] == [5, 5]
    pools = {task["task_id"]: task["pool"] for task in up.tasks(run, dag="site_nightly")}
    assert (pools["main_archive.retrieve"], pools["old_archive.retrieve"]) == ("pacs_default", "pacs_crooked")


def test_a_release_starts_a_dag(shared: SharedAirflow) -> None:
    up = shared.up
    (asset,) = (one for one in up.get("assets?limit=100")["assets"] if one["name"] == "pacsifier_demo")
    released = up.home / "data" / "studies" / "demo" / "released"
    released.mkdir(parents=True)
    up._call("api/v2/assets/events", {"asset_id": asset["id"]})
    up.wait_for(lambda: bool(up.get("dags/site_after_release/dagRuns")["dag_runs"]))
