"""What a run came to, for tables of faults."""

from __future__ import annotations

from dataclasses import dataclass

from pacsifier_ops.runs.accounts import COMPLETE, RunAccount


@dataclass
class Ended:
    """What a run came to: its account, or the error that ended it."""

    account: RunAccount | None
    error: Exception | None

    @property
    def complete(self) -> bool:
        return self.account is not None and self.account.verdict == COMPLETE

    @property
    def missing(self) -> int:
        return sum(one.missing for one in self.account.series) if self.account else 0
