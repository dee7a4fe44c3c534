"""The accounts of a run: what was asked, found, expected, delivered; and the verdict.

Instances count once, under their series; query rows only refer to series.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

COMPLETE, INCOMPLETE, UNBALANCED = "complete", "incomplete", "unbalanced"
EXIT_CODES = {COMPLETE: 0, INCOMPLETE: 3, UNBALANCED: 4}

#: What a run does with the images: saves them, only lists them, has the archive move them, uploads a folder of them.
SAVE, NONE, MOVE, UPLOAD = "save", "none", "move", "upload"

#: States of a query row. Only `found` and `empty` are good ends.
ROW_FOUND, ROW_EMPTY, ROW_BAD = "found", "empty", "bad"
ROW_UNDECIDABLE, ROW_FAILED, ROW_CONFLICT = "undecidable", "failed", "conflict"
#: Of these, a good end: the archive has answered.
ROWS_ANSWERED = (ROW_FOUND, ROW_EMPTY)

#: States of a series. `listed` is the end of a series that was to be described, not fetched.
SERIES_COMPLETE, SERIES_LISTED = "complete", "listed"
SERIES_INCOMPLETE, SERIES_UNVERIFIABLE, SERIES_FAILED = "incomplete", "unverifiable", "failed"
#: The archive recalls it from slow storage, and it is not yet there.
SERIES_RECALLED = "recalled"

#: States of images in a series, each the name of their count in its account.
IMAGES = ("present", "received", "missing", "unverifiable", "quarantined")

_MODALITY = re.compile(r"[A-Z0-9]{2,6}")


def plain_modality(text: str) -> str:
    """Modality (0008,0060) where it looks like one (PS3.3 C.7.3.1.1.1), else empty: an archive may say anything."""
    return text if _MODALITY.fullmatch(text) else ""


@dataclass
class RowAccount:
    """One row of the query table.

    Attributes:
        line: line in the user's file, counted from 1 with the header.
        keys: the row's own cells (column to text); identifying.
        state: one of the ROW_ constants.
        series: how many series answer this row.
        studies: how many studies they are of: one accession may have several, and all of them are taken.
        reason: why the row did not end well, in words, no values.
        warnings: remarks, no values.
    """

    line: int
    keys: dict[str, str]
    state: str = ROW_FAILED
    series: int = 0
    reason: str = ""
    warnings: list[str] = field(default_factory=list)
    studies: int = 0


@dataclass
class SeriesAccount:
    """One series; every number counts instances unless it says otherwise.

    Where the instances belong at the end is the series' folder (save) or the destination (move, upload).

    Attributes:
        number: ordinal of the series in the run, from 1; safe to show anywhere.
        lines: lines of the query table that asked for it; none where nothing was asked.
        folder: path of the series folder, below the output folder (save) or the uploaded one (upload).
        pacs: name of the archive that it is fetched from, where the run asks several.
        expected: instances the archive lists, or that the uploaded folder holds; None without an expectation.
        present: expected instances that were there before: whole in the folder, handed on from there and removed, or
            confirmed by the destination.
        handed_on: instances that count as present or unverifiable and lie no more in the folder: they were handed on.
        received: expected instances that arrived there in this run.
        missing: expected instances that are not there at the end.
        unverifiable: instances there that no expectation covers.
        quarantined: objects received that are not what was asked for, and are kept apart; where they stand for expected
            instances, these are missing.
        warned: instances that the destination took with a warning status (PS3.4 B.2.3).
        bytes: bytes received or sent in this run.
        seconds: wall time spent on the series in this run.
        method: get, move, `get and move`, store, or empty where nothing was transferred.
        missing_uids: SOP Instance UIDs known to be missing, as far as anybody can say; identifying.
        recalls: when the archive was asked for it in this run and had to recall it; ISO 8601.
        sending: the archive, when it was last asked, did not say that it had done, and may still be sending.
        look_at: when a series that is being recalled is looked at again; ISO 8601, empty where it is not.
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
        """Count what an earlier look at the series brought in this run as received, not as there before."""
        there = min(look.received, self.present)
        self.present -= there
        self.received += there
        self.bytes += look.bytes
        self.seconds += look.seconds
        self.method = self.method or look.method

    @property
    def delivered(self) -> int:
        """Instances of the series that are where they should be at the end."""
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
        reason: why, in words, no values.
    """

    path: str
    reason: str


@dataclass
class RunAccount:
    """A whole run.

    Attributes:
        run: opaque id of the run.
        pacs: name of the connection or configuration of the archive asked; empty for upload.
        action: save, none, move or upload.
        started, finished: ISO 8601 with zone.
        rows, series: the accounts below this one.
        discrepancies: contradictions found when the books were closed, in words, no values.
        destination: name of the node that images were moved or uploaded to.
        folder: path of the output folder (save, none) or of the uploaded one (upload).
        passed_over: files of the uploaded folder that are not to be sent, reason in words to count.
        bad_files: files of the uploaded folder that are to be sent and cannot be.
        unasked: objects that our receiver got and that are of no series of the run; they are in its quarantine.
        notes: how the query table was read, where that was not as it is written, in words, no values.
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
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`complete`, `incomplete` or `unbalanced`."""
        if self.discrepancies or not all(s.balanced for s in self.series):
            return UNBALANCED
        rows_good = all(r.state in ROWS_ANSWERED for r in self.rows)
        series_good = all(s.state in (SERIES_COMPLETE, SERIES_LISTED) for s in self.series)
        return COMPLETE if rows_good and series_good and not self.bad_files else INCOMPLETE

    def totals(self) -> dict[str, int | float]:
        """Sums over the run, without any identifier: fit for XCom and logs."""

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
        totals = {**counted, **{name: total(name) for name in names}}
        return {**totals, "quarantined": totals["quarantined"] + self.unasked}

    def summary(self) -> dict[str, Any]:
        """How the run ended, in counts only: fit for everybody who may see the run."""
        return {
            "action": self.action,
            "verdict": self.verdict,
            "started": self.started,
            "finished": self.finished,
            "totals": self.totals(),
            "rows": count_by(self.rows, "state"),
            "series": count_by(self.series, "state"),
            "modalities": dict(Counter(plain_modality(series.modality) for series in self.series).most_common()),
        }


def count_by(items: Iterable[Any], attribute: str) -> dict[str, int]:
    """How many items hold each value of an attribute, most frequent first."""
    counts: dict[str, int] = {}
    for item in items:
        value = str(getattr(item, attribute))
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
