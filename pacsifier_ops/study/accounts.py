"""The accounts of a study across the whole chain: every instance of the cohort in exactly one state at the end.

    found -> expected -> received -> de-identified -> released -> delivered

| state        | meaning                                                                                         |
|--------------|-------------------------------------------------------------------------------------------------|
| delivered    | released, and confirmed by every node that the study sends to                                   |
| excluded     | left out by a named rule of the de-identification                                               |
| quarantined  | unfit for release, with a reason                                                                |
| missing      | lost on the way, with a reason: not received, not de-identified, not released, not confirmed    |
| unverifiable | delivered, but the archive gave no list or count that includes it                               |

The accounts are closed from whatever the stages left: a stage may have failed, not have run, or be switched off. Where
several records tell of an instance, the one nearest to the data counts: the ledger of fetched files, the result of each
object in the de-identification, the approved list of files, the confirmations of nodes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
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
    incomplete,
    plain_modality,
)
from pacsifier_ops.runs.approvals import Decision
from pacsifier_ops.runs.figures import Figures
from pacsifier_ops.runs.flow import FlowLine
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.release import Released
from pacsifier_ops.study.run import NOT_RUN, NOTHING_NEW, OFF

#: States of an instance; see above. `excluded` and `quarantined` are those of the de-identification.
DELIVERED, MISSING, UNVERIFIABLE = "delivered", "missing", "unverifiable"
STATES = (DELIVERED, EXCLUDED, QUARANTINED, MISSING, UNVERIFIABLE)

#: States of instances that are not delivered.
LOST = (EXCLUDED, QUARANTINED, MISSING)

#: The release: the place, beside the stages, where instances can be lost.
RELEASED = "release"

#: Public reasons of missing instances, by stage. What the archive or a person said stays inside.
PUBLIC_MISSING = {
    stages.EXTRACT: "not received from the archive",
    stages.ANONYMIZE: "not de-identified",
    RELEASED: "not released",
}

#: Stages that send to a node. The first is part of the release.
SENDING = (stages.RELEASE_TO, stages.UPLOAD, stages.KARNAK_UPLOAD, stages.MOVE)


@dataclass(slots=True)
class Loss:
    """Instances that are not delivered.

    Attributes:
        state: one of STATES.
        at: the stage where they were lost, or RELEASED.
        reason: in words, without values.
        instances: their number.
    """

    state: str
    at: str
    reason: str
    instances: int


@dataclass(slots=True)
class StudySeries:
    """A series of the cohort, from the query to the delivery; every number counts instances.

    Attributes:
        number: ordinal in the study, from 1; safe to show anywhere.
        lines: lines of the query table that ask for it.
        patient, study_uid, series_uid, series_number, description, folder: of the original series; identifying.
        expected: instances that the archive lists; None where it gives neither list nor count.
        received: instances that were fetched, in this run or an earlier one.
        new: instances that were fetched in this run.
        deidentified, released: instances that came as far as this.
        delivered, excluded, quarantined, missing, unverifiable: instances by final state; the sum is `instances`.
        instances: all instances: the expected ones, and others that were received.
        confirmed: instances that a node has confirmed, by the stage that sent them.
        lost: instances that are not delivered, by state, stage and reason.
        became: folders of the series in the data set; new_uids: its Series Instance UIDs there.
        sources: its numbers in the de-identification.
        pseudonyms: pseudonyms of its patients.
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
        """Identity of the series in the archive."""
        return SeriesId(self.study_uid, self.series_uid)

    @property
    def balanced(self) -> bool:
        """Whether every instance is in exactly one state."""
        return self.instances == sum(getattr(self, state) for state in STATES)

    @property
    def state(self) -> str:
        """Return complete, incomplete (instances are missing) or unverifiable (the archive gave no list or count)."""
        if self.missing:
            return INCOMPLETE
        return SERIES_UNVERIFIABLE if self.unverifiable or self.expected is None else COMPLETE


#: Numbers of a series that are summed up for each row, and for the study.
COUNTS = ("received", "new", "deidentified", "released", *STATES, "instances")


@dataclass
class StudyRow:
    """A row of the query table. Its instances are those of its series; other rows may ask for the same series.

    Attributes:
        line, keys, state, series, studies, reason, warnings, left_out: see `accounts.RowAccount`; keys are identifying.
        counts: sums of its series, by the names in COUNTS and `expected`.
    """

    line: int
    keys: dict[str, str]
    state: str
    series: int
    reason: str = ""
    warnings: list[str] = field(default_factory=list)
    studies: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass
