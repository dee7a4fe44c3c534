"""Planning simulated cohorts: time and peak memory of the step `plan`, each size in a process of its own.

python -m bench.planning [SERIES ...]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = (25_000, 50_000, 100_000)


def found(series: int) -> Iterator[Any]:
    """What the step `find` writes for one row: studies of five series, patients of two studies."""
    yield {"line": 2, "new_id": "", "state": "found", "reason": "", "warnings": [], "series": series}
    for number in range(series):
        study, patient = number // 5, number // 10
        study_uid = f"1.2.826.0.1.3680043.10.1234.20260101.{study:09d}.1"
        attributes = {
            "StudyDate": f"2020{study % 12 + 1:02d}{study % 28 + 1:02d}",
            "StudyTime": f"{study % 24:02d}1530.250000",
            "SeriesDescription": f"Thorax native {number % 40}.0 B{number % 70}f",
            "PatientID": f"{patient:08d}",
            "ProtocolName": "Thorax^Standard (Adult)",
            "StudyInstanceUID": study_uid,
            "PatientName": f"Family{patient}^Given{patient}",
            "PatientBirthDate": f"19{patient % 80 + 10}0101",
            "SeriesInstanceUID": f"{study_uid}.{number:09d}",
            "DeviceSerialNumber": "4711",
            "Modality": "CT",
            "ImageType": "ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI",
            "SeriesNumber": str(number % 5 + 1),
            "StudyDescription": "CT Thorax with contrast",
            "AccessionNumber": f"ACC{study:09d}",
            "SequenceName": "",
            "IssuerOfPatientID": "",
            "NumberOfSeriesRelatedInstances": "250",
        }
        yield [study_uid, attributes["SeriesInstanceUID"], attributes, "simulated"]


def plan(series: int) -> tuple[float, float]:
    """Plan a cohort of so many series in this process; returns seconds and the peak of its memory in MB."""
    from pacsifier_ops.base.config import PacsNode
    from pacsifier_ops.extract import steps
    from pacsifier_ops.extract.run import Request
    from pacsifier_ops.runs.folder import Run

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PACSIFIER_STATE_ROOT"] = f"{folder}/state"
        run = Run.fresh()
        Request(Path(folder) / "table.csv", Path(folder) / "out").keep(run)
        run.write_part("found", 0, found(series))
        started = time.perf_counter()
        result = steps.plan(run, PacsNode("simulated", "localhost", 104, "PACS", max_series=series))
        seconds = time.perf_counter() - started
        assert (result.series, result.instances) == (series, 250 * series)
    return seconds, peak_memory()


def peak_memory() -> float:
    """Peak resident memory of this process so far, in MB (2^20 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands the peak that getrusage tells down from the process that started this one.
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measure(series: int) -> tuple[float, float]:
    """`plan` in a process of its own."""
    return measured("bench.planning", "plan", series)


def measured(module: str, function: str, size: int) -> tuple[float, float]:
    """Seconds and peak memory (MB) that a function of a module returns, in a process of its own."""
    command = [sys.executable, "-c", f"from {module} import {function}; print(*{function}({size}))"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout
    seconds, megabytes = map(float, printed.split())
    return seconds, megabytes


def main() -> None:
    """Print a line for each size."""
    print(f"{'series':>8} {'seconds':>8} {'ms/series':>10} {'peak MB':>8}")
    for size in map(int, sys.argv[1:] or SIZES):
        seconds, megabytes = measure(size)
        print(f"{size:8d} {seconds:8.1f} {1000 * seconds / size:10.3f} {megabytes:8.0f}")


if __name__ == "__main__":
    main()
