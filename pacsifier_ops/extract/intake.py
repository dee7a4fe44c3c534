"""Intake: a query table that somebody hands in, checked as a whole, and kept if any row of it can be asked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pacsifier_ops.extract.requests import take_in
from pacsifier_ops.query.problems import Problem, TableRefused, readable
from pacsifier_ops.query.reading import Reading, given
from pacsifier_ops.query.records import LARGEST_UNPACKED, is_workbook
from pacsifier_ops.query.table import QueryTable, parse_query_table

#: Lines of a table at most, and bytes.
LINES, LARGEST = 200_000, 16 * 2**20
#: Rows, remarks and repeated lines shown; and problems.
SHOWN, PROBLEMS_SHOWN = 20, 500


@dataclass(frozen=True)
class Intake:
    """What was understood of a table. It holds what the rows ask for: identifying.

    Attributes:
        request: id under which the table is kept; empty where no row can be asked.
        problems: what is wrong, in order of the lines; with the cells, for whoever handed the table in.
        table: the table as read; one without columns where it was refused as a whole.
    """

    request: str = ""
    problems: list[Problem] = field(default_factory=list)
    table: QueryTable = field(default_factory=lambda: QueryTable(()))

    def as_json(self) -> dict[str, Any]:
        """The same as plain data: all counts, the first of the problems, rows and remarks."""
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
            "preview": [{"line": row.line, "keys": row.keys, "new_id": row.new_id} for row in rows[:SHOWN]],
        }


def take(data: bytes, options: Mapping[str, str] | None = None) -> Intake:
    """Check a table and keep it with the options of reading it, unless none of its rows can be asked.

    Args:
        options: see `Reading`; those that are empty count as not given.

    Raises:
        ConfigError: an option has a value that there is not.
        StorageError: the state root cannot be written.
    """
    options = given(options or {})
    try:
        table = check(data, Reading(**options))
    except TableRefused as error:
        return Intake(problems=error.problems)
    return Intake(take_in(data, options=options) if table.rows else "", table.problems, table)


def check(data: bytes, reading: Reading) -> QueryTable:
    """Check a table that somebody hands in, its size first; see `parse_query_table`.

    Raises:
        TableRefused: it is too large, or cannot be used as a whole.
    """
    _check_size(data)
    return parse_query_table(data, reading)


def _check_size(data: bytes) -> None:
    """Refuse what would take too much memory to read.

    Raises:
        TableRefused: says how large a table may be.
    """
    size, most, lines = len(data), LARGEST, max(data.count(b"\n"), data.count(b"\r"))
    if is_workbook(data):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                size, most = max(size, sum(item.file_size for item in archive.infolist())), LARGEST_UNPACKED
                lines = _rows(archive) if size <= most else 0
        except Exception:  # whatever a damaged or encrypted archive makes zipfile raise; reading it says so
            lines = 0
    if size > most:
        message = f"is too large; cut it into several tables of at most {LARGEST // 2**20} MB, or save it as CSV"
        raise TableRefused([Problem(0, "", message)])
    if lines > LINES:
        raise TableRefused([Problem(0, "", f"has too many lines; cut it into several tables of at most {LINES:,}")])


def _rows(workbook: zipfile.ZipFile) -> int:
    """How many rows the sheets have."""
    sheets = (name for name in workbook.namelist() if name.startswith("xl/worksheets/"))
    return sum(workbook.read(name).count(b"<row") for name in sheets)
