"""What was read from files is used again only while the files are as they were."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.state import facts
from pacsifier_ops.state.facts import Facts, forget_facts
from pacsifier_ops.state.tree import Tree


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of two files; files count as settled at once."""
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    folder = tmp_path / "tree"
    Tree.open(folder)
    (folder / "a").write_text("one")
    (folder / "b").write_text("two")
    return folder


def read(root: Path, *names: str, version: str = "") -> tuple[dict[str, str], list[str]]:
    """Content of the files by name, and the names of those that were read for it."""
    done = list[str]()

    def content(path: Path) -> str:
        done.append(path.name)
        return path.read_text()

    with Facts(root, "content", content, version=version) as known:
        return {name: known(root / name) for name in names or ("a", "b")}, done


def test_only_what_has_changed_is_read_again(root: Path) -> None:
    assert read(root) == ({"a": "one", "b": "two"}, ["a", "b"])
    assert read(root) == ({"a": "one", "b": "two"}, [])
    (root / "c").write_text("new")
    assert read(root, "a", "c") == ({"a": "one", "c": "new"}, ["c"])
    # What nobody asked for is not kept.
    assert read(root, "a", "b", "c")[1] == ["b"]


def test_what_few_ask_for_is_added_to_what_is_kept(root: Path) -> None:
    read(root)
    (root / "below").mkdir()
    (root / "below" / "c").write_text("new")
    with Facts(root, "content", Path.read_text, whole=False) as known:
        assert [known(root / name) for name in ("b", "below/c")] == ["two", "new"]
        assert known.files_read == 1
    assert read(root, "a", "b", "below/c")[1] == []


def test_what_was_written_need_not_be_read(root: Path) -> None:
    with Facts(root, "content", Path.read_text) as known:
        for name in ("a", "b", "c"):
            (root / name).write_text("new")
            known.tell(f"{root}/{name}", "new")
        time.sleep(0.05)  # as long as a clock may stand still
        with (root / "b").open("r+") as stream:
            stream.write("odd")
        (root / "c").unlink()
    assert read(root) == ({"a": "new", "b": "odd"}, ["b"])


def _same_size_and_time(root: Path) -> None:
    before = (root / "a").stat()
    (root / "a").write_text("ONE")
    os.utime(root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))


def _another_in_its_place(root: Path) -> None:
    shutil.copy2(root / "a", root / "other")
    (root / "other").write_text("ONE")
    shutil.copystat(root / "a", root / "other")
    os.replace(root / "other", root / "a")


def _a_link_in_its_place(root: Path) -> None:
    (root / "b").write_text("ONE")
    (root / "a").unlink()
    (root / "a").symlink_to(root / "b")


def _content_by_a_mapping(root: Path) -> None:
    import mmap

    with (root / "a").open("r+b") as stream, mmap.mmap(stream.fileno(), 3) as content:
        content[:] = b"ONE"
        content.flush()


@pytest.mark.parametrize(
    "change", [_same_size_and_time, _another_in_its_place, _a_link_in_its_place, _content_by_a_mapping]
)
def test_no_change_is_overlooked(root: Path, change: object) -> None:
    read(root)
    change(root)  # type: ignore[operator]
    told, done = read(root)
    assert told["a"] == "ONE" and "a" in done


def test_what_has_just_changed_is_not_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_GRANULARITY", 10**12)
    read(root)
    assert read(root)[1] == ["a", "b"]


def test_a_file_that_changes_while_it_is_read_is_not_kept(root: Path) -> None:
    def content(path: Path) -> str:
        text = path.read_text()
        path.write_text("later")
        return text

    with Facts(root, "content", content) as known:
        assert known(root / "a") == "one"
    assert read(root, "a") == ({"a": "later"}, ["a"])


def test_what_ends_badly_leaves_what_was_known(root: Path) -> None:
    read(root)
    with pytest.raises(FileNotFoundError):
        read(root, "a", "missing")
    assert read(root)[1] == []
    (root / "c").write_text("new")
    with pytest.raises(FileNotFoundError):
        read(root, "c", "missing")
    assert read(root, "a", "b", "c")[1] == []


@pytest.mark.parametrize("content", ["", "[", "[1]\n", '["x", 2]\n', '{"a": 1}\n', '[1,2]\n"x"\n', "\0\0\0\n"])
def test_damaged_facts_are_none(root: Path, content: str) -> None:
    read(root)
    kept = facts._file(root, "content")
    assert kept.exists()
    kept.write_text(content)
    assert read(root) == ({"a": "one", "b": "two"}, ["a", "b"])


def test_a_damaged_bit_is_no_fact(root: Path) -> None:
    read(root)
    kept = facts._file(root, "content")
    whole = kept.read_bytes()
    for at in range(whole.index(b"\n") + 1, len(whole)):
        kept.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read(root)[0] == {"a": "one", "b": "two"}


def test_facts_of_another_version_are_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(root)
    assert read(root, version="2")[1] == ["a", "b"]
    monkeypatch.setattr(facts, "__version__", "0")
    assert read(root, version="2")[1] == ["a", "b"]


def test_everything_is_read_again_from_time_to_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(root)
    begun = time.time()
    monkeypatch.setattr(facts.time, "time", lambda: begun + 29 * 86400)
    assert read(root)[1] == []
    (root / "c").write_text("new")  # does not put it off
    assert read(root, "a", "b", "c")[1] == ["c"]
    monkeypatch.setattr(facts.time, "time", lambda: begun + 31 * 86400)
    assert read(root)[1] == ["a", "b"]
    monkeypatch.setenv("PACSIFIER_VERIFY_DAYS", "0")
    assert read(root)[1] == ["a", "b"]
    monkeypatch.setenv("PACSIFIER_VERIFY_DAYS", "never")
    with pytest.raises(ConfigError, match=r"^verify_days is not a whole number; correct PACSIFIER_VERIFY_DAYS$"):
        read(root)


def test_facts_can_be_forgotten(root: Path) -> None:
    read(root)
    kept = facts._file(root, "content")
    left = kept.with_name(".content.jsonl.0123abcd.part")
    left.write_bytes(kept.read_bytes())  # by a process that was killed
    forget_facts(root)
    assert list(kept.parent.iterdir()) == []
    assert read(root)[1] == ["a", "b"]


def test_of_a_folder_that_is_no_tree_nothing_is_kept(root: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a").write_text("one")
    assert [read(tmp_path / "plain", "a")[1] for _ in range(2)] == [["a"], ["a"]]
    assert read(root)[0] and not list(root.glob("tmp*"))


def test_names_need_not_be_text(root: Path) -> None:
    strange = os.fsdecode(b"\xff\xfe\n.dcm")
    (root / strange).write_text("odd")
    assert read(root, strange)[0] == {strange: "odd"} and read(root, strange)[1] == []
