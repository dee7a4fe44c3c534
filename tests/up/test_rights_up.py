"""Rights in a running Airflow: those of the user who starts a run, by name and by role, whatever starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.onebox import up as local
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, Up
from tests.support.shared import USER, SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

TABLE = f"PatientID\n{KUNIGUNDE['patient_id']}\n"


@pytest.fixture
def pacs(shared: SharedAirflow) -> Iterator[EmbeddedPacs]:
    """A PACS of which only users of the role `user` may take, and only the administrator is urgent."""
    up = shared.up
    with EmbeddedPacs() as running:
        running.add(shared.files)
        extra = {
            "called_aet": running.aet,
            "may_take": "role:user",
            "may_identified": f"{USER}, {local.USER}",
            "may_urgent": local.USER,
        }
        body = {"connection_id": "pacs_rights", "conn_type": "dicom", "host": running.host, "port": running.port}
        up._call("api/v2/connections", {**body, "extra": json.dumps(extra)})
        yield running
        up.log_in(local.USER)


def audited(up: Up) -> list[dict[str, Any]]:
    path = up.home / "state" / "audit" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_has_the_rights_of_who_starts_it(shared: SharedAirflow, pacs: EmbeddedPacs, tmp_path: Path) -> None:
    up = shared.up
    conf = {"pacs": "pacs_rights", "out_directory": "rights"}
    refused = up.trigger(TABLE, **conf)  # by the administrator, who has the role admin
    assert up.outcome(refused) == "failed"
    up.log_in(USER)
    too_urgent = up.trigger(TABLE, **conf, urgency="urgent")
    assert up.outcome(too_urgent) == "failed"
    assert not pacs.queries and not pacs.peak_associations
    good = up.trigger(TABLE, **conf)
    assert up.outcome(good) == "success" and pacs.queries

    lines = [line for line in audited(up) if "pacs_rights" in line.get("connections", ())]
    assert [(line["event"], line["by"], line.get("right")) for line in lines] == [
        ("refused", local.USER, "take"),
        ("refused", USER, "urgent"),
        ("started", USER, None),
    ]
    assert airflow_home.traces(up.home / "state" / "audit", airflow_home.identifiers(shared.files)) == []

    state = {**os.environ, "PACSIFIER_STATE_ROOT": str(up.home / "state")}
    command = [sys.executable, "-m", "pacsifier_ops.cli.audit"]
    head = subprocess.run([*command, "head"], env=state, capture_output=True, text=True, check=True).stdout.strip()
    verify = subprocess.run([*command, "verify", "--head", head], env=state, capture_output=True, text=True)
    assert verify.returncode == 0 and verify.stdout.startswith("whole: ")
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    digest = subprocess.run([*command, "digest", str(table)], env=state, capture_output=True, text=True)
    assert digest.stdout.strip() == lines[2]["cohort"]


def test_only_an_approver_releases_and_the_page_says_who_that_is(shared: SharedAirflow) -> None:
    up, study = shared.up, "pacsifier_study"
    people = {"owners": [local.USER], "approvers": [USER], "ethics": "EC 2026-00123", "expires": "2999-12-31"}
    (up.home / "data" / "by-approvers.csv").write_text("AccessionNumber\nQACC990399\n")
    run = up.start(study, project="by-approvers", queryfile="by-approvers.csv", source="local", **people)
    assert up.question(run, study)["task_instance"]["task_id"] == "approve"
    answer = f"dags/{study}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    body = {"chosen_options": ["Approve"], "params_input": {}}
    with pytest.raises(urllib.error.HTTPError, match="403"):
        up.patch(answer, body)  # the administrator, who may do all else
    up.log_in(USER)
    try:
        up.patch(answer, body)
    finally:
        up.log_in(local.USER)
    assert up.outcome(run, study) == "success"
    told = up._call(f"pacsifier/runs/{study}/{urllib.parse.quote(run, safe='')}")
    assert told["project"] == {"project": "by-approvers", **people}
    lines = audited(up)
    (released,) = [line for line in lines if line["event"] == "released" and line["project"] == "by-approvers"]
    own = [line for line in lines if line.get("run") == released["run"]]
    (approved,) = [line for line in own if line["event"] == "approved" and line["by"] == USER]
    assert released["digest"] == approved["digest"]


def test_after_its_last_day_a_project_starts_no_run(shared: SharedAirflow) -> None:
    up, study = shared.up, "pacsifier_study"
    (up.home / "data" / "expired.csv").write_text("AccessionNumber\nQACC990399\n")
    run = up.start(study, project="expired", queryfile="expired.csv", source="local", expires="2020-01-31")
    assert up.outcome(run, study) == "failed"
    told = up._call(f"pacsifier/runs/{study}/{urllib.parse.quote(run, safe='')}")
    assert "the project has expired, 2020-01-31 was its last day" in told["failure"]["sentence"]
    (line,) = [line for line in audited(up) if line.get("project") == "expired"]
    assert line["event"] == "refused" and line["by"] == local.USER
