"""Cells of tables that people open in a spreadsheet. A text that looks like a formula stays text.

The rule is OWASP's (CSV injection). A cell that begins with one of `= + - @`, their full-width forms, a tab or the end
of a line gets an apostrophe in front. A cell with any usual separator in it is quoted. Plain numbers stay. Readers of
such a table remove the apostrophe again, so no value is lost. Files for machines (JSON, Parquet) contain unchanged
values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_FORMULA = re.compile(r"[\s']*(?:[=+\-@＝＋－＠]|[\t\r\n])")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)
_QUOTED = re.compile(r'[",;|\t\r\n]|^\s|\s$')


def safe(value: object) -> str:
    """Return a value as the text of a cell that is no formula; None becomes empty."""
    text = "" if value is None else str(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain(text: str) -> str:
    """Return the value of a cell, without the apostrophe of `safe`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def line(values: Iterable[object]) -> str:
    """Return a line of a CSV file for people, with its end."""
    return ",".join(_quoted(safe(value)) for value in values) + "\n"


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text
