"""A series that the archive keeps on tape, in a running Airflow: its task defers until the next look at it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, ZEBEDAEUS
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

BOTH = f"PatientID\n{KUNIGUNDE['patient_id']}\n{ZEBEDAEUS['patient_id']}\n"


def test_a_task_that_waits_for_a_tape_holds_nothing(shared: SharedAirflow, tmp_path: Path) -> None:
    up = shared.up
    with EmbeddedPacs() as pacs:
        files = airflow_home.build(tmp_path)
        pacs.add(files)
        heads = [dcmread(path, stop_before_pixels=True) for path in files]
        taped = next(str(head.SeriesInstanceUID) for head in heads if head.PatientID == ZEBEDAEUS["patient_id"])
        pacs.faults.nearline, pacs.faults.recall, pacs.faults.recalling = {taped}, 3600, "refuses"
        extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", "recall_wait": 480}  # the first look is after 15 s
        connection = {"conn_type": "dicom", "host": pacs.host, "port": pacs.port, "extra": json.dumps(extra)}
        up._call("api/v2/connections", {"connection_id": "tape", **connection})
        run = up.trigger(BOTH, pacs="tape", out_directory="tape")

        def states() -> Counter[str]:
            return Counter(str(task["state"]) for task in up.tasks(run, "retrieve"))

        up.wait_for(lambda: states() == Counter(success=2, deferred=1))
        pool = up.get("pools/tape")
        assert (pool["running_slots"], pool["queued_slots"], pool["deferred_slots"]) == (0, 0, 1)
        pacs._recalled[taped] = 0.0
        assert up.outcome(run) == "success"
        tasks = up.tasks(run, "retrieve")
        assert [(task["state"], task["try_number"]) for task in tasks] == [("success", 1)] * 3
        assert len(pacs.sent) == len(set(pacs.sent))
        assert airflow_home.traces(up.home / "airflow", airflow_home.identifiers(tmp_path.rglob("*.dcm"))) == []
