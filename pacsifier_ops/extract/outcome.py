"""The outcome of an extract run: its rows and series, and the instances that another node has not confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from pacsifier_ops.base.files import read_json, read_jsonl
from pacsifier_ops.extract.choosing import row_key
from pacsifier_ops.extract.fetching import Fetching
from pacsifier_ops.extract.run import SEVERAL_NEW_IDS, Planned
from pacsifier_ops.runs.accounts import ROW_CONFLICT, ROW_FAILED, ROW_FOUND, RowAccount, SeriesAccount
from pacsifier_ops.runs.flow import FlowLine
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import NOT_ATTEMPTED

_NOT_PLANNED = "found, but nothing was fetched: the run ended before"


@dataclass(frozen=True)
class Table:
    """The query table of a run.

    Attributes:
        columns: names of the columns.
        same_as: number of the first of several equal lines, by the number of each other line.
        notes: remarks on how the table was read, without values.
    """

    columns: list[str]
    same_as: dict[int, int]
    notes: list[str]


def table(run: Run) -> Table | None:
    """Return the query table; None if it was not read yet."""
    try:
        kept = read_json(run.folder / "table.json")
    except FileNotFoundError:
        return None
    return Table(kept["columns"], dict(kept["same_as"]), kept.get("notes", []))


@dataclass(frozen=True)
class Identity:
    """What a valid row is known by to people, and what its days are counted from.

    Attributes:
        line: line of the query table.
        row_id: the row's own id, or empty.
        anchor: YYYYMMDD, or empty.
        asked: a digest of what it asks, see `choosing.row_key`.
    """

    line: int
    row_id: str
    anchor: str
    asked: str = ""


def identities(run: Run, table: Table) -> Iterator[Identity]:
    """Yield the identities of all valid rows, also of those that ask the same as an earlier one."""
    again: dict[int, list[int]] = {}
    for line, first in table.same_as.items():
        again.setdefault(first, []).append(line)
    for part in run.parts("rows"):
        for row in read_jsonl(part):
            asked = row_key(row)
            for line in (row["line"], *again.get(row["line"], ())):
                yield Identity(line, row.get("row_id", ""), row.get("anchor", ""), asked)


def series(run: Run) -> Iterator[tuple[Planned, SeriesAccount]]:
    """Yield the series of a run with their accounts; those that stood come last."""
    return Fetching.outcomes(run)


def planned(run: Run) -> Iterator[Planned]:
    """Yield the series that a run plans to fetch or to move."""
    return (item for item, _ in series(run))


def flow(run: Run) -> list[FlowLine]:
    """Return the flow of a run as far as its plan, see `flowing.chosen`; nothing without a selection, or a plan."""
    with suppress(FileNotFoundError):
        return [FlowLine(**line) for line in read_json(run.folder / "plan.json").get("flow", ())]
    return []


def unconfirmed(account: SeriesAccount) -> frozenset[str] | None:
    """Return the SOP Instance UIDs that another node has not confirmed; None if it is not known which these are."""
    certain = account.expected is not None and account.missing == len(account.missing_uids)
    return frozenset(account.missing_uids) if certain else None


def rows(run: Run, same_as: dict[int, int]) -> list[RowAccount]:
    """Return the account of each row of the query table.

    Args:
        same_as: see `Table`.
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
                row.studies = found.get("studies", 0)  # missing in files of an earlier version
                row.left_out = found.get("left_out", {})
    plan = run.folder / "plan.json"
    if plan.exists():
        kept = read_json(plan)
        # An earlier version kept the lines without reasons.
        conflicts = kept.get("conflicts") or dict.fromkeys(kept.get("conflicting_lines", ()), SEVERAL_NEW_IDS)
        for line, reason in conflicts.items():
            rows[int(line)].state, rows[int(line)].reason = ROW_CONFLICT, reason
    else:
        for row in rows.values():
            if row.state == ROW_FOUND:
                row.state, row.reason = ROW_FAILED, _NOT_PLANNED
    for again, first in same_as.items():
        row = rows[first]
        remark = f"asks the same as line {first}"
        rows[again] = replace(row, line=again, warnings=[remark])
    return [rows[line] for line in sorted(rows)]
