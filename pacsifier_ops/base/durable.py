"""Files that become durable together, while their maker goes on with the next ones.

One by one, a disk takes longer to make a file durable than we take to make it: a file system with a journal writes the
journal for each. For many at once it writes it a few times.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from pacsifier_ops.base.files import fsync_files

T = TypeVar("T")

#: Maximum number of things that become durable together, and of bytes before their number is reached.
_MOST, _BYTES = 64, 2**28


class Durable(Generic[T]):
    """Makes the files of things durable, and hands these on. A context manager, which hands on all at its end.

    They are handed on in order, also if the maker ends with an error. Those whose files the disk refused are not, with
    all that were to become durable together with them.

    Args:
        ready: called with things whose files are durable.
        most: maximum number of things that become durable together.
    """

    def __init__(self, ready: Callable[[list[T]], object], most: int = _MOST) -> None:
        self._ready, self._most = ready, most
        self._made: list[tuple[T, Path | None]] = []
        self._bytes = 0
        self._flushing: tuple[list[T], Future[None]] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._disk = self._stack.enter_context(ThreadPoolExecutor(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self.flush()

    def add(self, thing: T, path: Path | None, size: int) -> None:
        """Add a thing.

        Args:
            thing: what is handed on.
            path: its file, of which nothing is written any more; None: it has none.
            size: of the file, in bytes.

        Raises:
            OSError: the file of an earlier thing could not be written; or what `ready` raises.
        """
        self._made.append((thing, path))
        self._bytes += size
        if len(self._made) >= self._most or self._bytes >= _BYTES:
            self._turn()

    def flush(self) -> None:
        """Hand on all things that were added. Raises as `add` does."""
        self._turn()
        self._turn()

    def _turn(self) -> None:
        """Begin to flush what was made, and hand on what was being flushed."""
        made, self._made, self._bytes = self._made, [], 0
        before = self._flushing
        paths = [path for _, path in made if path]
        self._flushing = ([thing for thing, _ in made], self._disk.submit(fsync_files, paths)) if made else None
        if before:
            things, flushed = before
            flushed.result()
            self._ready(things)
