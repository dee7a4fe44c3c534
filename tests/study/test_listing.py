"""The list of a data set is the same whether its folders stand or each file is looked at, and nothing else stands."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base import durable
from pacsifier_ops.base.files import ascii_json, below, name_below, read_jsonl, readable
from pacsifier_ops.runs.folder import Run, never
from pacsifier_ops.state import facts, ledger
from pacsifier_ops.state.approved import Approved, approve, approved_of
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.tree import CONTROL, Tree, state_folder
from pacsifier_ops.study import gate as gates
from pacsifier_ops.study import listing, release, searched
from pacsifier_ops.study.gate import Gate, GateFindings
from pacsifier_ops.study.listing import files_of, parts_of, write_list

FILES = ("a/s1/1.dcm", "a/s1/2.dcm", "a/s2/1.dcm", "a/z.txt", "a-b/s/1.dcm", "b.csv", "a.csv")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(facts, "_GRANULARITY", 0)
    folder = tmp_path / "set"
    Tree.open(folder)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")
    settle()
    return folder


def settle() -> None:
    """Wait until the clock of the file system has gone on: it ticks every few milliseconds."""
    time.sleep(0.02)


def by_file(root: Path) -> str:
    """The list as it is made file by file."""
    entries = (entry for entry, _ in below(root, lambda entry: entry.name == CONTROL))
    return "".join(
        ascii_json(
            {
                "path": readable(name_below(entry.path, root)),
                "size": entry.stat().st_size,
                "sha256": ledger.digest(Path(entry.path)),
            }
        )
        + "\n"
        for entry in entries
        if entry.is_file(follow_symlinks=False)
    )


def listed(root: Path) -> str:
    run = Run.fresh()
    whole, parts = write_list(run, root, never)
    text = run.part(listing.LIST).read_text()
    assert parts == parts_of(run) and whole == ledger.digest(run.part(listing.LIST))
    assert [file["path"] for _, files in files_of(run, parts) for file in files] == [
        json.loads(line)["path"] for line in text.splitlines()
    ]
    assert len({part.folder for part in parts if part.stamp}) == len([part for part in parts if part.stamp])
    return text


def write(name: str, text: str, like: str = "") -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = root / name
        before = path.stat() if like else None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if before:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def swap(one: str, other: str) -> Callable[[Path], object]:
    return lambda root: [(root / a).rename(root / b) for a, b in ((one, "aside"), (other, one), ("aside", other))]


def restore(root: Path) -> None:
    """Another content from a backup: same name, size and times of modification."""
    for path in (root / "a/s1").iterdir():
        before, data = path.stat(), path.read_bytes()
        path.unlink()
        path.write_bytes(data.upper())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda root: None,
    "a file grows": write("a/s1/1.dcm", "a longer text of it"),
    "a file changes, and its size and time stay": write("a/s1/1.dcm", "TEXT OF a/s1/1.dcm", "like"),
    "a folder comes from a backup": restore,
    "two files change places": swap("a/s1/1.dcm", "a/s1/2.dcm"),
    "two folders change places": swap("a/s1", "a/s2"),
    "a file comes": write("a/s1/3.dcm", "new"),
    "a file goes": lambda root: (root / "a/s2/1.dcm").unlink(),
    "a folder comes into a folder of files": write("a/s1/0/1.dcm", "new"),
    "a file comes beside folders": write("a/s15", "new"),
    "a control folder comes": write(f"a/s1/{CONTROL}/1.dcm", "none of it"),
    "a link comes": lambda root: (root / "a/s1/l.dcm").symlink_to(root / "b.csv"),
    "a link to a folder comes": lambda root: (root / "a/s3").symlink_to(root / "a/s1"),
    "a name is no UTF-8": lambda root: Path(os.fsdecode(os.fsencode(root / "a/s1/") + b"/\xff.dcm")).touch(),
    "all goes": lambda root: [(root / name).rename(root.parent / "gone") for name in FILES],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_the_list_is_the_same_as_file_by_file(root: Path, change: Callable[[Path], object]) -> None:
    assert listed(root) == by_file(root)
    change(root)
    assert listed(root) == by_file(root)  # at once
    settle()
    for _ in range(2):
        assert listed(root) == by_file(root)


def test_a_folder_that_is_as_it_was_is_not_looked_into(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = listed(root)
    looked: list[str] = []
    call = facts.Facts.__call__

    def heard(self: Any, path: str, status: Any = None) -> Any:
        looked.append(name_below(path, root))
        return call(self, path, status)

    monkeypatch.setattr(facts.Facts, "__call__", heard)
    assert listed(root) == text
    assert looked == ["a/z.txt", "a.csv", "b.csv"]
    read: list[Path] = []

    def digest(path: Path) -> str:
        read.append(path)
        return ledger.digest(path)

    monkeypatch.setattr(listing, "digest", digest)
    write("a/s1/3.dcm", "new")(root)
    settle()
    listed(root)
    assert [path for path in read if path.suffix == ".dcm"] == [root / "a/s1/3.dcm"]
    forget_facts(root)
    listed(root)
    assert len([path for path in read if root in path.parents]) == 1 + len(FILES) + 1


def test_a_folder_that_changes_while_it_is_listed_does_not_stand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder lies in its place while it is read, and it comes back with the files of before."""
    exchange = swap("a/s2", "other/s")
    write("other/s/1.dcm", "something else")(root)
    settle()

    def digest(path: Path) -> str:
        if path == root / "a/s2/1.dcm":
            exchange(root)
        return ledger.digest(path)

    with monkeypatch.context() as patch:
        patch.setattr(listing, "digest", digest)
        listed(root)
    exchange(root)
    settle()
    assert listed(root) == by_file(root)


