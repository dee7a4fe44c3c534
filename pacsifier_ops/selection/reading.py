"""Reads the file of a selection: YAML that people write. All faults are told at once, by line and key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import meant, not_known
from pacsifier_ops.base.given import Unusable, read_given, yaml_of
from pacsifier_ops.query.keys import check_text
from pacsifier_ops.query.options import Refused
from pacsifier_ops.query.problems import Problem
from pacsifier_ops.selection.rules import (
    ANCHORS,
    ATTRIBUTES,
    DEFAULT,
    KEEP,
    LEAVE_OUT,
    PREFER,
    SHOWN,
    Condition,
    Priors,
    Rule,
    Rules,
    Selection,
)

if TYPE_CHECKING:
    import yaml

#: Bytes of such a file at most.
LARGEST = 256 * 2**10
_NULL = "tag:yaml.org,2002:null"
_WHOLE = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_SETS, _NAME = "sets", "name"
#: The largest number of days or years: no date of DICOM is further from another.
_MOST = 10**7


class _Wrong(Exception):
    """A value is of the wrong kind; says what to write."""


def read_selection(path: Path) -> Selection:
    """Read and check the file of a selection.

    Raises:
        Refused: it cannot be used; names every reason by file, line and key, without values.
    """
    try:
        return selection_of(read_given(path, LARGEST), path.name)
    except Unusable as error:
        raise Refused([f"{path.name}: {error}"]) from None


def selection_of(data: bytes, name: str) -> Selection:
    """Return the selection in the content of a file; `name` is the file's, for errors.

    Raises:
        Refused: see `read_selection`.
    """
    reader = _Reader()
    try:
        root = yaml_of(data)
    except Unusable as error:
        hint = "; put text in quotes that begins with one of * > ! & or holds a colon" if error.line else ""
        raise Refused([f"{name}: {Problem(error.line, '', f'{error}{hint}')}"]) from None
    sets = reader.sets(root)
    if reader.problems:
        problems = sorted(reader.problems, key=lambda problem: problem.line)
        raise Refused([f"{name}: {problem}" for problem in dict.fromkeys(problems)])
    return Selection(sets, hashlib.sha256(data).hexdigest())


class _Reader:
    """Reads the nodes of a file. A node that stands in several places, by an alias, is read once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._read: dict[tuple[str, int], Any] = {}

    def sets(self, root: yaml.Node | None) -> dict[str, Rules]:
        import yaml

        if root is None:
            return {DEFAULT: Rules()}
        if not isinstance(root, yaml.MappingNode):
            self._add(root, "", "holds no rules; write one `key: value` on each line")
            return {}
        top = {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}
        if _SETS not in top:
            return {DEFAULT: self.rules(root, "")}
        for key, _ in root.value:
            if key.value != _SETS:
                self._add(key, _word(key), "stands beside sets; put it into one of the sets")
        found: dict[str, Rules] = {}
        for node in [value for key, value in root.value if key.value == _SETS]:
            for key, value in self._pairs(node, _SETS):
                try:
                    word = check_text(_text(key).strip())
                except (_Wrong, ValueError) as error:
                    self._add(key, _SETS, f"the name of a set is {error}")
                    continue
                if word in found:
                    self._add(key, _SETS, "two sets have this name; change one")
                found[word] = self.rules(value, word if _word(key) else _SETS)
            if not found:
                self._add(node, _SETS, "has no set; write a name, and its rules below it")
        return found

    def rules(self, node: yaml.Node, where: str) -> Rules:
        known: Mapping[str, Callable[[yaml.Node], Any]] = {
            "anchor": lambda value: _one_of(value, ANCHORS),
            "days": lambda value: _span(value, "days from the anchor"),
            "studies": lambda value: _whole(value, 1),
            "priors": lambda value: self._priors(value, where),
            "age": lambda value: _span(value, "years", 0),
            "unknown_age": lambda value: _one_of(value, (LEAVE_OUT, KEEP)),
            "series": lambda value: self._series(value, where),
            "undecided": lambda value: _one_of(value, (SHOWN, LEAVE_OUT)),
            "prefer": lambda value: _several(value, tuple(PREFER)),
        }
        values = self._values(node, where, known)
        return Rules(**{**values.pop("series", {}), **values})

    def _priors(self, node: yaml.Node, where: str) -> Priors:
        known: Mapping[str, Callable[[yaml.Node], Any]] = {
            "studies": lambda value: _whole(value, 1),
            "days": lambda value: _whole(value, 0),
            "same": lambda value: _several(value, ATTRIBUTES),
        }
        return Priors(**self._values(node, _under(where, "priors"), known))

    def _series(self, node: yaml.Node, where: str) -> dict[str, tuple[Rule, ...]]:
        where = _under(where, "series")
        names: set[str] = set()

        def rules(kind: str) -> Callable[[yaml.Node], tuple[Rule, ...]]:
            return lambda value: self._list(value, _under(where, kind), kind, names)

        return self._values(node, where, {kind: rules(kind) for kind in ("include", "exclude")})

    def _list(self, node: yaml.Node, where: str, kind: str, names: set[str]) -> tuple[Rule, ...]:
        import yaml

        if not isinstance(node, yaml.SequenceNode):
            raise _Wrong("not a list; write one rule on each line, with a dash before it")
        rules = []
        for number, one in enumerate(node.value, 1):
            rule = self._once("rule", one, partial(self._rule, one, where))
            if rule is None:
                continue
            rule = rule if rule.name else Rule(f"{kind} {number}", rule.conditions)
            if rule.name in names:
                self._add(one, where, "two rules have this name, and could not be told from each other; change one")
            names.add(rule.name)
            rules.append(rule)
        return tuple(rules)

    def _rule(self, node: yaml.Node, where: str) -> Rule | None:
        name, conditions, seen = "", [], set()
        pairs = self._pairs(node, where)
        for key, value in pairs:
            word = _word(key)
            try:
                if word in seen:
                    raise _Wrong("there twice; remove one, or write a list of its values")
                seen.add(word)
                if word == _NAME:
                    name = check_text(_text(value).strip())
                elif word not in ATTRIBUTES:
                    self._add(key, where, f"{not_known(word, (_NAME, *ATTRIBUTES))}; there are {', '.join(ATTRIBUTES)}")
                else:
                    conditions.append(_condition(word, value))
            except (_Wrong, ValueError) as error:
                self._add(value, _under(where, word), str(error))
        if not conditions:
            if not seen - {_NAME}:
                self._add(node, where, "a rule without a condition; write {Modality: CT}, for instance, or remove it")
            return None
        return Rule(name, tuple(conditions))

    def _values(self, node: yaml.Node, where: str, known: Mapping[str, Callable[[yaml.Node], Any]]) -> dict[str, Any]:
        """Return the values of a mapping by key; a key without a value is as if it were not there."""

        def read() -> dict[str, Any]:
            values: dict[str, Any] = {}
            seen: dict[str, int] = {}
            for key, value in self._pairs(node, where):
                word = _word(key)
                if word not in known:
                    self._add(key, where, f"{not_known(word, known)}; there are {', '.join(known)}")
                elif word in seen:
                    self._add(key, _under(where, word), f"there twice (line {seen[word]}); remove one")
                elif value.tag != _NULL:
                    try:
                        values[word] = known[word](value)
                    except (_Wrong, ValueError) as error:
                        self._add(value, _under(where, word), str(error))
                seen.setdefault(word, key.start_mark.line + 1)
            return values

        return dict(self._once("/".join(known), node, read))

    def _pairs(self, node: yaml.Node, where: str) -> list[tuple[yaml.Node, yaml.Node]]:
        import yaml

        if node.tag == _NULL:
            return []
        if not isinstance(node, yaml.MappingNode):
            self._add(node, where, "not a list of keys; write `key: value`")
            return []
        pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
        return pairs

    def _once(self, kind: str, node: yaml.Node, read: Callable[[], Any]) -> Any:
        if (kind, id(node)) not in self._read:
            self._read[kind, id(node)] = read()
        return self._read[kind, id(node)]

    def _add(self, node: yaml.Node, where: str, message: str) -> None:
        self.problems.append(Problem(node.start_mark.line + 1, where, message))


