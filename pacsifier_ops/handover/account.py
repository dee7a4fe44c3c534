"""The account of a run of a hand-over job: counts for everybody, and paths and reasons for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pacsifier_ops.base.words import plural
from pacsifier_ops.runs.accounts import COMPLETE, headline, incomplete
from pacsifier_ops.runs.approvals import Decision
from pacsifier_ops.runs.figures import Figures
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import close
from pacsifier_ops.runs.pages import VerdictBox, page


@dataclass
class ToolAccount:
    """The account of a run of a hand-over job.

    Attributes:
        run: opaque id of the run.
        action: what the job does, in a word or two, for people.
        started, finished: ISO 8601.
        folder: folder that the job worked on.
        out_folder: folder of the results.
        counts: counts by name; the names are shown to people.
        done: path and remark of each result that the report lists; paths identify patients.
        problems: path or other name, and reason, of each file that failed; paths may identify patients.
        passed_over: number of files that the job does not treat, by reason in words.
        ended: the decision of a person that ended the run.
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
    ended: Decision | None = None

    @property
    def verdict(self) -> str:
        """Return `complete`, or, if there are problems, `incomplete` or how a person ended the run."""
        return incomplete(self.ended) if self.problems else COMPLETE

    def totals(self) -> dict[str, int]:
        """Return counts without identifiers, for XCom and logs."""
        others = {"problems": len(self.problems), "passed_over": sum(self.passed_over.values())}
        return {name.replace(" ", "_").replace("-", "_"): count for name, count in {**self.counts, **others}.items()}

    def summary(self) -> dict[str, Any]:
        """Return the account in counts only, for everybody who may see the run."""
        return {
            "action": self.action,
            "verdict": self.verdict,
            "started": self.started,
            "finished": self.finished,
            "totals": self.totals(),
        }

    def figures(self) -> Figures:
        """Return nothing: its verdict is enough for monitoring."""
        return Figures()


def write_books(run: Run, account: ToolAccount, title: str, *sentences: str) -> None:
    """Write account, report and summary into the run's folder.

    Args:
        title: heading of the report.
        sentences: how the run ended; default: the number of problems.

    Raises:
        StorageError: a file cannot be written.
    """
    close(run, account, _page(account, title, sentences))


def _page(account: ToolAccount, title: str, sentences: Sequence[str]) -> str:
    word = headline(account)
    return page(
        "handover/templates/report.html",
        account=account,
        title=title,
        verdict=VerdictBox(account.verdict, word, tuple(sentences or [_problems(account)])),
        reasons=Counter(reason for _, reason in account.problems).most_common(),
    )


def _problems(account: ToolAccount) -> str:
    if account.problems:
        return f"{plural(len(account.problems), 'thing')} could not be done; the list below says what and why."
    return "All that was asked for is done."