# The search


class Read(list[str]):
    """Names of the files that were searched."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    names = Read()
    contents = gates._contents

    def heard(path: Path, name: str, *more: Any) -> Any:
        names.append(name)
        return contents(path, name, *more)

    monkeypatch.setattr(gates, "_contents", heard)
    return names


def gate(names: tuple[str, ...] = (), uids: tuple[str, ...] = (), **dates: list[str]) -> Gate:
    return Gate([(["Erstmann^Ottokar", *names], ["QQ-10001-X"])], uids, ["P1"], dates)


def search(root: Path, of: Gate, between: Callable[[Path], object] = lambda root: None) -> GateFindings:
    run = Run.fresh()
    write_list(run, root, never)
    between(root)
    return of.search_list(run, root)


def folders_asked(monkeypatch: pytest.MonkeyPatch, root: Path, of: Gate) -> set[str]:
    """Folders whose files are looked at one by one."""
    asked: set[str] = set()
    call = searched.Search.__call__

    def heard(self: Any, name: str) -> Any:
        asked.add(name.rpartition("/")[0])
        return call(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(searched.Search, "__call__", heard)
        found = search(root, of)
    assert found.searched == len(by_file(root).splitlines())
    return asked


IMAGES = {"a/s1", "a/s2", "a-b/s"}


def test_a_folder_that_was_found_clean_is_not_looked_into(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folders_asked(monkeypatch, root, gate()) >= IMAGES
    assert folders_asked(monkeypatch, root, gate()) == {"", "a"}


INPUTS: dict[str, Callable[[Path], Gate | None]] = {
    "another name": lambda root: gate(("Wurzelbacher^Kunigunde",)),
    "another UID": lambda root: gate(uids=("1.2.3.4",)),
    "another date": lambda root: gate(a=["19370419"]),
    "one name less": lambda root: Gate([], (), ["P1"]),
    "what was found is forgotten": lambda root: forget_facts(root),
    "another version": lambda root: None,
}


@pytest.mark.parametrize("change", INPUTS.values(), ids=list(INPUTS))
def test_a_search_for_anything_else_looks_into_all_folders(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Gate | None]
) -> None:
    search(root, gate())
    of = change(root) or gate()
    if change is INPUTS["another version"]:
        monkeypatch.setattr("pacsifier_ops.state.standing.__version__", "0")
    assert folders_asked(monkeypatch, root, of) >= IMAGES


@pytest.mark.parametrize(
    "change",
    [
        write("a/s1/1.dcm", "Ottokar Erstmann!!", "like"),
        write("a/s1/3.dcm", "Erstmann^Ottokar"),
        swap("a/s1", "a/dirty"),
    ],
    ids=["a file changes", "a file comes", "another folder in its place"],
)
def test_what_has_changed_is_searched(root: Path, change: Callable[[Path], object]) -> None:
    write("a/dirty/1.dcm", "Erstmann^Ottokar")(root)
    settle()
    assert [path for path, _ in search(root, gate()).blocking] == ["a/dirty/1.dcm"]
    (root / "a/dirty/1.dcm").rename(root.parent / "dirty")
    (root / "a/dirty").rmdir()
    assert not search(root, gate()).blocking
    (root / "a/dirty").mkdir()
    (root.parent / "dirty").rename(root / "a/dirty/1.dcm")
    change(root)
    settle()
    for _ in range(2):
        assert {path for path, _ in search(root, gate()).blocking} >= {
            path.relative_to(root).as_posix() for path in root.rglob("*.dcm") if b"Erstmann" in path.read_bytes()
        }


def test_findings_do_not_stand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a/s1/1.dcm", "Erstmann^Ottokar")(root)
    settle()
    for _ in range(3):
        assert [path for path, _ in search(root, gate()).blocking] == ["a/s1/1.dcm"]


def test_clean_files_for_the_time_of_the_search_do_not_make_others_clean(root: Path) -> None:
    """The files are exchanged after they were listed, and come back before the next night."""
    write("a/s1/1.dcm", "Erstmann^Ottokar")(root)
    for name in ("1", "2"):
        write(f"clean/{name}.dcm", "nobody")(root)
    settle()
    search(root, gate(), swap("a/s1", "clean"))
    settle()
    swap("a/s1", "clean")(root)
    settle()
    assert [path for path, _ in search(root, gate()).blocking] == ["a/s1/1.dcm"]


def test_a_listed_file_that_is_away_for_the_search_is_not_clean(root: Path) -> None:
    write("a/s1/9.dcm", "Erstmann^Ottokar")(root)
    settle()
    aside = root.parent / "aside"
    (root / "a/s1/9.dcm").rename(aside)
    settle()
    assert not search(root, gate()).blocking  # the folder stands without it
    aside.rename(root / "a/s1/9.dcm")
    settle()
    with pytest.raises(Exception, match="No such file"):
        search(root, gate(), lambda root: (root / "a/s1/9.dcm").rename(aside))
    aside.rename(root / "a/s1/9.dcm")
    settle()
    assert [path for path, _ in search(root, gate()).blocking] == ["a/s1/9.dcm"]


def test_a_folder_with_tables_is_searched_each_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched in a table depends on the digests of other files, which are no text."""
    write("a/s1/notes.csv", "nothing")(root)
    settle()
    for _ in range(3):
        assert "a/s1" in folders_asked(monkeypatch, root, gate())


