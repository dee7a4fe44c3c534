"""Side by side against one Orthanc, as it comes out of the box, on loopback: `make bench`.

Every tool retrieves the same series into a fresh folder, in rounds (A B C, A B C, ...), and what it wrote is compared
with what the archive holds. The table goes to standard output as Markdown, every single time to a JSON file below
bench/out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.misc import is_dicom

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import deid, dicomdir, planning, upload  # noqa: E402
from bench.dag import DagTimes, time_dag  # noqa: E402
from bench.timing import COHORTS, OUT, STEADY, Cohort, Runs, installed, report, run, spread  # noqa: E402
from pacsifier_ops.embedded.phantoms import phantom_series, write  # noqa: E402
from tests.support.peers import OUR_AET, Orthanc, missing_programs  # noqa: E402

PUBLISHED = "pacsifier==1.0.0"
#: DCMTK's programs, and Orthanc, which is built on it, leave Nagle's algorithm on unless this variable is set.
NO_DELAY = {"TCP_NODELAY": "1"}


# Who retrieves: each writes the patient's series below `out`


@dataclass(frozen=True)
class Job:
    """What a tool is given: the archive, the patient, (study, series) UIDs, and a folder of its own."""

    server: Orthanc
    patient: str
    series: list[tuple[str, str]]
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def table(self) -> Path:
        """A query table that asks for the patient."""
        path = self.folder / "query.csv"
        path.write_text(f"PatientID\n{self.patient}\n")
        return path


Tool = Callable[[Job], None]


def ours(method: str) -> Tool:
    """Our command line, with a state of its own."""

    def retrieve(job: Job) -> None:
        command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--save", "--info", "--method", method]
        config = ["-c", str(job.server.config(job.folder)), "-q", str(job.table()), "-d", str(job.out)]
        run([*command, *config], job.folder, PACSIFIER_STATE_ROOT=str(job.folder / "state"), PYTHONPATH=str(ROOT))

    return retrieve


def dcmtk(program: str, **environment: str) -> Tool:
    """DCMTK's movescu or getscu, one call per series."""

    def retrieve(job: Job) -> None:
        here = ["-aet", OUR_AET, "-aec", job.server.aet, "-S", "-od", str(job.out)]
        if program == "movescu":
            here += ["-aem", OUR_AET, "+P", str(job.server.receiver_port)]
        job.out.mkdir()
        for study, series in job.series:
            keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study}", f"SeriesInstanceUID={series}"]
            options = [word for key in keys for word in ("-k", key)]
            run([program, *here, *options, "127.0.0.1", str(job.server.port)], job.folder, **environment)

    return retrieve


def published() -> Tool:
    """The published package, in an environment of its own."""
    program = installed(PUBLISHED) / "pacsifier"

    def retrieve(job: Job) -> None:
        job.out.mkdir()
        config = job.server.config(job.folder, batch_size=1000)
        run([str(program), "-s", "-i", "-c", str(config), "-q", str(job.table()), "-d", str(job.out)], job.folder)

    return retrieve


# Timing


def compare(server: Orthanc, cohort: Cohort, files: list[Path], tools: dict[str, tuple[Tool, int]]) -> dict[str, Runs]:
    """Let every tool retrieve a cohort, in rounds; each takes part in as many as its number says."""
    heads = [dcmread(path, stop_before_pixels=True) for path in files]
    expected = sorted(str(head.SOPInstanceUID) for head in heads)
    series = sorted({(str(head.StudyInstanceUID), str(head.SeriesInstanceUID)) for head in heads})
    results = {name: Runs() for name in tools}
    for round_ in range(max(rounds for _, rounds in tools.values())):
        for name, (tool, rounds) in tools.items():
            if round_ >= rounds:
                continue
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                job = Job(server, cohort.patient, series, Path(folder))
                started, before = time.perf_counter(), processor_time()
                tool(job)
                results[name].seconds.append(time.perf_counter() - started)
                results[name].cpu.append(processor_time() - before)
                got = sorted(instances(job.out))
            results[name].files = len(got)
            results[name].exact &= got == expected
            print(f"  {cohort.name}: {name}: {results[name].seconds[-1]:.2f} s", file=sys.stderr)
    return results


