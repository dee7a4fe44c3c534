"""One key of a row against an archive: what is asked in C-FIND, and whether an answer holds what is wanted.

An archive may match more loosely than the row means it, never more tightly: what is sent is wide where
archives differ, and `matches` decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from pacsifier_ops.query.keys import KEYS, date_range, time_range, wildcard_match
from pacsifier_ops.query.names import name_matches

# Outside printable ASCII archives differ, and to some a question mark is one byte, not one character; square
# brackets are sets of characters to some data bases.
_UNSURE = re.compile(r"(?:[^\x20-\x7e]|[\[\]*?])+")
# Dates and times, with what divided their parts before 1993 (2015.05.12, 10:15:00; PS3.5 6.2).
_RANGES = {"DA": (date_range, "."), "TM": (time_range, ":")}


def value_to_send(keyword: str, wanted: str) -> str:
    """The value of one key for C-FIND (PS3.4 C.2.2.2); empty is universal matching.

    - Characters that archives might compare differently become `*`.
    - A time becomes a range of whole seconds that covers it.
    - PatientName and ImageType are always universal: names are narrowed by `names.wide_name_keys`, and
      archives do not agree on how several values of ImageType match.
    """
    vr = KEYS[keyword].vr
    if vr == "PN" or keyword == "ImageType":
        return ""
    if vr == "TM":
        # In whole seconds: archives that compare times as text put 101530 before 101530.000000.
        low, high = time_range(wanted)
        return f"{low[:6]}-{high[:6]}.999999" if high else f"{low[:6]}-"
    if vr == "IS":
        return str(int(wanted))
    sent = _UNSURE.sub("*", unicodedata.normalize("NFC", wanted))
    return "" if sent == "*" else sent


def matches(keyword: str, wanted: str, values: Sequence[str]) -> bool:
    """Whether an attribute with these (decoded) values is what a row wants.

    Any of the values may match. Text compares with case, names without (see `names`); blanks around a value
    do not count. Several wanted values of ImageType must be the first ones of the attribute, position by
    position, where an empty one may be anything. A value that is not valid in its VR matches nothing.
    """
    vr = KEYS[keyword].vr
    plain = [unicodedata.normalize("NFC", value).strip(" \0") for value in values]
    wanted = unicodedata.normalize("NFC", wanted).strip(" ")
    if vr == "PN":
        return any(name_matches(wanted, value) for value in plain)
    if vr in _RANGES:
        read, divider = _RANGES[vr]
        low, high = read(wanted)
        starts = (_start(value.replace(divider, ""), read) for value in plain)
        return any(start and low <= start and (not high or start <= high) for start in starts)
    if vr == "IS":
        return any(re.fullmatch(r"[+-]?[0-9]{1,12}", value) and int(value) == int(wanted) for value in plain)
    if vr == "UI":
        return wanted in plain
    parts = [part.strip(" ") for part in wanted.split("\\")]
    if len(parts) == 1:
        return any(wildcard_match(wanted, value) for value in plain)
    plain += [""] * (len(parts) - len(plain))
    return all(not part or wildcard_match(part, value) for part, value in zip(parts, plain, strict=False))


def _start(value: str, read: Callable[[str], tuple[str, str]]) -> str:
    """When one date or time of an archive begins; empty where it is none."""
    try:
        return "" if "-" in value else read(value)[0]
    except ValueError:
        return ""
