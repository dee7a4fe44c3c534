"""Leases between real processes, forked and spawned, some of which are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import LeaseLost, StorageError
from pacsifier_ops.state.leases import Lease, LeaseBusy, Leases, Pacer
from tests.support.processes import PATIENCE, eventually

NAME = "pacs.example:104:ARCHIVE / 1.2.3 \udcff\n"
FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")


def slot(leases: Leases, name: str = NAME, number: int = 0) -> Path:
    return leases._folder(name) / f"slot-{number}"


def foreign(leases: Leases, number: int = 0, ttl: float = 60.0, age: float = 0.0) -> Path:
    """A lease of another machine, `age` seconds after its last heartbeat."""
    path = slot(leases, number=number)
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = {"host": "elsewhere", "boot": "b", "pids": "p", "pid": os.getpid(), "started": "1"}
    path.write_text(json.dumps({"token": "foreign", "ttl": ttl, "owner": owner, "meta": {"at": "elsewhere"}}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def note(log: Path, line: str) -> None:
    with log.open("a") as stream:
        stream.write(line + "\n")


def most_at_once(log: Path) -> int:
    """Peak of overlapping intervals; lines are `time +1` and `time -1`."""
    events = sorted((float(t), int(step)) for t, step in (line.split() for line in log.read_text().splitlines()))
    now = peak = 0
    for _, step in events:
        now += step
        peak = max(peak, now)
    assert now == 0
    return peak


def contend(root: Path, limit: int, times: int, log: Path) -> None:
    leases = Leases(root)
    for _ in range(times):
        with leases.acquire(NAME, limit=limit) as lease:
            taken = time.monotonic()
            time.sleep(0.001)
            lease.check()
            note(log, f"{taken!r} +1\n{time.monotonic()!r} -1")


def hold(root: Path, ready: Path, limit: int = 1) -> None:
    lease = Leases(root).acquire(NAME, limit=limit, meta={"port": 11112})
    ready.touch()
    time.sleep(60)
    lease.release()


@pytest.mark.parametrize("context", [FORK, SPAWN], ids=["fork", "spawn"])
def test_limit_holds_between_processes(
    leases: Leases, tmp_path: Path, start: Callable[..., Any], context: ForkContext | SpawnContext
) -> None:
    log = tmp_path / "log"
    times = 100 if context.get_start_method() == "fork" else 25
    workers = [start(contend, leases.root, 3, times, log, context=context) for _ in range(8)]
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 8
    assert len(log.read_text().splitlines()) == 2 * 8 * times
    assert most_at_once(log) <= 3
    assert [p.name for p in leases.root.iterdir() if p.is_dir()] == []


def test_limit_holds_while_holders_are_killed(leases: Leases, tmp_path: Path, start: Callable[..., Any]) -> None:
    """Breakers race for the slots of the dead while the living come and go."""
    log = tmp_path / "log"
    workers = [start(contend, leases.root, 2, 40, log) for _ in range(4)]
    for number in range(12):
        ready = tmp_path / f"ready-{number}"
        holder = start(hold, leases.root, ready, 2)
        eventually(ready.exists)
        holder.kill()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 4
    assert most_at_once(log) <= 2


def test_limits_may_differ(leases: Leases, tmp_path: Path, start: Callable[..., Any]) -> None:
    held = [leases.acquire(NAME, limit=4) for _ in range(4)]
    for gone in held[:3]:
        with pytest.raises(LeaseBusy):
            leases.acquire(NAME, limit=1, wait=0)
        gone.release()
    with pytest.raises(LeaseBusy):  # slot-0 is free, slot-3 is not
        leases.acquire(NAME, limit=1, wait=0)
    with leases.acquire(NAME, limit=2, wait=0), pytest.raises(LeaseBusy):
        leases.acquire(NAME, limit=2, wait=0)
    held[3].release()
    log = tmp_path / "log"
    workers = [start(contend, leases.root, limit, 10, log) for limit in (1, 2, 2, 4)]
    for worker in workers:
        worker.join()
    assert most_at_once(log) <= 4


def test_a_killed_holder_frees_at_once(leases: Leases, tmp_path: Path, start: Callable[..., Any]) -> None:
    ready = tmp_path / "ready"
    holder = start(hold, leases.root, ready)
    eventually(ready.exists)
    assert leases.holder(NAME) == {"port": 11112}
    with pytest.raises(LeaseBusy):
        leases.acquire(NAME, wait=0.05)
    os.kill(holder.pid, signal.SIGKILL)
    eventually(lambda: leases.holder(NAME) is None)  # before anybody waited for the process: it is a zombie
    leases.acquire(NAME, wait=0).release()


def test_a_reused_pid_is_another_process(leases: Leases) -> None:
    lease = leases.acquire(NAME)
    path = slot(leases)
    record = json.loads(path.read_text())
    record["owner"]["started"] = "1"
    path.write_text(json.dumps(record))
    with leases.acquire(NAME, wait=0), pytest.raises(LeaseLost):
        lease.check()


def test_a_foreign_holder_lives_by_its_heartbeat(leases: Leases) -> None:
    path = foreign(leases, ttl=5)
    with pytest.raises(LeaseBusy):
        leases.acquire(NAME, wait=0)
    assert leases.holder(NAME) == {"at": "elsewhere"}
    foreign(leases, ttl=5, age=6)
    assert leases.holder(NAME) is None
    with leases.acquire(NAME, wait=0):
        assert "elsewhere" not in path.read_text()


def test_a_file_without_owner_expires(leases: Leases) -> None:
    path = foreign(leases)
    path.write_bytes(b"")
    with pytest.raises(LeaseBusy):
        leases.acquire(NAME, wait=0)
    os.utime(path, (time.time() - 61,) * 2)
    leases.acquire(NAME, wait=0).release()


def test_the_heartbeat_keeps_a_lease(tmp_path: Path) -> None:
    leases = Leases(tmp_path, ttl=1.0)
    with leases.acquire(NAME) as lease:
        os.utime(slot(leases), (0, 0))
        eventually(lambda: slot(leases).stat().st_mtime > 0)
        with pytest.raises(LeaseBusy):
            leases.acquire(NAME, wait=0)
        lease.check()


def test_a_stopped_holder_notices_its_loss(tmp_path: Path, start: Callable[..., Any]) -> None:
    root, ready, lost = tmp_path / "leases", tmp_path / "ready", tmp_path / "lost"

    def victim() -> None:
        with Leases(root, ttl=1.5).acquire(NAME) as lease:
            lease.check()
            ready.touch()
            while not lost.exists():
                time.sleep(0.02)
                try:
                    lease.check()
                except LeaseLost:
                    lost.touch()

    process = start(victim)
    eventually(ready.exists)
    os.kill(process.pid, signal.SIGSTOP)
    with Leases(root).acquire(NAME, wait=PATIENCE) as lease:
        os.kill(process.pid, signal.SIGCONT)
        eventually(lost.exists)
        process.join()
        lease.check()  # the loser's heartbeat and release left the new holder alone


def test_a_forked_child_leaves_the_leases_of_its_parent(tmp_path: Path) -> None:
    leases = Leases(tmp_path, ttl=0.8)
    lease = leases.acquire(NAME)
    child = os.fork()
    if child == 0:
        with lease, leases.acquire("child's own"):
            time.sleep(0.3)
        lease.release()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    lease.check()
    # Nor does a living child keep alive what its parent lost.
    pid_of_parent = os.fork()
    if pid_of_parent == 0:
        inner = leases.acquire("parent's")
        if os.fork() == 0:
            time.sleep(12)
            os._exit(0)
        inner.check()
        os._exit(0)
    os.waitpid(pid_of_parent, 0)
    leases.acquire("parent's", wait=10).release()
    lease.check()
    lease.release()


def test_a_breaker_that_comes_late_spares_the_live_one(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finding a lease dead and removing it, somebody else removes it and takes the slot."""
    foreign(leases, age=100)
    late = Leases(leases.root)
    between: list[Lease] = []
    dead = late._dead

    def slow(handle: int, now: float) -> bool:
        verdict = dead(handle, now)
        if not between:
            between.append(leases.acquire(NAME, wait=0))
        return verdict

    monkeypatch.setattr(late, "_dead", slow)
    with pytest.raises(LeaseBusy):
        late.acquire(NAME, wait=0)
    between[0].check()


