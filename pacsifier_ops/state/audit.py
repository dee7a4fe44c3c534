"""The audit file: who started, approved, released, removed and exported what. It only grows, and its lines are chained.

A line is a JSON object. `before` is the SHA-256 of the line before it, without its line feed. So a line that is
changed, taken out or put in breaks the chain at the line behind it. A chain alone does not show that its last lines
were cut off. So the head (number and SHA-256 of the last line) is kept in a second file. Who can write both files can
make both anew: that is found out only by a head that was kept elsewhere.

| file        | content                                                                    |
|-------------|----------------------------------------------------------------------------|
| audit.jsonl | the lines                                                                  |
| head.json   | the head when the last line was written                                    |
| key         | secret of the digests of query tables, see `keyed`                         |

Processes on all machines append one after the other: each locks the file from reading its end to writing the head. The
kernel releases the lock of a process that dies. NFS passes such locks on to the server, if it is mounted with locks,
which is the default; without them, appending fails.

What a killed process leaves at the end stays. The next line is preceded by one with the event HEALED where a line was
not whole, and by one with the event BROKEN where the file does not have what the head says.

No line holds anything of a patient: names of users, projects and connections, counts and digests only. The digest of a
query table is keyed, since somebody could otherwise find its rows out by trying.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import getpass
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError, StorageError
from pacsifier_ops.base.files import (
    private_folder,
    private_handle,
    read_json,
    storage_errors,
    write_json,
    write_once,
)
from pacsifier_ops.base.words import plural

LINES, _HEAD, _KEY = "audit.jsonl", "head.json", "key"

#: Events.
STARTED, REFUSED, APPROVED, REJECTED, CANCELLED = "started", "refused", "approved", "rejected", "cancelled"
RELEASED, REMOVING, REMOVED, EXPORTED = "released", "removing", "removed", "exported"
#: Events of the file itself: a line was not whole; the file did not have what the head says.
HEALED, BROKEN = "healed", "broken"

#: What a line may tell, with its meaning. There is no other key, so that no value of a patient comes in by mistake.
FACTS: Mapping[str, str] = {
    "by": "name of the user; empty: nobody, by schedule or by the limits of the request",
    "run": "name of the run's folder",
    "job": "DAG and task group, or command",
    "project": "name of the project",
    "owners": "of the project, for whom a scheduled run acts",
    "approvers": "of the project",
    "ethics": "reference of the project's approval by an ethics committee",
    "expires": "last day of the project",
    "connections": "connections that are taken from or sent to",
    "urgency": "of the run",
    "cohort": "keyed digest of the query table, see `pacsifier-audit digest`",
    "right": "that was missing",
    "reason": "of a refusal",
    "subject": "of a decision",
    "digest": "of what was decided on, or released; that of a cohort is keyed",
    "waived": "findings of the search were waived",
    "beforehand": "nobody was asked: the limits of the request decide, or an earlier answer on the same digest",
    "files": "number of files",
    "objects": "number of objects that were sent, and confirmed by the node",
    "to": "connection of the node that got them, or `folder`",
    "verdict": "of the export",
    "bytes": "length of what was not whole",
    "head": "what the head said",
}

#: Stands for the line before the first one.
_NONE = "0" * 64
#: Time to wait for others that append, in seconds, and between two looks.
_PATIENCE, _PAUSE = 60.0, 0.01


@dataclass(frozen=True)
class Head:
    """The end of the file.

    Attributes:
        lines: number of lines.
        sha256: SHA-256 of the last line, hexadecimal.
        size: length of the file in bytes; last: where its last line begins.
    """

    lines: int = 0
    sha256: str = _NONE
    size: int = 0
    last: int = 0

    def __str__(self) -> str:
        return f"{self.lines}:{self.sha256}"


@dataclass(frozen=True)
class Verified:
    """The result of a verification.

    Attributes:
        head: the end of the file, as far as the chain holds.
        problem: what is wrong with the first broken line; empty: nothing.
        healed: numbers of the lines that say that the line before them is not whole.
        unfinished: the last line has no end: a process was killed while it wrote it. The next line will say so.
    """

    head: Head
    problem: str = ""
    healed: tuple[int, ...] = ()
    unfinished: bool = False


def me() -> str:
    """Return the name of the user of the operating system, who stands for the person at a command line."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return str(os.getuid())


