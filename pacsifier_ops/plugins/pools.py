"""Airflow pools: one per connection of type `dicom`, of the same name, with a slot per association it grants.

They keep waiting tasks out of the workers. The hard limit is the leases' (see `leases`), which also binds the
command line. Pools are made by `pacsifier-init`, and whenever a scheduler starts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from pacsifier_ops.config import PacsNode, node_from_connection
from pacsifier_ops.errors import ConfigError
from pacsifier_ops.plugins import COMMON_POOL

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_COMMON_SLOTS = 4


def make_pools(session: Session) -> dict[str, int]:
    """Make or update the pools of all `dicom` connections in the database and the environment.

    Returns:
        Slots by pool.
    """
    from airflow.models.pool import Pool

    slots = {COMMON_POOL: _COMMON_SLOTS}
    for node in _nodes(session):
        slots[node.name] = node.max_associations
    for name, count in slots.items():
        description = "Associations with this PACS at once" if name != COMMON_POOL else "PACS without a pool of their own"
        Pool.create_or_update_pool(name, count, description, False, session=session)
    return slots


def _nodes(session: Session) -> list[PacsNode]:
    from airflow.models.connection import Connection
    from sqlalchemy import select

    connections = list(session.scalars(select(Connection).where(Connection.conn_type == "dicom")))
    prefix = "AIRFLOW_CONN_"
    for name in os.environ:
        if name.startswith(prefix):
            connection = Connection.get_connection_from_secrets(name.removeprefix(prefix).lower())
            if connection.conn_type == "dicom":
                connections.append(connection)
    nodes = []
    for connection in connections:
        try:
            nodes.append(
                node_from_connection(connection.conn_id, connection.host, connection.port, connection.extra_dejson)
            )
        except ConfigError:
            continue  # the run that uses it says what is wrong
    return nodes


class _OnStart:
    @hookimpl
    def on_starting(self, component: Any) -> None:
        """Make the pools when a scheduler starts."""
        if type(component).__name__ == "SchedulerJobRunner":
            from airflow.utils.session import create_session

            with create_session() as session:
                make_pools(session)


class PacsifierPlugin(AirflowPlugin):
    """The package's Airflow plugin."""

    name = "pacsifier"
    listeners = [_OnStart()]  # noqa: RUF012 (Airflow declares it so)
