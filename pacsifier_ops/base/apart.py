"""Work on files that may harm the process that does it, such as decoding a damaged image: another process does it.

That process has limits of time and memory, is kept between requests, and is begun anew after a crash.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from pacsifier_ops.base.start import decoding

#: Number of bytes of an answer's length field.
_PREFIX = 8
#: Maximum size of an answer in bytes, unless said otherwise.
_MOST = 2**30


class Apart:
    """A process that answers requests; a context manager that ends it.

    Args:
        module: its main module, which calls `serve`.
        seconds: maximum time for an answer.
        most: maximum size of an answer in bytes.
    """

    def __init__(self, module: str, seconds: float, most: int = _MOST) -> None:
        self._module, self._seconds, self._most = module, seconds, most
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process. Harmless when repeated."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            with suppress(OSError):  # input that it had not read yet
                process.communicate()

    def begin(self) -> subprocess.Popen[bytes]:
        """Return the process, begun unless it runs; it loads its libraries while the caller does something else."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        self._process = self._process or subprocess.Popen(
            decoding(self._module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._process

    def ask(self, request: Any) -> bytes | None:
        """Return the answer to a request, which is plain data; None: it is empty, too large, too late, or a crash."""
        process = self.begin()
        assert process.stdin
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            until = time.monotonic() + self._seconds
            size = int.from_bytes(_received(process, _PREFIX, until), "big")
            if size > self._most:
                raise EOFError
            return _received(process, size, until) or None
        except (OSError, EOFError):
            self.close()
            return None


def _received(process: subprocess.Popen[bytes], size: int, until: float) -> bytes:
    """Read a number of bytes from the output of a process.

    Args:
        process: the process.
        size: number of bytes.
        until: deadline on the clock of `time.monotonic`, in seconds.

    Raises:
        TimeoutError: the bytes do not arrive in time.
        EOFError: the output ends before.
    """
    assert process.stdout
    data = bytearray()
    while len(data) < size:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(process.stdout.fileno(), size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def serve(answer: Callable[[Any], bytes | None], memory: int, idle: int = 0) -> None:
    """Answer the requests of an `Apart`, until its end.

    Args:
        answer: returns the answer to a request.
        memory: maximum size of this process in bytes.
        idle: seconds without a request after which this process ends; 0: never.
    """
    with suppress(ValueError, OSError):  # not all systems allow it
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # decoders may print; that must not mix with the answer
        signal.alarm(idle)
        for line in sys.stdin.buffer:
            signal.alarm(0)
            data = answer(json.loads(line)) or b""
            output.write(len(data).to_bytes(_PREFIX, "big") + data)
            output.flush()
            signal.alarm(idle)
