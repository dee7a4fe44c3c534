"""Intake: checks a query table that a person hands in, and keeps it as a request if any of its rows is usable."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.extract.requests import confined_options, take_in
from pacsifier_ops.query.keys import ACCEPT, ANCHOR, ROW_ID, SELECTION
from pacsifier_ops.query.problems import Problem, TableRefused, readable
from pacsifier_ops.query.reading import Reading, given
from pacsifier_ops.query.records import LARGEST_UNPACKED, is_workbook
from pacsifier_ops.query.sql import is_database, is_parquet
from pacsifier_ops.query.table import QueryRow, QueryTable, parse_query_table
from pacsifier_ops.query.typed import rows_of_parquet

#: Maximum number of lines of a table, and of its bytes.
LINES, LARGEST = 200_000, 16 * 2**20
#: Maximum number of rows, lines of a remark and repeated lines in `as_json`; and of problems.
SHOWN, PROBLEMS_SHOWN = 20, 500


@dataclass(frozen=True)
class Intake:
    """A query table as it was read. It contains the values of the rows, which identify patients.

    Attributes:
        request: id of the request under which the table is kept; empty if no row is usable.
        problems: what is wrong, in the order of the lines, with the values of the cells.
        table: the table; without columns if it was refused as a whole.
    """

    request: str = ""
    problems: list[Problem] = field(default_factory=list)
    table: QueryTable = field(default_factory=lambda: QueryTable(()))

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values: all counts, and the first of the problems, rows and remarks."""
        rows = self.table.rows
        repeats = sorted((again, row.line) for row in rows for again in row.duplicates)
        remarks: dict[str, list[int]] = {}
        for row in rows:
            for remark in row.warnings:
                remarks.setdefault(remark, []).append(row.line)
        return {
            "request": self.request or None,
            "all_usable": not self.problems,
            "rows": len(rows),
            "bad_rows": len(self.table.bad_rows),
            "repeated_rows": len(repeats),
            "columns": list(self.table.columns),
            "notes": self.table.notes,
            "problem_count": len(self.problems),
            "problems": [
                {**vars(problem), "value": readable(problem.value)} for problem in self.problems[:PROBLEMS_SHOWN]
            ],
            "warnings": [
                {"message": remark, "count": len(lines), "lines": lines[:SHOWN]} for remark, lines in remarks.items()
            ],
            "repeats": [{"line": line, "same_as": first} for line, first in repeats[:SHOWN]],
            "preview": [
                {"line": row.line, "keys": row.keys, "beside": _beside(row), "new_id": row.new_id}
                for row in rows[:SHOWN]
            ],
        }


def _beside(row: QueryRow) -> dict[str, str]:
    """Return what a row says without asking for it, by column; what is empty is left out."""
    said = {ACCEPT: row.accept_patient_id_of, ANCHOR: row.anchor, SELECTION: row.selection, ROW_ID: row.row_id}
    return {column: text for column, text in said.items() if text}


def check_and_keep(data: bytes, options: Mapping[str, str] | None = None) -> Intake:
    """Check a table, and keep it with its options unless none of its rows is usable.

    Args:
        data: content of the table: CSV, xlsx, Parquet, or a DuckDB database.
        options: see `Reading`; an empty value counts as not given.

    Raises:
        ConfigError: an option has an unknown value.
        PathRefused: `sql` leads outside the data root.
        StorageError: the state root cannot be written.
    """
    options = given(options or {})
    try:
        table = check(data, Reading(**confined_options(options)))
    except TableRefused as error:
        return Intake(problems=error.problems)
    return Intake(take_in(data, options=options, by_person=True) if table.rows else "", table.problems, table)


def check(data: bytes, reading: Reading) -> QueryTable:
    """Check the size of a table, then read it; see `parse_query_table`.

    Raises:
        ConfigError: its options say that it comes from elsewhere.
        TableRefused: the table is too large, or refused as a whole.
    """
    if reading.sql_conn:
        raise ConfigError("sql_conn is a database that the table comes from, and a table was handed in; leave one out")
    _check_size(data)
    return parse_query_table(data, reading)


def _check_size(data: bytes) -> None:
    """Check that reading a table does not need too much memory.

    Raises:
        TableRefused: the table is too large.
    """
    size, most, lines = len(data), LARGEST, max(data.count(b"\n"), data.count(b"\r"))
    if is_parquet(data):
        lines = rows_of_parquet(data)
    elif is_database(data):
        lines = 0
    elif is_workbook(data):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                size, most = max(size, sum(item.file_size for item in archive.infolist())), LARGEST_UNPACKED
                lines = _rows(archive) if size <= most else 0
        except Exception:  # zipfile raises many types for a damaged or encrypted file; reading it reports the problem
            lines = 0
    if size > most:
        message = f"is too large; cut it into several tables of at most {LARGEST // 2**20} MB, or save it as CSV"
        raise TableRefused([Problem(0, "", message)])
    if lines > LINES:
        raise TableRefused([Problem(0, "", f"has too many lines; cut it into several tables of at most {LINES:,}")])


def _rows(workbook: zipfile.ZipFile) -> int:
    """Return the number of rows of all sheets."""
    sheets = (name for name in workbook.namelist() if name.startswith("xl/worksheets/"))
    return sum(workbook.read(name).count(b"<row") for name in sheets)
