"""Moves of series to another node: the counts of the PACS, and the list of the destination."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.archive.find import Expectation, Finder
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import ConfigError, MoveDestinationUnknown, PacsUnreachable, TooManySeries
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import move, steps
from pacsifier_ops.extract.run import Planned, Request
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.deliveries import Deliveries
from pacsifier_ops.state.leases import shared
from tests.support.command import write_table
from tests.support.embedded import node_of, planned_run, series
from tests.support.work import CountedText, looks_at_text

pytestmark = pytest.mark.archive

ROWS = [{"PatientID": "P"}]


@contextmanager
def two(tmp_path: Path, images: int = 5) -> Iterator[tuple[EmbeddedPacs, EmbeddedPacs]]:
    """Start an archive with a series, and a second one, to which it can move as ARCHIVE2."""
    with EmbeddedPacs() as source, EmbeddedPacs(aet="ARCHIVE2", folder=tmp_path / "second") as second:
        source.add(write(series("P", n_images=images), tmp_path / "first"))
        source.destinations["ARCHIVE2"] = (second.host, second.port)
        yield source, second


def uids(pacs: EmbeddedPacs) -> set[str]:
    return set(pacs._index["IMAGE"])


def source_node(source: EmbeddedPacs, **fields: Any) -> PacsNode:
    return node_of(source, move_aet="ARCHIVE2", **fields)


def moved(
    node: PacsNode, out: Path, destination: PacsNode | None = None, **request: Any
) -> tuple[RunAccount, SeriesAccount]:
    """Run a move; return its account and that of its only series."""
    run = Run.fresh()
    asked = Request(write_table(run.folder / "table.csv", ROWS), out, retrieve="move", **request)
    for batch in steps.prepare(run, asked, node, destination=destination):
        steps.find(run, node, batch)
    for unit in steps.plan(run, node).units:
        steps.move(run, node, unit, destination)
    account = steps.report(run)
    return account, account.series[0]


def second_node(second: EmbeddedPacs) -> PacsNode:
    return PacsNode("second", second.host, second.port, second.aet, retry_wait=0.005)


@pytest.fixture(params=[False, True], ids=["counts only", "destination asked"])
def asked(request: pytest.FixtureRequest) -> bool:
    """Parametrize whether the destination is queried."""
    return bool(request.param)


def test_a_series_is_moved_whole_at_series_level(tmp_path: Path, asked: bool) -> None:
    with two(tmp_path) as (source, second):
        account, one = moved(source_node(source), tmp_path / "out", second_node(second) if asked else None)
        assert uids(second) == uids(source)
    assert account.verdict == COMPLETE and account.action == "move"
    assert (one.expected, one.present, one.received, one.missing, one.method) == (5, 0, 5, 0, "move")
    ((service, level, identifier),) = source.retrieves
    assert (service, level) == ("C-MOVE", "SERIES") and "PatientID" not in identifier
    assert account.destination == ("second (ARCHIVE2)" if asked else "ARCHIVE2")
    assert not list((tmp_path / "out").glob("sub-*/**/*.dcm"))


def test_confirmed_instances_are_not_moved_again(tmp_path: Path, asked: bool) -> None:
    with two(tmp_path) as (source, second):
        destination = second_node(second) if asked else None
        moved(source_node(source), tmp_path / "out", destination)
        account, one = moved(source_node(source), tmp_path / "out", destination)
        assert (one.present, one.received) == (5, 0) and len(source.retrieves) == 1
        account, one = moved(source_node(source), tmp_path / "out", destination, resend=True)
        assert account.verdict == COMPLETE and len(source.retrieves) == 2 and len(second.offered) == 10


def test_instances_that_the_destination_lost_are_moved_again(tmp_path: Path) -> None:
    with two(tmp_path) as (source, second):
        moved(source_node(source), tmp_path / "out", second_node(second))
        lost = min(uids(second))
        with EmbeddedPacs(aet="ARCHIVE2", folder=tmp_path / "third") as third:
            third.add(path for path in (tmp_path / "second").iterdir() if path.stem != lost)
            second.stop()
            third.stop()
            third.port = second.port
            third.start()
            account, one = moved(source_node(source), tmp_path / "out", second_node(third))
            assert third.stored == [lost]
    assert (one.present, one.received, account.verdict) == (4, 1, COMPLETE)


def test_failed_instances_are_asked_for_once_more_and_named(tmp_path: Path, asked: bool) -> None:
    with two(tmp_path) as (source, second):
        bad = sorted(uids(source))[:2]
        source.faults.withhold = set(bad)
        account, one = moved(source_node(source), tmp_path / "out", second_node(second) if asked else None)
        assert uids(second) == uids(source) - set(bad)
    first, *more = [level for _, level, _ in source.retrieves]
    assert first == "SERIES" and set(more) == {"IMAGE"}
    assert account.verdict == INCOMPLETE
    assert (one.received, one.missing, one.missing_uids) == (3, 2, bad)
    assert "2 of 5 instances missing: the archive could not send them to ARCHIVE2" in one.reason


def test_failures_without_uids_are_found_one_by_one(tmp_path: Path) -> None:
    with two(tmp_path) as (source, second):
        bad = min(uids(source))
        source.faults.withhold, source.faults.failed_list = {bad}, False
        _, one = moved(source_node(source), tmp_path / "out")
        assert uids(second) == uids(source) - {bad}
    assert (one.received, one.missing_uids) == (4, [bad])


def test_the_work_for_a_confirmed_instance_does_not_grow_with_the_series(tmp_path: Path) -> None:
    node = PacsNode("pacs", "localhost", 104, "PACS", move_aet="ARCHIVE2")
    planned = Planned(1, [2], "1.2", "1.2.3", {}, "", "")
    instances = [CountedText(f"1.2.3.{number}") for number in range(1000)]
    with move.Mover(node, shared(), "ARCHIVE2") as mover, Deliveries(mover.key, planned.series) as deliveries:
        transfer = move.SeriesMove(mover, planned, deliveries)

        def confirm_each() -> None:
            for uid in instances:
                transfer._confirm([uid])

        looks = looks_at_text(confirm_each)
        assert transfer.confirmed == deliveries.confirmed.keys() == {*instances}
    assert looks < 10 * len(instances)


def test_a_temporary_failure_is_healed_by_the_second_round(tmp_path: Path, asked: bool) -> None:
    with two(tmp_path) as (source, second):
        second.faults.store_status, second.faults.store_status_from = 0xA700, 2
        second.faults.store_status_times = 1
        account, one = moved(source_node(source), tmp_path / "out", second_node(second) if asked else None)
        assert uids(second) == uids(source)
    assert account.verdict == COMPLETE and one.received == 5


def test_success_without_sub_operations_is_no_success(tmp_path: Path, asked: bool) -> None:
    with two(tmp_path) as (source, second):
        source.faults.success_without_suboperations = True
        account, one = moved(source_node(source), tmp_path / "out", second_node(second) if asked else None)
    assert account.verdict == INCOMPLETE and (one.received, one.missing) == (0, 5)
    assert "the archive reported success without sending anything" in one.reason


def test_without_final_counts_the_pending_responses_count(tmp_path: Path) -> None:
    with two(tmp_path) as (source, second):
        source.faults.counts = False
        account, _ = moved(source_node(source), tmp_path / "out")
        assert uids(second) == uids(source)
    assert account.verdict == COMPLETE


def test_instances_taken_with_a_warning_count_and_are_reported(tmp_path: Path, asked: bool) -> None:
    with two(tmp_path) as (source, second):
        second.faults.store_status, second.faults.store_status_times = 0xB000, 2
        account, one = moved(source_node(source), tmp_path / "out", second_node(second) if asked else None)
    assert account.verdict == COMPLETE and one.warned == 2 and "2 taken with a warning" in one.reason


def test_objects_that_the_destination_loses_are_detected(tmp_path: Path) -> None:
    with two(tmp_path) as (source, second):
        lost = min(uids(source))
        second.faults.store_unlisted = {lost}
        account, one = moved(source_node(source), tmp_path / "out", second_node(second))
        assert account.verdict == INCOMPLETE and one.missing_uids == [lost]
        assert "the archive reports 1 of them as sent, and ARCHIVE2 does not list them" in one.reason
        # The counts of the PACS do not show it.
        account, one = moved(source_node(source), tmp_path / "out again")
    assert account.verdict == COMPLETE


def test_a_destination_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with two(tmp_path) as (source, second):
        second.stop()
        account, one = moved(source_node(source), tmp_path / "out")
        assert account.verdict == INCOMPLETE and one.missing == 5 and len(one.missing_uids) == 5
        assert "could not send them to ARCHIVE2 (last status 0xA702, 5 failed); check that it is running" in one.reason
        with pytest.raises(PacsUnreachable, match=r"second: .*nothing listens there"):
            moved(source_node(source), tmp_path / "out", second_node(second))


def test_a_destination_that_refuses_the_sop_class(tmp_path: Path) -> None:
    with two(tmp_path) as (source, second):
        second.faults.refused_classes = {"1.2.840.10008.5.1.4.1.1.2"}
        account, one = moved(source_node(source), tmp_path / "out")
    assert account.verdict == INCOMPLETE and one.missing == 5


def test_an_unknown_destination_is_reported_at_once(tmp_path: Path) -> None:
    with two(tmp_path) as (source, _):
        source.destinations.clear()
        with pytest.raises(MoveDestinationUnknown, match="does not know the move destination ARCHIVE2"):
            moved(source_node(source), tmp_path / "out")
        assert len(source.retrieves) == 1


def test_without_destination_nothing_is_asked(tmp_path: Path) -> None:
    with two(tmp_path) as (source, _), pytest.raises(ConfigError, match="no destination to move the images to"):
        moved(node_of(source), tmp_path / "out")
    assert not source.queries


def test_a_connection_that_breaks_in_the_middle(tmp_path: Path, asked: bool) -> None:
    with two(tmp_path) as (source, second):
        source.faults.abort_after = 2
        account, one = moved(source_node(source), tmp_path / "out", second_node(second) if asked else None)
        assert uids(second) == uids(source)
    assert account.verdict == COMPLETE and one.received == 5
    # If the destination cannot be queried, it is unknown what arrived before the connection broke.
    assert len(second.offered) == (5 if asked else 7)


def test_an_archive_that_lists_no_instances(tmp_path: Path) -> None:
    with two(tmp_path) as (source, _):
        source.faults.image_level = False
        account, one = moved(source_node(source), tmp_path / "out")
        assert (account.verdict, one.expected, one.received, one.missing_uids) == (COMPLETE, 5, 5, [])
        source.faults.unreturned_keys = {"NumberOfSeriesRelatedInstances"}
        account, one = moved(source_node(source), tmp_path / "out")
    assert (account.verdict, one.state, one.expected, one.unverifiable) == (INCOMPLETE, "unverifiable", None, 5)


def test_an_archive_that_is_silent_while_it_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some archives, such as Orthanc, send no pending responses."""
    monkeypatch.setattr(EmbeddedPacs, "_responder", _mute(EmbeddedPacs._responder))
    with two(tmp_path) as (source, second):
        second.faults.delay = 0.7  # for all five longer than the time-out, for one much shorter
        account, _ = moved(source_node(source, dimse_timeout=3), tmp_path / "out")
        assert uids(second) == uids(source)
    assert account.verdict == COMPLETE and len(source.retrieves) == 1


