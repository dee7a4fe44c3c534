"""Dates in numbers: devices number series, acquisitions and images by the date, or by the time since an epoch.

Beside a shifted date, an unshifted date in a number reveals the shift. `tables/numbers.csv` lists the numbers that can
contain dates because they only order or name things: SeriesNumber, AcquisitionNumber, InstanceNumber and the like.
Other numbers measure, count or describe pixels.

A date in such a number is shifted as the patient's other dates are, in its own form. So it reveals no more than they
do, series and images keep their order, references stay valid, and every worker computes the same number. Where dates
are removed, the project's secret determines a shift for each study.

| form                                                  | condition to be a date                                  |
|-------------------------------------------------------|---------------------------------------------------------|
| YYYYMMDD with any digits after it; DDMMYYYY, MMDDYYYY | the year is 1990 to 2099                                |
| YYMMDD, DDMMYY, MMDDYY                                | it is within a week of a date of the patient            |
| seconds to nanoseconds since 1970; YYYYDDD; Julian    | the same                                                |
| YYMMDD with any digits after it; days since year 0    | it equals a date of the patient                         |
| five digits: YYDDD, DDMMYY without its first zero,    | the same; only in SeriesNumber and AcquisitionNumber:   |
| days since 1840, 1858, 1899 or 1970                   | elsewhere most numbers of five digits are no dates      |

Numbers of four digits are left: 117 and 1701 are common.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise

from pacsifier_ops.deid.rules import ProfileOption, Rules
from pacsifier_ops.deid.values import EPOCHS, shifted_date
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret

#: A series may be reconstructed, or read, up to a week after the examination.
_NEAR = dt.timedelta(7)
_SAME = dt.timedelta(0)
#: The first day of a calendar is a real date where another date of the patient is within this time.
_YEAR = dt.timedelta(366)
#: A version within this time of a date of the patient may be a date of the patient.
_NO_VERSION = dt.timedelta(60)
_YEARS = range(1990, 2100)
#: Minimum and maximum number of digits of the numbers to check.
_FEWEST, _MOST = 5, 19
#: Epochs of day counts, by their present number of digits: a day, and its number. M (VistA), Modified Julian,
#: spreadsheets, Unix; since years 1 and 0; Julian.
_DAYS_SINCE = {
    5: ((dt.date(1840, 12, 31), 0), (dt.date(1858, 11, 17), 0), (dt.date(1899, 12, 30), 0), (dt.date(1970, 1, 1), 0)),
    6: ((dt.date(1, 1, 1), 1), (dt.date(1, 1, 1), 367)),
    7: ((dt.date(1858, 11, 17), 2_400_001),),
}
#: Ticks per second of times since 1970, by the number of digits.
_UNITS = {9: 1, 10: 1, 12: 10**3, 13: 10**3, 15: 10**6, 16: 10**6, 18: 10**9, 19: 10**9}
_DAY, _EPOCH = 86_400, dt.date(1970, 1, 1)
#: Formats of `struct`, by VR.
_FORMATS = {"FD": "d", "FL": "f", "SL": "l", "SS": "h", "SV": "q", "UL": "L", "US": "H", "UV": "Q"}
#: Maximum number of values; longer values are samples.
_VALUES = 256

#: A date, its maximum distance from a date of the patient (None: any), and the function that writes it again.
_Reading = tuple[dt.date, "dt.timedelta | None", Callable[[dt.date], str]]


def _written(form: str, rest: str, day: dt.date) -> str:
    return day.strftime(form) + rest


def _counted(start: dt.date, added: int, day: dt.date) -> str:
    return str((day - start).days + added)


def _dated(digits: str, form: str) -> Iterator[dt.date]:
    """Yield the dates that digits represent. A year of two digits may belong to this century or the last."""
    parts, at = {}, 0
    for part in form.split("%")[1:]:
        parts[part] = digits[at : (at := at + (4 if part == "Y" else 2))]
    for year in (parts["Y"],) if "Y" in parts else ("20" + parts["y"], "19" + parts["y"]):
        with suppress(ValueError):
            yield dt.date(int(year), int(parts["m"]), int(parts["d"]))


def _readings(text: str) -> Iterator[_Reading]:
    """Yield the dates that a number may represent."""
    digits = text.lstrip("0")
    size = len(digits)
    for form in ("%Y%m%d", "%d%m%Y", "%m%d%Y"):
        if size == 8 or (size > 8 and form == "%Y%m%d") or (size == 7 and form != "%Y%m%d"):
            for day in _dated(digits.zfill(8), form):
                near = _NEAR if size == 7 else None if day.year in _YEARS else _SAME
                yield day, near, partial(_written, form, digits[8:])
    for form in ("%y%m%d", "%d%m%y", "%m%d%y"):
        for day in _dated(digits.zfill(6), form) if size in (5, 6) else ():
            yield day, _NEAR if size == 6 else _SAME, partial(_written, form, "")
    if size in _UNITS:
        unit = _UNITS[size]
        days, within = divmod(int(digits), _DAY * unit)
        yield _EPOCH + dt.timedelta(days), _NEAR, lambda day: str((day - _EPOCH).days * _DAY * unit + within)
    if size in (5, 7):
        for year in (digits[:4],) if size == 7 else ("20" + digits[:2], "19" + digits[:2]):
            nth = _later(dt.date(int(year), 1, 1), int(digits[-3:]) - 1)
            if nth and nth.year == int(year):
                yield nth, _NEAR if size == 7 else _SAME, partial(_written, "%Y%j" if size == 7 else "%y%j", "")
    for start, added in _DAYS_SINCE.get(size, ()):
        if counted := _later(start, int(digits) - added):
            yield counted, _NEAR if size == 7 else _SAME, partial(_counted, start, added)
    for day in _dated(digits[:6], "%y%m%d") if size > 6 else ():
        yield day, _SAME, partial(_written, "%y%m%d", digits[6:])


def _later(day: dt.date, days: int) -> dt.date | None:
    try:
        return day + dt.timedelta(days)
    except OverflowError:
        return None


class BirthDateFound(Exception):
    """A number is the birth date, which is never shifted."""


@dataclass(frozen=True)
class Calendar:
    """The dates of a patient, to recognise them in numbers.

    Attributes:
        days: original dates of all objects, without the birth date.
        births: birth dates.
        shift: number of days by which numbers are shifted.
        taken: numbers that are identifiers. They stay here, so that the final check finds them.
        counted: the images of the series are counted with six digits (see `are_counted`): these numbers contain no
            date.
    """

    days: frozenset[dt.date] = frozenset()
    births: frozenset[dt.date] = frozenset()
    shift: int = 0
    taken: frozenset[str] = frozenset()
    counted: bool = False
    _moved: dict[tuple[str, int], str | None] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls, days: frozenset[str], shift: int, births: frozenset[str], taken: frozenset[str], counted: bool = False
    ) -> Calendar:
        """Return the calendar of a patient, cached; dates are `YYYYMMDD`."""
        return _calendar(days, shift, births, taken, counted)

    def __bool__(self) -> bool:
        return bool(self.shift)

    def moved(self, text: str, least: int = _FEWEST) -> str | None:
        """Shift the date in a number; None where it contains none.

        Args:
            text: digits only.
            least: minimum number of digits of a number to check.

        Raises:
            BirthDateFound: it is the birth date.
        """
        if not self.shift or not max(least, _FEWEST) <= len(text) <= _MOST:
            return None
        key = text, least
        if key not in self._moved:
            if len(self._moved) > 10_000:
                self._moved.clear()
            self._moved[key] = self._move(text)
        return self._moved[key]

    def _move(self, text: str) -> str | None:
        if text.lstrip("0") in self.taken or not text.isdecimal():
            return None
        readings = list(_readings(text))
        if any(day in self.births and len(text) > _FEWEST for day, *_ in readings):
            raise BirthDateFound
        # A date of the patient takes precedence over one near it, and that one over any other date.
        for within in (_SAME, _NEAR, None):
            for day, near, write in readings:
                if within is None or (near is None or near >= within):
                    fits = near is None if within is None else _is_near(day, self.days, within)
                    moved = _later(day, self.shift) if fits else None
                    if moved:
                        return write(moved).lstrip("0").zfill(len(text))
        return None

    def is_birth(self, text: str) -> bool:
        """Return whether a date, or a date and time, is the birth date."""
        return bool(self.births) and not self.births.isdisjoint(dates([text]))

    def is_placeholder(self, text: str) -> bool:
        """Return whether a date, or a date and time, is an epoch of clocks and far from all other dates of the patient.

        Where the patient's dates are unknown or stay, none is.
        """
        if not self:
            return False
        return any(day in EPOCHS and not _is_near(day, self.days - EPOCHS, _YEAR) for day in dates([text]))

    def may_be_patient_date(self, text: str) -> bool:
        """Return whether a version (DT) may be a date of the patient: it has a time of day, or is near one."""
        if text.strip("\0 ")[8:].strip("0"):
            return True
        return any(_is_near(day, self.days | self.births, _NO_VERSION) for day in dates([text]))

    def is_patient_date(self, number: float) -> bool:
        """Return whether the whole part of a number is a date of the patient, written with six digits or more."""
        if not self.days or not 99_999 < number < 10**_MOST:
            return False
        text = str(int(number))
        return any(day in self.days or day in self.births for day, *_ in _readings(text))


@lru_cache(maxsize=64)
def _calendar(
    days: frozenset[str], shift: int, births: frozenset[str], taken: frozenset[str], counted: bool
) -> Calendar:
    known = dates(days)
    known -= {day for day in known & EPOCHS if not _is_near(day, known - EPOCHS, _YEAR)}
    return Calendar(known, dates(births) - known, shift, taken, counted)


def _is_near(day: dt.date, days: Iterable[dt.date], within: dt.timedelta) -> bool:
    return any(abs(day - one) <= within for one in days)


def shift_of(rules: Rules, person: Person, secret: Secret, study_uid: str) -> int:
    """Return the number of days by which dates in numbers of a study are shifted; 0 where they stay."""
    if ProfileOption.FULL_DATES in rules.options:
        return 0
    if ProfileOption.MODIFIED_DATES in rules.options:
        return person.shift
    # The interval between studies must not be kept either.
    return -3653 - secret.number("numbers", study_uid) % 3653


def numbers_in(vr: str, value: bytes, little: bool) -> list[float]:
    """Return the numbers of a value; none where there are too many, or none can be read.

    Args:
        vr: VR of the value; numbers as characters (DS, IS) or binary.
        value: the encoded value.
        little: whether the data set is little endian.
    """
    if vr in ("DS", "IS"):
        found = [_float(text) for text in value.decode("latin-1").split("\\")]
    elif form := _FORMATS.get(vr):
        size = struct.calcsize(f"<{form}")
        many = len(value) // size
        if many > _VALUES or len(value) % size:
            return []
        found = list(struct.unpack(f"{'<' if little else '>'}{many}{form}", value))
    else:
        return []
    found = [number for number in found if math.isfinite(number)]
    if vr == "FL":  # FL has only every second whole number from here on
        found += [number + by for number in found if number >= 1 << 24 for by in (-1, 1)]
    return found


def _float(text: str) -> float:
    try:
        return float(text.strip("\0 "))
    except ValueError:
        return math.nan


def is_one_of(days: frozenset[str], number: float) -> bool:
    """Return whether a number is one of these dates (`YYYYMMDD`), in an unambiguous form.

    The form has a year of four digits, in any order, or is seconds since 1970, or fractions of them.
    """
    whole = math.trunc(number)
    plain, known = _plain(days)
    unit = _DAY * _UNITS.get(len(str(whole)), 0)
    return whole in plain or (whole > 0 and unit > 0 and _later(_EPOCH, whole // unit) in known)


@lru_cache(maxsize=64)
def _plain(days: frozenset[str]) -> tuple[frozenset[int], frozenset[dt.date | None]]:
    known = dates(days)
    forms = ("%Y%m%d", "%d%m%Y", "%m%d%Y")
    return frozenset(int(day.strftime(form)) for day in known for form in forms), frozenset(known)


def are_counted(numbers: Iterable[str], days: frozenset[str]) -> bool:
    """Return whether InstanceNumbers of a series are counters: time 230 slice 117 is then no date.

    Only numbers of six or seven digits are considered. They are dates where each is near a date of the patient, and
    they do not increase in equal steps. Otherwise shifting some of them would change the order, and could make two
    equal.

    Args:
        numbers: the InstanceNumbers.
        days: dates of the patient (`YYYYMMDD`).
    """
    found = sorted({int(text) for text in numbers if 5 < len(text) < 8 and text.isdecimal()})
    steps = {after - before for before, after in pairwise(found)}
    if 1 in steps or (len(found) > 2 and len(steps) == 1):
        return True
    known = dates(days)
    return len(found) > 1 and not all(
        any(near and _is_near(day, known, near) for day, near, _ in _readings(str(number))) for number in found
    )


def dates(days: Iterable[str]) -> frozenset[dt.date]:
    """Parse dates (`YYYYMMDD`). Invalid dates and placeholders (1 January 1900) are left out."""
    known = (re.sub(r"\D", "", text)[:8] for text in days)
    return frozenset(day for text in known if shifted_date(text, 1) for day in _dated(text, "%Y%m%d"))
