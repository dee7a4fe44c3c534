"""Leases: a file with an owner and a heartbeat that expires. Whoever shares the state root shares them.

A name has slots, the files `slot-0`, `slot-1`, … in a folder of its own (the name is hashed: it may hold
anything, and what it holds stays out of the file system). A slot is taken by creating its file with O_EXCL,
which every file system decides atomically, NFS included. The file says who holds it; its modification time
is the heartbeat, by the clock of the file system that all machines share.

A lease bounds what well-behaved processes do at once. One that slept longer than the time to live may have
lost its lease: `Lease.check` tells.
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
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import LeaseLost, PacsifierError, StorageError
from pacsifier_ops.base.files import PRIVATE_FILE, private_folder

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
#: Seconds that a holder has between taking a slot and having said who it is; as a rule it needs some microseconds.
_TO_SAY_WHO = 2.0


class LeaseBusy(PacsifierError):
    """Others hold the lease, and the time to wait for it is over or the wait was cancelled."""

    retryable = True


class Lease:
    """One slot held by this process; a context manager that releases it. Made by `Leases.acquire`."""

    def __init__(self, path: Path, ttl: float, meta: Mapping[str, Any]) -> None:
        self.meta = dict(meta)
        self._path = path
        self._ttl = ttl
        self._token = secrets.token_hex(8)
        self._pid = os.getpid()

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            LeaseLost: it expired, or was released; somebody else may hold it now.
        """
        if not self._with_own_slot(lambda handle: None):
            raise LeaseLost("a lease expired while it was held; the step must be run again")

    def release(self) -> None:
        """Give the slot back. Harmless when repeated, after a loss, and in a forked child (not its lease).

        Raises:
            StorageError: the file system has no locks.
        """
        if os.getpid() != self._pid:
            return
        _heart.stop(self)
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
        """Take the slot if its file is not there."""
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

    def _beat(self) -> None:
        self._with_own_slot(os.utime)

    def _with_own_slot(self, action: Callable[[int], object]) -> bool:
        """Act on the open slot file; False, and nothing done, if it is gone or holds another's lease."""
        try:
            handle = os.open(self._path, os.O_RDWR)
        except OSError:  # gone, or not to be reached: what cannot be seen is not known to be ours
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
        root: folder of the leases, shared by everybody who is to respect them.
        ttl: seconds without heartbeat after which a lease of ours counts as given up.
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
    ) -> Lease:
        """Take one of the `limit` slots of `name`, waiting for one if need be.

        Callers may disagree about the limit: none gets a slot that would make the holders, whatever limit
        they came with, more than its own.

        Args:
            name: what the lease is for; any text.
            limit: how many may hold it at once.
            wait: seconds to wait at most; 0 tries once; None waits for ever.
            meta: JSON-ready data that `holder` shows to others.
            cancelled: asked between two attempts; True ends the wait.

        Raises:
            LeaseBusy: others held it all that time, or `cancelled` said so.
            StorageError: the folder of the leases cannot be written, or its file system has no locks.
        """
        deadline = None if wait is None else time.monotonic() + wait
        pause = _FIRST_PAUSE
        while True:
            with _storage():
                lease = self._try(self._folder(name), limit, meta or {})
            if lease:
                return lease
            left = _LONGEST_PAUSE if deadline is None else deadline - time.monotonic()
            if left <= 0 or (cancelled and cancelled()):
                raise LeaseBusy(f"held by others, {limit} at once at most; try again later")
            # Waiters that woke together shall not do so again.
            time.sleep(min(left, pause * random.uniform(0.5, 1.0)))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def holder(self, name: str) -> Mapping[str, Any] | None:
        """The `meta` of a live holder of `name`; None if nobody holds it.

        A slot is there before it says who holds it: that is waited for. Of a holder that died in between, it is empty.
        """
        until = time.monotonic() + _TO_SAY_WHO
        while (record := self._live(self._folder(name))) == {} and time.monotonic() < until:
            time.sleep(_FIRST_PAUSE)
        return None if record is None else record.get("meta", {})

    def _live(self, folder: Path) -> Mapping[str, Any] | None:
        """The record of a live holder; None if there is none."""
        now = self.now()
        for path in _slots(folder):
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                if not self._dead(handle, now):
                    return _read(handle)
            finally:
                os.close(handle)
        return None

    def forgotten(self) -> list[Path]:
        """Folders of leases that nobody holds any more: their holders were killed, and nobody asked for them since."""
        return [path for path in sorted(self.root.iterdir()) if path.is_dir() and self._live(path) is None]

    def forget(self, folder: Path) -> None:
        """Remove the folder of a lease, unless somebody holds it (by now)."""
        self._bury(folder)
        _remove_if_empty(folder)

    def now(self) -> float:
        """Seconds since the epoch by the clock of the file system, which all machines see alike."""
        handle = _create(self.root / "clock", exclusive=False)
        try:
            os.utime(handle)
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)

    def file(self, name: str, suffix: str) -> Path:
        """Path of a small file that belongs to `name`, for what is to outlive the lease."""
        return self.root / f"{_hashed(name)}.{suffix}"

    def _folder(self, name: str) -> Path:
        return self.root / _hashed(name)

    def _try(self, folder: Path, limit: int, meta: Mapping[str, Any]) -> Lease | None:
        lease = self._claim_one(folder, limit, meta)
        if lease is None and self._bury(folder):
            lease = self._claim_one(folder, limit, meta)
        if lease is None:
            return None
        # Among callers with one limit the slots themselves are the bound. Only where limits differ are there
        # slots beyond ours. First claim, then count: of any set of holders the last to claim has seen all
        # the others, so no set is larger than its last member allows. (The claim also makes an NFS client
        # read the folder afresh.)
        if len(_slots(folder)) > limit:
            self._bury(folder)
            if len(_slots(folder)) > limit:
                lease.release()
                return None
        _heart.start(lease)
        return lease

    def _claim_one(self, folder: Path, limit: int, meta: Mapping[str, Any]) -> Lease | None:
        for number in range(limit):
            lease = Lease(folder / f"slot-{number}", self.ttl, meta)
            if lease._claim():
                return lease
        return None

    def _bury(self, folder: Path) -> int:
        """Remove the slot files of holders that are gone; returns how many."""
        now = self.now()
        buried = 0
        for path in _slots(folder):
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                if self._dead(handle, now):
                    buried += _remove(path, handle, lambda handle: self._dead(handle, now))
            finally:
                os.close(handle)
        return buried

    def _dead(self, handle: int, now: float) -> bool:
        """Whether the holder stopped its heartbeat, or is a process of this machine that is gone."""
        # Attributes of an open file are fresh on NFS too; those of a path may be a minute old. A file without
        # an owner was created a moment ago, or its creator died in that moment: it lives by its age.
        record = _read(handle)
        if now - os.fstat(handle).st_mtime > record.get("ttl", self.ttl):
            return True
        owner = record.get("owner")
        me = _identity(os.getpid())
        if not owner or not me["boot"] or any(owner.get(key) != me[key] for key in ("host", "boot", "pids")):
            return False
        return not _running(owner["pid"], owner["started"])


