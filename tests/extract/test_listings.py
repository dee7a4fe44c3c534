"""The archive lists again only series that may have changed; what has changed is found."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from pacsifier_ops.archive.find import Expectation, Finder
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.files import read_json, write_json
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.retrieve import Transfer
from pacsifier_ops.runs.accounts import RunAccount
from pacsifier_ops.state import facts, listings, standing
from pacsifier_ops.state.facts import facts_folder, forget_facts
from pacsifier_ops.state.tree import state_folder
from tests.support.embedded import extract, node_of, planned_run, series

pytestmark = pytest.mark.archive

Night = Callable[..., tuple[RunAccount, int]]


class Archive:
    """An archive whose content can be exchanged. It keeps its address."""

    def __init__(self, folder: Path) -> None:
        self.images: list[Dataset] = []
        self._folder, self._pacs = folder, EmbeddedPacs()

    @property
    def node(self) -> PacsNode:
        return node_of(self._pacs)

    def hold(self, images: list[Dataset]) -> None:
        """Hold these images and no others."""
        self.stop()
        self.images = images
        self._pacs = EmbeddedPacs(port=self._pacs.port)
        self._pacs.add(write(images, self._folder))
        self._pacs.start()

    def stop(self) -> None:
        self._pacs.stop()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    held = Archive(tmp_path / "images")
    held.hold(series("ZQX-1", n_images=3) + series("ZQX-1", series_number=2, n_images=2))
    yield held
    held.stop()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(params=[False, True], ids=["looked at", "standing"])
def stands(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether series stand after the first night: nights have passed, and files count as settled at once."""
    if request.param:
        monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    return bool(request.param)


@pytest.fixture
def night(archive: Archive, out: Path, stands: bool, monkeypatch: pytest.MonkeyPatch) -> Night:
    """A run into the folder of the one before. Returns its account, and how many series the archive was to list."""
    listed = 0
    more = [stands, stands]
    ask = Finder.expectation

    def asking(self: Finder, study_uid: str, series_uid: str, count: int | None) -> Expectation:
        nonlocal listed
        listed += 1
        return ask(self, study_uid, series_uid, count)

    monkeypatch.setattr(Finder, "expectation", asking)

    def work(verify: str = "changed") -> tuple[RunAccount, int]:
        nonlocal listed
        listed = 0
        account, asked = extract(archive.node, [{"PatientID": "ZQX-1"}], out, verify=verify), listed
        while more and more.pop():
            work()
        return account, asked

    return work


def test_a_night_without_news_lists_nothing(night: Night, archive: Archive, out: Path, stands: bool) -> None:
    first, asked = night()
    assert (first.verdict, asked, first.totals()["received"]) == ("complete", 2, 5)
    again, asked = night()
    assert (again.verdict, asked) == ("complete", 0)
    totals = again.totals()
    assert [totals[name] for name in ("expected", "present", "received", "missing")] == [5, 5, 0, 0]
    run, units = planned_run(archive.node, [{"PatientID": "ZQX-1"}], out, verify="changed")
    assert (units == []) == stands
    assert [account.present for account in steps.report(run).series] == ([3, 2] if stands else [0, 0])
    # A run by hand takes nothing for granted, and neither does one that is to verify all.
    assert night(verify="all")[1] == 2


def test_what_is_new_or_gone_is_found(night: Night, archive: Archive, out: Path) -> None:
    night()
    more = series("ZQX-1", n_images=4)  # one more than before in the first series
    archive.hold(more + archive.images[3:])
    account, asked = night()
    assert (account.verdict, asked, account.totals()["received"]) == ("complete", 1, 1)
    assert night()[1] == 0
    # The archive has lost one.
    archive.hold(more[:3] + archive.images[4:])
    account, asked = night()
    assert asked == 1 and account.verdict == "incomplete" and account.totals()["unverifiable"] == 1
    assert night()[1] == 1  # and is asked as long as it differs
    archive.hold(more + archive.images[3:])
    # A file is gone, changed, or lies in another folder.
    (one, other, *_) = sorted(out.rglob("*.dcm"))
    one.unlink()
    other.write_bytes(b"x" + other.read_bytes()[1:])
    account, asked = night()
    assert (account.verdict, account.totals()["received"]) == ("complete", 2) and asked > 0
    folder = one.parent
    folder.rename(folder.with_name("moved"))
    account, asked = night()
    assert account.verdict == "complete" and asked > 0 and one.exists()


