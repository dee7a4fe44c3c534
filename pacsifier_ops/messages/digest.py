"""The message on a night: what became of each standing project and each table of the inbox. See `nightly`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import read_json
from pacsifier_ops.base.telling import DIGEST, FAILED, recipients
from pacsifier_ops.messages import Message
from pacsifier_ops.messages.text import GOES_ON, NOTHING_NEW, WAITS
from pacsifier_ops.nightly import EXTRACT, REASONS, STUDY
from pacsifier_ops.nightly.projects import SLUG, STUDY_FILE
from pacsifier_ops.runs.accounts import COMPLETE, UNBALANCED
from pacsifier_ops.runs.folder import Run, dag_run_name, stage_folder
from pacsifier_ops.runs.job import summary_of
from pacsifier_ops.study.run import EXTRACT as FETCHING

NIGHTLY = "pacsifier_nightly"


class States(Protocol):
    """What Airflow knows of runs."""

    def state(self, dag_id: str, run_id: str) -> str:
        """Return `going on`, `success` or `failed`; empty: there is no such run."""


@dataclass(frozen=True)
class NightRun:
    """A run of a night: its name for people, its DAG and its id."""

    name: str
    dag_id: str
    run_id: str


def due(night: str, at: dt.time) -> dt.datetime:
    """Return when the message on a night is to be made.

    Args:
        night: date of the evening.
        at: time of the setting `digest`.

    Raises:
        ConfigError: the setting `timezone` is not a time zone.
    """
    morning = dt.date.fromisoformat(night) + dt.timedelta(days=1)
    return dt.datetime.combine(morning, at, settings.timezone()).astimezone()


def of_night(night: str, made: str, states: States, asking: Collection[tuple[str, str]]) -> list[Message]:
    """Return the messages on a night, one for each recipient; none where nothing was to run.

    The recipients of the nightly DAG get all of it, those of other DAGs and of runs only what they are named for.

    Args:
        night: date of the evening.
        made: time of the message, ISO 8601.
        asking: DAG and id of the runs with an open question.

    Raises:
        OSError: a folder of the nightly runs cannot be read.
        ConfigError: a setting is wrong.
    """
    everybody = settings.tell(NIGHTLY)
    runs: dict[str, list[Mapping[str, Any]]] = {one: [] for one in everybody}
    found = False
    for run in runs_of(night):
        if not (state := states.state(run.dag_id, run.run_id)):
            continue
        found = True
        line, named = _line(run, state, (run.dag_id, run.run_id) in asking)
        for one in dict.fromkeys((*everybody, *settings.tell(run.dag_id), *named)):
            runs.setdefault(one, []).append(line)
    unusable = _unusable(night)
    if not (found or unusable):
        return []
    return [
        Message(DIGEST, NIGHTLY, night, when=made, to=one, runs=lines, unusable=unusable if one in everybody else 0)
        for one, lines in runs.items()
    ]


def runs_of(night: str) -> Iterator[NightRun]:
    """Yield the runs that a night may have started. Files that users may change are not read."""
    root = settings.nightly()
    for folder in _folders(root / "projects"):
        if SLUG.fullmatch(folder.name):
            dag_id = STUDY if (folder / STUDY_FILE).is_file() else EXTRACT
            yield NightRun(folder.name, dag_id, f"nightly__{night}__{folder.name}")
    for folder in _folders(root / "done"):
        if folder.name.startswith(f"{night}-"):
            identity = folder.name.removeprefix(f"{night}-")
            yield NightRun(identity, EXTRACT, f"nightly__{identity}")


def _line(run: NightRun, state: str, asks: bool) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return what the message says of a run, and the recipients that the run names."""
    folder = Run.planned(dag_run_name(run.dag_id, run.run_id))
    summary = {} if state == "going on" else summary_of(folder)
    counts = summary.get("totals", {})
    verdict = str(summary.get("verdict", FAILED))
    if state == "going on":
        verdict = WAITS if asks else GOES_ON
    elif verdict == UNBALANCED or (verdict == COMPLETE and state == "failed"):
        verdict = FAILED
    elif verdict == COMPLETE and not _received(folder, run.dag_id):
        verdict = NOTHING_NEW
    said = {name: count for name, count in counts.items() if name in ("received", "missing", "quarantined") and count}
    line = {"name": run.name, "dag_id": run.dag_id, "run_id": run.run_id, "state": verdict, "counts": said}
    with suppress(FileNotFoundError, ValueError, ConfigError):
        return line, recipients(str(read_json(folder.folder / "request.json").get("tell", "")), "tell")
    return line, ()


def _received(run: Run, dag_id: str) -> int:
    """Return how many images an extraction has received, or that of a study; 1 if nobody counted."""
    fetched = Run(stage_folder(run, FETCHING)) if dag_id == STUDY else run
    return int(summary_of(fetched).get("totals", {}).get("received", 1))


def _unusable(night: str) -> int:
    """Return how many projects and submissions could not be used."""
    root = settings.nightly()
    rejected = [folder for folder in _folders(root / "rejected") if folder.name.startswith(f"{night}-")]
    return len(rejected) + sum((folder / REASONS).is_file() for folder in _folders(root / "projects"))


def _folders(root: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink()]
    return []
