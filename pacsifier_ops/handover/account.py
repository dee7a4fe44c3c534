"""What a tool did with a folder: counts for everybody, and for who may read the report, what it could not do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pacsifier_ops.base.words import plural
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import close
from pacsifier_ops.runs.pages import VerdictBox, page


@dataclass
class ToolAccount:
    """The account of a run of a tool.

    Attributes:
        run: opaque id of the run.
        action: what the tool does, in a word or two, for people.
        started, finished: ISO 8601.
        folder: what it worked on.
        out_folder: where the results are.
        counts: how many of what; the names are shown to people.
        done: path and remark of each thing that was done, where that is worth a list; identifying.
        problems: path, or what else names the thing, and reason of what could not be done; paths may identify.
        passed_over: files that are none of the tool's business, reason in words to count.
    """

    run: str
    action: str
    started: str
    finished: str
    folder: str
    out_folder: str
    counts: dict[str, int] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`complete`, or `incomplete` where something could not be done."""
        return INCOMPLETE if self.problems else COMPLETE

    def totals(self) -> dict[str, int]:
        """Counts without any identifier: fit for XCom and logs."""
        apart = {"problems": len(self.problems), "passed_over": sum(self.passed_over.values())}
        return {name.replace(" ", "_").replace("-", "_"): count for name, count in {**self.counts, **apart}.items()}

    def summary(self) -> dict[str, Any]:
        """How the run ended, in counts only: fit for everybody who may see the run."""
        return {
            "action": self.action,
            "verdict": self.verdict,
            "started": self.started,
            "finished": self.finished,
            "totals": self.totals(),
        }


def write_books(run: Run, account: ToolAccount, title: str, *told: str) -> None:
    """Write accounts, report and summary into the run's folder.

    Args:
        title: heading of the report.
        told: sentences on how it ended; by default, how many problems there are.

    Raises:
        StorageError: one of them cannot be written.
    """
    close(run, account, _page(account, title, told))


def _page(account: ToolAccount, title: str, told: Sequence[str]) -> str:
    word = "Complete" if account.verdict == COMPLETE else "Incomplete"
    return page(
        "handover/templates/report.html",
        account=account,
        title=title,
        verdict=VerdictBox(account.verdict, word, tuple(told or [_told(account)])),
        reasons=Counter(reason for _, reason in account.problems).most_common(),
    )


def _told(account: ToolAccount) -> str:
    if account.problems:
        return f"{plural(len(account.problems), 'thing')} could not be done; the list below says what and why."
    return "All that was asked for is done."
