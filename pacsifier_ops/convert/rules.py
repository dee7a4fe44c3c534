"""Which image is what in BIDS: readable rules, in a YAML file. `include/bids/default.yaml` describes them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import ConfigError, not_known
from pacsifier_ops.base.given import Unusable, read_given, yaml_of
from pacsifier_ops.base.shipped import INCLUDE, shipped
from pacsifier_ops.convert.naming import label
from pacsifier_ops.convert.store import ImageRecord

if TYPE_CHECKING:
    import yaml

#: Entities of file names, in the order of BIDS (schema, `rules/entities`). `run` is ours to give, all others rules may.
ORDER = ("task", "acq", "ce", "trc", "stain", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "proc")
#: Datatypes of BIDS for images, and what people use where BIDS has none yet.
DATATYPES = ("anat", "func", "dwi", "fmap", "perf", "pet")

_KEYS = ("name", "match", "unless", "datatype", "suffix", "entities", "sidecar", "needs", "ignored")
_WORD = re.compile(r"[A-Za-z0-9]{1,32}")
_NUMBER = re.compile(r"(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)")
_LARGEST = 1 << 18

#: Why an image is unassigned.
NO_RULE = "no rule fits"

Values = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class BidsRule:
    """A rule. See the file for the attributes."""

    name: str
    match: Mapping[str, Sequence[str]]
    datatype: str
    suffix: str
    unless: Mapping[str, Sequence[str]] = field(default_factory=dict)
    entities: Mapping[str, str] = field(default_factory=dict)
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()
    ignored: bool = False

    def fits(self, values: Values) -> bool:
        """Whether an image with these values is meant."""
        return all(_fits(values.get(key, [""]), wanted) for key, wanted in self.match.items()) and not any(
            key in values and _fits(values[key], unwanted) for key, unwanted in self.unless.items()
        )

    @property
    def ignored_as(self) -> tuple[str, ...]:
        """Lines of .bidsignore for its images: their folder, unless BIDS knows that for others."""
        if self.datatype in DATATYPES:
            return (f"**/*_{self.suffix}.*",)
        return f"**/{self.datatype}", f"**/{self.datatype}/**"

    def lacks(self, image: ImageRecord) -> list[str]:
        """Return what an image needs and has not."""
        there = {**image.sidecar, **self.sidecar}
        return [need for need in self.needs if need not in (image.files if need.startswith(".") else there)]

    def name_of(self, before: str, values: Values) -> str:
        """Return the path of an image without ending, with `{run}` where a number may stand.

        Args:
            before: labels of patient and session, such as `sub-1_ses-1`.
            values: see `fits`.
        """
        given = {key: text for key, pattern in self.entities.items() if (text := label(_filled(pattern, values)))}
        parts = [before]
        for entity in ORDER:
            if entity == "run":
                parts[-1] += "{run}"
            elif entity in given:
                parts.append(f"{entity}-{given[entity]}")
        return f"{before.replace('_', '/')}/{self.datatype}/{'_'.join(parts)}_{self.suffix}"


def values_of(image: ImageRecord) -> dict[str, list[str]]:
    """Return the values of an image that rules compare, as texts."""
    found = {key: _texts(value) for key, value in image.sidecar.items()}
    words = image.postfix.split("_")
    echo = next((word[1:] for word in words if re.fullmatch(r"e\d+", word)), "")
    found |= {
        "Postfix": [image.postfix],
        "Echo": [echo],
        "Part": ["phase" if "ph" in words else "real" if "real" in words else "imag" if "imaginary" in words else ""],
        "Contrast": ["contrast" if image.sidecar.get("ContrastBolusAgent") else ""],
        "Volumes": [str(image.volumes)],
        "Slices": [str(image.dims[2] if len(image.dims) > 2 else 1)],
    }
    return found


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _fits(values: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(_is(value, pattern) for value in values for pattern in wanted)


def _is(value: str, pattern: str) -> bool:
    if compared := _NUMBER.fullmatch(pattern.strip()):
        try:
            number, bound = float(value), float(compared[2])
        except ValueError:
            return False
        return {"<": number < bound, "<=": number <= bound, ">": number > bound, ">=": number >= bound}[compared[1]]
    return fnmatch.fnmatchcase(value.strip().casefold(), pattern.strip().casefold())


#: Directions of phase encoding without a sign, which a label cannot have.
_SIGNS = str.maketrans({"-": "n"})


def _filled(pattern: str, values: Values) -> str:
    def one(key: re.Match[str]) -> str:
        text = " ".join(values.get(key[1], ())) if key[1] != "Postfix" else "".join(values["Postfix"])
        return text.translate(_SIGNS) if key[1] == "PhaseEncodingDirection" else text

    return re.sub(r"\{(\w+)\}", one, pattern)


class BidsRules:
    """The rules of a file, in order."""

    def __init__(self, rules: Sequence[BidsRule]) -> None:
        self.rules = rules

    def rule_for(self, image: ImageRecord) -> tuple[BidsRule | None, str]:
        """Return the first rule that fits an image, or None and why it is unassigned."""
        values = values_of(image)
        for rule in self.rules:
            if rule.fits(values):
                if lacks := rule.lacks(image):
                    return None, f"{rule.name}, without {', '.join(lacks)}"
                return rule, ""
        return None, NO_RULE

    @property
    def ignored(self) -> list[str]:
        """Lines of .bidsignore."""
        return sorted({line for rule in self.rules if rule.ignored for line in rule.ignored_as})


def shipped_rules() -> Path:
    """Return the path of the rules that come with the package."""
    return shipped(INCLUDE) / "bids" / "default.yaml"


def read_rules(path: Path) -> tuple[BidsRules, bytes]:
    """Read and check a file of rules. Return also its content.

    Raises:
        ConfigError: it cannot be used; names line and key.
    """
    try:
        data = read_given(path, _LARGEST)
        return rules_of(data), data
    except Unusable as error:
        raise ConfigError(f"bids_rules, line {error.line}: {error}" if error.line else f"bids_rules: {error}") from None
    except ValueError as wrong:
        raise ConfigError(f"bids_rules, {wrong}") from None


class _Wrong(ValueError):
    def __init__(self, node: yaml.Node, key: str, text: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}, {key}: {text}")


def rules_of(data: bytes) -> BidsRules:
    """Return the rules of a text.

    Raises:
        ValueError: it is no such text; names line and key.
    """
    import yaml

    top = yaml_of(data)
    if not isinstance(top, yaml.MappingNode):
        raise ValueError("line 1: holds no rules; write `rules:` and a list of them")
    keys = dict(_pairs(top, "", ("rules",)))
    if not isinstance(keys.get("rules"), yaml.SequenceNode):
        raise _Wrong(top, "rules", "is missing, or no list")
    return BidsRules([_rule(node, f"rules[{n}]") for n, node in enumerate(keys["rules"].value, 1)])


def _pairs(node: yaml.Node, where: str, known: Sequence[str]) -> Iterator[tuple[str, yaml.Node]]:
    """Yield keys and values; those of `<<` first, so that others replace them."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise _Wrong(node, where, "give keys and values")
    own = []
    for key, value in node.value:
        if key.tag.endswith(":merge"):
            yield from _pairs(value, where, known)
            continue
        name = str(key.value)
        if known and name not in known:
            raise _Wrong(key, where or name, f"{not_known(name, known)}; there are {', '.join(known)}")
        own.append((name, value))
    yield from own


