"""One series of many files through every tool: what a file costs, at sizes that show whether it stays the same.

Each tool runs once, as a command of its own, on what the tools before it have made. Its processor time is that of its
processes, user and system; its memory is the peak of the largest of them. The largest file is that of all it has
written. With an Orthanc that speaks DICOMweb, DICOMweb is measured as well. The stages of a study are those of
`bench.night --images 20000 --series 1 20000`.

python -m bench.files [--each-in-a-series] [FILES ...]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from pacsifier_ops.base.config import read_config
from pacsifier_ops.embedded.phantoms import phantom_series, uid
from tests.support.peers import Peer, free_port
from tests.support.study import StudyRun
from tests.support.web_peers import OrthancWeb

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


def images(folder: Path, count: int, apart: bool = False) -> None:
    """Write one series of so many images of 8×8.

    Args:
        apart: each image in a series of its own instead, of one study.
    """
    folder.mkdir(parents=True)
    (image,) = phantom_series(patient_id=PATIENT, patient_name="Bench^Scale", n_images=1, rows=8, columns=8)
    for number in range(1, count + 1):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid("scale", number)
        image.InstanceNumber = image.ImagePositionPatient[2] = number
        if apart:
            image.SeriesInstanceUID, image.SeriesNumber = uid("scale of series", number), number
        image.save_as(folder / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)


def study(config: str, data: str) -> None:
    """A whole study until its release."""
    run = StudyRun(read_config(Path(config)), Path(data), [{"PatientID": PATIENT}])
    run.make()
    run.release()


class Cost(NamedTuple):
    """Processor time of a tool in seconds, peak memory of its largest process and its largest file in MB (10**6 bytes).

    The path is that of this file.
    """

    cpu: float
    memory: float
    largest: float
    path: str


def cost(command: list[str], scratch: Path) -> Cost:
    """Run `python -m command` to its end.

    Raises:
        RuntimeError: it failed; holds the end of what it said.
    """
    own = {"PYTHONPATH": str(ROOT), "PACSIFIER_STATE_ROOT": str(scratch / "state"), "PACSIFIER_DATA_ROOT": str(scratch)}
    others, began = psutil.Process().children(), time.time()
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
    written = [(status.st_size, path) for path, status in _files(scratch) if status.st_mtime >= began]
    size, path = max(written, default=(0, ""))
    return Cost(cpu, kilobytes * 1024 / 1e6, size / 1e6, path)


def _files(scratch: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The files that tools have written: those of the archives are not."""
    for folder, below, names in os.walk(scratch):
        if folder == str(scratch):
            below[:] = [name for name in below if name.islower()]
        for name in names:
            with suppress(FileNotFoundError):
                path = os.path.join(folder, name)
                yield os.path.relpath(path, scratch), os.stat(path)


@contextmanager
def archives(scratch: Path) -> Iterator[tuple[Path, Path, Path | None]]:
    """Configurations of an archive that holds the images, of an empty one, and of an empty one by DICOMweb."""
    with ExitStack() as stack:
        configs = []
        for name in ("ARCHIVE", "RESEARCH"):
            archive = Archive(scratch / name, name, free_port())
            stack.callback(archive.stop)
            archive.start(600)
            configs.append(archive.config(archive.folder))
        web = None
        if OrthancWeb.find_program():
            (scratch / "WEB").mkdir()
            orthanc = OrthancWeb(scratch / "WEB")
            stack.callback(orthanc.stop)
            orthanc.start(60)
            web = scratch / "WEB" / "config.json"
            web.write_text(json.dumps({"url": orthanc.url}))
        yield configs[0], configs[1], web


