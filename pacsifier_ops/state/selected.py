"""What runs have selected for the rows of query tables, kept with the output folder: it stays selected.

A line for each row: what the row is known by, the digest of its rules, and its series with what they were selected as.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pacsifier_ops.base.files import read_jsonl, write_jsonl
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.tree import Tree

_FILE = "selected.jsonl"


@dataclass(frozen=True, slots=True)
class RowSelected:
    """What was selected for a row.

    Attributes:
        rules: digest of the rules.
        series: Study and Series Instance UID of each series, and what it was selected as.
    """

    rules: str
    series: list[list[str]]


def remembered(tree: Tree | None) -> dict[str, RowSelected]:
    """Return what was selected for rows, by what each is known by; nothing for a new output folder (None)."""
    path = tree and tree.state / _FILE
    if not path or not path.exists():
        return {}
    return {key: RowSelected(rules, series) for key, rules, series in read_jsonl(path)}


def remember(tree: Tree, leases: Leases, rows: Iterable[tuple[str, RowSelected]]) -> None:
    """Keep what was selected for rows, by what each is known by. A row without series is forgotten.

    Raises:
        OSError: the state root cannot be written.
    """
    new = dict(rows)
    with leases.acquire(f"selected:{tree.key}"):
        known = remembered(tree)
        merged = {key: row for key, row in {**known, **new}.items() if row.series}
        if merged != known:
            write_jsonl(tree.state / _FILE, ([key, row.rules, row.series] for key, row in merged.items()))
