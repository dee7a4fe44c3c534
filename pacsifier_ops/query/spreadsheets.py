"""Displayed numbers of spreadsheets, and values that spreadsheets have damaged by treating them as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Parts of the first section of a number format: literal text, parts without output, digit places, plain characters.
_PART = re.compile(
    r"""
    "(?P<quoted>[^"]*)" | \\(?P<escaped>.) |
    (?P<nothing> \[\$-[0-9A-Fa-f]+\] | \[(?:Black|Blue|Cyan|Green|Magenta|Red|White|Yellow)\] | _. | \*.) |
    (?P<digit>[0\#?]) | (?P<plain>[-\ ()+:'<>=!&~{}^]) | (?P<end>;)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_UNREADABLE = "a number in a format that says nothing certain; type it as text"


def shown(number: int, number_format: str) -> str:
    """Return the displayed text of an integer (ECMA-376-1 18.8.31).

    Args:
        number: not negative.
        number_format: format in the workbook, such as `00000000;@` or `"P"000-000`.

    Raises:
        ValueError: the format displays something else than the digits: an exponent, thousands, a percentage.
    """
    if number_format in ("General", "@", ""):
        return str(number)
    parts: list[tuple[bool, str]] = []  # whether it is a digit place, and its text
    at = 0
    while at < len(number_format):
        part = _PART.match(number_format, at)
        if part is None:
            raise ValueError(_UNREADABLE)
        at = part.end()
        if part["end"]:
            break
        if part["digit"]:
            parts.append((True, part["digit"]))
        elif not part["nothing"]:
            parts.append((False, part["quoted"] or part["escaped"] or part["plain"] or ""))
    digits = list(str(number))
    places = sum(is_place for is_place, _ in parts)
    if not places:
        raise ValueError(_UNREADABLE)
    text = ""
    for is_place, sign in reversed(parts):
        if is_place:
            places -= 1
            text = (digits.pop() if digits else {"0": "0", "?": " "}.get(sign, "")) + text
            if not places:
                text = "".join(digits) + text  # additional digits precede the first place
        else:
            text = sign + text
    return text


#: Form in which Excel exports a number as text.
_AS_TEXT = re.compile(r'="([^"]*)"')
#: Patterns of values that were lost.
_LOST = {
    re.compile(r"#(?:N/A|REF!|NAME\?|VALUE!|DIV/0!|NUM!|NULL!|CALC!|SPILL!)"): (
        "an error of the spreadsheet; correct the cell"
    ),
    re.compile(r"#{2,}"): "only the signs of a column that is too narrow; widen it, and save the table anew",
    re.compile(r"nan"): "a program's word for a value that is missing; leave the cell empty, or fill it",
}
#: Pattern of a number whose last digits a spreadsheet has lost.
_ROUNDED = {
    re.compile(r"[+-]?\d(?:[.,]\d+)?[eE][+-]\d+"): (
        "a number in powers of ten, whose last digits are lost; export the column as text"
    ),
}
#: Patterns of ids that a spreadsheet has damaged.
_DAMAGED = _ROUNDED | {
    re.compile(r"\d+[.,]0+"): "a whole number with decimals; write its digits only",
    re.compile(r"'.+"): "an apostrophe before the value; take it away",
    re.compile(r"[\w-]+(?:\s*;\s*[\w-]+)+"): "several values; give each a row of its own",
}


def unwrapped(text: str) -> str:
    """Return the text in `="…"`, else the text itself."""
    wrapped = _AS_TEXT.fullmatch(text)
    return wrapped[1].strip() if wrapped else text


def refuse_lost_value(text: str) -> None:
    """Refuse a text that replaces a lost value.

    Raises:
        ValueError: says what it is and what to do, without the value.
    """
    _refuse(text, _LOST)


def refuse_rounded(text: str) -> None:
    """Refuse a number whose last digits are lost, so that two of them may be one.

    Raises:
        ValueError: says what it is and what to do, without the value.
    """
    _refuse(text, _ROUNDED)


def refuse_damaged_id(text: str) -> None:
    """Refuse an id that a program treated as a number.

    Raises:
        ValueError: says what it is and what to do, without the value.
    """
    _refuse(text, _DAMAGED)
    if re.search("[\uff10-\uff19]", text):
        raise ValueError("digits of full width, which to archives are other characters; write 0 to 9")


def _refuse(text: str, patterns: Mapping[re.Pattern[str], str]) -> None:
    for pattern, message in patterns.items():
        if pattern.fullmatch(text):
            raise ValueError(message)
