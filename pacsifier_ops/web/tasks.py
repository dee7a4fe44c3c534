"""The tasks of a run in Airflow's database: where they stand, why they failed; and how a run is cancelled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.models import DagRun, TaskInstance
from airflow.models.dagbag import DBDagBag
from airflow.utils.state import State, TaskInstanceState
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.approvals import Decision
from pacsifier_ops.runs.failures import Try
from pacsifier_ops.runs.folder import Run, dag_run_name

#: The sentence of a task that failed without one.
SILENT = "it ended without a word, as when its process is killed; its log in Airflow may say more"

#: States of tasks that wait. A task without a state does so, too.
_WAITING = (
    TaskInstanceState.SCHEDULED,
    TaskInstanceState.QUEUED,
    TaskInstanceState.UP_FOR_RETRY,
    TaskInstanceState.UP_FOR_RESCHEDULE,
    TaskInstanceState.DEFERRED,
    TaskInstanceState.AWAITING_INPUT,
)
#: End of the names of the operators that close an account.
_CLOSES = "ReportOperator"


@dataclass(frozen=True)
class Failure:
    """A task that failed.

    Attributes:
        task_id: its id.
        label: what it worked on, in numbers of rows and series; empty: it is not mapped.
        sentence: why.
        again: time of the next try, ISO 8601; empty: there is none.
        map_index: of the task; -1: it is not mapped.
    """

    task_id: str
    label: str
    sentence: str
    again: str = ""
    map_index: int = -1

    @property
    def name(self) -> str:
        """Return the task for people, such as `find (row 2)`."""
        return f"{self.task_id} ({self.label})" if self.label else self.task_id


@dataclass(frozen=True)
class Step:
    """A step of a run: a task, or all tasks of a mapped one.

    Attributes:
        task_id: its id.
        done, running, tasks: number of its tasks that have ended, that work, and of all.
        since: time at which the first of them began; None: none has.
    """

    task_id: str
    done: int
    running: int
    tasks: int
    since: datetime | None = None

    @property
    def stage(self) -> str:
        """Return the stage of a study, or the group, that the step is in; empty: in none."""
        return self.task_id.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Return the name of the step in its job."""
        return self.task_id.rpartition(".")[2]


def step_under_way(run: DagRun, session: Session) -> Step | None:
    """Return the step that works; of several, the one that began last. None: all of them wait for something.

    Args:
        session: of Airflow's database.
    """
    state, began = TaskInstance.state, func.min(TaskInstance.start_date)
    of_run = (TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
    counted = (
        select(TaskInstance.task_id, state, func.count(), began).where(*of_run).group_by(TaskInstance.task_id, state)
    )
    steps: dict[str, Step] = {}
    for name, is_now, count, since in session.execute(counted):
        before = steps.get(name, Step(name, 0, 0, 0))
        steps[name] = Step(
            name,
            before.done + (count if is_now in State.finished else 0),
            before.running + (count if is_now == TaskInstanceState.RUNNING else 0),
            before.tasks + count,
            min(filter(None, (before.since, since)), default=None),
        )
    working = [(step.since, step.task_id) for step in steps.values() if step.running and step.since]
    return steps[max(working)[1]] if working else None


def first_failure(run: DagRun, session: Session, sentences: Mapping[Try, str]) -> Failure | None:
    """Return the task that failed first; None: none failed.

    Args:
        session: of Airflow's database.
        sentences: see `failures.sentences`.
    """
    failed = _of(run).where(TaskInstance.state == TaskInstanceState.FAILED).order_by(TaskInstance.end_date).limit(1)
    return next((_failure(task, sentences) for task in session.scalars(failed)), None)


def retries(run: DagRun, session: Session, sentences: Mapping[Try, str]) -> list[Failure]:
    """Return the tasks that failed and are tried again, the next one first. See `first_failure`."""
    tasks = session.scalars(_of(run).where(TaskInstance.state == TaskInstanceState.UP_FOR_RETRY)).all()
    dag = DBDagBag(load_op_links=False).get_dag_for_run(run, session) if tasks else None
    found = []
    for task in tasks:
        again = ""
        if dag is not None and dag.has_task(task.task_id):
            task.task = dag.get_task(task.task_id)
            again = task.next_retry_datetime().astimezone().isoformat(timespec="seconds")
        found.append(_failure(task, sentences, again))
    return sorted(found, key=lambda one: one.again)


def _of(run: DagRun):  # type: ignore[no-untyped-def]  # SQLAlchemy's own
    return select(TaskInstance).where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)


def _failure(task: TaskInstance, sentences: Mapping[Try, str], again: str = "") -> Failure:
    sentence = sentences.get((task.task_id, task.map_index, task.try_number), SILENT)
    return Failure(task.task_id, task.rendered_map_index or "", sentence, again, task.map_index)


def cancellation(run: DagRun) -> Decision | None:
    """Return the decision to cancel a run; None: it goes on, or was begun again since."""
    decision = approvals.cancellation(Run.planned(dag_run_name(run.dag_id, run.run_id)))
    return decision if decision and decision.digest == str(run.clear_number) else None


def cancel(run: DagRun, session: Session, user: BaseUser) -> Decision:
    """Cancel a run. What is under way ends before the next query or series, then the reports close the accounts.

    The decision is kept first. Each task that begins later looks at it, so nothing of the rest is lost if this process
    is killed, or the scheduler; to cancel once more does the rest.

    Args:
        session: of Airflow's database.

    Raises:
        StorageError: the state root cannot be written.
    """
    folder = Run.planned(dag_run_name(run.dag_id, run.run_id))
    decision = approvals.cancel(folder, run.clear_number, user.get_name(), str(user.get_id()))
    waiting: Iterable[TaskInstance] = session.scalars(
        _of(run).where(or_(TaskInstance.state.is_(None), TaskInstance.state.in_(_WAITING)))
    ).all()
    for task in waiting:
        if not (task.operator or "").endswith(_CLOSES):
            # Not skipped: a run of a DAG of the user would be a success where its last tasks are.
            task.set_state(TaskInstanceState.UPSTREAM_FAILED, session=session)
    return decision
