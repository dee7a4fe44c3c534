"""A night of a study: what each stage costs where nothing is new, and where little is.

`python -m bench.night 10000 100000` prints a table for each number of files, and `--images 20000 --series 1` has all of
them in one series. Every stage is called as its DAG does, without Airflow. The archive, and the node that the study
uploads to, are embedded ones in processes of their own, and do not count. Processor time is that of this process: user
and system.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.embedded.phantoms import phantom_series
from pacsifier_ops.study import steps
from pacsifier_ops.study.release import may_hand_over
from pacsifier_ops.study.run import DICOMDIR
from tests.support.study import StudyRun

#: Images in a series, and series of a patient.
IMAGES, SERIES = 100, 10
#: The nights without anything new, and the one with a new patient.
QUIET, NEWS = "nothing new", "10 new images"
#: Stands in a pattern for the number of an image, which is its place in millimetres as well.
PLACE = "999999"
#: Seconds after which files count as settled: what has just changed is read again (see `state.facts`).
SETTLING = 4


@dataclass
class Cost:
    """The cost of a stage.

    Attributes:
        seconds: processor time.
        images: numbers of image files that were opened.
        others: number of other files that were opened below the home.
        memory: peak memory of the process until the end of the stage, in MB (10**6 bytes).
    """

    seconds: float = 0.0
    images: int = 0
    others: int = 0
    memory: float = 0.0


@dataclass
class Meter:
    """Measures stages.

    Attributes:
        home: folder below which opened files count.
        costs: costs by stage.
        profiles: folder for a profile of each stage; None: none is made.
    """

    home: str
    costs: dict[str, Cost] = field(default_factory=dict)
    profiles: Path | None = None
    _now: Cost | None = None

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an opened file; for `sys.addaudithook`."""
        if event != "open" or self._now is None or not isinstance(arguments[0], str | bytes):
            return
        path = os.fsdecode(arguments[0])
        if path.startswith(self.home):
            if path.endswith(".dcm"):
                self._now.images += 1
            else:
                self._now.others += 1

    def __call__(self, stage: str, work: Callable[[], object]) -> None:
        """Do the work of a stage."""
        self._now = cost = self.costs.setdefault(stage, Cost())
        profile = cProfile.Profile(time.process_time) if self.profiles else None
        begun = time.process_time()
        try:
            profile.runcall(work) if profile else work()
        finally:
            cost.seconds += time.process_time() - begun
            cost.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
            self._now = None
        if profile and self.profiles:
            profile.dump_stats(self.profiles / f"{stage}.prof")


def night(meter: Meter, home: Path, archive: PacsNode, research: PacsNode, patients: int) -> StudyRun:
    """Run a study of all patients, and measure its stages."""
    runs: list[StudyRun] = []
    given = {"upload": "research", "dicomdir": True, "remove_identified": "list", "release_by": "anybody"}
    rows = [{"PatientID": name_of(number)} for number in range(patients)]
    meter("set up", lambda: runs.append(StudyRun(archive, home / "data", rows, given)))
    (run,) = runs
    meter("retrieval", run.fetch)
    meter("pseudonyms", run.link)
    meter("de-identification", run.deidentify)
    meter("info dumps", run.move_dumps)
    meter("check (stock, gate)", lambda: steps.check(run.run))
    meter("release", run.approve_and_release)
    meter("DICOM file-set", lambda: _make_file_set(run))
    meter("upload", lambda: run.upload(research))
    meter("removal (list)", lambda: run.remove(research))
    meter("report", lambda: steps.report(run.run))
    return run


def _make_file_set(run: StudyRun) -> None:
    if may_hand_over(run.run, DICOMDIR):
        run.make_file_set()


def name_of(patient: int) -> str:
    """Return a PatientID."""
    return f"ZQX-{patient:06d}"


