"""One archive is searched and another gives the images (`fetch_from`): the steps, with two archives in this process."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import ArchiveNode, PacsNode, WebNode, with_giver
from pacsifier_ops.base.errors import ConfigError, PacsError, PacsUnreachable, TooManySeries, WindowClosed
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.dimse.session import Session
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs.accounts import RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import SeriesLedger
from pacsifier_ops.state.tree import Tree
from tests.support.command import write_table
from tests.support.embedded import log_of, node_of, series, serving
from tests.support.faulty_web import FaultyWeb

pytestmark = pytest.mark.archive

ONE = series("P1", study_uid="2.25.10", series_uid="2.25.101", n_images=3)
TWO = series("P2", study_uid="2.25.20", series_uid="2.25.201", n_images=2)
ROWS = [{"PatientID": name} for name in ("P1", "P2")]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    """The archive that is searched."""
    with serving([*ONE, *TWO], tmp_path / "index") as pacs:
        yield pacs


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    """The archive that gives the images."""
    with serving([*ONE, *TWO], tmp_path / "store") as pacs:
        yield pacs


def joined(asked: ArchiveNode, giver: ArchiveNode) -> Any:
    return with_giver(replace(asked, fetch_from=giver.name), lambda name: giver)


def pair(index: EmbeddedPacs, store: EmbeddedPacs, **fields: Any) -> PacsNode:
    found: PacsNode = joined(node_of(index, name="index"), node_of(store, name="store", **fields))
    return found


def planned(nodes: list[ArchiveNode], out: Path, rows: list[dict[str, str]] = ROWS, **request: Any) -> tuple[Run, Any]:
    run = Run.fresh()
    table = write_table(run.folder / "table.csv", rows)
    for batch in steps.prepare(run, Request(table, out, **request), nodes):
        steps.find(run, nodes, batch)
    return run, steps.plan(run, nodes)


def extract(nodes: list[ArchiveNode], out: Path, rows: list[dict[str, str]] = ROWS, **request: Any) -> RunAccount:
    run, plan = planned(nodes, out, rows, **request)
    for unit in plan.units:
        (steps.move if request.get("retrieve") == "move" else steps.retrieve)(run, nodes, unit)
    return steps.report(run)


def of(account: RunAccount, uid: str) -> SeriesAccount:
    return next(one for one in account.series if one.series_uid == uid)


def free(node: ArchiveNode) -> bool:
    """Whether nothing of ours is open there."""
    with shared().acquire(node.slots, limit=1, wait=0):
        return True


def test_one_is_asked_and_the_other_gives(index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path) -> None:
    node = pair(index, store, max_associations=1)
    account = extract([node], tmp_path / "out")
    assert account.verdict == "complete" and {(s.pacs, s.source) for s in account.series} == {("index", "store")}
    assert not index.retrieves and len(store.retrieves) == 2
    assert index.queries and not store.queries  # not asked for anything
    assert {(line["PACS"], line["FetchedFrom"]) for line in log_of(tmp_path / "out")} == {("index", "store")}
    tree = Tree.existing(tmp_path / "out")
    assert tree is not None
    ledgers = [SeriesLedger(tree.state, SeriesId(s.study_uid, s.series_uid)) for s in account.series]
    assert [entry.source for ledger in ledgers for entry in ledger.entries.values()] == ["store"] * 5
    assert ("Source", "index; images of index from store") in places(account)
    # Again: nothing is fetched, and the one that gives is not needed but for the first look whether it is there.
    store.retrieves.clear()
    again = extract([node], tmp_path / "out")
    assert again.verdict == "complete" and again.totals()["present"] == 5 and not store.retrieves


def places(account: RunAccount) -> list[tuple[str, str]]:
    from pacsifier_ops.runs.report_html import _places

    return _places(account)


def test_the_archive_that_is_asked_is_free_while_images_come(
    index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = pair(index, store)
    looked: list[bool] = []
    monkeypatch.setattr(
        Session, "_retrieve_result", _before(Session._retrieve_result, lambda: looked.append(free(node)))
    )
    assert extract([node], tmp_path / "out").verdict == "complete"
    assert looked == [True, True]


def _before(function: Any, look: Any) -> Any:
    def looked(*arguments: Any, **named: Any) -> Any:
        look()
        return function(*arguments, **named)

    return looked


def test_what_the_giver_lacks_is_missing_and_the_reason_names_it(index: EmbeddedPacs, tmp_path: Path) -> None:
    with serving(ONE[:2], tmp_path / "part") as store:
        account = extract([pair(index, store)], tmp_path / "out")
    half, none = of(account, "2.25.101"), of(account, "2.25.201")
    assert (half.state, half.received, half.missing) == ("incomplete", 2, 1)
    assert half.reason == "1 of 3 instances missing at store: it does not list 1 of them, and index does"
    assert (none.state, none.missing) == ("incomplete", 2)
    assert none.reason == "2 of 2 instances missing at store: it does not list 2 of them, and index does"
    assert account.verdict == "incomplete"


def test_a_series_that_the_giver_lacks_is_no_unknown_destination(index: EmbeddedPacs, tmp_path: Path) -> None:
    """Archives that know one failure status only use it for both."""
    with serving(ONE, tmp_path / "part") as store:
        store.faults = Faults(retrieve_status=0xC000, retrieve_status_times=2)
        node = pair(index, store, method="move")
        account = extract([node], tmp_path / "out", [{"PatientID": "P2"}])
    assert of(account, "2.25.201").state == "incomplete"


def test_single_instances_are_fetched_again_from_the_giver(
    index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path
) -> None:
    store.faults = Faults(abort_after=1)
    account = extract([pair(index, store)], tmp_path / "out", [{"PatientID": "P1"}])
    assert account.verdict == "complete" and len(store.retrieves) > 1 and not index.retrieves


def test_where_the_searched_one_lists_no_instances_the_giver_is_asked(
    index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path
) -> None:
    index.faults = Faults(image_level=False, unreturned_keys={"NumberOfSeriesRelatedInstances"})
    account = extract([pair(index, store)], tmp_path / "out")
    assert account.verdict == "complete" and of(account, "2.25.101").expected == 3
    assert {level for level, _ in store.queries} == {"IMAGE"}


def test_a_shorter_list_of_the_giver_does_not_hide_what_is_missing(index: EmbeddedPacs, tmp_path: Path) -> None:
    index.faults = Faults(image_level=False)
    with serving(ONE[:2], tmp_path / "part") as store:
        account = extract([pair(index, store)], tmp_path / "out", [{"PatientID": "P1"}])
    (one,) = account.series
    assert (one.state, one.expected, one.received, one.missing) == ("incomplete", 3, 2, 1)


def test_moves_are_asked_of_the_giver(index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path) -> None:
    with EmbeddedPacs(aet="THIRD", folder=tmp_path / "third") as third:
        store.destinations["THIRD"] = (third.host, third.port)
        account = extract([pair(index, store, move_aet="THIRD")], tmp_path / "out", retrieve="move")
        assert account.verdict == "complete" and len(third.stored) == 5
    assert not index.retrieves and {service for service, _, _ in store.retrieves} == {"C-MOVE"}


def test_series_that_the_giver_lacks_do_not_end_a_run_of_moves(index: EmbeddedPacs, tmp_path: Path) -> None:
    with serving(ONE, tmp_path / "part") as store, EmbeddedPacs(aet="THIRD", folder=tmp_path / "third") as third:
        store.destinations["THIRD"] = (third.host, third.port)
        node = pair(index, store, move_aet="THIRD")
        store.faults = Faults(retrieve_status=0xC000, retrieve_status_times=9)
        account = extract([node], tmp_path / "out", [{"PatientID": "P2"}], retrieve="move")
        (lacking,) = account.series
        assert (lacking.state, lacking.missing) == ("incomplete", 2)
        assert lacking.reason.endswith("store does not have the series, and index does")


def test_one_server_with_two_ae_titles(index: EmbeddedPacs, tmp_path: Path) -> None:
    """Only one of them may C-MOVE; both share the associations of the server."""
    asked = node_of(index, name="asks", calling_aet="ASKS", max_associations=1)
    giver = node_of(index, name="moves", method="move", max_associations=1)
    account = extract([joined(asked, giver)], tmp_path / "out")
    assert account.verdict == "complete" and index.peak_associations == 1


def test_two_runs_the_other_way_round_do_not_block_each_other(
    index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path
) -> None:
    """Each holds one association at most, and asks where the other fetches."""
    one = pair(index, store, max_associations=1)
    one = replace(one, max_associations=1)
    back = joined(node_of(store, name="b", max_associations=1), node_of(index, name="a", max_associations=1))
    verdicts: list[str] = []
    rows = [{"PatientID": "P1"}, {"PatientID": "P2"}]
    runs = [
        threading.Thread(target=lambda n=n, name=name: verdicts.append(extract([n], tmp_path / name, rows).verdict))
        for n, name in ((one, "x"), (back, "y"))
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert verdicts == ["complete", "complete"]
    assert index.peak_associations <= 1 and store.peak_associations <= 1


def test_two_archives_may_have_one_giver(index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path) -> None:
    giver = node_of(store, name="store", max_series=1)
    with serving(ONE, tmp_path / "other") as other, serving(TWO, tmp_path / "second") as second:
        nodes = [joined(node_of(p, name=name), giver) for p, name in ((other, "first"), (second, "second"))]
        # Its limit is one of all that is fetched from it.
        with pytest.raises(TooManySeries, match=r"2 series .* more than the 1 that store allows"):
            planned(nodes, tmp_path / "out", search="all")
        nodes = [replace(node, giver=replace(giver, max_series=0)) for node in nodes]
        account = extract(nodes, tmp_path / "out", search="all")
    assert account.verdict == "complete"
    assert {(s.series_uid, s.pacs, s.source) for s in account.series} == {
        ("2.25.101", "first", "store"),
        ("2.25.201", "second", "store"),
    }


def test_window_pauses_and_method_are_those_of_the_giver(
    index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path
) -> None:
    node = replace(pair(index, store), window="03:00-03:01")  # of the one that is asked: it transfers nothing
    assert extract([node], tmp_path / "out").verdict == "complete"
    shut = pair(index, store, window=_shut())
    run, plan = planned([shut], tmp_path / "shut")
    with pytest.raises(WindowClosed, match="store"):
        steps.retrieve(run, [shut], plan.units[0])
    assert free(shut) and free(shut.source)
    moved = extract([pair(index, store)], tmp_path / "moved", method="move")
    assert moved.verdict == "complete" and {s.method for s in moved.series} == {"move"}


def _shut() -> str:
    """A window that is closed now."""
    later = dt.datetime.now() + dt.timedelta(hours=5)
    return f"{later:%H:%M}-{later + dt.timedelta(minutes=5):%H:%M}"


def test_a_giver_that_is_not_there_is_named_before_anything_is_asked(
    index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path
) -> None:
    node = pair(index, store)
    store.stop()
    with pytest.raises(PacsUnreachable, match="store"):
        planned([node], tmp_path / "out")
    assert {level for level, _ in index.queries} <= {"STUDY"} and len(index.queries) == 1  # whether it is there


def test_a_run_keeps_to_the_giver_that_it_began_with(index: EmbeddedPacs, store: EmbeddedPacs, tmp_path: Path) -> None:
    node = pair(index, store)
    run, plan = planned([node], tmp_path / "out")
    changed = node_of(index, name="index")
    with pytest.raises(ConfigError, match="began when its images came from store, and now they come from index"):
        steps.retrieve(run, [changed], plan.units[0])
    assert not index.retrieves


def test_a_fetch_from_that_was_not_looked_up_fetches_nothing(index: EmbeddedPacs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fetch_from"):
        planned([node_of(index, name="index", fetch_from="store")], tmp_path / "out")
    assert not index.queries


def test_asked_by_dicom_and_fetched_by_dicomweb_without_queries(index: EmbeddedPacs, tmp_path: Path) -> None:
    """A server of WADO-RS alone has no QIDO-RS, and need not."""
    files = sorted((tmp_path / "index").glob("*"))
    with FaultyWeb(tmp_path / "web") as web:
        web.load(files)
        web.fail("qido.status", {"status": 404})
        node = joined(node_of(index, name="index"), WebNode("web", web.url, retry_wait=0.01))
        account = extract([node], tmp_path / "out")
        assert account.verdict == "complete" and {s.method for s in account.series} == {"get"}
        assert web.count("wado") == 2


def test_an_address_that_answers_with_another_list_of_studies_is_told_at_once(
    index: EmbeddedPacs, tmp_path: Path
) -> None:
    """As Orthanc's own services, beside those of DICOMweb, which have a list of studies as well."""
    with FaultyWeb(tmp_path / "web") as web:
        web.fail("qido.status", {"status": 200, "body": b'["0196a5a6-49c3e544-3a986265"]'})
        node = joined(node_of(index, name="index"), WebNode("web", web.url, retry_wait=0.01))
        with pytest.raises(PacsError, match="web: answers a query for studies, and not with DICOM"):
            planned([node], tmp_path / "out")
        assert not web.count("wado")


def test_what_a_giver_without_queries_lacks_is_told_with_its_address(index: EmbeddedPacs, tmp_path: Path) -> None:
    files = [path for path in (tmp_path / "index").glob("*") if b"2.25.201" not in path.read_bytes()]
    with FaultyWeb(tmp_path / "web") as web:
        web.load(files)
        web.fail("qido.status", {"status": 404})
        node = joined(node_of(index, name="index"), WebNode("web", web.url, retry_wait=0.01))
        account = extract([node], tmp_path / "out")
        assert of(account, "2.25.101").state == "complete"
        reason = f"HTTP 404 below {web.url}, where nothing can be searched either: if that is so for all series, "
        assert reason in of(account, "2.25.201").reason
