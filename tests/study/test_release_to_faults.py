"""A release to a store that something goes wrong with: the place changes, is shared, or loses what it has confirmed."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import Cancelled, DestinationRefused, InputError, NotApproved, PacsError, PacsUnreachable
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.state import audit
from pacsifier_ops.study import steps
from pacsifier_ops.study.project import REMOVE
from pacsifier_ops.study.release import begin_sending, listing_of, newly_released, release, released_of
from pacsifier_ops.study.run import RELEASE_TO
from pacsifier_ops.upload import steps as upload
from pacsifier_ops.upload.filestore import MANIFEST, UNFINISHED, FileStore
from pacsifier_ops.upload.folder import Folder
from pacsifier_ops.upload.nodes import FolderNode
from pacsifier_ops.upload.run import UploadRequest
from tests.support.embedded import node_of, series, serving
from tests.support.release_to import DAY, FIRST, GIVEN, ROWS, SECOND, files_in, images
from tests.support.store_peers import Sshd, missing_sshd, running
from tests.support.stores import Elsewhere, on_disk, sftp_node, started
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPacs]:
    with serving([*FIRST, *SECOND], tmp_path_factory.mktemp("images")) as found:
        yield found


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def night(pacs: EmbeddedPacs, data: Path) -> StudyRun:
    study = StudyRun(node_of(pacs), data, ROWS, GIVEN)
    study.make()
    return study


def place(folder: Path, name: str = "share") -> Elsewhere:
    folder.mkdir()
    return on_disk(FolderNode(name, path=str(folder), retry_wait=0.01), folder)


@pytest.fixture
def store(tmp_path: Path) -> Elsewhere:
    return place(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> Elsewhere:
    """Another place, of a connection of the same name."""
    return place(tmp_path / "other")


def is_true(there: dict[str, bytes]) -> None:
    """If a store has a manifest, it is true."""
    if MANIFEST in there:
        for line in map(json.loads, there[MANIFEST].splitlines()):
            assert line["path"] in there, "listed, and not there"
            assert hashlib.sha256(there[line["path"]]).hexdigest() == line["sha256"], f"{line['path']} differs"


def begin(night: StudyRun, node: Node) -> list[int]:
    """The first step of the stage."""
    steps.check(night.run)
    night.approve()
    begin_sending(night.run)
    params = night.params(RELEASE_TO)
    folder, out = (night.data / params[name] for name in ("upload_directory", "out_directory"))
    request = UploadRequest(folder, out, allow_empty=True, release=str(listing_of(night.run)))
    return upload.prepare(stage_run(night.run, RELEASE_TO), request, node)


def send(night: StudyRun, node: Node, units: list[int]) -> None:
    with upload.Sending(stage_run(night.run, RELEASE_TO), node) as sending:
        sending.units(units)


def finish(night: StudyRun, node: Node) -> None:
    upload.report(stage_run(night.run, RELEASE_TO), lambda: node)


def exported(state_root: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (state_root / "audit" / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == audit.EXPORTED]


def test_a_connection_that_changes_within_a_run_gets_no_half_data_set(
    store: Elsewhere, other: Elsewhere, night: StudyRun, state_root: Path
) -> None:
    """Somebody sets it to another place after some images were sent: its manifest would list what is elsewhere."""
    units = begin(night, store.node)
    send(night, store.node, units)
    with pytest.raises(InputError, match="names another place"):
        finish(night, other.node)
    assert not other.contents() and exported(state_root)[-1]["verdict"] == INCOMPLETE
    with pytest.raises(NotApproved):
        release(night.run)
    with pytest.raises(InputError, match="names another place"):
        send(night, other.node, units)
    assert not other.contents() and released_of(night.run) is None
    night.send_to_store(other.node)  # as when the stage is cleared from its first step
    release(night.run)
    assert len(images(other.contents())) == 5 and MANIFEST not in store.contents()
    is_true(other.contents())


def test_another_place_in_the_next_night_gets_all(
    store: Elsewhere, other: Elsewhere, night: StudyRun, pacs: EmbeddedPacs
) -> None:
    night.release_to(store.node)
    before = store.contents()
    again = StudyRun(node_of(pacs), night.data, ROWS, {**GIVEN, "remove_identified": REMOVE})
    again.make()
    steps.check(again.run)
    again.approve()
    again.send_to_store(other.node)
    release(again.run)
    again.remove(store.node)
    assert other.contents().keys() == before.keys() and store.contents() == before
    is_true(other.contents())
    assert steps.report(again.run).verdict == COMPLETE


def test_a_file_whose_data_set_alone_is_the_same_is_sent_again(
    store: Elsewhere, night: StudyRun, pacs: EmbeddedPacs
) -> None:
    """As after an update that writes another version into the head of files: of the same length, so sizes are equal."""
    night.release_to(store.node)
    for path in night.folder("de-identified").rglob("*.dcm"):
        found = path.read_bytes()
        assert b"PACSIFIER_OPS" in found[:600]
        path.write_bytes(found.replace(b"PACSIFIER_OPS", b"PACSIFIER_NEW", 1))
    again = StudyRun(node_of(pacs), night.data, ROWS, GIVEN)
    again.release_to(store.node)
    there = store.contents()
    assert all(b"PACSIFIER_NEW" in there[name] for name in images(there)) and MANIFEST in there
    is_true(there)


def test_back_to_the_folder_no_manifest_of_the_store_stays(
    store: Elsewhere, night: StudyRun, pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    night.release_to(store.node)
    released = night.folder("released")
    more = series("12012", "Schnuerpel^Zebedaeus", n_images=2, series_number=3, study_date=DAY)
    with serving([*FIRST, *SECOND, *more], tmp_path / "more") as larger:
        again = StudyRun(node_of(larger), night.data, ROWS, {"source": "local"})
        again.make()
        again.release()
        assert steps.report(again.run).verdict == COMPLETE
        there = files_in(released)
        assert len(images(there)) == 7 and MANIFEST not in there
        assert len(images(newly_released(again.run).read_text().splitlines())) == 7
        third = StudyRun(node_of(larger), night.data, ROWS, GIVEN)
        third.make()
        third.release_to(store.node)
    assert steps.report(third.run).verdict == COMPLETE
    assert len(images(store.contents())) == 7
    is_true(store.contents())
    is_true(files_in(released))


def test_what_the_store_loses_while_a_release_lasts_keeps_the_manifest_away(
    store: Elsewhere, night: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first images of a large release are confirmed days before the last ones."""
    send(night, store.node, begin(night, store.node))
    store.drop(images(store.contents())[0])
    with monkeypatch.context() as patch, pytest.raises(DestinationRefused, match="1 of the images"):
        patch.setattr(upload, "LONG", dt.timedelta())
        finish(night, store.node)
    assert MANIFEST not in store.contents() and "dataset.json" not in store.contents()
    with pytest.raises(NotApproved):
        release(night.run)
    night.send_to_store(store.node)
    release(night.run)
    assert len(images(store.contents())) == 5
    is_true(store.contents())


