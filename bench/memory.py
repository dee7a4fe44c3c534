"""Peak memory of our commands that fetch or de-identify one large object: `python -m bench.memory`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.timing import NO_DELAY, ROOT
from pacsifier_ops.embedded.phantoms import phantom_series, write
from tests.support.web_peers import OrthancWeb

SIZES = (10, 100, 1000)


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
        modality="NM",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.20",
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


def peak_memory(server: OrthancWeb, method: str, megabytes: int) -> tuple[float, float]:
    """Peak resident memory in MB (10^6 bytes) and seconds of our command while it fetches one big object."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "query.csv").write_text(f"PatientID\nBIG{megabytes}\n")
        config = server.config(folder)
        if method == "web":
            config.write_text(json.dumps({"url": server.url}))
        command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--save"]
        command += [] if method == "web" else ["--method", method]
        command += ["-c", str(config), "-q", str(folder / "query.csv"), "-d", str(folder / "out")]
        return _measured(command, folder, folder / "out", megabytes)


def memory_of_deidentification(file: Path, megabytes: int) -> tuple[float, float]:
    """The same while it de-identifies the object."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "in" / "sub-BIG").mkdir(parents=True)
        os.link(file, folder / "in" / "sub-BIG" / "1.dcm")
        command = [sys.executable, "-m", "pacsifier_ops.cli.anonymize", "--profile", "default", "--no_contact_sheets"]
        command += ["-d", str(folder / "in"), "-o", str(folder / "out")]
        return _measured(command, folder, folder / "out", megabytes)


def _measured(command: list[str], folder: Path, out: Path, megabytes: int) -> tuple[float, float]:
    """Peak resident memory in MB (10^6 bytes) and seconds of a command that brings one object of so many megabytes."""
    environment = {**os.environ, "PACSIFIER_STATE_ROOT": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    # A process of its own in between: the peak of a child counts from its parent's size on.
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    got = [path.stat().st_size for path in out.glob("sub-*/**/*.dcm")]
    if done.returncode or len(got) != 1 or got[0] < megabytes * 900_000:
        raise RuntimeError(f"the object of {megabytes} MB did not come out:\n{done.stderr[-2000:]}")
    return int(done.stdout) * (1024 if sys.platform == "linux" else 1) / 1e6, seconds


def main() -> None:
    """Print a table of all sizes, in MB, and all services."""
    print("| object | C-GET | C-MOVE | WADO-RS | de-identification |\n|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        server = OrthancWeb(folder / "memory", environment=NO_DELAY)
        server.start()
        try:
            # storescu reads the objects piece by piece.
            big = [str(big_object(folder / "big", size)) for size in SIZES]
            subprocess.run(["storescu", "-aec", server.aet, "127.0.0.1", str(server.port), *big], check=True)
            for size, file in zip(SIZES, big, strict=True):
                measured = [peak_memory(server, method, size) for method in ("get", "move", "web")]
                measured.append(memory_of_deidentification(Path(file), size))
                cells = [f"{peak:.0f} MB ({t:.1f} s)" for peak, t in measured]
                print(f"| {size} MB | {' | '.join(cells)} |")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
