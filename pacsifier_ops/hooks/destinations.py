"""Makes the node of any connection to which objects are sent: the type of the connection says what it is."""

from __future__ import annotations

from pacsifier_ops.base.config import Node
from pacsifier_ops.hooks.archives import DICOM, archive_of, connection_of
from pacsifier_ops.upload.nodes import TYPES, store_of


def destination(name: str) -> Node:
    """Return the node of a connection.

    Args:
        name: id of the connection.

    Raises:
        ConfigError: names the missing connection, its type if nothing can be sent there, or the wrong field.
    """
    found = connection_of(name, (DICOM, *TYPES))
    if found.conn_type == DICOM:
        return archive_of(name, found)
    return store_of(name, found)
