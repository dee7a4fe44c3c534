"""Search: the rows of a query table in one or several archives; the state of each row, and its series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import ArchiveNode
from pacsifier_ops.base.errors import AnswerUnreadable, ResultLimit, Undecidable, Unsupported
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.extract.run import ALL
from pacsifier_ops.runs.accounts import ROW_EMPTY, ROW_FAILED, ROW_FOUND, ROW_UNDECIDABLE
from pacsifier_ops.runs.folder import never
from pacsifier_ops.runs.job import COUNTED
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import patient_identity
from pacsifier_ops.state.turns import NORMAL, Place

if TYPE_CHECKING:
    from pacsifier_ops.archive.find import Finder, FoundSeries

#: States of a row, the best first. If archives answer differently, the row has the worst state.
_RANK = (ROW_EMPTY, ROW_FOUND, ROW_UNDECIDABLE, ROW_FAILED)


#: What is kept of series that are left out.
TOLD = (
    "PatientID",
    "IssuerOfPatientID",
    "StudyDate",
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "NumberOfSeriesRelatedInstances",
)


@dataclass
class RowSearch:
    """The search for the series of one row.

    Attributes:
        row: the row, as the step prepare wrote it.
        state, reasons, warnings: its state after the archives so far, why, and remarks.
        found: its series, each with the name of the archive.
        roles: what each of these was selected as, see `deciding.Decision`; without a selection empty.
        left_out: series that the selection leaves out, each with the reason.
        undecided: number of selected series on which a rule of the selection was undecided.
    """

    row: dict[str, Any]
    state: str = ROW_EMPTY
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    found: list[tuple[str, FoundSeries]] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    left_out: list[tuple[FoundSeries, str]] = field(default_factory=list)
    undecided: int = 0

    def query(self, finder: Finder, call: Callable[..., list[FoundSeries]]) -> None:
        """Query one more archive.

        Args:
            finder: queries the archive.
            call: calls a function, and repeats that after an error that may be temporary.

        Raises:
            PacsError: the archive could not be queried.
        """
        name, state, reason, found = finder.session.node.name, ROW_EMPTY, "", []
        try:
            found = call(partial(finder.series, self.row["keys"], self.row.get("exact", False)))
        except Undecidable as error:
            state, reason = ROW_UNDECIDABLE, str(error)
        except (AnswerUnreadable, ResultLimit, Unsupported) as error:
            state, reason = ROW_FAILED, str(error)
        else:
            state, reason = (ROW_UNDECIDABLE, finder.doubt) if finder.doubt else (ROW_FOUND if found else ROW_EMPTY, "")
        self.state = max(self.state, state, key=_RANK.index)
        self.reasons += filter(None, [reason])
        self.warnings += (text for text in finder.warnings if text not in self.warnings)
        self.found += ((name, series) for series in found)

    def choose_archive(self, listed: Callable[[str, FoundSeries], frozenset[str] | None]) -> None:
        """Keep each series from one archive only: the one that lists most images, or the first of several with as many.

        The row is undecidable if another archive has images that the chosen one has not, or if one of them does not
        list its images.

        Args:
            listed: returns the SOP Instance UIDs that an archive lists for a series; None: it does not list them.
        """
        by_series: dict[SeriesId, list[tuple[str, FoundSeries]]] = {}
        for name, series in self.found:
            by_series.setdefault(series.series, []).append((name, series))
        for which, copies in by_series.items():
            if len({name for name, _ in copies}) < 2:
                continue
            lists = {name: listed(name, series) for name, series in copies}
            chosen = max(lists, key=lambda name: len(lists[name] or ()))
            self.found = [(name, series) for name, series in self.found if series.series != which or name == chosen]
            images = lists[chosen]
            others = [
                name
                for name, uids in lists.items()
                if name != chosen and (images is None or uids is None or uids - images)
            ]
            if others:
                self.state = max(self.state, ROW_UNDECIDABLE, key=_RANK.index)
                self._add_reason(
                    f"one of its series is fetched from {chosen}, and {', '.join(others)} has other images of it, or "
                    "one of the archives does not list its images: fetch it there as well, in a separate run with "
                    "another output folder"
                )

    def _add_reason(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)

    def lines(self) -> Iterable[Any]:
        """Yield what the step find writes: a line with the state of the row, then a line per series."""
        kept = {key: value for key, value in self.row.items() if key not in ("keys", "exact", "selected_before")}
        reason = "; ".join(self.reasons)
        left_out = Counter(reason for _, reason in self.left_out)
        yield {
            **kept,
            "state": self.state,
            "reason": reason,
            "warnings": self.warnings,
            "series": len(self.found),
            COUNTED: {
                f"rows {self.state}": 1,
                "series": len(self.found),
                **{f"left out {why}": count for why, count in left_out.items()},
            },
            "studies": len({(patient_identity(s.attributes, s.study_uid), s.study_uid) for _, s in self.found}),
            "left_out": dict(left_out),
            "undecided": self.undecided,
        }
        roles = self.roles or [""] * len(self.found)
        yield from (
            [s.study_uid, s.series_uid, s.attributes, name, role]
            for (name, s), role in zip(self.found, roles, strict=True)
        )

    def left_out_lines(self) -> Iterable[Any]:
        """Yield a line per series that the selection leaves out."""
        for series, reason in self.left_out:
            told = {keyword: series.attributes.get(keyword, "") for keyword in TOLD}
            yield [self.row["line"], series.study_uid, series.series_uid, reason, told]


def search(
    rows: Iterable[dict[str, Any]],
    archives: Sequence[ArchiveNode],
    mode: str,
    cancelled: Callable[[], bool] = never,
    before_query: Callable[[], object] = never,
    urgency: str = NORMAL,
    also: tuple[str, ...] = (),
) -> list[RowSearch]:
    """Query the archives for each row, in order.

    Args:
        rows: the rows, as the step prepare wrote them.
        archives: the archives.
        mode: `first`: query until one archive has series for the row; `all`: query all archives.
        cancelled: called regularly; True ends the work.
        before_query: called before every query; an error of it ends the work.
        urgency: see `turns.Place`. Between two rows, those go first who have asked for fewer.
        also: see `Finder`.

    Raises:
        PacsError: an archive could not be queried.
    """
    from pacsifier_ops.archive.attempts import give_way, open_archive, retrying
    from pacsifier_ops.archive.find import Finder

    asked = 0

    def place() -> Place:
        return Place(urgency, asked)

    searches = [RowSearch(row) for row in rows]
    leases = shared()
    for node in archives:
        left = [row for row in searches if mode == ALL or not row.found]
        if not left:
            break
        with open_archive(node, leases, cancelled=cancelled, place=place) as session:
            finder = Finder(session, also)
            for row in left:
                before_query()
                give_way(session, leases, place())
                asked += 1
                row.query(finder, lambda action, session=session: retrying(action, session, cancelled))
    listed = _listed_instances(searches, archives, cancelled)
    for row in searches:
        row.choose_archive(lambda name, series: listed.get((name, series.series)))
    return searches


def _listed_instances(
    searches: Iterable[RowSearch], archives: Sequence[ArchiveNode], cancelled: Callable[[], bool]
) -> dict[tuple[str, SeriesId], frozenset[str]]:
    """Return the SOP Instance UIDs of series that several archives have, by archive and series, as far as listed."""
    from pacsifier_ops.archive.attempts import open_archive, retrying
    from pacsifier_ops.archive.find import Finder

    names: dict[SeriesId, set[str]] = {}
    for row in searches:
        for name, series in row.found:
            names.setdefault(series.series, set()).add(name)
    lists: dict[tuple[str, SeriesId], frozenset[str]] = {}
    for node in archives:
        common = [which for which, holders in names.items() if len(holders) > 1 and node.name in holders]
        if not common:
            continue
        with open_archive(node, shared(), cancelled=cancelled) as session:
            finder = Finder(session)
            for which in common:
                expected = retrying(partial(finder.expectation, *which, None), session, cancelled)
                if expected.instances is not None:
                    lists[node.name, which] = frozenset(expected.instances)
    return lists
