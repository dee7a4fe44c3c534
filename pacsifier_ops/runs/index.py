"""Values by a key on a disk, for joins over a cohort that memory need not hold."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.base.files import private_handle, storage_errors
from pacsifier_ops.runs.folder import Run


class Index:
    """Values by a key, several to each, in their order. It is gone with this object.

    Args:
        run: in whose folder it lies.
        values: each with its key; plain data.

    Raises:
        StorageError: the run's folder cannot be written.
    """

    def __init__(self, run: Run, values: Iterable[tuple[str, Any]]) -> None:
        path = run.folder / "index.sqlite"
        with storage_errors("the state root"):
            path.unlink(missing_ok=True)
            os.close(private_handle(path, os.O_RDWR))
            # Nobody else opens it: no locks, which some file systems lack, and no name, so that nothing stays.
            self._values = sqlite3.connect(f"file:{quote(str(path))}?nolock=1", uri=True, isolation_level=None)
            self._values.execute("PRAGMA journal_mode=OFF")
            self._values.execute("PRAGMA synchronous=OFF")
            path.unlink()
        try:
            # The index comes first: to sort all keys at the end, SQLite would write them into a folder of others.
            self._values.executescript("CREATE TABLE held (key TEXT, value TEXT); CREATE INDEX by_key ON held (key)")
            self._values.execute("BEGIN")
            lines = ((key, json.dumps(value)) for key, value in values)
            self._values.executemany("INSERT INTO held VALUES (?, ?)", lines)
            self._values.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise StorageError(f"the state root: {error}; free space or mend the folder, then run again") from error

    def of(self, key: str) -> Iterator[Any]:
        """The values of a key."""
        for (value,) in self._values.execute("SELECT value FROM held WHERE key = ? ORDER BY rowid", (key,)):
            yield json.loads(value)
