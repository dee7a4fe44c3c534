"""How messages leave: mails by a connection of type `smtp`, all else by one of type `message_channel`, with Apprise.

Each error says what to mend, by kind: no address, no URL and no answer of a server, which may quote them.
"""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from pacsifier_ops.base import settings
from pacsifier_ops.base.telling import is_mail
from pacsifier_ops.messages import NotSent
from pacsifier_ops.messages.text import Letter, Line
from pacsifier_ops.runs.pages import page

if TYPE_CHECKING:
    from airflow.providers.smtp.hooks.smtp import SmtpHook

_TEST = Letter("test", "PACSIFIER: a test", (Line("This is a test. Messages on runs arrive here."),))


def check(recipient: str) -> None:
    """Check that there is a connection for a recipient, and what it needs is installed. Nothing is sent.

    Raises:
        NotSent: says what is missing.
    """
    if is_mail(recipient):
        _mail_hook()
    else:
        with _quiet():
            ChannelHook(recipient).get_conn()


def send(recipient: str, letter: Letter) -> None:
    """Send a letter to a mail address, or by the channel of a connection.

    Raises:
        NotSent: says why.
    """
    if is_mail(recipient):
        _mail(recipient, letter)
    else:
        ChannelHook(recipient).send(letter)


def _mail_hook() -> SmtpHook:
    """Return the hook for mails.

    Raises:
        NotSent: it is not installed, or its connection is missing or names no sender.
    """
    try:
        from airflow.providers.smtp.hooks.smtp import SmtpHook
    except ImportError:
        raise NotSent("mail: install apache-airflow-providers-smtp", of_channel=True) from None

    class Once(SmtpHook):
        """Sends once: by itself, the hook sends again after any error, also after a mail that was taken."""

        smtp_retry_limit = 0

    name = settings.mail()
    try:
        connection = BaseHook.get_connection(name)
    except AirflowNotFoundException:
        raise NotSent(f"mail: there is no connection {name}; make one of type smtp", of_channel=True) from None
    if not connection.extra_dejson.get("from_email"):
        raise NotSent(f"mail: the connection {name} has no from_email; give the sender's address", of_channel=True)
    return Once(name)


def _mail(address: str, letter: Letter) -> None:
    headers = {"Message-ID": f"<{letter.key}@pacsifier>", "Auto-Submitted": "auto-generated"}
    hook, name = _mail_hook(), settings.mail()
    try:
        with hook:
            content = page("messages/templates/mail.html", letter=letter)
            hook.send_email_smtp(to=[address], subject=letter.subject, html_content=content, custom_headers=headers)
    except (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError) as error:
        raise NotSent(f"mail: the server of the connection {name} refuses it: {_kind(error)}") from None
    except Exception as error:
        raise NotSent(f"mail: the connection {name} does not work: {_kind(error)}", of_channel=True) from None


def _kind(error: Exception) -> str:
    """Return the kind of an error, and the code of a mail server's answer, without its text."""
    codes = [error.smtp_code] if isinstance(error, smtplib.SMTPResponseException) else []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = sorted({code for code, _ in error.recipients.values()})
    return " ".join([type(error).__name__, *map(str, codes)])


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable logs that have URLs, which are secrets, and answers of servers."""
    logs = [logging.getLogger(name) for name in ("apprise", "urllib3.connectionpool")]
    before = [log.disabled for log in logs]
    for log in logs:
        log.disabled = True
    try:
        yield
    finally:
        for log, disabled in zip(logs, before, strict=True):
            log.disabled = disabled


class ChannelHook(BaseHook):
    """A channel for messages: Teams, Slack, Matrix and whatever else Apprise knows.

    The password of the connection is its URL of Apprise, which has secrets.

    Args:
        channel_conn_id: id of the connection.
    """

    conn_name_attr = "channel_conn_id"
    default_conn_name = "message_channel_default"
    conn_type = "message_channel"
    hook_name = "Channel for messages (Apprise)"

    def __init__(self, channel_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channel_conn_id = channel_conn_id

    def get_conn(self) -> Any:
        """Return the channel, an `apprise.Apprise`.

        Raises:
            NotSent: there is no such connection, it has no URL of Apprise, or Apprise is not installed.
        """
        try:
            import apprise
        except ImportError:
            raise NotSent(f"connection {self.channel_conn_id}: install apprise", of_channel=True) from None
        try:
            found = self.get_connection(self.channel_conn_id)
        except AirflowNotFoundException:
            raise NotSent(
                f"there is no connection {self.channel_conn_id}; make one of type {self.conn_type}", of_channel=True
            ) from None
        channel = apprise.Apprise()
        if found.conn_type != self.conn_type or not found.password or not channel.add(found.password):
            raise NotSent(
                f"connection {self.channel_conn_id}: is not of type {self.conn_type} with a URL of Apprise, such as "
                "slack://…, as its password",
                of_channel=True,
            )
        return channel

    def send(self, letter: Letter) -> None:
        """Send a letter.

        Raises:
            NotSent: it was not taken, or see `get_conn`.
        """
        with _quiet():
            channel = self.get_conn()
            taken = channel.notify(
                title=letter.subject, body=letter.plain, notify_type="warning" if letter.grave else "info"
            )
        if not taken:
            raise NotSent(f"connection {self.channel_conn_id}: did not take a message", of_channel=True)

    def test_connection(self) -> tuple[bool, str]:
        """Send a test, for the Test button.

        Returns:
            Whether it was taken, and a sentence with the result.
        """
        try:
            self.send(_TEST)
        except NotSent as error:
            return False, str(error)
        return True, "a test was sent"
