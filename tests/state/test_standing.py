"""Stamps of folders, and results that stand while what they depend on is as it was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pacsifier_ops.state import facts, standing
from pacsifier_ops.state.facts import facts_folder, forget_facts
from pacsifier_ops.state.standing import UNKNOWN, Standing, stamp_of, stamps_of, whole
from pacsifier_ops.state.tree import Tree


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(facts, "_GRANULARITY", 0)
    root = tmp_path / "tree"
    Tree.open(root)
    for name in ("a/1.dcm", "a/2.dcm", "b/1.dcm"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    settle()
    return root


def settle() -> None:
    """Wait until the clock of the file system has gone on: it ticks every few milliseconds."""
    time.sleep(0.02)


def grow(root: Path) -> None:
    (root / "a/1.dcm").write_text("more of it")


def keep_size_and_time(root: Path) -> None:
    path = root / "a/1.dcm"
    before = path.stat()
    path.write_text("A/1.dcm")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(root: Path) -> None:
    other = root / "a/other"
    other.write_text("a/1.dcm")
    other.replace(root / "a/1.dcm")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file grows": grow,
    "a file changes, and its size and time of modification stay": keep_size_and_time,
    "a file is replaced by one with the same content": replace,
    "a file comes": lambda root: (root / "a/3.dcm").write_text(""),
    "a file goes": lambda root: (root / "a/1.dcm").unlink(),
    "a file gets another name": lambda root: (root / "a/1.dcm").rename(root / "a/9.dcm"),
    "two files change their names": lambda root: [
        (root / one).rename(root / other)
        for one, other in (("a/1.dcm", "a/x"), ("a/2.dcm", "a/1.dcm"), ("a/x", "a/2.dcm"))
    ],
    "a file gets another mode": lambda root: (root / "a/1.dcm").chmod(0o400),
    "a file gets a second name elsewhere": lambda root: os.link(root / "a/1.dcm", root.parent / "link"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_folder_has_another_stamp_and_the_others_have_not(
    tree: Path, change: Callable[[Path], object]
) -> None:
    before = stamps_of(tree)
    assert stamps_of(tree) == before and set(before) == {"", "a", "b"}
    change(tree)
    settle()
    after = stamps_of(tree)
    assert before["a"] != after["a"] != UNKNOWN
    assert (before[""], before["b"]) == (after[""], after["b"])
    assert whole(before) != whole(after)


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "dead link", "pipe"])
def test_a_folder_with_something_else_has_no_stamp(tree: Path, kind: str) -> None:
    odd = tree / "a/odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"link to a file": tree / "b/1.dcm", "link to a folder": tree / "b"}.get(kind, tree / "none"))
    settle()
    stamps = stamps_of(tree)
    assert stamps["a"] == UNKNOWN != stamps["b"]
    assert whole(stamps) == UNKNOWN


def test_a_file_that_has_just_changed_may_change_again_at_the_same_time(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_GRANULARITY", 60 * 10**9)
    stamps = stamps_of(tree)
    assert stamps["a"] == stamps["b"] == UNKNOWN


def test_a_folder_that_comes_or_goes_changes_the_whole(tree: Path) -> None:
    before = whole(stamps_of(tree))
    (tree / "c").mkdir()
    with_folder = whole(stamps_of(tree))
    (tree / "c").rmdir()
    assert with_folder != before == whole(stamps_of(tree))


def test_nothing_stands_in_a_folder_that_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    settle()
    assert set(stamps_of(tmp_path).values()) == {UNKNOWN}
    with Standing(tmp_path, "work") as kept:
        kept.put("a", "stamp", [1])
    assert not facts_folder(tmp_path).exists()
    with pytest.raises(FileNotFoundError):
        stamps_of(tmp_path / "none")


def test_what_depends_on_something_unknown_is_unknown() -> None:
    assert stamp_of("a", 1) == stamp_of("a", 1) != stamp_of("a", 2)
    assert stamp_of("a", UNKNOWN) == UNKNOWN
    assert stamp_of("a", "b") != stamp_of("ab")


def test_a_result_stands_with_its_stamp_alone(tree: Path) -> None:
    with Standing(tree, "work") as kept:
        assert kept.get("tab\tname", "s1") is None
        kept.put("tab\tname", "s1", {"n": 1, "text": "ü\n"})
        kept.put("unknown", UNKNOWN, [1])
    with Standing(tree, "work") as kept:
        assert kept.get("tab\tname", "s1") == {"n": 1, "text": "ü\n"}
        assert kept.get("tab\tname", "s") is None
        assert kept.get("tab\tname", UNKNOWN) is None
        assert kept.get("unknown", UNKNOWN) is None
    with Standing(tree, "other") as kept:
        assert kept.get("tab\tname", "s1") is None


def test_what_was_not_asked_for_is_forgotten_unless_only_some_are_asked_for(tree: Path) -> None:
    with Standing(tree, "work") as kept:
        for key in "abc":
            kept.put(key, "s", [key])
    with Standing(tree, "work", every=False) as kept:
        kept.put("a", "t", ["new"])
    with Standing(tree, "work") as kept:
        assert kept.get("a", "t") == ["new"] and kept.get("b", "s") == ["b"]
    with Standing(tree, "work") as kept:
        assert kept.get("c", "s") is None


def test_it_stands_for_some_days_after_it_was_found_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_VERIFY_DAYS", "2")
    now = time.time()
    with Standing(tree, "work") as kept:
        kept.put("old", "s", [1], since=now - 2 * 86400 - 1)
        kept.put("late", "s", [1], since=now - 2 * 86400 + 100)
        kept.put("from a clock that went wrong", "s", [1], since=now + 86400)
    with Standing(tree, "work") as kept:
        assert [kept.get(key, "s") for key in ("old", "late", "from a clock that went wrong")] == [None, [1], None]
    monkeypatch.setattr(standing.time, "time", lambda: now + 200)
    with Standing(tree, "work") as kept:
        assert kept.get("late", "s") is None  # that it was asked for in between does not make it younger


def test_an_error_keeps_what_was_kept_and_damage_is_not_used(tree: Path) -> None:
    with Standing(tree, "work") as kept:
        kept.put("a", "s", ["first"])
        kept.put("b", "s", ["second"])
    with pytest.raises(ValueError, match="stop"), Standing(tree, "work") as kept:
        kept.put("a", "s", ["other"])
        raise ValueError("stop")
    path = facts_folder(tree) / "work.standing"
    path.write_bytes(path.read_bytes().replace(b"first", b"fir5t"))
    with Standing(tree, "work") as kept:
        assert kept.get("a", "s") is None
        assert kept.get("b", "s") == ["second"]
    forget_facts(tree)
    with Standing(tree, "work") as kept:
        assert kept.get("b", "s") is None
