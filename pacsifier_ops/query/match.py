"""One key of a row: the value to send in C-FIND, and whether an attribute of a response matches.

An archive may match more than the row means, but never less. So the sent value is wide where archives differ, and
`matches` decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from pacsifier_ops.query.keys import KEYS, SEVERAL, date_range, time_range, wildcard_match
from pacsifier_ops.query.names import name_matches

# Outside printable ASCII archives differ: in some, a question mark matches one byte and not one character. In some
# databases, square brackets denote sets of characters.
_UNSURE = re.compile(r"(?:[^\x20-\x7e]|[\[\]*?])+")
# Dates and times of archives with separators, as before 1993 (PS3.5 6.2) or as people write them.
_DIVIDED = {
    "DA": (date_range, re.compile(r"(\d{4})[.-](\d\d)[.-](\d\d)")),
    "TM": (time_range, re.compile(r"(\d\d):(\d\d)(?::(\d\d(?:\.\d+)?))?")),
}


def values_to_send(keyword: str, wanted: str) -> list[str]:
    """Return the values for C-FIND, one for each query. One empty value means universal matching.

    All keys but UIDs have a single value there (PS3.4 C.2.2.2), and some archives do not support lists of UIDs.
    """
    values = dict.fromkeys(value_to_send(keyword, one) for one in alternatives(keyword, wanted))
    return [""] if "" in values else list(values)


def alternatives(keyword: str, wanted: str) -> list[str]:
    """Return the values of a cell, any of which may match."""
    return wanted.split("\\") if keyword in SEVERAL else [wanted]


def value_to_send(keyword: str, wanted: str) -> str:
    """Return the value of one key for C-FIND (PS3.4 C.2.2.2); empty means universal matching.

    - Characters that archives might compare differently become `*`.
    - A time becomes a range of whole hours that covers it: 10 or 1015 may match a study at 101530. Archives that
      compare times as text sort both before 101500, and 10:15:30 after every time of that hour. A range over midnight
      becomes universal.
    - PatientName and ImageType are always universal: `names.wide_name_keys` narrows names, and archives differ in how
      several values of ImageType match.
    """
    vr = KEYS[keyword].vr
    if vr == "PN" or keyword == "ImageType":
        return ""
    if vr == "TM":
        low, high = time_range(wanted)
        first = low[:2] if low[:2] > "00" else ""
        last = f"{int(high[:2]) + 1:02d}0000" if high and high[:2] < "23" else ""
        return f"{first}-{last}" if (first or last) and not _over_midnight(low, high) else ""
    if vr == "IS":
        return str(int(wanted))
    sent = _UNSURE.sub("*", unicodedata.normalize("NFC", wanted))
    return "" if sent == "*" else sent


def matches(keyword: str, wanted: str, values: Sequence[str], exact: bool = False) -> bool:
    """Return whether an attribute with these (decoded) values matches a key of a row.

    Any of the values may match any of the `alternatives`. Text is compared with case, names without (see `names`).
    Blanks around a value are ignored. Several wanted values of ImageType must match the first values of the attribute,
    position by position; an empty one matches anything. A value that is invalid for its VR matches nothing.

    Args:
        keyword: keyword of the attribute.
        wanted: value of the row's key.
        values: decoded values of the attribute.
        exact: `*` and `?` are ordinary characters.
    """
    return any(_matches(keyword, one, values, exact) for one in alternatives(keyword, wanted))


def _matches(keyword: str, wanted: str, values: Sequence[str], exact: bool) -> bool:
    vr = KEYS[keyword].vr
    plain = [unicodedata.normalize("NFC", value).strip(" \0") for value in values]
    wanted = unicodedata.normalize("NFC", wanted).strip(" ")
    if vr == "PN":
        return any(name_matches(wanted, value, exact) for value in plain)
    if vr in _DIVIDED:
        read, divided = _DIVIDED[vr]
        low, high = read(wanted)
        spans = (_span(divided.sub(_joined, value), read) for value in plain)
        return any(span is not None and _meet(low, high, *span) for span in spans)
    if vr == "IS":
        return any(re.fullmatch(r"[+-]?[0-9]{1,12}", value) and int(value) == int(wanted) for value in plain)
    if vr == "UI":
        return wanted in plain
    parts = [part.strip(" ") for part in wanted.split("\\")]
    if len(parts) == 1:
        return any(wildcard_match(wanted, value, exact) for value in plain)
    plain += [""] * (len(parts) - len(plain))
    return all(not part or wildcard_match(part, value, exact) for part, value in zip(parts, plain, strict=False))


def _joined(parts: re.Match[str]) -> str:
    return "".join(part or "" for part in parts.groups())


def _span(value: str, read: Callable[[str], tuple[str, str]]) -> tuple[str, str] | None:
    """Return first and last moment of a date or time of an archive; None where it is invalid."""
    try:
        return None if "-" in value else read(value)
    except ValueError:
        return None


def _over_midnight(low: str, high: str) -> bool:
    return bool(low and high and low > high)


def _meet(low: str, high: str, first: str, last: str) -> bool:
    """Return whether a range overlaps with the span of a value."""
    begun, ended = low <= last, not high or first <= high
    return (begun or ended) if _over_midnight(low, high) else (begun and ended)


def seconds_to_send(wanted: str) -> str:
    """Return a time or a range in whole seconds, for an archive whose own matching decides.

    Archives that compare times as text sort 101530 before 101530.000000.

    Raises:
        ValueError: it spans midnight, which no range can express.
    """
    low, high = time_range(wanted)
    if _over_midnight(low, high):
        raise ValueError("it goes over midnight")
    return f"{low[:6]}-{high[:6]}.999999" if high else f"{low[:6]}-"
