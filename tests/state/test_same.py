"""Files of runs that are the same from night to night take no space of their own."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

import pytest

from pacsifier_ops.base.files import write_atomic
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.same import store_once
from pacsifier_ops.state.tree import Tree

LONG = "a line\n" * 20_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Tree.open(tmp_path / "tree")
    return tmp_path / "tree"


def stored(folder: Path, root: Path, text: str, name: str = "output.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    store_once(path, root)
    assert path.read_text() == text
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return path


def test_the_same_file_of_two_runs_is_one(root: Path, tmp_path: Path) -> None:
    first, second = (stored(tmp_path / name, root, LONG) for name in ("first", "second"))
    assert first.samefile(second)
    store_once(second, root)
    news = stored(tmp_path / "third", root, LONG + "news\n")
    assert not news.samefile(first) and first.read_text() == LONG
    assert news.samefile(stored(tmp_path / "fourth", root, LONG + "news\n"))
    first.unlink()
    assert second.read_text() == LONG


def test_another_file_another_tree_and_a_short_one_have_their_own(root: Path, tmp_path: Path) -> None:
    Tree.open(tmp_path / "other")
    first = stored(tmp_path / "first", root, LONG)
    assert not first.samefile(stored(tmp_path / "second", root, LONG, "removal.jsonl"))
    assert not first.samefile(stored(tmp_path / "third", tmp_path / "other", LONG))
    one, two, unit = (stored(tmp_path / name / "units", root, LONG, "00000.jsonl") for name in ("a", "b", "c"))
    assert one.samefile(two) and two.samefile(unit) and not one.samefile(first)
    assert not stored(tmp_path / "d", root, "short").samefile(stored(tmp_path / "e", root, "short"))


def test_where_there_are_no_links_or_no_tree_it_is_stored_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path / "a", tmp_path / "no tree", LONG)
    kept = stored(tmp_path / "first", root, LONG)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refused)
        assert not stored(tmp_path / "second", root, LONG).samefile(kept)
    forget_facts(root)
    assert not stored(tmp_path / "third", root, LONG).samefile(kept)
    # A process was killed between the two names.
    (tmp_path / "fourth").mkdir()
    (tmp_path / "fourth" / ".output.jsonl.link").write_text("half")
    assert stored(tmp_path / "fourth", root, LONG).samefile(tmp_path / "third" / "output.jsonl")


def test_another_run_stores_its_own_while_they_are_compared(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = filecmp.cmp
    first = stored(tmp_path / "first", root, LONG)

    def meanwhile(one: Path, other: Path, shallow: bool) -> bool:
        same = compare(one, other, shallow)
        monkeypatch.setattr(filecmp, "cmp", compare)
        stored(tmp_path / "other", root, LONG + "news\n")
        return same

    monkeypatch.setattr(filecmp, "cmp", meanwhile)
    assert stored(tmp_path / "second", root, LONG).samefile(first)


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o640), (0o640, 0o600)])
def test_who_may_read_a_list_is_up_to_its_own_run(root: Path, tmp_path: Path, before: int, after: int) -> None:
    first, second, third = (tmp_path / name / "output.jsonl" for name in ("first", "second", "third"))
    for path, mode in ((first, before), (second, after), (third, after)):
        path.parent.mkdir()
        write_atomic(path, LONG, mode)
        store_once(path, root)
    assert [path.stat().st_mode & 0o777 for path in (first, second, third)] == [before, after, after]
    assert second.samefile(third)