def _rule(node: yaml.Node, where: str) -> BidsRule:
    keys = dict(_pairs(node, where, _KEYS))
    for key in ("match", "datatype", "suffix"):
        if key not in keys:
            raise _Wrong(node, where, f"has no {key}")
    datatype, suffix = (_word(keys[key], f"{where}.{key}") for key in ("datatype", "suffix"))
    ignored = "ignored" in keys and _text(keys["ignored"], f"{where}.ignored").lower() == "true"
    if datatype not in DATATYPES and not ignored:
        raise _Wrong(
            keys["datatype"],
            f"{where}.datatype",
            f"{not_known(datatype, DATATYPES)}; there are {', '.join(DATATYPES)}; another one takes `ignored: true`",
        )
    entities = (
        {
            key: _text(value, f"{where}.entities.{key}")
            for key, value in _pairs(keys["entities"], f"{where}.entities", [one for one in ORDER if one != "run"])
        }
        if "entities" in keys
        else {}
    )
    return BidsRule(
        _text(keys["name"], f"{where}.name") if "name" in keys else f"{datatype}/{suffix}",
        _patterns(keys["match"], f"{where}.match"),
        datatype,
        suffix,
        _patterns(keys["unless"], f"{where}.unless") if "unless" in keys else {},
        entities,
        {k: _text(v, f"{where}.sidecar.{k}") for k, v in _pairs(keys["sidecar"], f"{where}.sidecar", ())}
        if "sidecar" in keys
        else {},
        _texts_of(keys["needs"], f"{where}.needs") if "needs" in keys else (),
        ignored,
    )


def _patterns(node: yaml.Node, where: str) -> dict[str, list[str]]:
    return {key: _texts_of(value, f"{where}.{key}") for key, value in _pairs(node, where, ())}


def _texts_of(node: yaml.Node, where: str) -> list[str]:
    import yaml

    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [_text(one, where) for one in nodes]


def _text(node: yaml.Node, where: str) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise _Wrong(node, where, "give one value")
    return str(node.value)


def _word(node: yaml.Node, where: str) -> str:
    text = _text(node, where)
    if not _WORD.fullmatch(text):
        raise _Wrong(node, where, "give one word of letters and digits")
    return text
