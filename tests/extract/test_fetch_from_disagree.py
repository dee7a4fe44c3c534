"""Two archives that do not agree (`fetch_from`): what one has on top of the other, and what one has on tape."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pacsifier_ops.archive.check import check_all
from pacsifier_ops.base.config import ArchiveNode, PacsNode, WebNode, with_giver, with_givers
from pacsifier_ops.base.errors import AssociationBusy, ConfigError, Recalling
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.extract import steps
from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.state.leases import shared
from tests.support.embedded import extract, node_of, planned_run, series, serving
from tests.support.faulty_web import FaultyWeb

pytestmark = pytest.mark.archive

IMAGES = series("P1", study_uid="2.25.10", series_uid="2.25.101", n_images=5)
UIDS = [str(image.SOPInstanceUID) for image in IMAGES]
ROWS = [{"PatientID": "P1"}]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    """The archive that is searched; it knows nothing of the last image."""
    with serving(IMAGES[:4], tmp_path / "index") as pacs:
        yield pacs


def joined(index: EmbeddedPacs, giver: ArchiveNode) -> PacsNode:
    node = node_of(index, name="index", fetch_from=giver.name)
    return with_giver(node, lambda name: giver)


def fetched(index: EmbeddedPacs, store: EmbeddedPacs, out: Path, **fields: object) -> SeriesAccount:
    (account,) = extract(joined(index, node_of(store, name="store", **fields)), ROWS, out).series
    return account


def test_an_image_more_does_not_stand_for_one_that_failed(index: EmbeddedPacs, tmp_path: Path) -> None:
    """The one that gives has an image on top, and could not send another at first: that one is asked for again."""
    with serving(IMAGES, tmp_path / "store") as store:
        store.faults = Faults(withhold={UIDS[0]})
        account = fetched(index, store, tmp_path / "out")
        asked = [str(identifier.get("SOPInstanceUID", "")) for _, _, identifier in store.retrieves]
        assert asked[0] == "" and UIDS[0] in asked
    assert (account.received, account.missing, account.quarantined) == (3, 1, 1)
    assert "new UIDs" not in account.reason


def test_an_image_more_does_not_explain_one_less(index: EmbeddedPacs, tmp_path: Path) -> None:
    with serving(IMAGES[1:], tmp_path / "store") as store:
        account = fetched(index, store, tmp_path / "out")
    assert (account.received, account.missing, account.quarantined) == (3, 1, 1)
    assert account.reason.startswith("1 of 4 instances missing at store: it does not list 1 of them, and index does")


def test_an_image_more_of_a_server_that_lists_nothing(index: EmbeddedPacs, tmp_path: Path) -> None:
    with serving(IMAGES, tmp_path / "files"), FaultyWeb(tmp_path / "web") as web:
        web.load((tmp_path / "files").glob("*"))
        web.fail("qido.status", {"status": 404})
        web.fail("wado.leave_out", UIDS[0], times=1)
        node = joined(index, WebNode("web", web.url, retry_wait=0.01))
        (account,) = extract(node, ROWS, tmp_path / "out").series
    assert (account.state, account.received, account.quarantined) == ("complete", 4, 1)


def test_an_archive_that_assigns_new_uids_is_asked_once(tmp_path: Path) -> None:
    with serving(IMAGES, tmp_path / "all") as index, serving(IMAGES, tmp_path / "store") as store:
        store.faults = Faults(coerced={"SOPInstanceUID"})
        account = fetched(index, store, tmp_path / "out")
        assert len(store.retrieves) == 1
    assert account.missing == 5 and "some archives assign new UIDs" in account.reason


@pytest.mark.parametrize("recalling", ["refuses", "fails", "nothing", "part"])
def test_the_tapes_are_those_of_the_archive_that_gives(
    index: EmbeddedPacs, tmp_path: Path, recalling: Literal["refuses", "fails", "nothing", "part"]
) -> None:
    with serving(IMAGES[:4], tmp_path / "store") as store:
        store.faults = Faults(nearline={"2.25.101"}, recall=3600, recalling=recalling)
        with pytest.raises(Recalling):
            fetched(index, store, tmp_path / "out")


@pytest.mark.parametrize("held", [IMAGES[:2], series("P2")])
def test_what_the_giver_lacks_is_not_waited_for(index: EmbeddedPacs, tmp_path: Path, held: list[Any]) -> None:
    """The archive that is searched has it on tape."""
    index.faults = Faults(nearline={"2.25.101"})
    with serving(held, tmp_path / "store") as store:
        account = fetched(index, store, tmp_path / "out")
    assert account.state == "incomplete" and "and index does" in account.reason


def test_a_list_is_that_of_the_archive_that_was_searched(index: EmbeddedPacs, tmp_path: Path) -> None:
    """What one archive has listed says nothing of another, whose images come from the same place."""
    with serving(IMAGES[:4], tmp_path / "store") as store, serving(IMAGES[1:], tmp_path / "other") as other:
        node = node_of(store, name="store")
        extract(joined(index, node), ROWS, tmp_path / "out", verify="changed")
        (account,) = extract(joined(other, node), ROWS, tmp_path / "out", verify="changed").series
        assert account.missing == 1  # as many in number, and one of them is another
        extract(joined(index, node), ROWS, tmp_path / "new", verify="changed")
        index.queries.clear()
        extract(joined(index, node), ROWS, tmp_path / "new", verify="changed")
        assert "IMAGE" not in {level for level, _ in index.queries}


# Moves


def moved(index: EmbeddedPacs, store: EmbeddedPacs, third: EmbeddedPacs, out: Path, **fields: Any) -> SeriesAccount:
    store.destinations["THIRD"] = (third.host, third.port)
    node = replace(joined(index, node_of(store, name="store", move_aet="THIRD")), **fields)
    run, units = planned_run(node, ROWS, out, retrieve="move")
    for unit in units:
        steps.move(run, node, unit)
    (account,) = steps.report(run).series
    return account


@pytest.fixture
def third(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(aet="THIRD", folder=tmp_path / "third") as pacs:
        yield pacs


def test_an_image_more_is_not_moved_and_does_not_count_for_one_less(
    index: EmbeddedPacs, third: EmbeddedPacs, tmp_path: Path
) -> None:
    with serving(IMAGES[1:], tmp_path / "store") as store:
        account = moved(index, store, third, tmp_path / "out")
        assert set(third.stored) == set(UIDS[1:4])
        assert (account.state, account.received, account.missing) == ("incomplete", 3, 1)
        assert account.missing_uids == [UIDS[0]]
        assert account.reason == "1 of 4 instances missing: store does not list 1 of them, and index does"
        # Again: an archive that knows one failure status only has nothing of what is left.
        store.faults = Faults(retrieve_status=0xC000, retrieve_status_times=9)
        again = moved(index, store, third, tmp_path / "out")
        assert (again.present, again.missing, again.reason) == (3, 1, account.reason)


def test_an_image_more_is_not_moved(index: EmbeddedPacs, third: EmbeddedPacs, tmp_path: Path) -> None:
    with serving(IMAGES, tmp_path / "store") as store:
        store.faults = Faults(image_level=False)  # it does not tell what it has
        account = moved(index, store, third, tmp_path / "out")
    assert account.state == "complete" and set(third.stored) == set(UIDS[:4])


def test_images_of_another_patient_are_not_moved(index: EmbeddedPacs, third: EmbeddedPacs, tmp_path: Path) -> None:
    """Nobody sees the objects of a move, so the archive that sends them is asked whose they are."""
    others = [deepcopy(image) for image in IMAGES[:4]]
    for image in others:
        image.PatientID = "P9"
    with serving(others, tmp_path / "store") as store:
        account = moved(index, store, third, tmp_path / "out")
        assert not third.stored and not store.retrieves
        assert (account.state, account.missing) == ("incomplete", 4)
        assert "store has the study under another patient than index, so nothing is moved" in account.reason
        accepted = moved(index, store, third, tmp_path / "out", accept_patient_id_of="archive")
        assert accepted.state == "complete" and len(third.stored) == 4


def test_where_both_list_the_same_the_series_is_moved_as_a_whole(
    index: EmbeddedPacs, third: EmbeddedPacs, tmp_path: Path
) -> None:
    with serving(IMAGES[:4], tmp_path / "store") as store:
        assert moved(index, store, third, tmp_path / "out").state == "complete"
        assert [level for _, level, _ in store.retrieves] == ["SERIES"]


def test_the_giver_is_asked_what_to_move_where_the_searched_one_lists_nothing(
    index: EmbeddedPacs, third: EmbeddedPacs, tmp_path: Path
) -> None:
    index.faults = Faults(image_level=False, unreturned_keys={"NumberOfSeriesRelatedInstances"})
    with serving(IMAGES[:4], tmp_path / "store") as store:
        account = moved(index, store, third, tmp_path / "out")
    assert (account.state, account.expected, account.received) == ("complete", 4, 4)


def test_two_archives_of_one_name_are_refused() -> None:
    one = PacsNode("fast", "a.example", 104, "FAST")
    asked = with_giver(PacsNode("index", "i.example", 104, "INDEX", fetch_from="fast"), lambda name: one)
    assert with_givers([asked, one]) == [asked, one]
    with pytest.raises(ConfigError, match="two different archives are called fast"):
        with_givers([asked, replace(one, host="b.example")])


def test_a_test_names_the_giver_whose_associations_are_in_use(index: EmbeddedPacs, tmp_path: Path) -> None:
    with serving(IMAGES, tmp_path / "store") as store, FaultyWeb(tmp_path / "web") as web:
        giver = node_of(store, name="store", max_associations=1)
        web_node = WebNode("web", web.url, max_associations=1)
        for node in (joined(index, giver), joined(index, web_node), web_node):
            with (
                shared().acquire(node.source.slots, limit=1, wait=0),
                pytest.raises(AssociationBusy, match=f"{node.source.name}: runs hold all 1 associations"),
            ):
                check_all(node)
