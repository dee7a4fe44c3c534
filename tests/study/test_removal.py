"""Removal of the identified copy: delivered files are removed, and the next run fetches only what is new."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import TreeError
from pacsifier_ops.base.files import read_json
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.deid import steps as deid
from pacsifier_ops.deid.run import QUARANTINED, DeidRequest, series_of, store_of
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import COMPLETE, RunAccount
from pacsifier_ops.runs.approvals import APPROVED, LIMITS, RELEASE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.report_html import render
from pacsifier_ops.state import facts
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.ledger import SeriesLedger
from pacsifier_ops.state.tree import Tree
from pacsifier_ops.study import removal
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.release import release, take_stock
from pacsifier_ops.study.removal import Listing, Places, Removed, SeriesListing
from pacsifier_ops.upload import steps as upload
from pacsifier_ops.upload.run import UploadRequest
from tests.support.embedded import extract, node_of, series, serving
from tests.support.kills import WITH_WRITES, killed

pytestmark = pytest.mark.archive

SCREEN: dict[str, Any] = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
IMAGES = [
    *series("P1", "Wurzelbacher^Kunigunde", study_date="20200101", n_images=3),
    *series("P1", "Wurzelbacher^Kunigunde", study_date="20200101", series_number=2, modality="MR"),
    *series("P2", "Other^Person", study_date="20200102", n_images=2),
    *series("P2", "Other^Person", study_date="20200102", series_number=9, **SCREEN),
]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path / "archive") as running:
        yield running


@dataclass
class Night:
    """A study as its DAG would run it: fetch, de-identify, release what there is."""

    node: PacsNode
    root: Path

    @property
    def places(self) -> Places:
        return Places(self.root / "identified", self.root / "de-identified", self.root / "released")

    def fetch(self, **request: Any) -> RunAccount:
        return extract(self.node, [{"PatientID": "P?"}], self.places.identified, info=True, **request)

    def deidentify(self) -> None:
        run = Run.fresh()
        asked = DeidRequest(
            self.places.identified,
            self.places.deidentified,
            "default",
            delete_identifiable=True,
            contact_sheets=False,
            allow_empty=True,
        )
        for unit in deid.prepare(run, asked):
            deid.convert(run, unit)
        assert deid.report(run).verdict == COMPLETE

    def release(self) -> Run:
        run = Run.fresh()
        Study(folder="study").keep(run)
        approvals.decide(run, RELEASE, take_stock(run).digest, APPROVED, LIMITS, beforehand=True)
        release(run)
        return run

    def whole(self) -> Run:
        assert self.fetch().verdict == COMPLETE
        self.deidentify()
        return self.release()

    def upload(self, node: PacsNode) -> None:
        run = Run.fresh()
        units = upload.prepare(run, UploadRequest(self.places.released, self.root / "logs"), node)
        with upload.Sending(run, node) as sending:
            sending.units(units)

    def left(self) -> list[str]:
        """The identified objects, by patient and series."""
        paths = self.places.identified.glob("sub-*/**/*.dcm")
        return sorted(f"{path.parts[-4]}/{path.parent.name}" for path in paths)


@pytest.fixture
def night(pacs: EmbeddedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    return Night(node_of(pacs), tmp_path / "data" / "study")


def test_only_delivered_files_are_removed_and_the_list_comes_first(night: Night) -> None:
    run = night.whole()
    before = night.left()
    listing = removal.plan_removal(run, night.places)
    assert night.left() == before and len(before) == 7
    assert (listing.series, listing.files, listing.stay) == (3, 6, {removal.BY_RULE: 1})
    assert listing == Listing.of(run) and listing.bytes > 0
    for _ in range(2):
        assert removal.remove(run, night.places) == Removed(6, listing.bytes, 0)
    assert len(night.left()) == 1 and read_json(run.folder / "removal.json")["files"] == 6
    identified = night.places.identified
    assert len(list(identified.glob("sub-*/**/*.csv"))) == 4, "info dumps are not its business"
    assert (identified / "logs" / "pacsifier_log.csv").exists()
    assert len([path for path in identified.glob("sub-*/ses-*/*") if path.is_dir()]) == 1
    assert len(list(night.places.released.glob("sub-*/**/*.dcm"))) == 6
    again = removal.plan_removal(run, night.places)
    assert (again.files, again.handed_on, again.lost, again.stay) == (0, 6, 0, {removal.BY_RULE: 1})


def test_a_list_that_stands_is_the_one_that_is_made_anew(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change that a list depends on is in the next one, though the lines of all other series stand."""
    monkeypatch.setattr(facts, "_GRANULARITY", 0)
    looked: list[str] = []
    copy = removal._DeliveredSeries.copy

    def heard(self: Any, at: Path, *more: Any) -> Any:
        looked.append(at.name)
        return copy(self, at, *more)

    monkeypatch.setattr(removal._DeliveredSeries, "copy", heard)
    run = night.whole()
    with EmbeddedPacs(folder=tmp_path / "research") as research:
        night.upload(node_of(research))
        places = replace(night.places, destinations=(node_of(research).key,))
    tree = Tree.existing(places.identified)
    store = store_of(places.deidentified)
    assert tree and store

    def lines(read: bool) -> tuple[list[SeriesListing], Listing]:
        sums = removal.plan_removal(run, places, read=read)
        assert sums == Listing.of(run) == Listing.sum(map(Listing.of_series, removal.series_listed(run)))
        return list(removal.series_listed(run)), sums

    def alter(path: Path) -> None:
        """Change a byte, and keep size and time."""
        before, data = path.stat(), path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def going() -> tuple[str, Path, Path, Path]:
        """One of the files that may go: its UID, and where it, its result, and what was released lie."""
        one, uid, copy = next((one, uid, copy) for one in before[0] for uid, copy in one.go.items())
        result = places.deidentified / copy.released
        return uid, places.identified / one.folder / copy.file, result, places.released / copy.released

    def quarantine() -> None:
        for source in series_of(store):
            if item := store.settled(source.key).get(going()[0]):
                return store.settle(source.key, replace(item, outcome=QUARANTINED), durable=False)

    def take_away() -> None:
        aside.append(going()[2])
        aside[0].rename(tmp_path / "aside")

    def forget(path: Path) -> None:
        path.write_bytes(b"")

    aside: list[Path] = []
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: going()[1].touch(),
        lambda: going()[3].rename(tmp_path / "lost"),
        take_away,
        lambda: (tmp_path / "aside").rename(aside[0]),
        lambda: alter(going()[3]),
        quarantine,
        lambda: going()[1].rename(tmp_path / "elsewhere"),
        lambda: [*map(forget, settings.state_root().glob("delivered/*/*/*.jsonl"))],
        lambda: places.released.rename(tmp_path / "gone"),
        lambda: run.part("output").write_bytes(b""),
        lambda: shutil.rmtree(tree.state / "ledger"),
    ]
    lines(read=False)
    before = lines(read=True)
    for number, change in enumerate(changes):
        time.sleep(0.02)
        lines(read=False)
        looked.clear()
        lines(read=False)
        assert not looked, number
        change()
        at_once = lines(read=False)
        time.sleep(0.02)
        after = lines(read=False)
        assert at_once == after == lines(read=True), number
        assert (after == before) is (number == 0), number
        before = after


