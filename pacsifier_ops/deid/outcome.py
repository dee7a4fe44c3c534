"""The outcome of a de-identification."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from sys import intern

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import read_json, read_jsonl
from pacsifier_ops.deid.run import QUARANTINED, SourceSeries, Store
from pacsifier_ops.deid.steps import Converting
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import NOT_ATTEMPTED, prepared


def unfit(store: Store, missing: str) -> dict[str, tuple[str, str]]:
    """Return state and reason of the files that belong to no series, by path below the input folder.

    Args:
        missing: state of files that cannot be read; the others are quarantined.
    """
    if not store.unreadable.exists():
        return {}
    files = read_jsonl(store.unreadable)
    return {item["path"]: (missing if item["missing"] else QUARANTINED, intern(item["reason"])) for item in files}


def series(run: Run) -> Iterator[SourceSeries]:
    """Yield the series of a run, or parts of large ones, with their files."""
    return (source for source, _ in Converting.outcomes(run))


def reasons(run: Run) -> dict[int, str]:
    """Return the reason why objects of a series are missing, by the number of the series."""
    told = ((counts.number, counts.reason) for _, counts in Converting.outcomes(run))
    return {number: reason for number, reason in told if reason not in ("", NOT_ATTEMPTED)}


def sources(run: Run) -> dict[str, int]:
    """Return the number of patients by the source of their pseudonyms; empty before the first step has ended."""
    try:
        return dict(prepared(run).get("sources", {}))
    except InputError:
        return {}


@dataclass(frozen=True)
class Sheets:
    """A page of contact sheets.

    Attributes:
        first, last: numbers of the first and the last series on it.
        page: file name in the run's folder.
    """

    first: int
    last: int
    page: str


def sheets(run: Run) -> list[Sheets]:
    """Return the pages of contact sheets, in order; none before the report."""
    try:
        return [Sheets(*values) for values in read_json(run.folder / "sheets.json")]
    except FileNotFoundError:
        return []
