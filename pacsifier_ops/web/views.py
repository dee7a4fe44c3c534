"""The content of the page of a run, read from its folder and from Airflow's database while the run goes on.

It has counts, states and names of users. All else is behind links, for users who may read reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.models import DagRun, TaskInstance
from airflow.models.hitl import HITLDetail
from airflow.utils.state import State, TaskInstanceState
from sqlalchemy import select
from sqlalchemy.orm import Session

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import InputError, PacsifierError
from pacsifier_ops.deid.outcome import sheets
from pacsifier_ops.extract.choosing import lists_of
from pacsifier_ops.extract.flowing import sizes_of
from pacsifier_ops.extract.thumbnails import thumbnails_of
from pacsifier_ops.probe import page_of
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import ROW_BAD
from pacsifier_ops.runs.approvals import Decision
from pacsifier_ops.runs.failures import sentences
from pacsifier_ops.runs.folder import Run, dag_run_name, place_of, stage_folder, stages_in
from pacsifier_ops.runs.job import started, summary_of
from pacsifier_ops.runs.progress import REPEATED, WAITING, Progress, progress_of
from pacsifier_ops.study import release, viewer
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.run import (
    GATE,
    NOT_ENDED,
    NOT_RUN,
    OFF,
    RELEASED,
    STOCK,
    handover_report,
    outcome,
    stages_of,
)
from pacsifier_ops.web.tasks import Failure, Step, cancellation, first_failure, retries, step_under_way
from pacsifier_ops.web.waiting import Waiting, waiting_of

#: States of a stage that has not ended, while the run goes on.
UNDER_WAY, AHEAD, ASKING = "under way", "waiting", "waiting for an answer"

#: States of a question.
OPEN, ANSWERED, EXPIRED, MARKED_BY_HAND = "open", "answered", "not answered in time", "marked as success by hand"


def run_path(dag_id: str, run_id: str) -> str:
    """Return the address of the page of a run, relative to that of the pages."""
    return f"runs/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"


@dataclass(frozen=True)
class OpenQuestion:
    """A question to people, which a task of Airflow asks.

    Attributes:
        task_id: of the task that asks.
        headline: subject of the question.
        facts: facts for the answer, one line each, in counts.
        options: the possible answers.
        state: OPEN, ANSWERED, EXPIRED or MARKED_BY_HAND.
        asked: time of the question, ISO 8601.
        until: time at which it expires, ISO 8601 or empty.
    """

    task_id: str
    headline: str
    facts: Sequence[str]
    options: Sequence[str]
    state: str
    asked: str
    until: str = ""

    @property
    def stage(self) -> str:
        """Return the stage of a study that asks; empty for the study itself, and for other runs."""
        return self.task_id.rpartition(".")[0]

    def as_json(self, answer: str) -> dict[str, Any]:
        """Return the question as plain data.

        Args:
            answer: address at which it is answered.
        """
        return {
            "task_id": self.task_id,
            "headline": self.headline,
            "told": self.facts,
            "options": self.options,
            "state": self.state,
            "asked": self.asked,
            "until": self.until,
            "answer": answer if self.state == OPEN else None,
        }


@dataclass(frozen=True)
class StageView:
    """A stage of a study, or a job in a task group of a DAG of the user.

    Attributes:
        state: its verdict, or why it has none.
        progress: None before it has begun.
        summary: see `job.Account.summary`; None before its end.
        report: whether it has a report.
        sheets: number of pages of contact sheets.
        place: folder of its results; empty: it has none, or the user may not see it.
    """

    state: str
    progress: Progress | None = None
    summary: dict[str, Any] | None = None
    report: bool = False
    sheets: int = 0
    place: str = ""


@dataclass(frozen=True)
class StudyView:
    """The additional content of the page of a study.

    Attributes:
        gate: findings of the search for identifiers, in counts; empty before it.
        stock: the data set before its release, in counts; empty before the search.
        released: the released data set and who approved it; empty before the release.
        handover: whether there is a report that goes with the data.
        project: who answers for it and may release, see `project.Study.told`.
        images: number of the released series, which the viewer shows.
    """

    gate: Mapping[str, Any] = field(default_factory=dict)
    stock: Mapping[str, Any] = field(default_factory=dict)
    released: Mapping[str, Any] = field(default_factory=dict)
    handover: bool = False
    project: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0


@dataclass(frozen=True)
class RunView:
    """The content of the page of a run.

    Attributes:
        dag_id, run_id: of the DAG run.
        state: of the DAG run.
        started, ended: of the DAG run, ISO 8601 or empty.
        progress: None if the run has no counts, or none yet; of a run with stages, these have them.
        summary: see `job.Account.summary`; None before its end.
        report: whether the run has a report.
        sheets: number of pages of contact sheets.
        thumbnails: modality by number of the series.
        readable: whether the user may see content that identifies patients.
        questions: all questions, in order.
        decisions: all decisions, in order.
        failure: the task that failed first; None: none did, or a person ended the run.
        retries: tasks that failed and are tried again.
        cancelled: the decision to cancel the run; None: it goes on.
        changeable: whether the user may change the run.
        answerable: whether the user may answer its questions.
        step: the step that works; None: all wait, or the run has ended.
        pace: rows or images a minute of this step so far, by `rows` or `images`; empty: it counts neither.
        places: folders of the results, by what is there; empty for users who may not see content that identifies.
        folder: name of the run's folder; empty: it has none.
        stages: stages by name, in order.
        study: None if the run is not one of a study.
        lists: names of the lists of its selection; none for users who may not see content that identifies.
        cohort: how large the cohort is, in words and counts; nothing before its plan.
        waiting: what it waits for, and its expected end; None after its end.
    """

    dag_id: str
    run_id: str
    state: str
    started: str = ""
    ended: str = ""
    progress: Progress | None = None
    summary: dict[str, Any] | None = None
    report: bool = False
    sheets: int = 0
    thumbnails: Mapping[int, str] = field(default_factory=dict)
    readable: bool = False
    questions: Sequence[OpenQuestion] = ()
    decisions: Sequence[Decision] = ()
    failure: Failure | None = None
    retries: Sequence[Failure] = ()
    cancelled: Decision | None = None
    changeable: bool = False
    answerable: bool = False
    step: Step | None = None
    pace: Mapping[str, float] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    stages: Mapping[str, StageView] = field(default_factory=dict)
    study: StudyView | None = None
    lists: Sequence[str] = ()
    cohort: Sequence[str] = ()
    waiting: Waiting | None = None

    @property
    def going_on(self) -> bool:
        """Whether the run has not ended."""
        return self.state in ("queued", "running")

    @property
    def path(self) -> str:
        """Return the address of the run, relative to that of the pages."""
        return run_path(self.dag_id, self.run_id)

    @property
    def in_airflow(self) -> str:
        """Return the address of the run in Airflow, relative to that of Airflow."""
        return f"dags/{quote(self.dag_id, safe='')}/runs/{quote(self.run_id, safe='')}"

    @property
    def dag_in_airflow(self) -> str:
        """Return the address of the runs of the DAG in Airflow, relative to that of Airflow."""
        return f"dags/{quote(self.dag_id, safe='')}/runs"

    def stage_path(self, stage: str) -> str:
        """Return the address of a stage's reports, relative to that of the pages. The study's report uses the same."""
        return f"{self.path}/stages/{self.folder}-{stage}"

    def task_path(self, task_id: str, map_index: int = -1) -> str:
        """Return the address of a task in Airflow, relative to that of Airflow."""
        mapped = f"/mapped/{map_index}" if map_index >= 0 else ""
        return f"{self.in_airflow}/tasks/{quote(task_id, safe='')}{mapped}"

    def answer_path(self, question: OpenQuestion) -> str:
        """Return the address at which a question is answered in Airflow, relative to that of Airflow."""
        return f"{self.task_path(question.task_id)}/required_actions?map_index=-1"

    def answer_api(self, question: OpenQuestion) -> str:
        """Return the address of Airflow's API that takes an answer (PATCH), relative to that of Airflow."""
        dag, run, task = (quote(one, safe="") for one in (self.dag_id, self.run_id, question.task_id))
        return f"api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails"

    def as_json(self, base: str, airflow: str) -> dict[str, Any]:
        """Return the content as plain data, in counts only.

        Args:
            base, airflow: addresses of the pages and of Airflow, without a slash at the end.
        """
        there = f"{base}/{self.path}"
        content = {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "state": self.state,
            "progress": self.progress and self.progress.as_json(),
            "waiting": self.waiting and self.waiting.as_json(),
            "summary": self.summary,
            "questions": [one.as_json(f"{airflow}/{self.answer_path(one)}") for one in self.questions],
            "decisions": [asdict(decision) for decision in self.decisions],
            "cancelled": self.cancelled and {"by": self.cancelled.who, "at": self.cancelled.when},
            "failure": self.failure and asdict(self.failure),
            "retries": [asdict(one) for one in self.retries],
            "step": self._step_as_json(),
            "places": self.places,
            "report": f"{there}/report" if self.report and self.readable else None,
            "contact_sheets": self._pages(there, self.sheets),
            "thumbnails": [f"{there}/thumbnails/{n}.png" for n in self.thumbnails] if self.readable else [],
        }
        if self.stages:
            content["stages"] = {name: self._stage_as_json(base, name, stage) for name, stage in self.stages.items()}
        if self.study is None:
            return content
        study = self.study
        search = {**study.gate, "findings": f"{there}/findings" if self.readable else None}
        return {
            **content,
            "project": study.project or None,
            "search": search if study.gate else None,
            "stock": study.stock or None,
            "released": study.released or None,
            "handover": f"{there}/handover" if study.handover and self.readable else None,
            "images": f"{there}/images" if study.images and self.readable else None,
        }

    def _step_as_json(self) -> dict[str, Any] | None:
        if self.step is None:
            return None
        paces = {f"{what}_per_minute": round(amount, 1) for what, amount in self.pace.items()}
        return {**asdict(self.step), "since": _iso(self.step.since), **paces}

    def _stage_as_json(self, base: str, name: str, stage: StageView) -> dict[str, Any]:
        there = f"{base}/{self.stage_path(name)}"
        return {
            "state": stage.state,
            "progress": stage.progress and stage.progress.as_json(),
            "summary": stage.summary,
            "report": f"{there}/report.html" if stage.report and self.readable else None,
            "contact_sheets": self._pages(there, stage.sheets),
        }

    def _pages(self, there: str, count: int) -> list[str]:
        return [f"{there}/contact-sheets-{n}.html" for n in range(1, count + 1)] if self.readable else []


