"""Requests taken in: a query table under an opaque id, so that neither its name nor its place is told to Airflow."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import confined, private_folder, read_json, storage_errors, write_atomic, write_json
from pacsifier_ops.base.given import Unusable, read_given
from pacsifier_ops.query.reading import given
from pacsifier_ops.query.records import LARGEST_FILE, is_workbook

#: How the table of a request is read, where that was said.
_READING = "reading.json"
_ID = re.compile(r"req-[0-9a-f]{24}")


def is_id(text: str) -> bool:
    """Whether this is the id of a request: it tells nothing of the table."""
    return _ID.fullmatch(text) is not None


def new_id() -> str:
    """An id that nothing has yet."""
    return f"req-{secrets.token_hex(12)}"


def take_in(table: Path | bytes, identity: str = "", options: Mapping[str, str] | None = None) -> str:
    """Keep a query table, a file or its content, as `<state root>/requests/<id>/table.csv` (or .xlsx).

    Args:
        identity: the id, where the caller has made one (`new_id`) and may take the same table in again.
        options: how it is read (see `Reading`), kept beside it as reading.json.

    Returns:
        The id.

    Raises:
        InputError: the file cannot be read.
        StorageError: the state root cannot be written.
    """
    try:
        data = table if isinstance(table, bytes) else read_given(table, LARGEST_FILE)
    except Unusable as error:
        raise InputError(f"the query table {error}") from None
    identity = identity or new_id()
    name = "table.xlsx" if is_workbook(data) else "table.csv"
    with storage_errors("the state root"):
        folder = private_folder(_folder(identity))
        if options:
            write_json(folder / _READING, dict(options))
        write_atomic(folder / name, data)
    return identity


def resolve(queryfile: str) -> Path:
    """The query table that a run's `queryfile` names: a request's id, or a path below the data root.

    Raises:
        InputError: there is no such request, or the parameter is empty.
        PathRefused: the path leads outside the data root.
    """
    if not queryfile:
        raise InputError("queryfile is empty; give a path below the data root, or the id of a request")
    if not is_id(queryfile):
        return confined(queryfile, settings.data_root(), "queryfile")
    tables = sorted(_folder(queryfile).glob("table.*"))
    if not tables:
        raise InputError("queryfile: there is no request with this id")
    return tables[0]


def options_of(queryfile: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `Reading` for the table that a run's `queryfile` names.

    Args:
        values: the run's params; what they give holds before what was given when the request was taken in.
    """
    kept: dict[str, str] = {}
    if is_id(queryfile):
        with suppress(FileNotFoundError):
            kept = read_json(_folder(queryfile) / _READING)
    return {**kept, **given(values)}


def _folder(identity: str) -> Path:
    return settings.state_root() / "requests" / identity
