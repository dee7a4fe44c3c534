"""What an extraction tells of itself: its rows, its series, and what another node has confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pacsifier_ops.base.files import read_json, read_jsonl
from pacsifier_ops.extract.fetching import Fetching
from pacsifier_ops.extract.run import SEVERAL_NEW_IDS, Planned
from pacsifier_ops.runs.accounts import ROW_CONFLICT, ROW_FAILED, ROW_FOUND, RowAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import NOT_ATTEMPTED

_NOT_PLANNED = "found, but nothing was fetched: the run ended before"


@dataclass(frozen=True)
class Table:
    """The query table of a run.

    Attributes:
        columns: its columns.
        same_as: lines that repeat another one, with that.
        notes: how it was read, where that was not as it is written.
    """

    columns: list[str]
    same_as: dict[int, int]
    notes: list[str]


def table(run: Run) -> Table | None:
    """The query table; None before it was read."""
    try:
        told = read_json(run.folder / "table.json")
    except FileNotFoundError:
        return None
    return Table(told["columns"], dict(told["same_as"]), told.get("notes", []))


def series(run: Run) -> Iterator[tuple[Planned, SeriesAccount]]:
    """The series of a run in order, and what became of each."""
    return Fetching.outcomes(run)


def planned(run: Run) -> Iterator[Planned]:
    """The series that a run was to fetch, or to have moved."""
    return (item for item, _ in series(run))


def unconfirmed(account: SeriesAccount) -> frozenset[str] | None:
    """SOP Instance UIDs of a series that another node has not confirmed; None where nobody can say which they are."""
    certain = account.expected is not None and account.missing == len(account.missing_uids)
    return frozenset(account.missing_uids) if certain else None


def rows(run: Run, same_as: dict[int, int]) -> list[RowAccount]:
    """How each row of the query table ended.

    Args:
        same_as: lines that repeat another one, with that.
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
    for again, first in same_as.items():
        row = rows[first]
        remark = f"asks the same as line {first}"
        rows[again] = RowAccount(again, row.keys, row.state, row.series, row.reason, [remark], row.studies)
    return [rows[line] for line in sorted(rows)]
