"""Turns: who gets the next free association. Waiters are real processes, some of which are killed or stopped."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.state.leases import LeaseBusy, Leases
from pacsifier_ops.state.turns import BULK, NORMAL, PATIENCE, URGENT, Entry, Line, Place, Rate, count_turn, place_of
from tests.support.processes import eventually

NAME = "pacs:pacs.example:104:ARCHIVE"


def killed_elsewhere(path: Path, leases: Leases, seen: float, **meta: Any) -> None:
    """Leave the file of a process of another machine, which was killed: only its time, in seconds, tells of it."""
    record = {"token": "aa", "ttl": leases.ttl, "owner": {"host": "elsewhere"}, "meta": meta}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    os.utime(path, (seen, seen))


def test_who_was_killed_on_another_machine_before_the_clock_was_set_back_keeps_nobody_waiting(leases: Leases) -> None:
    tomorrow = leases.now() + 86400
    path = leases._folder(NAME) / "wait-aa"
    killed_elsewhere(path, leases, tomorrow, urgency=URGENT, done=0, since=tomorrow)
    assert leases.waiting(NAME) == 0
    leases.acquire(NAME, wait=0, place=Place()).release()


def waits(leases: Leases) -> list[Path]:
    return sorted(path for path in leases._folder(NAME).glob("wait-*") if path.stat().st_size)


def take(root: Path, place: Place, name: str, log: Path) -> None:
    with Leases(root).acquire(NAME, place=place), log.open("a") as stream:
        stream.write(f"{name}\n")


def stand_in_line(leases: Leases, start: Callable[..., Any], log: Path, *places: tuple[str, Place]) -> list[Any]:
    """Start processes that wait, in this order."""

    def stands(number: int) -> None:
        eventually(lambda: len(waits(leases)) == number)

    processes = []
    for name, place in places:
        expected = len(waits(leases)) + 1
        processes.append(start(take, leases.root, place, name, log))
        stands(expected)
    return processes


def served(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_the_order_is_urgency_then_what_was_done_then_time(
    leases: Leases, tmp_path: Path, start: Callable[..., Any]
) -> None:
    log = tmp_path / "log"
    with leases.acquire(NAME):
        stand_in_line(
            leases,
            start,
            log,
            ("bulk", Place(BULK)),
            ("large", Place(NORMAL, 3000)),
            ("large-too", Place(NORMAL, 2500)),
            ("small", Place(NORMAL, 5)),
            ("late-urgent", Place(URGENT, 4000)),
            ("urgent", Place(URGENT)),
        )
        assert leases.waiting(NAME) == 6 and leases.overtaken(NAME, Place(NORMAL, 100))
        assert not leases.overtaken(NAME, Place(URGENT))
    eventually(lambda: len(served(log)) == 6)
    # Of two large runs that are about as far, the one that came first. A bulk run takes turns with large ones.
    assert served(log) == ["urgent", "late-urgent", "small", "bulk", "large", "large-too"]
    eventually(lambda: not leases._folder(NAME).exists())


def test_who_does_not_wait_is_not_served_before_those_who_do(
    leases: Leases, tmp_path: Path, start: Callable[..., Any]
) -> None:
    lease = leases.acquire(NAME, limit=2)
    (stopped,) = stand_in_line(Leases(leases.root), start, tmp_path / "log", ("first", Place()))
    os.kill(stopped.pid, signal.SIGSTOP)
    # One of two slots is free, and somebody stands before us.
    with pytest.raises(LeaseBusy):
        leases.acquire(NAME, limit=2, wait=0, place=Place(NORMAL, 9))
    leases.acquire(NAME, limit=3, wait=0, place=Place(NORMAL, 9)).release()  # there is room for both
    leases.acquire(NAME, limit=2, wait=0, place=Place(URGENT)).release()
    lease.release()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
def test_the_dead_and_the_stopped_are_passed_over(
    tmp_path: Path, start: Callable[..., Any], kind: signal.Signals
) -> None:
    leases, log = Leases(tmp_path / "leases", ttl=1.0), tmp_path / "log"
    lease = leases.acquire(NAME)
    first, _ = stand_in_line(leases, start, log, ("first", Place(URGENT)), ("second", Place(NORMAL, 7)))
    os.kill(first.pid, kind)
    for path in waits(leases):  # as if its process had other times to live than ours
        record = json.loads(path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if record["owner"]["pid"] == first.pid and kind == signal.SIGSTOP:
            path.write_text(json.dumps({**record, "ttl": 0.2}))
    lease.release()
    eventually(lambda: served(log) == ["second"])
    if kind == signal.SIGSTOP:  # who goes on finds the place lost, and stands in line again
        os.kill(first.pid, signal.SIGCONT)
        eventually(lambda: served(log) == ["second", "first"])


def test_after_an_hour_in_line_nobody_is_before_it(leases: Leases, tmp_path: Path, start: Callable[..., Any]) -> None:
    log = tmp_path / "log"
    with leases.acquire(NAME):
        bulk, _ = stand_in_line(leases, start, log, ("bulk", Place(BULK, 900)), ("urgent", Place(URGENT)))
        assert not leases.overtaken(NAME, Place(URGENT))
        os.kill(bulk.pid, signal.SIGSTOP)
        for path in waits(leases):
            record = json.loads(path.read_text())
            if record["owner"]["pid"] == bulk.pid:
                record["meta"]["since"] -= PATIENCE
                path.write_text(json.dumps(record))
        assert leases.overtaken(NAME, Place(URGENT))
        os.kill(bulk.pid, signal.SIGCONT)
    eventually(lambda: served(log) == ["bulk", "urgent"])


def test_waiting_without_end_is_given_up_and_leaves_nothing(leases: Leases) -> None:
    with leases.acquire(NAME):
        with pytest.raises(LeaseBusy):
            leases.acquire(NAME, wait=0.1, place=Place())
        answers = iter([False, False, True])
        with pytest.raises(LeaseBusy):
            leases.acquire(NAME, cancelled=lambda: next(answers), place=Place())
        assert waits(leases) == []


def test_what_dead_waiters_leave_is_forgotten(leases: Leases) -> None:
    folder = leases._folder(NAME)
    folder.mkdir()
    left = folder / "wait-0123"
    left.write_text("")
    assert leases.forgotten() == [folder]
    leases.forget(folder)
    assert left.exists()  # somebody may have made it just now
    os.utime(left, (0, 0))
    leases.forget(folder)
    assert not folder.exists()


def test_places() -> None:
    small, large, bulk = Place(NORMAL, 5), Place(NORMAL, 5000), Place(BULK)
    assert Place(URGENT, 9999).key < Place().key < small.key < bulk.key < large.key
    # Runs that are about as far do not interrupt each other.
    assert Place(NORMAL, 4100).key == Place(NORMAL, 8000).key < Place(NORMAL, 8200).key
    # A bulk run takes one turn where a large one takes ten.
    assert Place(BULK, 2000).position == Place(NORMAL, 21_024).position


def one_after_the_other(series: dict[str, int], comes: dict[str, int], seconds: float = 60.0) -> list[str]:
    """Return who had which turn at a PACS with one association; each gives way after every series.

    Args:
        series: of each run; one whose name begins with `bulk` is one.
        comes: turn at which each run comes.
        seconds: that a series takes.
    """
    turns: list[str] = []
    done, since = dict.fromkeys(series, 0), dict(comes)
    while any(done[run] < count for run, count in series.items()):
        now = len(turns)
        there = [run for run, count in series.items() if comes[run] <= now and done[run] < count]
        assert there

        def key(run: str, now: int = now) -> tuple[tuple[int, int], int]:
            place = Place(BULK if run.startswith("bulk") else NORMAL, done[run])
            return place.key_after((now - since[run]) * seconds), since[run]

        turns.append(run := min(there, key=key))
        done[run] += 1
        since[run] = now + 1
    return turns


def test_day_runs_do_not_starve_the_night_nor_the_night_them() -> None:
    day = {f"day{n}": 5 for n in range(40)}
    comes = {"night": 0, **{name: 100 + 10 * n for n, name in enumerate(day)}}
    turns = one_after_the_other({"night": 300, **day}, comes)
    for name in day:  # all five in a row, at once
        assert turns[comes[name] : comes[name] + 5] == [name] * 5
    assert turns[:490].count("night") == 490 - 39 * 5  # it got what the others left over


def test_who_is_never_first_gets_a_turn_an_hour_and_bulk_a_part() -> None:
    day = {f"day{n}": 5 for n in range(60)}
    comes = {"night": 0, **{name: 50 + 5 * n for n, name in enumerate(day)}}
    turns = one_after_the_other({"night": 99, **day}, comes)
    # Day runs come so often that they leave nothing over; at the end the night has the PACS for itself.
    assert [turns[50 : 50 + 61 * hour].count("night") for hour in (0, 1, 2, 3)] == [0, 1, 2, 3]
    turns = one_after_the_other({"bulk": 300, "large": 5000}, {"bulk": 0, "large": 0}, seconds=1.0)
    assert turns[:1000].count("bulk") <= 1 and turns[:5000].count("bulk") >= 250


def test_turns_of_a_run_are_counted(tmp_path: Path) -> None:
    assert place_of(tmp_path, BULK) == Place(BULK)
    count_turn(tmp_path)
    count_turn(tmp_path)
    assert place_of(tmp_path, URGENT) == Place(URGENT, 2)


def test_runs_enter_and_leave_a_line(tmp_path: Path) -> None:
    here, there = Line("pacs:104:HERE"), Line("pacs:104:THERE")
    assert here.entries() == {} and here.rate == Rate()
    entry = Entry(str(tmp_path), "here", NORMAL, "a_dag", "a run", ["find"])
    here.enter("run-1", entry)
    there.enter("run-2", entry)
    count_turn(tmp_path)
    assert here.entries() == {"run-1": entry} and entry.place == Place(NORMAL, 1)
    assert [line.entries() for line in Line.of_run("run-1")] == [{"run-1": entry}]
    (here._folder / "run-3.json").write_text("{}")  # of another version
    assert here.entries() == {"run-1": entry}
    here.leave("run-1")
    here.leave("run-1")
    assert here.entries() == {} and Line.of_run("run-1") == []


def test_the_rate_is_that_of_the_last_series() -> None:
    line = Line("pacs:104:RATED")
    assert line.rate.seconds_for(10, 0) is None
    for _ in range(200):
        line.measured(images=100, size=10**6, seconds=50.0)
    assert line.rate.seconds_for(3, 0) == pytest.approx(150) and line.rate.seconds_for(3, 100) == pytest.approx(50)
    for _ in range(200):
        line.measured(images=100, size=10**6, seconds=5.0)
    assert line.rate.seconds_for(3, 0) == pytest.approx(15, rel=0.01)
    line._folder.with_suffix(".rate").write_text('{"unknown": 1}')
    assert line.rate == Rate()
