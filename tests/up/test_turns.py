"""A small run overtakes a large one at the same PACS, whose connection was made while Airflow runs."""

from __future__ import annotations

import datetime as dt
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydicom.dataset import FileDataset

from bench.scale import OF_STUDY, ROOT, Simulated
from pacsifier_ops.base.files import read_json
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.runs.folder import dag_run_name
from tests.support.airflow_home import DAG_ID
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

#: Patients of each run, with a row and a series each.
LARGE, SMALL = 12, 2


def test_a_small_run_overtakes_a_large_one(shared: SharedAirflow, tmp_path: Path) -> None:
    up = shared.up
    patients = {"turns-large": [f"TRL-{n}" for n in range(LARGE)], "turns-small": [f"TRS-{n}" for n in range(SMALL)]}
    with EmbeddedPacs() as pacs:
        for patient in (*patients["turns-large"], *patients["turns-small"]):
            pacs.add(write(phantom_series(patient_id=patient, patient_name="X", n_images=1), tmp_path / patient))
        pacs.faults.delay = 0.5
        extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", "max_associations": 1}
        made = {"connection_id": "pacs_turns", "conn_type": "dicom", "host": pacs.host, "port": pacs.port}
        up._call("api/v2/connections", {**made, "extra": json.dumps(extra)})

        def start(name: str) -> str:
            table = "\n".join(["PatientID", *patients[name], ""])
            return up.trigger(table, pacs="pacs_turns", method="get", out_directory=name)

        large = start("turns-large")
        up.wait_for(lambda: any(task["state"] == "running" for task in up.tasks(large, "find")))
        small = start("turns-small")
        assert up.outcome(small) == up.outcome(large) == "success"
    ours, theirs = ([*up.tasks(run, "find"), *up.tasks(run, "retrieve")] for run in (small, large))
    assert (len(ours), len(theirs)) == (2 * SMALL, 2 * LARGE)
    assert {task["pool"] for task in (*ours, *theirs)} == {"pacs_turns"}
    last = max(task["start_date"] for task in ours)
    assert sum(task["start_date"] > last for task in theirs) >= LARGE // 3


#: Series of a large run, and of each of its units.
MANY, UNIT = 2_000, 4


class Gated(Simulated):
    """Keeps its answer back, while the gate is closed, for a series of the large run that others of its unit follow."""

    def __init__(self, folder: Path) -> None:
        super().__init__(3 * MANY, folder, of_patient=MANY)
        self.gate = threading.Event()
        self.gate.set()

    def _wanted(self, event: Any) -> list[FileDataset]:
        wanted = super()._wanted(event)
        number = int(str(wanted[0].SOPInstanceUID).rpartition(".")[2])
        if number < MANY and number % UNIT < UNIT - 1:
            self.gate.wait(100)  # before we give it up
        return wanted


def test_a_large_run_gives_way_between_two_series(shared: SharedAirflow, tmp_path: Path) -> None:
    """The page of a run that waits says what for."""
    up = shared.up
    pacs = Gated(tmp_path / "pacs")
    with pacs:
        pacs.faults.delay = 0.5
        extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", "max_associations": 1}
        made = {"connection_id": "pacs_gives_way", "conn_type": "dicom", "host": pacs.host, "port": pacs.port}
        up._call("api/v2/connections", {**made, "extra": json.dumps(extra)})

        def start(patient: int, study: bool = True, **conf: str) -> str:
            uid = f"{ROOT}.1.{patient * MANY // OF_STUDY}" if study else ""
            table = f"PatientID,StudyInstanceUID\n{patient:08d},{uid}\n"
            out = f"gives-way-{patient}"
            return up.trigger(table, pacs="pacs_gives_way", method="get", out_directory=out, **conf)

        def told(run: str) -> dict[str, Any]:
            return dict(up._call(f"pacsifier/runs/{DAG_ID}/{quote(run)}"))

        def patients() -> list[int]:
            return [int(uid.rpartition(".")[2]) // MANY for uid in pacs.sent]

        large = start(0, study=False)
        up.wait_for(lambda: len(pacs.sent) > 2)
        bulk = start(2, urgency="bulk")
        small = start(1)
        up.wait_for(lambda: any(task["state"] == "success" for task in up.tasks(small, "find")))
        pacs.gate.clear()
        up.wait_for(lambda: sum(bool(task["state"]) for task in up.tasks(small, "retrieve")) == OF_STUDY)
        pacs.gate.set()
        assert up.outcome(small) == "success"
        assert {task["pool"] for task in up.tasks(small, "retrieve")} == {"pacs_gives_way"}
        # Once the small run is under way, it ends before the large one goes on.
        order = patients()
        first, last = order.index(1), len(order) - order[::-1].index(1)
        assert order.count(1) == OF_STUDY and order[first:last].count(0) <= 2
        folder = up.home / "state" / "runs" / dag_run_name(DAG_ID, large)
        assert read_json(folder / "gave_way.json").keys() == {dag_run_name(DAG_ID, small)}
        # The bulk run waits for a slot, behind the large run.
        reasons: list[dict[str, Any]] = []

        def waits_for_slot() -> bool:
            reasons[:] = [one for one in told(bulk)["waiting"]["for"] if one["what"] == "slots"]
            return bool(reasons)

        up.wait_for(waits_for_slot)
        assert (reasons[0]["pacs"], reasons[0]["place"]) == ("pacs_gives_way", 2) and reasons[0]["tasks_before"] > 100
        assert told(large)["waiting"]["expected_end"] > dt.datetime.now(dt.UTC).isoformat()
        assert not told(bulk)["waiting"]["expected_end"] and told(small)["waiting"] is None
        # Another PACS does not wait.
        assert up.outcome(up.trigger("PatientID\nNOBODY\n", pacs="pacs_busy", out_directory="elsewhere")) == "success"
        assert 2 not in patients()
        up._call(f"pacsifier/runs/{DAG_ID}/{quote(large)}/cancel", {})
        assert up.outcome(large) == "failed" and up.outcome(bulk) == "success"
    assert patients().count(2) == OF_STUDY
    left = {path.stem for path in (up.home / "state" / "turns").glob("*/*.json")}
    assert not left & {dag_run_name(DAG_ID, run) for run in (large, bulk, small)}
