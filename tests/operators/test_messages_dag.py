"""Runs of the DAG that sends messages through `dag.test()`, with a mail server."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base import settings
from pacsifier_ops.base.telling import FAILED
from pacsifier_ops.messages import Message, noticing, outbox
from pacsifier_ops.runs.folder import Run, dag_run_name
from tests.support import airflow_home
from tests.support.airflow_home import Airflow
from tests.support.mail import MailServer

pytestmark = pytest.mark.airflow

MESSAGES = "pacsifier_messages"
ANNA = "anna@hospital.example"


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


@pytest.fixture
def mails(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    monkeypatch.setenv("PACSIFIER_TELL", ANNA)
    with MailServer() as server:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", server.connection)
        yield server


def test_what_a_run_leaves_is_sent_once(airflow: Airflow, mails: MailServer) -> None:
    airflow.run_dag("pacsifier_probe", pacs="there_is_none")  # it fails, and the scheduler hears of it
    first, second = airflow.run_dag(MESSAGES), airflow.run_dag(MESSAGES)
    assert (first.returned, second.returned) == (
        {"send": [{"sent": 1, "given_up": 0}]},
        {"send": [{"sent": 0, "given_up": 0}]},
    )
    assert [str(mail["Subject"]) for _, _, mail in mails.got] == ["PACSIFIER: pacsifier_probe: failed"]
    # Hundreds of runs a day leave one folder.
    assert [path.name for path in (settings.state_root() / "runs").glob(f"{MESSAGES}*")] == [MESSAGES]


def test_a_question_of_a_run_that_is_gone_is_forgotten(airflow: Airflow, mails: MailServer) -> None:
    run = Run.named(dag_run_name("pacsifier_study", "gone"))
    noticing.asked(run, "pacsifier_study", "gone", "approve 0", {"files": 1}, dt.timedelta(hours=72))
    assert airflow.run_dag(MESSAGES).returned == {"send": [{"sent": 0, "given_up": 0}]}
    assert not outbox.questions() and not mails.got


def test_it_fails_while_something_cannot_be_sent_and_says_why(
    airflow: Airflow, mails: MailServer, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("PACSIFIER_TELL", f"{ANNA}, no_channel")
    mails.unknown = ANNA
    outbox.keep(Message(FAILED, "pacsifier_upload", "r1", when=dt.datetime.now().astimezone().isoformat()))
    assert airflow.run_dag(MESSAGES).state == "failed"
    said = "".join(capfd.readouterr())
    assert "there is no connection no_channel; make one of type message_channel" in said
    assert "mail: the server of the connection smtp_default refuses it: SMTPRecipientsRefused 550" in said
    assert "Wurzelbacher" not in said  # the server's answer names somebody


def test_a_wrong_setting_is_said(airflow: Airflow, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("PACSIFIER_TELL", "Anna <anna@hospital.example>")
    assert airflow.run_dag(MESSAGES).state == "failed"
    assert "tell: recipient 1 is neither a mail address nor the id of a connection" in "".join(capfd.readouterr())
