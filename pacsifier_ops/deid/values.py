"""Values (PS3.5 6.2): validity, shifted dates, capped ages, tokens for identifiers, and dummies."""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache

from pacsifier_ops.dicom import vrs
from pacsifier_ops.pseudonyms.local import ALPHABET
from pacsifier_ops.pseudonyms.secret import Secret

#: Maximum number of characters of one value.
_MOST = {"AE": 16, "CS": 16, "LO": 64, "LT": 10240, "SH": 16, "ST": 1024}

_LINE = r"[^\x00-\x1f\x7f-\x9f\\]"
_TIME = r"(?:[01]\d|2[0-3])(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?"
_FORMS = {
    "AE": re.compile(r"[ -\[\]-~]{0,16}", re.ASCII),
    "AS": re.compile(r"\d{3}[DWMY]", re.ASCII),
    "CS": re.compile(r"[A-Z0-9 _]{0,16}", re.ASCII),
    # Devices write more digits than the 16 characters of a DS. Such a value is still a number.
    "DS": re.compile(r"(?=.{1,32}$)[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII),
    "IS": re.compile(r"(?=.{1,12}$)[+-]?\d+", re.ASCII),
    "LO": re.compile(rf"{_LINE}{{0,64}}", re.ASCII),
    "PN": re.compile(r"(?:[^\x00-\x1f\x7f-\x9f\\=]{0,64}=){0,2}[^\x00-\x1f\x7f-\x9f\\=]{0,64}", re.ASCII),
    "SH": re.compile(rf"{_LINE}{{0,16}}", re.ASCII),
    "TM": re.compile(rf"{_TIME}|(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{{1,6}})?)?", re.ASCII),
    "UC": re.compile(rf"{_LINE}*", re.ASCII),
    "UI": re.compile(r"(?=.{1,64}$)(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+", re.ASCII),
    "UR": re.compile(r"[!-~]*", re.ASCII),
}
_LINES = re.compile(r"[^\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]*", re.ASCII)
_DATE = re.compile(r"(\d{4})(\.?)(\d\d)\2(\d\d)", re.ASCII)
_DATETIME = re.compile(rf"(\d{{4}})(?:(\d\d)(?:(\d\d)({_TIME})?)?)?([+-](?:0\d|1[0-4])[0-5]\d)?", re.ASCII)


#: First days of the calendars of devices. Devices write them where they know no date.
_PLACEHOLDER_DATES = frozenset(
    (dt.date(1901, 1, 1), dt.date(1904, 1, 1), dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date(1980, 1, 1))
)
#: Days on which newer clocks begin or end. A patient may have been examined on one of them.
EPOCHS = frozenset(
    (
        *(dt.date(year, 1, 1) for year in (1990, 2000, 2001, 2070)),
        *(dt.date(1979, 12, 31), dt.date(1980, 1, 6), dt.date(1999, 12, 31), dt.date(2036, 2, 7), dt.date(2038, 1, 19)),
    )
)
#: Years in which a date may belong to a patient.
_YEARS = range(1901, 2100)


def is_valid(vr: str, text: str) -> bool:
    """Return whether one value, without padding, is valid for a VR of characters. An empty value is valid."""
    if not text:
        return True
    match vr:
        case "DA":
            return shifted_date(text, 0) is not None
        case "DT":
            return shifted_datetime(text, 0) is not None
        case "LT" | "ST" | "UT":
            return len(text) <= _MOST.get(vr, len(text)) and _LINES.fullmatch(text) is not None
    form = _FORMS.get(vr)
    return form is not None and form.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def shifted_date(text: str, days: int) -> str | None:
    """Return a date (DA) shifted by a number of days, in the form that it has; None where it is no date.

    `YYYY.MM.DD`, the form before 1993, is a date. Ranges, and dates without month or day, are not. Where `days` is not
    0, a placeholder such as 19000101 is no date either: its shifted value would reveal the number of days.
    """
    found = _DATE.fullmatch(text)
    moved = found and _moved(found[1], found[3], found[4], days)
    return f"{moved.year:04}{found[2]}{moved.month:02}{found[2]}{moved.day:02}" if moved and found else None


@lru_cache(maxsize=4096)
def shifted_datetime(text: str, days: int) -> str | None:
    """Return a date and time (DT) shifted by a number of days; None where it is no date.

    Precision, fraction and zone stay. A missing month or day counts as the first one. Placeholders are no dates.
    """
    found = _DATETIME.fullmatch(text)
    if not found:
        return None
    year, month, day, time, zone = found.groups(default="")
    moved = _moved(year, month or "01", day or "01", days)
    return f"{moved.year:04}{moved.month:02}{moved.day:02}"[: len(year + month + day)] + time + zone if moved else None


def _moved(year: str, month: str, day: str, days: int) -> dt.date | None:
    try:
        date = dt.date(int(year), int(month), int(day))
        return None if days and (date.year not in _YEARS or date in _PLACEHOLDER_DATES) else date + dt.timedelta(days)
    except (ValueError, OverflowError):
        return None


def capped_age(text: str) -> str | None:
    """Return an age (AS), `090Y` where it is more than 89 years; None where it is no age."""
    if not is_valid("AS", text) or not text:
        return None
    return "090Y" if text[3] == "Y" and int(text[:3]) > 89 else text


def token(secret: Secret, keyword: str, value: str) -> str:
    """Return the token that replaces an identifier everywhere: 12 capitals and digits, fit for SH, LO and CS.

    Args:
        secret: secret of the project.
        keyword: keyword of the attribute; equal values of two attributes get different tokens.
        value: the identifier.
    """
    number, text = secret.number(keyword, value), ""
    for _ in range(12):
        number, digit = divmod(number, len(ALPHABET))
        text += ALPHABET[digit]
    return text


_DUMMIES = {
    "AS": "000Y",
    "CS": "REMOVED",
    "DA": "19000101",
    "DS": "0",
    "DT": "19000101",
    "IS": "0",
    "TM": "000000",
    "UR": "about:blank",
} | dict.fromkeys(("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "REMOVED")


def dummy(vr: str) -> bytes:
    """Return a valid value of a VR that has no meaning, without padding. UI and SQ have none."""
    return _DUMMIES[vr].encode() if vr in _DUMMIES else bytes(vrs.SIZES.get(vr, 2))


def fitting(vr: str, text: str) -> str:
    """Cut a text to the maximum length of the VR, at the end of a word where possible."""
    most = _MOST.get(vr, len(text))
    return text if len(text) <= most else (text[: most + 1].rpartition(" ")[0] or text[:most]).strip()
