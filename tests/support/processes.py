"""Programs and threads that tests start, and waiting for what they do.

A machine may be slow, and each wait ends when the thing happens: so limits are generous.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

#: Seconds that a wait lasts at most.
PATIENCE = 120.0


def until(true: Callable[[], object], seconds: float = PATIENCE, pause: float = 0.01) -> bool:
    """Wait for something that happens in another thread or process; return whether it has."""
    deadline = time.monotonic() + seconds
    while not (found := bool(true())) and time.monotonic() < deadline:
        time.sleep(pause)
    return found


def eventually(true: Callable[[], object], pause: float = 0.01) -> None:
    """Wait for something, which must happen."""
    assert until(true, pause=pause), "it does not happen"


@contextmanager
def started(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program, and end it with the block; leaving `with Popen` would wait for ever for one that goes on."""
    with subprocess.Popen([*map(str, command)], **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process; of one that has ended meanwhile, nothing."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def runs(process: psutil.Process) -> bool:
    """Whether a process is there, and not only as one that has ended and waits for its parent to see it."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def living(pids: Iterable[int]) -> list[psutil.Process]:
    """Return those of the processes that run."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return [process for process in found if runs(process)]
