"""Work that is killed before a change of the disk, at one that is counted: no test depends on a moment."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

#: Functions of `os` that change the disk; with writes, of which there are many, those of the books are among them.
CHANGES = ("replace", "unlink", "fsync", "rmdir", "mkdir", "link")
WITH_WRITES = (*CHANGES[:-1], "write")


def killed(work: Callable[[], object], after: int, changes: Sequence[str] = CHANGES) -> bool:
    """Do the work in a process that ends at once before its `after`-th change of the disk; whether it did.

    What the work prints is not shown.

    Args:
        changes: functions of `os` that count.

    Raises:
        AssertionError: it failed by itself; holds what it printed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code, said, left, write = 2, io.StringIO(), after, os.write
        for name in changes:
            original = getattr(os, name)

            def counted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return original(*args, **kwargs)

            setattr(os, name, counted)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                try:
                    work()
                    code = 0
                except BaseException as error:
                    said.write(repr(error))
        finally:
            write(writing, said.getvalue()[-4000:].encode())
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said_by_child = stream.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), said_by_child
    return code == 9