def view_of(
    run: DagRun, session: Session, readable: bool, changeable: bool = False, answerable: bool = False
) -> RunView:
    """Return the content of the page of a run.

    Args:
        session: of Airflow's database.
        readable: whether the user may see content that identifies patients.
        changeable: whether the user may change the run.
        answerable: whether the user may answer its questions.
    """
    questions = list(_questions(run, session))
    view = RunView(
        run.dag_id,
        run.run_id,
        str(run.state),
        _iso(run.start_date),
        _iso(run.end_date),
        questions=questions,
        changeable=changeable,
        answerable=answerable,
    )
    if view.going_on:
        view = replace(view, step=step_under_way(run, session))
    folder, cancelled = Run.existing(dag_run_name(run.dag_id, run.run_id)), cancellation(run)
    if view.going_on:
        asked = [one.headline for one in questions if one.state == OPEN]
        view = replace(view, waiting=waiting_of(run, folder, asked, session))
    said = sentences(folder) if folder else {}
    if cancelled:  # nobody is to answer any more
        view = replace(view, cancelled=cancelled, questions=[one for one in questions if one.state == ANSWERED])
    elif folder is None or view.going_on or approvals.ended_by(folder) is None:
        failure = first_failure(run, session, said)
        if folder and failure and failure.task_id == "report" and summary_of(folder):
            failure = None  # it failed by its verdict
        view = replace(view, failure=failure, retries=retries(run, session, said))
    if folder is None:
        return view
    view = replace(
        view,
        progress=progress_of(folder),
        lists=list(lists_of(folder)) if readable else [],
        cohort=sizes_of(folder),
        summary=summary_of(folder) or None,
        report=report_of(folder) is not None,
        sheets=len(sheets(folder)),
        thumbnails=thumbnails_of(folder) if readable else {},
        readable=readable,
        decisions=approvals.history(folder),
    )
    view = replace(view, folder=folder.name)
    try:
        wanted = stages_of(folder)
    except InputError:  # the run is not one of a study
        place = place_of(folder) if readable else ""
        view = replace(view, places={"Output folder": place} if place else {})
        return _with_pace(_with_stages(view, folder, {stage: {} for stage in stages_in(folder)}))
    if view.going_on:  # the last step writes the report, so this one is of an earlier attempt
        view = replace(view, summary=None, report=False)
    study = StudyView(
        {name: value for name, value in gate_of(folder).items() if name in ("searched", "patients", "counts")},
        outcome(folder, STOCK),
        outcome(folder, RELEASED),
        handover_of(folder) is not None and not view.going_on,
        Study.of(folder).told,
        len(viewer.series_of(folder)) if readable else 0,
    )
    view = replace(view, study=study, places=_places(folder) if readable else {})
    return _with_pace(_with_stages(view, folder, wanted))


