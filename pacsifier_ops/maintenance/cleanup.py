"""What runs leave behind and nobody needs any more, told by its age: the time since anything in it last changed.

| what            | where                                           | when it may go                                  |
|-----------------|-------------------------------------------------|-------------------------------------------------|
| run             | `runs/<id>/` of the state root                  | its books are closed, or UNFINISHED is over     |
| request         | `requests/<id>/` of the state root              | no run that is kept refers to it                |
| spool           | series, and unfinished files, in the spool      | nobody holds the series' lease                  |
| quarantine      | `.quarantine/` of the spool                     | where that is wanted                            |
| workplace       | `.pacsifier/incoming/<id>/` of output folders   | nobody holds its lease                          |
| submission      | `done/` and `rejected/` of the nightly runs     |                                                 |
| unfinished file | `trees/` of the state root                      |                                                 |
| lease           | `leases/` of the state root                     | nobody holds it                                 |

A run with objects in quarantine may go where that is wanted. Data sets, their ledgers and names, and what destinations
have confirmed are never touched.

Safe beside whatever runs, and to be killed: a folder is renamed before it is removed, so it is there or it is not.
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
from pacsifier_ops.state.leases import LeaseBusy, shared
from pacsifier_ops.state.tree import CONTROL, Tree

#: Days without any change after which a run that did not close its books has been given up: none waits so long.
UNFINISHED = 30.0

_DAY = 24 * 3600.0
#: Begins the name of what is being removed; a kill leaves it to the next time.
_GONE = ".gone-"


@dataclass(frozen=True)
class Leftover:
    """Something that may go.

    Attributes:
        kind: what it is, as in the table above.
        path: where; the names of series and of people's output folders are in it, so it is not for logs.
        place: the same without them.
        size: in bytes.
        changed: when anything in it last did, in seconds since the epoch.
        age: days since.
        lease: held while it is removed, so that nobody is at work there; empty where nobody could be.
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
    """What there is.

    Attributes:
        leftovers: what may go.
        unfinished: old runs that are kept since they did not close their books, and may go on.
        quarantined: old runs that are kept for what they have in quarantine.
    """

    leftovers: list[Leftover] = field(default_factory=list)
    unfinished: int = 0
    quarantined: int = 0


def find(days: float, quarantine: bool = False) -> Leftovers:
    """Find what may go. Changes nothing.

    Args:
        days: age from which on it may.
        quarantine: objects in quarantine may go as well.

    Raises:
        StorageError: a folder cannot be read.
    """
    with storage_errors("the state root, the spool, the nightly folder or an output folder"):
        return _Search(days, quarantine).found


def remove(leftover: Leftover) -> bool:
    """Remove something that was found; False if it has changed since, or somebody is at work there by now.

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
            path = leftover.path
            if not path.name.startswith(_GONE):
                path = path.rename(path.with_name(f"{_GONE}{path.name}"))
            try:
                shutil.rmtree(path)
            except RecursionError:  # up to Python 3.12
                raise StorageError(f"{leftover.place}: folders lie too deep in each other; remove it by hand") from None
        else:
            leftover.path.unlink()
    return True


class _Search:
    """One look at everything."""

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
        self._spool(spool)
        for folder in sorted(self._outputs):
            with suppress(OSError):  # it may be gone, or somebody else's by now
                self._workplaces(folder)
        for name in ("done", "rejected"):
            for path in _entries(nightly / name):
                self._add("submission", path)
        for path in _unfinished_files(state / "trees"):
            self._add("unfinished file", path)
        for path in self._leases.forgotten():
            self._add("lease", path)

    def _runs(self, folder: Path) -> None:
        for path in _entries(folder):
            requests = [_kept_of(part, "request.json") for part in (path, *_stages(path))]
            self._outputs |= {Path(request["out_directory"]) for request in requests if "out_directory" in request}
            run = self._look("run", path)
            if self._goes(run):
                self.found.leftovers.append(run)
            else:
                self._kept |= {Path(request.get("queryfile", "")).parent.name for request in requests}
                self._kept.add(_kept_of(path, "awaited.json").get("request", ""))

    def _goes(self, run: Leftover) -> bool:
        if not self._old(run):
            return False
        if run.path.name.startswith(_GONE):
            return True
        # Runs of nights and sensors have no books.
        asked = _kept_of(run.path, "request.json")
        closed = not asked.keys() & {"out_directory", "without"} or (run.path / "accounts.json").exists()
        if not closed and run.age < UNFINISHED:
            self.found.unfinished += 1
            return False
        apart = (part / "quarantine" for part in (run.path, *_stages(run.path)))
        if not self._quarantine and any(next(_entries(folder), None) for folder in apart):
            self.found.quarantined += 1
            return False
        return True

    def _spool(self, spool: Path) -> None:
        for path in _entries(spool):
            name = path.name.removeprefix(_GONE)
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
        """Something may go if it is old, and nobody is at work there."""
        leftover = self._look(kind, path, place, lease)
        if self._old(leftover) and not (lease and self._leases.holder(lease) is not None):
            self.found.leftovers.append(leftover)

    def _old(self, leftover: Leftover) -> bool:
        return leftover.age >= self._days or leftover.path.name.startswith(_GONE)

    def _look(self, kind: str, path: Path, place: str = "", lease: str = "") -> Leftover:
        size, changed = _measure(path)
        return Leftover(kind, path, place or str(path), size, changed, (self._now - changed) / _DAY, lease)


def _entries(folder: Path) -> Iterator[Path]:
    """What is in a folder, in order, links left out; nothing where it is not there."""
    with suppress(FileNotFoundError):
        yield from (path for path in sorted(folder.iterdir()) if not path.is_symlink())


def _stages(run: Path) -> Iterator[Path]:
    """The folders of the stages of a study's run."""
    return _entries(run / "stages")


def _measure(path: Path) -> tuple[int, float]:
    """Bytes of a file or of all files in a folder, and when any of it last changed."""
    size, changed = 0, 0.0
    for item in _all(path):
        with suppress(FileNotFoundError):
            status = item.lstat()
            changed = max(changed, status.st_mtime)
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return size, changed


def _all(path: Path) -> Iterator[Path]:
    """A path and what is below it."""
    yield path
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError, TreeError):
        yield from (Path(entry.path) for entry, _ in below(path))


def _kept_of(run: Path, name: str) -> dict[str, Any]:
    """What a run keeps under a name; empty where that is nothing."""
    with suppress(OSError, ValueError):
        kept: dict[str, Any] = read_json(run / name)
        return kept
    return {}


def _unfinished_files(folder: Path) -> Iterator[Path]:
    """Files of atomic writes that were killed (see `files`)."""
    return (path for path in _all(folder) if path.name.startswith(".") and path.suffix == ".part")
