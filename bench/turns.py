"""A run of five series that comes while one of 10,000 is under way at the same PACS: how long it takes.

One running Airflow, as `make up` starts it, in front of a simulated archive that takes the same time for each series.
The small run is measured alone, and beside the large one. With `commands`, both are command lines, and no Airflow runs.

python -m bench.turns [commands] [SECONDS OF A SERIES] [ASSOCIATIONS]
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.scale import OF_STUDY, ROOT, Simulated
from tests.support.airflow_home import DAG_ID, Up

LARGE = 10_000
COLUMNS = ("run", "from start to end, series' times", "of these waiting for slots", "series of the large run meanwhile")


def main(argv: list[str]) -> None:
    """Print the table, or with `commands` that of command lines only, for which no Airflow is started."""
    commands = argv[:1] == ["commands"]
    seconds, associations = float((argv[commands:] or ["5"])[0]), int((argv[commands + 1 :] or ["1"])[0])
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        # Patient 0 has the series of the large run, and a study of each of the others those of a small one.
        pacs = Simulated(4 * LARGE, folder / "pacs", LARGE)
        with pacs:
            pacs.faults.delay = seconds
            print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}", flush=True)
            if commands:
                of_commands(pacs, folder, seconds)
            else:
                of_dag_runs(pacs, folder, seconds, associations)
    print(f"\n{seconds:g} s for a series; load of the machine: {os.getloadavg()[0]:.1f}")


def table(patient: int) -> str:
    """Return the query table of a run: of the large one for patient 0."""
    study = f"{ROOT}.1.{patient * LARGE // OF_STUDY}" if patient else ""
    return f"PatientID,StudyInstanceUID\n{patient:08d},{study}\n"


def measure(what: str, pacs: Simulated, seconds: float, run: Callable[[], float]) -> None:
    """Print the line of a small run.

    Args:
        seconds: that a series takes.
        run: does the run, and returns the seconds that it has waited for slots.
    """
    before, began = len(pacs.sent), time.monotonic()
    waited = run()
    took = time.monotonic() - began
    others = len(pacs.sent) - before - OF_STUDY
    print(f"| {what} | {took / seconds:.1f} | {waited / seconds:.1f} | {others} |", flush=True)


def of_dag_runs(pacs: Simulated, folder: Path, seconds: float, associations: int) -> None:
    """Measure DAG runs, and a command line beside them."""
    with Up(folder / "home", {}) as up:
        extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", "max_associations": associations}
        made = {"connection_id": "simulated", "conn_type": "dicom", "host": pacs.host, "port": pacs.port}
        up._call("api/v2/connections", {**made, "extra": json.dumps(extra)})

        def start(patient: int) -> str:
            return up.trigger(table(patient), pacs="simulated", method="get", out_directory=f"out{patient}")

        def small(patient: int) -> float:
            run = start(patient)
            assert up.outcome(run) == "success"
            return sum(waited_for_slot(up.tasks(run, step)[0]) for step in ("find", "retrieve"))

        measure("DAG run, alone", pacs, seconds, lambda: small(1))
        large = start(0)
        up.wait_for(lambda: len(pacs.sent) > 3 * OF_STUDY)
        measure(f"DAG run, beside one of {LARGE:,} series", pacs, seconds, lambda: small(2))
        up._call(f"pacsifier/runs/{DAG_ID}/{quote(large)}/cancel", {})
        up.outcome(large)


def of_commands(pacs: Simulated, folder: Path, seconds: float) -> None:
    """Measure command lines, with the four associations that a command line takes."""
    os.environ["PACSIFIER_STATE_ROOT"] = str(folder / "state")
    config = {"server_address": pacs.host, "port": pacs.port, "server_AET": pacs.aet, "AET": "PACSIFIER"}
    config |= {"move_AET": "", "move_port": 11113, "batch_size": 0, "batch_wait_time": 0}
    (folder / "config.json").write_text(json.dumps(config))

    def begin(patient: int) -> subprocess.Popen[bytes]:
        (folder / f"{patient}.csv").write_text(table(patient))
        command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--config", str(folder / "config.json")]
        command += ["--queryfile", str(folder / f"{patient}.csv"), "--out_directory", str(folder / f"out{patient}")]
        return subprocess.Popen(
            [*command, "--save", "--method", "get"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def small(patient: int) -> float:
        assert begin(patient).wait() == 0
        return 0.0

    measure("command line, alone", pacs, seconds, lambda: small(1))
    large = begin(0)
    while len(pacs.sent) <= 3 * OF_STUDY:
        assert large.poll() is None
        time.sleep(0.1)
    measure(f"command line, beside one of {LARGE:,} series", pacs, seconds, lambda: small(2))
    large.terminate()
    large.wait()


def waited_for_slot(task: dict[str, Any]) -> float:
    """Return the seconds between the moment at which a task could begin and its start."""
    could, began = (dt.datetime.fromisoformat(task[name]) for name in ("scheduled_when", "start_date"))
    return (began - could).total_seconds()


if __name__ == "__main__":
    main(sys.argv[1:])
