"""Checks of pseudonyms and date shifts, for all sources of them."""

from __future__ import annotations

import re
from typing import Any

from pacsifier_ops.query.keys import refuse_hidden

#: Maximum date shift in days that this package chooses.
MOST_DAYS = 30


def check_pseudonym(text: str) -> str:
    """Refuse a text that cannot be both a PatientID (LO, PS3.5 6.2) and the name of a folder. Return it.

    Raises:
        ValueError: gives the reason, without the text.
    """
    refuse_hidden(text)
    if not re.fullmatch(r"[ -~]{1,64}", text) or re.search(r'[\\/:*?"<>|]|^[. ]|[. ]$', text):
        raise ValueError(
            "not fit to name a patient and a folder; give at most 64 ASCII characters, none of "
            '\\ / : * ? " < > |, no dot or blank at either end'
        )
    if text[0] in "=+-@'":
        raise ValueError("a formula to a spreadsheet, or an option to a command; give one that begins otherwise")
    return text


def check_shift(value: Any) -> int:
    """Return a date shift as a number of days, from an integer or its text.

    Raises:
        ValueError: it is no integer, or exceeds 100 years.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,5}\s*", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 36525:
        raise ValueError("no whole number of days")
    return value
