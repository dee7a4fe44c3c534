"""`pacsifier-connection`: create an Airflow connection from a PACSIFIER config.json."""

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
from pacsifier_ops.cli.options import path_type


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pacsifier-connection",
        description="Add an Airflow connection of type dicom made from a PACSIFIER config.json, and its pool.",
    )
    parser.add_argument("-c", "--config", type=path_type, required=True, help="configuration of the PACS (config.json)")
    parser.add_argument("--name", default="pacs_default", help="id of the connection (default: %(default)s)")
    parser.add_argument("--description", default="", help="description in Airflow's list of connections")
    parser.add_argument(
        "--replace", action="store_true", help="replace a connection of that name, except its TLS settings and rights"
    )
    parser.add_argument(
        "--print",
        action="store_true",
        help="change nothing; print the connection as JSON for `airflow connections import`",
    )
    return parser


def described(node: PacsNode, description: str) -> dict[str, Any]:
    """Return a node in the form of Airflow's import files of connections.

    It has all fields, also those with default values: for an existing connection, Airflow's form shows only the fields
    in its extra.
    """
    extra = {name: getattr(node, name) for name in EXTRA_FIELDS}
    return {"conn_type": "dicom", "description": description, "host": node.host, "port": node.port, "extra": extra}


def add(name: str, node: PacsNode, description: str, replace: bool) -> int:
    """Write the connection to Airflow's database, and create its pool.

    Returns:
        The number of slots of the pool.

    Raises:
        ConfigError: the name is invalid or hidden by an environment variable, or the connection exists and `replace` is
            not given.
    """
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from pacsifier_ops.hooks.pools import make_pools

    if not re.fullmatch(r"[\w.-]{1,200}", name, re.ASCII):
        raise ConfigError("--name is not valid as the id of a connection; give letters, digits, and any of - _ .")
    variable = f"AIRFLOW_CONN_{name.upper()}"
    if variable in os.environ:
        raise ConfigError(f"the environment variable {variable} hides a connection {name}; unset it, or another --name")
    with create_session() as session:
        present = session.scalar(select(Connection).where(Connection.conn_id == name))
        if present and not replace:
            raise ConfigError(f"there is a connection {name} already; give --replace, or another --name")
        connection = described(node, description)
        if present:
            # A config.json has no TLS settings and no rights, so those of the connection stay.
            before = present.extra_dejson.items()
            connection["extra"] |= {key: value for key, value in before if "tls" in key or key.startswith("may_")}
            connection["password"] = present.password
            session.delete(present)
            session.flush()
        session.add(Connection(name, **connection))
        session.flush()
        return make_pools(session)[name]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
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
