"""Archives that keep series on tape: series are postponed while they are recalled, requested again, and reported."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.archive.attempts import AtNode
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import Later, PacsSilent, Recalling, WindowClosed
from pacsifier_ops.base.files import read_jsonl
from pacsifier_ops.base.waiting import pause
from pacsifier_ops.cli.pacsifier import main
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.extract import retrieve as retrieval
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.recall import LOOKS, next_look
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, SERIES_RECALLED, RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import shared
from tests.support.command import write_table
from tests.support.embedded import extract, log_of, node_of, planned_run, series, serving

pytestmark = pytest.mark.archive

TAPE, DISK = series("TAPE", n_images=4), series("DISK", n_images=2)
ROWS = [{"PatientID": "TAPE"}, {"PatientID": "DISK"}]
METHODS = pytest.mark.parametrize("method", ["get", "move"])


@pytest.fixture
def pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedPacs]:
    monkeypatch.setattr(retrieval, "ARRIVAL_GRACE", 0.3)
    with serving([*TAPE, *DISK], tmp_path / "archive") as pacs:
        pacs.faults.nearline = {str(TAPE[0].SeriesInstanceUID)}
        pacs.faults.recall = 3600
        yield pacs


def waiting_node(pacs: EmbeddedPacs, **fields: Any) -> PacsNode:
    return node_of(pacs, **{"recall_wait": 20, "dimse_timeout": 0.5, **fields})


def end_recall(pacs: EmbeddedPacs) -> None:
    """End the recall: the series are online."""
    pacs._recalled = dict.fromkeys(pacs._recalled, 0.0)


def extracted(node: PacsNode, rows: list[dict[str, str]], out: Path, **request: Any) -> RunAccount:
    """Run an extraction that waits as the command line does."""
    run, units = planned_run(node, rows, out, **request)
    with steps.Retrieval(run, node) as work:
        work.units(units, wait_until)
    return steps.report(run)


def wait_until(later: Later) -> None:
    """Wait until the work can continue."""
    pause(max(0.0, (later.at - dt.datetime.now(dt.UTC)).total_seconds()), lambda: False)


@METHODS
@pytest.mark.parametrize("way", ["silent", "refuses", "fails", "nothing", "part"])
def test_a_series_on_tape_is_postponed_and_fetched_later(
    pacs: EmbeddedPacs, tmp_path: Path, method: str, way: Any
) -> None:
    pacs.faults.recalling = way
    node = waiting_node(pacs, method=method)
    run, units = planned_run(node, ROWS, tmp_path / "out")
    waited: list[Later] = []

    def wait(later: Later) -> None:
        assert len(pacs.recalls) == 1  # requested once, so the archive has one recall only
        assert len(pacs.sent) == (3 if way == "part" else 2)  # the others did not wait
        shared().acquire(f"pacs:{node.key}", limit=1, wait=0).release()
        waited.append(later)
        end_recall(pacs)
        wait_until(later)

    with steps.Retrieval(run, node) as work:
        work.units(units, wait)
    account = steps.report(run)
    assert len(waited) == 1 and account.verdict == COMPLETE
    assert account.totals()["received"] == 6 and account.totals()["present"] == 0
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 6


@pytest.mark.parametrize("says", ["NEARLINE", "ONLINE", ""])
def test_silence_counts_as_a_recall_whatever_the_availability(pacs: EmbeddedPacs, tmp_path: Path, says: str) -> None:
    if says != "NEARLINE":  # some archives do not know what their file system keeps on tape
        pacs.faults.corrected = {"InstanceAvailability": {"": says}}
    node = waiting_node(pacs, recall_wait=0.3, retry_wait=60)  # a retry at once would wait for a minute
    account = extracted(node, ROWS[:1], tmp_path / "out")
    (one,) = account.series
    assert (one.state, one.missing, one.look_at) == (SERIES_RECALLED, 4, "")
    assert "recalled, not yet there: 4 of 4 instances missing" in one.reason and "no answer within 0.5 s" in one.reason
    assert (f"the archive says {says}" in one.reason) == bool(says)
    assert 1 < len(one.recalls) <= LOOKS + 1 and len(pacs.retrieves) == len(one.recalls)


def test_a_long_recall_is_reported_and_a_later_run_fetches_the_series(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    pacs.faults.recalling = "part"
    account = extracted(waiting_node(pacs, recall_wait=0.2), ROWS, tmp_path / "out")
    assert account.verdict == INCOMPLETE and account.summary()["series"] == {"recalled": 1, "complete": 1}
    assert account.totals()["missing"] == account.totals()["received"] == 3
    (line,) = [line for line in log_of(tmp_path / "out") if line["Status"] == "recalled"]
    assert line["Reason"].startswith("recalled, not yet there: 3 of 4") and line["FilesFound"] == "1"
    page = (Run.existing(account.run) or Run.fresh()).report.read_text()
    assert "1 series recalled by the archive, not yet there" in page
    end_recall(pacs)
    again = extract(waiting_node(pacs), ROWS, tmp_path / "out")
    assert again.verdict == COMPLETE and (again.totals()["present"], again.totals()["received"]) == (3, 3)


def test_without_recall_wait_a_recall_is_reported_at_once(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    pacs.faults.recalling = "refuses"
    account = extract(waiting_node(pacs, recall_wait=0), ROWS[:1], tmp_path / "out")
    assert account.series[0].state == SERIES_RECALLED and len(pacs.retrieves) == 1
    pacs.faults = Faults(nearline=pacs.faults.nearline, recall=3600, corrected={"InstanceAvailability": {"": "ONLINE"}})
    with pytest.raises(PacsSilent):  # no series is on tape, so silence is a failure
        extract(waiting_node(pacs, recall_wait=0), ROWS[:1], tmp_path / "out")


def test_objects_that_the_archive_sends_later_are_used_and_not_requested_again(
    pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    node = waiting_node(pacs, method="move", recall_wait=20)
    run, units = planned_run(node, ROWS[:1], tmp_path / "out")
    pacs.faults.withhold = {str(image.SOPInstanceUID) for image in TAPE[:2]}
    asked: list[int] = []

    def wait(later: Later) -> None:
        asked.append(len(pacs.retrieves))
        if len(asked) == 1:
            end_recall(pacs)
            while pacs.suboperations.total() < 4:  # sent to the receiver although no run waits for it
                pause(0.01, lambda: False)
        else:
            pacs.faults.withhold = set()
        wait_until(later)

    with steps.Retrieval(run, node) as work:
        work.units(units, wait)
    # Objects had arrived at the first look, so the archive was sending, and was not requested again.
    assert asked == [1, 1] and len(pacs.retrieves) == 2
    account = steps.report(run)
    assert account.verdict == COMPLETE and account.totals()["received"] == 4 and not account.totals()["quarantined"]


def test_an_archive_that_continues_to_send_after_an_abort_gets_no_second_request(
    pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    pacs.faults = Faults(abort_after=1, abort_sends_on=True)
    account = extract(waiting_node(pacs, method="move"), ROWS[:1], tmp_path / "out")
    assert account.verdict == COMPLETE and len(pacs.retrieves) == 1 and len(pacs.sent) == 4


def test_a_resumed_unit_requests_only_recalled_series(
    pacs: EmbeddedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs.faults.recalling = "nothing"
    pacs.faults.withhold = {str(DISK[0].SOPInstanceUID)}
    node = waiting_node(pacs)
    run, units = planned_run(node, ROWS, tmp_path / "out")
    parts = [item for unit in units for item in read_jsonl(run.part("units", unit))]
    run.forget(["units"])
    run.write_part("units", 0, parts)
    now = dt.datetime.now(dt.UTC)

    def look_at(moment: dt.datetime) -> None:
        accounts = list(read_jsonl(run.part("results", 0)))
        for account in accounts:
            account["look_at"] = account["look_at"] and moment.isoformat()
        run.write_part("results", 0, accounts)

    with pytest.raises(Recalling, match=r"^1 series that the archive recalls"):
        steps.retrieve(run, node, 0)
    asked = len(pacs.retrieves)
    look_at(now + dt.timedelta(days=1))
    with pytest.raises(Recalling, match=f"{now + dt.timedelta(days=1):%Y-%m-%d}"):
        steps.retrieve(run, node, 0, resumed=True)
    assert len(pacs.retrieves) == asked
    look_at(now)
    shut = WindowClosed("pacs", now)
    with monkeypatch.context() as closed, pytest.raises(WindowClosed):
        closed.setattr(AtNode, "_check_window", lambda self: (_ for _ in ()).throw(shut))
        steps.retrieve(run, node, 0, resumed=True)
    assert sorted(series.state for series in steps.report(run).series) == ["incomplete", "recalled"]
    end_recall(pacs)
    assert steps.retrieve(run, node, 0, resumed=True)["missing"] == 1
    assert len(pacs.retrieves) == asked + 1


def test_a_move_to_another_node_waits_for_the_tape_as_well(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    pacs.faults.recalling = "fails"
    with EmbeddedPacs(aet="THERE", folder=tmp_path / "there") as there:
        pacs.destinations["THERE"] = ("127.0.0.1", there.port)
        node = waiting_node(pacs, move_aet="THERE", recall_wait=6)
        run, units = planned_run(node, ROWS, tmp_path / "out", retrieve="move")
        waited: list[Later] = []

        def wait(later: Later) -> None:
            waited.append(later)
            end_recall(pacs)
            wait_until(later)

        with steps.Moving(run, node) as work:
            work.units(units, wait)
        assert len(waited) == 1 and len(there.stored) == 6
    assert steps.report(run).verdict == COMPLETE


def test_looks_come_at_growing_intervals() -> None:
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def minutes(asked: list[float], wait: float = 64) -> float | None:
        at = next_look([begin + dt.timedelta(minutes=m) for m in asked], wait * 60)
        return (at - begin).total_seconds() / 60 if at else None

    assert minutes([0]) == 2
    assert minutes([0, 2]) == 4
    assert minutes([0, 2, 4, 8, 16, 32]) == 64
    assert minutes([0, 3]) == 4 and minutes([0, 9]) == 10  # the archive answered late
    assert minutes([0, 2, 64]) is None and minutes([0, 2, 4, 8, 16, 32, 63]) is None
    assert minutes([0], wait=0) is None


def test_the_command_reports_a_recall_and_uses_times_from_file_and_flags(
    pacs: EmbeddedPacs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"server_address": pacs.host, "port": pacs.port, "server_AET": pacs.aet, "AET": "PACSIFIER"}
    values |= {"move_AET": "", "move_port": 0, "batch_size": 0, "batch_wait_time": 0}
    values |= {"dimse_timeout": 0.5, "recall_wait": 3600}
    config, table = tmp_path / "config.json", write_table(tmp_path / "table.csv", ROWS)
    config.write_text(json.dumps(values))
    command = ["-c", str(config), "-q", str(table), "-d", str(tmp_path / "out"), "--save"]
    assert main([*command, "--recall_wait", "0.2"]) == 3
    said = capsys.readouterr()
    assert "1 series that the archive recalls from slow storage: looked at again at" in said.err
    assert ": recalled: recalled, not yet there: 4 of 4 instances missing" in said.err
    assert "no answer within 0.5 s" in said.err
