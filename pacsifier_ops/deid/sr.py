"""Structured content (PS3.3 C.17.3, PS3.15 E.3.4): what is done to content items, by their concept.

A content item is recognised by its ValueType (0040,A040), in ContentSequence as in other sequences. Items that are
taken out would change what others refer to by position, so those references are written anew.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pacsifier_ops.deid.rules import Rule, Rules
from pacsifier_ops.dicom.encoding import Elements
from pacsifier_ops.dicom.vrs import padded

VALUE_TYPE, CONTENT = 0x0040A040, 0x0040A730
_NAME, _MEASURED, _UNITS, _NUMBER = 0x0040A043, 0x0040A300, 0x004008EA, 0x0040A30A
#: FloatingPointValue, RationalNumeratorValue, RationalDenominatorValue: the same number again.
_AGAIN = (0x0040A161, 0x0040A162, 0x0040A163)
_REFERENCE = 0x0040DB73
#: Characters of a description at most (PS3.5 6.2, LO).
LONGEST = 64
_CODES, _SCHEME = (0x00080100, 0x00080119, 0x00080120), 0x00080102

#: Where a content item has its value, by value type; that of the others is in sequences.
VALUES = {
    "DATE": 0x0040A121,
    "DATETIME": 0x0040A120,
    "PNAME": 0x0040A123,
    "TEXT": 0x0040A160,
    "TIME": 0x0040A122,
    "UIDREF": 0x0040A124,
}
#: Units of age (UCUM), in years.
_YEARS = {"a": 1.0, "mo": 1 / 12, "wk": 7 / 365.25, "d": 1 / 365.25, "h": 1 / 8766, "min": 1 / 525960}


def text_of(item: Elements, tag: int) -> str:
    """The text of an element in ASCII, without padding; empty where there is none."""
    value = item[tag][1] if tag in item else b""
    return value.strip(b" \0").decode("latin-1") if isinstance(value, bytes) else ""


def code_of(item: Elements, tag: int) -> tuple[str, str]:
    """Value and scheme of the first code of a sequence."""
    value = item[tag][1] if tag in item else []
    if not isinstance(value, list) or not value:
        return "", ""
    return code_in(value[0])


def code_in(item: Elements) -> tuple[str, str]:
    """Value and scheme of a code, which its item holds."""
    return next((code for tag in _CODES if (code := text_of(item, tag))), ""), text_of(item, _SCHEME)


def rule_of(item: Elements, rules: Rules) -> tuple[Rule, str]:
    """What is done to a content item, and its value type."""
    value_type = text_of(item, VALUE_TYPE)
    return rules.concept(*code_of(item, _NAME), value_type), value_type


def is_narrative(text: str | bytes) -> bool:
    """Whether a text is longer than a description, so that somebody may have told a story: 64 characters, one line."""
    text = text.strip() if isinstance(text, str) else text.strip(b" \0").decode("latin-1")
    return len(text) > LONGEST or any(end in text for end in "\r\n\f")


def cap_age(item: Elements) -> bool:
    """Make an age of more than 89 years 90 years (PS3.15 E.3.5); False where it cannot be told what it is.

    Of measurements in general, too: what lasted that long is an age, whatever code says so.
    """
    measured = item.get(_MEASURED, ("", b""))[1]
    for one in measured if isinstance(measured, list) else [item]:  # outside of reports, the item holds the number
        years = _YEARS.get(code_of(one, _UNITS)[0])
        try:
            age = float(text_of(one, _NUMBER))
        except ValueError:
            return False
        if years is None or not 0 <= age < 10_000_000:
            return False
        if age * years >= 90:
            one[_NUMBER] = ("DS", padded(f"{90 / years:.0f}".encode(), "DS"))
            for tag in _AGAIN:
                one.pop(tag, None)
    return True


class Positions:
    """Where content items stood, and where they stand now (ReferencedContentItemIdentifier, PS3.3 C.17.3.1)."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[int, ...]] = {}
        self._items: list[Elements] = []  # held, so that no two have the same id

    def stood(self, item: Elements, before: tuple[int, ...]) -> None:
        """Note where an item of the result stood in the source: its position and those above it, from 1."""
        self._before[id(item)] = before
        self._items.append(item)

    def renew(self, root: Elements, big_endian: bool) -> None:
        """Write references anew; those whose target is gone go."""
        alive = {(1,), *(self._before.get(id(item), ()) for item, _ in _content(root, (1,)))}
        for item in [root, *(item for item, _ in _content(root, (1,)))]:
            below = item.get(CONTENT, ("", b""))[1]
            if isinstance(below, list):
                below[:] = [one for one in below if _REFERENCE not in one or _target(one, big_endian) in alive]
                if not below:
                    del item[CONTENT]
        now = {self._before.get(id(item), ()): place for item, place in _content(root, (1,))} | {(1,): (1,)}
        for item, _ in _content(root, (1,)):
            if _REFERENCE in item:
                place = now[_target(item, big_endian)]
                item[_REFERENCE] = ("UL", struct.pack(f"{'>' if big_endian else '<'}{len(place)}L", *place))


def _content(item: Elements, place: tuple[int, ...]) -> Iterator[tuple[Elements, tuple[int, ...]]]:
    """The content items below one, at any depth, with their positions."""
    below = item.get(CONTENT, ("", b""))[1]
    for number, one in enumerate(below if isinstance(below, list) else (), 1):
        yield one, (*place, number)
        yield from _content(one, (*place, number))


def _target(item: Elements, big_endian: bool) -> tuple[int, ...]:
    value = item[_REFERENCE][1]
    if not isinstance(value, bytes) or len(value) % 4:
        return ()
    return struct.unpack(f"{'>' if big_endian else '<'}{len(value) // 4}L", value)
