"""One series of many files through every tool: what a file costs, at sizes that show whether it stays the same.

Each tool runs once, as a command of its own, on what the tools before it have made. Its processor time is that of its
processes, user and system; its memory is the peak of the largest of them.

python -m bench.files [FILES ...]
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from pacsifier_ops.base.config import read_config
from pacsifier_ops.embedded.phantoms import phantom_series, uid
from tests.support.peers import Peer, free_port
from tests.support.study import StudyRun

ROOT = Path(__file__).resolve().parents[1]
SIZES = (2_000, 20_000)
PATIENT = "ZQX-1"


class Archive(Peer):
    """The embedded PACS in a process of its own, in front of a folder."""

    name = "embedded"

    def command(self) -> list[str]:
        """See `python -m pacsifier_ops.embedded`."""
        self.environment["PYTHONPATH"] = str(ROOT)
        (self.folder / "images").mkdir(exist_ok=True)
        where = ["--aet", self.aet, "--port", str(self.port), "--folder", "images"]
        to = ["--destination", f"PACSIFIER=127.0.0.1:{self.receiver_port}"]
        return [sys.executable, "-m", "pacsifier_ops.embedded", *where, *to]


def images(folder: Path, count: int) -> None:
    """Write one series of so many images of 8×8."""
    folder.mkdir(parents=True)
    (image,) = phantom_series(patient_id=PATIENT, patient_name="Bench^Scale", n_images=1, rows=8, columns=8)
    for number in range(1, count + 1):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid("scale", number)
        image.InstanceNumber = number
        image.save_as(folder / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)


def study(config: str, data: str) -> None:
    """A whole study until its release."""
    run = StudyRun(read_config(Path(config)), Path(data), [{"PatientID": PATIENT}])
    run.make()
    run.release()


class Cost(NamedTuple):
    """Processor time of a tool in seconds, and peak memory of its largest process in MB (10**6 bytes)."""

    cpu: float
    memory: float


def cost(command: list[str], scratch: Path) -> Cost:
    """Run `python -m command` to its end.

    Raises:
        RuntimeError: it failed; holds the end of what it said.
    """
    own = {"PYTHONPATH": str(ROOT), "PACSIFIER_STATE_ROOT": str(scratch / "state"), "PACSIFIER_DATA_ROOT": str(scratch)}
    others = psutil.Process().children()
    with (scratch / "said").open("w+b") as said:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=scratch, env={**os.environ, **own}, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        # Processes that the command has left behind end now, and count as well.
        left = [child.pid for child in psutil.Process().children() if child not in others]
        used = [usage, *(os.wait4(pid, 0)[2] for pid in left)]
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{command} ended with {process.returncode}:\n{said.read().decode()[-2000:]}")
    cpu, kilobytes = sum(one.ru_utime + one.ru_stime for one in used), max(one.ru_maxrss for one in used)
    return Cost(cpu, kilobytes * 1024 / 1e6)


@contextmanager
def archives(scratch: Path) -> Iterator[tuple[Path, Path]]:
    """Configurations of an archive that holds the images, and of an empty one."""
    with ExitStack() as stack:
        configs = []
        for name in ("ARCHIVE", "RESEARCH"):
            archive = Archive(scratch / name, name, free_port())
            stack.callback(archive.stop)
            archive.start(600)
            configs.append(archive.config(archive.folder))
        yield configs[0], configs[1]


def measure(count: int) -> Iterator[tuple[str, Cost]]:
    """Run every tool on a series of so many files; yield its name and cost as soon as it has ended."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        images(scratch / "ARCHIVE" / "images", count)
        (scratch / "table.csv").write_text(f"PatientID\n{PATIENT}\n")
        with archives(scratch) as (archive, research):
            tool = "pacsifier_ops.cli"
            fetch = ["-m", f"{tool}.pacsifier", "-c", str(archive), "-q", "table.csv", "--save", "--info"]
            both = ["-m", f"{tool}.get_pseudonyms", "-m", "local", "-a", "p", "-d", "linkage", "--in_folder", "get"]
            tools = {
                "extract, C-GET": [*fetch, "--method", "get", "-d", "get"],
                "extract, C-MOVE": [*fetch, "--method", "move", "-d", "move"],
                "extract again, nothing new": [*fetch, "--method", "get", "-d", "get"],
                "get pseudonyms": both,
                "de-identify": ["-m", f"{tool}.anonymize", "-d", "get", "-o", "deid", "--profile", "default"],
                "Karnak tags": ["-m", f"{tool}.add_karnak_tags", "-d", "get", "-o", "tagged", "-a", "album"],
                "DICOMDIR": ["-m", f"{tool}.create_dicomdir", "-d", "get", "-o", "disc"],
                "upload": [
                    *("-m", f"{tool}.pacsifier", "-c", str(research), "-d", "sent"),
                    *("--upload", "--upload_directory", "deid"),
                ],
                "move dumps": ["-m", f"{tool}.move_dumps", "-d", "get", "-o", "dumps"],
                "a study, to its release": ["-c", f"from bench.files import study; study({str(archive)!r}, 'data')"],
            }
            for title, command in tools.items():
                yield title, cost(command, scratch)


def main(argv: list[str]) -> None:
    """Print a table with a line for each tool, when it has run at all sizes; meanwhile, each cost to standard error."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become children of this process
    sizes = [int(size) for size in argv] or list(SIZES)
    costs: dict[str, list[Cost]] = {}
    for size in sizes:
        for title, one in measure(size):
            costs.setdefault(title, []).append(one)
            print(f"  {size:,} files, {title}: {one.cpu:.1f} s CPU, {one.memory:.0f} MB", file=sys.stderr, flush=True)
    heads = [f"{size:,} files: CPU ms each | memory, MB" for size in sizes]
    print(f"| tool | {' | '.join(heads)} |\n|---|{'---:|---:|' * len(sizes)}")
    for title, of in costs.items():
        pairs = zip(sizes, of, strict=True)
        cells = [f"{1000 * one.cpu / size:.2f} | {one.memory:.0f}" for size, one in pairs]
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
