"""The protected folder of one run, outside every data set. The steps of the run exchange files there.

`job` describes the files of every job. problems.txt has errors and warnings with values that logs must not contain.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import chain
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
    """Return False: the default of `cancelled` arguments."""
    return False


def now() -> str:
    """Return the current time, ISO 8601 with zone, to the second."""
    return dt.datetime.now().astimezone().isoformat(timespec="seconds")


def dag_run_name(dag_id: str, run_id: str) -> str:
    """Return the opaque name of a DAG run's folder. It is the same for all tasks, and reveals no text of a user."""
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
        """Return the run with an opaque name. Its folder is created if necessary.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            return cls(private_folder(settings.state_root() / "runs" / name))

    @classmethod
    def planned(cls, name: str) -> Run:
        """Return the run with an opaque name. Its folder need not exist, and nothing is written."""
        return cls(settings.state_root() / "runs" / name)

    @classmethod
    def existing(cls, name: str) -> Run | None:
        """Return the run with an opaque name; None if it has no folder. Nothing is written."""
        run = cls.planned(name)
        return run if run.folder.is_dir() else None

    @classmethod
    def fresh(cls) -> Run:
        """Return a new run with a unique name."""
        return cls.named(f"{dt.datetime.now():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}")

    @property
    def name(self) -> str:
        """Return the opaque id of the run."""
        return self.folder.name

    @property
    def report(self) -> Path:
        """Return the path of the HTML report."""
        return self.folder / "report.html"

    @property
    def quarantine(self) -> Path:
        """Return the folder for received objects that are not used."""
        return self.folder / "quarantine"

    @property
    def whole(self) -> Run:
        """Return the run that this one is a stage of, or this one."""
        above = self.folder.parent
        return Run(above.parent) if above.name == "stages" else self

    def part(self, kind: str, number: int | None = None) -> Path:
        """Return the path of `<kind>.jsonl`, or of `<kind>/<number>.jsonl`."""
        if number is None:
            return self.folder / f"{kind}.jsonl"
        return self.folder / kind / f"{number:05d}.jsonl"

    def write_part(self, kind: str, number: int | None, lines: Iterable[Any]) -> None:
        """Write the lines of a part (see `part`). Its folder is created if necessary."""
        path = self.part(kind, number)
        private_folder(path.parent)
        write_jsonl(path, lines)

    def append_to_part(self, kind: str, number: int | None, line: Any) -> None:
        """Append a line to an existing part (see `part`)."""
        append_jsonl(self.part(kind, number), line)

    def parts(self, kind: str) -> list[Path]:
        """Return the paths of the existing numbered parts of a kind, in order."""
        return sorted((self.folder / kind).glob("*.jsonl"))

    def forget(self, kinds: Iterable[str]) -> None:
        """Remove all files of these kinds, so that no result of an earlier attempt is counted."""
        for kind in kinds:
            for path in [*self.parts(kind), self.folder / f"{kind}.jsonl", self.folder / f"{kind}.json"]:
                path.unlink(missing_ok=True)

    def note(self, text: str) -> None:
        """Append a text to problems.txt. It may contain values that must not reach a log."""
        handle = private_handle(self.folder / "problems.txt", os.O_WRONLY | os.O_APPEND)
        # Names of files need not be valid UTF-8.
        with os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{now()} {text.rstrip()}\n")


def stage_folder(run: Run, stage: str) -> Path:
    """Return the path of the run folder of a stage of a larger run; it need not exist."""
    return run.folder / "stages" / f"{run.name}-{stage}"


def stages_in(run: Run) -> list[str]:
    """Return the names of the stages with a request, in the order of the requests."""
    requests = (run.folder / "stages").glob(f"{run.name}-*/request.json")
    ordered = sorted(requests, key=lambda path: path.stat().st_mtime_ns)
    return [path.parent.name.removeprefix(f"{run.name}-") for path in ordered]


def with_stages(run: Run) -> list[Run]:
    """Return a run, and the runs of its stages that have a request."""
    return [run, *(Run(stage_folder(run, stage)) for stage in stages_in(run))]


def kept_request(run: Run) -> dict[str, Any]:
    """Return the content of request.json of a run; empty where there is none, or it is damaged."""
    return _kept(run.folder / "request.json")


def _kept(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        if isinstance(kept := read_json(path), dict):
            return kept
    return {}


def kept_requests(run: str = "*") -> Iterator[dict[str, Any]]:
    """Yield the content of request.json of a run and of its stages; by default of all runs.

    Args:
        run: name of the run's folder.
    """
    runs = settings.state_root() / "runs"
    for path in chain(runs.glob(f"{run}/request.json"), runs.glob(f"{run}/stages/*/request.json")):
        if kept := _kept(path):
            yield kept


def stage_run(run: Run, stage: str) -> Run:
    """Return the run of a stage. Its folder is created if necessary.

    Raises:
        StorageError: the state root cannot be written.
    """
    with storage_errors("the state root"):
        return Run(private_folder(stage_folder(run, stage)))


@dataclass(frozen=True)
class KeptRequest:
    """Base of the requests of jobs: dataclasses with paths and plain values, which are kept in request.json."""

    def keep(self, run: Run) -> None:
        """Write request.json."""
        write_json(run.folder / "request.json", self.plain())

    def plain(self) -> dict[str, Any]:
        """Return its values, fit for JSON."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}

    @classmethod
    def of(cls, run: Run) -> Self:
        """Return the request of a run, from request.json."""
        values = read_json(run.folder / "request.json")
        kinds = {field.name: field.type for field in fields(cls)}
        return cls(**{key: Path(value) if kinds[key] == "Path" else value for key, value in values.items()})


def place_of(run: Run) -> str:
    """Return the folder that the job of a run puts its results into; empty: it has none, or no request yet."""
    with suppress(FileNotFoundError):
        request = read_json(run.folder / "request.json")
        return str(next(filter(None, map(request.get, ("out_directory", "out_folder"))), ""))
    return ""


@contextmanager
def noted_warnings(run: Run) -> Iterator[None]:
    """Write warnings to problems.txt instead of the log: warnings of pydicom quote values."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, kind, *where: run.note(f"{kind.__name__}: {message}")
        yield


#: Maximum number of units of a run: Airflow maps a task over at most 1,024 items, and each takes 0.2 s.
MOST = 500


def slices(count: int, most: int = MOST) -> list[range]:
    """Divide 0…count-1 into at most `most` consecutive ranges of equal size, the last of which may be shorter."""
    size = max(1, -(-count // most))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def in_units(count: int, most: int = MOST) -> list[range]:
    """Divide what a step works on into units, as `slices` does, but no more than the settings allow.

    Raises:
        ConfigError: the setting is wrong.
    """
    return slices(count, min(most, settings.most_tasks()))
