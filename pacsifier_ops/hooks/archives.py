"""Makes the node of a connection of an archive: the type of the connection says what it speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from pacsifier_ops.base.config import AnyArchive, ArchiveNode, node_from_connection, web_from_connection, with_giver
from pacsifier_ops.base.errors import ConfigError

#: Types of connections of archives.
DICOM, DICOMWEB = "dicom", "dicomweb"


def connection_of(name: str, types: Sequence[str] = (DICOM, DICOMWEB)) -> Any:
    """Return a connection of Airflow.

    Args:
        name: id of the connection.
        types: those that it may have, for the error.

    Raises:
        ConfigError: there is none of this name.
    """
    try:
        return BaseHook.get_connection(name)
    except AirflowNotFoundException:
        raise ConfigError(
            f"there is no connection {name}; make one of type {', '.join(types[:-1])} or {types[-1]}"
        ) from None


def archive(name: str) -> ArchiveNode:
    """Return the archive of a connection; its type says what it speaks.

    Raises:
        ConfigError: names the missing connection, or the wrong field.
    """
    return whole(_alone(name))


def whole(node: AnyArchive) -> AnyArchive:
    """Return an archive with the one that gives its images, see `with_giver`."""
    return with_giver(node, _alone)


def _alone(name: str) -> ArchiveNode:
    return archive_of(name, connection_of(name))


def archive_of(name: str, connection: Any) -> ArchiveNode:
    """Return the same of a connection that was looked up, with its fields as attributes, but without its giver.

    Raises:
        ConfigError: it is no connection of an archive, or a field is wrong.
    """
    if connection.conn_type not in (DICOM, DICOMWEB):
        raise ConfigError(
            f"connection {name}: is of type {connection.conn_type}, and no archive; give one of type "
            f"{DICOM} or {DICOMWEB}"
        )
    fields = (connection.host, connection.port, connection.extra_dejson)
    if connection.conn_type == DICOMWEB:
        return web_from_connection(name, *fields, connection.login, connection.password)
    return node_from_connection(name, *fields, connection.password)
