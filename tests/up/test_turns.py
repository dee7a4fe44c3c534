"""A small run overtakes a large one at the same PACS, whose connection was made while Airflow runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import phantom_series, write
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