def test_waiting_can_be_cancelled(leases: Leases) -> None:
    with leases.acquire(NAME):
        answers = iter([False, True])
        with pytest.raises(LeaseBusy) as caught:
            leases.acquire(NAME, cancelled=lambda: next(answers))
    assert caught.value.retryable and NAME not in str(caught.value)


def test_release_twice_and_names_apart(leases: Leases) -> None:
    with leases.acquire("a"), leases.acquire("b", wait=0) as other:
        other.release()
        other.release()
        with pytest.raises(LeaseLost):
            other.check()
    assert leases.holder("a") is None


def test_nobody_else_may_read(leases: Leases) -> None:
    with leases.acquire(NAME), pytest.raises(LeaseBusy):
        leases.acquire(NAME, wait=0)
    with leases.acquire(NAME):
        Pacer(leases, NAME, 2, 9).wait_turn()
        found = [leases.root, *leases.root.rglob("*")]
        for path in found:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
            assert "pacs.example" not in path.name
        assert len(found) == 5  # root, clock, turns, folder, slot


def test_a_folder_that_cannot_be_used(leases: Leases) -> None:
    leases._folder(NAME).write_text("in the way")
    with pytest.raises(StorageError):
        leases.acquire(NAME)


def take_turns(root: Path, size: int, rest: float, turns: int, log: Path) -> None:
    class Noting(Pacer):
        def _take(self) -> float:
            before = time.monotonic()
            rest = super()._take()
            if not rest:
                note(log, f"{before!r} {time.monotonic()!r}")
            return rest

    pacer = Noting(Leases(root), NAME, size, rest)
    for _ in range(turns):
        pacer.wait_turn()


