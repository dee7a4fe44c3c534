"""Series that a node has confirmed get no task; what has changed is sent, or looked at again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import TreeError
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state import facts
from pacsifier_ops.state.approved import Approved, approve
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import CONVERTING, Tree, write_marker
from pacsifier_ops.upload import steps
from pacsifier_ops.upload.nodes import FolderNode
from pacsifier_ops.upload.run import UploadRequest
from tests.support.embedded import node_of, series
from tests.support.texts import text, text_during_scan

pytestmark = pytest.mark.archive


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(folder=tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of two series, whose files count as settled at once."""
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    root = Tree.open(tmp_path / "upload").root
    for number in (1, 2):
        write(series("ZQX-1", series_number=number, n_images=2), root / str(number))
    return root


def upload(node: PacsNode | FolderNode, folder: Path, **request: Any) -> tuple[RunAccount, int]:
    """A whole run; returns its account, and the number of its units that were worked on."""
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log", **request), node)
    with steps.Sending(run, node) as sending:
        sending.units(units)
    return steps.report(run, lambda: node), len(units)


def touched(folder: Path) -> None:
    os.utime(min(folder.rglob("*.dcm")))


def changed(folder: Path) -> None:
    path = min(folder.rglob("*.dcm"))
    image = dcmread(path)
    image.PatientComments = "changed"
    image.save_as(path)


def unknown(folder: Path) -> None:
    min((settings.state_root() / "delivered").rglob("*.jsonl")).unlink()


CHANGES: dict[str, tuple[int, int, Callable[[Path], object]]] = {
    "nothing": (0, 0, lambda folder: None),
    "a file is touched": (1, 0, touched),
    "a file changes": (1, 1, changed),
    "a file goes": (1, 0, lambda folder: min(folder.rglob("*.dcm")).unlink()),
    "what was confirmed is forgotten": (1, 2, unknown),
    "all is to be read again": (2, 0, forget_facts),
}


@pytest.mark.parametrize(("units", "sent", "change"), CHANGES.values(), ids=list(CHANGES))
def test_what_has_changed_is_looked_at_again(
    pacs: EmbeddedPacs, folder: Path, units: int, sent: int, change: Callable[[Path], object]
) -> None:
    worked_on = [upload(node_of(pacs), folder)[1] for _ in range(3)]
    assert worked_on == [2, 2, 0]
    change(folder)
    account, number = upload(node_of(pacs), folder)
    files = len(list(folder.rglob("*.dcm")))
    totals = account.totals()
    assert (account.verdict, number, totals["received"]) == ("complete", units, sent)
    assert totals["present"] + totals["received"] == totals["expected"] == files
    assert [one.number for one in account.series] == [1, 2]


