"""Tables that users get as CSV and as Parquet."""

from __future__ import annotations

import csv
from pathlib import Path

from pyarrow import parquet

from pacsifier_ops.base.cells import plain
from pacsifier_ops.base.tables import parquet_of


def parquet_as_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of the Parquet file beside a CSV file as csv would read them; both hold the same."""
    rows = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in parquet.read_table(parquet_of(path)).to_pylist()
    ]
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        assert parquet.read_schema(parquet_of(path)).names == reader.fieldnames
        assert rows == [{name: plain(value) for name, value in row.items()} for row in reader]
    assert path.stat().st_mode == parquet_of(path).stat().st_mode
    return rows
