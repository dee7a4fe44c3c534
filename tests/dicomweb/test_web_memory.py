"""Memory of our command does not depend on the size of an object that a web archive sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.memory import MEASURE, big_object
from tests.support.faulty_web import FaultyWeb

#: Megabytes (10^6 bytes) of the objects, and what may be the noise of a measurement.
SMALL, LARGE, NOISE = 10, 300, 25


def peak(web: FaultyWeb, folder: Path, megabytes: int) -> float:
    """Peak resident memory, in MB, of the command as a process of its own, while it fetches one object."""
    folder.mkdir()
    (folder / "web.json").write_text(json.dumps({"url": web.url}))
    (folder / "query.csv").write_text(f"PatientID\nBIG{megabytes}\n")
    # A process in between: the peak of a child counts from its parent's size on.
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--save"]
    command += ["-c", str(folder / "web.json"), "-q", str(folder / "query.csv"), "-d", str(folder / "out")]
    environment = {**os.environ, "PACSIFIER_STATE_ROOT": str(folder / "state")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (got,) = (folder / "out").glob("sub-*/**/*.dcm")
    assert got.stat().st_size > megabytes * 900_000
    got.unlink()
    return int(done.stdout) * (1024 if sys.platform == "linux" else 1) / 1e6


def test_memory_is_flat(tmp_path: Path) -> None:
    with FaultyWeb(tmp_path / "web") as web:
        web.load(big_object(tmp_path / "big", size) for size in (SMALL, LARGE))
        small, large = (peak(web, tmp_path / str(size), size) for size in (SMALL, LARGE))
    assert not web.errors
    assert large < small + NOISE
