"""Cells of tables that people open in a spreadsheet: what looks like a formula there is text.

The rule is OWASP's (CSV injection): a cell that begins with one of `= + - @`, their full-width forms, a tab or the end
of a line gets an apostrophe in front, and a cell with a divider in it is quoted, whichever divider the reader takes.
Plain numbers stay. What reads such a table again takes the apostrophe away, so nothing is lost there and back.
Files for machines (JSON, Parquet) hold values as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_FORMULA = re.compile(r"[\s']*(?:[=+\-@＝＋－＠]|[\t\r\n])")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)
_QUOTED = re.compile(r'[",;|\t\r\n]|^\s|\s$')


def safe(value: object) -> str:
    """A value as the text of a cell that is no formula; None is empty."""
    text = "" if value is None else str(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain(text: str) -> str:
    """The value of a cell that `safe` has made, or anybody else."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def line(values: Iterable[object]) -> str:
    """A line of a csv file for people, with its end."""
    return ",".join(_quoted(safe(value)) for value in values) + "\n"


def _quoted(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text
