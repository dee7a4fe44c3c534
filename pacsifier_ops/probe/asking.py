"""Queries of a probe: over one association at a time, and with a limit on the length of answers.

The archive is in clinical use, so a probe must not disturb it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydicom.dataset import Dataset

from pacsifier_ops.archive.attempts import slot_of
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import PacsError, PacsifierError, PacsTimeout, Unsupported
from pacsifier_ops.base.waiting import pause
from pacsifier_ops.dimse.session import Matches, Session
from pacsifier_ops.state.leases import Leases

T = TypeVar("T")

#: Maximum number of matches of a query. At the next one, it is cancelled.
LONGEST_ANSWER = 2_500
#: After this many questions in a row with a failure of network or archive, the archive is not queried any more.
FAILURES_IN_A_ROW = 3


class TooManyMatches(PacsError):
    """A query had more than LONGEST_ANSWER matches."""


class QueryRefused(Unsupported):
    """The archive answered a query with a failure status.

    Attributes:
        answer: the status, and the matches before it.
    """

    def __init__(self, text: str, answer: Matches[Dataset]) -> None:
        super().__init__(text)
        self.answer = answer

    @property
    def too_many(self) -> bool:
        """Whether the status is `out of resources`, with which archives refuse too many matches (PS3.4 C.4.1.1.4)."""
        return 0xA700 <= self.answer.status <= 0xA7FF or self.answer.status == 0xB001


class ArchiveFailing(PacsifierError):
    """The archive failed several times in a row, and is not queried any more."""


@dataclass
class Archive:
    """An archive, queried over one association at a time within the limit on its associations.

    Attributes:
        node, leases: the archive, and the leases that enforce its limits.
        incoming: folder for objects of C-GET.
        cancelled: called regularly; True ends the probe.
        character_sets: values of SpecificCharacterSet in the responses.
        queries: number of C-FIND requests so far.
    """

    node: PacsNode
    leases: Leases
    incoming: Path
    cancelled: Callable[[], bool]
    character_sets: set[str] = field(default_factory=set)
    queries: int = 0
    _seconds: list[float] = field(default_factory=list)
    _failures: int = 0

    def __post_init__(self) -> None:
        self.session = Session(
            self.node, slot_of(self.node, self.leases, self.cancelled), self.incoming, self.cancelled
        )

    def with_retry(self, action: Callable[[], T]) -> T:
        """Call an action, and repeat it once if the error may be temporary.

        Raises:
            TooManyMatches: the answer exceeds LONGEST_ANSWER.
            ArchiveFailing: the last actions all failed.
            PacsifierError: raised by `action`.
        """
        if self._failures >= FAILURES_IN_A_ROW:
            raise ArchiveFailing("not asked: the archive failed several times in a row, and is not queried any more")
        try:
            try:
                value = action()
            except PacsifierError as error:
                if not error.retryable or isinstance(error, PacsTimeout):
                    raise
                self.session.close(abort=True)
                pause(self.node.retry_wait, self.cancelled)
                value = action()
        except (Unsupported, TooManyMatches):
            self._failures = 0
            raise
        except PacsError:
            self._failures += 1
            self.session.close(abort=True)
            raise
        self._failures = 0
        return value

    def find(self, identifier: Dataset) -> Matches[Dataset]:
        """Send a C-FIND request, and return its matches.

        Raises:
            QueryRefused: it ended with a failure status.
            PacsifierError: see `with_retry`.
        """
        self.queries += 1

        def timed() -> Matches[Dataset]:
            started = time.perf_counter()
            answer = self.session.find(identifier, most=LONGEST_ANSWER + 1)
            self._seconds.append(time.perf_counter() - started)
            if len(answer.identifiers) > LONGEST_ANSWER:
                self.session.close(abort=True)
                raise TooManyMatches(f"{self.node.name}: more than {LONGEST_ANSWER} matches; the query was cancelled")
            return answer

        answer = self.with_retry(timed)
        for match in answer.identifiers:
            names = match.get("SpecificCharacterSet") or []
            self.character_sets.update(name for name in ([names] if isinstance(names, str) else names) if name)
        if answer.status != 0x0000:
            level = identifier.QueryRetrieveLevel
            raise QueryRefused(f"it refuses a C-FIND at {level} level (0x{answer.status:04X})", answer)
        return answer

    def echo_seconds(self, times: int) -> float:
        """Return the median duration of several C-ECHO requests in seconds."""
        seconds = []
        for _ in range(times):
            started = time.perf_counter()
            self.with_retry(self.session.echo)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    @property
    def find_seconds(self) -> float | None:
        """Median duration of the C-FIND requests so far in seconds; None before the first one."""
        return statistics.median(self._seconds) if self._seconds else None
