"""Writes the results of a closed run: accounts.json, summary.json, the report, and PACSIFIER's log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import private_folder, storage_errors, write_atomic
from pacsifier_ops.base.tables import BOOLEAN, INTEGER, TEXT, Columns, parquet_of, write_table
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
    """Write account, summary and report into the run's folder, then the log into `log_folder`.

    The log is a CSV file, with a Parquet file beside it.

    Args:
        account: the closed account.
        log_folder: folder of the log; it is created if necessary.
        columns: first columns of the log: those of the query, or `Folder` without a query.
        scratch: yields a folder for unfinished files, on the file system of `log_folder`; default: `log_folder`.

    Raises:
        StorageError: log or report cannot be written.
    """
    close(run, account, render(account))
    names = _columns(account, columns)
    with scratch() as unfinished, storage_errors("the output folder"):
        private_folder(log_folder / "runs")
        # Each run has its own log, so that no run overwrites another's. The newest one also has the name in PACSIFIER.
        own, newest = log_folder / "runs" / f"{run.name}.csv", log_folder / "pacsifier_log.csv"
        write_table(own, names, ([line.get(name) for name in names] for line in _lines(account)), scratch=unfinished)
        for written, copy in ((own, newest), (parquet_of(own), parquet_of(newest))):
            write_atomic(copy, written.read_bytes(), scratch=unfinished)


def _columns(account: RunAccount, columns: Sequence[str]) -> Columns:
    """Return the columns of the log: those before its own, then its own that are not among them."""
    several = {"PACS": TEXT} if any(series.pacs for series in account.series) else {}
    fetched = {"FetchedFrom": TEXT} if any(series.source for series in account.series) else {}
    own = {**LOG_COLUMNS, **several, **fetched}
    return {**{name: own.get(name, TEXT) for name in columns}, **own}


def _lines(account: RunAccount) -> Iterable[dict[str, Any]]:
    """Yield the lines of the log, column to value, in the order of the query table.

    There is a line for each series, each row without series or without an answer, and each bad file. A series has the
    cells of the first row that asked for it.
    """
    keys = {row.line: row.keys for row in account.rows}
    asked = {line for series in account.series for line in series.lines}
    rows = [row for row in account.rows if row.line not in asked or row.state not in ROWS_ANSWERED]
    told: list[RowAccount | SeriesAccount] = [*account.series, *rows]
    for one in sorted(told, key=_place):
        if isinstance(one, RowAccount):
            yield _of_row(one)
        else:
            yield {**keys.get(_place(one)[0], {}), **_of_series(one)}
    yield from map(_of_file, account.bad_files)


def _place(one: RowAccount | SeriesAccount) -> tuple[int, int]:
    """Return the place of a line in the log: that of a series is after its first row."""
    if isinstance(one, RowAccount):
        return one.line, 0
    return one.lines[0] if one.lines else 0, one.number


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
        "FetchedFrom": series.source or series.pacs,
    }


def _of_row(row: RowAccount) -> dict[str, Any]:
    reason = row.reason or ("nothing in the archive answers this row" if row.state == ROW_EMPTY else "")
    reason = reason or "; ".join(f"{count} left out: {why}" for why, count in row.left_out.items())
    return {**row.keys, **_NO_FILES, "Expected": 0, "Status": row.state, "Reason": reason or "; ".join(row.warnings)}


def _of_file(file: FileAccount) -> dict[str, Any]:
    return {**_NO_FILES, "Folder": file.path, "Status": "bad", "Reason": file.reason}


_NO_FILES = {"FilesFound": 0, "Completed": False, "Missing": 0}
