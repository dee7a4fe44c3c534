"""The end of an extract run: its account is closed, compared with the disk, and written."""

from __future__ import annotations

import os
from collections import Counter
from operator import attrgetter
from pathlib import Path

from pacsifier_ops.base.files import storage_errors
from pacsifier_ops.extract import choosing, flowing, outcome
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
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.books import write_books
from pacsifier_ops.runs.flow import write_flow
from pacsifier_ops.runs.folder import Run, now
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.tree import LOGS, Tree, names_object, naming_of


def close_account(run: Run, leases: Leases) -> RunAccount:
    """Collect the accounts of rows and series, compare them with the disk, and write log and report.

    Args:
        run: the run.
        leases: the leases of the state root.

    Raises:
        StorageError: log or report cannot be written.
    """
    request, table = Request.of(run), outcome.table(run)
    assert table is not None
    rows, series = outcome.rows(run, table.same_as), _series_accounts(run, request)
    flow = outcome.flow(run)
    if flow:
        flow = flowing.with_fetched(run, request.retrieve, flow, outcome.series(run))
    _add_quarantined(rows, series, table.same_as, run.quarantine)
    account = RunAccount(
        run.name,
        request.pacs,
        request.retrieve,
        request.started,
        now(),
        rows,
        series,
        destination=request.destination,
        givers=request.givers,
        folder=str(request.out_directory),
        unasked=Quarantine(run.quarantine).counts().total(),
        quarantine=dict(Quarantine(run.quarantine).all_counts()),
        notes=table.notes,
        ended=ended_by(run),
        selection=choosing.told(run),
        cohort=flowing.sizes_of(run) if request.retrieve == NONE else [],
        flow=flow,
    )
    with storage_errors("the state root"):
        write_flow(run.folder, flow)
    if request.retrieve == SAVE:
        account.discrepancies = _compare_with_disk(request.out_directory, series)
    write_books(
        run,
        account,
        request.out_directory / LOGS,
        table.columns,
        lambda: Tree.open(request.out_directory).workplace(leases),
    )
    return account


def _add_quarantined(
    rows: list[RowAccount], series: list[SeriesAccount], same_as: dict[int, int], quarantine: Path
) -> None:
    """Add to the reason of each row how many objects of its series are in quarantine."""
    counts: Counter[int] = Counter()
    for account in series:
        for line in account.lines:
            counts[line] += account.quarantined
    counts.update({again: counts[first] for again, first in same_as.items()})
    for row in rows:
        if count := counts[row.line]:
            remark = f"{count} object(s) that came for its series are in quarantine, in {quarantine}"
            row.reason = "; ".join(filter(None, (row.reason, remark)))


def _series_accounts(run: Run, request: Request) -> list[SeriesAccount]:
    """Return the accounts of the series; in a run that only finds series, they are `listed`."""
    accounts = sorted((account for _, account in outcome.series(run)), key=attrgetter("number"))
    if not request.info and request.retrieve == NONE:
        for account in accounts:
            account.state, account.reason, account.missing, account.expected = SERIES_LISTED, "", 0, None
    return accounts


def _compare_with_disk(root: Path, series: list[SeriesAccount]) -> list[str]:
    """Return a sentence for each series whose folder has another number of files than its account."""
    wrong, naming = [], naming_of(root.resolve())
    for account in series:
        files = _count_files(root / account.folder, naming)
        # The account of a failed series says nothing about its folder.
        if account.state not in (SERIES_LISTED, SERIES_FAILED) and files != account.delivered - account.handed_on:
            handed_on = f", {account.handed_on} of them handed on" if account.handed_on else ""
            wrong.append(
                f"series {account.number}: {account.delivered} instances accounted for{handed_on}, {files} files in "
                "its folder"
            )
    return wrong


def _count_files(folder: Path, naming: str) -> int:
    """Return the number of objects in a folder."""
    try:
        return sum(names_object(name, naming) for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return 0
