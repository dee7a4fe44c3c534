"""Leases: files with an owner and a heartbeat that expire. All processes with the same state root share them.

A name has slots: the files `slot-0`, `slot-1`, … in a folder of its own. The folder's name is a hash, because the name
may contain anything and must not appear in the file system. A process takes a slot by creating its file with O_EXCL,
which every file system does atomically, including NFS. The file names its holder. Its modification time is the
heartbeat, by the clock of the file system that all machines share.

Those who wait for an association with a PACS stand in a line: each has a file `wait-<token>` beside the slots, which
names its process and its place (see `turns`). A free slot goes to the first in line. The line is a courtesy, the slots
are the limit: where a shared file system shows a file late, somebody is served out of turn, but no slot is held twice.
Who waits touches the file at every look. So the line passes over those who were killed, or stand still.

A lease limits cooperating processes only. A process that slept longer than the time to live may have lost its lease:
`Lease.check` finds out.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import LeaseLost, PacsifierError, StorageError
from pacsifier_ops.base.files import PRIVATE_FILE, private_folder
from pacsifier_ops.state.turns import Place

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
#: Seconds between the creation of a slot file and its content; usually it takes microseconds.
_TO_WRITE_OWNER = 2.0
#: Where a PID and a start time mean the same process: machine (host name, boot), PID namespace, time namespace.
#: Containers may share host names, and each has a PID 1.
_PLACE = ("host", "boot", "pids", "times")
#: Prefixes of the files of holders, and of those who wait.
_SLOTS, _WAITS = "slot-", "wait-"
#: Part of the time to live of a lease after which somebody who waits and does not look is passed over.
_LOOKS = 4


class LeaseBusy(PacsifierError):
    """Other processes hold the lease, and the time to wait is over or the wait was cancelled."""

    retryable = True


class Lease:
    """One slot that this process holds; a context manager that releases it. Made by `Leases.acquire`."""

    def __init__(self, path: Path, ttl: float, meta: Mapping[str, Any]) -> None:
        self.meta = dict(meta)
        self._path = path
        self._ttl = ttl
        self._token = secrets.token_hex(8)
        self._pid = os.getpid()

    def check(self) -> None:
        """Check that we still hold the lease.

        Raises:
            LeaseLost: it expired, or was released; another process may hold it now.
        """
        if not self._with_own_slot(lambda handle: None):
            raise LeaseLost("a lease expired during the work; run the step again")

    def release(self) -> None:
        """Release the slot. Harmless when repeated, after a loss, and in a forked child (which does not hold it).

        Raises:
            StorageError: the file system has no locks.
        """
        if os.getpid() != self._pid:
            return
        _heartbeat.stop(self)
        with _storage():
            self._with_own_slot(lambda handle: _remove(self._path, handle))
        _remove_if_empty(self._path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _claim(self) -> bool:
        """Take the slot if its file does not exist."""
        try:
            handle = _create(self._path)
        except FileExistsError:
            return False
        record = {"token": self._token, "ttl": self._ttl, "owner": _identity(self._pid), "meta": self.meta}
        try:
            os.write(handle, json.dumps(record).encode())
        except OSError:
            _remove(self._path, handle)
            raise
        finally:
            os.close(handle)
        return True

    def _beat(self) -> bool:
        return self._with_own_slot(os.utime)

    def _with_own_slot(self, action: Callable[[int], object]) -> bool:
        """Call an action on the open slot file. Return False, without the call, if the slot is not ours any more."""
        try:
            handle = os.open(self._path, os.O_RDWR)
        except OSError:  # missing or unreachable: we do not know that it is ours
            return False
        try:
            if _read(handle).get("token") != self._token:
                return False
            action(handle)
            return True
        finally:
            os.close(handle)


class Leases:
    """All leases below one folder.

    Args:
        root: folder of the leases, shared by all processes that respect them.
        ttl: seconds without heartbeat after which a lease of ours expires.
    """

    def __init__(self, root: Path, *, ttl: float = 60.0) -> None:
        self.root = private_folder(root)
        self.ttl = ttl

    def acquire(
        self,
        name: str,
        *,
        limit: int = 1,
        wait: float | None = None,
        meta: Mapping[str, Any] | None = None,
        cancelled: Callable[[], bool] | None = None,
        place: Place | None = None,
    ) -> Lease:
        """Take one of the `limit` slots of `name`; wait for one if necessary.

        Callers may have different limits. No caller gets a slot if the number of all holders would then exceed its own
        limit.

        Args:
            name: purpose of the lease; any text.
            limit: maximum number of holders.
            wait: maximum number of seconds to wait; 0 tries once; None: no limit.
            meta: JSON-ready data that `holder` returns to other processes.
            cancelled: called between two attempts; True ends the wait.
            place: place in the line of those who wait; None: whoever looks first gets a free slot.

        Raises:
            LeaseBusy: other processes held it all the time, or `cancelled` returned True.
            StorageError: the folder of the leases cannot be written, or its file system has no locks.
        """
        deadline = None if wait is None else time.monotonic() + wait
        pause = _FIRST_PAUSE
        line = None if place is None else _Waiter(self, self._folder(name), place)
        try:
            while True:
                with _storage():
                    lease = self._try(self._folder(name), limit, meta or {}, line)
                if lease:
                    return lease
                left = _LONGEST_PAUSE if deadline is None else deadline - time.monotonic()
                if left <= 0 or (cancelled and cancelled()):
                    raise LeaseBusy(f"held by other processes, at most {limit} at once; try again later")
                if line is not None:
                    with _storage():
                        line.stay()
                # Processes that woke at the same time should not do so again.
                time.sleep(min(left, pause * random.uniform(0.5, 1.0)))
                pause = min(pause * 1.5, _LONGEST_PAUSE)
        finally:
            if line is not None:
                with _storage():
                    line.leave()

    def overtaken(self, name: str, place: Place) -> bool:
        """Return whether somebody with a better place waits for a slot of `name`.

        Raises:
            StorageError: the folder of the leases cannot be read.
        """
        with _storage():
            folder = self._folder(name)
            return bool(_files(folder, _WAITS)) and any(key < place.key for key, _ in self._waiting(folder).values())

    def waiting(self, name: str) -> int:
        """Return the number of those who wait for a slot of `name`."""
        with _storage():
            return len(self._waiting(self._folder(name)))

    def _waiting(self, folder: Path) -> dict[str, tuple[tuple[int, int], float]]:
        """Return those who wait by token: the keys of their places, and since when, by the clock of the file system."""
        now, found = self.now(), {}
        for path in _files(folder, _WAITS):
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                # Who waits touches the file at every look, so a time that is far ahead is one of somebody who was
                # killed before the clock was set back.
                ahead = os.fstat(handle).st_mtime > now + self.ttl
                record = {} if ahead or self._dead(handle, now) else _read(handle)
            finally:
                os.close(handle)
            meta = record.get("meta", {})
            if "since" in meta:
                place = Place(str(meta.get("urgency")), int(meta.get("done", 0)))
                found[str(record["token"])] = place.key_after(now - meta["since"]), float(meta["since"])
        return found

    def holder(self, name: str) -> Mapping[str, Any] | None:
        """Return the `meta` of a live holder of `name`; None if there is no holder.

        A slot file exists before it names its holder, so this waits. The result is empty if the holder died in between.
        """
        until = time.monotonic() + _TO_WRITE_OWNER
        while (record := self._live(self._folder(name))) == {} and time.monotonic() < until:
            time.sleep(_FIRST_PAUSE)
        return None if record is None else record.get("meta", {})

    def count(self, name: str) -> int:
        """Return the number of live holders of `name`.

        Raises:
            StorageError: the folder of the leases cannot be read, or its clock not be set.
        """
        with _storage():
            return sum(1 for _ in self._all_live(self._folder(name)))

    def _live(self, folder: Path) -> Mapping[str, Any] | None:
        """Return the record of a live holder; None if there is none."""
        return next(self._all_live(folder), None)

    def _all_live(self, folder: Path) -> Iterator[Mapping[str, Any]]:
        """Yield the records of the live holders."""
        now = self.now()
        for path in _slots(folder):
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                if not self._dead(handle, now):
                    yield _read(handle)
            finally:
                os.close(handle)

    def forgotten(self) -> list[Path]:
        """Return the folders of leases without a holder.

        The holders were killed, and no process has asked for the leases since.
        """
        return [path for path in sorted(self.root.iterdir()) if path.is_dir() and self._live(path) is None]

    def forget(self, folder: Path) -> None:
        """Remove the folder of a lease, unless it has a holder by now."""
        self._remove_dead(folder)
        _remove_if_empty(folder)

    def now(self) -> float:
        """Return seconds since the epoch by the clock of the file system, which is the same for all machines."""
        handle = _create(self.root / "clock", exclusive=False)
        try:
            os.utime(handle)
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)

    def file(self, name: str, suffix: str) -> Path:
        """Return the path of a small file that belongs to `name` and outlives the lease."""
        return self.root / f"{_hashed(name)}.{suffix}"

    def _folder(self, name: str) -> Path:
        return self.root / _hashed(name)

    def _try(self, folder: Path, limit: int, meta: Mapping[str, Any], line: _Waiter | None) -> Lease | None:
        # The first in line tries whatever it sees: slots may be those of the dead, which it removes.
        ahead = line.ahead() if line is not None else 0
        if ahead and len(_slots(folder)) + ahead >= limit:
            return None
        lease = self._claim_one(folder, limit, meta)
        if lease is None and self._remove_dead(folder):
            lease = self._claim_one(folder, limit, meta)
        if lease is None:
            return None
        # Among callers with the same limit the slots themselves are the limit. Only where limits differ are there slots
        # beyond ours. Claim first, then count: in any set of holders, the last to claim has seen all others, so no set
        # is larger than its last member allows. (The claim also makes an NFS client read the folder again.)
        if len(_slots(folder)) > limit:
            self._remove_dead(folder)
            if len(_slots(folder)) > limit:
                lease.release()
                return None
        _heartbeat.start(lease)
        return lease

    def _claim_one(self, folder: Path, limit: int, meta: Mapping[str, Any]) -> Lease | None:
        for number in range(limit):
            lease = Lease(folder / f"{_SLOTS}{number}", self.ttl, meta)
            if lease._claim():
                return lease
        return None

    def _remove_dead(self, folder: Path) -> int:
        """Remove the files of dead holders, and of the dead in line; return their number."""
        now = self.now()
        removed = 0
        for path in _files(folder, _SLOTS, _WAITS):
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                if self._dead(handle, now):
                    removed += _remove(path, handle, lambda handle: self._dead(handle, now))
            finally:
                os.close(handle)
        return removed

    def _dead(self, handle: int, now: float) -> bool:
        """Return whether the holder's heartbeat stopped, or its process on this machine ended."""
        # Attributes of an open file are fresh on NFS too; those of a path may be a minute old. A file without an owner
        # was created just now, or its creator died in that moment: its age decides.
        record = _read(handle)
        if now - os.fstat(handle).st_mtime > record.get("ttl", self.ttl):
            return True
        owner = record.get("owner")
        me = _identity(os.getpid())
        if not owner or not me["boot"] or any(owner.get(key) != me[key] for key in _PLACE):
            return False
        return not _running(owner["pid"], owner["started"])


