"""The column map: which columns of a table are ours, where they have names of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.query.keys import COLUMNS, column_of, nearest_column

# Nothing is tried twice: a map of a million blanks would take hours.
_PAIR = re.compile(r"""([^=,;"]*+)=[^\S\n]*+("(?:[^"]|"")*+"|[^=,;"\n]*+)[^\S\n]*+(?:[,;\n]|$)""")
_FORM = (
    "write ours = theirs with commas between, as in PatientID = mrn, row_id = case_no; a name with a comma in quotes"
)


@dataclass(frozen=True)
class Pair:
    """A column of ours, and the name or the number of the one in the table.

    Attributes:
        place: place of the pair in the map, from 1: errors say it instead of the name, which may identify somebody.
    """

    place: int
    ours: str
    theirs: str


def column_map(text: str) -> tuple[Pair, ...]:
    """Return the pairs of a column map such as `PatientID = mrn, row_id = case_no`; none of an empty text.

    Raises:
        ConfigError: says which pair is wrong, by its place, without a name of the table.
    """
    pairs: list[Pair] = []
    at, text = 0, text.strip().removesuffix(",")
    while at < len(text):
        place = len(pairs) + 1
        found = _PAIR.match(text, at)
        if found is None:
            raise ConfigError(f"columns: pair {place} is not understood; {_FORM}")
        at = found.end()
        ours, theirs = column_of(found[1].strip()), found[2].strip()
        if theirs.startswith('"'):
            theirs = theirs[1:-1].replace('""', '"').strip()
        if not ours:
            near = nearest_column(found[1])
            advice = f"did you mean {near}?" if near else f"known are {', '.join(COLUMNS)}"
            raise ConfigError(f"columns: pair {place}: what stands before = is no column of ours; {advice}")
        if not theirs:
            raise ConfigError(f"columns: pair {place}: nothing stands behind =; {_FORM}")
        if ours in {pair.ours for pair in pairs}:
            raise ConfigError(f"columns: pair {place}: {ours} is there twice; remove one")
        pairs.append(Pair(place, ours, theirs))
    return tuple(pairs)


def place_of(pair: Pair, names: Sequence[str]) -> int:
    """Return the index of the column that a pair names: by its name, else in any case, else by its number from 1.

    Raises:
        ValueError: there is none, or several; says so without a name.
    """
    wanted = pair.theirs.casefold()
    for fits in (lambda name: name == pair.theirs, lambda name: name.casefold() == wanted):
        found = [place for place, name in enumerate(names) if fits(name)]
        if len(found) > 1:
            raise ValueError("names two columns of the table; rename one of them, or give its number")
        if found:
            return found[0]
    if pair.theirs.isascii() and pair.theirs.isdigit() and 0 < int(pair.theirs[:9]) <= len(names):
        return int(pair.theirs[:9]) - 1
    raise ValueError("names a column that is not in the table; give its name, or its number from 1")


def unique(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of columns that all differ, also without regard to case: a second `age` becomes `age_2`."""
    taken: set[str] = set()
    made = []
    for number, name in enumerate(names, 1):
        base = one = name.strip() or f"column {number}"
        again = 2
        while one.casefold() in taken:
            one, again = f"{base}_{again}", again + 1
        taken.add(one.casefold())
        made.append(one)
    return tuple(made)
