"""Runs with a selection: what is asked of the archive, left out, counted, fetched, and kept for the next run."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as parquet
import pytest
from pydicom.dataset import Dataset

from pacsifier_ops.base.errors import ConfigError, InputError
from pacsifier_ops.base.files import read_json
from pacsifier_ops.cli.pacsifier import main
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.choosing import lists_of
from pacsifier_ops.runs.accounts import RunAccount
from pacsifier_ops.runs.progress import progress_of
from tests.support.command import write_table
from tests.support.embedded import as_new, config_of, extract, log_of, node_of, planned_run, series, serving
from tests.support.peers import free_port

pytestmark = pytest.mark.archive


def study(patient: str, date: str, uid: str, *several: dict[str, Any]) -> list[Dataset]:
    images = []
    for number, attributes in enumerate(several or ({},), 1):
        own: dict[str, Any] = {
            "study_uid": f"2.25.{uid}",
            "series_uid": f"2.25.{uid}.{number}",
            "series_number": number,
        } | attributes
        thickness = own.pop("SliceThickness", None)
        made = series(patient, study_date=date, **own)
        for image in made if thickness else ():
            image.SliceThickness = thickness
        images += made
    return images


THICK, THIN = {"SliceThickness": "5", "modality": "CT"}, {"SliceThickness": "1", "modality": "CT"}
SCOUT = {"SeriesDescription": "Scout", "modality": "CT"}
IMAGES = [
    *study("P1", "20190601", "10", THICK),
    *study("P1", "20191220", "11", THIN, THICK, SCOUT),
    *study("P1", "20200110", "12", THIN, SCOUT),
    *study("P2", "20100101", "20", THIN),
    *study("P3", "20200101", "30", SCOUT),
]
RULES = """
anchor: closest
days: [-30, 30]
studies: 1
priors: {studies: 1}
series:
  exclude:
    - {name: scouts, SeriesDescription: "*scout*"}