def test_another_request_or_node_sends(pacs: EmbeddedPacs, folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        upload(node_of(pacs), folder)
    assert upload(node_of(pacs), folder, resend=True)[0].totals()["received"] == 4
    with EmbeddedPacs(folder=tmp_path / "other") as other:
        account, units = upload(node_of(other), folder)
        assert (account.totals()["received"], units) == (4, 2)
    assert upload(node_of(pacs), folder)[1] == 2  # what was confirmed has a new time


def test_a_store_is_asked_for_what_it_has(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    node = FolderNode("store", str(store))
    for _ in range(3):
        upload(node, folder)
    min(store.rglob("*.dcm")).unlink()
    account, units = upload(node, folder)
    assert (account.totals()["received"], units) == (1, 2)


def list_all(folder: Path, *without: Path) -> None:
    """Write the list of what may leave the folder."""
    paths = [path for path in sorted(folder.rglob("*.dcm")) if path not in without]
    approve(folder, ({"path": str(path.relative_to(folder)), "sha256": digest(path)} for path in paths))


def without_one(folder: Path) -> None:
    list_all(folder, min(folder.rglob("*.dcm")))


PLANS: dict[str, tuple[int, int, Callable[[Path], object]]] = {
    "nothing": (0, 4, lambda folder: None),
    "a text comes to the logs": (0, 4, lambda folder: text(folder / "logs" / "b.csv")),
    "the report of a run is written": (0, 4, lambda folder: text(folder / "report" / "report.csv")),
    "a text comes elsewhere": (1, 4, lambda folder: text(folder / "c.csv")),
    "a file is touched": (1, 4, touched),
    "a file goes": (1, 3, lambda folder: min(folder.rglob("*.dcm")).unlink()),
    "the list is another": (1, 3, without_one),
    "what was confirmed is forgotten": (1, 4, unknown),
    "all is to be read again": (1, 4, forget_facts),
}


@pytest.mark.parametrize(("looks", "objects", "change"), PLANS.values(), ids=list(PLANS))
def test_a_night_like_the_one_before_looks_at_no_file(
    pacs: EmbeddedPacs,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    looks: int,
    objects: int,
    change: Callable[[Path], object],
) -> None:
    text(folder / "logs" / "a.csv")
    list_all(folder)
    for _ in range(2):
        before, _ = upload(node_of(pacs), folder)
    counted: list[Path] = []
    read = steps.approved_of

    def listed(given: Path) -> Approved | None:
        counted.append(given)
        return read(given)

    monkeypatch.setattr(steps, "approved_of", listed)
    same, units = upload(node_of(pacs), folder)
    assert (counted, units) == ([], 0)
    assert [vars(one) | {"seconds": 0.0} for one in same.series] == [
        vars(one) | {"seconds": 0.0} for one in before.series
    ]
    assert same.passed_over == before.passed_over
    change(folder)
    account, _ = upload(node_of(pacs), folder)
    totals = account.totals()
    assert len(counted) == looks and totals["present"] + totals["received"] == objects
    assert account.passed_over["not DICOM"] == len(list(folder.rglob("*.csv")))


def test_what_cannot_be_sent_is_told_in_each_night(pacs: EmbeddedPacs, folder: Path) -> None:
    list_all(folder)
    shutil.copy(min(folder.rglob("*.dcm")), folder / "another.dcm")
    verdicts = [upload(node_of(pacs), folder)[0] for _ in range(3)]
    assert [(one.verdict, len(one.bad_files)) for one in verdicts] == [("incomplete", 1)] * 3


def test_a_folder_in_it_that_is_half_de_identified_is_refused(pacs: EmbeddedPacs, folder: Path) -> None:
    list_all(folder)
    for _ in range(3):
        upload(node_of(pacs), folder)
    (folder / "1" / ".pacsifier").mkdir()
    write_marker(folder / "1", {"state": CONVERTING})
    with pytest.raises(TreeError):
        upload(node_of(pacs), folder)


def test_a_text_that_comes_during_the_scan_is_counted_once(pacs: EmbeddedPacs, folder: Path) -> None:
    list_all(folder)
    upload(node_of(pacs), folder)
    with text_during_scan(folder):
        upload(node_of(pacs), folder)
    for _ in range(2):
        assert upload(node_of(pacs), folder)[0].passed_over == {"not DICOM": 1}


def test_what_another_run_has_sent_meanwhile_is_sent_again(pacs: EmbeddedPacs, folder: Path, tmp_path: Path) -> None:
    list_all(folder)
    upload(node_of(pacs), folder)
    run, node = Run.fresh(), node_of(pacs)
    units = steps.prepare(run, UploadRequest(folder, tmp_path / "log"), node)
    with steps.Sending(run, node) as sending:
        sending.units(units)
    other = Tree.open(tmp_path / "other").root
    shutil.copytree(folder / "1", other / "1")
    changed(other)
    upload(node, other)
    assert steps.report(run, lambda: node).totals()["present"] == 4
    assert upload(node, folder)[0].totals()["received"] == 1
