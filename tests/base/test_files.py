"""Files that are whole or not there, and paths that stay where they belong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsifier_ops.base.errors import PathRefused, StorageError
from pacsifier_ops.base.files import (
    atomic_stream,
    confined,
    data_file,
    fsync_files,
    private_folder,
    read_json,
    read_jsonl,
    storage_errors,
    write_atomic,
    write_json,
    write_jsonl,
)


def test_a_write_replaces_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_stream(path) as stream:
        stream.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    write_atomic(path, b"new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_unfinished_files_lie_where_they_are_told(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    with atomic_stream(tmp_path / "file", scratch=tmp_path / "scratch"):
        assert [path.suffix for path in (tmp_path / "scratch").iterdir()] == [".part"]
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").exists() and not list((tmp_path / "scratch").iterdir())


def test_a_failing_generator_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write_jsonl(path, [1, 2])
    with pytest.raises(ZeroDivisionError):
        write_jsonl(path, (1 // n for n in (1, 0)))
    assert list(read_jsonl(path)) == [1, 2] and os.listdir(tmp_path) == ["lines.jsonl"]


def test_contents_of_files_are_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = list[int](), os.fsync

    def note(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths:
        path.write_text("x")
    fsync_files(paths)
    assert sorted(synced) == sorted(path.stat().st_ino for path in paths)
    with pytest.raises(FileNotFoundError):
        fsync_files([*paths, tmp_path / "gone"])


def test_modes(tmp_path: Path) -> None:
    write_json(tmp_path / "private", {})
    write_atomic(tmp_path / "data", "", data_file())
    private_folder(tmp_path / "a" / "b")
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == data_file() != 0o600
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.lists(JSON, max_size=5))
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, values: list[object]) -> None:
    folder = tmp_path_factory.mktemp("json")
    write_jsonl(folder / "lines", values)
    write_json(folder / "value", values)
    assert list(read_jsonl(folder / "lines")) == read_json(folder / "value") == values


def test_storage_errors_name_the_place_and_no_path(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="the output folder: No such file") as raised,
        storage_errors("the output folder"),
    ):
        (tmp_path / "sub-123").read_bytes()
    assert "123" not in str(raised.value) and raised.value.retryable


@given(st.text(alphabet="ab./\\~ ", max_size=12))
def test_confined_paths_stay_below_the_root(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.getbasetemp()
    try:
        path = confined(text, root, "out_directory")
    except PathRefused as error:
        assert "out_directory" in str(error)
    else:
        assert path == root.resolve() or root.resolve() in path.parents


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(PathRefused, match="queryfile"):
        confined("link/secret", tmp_path / "root", "queryfile")
    assert confined(tmp_path / "root" / "x", tmp_path / "root", "queryfile") == (tmp_path / "root" / "x").resolve()