def _mute(responder: Any) -> Any:
    """Return a responder without pending responses."""

    def responding(self: EmbeddedPacs, event: Any, wanted: Any) -> Any:
        send = responder(self, event, wanted)
        return lambda message, context: None if message.Status == 0xFF00 else send(message, context)

    return responding


def test_dumps_are_written_beside_a_move(tmp_path: Path) -> None:
    with two(tmp_path) as (source, _):
        moved(source_node(source), tmp_path / "out", info=True)
    assert len(list((tmp_path / "out").glob("sub-P/ses-*/*.csv"))) == 1
    assert not list((tmp_path / "out").glob("sub-P/ses-*/*/"))


def test_a_cohort_that_is_too_large_is_not_moved(tmp_path: Path) -> None:
    with two(tmp_path) as (source, second):
        source.add(write(series("P", series_number=2), tmp_path / "more"))
        with pytest.raises(TooManySeries):
            planned_run(source_node(source), ROWS, tmp_path / "out", retrieve="move", max_series=1)
    assert not source.retrieves and not second.offered


def test_the_log_and_the_accounts_of_a_move(tmp_path: Path) -> None:
    with two(tmp_path) as (source, _):
        bad = min(uids(source))
        source.faults.withhold = {bad}
        moved(source_node(source), tmp_path / "out")
    header, line = (tmp_path / "out/logs/pacsifier_log.csv").read_text().splitlines()
    assert header.startswith("PatientID,StudyInstanceUID,SeriesInstanceUID,SeriesNumber,FilesFound,Completed")
    assert line.startswith("P,") and ",4,False,5,1,incomplete," in line
    (run,) = (path for path in (tmp_path / "state/runs").iterdir())
    assert json.loads((run / "accounts.json").read_text())["series"][0]["missing_uids"] == [bad]
    assert bad in (run / "report.html").read_text()


