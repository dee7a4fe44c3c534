"""The retrieval window in a running Airflow: tasks defer until it opens, and then go on."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, ZEBEDAEUS, Up
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

ONE = f"PatientID\n{KUNIGUNDE['patient_id']}\n"
BOTH = f"{ONE}{ZEBEDAEUS['patient_id']}\n"


def opening(seconds: float) -> str:
    """Return a window that opens after a number of seconds, and stays open for some hours."""
    begin = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return f"{begin:%H:%M:%S}-{begin + dt.timedelta(hours=6):%H:%M:%S}"


def connect(up: Up, pacs: EmbeddedPacs, name: str, window: str) -> None:
    """Make a connection to a PACS with a window."""
    extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", "window": window, "timezone": "UTC"}
    connection = {"conn_type": "dicom", "host": pacs.host, "port": pacs.port, "extra": json.dumps(extra)}
    up._call("api/v2/connections", {"connection_id": name, **connection})


def states(up: Up, run: str) -> Counter[str]:
    """Return the states of the retrieve tasks."""
    return Counter(str(task["state"]) for task in up.tasks(run, "retrieve"))


def test_a_run_outside_the_window_waits_for_it(shared: SharedAirflow, tmp_path: Path) -> None:
    up = shared.up
    with EmbeddedPacs() as pacs:
        pacs.add(airflow_home.build(tmp_path))
        connect(up, pacs, "open", opening(-60))
        for seconds in (15, 30, 60, 120):  # longer windows for slow machines
            name, out = f"opens_in_{seconds}", f"window{seconds}"
            assert up.outcome(up.trigger(ONE, pacs="open", out_directory=out)) == "success"
            before = len(pacs.sent)
            connect(up, pacs, name, opening(seconds))
            run = up.trigger(BOTH, pacs=name, out_directory=out)
            if waits(up, run, name):
                break
        assert up.outcome(run) == "success"
        # The present series did not wait. The others went on in the same try, and nothing was fetched twice.
        tasks = up.tasks(run, "retrieve")
        assert [(task["state"], task["try_number"]) for task in tasks] == [("success", 1)] * 3
        new = pacs.sent[before:]
        assert len(new) == len(set(new)) == 2 and not set(new) & set(pacs.sent[:5])
        assert airflow_home.traces(up.home / "airflow", airflow_home.identifiers(tmp_path.rglob("*.dcm"))) == []


def waits(up: Up, run: str, name: str) -> bool:
    """Whether a run waited for the window of its connection; it must then hold no slot of the pool."""
    waiting = Counter(success=2, deferred=1)
    up.wait_for(lambda: states(up, run) == waiting or states(up, run)["success"] == 3)
    pool = up.get(f"pools/{name}")
    if states(up, run) != waiting:
        return False
    assert (pool["running_slots"], pool["queued_slots"], pool["deferred_slots"]) == (0, 0, 1)
    return True