@pytest.fixture
def released(root: Path) -> Path:
    folder = root.parent / "released"
    Tree.open(folder)
    return folder


def place(root: Path, released: Path, before: Approved | None = None) -> tuple[int, int]:
    time.sleep(0.02)
    run = Run.fresh()
    write_list(run, root, never)
    (released / CONTROL / "unfinished").mkdir(parents=True, exist_ok=True)
    with release._Placing(run, root, released, before) as placing:
        for part in parts_of(run):
            placing.place(part, never)
        return placing.new, placing.stale()


def placed(monkeypatch: pytest.MonkeyPatch, root: Path, released: Path) -> tuple[int, int, set[str]]:
    """Numbers of new and of stale files, and the folders whose files are looked at one by one."""
    looked: set[str] = set()
    real = release._Placing._is_there

    def heard(placing: Any, file: Any) -> bool:
        looked.add(file["path"].rpartition("/")[0])
        return real(placing, file)

    with monkeypatch.context() as patch:
        patch.setattr(release._Placing, "_is_there", heard)
        return *place(root, released), looked & IMAGES


TAMPERED: dict[str, Callable[[Path], object]] = {
    "a file changes, and its size and time stay": write("a/s1/1.dcm", "TEXT OF a/s1/1.dcm", "like"),
    "two files change places": swap("a/s1/1.dcm", "a/s1/2.dcm"),
    "a file goes": lambda root: (root / "a/s1/1.dcm").unlink(),
    "a file may be written to": lambda root: (root / "a/s1/1.dcm").chmod(0o666),
    "a file has a second name": lambda root: os.link(root / "a/s1/1.dcm", root.parent / "linked"),
    "a folder comes from a backup": restore,
    "two folders change places": swap("a/s1", "a/s2"),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=list(TAMPERED))