def record(event: str, **facts: Any) -> Head:
    """Append a line, durably. Return the new end of the file.

    Args:
        event: see above.
        facts: by the keys of FACTS; empty values are left out.

    Raises:
        StorageError: the file cannot be written, or others have held it for too long.
    """
    if unknown := facts.keys() - FACTS.keys():
        raise ValueError(f"the audit file has no {', '.join(sorted(unknown))}")
    with storage_errors("the audit file"), _locked() as (folder, handle):
        head = _end(folder, handle)
        head = _append(handle, head, event, facts)
        write_json(folder / _HEAD, asdict(head))
        return head


def keyed(data: bytes) -> str:
    """Return a digest by which nobody without the key can try out what the data might be (HMAC-SHA256), hexadecimal.

    Raises:
        StorageError: the key can be neither read nor made.
    """
    with storage_errors("the key of the audit file"):
        key = write_once(private_folder(settings.audit()) / _KEY, secrets.token_hex(32))
    return hmac.digest(bytes.fromhex(key), data, "sha256").hex()


def verify(kept: Head | None = None) -> Verified:
    """Check every line, and the head.

    Args:
        kept: an earlier head, which was kept elsewhere.

    Raises:
        ConfigError: there is no audit file.
        StorageError: it cannot be read.
    """
    path = settings.audit() / LINES
    if not path.exists():
        if heads := [one for one in (_noted(settings.audit()), kept) if one]:
            return _verified((), heads)
        raise ConfigError(
            f"there is no audit file {path}; the first run makes it. If there were runs, set "
            "PACSIFIER_STATE_ROOT to theirs"
        )
    with storage_errors("the audit file"), path.open("rb") as stream, _shared(stream.fileno()):
        noted = _noted(settings.audit())
        found = _verified(stream, [one for one in (noted, kept) if one])
    if noted is None and found.head.lines and not found.problem:
        last = f"line {found.head.lines}: nothing says that it is the last one; {_HEAD} is missing, or cannot be read"
        return replace(found, problem=last)
    return found


# How a line is written


@contextmanager
def _locked() -> Iterator[tuple[Path, int]]:
    """Yield the folder and the open file, while nobody else appends."""
    folder = private_folder(settings.audit())
    # For writing and reading: NFS refuses a lock on a file that is open for one of them only.
    handle = private_handle(folder / LINES, os.O_RDWR | os.O_APPEND)
    try:
        _wait_for(handle, fcntl.LOCK_EX)
        yield folder, handle
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # explicit: a child forked just now would keep the lock
        os.close(handle)


@contextmanager
def _shared(handle: int) -> Iterator[None]:
    """Let nobody append in the block."""
    try:
        _wait_for(handle, fcntl.LOCK_SH)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


def _wait_for(handle: int, kind: int) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise StorageError("another process holds the audit file; find out which, then run again") from None
            time.sleep(_PAUSE)


def _append(handle: int, head: Head, event: str, facts: Mapping[str, Any]) -> Head:
    """Append a line behind the head. Return the new head."""
    told = {key: value for key, value in facts.items() if value or type(value) is int}
    when = dt.datetime.now().astimezone().isoformat(timespec="seconds")
    line = {"line": head.lines + 1, "when": when, "event": event, **told, "before": head.sha256}
    data = json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode()
    _write(handle, data + b"\n")
    return _after(head, data)


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
    os.fsync(handle)


def _after(head: Head, line: bytes) -> Head:
    """Return the head after one more line."""
    return Head(head.lines + 1, hashlib.sha256(line).hexdigest(), head.size + len(line) + 1, head.size)


