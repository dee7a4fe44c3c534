"""Submissions and project files: a query table, and a small YAML file of options.

The keys are the params of the extract DAG, with the same meaning. All problems are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import node_names
from pacsifier_ops.base.errors import ConfigError, PathRefused
from pacsifier_ops.base.files import confined
from pacsifier_ops.base.given import Unusable, read_given
from pacsifier_ops.base.options import IN_FILE, Option, options, standing
from pacsifier_ops.base.places import reserved
from pacsifier_ops.base.telling import recipients
from pacsifier_ops.extract.intake import LARGEST, check
from pacsifier_ops.extract.requests import confined_options, take_in
from pacsifier_ops.extract.run import Request
from pacsifier_ops.query.keys import ACCEPT
from pacsifier_ops.query.options import Refused, read_options
from pacsifier_ops.query.problems import Problem, TableRefused
from pacsifier_ops.query.reading import AS_IT_IS, CHOICES, Reading, contradictions, given
from pacsifier_ops.runs.accounts import MOVE, SAVE
from pacsifier_ops.selection.reading import read_selection
from pacsifier_ops.study.project import Study

#: Raises ConfigError if there is no connection with this name.
Connect = Callable[[str], object]

#: Keys of an options file.
OPTIONS: Mapping[str, Option] = standing(Request, IN_FILE)
#: Keys of a project file.
PROJECT: Mapping[str, Option] = {
    **OPTIONS,
    "enabled": options(Study)["enabled"],
    "queryfile": options(Request)["queryfile"],
}


def read_submission(
    table: Path, options: Path | None, known: Mapping[str, Option], connect: Connect
) -> tuple[dict[str, Any], bytes]:
    """Return the options and the content of the query table of a submission.

    Args:
        table: path of the query table.
        options: path of the options file; None: there is none.
        known: the options that may be in the file.
        connect: checks names of connections.

    Raises:
        Refused: one of the files cannot be used; it has the reasons of both.
    """
    values: dict[str, Any] = {}
    data = b""
    reasons: list[str] = []
    try:
        values = read_nightly_options(options, known, connect) if options else {}
    except Refused as error:
        reasons += error.reasons
    try:
        data = read_table(table, values.get("strict", False), Reading(**given(values)))
    except Refused as error:
        reasons += error.reasons
    if reasons:
        raise Refused(reasons)
    return values, data


def read_nightly_options(path: Path, known: Mapping[str, Option], connect: Connect) -> dict[str, Any]:
    """Read and check an options file, see `query.options.read_options`."""
    return read_options(path, known, lambda options: _contradictions(options, connect))


def read_table(path: Path, strict: bool = False, reading: Reading = AS_IT_IS) -> bytes:
    """Return the content of a query table, after a check that it can be used.

    Args:
        path: path of the table.
        strict: every row must be usable, else at least one.
        reading: options for reading the table.

    Raises:
        Refused: the table cannot be used. It has all reasons with line, column and cell: they are written beside the
            table, for people who may read it.
    """
    problems: list[Problem] = []
    data = b""
    try:
        data = read_given(path, LARGEST, follow=False)
        table = check(data, replace(reading, **confined_options(given(reading.options()))))
        if strict or not table.rows:
            problems = table.problems
    except (Unusable, ConfigError, PathRefused) as error:
        problems = [Problem(0, "", str(error))]
    except TableRefused as error:
        problems = error.problems
    if problems:
        raise Refused([f"{path.name}: {problem.shown()}" for problem in problems])
    return data


def run_conf(values: Mapping[str, Any], data: bytes, identity: str = "") -> dict[str, Any]:
    """Return the params of a run, and keep its query table as a request.

    The options for reading the table are kept with the request, not in the params: the name of a sheet may identify a
    patient.

    Args:
        values: the options.
        data: content of the query table.
        identity: see `take_in`.

    Raises:
        StorageError: the state root cannot be written.
    """
    others = {name: value for name, value in values.items() if name not in CHOICES}
    return {**others, "queryfile": take_in(data, identity, given(values))}


def _contradictions(options: Mapping[str, Any], connect: Connect) -> Iterator[tuple[str, str]]:
    """Yield key and message of each value that does not fit the site or the other values."""
    if "out_directory" in options:
        try:
            path = confined(options["out_directory"], settings.data_root(), "it")
        except PathRefused:
            yield "out_directory", "leads outside the data root; give a path below it"
        else:
            if reason := reserved(path):
                yield "out_directory", reason
    if options.get("selection"):
        try:
            read_selection(confined(options["selection"], settings.data_root(), "it"))
        except PathRefused:
            yield "selection", "leads outside the data root; give a path below it"
        except Refused as error:
            yield from (("selection", reason) for reason in error.reasons)
    elif options.get("reselect"):
        yield "reselect", "goes with a selection, and there is none; give selection, or remove it"
    yield from contradictions(options)
    for key in ("pacs", "destination"):
        if key in options:
            try:
                for name in node_names(options[key]) if key == "pacs" else [options[key]]:
                    connect(name)
            except ConfigError as error:
                yield key, str(error)
    try:
        recipients(options.get("tell", ""), "it")
    except ConfigError as error:
        yield "tell", str(error).removeprefix("it: ")
    for key, needed in (("destination", MOVE), ("resend", MOVE), ("method", SAVE), (ACCEPT, SAVE)):
        if options.get(key) and options.get("retrieve", SAVE) != needed:
            yield key, f"only with retrieve: {needed}"