def processor_time() -> float:
    """Seconds of processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def instances(folder: Path) -> Iterator[str]:
    """SOP Instance UIDs of all DICOM files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".csv" and is_dicom(path):
            yield str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def dag_report(dag: dict[str, DagTimes]) -> list[str]:
    """The DAG's runs as a Markdown table."""
    lines = [
        "### The DAG, through the scheduler (LocalExecutor), Orthanc out of the box",
        "",
        "| cohort | tasks | seconds, median (min to max) | of it retrieving | Airflow's share, per task | complete |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for cohort in COHORTS:
        times = dag[cohort.patient]
        shares = [(total - busy) / times.tasks for total, busy in zip(times.total, times.busy, strict=True)]
        lines.append(
            f"| {cohort.name} | {times.tasks} | {spread(times.total)} | {spread(times.busy)} | {spread(shares)} "
            f"| {'yes' if times.exact else 'no'} |"
        )
    return [*lines, ""]


# Memory


def big_object(folder: Path, megabytes: int) -> Path:
    """A multi-frame object of zeros, 512×512, 16 bit, as a sparse file of so many megabytes (10^6 bytes)."""
    frame = 512 * 512 * 2
    frames = megabytes * 1_000_000 // frame
    (image,) = phantom_series(
        patient_id=f"BIG{megabytes}",
        patient_name="Bench^Big",
        n_images=1,
        rows=1,
        columns=1,
        modality="OT",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3",
        NumberOfFrames=frames,
        FrameIncrementPointer=0x00181063,
        FrameTime="40",
    )
    image.Rows = image.Columns = 512
    del image.PixelData
    (path,) = write([image], folder)
    with path.open("r+b") as stream:
        stream.seek(0, os.SEEK_END)
        stream.write(b"\xe0\x7f\x10\x00OW\0\0" + (frames * frame).to_bytes(4, "little"))
        stream.truncate(stream.tell() + frames * frame)
    return path


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def peak_memory(server: Orthanc, method: str, megabytes: int) -> tuple[float, float]:
    """Peak resident memory in MB (10^6 bytes) and seconds of our command while it fetches one big object."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        job = Job(server, f"BIG{megabytes}", [], folder)
        command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--save", "--method", method]
        command += ["-c", str(server.config(folder)), "-q", str(job.table()), "-d", str(job.out)]
        environment = {**os.environ, "PACSIFIER_STATE_ROOT": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        # A process of its own in between: the peak of a child counts from its parent's size on.
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *command], env=environment, capture_output=True, text=True
        )
        seconds = time.perf_counter() - started
        got = [path.stat().st_size for path in job.out.glob("sub-*/**/*.dcm")]
        if done.returncode or len(got) != 1 or got[0] < megabytes * 900_000:
            raise RuntimeError(f"the object of {megabytes} MB was not fetched:\n{done.stderr[-2000:]}")
        return int(done.stdout) * (1024 if sys.platform == "linux" else 1) / 1e6, seconds


# The whole


@contextmanager
def orthanc(folder: Path, files: list[Path], **environment: str) -> Iterator[Orthanc]:
    """An Orthanc that holds these files."""
    server = Orthanc(folder, environment=environment)
    try:
        server.load(files)
        if server.refused:
            raise RuntimeError(f"Orthanc refused {len(server.refused)} objects")
        yield server
    finally:
        server.stop()


def steady(folder: Path, rounds: int) -> tuple[dict[str, Any], list[str]]:
    """Retrieve large cohorts with our command and with DCMTK's without delay; return every time, and the tables."""
    results, tables = {}, []
    files = {cohort: cohort.write(folder / cohort.patient) for cohort in STEADY}
    everything = [path for paths in files.values() for path in paths]
    for title, environment in (("Orthanc out of the box", {}), ("Orthanc with TCP_NODELAY=1", NO_DELAY)):
        with orthanc(folder / title, everything, **environment) as server:
            for cohort, (method, program) in product(STEADY, (("get", "getscu"), ("move", "movescu"))):
                tools = {"ours": ours(method), f"DCMTK {program}, TCP_NODELAY=1": dcmtk(program, **NO_DELAY)}
                runs = compare(server, cohort, files[cohort], {name: (tool, rounds) for name, tool in tools.items()})
                name = f"C-{method.upper()} of {cohort.name}, {title}"
                results[name] = {tool: asdict(r) for tool, r in runs.items()}
                tables.append(report(name, len(files[cohort]), runs))
    return results, tables


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
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "pydicom": version("pydicom"),
        "pynetdicom": version("pynetdicom"),
        "orthanc": told(Orthanc.find_program(), "--version"),
        "dcmtk": told("movescu", "--version"),
    }