def test_the_next_night_fetches_only_what_is_new(night: Night, pacs: EmbeddedPacs, tmp_path: Path) -> None:
    run = night.whole()
    removal.plan_removal(run, night.places)
    removal.remove(run, night.places)
    pacs.sent.clear()
    account = night.fetch()
    totals = account.totals()
    assert (account.verdict, totals["present"], totals["handed_on"], totals["received"]) == (COMPLETE, 7, 6, 0)
    assert not pacs.sent and "delivered before, and removed since" in render(account)
    *_, late = series(
        "P1", "Wurzelbacher^Kunigunde", study_date="20200101", n_images=4
    )  # a new instance of a known series
    new = [late, *series("P1", "Wurzelbacher^Kunigunde", study_date="20210101")]
    pacs.add(write(new, tmp_path / "new"))
    run = night.whole()
    assert sorted(pacs.sent) == sorted(str(image.SOPInstanceUID) for image in new)
    listing = removal.plan_removal(run, night.places)
    assert (listing.files, listing.handed_on, listing.lost) == (2, 6, 0)
    assert removal.remove(run, night.places).files == 2
    released = [path.parent for path in night.places.released.glob("sub-*/**/*.dcm")]
    assert len(released) == 8 and len(set(released)) == 4, "the late image lies beside the others of its series"


def test_a_file_that_was_not_released_stays(night: Night) -> None:
    night.fetch()
    run = Run.fresh()
    Study(folder="study").keep(run)
    assert removal.plan_removal(run, night.places).stay == {removal.NOT_DEIDENTIFIED: 7}
    night.deidentify()
    assert removal.plan_removal(run, night.places).stay == {removal.NOT_RELEASED: 6, removal.BY_RULE: 1}
    take_stock(run)
    assert removal.plan_removal(run, night.places).files == 0, "stock was taken, and nobody has released it"
    run = night.release()
    assert removal.plan_removal(run, night.places).files == 6
    (run.folder / "output.jsonl").write_bytes((run.folder / "output.jsonl").read_bytes() + b"\n")
    assert removal.plan_removal(run, night.places).files == 0, "it is not the list that somebody approved of"


def test_if_the_study_uploads_the_destination_must_have_confirmed(night: Night, tmp_path: Path) -> None:
    run = night.whole()
    with EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "research") as research:
        node = PacsNode("research", research.host, research.port, research.aet, retry_wait=0.005)
        places = replace(night.places, destinations=[node.key])
        assert removal.plan_removal(run, places).stay == {removal.UNCONFIRMED: 6, removal.BY_RULE: 1}
        research.faults.store_status, research.faults.store_status_from = 0xA900, 5
        night.upload(node)
        assert removal.plan_removal(run, places).stay == {removal.UNCONFIRMED: 1, removal.BY_RULE: 1}
        research.faults.store_status = None
        night.upload(node)
    (changed, *_) = places.released.glob("sub-*/ses-*/*MR*/*.dcm")
    assert removal.plan_removal(run, places).files == 6
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    assert removal.plan_removal(run, places).stay == {removal.NOT_THERE: 1, removal.BY_RULE: 1}


