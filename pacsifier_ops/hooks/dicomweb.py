"""The hook of connection type `dicomweb`: one web archive."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from pacsifier_ops.base.config import ArchiveNode, WebNode, node_from_connection, web_from_connection, with_giver
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.hooks.button import tested
from pacsifier_ops.hooks.dicom import DicomHook


class DicomWebHook(BaseHook):
    """Provides the web archive of a connection.

    The host is the address of the archive with scheme and path, login and password are those of the account. The fields
    of the connection's extra are those of `WebNode`.

    Args:
        pacs_conn_id: id of the connection.
    """

    conn_name_attr = "pacs_conn_id"
    default_conn_name = "pacs_web"
    conn_type = "dicomweb"
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
        return with_giver(web_from_connection(self.pacs_conn_id, *fields), _alone)

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


def connection_of(name: str) -> Any:
    """Return a connection of Airflow.

    Raises:
        ConfigError: there is none of this name.
    """
    try:
        return BaseHook.get_connection(name)
    except AirflowNotFoundException:
        raise ConfigError(
            f"there is no connection {name}; make one of type {DicomHook.conn_type} or {DicomWebHook.conn_type}"
        ) from None


def archive(name: str) -> ArchiveNode:
    """Return the archive of a connection; its type says what it speaks.

    Raises:
        ConfigError: names the missing connection, or the wrong field.
    """
    return with_giver(_alone(name), _alone)


def _alone(name: str) -> ArchiveNode:
    return archive_of(name, connection_of(name))


def archive_of(name: str, connection: Any) -> ArchiveNode:
    """Return the same of a connection that was looked up, with its fields as attributes, but without its giver.

    Raises:
        ConfigError: it is no connection of an archive, or a field is wrong.
    """
    if connection.conn_type not in (DicomHook.conn_type, DicomWebHook.conn_type):
        raise ConfigError(
            f"connection {name}: is of type {connection.conn_type}, and no archive; give one of type "
            f"{DicomHook.conn_type} or {DicomWebHook.conn_type}"
        )
    fields = (connection.host, connection.port, connection.extra_dejson)
    if connection.conn_type == DicomWebHook.conn_type:
        return web_from_connection(name, *fields, connection.login, connection.password)
    return node_from_connection(name, *fields, connection.password)