def _under(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _word(node: yaml.Node) -> str:
    """Return a key; empty if it is no text."""
    return node.value if isinstance(node.value, str) else ""


def _text(node: yaml.Node) -> str:
    """Return a scalar as it is written: 1.5 and NO are text."""
    if not isinstance(node.value, str):
        raise _Wrong("not one value; write text or a number")
    if not node.value.strip() or not node.value.isprintable():
        raise _Wrong("empty, or with characters that cannot be seen; write a value")
    return node.value


def _texts(node: yaml.Node) -> list[str]:
    """Return a scalar, or a list of scalars."""
    return [_text(one) for one in node.value] if isinstance(node.value, list) and _is_list(node) else [_text(node)]


def _is_list(node: yaml.Node) -> bool:
    import yaml

    return isinstance(node, yaml.SequenceNode)


def _one_of(node: yaml.Node, words: Collection[str]) -> str:
    text = _text(node).strip()
    if text not in words:
        raise _Wrong(f"none of {', '.join(words)}{meant(text, words)}")
    return text


def _several(node: yaml.Node, words: Collection[str]) -> tuple[str, ...]:
    if not (found := _texts(node)):
        raise _Wrong(f"an empty list; give some of {', '.join(words)}, or remove it")
    for text in found:
        if text.strip() not in words:
            raise _Wrong(f"none of {', '.join(words)}{meant(text, words)}")
    return tuple(dict.fromkeys(text.strip() for text in found))


def _whole(node: yaml.Node, least: int) -> int:
    text = _text(node).strip()
    if not _WHOLE.fullmatch(text) or not least <= int(text) <= _MOST:
        raise _Wrong(f"not a whole number from {least} on")
    return int(text)


def _span(node: yaml.Node, what: str, least: int = -_MOST) -> tuple[int | None, int | None]:
    if not _is_list(node) or len(node.value) != 2:
        raise _Wrong(f"not two numbers; write [first, last], in {what}, with null for an open end")
    low, high = (None if one.tag == _NULL else _whole(one, least) for one in node.value)
    if low is not None and high is not None and low > high:
        raise _Wrong("ends before it begins; swap the two numbers")
    return low, high


def _condition(keyword: str, node: yaml.Node) -> Condition:
    texts = _texts(node)
    if not texts:
        raise _Wrong("an empty list, which nothing matches; give a value, or remove it")
    return Condition(keyword, tuple(texts))
