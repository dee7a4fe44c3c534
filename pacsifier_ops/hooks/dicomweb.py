"""The hook of connection type `dicomweb`: one web archive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airflow.sdk import BaseHook

from pacsifier_ops.base.config import WebNode, web_from_connection
from pacsifier_ops.hooks.archives import DICOMWEB, connection_of, whole
from pacsifier_ops.hooks.button import tested


class DicomWebHook(BaseHook):
    """Provides the web archive of a connection.

    The host is the address of the archive with scheme and path, login and password are those of the account. The fields
    of the connection's extra are those of `WebNode`.

    Args:
        pacs_conn_id: id of the connection.
    """

    conn_name_attr = "pacs_conn_id"
    default_conn_name = "pacs_web"
    conn_type = DICOMWEB
    hook_name = "DICOMweb archive"

    def __init__(self, pacs_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pacs_conn_id = pacs_conn_id

    def get_conn(self) -> WebNode:
        """Return the archive.

        Raises:
            ConfigError: names the missing connection, or the wrong field.
        """
        found = connection_of(self.pacs_conn_id)
        fields = (found.host, found.port, found.extra_dejson, found.login, found.password)
        return whole(web_from_connection(self.pacs_conn_id, *fields))

    def test_connection(self) -> tuple[bool, str]:
        """Ask for one study, for the Test button.

        Returns:
            Whether a run could use the archive, and a sentence with the result.
        """
        from pacsifier_ops.archive.check import check_all

        # Airflow makes up the id for the test, so use the kind as the name.
        return tested(
            self.pacs_conn_id, self.log.exception, lambda: check_all(replace(self.get_conn(), name="DICOMweb"))
        )
