"""The end of an extract run: its books closed, checked against the disk, and written."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from pacsifier_ops.extract import outcome
from pacsifier_ops.extract.quarantine import Quarantine
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs.accounts import (
    NONE,
    SAVE,
    SERIES_FAILED,
    SERIES_LISTED,
    RowAccount,
    RunAccount,
    SeriesAccount,
)
from pacsifier_ops.runs.books import write_books
from pacsifier_ops.runs.folder import Run, now
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.tree import LOGS, Tree, names_object, naming_of


def close_books(run: Run, leases: Leases) -> RunAccount:
    """Gather the accounts of a run, check them, and write log and report.

    Raises:
        StorageError: log or report cannot be written.
    """
    request, table = Request.of(run), outcome.table(run)
    assert table is not None
    rows, series = outcome.rows(run, table.same_as), _series(run, request)
    _tell_of_quarantine(rows, series, table.same_as, run.quarantine)
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
        notes=table.notes,
    )
    if request.retrieve == SAVE:
        account.discrepancies = _against_disk(request.out_directory, series)
    write_books(
        run,
        account,
        request.out_directory / LOGS,
        table.columns,
        lambda: Tree.open(request.out_directory).workplace(leases),
    )
    return account


def _tell_of_quarantine(
    rows: list[RowAccount], series: list[SeriesAccount], same_as: dict[int, int], quarantine: Path
) -> None:
    """Say of each row how many objects that came for its series are kept apart, and where."""
    counts: Counter[int] = Counter()
    for account in series:
        for line in account.lines:
            counts[line] += account.quarantined
    counts.update({again: counts[first] for again, first in same_as.items()})
    for row in rows:
        if count := counts[row.line]:
            told = f"{count} object(s) that came for its series are in quarantine, in {quarantine}"
            row.reason = "; ".join(filter(None, (row.reason, told)))


def _series(run: Run, request: Request) -> list[SeriesAccount]:
    accounts = [account for _, account in outcome.series(run)]
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
