"""The hook of connection type `dicom`: one PACS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from pacsifier_ops.base.config import ArchiveNode, PacsNode, node_from_connection, with_giver
from pacsifier_ops.base.errors import ConfigError
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
    conn_type = "dicom"
    hook_name = "DICOM node (PACS)"

    def __init__(self, pacs_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pacs_conn_id = pacs_conn_id

    def get_conn(self) -> PacsNode:
        """Return the PACS.

        Raises:
            ConfigError: names the missing connection, or the wrong field.
        """
        try:
            connection = self.get_connection(self.pacs_conn_id)
        except AirflowNotFoundException:
            raise ConfigError(
                f"there is no connection {self.pacs_conn_id}; make one of type {self.conn_type}"
            ) from None
        fields = (connection.host, connection.port, connection.extra_dejson, connection.password)
        return with_giver(node_from_connection(self.pacs_conn_id, *fields), _giver)

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


def _giver(name: str) -> ArchiveNode:
    """Return the archive that a connection names as the one that gives its images; it may speak DICOMweb."""
    from pacsifier_ops.hooks.dicomweb import archive_of, connection_of

    return archive_of(name, connection_of(name))
