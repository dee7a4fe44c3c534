"""The documented chain with a sensor, by the real scheduler and triggerer."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import pytest

from tests.support import airflow_home
from tests.support.shared import Crooked, SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]


def test_the_documented_chain_waits_through_a_restart_without_worker_and_pool_slot(shared: SharedAirflow) -> None:
    up, home, files = shared.up, shared.up.home, shared.files

    def run_of(dag: str) -> dict[str, Any] | None:
        """The run of the chain, or the one that it has started."""
        runs = up.get(f"dags/{dag}/dagRuns?order_by=-run_after&limit=20")["dag_runs"]
        return next((run for run in runs if dag == "nightly" or run["conf"].get("out_directory") == "arrived"), None)

    def state(task: str) -> str | None:
        run = run_of("nightly")
        assert run
        path = f"dags/nightly/dagRuns/{urllib.parse.quote(run['dag_run_id'])}/taskInstances"
        return {t["task_id"]: t["state"] for t in up.get(path)["task_instances"]}.get(task)

    with Crooked(SeriesNumber="Wurzelbacher") as pacs:

        def looks_pass() -> None:
            before = len(pacs.queries)
            up.wait_for(lambda: len(pacs.queries) > before or state("arrived") != "deferred")
            assert state("arrived") == "deferred" and state("extract") is None

        up.wait_for(lambda: any(dag["dag_id"] == "nightly" for dag in up.get("dags?limit=100")["dags"]))
        (home / "data" / "queries" / "tonight.csv").write_text(
            f"PatientID,AccessionNumber\n{airflow_home.KUNIGUNDE['patient_id']},\n,QACC990288\n"
        )
        # The connection is in Airflow's database, and the triggerer reads it there.
        connection = {"connection_id": "pacs_night", "conn_type": "dicom", "host": pacs.host, "port": pacs.port}
        up._call("api/v2/connections", {**connection, "extra": json.dumps({"called_aet": pacs.aet})})
        up._call("api/v2/dags/nightly/dagRuns", {"logical_date": None})
        up.wait_for(lambda: state("arrived") == "deferred")
        looks_pass()
        pacs.add(files[:1])
        looks_pass()
        for pool in up.get("pools")["pools"]:
            assert pool["occupied_slots"] == pool["running_slots"] == pool["queued_slots"] == 0
            assert pool["deferred_slots"] == (pool["name"] == "default_pool")
        up.restart()
        looks_pass()
        pacs.add(files[1:])
        up.wait_for(lambda: state("arrived") == "success")
        up.wait_for(lambda: (run_of("pacsifier_extract") or {}).get("state") in ("success", "failed"))
        assert (run_of("pacsifier_extract") or {})["state"] == "success"
    assert len(list((home / "data" / "arrived").glob("sub-*/*/*/*.dcm"))) == 7
    words = airflow_home.identifiers(files)
    assert airflow_home.traces(home / "state", words)
    assert airflow_home.traces(home / "airflow", words) == airflow_home.traces(home / "logs", words) == []
