"""Airflow pools: one per connection of type `dicom`, of the same name, with a slot per association it grants.

They keep waiting tasks out of the workers. The hard limit is the leases' (see `leases`), which also binds the
command line. Pools are made by `pacsifier-init`, and whenever a scheduler starts.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from pacsifier_ops.base.config import PacsNode, node_from_connection
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.hooks.constants import COMMON_POOL

if TYPE_CHECKING:
    from airflow.models.connection import Connection
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
        description = "PACS without a pool of their own" if name == COMMON_POOL else "Associations with this PACS"
        Pool.create_or_update_pool(name, count, description, False, session=session)
    return slots


def _nodes(session: Session) -> list[PacsNode]:
    """The PACS of all connections that can be used; the run that uses one that cannot says what is wrong."""
    nodes = []
    for connection in dicom_connections(session):
        with suppress(ConfigError):
            nodes.append(
                node_from_connection(connection.conn_id, connection.host, connection.port, connection.extra_dejson)
            )
    return nodes


def dicom_connections(session: Session) -> Iterator[Connection]:
    """The connections of type `dicom`, the environment's last: they hide the database's."""
    from airflow.models.connection import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException
    from sqlalchemy import select

    yield from session.scalars(select(Connection).where(Connection.conn_type == "dicom"))
    prefix = "AIRFLOW_CONN_"
    for name in os.environ:
        if name.startswith(prefix):
            with suppress(AirflowNotFoundException):  # so Airflow calls one that it cannot read
                connection = Connection.get_connection_from_secrets(name.removeprefix(prefix).lower())
                if connection.conn_type == "dicom":
                    yield connection


class OnStart:
    """Listens to Airflow's parts as they start."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """When a scheduler starts, make the pools, and load what its workers need.

        The hook is called while the job is being made, before that says whose it is; the command line tells.
        """
        if type(component).__name__ != "Job" or "scheduler" not in sys.argv:
            return
        from airflow.utils.session import create_session

        with create_session() as session:
            make_pools(session)
        # LocalExecutor forks its workers off this process, and they their tasks: what is loaded here, none of
        # them loads again. That is most of what a short task costs.
        importlib.import_module("pacsifier_ops.extract.retrieve")