prefer: thinnest
"""
ROWS = [{"PatientID": name, "anchor_date": "20200102", "row_id": f"r-{name}"} for name in ("P1", "P2", "P3", "P9")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path_factory.mktemp("archive")) as pacs:
        yield pacs


@pytest.fixture
def pacs(running: EmbeddedPacs) -> EmbeddedPacs:
    return as_new(running)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def fetched(account: RunAccount) -> set[str]:
    return {one.series_uid.removeprefix("2.25.") for one in account.series}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_is_left_out_is_counted_by_reason_and_listed(pacs: EmbeddedPacs, tmp_path: Path, rules: Path) -> None:
    run, units = planned_run(node_of(pacs), ROWS, tmp_path / "out", selection=str(rules))
    for unit in units:
        steps.retrieve(run, node_of(pacs), unit)
    account = steps.report(run)
    assert account.verdict == "complete"
    assert [row.state for row in account.rows] == ["found", "unselected", "unselected", "empty"]
    assert fetched(account) == {"12.1", "11.1"}
    assert [row.left_out for row in account.rows] == [
        {"outside days": 1, "not preferred": 1, "excluded by scouts": 2},
        {"outside days": 1},
        {"excluded by scouts": 1},
        {},
    ]
    assert account.summary()["rows"] == {"unselected": 2, "empty": 1, "found": 1}
    assert account.totals()["left_out"] == 6
    lines = {line["PatientID"]: line for line in log_of(tmp_path / "out")}
    assert (lines["P2"]["Status"], lines["P2"]["Reason"]) == ("unselected", "1 left out: outside days")

    flow = table(run.folder / "flow.csv")
    assert [(line["stage"], line["left_out"], line["rows"], line["studies"], line["series"]) for line in flow] == [
        ("asked", "", "4", "", ""),
        ("found", "empty", "1", "", ""),
        ("found", "", "3", "5", "8"),
        ("eligible", "outside days", "1", "2", "2"),
        ("eligible", "excluded by scouts", "1", "1", "3"),
        ("eligible", "", "1", "2", "3"),
        ("selected", "not preferred", "0", "0", "1"),
        ("selected", "", "1", "2", "2"),
        ("fetched", "", "1", "2", "2"),
    ]
    picture = (run.folder / "flow.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(picture)
    assert "outside days: 1 patient, 2 studies, 2 series" in picture and picture in run.report.read_text()
    listed = table(run.folder / "selection.csv")
    assert len(listed) == parquet.read_table(run.folder / "selection.parquet").num_rows == 8
    assert {line["selected_as"] for line in listed if line["SeriesInstanceUID"] == "2.25.11.1"} == {"prior"}


def test_only_what_a_rule_needs_is_asked(pacs: EmbeddedPacs, tmp_path: Path, rules: Path) -> None:
    planned_run(node_of(pacs), ROWS, tmp_path / "one", retrieve="none")
    assert not any("SliceThickness" in query for _, query in pacs.queries)
    pacs.queries.clear()
    planned_run(node_of(pacs), ROWS, tmp_path / "two", retrieve="none", selection=str(rules))
    asked = [(level, query) for level, query in pacs.queries if "SliceThickness" in query]
    assert {level for level, _ in asked} == {"SERIES"}
    assert not any("anchor" in str(query) or "r-P1" in str(query) for _, query in pacs.queries)
    # What is not told at SERIES level is asked at IMAGE level, once a series, where there is something to choose.
    pacs.faults = Faults(image_only_keys={"SliceThickness"})
    pacs.queries.clear()
    run, _ = planned_run(node_of(pacs), ROWS, tmp_path / "three", retrieve="none", selection=str(rules))
    images = [str(query.SeriesInstanceUID) for level, query in pacs.queries if level == "IMAGE"]
    assert sorted(images) == ["2.25.11.1", "2.25.11.2"]
    assert fetched(steps.report(run)) == {"12.1", "11.1"}
    # An archive that never tells it decides nothing, and says so.
    pacs.faults = Faults(unreturned_keys={"SliceThickness"})
    run, _ = planned_run(node_of(pacs), ROWS, tmp_path / "four", retrieve="none", selection=str(rules))
    account = steps.report(run)
    assert fetched(account) == {"12.1", "11.1"} and "equally preferred" in account.rows[0].warnings[0]


def test_rows_without_what_the_selection_needs_are_bad(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rules = tmp_path / "sets.yaml"
    rules.write_text("sets:\n  default: {days: [0, 1]}\n  others: {studies: 1}\n")
    rows = [
        {"PatientID": "P1", "anchor_date": "20200110", "selection": ""},
        {"PatientID": "P1", "anchor_date": "", "selection": ""},
        {"PatientID": "P1", "anchor_date": "", "selection": "others"},
        {"PatientID": "P1", "anchor_date": "", "selection": "other"},
        {"PatientID": "P1", "anchor_date": "", "selection": ""},
    ]
    account = extract(node_of(pacs), rows, tmp_path / "out", selection=str(rules), retrieve="none")
    assert [row.state for row in account.rows] == ["found", "bad", "found", "bad", "bad"]
    assert "anchor_date: is empty" in account.rows[1].reason
    assert "did you mean others?" in account.rows[3].reason
    assert [row.studies for row in account.rows] == [1, 0, 1, 0, 0]
    rows_without = [{"PatientID": "P1", "selection": name} for name in ("", "others")]
    unanchored = extract(node_of(pacs), rows_without, tmp_path / "none", selection=str(rules), retrieve="none")
    assert "the table has no such column" in unanchored.rows[0].reason and unanchored.rows[1].state == "found"
    without = extract(node_of(pacs), [*rows[:1], rows[3]], tmp_path / "two", retrieve="none")
    assert [row.state for row in without.rows] == ["found", "bad"]
    with pytest.raises(ConfigError, match="reselect applies to a selection only"):
        extract(node_of(pacs), rows[:1], tmp_path / "two", reselect=True)
    (tmp_path / "bad.yaml").write_text("anchor: near")
    with pytest.raises(InputError, match=r"cannot be used: bad.yaml: line 1, anchor: none of closest"):
        extract(node_of(pacs), rows[:1], tmp_path / "two", selection=str(tmp_path / "bad.yaml"))


def test_the_rules_of_a_run_are_those_of_its_beginning(pacs: EmbeddedPacs, tmp_path: Path, rules: Path) -> None:
    node, out = node_of(pacs), tmp_path / "out"
    run, _ = planned_run(node, ROWS, out, selection=str(rules), retrieve="none")
    rules.write_text("studies: 3")
    steps.find(run, node, 0)
    steps.plan(run, node)
    assert fetched(steps.report(run)) == {"12.1", "11.1"}
    assert read_json(run.folder / "accounts.json")["selection"]["digest"] in run.report.read_text()


def test_what_was_selected_stays_in_the_next_run(tmp_path: Path, rules: Path) -> None:
    later = study("P1", "20200103", "13", THIN)
    with serving(IMAGES, tmp_path / "archive") as pacs:
        node, out, row = node_of(pacs), tmp_path / "out", ROWS[:1]
        first = extract(node, row, out, selection=str(rules))
        assert fetched(first) == {"12.1", "11.1"}
        pacs.add(write(later, tmp_path / "more"))
        second = extract(node, [{**row[0], "row_id": "another"}], out, selection=str(rules))
        assert fetched(second) == {"12.1", "11.1"}
        assert "reselect decides anew" in second.rows[0].warnings[0]
        assert second.totals()["received"] == 0
        # Another folder has selected nothing yet; another anchor is another row.
        assert fetched(extract(node, row, tmp_path / "new", selection=str(rules))) == {"13.1", "11.1"}
        assert fetched(extract(node, [{**row[0], "anchor_date": "20200103"}], out, selection=str(rules))) == {
            "13.1",
            "11.1",
        }
        # Repeated and killed runs agree, and only finding does not keep anything.
        for _ in range(2):
            again = extract(node, row, out, selection=str(rules), retrieve="none")
            assert fetched(again) == {"12.1", "11.1"}
        anew = extract(node, row, out, selection=str(rules), reselect=True, retrieve="none")
        assert fetched(anew) == {"13.1", "11.1"}
        assert "1 series of an earlier run not selected any more" in anew.rows[0].warnings[0]
        assert fetched(extract(node, row, out, selection=str(rules))) == {"12.1", "11.1"}
        # Other rules decide anew; other names of rules do not.
        rules.write_text(RULES.replace("name: scouts", "name: locs"))
        assert fetched(extract(node, row, out, selection=str(rules))) == {"12.1", "11.1"}
        rules.write_text(RULES.replace("days: [-30, 30]", "days: [-30, 5]"))
        assert fetched(extract(node, row, out, selection=str(rules))) == {"13.1", "11.1"}


def test_a_plan_that_is_made_again_keeps_what_it_has_selected(pacs: EmbeddedPacs, tmp_path: Path, rules: Path) -> None:
    node, out = node_of(pacs), tmp_path / "out"
    run, _ = planned_run(node, ROWS, out, selection=str(rules))
    before = read_json(run.folder / "plan.json")
    steps.find(run, node, 0)
    assert steps.plan(run, node).series == 2
    again = read_json(run.folder / "plan.json")
    assert (again["digest"], again["flow"]) == (before["digest"], before["flow"])
    assert fetched(extract(node, ROWS, out, selection=str(rules))) == {"12.1", "11.1"}


def test_uncertain_answers_select_nothing_where_there_is_a_choice(
    pacs: EmbeddedPacs, tmp_path: Path, rules: Path
) -> None:
    # Two of the archive's three studies with such a date are one answer, and some of the rest may be without a date.
    pacs.faults = Faults(result_limit=5)
    rows = [{"Modality": "CT", "anchor_date": "20200102"}]
    choosing = extract(node_of(pacs, result_limit=5), rows, tmp_path / "out", selection=str(rules), retrieve="none")
    assert choosing.rows[0].state == "undecidable" and not choosing.series
    assert set(choosing.rows[0].left_out) == {"answers not certain"} and choosing.verdict == "incomplete"
    # Where each series is decided on its own, what is sure is taken, as without a selection.
    rules.write_text("days: [-30, 30]")
    each = extract(node_of(pacs, result_limit=5), rows, tmp_path / "two", selection=str(rules), retrieve="none")
    assert each.rows[0].state == "undecidable" and set(each.rows[0].left_out) == {"outside days"} and each.series


def test_the_count_beforehand_tells_what_is_selected(pacs: EmbeddedPacs, tmp_path: Path, rules: Path) -> None:
    run, units = planned_run(node_of(pacs), ROWS, tmp_path / "out", selection=str(rules), retrieve="none")
    assert not units and not pacs.sent
    counts = steps.counts(run)
    assert counts["series"] == 2 and counts["rows"] == {"found": 1, "unselected": 2, "empty": 1}
    assert "the selection: 8 series found, 2 selected" in counts["sentences"]
    assert "left out, excluded by scouts: 3 series" in counts["sentences"]
    # The page of the run has the same before its end, and the lists are there.
    progress = progress_of(run)
    assert progress.left_out == {"excluded by scouts": 3, "outside days": 2, "not preferred": 1}
    assert progress.series == {"waiting": 2}
    assert list(lists_of(run)) == ["selection.csv", "selection.parquet", "flow.csv", "flow.svg"]
    account = steps.report(run)
    assert (
        "2 series, about 2 images, are to be fetched" in account.cohort[0]
        and account.cohort[0] in run.report.read_text()
    )


def test_the_question_before_a_large_cohort_tells_counts_without_names(
    pacs: EmbeddedPacs, tmp_path: Path, rules: Path
) -> None:
    run, _ = planned_run(node_of(pacs), ROWS, tmp_path / "big", selection=str(rules), max_series=1, approval=True)
    question = steps.question(run)
    assert question and "the selection: 8 series found, 2 selected" in question.sentences
    assert "left out, rules for series: 3 series" in question.sentences
    assert not any("scouts" in sentence for sentence in question.sentences)


def test_the_command_selects(
    pacs: EmbeddedPacs, tmp_path: Path, rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_of(pacs, move_port=free_port())))
    table = write_table(tmp_path / "table.csv", ROWS)
    command = ["-c", str(config), "-q", str(table), "-d", str(tmp_path / "out"), "--selection", str(rules)]
    assert main(["--save", *command]) == 0
    printed = capsys.readouterr().out
    assert "2 series selected" in printed and "left out, excluded by scouts: 3 series" in printed
    rules.write_text("anchor: near\ndays: 3")
    assert main(["--save", *command]) == 2
    refused = capsys.readouterr().err
    assert "rules.yaml: line 1, anchor: none of closest" in refused and "line 2, days" in refused
    with pytest.raises(SystemExit):
        main(["--save", *command[:-2], "--reselect"])


def test_a_conflict_does_not_forget_what_was_selected(tmp_path: Path, rules: Path) -> None:
    with serving(IMAGES, tmp_path / "archive") as pacs:
        node, out, row = node_of(pacs), tmp_path / "out", {**ROWS[0], "new_ids": "A1", "StudyDate": ""}
        assert fetched(extract(node, [row], out, selection=str(rules))) == {"12.1", "11.1"}
        pacs.add(write(study("P1", "20200103", "13", THIN), tmp_path / "more"))
        other = {"PatientID": "", "StudyDate": "20200110", "anchor_date": "20200110", "new_ids": "B2"}
        clash = extract(node, [row, other], out, selection=str(rules))
        assert {one.state for one in clash.rows} == {"conflict"} and not clash.series
        assert fetched(extract(node, [row], out, selection=str(rules))) == {"12.1", "11.1"}
