"""Small YAML files that people write, one `key: value` on each line: checked as a whole, all faults told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import InputError, not_known
from pacsifier_ops.base.given import Unusable, read_given, yaml_of
from pacsifier_ops.base.options import Option
from pacsifier_ops.query.problems import Problem, TableRefused

if TYPE_CHECKING:
    import yaml

#: Bytes of such a file at most.
_LARGEST = 64 * 2**10
_TAG = "tag:yaml.org,2002:"

#: What is wrong with values of the right kind: key and message.
Contradictions = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]


class _NotText(str):
    """What YAML takes for something else than text: a number, a date."""


class Refused(InputError):
    """What was handed in cannot be used; `reasons` are for whoever did, and name files."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(f"{len(reasons)} reason(s)")
        self.reasons = reasons


def read_options(path: Path, known: Mapping[str, Option], contradictions: Contradictions) -> dict[str, Any]:
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
                    options[key] = _value(value, known[key])
                except ValueError as error:
                    problems.append(Problem(line, key, str(error)))
            lines.setdefault(key, line)
    except TableRefused as error:
        problems += error.problems
    else:
        problems += [Problem(lines.get(key, 0), key, message) for key, message in contradictions(options)]
    if problems:
        raise Refused([f"{path.name}: {problem}" for problem in sorted(problems, key=lambda problem: problem.line)])
    return options


def _pairs(path: Path) -> Iterator[tuple[str, yaml.Node, int]]:
    """The keys of a file, with value and line."""
    import yaml

    try:
        text = read_given(path, _LARGEST, follow=False)
    except Unusable as error:
        raise TableRefused([Problem(error.line, "", f"{error}; check the path, and who may read the file")]) from None
    try:
        root = yaml_of(text)
    except Unusable as error:
        raise TableRefused([Problem(error.line, "", f"{error}; write one `key: value` on each line")]) from None
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise TableRefused([Problem(1, "", "holds no options; write one `key: value` on each line")])
    for key, value in root.value:
        yield (key.value if isinstance(key, yaml.ScalarNode) else ""), value, key.start_mark.line + 1


def _value(node: yaml.Node, option: Option) -> Any:
    """A value of the kind that the option wants.

    Raises:
        ValueError: it is of another kind, or text that nobody can see; says what is wanted.
    """
    plain = _plain(node)
    value = option.fitting(plain)
    for text in plain if isinstance(plain, list) else [plain]:
        if option.kind is str and not (text and text.isprintable()):
            raise ValueError("empty, or with characters that cannot be seen")
    return value


def _plain(node: yaml.Node) -> Any:
    """A value as Python has it: text, true or false, or a list of these."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    text = node.value.strip() if isinstance(node.value, str) else ""
    if node.tag == f"{_TAG}bool":
        return text.lower() in ("true", "yes", "on")
    return text if node.tag == f"{_TAG}str" else _NotText(text)
