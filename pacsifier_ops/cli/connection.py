"""`pacsifier-connection`: create an Airflow connection from a configuration of the command line."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pacsifier_ops.base.config import EXTRA_FIELDS, WEB_FIELDS, ArchiveNode, PacsNode, WebNode, read_archive
from pacsifier_ops.base.errors import ConfigError, PacsifierError
from pacsifier_ops.cli.options import path_type


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pacsifier-connection",
        description="Add an Airflow connection made from a configuration of the command line, and its pool: of type "
        "dicom from a config.json, of type dicomweb from one with a url. Where the configuration has a fetch_from, the "
        "connection of that one is added as well, by the name of its file.",
    )
    parser.add_argument(
        "-c", "--config", type=path_type, required=True, help="configuration of the archive (config.json)"
    )
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


def described(node: ArchiveNode, description: str) -> dict[str, Any]:
    """Return a node in the form of Airflow's import files of connections, without its password.

    It has all fields, also those with default values: for an existing connection, Airflow's form shows only the fields
    in its extra.
    """
    if isinstance(node, PacsNode):
        own, names = (
            {"conn_type": "dicom", "description": description, "host": node.host, "port": node.port},
            EXTRA_FIELDS,
        )
    else:
        own, names = {"conn_type": "dicomweb", "description": description, "host": node.url}, WEB_FIELDS
        own |= {"login": node.login} if node.login else {}
    extra = {name: getattr(node, name) for name in names}
    return {**own, "extra": {**extra, "fetch_from": node.giver.name if node.giver else ""}}


def add(node: ArchiveNode, description: str, replacing: bool, shared: bool = False) -> list[str]:
    """Write the connection to Airflow's database, and create its pool.

    Args:
        node: the archive; its name is the id of the connection.
        replacing: a connection of that name is replaced.
        shared: a connection of that name that leads to the same place stays as it is.

    Returns:
        Lines for people.

    Raises:
        ConfigError: the name is invalid or hidden by an environment variable, or the connection exists and is not
            to be replaced.
    """
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from pacsifier_ops.hooks.pools import dicom_nodes, make_pools

    name = node.name
    variable = f"AIRFLOW_CONN_{name.upper()}"
    if variable in os.environ:
        raise ConfigError(f"the environment variable {variable} hides a connection {name}; unset it, or another --name")
    with create_session() as session:
        present = session.scalar(select(Connection).where(Connection.conn_id == name))
        if present and not replacing:
            if shared and any((one.name, one.key) == (name, node.key) for one in dicom_nodes(session)):
                return [f"connection {name}: it is there already, and stays as it is"]
            raise ConfigError(f"there is a connection {name} already; give --replace, or another --name")
        connection = described(node, description)
        password = node.tls_password if isinstance(node, PacsNode) else node.password
        if present:
            extra = connection["extra"]
            # A config.json has no TLS settings and no rights, so those of the connection stay.
            kept = {key: value for key, value in present.extra_dejson.items() if "tls" in key or key.startswith("may_")}
            all_of_them = isinstance(node, PacsNode)
            extra |= {key: value for key, value in kept.items() if key in extra and (all_of_them or not extra[key])}
            password = password or present.password
            session.delete(present)
            session.flush()
        session.add(Connection(name, **connection, password=password or None))
        session.flush()
        slots = make_pools(session)[name]
    where = f"{node.called_aet} at {node.host} port {node.port}" if isinstance(node, PacsNode) else node.url
    return [f"connection {name}: {where}", f"pool {name}: {slots} slots"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        nodes = _nodes(arguments.config, arguments.name)
        if arguments.print:
            print(json.dumps({node.name: described(node, arguments.description) for node in nodes}, indent=2))
            if any(isinstance(node, WebNode) and node.password for node in nodes):
                print("pacsifier-connection: passwords are not printed; give them in Airflow", file=sys.stderr)
            return 0
        # The one that gives the images first, so that there is never a connection that lacks its other half.
        for node in reversed(nodes):
            print(*add(node, arguments.description, arguments.replace, shared=node is not nodes[0]), sep="\n")
    except PacsifierError as error:
        print(f"pacsifier-connection: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _nodes(config: Path, name: str) -> list[ArchiveNode]:
    """Return the archive of a configuration by the id of its connection, and the one that gives its images, if any.

    Raises:
        ConfigError: the configuration is wrong, or a name is not valid as an id.
    """
    node = read_archive(config)
    nodes: list[ArchiveNode] = [replace(node, name=name)]
    if node.giver:
        nodes.append(node.giver)
    for one in nodes:
        if not re.fullmatch(r"[\w.-]{1,200}", one.name, re.ASCII):
            what = "--name" if one is nodes[0] else f"{one.name}, the name of the file of fetch_from,"
            raise ConfigError(f"{what} is not valid as the id of a connection; give letters, digits, and any of - _ .")
    if len(nodes) > 1 and nodes[1].name == name:
        raise ConfigError(f"the connection of fetch_from would be called {name} as well; give another --name")
    return nodes


if __name__ == "__main__":
    sys.exit(main())
