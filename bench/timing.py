"""What all comparisons share: the cohorts, how a command is run, what is kept of its runs, and the table."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from pacsifier_ops.embedded.phantoms import phantom_series, write
from tests.support.peers import Orthanc
from tools.bootstrap import uv_environment

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "out"
#: DCMTK's programs, and Orthanc, which is built on it, leave Nagle's algorithm on unless this variable is set.
NO_DELAY = {"TCP_NODELAY": "1"}


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

    @property
    def size(self) -> int:
        """Number of its images."""
        return self.series * self.images

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


#: The start of a command counts for most of the first, and for little of the others.
SMALL = Cohort("10 series × 20 images of 64×64", "SMALL", 10, 20, 64)
STEADY = (
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


#: Works in a fresh folder, with what `Work.around` gave.
Tool = Callable[[Path, Any], None]


@dataclass(frozen=True)
class Work:
    """Something that several tools do, each as whole commands in a folder of its own.

    Attributes:
        name: what the table calls it.
        items: images of it.
        tools: who does it; the first is ours.
        exact: whether a run in a folder brought what it should, each once and nothing else.
        around: what has to be there during a run and is not timed.
        once: tools that take part in the first round alone, since a run of theirs takes minutes.
        place: folder of the runs' folders.
    """

    name: str
    items: int
    tools: Mapping[str, Tool]
    exact: Callable[[Path, Any], bool]
    around: Callable[[Path], AbstractContextManager[Any]] = nullcontext
    once: frozenset[str] = frozenset()
    place: Path | None = None


@dataclass
class Runs:
    """All runs of one tool.

    Attributes:
        seconds: wall time of each run.
        cpu: seconds of processor time, user and system, of the tool's processes in each run.
        exact: see `Work.exact`; of all runs.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    exact: bool = True


def compare(work: Work, rounds: int) -> dict[str, Runs]:
    """Let the tools do a work in turns (A B C, A B C, …): what else the machine does falls on all of them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become children of this process
    results = {tool: Runs() for tool in work.tools}
    for round_ in range(rounds):
        for name, tool in work.tools.items():
            if round_ and name in work.once:
                continue
            runs = results[name]
            with tempfile.TemporaryDirectory(prefix="bench-", dir=work.place) as place:
                folder = Path(place)
                with work.around(folder) as given:
                    others = psutil.Process().children()
                    started, before = time.perf_counter(), processor_time()
                    tool(folder, given)
                    runs.seconds.append(time.perf_counter() - started)
                    # Processes that the command has left behind end now, and their time counts.
                    psutil.wait_procs([left for left in psutil.Process().children() if left not in others])
                    runs.cpu.append(processor_time() - before)
                    runs.exact &= work.exact(folder, given)
            print(f"  {work.name}: {name}: {runs.seconds[-1]:.2f} s", file=sys.stderr)
    return results


def processor_time() -> float:
    """Seconds of processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(works: Iterable[tuple[Work, Mapping[str, Runs]]]) -> str:
    """All runs as one Markdown table. A ratio is taken within a round: our time as a multiple of the tool's."""
    lines = [
        "| work | tool | runs | seconds: median (min to max) | CPU per image, ms | times the tool's time | exact |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for work, results in works:
        ours = next(iter(results.values()))
        title = work.name
        for name, runs in results.items():
            ratios = [our / theirs for our, theirs in zip(ours.seconds, runs.seconds, strict=False)]
            ratio = "" if runs is ours else spread(ratios)
            cpu = 1000 * statistics.median(runs.cpu) / work.items
            lines.append(
                f"| {title} | {name} | {len(runs.seconds)} | {spread(runs.seconds)} | {cpu:.2f} | {ratio} "
                f"| {'yes' if runs.exact else 'no'} |"
            )
            title = ""
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Median, smallest and largest; a single value alone."""
    median = f"{statistics.median(values):.2f}"
    return median if len(values) == 1 else f"{median} ({min(values):.2f} to {max(values):.2f})"


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]

    def told(program: str | None, *arguments: str) -> str:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True)
        return Path(done.stdout.strip().partition("\n")[0].strip("$ ")).name

    return {
        "system": platform.platform(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "pydicom": version("pydicom"),
        "pynetdicom": version("pynetdicom"),
        "orthanc": told(Orthanc.find_program(), "--version"),
        "dcmtk": told("movescu", "--version"),
    }
