"""Closes the account of a study, from whatever its stages have left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import Any

from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.deid import outcome as deidentified
from pacsifier_ops.extract import choosing, flowing
from pacsifier_ops.extract import outcome as extracted
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, UNBALANCED
from pacsifier_ops.runs.approvals import Decision
from pacsifier_ops.runs.flow import DELIVERED, FlowLine
from pacsifier_ops.runs.folder import Run, now, stage_folder, stage_run
from pacsifier_ops.runs.job import started, summary_of
from pacsifier_ops.state.tree import marker_of
from pacsifier_ops.study import linker
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.accounts import COUNTS, LOST, Removal, StageAccount, StudyAccount, StudyRow, StudySeries
from pacsifier_ops.study.chain import Chain, from_archive, from_folder, from_gateway
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.release import DEIDENTIFIED_FOLDER, folder_of, has_file_set, released_objects, released_of
from pacsifier_ops.study.removal import Listing
from pacsifier_ops.study.run import NOT_ENDED, NOT_RUN, NOTHING_NEW, OFF, stages_of


def close(run: Run) -> StudyAccount:
    """Return the account of a study, from whatever its stages have left.

    Raises:
        InputError: the study was not set up.
        StorageError: the state root cannot be read.
    """
    from pacsifier_ops.handover.karnak import all_but_unknown

    given, study = stages_of(run), Study.of(run)
    account = StudyAccount(
        run=run.name,
        project=study.project,
        profile=study.profile if study.has(stages.ANONYMIZE) else "",
        digest=study.digest,
        started=study.started,
        finished=now(),
        deidentifies=study.has(stages.ANONYMIZE),
        source=study.source if study.has(stages.PSEUDONYMS) else "",
        window=study.window,
        folder=str(folder_of(study, "")),
        stages=[_stage(run, stage, params) for stage, params in given.items()],
        decisions=_decisions(run),
        asked=_asked(run),
        gate=stages.outcome(run, stages.GATE),
        released=released_of(run),
        removal=_removal(run, study),
        ended=approvals.ended_by(run),
        owners=list(study.owners),
        approvers=list(study.approvers),
        ethics=study.ethics,
        expires=study.expires,
    )
    if linked := linker.linked(run):
        account.linker, account.linked = linked.folder, (linked.rows, linked.with_series)
    file_set = account.stage(stages.DICOMDIR)
    if file_set.verdict == NOT_RUN and account.released and account.released.files and has_file_set(run):
        file_set.verdict = NOTHING_NEW
    tagging = account.stage(stages.KARNAK)
    if tagging.verdict == INCOMPLETE and all_but_unknown(stage_run(run, stages.KARNAK)):
        tagging.verdict = COMPLETE  # the accounts of the instances say that they are in quarantine
    _describe_rules(account, run, study)
    asking = next((stage for stage in (stages.EXTRACT, stages.MOVE) if given[stage]), "")
    with Chain(run, study, account) as chain:
        if given[stages.EXTRACT] or (asking and not account.deidentifies):
            found, account.queried = from_archive(run, asking, chain), True
        else:
            found = from_folder(run, chain) if account.deidentifies else from_gateway(run)
        account.series = sorted(found, key=attrgetter("number"))  # those that stood come last
    if account.queried:
        account.rows = _rows(run, asking, account.series)
    if asking:
        _add_flow(account, Run(stage_folder(run, asking)))
    objects = sum(1 for _ in released_objects(run)) if account.released and account.deidentifies else 0
    account.beyond = max(0, objects - sum(series.released for series in account.series))
    unbalanced = [stage.stage for stage in account.stages if stage.verdict == UNBALANCED]
    account.discrepancies = [f"the accounts of {stage} do not balance; see its report" for stage in unbalanced]
    if chain.twice:
        account.discrepancies.append(f"{chain.twice} files of the data set are claimed by two instances each")
    return account


def _add_flow(account: StudyAccount, asked: Run) -> None:
    """Add the flow of the cohort, if the study selects: that of the stage which asks the archive, and the delivery."""
    if not (lines := extracted.flow(asked)):
        return
    account.selection = choosing.told(asked)["digest"]
    lines = flowing.with_fetched(asked, Request.of(asked).retrieve, lines, extracted.series(asked))
    tally, lost = flowing.tally_of(asked), Counter[str]()
    for one in account.series:
        there, losses = one.delivered + one.unverifiable, {state: getattr(one, state) for state in LOST}
        if there:
            lost.update(losses)
        why = "" if there else max(losses, key=losses.__getitem__)
        if one.received:
            count = there or one.instances
            tally.add(bool(there), why, one.lines, one.patient, one.study_uid, one.series_uid, count)
    account.flow = [
        *lines,
        *tally.left_out(DELIVERED, 0, 0),
        *(FlowLine(DELIVERED, f"images {state}", instances=count) for state, count in lost.items() if count),
        tally.line(DELIVERED, 1),
    ]


def _stage(run: Run, stage: str, params: Mapping[str, Any] | None) -> StageAccount:
    if params is None:
        return StageAccount(stage, OFF)
    part = Run(stage_folder(run, stage))
    summary, begun = summary_of(part), started(part)
    return StageAccount(
        stage,
        summary.get("verdict") or (NOT_RUN if begun is None else NOT_ENDED),
        summary.get("started") or begun or "",
        summary.get("finished", ""),
        summary.get("totals", {}),
        " to ".join(filter(None, (params.get("pacs"), params.get("destination")))),
        part.report.relative_to(run.folder).as_posix() if summary and part.report.exists() else "",
    )


def _decisions(run: Run) -> list[Decision]:
    """Return all decisions of a study in order: on its cohort, then on its release."""
    folders = (stage_folder(run, stages.EXTRACT), stage_folder(run, stages.MOVE), run.folder)
    return [decision for folder in folders for decision in approvals.history(Run(folder))]


def _asked(run: Run) -> list[str]:
    """Return the subjects of questions that nobody has answered."""
    waiting = []
    for folder in (stage_folder(run, stages.EXTRACT), stage_folder(run, stages.MOVE), run.folder):
        for path in sorted((folder / "decisions").glob("*.asked")):
            decision = approvals.decision_on(Run(folder), path.stem)
            if decision is None or decision.digest != path.read_text(encoding="utf-8"):
                waiting.append(path.stem)
    return waiting


def _removal(run: Run, study: Study) -> Removal:
    found, removed = Listing.of(run), stages.outcome(run, stages.REMOVAL)
    return Removal(
        asked=study.remove_identified,
        listed=found.files,
        bytes=found.bytes,
        stay=found.stay,
        handed_on=found.handed_on,
        lost=found.lost,
        removed=removed.get("files", 0),
        removed_bytes=removed.get("bytes", 0),
        kept=removed.get("kept", 0),
    )


def _describe_rules(account: StudyAccount, run: Run, study: Study) -> None:
    """Add the rules that made the data set, if the profile still has the digest that its tree names."""
    from pacsifier_ops.deid import profile

    if not account.deidentifies:
        return
    with suppress(PacsifierError):
        account.rules = str(marker_of(folder_of(study, DEIDENTIFIED_FOLDER)).get("stamp", {}).get("profile", ""))
        rules = profile.compile(profile.load(study.profile))
        if rules.digest == account.rules:
            account.method, account.codes = rules.method, list(rules.codes)
            account.options = sorted(option.value for option in rules.options)
    account.sources = deidentified.sources(Run(stage_folder(run, stages.ANONYMIZE)))


def _rows(run: Run, stage: str, series: Iterable[StudySeries]) -> list[StudyRow]:
    """Return the rows of the query table with the sums of their series; none if the table was not read."""
    folder = Run(stage_folder(run, stage))
    if (table := extracted.table(folder)) is None:
        return []
    sums: dict[int, Counter[str]] = {}
    for one in series:
        counts = {name: getattr(one, name) for name in COUNTS} | {"expected": one.expected or 0}
        for line in one.lines:
            sums.setdefault(line, Counter()).update(counts)
    first = table.same_as
    return [
        StudyRow(**vars(row), counts=dict(sums.get(first.get(row.line, row.line), {})))
        for row in extracted.rows(folder, first)
    ]
