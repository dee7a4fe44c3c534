"""No page is wider than the screen of a phone: wide tables scroll in their own box."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.words import listed
from pacsifier_ops.deid import report as deid
from pacsifier_ops.deid.books import DeidAccount, DeidSeries
from pacsifier_ops.handover.account import ToolAccount, write_books
from pacsifier_ops.probe.findings import QUESTIONS, YES, Fact, Findings, KeyFinding
from pacsifier_ops.probe.page import to_html
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.pages import style
from pacsifier_ops.runs.progress import Progress
from pacsifier_ops.runs.report_html import render
from pacsifier_ops.study import handover, report
from tests.runs.test_report_html import ACTIONS, hostile_run
from tests.study.test_study_report import hostile_study
from tests.support import airflow_home
from tests.support.browser import Browser

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

#: A word that is too long for a line, and short ones.
LONG = "W" * 150 + " and " + "1.2.840.113619." * 4 + " and more of it, as people write"
WHEN = "2026-03-04T22:00:00+01:00"


def of_a_deidentification() -> str:
    series = [DeidSeries(1, "MR", LONG, LONG, 1_000_000, 2000, 3000, 0, LONG)]
    account = DeidAccount(LONG, WHEN, WHEN, "/data/in", "/data/out", LONG, LONG, LONG, LONG, LONG, series=series)
    account.set_apart = [(LONG, "excluded", LONG), (LONG, "quarantined", "screen-save")]
    account.rules = account.sources = account.strangers = account.passed_over = {LONG: 1_000_000}
    return deid.render(account, {1: "contact-sheets-1.html"})


def of_a_tool(run: Run) -> str:
    write_books(run, ToolAccount(LONG, "dump", WHEN, WHEN, LONG, LONG, {LONG: 1}, [(LONG, LONG)], [(LONG, LONG)]), LONG)
    return run.report.read_text(encoding="utf-8")


def of_a_probe() -> str:
    findings = Findings(LONG, "127.0.0.1", 4242, LONG, LONG, WHEN, 1.0, True, True, 1000, LONG)
    findings.facts = {name: Fact(YES, LONG) for questions in QUESTIONS.values() for name in questions}
    findings.keys = [KeyFinding("SeriesDescription", "SERIES", "matched", "SERIES", True, LONG)]
    findings.settings, findings.advice, findings.ask_for = {"called_aet": LONG}, [LONG], [LONG]
    return to_html(findings)


def of_the_server() -> Iterator[tuple[str, str]]:
    """Return pages of the server, with the stylesheet in them."""
    from pacsifier_ops.study.run import STAGES
    from pacsifier_ops.study.viewer import ReleasedSeries
    from pacsifier_ops.web import pages, views
    from pacsifier_ops.web.forms import JOBS
    from pacsifier_ops.web.tasks import Step

    account = hostile_study(LONG)
    counts = Progress({LONG: 1_000_000}, {"complete": 1}, True, 2_000_000, {"received": 1_000_000})
    question = views.OpenQuestion("approve_release", LONG, [LONG], ["Approve", LONG], views.OPEN, WHEN, WHEN)
    stage = views.StageView("complete", counts, report=True, sheets=12)
    people = {"owners": [LONG], "approvers": [LONG], "ethics": LONG, "expires": WHEN}
    study = views.StudyView(account.gate, {"files": 1, "bytes": 1}, handover=True, project=people)
    parts: dict[str, Any] = {"folder": LONG, "stages": dict.fromkeys(STAGES, stage)}
    shared: dict[str, Any] = {"started": WHEN, "readable": True, "report": True, "sheets": 12}
    shared["decisions"] = account.decisions
    failure = views.Failure("retrieve", LONG, LONG, WHEN)
    shared |= {"failure": failure, "retries": [failure], "changeable": True, "answerable": True}
    shared |= {"places": {"Output folder": f"/data/{LONG}"}, "step": Step("find", 1, 1, 1000), "pace": {"rows": 1e6}}
    one = views.RunView("pacsifier_extract", LONG, "running", progress=counts, thumbnails={1: LONG}, **shared)
    whole = views.RunView("pacsifier_study", LONG, "running", questions=[question], study=study, **parts, **shared)
    theirs = views.RunView(LONG, LONG, "running", folder=LONG, stages={LONG: stage}, **shared)
    base = "/pacsifier"
    shown = {
        "run": pages.run_page(base, "", one),
        "study-run": pages.run_page(base, "", whole),
        "groups": pages.run_page(base, "", theirs),
        "intake": pages.intake_page(base, "", [*JOBS.values()], ["orthanc", LONG], dict.fromkeys(JOBS, True), 1),
        "refusal": pages.refusal(base, LONG),
        "viewer": pages.viewer_page(base, "runs/d/r", [ReleasedSeries(1, LONG, 1_000_000, 0)]),
        "search": pages.findings_page(base, "runs/d/r", account.gate),
    }
    link = f'<link rel="stylesheet" href="{base}/static/page.css">'
    for name, page in shown.items():
        assert link in page
        yield name, page.replace(link, f"<style>{style()}</style>")


def test_no_page_is_wider_than_a_phone(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    pages = {f"extract-{action}": render(hostile_run(LONG, action)) for action in ACTIONS}
    pages |= {"deid": of_a_deidentification(), "tool": of_a_tool(Run.fresh()), "probe": of_a_probe()}
    pages |= {
        "study": report.render(hostile_study(LONG), [(1, 2, "x")]),
        "handover": handover.render(hostile_study(LONG)),
    }
    pages |= dict(of_the_server())
    wide = {}
    with Browser(390, 800) as browser:
        for name, page in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(page, encoding="utf-8")
            browser.open(path.as_uri())
            browser.wait_for("header")
            wide[name] = browser.too_wide()
    assert not any(wide.values()), listed([f"{name} by {pixels} px" for name, pixels in wide.items() if pixels])