def test_pacer_between_processes(leases: Leases, tmp_path: Path, start: Callable[..., Any]) -> None:
    log = tmp_path / "log"
    workers = [start(take_turns, leases.root, 4, 0.4, 4, log) for _ in range(3)]
    for worker in workers:
        worker.join()
    turns = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    assert len(turns) == 12
    # Between the last turn of a batch and the first of the next lies the rest (less the clock's grain).
    assert all(turns[i + 1][1] - turns[i][0] > 0.38 for i in (3, 7))


def test_pacer_counts_a_rest_that_came_by_itself(leases: Leases) -> None:
    pacer = Pacer(leases, NAME, 2, 60)
    state = leases.file(pacer.name, "turns")
    pacer.wait_turn()
    pacer.wait_turn()
    with pytest.raises(LeaseBusy):
        pacer.wait_turn(cancelled=lambda: True)
    os.utime(state, (time.time() - 61,) * 2)
    pacer.wait_turn()
    assert int(state.read_text()) == 1


def test_pacer_after_the_clock_was_set_back(leases: Leases) -> None:
    pacer = Pacer(leases, NAME, 1, 0.05)
    pacer.wait_turn()
    state = leases.file(pacer.name, "turns")
    os.utime(state, (time.time() + 3600,) * 2)
    pacer.wait_turn()


@pytest.mark.parametrize(("size", "rest"), [(0, 5.0), (5, 0.0)])
def test_pacer_switched_off(leases: Leases, size: int, rest: float) -> None:
    for _ in range(20):
        Pacer(leases, NAME, size, rest).wait_turn()
    assert list(leases.root.iterdir()) == []