def measure(count: int, apart: bool = False) -> Iterator[tuple[str, Cost]]:
    """Run every tool on a series of so many files; yield its name and cost as soon as it has ended.

    Args:
        apart: see `images`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        images(scratch / "ARCHIVE" / "images", count, apart)
        (scratch / "table.csv").write_text(f"PatientID\n{PATIENT}\n")
        (scratch / "share").mkdir()
        share = scratch / "share.json"
        share.write_text(json.dumps({"conn_type": "fs", "extra": {"path": str(scratch / "share")}}))
        with archives(scratch) as (archive, research, web):
            tool = "pacsifier_ops.cli"
            fetch = ["-m", f"{tool}.pacsifier", "-c", str(archive), "-q", "table.csv", "--save", "--info"]
            both = ["-m", f"{tool}.get_pseudonyms", "-m", "local", "-a", "p", "-d", "linkage", "--in_folder", "get"]
            deid = ["-m", f"{tool}.anonymize", "-d", "get", "--profile", "default"]
            plain = ["--no_contact_sheets", "-o", "deid"]
            nifti = ["-m", f"{tool}.convert", "-d", "deid"]

            def upload(where: Path, logs: str, folder: str = "deid") -> list[str]:
                words = ["-m", f"{tool}.pacsifier", "-c", str(where), "-d", logs]
                return [*words, "--upload", "--upload_directory", folder]

            tools = {
                "extract, C-GET": [*fetch, "--method", "get", "-d", "get"],
                "extract, C-MOVE": [*fetch, "--method", "move", "-d", "move"],
                "extract again, nothing new": [*fetch, "--method", "get", "-d", "get"],
                "get pseudonyms": both,
                "de-identify": [*deid, *plain],
                "de-identify again, nothing new": [*deid, *plain],
                "de-identify a third time": [*deid, *plain],
                "de-identify, with contact sheets": [*deid, "-o", "sheets"],
                "Karnak tags": ["-m", f"{tool}.add_karnak_tags", "-d", "get", "-o", "tagged", "-a", "album"],
                "DICOMDIR": ["-m", f"{tool}.create_dicomdir", "-d", "get", "-o", "disc"],
                "DICOMDIR, archives of 5 MB": [
                    *("-m", f"{tool}.create_dicomdir", "-d", "get", "-o", "discs", "--zip", "--volume_size", "5")
                ],
                "NIfTI": [*nifti, "-o", "nifti"],
                "BIDS": [*nifti, "-o", "bids", "--layout", "bids"],
                "upload, C-STORE": upload(research, "sent"),
                "upload again, nothing new": upload(research, "sent"),
                "upload, folder": upload(share, "shared"),
                "move dumps": ["-m", f"{tool}.move_dumps", "-d", "get", "-o", "dumps"],
                "a study, to its release": ["-c", f"from bench.files import study; study({str(archive)!r}, 'data')"],
            }
            if web:
                from_web = ["-m", f"{tool}.pacsifier", "-c", str(web), "-q", "table.csv", "--save", "--info"]
                tools |= {
                    "upload, STOW-RS": upload(web, "stowed", "move"),
                    "extract, WADO-RS": [*from_web, "-d", "web"],
                }
            for title, command in tools.items():
                yield title, cost(command, scratch)


def main(argv: list[str]) -> None:
    """Print a table with a line for each tool, when it has run at all sizes; meanwhile, each cost to standard error."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become children of this process
    parser = argparse.ArgumentParser(prog="python -m bench.files", description=__doc__)
    parser.add_argument("files", type=int, nargs="*", default=SIZES, help="numbers of files")
    parser.add_argument("--each-in-a-series", action="store_true", help="a series of one image for each file")
    arguments = parser.parse_args(argv)
    costs: dict[str, list[Cost]] = {}
    for size in arguments.files:
        for title, one in measure(size, arguments.each_in_a_series):
            costs.setdefault(title, []).append(one)
            said = f"{one.cpu:.1f} s CPU, {one.memory:.0f} MB, largest file {one.largest:.1f} MB ({one.path})"
            print(f"  {size:,} files, {title}: {said}", file=sys.stderr, flush=True)
    heads = [f"{size:,} files: CPU ms each | memory, MB | largest file, MB" for size in arguments.files]
    print(f"| tool | {' | '.join(heads)} |\n|---|{'---:|---:|---:|' * len(arguments.files)}")
    for title, of in costs.items():
        pairs = zip(arguments.files, of, strict=True)
        cells = [f"{1000 * one.cpu / size:.2f} | {one.memory:.0f} | {one.largest:.1f}" for size, one in pairs]
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