def test_a_destination_that_lists_new_instances_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with two(tmp_path) as (source, second):
        looks: list[int] = []
        listed = move.Mover.listed_at_destination

        def late(self: move.Mover, planned: Any) -> set[str] | None:
            looks.append(1)
            found = listed(self, planned)
            return found if len(looks) != 2 else set()  # the first query after the move comes too early

        monkeypatch.setattr(move.Mover, "listed_at_destination", late)
        account, _ = moved(source_node(source), tmp_path / "out", second_node(second))
    assert account.verdict == COMPLETE and len(source.retrieves) == 1


def test_instances_that_were_there_before_do_not_prove_a_move(tmp_path: Path) -> None:
    with two(tmp_path) as (source, second):
        moved(source_node(source), tmp_path / "out", second_node(second))
        source.faults.success_without_suboperations = True
        account, one = moved(source_node(source), tmp_path / "out", second_node(second), resend=True)
    assert account.verdict == INCOMPLETE and (one.received, one.missing) == (0, 5)


def test_an_archive_that_sends_more_than_it_listed_and_fails_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two(tmp_path) as (source, _):
        bad, *_, new = sorted(uids(source))
        source.faults.withhold, source.faults.failed_list = {bad}, False
        expectation = Finder.expectation

        def before_the_last_came(self: Finder, *arguments: Any) -> Expectation:
            listed = expectation(self, *arguments).instances or {}
            return Expectation({uid: cls for uid, cls in listed.items() if uid != new})

        monkeypatch.setattr(Finder, "expectation", before_the_last_came)
        account, one = moved(source_node(source), tmp_path / "out")
    assert account.verdict == INCOMPLETE and (one.received, one.missing_uids) == (3, [bad])


def test_counts_alone_are_compared_with_the_destination(tmp_path: Path) -> None:
    with two(tmp_path) as (source, second):
        source.faults.image_level = False
        second.faults.store_unlisted = uids(source)
        account, one = moved(source_node(source), tmp_path / "out", second_node(second))
        assert account.verdict == INCOMPLETE and (one.received, one.missing) == (0, 5)
        second.faults.store_unlisted = set()
        account, one = moved(source_node(source), tmp_path / "out", second_node(second))
        assert account.verdict == COMPLETE and one.received == 5
        account, one = moved(source_node(source), tmp_path / "out", second_node(second))
        assert (one.present, one.received) == (5, 0)
        source.faults.withhold = {min(uids(source))}
        account, one = moved(source_node(source), tmp_path / "out without")
    assert account.verdict == INCOMPLETE and (one.expected, one.received, one.missing) == (5, 4, 1)