def test_no_image_comes_to_lie_in_the_data_set_of_another_project(
    store: Elsewhere, night: StudyRun, pacs: EmbeddedPacs
) -> None:
    night.release_to(store.node)
    for name in images(store.contents()):
        store.drop(name)  # here both projects make the same names
    left = store.contents()
    alien = StudyRun(node_of(pacs), night.data, [{"PatientID": "80082"}], {**GIVEN, "project": "q"})
    alien.make()
    steps.check(alien.run)
    alien.approve()
    with pytest.raises(PacsError, match="another data set"):
        alien.send_to_store(store.node)
    assert store.contents() == left


def test_an_upload_into_the_folder_of_a_release_does_not_replace_its_manifest(
    store: Elsewhere, night: StudyRun, pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    """Of another folder; and of the images of the release itself, whose manifest would list no tables."""
    night.release_to(store.node)
    before = store.contents()
    write(series("A"), tmp_path / "another")
    for folder in (tmp_path / "another", night.folder("released")):
        request = UploadRequest(folder, tmp_path / "log", allow_empty=True)
        with pytest.raises(DestinationRefused, match="another data set"):
            upload.prepare(Run.fresh(), request, store.node)
    assert store.contents() == before
    again = StudyRun(node_of(pacs), night.data, ROWS, GIVEN)
    again.make()
    again.release_to(store.node)
    assert store.contents() == before
    is_true(store.contents())


def test_cancelled_between_two_files_only_the_rest_is_sent_again(night: StudyRun, tmp_path: Path) -> None:
    stage = stage_run(night.run, RELEASE_TO)
    (tmp_path / "place").mkdir()
    with ExitStack() as stack:
        place = started("s3", tmp_path / "place", stack)

        def sent(size: int) -> None:
            if len(images(place.contents())) == 2:
                approvals.cancel(night.run, 0, "anna")  # of the study, as its page does

        def cancelled() -> bool:
            return approvals.cancellation(stage) is not None

        units = begin(night, place.node)
        with pytest.raises(Cancelled), upload.Sending(stage, place.node, cancelled, sent) as sending:
            sending.units(units)
        account = upload.report(stage, lambda: place.node)
        totals = account.totals()
        assert account.verdict == approvals.CANCELLED and (totals["received"], totals["missing"]) == (2, 3)
        half = place.contents()
        assert len(half) == len(images(half)) == 2, "no manifest, no tables, nothing unfinished"
        with pytest.raises(NotApproved):
            release(night.run)
        assert steps.report(night.run).released is None

        approvals.begin_again(night.run, 1)  # as when the run is cleared
        night.send_to_store(place.node)
        release(night.run)
        again = json.loads((stage.folder / "accounts.json").read_text())["totals"]
        assert (again["present"], again["received"]) == (2, 3)
        there = place.contents()
    assert half.items() <= there.items() and len(images(there)) == 5 and MANIFEST in there
    is_true(there)


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("s3", {"root": "s3://no-such-bucket/x"}, "release_to: store: the bucket is not there"),
        ("sftp", {"root": "/nowhere/at/all"}, "release_to: trusted: root is not there"),
        ("sftp", {}, "release_to: trusted: the server gives no permission"),
        ("folder", {"path": "/nowhere/at/all"}, "release_to: share: path is no folder"),
    ],
)
def test_a_store_that_takes_nothing_is_told_before_anything_is_fetched(
    kind: str, change: dict[str, Any], told: str, pacs: EmbeddedPacs, data: Path, tmp_path: Path
) -> None:
    """A folder that is not there, and a server where we may only read: nobody has to approve first to learn of it."""
    night = StudyRun(node_of(pacs), data, ROWS, GIVEN)
    with ExitStack() as stack:
        if kind == "sftp" and not change:
            if missing := missing_sshd():
                pytest.skip(missing)
            node: Node = sftp_node(stack.enter_context(running(Sshd(tmp_path / "sshd", flags=("-R",)))))
        else:
            (tmp_path / "place").mkdir()
            node = replace(started(kind, tmp_path / "place", stack).node, **change)
        with pytest.raises(DestinationRefused, match=told):
            steps.check_store(night.study, node)


