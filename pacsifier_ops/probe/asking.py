"""Asking an archive that somebody is working with: one association, narrow questions, no answer without an end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydicom.dataset import Dataset

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import Cancelled, PacsError, PacsifierError, PacsTimeout, Unsupported
from pacsifier_ops.base.waiting import pause
from pacsifier_ops.dimse.attempts import open_session
from pacsifier_ops.dimse.session import Matches
from pacsifier_ops.state.leases import Leases

T = TypeVar("T")

#: So many matches of one query are taken; then the association is aborted, whatever the archive has left to say.
LONGEST_ANSWER = 2_500
#: So many questions in a row that end in a failure of the network or the archive: it is left alone.
FAILURES_IN_A_ROW = 3


class TooMany(PacsError):
    """An answer was longer than anybody wants to hear."""


class QueryRefused(Unsupported):
    """The archive answers a query with a failure status.

    Attributes:
        answer: what it said before.
    """

    def __init__(self, text: str, answer: Matches) -> None:
        super().__init__(text)
        self.answer = answer

    @property
    def too_many(self) -> bool:
        """Out of resources: how archives refuse a query with too many matches (PS3.4 C.4.1.1.4)."""
        return 0xA700 <= self.answer.status <= 0xA7FF or self.answer.status == 0xB001


class GaveUp(PacsifierError):
    """The archive failed several times in a row; it is not asked any more."""


@dataclass
class Archive:
    """One archive, asked over one association at a time, under one of its slots.

    Attributes:
        incoming: folder for what C-GET brings.
        character_sets: those in which its answers came.
        queries: C-FINDs so far.
    """

    node: PacsNode
    leases: Leases
    incoming: Path
    cancelled: Callable[[], bool]
    character_sets: set[str] = field(default_factory=set)
    queries: int = 0
    _seconds: list[float] = field(default_factory=list)
    _messages: int = 0
    _failures: int = 0

    def __post_init__(self) -> None:
        self.session = open_session(self.node, self.leases, self.incoming, self._enough)

    def _enough(self) -> bool:
        self._messages += 1
        return self._messages > LONGEST_ANSWER or self.cancelled()

    def insist(self, action: Callable[[], T]) -> T:
        """Do something; once more where the error is one that may pass by itself.

        Raises:
            TooMany: the answer went on and on.
            GaveUp: this and what was asked before failed, one after the other.
            PacsifierError: whatever else `action` raises.
        """
        if self._failures >= FAILURES_IN_A_ROW:
            raise GaveUp("not asked: the archive failed several times in a row and was left alone")
        try:
            try:
                value = self._bounded(action)
            except PacsifierError as error:
                if not error.retryable or isinstance(error, PacsTimeout):
                    raise
                self.session.close(abort=True)
                pause(self.node.retry_wait, self.cancelled)
                value = self._bounded(action)
        except (Unsupported, TooMany):
            self._failures = 0
            raise
        except PacsError:
            self._failures += 1
            self.session.close(abort=True)
            raise
        self._failures = 0
        return value

    def _bounded(self, action: Callable[[], T]) -> T:
        self._messages = 0
        try:
            return action()
        except Cancelled:
            self.session.close(abort=True)
            if self.cancelled():
                raise
            raise TooMany(
                f"{self.node.name}: went on after {LONGEST_ANSWER} matches; the association was aborted"
            ) from None

    def find(self, identifier: Dataset) -> Matches:
        """One C-FIND.

        Raises:
            Refused: it ended with a failure status.
            PacsifierError: see `insist`.
        """
        self.queries += 1

        def timed() -> Matches:
            started = time.perf_counter()
            answer = self.session.find(identifier)
            self._seconds.append(time.perf_counter() - started)
            return answer

        answer = self.insist(timed)
        for match in answer.identifiers:
            names = match.get("SpecificCharacterSet") or []
            self.character_sets.update(name for name in ([names] if isinstance(names, str) else names) if name)
        if answer.status != 0x0000:
            level = identifier.QueryRetrieveLevel
            raise QueryRefused(f"it refuses a C-FIND at {level} level (0x{answer.status:04X})", answer)
        return answer

    def echoes(self, times: int) -> float:
        """Median seconds of some C-ECHOs."""
        seconds = []
        for _ in range(times):
            started = time.perf_counter()
            self.insist(self.session.echo)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    @property
    def find_seconds(self) -> float | None:
        """Median seconds of the C-FINDs so far."""
        return statistics.median(self._seconds) if self._seconds else None
