"""Problems of a query table and their places. Logs show them without values; the table's author sees the values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pacsifier_ops.base.errors import QueryTableError

#: Maximum number of problems in the text of an error, and of characters of a value.
_MOST_PROBLEMS, _MOST_CHARACTERS = 50, 60


@dataclass(frozen=True)
class Problem:
    """A problem, its place, and what to do.

    Attributes:
        line: line in the user's file, from 1; 0 for the whole file.
        column: name of the column, `column N` where it has no known name; empty for the whole row.
        message: description without values.
        value: content of the cell; for the table's author, never for a log.
    """

    line: int
    column: str
    message: str
    value: str = field(default="", repr=False)

    def __str__(self) -> str:
        where = ", ".join(filter(None, (f"line {self.line}" if self.line else "", self.column)))
        return f"{where}: {self.message}" if where else self.message

    def shown(self) -> str:
        """Return the text with the value."""
        return f"{self} [{readable(self.value)}]" if self.value else str(self)


def readable(value: str) -> str:
    """Return a value shortened, with unprintable characters escaped."""
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value[: _MOST_CHARACTERS + 1])
    return text if len(value) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


class TableRefused(QueryTableError):
    """A table cannot be used. `problems` are all reasons, and `why` is their heading."""

    def __init__(self, problems: Sequence[Problem], why: str = "the query table cannot be used") -> None:
        super().__init__(problems, why)
        self.problems, self.why = list(problems), why

    def __str__(self) -> str:
        return self._text(str)

    def shown(self) -> str:
        """Return the text with values."""
        return self._text(Problem.shown)

    def _text(self, text: Callable[[Problem], str]) -> str:
        lines = [text(problem) for problem in self.problems[:_MOST_PROBLEMS]]
        if more := len(self.problems) - len(lines):
            lines.append(f"and {more} more")
        return f"{self.why}:\n  " + "\n  ".join(lines) if len(lines) > 1 else f"{self.why}: {''.join(lines)}"
