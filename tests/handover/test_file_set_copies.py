"""File-sets of a released folder share what stays the same, and each is the one that is made without the others."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.handover import copies, dicomdir
from pacsifier_ops.handover.dicomdir import DicomdirRequest
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state import facts
from pacsifier_ops.state.approved import LISTED, approve
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import DEIDENTIFIED, begin
from tests.support.kills import killed
from tests.support.opens import opened


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once."""
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A released folder with two patients of three images."""
    folder = tmp_path / "released"
    folder.mkdir()
    begin(folder, {"state": DEIDENTIFIED, LISTED: True}, "the folder")
    add(folder, "B-2")
    add(folder, "D-4")
    return folder


def add(folder: Path, patient: str, count: int = 3) -> list[Path]:
    """Release images of a patient."""
    images = phantom_series(patient_id=patient, patient_name="Phantom^Test", n_images=count, rows=4, columns=4)
    new = write(images, folder / patient)
    release(folder)
    return new


def release(folder: Path) -> None:
    listed = sorted(folder.rglob("*.dcm"))
    approve(folder, [{"path": str(path.relative_to(folder)), "sha256": digest(path)} for path in listed])


def make(source: Path, target: Path, verdict: str = COMPLETE, **more: Any) -> Path:
    """Make a file-set."""
    run = Run.fresh()
    for unit in dicomdir.prepare(run, DicomdirRequest(source, target, **more)):
        dicomdir.copy(run, unit)
    dicomdir.assemble(run)
    assert dicomdir.report(run).verdict == verdict
    return target


def alone(source: Path, target: Path) -> dict[str, bytes]:
    """Return the content of the file-set that is made where nothing is known."""
    facts.forget_facts(source)
    return contents(make(source, target))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_inode(folder: Path) -> dict[int, Path]:
    return {path.stat().st_ino: path for path in folder.rglob("IM*")}


@contextmanager
def changed(path: Path) -> Iterator[os.stat_result]:
    """Make a read-only file writable meanwhile, and give it back its mode and its time."""
    status = path.stat()
    path.chmod(0o600)
    yield status
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_second_file_set_copies_only_what_is_new_under_new_names(released: Path, tmp_path: Path) -> None:
    first = make(released, tmp_path / "one")
    new = add(released, "A-1", 2)  # a patient before the others: all names change
    made: list[Path] = []
    read = opened(lambda: made.append(make(released, tmp_path / "two")))
    assert {path for path in read if path.suffix == ".dcm"} == set(new)
    assert not [path for path in read if first in path.parents]
    shared = by_inode(first).keys() & by_inode(made[0]).keys()
    assert len(shared) == 6 and len(by_inode(made[0])) == 8
    assert all(path.stat().st_mode & 0o222 == 0 for path in made[0].rglob("IM*"))
    shutil.rmtree(first)
    said = subprocess.run(["dciodvfy", made[0] / "DICOMDIR"], capture_output=True, text=True, errors="replace")
    assert "Error" not in said.stderr + said.stdout
    assert contents(made[0]) == alone(released, tmp_path / "alone")


def test_again_into_the_same_folder_nothing_is_copied(released: Path, tmp_path: Path) -> None:
    first = make(released, tmp_path / "one")
    before = contents(first), by_inode(first)
    read = opened(lambda: make(released, first))
    assert not [path for path in read if path.suffix == ".dcm"]
    assert (contents(first), by_inode(first)) == before


@pytest.mark.parametrize("how", ["same time", "swapped", "link", "mode", "gone", "cut"])
def test_an_earlier_copy_that_was_changed_is_not_shared(released: Path, tmp_path: Path, how: str) -> None:
    first = make(released, tmp_path / "one")
    one, other, *_ = sorted(first.rglob("IM*"))
    if how == "same time":
        with changed(one) as status, one.open("r+b") as stream:
            stream.seek(status.st_size - 1)
            stream.write(b"\7")
    elif how == "swapped":
        one.unlink()
        os.link(other, one)
    elif how == "link":
        one.rename(tmp_path / "aside")
        one.symlink_to(tmp_path / "aside")
    elif how == "mode":
        one.chmod(0o666)
    elif how == "gone":
        one.unlink()
    else:
        one.chmod(0o600)
        one.write_bytes(one.read_bytes()[:-2])
    second = make(released, tmp_path / "two")
    assert len(by_inode(first).keys() & by_inode(second).keys()) == 5
    assert not [path for path in second.rglob("IM*") if path.is_symlink() or path.stat().st_mode & 0o222]
    assert contents(second) == alone(released, tmp_path / "alone")


def test_copies_whose_other_names_were_removed_are_read_and_shared(released: Path, tmp_path: Path) -> None:
    first = make(released, tmp_path / "one")
    second = make(released, tmp_path / "two")
    shutil.rmtree(first)  # changes the change times of what is shared
    before = by_inode(second)
    made: list[Path] = []
    read = opened(lambda: made.append(make(released, tmp_path / "three")))
    assert set(before.values()) <= set(read) and not [path for path in read if path.suffix == ".dcm"]
    assert by_inode(made[0]).keys() == before.keys()
    assert contents(made[0]) == alone(released, tmp_path / "alone")


def test_where_there_are_no_links_files_are_copied(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(released, tmp_path / "one")

    def refused(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    second = make(released, tmp_path / "two")
    assert not by_inode(first).keys() & by_inode(second).keys() and contents(first) == contents(second)


def test_after_some_days_all_files_are_copied_anew(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(released, tmp_path / "one")
    monkeypatch.setenv("PACSIFIER_VERIFY_DAYS", "0")
    assert not by_inode(first).keys() & by_inode(make(released, tmp_path / "two")).keys()


def test_a_released_file_that_changes_after_the_list_was_made_is_no_part(released: Path, tmp_path: Path) -> None:
    make(released, tmp_path / "one")
    run = Run.fresh()
    units = dicomdir.prepare(run, DicomdirRequest(released, tmp_path / "two"))
    one, other, *_ = sorted(released.rglob("*.dcm"))
    one.write_bytes(one.read_bytes()[:-2])
    other.unlink()
    for unit in units:
        dicomdir.copy(run, unit)
    dicomdir.assemble(run)
    account = dicomdir.report(run)
    assert account.verdict == INCOMPLETE
    assert sorted(reason for _, reason in account.problems) == [
        "it cannot be read: No such file or directory",
        copies.CHANGED,
    ]
    assert len(by_inode(tmp_path / "two")) == 4


def test_killed_while_it_links_and_run_again_the_file_set_is_whole(released: Path, tmp_path: Path) -> None:
    new = add(released, "A-1", 2)
    wanted = alone(released, tmp_path / "alone")
    shutil.rmtree(new[0].parent)
    release(released)
    first = make(released, tmp_path / "one")
    before = contents(first)
    add(released, "A-1", 2)
    for after in (14, 20, 26, 32):
        assert killed(lambda: make(released, tmp_path / "two"), after)
        assert contents(first) == before
    two = make(released, tmp_path / "two")
    assert contents(two) == wanted and len(by_inode(first).keys() & by_inode(two).keys()) == 6


def test_a_folder_that_nobody_has_released_shares_nothing(released: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(released, own)
    shutil.rmtree(own / ".pacsifier")
    one, two = make(own, tmp_path / "one"), make(own, tmp_path / "two")
    assert not by_inode(one).keys() & by_inode(two).keys()
    assert all(path.stat().st_mode & 0o200 for path in two.rglob("IM*"))


def test_volumes_share_their_files_too(released: Path, tmp_path: Path) -> None:
    one = make(released, tmp_path / "one", volume_size=1000, zip=True)
    two = make(released, tmp_path / "two", volume_size=1000, zip=True)
    assert by_inode(one).keys() == by_inode(two).keys() and contents(one) == contents(two)


def test_a_damaged_copy_is_replaced_and_not_written_into(released: Path, tmp_path: Path) -> None:
    first, second = make(released, tmp_path / "one"), make(released, tmp_path / "two")
    wanted = contents(second)
    torn = sorted(second.rglob("IM*"))[0]
    torn.chmod(0o600)
    with torn.open("r+b") as stream:
        stream.truncate(torn.stat().st_size - 2)
    torn.chmod(0o444)
    damaged = contents(first)
    assert contents(make(released, second)) == wanted and contents(first) == damaged
