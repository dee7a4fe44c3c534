"""`pacsifier-connection`: an Airflow connection made from a PACSIFIER config.json."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from pacsifier_ops.base.config import EXTRA_FIELDS, PacsNode, read_config
from pacsifier_ops.base.errors import ConfigError, PacsifierError
from pacsifier_ops.cli.options import given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pacsifier-connection",
        description="Add an Airflow connection of type dicom made from a PACSIFIER config.json, and its pool.",
    )
    parser.add_argument("-c", "--config", type=given, required=True, help="configuration of the PACS (config.json)")
    parser.add_argument("--name", default="pacs_default", help="id of the connection (default: %(default)s)")
    parser.add_argument("--description", default="", help="what Airflow's list of connections says about it")
    parser.add_argument(
        "--replace", action="store_true", help="replace a connection of that name; its TLS settings stay"
    )
    parser.add_argument(
        "--print",
        action="store_true",
        help="change nothing; print it as JSON that `airflow connections import` reads",
    )
    return parser


def described(node: PacsNode, description: str) -> dict[str, Any]:
    """A node as Airflow's import files describe a connection.

    All fields are there, also those that have their defaults: Airflow's form shows of a connection only the fields
    that its extra holds.
    """
    extra = {name: getattr(node, name) for name in EXTRA_FIELDS}
    return {"conn_type": "dicom", "description": description, "host": node.host, "port": node.port, "extra": extra}


def add(name: str, node: PacsNode, description: str, replace: bool) -> int:
    """Write the connection to Airflow's database, and make its pool.

    Returns:
        The slots of the pool.

    Raises:
        ConfigError: Airflow takes no such name, or there is a connection of that name that is not to be replaced.
    """
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from pacsifier_ops.hooks.pools import make_pools

    if not re.fullmatch(r"[\w.-]{1,200}", name, re.ASCII):
        raise ConfigError("--name is no id of a connection; give letters, digits, and any of - _ .")
    variable = f"AIRFLOW_CONN_{name.upper()}"
    if variable in os.environ:
        raise ConfigError(f"the environment variable {variable} hides a connection {name}; unset it, or another --name")
    with create_session() as session:
        present = session.scalar(select(Connection).where(Connection.conn_id == name))
        if present and not replace:
            raise ConfigError(f"there is a connection {name} already; give --replace, or another --name")
        connection = described(node, description)
        if present:
            # A config.json says nothing of TLS; what the connection knows of it stays.
            connection["extra"] |= {key: value for key, value in present.extra_dejson.items() if "tls" in key}
            connection["password"] = present.password
            session.delete(present)
            session.flush()
        session.add(Connection(name, **connection))
        session.flush()
        return make_pools(session)[name]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        node = read_config(arguments.config)
        if arguments.print:
            print(json.dumps({arguments.name: described(node, arguments.description)}, indent=2))
            return 0
        slots = add(arguments.name, node, arguments.description, arguments.replace)
    except PacsifierError as error:
        print(f"pacsifier-connection: {error}", file=sys.stderr)
        return error.exit_code
    print(f"connection {arguments.name}: {node.called_aet} at {node.host} port {node.port}")
    print(f"pool {arguments.name}: {slots} slots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
