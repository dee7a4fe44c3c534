"""What all comparisons share: the cohorts, how a command is run, what is kept of its runs, and how they are told."""

from __future__ import annotations

import fcntl
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pacsifier_ops.embedded.phantoms import phantom_series, write
from tools.bootstrap import uv_environment

OUT = Path(__file__).resolve().parents[1] / "bench" / "out"


@dataclass(frozen=True)
class Cohort:
    """One study of one patient.

    Attributes:
        name: what the report calls it.
        patient: its PatientID.
        series: number of series.
        images: images in each of them.
        pixels: rows and columns of an image, 16 bit.
    """

    name: str
    patient: str
    series: int
    images: int
    pixels: int

    def write(self, folder: Path) -> list[Path]:
        """Write the files of the cohort."""
        paths = []
        for number in range(1, self.series + 1):
            datasets = phantom_series(
                patient_id=self.patient,
                patient_name=f"Bench^{self.patient}",
                series_number=number,
                n_images=self.images,
                rows=self.pixels,
                columns=self.pixels,
            )
            paths += write(datasets, folder)
        return paths


COHORTS = (
    Cohort("10 series × 20 images of 64×64", "SMALL", 10, 20, 64),
    Cohort("5 series × 50 images of 512×512", "LARGE", 5, 50, 512),
)
#: Large enough that the start of a command counts for little, and one that shows what it takes.
STEADY = (
    Cohort("1 image of 64×64", "ONE", 1, 1, 64),
    Cohort("20 series × 100 images of 128×128", "STEADY128", 20, 100, 128),
    Cohort("10 series × 100 images of 512×512", "STEADY512", 10, 100, 512),
)


def run(command: list[str], folder: Path, **environment: str) -> None:
    """Run a command to its end, in a folder of its own.

    Raises:
        RuntimeError: it failed; holds the end of what it said.
    """
    # Compiled modules are kept, as they are wherever the command has run once.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{said[-2000:]}")


def installed(package: str) -> Path:
    """Folder of the programs of a published package, which is installed below bench/out unless it is there.

    Args:
        package: name and version, `pacsifier==1.0.0` for one; it needs Python 3.10 or 3.11.

    Raises:
        RuntimeError: there is no such Python, or the package index cannot be reached; holds what was said.
    """
    place = OUT / package
    # Written last, so that an installation that was interrupted is begun again.
    done = place / "installed"
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            uv, python = str(Path(sys.prefix) / "bin" / "uv"), str(place / "bin" / "python")
            environment = uv_environment()
            run([uv, "venv", "--quiet", "--clear", "--python", ">=3.10,<3.12", str(place)], OUT, **environment)
            run([uv, "pip", "install", "--quiet", "--python", python, package], OUT, **environment)
            done.touch()
    return place / "bin"


@dataclass
class Runs:
    """All runs of one tool on one cohort.

    Attributes:
        seconds: wall time of each run.
        cpu: processor time of the tool's processes in each run, in seconds, where it was measured.
        files: DICOM objects that came out of it, in the last run.
        exact: every run brought each instance once and nothing else.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    files: int = 0
    exact: bool = True


def report(title: str, instances: int, results: dict[str, Runs]) -> str:
    """The runs as a Markdown table; ratios are taken within a round, against the first tool, which is ours."""
    ours = next(iter(results.values()))
    lines = [
        f"### {title}",
        "",
        "| tool | runs | seconds: median (min to max) | images/s | CPU per image, ms | times ours: median (min to max) "
        "| files | exact |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, runs in results.items():
        if runs.seconds:
            ratios = [theirs / our for theirs, our in zip(runs.seconds, ours.seconds, strict=False)]
            rate = instances / statistics.median(runs.seconds)
            cpu = f"{1000 * statistics.median(runs.cpu) / instances:.2f}" if runs.cpu else ""
            lines.append(
                f"| {name} | {len(runs.seconds)} | {spread(runs.seconds)} | {rate:.0f} | {cpu} | {spread(ratios)} "
                f"| {runs.files} | {'yes' if runs.exact else 'no'} |"
            )
    return "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
