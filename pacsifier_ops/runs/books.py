"""The books of a run, written: its accounts for machines, the report for people, and PACSIFIER's log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import private_folder, storage_errors
from pacsifier_ops.base.tables import BOOLEAN, INTEGER, TEXT, Columns, write_table
from pacsifier_ops.runs.accounts import (
    ROW_EMPTY,
    ROWS_ANSWERED,
    SERIES_COMPLETE,
    FileAccount,
    RowAccount,
    RunAccount,
    SeriesAccount,
)
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import close
from pacsifier_ops.runs.report_html import render

#: Columns of logs/pacsifier_log.csv after those of the query, and their types: PACSIFIER's, then ours.
LOG_COLUMNS = {
    "StudyInstanceUID": TEXT,
    "SeriesInstanceUID": TEXT,
    "SeriesNumber": TEXT,
    "FilesFound": INTEGER,
    "Completed": BOOLEAN,
    "Expected": INTEGER,
    "Missing": INTEGER,
    "Status": TEXT,
    "Reason": TEXT,
}


def write_books(
    run: Run,
    account: RunAccount,
    log_folder: Path,
    columns: Sequence[str],
    scratch: Callable[[], AbstractContextManager[Path | None]] = nullcontext,
) -> None:
    """Write accounts, summary and report into the run's folder, then the log into `log_folder`, made where needed.

    The log is a CSV file, with a Parquet file beside it.

    Args:
        account: the closed accounts.
        columns: columns of the log before its own: those of the query, or `Folder` where there is no query.
        scratch: makes a folder for unfinished files, on the file system of `log_folder`; by default they lie there.

    Raises:
        StorageError: log or report cannot be written.
    """
    close(run, account, render(account))
    names = _columns(account, columns)
    with scratch() as unfinished, storage_errors("the output folder"):
        private_folder(log_folder / "runs")
        # One log per run, so that a later run into the same folder takes nothing away; the last also as people know it.
        for path in (log_folder / "runs" / f"{run.name}.csv", log_folder / "pacsifier_log.csv"):
            rows = ([line.get(name) for name in names] for line in _lines(account))
            write_table(path, names, rows, scratch=unfinished)


def _columns(account: RunAccount, columns: Sequence[str]) -> Columns:
    """Return the columns of the log: those before its own, then its own that are not among them."""
    several = {"PACS": TEXT} if any(series.pacs for series in account.series) else {}
    own = {**LOG_COLUMNS, **several}
    return {**{name: own.get(name, TEXT) for name in columns}, **own}


def _lines(account: RunAccount) -> Iterable[dict[str, Any]]:
    """Yield a line per series under the first row that asked for it, per row without any or without a good end, and
    per file.
    """
    keys = {row.line: row.keys for row in account.rows}
    asked = {line for series in account.series for line in series.lines}
    lines: list[tuple[int, int, dict[str, Any]]] = []
    for series in account.series:
        first = series.lines[0] if series.lines else 0
        lines.append((first, series.number, {**keys.get(first, {}), **_of_series(series)}))
    told = [row for row in account.rows if row.line not in asked or row.state not in ROWS_ANSWERED]
    lines += [(row.line, 0, _of_row(row)) for row in told]
    yield from (line for _, _, line in sorted(lines, key=lambda item: item[:2]))
    yield from map(_of_file, account.bad_files)


def _of_series(series: SeriesAccount) -> dict[str, Any]:
    return {
        "Folder": series.folder,
        "StudyInstanceUID": series.study_uid,
        "SeriesInstanceUID": series.series_uid,
        "SeriesNumber": series.series_number,
        "FilesFound": series.delivered,
        "Completed": series.state == SERIES_COMPLETE,
        "Expected": "" if series.expected is None else series.expected,
        "Missing": series.missing,
        "Status": series.state,
        "Reason": series.reason,
        "PACS": series.pacs,
    }


def _of_row(row: RowAccount) -> dict[str, Any]:
    reason = row.reason or ("nothing in the archive answers this row" if row.state == ROW_EMPTY else "")
    return {**row.keys, **_NOTHING, "Expected": 0, "Status": row.state, "Reason": reason or "; ".join(row.warnings)}


def _of_file(file: FileAccount) -> dict[str, Any]:
    return {**_NOTHING, "Folder": file.path, "Status": "bad", "Reason": file.reason}


_NOTHING = {"FilesFound": 0, "Completed": False, "Missing": 0}