class _Waiter:
    """Somebody who waits for a slot, and stands in line from the first `stay` on.

    Args:
        leases: the leases.
        folder: folder of the slots.
        place: the place in line; of two with the same place, the one who came first is before the other.
    """

    def __init__(self, leases: Leases, folder: Path, place: Place) -> None:
        self._leases, self._folder, self._place = leases, folder, place
        self._since: float | None = None
        self._sign: Lease | None = None

    def ahead(self) -> int:
        """Return the number of those who are before this one."""
        if not _files(self._folder, _WAITS):
            return 0
        waiting = self._leases._waiting(self._folder)
        # Its own place is read like those of others: all who look see the same line.
        mine = waiting.pop(self._sign._token, None) if self._sign else None
        mine = mine or (self._place.key, self._leases.now())
        return sum(other < mine for other in waiting.values())

    def stay(self) -> None:
        """Take the place in line, or show that it is still taken: a process that slept may have lost it."""
        if self._sign is not None and self._sign._beat():
            return
        self._since = self._leases.now() if self._since is None else self._since
        meta = {**asdict(self._place), "since": self._since}
        path = self._folder / f"{_WAITS}{secrets.token_hex(8)}"
        self._sign = Lease(path, self._leases.ttl / _LOOKS, meta)
        self._sign._claim()

    def leave(self) -> None:
        """Leave the line."""
        if self._sign is not None:
            self._sign.release()