def test_an_exchanged_instance_is_found_when_all_is_listed(
    night: Night, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    night()
    changed = [*archive.images]
    changed[0].SOPInstanceUID = changed[0].file_meta.MediaStorageSOPInstanceUID = "2.25.77"
    archive.hold(changed)
    assert night()[1] == 0  # the number is the same
    real = listings.time.time
    monkeypatch.setattr(listings.time, "time", lambda: real() + 31 * 86400)
    account, asked = night()
    assert asked == 2 and account.totals()["received"] == 1 and account.totals()["unverifiable"] == 1


@pytest.mark.parametrize("how", ["clock", "damaged", "half", "of another series", "forgotten", "no days"])
def test_what_is_kept_is_not_believed_where_it_may_be_wrong(
    night: Night, out: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    night()
    one, other = sorted((facts_folder(out) / "listed").iterdir())
    asked = 1
    if how == "clock":  # what was kept is of tomorrow
        real = listings.time.time
        monkeypatch.setattr(listings.time, "time", lambda: real() - 86400)
        asked = 2
    elif how == "damaged":
        one.write_bytes(b'{"since": "yesterday", "listing": 1}')
    elif how == "half":
        one.write_bytes(one.read_bytes()[:20])
    elif how == "of another series":
        one.write_bytes(other.read_bytes())
    elif how == "forgotten":
        forget_facts(out)
        asked = 2
    else:
        monkeypatch.setenv("PACSIFIER_VERIFY_DAYS", "0")
        asked = 2
    account, listed = night()
    assert (account.verdict, listed) == ("complete", asked)


def test_another_archive_is_asked(night: Night, archive: Archive) -> None:
    night()
    images, archive._pacs.port = archive.images, 0
    archive.hold(images)
    assert night()[1] == 2


@pytest.mark.parametrize("seen", ["by number", "by a run that lists all"])
def test_a_list_that_could_not_be_fetched_is_not_forgotten(
    night: Night, archive: Archive, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    night()
    before = archive.images
    (new,) = series("ZQX-1", n_images=4)[3:]
    exchanged = [new, *before[1:]]  # as many as before
    archive.hold([new, *before] if seen == "by number" else exchanged)
    with monkeypatch.context() as silent:
        silent.setattr(Transfer, "_fetch", lambda *_: None)  # the new one does not come
        account, _ = night("changed" if seen == "by number" else "all")
    assert (account.verdict, account.totals()["missing"]) == ("incomplete", 1)
    archive.hold(exchanged)
    account, asked = night()
    assert asked == 1 and account.totals()["received"] == 1 and account.totals()["unverifiable"] == 1


@pytest.mark.parametrize("days", [2, -2])
def test_numbers_of_a_run_that_waited_for_days_are_not_believed(
    night: Night, archive: Archive, out: Path, stands: bool, days: int
) -> None:
    night()
    run, units = planned_run(archive.node, [{"PatientID": "ZQX-1"}], out, verify="changed")
    request = read_json(run.folder / "request.json")
    began = dt.datetime.fromisoformat(request["started"]) - dt.timedelta(days=days)
    write_json(run.folder / "request.json", {**request, "started": began.isoformat()})
    archive.hold(series("ZQX-1", n_images=4) + archive.images[3:])  # one more, meanwhile
    for unit in units:
        steps.retrieve(run, archive.node, unit)
    account = steps.report(run)
    assert (account.verdict, account.totals()["received"]) == ("complete", 0 if stands else 1)
    if stands:  # a series that stands is as it was when the run was planned
        assert night()[0].totals()["received"] == 1


@pytest.fixture
def stand(archive: Archive, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two series stand."""
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    for _ in range(2):
        extract(archive.node, [{"PatientID": "ZQX-1", "new_ids": "P7"}], out, verify="changed", info=True)


def same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"x" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def gone(paths: Iterable[Path], number: int = 1) -> None:
    for path in sorted(paths)[:number]:
        path.unlink()


def described(archive: Archive) -> None:
    """The archive says something else of one series, and the number of its instances is the same."""
    for image in archive.images[:3]:
        image.SeriesDescription = "corrected"
    archive.hold(archive.images)


ROW = {"PatientID": "ZQX-1", "new_ids": "P7"}
CHANGES: dict[str, tuple[int, Callable[[Archive, Path], object]]] = {
    "nothing": (0, lambda archive, out: None),
    "an image is gone": (1, lambda archive, out: gone(out.rglob("*.dcm"))),
    "an image changes, not its size and time": (1, lambda archive, out: same_size_and_time(min(out.rglob("*.dcm")))),
    "a file comes": (1, lambda archive, out: (min(out.rglob("*.dcm")).parent / "notes.txt").write_text("")),
    "a folder is gone": (1, lambda archive, out: shutil.rmtree(min(out.rglob("*.dcm")).parent)),
    "a ledger is gone": (1, lambda archive, out: gone((state_folder(out) / "ledger").rglob("*.json"))),
    "the state is gone": (2, lambda archive, out: shutil.rmtree(facts_folder(out))),
    "the pseudonym is gone": (2, lambda archive, out: gone(out.glob("*/new_id.txt"))),
    "a list of the archive is gone": (1, lambda archive, out: gone(facts_folder(out).glob("listed/*"))),
    "the dumps were moved away": (0, lambda archive, out: gone(out.glob("sub-*/**/*.csv"), 2)),
    "the archive describes one otherwise": (1, lambda archive, out: described(archive)),
}


@pytest.mark.usefixtures("stand")
@pytest.mark.parametrize(("units", "change"), CHANGES.values(), ids=list(CHANGES))
def test_what_has_changed_is_looked_at_again(
    archive: Archive, out: Path, units: int, change: Callable[[Archive, Path], object]
) -> None:
    change(archive, out)
    run, found = planned_run(archive.node, [ROW], out, verify="changed", info=True)
    assert len(found) == units
    for unit in found:
        steps.retrieve(run, archive.node, unit)
    account = steps.report(run)
    assert account.verdict == "complete" and not account.discrepancies
    assert [one.number for one in account.series] == [1, 2]
    assert {path.name for path in out.rglob("*.dcm")} == {f"{image.SOPInstanceUID}.dcm" for image in archive.images}


@pytest.mark.usefixtures("stand")
@pytest.mark.parametrize(
    "request_", [{"verify": "all"}, {"refetch": True}, {"info": False}, {"accept_patient_id_of": "archive"}], ids=str
)
def test_another_request_takes_nothing_for_granted(archive: Archive, out: Path, request_: dict[str, Any]) -> None:
    more = {"verify": "changed", "info": True, **request_}
    _, units = planned_run(archive.node, [ROW], out, **more)
    assert len(units) == (0 if "accept_patient_id_of" in request_ else 2)  # of that, nothing depends without images


@pytest.mark.usefixtures("stand")
def test_a_row_with_another_pseudonym_is_looked_at(archive: Archive, out: Path) -> None:
    _, units = planned_run(archive.node, [{**ROW, "new_ids": "P8"}], out, verify="changed", info=True)
    assert len(units) == 2


def test_what_was_fetched_in_the_same_run_or_not_reported_does_not_stand(
    archive: Archive, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    extract(archive.node, [ROW], out, verify="changed")
    run, units = planned_run(archive.node, [ROW], out, verify="changed")
    assert len(units) == 2
    for unit in units:
        steps.retrieve(run, archive.node, unit)
    assert len(planned_run(archive.node, [ROW], out, verify="changed")[1]) == 2  # that run was killed before its report
    one = min(out.rglob("*.dcm"))
    same_size_and_time(one)  # between the work and the report
    steps.report(run)
    assert len(planned_run(archive.node, [ROW], out, verify="changed")[1]) == 1


@pytest.mark.usefixtures("stand")
def test_nothing_stands_in_a_tree_that_cannot_be_read_as_a_whole(
    archive: Archive, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(root: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(standing, "stamps_of", refused)
    assert len(planned_run(archive.node, [ROW], out, verify="changed", info=True)[1]) == 2
