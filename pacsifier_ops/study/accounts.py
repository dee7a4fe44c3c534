"""The accounts of a study across the whole chain: every instance of the cohort in exactly one state at the end.

    found -> expected -> received -> de-identified -> released -> delivered

| state        | what                                                                                            |
|--------------|-------------------------------------------------------------------------------------------------|
| delivered    | released, and confirmed by every node that the study sends to                                   |
| excluded     | by a named rule of the de-identification                                                        |
| quarantined  | not fit, for a reason                                                                           |
| missing      | lost on the way, for a reason: not received, not de-identified, not released, not confirmed     |
| unverifiable | delivered as far as anybody can say: the archive gives no expectation that would cover it       |

The books are closed from what the stages have left, whatever that is: a stage may not have run, have been switched
off, or have failed. What lies in several books is counted by those that are nearest to the data: the ledger of what
was fetched, what became of each object, the list of files that somebody has approved of, what nodes have confirmed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.deid.run import EXCLUDED, QUARANTINED
from pacsifier_ops.runs.accounts import (
    COMPLETE,
    INCOMPLETE,
    ROWS_ANSWERED,
    SERIES_UNVERIFIABLE,
    UNBALANCED,
    count_by,
    plain_modality,
)
from pacsifier_ops.runs.approvals import Decision
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.release import (
    Released,
)
from pacsifier_ops.study.run import NOTHING_NEW, OFF

#: States of an instance; see above. `excluded` and `quarantined` are those of the de-identification.
DELIVERED, MISSING, UNVERIFIABLE = "delivered", "missing", "unverifiable"
STATES = (DELIVERED, EXCLUDED, QUARANTINED, MISSING, UNVERIFIABLE)

#: A place where instances can be lost, beside the stages.
RELEASED = "release"

#: Stages that send to a node.
SENDING = (stages.UPLOAD, stages.KARNAK_UPLOAD, stages.MOVE)


@dataclass(slots=True)
class Loss:
    """Instances that are not delivered.

    Attributes:
        state: one of STATES.
        at: the stage where they were lost, or RELEASED.
        reason: in words, no values.
        instances: how many.
    """

    state: str
    at: str
    reason: str
    instances: int


@dataclass(slots=True)
class StudySeries:
    """A series of the cohort through the chain; every number counts instances.

    Attributes:
        number: ordinal in the study, from 1; safe to show anywhere.
        lines: lines of the query table that ask for it.
        patient, study_uid, series_uid, series_number, description, folder: of the original; identifying.
        expected: instances that the archive lists; None without an expectation.
        received: instances that were fetched, in this run or before.
        new: of these, those that were fetched in this run.
        deidentified, released: how many came so far.
        delivered, excluded, quarantined, missing, unverifiable: how they ended: these add up to `instances`.
        instances: how many there are: those expected, and those received beside.
        confirmed: how many each stage that sends to a node has had confirmed.
        lost: those that are not delivered, by state, place and reason.
        became: folders of the series in the data set; new_uids: its Series Instance UIDs there.
        sources: its numbers in the de-identification.
        pseudonyms: who its patients became.
    """

    number: int
    lines: list[int]
    patient: str
    study_uid: str
    series_uid: str
    modality: str = ""
    series_number: str = ""
    description: str = ""
    folder: str = ""
    expected: int | None = None
    received: int = 0
    new: int = 0
    deidentified: int = 0
    released: int = 0
    delivered: int = 0
    excluded: int = 0
    quarantined: int = 0
    missing: int = 0
    unverifiable: int = 0
    instances: int = 0
    confirmed: dict[str, int] = field(default_factory=dict)
    lost: list[Loss] = field(default_factory=list)
    became: list[str] = field(default_factory=list)
    new_uids: list[str] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    pseudonyms: list[str] = field(default_factory=list)

    @property
    def series(self) -> SeriesId:
        """Which series of the archive it is."""
        return SeriesId(self.study_uid, self.series_uid)

    @property
    def balanced(self) -> bool:
        """Whether every instance is in exactly one state."""
        return self.instances == sum(getattr(self, state) for state in STATES)

    @property
    def state(self) -> str:
        """complete, incomplete (instances are missing) or unverifiable (the archive gives no expectation)."""
        if self.missing:
            return INCOMPLETE
        return SERIES_UNVERIFIABLE if self.unverifiable or self.expected is None else COMPLETE


#: What of a series is summed up over a row, and over the study.
COUNTS = ("received", "new", "deidentified", "released", *STATES, "instances")


@dataclass
class StudyRow:
    """A row of the query table; its instances are those of its series, which other rows may ask for as well.

    Attributes:
        line, keys, state, series, studies, reason, warnings: see `accounts.RowAccount`; keys are identifying.
        counts: sums over its series, by the names of COUNTS and `expected`.
    """

    line: int
    keys: dict[str, str]
    state: str
    series: int
    reason: str = ""
    warnings: list[str] = field(default_factory=list)
    studies: int = 0
    counts: dict[str, int] = field(default_factory=dict)


@dataclass
class StageAccount:
    """How a stage ended.

    Attributes:
        stage: its name.
        verdict: of its own accounts; else OFF, NOT_RUN or NOT_ENDED.
        started, finished: ISO 8601; empty where nobody knows.
        totals: its counts.
        connection: of the node that it talks to.
        report: its report, below the run's folder; empty where there is none.
    """

    stage: str
    verdict: str
    started: str = ""
    finished: str = ""
    totals: dict[str, float] = field(default_factory=dict)
    connection: str = ""
    report: str = ""


@dataclass
class Removal:
    """What became of the identified copy.

    Attributes:
        asked: keep, list or remove.
        listed: files that are verified as delivered, so that they may go; `bytes` of them.
        stay: files that stay, by reason.
        handed_on: instances whose file went in earlier runs; lost: of these, such that are not released any more.
        removed, removed_bytes: what went in this run; kept: files that were listed, and had changed.
    """

    asked: str
    listed: int = 0
    bytes: int = 0
    stay: dict[str, int] = field(default_factory=dict)
    handed_on: int = 0
    lost: int = 0
    removed: int = 0
    removed_bytes: int = 0
    kept: int = 0


@dataclass
class StudyAccount:
    """A whole study.

    Attributes:
        run: opaque id of the run.
        project, profile, digest: of the study; digest is the SHA-256 of the project file, empty without one.
        rules: digest of the rules that the data set was de-identified by; method and codes (value, scheme, meaning)
            of PS3.16 CID 7050, options: the same in words; empty where the profile has changed since.
        queried: whether the study asks an archive, so that there are rows.
        deidentifies: whether the study de-identifies; else originals go to a gateway that does.
        source: where pseudonyms come from, of pseudonyms.run.SOURCES; empty: from the linkage alone.
        sources: how many patients are known by what: the linkage of the project, a file beside the data.
        window: times of day of the transfers; empty: as the connection says.
        rows, series: their accounts.
        stages: how each ended.
        decisions: all that were made, in order; asked: subjects that wait for one.
        gate: what the search before the release found: `searched`, `patients`, counts, and both lists of findings.
        released: what was released; None: nothing.
        removal: what became of the identified copy.
        held_back: identifiers were found in the report that goes with the data, so it is not beside them.
        beyond: objects of the released data set that this query table does not ask for: they are of earlier ones.
        discrepancies: contradictions between the books, in words, no values.
    """

    run: str
    project: str
    profile: str
    digest: str
    started: str
    finished: str
    rules: str = ""
    method: str = ""
    codes: list[tuple[str, str, str]] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    queried: bool = False
    deidentifies: bool = True
    source: str = ""
    sources: dict[str, int] = field(default_factory=dict)
    window: str = ""
    folder: str = ""
    rows: list[StudyRow] = field(default_factory=list)
    series: list[StudySeries] = field(default_factory=list)
    stages: list[StageAccount] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    gate: dict[str, Any] = field(default_factory=dict)
    released: Released | None = None
    removal: Removal = field(default_factory=lambda: Removal(""))
    held_back: bool = False
    beyond: int = 0
    discrepancies: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether every instance is in exactly one state, and no book contradicts another."""
        return not self.discrepancies and all(series.balanced for series in self.series)

    @property
    def verdict(self) -> str:
        """`complete`: every instance is delivered, excluded by a rule or quarantined with a reason, every row was
        answered, and every stage did what was asked for. Else `incomplete`, or `unbalanced`.

        Where all that might have been delivered is in quarantine, something else than the objects is wrong.
        """
        if not self.balanced:
            return UNBALANCED
        totals = self.totals()
        nothing = totals["quarantined"] > totals["delivered"] == 0
        wanting = totals["missing"] or totals["unverifiable"] or any(s.state != COMPLETE for s in self.series)
        good = not (wanting or nothing or self.bad_rows or self.bad_stages or self.held_back)
        return COMPLETE if good else INCOMPLETE

    @property
    def bad_rows(self) -> list[StudyRow]:
        """Rows that could not be answered."""
        return [row for row in self.rows if row.state not in ROWS_ANSWERED]

    @property
    def bad_stages(self) -> list[StageAccount]:
        """Stages that did not do what was asked for; those that have nothing to work on need not run.

        What pseudonymization and de-identification could not do is told by the instances.
        """
        told = (stages.PSEUDONYMS, stages.ANONYMIZE)
        idle: tuple[str, ...] = ()
        if self.deidentifies and not any(series.released for series in self.series):
            idle = stages.DESTINATIONS
        if not any(series.received for series in self.series) and self.stage(stages.EXTRACT).verdict == COMPLETE:
            idle = stages.STAGES[1:]
        return [
            stage
            for stage in self.stages
            if stage.verdict not in (OFF, COMPLETE, NOTHING_NEW)
            and not (stage.stage in told and stage.verdict == INCOMPLETE)
            and stage.stage not in idle
        ]

    def stage(self, name: str) -> StageAccount:
        """How a stage ended."""
        return next(stage for stage in self.stages if stage.stage == name)

    def losses(self) -> list[Loss]:
        """What is not delivered, over the whole study, most first."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for series in self.series:
            for loss in series.lost:
                counts[loss.state, loss.at, loss.reason] += loss.instances
        return [Loss(*key, instances) for key, instances in counts.most_common()]

    def totals(self) -> dict[str, int]:
        """Sums over the study, without any identifier: fit for XCom and logs."""
        return {
            "rows": len(self.rows),
            "rows_with_several_studies": sum(row.studies > 1 for row in self.rows),
            "patients": len({series.patient for series in self.series}),
            "series": len(self.series),
            "expected": sum(series.expected or 0 for series in self.series),
            **{name: sum(getattr(series, name) for series in self.series) for name in COUNTS},
            "beyond": self.beyond,
        }

    def confirmed(self) -> dict[str, int]:
        """How many instances each stage that sends to a node has had confirmed."""
        counts = {s.stage: 0 for s in self.stages if s.stage in SENDING and s.verdict != OFF}
        for series in self.series:
            for stage, count in series.confirmed.items():
                counts[stage] = counts.get(stage, 0) + count
        return counts

    def summary(self) -> dict[str, Any]:
        """How the study ended, in counts only: fit for everybody who may see the run."""
        return {
            "action": "study",
            "verdict": self.verdict,
            "started": self.started,
            "finished": self.finished,
            "totals": self.totals(),
            "rows": count_by(self.rows, "state"),
            "series": count_by(self.series, "state"),
            "modalities": dict(Counter(plain_modality(series.modality) for series in self.series).most_common()),
            "stages": {stage.stage: stage.verdict for stage in self.stages},
        }