def _places(folder: Run) -> dict[str, str]:
    """Return the folders of a study that are there; all of them where this process does not see the data root."""
    study, unseen = Study.of(folder), not settings.data_root().is_dir()
    names = {
        "Released data set": release.RELEASED_FOLDER,
        "De-identified images": release.DEIDENTIFIED_FOLDER,
        "Identified images": release.IDENTIFIED_FOLDER,
        **({"NIfTI images": "nifti"} if study.convert else {}),
    }
    with suppress(PacsifierError):  # a folder leads outside the data root by now
        places = {what: release.folder_of(study, name) for what, name in names.items()}
        return {what: str(place) for what, place in places.items() if unseen or place.is_dir()}
    return {}


#: Steps that come after the images of their job.
_AFTER_IMAGES = ("assemble", "report")


def _with_pace(view: RunView) -> RunView:
    """Return the view with the rows or images a minute of the step that works."""
    step = view.step
    stage = view.stages.get(step.stage) if step else None
    progress = stage.progress if stage else view.progress
    if step is None or step.since is None or progress is None or step.name in _AFTER_IMAGES:
        return view
    minutes = (datetime.now(UTC) - step.since).total_seconds() / 60
    asked = sum(count for state, count in progress.rows.items() if state not in (WAITING, ROW_BAD, REPEATED))
    images = sum(count for what, count in progress.images.items() if what != "present")
    done = {"rows": asked} if step.name == "find" else {"images": images}
    return replace(view, pace={what: count / minutes for what, count in done.items() if count and minutes > 0})


