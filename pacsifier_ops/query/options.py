"""Small YAML files that people write, one `key: value` on each line: checked as a whole, all faults told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import InputError, not_known
from pacsifier_ops.base.given import Unusable, read_given, yaml_of
from pacsifier_ops.query.problems import Problem, TableRefused
from pacsifier_ops.query.reading import CHOICES

if TYPE_CHECKING:
    import yaml

#: Bytes of such a file at most.
_LARGEST = 64 * 2**10
_TAG = "tag:yaml.org,2002:"

#: What is wrong with values of the right kind: key and message.
Contradictions = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]


@dataclass(frozen=True)
class Field:
    """What a key may be: true or false, a whole number, or text (one of `choices`, if there are any).

    Attributes:
        several: a list of these.
        joined: one of these, or a list, which is kept as one text with commas.
        least, most: the smallest and the largest number.
    """

    kind: type[bool] | type[int] | type[str]
    choices: tuple[str, ...] = ()
    several: bool = False
    joined: bool = False
    least: int = 1
    most: int = 10**9


#: Keys of any file that names a query table: how that is read.
READING: Mapping[str, Field] = {name: Field(str, choices) for name, choices in CHOICES.items()}


class Refused(InputError):
    """What was handed in cannot be used; `reasons` are for whoever did, and name files."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(f"{len(reasons)} reason(s)")
        self.reasons = reasons


def read_options(path: Path, known: Mapping[str, Field], contradictions: Contradictions) -> dict[str, Any]:
    """Read and check a file of options; keys without a value are as if they were not there.

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
                    options[key] = _values(value, known[key])
                except ValueError as error:
                    problems.append(Problem(line, key, str(error)))
            lines.setdefault(key, line)
    except TableRefused as error:
        problems += error.problems
    problems += [Problem(lines.get(key, 0), key, message) for key, message in contradictions(options)]
    if problems:
        raise Refused([f"{path.name}: {problem}" for problem in sorted(problems, key=lambda problem: problem.line)])
    return options


def _pairs(path: Path) -> Iterator[tuple[str, yaml.Node, int]]:
    """The keys of a file, with value and line."""
    import yaml

    try:
        root = yaml_of(read_given(path, _LARGEST, follow=False))
    except Unusable as error:
        raise TableRefused([Problem(error.line, "", f"{error}; write one `key: value` on each line")]) from None
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise TableRefused([Problem(1, "", "holds no options; write one `key: value` on each line")])
    for key, value in root.value:
        yield (key.value if isinstance(key, yaml.ScalarNode) else ""), value, key.start_mark.line + 1


def _values(node: yaml.Node, option: Field) -> Any:
    """A value, or a list of values, of the kind that the option wants; see `_value`."""
    import yaml

    if option.joined and isinstance(node, yaml.SequenceNode):
        return ", ".join(str(_value(item, option)) for item in node.value)
    if not option.several:
        return _value(node, option)
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError("not a list; write [one, another]")
    return [_value(item, option) for item in node.value]


def _value(node: yaml.Node, option: Field) -> bool | int | str:
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
        if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) >= option.least):
            raise ValueError("not a whole number above 0" if option.least else "not a whole number")
        if int(text) > option.most:
            raise ValueError(f"above {option.most:,}")
        return int(text)
    if option.choices and text not in option.choices:
        raise ValueError(f"none of {', '.join(option.choices)}")
    if node.tag != f"{_TAG}str":
        raise ValueError("not text; put it in quotes")
    if not text or not text.isprintable():
        raise ValueError("empty, or with characters that cannot be seen")
    return text
