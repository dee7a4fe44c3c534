"""A night without anything new reads no image, and one with new images reads these; what has changed is found."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from csv import reader
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base import durable
from pacsifier_ops.base.errors import NotApproved
from pacsifier_ops.base.files import read_json
from pacsifier_ops.deid.run import QUARANTINED, series_of, store_of
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.folder import stage_run
from pacsifier_ops.state import facts
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.tree import Tree
from pacsifier_ops.study import chain, closing, release, steps
from pacsifier_ops.study.run import DICOMDIR, NOTHING_NEW, UPLOAD
from tests.support.embedded import node_of, series, serving
from tests.support.opens import opened
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive


def images_read(work: Callable[[], object]) -> list[Path]:
    """Images that Python opens during the work."""
    return [path for path in opened(work) if path.suffix == ".dcm"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root; files count as settled at once."""
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(series("ZQX-1", n_images=3) + series("ZQX-2", n_images=2), tmp_path / "images") as running:
        yield running


@pytest.fixture
def research(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(folder=tmp_path / "research") as running:
        yield running


def gate_of(run: StudyRun) -> tuple[int, int]:
    """Files that were searched before the release, and files that were read for it."""
    found = read_json(run.run.folder / "gate.json")
    return found["searched"], found["read"]


def night(pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, **given: Any) -> StudyRun:
    rows = [{"PatientID": "ZQX-1"}, {"PatientID": "ZQX-2"}]
    given = {"upload": "research", "karnak": "gateway", "album_name": "a", "remove_identified": "keep", **given}
    run = StudyRun(node_of(pacs), root, rows, given)
    run.make()
    run.release()
    run.upload(node_of(research))
    steps.report(run.run)
    return run


def test_a_night_without_anything_new_reads_no_image(pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path) -> None:
    first = night(pacs, research, root)
    runs: list[StudyRun] = []
    assert images_read(lambda: runs.append(night(pacs, research, root))) == []
    assert release.stock_of(runs[0].run) == release.stock_of(first.run)
    assert [gate_of(one) for one in (first, runs[0])] == [(13, 13), (13, 0)]
    # All are read when somebody asks for it.
    again = images_read(lambda: night(pacs, research, root, verify="all"))
    assert {path for path in again if "released" in path.parts} == set(first.folder("released").rglob("*.dcm"))
    assert set(again) >= set(first.folder("identified").rglob("*.dcm"))


def test_a_night_with_news_reads_these(pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, tmp_path: Path) -> None:
    first = night(pacs, research, root)
    night(pacs, research, root)
    before = set(first.folder("").rglob("*.dcm"))
    pacs.add(write(series("ZQX-2", series_number=7, n_images=2), tmp_path / "new"))
    read = set(images_read(lambda: night(pacs, research, root)))
    new = set(first.folder("").rglob("*.dcm")) - before
    assert len(new) == 3 * 2 and new <= read
    # There is more to search for: it is searched in what was kept of the files that were there.
    assert not read & before


def test_an_account_that_stands_is_the_one_that_is_made_anew(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_GRANULARITY", 0)
    run = night(pacs, research, root).run
    followed: list[object] = []
    follow = chain.Chain._follow

    def heard(*given: Any) -> None:
        followed.append(1)
        follow(*given)

    monkeypatch.setattr(chain.Chain, "_follow", heard)
    data_set, tree = root / "studies/p/de-identified", Tree.existing(root / "studies/p/identified")
    store = store_of(data_set)
    assert tree and store
    released = sorted((root / "studies/p/released").rglob("*.dcm"))
    fetched = sorted((root / "studies/p/identified").rglob("*.dcm"))

    def quarantine() -> None:
        source = next(iter(series_of(store)))
        item = next(iter(store.settled(source.key).values()))
        store.settle(source.key, replace(item, outcome=QUARANTINED, reason="for a test"), durable=False)

    sent = stage_run(run, UPLOAD)
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: released[0].rename(tmp_path / "released"),
        lambda: fetched[-1].rename(tmp_path / "fetched"),
        quarantine,
        lambda: [path.write_bytes(b"") for path in sent.parts("results")],
        lambda: next((tree.state / "ledger").rglob("*.json")).unlink(),
        lambda: run.part("output").write_bytes(b""),
    ]
    time.sleep(0.02)
    before = closing.close(run).series
    for number, change in enumerate(changes):
        change()
        time.sleep(0.02)
        after = closing.close(run).series
        followed.clear()
        assert closing.close(run).series == after and not followed, number
        forget_facts(data_set)
        assert closing.close(run).series == after and followed, number
        assert (after == before) is (number in (0, 2)), number  # an image that was delivered may be gone here
        before = after


def test_a_changed_file_is_no_part_of_what_was_approved(pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path) -> None:
    first = night(pacs, research, root)
    night(pacs, research, root)
    image = min(first.folder("de-identified").rglob("*.dcm"))
    status, content = image.stat(), bytearray(image.read_bytes())
    content[-1] ^= 1
    run = StudyRun(node_of(pacs), root, [{"PatientID": "ZQX-1"}])
    steps.check(run.run)
    digest = release.stock_of(run.run).digest
    approvals.ask(run.run, approvals.RELEASE, digest)
    approvals.decide(run.run, approvals.RELEASE, digest, approvals.APPROVED, "anna")
    image.write_bytes(content)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(NotApproved):
        release.release(run.run)
    # So it is with what lies in its place already: it is mended.
    content[-1] ^= 1
    image.write_bytes(content)
    steps.check(run.run)
    (there,) = first.folder("released").rglob(image.name)
    there.chmod(0o600)
    there.write_bytes(bytes(status.st_size))
    release.release(run.run)
    assert there.read_bytes() == bytes(content)


def file_set(run: StudyRun) -> dict[str, bytes]:
    """Make the DICOM file-set of a run; return its files."""
    folder = run.folder("dicomdir") / run.run.name[-8:]
    shutil.rmtree(folder, ignore_errors=True)
    run.make_file_set()
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_set_reads_nothing_that_the_last_one_has(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, tmp_path: Path
) -> None:
    first = night(pacs, research, root, dicomdir=True)
    file_set(first)
    old = set(first.folder("released").rglob("*.dcm"))
    pacs.add(write(series("ZQX-2", series_number=7, n_images=2), tmp_path / "new"))
    second = night(pacs, research, root, dicomdir=True)
    made: list[dict[str, bytes]] = []
    read = Counter(images_read(lambda: made.append(file_set(second))))
    assert {read[path] for path in old} == {0}
    # It is the one that is made where nothing is known.
    facts.forget_facts(second.folder("released"))
    assert len(made[0]) == 1 + 5 + 2 and file_set(second) == made[0]


@pytest.mark.parametrize("where", ["same time", "restored", "swapped"])
def test_a_file_set_has_no_file_that_was_changed(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, where: str
) -> None:
    first = night(pacs, research, root, dicomdir=True)
    assert len(file_set(first)) == 1 + 5
    one, other = sorted(first.folder("released").rglob("*.dcm"))[:2]
    status, content = one.stat(), bytearray(one.read_bytes())
    one.chmod(0o600)
    if where == "same time":  # what differs is not in the records, and the file looks as it was
        content[-1] ^= 1
        one.write_bytes(content)
        os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif where == "restored":  # the same bytes: it is read, and taken
        one.unlink()
        one.write_bytes(content)
    else:
        one.rename(one.with_name("x"))
        other.rename(one)
        one.with_name("x").rename(other)
    there = len(file_set(first)) - 1
    assert there == {"same time": 4, "restored": 5, "swapped": 3}[where]


def test_the_order_of_series_does_not_tell_which_are_new(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, tmp_path: Path
) -> None:
    for _ in range(3):
        night(pacs, research, root)
    pacs.add(write(series("ZQX-2", series_number=7), tmp_path / "new"))
    pacs.add(write(series("ZQX-2", series_number=8), tmp_path / "newer"))
    run = night(pacs, research, root)
    accounts = [read_json(one.folder / "accounts.json") for one in (run.run, stage_run(run.run, UPLOAD))]
    assert [[one["number"] for one in account["series"]] for account in accounts] == [[1, 2, 3, 4]] * 2
    lines = list(reader(Path(accounts[0]["linker"], "linker.csv").read_text(encoding="utf-8").splitlines()))
    facts.forget_facts(run.folder("identified"))
    steps.check(night(pacs, research, root, verify="all").run)
    again = list(reader(Path(accounts[0]["linker"], "linker.csv").read_text(encoding="utf-8").splitlines()))
    assert again == lines


def released(run: StudyRun) -> release.Released:
    found = release.released_of(run.run)
    assert found is not None
    return found


def wants_file_set(run: StudyRun) -> bool:
    return release.may_hand_over(run.run, DICOMDIR)


def test_a_file_set_that_failed_is_made_in_the_next_night(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, tmp_path: Path
) -> None:
    first = night(pacs, research, root, dicomdir=True)
    assert wants_file_set(first)
    first.make_file_set()
    steps.report(first.run)
    second = night(pacs, research, root, dicomdir=True)
    assert not wants_file_set(second)
    assert closing.close(second.run).stage(DICOMDIR).verdict == NOTHING_NEW
    pacs.add(write(series("ZQX-2", series_number=7, n_images=2), tmp_path / "new"))
    third = night(pacs, research, root, dicomdir=True)  # its file-set fails
    assert wants_file_set(third)
    fourth = night(pacs, research, root, dicomdir=True)
    assert released(fourth).new == 0 and wants_file_set(fourth)
    fourth.make_file_set()
    steps.report(fourth.run)
    assert not wants_file_set(night(pacs, research, root, dicomdir=True))


def test_a_release_that_was_killed_counts_what_it_had_copied(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"PatientID": "ZQX-1"}, {"PatientID": "ZQX-2"}]
    run = StudyRun(node_of(pacs), root, rows, {"dicomdir": True})
    run.make()
    steps.check(run.run)
    copied, real = list[int](), release._copied

    def killed(*given: Path) -> str:
        copied.append(1)
        if len(copied) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(release, "_copied", killed)
    with pytest.raises(KeyboardInterrupt):
        run.approve_and_release()
    release.release(run.run)
    assert released(run).new == released(run).files


