"""The reports of a study: the manager's says everything, and the hand-over report holds no identifiers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from pacsifier_ops.base.files import read_json
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, ROW_BAD, ROW_FOUND, UNBALANCED
from pacsifier_ops.runs.approvals import APPROVED, RELEASE, Decision
from pacsifier_ops.runs.pages import LONGEST_LIST
from pacsifier_ops.state.tree import HANDOVER
from pacsifier_ops.study import handover, report
from pacsifier_ops.study.accounts import (
    DELIVERED,
    STATES,
    Loss,
    StageAccount,
    StudyAccount,
    StudyRow,
    StudySeries,
)
from pacsifier_ops.study.closing import close
from pacsifier_ops.study.release import Released
from pacsifier_ops.study.run import NOT_ENDED, OFF, STAGES
from tests.runs.test_report_html import HOSTILE, Page
from tests.study.test_study_accounts import GOOD, IMAGES, WITHHELD, night
from tests.support.embedded import series, serving
from tests.support.study import StudyRun
from tests.support.tables import parquet_as_csv

pytestmark = pytest.mark.archive

#: Identifiers: names, ids, dates, and descriptions that quote them.
TELLING = (
    *("Wurzelbacher", "Kunigunde", "Prisma", "Vida", "Niemand", "Nina", "QACC990171"),
    *("ZQX-71830-KW", "ZQX_71830_KW", "YVJ-55912-ZS", "YVJ_55912_ZS", "UNK-40404-ZZ", "UNK_40404_ZZ", "NIX-00000-XX"),
    *("20200101", "20200102", "20200103", "2020-01-0", "19700101", "identified/"),
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(folder))
    (folder / "mapping.csv").write_text("ZQX-71830-KW,P0001\nYVJ-55912-ZS,P0002\n")
    return folder


@pytest.fixture
def study(tmp_path: Path, data: Path) -> Iterator[StudyRun]:
    """A study with something in each state, released."""
    more = series(
        "ZQX-71830-KW", "Wurzelbacher^Kunigunde", study_date="20200101", series_number=7, AccessionNumber="QACC990171"
    )
    with serving([*IMAGES, *more], tmp_path / "archive") as pacs:
        pacs.faults.withhold = {WITHHELD}
        run = night(pacs, data, profile="basic")
        run.make()
        run.release()
        yield run


def written(study: StudyRun) -> StudyAccount:
    account = close(study.run)
    handover.write_report(study.run, account)
    report.write_report(study.run, account)
    return account


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_files_of_the_account_agree_and_the_report_links_those_of_the_stages(study: StudyRun) -> None:
    account, folder = written(study), study.run.folder
    told = read_json(folder / "accounts.json")
    assert told["totals"] == account.totals() == read_json(folder / "summary.json")["totals"]
    assert {state: told["totals"][state] for state in GOOD} == {**GOOD, DELIVERED: 6}
    assert len(told["series"]) == len(lines(folder / "series.csv")) == 6
    for state in STATES:
        assert sum(int(line[state]) for line in lines(folder / "series.csv")) == told["totals"][state]
    assert [line["PatientID"] for line in lines(folder / "rows.csv")] == [row.keys["PatientID"] for row in account.rows]
    several = [line for line in lines(folder / "rows.csv") if int(line["studies"]) > 1]
    assert len(several) == told["totals"]["rows_with_several_studies"]
    assert all(int(row["studies"]) <= row["series"] for row in told["rows"])
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    links = [attributes["href"] for name, attributes in page.elements if name == "a"]
    stages = [link for link in links if link and link.startswith("stages/")]
    assert len(stages) == 4 and all((folder / link).is_file() for link in stages)
    text = " ".join(page.said)
    assert all(said in text for said in ("ZQX-71830-KW", "screen-save", "Dr. Data Manager", "became sub-P0001"))
    assert "11 instances = 6 delivered + 1 excluded + 3 quarantined + 1 missing" in text
    assert all(len(parquet_as_csv(folder / name)) for name in ("rows.csv", "series.csv"))
    for path in [folder / name for name in ("accounts.json", "report.html", "series.csv", "rows.csv", "handover")]:
        assert path.stat().st_mode & 0o077 == 0


def test_the_hand_over_report_holds_no_identifiers(study: StudyRun) -> None:
    account = written(study)
    folder = study.run.folder / "handover"
    uids = [
        str(image[name].value)
        for image in IMAGES
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    ]
    assert parquet_as_csv(folder / "series.csv") == lines(folder / "series.csv")
    for path in folder.iterdir():
        table = path.suffix == ".parquet"
        text = str(parquet.read_table(path).to_pylist()) if table else path.read_text(encoding="utf-8")
        assert not [word for word in (*TELLING, *uids, str(study.data)) if word.lower() in text.lower()], path.name
    beside = study.folder("released") / HANDOVER
    assert sorted(path.name for path in beside.iterdir()) == sorted(handover.FILES) and not account.held_back
    assert all((beside / name).read_bytes() == (folder / name).read_bytes() for name in handover.FILES)
    told = read_json(folder / "accounts.json")
    assert told["totals"] == account.totals() and told["data_set"]["digest"] == account.released.digest  # type: ignore[union-attr]
    assert told["released_by"][0][0] == "Dr. Data Manager" and told["searched"]["Blocking"] == 0
    for line in lines(folder / "series.csv"):
        files = list((study.folder("released") / line["folder"]).glob("*.dcm"))
        assert len(files) == int(line["released"]) and line["pseudonym"] in line["folder"]
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert not [name for name, _ in page.elements if name in ("a", "script", "img", "link")]


def test_a_hand_over_report_with_an_identifier_is_held_back(study: StudyRun) -> None:
    account = close(study.run)
    account.project = "of Wurzelbacher, Kunigunde"
    handover.write_report(study.run, account)
    assert account.held_back and account.verdict == INCOMPLETE and not (study.folder("released") / HANDOVER).exists()
    assert "found in the report that goes with the data" in report.render(account)


def _account(**fields: Any) -> StudyAccount:
    account = StudyAccount("run", "p", "basic", "", "2026-01-01T00:00:00+01:00", "2026-01-01T01:00:00+01:00")
    account.stages = [StageAccount(stage, COMPLETE if stage in STAGES[:4] else OFF) for stage in STAGES]
    return replace(account, **fields)


def hostile_study(text: str = HOSTILE) -> StudyAccount:
    losses = [Loss(state, "extract", text, 1) for state in STATES[1:4]]
    one = StudySeries(1, [2], text, text, text, text, text, text, text, 5, 2, 2, 2, 2)
    one.delivered = one.unverifiable = one.excluded = one.quarantined = one.missing = 1
    one.instances, one.lost, one.became, one.new_uids = 5, losses, [text], [text]
    one.pseudonyms, one.confirmed = [text], {"upload": 1}
    stages = [StageAccount(stage, NOT_ENDED, text, text, {text: 1}, text, text) for stage in STAGES]
    return _account(
        run=text,
        project=text,
        profile=text,
        rules=text,
        method=text,
        codes=[(text,) * 3],
        options=[text],
        folder=text,
        window=text,
        queried=True,
        sources={text: 1},
        rows=[StudyRow(2, {text: text}, state, 1, text, [text]) for state in (ROW_FOUND, ROW_BAD, text)],
        series=[one],
        stages=stages,
        decisions=[Decision(RELEASE, "d", APPROVED, text, text, True, reason=text)],
        asked=[text],
        gate={"counts": {"blocking": 1}, "blocking": [(text, text)], "waivable": [(text, text)]},
        released=Released("d", text, text, True, 1, 1, 1, 0),
        discrepancies=[text],
        held_back=True,
        owners=[text],
        approvers=[text],
        ethics=text,
        expires=text,
    )


@pytest.mark.parametrize("rendered", [report.render(hostile_study(), [(1, 2, "x")]), handover.render(hostile_study())])
def test_foreign_text_stays_text(rendered: str) -> None:
    page = Page(rendered)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "img", "iframe", "form"}
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert "<script" in " ".join(page.said) and rendered.encode()
    assert "default-src 'none'" in rendered


def test_the_verdict_is_explained_in_words() -> None:
    series = [StudySeries(1, [2], "a", "b", "c", expected=2, received=2, instances=2, delivered=2)]
    complete = _account(series=series, rows=[StudyRow(2, {}, ROW_FOUND, 1)], queried=True)
    assert complete.verdict == COMPLETE and "2 instances are delivered, all that the archive lists" in report.render(
        complete
    )
    bad = replace(complete, rows=[StudyRow(2, {}, ROW_BAD, 0, "cannot be used")])
    assert bad.verdict == INCOMPLETE and "1 row could not be answered" in report.render(bad)
    lost = replace(complete, series=[replace(series[0], delivered=1)])
    assert lost.verdict == UNBALANCED and "Do not rely on this data set" in report.render(lost)
    assert "2 instances ≠ 1 delivered" in report.render(lost) and "do not rely on it" in handover.render(lost)


def test_long_lists_are_cut_and_the_tables_have_all(study: StudyRun) -> None:
    account = close(study.run)
    account.series = [replace(account.series[0], number=n) for n in range(LONGEST_LIST + 1)]
    report.write_report(study.run, account)
    assert len(lines(study.run.folder / "series.csv")) == LONGEST_LIST + 1
    assert len(json.loads((study.run.folder / "accounts.json").read_text())["series"]) == LONGEST_LIST + 1
    assert f"The first {LONGEST_LIST:,} of {LONGEST_LIST + 1:,} are shown" in report.render(account)
