"""The folder of one run: what its steps hand to each other, protected, outside every data set.

What every job keeps there is told in `job`. Whatever the run, problems.txt has the errors and warnings with the values
that logs must not hold.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from pacsifier_ops.base import settings
from pacsifier_ops.base.files import (
    append_jsonl,
    private_folder,
    private_handle,
    read_json,
    storage_errors,
    write_json,
    write_jsonl,
)


def never() -> bool:
    """Nobody asks to stop."""
    return False


def now() -> str:
    """The time now, ISO 8601 with zone, to the second."""
    return dt.datetime.now().astimezone().isoformat(timespec="seconds")


def dag_run_name(dag_id: str, run_id: str) -> str:
    """Opaque name of a DAG run's folder, the same for all its tasks; it tells nothing that a user typed."""
    return f"{dag_id}-{hashlib.sha256(run_id.encode()).hexdigest()[:16]}"


class Run:
    """A run's folder.

    Args:
        folder: `<state root>/runs/<id>`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def named(cls, name: str) -> Run:
        """The run of an opaque name, its folder made where needed.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            return cls(private_folder(settings.state_root() / "runs" / name))

    @classmethod
    def existing(cls, name: str) -> Run | None:
        """The run of an opaque name; None if it has no folder (yet). Writes nothing."""
        folder = settings.state_root() / "runs" / name
        return cls(folder) if folder.is_dir() else None

    @classmethod
    def fresh(cls) -> Run:
        """A run with a name of its own."""
        return cls.named(f"{dt.datetime.now():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}")

    @property
    def name(self) -> str:
        """Opaque id of the run."""
        return self.folder.name

    @property
    def report(self) -> Path:
        """Where the HTML report lies."""
        return self.folder / "report.html"

    @property
    def quarantine(self) -> Path:
        """Folder for what arrived and is not used."""
        return self.folder / "quarantine"

    def part(self, kind: str, number: int | None = None) -> Path:
        """Path of `<kind>.jsonl`, or of `<kind>/<number>.jsonl`."""
        if number is None:
            return self.folder / f"{kind}.jsonl"
        return self.folder / kind / f"{number:05d}.jsonl"

    def write_part(self, kind: str, number: int | None, lines: Iterable[Any]) -> None:
        """Write the lines of a part (see `part`), its folder made where needed."""
        path = self.part(kind, number)
        private_folder(path.parent)
        write_jsonl(path, lines)

    def append_to_part(self, kind: str, number: int | None, line: Any) -> None:
        """Append a line to an existing part (see `part`)."""
        append_jsonl(self.part(kind, number), line)

    def parts(self, kind: str) -> list[Path]:
        """The existing numbered parts of a kind, in order."""
        return sorted((self.folder / kind).glob("*.jsonl"))

    def forget(self, kinds: Iterable[str]) -> None:
        """Remove what an earlier attempt of a step left, so that nothing stale is counted."""
        for kind in kinds:
            for path in [*self.parts(kind), self.folder / f"{kind}.jsonl", self.folder / f"{kind}.json"]:
                path.unlink(missing_ok=True)

    def note(self, text: str) -> None:
        """Append to problems.txt what may hold values and therefore must not reach a log."""
        handle = private_handle(self.folder / "problems.txt", os.O_WRONLY | os.O_APPEND)
        with os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace") as stream:  # names of files
            stream.write(f"{now()} {text.rstrip()}\n")


def stage_folder(run: Run, stage: str) -> Path:
    """Return where the run folder of a stage of a larger run is, or would be."""
    return run.folder / "stages" / f"{run.name}-{stage}"


def stages_in(run: Run) -> list[str]:
    """Return the names of the stages that have a run folder, in the order in which they were asked for."""
    found = (run.folder / "stages").glob(f"{run.name}-*/request.json")
    asked = sorted(found, key=lambda path: path.stat().st_mtime_ns)
    return [path.parent.name.removeprefix(f"{run.name}-") for path in asked]


def stage_run(run: Run, stage: str) -> Run:
    """Return the run of a stage, its folder made where needed.

    Raises:
        StorageError: the state root cannot be written.
    """
    with storage_errors("the state root"):
        return Run(private_folder(stage_folder(run, stage)))


@dataclass(frozen=True)
class Kept:
    """Base of a dataclass that is kept as a run's request.json. Its fields are paths and plain values."""

    def keep(self, run: Run) -> None:
        """Write it into the run's folder."""
        values = {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}
        write_json(run.folder / "request.json", values)

    @classmethod
    def of(cls, run: Run) -> Self:
        """Read the one that the run keeps."""
        values = read_json(run.folder / "request.json")
        kinds = {field.name: field.type for field in fields(cls)}
        return cls(**{key: Path(value) if kinds[key] == "Path" else value for key, value in values.items()})


@contextmanager
def noted_warnings(run: Run) -> Iterator[None]:
    """Write warnings to the run's problems.txt: those of pydicom quote values."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, kind, *where: run.note(f"{kind.__name__}: {message}")
        yield


#: Batches of rows, or units of series, at most: Airflow maps over no more than 1,024 items, and each costs 0.2 s.
MOST = 500


def slices(count: int, most: int = MOST) -> list[range]:
    """Cut 0…count-1 into at most `most` consecutive ranges of equal size, of one each while there are few."""
    size = max(1, -(-count // most))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