def shared() -> Leases:
    """Return the leases that all processes with this state root share."""
    return Leases(settings.state_root() / "leases")


class Pacer:
    """Paces the series of a PACS.

    After `batch_size` turns of all processes, none gets a turn for `batch_wait_time` seconds. An idle time of that
    length also starts a new batch. Zero for either number disables pacing.
    """

    def __init__(self, leases: Leases, name: str, batch_size: int, batch_wait_time: float) -> None:
        self.leases = leases
        self.name = f"pace {name}"
        self.batch_size = batch_size
        self.batch_wait_time = batch_wait_time

    @property
    def on(self) -> bool:
        """Whether pacing is enabled."""
        return self.batch_size > 0 and self.batch_wait_time > 0

    def wait_turn(self, cancelled: Callable[[], bool] | None = None) -> None:
        """Take the next turn; wait for it if necessary.

        Raises:
            LeaseBusy: `cancelled` returned True.
            StorageError: the folder of the leases cannot be written.
        """
        if not self.on:
            return
        while True:
            with self.leases.acquire(self.name, cancelled=cancelled), _storage():
                rest = self._take()
            end = time.monotonic() + rest
            while (left := end - time.monotonic()) > 0:
                if cancelled and cancelled():
                    raise LeaseBusy("cancelled while the PACS rests between two batches")
                time.sleep(min(left, _LONGEST_PAUSE))
            if not rest:
                return

    def _take(self) -> float:
        """Take a turn of the batch and return 0, or return the seconds until the next batch."""
        # The file contains the number of turns taken, with a fixed width that one write replaces; its time is that of
        # the last turn.
        handle = _create(self.leases.file(self.name, "turns"), exclusive=False)
        try:
            turns, last, now = int(os.read(handle, 16) or 0), os.fstat(handle).st_mtime, self.leases.now()
            if now < last:  # the clock was set back: wait from now on, not until that time comes again
                os.utime(handle)
                last = now
            rest = last + self.batch_wait_time - now
            if rest <= 0:
                turns = 0
            if turns >= self.batch_size:
                return rest
            os.pwrite(handle, b"%09d" % (turns + 1), 0)
            return 0.0
        finally:
            os.close(handle)