def test_a_file_that_changed_stays(night: Night) -> None:
    run = night.whole()
    one, two, three, *_ = sorted(path for path in night.places.identified.glob("sub-P1/**/*.dcm"))
    one.write_bytes(one.read_bytes() + b"  ")
    os.utime(two)  # its content is as it was fetched, but the output cannot be traced to it any more
    listing = removal.plan_removal(run, night.places)
    assert listing.stay == {removal.CHANGED: 1, removal.NOT_DEIDENTIFIED: 1, removal.BY_RULE: 1}
    # A change after the list was made.
    three.write_bytes(three.read_bytes()[:-2] + b"  ")
    made = [path for path in night.places.released.glob("sub-*/**/*.dcm") if "MR" not in path.parent.name]
    for path in made:
        path.unlink()
    (folder,) = night.places.identified.glob("sub-P1/ses-*/*MR*/")
    (folder / "notes.txt").write_text("somebody's own")
    removed = removal.remove(run, night.places)
    assert (removed.files, removed.kept) == (1, 3)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_removed_file_whose_result_is_lost_can_be_fetched_again(night: Night, pacs: EmbeddedPacs) -> None:
    run = night.whole()
    removal.plan_removal(run, night.places)
    removal.remove(run, night.places)
    for folder in (night.places.released, night.places.deidentified):
        for path in folder.glob("sub-*/ses-*/*MR*/*.dcm"):
            path.unlink()
    assert removal.plan_removal(run, night.places).lost == 1
    pacs.sent.clear()
    account = night.fetch(refetch=True)
    assert account.verdict == COMPLETE and len(pacs.sent) == account.totals()["received"] == 6
    night.deidentify()
    run = night.release()
    listing = removal.plan_removal(run, night.places)
    assert (listing.files, listing.handed_on, listing.lost) == (6, 0, 0)
    assert removal.remove(run, night.places).files == 6 and len(night.left()) == 1
    assert night.fetch().totals()["handed_on"] == 6


def test_a_folder_that_is_not_the_identified_copy_is_left_alone(night: Night, tmp_path: Path) -> None:
    run = night.whole()
    mistaken = replace(night.places, identified=night.places.deidentified)
    for act in (removal.plan_removal, removal.remove):
        with pytest.raises(TreeError, match="holds something else"):
            act(run, mistaken)
    nowhere = replace(night.places, identified=tmp_path / "nowhere")
    assert removal.plan_removal(run, nowhere) == Listing() and removal.remove(run, nowhere) == Removed()


def test_a_link_in_place_of_a_folder_is_not_followed(night: Night, tmp_path: Path) -> None:
    run = night.whole()
    (patient,) = night.places.identified.glob("sub-P1")
    listing = removal.plan_removal(run, night.places)
    patient.rename(tmp_path / "elsewhere")
    patient.symlink_to(tmp_path / "elsewhere")
    assert removal.remove(run, night.places).files == 2 < listing.files
    assert removal.plan_removal(run, night.places).files == 0
    assert len(list((tmp_path / "elsewhere").glob("**/*.dcm"))) == 4


def test_killed_anywhere_and_run_again_it_heals(
    night: Night, pacs: EmbeddedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Leases.__init__.__kwdefaults__ or {}, "ttl", 1.0)  # one without an owner lives by its age
    run = night.whole()
    roots = [tmp_path / "data", tmp_path / "state"]
    for root in roots:
        shutil.copytree(root, tmp_path / f"saved-{root.name}")

    def work() -> None:
        removal.plan_removal(run, night.places)
        removal.remove(run, night.places)

    for after in range(0, 10_000, 3):
        ended = killed(work, after, WITH_WRITES)
        tree = Tree.existing(night.places.identified)
        assert tree
        names = tree.load_names()
        for image in IMAGES:
            of_image = SeriesId(str(image.StudyInstanceUID), str(image.SeriesInstanceUID))
            folder = tree.root / (names.folder_of(of_image) or "nowhere")
            entry = SeriesLedger(tree.state, of_image).entries[str(image.SOPInstanceUID)]
            assert (folder / entry.file).exists() or entry.is_removed(folder), after
        removal.plan_removal(run, night.places)
        assert removal.remove(run, night.places).kept == 0
        assert night.left() == [f"sub-P2/{path.name}" for path in _folders(night)], after
        if not ended:
            break
        for root in roots:
            shutil.rmtree(root)
            shutil.copytree(tmp_path / f"saved-{root.name}", root)
    assert after > 15
    pacs.sent.clear()
    assert night.fetch().verdict == COMPLETE and not pacs.sent


def _folders(night: Night) -> list[Path]:
    """The remaining folders of series."""
    return [path for path in night.places.identified.glob("sub-*/ses-*/*") if path.is_dir()]
