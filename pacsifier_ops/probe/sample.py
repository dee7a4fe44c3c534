"""Finds some studies of an unknown archive, and its limit on the number of matches."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from pacsifier_ops.archive.find import axis_of, values_of
from pacsifier_ops.dimse.session import query
from pacsifier_ops.probe.asking import LONGEST_ANSWER, Archive, QueryRefused, TooManyMatches
from pacsifier_ops.probe.findings import NO, NOT_TESTED, PARTLY, YES, Fact
from pacsifier_ops.query.match import matches

#: Number of studies after which no further range of dates is queried.
ENOUGH = 2_000
_OLDEST = dt.date(1900, 1, 1).toordinal()
#: Maximum number of queries with narrower ranges after one had too many matches.
_NARROWINGS = 60

Studies = dict[str, Dataset]


def _range(first: int, last: int) -> str:
    return "-".join(dt.date.fromordinal(day).strftime("%Y%m%d") for day in (first, last))


@dataclass
class Sampler:
    """Finds studies by ranges of StudyDate, from today backwards, each twice as long as the one before.

    Attributes:
        archive: the archive.
        studies: responses with date and time only, by Study Instance UID; the newest range first.
        ranges_matched: whether the archive matches on ranges of StudyDate; None: they found nothing.
        covered: the dates of the ranges, in words.
    """

    archive: Archive
    studies: Studies = field(default_factory=dict)
    ranges_matched: bool | None = None
    covered: str = ""
    _whole_query: Dataset = field(default_factory=Dataset)
    _ranges_with_studies: int = 0
    # Number of matches before the archive refused to return more; None: it did not.
    _refused_at: int | None = None
    # Whether a query had more matches than the probe accepts.
    _endless: bool = False
    _narrowings_left: int = _NARROWINGS

    def search(self) -> None:
        """Find studies, see the attributes.

        Raises:
            Unsupported: the archive refuses queries at STUDY level.
            PacsifierError: the archive cannot be queried.
        """
        today = last = dt.date.today().toordinal()
        width = 1
        while last >= _OLDEST and len(self.studies) < ENOUGH and self._refused_at is None and not self._endless:
            first = max(_OLDEST, last - width + 1)
            part = self._study_query(_range(first, last))
            found = self._find_bounded(part)
            self.studies.update(found)
            last, width = first - 1, width * 2
            if found:
                self._ranges_with_studies += 1
                self.ranges_matched = self._all_match(part, found.values())
                if not self.ranges_matched:
                    return
        self._whole_query = self._study_query(_range(last + 1, today))
        self.covered = f"of the last {today - last:,} days"
        if last < _OLDEST and len(self.studies) < ENOUGH:
            self._whole_query, self.covered = self._study_query(""), "of all dates"
            if not self.studies:
                self.studies.update(self._find_bounded(self._whole_query))

    def limit(self) -> Fact:
        """Return the archive's limit on the number of matches; the value of the fact is this number.

        Raises:
            PacsifierError: the archive cannot be queried.
        """
        if not self.studies:
            return Fact(NOT_TESTED, "not tested: no study was found")
        if self.ranges_matched is False:
            return Fact(
                NOT_TESTED,
                "not tested: the archive does not match on ranges of StudyDate, so answers cannot be compared",
            )
        at_once, cut = 0, None
        if self._refused_at is None and not self._endless:
            try:
                at_once, cut = self._compare_whole()
            except TooManyMatches:
                self._endless = True
            except QueryRefused as error:
                if not error.too_many:
                    raise
                self._refused_at = len(error.answer.identifiers)
        if self._refused_at is not None:
            after = f" after {self._refused_at:,} matches" if self._refused_at else ""
            return Fact(PARTLY, f"too long an answer is refused{after} with a status (0xA7xx)", self._refused_at)
        if self._endless:
            return Fact(YES, f"no limit up to {LONGEST_ANSWER:,} matches; not tested with more", LONGEST_ANSWER)
        if cut:
            return Fact(NO, f"cut off at {cut:,} matches, with status success", cut)
        return Fact(YES, f"no limit up to {at_once:,} matches; not tested with more", at_once)

    def _study_query(self, dates: str) -> Dataset:
        return query("STUDY", StudyInstanceUID="", StudyDate=dates, StudyTime="")

    def _find(self, identifier: Dataset) -> Studies:
        """Return the matches of a query, by Study Instance UID."""
        answer = self.archive.find(identifier)
        return {str(m.StudyInstanceUID): m for m in answer.identifiers if m.get("StudyInstanceUID")}

    def _find_bounded(self, identifier: Dataset) -> Studies:
        """Return the matches of a query; if there are too many, those of the newest narrower query."""
        try:
            return self._find(identifier)
        except QueryRefused as error:
            if not error.too_many:
                raise
            shown = error.answer.identifiers
            self._refused_at = len(shown) or self._refused_at or 0
            if shown:
                return {str(m.StudyInstanceUID): m for m in shown if m.get("StudyInstanceUID")}
        except TooManyMatches:
            self._endless = True
        if self.studies:
            return {}
        for part in reversed(axis_of(identifier).parts(identifier, ())):
            self._narrowings_left -= 1
            if self._narrowings_left > 0 and (found := self._find_bounded(part)):
                return found
        return {}

    def _all_match(self, part: Dataset, studies: Iterable[Dataset]) -> bool:
        """Return whether all studies are in the range of dates of a query."""
        dates = (values_of(study, "StudyDate") for study in studies)
        return all(matches("StudyDate", str(part.StudyDate), date) for date in dates if date)

    def _compare_whole(self) -> tuple[int, int | None]:
        """Query all ranges at once. The answer was cut off if studies of the single ranges are missing.

        Returns:
            The number of matches, and the number at which the answer was cut off or None.
        """
        at_once = self._find(self._whole_query)
        if lost := self.studies.keys() - at_once.keys():
            return len(at_once), self._confirmed_length(lost)
        self.studies.update(at_once)
        # If several ranges had studies, the comparison with their sum has shown whether the answer was cut off.
        return len(at_once), None if self._ranges_with_studies > 1 else self._compare_parts(at_once)

    def _compare_parts(self, at_once: Studies) -> int | None:
        """Split the query into narrower ones while one of them has all matches; return the length of a cut answer."""
        part = self._whole_query
        while parts := axis_of(part).parts(part, at_once.values()):
            answers = [(narrower, self._find(narrower)) for narrower in parts]
            seen = set().union(*(found.keys() for _, found in answers))
            if lost := seen - at_once.keys():
                return self._confirmed_length(lost)
            filled = [narrower for narrower, found in answers if found]
            if len(filled) != 1:
                break
            part = filled[0]
        return None

    def _confirmed_length(self, lost: Iterable[str]) -> int | None:
        """Repeat the query; return the length of the cut answer, or None if the lost studies were only just stored."""
        again = self._find(deepcopy(self._whole_query))
        return len(again) if set(lost) - again.keys() else None


def spread(studies: Studies, count: int) -> Iterator[str]:
    """Yield up to `count` Study Instance UIDs, at equal distances in the order of `studies`."""
    uids = list(studies)
    step = max(1, len(uids) / count)
    yield from (uids[int(i * step)] for i in range(min(count, len(uids))))
