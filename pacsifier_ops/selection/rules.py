"""The rules of a selection, as a file gives them, see docs/selection.md.

A condition is True, False, or None: the archive does not tell what it needs.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

#: Values of `anchor`: which studies of a patient come first.
CLOSEST, FIRST_AFTER, LAST_BEFORE, ALL = "closest", "first after", "last before", "all"
ANCHORS = (CLOSEST, FIRST_AFTER, LAST_BEFORE, ALL)
#: Values of `undecided` and `unknown_age`.
SHOWN, LEAVE_OUT, KEEP = "shown", "leave out", "keep"
#: Values of `prefer`, each with the attributes that it compares.
THINNEST, MOST_IMAGES, LATEST = "thinnest", "most images", "latest"
PREFER: Mapping[str, tuple[str, ...]] = {
    THINNEST: ("SliceThickness",),
    MOST_IMAGES: ("NumberOfSeriesRelatedInstances",),
    LATEST: ("SeriesDate", "SeriesTime"),
}
#: Attributes of conditions that are compared as numbers, and as text.
NUMBERS = ("SliceThickness", "NumberOfSeriesRelatedInstances", "SeriesNumber")
TEXTS = (
    "Modality",
    "SeriesDescription",
    "BodyPartExamined",
    "ProtocolName",
    "ImageType",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "StudyDescription",
)
ATTRIBUTES = (*TEXTS, *NUMBERS)
#: Attributes that differ between the images of a series: what an archive tells of a series is that of some image.
OF_IMAGES = ("ImageType",)
#: Attributes that an archive works out; no image has them.
WORKED_OUT = ("NumberOfSeriesRelatedInstances",)
AGE = "PatientAge"
#: Name of the set of a row that names none.
DEFAULT = "default"

_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_COMPARED = re.compile(rf"(<=|>=|<|>|)\s*({_NUMBER})|({_NUMBER})\s*\.\.\s*({_NUMBER})", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_TESTS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": float.__le__,
    "<": float.__lt__,
    ">=": float.__ge__,
    ">": float.__gt__,
    "": float.__eq__,
}

#: First and last number, both included; None: open.
Span = tuple[int | None, int | None]


@lru_cache(65536)
def folded(text: str) -> str:
    """Return a text as conditions compare it: without case, and without blanks around it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).strip(" \0")


def number_of(text: str) -> float | None:
    """Return the number that an archive tells (DS or IS, PS3.5 6.2); None where it is none."""
    text = text.strip(" \0")
    return float(text) if _DECIMAL.fullmatch(text) else None


def text_test(pattern: str) -> Callable[[str], bool]:
    """Return a test of a text against a pattern with the wildcards `*` and `?`."""
    match = re.compile(fnmatch.translate(folded(pattern).replace("[", "[[]"))).match
    return lambda text: match(folded(text)) is not None


def number_test(text: str) -> Callable[[float], bool]:
    """Return a test of a number, from a text such as `<=1.5`, `>20`, `1..3` or `1.5`.

    Raises:
        ValueError: the text is none of these; says what to write.
    """
    parts = _COMPARED.fullmatch(text.strip())
    if not parts:
        raise ValueError('not a comparison of numbers; write one of "<=1.5", "<1.5", ">=20", ">20", 1..3, 1.5')
    sign, number, low, high = parts.groups()
    if number is not None:
        test, bound = _TESTS[sign], float(number)
        return lambda value: test(value, bound)
    first, last = float(low), float(high)
    if first > last:
        raise ValueError("the range ends before it begins; swap its two numbers")
    return lambda value: first <= value <= last


@dataclass(frozen=True)
class Condition:
    """A condition on one attribute of a series: one of `wanted` has to match one of its values.

    Raises:
        ValueError: a wanted number is none.
    """

    keyword: str
    wanted: tuple[str, ...]
    _tests: tuple[Callable[..., bool], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        make = number_test if self.keyword in NUMBERS else text_test
        object.__setattr__(self, "_tests", tuple(map(make, self.wanted)))

    def __call__(self, values: Sequence[str]) -> bool | None:
        """Return whether it holds for the values of a series."""
        known: list[str] | list[float]
        if self.keyword in NUMBERS:
            known = [number for number in map(number_of, values) if number is not None]
        else:
            known = [value for value in values if value.strip(" \0")]
        return any(test(value) for test in self._tests for value in known) if known else None


@dataclass(frozen=True)
class Rule:
    """A rule for series: it matches where all of its conditions hold."""

    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Priors:
    """Earlier studies: at most `studies` (None: all), at most `days` before (None: any), that share `same`."""

    studies: int | None = None
    days: int | None = None
    same: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What a row selects; see docs/selection.md for each."""

    anchor: str = ALL
    days: Span | None = None
    studies: int | None = None
    priors: Priors | None = None
    age: Span | None = None
    unknown_age: str = LEAVE_OUT
    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()
    undecided: str = SHOWN
    prefer: tuple[str, ...] = ()

    @property
    def needs_anchor(self) -> bool:
        """Whether a row has to have an anchor date."""
        return self.days is not None or self.anchor != ALL

    @property
    def needs_date(self) -> bool:
        """Whether a study has to have a date."""
        return self.needs_anchor or self.priors is not None or self.age is not None

    @property
    def chooses(self) -> bool:
        """Whether what is selected depends on what else there is."""
        return self.studies is not None or self.priors is not None or bool(self.prefer)

    def keywords(self) -> set[str]:
        """Return the attributes that the rules look at, beside date and time of study and birth."""
        conditions = (condition.keyword for rule in (*self.include, *self.exclude) for condition in rule.conditions)
        preferred = chain.from_iterable(PREFER[word] for word in self.prefer)
        number = ["SeriesNumber"] if self.prefer else []
        age = [AGE] if self.age else []
        return {*conditions, *preferred, *number, *age, *(self.priors.same if self.priors else ())}

    def digest(self) -> str:
        """Return the SHA-256 of what the rules say, hexadecimal. The names of rules do not count."""

        def plain(rules: Sequence[Rule]) -> list[list[tuple[str, tuple[str, ...]]]]:
            return [[(one.keyword, one.wanted) for one in rule.conditions] for rule in rules]

        values = {**vars(self), "include": plain(self.include), "exclude": plain(self.exclude)}
        values["priors"] = self.priors and vars(self.priors)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Selection:
    """A file of rules.

    Attributes:
        sets: rules by the name of their set.
        digest: SHA-256 of the file, hexadecimal.
    """

    sets: Mapping[str, Rules]
    digest: str = ""

    def of(self, name: str) -> Rules | None:
        """Return the rules of a row that names a set, or none; None if there is no such set."""
        return self.sets.get(name or DEFAULT)

    def keywords(self) -> tuple[str, ...]:
        """Return the attributes that the rules look at."""
        return tuple(sorted(set().union(*(rules.keywords() for rules in self.sets.values()))))

    def __iter__(self) -> Iterator[str]:
        return iter(self.sets)
