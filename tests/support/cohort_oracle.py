"""Answer key of the selection: docs/selection.md worked out over an archive's full listing, by the plainest means.

It shares nothing with the code under test. A listing is a table of texts, one line per series; "" is an attribute that
the archive does not tell or tells as empty, and several values are divided by backslashes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any

import pandas as pd

from tests.support.truth import holds

NUMBERS = ("SliceThickness", "NumberOfSeriesRelatedInstances", "SeriesNumber")
#: A series: StudyInstanceUID and SeriesInstanceUID.
Key = tuple[str, str]
#: One line of the listing.
Line = dict[str, str]


class BadRow(Exception):
    """The row has no anchor_date, and its selection needs one."""


@dataclass
class Decision:
    """What becomes of the series that a row finds.

    Attributes:
        kept: these are taken.
        left: reason of each that is not.
        doubtful: of those kept, the ones for which a rule was undecided.
        studies, priors: studies taken by the anchor, and before it.
    """

    kept: set[Key] = field(default_factory=set)
    left: dict[Key, str] = field(default_factory=dict)
    doubtful: set[Key] = field(default_factory=set)
    studies: list[str] = field(default_factory=list)
    priors: list[str] = field(default_factory=list)


@dataclass
class Study:
    """A study of a patient with its series that are left, and what the listing says of it."""

    uid: str
    lines: list[Line]
    day: date | None
    clock: time | None
    left: list[Line] = field(default_factory=list)
    doubtful: set[Key] = field(default_factory=set)
    reasons: dict[Key, str] = field(default_factory=dict)


def found(listing: pd.DataFrame, keys: dict[str, str]) -> pd.DataFrame:
    """The lines for which every key of a row of the query table holds; text compares with case."""
    for keyword, cell in keys.items():
        verdicts = {text: holds(keyword, cell, text.split("\\")) for text in listing[keyword].unique()}
        listing = listing[listing[keyword].map(verdicts)]
    return listing


def decide(listing: pd.DataFrame, keys: dict[str, str], anchor: date | None, selection: dict[str, Any]) -> Decision:
    """What a row of the query table keeps and leaves out, patient by patient.

    Raises:
        BadRow: there is no anchor, and the selection needs one.
    """
    if anchor is None and (selection.get("days") or selection.get("anchor", "all") != "all"):
        raise BadRow
    whole = Decision()
    for _, lines in found(listing, keys).groupby("PatientID"):
        _patient(lines.to_dict("records"), anchor, selection, whole)
    return whole


def _patient(lines: list[Line], anchor: date | None, selection: dict[str, Any], whole: Decision) -> None:
    studies = [
        Study(str(uid), group.to_dict("records"), _day(group.StudyDate.iloc[0]), _clock(group.StudyTime.iloc[0]))
        for uid, group in pd.DataFrame(lines).groupby("StudyInstanceUID")
    ]
    eligible, inside = [], []
    for study in studies:
        reason = _study_date(study, selection) or _age(study, selection)
        outside = not _study_date(study, selection) and _outside(study, anchor, selection)
        for line in study.lines:
            verdict, doubtful = _series(line, selection)
            # The first that holds: study date, days, age, series. As a prior, a study may be outside the days.
            why = _study_date(study, selection) or ("outside days" if outside else None) or reason or verdict
            if why:
                study.reasons[_key(line)] = why
            if not (reason or verdict):
                study.left.append(line)
                study.doubtful |= {_key(line)} if doubtful else set()
        if study.left:
            eligible.append(study)
            inside += [] if outside else [study]
    taken = sorted(inside, key=lambda study: _place(study, anchor, selection))[: selection.get("studies")]
    priors = _priors([study for study in eligible if study not in taken], taken, selection)
    whole.studies += [study.uid for study in taken]
    whole.priors += [study.uid for study in priors]
    for study in studies:
        chosen = study in taken or study in priors
        best = _preferred(study.left, selection) if chosen else []
        for line in study.lines:
            key = _key(line)
            if line in best:
                whole.kept.add(key)
                whole.doubtful |= {key} & study.doubtful
            elif chosen and line in study.left:
                whole.left[key] = "not preferred"
            elif chosen:
                whole.left[key] = str(_series(line, selection)[0])
            else:
                whole.left[key] = study.reasons.get(key, "not chosen")


def _key(line: Line) -> Key:
    return line["StudyInstanceUID"], line["SeriesInstanceUID"]


def _day(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:])) if re.fullmatch(r"\d{8}", text) else None
    except ValueError:
        return None


def _clock(text: str) -> time | None:
    """A time of day; what it leaves out is zero."""
    match = re.fullmatch(r"(\d\d)(\d\d)?(\d\d)?(?:\.(\d{1,6}))?", text)
    if not match:
        return None
    hour, minute, second, part = match.groups(default="0")
    try:
        return time(int(hour), int(minute), int(second), int(part.ljust(6, "0")))
    except ValueError:
        return None


# 1 to 3: study date, days, age.


def _study_date(study: Study, selection: dict[str, Any]) -> str | None:
    needed = selection.get("anchor", "all") != "all" or any(selection.get(word) for word in ("days", "priors", "age"))
    return "no study date" if needed and not study.day else None


def _outside(study: Study, anchor: date | None, selection: dict[str, Any]) -> bool:
    if anchor is None or study.day is None:
        return False
    days = (study.day - anchor).days
    which = selection.get("anchor", "all")
    if (which == "first after" and days < 0) or (which == "last before" and days > 0):
        return True
    return not _within(days, selection.get("days"))


def _within(number: float, ends: list[int | None] | None) -> bool:
    low, high = ends or (None, None)
    return (low is None or low <= number) and (high is None or number <= high)


def _age(study: Study, selection: dict[str, Any]) -> str | None:
    if not selection.get("age"):
        return None
    line = study.lines[0]
    born, told = _day(line["PatientBirthDate"]), re.fullmatch(r"(\d{3})([DWMY])", line["PatientAge"])
    if born and study.day:
        years = study.day.year - born.year - ((study.day.month, study.day.day) < (born.month, born.day))
    elif told:
        years = int(told[1]) // {"Y": 1, "M": 12, "W": 52, "D": 365}[told[2]]
    else:
        return None if selection.get("unknown_age") == "keep" else "age unknown"
    return None if _within(years, selection["age"]) else "age"


# 4: series.


def _series(line: Line, selection: dict[str, Any]) -> tuple[str | None, bool]:
    """Why the rules leave a series out, and whether one of them was undecided."""
    rules = selection.get("series") or {}
    verdicts = {
        kind: [(rule.get("name", f"{kind} {place}"), _rule(rule, line)) for place, rule in enumerate(rules[kind], 1)]
        for kind in ("include", "exclude")
        if rules.get(kind)
    }
    excludes, includes = verdicts.get("exclude", []), verdicts.get("include", [])
    doubtful = any(verdict is None for _, verdict in excludes + includes)
    for name, verdict in excludes:
        if verdict:
            return f"excluded by {name}", doubtful
    if selection.get("undecided") == "leave out":
        for name, verdict in excludes:
            if verdict is None:
                return f"undecided: {name}", doubtful
    if not includes or any(verdict for _, verdict in includes):
        return None, doubtful
    for name, verdict in includes:
        if verdict is None:
            return f"undecided: {name}", doubtful
    return "not included", doubtful


def _rule(rule: dict[str, Any], line: Line) -> bool | None:
    """Whether a rule matches; None where no condition fails and one is not known."""
    verdicts = [_condition(word, wanted, line[word]) for word, wanted in rule.items() if word != "name"]
    return False if False in verdicts else None if None in verdicts else True


def _condition(word: str, wanted: Any, told: str) -> bool | None:
    asked = wanted if isinstance(wanted, list) else [wanted]
    if word in NUMBERS:
        number = _number(told)
        return None if number is None else any(_compares(number, str(one)) for one in asked)
    values = [value.strip().casefold() for value in told.split("\\") if value.strip()]
    return any(_like(str(one), value) for one in asked for value in values) if values else None


def _number(told: str) -> float | None:
    try:
        return float(told)
    except ValueError:
        return None


def _compares(number: float, asked: str) -> bool:
    low, dots, high = asked.partition("..")
    if dots:
        return float(low) <= number <= float(high)
    match = re.fullmatch(r"\s*(<=|<|>=|>)?\s*(.+?)\s*", asked)
    assert match
    other = float(match[2])
    return {
        "<=": number <= other,
        "<": number < other,
        ">=": number >= other,
        ">": number > other,
        None: number == other,
    }[match[1]]


def _like(pattern: str, value: str) -> bool:
    letters = {"*": ".*", "?": "."}
    expression = "".join(letters.get(letter, re.escape(letter)) for letter in pattern.strip().casefold())
    return re.fullmatch(expression, value, re.DOTALL) is not None


# 5 to 7: studies, priors, one series of a study.


def _seconds(clock: time) -> float:
    return clock.hour * 3600 + clock.minute * 60 + clock.second + clock.microsecond / 1e6


def _in_day(study: Study, latest: bool) -> tuple[bool, float, str]:
    """Order within a day: by time, those without one at the end, then the UID as text."""
    seconds = 0.0 if study.clock is None else _seconds(study.clock)
    return study.clock is None, -seconds if latest else seconds, study.uid


def _place(study: Study, anchor: date | None, selection: dict[str, Any]) -> Any:
    which = selection.get("anchor", "all")
    # Where no date is asked for, what has none comes last.
    day = study.day.toordinal() if study.day else 10**9
    days = day - anchor.toordinal() if anchor and which != "all" else 0
    return abs(days), day, _in_day(study, which == "last before")


def _priors(others: list[Study], taken: list[Study], selection: dict[str, Any]) -> list[Study]:
    wanted = selection.get("priors")
    if not wanted or not taken:
        return []
    first = min(taken, key=lambda study: (study.day, _in_day(study, False)))

    def before(study: Study) -> bool:
        assert study.day and first.day
        if study.day == first.day:
            return study.clock is not None and first.clock is not None and study.clock < first.clock
        days = wanted.get("days")
        return study.day < first.day and (days is None or (first.day - study.day).days <= days)

    def shares(study: Study) -> bool:
        return all(_values(study, word) & _values(first, word) for word in wanted.get("same", ()))

    priors = [study for study in others if before(study) and shares(study)]
    priors.sort(key=lambda study: (-(study.day.toordinal() if study.day else 0), _in_day(study, True)))
    return priors[: wanted.get("studies")]


def _values(study: Study, word: str) -> set[Any]:
    told = {value.strip().casefold() for line in study.left for value in line[word].split("\\")} - {""}
    return {_number(value) for value in told} - {None} if word in NUMBERS else told


def _preferred(lines: list[Line], selection: dict[str, Any]) -> list[Line]:
    words = selection.get("prefer")
    if not words:
        return lines

    def rank(line: Line) -> Any:
        number = _number(line["SeriesNumber"])
        return (
            [_rank(word, line) for word in words],
            (number is None, number or 0),
            line["SeriesInstanceUID"],
        )

    return sorted(lines, key=rank)[:1]


def _rank(word: str, line: Line) -> Any:
    if word == "thinnest":
        number = _number(line["SliceThickness"])
        return number is None, number or 0
    if word == "most images":
        number = _number(line["NumberOfSeriesRelatedInstances"])
        return number is None, -(number or 0)
    day, clock = _day(line["SeriesDate"]), _clock(line["SeriesTime"])
    return day is None, -(day.toordinal() if day else 0), clock is None, -(_seconds(clock) if clock else 0)
