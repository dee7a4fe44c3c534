"""Requests: query tables that are kept under an opaque id, so that Airflow gets neither their name nor their path."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError, InputError
from pacsifier_ops.base.files import confined, private_folder, read_json, storage_errors, write_atomic, write_json
from pacsifier_ops.base.given import Unusable, read_given
from pacsifier_ops.base.options import data_path
from pacsifier_ops.query.reading import given
from pacsifier_ops.query.records import LARGEST_FILE, is_workbook
from pacsifier_ops.query.sql import is_database, is_parquet

#: File with the options for reading the table, see `Reading`; missing if none were given.
_READING = "reading.json"
#: File that marks a request as handed in by a person, who may never start a run on it.
_HANDED_IN = "handed-in"
#: Seconds after which such a request goes, unless a run was started on it.
UNSTARTED = 24 * 3600
_ID = re.compile(r"req-[0-9a-f]{24}")


def is_request_id(text: str) -> bool:
    """Return whether a text is the id of a request."""
    return _ID.fullmatch(text) is not None


def new_request_id() -> str:
    """Return a new random id of a request."""
    return f"req-{secrets.token_hex(12)}"


def take_in(
    table: Path | bytes, identity: str = "", options: Mapping[str, str] | None = None, by_person: bool = False
) -> str:
    """Keep a query table as `<state root>/requests/<id>/table.csv` (or .xlsx, .parquet, .duckdb); return the request's
    id.

    Args:
        table: path of the table, or its content.
        identity: an id from `new_request_id`; a second call with it replaces the table. Empty: a new id is made.
        options: options for reading the table (see `Reading`), kept beside it as reading.json.
        by_person: whether the request goes after UNSTARTED, see `handed_in_before`.

    Raises:
        InputError: the file cannot be read.
        StorageError: the state root cannot be written.
    """
    try:
        data = table if isinstance(table, bytes) else read_given(table, LARGEST_FILE)
    except Unusable as error:
        raise InputError(f"the query table {error}") from None
    identity = identity or new_request_id()
    name = f"table.{_suffix(data)}"
    with storage_errors("the state root"):
        folder = private_folder(_folder(identity))
        if options:
            write_json(folder / _READING, dict(options))
        if by_person:
            write_atomic(folder / _HANDED_IN, b"")
        write_atomic(folder / name, data)
    return identity


def _suffix(data: bytes) -> str:
    if is_workbook(data):
        return "xlsx"
    return "parquet" if is_parquet(data) else "duckdb" if is_database(data) else "csv"


def handed_in_before(moment: float) -> dict[str, Path]:
    """Return the folders of the requests that people handed in before a moment, by id.

    Args:
        moment: seconds since the epoch.
    """
    found = {}
    for mark in (settings.state_root() / "requests").glob(f"req-*/{_HANDED_IN}"):
        with suppress(FileNotFoundError):
            if mark.stat().st_mtime < moment:
                found[mark.parent.name] = mark.parent
    return found


def request_in(queryfile: str) -> str:
    """Return the id of the request that a param or a kept request names, as an id or a path; empty: it names none."""
    return next((part for part in (queryfile, Path(queryfile).parent.name) if is_request_id(part)), "")


def table_path(queryfile: str) -> Path:
    """Return the path of the query table of a run.

    Args:
        queryfile: the param of the run: the id of a request, or a path below the data root.

    Raises:
        InputError: there is no such request, or `queryfile` is empty.
        PathRefused: the path leads outside the data root.
    """
    if not queryfile:
        raise InputError("queryfile is empty; give a path below the data root, or the id of a request")
    if not is_request_id(queryfile):
        return confined(queryfile, settings.data_root(), "queryfile")
    tables = sorted(_folder(queryfile).glob("table.*"))
    if not tables:
        raise InputError("queryfile: there is no request with this id")
    return tables[0]


def given_table(queryfile: str, sql_conn: str | None) -> Path | None:
    """Return the path of the query table of a run; None where it comes over a connection.

    Args:
        queryfile: see `table_path`.
        sql_conn: see `Reading`.

    Raises:
        ConfigError: both are given.
        InputError, PathRefused: see `table_path`.
    """
    if sql_conn and queryfile:
        raise ConfigError("both queryfile and sql_conn are given; the table comes from one of them")
    return None if sql_conn else table_path(queryfile)


def reading_options(queryfile: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `Reading` for the query table of a run, paths as they are on disk.

    Args:
        queryfile: see `table_path`.
        values: the params of the run; they replace options that were kept with the request.

    Raises:
        PathRefused: `sql` leads outside the data root.
    """
    kept: dict[str, str] = {}
    if is_request_id(queryfile):
        with suppress(FileNotFoundError):
            kept = read_json(_folder(queryfile) / _READING)
    return confined_options({**kept, **given(values)})


def confined_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of `Reading` with `sql` as a path on disk.

    Raises:
        PathRefused: it leads outside the data root.
    """
    return {**options, "sql": str(data_path(options["sql"], "sql"))} if options.get("sql") else {**options}


def _folder(identity: str) -> Path:
    return settings.state_root() / "requests" / identity