def test_what_lies_in_released_is_what_was_approved(
    root: Path, released: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    assert placed(monkeypatch, root, released) == (len(FILES), 0, IMAGES)
    assert placed(monkeypatch, root, released) == (0, 0, IMAGES)
    assert placed(monkeypatch, root, released) == (0, 0, set())
    for path in released.rglob("*.dcm"):
        path.chmod(0o600)
    place(root, released)
    place(root, released)
    change(released)
    place(root, released)
    for _ in range(3):
        assert set(by_file(root).splitlines()) <= set(by_file(released).splitlines())  # others are stale
        for name in FILES:
            status = (released / name).stat()
            assert (status.st_mode & 0o222, status.st_nlink) == (0, 1)
        place(root, released)


def test_what_is_stale_and_what_changes_in_the_data_set(
    root: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        place(root, released)
    (root / "a/s1/2.dcm").unlink()
    assert [placed(monkeypatch, root, released)[:2] for _ in range(3)] == [(0, 1)] * 3
    assert placed(monkeypatch, root, released) == (0, 1, set())
    write("a/s2/1.dcm", "TEXT OF a/s2/1.dcm", "like")(root)
    assert placed(monkeypatch, root, released)[:2] == (1, 1)
    assert (released / "a/s2/1.dcm").read_text() == "TEXT OF a/s2/1.dcm"
    write("a/s1/9.dcm", "put there")(released)
    write("old/1.dcm", "of another time")(released)
    assert [placed(monkeypatch, root, released)[:2] for _ in range(3)] == [(0, 3)] * 3
    monkeypatch.setenv("PACSIFIER_RELEASED_MODE", "640")
    assert placed(monkeypatch, root, released)[2] == IMAGES
    assert (released / "a/s2/1.dcm").stat().st_mode & 0o777 == 0o440


def test_images_that_went_to_a_store_are_not_taken_for_released_ones(root: Path, released: Path) -> None:
    """The folder has images of the time before, and the study releases to it again after some nights with a store."""
    for name in FILES:
        write(name, f"TEXT OF {name}")(released)
    for _ in range(3):
        place(root, released, Approved(released))
    assert place(root, released)[0] == len([name for name in FILES if name.endswith(".dcm")])
    assert by_file(released) == by_file(root)


def test_what_was_not_made_here_blocks_each_night(root: Path) -> None:
    """The answer stands while the list, what the de-identification has made, and the study's own files are the same."""
    calls: list[int] = []

    def made() -> dict[str, str]:
        calls.append(1)
        known = approved_of(root)
        return dict(known.files) if known else {}

    def foreign(own: dict[str, str] | None = None) -> list[str]:
        time.sleep(0.02)
        run, found = Run.fresh(), GateFindings()
        write_list(run, root, never)
        Gate([], (), (), made=made).add_foreign(run, root, found, own or {})
        return [path for path, _ in found.blocking]

    def lines() -> list[dict[str, str]]:
        run = Run.fresh()
        write_list(run, root, never)
        return list(read_jsonl(run.part(listing.LIST)))

    assert len(foreign()) == len(FILES)
    of_made = lines()
    approve(root, of_made)
    assert foreign() == []
    calls.clear()
    assert foreign() == [] and not calls
    write("a/s1/1.dcm", "TEXT OF a/s1/1.dcm", "like")(root)
    for _ in range(2):
        assert foreign() == ["a/s1/1.dcm"]
    assert foreign({"a/s1/1.dcm": lines()[0]["sha256"]}) == []
    assert foreign({"a/s1/1.dcm": "0" * 64}) == foreign() == ["a/s1/1.dcm"]
    write("a/s1/1.dcm", "text of a/s1/1.dcm")(root)
    assert foreign() == foreign() == []
    approve(root, of_made[1:], keep_former=False)
    for _ in range(2):
        assert foreign() == [of_made[0]["path"]]


def test_the_approved_list_is_not_made_again_of_the_same_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    path = state_folder(root.resolve()) / "approved.jsonl"

    def lines(*names: str) -> Iterator[dict[str, str]]:
        reads.append(1)
        for name in names:
            yield {"path": name, "sha256": "0" * 64}

    def again(of: str, *names: str) -> tuple[int, bytes]:
        time.sleep(0.02)
        reads.clear()
        approve(root, lines(*names), digest_of_files=of)
        return len(reads), path.read_bytes()

    first = again("d1", "a", "b")
    assert again("d1", "a", "b") == first and first[0] == 1  # it is compared
    assert again("d1", "a", "b") == (0, first[1])
    other = again("d2", "a")
    assert other[0] == 1 and other[1] != first[1] and b'"b","sha256":""' in other[1]
    for _ in range(2):
        again("d2", "a")
    path.write_bytes(first[1])
    assert again("d2", "a") == other


def test_copies_that_get_no_place_are_removed(root: Path, released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(paths: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "fsync_files", full)
    with pytest.raises(OSError, match="No space left"):
        place(root, released)
    assert not [*released.rglob("*.dcm")] and not [*(released / CONTROL / "unfinished").iterdir()]
