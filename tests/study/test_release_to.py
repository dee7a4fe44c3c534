"""A study whose data set is released straight into a store: no image of it lies in `released/`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import Node, PacsNode
from pacsifier_ops.base.errors import AssociationAborted, ConfigError, NotApproved, PacsError
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.handover import dicomdir
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.state import audit
from pacsifier_ops.state.tree import CONTROL
from pacsifier_ops.study import removal, steps, viewer
from pacsifier_ops.study.project import REMOVE, contradictions
from pacsifier_ops.study.release import may_hand_over, newly_released, release, released_of, stock_of
from pacsifier_ops.study.run import DICOMDIR, RELEASE_TO, UPLOAD
from pacsifier_ops.upload import steps as upload
from pacsifier_ops.upload.filestore import MANIFEST, OCCUPIED, UNFINISHED, FileStore, Reading
from pacsifier_ops.upload.nodes import refuse_no_store
from tests.support.embedded import node_of, series, serving
from tests.support.kills import killed
from tests.support.release_to import DAY, FIRST, GIVEN, ROWS, SECOND, files_in, images
from tests.support.stores import KINDS, Elsewhere, on_demand
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPacs]:
    with serving([*FIRST, *SECOND], tmp_path_factory.mktemp("images")) as found:
        yield found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Elsewhere]]:
    with on_demand(tmp_path_factory) as of:
        yield of


@pytest.fixture
def store(stores: Callable[[str], Elsewhere]) -> Elsewhere:
    return stores("folder")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def night(pacs: EmbeddedPacs, data: Path) -> StudyRun:
    """A study with five images, de-identified."""
    study = StudyRun(node_of(pacs), data, ROWS, GIVEN)
    study.make()
    return study


def approved(night: StudyRun) -> dict[str, bytes]:
    made = files_in(night.folder("de-identified"))
    return {name: data for name, data in made.items() if not name.startswith(f"{CONTROL}/")}


def lines_of(there: dict[str, bytes]) -> dict[str, str]:
    return {line["path"]: line["sha256"] for line in map(json.loads, there[MANIFEST].splitlines())}


def is_whole(there: dict[str, bytes], night: StudyRun) -> None:
    """A store has exactly what was approved, and its manifest says so."""
    wanted = approved(night)
    assert {name: data for name, data in there.items() if name != MANIFEST} == wanted
    assert lines_of(there) == {name: hashlib.sha256(data).hexdigest() for name, data in wanted.items()}


def sent(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage_run(run, RELEASE_TO).folder / "accounts.json").read_text())["totals"]
    return found


def send_half(night: StudyRun, node: Node, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> None:
    """Send to a store that is gone after some objects; the last step of the stage closes its account."""
    put, left = FileStore.put, iter(range(count))

    def breaking(self: FileStore, *args: Any) -> Any:
        if next(left, None) is None:
            raise AssociationAborted("the connection was lost")
        return put(self, *args)

    with monkeypatch.context() as patch, pytest.raises(PacsError):
        patch.setattr(FileStore, "put", breaking)
        night.send_to_store(node)
    account = upload.report(stage_run(night.run, RELEASE_TO), lambda: node)
    assert account.verdict == INCOMPLETE


@pytest.mark.parametrize("kind", KINDS)
def test_images_lie_in_the_store_alone_and_it_is_released_when_all_are_there(
    kind: str, stores: Callable[[str], Elsewhere], night: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = stores(kind)
    steps.check(night.run)
    with pytest.raises(NotApproved):
        night.send_to_store(place.node)
    assert not place.contents(), "nobody has approved it"
    night.approve()
    send_half(night, place.node, monkeypatch)
    with pytest.raises(NotApproved, match="not confirmed the whole"):
        release(night.run)
    account = steps.report(night.run)
    assert account.verdict == INCOMPLETE and account.released is None
    lost = Counter[str]()
    for loss in account.losses():
        lost[loss.at] += loss.instances
    assert lost == {RELEASE_TO: 3, "release": 2}
    assert MANIFEST not in place.contents() and len(images(place.contents())) == 2
    assert not night.folder("released").exists()

    night.send_to_store(place.node)
    release(night.run)
    account = steps.report(night.run)
    assert account.verdict == COMPLETE, (account.losses(), account.bad_stages, account.discrepancies)
    assert account.confirmed() == {RELEASE_TO: 5} and account.totals()["delivered"] == 5
    assert (sent(night.run)["present"], sent(night.run)["received"]) == (2, 3)
    there = place.contents()
    is_whole(there, night)
    released = files_in(night.folder("released"))
    assert not images(released)
    assert {"manifest.csv", "series.csv", "dataset.json", "report/report.html"} <= released.keys()
    assert released[MANIFEST] == there[MANIFEST]
    said = " ".join(there) + there[MANIFEST].decode()
    assert not any(text in said for text in ("80082", "12012", "Wurzelbacher", DAY))
    assert set(newly_released(night.run).read_text().splitlines()) == approved(night).keys()


def test_nights_send_what_is_new_and_what_was_lost_there(
    store: Elsewhere, night: StudyRun, pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    night.release_to(store.node)
    again = StudyRun(node_of(pacs), night.data, ROWS, GIVEN)
    again.make()
    before = store.contents()
    again.release_to(store.node)
    assert steps.report(again.run).verdict == COMPLETE
    assert (sent(again.run)["present"], sent(again.run)["received"]) == (5, 0)
    assert released_of(again.run).new == 0 and store.contents() == before  # type: ignore[union-attr]

    lost = images(before)[0]
    store.drop(lost)
    more = series("12012", "Schnuerpel^Zebedaeus", n_images=2, series_number=3, study_date=DAY)
    with serving([*FIRST, *SECOND, *more], tmp_path / "more") as larger:
        third = StudyRun(node_of(larger), night.data, ROWS, GIVEN)
        third.make()
        third.release_to(store.node)
    assert steps.report(third.run).verdict == COMPLETE
    assert (sent(third.run)["present"], sent(third.run)["received"]) == (4, 3)
    is_whole(store.contents(), third)
    assert len(images(newly_released(third.run).read_text().splitlines())) == 2

    # Somebody takes an image out of the data set: it stays in the store, and belongs to no data set any more.
    (third.folder("de-identified") / lost).unlink()
    fourth = StudyRun(node_of(pacs), night.data, ROWS, GIVEN)
    fourth.release_to(store.node)
    there = store.contents()
    assert lost in there and lost not in lines_of(there)
    assert released_of(fourth.run).stale == 1  # type: ignore[union-attr]


def test_what_differs_from_the_approved_list_never_leaves(store: Elsewhere, night: StudyRun) -> None:
    steps.check(night.run)
    night.approve()
    first, second, *_ = sorted(night.folder("de-identified").rglob("*.dcm"))
    first.write_bytes(first.read_bytes()[:-2] + b"xx")
    (second.parent / "added.dcm").write_bytes(second.read_bytes())
    night.send_to_store(store.node)
    there = store.contents()
    assert len(images(there)) == 4 and MANIFEST not in there and "dataset.json" not in there
    assert not any(name.endswith((first.name, "added.dcm")) for name in there)
    with pytest.raises(NotApproved):
        release(night.run)
    assert released_of(night.run) is None


def test_files_of_others_are_not_replaced_and_the_release_says_so(store: Elsewhere, night: StudyRun) -> None:
    store.put("dataset.json", b"of another study")
    steps.check(night.run)
    night.approve()
    with pytest.raises(PacsError, match=OCCUPIED):
        night.send_to_store(store.node)
    assert store.contents() == {"dataset.json": b"of another study"}, "no image comes to lie beside it"
    with pytest.raises(NotApproved):
        release(night.run)
    store.drop("dataset.json")
    night.send_to_store(store.node)  # as when the failed step is cleared
    release(night.run)
    is_whole(store.contents(), night)


def test_two_studies_in_one_folder_do_not_replace_each_other(
    store: Elsewhere, night: StudyRun, pacs: EmbeddedPacs
) -> None:
    night.release_to(store.node)
    before = store.contents()
    other = StudyRun(node_of(pacs), night.data, ROWS, {**GIVEN, "project": "q"})
    other.make()
    steps.check(other.run)
    other.approve()
    with pytest.raises(PacsError, match="another data set"):
        other.send_to_store(store.node)
    assert store.contents() == before


def test_a_manifest_whose_answer_was_lost_is_put_again(
    store: Elsewhere, night: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, calls = FileStore.finish, []

    def losing(self: FileStore, manifest: Path) -> None:
        finish(self, manifest)
        calls.append(manifest)
        if len(calls) == 1:
            raise AssociationAborted("the connection was lost")

    monkeypatch.setattr(FileStore, "finish", losing)
    night.release_to(store.node)
    assert len(calls) == 2 and steps.report(night.run).verdict == COMPLETE
    is_whole(store.contents(), night)


def test_what_the_store_garbles_is_not_released(
    store: Elsewhere, night: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it garbles a table alone: then all images are there, and no manifest."""
    steps.check(night.run)
    night.approve()
    verify = FileStore.verify

    def garbled(self: FileStore, name: str, content: Reading) -> None:
        if content.path.name == "series.csv":
            content.whole.update(b"x")
        verify(self, name, content)

    with monkeypatch.context() as patch, pytest.raises(PacsError, match="not taken the files beside the images"):
        patch.setattr(FileStore, "verify", garbled)
        night.send_to_store(store.node)
    assert len(images(store.contents())) == 5 and MANIFEST not in store.contents()
    with pytest.raises(NotApproved):
        release(night.run)


