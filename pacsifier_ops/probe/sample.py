"""A few studies of an archive that one knows nothing of, and where it cuts its answers off."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from pacsifier_ops.dimse.find import axis_of, values_of
from pacsifier_ops.dimse.session import query
from pacsifier_ops.probe.asking import LONGEST_ANSWER, Archive, QueryRefused, TooMany
from pacsifier_ops.probe.findings import NO, NOT_TESTED, PARTLY, YES, Fact
from pacsifier_ops.query.match import matches

#: Ranges of dates grow until they hold so many studies.
ENOUGH = 2_000
_OLDEST = dt.date(1900, 1, 1).toordinal()
#: Questions to make a range smaller whose answer is refused or does not end.
_NARROWINGS = 60

Studies = dict[str, Dataset]


def _range(first: int, last: int) -> str:
    return "-".join(dt.date.fromordinal(day).strftime("%Y%m%d") for day in (first, last))


@dataclass
class Sampler:
    """Looks for studies by ranges of StudyDate that grow backwards from today; never for all of them at first.

    Attributes:
        studies: what was found, newest range first, by Study Instance UID; with date and time only.
        ranges_matched: whether the archive matches on ranges of StudyDate; None: they find nothing.
        covered: the dates asked for, in words.
    """

    archive: Archive
    studies: Studies = field(default_factory=dict)
    ranges_matched: bool | None = None
    covered: str = ""
    _whole: Dataset = field(default_factory=Dataset)
    _filled: int = 0
    _told: int | None = None
    _endless: bool = False
    _left: int = _NARROWINGS

    def search(self) -> None:
        """Find studies.

        Raises:
            Unsupported: the archive refuses such queries, however narrow.
            PacsifierError: it cannot be asked.
        """
        today = last = dt.date.today().toordinal()
        width = 1
        while last >= _OLDEST and len(self.studies) < ENOUGH and self._told is None and not self._endless:
            first = max(_OLDEST, last - width + 1)
            part = self._study_query(_range(first, last))
            found = self._bounded(part)
            self.studies.update(found)
            last, width = first - 1, width * 2
            if found:
                self._filled += 1
                self.ranges_matched = self._within(part, found.values())
                if not self.ranges_matched:
                    return
        self._whole, self.covered = self._study_query(_range(last + 1, today)), f"of the last {today - last:,} days"
        if last < _OLDEST and len(self.studies) < ENOUGH:
            self._whole, self.covered = self._study_query(""), "of all dates"
            if not self.studies:
                self.studies.update(self._bounded(self._whole))

    def limit(self) -> Fact:
        """Where the archive cuts its answers off: its value is the number of matches.

        Raises:
            PacsifierError: it cannot be asked.
        """
        if not self.studies:
            return Fact(NOT_TESTED, "not tested: no study was seen")
        if self.ranges_matched is False:
            return Fact(
                NOT_TESTED, "not tested: the archive does not match on ranges of StudyDate, so nothing compares"
            )
        at_once, cut = 0, None
        if self._told is None and not self._endless:
            try:
                at_once, cut = self._compared()
            except TooMany:
                self._endless = True
            except QueryRefused as error:
                if not error.too_many:
                    raise
                self._told = len(error.answer.identifiers)
        if self._told is not None:
            after = f" after {self._told:,} matches" if self._told else ""
            return Fact(PARTLY, f"too long an answer is refused{after}, and said to be (0xA7xx)", self._told)
        if self._endless:
            return Fact(YES, f"no limit up to {LONGEST_ANSWER:,} matches; not asked further", LONGEST_ANSWER)
        if cut:
            return Fact(NO, f"cut off at {cut:,} matches, without a word", cut)
        return Fact(YES, f"no limit up to {at_once:,} matches; not tried with more", at_once)

    def _study_query(self, dates: str) -> Dataset:
        return query("STUDY", StudyInstanceUID="", StudyDate=dates, StudyTime="")

    def _ask(self, identifier: Dataset) -> Studies:
        answer = self.archive.find(identifier)
        return {str(m.StudyInstanceUID): m for m in answer.identifiers if m.get("StudyInstanceUID")}

    def _bounded(self, identifier: Dataset) -> Studies:
        """What a query brings, or the newest narrower one that has an answer with an end."""
        try:
            return self._ask(identifier)
        except QueryRefused as error:
            if not error.too_many:
                raise
            shown = error.answer.identifiers
            self._told = len(shown) or self._told or 0
            if shown:
                return {str(m.StudyInstanceUID): m for m in shown if m.get("StudyInstanceUID")}
        except TooMany:
            self._endless = True
        if self.studies:
            return {}
        for part in reversed(axis_of(identifier).parts(identifier, ())):
            self._left -= 1
            if self._left > 0 and (found := self._bounded(part)):
                return found
        return {}

    def _within(self, part: Dataset, studies: Iterable[Dataset]) -> bool:
        dates = (values_of(study, "StudyDate") for study in studies)
        return all(matches("StudyDate", str(part.StudyDate), date) for date in dates if date)

    def _compared(self) -> tuple[int, int | None]:
        """Ask for all at once; an answer that lacks what its parts have shown was cut off. Both lengths."""
        at_once = self._ask(self._whole)
        if lost := self.studies.keys() - at_once.keys():
            return len(at_once), self._confirmed(lost)
        self.studies.update(at_once)
        # Where two parts or more held something, the sum of the parts was compared with the whole already.
        return len(at_once), None if self._filled > 1 else self._cut_in_parts(at_once)

    def _cut_in_parts(self, at_once: Studies) -> int | None:
        """Split what was asked at once, as long as one part alone holds it all; the number at which it was cut."""
        part = self._whole
        while parts := axis_of(part).parts(part, at_once.values()):
            answers = [(narrower, self._ask(narrower)) for narrower in parts]
            seen = set().union(*(found.keys() for _, found in answers))
            if lost := seen - at_once.keys():
                return self._confirmed(lost)
            filled = [narrower for narrower, found in answers if found]
            if len(filled) != 1:
                break
            part = filled[0]
        return None

    def _confirmed(self, lost: Iterable[str]) -> int | None:
        """The length of the cut answer; None where what it lacked has only just come into the archive."""
        again = self._ask(deepcopy(self._whole))
        return len(again) if set(lost) - again.keys() else None


def spread(studies: Studies, count: int) -> Iterator[str]:
    """UIDs of some of the studies, from all over the range."""
    uids = list(studies)
    step = max(1, len(uids) / count)
    yield from (uids[int(i * step)] for i in range(min(count, len(uids))))