def make(folder: Path, patient: int, images: int, series: int = SERIES) -> list[Path]:
    """Write the images of a patient."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, series + 1):
        (one,) = phantom_series(
            patient_id=name_of(patient),
            patient_name=f"Zqx{patient:06d}^Qwv",
            series_number=number,
            n_images=1,
            rows=4,
            columns=4,
        )
        one.InstanceNumber, one.ImagePositionPatient[2] = PLACE, PLACE
        first = folder / f"{patient}-{number}.dcm"
        one.save_as(first, enforce_file_format=True)
        data, uid = first.read_bytes(), str(one.SOPInstanceUID)
        first.unlink()
        for image in range(images):
            digits = f"{number}{image:06d}".rjust(len(uid) - 6 - 6, "0") + f"{patient:06d}"
            path = folder / f"{patient}-{number}-{image}.dcm"
            named = data.replace(uid.encode(), f"2.25.1{digits}".encode())
            path.write_bytes(named.replace(PLACE.encode(), f"{image + 1:06d}".encode()))
            paths.append(path)
    return paths


@contextmanager
def serving(folder: Path, aet: str) -> Iterator[PacsNode]:
    """Yield the node of an embedded PACS that serves a folder, in a process of its own."""
    folder.mkdir(exist_ok=True)
    port = folder.with_suffix(".port")  # a node at another port is another node, and has confirmed nothing
    command = [sys.executable, "-m", "pacsifier_ops.embedded", "--aet", aet, "--folder", str(folder)]
    command += ["--port", port.read_text() if port.exists() else "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        said = server.stdout.readline()
        (number,) = re.findall(r":(\d+) with", said)
        port.write_text(number)
        yield PacsNode(aet.lower(), "127.0.0.1", int(number), aet)
    finally:
        server.terminate()
        server.wait()


def measure(
    files: int,
    keep: Path | None = None,
    profiles: Path | None = None,
    images: int = IMAGES,
    series: int = SERIES,
    nights: int = 1,
) -> str:
    """Return the table for a study of this number of files.

    Args:
        images: images in a series.
        series: series of a patient.
        nights: number of nights without anything new, of which the medians are taken.
        keep: folder of the study, which stays; if it is there, the first night is not repeated. None: a temporary
            one.
        profiles: folder for a profile of each stage of the night without anything new.
    """
    with ExitStack() as stack:
        if profiles:
            profiles.mkdir(parents=True, exist_ok=True)
        home = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="night-")))
        # The second night looks once more at what the first one has made, and the third one at what depends on that.
        quiet = [f"{QUIET} {number}" for number in range(nights)]
        names = ["first night", "second night", "third night", *quiet, NEWS]
        if (home / "archive").exists():
            del names[0]
        else:
            for patient in range(max(1, files // (images * series))):
                make(home / "archive", patient, images, series)
        os.environ.update(PACSIFIER_HOME=str(home), PACSIFIER_DATA_ROOT=str(home / "data"))
        meters = {}
        for name in names:
            time.sleep(SETTLING)
            patients = len({path.name.partition("-")[0] for path in (home / "archive").iterdir()})
            if name == NEWS:
                make(home / "archive", patients, images=10, series=1)
                patients += 1
            meters[name] = meter = Meter(str(home / "data"), profiles=profiles if name == quiet[-1] else None)
            sys.addaudithook(meter.heard)
            with serving(home / "archive", "ARCHIVE") as archive, serving(home / "research", "RESEARCH") as research:
                night(meter, home, archive, research, patients)
    medians = Meter("", {stage: _median([meters[name].costs[stage] for name in quiet]) for stage in meters[NEWS].costs})
    shown = {name: meter for name, meter in meters.items() if name not in (*quiet, NEWS)}
    return _table(files, {**shown, QUIET: medians, NEWS: meters[NEWS]})


def _median(costs: list[Cost]) -> Cost:
    seconds, images, others, memory = (
        statistics.median(getattr(cost, name) for cost in costs) for name in ("seconds", "images", "others", "memory")
    )
    return Cost(seconds, int(images), int(others), memory)


def _table(files: int, meters: dict[str, Meter]) -> str:
    lines = [
        f"### {files:,} files",
        "",
        "| stage |" + "".join(f" {name}: CPU s | images read | peak, MB |" for name in meters),
    ]
    lines.append("|---|" + "---:|---:|---:|" * len(meters))
    for stage in next(iter(meters.values())).costs:
        costs = [meter.costs[stage] for meter in meters.values()]
        lines.append(
            f"| {stage} |" + "".join(f" {cost.seconds:.2f} | {cost.images:,} | {cost.memory:.0f} |" for cost in costs)
        )
    sums = [
        (sum(c.seconds for c in m.costs.values()), sum(c.images for c in m.costs.values())) for m in meters.values()
    ]
    lines.append("| all |" + "".join(f" {seconds:.2f} | {images:,} | |" for seconds, images in sums))
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.night", description=__doc__)
    parser.add_argument("files", type=int, nargs="+", help="numbers of files")
    parser.add_argument("--keep", type=Path, help="folder of the study; it stays, and the nights go on there")
    parser.add_argument("--profiles", type=Path, help="folder for profiles of the night without anything new")
    parser.add_argument("--images", type=int, default=IMAGES, help="images in a series (default: %(default)s)")
    parser.add_argument("--series", type=int, default=SERIES, help="series of a patient (default: %(default)s)")
    parser.add_argument("--nights", type=int, default=1, help="nights without anything new (default: %(default)s)")
    arguments = parser.parse_args()
    for files in arguments.files:
        shape = (arguments.images, arguments.series, arguments.nights)
        print(measure(files, arguments.keep, arguments.profiles, *shape), flush=True)


if __name__ == "__main__":
    main()