class StageAccount:
    """The end of a stage.

    Attributes:
        stage: its name.
        verdict: the verdict of its own accounts; otherwise OFF, NOT_RUN, NOT_ENDED or NOTHING_NEW.
        started, finished: ISO 8601; empty if unknown.
        totals: its counts.
        connection: connection of its node.
        report: path of its report below the run's folder; empty if there is none.
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
    """The removal of the identified copy.

    Attributes:
        asked: what was asked for: keep, list or remove.
        listed: number of files that are verified as delivered and may be removed; bytes: their size.
        stay: number of files that stay, by reason.
        handed_on: instances whose file was removed in earlier runs; lost: those of them that are no longer released.
        removed, removed_bytes: number and size of the files that this run removed.
        kept: listed files that had changed, so that they were not removed.
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
    """The account of a whole study.

    Attributes:
        run: opaque id of the run.
        project, profile: names from the study; digest: SHA-256 of the project file, empty without one.
        owners, approvers, ethics, expires: of the project, see `project.Study`.
        started, finished: ISO 8601.
        rules: digest of the rules of the de-identification; method, codes (value, scheme, meaning; PS3.16 CID 7050) and
            options describe them, and are empty if the profile has changed since.
        queried: the study asks an archive, so it has rows.
        deidentifies: the study de-identifies; otherwise originals go to a gateway that does.
        source: source of pseudonyms, one of pseudonyms.run.SOURCES; empty: the linkage alone.
        sources: number of patients by the file that gave their identity: the project's linkage, or one beside the data.
        window: times of day of the transfers; empty: as the connection says.
        folder: path of the study's folder.
        rows, series, stages: their accounts.
        decisions: all decisions, in order; asked: subjects that wait for one.
        gate: findings of the search before the release: `searched`, `patients`, counts, and both lists of findings.
        released: what was released; None: nothing.
        removal: the removal of the identified copy.
        linker: folder of the protected linker, see `linker`; empty: there is none. linked: number of rows in it, and of
            those with a series in the data set.
        held_back: identifiers were found in the hand-over report, so it was not put beside the data.
        beyond: released objects that this query table does not ask for: earlier ones did.
        discrepancies: contradictions between records, in words, without values.
        ended: the decision of a person that ended the run.
        selection: SHA-256 of the file of the selection; empty without one.
        flow: the flow from what was asked for to what was delivered; empty without a selection.
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
    ended: Decision | None = None
    linker: str = ""
    linked: tuple[int, int] = (0, 0)
    owners: list[str] = field(default_factory=list)
    approvers: list[str] = field(default_factory=list)
    ethics: str = ""
    expires: str = ""
    selection: str = ""
    flow: list[FlowLine] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether every instance is in exactly one state, and no record contradicts another."""
        return not self.discrepancies and all(series.balanced for series in self.series)

    @property
    def verdict(self) -> str:
        """Return one of the keys of `accounts.EXIT_CODES`.

        A study is complete if every instance is delivered, excluded by a rule or quarantined with a reason, every row
        was answered, and every stage did what was asked for. If nothing is delivered and objects are in quarantine, the
        fault is probably not in the objects, so the study is incomplete.
        """
        if not self.balanced:
            return UNBALANCED
        totals = self.totals()
        all_quarantined = totals["quarantined"] > totals["delivered"] == 0
        lacking = totals["missing"] or totals["unverifiable"] or any(s.state != COMPLETE for s in self.series)
        bad = lacking or all_quarantined or self.bad_rows or self.bad_stages or self.held_back
        return incomplete(self.ended) if bad else COMPLETE

    @property
    def bad_rows(self) -> list[StudyRow]:
        """Return the rows that could not be answered."""
        return [row for row in self.rows if row.state not in ROWS_ANSWERED]

    @property
    def bad_stages(self) -> list[StageAccount]:
        """Return the stages that did not do what was asked for, also where nothing was found.

        Every stage runs and ends on an empty folder as well. So one that failed may fail again when there is data, and
        whoever signs the report has to know. Two things are no fault of a stage: objects that pseudonymization and
        de-identification left out, which the instances tell; and nothing to hand over, so that it did not run.
        """
        without_data: tuple[str, ...] = ()
        if self.deidentifies and self.released is None:
            without_data = stages.DESTINATIONS
        elif self.deidentifies and not any(series.released for series in self.series):
            without_data = (stages.RELEASE_TO, stages.DICOMDIR, stages.CONVERT)

        def excused(stage: StageAccount) -> bool:
            if stage.verdict == INCOMPLETE:
                return stage.stage in (stages.PSEUDONYMS, stages.ANONYMIZE)
            return stage.verdict == NOT_RUN and stage.stage in without_data

        return [s for s in self.stages if s.verdict not in (OFF, COMPLETE, NOTHING_NEW) and not excused(s)]

    def stage(self, name: str) -> StageAccount:
        """Return the account of a stage."""
        return next(stage for stage in self.stages if stage.stage == name)

    def losses(self) -> list[Loss]:
        """Return the losses of the whole study, the largest first."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for series in self.series:
            for loss in series.lost:
                counts[loss.state, loss.at, loss.reason] += loss.instances
        return [Loss(*key, instances) for key, instances in counts.most_common()]

    def totals(self) -> dict[str, int]:
        """Return sums over the study, without identifiers, so that XCom and logs may have them."""
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
        """Return the number of instances that nodes have confirmed, by the stage that sent them."""
        counts = {s.stage: 0 for s in self.stages if s.stage in SENDING and s.verdict != OFF}
        for series in self.series:
            for stage, count in series.confirmed.items():
                counts[stage] = counts.get(stage, 0) + count
        return counts

    def summary(self) -> dict[str, Any]:
        """Return the result in counts only: everybody who may see the run may read it."""
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
            **({"flow": list(map(asdict, self.flow))} if self.flow else {}),
        }

    def figures(self) -> Figures:
        """Return nothing: the stages have the figures."""
        return Figures()
