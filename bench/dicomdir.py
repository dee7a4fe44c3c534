"""The index of a file-set beside DCMTK's dcmmkdir: the same copied files, the copying apart.

Ours looks at every file's head twice (what it is, then its keys), gives it a name, and writes the DICOMDIR; it runs in
a process that has started, which dcmmkdir has to do first. Prints ours as a multiple of dcmmkdir's time, and the
milliseconds that ours takes for a file, at both sizes: equal ones mean that it is linear.

python -m bench.dicomdir [ROUNDS]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pydicom import dcmread

from bench.timing import Cohort, Runs, report, run, spread
from pacsifier_ops.handover.dicomdir import DicomdirRequest, assemble, copy, prepare
from pacsifier_ops.runs.folder import Run

COHORTS = tuple(
    Cohort(f"{series * 50:,} images of 16×16 in {series} series", "INDEX", series, 50, 16) for series in (40, 400)
)


def compare(cohort: Cohort, folder: Path, rounds: int) -> tuple[dict[str, Runs], list[float]]:
    """Let both index the files of a folder, in rounds; returns their times, and those of our copying, in seconds."""
    results, copying = {"ours": Runs(), "DCMTK dcmmkdir": Runs()}, []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-", dir=folder.parent) as name:
            scratch = Path(name)
            os.environ["PACSIFIER_STATE_ROOT"] = str(scratch / "state")
            target, ours, theirs = scratch / "out", Run.fresh(), scratch / "theirs"
            began = time.perf_counter()
            units = prepare(ours, DicomdirRequest(folder, target))
            prepared = time.perf_counter()
            for unit in units:
                copy(ours, unit)
            copied = time.perf_counter()
            assemble(ours)
            ended = time.perf_counter()
            copying.append(copied - prepared)
            results["ours"].seconds.append(ended - began - copying[-1])

            (target / "DICOMDIR").rename(scratch / "ours")
            began = time.perf_counter()
            run(["dcmmkdir", "+r", "+id", str(target), "+D", str(theirs)], scratch)
            results["DCMTK dcmmkdir"].seconds.append(time.perf_counter() - began)
            for runs, directory in zip(results.values(), (scratch / "ours", theirs), strict=True):
                records = dcmread(directory).DirectoryRecordSequence
                runs.files = len({r.ReferencedSOPInstanceUIDInFile for r in records if "ReferencedFileID" in r})
                runs.exact &= runs.files == cohort.series * cohort.images
    return results, copying


def measure(rounds: int) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """Both at both sizes: every time in seconds by cohort and tool, and the tables."""
    times: dict[str, dict[str, list[float]]] = {}
    tables: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for cohort in COHORTS:
            folder = Path(name) / str(cohort.series)
            cohort.write(folder)
            results, copying = compare(cohort, folder, rounds)
            times[cohort.name] = {tool: runs.seconds for tool, runs in results.items()}
            ours, theirs = times[cohort.name].values()
            files = cohort.series * cohort.images
            ratio = spread([our / their for our, their in zip(ours, theirs, strict=True)])
            tables.append(report(f"Index of {cohort.name}", files, results))
            tables.append(f"ours / dcmmkdir: {ratio}; ours: {1000 * statistics.median(ours) / files:.3f} ms a file; ")
            tables.append(f"copying, apart: {spread(copying)} s\n")
    return times, tables


if __name__ == "__main__":
    print("\n".join(measure(int(sys.argv[1]) if sys.argv[1:] else 3)[1]))
