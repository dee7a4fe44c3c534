"""How messages leave: mails to a server of the tests (aiosmtpd), and channels of Apprise to an address on loopback."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.messages import Message, NotSent
from pacsifier_ops.messages.text import Letter, letter
from tests.support import airflow_home
from tests.support.mail import MailServer
from tests.support.peers import free_port

pytestmark = pytest.mark.airflow

SECRET = "t0ken-0f-a-chann3l"
WHEN = "2040-03-30T20:00:00+01:00"
URL = "https://airflow.hospital.example"
CHANNEL, MAIL = "AIRFLOW_CONN_TEAMS_IMAGING", "AIRFLOW_CONN_SMTP_DEFAULT"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with MailServer() as mails:
        monkeypatch.setenv(MAIL, mails.connection)
        yield mails


@pytest.fixture
def words() -> Letter:
    counts = {"received": 1150, "missing": 50}
    return letter(
        Message("incomplete", "pacsifier_extract", "r1", when="2040-03-30T20:00:00+01:00", counts=counts), URL
    )


def sent(recipient: str, words: Letter) -> None:
    from pacsifier_ops.hooks.channels import send

    send(recipient, words)


def missing(recipient: str) -> str:
    """What is known before anything is sent; empty: nothing."""
    from pacsifier_ops.hooks.channels import check

    try:
        check(recipient)
    except NotSent as error:
        return str(error)
    return ""


def why_not(recipient: str, words: Letter) -> NotSent:
    with pytest.raises(NotSent) as error:
        sent(recipient, words)
    assert SECRET not in str(error.value) and "@" not in str(error.value)
    return error.value


# Mail


def test_a_mail_has_counts_and_a_link(server: MailServer, words: Letter) -> None:
    sent("anna@hospital.example", words)
    sent("anna@hospital.example", words)
    ((sender, to, first), (_, _, second)) = server.got
    assert (sender, to) == ("pacsifier@hospital.example", ["anna@hospital.example"])
    assert first["Subject"] == "PACSIFIER: pacsifier_extract: incomplete" and first["To"] == "anna@hospital.example"
    # The same letter is the same mail, so a server or a mailbox may leave it out the second time.
    assert first["Message-ID"] == second["Message-ID"] == f"<{words.key}@pacsifier>"
    assert first["Auto-Submitted"] == "auto-generated"  # nobody's absence is answered (RFC 3834)
    html = server.html(first)
    assert "received: 1,150" in html and f'<a href="{words.lines[-1].link}">' in html and URL in html


def test_text_of_a_mail_is_escaped(server: MailServer) -> None:
    sent("anna@hospital.example", letter(Message("failed", "own_<b>", "r1", when="2040-03-30T20:00:00+01:00"), URL))
    ((_, _, mail),) = server.got
    assert "own_&lt;b&gt;" in server.html(mail)


def test_a_mail_is_sent_once_even_if_the_server_errs(server: MailServer, words: Letter) -> None:
    server.answer = "451 try later"  # after all of the mail: it may have been taken
    error = why_not("anna@hospital.example", words)
    assert str(error) == "mail: the server of the connection smtp_default refuses it: SMTPDataError 451"
    assert len(server.got) == 1 and not error.of_channel


def test_a_refused_address_is_no_reason_to_leave_others_out(server: MailServer, words: Letter) -> None:
    server.unknown = "anna@hospital.example"
    error = why_not("anna@hospital.example", words)
    assert str(error).endswith("refuses it: SMTPRecipientsRefused 550") and not error.of_channel
    sent("ben@hospital.example", words)
    assert [to for _, to, _ in server.got] == [["ben@hospital.example"]]


def test_a_mail_connection_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, words: Letter) -> None:
    monkeypatch.setenv("PACSIFIER_MAIL", "smtp_of_the_house")
    error = why_not("anna@hospital.example", words)
    assert str(error) == "mail: there is no connection smtp_of_the_house; make one of type smtp" and error.of_channel
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": free_port(), "password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_OF_THE_HOUSE", json.dumps(connection))
    assert "has no from_email" in str(why_not("anna@hospital.example", words)) and missing("anna@hospital.example")
    extra = {"from_email": "p@hospital.example", "disable_ssl": True, "disable_tls": True}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_OF_THE_HOUSE", json.dumps({**connection, "extra": extra}))
    error = why_not("anna@hospital.example", words)
    assert str(error).endswith("does not work: ConnectionRefusedError") and error.of_channel


# Other channels


class Posts:
    """An address of this machine that takes what Apprise posts.

    Attributes:
        got: what was posted; status: what it answers.
    """

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        posts = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posts.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(posts.status)
                self.end_headers()
                self.wfile.write(SECRET.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self._server.server_port}/{SECRET}"

    def __enter__(self) -> Posts:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Posts]:
    with Posts() as taken:
        monkeypatch.setenv(CHANNEL, json.dumps({"conn_type": "message_channel", "password": taken.url}))
        yield taken


def test_a_channel_gets_the_text(posts: Posts, words: Letter) -> None:
    assert not missing("teams_imaging")
    sent("teams_imaging", words)
    (got,) = posts.got
    assert got["title"] == words.subject and got["type"] == "warning"
    assert "missing: 50" in got["message"] and words.lines[-1].link in got["message"]


def test_a_channel_that_takes_nothing_is_named_without_its_secrets(
    posts: Posts, words: Letter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    posts.status = 500
    error = why_not("teams_imaging", words)
    assert str(error) == "connection teams_imaging: did not take a message" and error.of_channel
    assert len(posts.got) == 1 and SECRET not in caplog.text


@pytest.mark.parametrize("connection", [{}, {"conn_type": "message_channel"}, {"password": f"nonsense {SECRET}"}])
def test_a_channel_without_a_url_is_named(
    monkeypatch: pytest.MonkeyPatch, words: Letter, caplog: pytest.LogCaptureFixture, connection: dict[str, str]
) -> None:
    if connection:
        monkeypatch.setenv(CHANNEL, json.dumps({"conn_type": "message_channel", **connection}))
    wanted = "is not of type message_channel with a URL of Apprise" if connection else "there is no connection"
    error = why_not("teams_imaging", words)
    assert str(error) == missing("teams_imaging")
    assert wanted in str(error) and error.of_channel and SECRET not in caplog.text


def test_without_apprise_it_says_what_to_install(posts: Posts, words: Letter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert str(why_not("teams_imaging", words)) == "connection teams_imaging: install apprise"


def test_the_test_button_sends_a_test(posts: Posts) -> None:
    from pacsifier_ops.hooks.channels import ChannelHook

    assert ChannelHook("teams_imaging").test_connection() == (True, "a test was sent")
    assert posts.got[0]["title"] == "PACSIFIER: a test"
    assert ChannelHook("nowhere").test_connection()[0] is False


def test_the_form_of_the_connection_hides_the_url() -> None:
    from pacsifier_ops.hooks.channels import ChannelHook
    from pacsifier_ops.plugins.provider import get_provider_info

    (described,) = (one for one in get_provider_info()["connection-types"] if one["hook-name"] == ChannelHook.hook_name)
    assert described["connection-type"] == ChannelHook.conn_type
    assert "password" in described["ui-field-behaviour"]["relabeling"]  # Airflow masks this field in all logs