def test_a_store_that_is_down_costs_its_release_and_not_the_night(
    store: Elsewhere, night: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(self: Folder, stack: object) -> None:
        raise PacsUnreachable("share: does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "connect", down)
        with pytest.raises(PacsUnreachable):  # it has never answered, so its address may be wrong
            steps.check_store(night.study, store.node)
    night.release_to(store.node)
    before = store.contents()
    assert steps.check_store(night.study, store.node) == "" and store.contents() == before
    monkeypatch.setattr(Folder, "connect", down)
    assert steps.check_store(night.study, store.node) == "share: does not answer"
    nobody = StudyRun(night.node, night.data, ROWS, {**GIVEN, "release": "nobody"})
    assert steps.check_store(nobody.study, store.node) == ""


def test_a_study_that_goes_over_to_a_store_keeps_the_name_of_what_it_uploads(
    store: Elsewhere, other: Elsewhere, night: StudyRun, pacs: EmbeddedPacs
) -> None:
    """Then the files of `released/` lie elsewhere, and still it is the same upload."""
    first = StudyRun(node_of(pacs), night.data, ROWS, {"source": "local", "upload": "other"})
    first.release()
    first.upload(other.node)
    before = other.contents()
    again = StudyRun(node_of(pacs), night.data, ROWS, {**GIVEN, "upload": "other"})
    again.release_to(store.node)
    again.upload(other.node)
    assert other.contents() == before and MANIFEST in before and MANIFEST in store.contents()


def test_what_left_is_in_the_audit_file_also_where_the_manifest_cannot_be_put(
    store: Elsewhere, night: StudyRun, state_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(self: FileStore, manifest: Path) -> None:
        raise DestinationRefused("no more room for tables")

    with monkeypatch.context() as patch, pytest.raises(DestinationRefused):
        patch.setattr(FileStore, "finish", refusing)
        night.release_to(store.node)
    (line,) = exported(state_root)
    assert (line["objects"], line["verdict"]) == (5, INCOMPLETE)


@pytest.mark.parametrize("name", ["de-identified", "released", ""])
def test_a_folder_of_the_study_itself_is_no_store(name: str, night: StudyRun) -> None:
    """Each file would be there already, and confirm itself; and the manifest would come to lie in the data set."""
    place = night.folder(name)
    place.mkdir(exist_ok=True)
    with pytest.raises(DestinationRefused, match="folder of the study itself"):
        night.release_to(FolderNode("share", path=str(place), retry_wait=0.01))
    assert not list(night.folder("").rglob(MANIFEST)) and released_of(night.run) is None


def test_what_a_kill_leaves_of_the_first_step_goes_with_the_next(
    store: Elsewhere, night: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: FileStore, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Folder, "remove", killed)
        night.release_to(store.node)
    assert [name for name in store.contents() if name.startswith(UNFINISHED)]
    again = StudyRun(night.node, night.data, ROWS, GIVEN)
    again.release_to(store.node)
    assert not [name for name in store.contents() if name.startswith(UNFINISHED)]
