"""What a person hands in for a night: a query table, and a small YAML file of options.

The keys are params of the extract DAG, and mean the same. Everything that is wrong is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import node_names
from pacsifier_ops.base.errors import ConfigError, PathRefused
from pacsifier_ops.base.files import confined
from pacsifier_ops.base.given import Unusable, read_given
from pacsifier_ops.base.options import IN_FILE, Option, options, standing
from pacsifier_ops.base.places import reserved
from pacsifier_ops.extract.intake import LARGEST, check
from pacsifier_ops.extract.requests import take_in
from pacsifier_ops.extract.run import Request
from pacsifier_ops.query.keys import ACCEPT
from pacsifier_ops.query.options import Refused, read_options
from pacsifier_ops.query.problems import Problem, TableRefused
from pacsifier_ops.query.reading import AS_IT_IS, CHOICES, Reading, given
from pacsifier_ops.runs.accounts import MOVE, SAVE
from pacsifier_ops.study.project import Study

#: Raises ConfigError where there is no connection of this name.
Connect = Callable[[str], object]

#: Keys of an options file.
OPTIONS: Mapping[str, Option] = standing(Request, IN_FILE)
#: Keys of a project file.
PROJECT: Mapping[str, Option] = {
    **OPTIONS,
    "enabled": options(Study)["enabled"],
    "queryfile": options(Request)["queryfile"],
}


def understood(
    table: Path, options: Path | None, known: Mapping[str, Option], connect: Connect
) -> tuple[dict[str, Any], bytes]:
    """The options, and the content of the query table.

    Raises:
        Refused: one of them cannot be used; with the reasons of both.
    """
    values: dict[str, Any] = {}
    data = b""
    reasons: list[str] = []
    try:
        values = read_nightly(options, known, connect) if options else {}
    except Refused as error:
        reasons += error.reasons
    try:
        data = read_table(table, values.get("strict", False), Reading(**given(values)))
    except Refused as error:
        reasons += error.reasons
    if reasons:
        raise Refused(reasons)
    return values, data


def read_nightly(path: Path, known: Mapping[str, Option], connect: Connect) -> dict[str, Any]:
    """Read and check an options file, see `options.read_options`."""
    return read_options(path, known, lambda options: _contradictions(options, connect))


def read_table(path: Path, strict: bool = False, reading: Reading = AS_IT_IS) -> bytes:
    """The content of a query table of which some row, if `strict` every row, can be asked.

    Raises:
        Refused: with every reason, by line and column, and with the cell: they lie beside the table.
    """
    problems: list[Problem] = []
    data = b""
    try:
        data = read_given(path, LARGEST, follow=False)
        table = check(data, reading)
        if strict or not table.rows:
            problems = table.problems
    except Unusable as error:
        problems = [Problem(0, "", str(error))]
    except TableRefused as error:
        problems = error.problems
    if problems:
        raise Refused([f"{path.name}: {problem.shown()}" for problem in problems])
    return data


def conf_of(values: Mapping[str, Any], data: bytes, identity: str = "") -> dict[str, Any]:
    """The conf of a run on a table, which is taken in with the options of reading it: the name of a sheet may identify.

    Args:
        identity: see `take_in`.

    Raises:
        StorageError: the state root cannot be written.
    """
    others = {name: value for name, value in values.items() if name not in CHOICES}
    return {**others, "queryfile": take_in(data, identity, given(values))}


def _contradictions(options: Mapping[str, Any], connect: Connect) -> Iterator[tuple[str, str]]:
    """What is wrong with values of the right kind: key and message."""
    if "out_directory" in options:
        try:
            path = confined(options["out_directory"], settings.data_root(), "it")
        except PathRefused:
            yield "out_directory", "leads outside the data root; give a path below it"
        else:
            if reason := reserved(path):
                yield "out_directory", reason
    for key in ("pacs", "destination"):
        if key in options:
            try:
                for name in node_names(options[key]) if key == "pacs" else [options[key]]:
                    connect(name)
            except ConfigError as error:
                yield key, str(error)
    for key, needed in (("destination", MOVE), ("resend", MOVE), ("method", SAVE), (ACCEPT, SAVE)):
        if options.get(key) and options.get("retrieve", SAVE) != needed:
            yield key, f"only with retrieve: {needed}"
