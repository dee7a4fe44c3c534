"""Counts how many rows of a request have series in an archive; for waiting until they have arrived there."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from pacsifier_ops.base.config import ArchiveNode
from pacsifier_ops.base.errors import InputError, QueryTableError
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.extract.requests import is_request_id, reading_options, table_path
from pacsifier_ops.extract.run import instances_of
from pacsifier_ops.state.leases import shared

if TYPE_CHECKING:
    from pacsifier_ops.archive.find import Finder, FoundSeries
    from pacsifier_ops.query.table import QueryRow

#: Seconds to wait for a free association slot of the PACS. Retrieval has priority; the count can be tried again later.
SLOT_WAIT = 2.0

#: Reading a workbook changes the warning filters of the whole process for a moment.
_reading_lock = threading.Lock()


@dataclass(frozen=True)
class Arrived:
    """What the archive has at one moment.

    Attributes:
        rows: number of rows with enough series.
        series: number of series of all rows, each counted once.
        instances: number of their instances, as far as the archive gives it.
    """

    rows: int
    series: int
    instances: int


def check_request(request: str) -> None:
    """Check that a text is the id of a request. A path or a key of a query could identify a patient.

    Raises:
        InputError: it is something else. The error does not contain it.
    """
    if not is_request_id(request):
        raise InputError("request is not the id of a request (req- and 24 hexadecimal digits); take the table in first")


def rows_of(request: str, row: int | None) -> list[QueryRow]:
    """Return the rows of a request's table to wait for.

    Args:
        request: id of the request.
        row: line of the table, where the header is line 1; None: every row.

    Raises:
        InputError: `request` is no id, or there is no such request.
        QueryTableError: the table cannot be used, there is no such row, or one of the rows is bad.
    """
    from pacsifier_ops.query.reading import Reading
    from pacsifier_ops.query.table import read_query_table

    check_request(request)
    with _reading_lock:
        table = read_query_table(table_path(request), Reading(**reading_options(request, {})))
    bad = [str(problem) for problem in table.problems if row in (None, problem.line)]
    if bad:
        raise QueryTableError("these rows cannot be queried; correct the table:\n  " + "\n  ".join(bad))
    rows = [r for r in table.rows if row is None or row == r.line or row in r.duplicates]
    if not rows:
        raise QueryTableError(f"the request's table has no row on line {row}; its header is on line 1")
    return rows


def count_arrived(
    node: ArchiveNode, rows: Sequence[QueryRow], minimum: int = 1, cancelled: Callable[[], bool] = lambda: False
) -> Arrived:
    """Query the archive once for each row, over one association, and count what it has.

    Failed queries are not repeated; after an error that is `retryable`, call this again later. May be called in any
    thread.

    Args:
        node: the archive.
        rows: the rows.
        minimum: number of series that a row must have to count as arrived.
        cancelled: called regularly; True ends the work.

    Raises:
        LeaseBusy: all association slots of the PACS are taken.
        Undecidable, ResultLimit, Unsupported: the archive cannot answer one of the rows.
        PacsError: the archive cannot be queried.
    """
    from pacsifier_ops.archive.attempts import open_archive
    from pacsifier_ops.archive.find import Finder

    arrived, seen = 0, dict[SeriesId, int]()
    with _without_warnings(), open_archive(node, shared(), cancelled=cancelled, wait=SLOT_WAIT) as session:
        finder = Finder(session)
        for row in rows:
            found = finder.series(row.keys, row.exact)
            arrived += len(found) >= minimum
            for series in found:
                if series.series not in seen:
                    seen[series.series] = _instances(finder, series)
    return Arrived(arrived, len(seen), sum(seen.values()))


def _instances(finder: Finder, series: FoundSeries) -> int:
    """Return the number of instances of a series; query their list if the archive does not give the number."""
    count = instances_of(series.attributes)
    if count is None:
        expected = finder.expectation(series.study_uid, series.series_uid, None)
        count = expected.count if expected.instances is None else len(expected.instances)
    return count or 0


_thread = threading.local()


def _warn(message: str, category: type[Warning] | None = None, stacklevel: int = 1) -> None:
    if not getattr(_thread, "silent", False):
        warnings.warn(message, category, stacklevel + 1)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress pydicom's warnings in this thread, because they contain values.

    `warnings.catch_warnings` changes the whole process, and is not safe with several threads. So pydicom's own
    reference to the module `warnings` is replaced.
    """
    import pydicom.misc

    pydicom.misc.warnings = SimpleNamespace(warn=_warn)
    _thread.silent = True
    try:
        yield
    finally:
        _thread.silent = False
