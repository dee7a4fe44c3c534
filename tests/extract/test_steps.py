"""The steps of an extract run: what they refuse, count and write, and what they do when they are called again."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.planning import measure
from pacsifier_ops.base.errors import AssociationRejected, QueryTableError, TooManySeries
from pacsifier_ops.base.files import read_json, read_jsonl
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Request
from pacsifier_ops.query.keys import DUMP_COLUMNS
from pacsifier_ops.runs.accounts import RunAccount
from pacsifier_ops.runs.folder import Run, slices
from tests.support.command import LOG_COLUMNS, write_table
from tests.support.embedded import as_new, extract, log_of, node_of, planned_run, series, serving

HOSTILE = 'He said "x", =1+1; Ü\\1'
IMAGES = [
    *series("P1", study_date="20200101", n_images=2),
    *series("P1", study_date="20200101", series_number=2, modality="MR", SeriesDescription=""),
    *series("P2", study_date="20200102", SeriesDescription=HOSTILE, AccessionNumber="ACC 2"),
    *series("P3", "Müller^Jörg", study_date="20200103"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path_factory.mktemp("archive")) as pacs:
        yield pacs


@pytest.fixture
def pacs(running: EmbeddedPacs) -> EmbeddedPacs:
    return as_new(running)


def states(account: RunAccount) -> dict[int, str]:
    return {row.line: row.state for row in account.rows}


# Rows


def test_bad_rows_are_reported_and_the_good_ones_run(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows = [{"PatientID": "P1", "StudyDate": "20200231"}, {"PatientID": "P2"}, {"StudyDate": "*"}, {"PatientID": "P9"}]
    account = extract(node_of(pacs), rows, tmp_path / "out")
    assert states(account) == {2: "bad", 3: "found", 4: "bad", 5: "empty"}
    assert account.verdict == "incomplete" and len(account.series) == 1
    assert "calendar" in account.rows[0].reason
    lines = {line["Status"]: line for line in log_of(tmp_path / "out")}
    assert lines.keys() == {"bad", "complete", "empty"}
    assert "nothing in the archive" in lines["empty"]["Reason"]


def test_a_strict_run_with_a_bad_row_does_not_query_the_pacs(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows = [{"PatientID": "P1", "StudyDate": "20200231"}, {"PatientID": "P2", "StudyDate": "2020"}]
    with pytest.raises(QueryTableError) as raised:
        extract(node_of(pacs), [*rows, {"PatientID": "P3"}], tmp_path / "out", strict=True)
    assert "line 2" in str(raised.value) and "line 3" in str(raised.value) and "20200231" not in str(raised.value)
    with pytest.raises(QueryTableError, match="no usable row"):
        extract(node_of(pacs), rows, tmp_path / "out")
    assert not pacs.queries and not (tmp_path / "out").exists()


def test_the_answer_to_a_table_has_notes_and_cells(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows = [{"Patient ID": "P1", "MRN": ""}]
    with pytest.raises(QueryTableError, match="there twice"):
        extract(node_of(pacs), rows, tmp_path / "out")
    rows = [{"Patient ID": "P1"}, {"Patient ID": "1.23457E+11"}]
    run, _ = planned_run(node_of(pacs), rows, tmp_path / "out", retrieve="none")
    account = steps.report(run)
    assert account.notes == ["column 1 was read as PatientID"] and account.notes[0] in run.report.read_text()
    assert "1.23457E+11" in account.rows[1].reason and "1.23457E+11" not in str(account.summary())
    assert "[1.23457E+11]" in (run.folder / "problems.txt").read_text()


def test_a_repeated_row_is_queried_once(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    account = extract(node_of(pacs), [{"PatientID": "P1"}, {"PatientID": "P2"}, {"PatientID": "P1"}], tmp_path / "out")
    assert states(account) == {2: "found", 3: "found", 4: "found"}
    assert account.rows[2].warnings == ["asks the same as line 2"] and account.rows[2].series == 2
    assert len(account.series) == 3 and account.series[0].lines == [2]


def test_series_that_several_rows_find_count_once(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows = [{"PatientID": "P1"}, {"StudyDate": "20200101-20200102"}, {"Modality": "MR", "PatientID": "P?"}]
    account = extract(node_of(pacs), rows, tmp_path / "out")
    assert account.verdict == "complete"
    assert [s.lines for s in account.series] == [[2, 3], [2, 3, 4], [3]]
    assert [row.series for row in account.rows] == [2, 3, 1]
    assert account.totals()["expected"] == account.totals()["received"] == 4
    assert sorted(pacs.sent) == sorted(set(pacs.sent)) and len(pacs.sent) == 4
    assert len(log_of(tmp_path / "out")) == 3


# Pseudonyms of the table


def test_new_ids_reach_the_patients_folder(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows = [{"PatientID": "P1", "new_ids": "S01"}, {"PatientID": "P2"}]
    assert extract(node_of(pacs), rows, tmp_path / "out").verdict == "complete"
    assert {path.parent.name: path.read_text() for path in (tmp_path / "out").rglob("new_id.txt")} == {"sub-P1": "S01"}


def test_a_patient_with_contradicting_rows_is_left_out(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows = [
        {"StudyDate": "20200101", "new_ids": "S01"},
        {"Modality": "MR", "PatientID": "P1", "new_ids": "S02"},
        {"PatientID": "P2", "new_ids": "S03"},
        {"StudyDate": "20200103"},
    ]
    account = extract(node_of(pacs), rows, tmp_path / "out")
    assert states(account) == {2: "conflict", 3: "conflict", 4: "found", 5: "found"}
    assert account.verdict == "incomplete"
    assert {path.name for path in (tmp_path / "out").glob("sub-*")} == {"sub-P2", "sub-P3"}
    assert not any("S0" in row.reason for row in account.rows)


# Size


def test_too_many_series_stop_before_any_image(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    node, rows = node_of(pacs, max_series=3), [{"PatientID": "P?"}]
    with pytest.raises(TooManySeries, match=r"4 series \(about 5 images\), more than the 3"):
        planned_run(node, rows, tmp_path / "out")
    assert not pacs.retrieves
    assert extract(node, rows, tmp_path / "out", max_series=4).verdict == "complete"


def test_the_account_of_a_run_that_was_stopped_after_planning(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    run = Run.fresh()
    node = node_of(pacs, max_series=1)
    steps.prepare(run, Request(write_table(tmp_path / "t.csv", [{"PatientID": "P1"}]), tmp_path / "out"), node)
    account = steps.report(run)  # the archive was not queried
    assert (states(account), account.verdict) == ({2: "failed"}, "incomplete")
    steps.find(run, node, 0)
    with pytest.raises(TooManySeries):
        steps.plan(run, node)
    account = steps.report(run)
    assert (states(account), account.series, account.verdict) == ({2: "failed"}, [], "incomplete")
    assert account.rows[0].series == 2 and "nothing was fetched" in account.rows[0].reason


def test_large_cohorts_are_cut_into_units_of_several(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    run = Run.fresh()
    steps.prepare(run, Request(write_table(tmp_path / "t.csv", [{"PatientID": "P1"}]), tmp_path / "out"), node_of(pacs))
    attributes = {"PatientID": "P", "StudyDate": "20200101", "SeriesNumber": "1"}
    head = {"line": 2, "new_id": "", "state": "found", "reason": "", "warnings": [], "series": 1201}
    found = ([f"1.{n // 7}", f"1.{n // 7}.{n}", attributes, "pacs"] for n in range(1201))
    run.write_part("found", 0, [head, *found])
    plan = steps.plan(run, node_of(pacs))
    assert len(plan.units) == 401 and plan.series == 1201
    planned = [item for part in run.parts("units") for item in read_jsonl(part)]
    assert [item["number"] for item in planned] == list(range(1, 1202))
    assert len({item["folder"] for item in planned}) == len({item["folder"].lower() for item in planned}) == 1201
    assert steps.plan(run, node_of(pacs)) == plan


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1000, 1001, 100_000])
def test_slices_cover_everything_once(count: int) -> None:
    cut = slices(count)
    assert [i for part in cut for i in part] == list(range(count))
    assert len(cut) <= 500 and (count > 500 or all(len(part) == 1 for part in cut))


@pytest.mark.slow
def test_planning_a_hundred_thousand_series_takes_little_memory() -> None:
    _, megabytes = measure(100_000)
    assert megabytes < 300


# Output


def test_the_log_has_the_columns_people_know(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows = [
        {"PatientID": "P1", "AccessionNumber": ""},
        {"PatientID": "", "AccessionNumber": "ACC 2"},
        {"PatientID": "P9"},
    ]
    pacs.faults.withhold = {str(IMAGES[0].SOPInstanceUID)}
    extract(node_of(pacs), rows, tmp_path / "out")
    text = (tmp_path / "out" / "logs" / "pacsifier_log.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0].split(",") == ["PatientID", "AccessionNumber", *LOG_COLUMNS]
    lines = log_of(tmp_path / "out")
    assert [(line["PatientID"], line["AccessionNumber"]) for line in lines] == [("P1", "")] * 2 + [
        ("", "ACC 2"),
        ("P9", ""),
    ]
    half, whole, _, nothing = lines
    assert half["SeriesInstanceUID"] == IMAGES[0].SeriesInstanceUID and half["SeriesNumber"] == "1"
    told = ("FilesFound", "Completed", "Expected", "Missing", "Status")
    assert [half[name] for name in told] == ["1", "False", "2", "1", "incomplete"]
    assert [whole[name] for name in told] == ["1", "True", "1", "0", "complete"]
    assert [nothing[name] for name in told] == ["0", "False", "0", "0", "empty"]


def test_the_log_has_each_column_once(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    uid = str(IMAGES[0].SeriesInstanceUID)
    extract(node_of(pacs), [{"SeriesInstanceUID": uid}, {"SeriesInstanceUID": "1.2.3"}], tmp_path / "out")
    lines = log_of(tmp_path / "out")
    assert [*lines[0]] == ["SeriesInstanceUID", *(name for name in LOG_COLUMNS if name != "SeriesInstanceUID")]
    assert [line["SeriesInstanceUID"] for line in lines] == [uid, "1.2.3"]


def test_info_dumps_and_hostile_text(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    account = extract(node_of(pacs), [{"PatientID": "P2"}, {"PatientID": "P3"}], tmp_path / "out", info=True)
    for one in account.series:
        with (tmp_path / "out" / f"{one.folder}.csv").open(encoding="utf-8", newline="") as stream:
            (line,) = csv.DictReader(stream)
        assert tuple(line) == DUMP_COLUMNS
        assert line["SeriesInstanceUID"] == one.series_uid and line["SeriesDescription"] == one.description
        assert (tmp_path / "out" / one.folder).is_dir()
    assert {one.description for one in account.series} >= {HOSTILE}
    assert "Müller^Jörg" in (tmp_path / "out" / f"{account.series[1].folder}.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("faults", "info", "asked", "told"),
    [
        ({}, True, 0, True),
        ({"image_only_keys": {"AcquisitionDate"}}, False, 0, None),
        ({"image_only_keys": {"AcquisitionDate"}}, True, 2, True),
        ({"unreturned_keys": {"AcquisitionDate"}}, True, 2, False),
        ({"emptied_keys": {"AcquisitionDate"}, "image_level": False}, True, 2, False),
    ],
)
def test_the_acquisition_date_of_a_dump_is_queried_only_if_the_series_has_none(
    pacs: EmbeddedPacs, tmp_path: Path, faults: dict[str, Any], info: bool, asked: int, told: bool | None
) -> None:
    for name, value in faults.items():
        setattr(pacs.faults, name, value)
    account = extract(node_of(pacs), [{"PatientID": "P1"}], tmp_path / "out", info=info, retrieve="none")
    assert account.verdict == "complete"
    assert sum(level == "IMAGE" and "AcquisitionDate" in query for level, query in pacs.queries) == asked
    dumps = list((tmp_path / "out").glob("sub-*/**/*.csv"))
    assert len(dumps) == (2 if info else 0)
    for dump in dumps:
        with dump.open(encoding="utf-8", newline="") as stream:
            (line,) = csv.DictReader(stream)
        assert [*line][-1] == "AcquisitionDate"
        assert line["AcquisitionDate"] == (line["StudyDate"] if told else "")


def test_only_info_dumps_or_only_a_report(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows = [{"PatientID": "P1"}]
    account = extract(node_of(pacs, max_series=1), rows, tmp_path / "info", info=True, retrieve="none")
    assert account.verdict == "complete" and {s.state for s in account.series} == {"listed"}
    assert len(list((tmp_path / "info").glob("sub-*/**/*.csv"))) == 2
    account = extract(node_of(pacs), rows, tmp_path / "none", retrieve="none")
    assert account.verdict == "complete" and {s.state for s in account.series} == {"listed"}
    assert not list((tmp_path / "none").glob("sub-*")) and not pacs.retrieves
    assert account.totals()["missing"] == 0


def test_a_run_that_only_finds_says_how_large_its_cohort_is(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    rows, out, node = [{"PatientID": "P1"}, {"PatientID": "P9"}], tmp_path / "out", node_of(pacs, max_images=2)
    run, units = planned_run(node, rows, out, retrieve="none")
    counts = steps.counts(run)
    assert counts["rows"] == {"found": 1, "empty": 1} and (counts["series"], counts["images"]) == (2, 3)
    assert counts["gigabytes"] > 0 and counts["hours"] > 0 and "2 series, about 3 images" in counts["sentences"][0]
    assert len(counts["over"]) == 1 and "3 images, more than the 2" in counts["over"][0]
    assert not units and steps.question(run) is None and not pacs.retrieves  # nobody need approve it
    # What was fetched before does not count.
    extract(node_of(pacs), [{"PatientID": "P1", "Modality": "MR"}], out)
    assert steps.counts(planned_run(node, rows, out, retrieve="none")[0])["series"] == 1


def test_a_log_per_run_is_kept(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    for patient in ("P1", "P2"):
        extract(node_of(pacs), [{"PatientID": patient}], tmp_path / "out")
    assert Counter(path.suffix for path in (tmp_path / "out/logs/runs").iterdir()) == {".csv": 2, ".parquet": 2}
    assert {line["PatientID"] for line in log_of(tmp_path / "out")} == {"P2"}


# Called again


def test_every_step_may_be_called_again(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    node = node_of(pacs)
    run = Run.fresh()
    request = Request(write_table(tmp_path / "t.csv", [{"PatientID": "P1"}, {"PatientID": "P2"}]), tmp_path / "out")
    for _ in range(2):
        batches = steps.prepare(run, request, node)
        for _ in range(2):
            counts = [steps.find(run, node, batch) for batch in batches]
            assert counts == [{"found": 1, "series": 2}, {"found": 1, "series": 1}]
            for _ in range(2):
                units = steps.plan(run, node).units
                for unit in [*units, *units]:
                    steps.retrieve(run, node, unit)
                account = steps.report(run)
                assert account.verdict == steps.report(run).verdict == "complete"
                assert len(account.series) == 3 and len(account.rows) == 2
    assert len(pacs.sent) == 4, "what was there was fetched again"


def test_the_account_balances_whatever_the_run_left(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    node = node_of(pacs)
    run, units = planned_run(node, [{"PatientID": "P?"}], tmp_path / "out")
    for attempted in range(len(units) + 1):
        account = steps.report(run)
        totals = account.totals()
        assert totals["expected"] == 5 == totals["received"] + totals["missing"]
        assert sum("not attempted" in one.reason for one in account.series) == len(units) - attempted
        assert account.verdict == ("complete" if attempted == len(units) else "incomplete")
        if attempted < len(units):
            steps.retrieve(run, node, units[attempted])
    # If a result is lost by a kill, the series is only checked again.
    run.part("results", 0).unlink()
    assert steps.report(run).verdict == "incomplete"
    steps.retrieve(run, node, 0)
    assert steps.report(run).verdict == "complete" and len(pacs.sent) == 5


def test_prepare_forgets_what_an_earlier_attempt_found(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    conflict = [{"StudyDate": "20200101", "new_ids": "A"}, {"PatientID": "P1", "new_ids": "B"}]
    run, _ = planned_run(node_of(pacs), conflict, tmp_path / "out")
    assert set(states(steps.report(run)).values()) == {"conflict"}
    table = write_table(tmp_path / "t.csv", [{"PatientID": "P1"}])
    steps.prepare(run, Request(table, tmp_path / "out"), node_of(pacs))
    account = steps.report(run)
    assert states(account) == {2: "failed"} and not account.series and not account.rows[0].series


def test_there_is_no_account_before_there_are_rows(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    run = Run.fresh()
    with pytest.raises(QueryTableError, match="prepare"):
        steps.report(run)
    pacs.faults.reject = "called_aet"
    table = write_table(tmp_path / "t.csv", [{"PatientID": "P1"}])
    with pytest.raises(AssociationRejected):
        steps.prepare(run, Request(table, tmp_path / "out"), node_of(pacs))
    account = steps.report(run)
    assert account.verdict == "incomplete" and "not attempted" in account.rows[0].reason


def test_the_report_is_kept_in_the_runs_folder(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    run, units = planned_run(node_of(pacs), [{"PatientID": "P1"}], tmp_path / "out")
    for unit in units:
        steps.retrieve(run, node_of(pacs), unit)
    steps.report(run)
    assert read_json(run.folder / "accounts.json")["verdict"] == "complete"
    assert "<html" in run.report.read_text(encoding="utf-8")
    modes = {path.stat().st_mode & 0o077 for path in run.folder.rglob("*") if path.name != "table.csv"}
    assert modes == {0}, "others may read the run's folder"


def test_a_tree_that_was_removed_is_fetched_anew(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    for _ in range(2):
        account = extract(node_of(pacs), [{"PatientID": "P1"}], tmp_path / "out")
        assert account.verdict == "complete" and account.totals()["received"] == 3
        shutil.rmtree(tmp_path / "out")
