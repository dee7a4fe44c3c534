"""The account of a run: rows asked, series found, instances expected and delivered, and the verdict.

Each instance counts once, under its series. Query rows only refer to series.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.runs.approvals import CANCELLED, REJECTED, Decision
from pacsifier_ops.runs.figures import Figures, status_of
from pacsifier_ops.runs.flow import FlowLine

COMPLETE, INCOMPLETE, UNBALANCED = "complete", "incomplete", "unbalanced"
#: Verdicts, and the exit codes of the commands. CANCELLED and REJECTED: a person ended the run before it was complete.
EXIT_CODES = {COMPLETE: 0, INCOMPLETE: 3, UNBALANCED: 4, CANCELLED: Cancelled.exit_code, REJECTED: 3}
#: Verdicts of a run that a person ended; nobody can accept them beforehand.
ENDED_BY_PERSON = (CANCELLED, REJECTED)

#: What a run does with the images: it saves them, only lists them, lets the archive move them, or uploads a folder.
SAVE, NONE, MOVE, UPLOAD = "save", "none", "move", "upload"

#: States of a query row.
ROW_FOUND, ROW_EMPTY, ROW_BAD = "found", "empty", "bad"
ROW_UNDECIDABLE, ROW_FAILED, ROW_CONFLICT = "undecidable", "failed", "conflict"
#: The archive has series for the row, and the selection leaves all of them out.
ROW_UNSELECTED = "unselected"
#: States of a row that the archive has answered. All others make the run incomplete.
ROWS_ANSWERED = (ROW_FOUND, ROW_EMPTY, ROW_UNSELECTED)

#: States of a series. `listed`: the run lists series without fetching them.
SERIES_COMPLETE, SERIES_LISTED = "complete", "listed"
SERIES_INCOMPLETE, SERIES_UNVERIFIABLE, SERIES_FAILED = "incomplete", "unverifiable", "failed"
#: The archive is recalling the series from slow storage; it is not yet there.
SERIES_RECALLED = "recalled"

#: States of the instances of a series. Each is the name of a count in SeriesAccount.
IMAGES = ("present", "received", "missing", "unverifiable", "quarantined")

_MODALITY = re.compile(r"[A-Z0-9]{2,6}")


def incomplete(ended: Decision | None) -> str:
    """Return the verdict of an account that is not complete.

    Args:
        ended: the decision of a person that ended the run, see `approvals.ended_by`.
    """
    return ended.word if ended else INCOMPLETE


class Judged(Protocol):
    """What has a verdict: an account."""

    @property
    def verdict(self) -> str:
        """One of the keys of EXIT_CODES."""

    @property
    def ended(self) -> Decision | None:
        """The decision of a person that ended the run."""


def headline(account: Judged) -> str:
    """Return the verdict of an account as a heading, such as `Complete`, or `Cancelled by admin`."""
    by = f" by {account.ended.who}" if account.ended and account.verdict in ENDED_BY_PERSON else ""
    return account.verdict.capitalize() + by


def plain_modality(text: str) -> str:
    """Return a text if it has the form of a modality (PS3.3 C.7.3.1.1.1), else empty: archives may send any text."""
    return text if _MODALITY.fullmatch(text) else ""


@dataclass
class RowAccount:
    """One row of the query table.

    Attributes:
        line: line in the user's file, from 1, the header included.
        keys: the cells of the row, column to text; identifying.
        state: one of the ROW_ constants.
        series: number of series that match the row.
        studies: number of studies of these series. One accession number may have several studies; all are taken.
        reason: why the row was not answered, in words, without values.
        warnings: remarks, without values.
        left_out: number of series that the selection leaves out, by reason.
    """

    line: int
    keys: dict[str, str]
    state: str = ROW_FAILED
    series: int = 0
    reason: str = ""
    warnings: list[str] = field(default_factory=list)
    studies: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass
class SeriesAccount:
    """One series. Numbers count instances unless stated otherwise.

    The target is the folder of the series (save) or the destination (move, upload).

    Attributes:
        number: ordinal of the series in the run, from 1; not identifying.
        lines: lines of the query table that asked for it; none for an upload.
        folder: path of the series folder, below the output folder (save) or the uploaded folder (upload).
        pacs: name of the archive of the series if the run asks several.
        source: name of the archive that gives its images, if that is another one.
        expected: instances that the archive lists, or that the uploaded folder holds; None: unknown.
        present: expected instances that the target had before: whole in the folder, handed on from there and removed
            since, or confirmed by the destination.
        handed_on: those among the present and unverifiable instances that were handed on and removed from the folder.
        received: expected instances that reached the target in this run.
        missing: expected instances that the target does not have at the end.
        unverifiable: instances at the target that cannot be compared with an expectation.
        quarantined: received objects that were not asked for, and are kept in quarantine. An expected instance that was
            received in this form is missing.
        warned: instances that the destination accepted with a warning status (PS3.4 B.2.3).
        bytes: bytes received or sent in this run.
        seconds: wall time spent on the series in this run.
        method: get, move, `get and move`, store, or empty if nothing was transferred.
        missing_uids: SOP Instance UIDs of the missing instances that are known; identifying.
        recalls: times at which the archive was asked in this run and had to recall the series; ISO 8601.
        sending: the archive gave no final response to the last request, and may still be sending.
        look_at: time of the next look at a recalled series; ISO 8601, or empty.
    """

    number: int
    lines: list[int]
    study_uid: str
    series_uid: str
    modality: str = ""
    series_number: str = ""
    description: str = ""
    folder: str = ""
    pacs: str = ""
    source: str = ""
    state: str = SERIES_FAILED
    expected: int | None = None
    present: int = 0
    handed_on: int = 0
    received: int = 0
    missing: int = 0
    unverifiable: int = 0
    quarantined: int = 0
    warned: int = 0
    bytes: int = 0
    seconds: float = 0.0
    method: str = ""
    reason: str = ""
    missing_uids: list[str] = field(default_factory=list)
    recalls: list[str] = field(default_factory=list)
    sending: bool = False
    look_at: str = ""

    def add_earlier(self, look: SeriesAccount) -> None:
        """Count instances that an earlier look at the series received in this run as received, not as present."""
        there = min(look.received, self.present)
        self.present -= there
        self.received += there
        self.bytes += look.bytes
        self.seconds += look.seconds
        self.method = self.method or look.method

    @property
    def needed_nothing(self) -> bool:
        """Whether the target had all that is expected before, and there is nothing else to say of the series."""
        said = self.reason or self.method or self.received or self.unverifiable or self.quarantined or self.look_at
        return self.state == SERIES_COMPLETE and self.expected == self.present and not said

    @property
    def delivered(self) -> int:
        """Return the number of instances that the target has at the end."""
        return self.present + self.received + self.unverifiable

    @property
    def balanced(self) -> bool:
        """Whether every expected instance is in exactly one state."""
        return self.expected is None or self.expected == self.present + self.received + self.missing


@dataclass
class FileAccount:
    """A DICOM file of the uploaded folder that cannot be sent.

    Attributes:
        path: below the uploaded folder, with forward slashes; identifying.
        reason: why it cannot be sent, in words, without values.
    """

    path: str
    reason: str


@dataclass
class RunAccount:
    """A whole run.

    Attributes:
        run: opaque id of the run.
        pacs: name of the connection or configuration of the archive; empty for upload.
        action: save, none, move or upload.
        started, finished: ISO 8601 with zone.
        rows, series: accounts of the query rows and of the series.
        discrepancies: contradictions found when the account was closed, in words, without values.
        destination: name of the node that images were moved or uploaded to.
        folder: path of the output folder (save, none) or of the uploaded folder (upload).
        passed_over: number of files of the uploaded folder that are not to be sent, by reason in words.
        bad_files: files of the uploaded folder that are to be sent and cannot be.
        unasked: objects of other series that our receiver got; they are in its quarantine.
        quarantine: number of objects in the run's quarantine, by reason.
        notes: cells of the query table that were read in another way than they are written, in words, without values.
        ended: the decision of a person that ended the run.
        selection: SHA-256 of the file of the selection (`digest`), and number of selected series on which a rule was
            undecided; empty without a selection.
        flow: the flow from what was asked for to what was fetched; empty without a selection.
        cohort: how large the cohort is, in words and counts, if it was only found.
        givers: names of the archives that give the images of others, by the names of these.
    """

    run: str
    pacs: str
    action: str
    started: str
    finished: str
    rows: list[RowAccount] = field(default_factory=list)
    series: list[SeriesAccount] = field(default_factory=list)
    discrepancies: list[str] = field(default_factory=list)
    destination: str = ""
    folder: str = ""
    passed_over: dict[str, int] = field(default_factory=dict)
    bad_files: list[FileAccount] = field(default_factory=list)
    unasked: int = 0
    quarantine: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ended: Decision | None = None
    selection: dict[str, Any] = field(default_factory=dict)
    flow: list[FlowLine] = field(default_factory=list)
    cohort: list[str] = field(default_factory=list)
    givers: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Return one of the keys of EXIT_CODES."""
        if self.discrepancies or not all(s.balanced for s in self.series):
            return UNBALANCED
        rows_good = all(r.state in ROWS_ANSWERED for r in self.rows)
        series_good = all(s.state in (SERIES_COMPLETE, SERIES_LISTED) for s in self.series)
        return COMPLETE if rows_good and series_good and not self.bad_files else incomplete(self.ended)

    def totals(self) -> dict[str, int | float]:
        """Return sums over the run without identifiers, for XCom and logs."""

        def total(name: str) -> int:
            return sum(getattr(s, name) or 0 for s in self.series)

        names = (
            "expected",
            "present",
            "handed_on",
            "received",
            "missing",
            "unverifiable",
            "quarantined",
            "warned",
            "bytes",
        )
        counted = {
            "rows": len(self.rows),
            "rows_with_several_studies": sum(row.studies > 1 for row in self.rows),
            "series": len(self.series),
            "bad_files": len(self.bad_files),
        }
        if self.selection:
            counted["left_out"] = sum(sum(row.left_out.values()) for row in self.rows)
        totals = {**counted, **{name: total(name) for name in names}}
        return {**totals, "quarantined": totals["quarantined"] + self.unasked}

    def summary(self) -> dict[str, Any]:
        """Return the account in counts only, for everybody who may see the run."""
        return {
            "action": self.action,
            "verdict": self.verdict,
            "started": self.started,
            "finished": self.finished,
            "totals": self.totals(),
            "rows": count_by(self.rows, "state"),
            "series": count_by(self.series, "state"),
            "modalities": dict(Counter(plain_modality(series.modality) for series in self.series).most_common()),
            **({"flow": list(map(asdict, self.flow))} if self.flow else {}),
        }

    def figures(self) -> Figures:
        """Return the counts for monitoring. The names of nodes are ids of connections, or of configuration files."""
        figures, action = Figures(), self.action
        for row in self.rows:
            figures.counts["pacsifier_rows", self.pacs, row.state] += 1
            if row.state not in ROWS_ANSWERED:
                figures.counts["pacsifier_failures", self.pacs, action, status_of(row.reason)] += 1
        for series in self.series:
            pacs = series.source or series.pacs or self.pacs or self.destination
            figures.counts["pacsifier_series", pacs, action, series.state] += 1
            for state in IMAGES:
                figures.counts["pacsifier_images", pacs, action, state] += getattr(series, state)
            figures.counts["pacsifier_transferred_bytes", pacs, action] += series.bytes
            # Counters add up numbers of any kind.
            figures.counts["pacsifier_transfer_seconds", pacs, action] += series.seconds  # type: ignore[assignment]
            if series.state not in (SERIES_COMPLETE, SERIES_LISTED):
                figures.counts["pacsifier_failures", pacs, action, status_of(series.reason)] += 1
        for reason, count in self.quarantine.items():
            figures.standing["pacsifier_quarantined_objects", "extract", reason] += count
        return figures


def count_by(items: Iterable[Any], attribute: str) -> dict[str, int]:
    """Return the number of items with each value of an attribute, most frequent first."""
    counts: dict[str, int] = {}
    for item in items:
        value = str(getattr(item, attribute))
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
