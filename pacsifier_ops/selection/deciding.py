"""Decides which series of a row are selected, patient by patient, see docs/selection.md for the rules in order."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Any

from pacsifier_ops.query.keys import date_range, time_range
from pacsifier_ops.selection.rules import (
    AGE,
    ALL,
    CLOSEST,
    FIRST_AFTER,
    LAST_BEFORE,
    LATEST,
    LEAVE_OUT,
    MOST_IMAGES,
    OF_IMAGES,
    THINNEST,
    WORKED_OUT,
    Rule,
    Rules,
    Span,
    folded,
    number_of,
)

#: Reasons why a series is left out, beside those of rules for series.
NO_STUDY_DATE, OUTSIDE_DAYS = "no study date", "outside days"
OUTSIDE_AGE, AGE_UNKNOWN = "age", "age unknown"
NOT_INCLUDED, NOT_CHOSEN, NOT_PREFERRED = "not included", "not chosen", "not preferred"
NOT_CERTAIN = "answers not certain"
#: What a selected study was selected as.
STUDY, PRIOR = "study", "prior"

_DIVIDED_DATE = re.compile(r"(\d{4})[.-](\d\d)[.-](\d\d)", re.ASCII)
_DIVIDED_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d(?:\.\d+)?))?", re.ASCII)
_AGE = re.compile(r"(\d{1,3})([DWMY])", re.ASCII)
_PER_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}


class Step(IntEnum):
    """How far a series comes: what decides on it. What is above SERIES meets all rules for studies and series."""

    CERTAIN = 0
    DATE = 1
    DAYS = 2
    AGE = 3
    SERIES = 4
    STUDIES = 5
    PREFERRED = 6
    SELECTED = 7


_STEPS = {
    NOT_CERTAIN: Step.CERTAIN,
    NO_STUDY_DATE: Step.DATE,
    OUTSIDE_DAYS: Step.DAYS,
    OUTSIDE_AGE: Step.AGE,
    AGE_UNKNOWN: Step.AGE,
    NOT_CHOSEN: Step.STUDIES,
    NOT_PREFERRED: Step.PREFERRED,
    "": Step.SELECTED,
}


def step_of(reason: str) -> Step:
    """Return how far a series came that was left out for a reason; empty: it was selected."""
    return _STEPS.get(reason, Step.SERIES)


@dataclass(frozen=True)
class Candidate:
    """A series that a row has found.

    Attributes:
        patient: identity of its patient; study, series: its UIDs.
        attributes: what the archive tells at SERIES level, by keyword; several values divided by backslashes.
    """

    patient: str
    study: str
    series: str
    attributes: Mapping[str, str]


#: Returns what the images of a candidate, by its place, tell: values by keyword.
Ask = Callable[[int], Mapping[str, Sequence[str]]]
#: What an earlier run has selected: STUDY or PRIOR by Study and Series Instance UID.
Kept = Mapping[tuple[str, str], str]


@dataclass
class Decision:
    """The decision on the series of a row.

    Attributes:
        reasons: why each candidate is left out; empty: it is selected.
        roles: STUDY or PRIOR of each; empty: it is left out.
        remarks: what the row says of it, in words, without values.
        undecided: number of series that were selected although an `exclude` was undecided.
    """

    reasons: list[str]
    roles: list[str]
    remarks: list[str] = field(default_factory=list)
    undecided: int = 0

    @property
    def selected(self) -> list[int]:
        """Places of the candidates that are selected."""
        return [place for place, reason in enumerate(self.reasons) if not reason]


def decide(
    rules: Rules,
    anchor: str,
    candidates: Sequence[Candidate],
    ask: Ask = lambda place: {},
    kept: Kept | None = None,
) -> Decision:
    """Decide which series of a row are selected.

    Args:
        rules: the rules of the row.
        anchor: its anchor date, YYYYMMDD; may be empty where the rules do not need it.
        candidates: all series that the row has found.
        ask: asks the archive for what the images of a candidate tell; at most once for each, and only where the rules
            need what is not told at SERIES level.
        kept: what an earlier run has selected for the row, and stays.
    """
    series = [_Series(place, one, ask) for place, one in enumerate(candidates)]
    decision = _decide(rules, anchor, series, kept or {})
    if kept:
        fresh = _decide(rules, anchor, series, {})
        more = len(set(fresh.selected) - set(decision.selected))
        fewer = len(set(decision.selected) - set(fresh.selected))
        if more or fewer:
            decision.remarks.append(
                "what an earlier run selected stays; decided anew, "
                f"{more:,} other series would be selected, and {fewer:,} would not: reselect decides anew"
            )
    return decision


def all_uncertain(count: int) -> Decision:
    """Return the decision on the series of a row whose answers are not certain."""
    remark = ["the selection chooses among all that the archive has, and the answers are not certain: nothing selected"]
    return Decision([NOT_CERTAIN] * count, [""] * count, remark)


def asked_of_images(keywords: Iterable[str], told: Mapping[str, str]) -> list[str]:
    """Return the attributes of a series that are asked at IMAGE level, from what is told at SERIES level."""
    return [word for word in keywords if word in OF_IMAGES or not (told.get(word) or word in WORKED_OUT)]


class _Series:
    """A candidate, and what its images tell where that was asked."""

    __slots__ = ("_ask", "_images", "_one", "place", "study", "uid", "undecided")

    def __init__(self, place: int, one: Candidate, ask: Ask) -> None:
        self.place, self._one, self._ask = place, one, ask
        self.study, self.uid = (one.patient, one.study), one.series
        self._images: Mapping[str, Sequence[str]] | None = None
        self.undecided = False

    def attribute(self, keyword: str) -> str:
        """Return what is told at SERIES level."""
        return self._one.attributes.get(keyword, "")

    def told(self, keyword: str) -> Sequence[str]:
        """Return the values that are known so far."""
        of_series = self.attribute(keyword).split("\\")
        if keyword not in OF_IMAGES and of_series != [""]:
            return of_series
        if self._images is None:
            return ()
        return self._images.get(keyword) or (of_series if of_series != [""] else ())

    def ask(self, keywords: Iterable[str]) -> bool:
        """Ask for what the images tell, if that may add something. Return whether it was asked now."""
        if self._images is not None or not asked_of_images(keywords, self._one.attributes):
            return False
        self._images = self._ask(self.place)
        return True

    def known(self, keyword: str) -> Sequence[str]:
        """Return the values, and ask for them where they are not told."""
        self.ask((keyword,))
        return self.told(keyword)

    def matches(self, rule: Rule) -> bool | None:
        """Return whether a rule matches; None: undecided."""
        answers = [condition(self.told(condition.keyword)) for condition in rule.conditions]
        if False in answers:
            return False
        if None not in answers:
            return True
        unknown = [one.keyword for one, answer in zip(rule.conditions, answers, strict=True) if answer is None]
        return self.matches(rule) if self.ask(unknown) else None


class _Study:
    """A study of a patient, in a row."""

    __slots__ = ("date", "left", "reason", "role", "series", "time", "uid")

    def __init__(self, series: list[_Series]) -> None:
        self.series = sorted(series, key=lambda one: one.uid)
        self.uid = series[0].study[1]
        self.date = self.first("StudyDate", date_of)
        self.time = self.first("StudyTime", time_of)
        self.reason = self.role = ""
        self.left: list[_Series] = []

    def first(self, keyword: str, read: Callable[[str], Any]) -> Any:
        """Return the first readable value among its series."""
        values = (read(one.attribute(keyword)) for one in self.series)
        return next((value for value in values if value is not None), None)

    def age(self) -> int | None:
        """Return the age of the patient at the study, in full years; None where it is unknown."""
        born = self.first("PatientBirthDate", date_of)
        if born and self.date and born <= self.date:
            had_birthday = (self.date.month, self.date.day) >= (born.month, born.day)
            return int(self.date.year - born.year - (not had_birthday))
        if (told := self.first(AGE, years_of)) is not None:
            return int(told)
        return next(filter(lambda years: years is not None, map(years_of, self.series[0].known(AGE))), None)


@lru_cache(65536)
def date_of(text: str) -> dt.date | None:
    """Return a date that an archive tells; None where it is none."""
    text = _DIVIDED_DATE.sub(r"\1\2\3", text.strip(" \0"))
    try:
        day = date_range(text)[0] if "-" not in text else ""
    except ValueError:
        return None
    return dt.date(int(day[:4]), int(day[4:6]), int(day[6:])) if day else None


@lru_cache(65536)
def time_of(text: str) -> str | None:
    """Return the first moment of a time that an archive tells, HHMMSS.FFFFFF; None where it is none."""
    text = _DIVIDED_TIME.sub(lambda parts: "".join(part or "" for part in parts.groups()), text.strip(" \0"))
    try:
        return (time_range(text)[0] or None) if "-" not in text else None
    except ValueError:
        return None


def years_of(text: str) -> int | None:
    """Return PatientAge (AS, PS3.5 6.2) in full years; None where it is none."""
    parts = _AGE.fullmatch(text.strip(" \0"))
    return int(parts[1]) // _PER_YEAR[parts[2]] if parts else None


def _within(value: int, span: Span) -> bool:
    low, high = span
    return (low is None or value >= low) and (high is None or value <= high)


def _decide(rules: Rules, anchor: str, series: Sequence[_Series], kept: Kept) -> Decision:
    decision = Decision([""] * len(series), [""] * len(series))
    patients: dict[str, dict[str, list[_Series]]] = {}
    for one in series:
        patient, study = one.study
        patients.setdefault(patient, {}).setdefault(study, []).append(one)
        one.undecided = False
    for found in patients.values():
        _Patient(rules, date_of(anchor), [_Study(own) for own in found.values()], kept, decision).decide()
    return decision


class _Patient:
    """The decision on the studies of one patient."""

    def __init__(
        self, rules: Rules, anchor: dt.date | None, studies: list[_Study], kept: Kept, decision: Decision
    ) -> None:
        self.rules, self.anchor, self.studies, self.kept, self.decision = rules, anchor, studies, kept, decision

    def decide(self) -> None:
        roles = {study: role for (study, _), role in self.kept.items()}
        for study in self.studies:
            there = any((study.uid, one.uid) in self.kept for one in study.series)
            study.role = roles.get(study.uid, "") if there else ""
            study.reason = "" if study.role else self._study_reason(study)
            if not study.reason or (study.reason == OUTSIDE_DAYS and self.rules.priors and not self._age_reason(study)):
                self._leave_series_out(study)
        studies = self._chosen()
        priors = self._priors(studies)
        for study in self.studies:
            role = STUDY if study in studies else PRIOR if study in priors else ""
            self._tell(study, role)

    def _days(self, study: _Study) -> int:
        return (study.date - self.anchor).days if self.anchor and study.date else 0

    def _study_reason(self, study: _Study) -> str:
        """Return why a study is left out by its date or the age of the patient; empty: it is not."""
        if study.date is None:
            return NO_STUDY_DATE if self.rules.needs_date else ""
        days = self._days(study)
        wrong_side = (self.rules.anchor == FIRST_AFTER and days < 0) or (self.rules.anchor == LAST_BEFORE and days > 0)
        if wrong_side or (self.rules.days is not None and not _within(days, self.rules.days)):
            return OUTSIDE_DAYS
        return self._age_reason(study)

    def _age_reason(self, study: _Study) -> str:
        """Return why a study is left out by the age of the patient; empty: it is not."""
        if self.rules.age is None:
            return ""
        years = study.age()
        if years is None:
            return AGE_UNKNOWN if self.rules.unknown_age == LEAVE_OUT else ""
        return "" if _within(years, self.rules.age) else OUTSIDE_AGE

    def _leave_series_out(self, study: _Study) -> None:
        for one in study.series:
            reason = "" if (study.uid, one.uid) in self.kept else self._series_reason(one)
            self.decision.reasons[one.place] = reason
        study.left = [one for one in study.series if not self.decision.reasons[one.place]]

    def _series_reason(self, one: _Series) -> str:
        """Return why a series is left out by the rules for series; empty: it is not."""
        undecided = ""
        for rule in self.rules.exclude:
            answer = one.matches(rule)
            if answer:
                return f"excluded by {rule.name}"
            if answer is None:
                undecided = undecided or rule.name
        one.undecided = bool(undecided)
        if undecided and self.rules.undecided == LEAVE_OUT:
            return f"undecided: {undecided}"
        undecided = ""
        for rule in self.rules.include:
            answer = one.matches(rule)
            if answer:
                return ""
            if answer is None:
                undecided = undecided or rule.name
        if not self.rules.include:
            return ""
        return f"undecided: {undecided}" if undecided else NOT_INCLUDED

    def _order(self, study: _Study) -> tuple[Any, ...]:
        """Return the place of a study among those of its patient: the least is the first."""
        days = self._days(study)
        day = {CLOSEST: (abs(days), days), FIRST_AFTER: (days,), LAST_BEFORE: (-days,), ALL: ()}[self.rules.anchor]
        date = (study.date is None, study.date or dt.date.min) if self.rules.anchor == ALL else ()
        return (*day, *date, *_clock(study, latest=self.rules.anchor == LAST_BEFORE), study.uid)

    def _days_alone(self, study: _Study) -> object:
        """Return what of its place comes from days."""
        if self.rules.anchor == ALL:
            return study.date
        return abs(self._days(study)) if self.rules.anchor == CLOSEST else self._days(study)

    def _chosen(self) -> list[_Study]:
        """Return the studies that are taken."""
        fitting = sorted((study for study in self.studies if study.left and not study.reason), key=self._order)
        taken = [study for study in fitting if study.role == STUDY]
        others = [study for study in fitting if study.role != STUDY and self._may_be_chosen(study)]
        places = len(others) if self.rules.studies is None else max(0, self.rules.studies - len(taken))
        if 0 < places < len(others) and self._days_alone(others[places - 1]) == self._days_alone(others[places]):
            self._say("two studies are equally near, and something else than days decided which is taken")
        for study in others[places:]:
            if study.role != PRIOR:
                study.reason = NOT_CHOSEN
        return taken + others[:places]

    def _may_be_chosen(self, study: _Study) -> bool:
        """Return whether a study may be taken; one that stays as a prior only where it meets the rules for studies."""
        return not study.role or not self._study_reason(study)

    def _priors(self, chosen: Sequence[_Study]) -> list[_Study]:
        """Return the priors of the studies that are taken."""
        wanted = self.rules.priors
        taken = [study for study in self.studies if study.role == PRIOR and study.left and study not in chosen]
        if wanted is None or not chosen or None in (study.date for study in chosen):
            return taken
        first = min(chosen, key=lambda study: (study.date, *_clock(study), study.uid))
        shared = [(word, self._values(first, word)) for word in wanted.same]
        others = [
            study
            for study in self.studies
            if study.left
            and study.reason in ("", NOT_CHOSEN, OUTSIDE_DAYS)
            and study not in chosen
            and study not in taken
            and _is_before(study, first)
            and (wanted.days is None or (first.date - study.date).days <= wanted.days)
            and all(values & self._values(study, word) for word, values in shared)
        ]
        others.sort(key=lambda study: (-study.date.toordinal(), *_clock(study, latest=True), study.uid))
        places = len(others) if wanted.studies is None else max(0, wanted.studies - len(taken))
        if 0 < places < len(others) and others[places - 1].date == others[places].date:
            self._say("two earlier studies are of one day, and something else than days decided which is a prior")
        return taken + others[:places]

    def _values(self, study: _Study, keyword: str) -> set[str]:
        return {folded(value) for one in study.left for value in one.known(keyword)} - {""}

    def _tell(self, study: _Study, role: str) -> None:
        """Write the decision on a study and its series."""
        reasons, roles = self.decision.reasons, self.decision.roles
        if not role:
            for one in study.series:
                # A study outside of the days may have been looked at as a prior, and is none.
                if study.reason not in ("", NOT_CHOSEN) or not reasons[one.place]:
                    reasons[one.place] = study.reason
            return
        for one in self._not_preferred(study):
            reasons[one.place] = NOT_PREFERRED
        for one in study.left:
            if not reasons[one.place]:
                roles[one.place] = role
                self.decision.undecided += one.undecided

    def _not_preferred(self, study: _Study) -> list[_Series]:
        """Return the series of a study that are not taken because another one is."""
        if not self.rules.prefer or len(study.left) < 2:
            return []
        if stays := [one for one in study.left if (study.uid, one.uid) in self.kept]:
            return [one for one in study.left if one not in stays]
        ranks = {one.place: tuple(_rank(one, word) for word in self.rules.prefer) for one in study.left}
        order = sorted(study.left, key=lambda one: (ranks[one.place], _series_number(one), one.uid))
        if ranks[order[0].place] == ranks[order[1].place]:
            self._say("two series of a study are equally preferred, and the smaller number or UID decided")
        return order[1:]

    def _say(self, remark: str) -> None:
        if remark not in self.decision.remarks:
            self.decision.remarks.append(remark)


def _clock(study: _Study, latest: bool = False) -> tuple[Any, ...]:
    """Return the place of a study within its day; those without a time come last."""
    if study.time is None:
        return (True, ())
    digits = tuple(map(int, study.time.replace(".", "")))
    return (False, tuple(-digit for digit in digits) if latest else digits)


def _is_before(study: _Study, first: _Study) -> bool:
    if study.date is None or study.date > first.date:
        return False
    same_day = study.date == first.date
    return not same_day or (None not in (study.time, first.time) and study.time < first.time)


def _rank(one: _Series, word: str) -> tuple[Any, ...]:
    """Return the place of a series by a word of `prefer`: the least is preferred, unknown ones come last."""
    if word == THINNEST:
        return _last_unknown(min(_numbers(one, "SliceThickness"), default=None))
    if word == MOST_IMAGES:
        most = max(_numbers(one, "NumberOfSeriesRelatedInstances"), default=None)
        return _last_unknown(None if most is None else -most)
    assert word == LATEST
    date = max(filter(None, map(date_of, one.known("SeriesDate"))), default=None)
    clock = max(filter(None, map(time_of, one.known("SeriesTime"))), default=None)
    digits = None if clock is None else tuple(-int(digit) for digit in clock.replace(".", ""))
    return (*_last_unknown(None if date is None else -date.toordinal()), *_last_unknown(digits))


def _numbers(one: _Series, keyword: str) -> list[float]:
    return [number for number in map(number_of, one.known(keyword)) if number is not None]


def _last_unknown(value: Any) -> tuple[Any, ...]:
    return (True, ()) if value is None else (False, value)


def _series_number(one: _Series) -> tuple[Any, ...]:
    return _last_unknown(min(_numbers(one, "SeriesNumber"), default=None))