def test_the_list_of_what_may_be_removed_reads_no_file_that_was_just_released(pacs: EmbeddedPacs, root: Path) -> None:
    run = StudyRun(node_of(pacs), root, [{"PatientID": "ZQX-1"}], {"remove_identified": "list"})
    run.make()
    run.release()
    released = set(run.folder("released").rglob("*.dcm"))
    read = images_read(lambda: steps.remove(run.run))
    assert released and not released & set(read)


def test_a_copy_that_changes_before_it_has_its_place_is_copied_again_the_next_night(
    pacs: EmbeddedPacs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(paths: Iterable[Path]) -> None:
        for path in paths:
            if "unfinished" in path.parts:
                status = path.stat()
                path.chmod(0o600)
                with path.open("r+b") as stream:
                    stream.seek(-1, os.SEEK_END)
                    stream.write(b"?")
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def content(name: str) -> dict[str, bytes]:
        folder = runs[0].folder(name)
        return {path.name: path.read_bytes() for path in folder.rglob("*.dcm")}

    runs: list[StudyRun] = []
    for flush in (changed, durable.fsync_files):
        runs.append(StudyRun(node_of(pacs), root, [{"PatientID": "ZQX-1"}, {"PatientID": "ZQX-2"}]))
        runs[-1].make()
        with monkeypatch.context() as patched:
            patched.setattr(durable, "fsync_files", flush)
            runs[-1].release()
    assert content("released") == content("de-identified") and len(content("released")) == 5
