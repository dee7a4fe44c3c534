"""Airflow pools: one per connection of type `dicom`, with its name, and a slot per association that the PACS allows.

Other connections that can be sent to get theirs when they are first used: a site may have many that are not for us.

They keep waiting tasks out of the workers. The leases enforce the hard limit (see `leases`), which also applies to the
command line. `pacsifier-init` and every start of a scheduler create the pools.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from pacsifier_ops.base.config import ArchiveNode, Node
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.hooks.constants import COMMON_POOL, CONVERSION_POOL
from pacsifier_ops.upload.nodes import TYPES, store_of

if TYPE_CHECKING:
    from airflow.models.connection import Connection
    from sqlalchemy.orm import Session

_COMMON_SLOTS = 4
#: Types of the connections that have pools.
_ARCHIVES = ("dicom", "dicomweb")
_DESCRIPTION = "Associations with this PACS"
#: Pools that belong to no connection, with what they are for.
_OTHERS = {COMMON_POOL: "PACS without a pool of their own", CONVERSION_POOL: "Images that are converted at once"}


def make_pools(session: Session) -> dict[str, int]:
    """Create or update the pools of all connections of archives in the database and the environment.

    Args:
        session: session of Airflow's database.

    Returns:
        Slots by pool.
    """
    from airflow.models.pool import Pool

    slots = {COMMON_POOL: _COMMON_SLOTS, CONVERSION_POOL: _conversions(session)}
    for node in dicom_nodes(session):
        slots[node.name] = node.max_associations
    for name, count in slots.items():
        Pool.create_or_update_pool(name, count, _OTHERS.get(name, _DESCRIPTION), False, session=session)
    return slots


def _conversions(session: Session) -> int:
    """Return how many conversions may run at once: as a person has set it, else one per processor but one."""
    from airflow.models.pool import Pool
    from sqlalchemy import select

    kept = session.scalar(select(Pool.slots).where(Pool.pool == CONVERSION_POOL))
    return kept if kept is not None else max(1, (os.cpu_count() or 1) - 1)


def pool_for(name: str, session: Session) -> str | None:
    """Return the pool of a connection, which is made if it is missing, or the common pool; None if neither exists.

    A task in a pool that does not exist never starts.
    """
    from airflow.models.pool import Pool
    from sqlalchemy import select

    there = set(session.scalars(select(Pool.pool).where(Pool.pool.in_((name, COMMON_POOL)))))
    if name not in there:
        for node in receiving_nodes(session):
            if node.name == name and _added(node, session):
                return name
    return name if name in there else COMMON_POOL if COMMON_POOL in there else None


def _added(node: Node, session: Session) -> bool:
    """Add the pool of a PACS within a transaction that others depend on; return whether it is there then.

    Another scheduler may be adding it. An object of the session would be added once more by the next look, and a
    failed flush would take the run with it whose tasks are being made.
    """
    from airflow.models.pool import Pool
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = session.get_bind().dialect.name
    insert: Any = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}.get(dialect)
    if insert is None:
        return False
    values = {"pool": node.name, "slots": node.max_associations, "description": _DESCRIPTION, "include_deferred": False}
    session.execute(insert(Pool).values(values).on_conflict_do_nothing())
    return True


def dicom_nodes(session: Session) -> list[ArchiveNode]:
    """Return the archives of all valid connections. A run with an invalid one reports the error."""
    from pacsifier_ops.hooks.archives import archive_of

    found: list[ArchiveNode] = []
    for connection in dicom_connections(session):
        with suppress(ConfigError):
            found.append(archive_of(connection.conn_id, connection))
    return found


def receiving_nodes(session: Session) -> list[Node]:
    """Return the nodes of all valid connections that can be sent to, see `dicom_nodes`."""
    found: list[Node] = [*dicom_nodes(session)]
    for connection in other_connections(session):
        with suppress(ConfigError):
            found.append(store_of(connection.conn_id, connection))
    return found


def dicom_connections(session: Session) -> Iterator[Connection]:
    """Yield the connections of archives, see `_connections`."""
    return _connections(session, _ARCHIVES)


def other_connections(session: Session) -> Iterator[Connection]:
    """Yield the connections of other types that can be sent to, see `_connections`."""
    return _connections(session, [one for one in TYPES if one not in _ARCHIVES])


def _connections(session: Session, types: Sequence[str]) -> Iterator[Connection]:
    """Yield the connections of these types, those of the environment last: they override the database's."""
    from airflow.models.connection import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException
    from sqlalchemy import select

    yield from session.scalars(select(Connection).where(Connection.conn_type.in_(types)))
    prefix = "AIRFLOW_CONN_"
    for name in os.environ:
        if name.startswith(prefix):
            with suppress(AirflowNotFoundException):  # Airflow's exception for a connection that it cannot read
                connection = Connection.get_connection_from_secrets(name.removeprefix(prefix).lower())
                if connection.conn_type in types:
                    yield connection


class OnStart:
    """Listens to the start of Airflow's components."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """When a scheduler starts, create the pools, and load the modules that its workers need.

        The hook is called while the job object is created, before it has a type; the command line shows the component.
        """
        if type(component).__name__ != "Job" or "scheduler" not in sys.argv:
            return
        from airflow.utils.session import create_session

        with create_session() as session:
            make_pools(session)
        # LocalExecutor forks its workers from this process, and they fork their tasks. So modules loaded here are not
        # loaded again, which is most of the time of a short task.
        importlib.import_module("pacsifier_ops.extract.retrieve")
