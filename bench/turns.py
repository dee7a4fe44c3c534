"""A run of five series that comes while one of 10,000 is under way at the same PACS: how long it takes.

One running Airflow, as `make up` starts it, in front of a simulated archive that takes the same time for each series.
The small run is measured three times: alone, beside the large run, and as a command line beside it.

python -m bench.turns [SECONDS OF A SERIES] [ASSOCIATIONS]
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.scale import ROOT, Simulated
from tests.support.airflow_home import DAG_ID, Up

LARGE, SMALL = 10_000, 5
COLUMNS = ("run", "from start to end, series' times", "of these waiting for slots", "series of the large run meanwhile")


def main(argv: list[str]) -> None:
    """Print the table."""
    seconds, associations = float(argv[0]) if argv else 5.0, int(argv[1]) if argv[1:] else 1
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        # Patient 0 has the series of the large run, each of the others those of a small one.
        pacs = Simulated(4 * LARGE, folder / "pacs", LARGE)
        with pacs, Up(folder / "home", {}) as up:
            pacs.faults.delay = seconds
            extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", "max_associations": associations}
            made = {"connection_id": "simulated", "conn_type": "dicom", "host": pacs.host, "port": pacs.port}
            up._call("api/v2/connections", {**made, "extra": json.dumps(extra)})
            print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}", flush=True)

            def table(patient: int) -> str:
                studies = [f"{ROOT}.1.{(patient * LARGE) // 5}"] if patient else [""]
                return "PatientID,StudyInstanceUID\n" + "".join(f"{patient:08d},{study}\n" for study in studies)

            def start(patient: int) -> str:
                return up.trigger(table(patient), pacs="simulated", method="get", out_directory=f"out{patient}")

            def measured(what: str, patient: int, run: Callable[[int], float]) -> None:
                before, began = len(pacs.sent), time.monotonic()
                waited = run(patient)
                took = time.monotonic() - began
                others = len(pacs.sent) - before - SMALL
                print(f"| {what} | {took / seconds:.1f} | {waited / seconds:.1f} | {others} |", flush=True)

            def as_dag_run(patient: int) -> float:
                run = start(patient)
                assert up.outcome(run) == "success"
                return sum(map(waited_for_slot, [*up.tasks(run, "find"), *up.tasks(run, "retrieve")][:2]))

            def as_command(patient: int) -> float:
                assert up.command_line(table(patient), pacs, folder / f"out{patient}").code == 0
                return 0.0

            measured("alone", 1, as_dag_run)
            large = start(0)
            up.wait_for(lambda: len(pacs.sent) > 3 * SMALL)
            measured(f"beside {LARGE:,} series", 2, as_dag_run)
            measured(f"a command line beside {LARGE:,} series", 3, as_command)
            up._call(f"pacsifier/runs/{DAG_ID}/{large.replace(':', '%3A').replace('+', '%2B')}/cancel", {})
            up.outcome(large)
    print(f"\n{seconds:g} s for a series, {associations} association(s); load of the machine: {os.getloadavg()[0]:.1f}")


def waited_for_slot(task: dict[str, Any]) -> float:
    """Return the seconds between the moment at which a task could begin and its start."""
    could, began = (dt.datetime.fromisoformat(task[name]) for name in ("scheduled_when", "start_date"))
    return (began - could).total_seconds()


if __name__ == "__main__":
    main(sys.argv[1:])
