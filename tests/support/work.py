"""Counts work instead of measuring time: what takes one step per item takes ten times as many for ten times as much."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar


class CountedText(str):
    """A text that counts how often one of its kind is compared or hashed."""

    __slots__ = ()
    looks: ClassVar[int] = 0

    def __eq__(self, other: object) -> bool:
        CountedText.looks += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        CountedText.looks += 1
        return str.__hash__(self)


def looks_at_text(work: Callable[[], object]) -> int:
    """Do the work; return how often it compares or hashes a `CountedText`."""
    CountedText.looks = 0
    work()
    return CountedText.looks
