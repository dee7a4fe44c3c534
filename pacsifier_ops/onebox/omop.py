"""`python -m pacsifier_ops.onebox.omop FILE`: a small OMOP database whose patients are those of the demonstration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pacsifier_ops.onebox.up import REPO

#: The tables and their rows.
SCRIPT = REPO / "include" / "omop" / "demo.sql"


def make(path: Path) -> None:
    """Make the DuckDB database; one that is there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    import duckdb

    unfinished = path.with_name(f".{path.name}.part")
    unfinished.unlink(missing_ok=True)
    try:
        with duckdb.connect(str(unfinished)) as database:
            database.execute(SCRIPT.read_text(encoding="utf-8"))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
