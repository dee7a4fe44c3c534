"""Removes leftovers of runs by their age: the time since the last change of any of their files.

| leftover        | place                                           | condition                                       |
|-----------------|-------------------------------------------------|-------------------------------------------------|
| run             | `runs/<id>/` of the state root                  | it has its final account, or is UNFINISHED old  |
| request         | `requests/<id>/` of the state root              | no remaining run refers to it                   |
| cancellation    | `cancelled/` of the state root                  | its run is gone                                 |
| message         | `messages/` of the state root                   |                                                 |
| spool           | series, and incomplete files, in the spool      | the lease of the series has no holder           |
| quarantine      | `.quarantine/` of the spool                     | only on request                                 |
| workplace       | `.pacsifier/incoming/<id>/` of output folders   | its lease has no holder                         |
| submission      | `done/` and `rejected/` of the nightly runs     |                                                 |
| unfinished file | `trees/` of the state root                      |                                                 |
| facts           | `trees/<id>/facts/` of the state root           | none: the files are read again                  |
| lease           | `leases/` of the state root                     | it has no holder                                |
| turn            | `turns/` of the state root                      | its run is gone                                 |

A run with objects in quarantine is removed only on request. Data sets, their ledgers and names, and records of
deliveries are never changed.

It is safe to run beside other processes, and to kill: a folder is renamed before it is removed, so it is complete or
absent.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import StorageError, TreeError
from pacsifier_ops.base.files import below, read_json, storage_errors
from pacsifier_ops.dimse.receiver import INCOMING, QUARANTINE, is_series
from pacsifier_ops.extract.receiving import series_lease
from pacsifier_ops.messages.outbox import folders as messages
from pacsifier_ops.runs import figures
from pacsifier_ops.runs.approvals import CANCELLATIONS
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.facts import FACTS
from pacsifier_ops.state.leases import LeaseBusy, shared
from pacsifier_ops.state.tree import CONTROL, Tree

#: Age in days after which a run without a final account counts as abandoned. No run waits for so long.
UNFINISHED = 30.0

_DAY = 24 * 3600.0
#: Prefix of names during removal; the next cleanup removes what a kill left.
_REMOVING = ".gone-"


@dataclass(frozen=True)
class Leftover:
    """A leftover that may be removed.

    Attributes:
        kind: the kind, as in the table above.
        path: its path; it contains names of series and of users' output folders, so it must not be logged.
        place: the path without these names.
        size: size in bytes.
        changed: time of the last change of any of its files, in seconds since the epoch.
        age: age in days.
        lease: name of the lease to hold during removal, so that no process works there; empty: no process uses it.
    """

    kind: str
    path: Path
    place: str
    size: int
    changed: float
    age: float
    lease: str = ""


@dataclass
class Leftovers:
    """The result of a search.

    Attributes:
        leftovers: leftovers that may be removed.
        unfinished: number of old runs that stay because they have no final account and may continue.
        quarantined: number of old runs that stay because of objects in quarantine.
    """

    leftovers: list[Leftover] = field(default_factory=list)
    unfinished: int = 0
    quarantined: int = 0


def find(days: float, quarantine: bool = False) -> Leftovers:
    """Find leftovers. Changes nothing.

    Args:
        days: minimum age in days.
        quarantine: include objects in quarantine.

    Raises:
        StorageError: a folder cannot be read.
    """
    with storage_errors("the state root, the spool, the nightly folder or an output folder"):
        return _Search(days, quarantine).found


def remove(leftover: Leftover) -> bool:
    """Remove a leftover. Return False if it has changed since, or a process works there by now.

    Raises:
        StorageError: it cannot be removed.
    """
    leases = shared()
    with storage_errors(leftover.place), suppress(FileNotFoundError), ExitStack() as stack:
        if leftover.lease:
            try:
                stack.enter_context(leases.acquire(leftover.lease, wait=0))
            except LeaseBusy:
                return False
        if _measure(leftover.path)[1] != leftover.changed:
            return False
        if leftover.path.parent == leases.root:
            leases.forget(leftover.path)
        elif leftover.path.is_dir():
            if leftover.kind == "run" and not leftover.path.name.startswith(_REMOVING):
                remove_run(Run(leftover.path), leftover.place)
            else:
                remove_folder(leftover.path, leftover.place)
        else:
            leftover.path.unlink()
    return True


def remove_run(run: Run, place: str) -> None:
    """Remove the folder of a run. Its counts stay in those of all runs.

    Args, Raises:
        See `remove_folder`.
    """
    figures.outlive(run)
    remove_folder(run.folder, place)


def remove_folder(path: Path, place: str) -> None:
    """Remove a folder. It is renamed first, so it is complete or absent; the next cleanup removes what a kill leaves.

    Args:
        place: the path without names, for errors.

    Raises:
        OSError: it cannot be removed.
        StorageError: its folders are nested too deeply.
    """
    if not path.name.startswith(_REMOVING):
        path = path.rename(path.with_name(f"{_REMOVING}{path.name}"))
    try:
        shutil.rmtree(path)
    except RecursionError:  # up to Python 3.12
        raise StorageError(f"{place}: its folders are nested too deeply; remove it by hand") from None


class _Search:
    """One search through all folders."""

    def __init__(self, days: float, quarantine: bool) -> None:
        self.found = Leftovers()
        self._days, self._quarantine, self._leases = days, quarantine, shared()
        self._now = self._leases.now()
        self._kept: set[str] = set()
        self._outputs: set[Path] = set()
        state, spool, nightly = settings.state_root(), settings.spool(), settings.nightly()
        self._runs(state / "runs")
        for path in _entries(state / "requests"):
            if path.name not in self._kept and not (nightly / "claimed" / path.name).exists():
                self._add("request", path)
        for path in _entries(state / CANCELLATIONS):
            if not (state / "runs" / path.stem).exists():
                self._add("cancellation", path)
        for folder in messages():
            for path in _entries(folder):
                self._add("message", path)
        self._spool(spool)
        for folder in sorted(self._outputs):
            with suppress(OSError):  # it may be removed, or replaced by another user's folder
                self._workplaces(folder)
        for name in ("done", "rejected"):
            for path in _entries(nightly / name):
                self._add("submission", path)
        for path in _unfinished_files(state / "trees"):
            self._add("unfinished file", path)
        for path in sorted((state / "trees").glob(f"*/{FACTS}/**/*")):
            if path.is_file():
                self._add("facts", path)
        for path in sorted((state / "turns").glob("*/*.json")):
            if not Path(_json_of(path.parent, path.name).get("folder", "")).is_dir():
                self._add("turn", path)
        for path in self._leases.forgotten():
            self._add("lease", path)

    def _runs(self, folder: Path) -> None:
        for path in _entries(folder):
            requests = [_json_of(part, "request.json") for part in (path, *_stages(path))]
            self._outputs |= {Path(request["out_directory"]) for request in requests if "out_directory" in request}
            run = self._look("run", path)
            if self._is_removable(run):
                self.found.leftovers.append(run)
            else:
                self._kept |= {Path(request.get("queryfile", "")).parent.name for request in requests}
                self._kept.add(_json_of(path, "awaited.json").get("request", ""))

    def _is_removable(self, run: Leftover) -> bool:
        if not self._is_old(run):
            return False
        if run.path.name.startswith(_REMOVING):
            return True
        # A run of a DAG of the user has no request of its own, only those of its jobs.
        parts = [run.path] if (run.path / "request.json").exists() else [*_stages(run.path)]
        if not all(map(_is_closed, parts)) and run.age < UNFINISHED:
            self.found.unfinished += 1
            return False
        quarantines = (part / "quarantine" for part in (run.path, *_stages(run.path)))
        if not self._quarantine and any(next(_entries(folder), None) for folder in quarantines):
            self.found.quarantined += 1
            return False
        return True

    def _spool(self, spool: Path) -> None:
        for path in _entries(spool):
            name = path.name.removeprefix(_REMOVING)
            if is_series(name):
                self._add("spool", path, f"{spool}/a series", series_lease(name))
        for folder in _entries(spool / INCOMING):
            for path in _entries(folder):
                self._add("spool", path, f"{folder}/a file")
        if self._quarantine:
            for path in _entries(spool / QUARANTINE):
                self._add("quarantine", path, f"{spool}/{QUARANTINE}/a series")

    def _workplaces(self, output: Path) -> None:
        if (tree := Tree.existing(output)) is None:
            return
        for path in _entries(tree.incoming):
            place = f"an output folder/{CONTROL}/incoming/{path.name}"
            self._add("workplace", path, place, tree.workplace_lease(path))

    def _add(self, kind: str, path: Path, place: str = "", lease: str = "") -> None:
        """Add a leftover if it is old, and no process works there."""
        leftover = self._look(kind, path, place, lease)
        if self._is_old(leftover) and not (lease and self._leases.holder(lease) is not None):
            self.found.leftovers.append(leftover)

    def _is_old(self, leftover: Leftover) -> bool:
        return leftover.age >= self._days or leftover.path.name.startswith(_REMOVING)

    def _look(self, kind: str, path: Path, place: str = "", lease: str = "") -> Leftover:
        size, changed = _measure(path)
        return Leftover(kind, path, place or str(path), size, changed, (self._now - changed) / _DAY, lease)


def _entries(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder in order, without links; none if it does not exist."""
    with suppress(FileNotFoundError):
        yield from (path for path in sorted(folder.iterdir()) if not path.is_symlink())


