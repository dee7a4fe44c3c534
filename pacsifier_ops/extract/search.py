"""Rows of a query table against archives, one after the other: how each row ended, and which series it found where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import AnswerUnreadable, ResultLimit, Undecidable, Unsupported
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.extract.run import ALL
from pacsifier_ops.runs.accounts import ROW_EMPTY, ROW_FAILED, ROW_FOUND, ROW_UNDECIDABLE
from pacsifier_ops.runs.folder import never
from pacsifier_ops.runs.job import COUNTED
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import patient_identity

if TYPE_CHECKING:
    from pacsifier_ops.dimse.find import Finder, FoundSeries

#: How a row ends that archives answer differently: what is further behind counts, for all is not well then.
_RANK = (ROW_EMPTY, ROW_FOUND, ROW_UNDECIDABLE, ROW_FAILED)


@dataclass
class Asked:
    """A row, and what the archives asked so far say of it.

    Attributes:
        row: as the step prepare wrote it.
        state, reasons, warnings: how it ends.
        found: the series, each with the name of the archive that has it.
    """

    row: dict[str, Any]
    state: str = ROW_EMPTY
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    found: list[tuple[str, FoundSeries]] = field(default_factory=list)

    def ask(self, finder: Finder, call: Callable[..., list[FoundSeries]]) -> None:
        """Ask one more archive.

        Args:
            call: calls what it is given, and again where an error may pass.

        Raises:
            PacsError: the archive could not be asked at all.
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

    def choose(self, held: Callable[[str, FoundSeries], frozenset[str] | None]) -> None:
        """Of a series that several archives have, keep the one of which most images are listed, the first of equals.

        A series is fetched from one archive. Where another has images of it that this one has not, or one of them does
        not list its images, the row is not answered by that.

        Args:
            held: SOP Instance UIDs that an archive lists of a series; None: it does not list them.
        """
        by_series: dict[SeriesId, list[tuple[str, FoundSeries]]] = {}
        for one in self.found:
            by_series.setdefault(one[1].series, []).append(one)
        for several in by_series.values():
            if len({name for name, _ in several}) < 2:
                continue
            lists = {name: held(name, series) for name, series in several}
            name = max(lists, key=lambda name: len(lists[name] or ()))
            self.found = [one for one in self.found if one[1].series != several[0][1].series or one[0] == name]
            chosen = lists[name]
            others = [other for other, uids in lists.items() if chosen is None or uids is None or uids - chosen]
            if others := [other for other in others if other != name]:
                self.state = max(self.state, ROW_UNDECIDABLE, key=_RANK.index)
                self._because(
                    f"a series of it is fetched from {name}, and {', '.join(others)} has other images of it, or one of "
                    "them does not list its images: fetch it there as well, in a run of its own into another folder"
                )

    def _because(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)

    def lines(self) -> Iterable[Any]:
        """What the step find keeps: how the row ended, then its series."""
        kept = {key: value for key, value in self.row.items() if key not in ("keys", "exact")}
        reason = "; ".join(self.reasons)
        yield {
            **kept,
            "state": self.state,
            "reason": reason,
            "warnings": self.warnings,
            "series": len(self.found),
            COUNTED: {f"rows {self.state}": 1, "series": len(self.found)},
            "studies": len({(patient_identity(s.attributes, s.study_uid), s.study_uid) for _, s in self.found}),
        }
        yield from ([s.study_uid, s.series_uid, s.attributes, name] for name, s in self.found)


def search(
    rows: Iterable[dict[str, Any]], archives: Sequence[PacsNode], how: str, cancelled: Callable[[], bool] = never
) -> list[Asked]:
    """Ask the archives in order for each row, until one has found it, or all of them.

    Args:
        how: `first` or `all`.

    Raises:
        PacsError: an archive could not be asked at all.
    """
    from pacsifier_ops.dimse.attempts import open_session, retrying
    from pacsifier_ops.dimse.find import Finder

    asked = [Asked(row) for row in rows]
    for node in archives:
        left = [one for one in asked if how == ALL or not one.found]
        if not left:
            break
        with open_session(node, shared(), cancelled=cancelled) as session:
            finder = Finder(session)
            for one in left:
                one.ask(finder, lambda question, session=session: retrying(question, session, cancelled))
    held = _lists(asked, archives, cancelled)
    for one in asked:
        one.choose(lambda name, series: held.get((name, series.series)))
    return asked


def _lists(
    asked: Iterable[Asked], archives: Sequence[PacsNode], cancelled: Callable[[], bool]
) -> dict[tuple[str, SeriesId], frozenset[str]]:
    """What each archive lists of the series that others have as well, as far as it lists them."""
    from pacsifier_ops.dimse.attempts import open_session, retrying
    from pacsifier_ops.dimse.find import Finder

    names: dict[SeriesId, set[str]] = {}
    for one in asked:
        for name, series in one.found:
            names.setdefault(series.series, set()).add(name)
    lists: dict[tuple[str, SeriesId], frozenset[str]] = {}
    for node in archives:
        shared_ones = [which for which, holders in names.items() if len(holders) > 1 and node.name in holders]
        if not shared_ones:
            continue
        with open_session(node, shared(), cancelled=cancelled) as session:
            finder = Finder(session)
            for which in shared_ones:
                expected = retrying(partial(finder.expectation, *which, None), session, cancelled)
                if expected.instances is not None:
                    lists[node.name, which] = frozenset(expected.instances)
    return lists
