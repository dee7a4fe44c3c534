"""Whether what a request asks for has arrived in an archive: one look at a time, and nothing but counts."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import InputError, QueryTableError
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.extract.requests import is_id, options_of, resolve
from pacsifier_ops.extract.run import instances_of
from pacsifier_ops.state.leases import shared

if TYPE_CHECKING:
    from pacsifier_ops.dimse.find import Finder, FoundSeries
    from pacsifier_ops.query.table import QueryRow

#: Seconds to wait for one of the PACS's slots. Retrieval comes first: who looks in vain looks again later.
SLOT_WAIT = 2.0

_reading = threading.Lock()


@dataclass(frozen=True)
class Arrived:
    """What one look saw.

    Attributes:
        rows: rows for which enough series are there.
        series: series of all rows together, each once.
        instances: their instances, as far as the archive tells.
    """

    rows: int
    series: int
    instances: int


def check_request(request: str) -> None:
    """Refuse what is not the id of a request: a path or a key of a query may tell who the patient is.

    Raises:
        InputError: it is something else; it is not repeated.
    """
    if not is_id(request):
        raise InputError("request is not the id of a request (req- and 24 hexadecimal digits); take the table in first")


def rows_of(request: str, row: int | None) -> list[QueryRow]:
    """The rows of a request's table that are waited for.

    Args:
        request: id of the request.
        row: line of the table, where the header is line 1; None is every row.

    Raises:
        InputError: `request` is no id, or there is no such request.
        QueryTableError: the table cannot be used, there is no such row, or one of the rows is bad.
    """
    from pacsifier_ops.query.reading import Reading
    from pacsifier_ops.query.table import read_query_table

    check_request(request)
    with _reading:  # reading a workbook changes what the process does with warnings, and changes it back
        table = read_query_table(resolve(request), Reading(**options_of(request, {})))
    bad = [str(problem) for problem in table.problems if row in (None, problem.line)]
    if bad:
        raise QueryTableError("what cannot be asked for never arrives; correct the table:\n  " + "\n  ".join(bad))
    rows = [r for r in table.rows if row is None or row == r.line or row in r.duplicates]
    if not rows:
        raise QueryTableError(f"the request's table has no row on line {row}; its header is on line 1")
    return rows


def look(
    node: PacsNode, rows: Sequence[QueryRow], minimum: int = 1, cancelled: Callable[[], bool] = lambda: False
) -> Arrived:
    """Ask the archive once for all rows, over one association under one of the slots that it grants us.

    Nothing is tried twice: where the error is retryable, look again later. May be called in any thread.

    Args:
        minimum: series that a row must find to count as arrived.

    Raises:
        LeaseBusy: all slots are taken.
        Undecidable, ResultLimit, Unsupported: the archive cannot answer one of the rows.
        PacsError: the archive cannot be asked.
    """
    from pacsifier_ops.dimse.attempts import open_session
    from pacsifier_ops.dimse.find import Finder

    arrived, seen = 0, dict[SeriesId, int]()
    with _unheard(), open_session(node, shared(), cancelled=cancelled, wait=SLOT_WAIT) as session:
        finder = Finder(session)
        for row in rows:
            found = finder.series(row.keys, row.exact)
            arrived += len(found) >= minimum
            for series in found:
                if series.series not in seen:
                    seen[series.series] = _instances(finder, series)
    return Arrived(arrived, len(seen), sum(seen.values()))


def _instances(finder: Finder, series: FoundSeries) -> int:
    """How many instances the archive holds of a series; it is asked to list them where it does not give the number."""
    count = instances_of(series.attributes)
    if count is None:
        expected = finder.expectation(series.study_uid, series.series_uid, None)
        count = expected.count if expected.instances is None else len(expected.instances)
    return count or 0


_here = threading.local()


def _warn(message: str, category: type[Warning] | None = None, stacklevel: int = 1) -> None:
    if not getattr(_here, "unheard", False):
        warnings.warn(message, category, stacklevel + 1)


@contextmanager
def _unheard() -> Iterator[None]:
    """Let pydicom's warnings in this thread go nowhere: they quote values.

    `warnings.catch_warnings` is the whole process's: threads undo each other's. So it is done where pydicom warns.
    """
    import pydicom.misc

    pydicom.misc.warnings = SimpleNamespace(warn=_warn)
    _here.unheard = True
    try:
        yield
    finally:
        _here.unheard = False
