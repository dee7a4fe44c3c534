"""What a person hands in for a night: a query table, and a small YAML file of options.

The keys are params of the extract DAG, and mean the same. Everything that is wrong is told at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops import settings
from pacsifier_ops.accounts import MOVE, SAVE
from pacsifier_ops.config import METHODS
from pacsifier_ops.errors import ConfigError, InputError, PathRefused, not_known
from pacsifier_ops.extract.run import RETRIEVE
from pacsifier_ops.files import confined
from pacsifier_ops.intake import LARGEST, check
from pacsifier_ops.query.table import Problem, TableRefused

if TYPE_CHECKING:
    import yaml

#: Bytes of an options file at most.
_LARGEST_OPTIONS = 64 * 2**10
_TAG = "tag:yaml.org,2002:"

#: Raises ConfigError where there is no connection of this name.
Connect = Callable[[str], object]


@dataclass(frozen=True)
class Option:
    """What a key may be: true or false, a whole number above 0, or text (one of `choices`, if there are any)."""

    kind: type[bool] | type[int] | type[str]
    choices: tuple[str, ...] = ()


#: Keys of an options file.
OPTIONS: Mapping[str, Option] = {
    "pacs": Option(str),
    "out_directory": Option(str),
    "retrieve": Option(str, RETRIEVE),
    "destination": Option(str),
    "resend": Option(bool),
    "info": Option(bool),
    "method": Option(str, METHODS),
    "max_series": Option(int),
    "strict": Option(bool),
    "accept_incomplete": Option(bool),
}
#: Keys of a project file.
PROJECT: Mapping[str, Option] = {**OPTIONS, "enabled": Option(bool), "queryfile": Option(str)}


class Refused(InputError):
    """What was handed in cannot be used; `reasons` are for whoever did, and name files."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(f"{len(reasons)} reason(s)")
        self.reasons = reasons


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
        values = read_options(options, known, connect) if options else {}
    except Refused as error:
        reasons += error.reasons
    try:
        data = read_table(table, values.get("strict", False))
    except Refused as error:
        reasons += error.reasons
    if reasons:
        raise Refused(reasons)
    return values, data


def read_options(path: Path, known: Mapping[str, Option], connect: Connect) -> dict[str, Any]:
    """Read and check an options file; keys without a value are as if they were not there.

    Raises:
        Refused: with every reason, by line and key, never with a value.
    """
    options: dict[str, Any] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    try:
        for key, value, line in _pairs(path):
            if key not in known:
                problems.append(Problem(line, "", f"{not_known(key, known)}; there are {', '.join(known)}"))
            elif key in lines:
                problems.append(Problem(line, key, f"there twice (line {lines[key]}); remove one"))
            elif value.tag != f"{_TAG}null":
                try:
                    options[key] = _value(value, known[key])
                except ValueError as error:
                    problems.append(Problem(line, key, str(error)))
            lines.setdefault(key, line)
    except TableRefused as error:
        problems += error.problems
    problems += [Problem(lines[key], key, message) for key, message in _contradictions(options, connect)]
    if problems:
        raise Refused([f"{path.name}: {problem}" for problem in sorted(problems, key=lambda problem: problem.line)])
    return options


def read_table(path: Path, strict: bool = False) -> bytes:
    """The content of a query table of which some row, if `strict` every row, can be asked.

    Raises:
        Refused: with every reason, by line and column.
    """
    problems: list[Problem] = []
    data = b""
    try:
        data = _head(path, LARGEST)
        table = check(data)
        if strict or not table.rows:
            problems = table.problems
    except TableRefused as error:
        problems = error.problems
    if problems:
        raise Refused([f"{path.name}: {problem}" for problem in problems])
    return data


def _head(path: Path, most: int) -> bytes:
    """What a file holds, or one byte more than the most it may."""
    try:
        # Not through a link, which may lead to what who put it there may not read.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        raise TableRefused([Problem(0, "", f"cannot be read ({error.strerror})")]) from None


def _pairs(path: Path) -> Iterator[tuple[str, yaml.Node, int]]:
    """The keys of a file, with value and line."""
    import yaml

    data = _head(path, _LARGEST_OPTIONS)
    if len(data) > _LARGEST_OPTIONS:
        raise TableRefused([Problem(0, "", f"is too large for options; they are {', '.join(OPTIONS)}")])
    try:
        root = yaml.compose(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)  # the text of the error quotes the file
        message = "is not YAML; write one `key: value` on each line, as UTF-8"
        raise TableRefused([Problem(mark.line + 1 if mark else 0, "", message)]) from None
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise TableRefused([Problem(1, "", "holds no options; write one `key: value` on each line")])
    for key, value in root.value:
        yield (key.value if isinstance(key, yaml.ScalarNode) else ""), value, key.start_mark.line + 1


def _value(node: yaml.Node, option: Option) -> bool | int | str:
    """A value of the kind that the option wants.

    Raises:
        ValueError: it is of another kind; says what is wanted.
    """
    text = node.value.strip() if isinstance(node.value, str) else ""
    if option.kind is bool:
        if node.tag != f"{_TAG}bool":
            raise ValueError("neither true nor false")
        return text.lower() in ("true", "yes", "on")
    if option.kind is int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
            raise ValueError("not a whole number above 0")
        return int(text)
    if option.choices and text not in option.choices:
        raise ValueError(f"none of {', '.join(option.choices)}")
    if node.tag != f"{_TAG}str":
        raise ValueError("not text; put it in quotes")
    if not text or not text.isprintable():
        raise ValueError("empty, or with characters that cannot be seen")
    return text


def _contradictions(options: Mapping[str, Any], connect: Connect) -> Iterator[tuple[str, str]]:
    """What is wrong with values of the right kind: key and message."""
    if "out_directory" in options:
        try:
            confined(options["out_directory"], settings.data_root(), "it")
        except PathRefused:
            yield "out_directory", "leads outside the data root; give a path below it"
    for key in ("pacs", "destination"):
        if key in options:
            try:
                connect(options[key])
            except ConfigError as error:
                yield key, str(error)
    for key, needed in (("destination", MOVE), ("resend", MOVE), ("method", SAVE)):
        if options.get(key) and options.get("retrieve", SAVE) != needed:
            yield key, f"only with retrieve: {needed}"
