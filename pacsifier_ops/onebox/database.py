"""Prepares Airflow's database for `make up`: its tables, connections and pools.

All of it is done in one process, because each start of Airflow takes seconds. It may be repeated.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import read_json, write_json
from pacsifier_ops.cli import init


def connect(own: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Write the connections to our embedded services. Return those that are in use.

    An existing connection is replaced only if it has our description. A connection that an environment variable hides
    is left alone.

    Args:
        own: connections by id, in the form of Airflow's import files.
    """
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    used = {}
    with create_session() as session:
        for name, described in own.items():
            present = session.scalar(select(Connection).where(Connection.conn_id == name))
            if f"AIRFLOW_CONN_{name.upper()}" in os.environ:
                continue
            if present:
                if present.description != described["description"]:
                    continue
                session.delete(present)
                session.flush()
            session.add(Connection(name, **{**described, "extra": json.dumps(described["extra"])}))
            used[name] = described
    return used


def main(argv: Sequence[str]) -> int:
    """Prepare the database, and return the exit code.

    Args:
        argv: paths of JSON files of connections, see `connect`. Each is left with those that are in use.
    """
    from airflow.__main__ import main as airflow

    # The command also writes Airflow's configuration, with the keys that all components must share.
    sys.argv = ["airflow", "db", "migrate"]
    airflow()
    for path in argv:
        write_json(Path(path), connect(read_json(Path(path))))
    return init.main([])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