def shared() -> Leases:
    """The leases that everybody under this state root shares."""
    return Leases(settings.state_root() / "leases")


class Pacer:
    """Lets a PACS rest: after `batch_size` turns, by whomever, nobody gets one for `batch_wait_time` seconds.

    A rest that came by itself counts: after a pause of that length the batch starts anew. Either number
    at 0 switches pacing off.
    """

    def __init__(self, leases: Leases, name: str, batch_size: int, batch_wait_time: float) -> None:
        self.leases = leases
        self.name = f"pace {name}"
        self.batch_size = batch_size
        self.batch_wait_time = batch_wait_time

    @property
    def on(self) -> bool:
        """Whether there is anything to wait for."""
        return self.batch_size > 0 and self.batch_wait_time > 0

    def wait_turn(self, cancelled: Callable[[], bool] | None = None) -> None:
        """Take the next turn, waiting for it if need be.

        Raises:
            LeaseBusy: `cancelled` said so.
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
        """Seconds until the next batch; 0 if this one had a turn left, which is then taken."""
        # The file holds the turns taken, in a fixed width that one write replaces; its time is that of the
        # last turn.
        handle = _create(self.leases.file(self.name, "turns"), exclusive=False)
        try:
            turns, last, now = int(os.read(handle, 16) or 0), os.fstat(handle).st_mtime, self.leases.now()
            if now < last:  # the clock was set back: rest from now on, not until it is that late again
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


class _Heart:
    """One daemon thread that touches the files of all leases this process holds."""

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
                    continue  # a disk that hangs: the next beat may succeed; `Lease.check` tells if none did


_heart = _Heart()


def _forget_leases() -> None:
    """A forked child holds no lease of its parent and has no heartbeat thread."""
    global _heart
    _heart = _Heart()
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
    """Open a file for us alone, making the folder where it is not there (any more)."""
    flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0)
    while True:
        try:
            return os.open(path, flags, PRIVATE_FILE)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # was there, and is gone again
                private_folder(path.parent)


def _slots(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder) if name.startswith("slot-")]
    except FileNotFoundError:
        return []


def _read(handle: int) -> dict[str, Any]:
    """The record of a slot file; empty while its creator has not written it."""
    try:
        record = json.loads(os.pread(handle, os.fstat(handle).st_size, 0))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _remove(path: Path, handle: int, still: Callable[[int], bool] = lambda handle: True) -> bool:
    """Remove the slot file `path`, open as `handle`. The only place where slot files are removed.

    No file system removes a file on condition. Two that found the same dead lease could remove it one after
    the other, and the second would remove the live one that took its place in between. Hence the rule: who
    removes a slot file has locked that very file (flock). Holding the lock, we make sure that the path still
    leads to the file we locked. Nobody can remove it without the lock, and nobody can create another in its
    place while it is there; so what we remove is what we looked at. The kernel drops the lock of a process
    that dies.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False  # somebody else is removing it, or making sure
    try:
        if not os.path.samestat(os.stat(path), os.fstat(handle)) or not still(handle):
            return False
        os.unlink(path)
        return True
    except FileNotFoundError:
        return False
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # said aloud: a child forked just now would keep it by its copy


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # others hold slots, or took it away first


@functools.cache
def _identity(pid: int) -> dict[str, Any]:
    """Who we are: machine (host name, boot), PID namespace, process (PID, start time)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.readlink("/proc/self/ns/pid")
        started = _started(pid)
    except OSError:  # no /proc: leases of this machine's dead end with their heartbeat, as those of others
        boot, pids, started = "", "", ""
    return {"host": socket.gethostname(), "boot": boot, "pids": pids, "pid": pid, "started": started}


def _started(pid: int) -> str:
    """Start time of a process in clock ticks after boot; empty for one that is dead but not yet reaped."""
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _running(pid: int, started: str) -> bool:
    """Whether the process that had this PID and start time still runs, in our PID namespace."""
    try:
        return _started(pid) == started
    except (FileNotFoundError, ProcessLookupError):
        return False
