"""The end of an extract run: its books closed, checked against the disk, and written."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from pacsifier_ops.base.files import read_json, read_jsonl
from pacsifier_ops.extract.quarantine import Quarantine
from pacsifier_ops.extract.run import SEVERAL_NEW_IDS, Planned, Request
from pacsifier_ops.runs.accounts import (
    NONE,
    ROW_CONFLICT,
    ROW_FAILED,
    ROW_FOUND,
    SAVE,
    SERIES_FAILED,
    SERIES_LISTED,
    RowAccount,
    RunAccount,
    SeriesAccount,
)
from pacsifier_ops.runs.books import write_books
from pacsifier_ops.runs.folder import Run, now
from pacsifier_ops.runs.worker import NOT_ATTEMPTED, accounts_of
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.tree import LOGS, Tree, names_object, naming_of

_NOT_PLANNED = "found, but nothing was fetched: the run ended before"


def close_books(run: Run, leases: Leases) -> RunAccount:
    """Gather the accounts of a run, check them, and write log and report.

    Raises:
        StorageError: log or report cannot be written.
    """
    request, table = Request.of(run), read_json(run.folder / "table.json")
    rows, series = rows_of(run, table["same_as"]), _series(run, request)
    _tell_of_quarantine(rows, series, table["same_as"], run.quarantine)
    account = RunAccount(
        run.name,
        request.pacs,
        request.retrieve,
        request.started,
        now(),
        rows,
        series,
        destination=request.destination,
        folder=str(request.out_directory),
        unasked=Quarantine(run.quarantine).counts().total(),
        notes=table.get("notes", []),
    )
    if request.retrieve == SAVE:
        account.discrepancies = _against_disk(request.out_directory, series)
    write_books(
        run,
        account,
        request.out_directory / LOGS,
        table["columns"],
        lambda: Tree.open(request.out_directory).workplace(leases),
    )
    return account


def rows_of(run: Run, same_as: list[list[int]]) -> list[RowAccount]:
    """How each row of the query table ended.

    Args:
        same_as: lines that repeat another one, each with that.
    """
    rows = {item["line"]: RowAccount(**item) for item in read_jsonl(run.part("rows"))}
    for row in rows.values():
        if row.state == ROW_FAILED:
            row.reason = NOT_ATTEMPTED
    for part in run.parts("found"):
        for found in read_jsonl(part):
            if isinstance(found, dict):
                row = rows[found["line"]]
                row.state, row.reason, row.series = found["state"], found["reason"], found["series"]
                row.warnings += found["warnings"]
                row.studies = found.get("studies", 0)  # an earlier version counted none
    plan = run.folder / "plan.json"
    if plan.exists():
        decided = read_json(plan)  # of an earlier version with lines only
        conflicts = decided.get("conflicts") or dict.fromkeys(decided.get("conflicting_lines", ()), SEVERAL_NEW_IDS)
        for line, reason in conflicts.items():
            rows[int(line)].state, rows[int(line)].reason = ROW_CONFLICT, reason
    else:
        for row in rows.values():
            if row.state == ROW_FOUND:
                row.state, row.reason = ROW_FAILED, _NOT_PLANNED
    for again, first in same_as:
        row = rows[first]
        remark = f"asks the same as line {first}"
        rows[again] = RowAccount(again, row.keys, row.state, row.series, row.reason, [remark], row.studies)
    return [rows[line] for line in sorted(rows)]


def _tell_of_quarantine(
    rows: list[RowAccount], series: list[SeriesAccount], same_as: list[list[int]], quarantine: Path
) -> None:
    """Say of each row how many objects that came for its series are kept apart, and where."""
    counts: Counter[int] = Counter()
    for account in series:
        for line in account.lines:
            counts[line] += account.quarantined
    counts.update({again: counts[first] for again, first in same_as})
    for row in rows:
        if count := counts[row.line]:
            told = f"{count} object(s) that came for its series are in quarantine, in {quarantine}"
            row.reason = "; ".join(filter(None, (row.reason, told)))


def _series(run: Run, request: Request) -> list[SeriesAccount]:
    accounts = accounts_of(run, Planned)
    if not request.info and request.retrieve == NONE:
        for account in accounts:
            account.state, account.reason, account.missing, account.expected = SERIES_LISTED, "", 0, None
    return accounts


def _against_disk(root: Path, series: list[SeriesAccount]) -> list[str]:
    """Whether the folders hold as many files as the accounts say."""
    wrong, naming = [], naming_of(root.resolve())
    for account in series:
        files = _files(root / account.folder, naming)
        # Nobody looked into the folder of a series that failed.
        if account.state not in (SERIES_LISTED, SERIES_FAILED) and files != account.delivered - account.handed_on:
            elsewhere = f", {account.handed_on} of them handed on" if account.handed_on else ""
            wrong.append(
                f"series {account.number}: {account.delivered} instances accounted for{elsewhere}, {files} files in "
                "its folder"
            )
    return wrong


def _files(folder: Path, naming: str) -> int:
    try:
        return sum(names_object(name, naming) for name in os.listdir(folder))
    except FileNotFoundError:
        return 0
