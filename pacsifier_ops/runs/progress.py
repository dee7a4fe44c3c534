"""How far a run has come, read off its folder while others write there: counts only, nothing that identifies anybody.

Cheap enough to be asked every few seconds: what a step has written to its end is read once, so that a look at a
cohort of 100,000 series costs a thousand calls of `stat`, and reading the units that are being worked on.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from pacsifier_ops.base.files import read_json
from pacsifier_ops.runs.accounts import ROW_BAD
from pacsifier_ops.runs.folder import Run

#: State of a row or a series that has no other one yet.
WAITING = "waiting"
#: State of a row that asks the same as an earlier one, which answers for it.
REPEATED = "repeated"

_IMAGES = ("present", "received", "missing", "unverifiable", "quarantined")
#: What becomes of images in a de-identification, by the name that it is counted under.
DEIDENTIFICATION = {"deidentified": "de-identified", "excluded": "excluded", "in_quarantine": "in quarantine"}
_COUNTED = (*_IMAGES, *DEIDENTIFICATION, "bytes", "seconds")
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
    """

    rows: dict[str, int] = field(default_factory=dict)
    series: dict[str, int] = field(default_factory=dict)
    planned: bool = False
    expected: int = 0
    images: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def megabytes_per_second(self) -> float:
        """Average rate of one association so far, in MB/s (10**6 bytes)."""
        return round(self.bytes / self.seconds / 1e6, 3) if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "seconds": round(self.seconds, 1), "megabytes_per_second": self.megabytes_per_second}


def progress_of(run: Run) -> Progress:
    """Where a run stands, whatever it has written so far."""
    found, results = _sum(_parts(run, "found"), _found), _sum(_parts(run, "results"), _results)
    progress = Progress(rows=_rows(run, found))
    plan = _plan(run)
    progress.planned, progress.expected = bool(plan), int(plan.get("instances", 0))
    series = {name.removeprefix("series "): count for name, count in results.items() if name.startswith("series ")}
    waiting = (plan.get("series", 0) if plan else found["series"]) - sum(series.values())
    progress.series = _without_zeros({**series, WAITING: waiting})
    progress.images = {name: results[name] for name in _IMAGES}
    progress.images |= _without_zeros({shown: results[name] for name, shown in DEIDENTIFICATION.items()})
    progress.images |= _without_zeros({name: results[name] for name in (TAGGED, UNCHANGED, NOT_TAGGED)})
    if not progress.rows and not progress.series:
        progress.parts = _work(run)
    progress.bytes, progress.seconds = results["bytes"], results["seconds"]
    return progress


def _rows(run: Run, found: Counter[str]) -> dict[str, int]:
    table: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        table = read_json(run.folder / "table.json")
    states = {name.removeprefix("row "): count for name, count in found.items() if name.startswith("row ")}
    rows = {**states, ROW_BAD: table.get("bad_rows", 0), REPEATED: len(table.get("same_as", ()))}
    return _without_zeros({**rows, WAITING: table.get("rows", 0) - sum(states.values())})


def _plan(run: Run) -> dict[str, Any]:
    """The size of the cohort of an extract run, or else of an upload or de-identification; empty before it is known."""
    for path in (run.folder / "plan.json", run.folder / "scan.json"):
        with suppress(FileNotFoundError):
            plan: dict[str, Any] = read_json(path)
            return plan
    return {}


def _work(run: Run) -> dict[str, int]:
    """Parts of the work: units of files, or batches of patients."""
    done = sum(1 for _ in _parts(run, "results"))
    whole = max(sum(1 for _ in _parts(run, kind)) for kind in ("units", "batches"))
    return _without_zeros({DONE: done, WAITING: whole - done})


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


def _sum(parts: Iterable[tuple[str, int, int]], count: Callable[[str, int, int], Counter[str]]) -> Counter[str]:
    """The counts of all parts."""
    total: Counter[str] = Counter()
    for part in parts:
        with suppress(FileNotFoundError):
            total.update(count(*part))
    return total


# A part is replaced as a whole, never changed, so its path, time and size tell its content. What is kept is small: the
# parts of eight runs of the largest size.


@lru_cache(8192)
def _found(path: str, mtime_ns: int, size: int) -> Counter[str]:
    """Rows by state, and how many series they found, of a batch."""
    counts: Counter[str] = Counter()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("{"):  # a row; each of its series is a list
                row = json.loads(line)
                counts.update({f"row {row['state']}": 1, "series": row["series"]})
    return counts


@lru_cache(8192)
def _results(path: str, mtime_ns: int, size: int) -> Counter[str]:
    """Series by state, and their images and bytes, of a unit."""
    counts: Counter[str] = Counter()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            account = json.loads(line)
            if "state" in account:  # the tools for handing over count other things
                counts[f"series {account['state']}"] += 1
            counts.update({name: account.get(name, 0) for name in _COUNTED})
            if (tagged := account.get("counts")) is not None:
                counts.update({name: tagged.get(name, 0) for name in (TAGGED, UNCHANGED)})
                counts[NOT_TAGGED] += len(account["problems"])
    return counts
