"""Why tasks of a run failed: the sentence of each error, for the page of the run.

The sentences are those that logs have as well, and hold no values (see `base.errors`). They are lines of failures.jsonl
in the run's folder.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pacsifier_ops.base.files import append_jsonl, read_appended
from pacsifier_ops.runs.folder import Run

#: A task, its map index (-1: it is not mapped), and the number of the try.
Try = tuple[str, int, int]


def keep(run: Run, which: Try, sentence: str) -> None:
    """Keep why a try failed. Where the run's folder cannot be written, only the log has it."""
    with suppress(OSError):
        append_jsonl(_path(run), [*which, sentence.encode(errors="replace").decode()])


def sentences(run: Run) -> dict[Try, str]:
    """Return the sentence of each try that failed."""
    with suppress(FileNotFoundError):
        return {(task, index, number): text for task, index, number, text in read_appended(_path(run))}
    return {}


def _path(run: Run) -> Path:
    return run.folder / "failures.jsonl"
