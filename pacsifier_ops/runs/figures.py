"""Figures of ended runs for monitoring: counts that never fall, and what stands of each data set. No patient data.

| file of the state root                       | content                                                    |
|----------------------------------------------|------------------------------------------------------------|
| figures.json in the folder of a run or stage | its figures; its last step writes them                     |
| figures.json                                 | the counts of runs whose folders were removed since        |

Whoever reads them adds up small files. A file that has not changed is not read again.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.files import read_json, storage_errors, write_json
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import shared

_FILE = "figures.json"
#: Counts of runs: their labels, and what they are.
COUNTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "pacsifier_runs": (("action", "verdict"), "Jobs that ended, those that are stages of a study too."),
    "pacsifier_rows": (("pacs", "state"), "Rows of query tables, by what became of them."),
    "pacsifier_series": (("pacs", "action", "state"), "Series, by what became of them."),
    "pacsifier_images": (("pacs", "action", "state"), "Images, by what became of them."),
    "pacsifier_transferred_bytes": (("pacs", "action"), "Bytes of images that were received or sent."),
    "pacsifier_transfer_seconds": (("pacs", "action"), "Time spent on series, several at once counted each."),
    "pacsifier_failures": (
        ("pacs", "action", "status"),
        "Failed rows and series, by DIMSE status (none: without).",
    ),
}
#: What stands at the end of the last run of a data set.
STANDING: Mapping[str, tuple[tuple[str, ...], str]] = {
    "pacsifier_dataset_objects": (("outcome",), "Objects of de-identified data sets, by their outcome."),
    "pacsifier_quarantined_objects": (("job", "reason"), "Objects in quarantine, by reason."),
}
#: A DIMSE status in the text of a reason, where all of ours have it.
NO_STATUS = "none"
_STATUS = re.compile(r"\b0x([0-9A-F]{4})\b")

#: A name of COUNTS or STANDING, and the values of its labels.
Key = tuple[str, ...]


@dataclass
class Figures:
    """Figures of one run, or of many.

    Attributes:
        counts: numbers by key.
        standing: numbers by key.
        data_set: opaque id of the data set that `standing` is of; empty: the run's own.
    """

    counts: Counter[Key] = field(default_factory=Counter)
    standing: Counter[Key] = field(default_factory=Counter)
    data_set: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        lines = {name: [[*key, value] for key, value in vars(self)[name].items()] for name in ("counts", "standing")}
        return {**lines, "data_set": self.data_set}

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> Figures:
        """Return figures from plain data. What this version does not know is left out."""
        counts = {tuple(key): value for *key, value in kept["counts"] if _known(key, value, COUNTS)}
        standing = {tuple(key): value for *key, value in kept["standing"] if _known(key, value, STANDING)}
        return cls(Counter(counts), Counter(standing), kept["data_set"])


def _known(key: list[str], value: object, among: Mapping[str, tuple[tuple[str, ...], str]]) -> bool:
    name = key[0] if key else ""
    return name in among and len(key) == 1 + len(among[name][0]) and isinstance(value, int | float)


def status_of(reason: str) -> str:
    """Return the DIMSE status that a reason names, such as A702 (PS3.7 C); NO_STATUS: it names none."""
    found = _STATUS.search(reason)
    return found[1] if found else NO_STATUS


def keep(run: Run, figures: Figures) -> None:
    """Write the figures of a run. Counts of an earlier attempt do not fall.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    before = _read(run.folder / _FILE)
    with storage_errors("the state root"):
        counts = figures.counts | before.counts  # the larger one of each
        write_json(run.folder / _FILE, Figures(counts, figures.standing, figures.data_set).as_json())


def outlive(run: Run) -> None:
    """Add the counts of a run to those of removed runs, and remove its figures. Called again, nothing changes.

    The name is free then: a run that begins anew under it, as where a night starts it again, counts as another one.

    Raises:
        StorageError: the state root cannot be written.
    """
    path = settings.state_root() / _FILE
    with shared().acquire("figures"), storage_errors("the state root"):
        total, names = _removed()
        parts = [Path(part) for part in _parts(str(run.folder))]
        if run.name not in names:
            for part in parts:
                total.counts.update(_read(part).counts)
            # Until its figures are gone, the name says that they are counted: a kill may come in between.
            write_json(path, {**total.as_json(), "names": [*names, run.name]})
        for part in parts:
            part.unlink(missing_ok=True)
        left = [name for name in names if name != run.name and (run.folder.parent / name).exists()]
        write_json(path, {**total.as_json(), "names": left})


def _removed() -> tuple[Figures, list[str]]:
    """Return the counts of removed runs, and the names of those among them whose figures may still be there."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = read_json(settings.state_root() / _FILE)
        return Figures.of_json(kept), list(kept["names"])
    return Figures(), []


class Sum:
    """Adds up the figures of all runs. It keeps what it has read, and the sum while nothing changes. Thread-safe."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[tuple[int, int], Figures]] = {}
        self._total, self._seen = Figures(), Figures()
        self._lock = threading.Lock()

    def look(self) -> Figures:
        """Return the figures of all runs that have ended, removed ones included."""
        with self._lock:
            removed, names = _removed()
            seen = {path: self._of(path, state) for path, state in _states(set(names))}
            if any(seen[path] is not self._read.get(path) for path in seen) or len(seen) != len(self._read):
                self._total = _added_up(seen)
            self._read = seen
            # Where runs are removed at this moment, some may be neither here nor there, and counts must not fall.
            if _removed() == (removed, names) or not self._seen.counts:
                self._seen = Figures(removed.counts + self._total.counts, Counter(self._total.standing))
            return Figures(self._seen.counts.copy(), self._seen.standing.copy())

    def _of(self, path: str, state: tuple[int, int]) -> tuple[tuple[int, int], Figures]:
        known = self._read.get(path)
        return known if known and known[0] == state else (state, _read(Path(path)))


def _added_up(parts: Mapping[str, tuple[tuple[int, int], Figures]]) -> Figures:
    """Return the sum of the figures of all runs: of what stands of a data set, only the last."""
    total = Figures()
    last: dict[str, tuple[tuple[int, int], Figures]] = {}
    for path, (state, figures) in parts.items():
        total.counts.update(figures.counts)
        of = figures.data_set or path
        if of not in last or last[of][0] < state:
            last[of] = state, figures
    for _, figures in last.values():
        total.standing.update(figures.standing)
    return total


def _states(removed: Collection[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the files of all runs, but of those that are counted as removed, with modification time (ns) and size."""
    with suppress(FileNotFoundError), os.scandir(settings.state_root() / "runs") as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name not in removed:
                for path in _parts(entry.path):
                    with suppress(OSError):
                        status = os.stat(path)
                        yield path, (status.st_mtime_ns, status.st_size)


def _parts(folder: str) -> Iterator[str]:
    """Yield the files of a run and its stages; they need not exist."""
    yield f"{folder}/{_FILE}"
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{folder}/stages") as entries:
        for entry in entries:
            yield f"{entry.path}/{_FILE}"


def _read(path: Path) -> Figures:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Figures.of_json(read_json(path))
    return Figures()
