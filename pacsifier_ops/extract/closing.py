"""The end of a run: its books closed, checked against the disk, and written for people and for machines."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from pacsifier_ops.accounts import (
    ROW_CONFLICT,
    ROW_EMPTY,
    ROW_FAILED,
    ROW_FOUND,
    SERIES_COMPLETE,
    SERIES_FAILED,
    SERIES_LISTED,
    RowAccount,
    RunAccount,
    SeriesAccount,
)
from pacsifier_ops.extract.run import Planned, Request
from pacsifier_ops.files import DATA_FILE, read_json, read_jsonl, storage_errors, write_atomic, write_json
from pacsifier_ops.leases import Leases
from pacsifier_ops.run import Run, now
from pacsifier_ops.tree import LOGS, Tree

#: Columns of logs/pacsifier_log.csv after the query's own: PACSIFIER's, then ours.
LOG_COLUMNS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FilesFound",
    "Completed",
    "Expected",
    "Missing",
    "Status",
    "Reason",
)
_NOT_ATTEMPTED = "not attempted: the run ended before"
_NOT_PLANNED = "found, but nothing was fetched: the run ended before"
_CONFLICT = "rows give one of its patients different new_ids; that patient was left out"


def close_books(run: Run, leases: Leases) -> RunAccount:
    """Gather the accounts of a run, check them, and write log and report.

    Raises:
        StorageError: log or report cannot be written.
    """
    from pacsifier_ops.report_html import render

    request, table = Request.of(run), read_json(run.folder / "table.json")
    rows, series = _rows(run, table["same_as"]), _series(run)
    account = RunAccount(run.name, request.pacs, request.retrieve, request.started, now(), rows, series)
    if request.retrieve == "save":
        account.discrepancies = _against_disk(request.out_directory, series)
    log = _log(account, table["columns"])
    with storage_errors("the state root"):
        write_json(run.folder / "accounts.json", account.as_dict())
        write_atomic(run.report, render(account, {"output": str(request.out_directory)}))
    folder = request.out_directory / LOGS
    with Tree.open(request.out_directory).workplace(leases) as scratch, storage_errors("the output folder"):
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        # One log per run, so that a later run into the same folder takes nothing away; the last also as people know it.
        for path in (folder / "runs" / f"{run.name}.csv", folder / "pacsifier_log.csv"):
            write_atomic(path, log, DATA_FILE, scratch)
    return account


def _rows(run: Run, same_as: list[list[int]]) -> list[RowAccount]:
    rows = {item["line"]: RowAccount(**item) for item in read_jsonl(run.part("rows"))}
    for row in rows.values():
        if row.state == ROW_FAILED:
            row.reason = _NOT_ATTEMPTED
    for part in run.parts("found"):
        for found in read_jsonl(part):
            if isinstance(found, dict):
                row = rows[found["line"]]
                row.state, row.reason, row.series = found["state"], found["reason"], found["series"]
                row.warnings += found["warnings"]
    plan = run.folder / "plan.json"
    if plan.exists():
        for line in read_json(plan)["conflicting_lines"]:
            rows[line].state, rows[line].reason = ROW_CONFLICT, _CONFLICT
    else:
        for row in rows.values():
            if row.state == ROW_FOUND:
                row.state, row.reason = ROW_FAILED, _NOT_PLANNED
    for again, first in same_as:
        row = rows[first]
        remark = f"asks the same as line {first}"
        rows[again] = RowAccount(again, row.keys, row.state, row.series, row.reason, [remark])
    return [rows[line] for line in sorted(rows)]


def _series(run: Run) -> list[SeriesAccount]:
    """The account of every planned series, in order; a series without a result was not attempted."""
    accounts: dict[int, SeriesAccount] = {}
    for part in run.parts("units"):
        for item in read_jsonl(part):
            account = Planned(**item).account()
            account.reason = _NOT_ATTEMPTED
            accounts[account.number] = account
    for part in run.parts("results"):
        for item in read_jsonl(part):
            accounts[item["number"]] = SeriesAccount(**item)
    if not Request.of(run).info and Request.of(run).retrieve == "none":
        for account in accounts.values():
            account.state, account.reason, account.missing, account.expected = SERIES_LISTED, "", 0, None
    return [accounts[number] for number in sorted(accounts)]


def _against_disk(root: Path, series: list[SeriesAccount]) -> list[str]:
    """Whether the folders hold as many files as the accounts say."""
    wrong = []
    for account in series:
        files = _files(root / account.folder)
        # Nobody looked into the folder of a series that failed.
        if account.state not in (SERIES_LISTED, SERIES_FAILED) and files != account.delivered:
            wrong.append(
                f"series {account.number}: {account.delivered} instances accounted for, {files} files in its folder"
            )
    return wrong


def _files(folder: Path) -> int:
    try:
        return sum(name.endswith(".dcm") for name in os.listdir(folder))
    except FileNotFoundError:
        return 0


def _log(account: RunAccount, columns: list[str]) -> str:
    """logs/pacsifier_log.csv: one line per series under the first row that asked for it, one per row without any."""
    text = io.StringIO()
    names = [*columns, *(name for name in LOG_COLUMNS if name not in columns)]
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows = {row.line: row for row in account.rows}
    asked = {line for series in account.series for line in series.lines}
    lines: list[tuple[int, int, dict[str, Any]]] = []
    for series in account.series:
        line: dict[str, Any] = {
            **rows[series.lines[0]].keys,
            "StudyInstanceUID": series.study_uid,
            "SeriesInstanceUID": series.series_uid,
            "SeriesNumber": series.series_number,
            "FilesFound": series.delivered,
            "Completed": series.state == SERIES_COMPLETE,
            "Expected": "" if series.expected is None else series.expected,
            "Missing": series.missing,
            "Status": series.state,
            "Reason": series.reason,
        }
        lines.append((series.lines[0], series.number, line))
    for row in account.rows:
        if row.line not in asked:
            reason = row.reason or ("nothing in the archive answers this row" if row.state == ROW_EMPTY else "")
            reason = reason or "; ".join(row.warnings)
            ended = {"FilesFound": 0, "Completed": False, "Expected": 0, "Missing": 0, "Status": row.state}
            lines.append((row.line, 0, {**row.keys, **ended, "Reason": reason}))
    writer.writerows(line for _, _, line in sorted(lines, key=lambda item: item[:2]))
    return text.getvalue()
