"""A run through scheduler, PostgreSQL, Redis and two Celery workers, in front of a simulated archive: what it costs.

The archive holds nothing. It works its answers out of the UIDs: a patient has ten series of one image each, and the
query table has a row for each patient. So every series goes the whole way, from its row to its file, and images cost
little. With --list, the run only lists the series (`retrieve: none`).

python -m bench.scale [--list] [SERIES ...]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from pacsifier_ops.embedded.pacs import COMPUTED, EmbeddedPacs, _read
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.onebox import up as local
from pacsifier_ops.runs.accounts import NONE, SAVE
from pacsifier_ops.runs.folder import dag_run_name
from tests.support.airflow_home import DAG_ID
from tests.support.peers import Peer
from tests.support.topology import WORKERS, Postgres, Topology

SIZES = (1_000, 10_000)
#: Series of a patient, and of a study.
OF_PATIENT, OF_STUDY = 10, 5
ROOT = "1.2.826.0.1.3680043.10.1234"
#: Seconds between two looks at the memory of tasks.
LOOK = 0.3


class Simulated(EmbeddedPacs):
    """An archive of so many series of one image, which are made when somebody asks for them.

    Args:
        of_patient: series of a patient.
    """

    def __init__(self, series: int, folder: Path, of_patient: int = OF_PATIENT, **where: Any) -> None:
        super().__init__(aet="SIMULATED", **where)
        self._series, self._folder, self._of_patient = series, folder, of_patient
        (path,) = write(phantom_series(patient_id="0", patient_name="0", n_images=1, rows=8, columns=8), folder)
        self.add([path])
        ((self._pattern,),) = self._index["IMAGE"].values()
        self._pixels = phantom_series(patient_id="0", patient_name="0", n_images=1, rows=8, columns=8)[0]["PixelData"]

    def _header(self, number: int) -> FileDataset:
        study, patient = number // OF_STUDY, number // self._of_patient
        header = FileDataset("", dict(self._pattern._dict), file_meta=self._pattern.file_meta)
        values = {
            "PatientID": f"{patient:08d}",
            "PatientName": f"Family{patient}^Given",
            "StudyInstanceUID": f"{ROOT}.1.{study}",
            "StudyTime": f"{study % (OF_PATIENT // OF_STUDY):02d}0000",
            "SeriesInstanceUID": f"{ROOT}.2.{number}",
            "SeriesNumber": number % OF_STUDY + 1,
            "SOPInstanceUID": f"{ROOT}.3.{number}",
        }
        for keyword, value in values.items():  # new elements, for those of the pattern are shared
            header[keyword] = DataElement(keyword, self._pattern[keyword].VR, value)
        return header

    def _numbers(self, identifier: Dataset) -> Iterable[int]:
        for keyword, most in (("SOPInstanceUID", 1), ("SeriesInstanceUID", 1), ("StudyInstanceUID", OF_STUDY)):
            if value := identifier.get(keyword):
                uids = [value] if isinstance(value, str) else value
                firsts = [int(uid.rpartition(".")[2]) for uid in uids if uid.startswith(ROOT)]
                return (number for first in firsts for number in range(first * most, (first + 1) * most))
        patient = str(identifier.get("PatientID") or "-1")
        return range(int(patient) * self._of_patient, (int(patient) + 1) * self._of_patient)

    def _candidates(self, level: str, identifier: Dataset) -> list[FileDataset]:
        return [self._header(n) for n in self._numbers(identifier) if 0 <= n < self._series]

    def _element(self, first: FileDataset, key: DataElement) -> DataElement | None:
        return DataElement(key.tag, key.VR, "1") if key.keyword in COMPUTED else super()._element(first, key)

    def _wanted(self, event: Any) -> list[FileDataset]:
        self.queries.clear()
        self.retrieves.clear()
        wanted = super()._wanted(event)
        for image in wanted:
            image["PixelData"] = self._pixels
            image.file_meta = FileMetaDataset()
            image.file_meta.TransferSyntaxUID = self._pattern.file_meta.TransferSyntaxUID
        return [header for path in write(wanted, self._folder) if (header := _read(path))]


class SimulatedPeer(Peer):
    """The simulated archive as a process."""

    name = "simulated"

    def __init__(self, folder: Path, series: int) -> None:
        super().__init__(folder, aet="SIMULATED")
        self._series = series

    def command(self) -> list[str]:
        """See `main`."""
        self.environment["PYTHONPATH"] = str(local.REPO)
        return [sys.executable, "-m", "bench.scale", "serve", str(self.port), str(self._series)]


class Site(Topology):
    """The topology in front of the simulated archive, with the patience of a site instead of that of a test."""

    def __init__(self, home: Path, folder: Path, series: int) -> None:
        super().__init__(home, folder, SimulatedPeer(folder, series))

    def _environment(self) -> dict[str, str]:
        hurried = ("HEARTBEAT_TIMEOUT", "RETRY_DELAY", "TRANSPORT_OPTIONS")
        return {name: value for name, value in super()._environment().items() if not any(h in name for h in hurried)}


class Cost(NamedTuple):
    """What a run has cost; seconds, milliseconds, megabytes (10**6 bytes)."""

    series: int
    tasks: int
    seconds: float
    scheduler_cpu: float
    all_cpu: float
    database: float
    report: float
    page: float
    task_memory: float


COLUMNS = (
    "series",
    "task instances",
    "wall, s",
    "scheduler, CPU s",
    "all of Airflow, CPU s",
    "database grew, MB",
    "report, MB",
    "page of the run, ms",
    "largest task, MB",
)


def cpu(processes: Iterable[psutil.Process]) -> float:
    """Processor time of processes, and of those of their children that have ended, in seconds."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def database_size(postgres: Postgres) -> int:
    """Bytes of Airflow's database."""
    command = [str(postgres.find_program("psql")), postgres.url, "-Atc", "select pg_database_size('postgres')"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@contextmanager
def watched(site: Site) -> Iterator[list[float]]:
    """Meanwhile, the peak memory of the processes of tasks, in MB, comes into the list."""
    peaks, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            for process in (task for name in WORKERS for task in site.part(name)[1:]):
                with suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
                    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
                    peaks[0] = max(peaks[0], kilobytes * 1024 / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()


def page_latency(site: Site, run: str, looks: int = 9) -> float:
    """Median milliseconds of the page of a run, as a browser asks for it."""
    url = f"{site.url}/pacsifier/runs/{DAG_ID}/{urllib.parse.quote(run)}"
    headers = {"Accept": "text/html", "Authorization": f"Bearer {site.token(local.USER)}"}
    times = []
    for _ in range(looks):
        began = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            answer.read()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def measure(series: int, retrieve: str = SAVE) -> Cost:
    """One run of so many series in a site of its own.

    Args:
        retrieve: SAVE, or NONE for a run that only lists the series.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        Site(Path(name) / "home", Path(name) / "pacs", series) as site,
    ):
        site.pacs.start()
        rows = "".join(f"{patient:08d}\n" for patient in range(-(-series // OF_PATIENT)))
        before, of_scheduler, size = cpu(_everything(site)), cpu(site.part("scheduler")), database_size(site.postgres)
        began = time.perf_counter()
        with watched(site) as peaks:
            conf: dict[str, Any] = {"out_directory": "out", "retrieve": retrieve, "max_series": series}
            conf |= {"method": "get"} if retrieve == SAVE else {"info": False}
            run = site.trigger(f"PatientID\n{rows}", **conf)
            path = f"dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run)}"
            while (state := site.get(path)["state"]) not in ("success", "failed"):
                time.sleep(2)
        seconds = time.perf_counter() - began
        assert state == "success", state
        folder = site.home / "state" / "runs" / dag_run_name(DAG_ID, run)
        return Cost(
            series,
            int(site.get(f"{path}/taskInstances?limit=1")["total_entries"]),
            seconds,
            cpu(site.part("scheduler")) - of_scheduler,
            cpu(_everything(site)) - before,
            (database_size(site.postgres) - size) / 1e6,
            (folder / "report.html").stat().st_size / 1e6,
            page_latency(site, run),
            peaks[0],
        )


def _everything(site: Site) -> list[psutil.Process]:
    """The processes of Airflow, PostgreSQL and Redis."""
    return [*site.family(), *_with_children(site.postgres), *_with_children(site.redis)]


def _with_children(peer: Peer) -> list[psutil.Process]:
    assert peer.process
    process = psutil.Process(peer.process.pid)
    return [process, *process.children(recursive=True)]


def main(argv: list[str]) -> None:
    """Print a table, line by line; or serve as the archive (`serve PORT SERIES`)."""
    if argv[:1] == ["serve"]:
        port, series = map(int, argv[1:])
        with Simulated(series, Path.cwd(), port=port):
            threading.Event().wait()
    retrieve, sizes = (NONE, argv[1:]) if argv[:1] == ["--list"] else (SAVE, argv)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---:|' * len(COLUMNS)}", flush=True)
    for size in map(int, sizes or SIZES):
        cost = measure(size, retrieve)
        print(f"| {cost.series:,} | {cost.tasks:,} | {' | '.join(f'{v:,.1f}' for v in cost[2:])} |", flush=True)
    print(f"\nload of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