def test_the_graph_is_no_gate(store: Elsewhere, night: StudyRun) -> None:
    """A list of the stage that somebody made, or that belongs to another approval, releases nothing."""
    night.release_to(store.node)
    kept = upload.in_store(stage_run(night.run, RELEASE_TO))
    kept.write_bytes(b"\n".join(kept.read_bytes().splitlines()[1:]) + b"\n")
    with pytest.raises(NotApproved):
        release(night.run)
    listing = night.run.folder / "output.jsonl"
    listing.write_bytes(b"".join(listing.read_bytes().splitlines(True)[1:]))
    with pytest.raises(NotApproved):
        night.send_to_store(store.node)


def test_killed_anywhere_and_started_again_it_is_whole(store: Elsewhere, night: StudyRun, pacs: EmbeddedPacs) -> None:
    given = {**GIVEN, "remove_identified": REMOVE}

    def whole() -> StudyRun:
        study = StudyRun(node_of(pacs), night.data, ROWS, given)
        study.release_to(store.node)
        study.remove(store.node)
        return study

    wanted, kills, after = approved(night), 0, 8
    while killed(whole, after):
        kills, after = kills + 1, after + 60
        there = store.contents()
        for name, data in there.items():
            if name != MANIFEST and not name.rpartition("/")[2].startswith(UNFINISHED):
                assert wanted.get(name) == data
        if MANIFEST in there:
            assert lines_of(there).keys() <= there.keys()
    assert kills > 3
    study = whole()
    is_whole(store.contents(), study)
    assert not images(files_in(night.folder("identified"))), "the store has confirmed them, so the identified went"


