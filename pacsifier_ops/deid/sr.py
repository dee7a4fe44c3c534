"""Structured content (PS3.3 C.17.3, PS3.15 E.3.4): rules for content items, by their concept name.

A content item is recognised by its ValueType (0040,A040), in ContentSequence as in other sequences. Removing items
changes the positions to which other items refer, so those references are rewritten.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pacsifier_ops.deid.rules import Rule, Rules
from pacsifier_ops.dicom.encoding import Elements
from pacsifier_ops.dicom.vrs import padded

VALUE_TYPE, CONTENT = 0x0040A040, 0x0040A730
_NAME, _MEASURED, _UNITS, _NUMBER = 0x0040A043, 0x0040A300, 0x004008EA, 0x0040A30A
#: FloatingPointValue, RationalNumeratorValue, RationalDenominatorValue: other forms of the same number.
_AGAIN = (0x0040A161, 0x0040A162, 0x0040A163)
_REFERENCE = 0x0040DB73
#: Maximum length of a description in characters (PS3.5 6.2, LO).
LONGEST = 64
_CODES, _SCHEME = (0x00080100, 0x00080119, 0x00080120), 0x00080102

#: Attribute with the value of a content item, by value type; other types have their values in sequences.
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
    """Return the text of an element in ASCII, without padding; empty where there is none."""
    value = item[tag][1] if tag in item else b""
    return value.strip(b" \0").decode("latin-1") if isinstance(value, bytes) else ""


def code_of(item: Elements, tag: int) -> tuple[str, str]:
    """Return code value and coding scheme designator of the first code of a sequence."""
    value = item[tag][1] if tag in item else []
    if not isinstance(value, list) or not value:
        return "", ""
    return code_in(value[0])


def code_in(item: Elements) -> tuple[str, str]:
    """Return code value and coding scheme designator of a code's item."""
    return next((code for tag in _CODES if (code := text_of(item, tag))), ""), text_of(item, _SCHEME)


def rule_of(item: Elements, rules: Rules) -> tuple[Rule, str]:
    """Return the rule for a content item, and its value type."""
    value_type = text_of(item, VALUE_TYPE)
    return rules.concept(*code_of(item, _NAME), value_type), value_type


def is_narrative(text: str | bytes) -> bool:
    """Return whether a text is longer than a description (64 characters, one line), so that it may be narrative."""
    text = text.strip() if isinstance(text, str) else text.strip(b" \0").decode("latin-1")
    return len(text) > LONGEST or any(end in text for end in "\r\n\f")


def cap_age(item: Elements) -> bool:
    """Set an age of more than 89 years to 90 years (PS3.15 E.3.5).

    This applies to measurements of any concept: a duration of that length is an age.

    Returns:
        False where unit or number cannot be interpreted.
    """
    measured = item.get(_MEASURED, ("", b""))[1]
    for one in measured if isinstance(measured, list) else [item]:  # outside of reports, the item itself has the number
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
    """Positions of content items before and after removals (ReferencedContentItemIdentifier, PS3.3 C.17.3.1)."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[int, ...]] = {}
        self._items: list[Elements] = []  # keeps references, so that no two items get the same id

    def record(self, item: Elements, before: tuple[int, ...]) -> None:
        """Record the source position of an item of the result: its number and those of its ancestors, from 1."""
        self._before[id(item)] = before
        self._items.append(item)

    def rewrite_references(self, root: Elements, big_endian: bool) -> None:
        """Rewrite references, and remove those to removed items."""
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
    """Yield the content items below an item, at any depth, with their positions."""
    below = item.get(CONTENT, ("", b""))[1]
    for number, one in enumerate(below if isinstance(below, list) else (), 1):
        yield one, (*place, number)
        yield from _content(one, (*place, number))


def _target(item: Elements, big_endian: bool) -> tuple[int, ...]:
    value = item[_REFERENCE][1]
    if not isinstance(value, bytes) or len(value) % 4:
        return ()
    return struct.unpack(f"{'>' if big_endian else '<'}{len(value) // 4}L", value)
