"""Files that become durable together are handed on when they are, in order, and none before."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from pacsifier_ops.base import durable
from pacsifier_ops.base.durable import Durable


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(durable, "fsync_files", lambda paths: names.extend(path.name for path in paths))
    return names


def test_things_are_handed_on_in_order_when_their_files_are_durable(flushed: list[str]) -> None:
    handed: list[list[int]] = []

    def ready(things: list[int]) -> None:
        assert {str(thing) for thing in things if thing % 5} <= set(flushed)
        handed.append(things)

    with Durable(ready, most=3) as together:
        for number in range(8):
            together.add(number, Path(str(number)) if number % 5 else None, 1)
        together.flush()
        assert handed == [[0, 1, 2], [3, 4, 5], [6, 7]]
        together.add(10, None, 0)
    assert handed == [[0, 1, 2], [3, 4, 5], [6, 7], [10]] and "5" not in flushed


def test_large_files_are_not_waited_for_by_number(flushed: list[str]) -> None:
    handed: list[int] = []
    with Durable(handed.extend) as together:
        together.add(1, Path("1"), 2**28)
        together.add(2, Path("2"), 1)
        assert together._made == [(2, Path("2"))]


def test_what_was_made_before_an_error_is_handed_on(flushed: list[str]) -> None:
    handed: list[int] = []
    with pytest.raises(KeyError), Durable(handed.extend, most=2) as together:
        for number in range(3):
            together.add(number, Path(str(number)), 1)
        raise KeyError
    assert handed == [0, 1, 2]


def test_what_the_disk_refuses_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[int] = []
    others = {*threading.enumerate()}

    def flush(paths: Iterable[Path]) -> None:
        if Path("2") in [*paths]:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "fsync_files", flush)
    with pytest.raises(OSError, match="No space left"), Durable(handed.extend, most=2) as together:
        for number in range(6):
            together.add(number, Path(str(number)), 1)
    assert handed == [0, 1, 4, 5]
    assert {*threading.enumerate()} <= others
