"""The extract DAG through the real scheduler (LocalExecutor), with what Airflow itself adds shown apart.

python -m bench.dag [ROUNDS]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bench.retrieve import orthanc
from bench.timing import SMALL, STEADY, spread
from pacsifier_ops.base.files import read_json
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support.airflow_home import DAG_ID, Up
from tests.support.peers import Orthanc


@dataclass
class DagTimes:
    """Runs of the DAG on one cohort; every list has a number per run.

    Attributes:
        total: seconds from the start to the end of the DAG run.
        busy: seconds within it in which at least one series was being retrieved.
        tasks: task instances.
        exact: every run ended complete.
    """

    total: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    tasks: int = 0
    exact: bool = True


def time_dag(server: Orthanc, patients: Sequence[str], rounds: int) -> dict[str, DagTimes]:
    """Run the DAG `rounds` times for each patient, C-GET, into fresh folders."""
    # What `Up` needs to know of a PACS to make a connection of it.
    node = cast(EmbeddedPacs, SimpleNamespace(aet=server.aet, host="127.0.0.1", port=server.port, destinations={}))
    results = {patient: DagTimes() for patient in patients}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Up(Path(name), {"pacs_bench": node}) as up:
        for round_ in range(rounds):
            for patient, times in results.items():
                conf = {"pacs": "pacs_bench", "out_directory": f"out-{patient}-{round_}", "method": "get"}
                run = up.trigger(f"PatientID\n{patient}\n", **conf)
                times.exact &= up.outcome(run) == "success"
                dag_run: dict[str, Any] = up.get(f"dags/{DAG_ID}/dagRuns/{run}")
                times.total.append(_seconds(dag_run["start_date"], dag_run["end_date"]))
                times.tasks = len(up.tasks(run))
                value = f"dags/{DAG_ID}/dagRuns/{run}/taskInstances/report/xcomEntries/return_value?deserialize=true"
                report = Path(up.get(value)["value"]["report"])
                times.busy.append(_busy(up.tasks(run, "retrieve"), read_json(report.with_name("accounts.json"))))
                print(f"  DAG: {patient}: {times.total[-1]:.1f} s, {times.busy[-1]:.1f} s retrieving", file=sys.stderr)
    return results


def _busy(tasks: list[dict[str, Any]], accounts: dict[str, Any]) -> float:
    """How long at least one series was being retrieved: each during the last seconds of its task."""
    busy, until = 0.0, 0.0
    ends = [datetime.fromisoformat(task["end_date"]).timestamp() for task in tasks]
    spans = [(end - series["seconds"], end) for end, series in zip(ends, accounts["series"], strict=True)]
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def main() -> None:
    """Print a table."""
    print("| cohort | tasks | seconds | of it retrieving | Airflow's share, per task | complete |")
    print("|---|---:|---:|---:|---:|---|")
    cohorts = (SMALL, STEADY[1])
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        files = [path for cohort in cohorts for path in cohort.write(Path(name) / cohort.patient)]
        with orthanc(Path(name) / "orthanc", files) as server:
            dag = time_dag(server, [cohort.patient for cohort in cohorts], int(sys.argv[1]) if sys.argv[1:] else 3)
    for cohort, times in zip(cohorts, dag.values(), strict=True):
        shares = [(total - busy) / times.tasks for total, busy in zip(times.total, times.busy, strict=True)]
        cells = [cohort.name, str(times.tasks), spread(times.total), spread(times.busy), spread(shares)]
        print(f"| {' | '.join(cells)} | {'yes' if times.exact else 'no'} |")


if __name__ == "__main__":
    main()
