"""A small run overtakes a large one at the same PACS, whose connection was made while Airflow runs."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

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


def test_a_large_run_gives_way_between_two_series(shared: SharedAirflow, tmp_path: Path) -> None:
    """Its units have two series each. DAG runs and a command line go first, and it fetches everything all the same."""
    up = shared.up
    series = {"TGL": 502, "TGS": 5, "TGC": 2, "TGB": 1}
    patients = {}
    with EmbeddedPacs() as pacs:
        for patient, count in series.items():
            for number in range(1, count + 1):
                (image,) = phantom_series(
                    patient_id=patient, patient_name="X", series_number=number, n_images=1, rows=8, columns=8
                )
                pacs.add(write([image], tmp_path / patient))
                patients[str(image.SOPInstanceUID)] = patient
        pacs.faults.delay = 1.0
        extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", "max_associations": 1}
        made = {"connection_id": "pacs_gives_way", "conn_type": "dicom", "host": pacs.host, "port": pacs.port}
        up._call("api/v2/connections", {**made, "extra": json.dumps(extra)})

        def start(patient: str, **conf: str) -> str:
            out = f"gives-way-{patient}"
            return up.trigger(f"PatientID\n{patient}\n", pacs="pacs_gives_way", method="get", out_directory=out, **conf)

        def told(run: str) -> dict[str, Any]:
            return dict(up._call(f"pacsifier/runs/{DAG_ID}/{quote(run)}")["waiting"])

        large = start("TGL")
        up.wait_for(lambda: len(pacs.sent) > 4)
        bulk = start("TGB", urgency="bulk")
        small = start("TGS")
        assert up.outcome(small) == "success"
        assert len({task["pool"] for task in up.tasks(small, "retrieve")}) == 1
        assert up.command_line("PatientID\nTGC\n", pacs, tmp_path / "out").code == 0
        # The bulk run waits for a slot, behind the large run, and its page says so.
        up.wait_for(lambda: any(one["what"] == "slots" for one in told(bulk)["for"]))
        (reason,) = (one for one in told(bulk)["for"] if one["what"] == "slots")
        assert (reason["pacs"], reason["place"]) == ("pacs_gives_way", 2) and reason["tasks_before"] > 100
        assert told(large)["expected_end"] > dt.datetime.now(dt.UTC).isoformat() and not told(bulk)["expected_end"]
        # Another PACS does not wait.
        assert up.outcome(up.trigger("PatientID\nNOBODY\n", pacs="pacs_busy", out_directory="elsewhere")) == "success"
        order = [patients[uid] for uid in pacs.sent]
        assert len(order) < len(patients)
        pacs.faults.delay = 0
        assert up.outcome(large) == up.outcome(bulk) == "success"
    assert Counter(patients[uid] for uid in pacs.sent) == series  # everything, and nothing twice
    first, last = order.index("TGS"), len(order) - order[::-1].index("TGS")
    assert order[first:last].count("TGL") <= 2  # once the small run is under way, it ends before the large one goes on
    folder = up.home / "state" / "runs" / dag_run_name(DAG_ID, large)
    assert read_json(folder / "gave_way.json") and list((up.home / "state" / "turns").glob("*/*.json")) == []
