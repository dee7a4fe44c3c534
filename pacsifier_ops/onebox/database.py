"""Airflow's database as `make up` needs it before the rest starts: its tables, connections, pools.

A program of its own, and one, since every start of Airflow's costs seconds. Safe to repeat.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import read_json
from pacsifier_ops.cli import init


def connect(own: Mapping[str, Mapping[str, Any]]) -> None:
    """Write connections that are ours to change, as Airflow's import files describe them, by id.

    One that is there already is ours while its description stands; then it is written anew. One that an environment
    variable hides is left alone.
    """
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

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


def main(argv: Sequence[str]) -> int:
    """Entry point; the arguments are files of connections that are ours."""
    from airflow.__main__ import main as airflow

    # The command itself: it also writes Airflow's configuration, with the keys that all parts must share.
    sys.argv = ["airflow", "db", "migrate"]
    airflow()
    for path in argv:
        connect(read_json(Path(path)))
    return init.main([])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
