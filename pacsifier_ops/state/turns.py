"""Turns: which run a free association with a PACS goes to, and what is known of the runs that share one.

Below the state root, for each PACS:

| file                     | content                                                                              |
|--------------------------|--------------------------------------------------------------------------------------|
| turns/<hash>/<run>.json  | a run that works at the PACS, see `Line.enter`                                       |
| turns/<hash>.rate        | the measured rate of the PACS, see `Rate`                                            |

The file `turns` in a run's folder has one byte for each series that the PACS has worked for: its size is their number.

This module imports nothing heavy: Airflow imports it during its start.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.files import private_folder, private_handle, read_json, storage_errors, write_json

#: Values of `urgency`.
URGENT, NORMAL, BULK = "urgent", "normal", "bulk"
#: A bulk run stands where a normal one stands that has transferred so many series before, and so many for each of its
#: series: it waits for small runs, and takes one turn where a large one takes ten.
_BULK_START, _BULK_STEP = 1024, 10
#: Seconds of waiting in the line of the leases after which a turn comes before all others, whatever its run.
PATIENCE = 3600.0


@dataclass(frozen=True)
class Place:
    """Where a run stands among others at a PACS: least attained service first.

    Attributes:
        urgency: URGENT, NORMAL or BULK.
        done: number of series that the PACS has worked for.
    """

    urgency: str = NORMAL
    done: int = 0

    @property
    def position(self) -> int:
        """Return the number by which runs of one class are ordered; the smallest is first."""
        return _BULK_START + _BULK_STEP * self.done if self.urgency == BULK else self.done

    @property
    def key(self) -> tuple[int, int]:
        """Return the key by which turns are ordered; the smallest is first.

        Positions count by powers of two. So two large runs that are about as far do not interrupt each other after
        every series: one overtakes the other when it has done half as much.
        """
        return (self.urgency != URGENT, self.position.bit_length())

    def key_after(self, waited: float) -> tuple[int, int]:
        """Return the key of somebody who has waited for a number of seconds: after PATIENCE nobody is before them."""
        return (-1, 0) if waited >= PATIENCE else self.key


def place_of(folder: Path, urgency: str) -> Place:
    """Return the place of a run.

    Args:
        folder: its folder.
    """
    with suppress(FileNotFoundError):
        return Place(urgency, (folder / "turns").stat().st_size)
    return Place(urgency)


def count_turn(folder: Path) -> None:
    """Count a series that the PACS has worked for in the run with this folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storage_errors("the state root"):
        handle = private_handle(folder / "turns", os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, b".")
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Rate:
    """The measured rate of one association with a PACS, of its last series: of older ones less and less.

    Attributes:
        series, images, bytes, seconds: sums in which every series counts FADING times the next one.
    """

    series: float = 0.0
    images: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0

    FADING = 0.95

    def with_series(self, images: int, size: int, seconds: float) -> Rate:
        """Return the rate with one more series.

        Args:
            images, size: that were transferred; in bytes.
            seconds: that it took, without the wait for an association.
        """
        old = (self.series, self.images, self.bytes, self.seconds)
        new = (1, images, size, seconds)
        return Rate(*(self.FADING * a + b for a, b in zip(old, new, strict=True)))

    def seconds_for(self, series: int, images: int) -> float | None:
        """Return how long one association takes for so many series and images; None: nothing was measured.

        Args:
            images: 0: unknown.
        """
        if images and self.images:
            return self.seconds * images / self.images
        return self.seconds * series / self.series if self.series else None


@dataclass(frozen=True)
class Entry:
    """A run that works at a PACS.

    Attributes:
        folder: path of its folder.
        pacs: name of the PACS in that run.
        urgency: see `Place`.
        dag_id, run_id: of its DAG run.
        task_ids: of its tasks that work at the PACS.
    """

    folder: str
    pacs: str
    urgency: str
    dag_id: str
    run_id: str
    task_ids: list[str]

    @property
    def path(self) -> Path:
        """Return the path of the folder."""
        return Path(self.folder)

    @property
    def place(self) -> Place:
        """Return the place of the run."""
        return place_of(self.path, self.urgency)


class Line:
    """What is known of the runs at one PACS.

    Args:
        key: see `PacsNode.key`.
    """

    def __init__(self, key: str) -> None:
        self._folder = _root() / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    @classmethod
    def of_run(cls, run: str) -> list[Line]:
        """Return the lines that a run has entered."""
        lines = []
        for path in sorted(_root().glob(f"*/{run}.json")):
            line = cls.__new__(cls)
            line._folder = path.parent
            lines.append(line)
        return lines

    def enter(self, run: str, entry: Entry) -> None:
        """Keep that a run works here, until it leaves.

        Args:
            run: name of the run's folder.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            write_json(private_folder(self._folder) / f"{run}.json", asdict(entry))

    def leave(self, run: str) -> None:
        """Forget a run. Harmless when repeated.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            (self._folder / f"{run}.json").unlink(missing_ok=True)

    def entries(self) -> dict[str, Entry]:
        """Return the runs that have entered, by name."""
        return {path.stem: entry for path in self._paths() if (entry := _entry(path)) is not None}

    def transfers(self, run: str) -> bool:
        """Return whether a run transfers images here, and does not only ask what there is."""
        entry = _entry(self._folder / f"{run}.json")
        return entry is not None and any(task.rpartition(".")[2] != "find" for task in entry.task_ids)

    def _paths(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            yield from (path for path in sorted(self._folder.iterdir()) if path.suffix == ".json")

    @property
    def rate(self) -> Rate:
        """Return the measured rate."""
        values = _json_of(self._folder.with_suffix(".rate"))
        try:
            return Rate(**values)
        except TypeError:
            return Rate()

    def measured(self, images: int, size: int, seconds: float) -> None:
        """Keep what a series took, see `Rate.with_series`. Of two at the same moment, one may get lost.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            private_folder(_root())
            write_json(self._folder.with_suffix(".rate"), asdict(self.rate.with_series(images, size, seconds)))


def _root() -> Path:
    return settings.state_root() / "turns"


def _entry(path: Path) -> Entry | None:
    """Return an entry; None for one that another version has written, or that was removed."""
    try:
        return Entry(**_json_of(path))
    except TypeError:
        return None


def _json_of(path: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        content: Mapping[str, Any] = read_json(path)
        return content
    return {}
