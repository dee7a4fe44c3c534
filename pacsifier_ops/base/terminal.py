"""What a command shows on a terminal while it works. Where stderr is none, it shows nothing, and rich is not loaded."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console


def _console() -> Console | None:
    """The terminal that stderr is, None where it is none."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    return Console(stderr=True)


class Meter:
    """A bar with the number of things that are done, such as series, and a remark; a context manager.

    The last of it stays on the terminal. What is printed meanwhile appears above it.
    """

    def __init__(self, total: int, things: str = "") -> None:
        self._total, self._things = total, things
        self._stack = ExitStack()
        self._live = False

    def __enter__(self) -> Self:
        if console := _console():
            from rich.progress import BarColumn, Progress, TextColumn

            said = "{task.completed}/{task.total}{task.description}"
            columns = (BarColumn(24), TextColumn(said, markup=False))
            # What goes to stdout must not come out of stderr where they are not the same terminal.
            progress = Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty())
            self._progress, self._live = self._stack.enter_context(progress), True
            self._task = progress.add_task(self._words(""), total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, done: int, remark: str = "") -> None:
        """Show how many things are done."""
        if self._live:
            self._progress.update(self._task, completed=done, description=self._words(remark))

    def _words(self, remark: str) -> str:
        return (f" {self._things}" if self._things else "") + (f"  {remark}" if remark else "")


class Asking:
    """A line that says what is done at the moment, and goes at the end; a context manager."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        if console := _console():
            self._status = self._stack.enter_context(console.status(""))
        self._live = console is not None
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, text: str) -> None:
        """Show what is done now."""
        if self._live:
            from rich.text import Text

            self._status.update(Text(text))