def report_of(folder: Run) -> Path | None:
    """Return the path of the report of an ended run, or of the page of a probe; None: there is none.

    A report of an earlier attempt stays in the folder, so the summary is looked for as well.
    """
    if summary_of(folder) and folder.report.exists():
        return folder.report
    return page_of(folder) if page_of(folder).exists() else None


def handover_of(folder: Run) -> Path | None:
    """Return the path of the report that goes with the data of an ended study; None: there is none."""
    path = handover_report(folder)
    return path if summary_of(folder) and path.exists() else None


def gate_of(folder: Run) -> dict[str, Any]:
    """Return the findings of the search for identifiers; empty before it. Paths in them may identify patients."""
    return outcome(folder, GATE)


def _with_stages(view: RunView, folder: Run, wanted: Mapping[str, Any]) -> RunView:
    """Return the view with its stages.

    Args:
        wanted: request of each stage, in order; None: the stage is switched off.
    """
    parts = {stage: Run(stage_folder(folder, stage)) for stage in wanted}
    stages = {stage: _stage(view, stage, part, wanted[stage] is not None) for stage, part in parts.items()}
    decided = [decision for part in parts.values() for decision in approvals.history(part)]
    progress = None if stages else view.progress  # its stages count
    return replace(view, stages=stages, progress=progress, decisions=[*decided, *view.decisions])


def _stage(view: RunView, stage: str, part: Run, wanted: bool) -> StageView:
    if not wanted:
        return StageView(OFF)
    summary = summary_of(part) or None
    begun = summary is not None or started(part) is not None
    if view.study and view.summary:  # the study judges its stages together
        state = view.summary["stages"][stage]
    elif summary:
        state = str(summary["verdict"])
    elif any(question.stage == stage and question.state == OPEN for question in view.questions):
        state = ASKING
    elif view.going_on:
        state = UNDER_WAY if begun else AHEAD
    else:
        state = NOT_ENDED if begun else NOT_RUN
    return StageView(
        state,
        progress_of(part) if begun else None,
        summary,
        report_of(part) is not None,
        len(sheets(part)),
        place_of(part) if view.readable else "",
    )


def _questions(run: DagRun, session: Session) -> Iterator[OpenQuestion]:
    """Yield the questions that Airflow keeps for a run (see `operators.approval`)."""
    asked = (
        select(HITLDetail, TaskInstance)
        .join(TaskInstance, HITLDetail.ti_id == TaskInstance.id)
        .where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
        .order_by(HITLDetail.created_at)
    )
    for detail, task in session.execute(asked):
        if detail.responded_at:
            state = ANSWERED
        elif task.state in (TaskInstanceState.AWAITING_INPUT, TaskInstanceState.DEFERRED):
            state = OPEN
        elif task.state in State.finished:
            state = MARKED_BY_HAND if task.state == TaskInstanceState.SUCCESS else EXPIRED
        else:  # the task is about to ask
            continue
        yield OpenQuestion(
            task.task_id,
            detail.subject,
            [line[2:].replace("`", "") for line in (detail.body or "").splitlines() if line.startswith("- ")],
            list(detail.options),
            state,
            _iso(detail.created_at),
            _iso(task.trigger_timeout) if state == OPEN else "",
        )


def _iso(time: datetime | None) -> str:
    return time.astimezone().isoformat(timespec="seconds") if time else ""
