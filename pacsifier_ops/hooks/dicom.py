"""The hook of connection type `dicom`: one PACS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airflow.sdk import BaseHook

from pacsifier_ops.base.config import PacsNode, node_from_connection
from pacsifier_ops.hooks.archives import DICOM, connection_of, whole
from pacsifier_ops.hooks.button import tested


class DicomHook(BaseHook):
    """Provides the PACS of a connection.

    Host and port are those of the PACS, the password is the passphrase of our TLS key. The fields of the connection's
    extra are those of `PacsNode`.

    Args:
        pacs_conn_id: id of the connection.
    """

    conn_name_attr = "pacs_conn_id"
    default_conn_name = "pacs_default"
    conn_type = DICOM
    hook_name = "DICOM node (PACS)"

    def __init__(self, pacs_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pacs_conn_id = pacs_conn_id

    def get_conn(self) -> PacsNode:
        """Return the PACS.

        Raises:
            ConfigError: names the missing connection, or the wrong field.
        """
        connection = connection_of(self.pacs_conn_id)
        fields = (connection.host, connection.port, connection.extra_dejson, connection.password)
        return whole(node_from_connection(self.pacs_conn_id, *fields))

    def test_connection(self) -> tuple[bool, str]:
        """Send a C-ECHO and a query without matches, for the Test button.

        Returns:
            Whether a run could use the PACS, and a sentence with the result.
        """
        from pacsifier_ops.archive.check import check_all

        def try_it() -> str:
            node = self.get_conn()
            # Airflow makes up the id for the test, so use the AE title as the name.
            return check_all(replace(node, name=node.called_aet))

        return tested(self.pacs_conn_id, self.log.exception, try_it)