def _end(folder: Path, handle: int) -> Head:
    """Return the end of the file. What is not whole there is closed, and a line behind it says so.

    Only what came behind the noted head is read, unless the file does not fit that.
    """
    size, noted = os.fstat(handle).st_size, _noted(folder)
    if noted is None and not size:  # before the first line, so that no line is ever without a head
        write_json(folder / _HEAD, asdict(noted := Head()))
    fits = noted is not None and _fits(handle, size, noted)
    walk = _Walk(noted if noted and fits else Head())
    *lines, rest = os.pread(handle, size - walk.head.size, walk.head.size).split(b"\n")
    for line in lines:
        walk.take(line)
    if rest:
        _write(handle, b"\n")
        walk.take(rest)
    head = walk.head
    if walk.torn:
        head = _append(handle, head, HEALED, {"bytes": head.size - head.last - 1})
    if walk.problem or not fits:
        head = _append(handle, head, BROKEN, {"head": str(noted or "")})
    return head


def _fits(handle: int, size: int, noted: Head) -> bool:
    """Return whether the file has the last line of the noted head where it was."""
    if size < noted.size:
        return False
    line = os.pread(handle, noted.size - noted.last, noted.last)
    return not noted.lines or (line[-1:] == b"\n" and hashlib.sha256(line[:-1]).hexdigest() == noted.sha256)


def _noted(folder: Path) -> Head | None:
    """Return the noted head; None: there is none, or it cannot be read."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        return Head(**read_json(folder / _HEAD))
    return None


# How it is verified


class _Walk:
    """A walk through lines, one after the other.

    Args:
        head: where it begins.

    Attributes:
        head: where it is.
        torn: number of the last line if it cannot be read, and the next one has to say so.
        healed: numbers of the lines that say so.
        problem: what is wrong with the first broken line; empty: nothing.
    """

    def __init__(self, head: Head) -> None:
        self.head, self.torn, self.problem = head, 0, ""
        self.healed: list[int] = []

    def take(self, line: bytes) -> Mapping[str, Any]:
        """Take the next line, without its line feed. Return its content; empty if it cannot be read."""
        told, number = _told(line), self.head.lines + 1
        if self.torn and told.get("event") != HEALED:
            self.fault(self.torn, "it cannot be read, and the next line does not say so")
        elif self.torn:
            self.healed.append(number)
        self.torn = 0 if told else number
        if told and told.get("line") != number:
            self.fault(number, "it has another number")
        elif told and told.get("before") != self.head.sha256:
            self.fault(number, "the line before it was changed, taken out or put in")
        self.head = _after(self.head, line)
        return told

    def fault(self, number: int, what: str) -> None:
        """Keep a fault, if it is the first."""
        self.problem = self.problem or f"line {number}: {what}"


def _verified(stream: Iterable[bytes], heads: list[Head]) -> Verified:
    walk, whole = _Walk(Head()), True
    for data in stream:
        line = data.removesuffix(b"\n")
        whole = line != data
        if walk.take(line).get("event") == BROKEN:
            walk.fault(walk.head.lines, "it says that lines before it were changed, or cut off")
        at = walk.head.lines
        if any(one.lines == at and one.sha256 != walk.head.sha256 for one in heads):
            walk.fault(at, "it is not the one of the head")
        if walk.problem:
            break
    if walk.torn and whole:
        walk.fault(walk.torn, "it cannot be read, and no line behind it says so")
    if (counted := max((one.lines for one in heads), default=0)) > walk.head.lines:
        walk.fault(walk.head.lines + 1, f"it is missing; the head counts {plural(counted, 'line')}")
    return Verified(walk.head, walk.problem, tuple(walk.healed), not whole)


def _told(line: bytes) -> Mapping[str, Any]:
    """Return the content of a line; empty where it cannot be read."""
    with suppress(ValueError):
        told = json.loads(line)
        return told if isinstance(told, dict) else {}
    return {}