def _is_closed(run: Path) -> bool:
    """Return whether a run has its final account. Runs of nights and sensors need none."""
    request = _json_of(run, "request.json")
    return not request.keys() & {"out_directory", "without"} or (run / "accounts.json").exists()


def _stages(run: Path) -> Iterator[Path]:
    """Yield the folders of the stages of a study's run."""
    return _entries(run / "stages")


def _measure(path: Path) -> tuple[int, float]:
    """Return the size of a file, or of all files in a folder, in bytes, and the time of the last change."""
    size, changed = 0, 0.0
    for item in _all(path):
        with suppress(FileNotFoundError):
            status = item.lstat()
            changed = max(changed, status.st_mtime)
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return size, changed


def _all(path: Path) -> Iterator[Path]:
    """Yield a path and all paths below it."""
    yield path
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError, TreeError):
        yield from (Path(entry.path) for entry, _ in below(path))


def _json_of(run: Path, name: str) -> dict[str, Any]:
    """Return a JSON file of a run; empty if it is missing or invalid."""
    with suppress(OSError, ValueError):
        content: dict[str, Any] = read_json(run / name)
        return content
    return {}


def _unfinished_files(folder: Path) -> Iterator[Path]:
    """Return temporary files of atomic writes that were killed (see `files`)."""
    return (path for path in _all(folder) if path.name.startswith(".") and path.suffix == ".part")
