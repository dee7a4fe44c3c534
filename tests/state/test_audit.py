"""The audit file: chained lines, many writers, kills, and what a verification finds."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import ConfigError, StorageError
from pacsifier_ops.state import audit
from pacsifier_ops.state.audit import Head, record, verify
from tests.support.kills import WITH_WRITES, killed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(tmp_path / "state"))
    return tmp_path / "state" / "audit"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.jsonl").read_bytes().splitlines()]


def change(folder: Path, how: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines behind the back of the program."""
    path = folder / "audit.jsonl"
    path.write_bytes(b"".join(how(path.read_bytes().splitlines(keepends=True))))


def three(folder: Path) -> Head:
    for number in range(3):
        head = record(audit.STARTED, by="anna", run=f"run-{number}")
    return head


def test_each_line_has_the_hash_of_the_line_before(folder: Path) -> None:
    head = three(folder)
    assert [line["line"] for line in lines(folder)] == [1, 2, 3]
    assert verify() == audit.Verified(head) and head.lines == 3
    assert (folder / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_only_known_facts_are_recorded() -> None:
    with pytest.raises(ValueError, match="no patient_name"):
        record(audit.STARTED, patient_name="Schmidt")


@pytest.mark.parametrize(
    ("how", "found"),
    [
        (lambda all: [all[0].replace(b"anna", b"otto"), *all[1:]], "line 2: the line before it was changed"),
        (lambda all: [all[0], all[2]], "line 2: it has another number"),
        (lambda all: [all[1], all[0], all[2]], "line 1: it has another number"),
        (lambda all: [*all[:2], all[2].replace(b"anna", b"otto")], "line 3: it is not the one of the head"),
        (lambda all: all[:2], "line 3: it is missing; the head counts 3 lines"),
        (lambda all: [*all[:2], all[2][:-9]], "line 3: it is not the one of the head"),
        (lambda all: [all[0], b"\0\0\0\n", all[2]], "line 2: it cannot be read, and the next line does not say so"),
        (lambda all: [], "line 1: it is missing; the head counts 3 lines"),
    ],
)
def test_what_was_changed_is_found_and_stays_known(
    folder: Path, how: Callable[[list[bytes]], list[bytes]], found: str
) -> None:
    three(folder)
    change(folder, how)
    assert found in verify().problem
    record(audit.STARTED, by="ben", run="run-9")  # runs go on, and the file tells of it all the same
    assert verify().problem


def lines_of_event(folder: Path, event: str) -> list[dict[str, Any]]:
    found = []
    for line in (folder / "audit.jsonl").read_bytes().splitlines():
        told = audit._told(line)
        if told.get("event") == event:
            found.append(dict(told))
    return found


def test_both_files_made_anew_are_found_by_a_head_that_was_kept_elsewhere(folder: Path) -> None:
    kept = three(folder)
    for name in ("audit.jsonl", "head.json"):
        (folder / name).unlink()
    for number in range(4):
        record(audit.STARTED, by="otto", run=f"run-{number}")
    assert verify().problem == ""
    assert "line 3: it is not the one of the head" in verify(kept).problem
    assert "line 5: it is missing" in verify(Head(5, kept.sha256)).problem


def test_a_cut_is_not_hidden_by_a_head_that_is_missing_or_damaged(folder: Path) -> None:
    three(folder)
    change(folder, lambda all: all[:2])
    for hide in (lambda: (folder / "head.json").unlink(), lambda: (folder / "head.json").write_text("{")):
        hide()
        assert verify().problem.startswith("line 2: nothing says that it is the last one; head.json is missing")
    assert record(audit.STARTED, by="ben", run="x").lines == 4
    assert "line 3: it says that lines before it were changed, or cut off" in verify().problem


def test_a_file_that_was_taken_away_is_missed(folder: Path) -> None:
    three(folder)
    (folder / "audit.jsonl").unlink()
    assert verify().problem == "line 1: it is missing; the head counts 3 lines"
    record(audit.STARTED, by="ben", run="x")
    assert "line 1: it says that lines before it were changed, or cut off" in verify().problem


def test_who_appends_behind_a_cut_says_so(folder: Path) -> None:
    three(folder)
    change(folder, lambda all: all[:1])
    record(audit.STARTED, by="ben", run="x")
    assert lines_of_event(folder, audit.BROKEN)[0]["head"].startswith("3:")
    assert "line 2: it says that lines before it were changed, or cut off" in verify().problem


def test_a_torn_line_stays_and_is_told(folder: Path) -> None:
    three(folder)
    with (folder / "audit.jsonl").open("ab") as stream:
        stream.write(b'{"line":4,"wh')
    assert verify().problem == "" and verify().unfinished
    record(audit.STARTED, by="ben", run="x")
    assert (folder / "audit.jsonl").read_bytes().splitlines()[3] == b'{"line":4,"wh'
    assert lines_of_event(folder, audit.HEALED)[0]["bytes"] == 13
    assert verify().problem == "" and verify().healed == (5,) and verify().head.lines == 6


def test_killed_anywhere_it_goes_on(folder: Path) -> None:
    record(audit.STARTED, by="anna", run="first")
    kills = 0
    while killed(lambda: record(audit.STARTED, by="anna", run="killed"), kills, WITH_WRITES):
        kills += 1
        head = record(audit.STARTED, by="ben", run="after")
        found = verify()
        assert found.problem == "" and not found.unfinished and found.head == head
    assert kills > 3
    assert not lines_of_event(folder, audit.BROKEN)


def test_killed_anywhere_in_the_first_line_it_goes_on(folder: Path) -> None:
    kills = 0
    while killed(lambda: record(audit.STARTED, by="anna", run="killed"), kills, WITH_WRITES):
        kills += 1
        for _ in range(2):
            assert not (folder / "audit.jsonl").exists() or not verify().problem
            record(audit.STARTED, by="ben", run="after")
        shutil.rmtree(folder)
    assert kills > 4


def test_killed_while_it_heals_it_goes_on(folder: Path) -> None:
    record(audit.STARTED, by="anna", run="first")
    kills = 0

    def torn() -> object:
        with (folder / "audit.jsonl").open("ab") as stream:
            stream.write(b"{torn")
        return record(audit.STARTED, by="anna", run="killed")

    while killed(torn, kills, WITH_WRITES):
        kills += 1
        record(audit.STARTED, by="ben", run="after")
        assert verify().problem == ""
    assert kills > 4
    assert not lines_of_event(folder, audit.BROKEN)


def _append(number: int) -> None:
    for turn in range(20):
        record(audit.STARTED, by=f"user-{number}", run=f"run-{turn}")


def test_many_processes_append_one_after_the_other(folder: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_append, args=(n,)) for n in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert verify().problem == "" and verify().head.lines == 160
    for number in range(8):
        own = [line["run"] for line in lines(folder) if line["by"] == f"user-{number}"]
        assert own == [f"run-{turn}" for turn in range(20)]


def test_a_file_that_another_one_holds_is_waited_for_and_not_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_PATIENCE", 0.05)
    record(audit.STARTED, by="anna", run="x")
    with audit._locked(), pytest.raises(StorageError, match="another process holds the audit file"):
        record(audit.STARTED, by="ben", run="y")
    record(audit.STARTED, by="ben", run="y")


def test_a_digest_is_keyed_and_stays_the_same(folder: Path) -> None:
    import hashlib

    table = b"PatientID\n123456\n"
    digest = audit.keyed(table)
    assert digest == audit.keyed(table) != hashlib.sha256(table).hexdigest()
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    (folder / "key").unlink()
    assert audit.keyed(table) != digest


def test_without_a_file_there_is_nothing_to_verify() -> None:
    with pytest.raises(ConfigError, match="there is no audit file"):
        verify()