def test_identified_files_stay_until_the_store_has_confirmed_them(
    store: Elsewhere, night: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.release_to(store.node)
    deidentified = night.folder("de-identified")
    places = removal.Places(night.folder("identified"), deidentified, deidentified, [store.node.key])
    assert removal.plan_removal(night.run, places).files == 5
    other = removal.Places(night.folder("identified"), deidentified, deidentified, [store.node.key, "elsewhere"])
    assert removal.plan_removal(night.run, other).stay == {removal.UNCONFIRMED: 5}
    changed = min(deidentified.rglob("*.dcm"))
    changed.write_bytes(changed.read_bytes()[:-2] + b"xx")
    assert removal.plan_removal(night.run, places).stay == {removal.NOT_THERE: 1}


def test_who_reads_what_is_released_reads_the_approved_list(
    store: Elsewhere, pacs: EmbeddedPacs, data: Path, tmp_path: Path
) -> None:
    with EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "research") as research:
        given = {**GIVEN, "dicomdir": True, "upload": "research"}
        night = StudyRun(node_of(pacs), data, ROWS, given)
        night.make()
        night.release_to(store.node)
        assert may_hand_over(night.run, DICOMDIR)
        night.make_file_set()
        dicomdir.report(stage_run(night.run, DICOMDIR))
        node = PacsNode("research", research.host, research.port, research.aet, retry_wait=0.005)
        extra = night.folder("de-identified") / "sub-added"
        extra.mkdir()
        (extra / "later.dcm").write_bytes(min(night.folder("de-identified").rglob("*.dcm")).read_bytes())
        night.upload(node)
        names = {path.stem for path in night.folder("de-identified").rglob("sub-*/ses-*/*/*.dcm")}
        assert set(research.stored) == names and len(names) == 5
    account = steps.report(night.run)
    assert account.verdict == COMPLETE, account.bad_stages
    assert account.confirmed() == {RELEASE_TO: 5, UPLOAD: 5}
    (made,) = night.folder("dicomdir").iterdir()
    assert len([path for path in made.rglob("*") if path.is_file() and path.name != "DICOMDIR"]) >= 5
    try:
        assert [one.files for one in viewer.series_of(night.run)] in ([3, 2], [2, 3])
        assert viewer.frame_of(night.run, 1, 0, 0)
        shown = night.folder("de-identified") / viewer._files(night.run, 1)[1][0]["path"]
        data_of = shown.read_bytes()
        shown.write_bytes(data_of[:-2] + bytes(byte ^ 1 for byte in data_of[-2:]))
        with pytest.raises(Exception, match="cannot be shown"):
            viewer.frame_of(night.run, 1, 0, 0)
    finally:
        viewer._decoder.close()


def test_it_is_told_as_other_releases_are(store: Elsewhere, night: StudyRun, state_root: Path) -> None:
    night.release_to(store.node)
    lines = [json.loads(line) for line in (state_root / "audit" / "audit.jsonl").read_text().splitlines()]
    told = [line["event"] for line in lines]
    assert told.count(audit.RELEASED) == 1 and told.index(audit.RELEASED) < told.index(audit.EXPORTED)
    assert next(line for line in lines if line["event"] == audit.EXPORTED)["objects"] == 5
    digest = stock_of(night.run).digest
    assert approvals.approved(night.run, approvals.RELEASE, digest).who == "Dr. Data Manager"
    assert any("the store store" in text for text in steps.findings(night.run).summary)


def test_what_is_no_store_and_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="release_to: connection node is no store"):
        refuse_no_store(PacsNode("node", "127.0.0.1", 104, "NODE"))
    given = {"project": "p", "queryfile": "q.csv", **GIVEN}
    assert not list(contradictions(given))
    assert [key for key, _ in contradictions({**given, "upload": "store"})] == ["upload"]
    assert "release_to" in [key for key, _ in contradictions({**given, "without": ("anonymize",)})]
