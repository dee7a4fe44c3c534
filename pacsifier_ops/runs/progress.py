"""How far a run has come, read off its folder while others write there: counts only, nothing that identifies anybody.

Cheap enough to be asked every few seconds: what a step has written to its end is read once, so that a look at a
cohort of 100,000 series costs a thousand calls of `stat`, and reading the units that are being worked on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from pacsifier_ops.base.files import json_line
from pacsifier_ops.runs.accounts import IMAGES, ROW_BAD
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import COUNTED, ITEM, expected

#: State of a row or a series that has no other one yet.
WAITING = "waiting"
#: State of a row that asks the same as an earlier one, which answers for it.
REPEATED = "repeated"

#: What becomes of images in a de-identification, by the name that it is counted under.
DEIDENTIFICATION = {"deidentified": "de-identified", "excluded": "excluded", "in_quarantine": "in quarantine"}
#: What becomes of images that are tagged for a gateway; whatever could not be is a problem.
TAGGED, UNCHANGED, NOT_TAGGED = "tagged", "unchanged", "not tagged"
#: State of a part of the work that is not waiting.
DONE = "done"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        rows: rows of the query table by state; empty where there is none.
        series: series by state; before the run has a plan, those found so far are waiting.
        planned: whether the number of series is final.
        expected: images of the cohort, as far as the archive told before they were fetched.
        images: images so far, by present, received, missing, unverifiable, quarantined; in a de-identification, or
            where they are tagged, by what became of them as well.
        bytes: bytes received or sent so far, of series that ended.
        seconds: seconds that series which ended took, summed up, though several may have gone side by side.
        parts: parts of the work by done and waiting, where neither rows nor series are counted.
        left_out: series that a selection leaves out, by reason; until there is a plan, once for each row.
    """

    rows: dict[str, int] = field(default_factory=dict)
    series: dict[str, int] = field(default_factory=dict)
    planned: bool = False
    expected: int = 0
    images: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    parts: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_per_second(self) -> float:
        """Average rate of one association so far; 0 where nothing has arrived yet."""
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def megabytes_per_second(self) -> float:
        """The same in MB/s (10**6 bytes)."""
        return round(self.bytes_per_second / 1e6, 3)

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "seconds": round(self.seconds, 1), "megabytes_per_second": self.megabytes_per_second}


def progress_of(run: Run) -> Progress:
    """Where a run stands, whatever it has written so far."""
    found, results, whole = _sum(_parts(run, "found")), _sum(_parts(run, "results")), expected(run)
    rows = _of("rows", found)
    waiting = {WAITING: whole.get("rows", 0) - sum(rows.values())}
    rows |= {ROW_BAD: whole.get("bad_rows", 0), REPEATED: whole.get("repeated_rows", 0)} | waiting
    progress = Progress(rows=_without_zeros(rows))
    progress.planned, progress.expected = "series" in whole, whole.get("instances", 0)
    progress.left_out = _without_zeros(_of("left out", whole if progress.planned else found))
    series = _of("series", results)
    waiting = {WAITING: whole.get("series", found["series"]) - sum(series.values())}
    progress.series = _without_zeros({**series, **waiting})
    progress.images = {**dict.fromkeys(IMAGES, 0), **_without_zeros(_of("images", results))}
    if not progress.rows and not progress.series:
        done = results["items"]
        progress.parts = _without_zeros({DONE: done, WAITING: whole.get("items", 0) - done})
    progress.bytes, progress.seconds = results["bytes"], results["seconds"]
    return progress


def _of(what: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts of one kind, by what comes behind it in their names."""
    return {name.removeprefix(f"{what} "): count for name, count in counts.items() if name.startswith(f"{what} ")}


def _without_zeros(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > 0}


def _parts(run: Run, kind: str) -> Iterator[tuple[str, int, int]]:
    """Path, modification time (ns) and size of each finished part of a kind."""
    with suppress(FileNotFoundError), os.scandir(run.folder / kind) as entries:
        for entry in entries:
            # A part that a step forgets meanwhile ends the look, as if it had come later.
            if entry.name.endswith(".jsonl"):
                status = entry.stat()
                yield entry.path, status.st_mtime_ns, status.st_size


def _sum(parts: Iterable[tuple[str, int, int]]) -> Counter[str]:
    """The counts of all parts."""
    total: Counter[str] = Counter()
    for part in parts:
        with suppress(FileNotFoundError):
            total.update(_counted(*part))
    return total


@lru_cache(16384)
def _counted(path: str, mtime_ns: int, size: int) -> Counter[str]:
    """The counts of the lines of a part (see `job.COUNTED`), of each item those of its last line.

    A part is replaced as a whole or gets longer, so its path, time and size tell its content. What is kept is small:
    the parts of eight runs of the largest size.
    """
    last: dict[str | int, dict[str, int | float]] = {}
    with open(path, "rb") as lines:
        for number, line in enumerate(lines):
            if not line.startswith(b"{"):
                continue
            with suppress(ValueError):  # see `read_appended`
                value = json_line(line.decode())
                last[value.get(ITEM, number)] = {"items": 1, **value.get(COUNTED, {})}
    counts: Counter[str] = Counter()
    for counted in last.values():
        counts.update(counted)
    return counts
