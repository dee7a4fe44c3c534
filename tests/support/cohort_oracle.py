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
#: Attributes of the study or the patient: the first series that tells one counts for all of the study.
OF_STUDY = ("PatientBirthDate", "PatientAge", "StudyDate", "StudyTime", "StudyDescription")
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
        doubtful: of those kept, the ones for which an exclude was undecided.
        studies, priors: studies taken by the anchor, and before it.
        ties: what was decided by anything else than days or words: studies, priors, series.
    """

    kept: set[Key] = field(default_factory=set)
    left: dict[Key, str] = field(default_factory=dict)
    doubtful: set[Key] = field(default_factory=set)
    studies: list[str] = field(default_factory=list)
    priors: list[str] = field(default_factory=list)
    ties: set[str] = field(default_factory=set)


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
    lines = found(listing, keys)
    # A study without a PatientID is a patient of its own.
    owners = lines["PatientID"].where(lines["PatientID"] != "", "study " + lines["StudyInstanceUID"])
    for _, group in lines.groupby(owners):
        _patient(
            [dict(zip(group.columns, line, strict=True)) for line in group.values.tolist()], anchor, selection, whole
        )
    return whole


def _patient(lines: list[Line], anchor: date | None, selection: dict[str, Any], whole: Decision) -> None:
    studies = [_study(lines, uid) for uid in sorted({line["StudyInstanceUID"] for line in lines})]
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
    inside.sort(key=lambda study: _place(study, anchor, selection))
    taken, rest = inside[: selection.get("studies")], inside[selection.get("studies", len(inside)) :]
    if rest and _days(taken[-1], anchor, selection) == _days(rest[0], anchor, selection):
        whole.ties.add("studies")
    priors = _priors([study for study in eligible if study not in taken], taken, selection, whole.ties)
    whole.studies += [study.uid for study in taken]
    whole.priors += [study.uid for study in priors]
    for study in studies:
        chosen = study in taken or study in priors
        best = _preferred(study.left, selection, whole.ties) if chosen else []
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


def _study(lines: list[Line], uid: str) -> Study:
    series = sorted(
        (line for line in lines if line["StudyInstanceUID"] == uid), key=lambda line: line["SeriesInstanceUID"]
    )
    common = {word: next((line[word] for line in series if _readable(word, line)), "") for word in OF_STUDY}
    return Study(uid, [line | common for line in series], _day(common["StudyDate"]), _clock(common["StudyTime"]))


def _readable(word: str, line: Line) -> bool:
    told = line[word]
    if word in ("StudyDate", "PatientBirthDate"):
        return _day(told) is not None
    if word == "PatientAge":
        return _years(told) is not None
    return _clock(told) is not None if word == "StudyTime" else told != ""


def _key(line: Line) -> Key:
    return line["StudyInstanceUID"], line["SeriesInstanceUID"]


def _day(text: str) -> date | None:
    match = re.fullmatch(r"(\d{4})([-.]?)(\d\d)\2(\d\d)", text)
    try:
        return date(int(match[1]), int(match[3]), int(match[4])) if match else None
    except ValueError:
        return None


def _clock(text: str) -> time | None:
    """A time of day; what it leaves out is zero."""
    match = re.fullmatch(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?", text)
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
    born, years = _day(line["PatientBirthDate"]), _years(line["PatientAge"])
    if born and study.day and born <= study.day:
        years = study.day.year - born.year - ((study.day.month, study.day.day) < (born.month, born.day))
    if years is None:
        return None if selection.get("unknown_age") == "keep" else "age unknown"
    return None if _within(years, selection["age"]) else "age"


def _years(told: str) -> int | None:
    match = re.fullmatch(r"(\d{3})([DWMY])", told)
    return int(match[1]) // {"Y": 1, "M": 12, "W": 52, "D": 365}[match[2]] if match else None


# 4: series.


def _series(line: Line, selection: dict[str, Any]) -> tuple[str | None, bool]:
    """Why the rules leave a series out, and whether an exclude was undecided."""
    rules = selection.get("series") or {}
    verdicts = {
        kind: [(rule.get("name", f"{kind} {place}"), _rule(rule, line)) for place, rule in enumerate(rules[kind], 1)]
        for kind in ("include", "exclude")
        if rules.get(kind)
    }
    excludes, includes = verdicts.get("exclude", []), verdicts.get("include", [])
    doubtful = any(verdict is None for _, verdict in excludes)
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
        numbers = _numbers(told)
        return any(_compares(number, str(one)) for one in asked for number in numbers) if numbers else None
    values = [value.strip().casefold() for value in told.split("\\") if value.strip()]
    return any(_like(str(one), value) for one in asked for value in values) if values else None


def _number(told: str) -> float | None:
    try:
        return float(told)
    except ValueError:
        return None


def _numbers(told: str) -> list[float]:
    return [number for number in map(_number, told.split("\\")) if number is not None]


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
    # Where no date is asked for, what has none comes last.
    day = study.day.toordinal() if study.day else 10**9
    return _days(study, anchor, selection), day, _in_day(study, selection.get("anchor") == "last before")


def _days(study: Study, anchor: date | None, selection: dict[str, Any]) -> int:
    """Days from the anchor, before or after; with `all` the day."""
    day = study.day.toordinal() if study.day else 10**9
    return day if anchor is None or selection.get("anchor", "all") == "all" else abs(day - anchor.toordinal())


def _priors(others: list[Study], taken: list[Study], selection: dict[str, Any], ties: set[str]) -> list[Study]:
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
    taken_priors = priors[: wanted.get("studies")]
    rest = priors[len(taken_priors) :]
    if taken_priors and rest and taken_priors[-1].day == rest[0].day:
        ties.add("priors")
    return taken_priors


def _values(study: Study, word: str) -> set[str]:
    return {value.strip().casefold() for line in study.left for value in line[word].split("\\")} - {""}


def _preferred(lines: list[Line], selection: dict[str, Any], ties: set[str]) -> list[Line]:
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

    ranked = sorted(lines, key=rank)
    if len(ranked) > 1 and rank(ranked[0])[0] == rank(ranked[1])[0]:
        ties.add("series")
    return ranked[:1]


def _rank(word: str, line: Line) -> Any:
    if word == "thinnest":
        numbers = _numbers(line["SliceThickness"])
        return not numbers, min(numbers, default=0)
    if word == "most images":
        number = _number(line["NumberOfSeriesRelatedInstances"])
        return number is None, -(number or 0)
    day, clock = _day(line["SeriesDate"]), _clock(line["SeriesTime"])
    return day is None, -(day.toordinal() if day else 0), clock is None, -(_seconds(clock) if clock else 0)
