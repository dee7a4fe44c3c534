"""A key-value index on disk, for cohorts that are too large for memory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.base.files import ascii_json, json_line, private_handle, storage_errors
from pacsifier_ops.runs.folder import Run


class Index:
    """Maps each key to its values, in the order in which they were given. SQLite keeps them in an unlinked file.

    Args:
        run: run whose folder gets the file.
        values: pairs of key and value; values are plain JSON data.

    Raises:
        StorageError: the run's folder cannot be written.
    """

    def __init__(self, run: Run, values: Iterable[tuple[str, Any]]) -> None:
        path = run.folder / "index.sqlite"
        with storage_errors("the state root"):
            path.unlink(missing_ok=True)
            os.close(private_handle(path, os.O_RDWR))
            # No other process opens the file, so it needs no locks, which some file systems lack. The system removes a
            # file without a name when it is closed, also after a kill.
            self._values = sqlite3.connect(f"file:{quote(str(path))}?nolock=1", uri=True, isolation_level=None)
            self._values.execute("PRAGMA journal_mode=OFF")
            self._values.execute("PRAGMA synchronous=OFF")
            path.unlink()
        try:
            # The index is made first: later, SQLite would sort the keys in the system's temporary folder.
            self._values.executescript("CREATE TABLE held (key TEXT, value TEXT); CREATE INDEX by_key ON held (key)")
            self._values.execute("BEGIN")
            lines = ((key, ascii_json(value)) for key, value in values)
            self._values.executemany("INSERT INTO held VALUES (?, ?)", lines)
            self._values.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise StorageError(f"the state root: {error}; free space or mend the folder, then run again") from error

    def of(self, key: str) -> Iterator[Any]:
        """Yield the values of a key."""
        for (value,) in self._values.execute("SELECT value FROM held WHERE key = ? ORDER BY rowid", (key,)):
            yield json_line(value)