class _Heartbeat:
    """One daemon thread that touches the files of all leases of this process."""

    def __init__(self) -> None:
        self._held: set[Lease] = set()
        self._pulse = float("inf")
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self, lease: Lease) -> None:
        with self._changed:
            self._held.add(lease)
            if lease._ttl / 4 < self._pulse:
                self._pulse = lease._ttl / 4
                self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lease heartbeat", daemon=True)
                self._thread.start()

    def stop(self, lease: Lease) -> None:
        with self._changed:
            self._held.discard(lease)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(self._pulse)
                held = list(self._held)
            for lease in held:
                try:
                    lease._beat()
                except OSError:
                    continue  # a blocked disk: the next beat may succeed, and `Lease.check` finds out if none did


_heartbeat = _Heartbeat()


def _forget_leases() -> None:
    """Start without leases and without heartbeat thread in a forked child: the leases are the parent's."""
    global _heartbeat
    _heartbeat = _Heartbeat()
    _identity.cache_clear()


os.register_at_fork(after_in_child=_forget_leases)


@contextlib.contextmanager
def _storage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"leases cannot be kept below the state root ({error.strerror})") from error


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _create(path: Path, exclusive: bool = True) -> int:
    """Open a file for the owner alone, and create its folder if it does not exist (any more)."""
    flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0)
    while True:
        try:
            return os.open(path, flags, PRIVATE_FILE)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # it existed, and was removed again
                private_folder(path.parent)


def _slots(folder: Path) -> list[Path]:
    return _files(folder, _SLOTS)


def _files(folder: Path, *kinds: str) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder) if name.startswith(kinds)]
    except FileNotFoundError:
        return []


def _read(handle: int) -> dict[str, Any]:
    """Return the record of a slot file; empty while its creator has not written it."""
    try:
        record = json.loads(os.pread(handle, os.fstat(handle).st_size, 0))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _remove(path: Path, handle: int, still: Callable[[int], bool] = lambda handle: True) -> bool:
    """Remove the slot file `path`, open as `handle`. No other code removes slot files.

    No file system removes a file conditionally. Two processes that find the same dead lease could remove it one after
    the other, and the second would remove a live lease that replaced it in between. Hence this rule: a process locks a
    slot file (flock) before it removes it. With the lock it checks that the path still leads to the locked file. No
    other process can remove that file without the lock, and none can create another in its place while it exists. So
    the removed file is the one that was examined. The kernel releases the lock of a process that dies.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # another process removes it, or checks it
    try:
        if not os.path.samestat(os.stat(path), os.fstat(handle)) or not still(handle):
            return False
        os.unlink(path)
        return True
    except FileNotFoundError:
        return False
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # explicit: a child forked just now would keep the lock


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # other processes hold slots, or have removed it


@functools.cache
def _identity(pid: int) -> dict[str, Any]:
    """Return the identity of a process: where it runs (`_PLACE`), its PID, its start time."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.readlink("/proc/self/ns/pid")
        times = os.readlink("/proc/self/ns/time") if os.path.lexists("/proc/self/ns/time") else ""
        # A sandbox may show the /proc of another PID namespace, where our number is another process, or none.
        started = _started(pid) if os.readlink("/proc/self") == str(pid) else ""
        boot = boot if started else ""
    except OSError:  # no /proc: dead holders of this machine are then found by their heartbeat, like those of others
        boot, pids, times, started = "", "", "", ""
    return {"host": socket.gethostname(), "boot": boot, "pids": pids, "times": times, "pid": pid, "started": started}


def _started(pid: int) -> str:
    """Return the start time of a process in clock ticks after boot; empty for a dead one that was not reaped yet."""
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _running(pid: int, started: str) -> bool:
    """Return whether the process with this PID and start time still runs, in our PID namespace."""
    try:
        return _started(pid) == started
    except (FileNotFoundError, ProcessLookupError):
        return False