def main() -> int:
    """Run the benchmarks."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5, help="runs of every tool (5)")
    arguments.add_argument("--published-rounds", type=int, default=1, help=f"runs of {PUBLISHED}, minutes each (1)")
    arguments.add_argument("--largest", type=int, default=1000, help="megabytes of the largest object (1000)")
    arguments.add_argument("--steady", action="store_true", help="retrieve the large cohorts, and nothing else")
    args = arguments.parse_args()
    if line := missing_programs():
        print(line, file=sys.stderr)
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    facts = machine()
    results: dict[str, Any] = {"machine": facts, "retrieval": {}, "upload": {}, "memory": [], "planning": []}
    page = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()), ""]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        results["steady"], tables = steady(Path(name), args.rounds)
    page += tables
    if args.steady:
        return kept(results, page)
    us = {"ours, C-GET": ours("get"), "ours, C-MOVE": ours("move")}
    shipped = {**us, "DCMTK movescu": dcmtk("movescu"), "DCMTK getscu": dcmtk("getscu")}
    if args.published_rounds:
        shipped[PUBLISHED] = published()
    tuned = {**us, "DCMTK movescu": dcmtk("movescu"), "DCMTK getscu": dcmtk("getscu")}
    tuned |= {f"DCMTK {name}, TCP_NODELAY=1 as well": dcmtk(name, **NO_DELAY) for name in ("movescu", "getscu")}
    rounds = {PUBLISHED: args.published_rounds}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        files = {cohort: cohort.write(folder / cohort.patient) for cohort in COHORTS}
        everything = [path for paths in files.values() for path in paths]
        for title, contenders, environment in (
            ("Orthanc out of the box", shipped, {}),
            ("Orthanc with TCP_NODELAY=1", tuned, NO_DELAY),
        ):
            with orthanc(folder / title, everything, **environment) as server:
                for cohort in COHORTS:
                    timed = {tool: (call, rounds.get(tool, args.rounds)) for tool, call in contenders.items()}
                    runs = compare(server, cohort, files[cohort], timed)
                    results["retrieval"][f"{title}, {cohort.name}"] = {tool: asdict(r) for tool, r in runs.items()}
                    page.append(report(f"{cohort.name}, {title}", len(files[cohort]), runs))
                if contenders is shipped:
                    dag = time_dag(server, [cohort.patient for cohort in COHORTS], args.rounds)
                    results["dag"] = {patient: asdict(times) for patient, times in dag.items()}
        results["upload"], tables = upload.measure({cohort: folder / cohort.patient for cohort in COHORTS}, args.rounds)
        page += tables
        page += dag_report(dag)
        sizes = [size for size in (10, 100, 1000) if size <= args.largest]
        big = [big_object(folder / "big", size) for size in sizes]
        page += ["### Peak memory", "", "| object | C-GET | C-MOVE |", "|---:|---:|---:|"]
        with orthanc(folder / "memory", []) as server:
            # storescu reads the objects piece by piece.
            subprocess.run(["storescu", "-aec", server.aet, "127.0.0.1", str(server.port), *map(str, big)], check=True)
            for size in sizes:
                cells = []
                for method in ("get", "move"):
                    peak, seconds = peak_memory(server, method, size)
                    results["memory"].append({"method": method, "object": size, "peak": peak, "seconds": seconds})
                    cells.append(f"{peak:.0f} MB ({seconds:.1f} s)")
                page.append(f"| {size} MB | {' | '.join(cells)} |")
    page += ["", "### Planning", "", "| series | seconds | ms per series | peak memory |", "|---:|---:|---:|---:|"]
    for size in planning.SIZES:
        seconds, megabytes = planning.measure(size)
        results["planning"].append({"series": size, "seconds": seconds, "peak": megabytes})
        page.append(f"| {size:,} | {seconds:.1f} | {1000 * seconds / size:.3f} | {megabytes:.0f} MB |")
    results["deid"], tables = deid.measure(args.rounds)
    page += ["", *tables]
    results["dicomdir"], tables = dicomdir.measure(args.rounds)
    page += ["", *tables]
    return kept(results, page)


def kept(results: dict[str, Any], page: list[str]) -> int:
    """Print the tables and keep every single time; return the exit code."""
    path = OUT / f"results-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps(results, indent=1))
    print("\n".join(page))
    print(f"\nEvery single time: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
