"""A mail server on this machine that keeps what it gets."""

from __future__ import annotations

import email
import email.policy
import json
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller

from tests.support.peers import free_port


class MailServer:
    """Keeps mails.

    Attributes:
        got: sender, recipients and mail of each one.
        answer: what it says to a whole mail.
        unknown: an address that it refuses.
        connection: an Airflow connection to it, as JSON.
    """

    def __init__(self) -> None:
        self.got: list[tuple[str, list[str], EmailMessage]] = []
        self.answer = "250 OK"
        self.unknown = ""
        port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=port)
        extra = {"from_email": "pacsifier@hospital.example", "disable_ssl": True, "disable_tls": True}
        self.connection = json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra})

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        """Take or refuse an address."""
        if address == self.unknown:
            return "550 Kunigunde Wurzelbacher is not known here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep a mail."""
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.got.append((envelope.mail_from, envelope.rcpt_tos, mail))
        return self.answer

    @staticmethod
    def html(mail: EmailMessage) -> str:
        """Return the body of a mail."""
        body = mail.get_body(("html",))
        assert body is not None
        return str(body.get_content())

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()
