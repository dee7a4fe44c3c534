"""Messages of a running Airflow: ends of runs and questions, by mail, and the link that leads to the run."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from email.message import EmailMessage
from typing import Any

import pytest

from tests.support import airflow_home
from tests.support.airflow_home import DAG_ID, KUNIGUNDE, Up
from tests.support.mail import MailServer
from tests.support.peers import free_port
from tests.support.shared import VIEWER, SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

MESSAGES = "pacsifier_messages"
CONNECTION = "mail_of_messages"
ANNA = "anna@hospital.example"


@pytest.fixture(scope="module")
def server(shared: SharedAirflow) -> Iterator[MailServer]:
    """Let Airflow's mails arrive here."""
    up = shared.up
    up._call("api/v2/variables", {"key": "pacsifier", "value": json.dumps({"mail": CONNECTION})})
    with MailServer() as mails:
        described = json.loads(mails.connection)
        up._call(
            "api/v2/connections",
            {"connection_id": CONNECTION, **described, "extra": json.dumps(described["extra"])},
        )
        yield mails
    for made in (f"connections/{CONNECTION}", "variables/pacsifier"):
        with suppress(json.JSONDecodeError):  # the answer is empty
            up._call(f"api/v2/{made}", method="DELETE")


@pytest.fixture
def mails(shared: SharedAirflow, server: MailServer) -> MailServer:
    """The mails of a test: what others did is not told any more."""
    tell(shared.up)
    server.got.clear()
    return server


def tell(up: Up) -> str:
    """Send what waits; return the state of the run that does."""
    return up.outcome(up.start(MESSAGES), MESSAGES)


def sent(mails: MailServer) -> dict[str, EmailMessage]:
    """The mails to Anna, by what they say first."""
    return {
        str(mail["Subject"]).removeprefix(f"PACSIFIER: {DAG_ID}: "): mail for _, to, mail in mails.got if to == [ANNA]
    }


def test_an_end_is_told_once_and_its_link_leads_to_the_run(shared: SharedAirflow, mails: MailServer) -> None:
    up = shared.up
    named: dict[str, Any] = {"tell": [ANNA], "out_directory": "messages", "accept_incomplete": True}
    table = f"PatientID\n{KUNIGUNDE['patient_id']}\n"
    run = up.trigger(table, **named)
    assert up.outcome(run) == "success"
    gone = up.trigger(table, **{**named, "pacs": "there_is_none"})
    assert up.outcome(gone) == "failed"
    assert tell(up) == tell(up) == "success"
    told = sent(mails)
    assert len(mails.got) == 2 and set(told) == {"complete", "failed"}
    body = mails.html(told["complete"])
    assert "series: 2" in body and "received: 5" in body
    link = urllib.parse.urlsplit(re.findall('href="(.*?)"', body)[0])
    request = urllib.request.Request(f"{up.url}{link.path}", headers={"Authorization": f"Bearer {up.token(VIEWER)}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["run_id"] == run
    request.full_url = f"{up.url}/pacsifier/go/{DAG_ID}/{DAG_ID}-{'0' * 16}"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(request, timeout=30)
    words = airflow_home.identifiers(shared.files)
    assert not [word for word in words for mail in told.values() if word in f"{mail['Subject']} {mails.html(mail)}"]


def test_a_question_is_told_until_it_is_answered(shared: SharedAirflow, mails: MailServer) -> None:
    up = shared.up
    named: dict[str, Any] = {"tell": ANNA, "out_directory": "messages-asked", "max_series": 1, "approval": True}
    kept = up.home / "state" / "messages" / "open"
    before = {*kept.glob("*")}  # questions of other tests
    run = up.trigger(f"PatientID\n{KUNIGUNDE['patient_id']}\n", **named)
    up.question(run, DAG_ID)
    assert tell(up) == "success"
    assert len(mails.got) == 1 and "series: 2" in mails.html(sent(mails)["waits for your answer"])
    assert len({*kept.glob("*")} - before) == 1
    task = f"dags/{DAG_ID}/dagRuns/{urllib.parse.quote(run)}/taskInstances/approve/-1/hitlDetails"
    up.patch(task, {"chosen_options": ["Reject"], "params_input": {}})
    assert up.outcome(run) == "failed" and tell(up) == "success"
    assert len(mails.got) == 2 and "rejected" in sent(mails)
    assert not {*kept.glob("*")} - before


def test_what_cannot_be_sent_is_said_and_sent_later(shared: SharedAirflow, mails: MailServer) -> None:
    up = shared.up
    run = up.trigger(f"PatientID\n{KUNIGUNDE['patient_id']}\n", tell=f"{ANNA}, no_channel", out_directory="messages-2")
    assert up.outcome(run) == "success"  # whatever becomes of its message
    up.patch(f"connections/{CONNECTION}?update_mask=port", {**_connection(up), "port": free_port()})
    sending = up.start(MESSAGES)
    assert up.outcome(sending, MESSAGES) == "failed" and not mails.got
    path = f"dags/{MESSAGES}/dagRuns/{urllib.parse.quote(sending)}/taskInstances/send/logs/1"
    log = json.dumps(up.get(f"{path}?full_content=true"))
    assert f"mail: the connection {CONNECTION} does not work: ConnectionRefusedError" in log
    assert "there is no connection no_channel; make one of type message_channel" in log and ANNA not in log
    port = json.loads(mails.connection)["port"]
    up.patch(f"connections/{CONNECTION}?update_mask=port", {**_connection(up), "port": port})
    assert tell(up) == tell(up) == "failed"  # because of the channel
    assert [to for _, to, _ in mails.got] == [[ANNA]]


def _connection(up: Up) -> dict[str, Any]:
    known: dict[str, Any] = up.get(f"connections/{CONNECTION}")
    return {"connection_id": CONNECTION, "conn_type": known["conn_type"], "host": known["host"]}
