"""Green only with closed books: a run of ours is a success by the verdict of its last task, and by nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from pacsifier_ops.hooks.constants import MESSAGES, OUR_PREFIX

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

#: The last task of a job; it returns the verdict.
_REPORT = "report"


class OnEnd:
    """Listens to the ends of runs, in the scheduler, and in the API server where a person sets the state of a run."""

    @hookimpl
    def on_dag_run_success(self, dag_run: DagRun, msg: str) -> None:
        """Cancel a run that a person marked as a success before its end; correct the state of one without a verdict."""
        if _cancel_if_going_on(dag_run):
            return
        failed = dag_run.dag_id.startswith(OUR_PREFIX) and _lacks_verdict(dag_run)
        if failed:
            from airflow.utils.state import DagRunState

            dag_run.state = DagRunState.FAILED
        _tell_end(dag_run, failed)

    @hookimpl
    def on_dag_run_failed(self, dag_run: DagRun, msg: str) -> None:
        """Cancel a run that a person marked as failed before its end."""
        if not _cancel_if_going_on(dag_run):
            _tell_end(dag_run, failed=True)


def _cancel_if_going_on(dag_run: Any) -> bool:
    """Cancel a run that Airflow says to have ended while it goes on; return whether it was so.

    Airflow ends the tasks of a run that a person marks, but the teardown: until it has ended, the run goes on. The last
    task of our jobs is one.
    """
    from pacsifier_ops.runs import approvals
    from pacsifier_ops.runs.folder import Run, dag_run_name

    going_on = dag_run.dag_id.startswith(OUR_PREFIX) and dag_run.state in ("queued", "running")
    if going_on:
        run = Run.planned(dag_run_name(dag_run.dag_id, dag_run.run_id))
        approvals.cancel(run, dag_run.clear_number, approvals.IN_AIRFLOW)
    return going_on


def _tell_end(dag_run: Any, failed: bool) -> None:
    """Keep a message on the end of a run of ours, for people.

    The scheduler does it, and so also where no task of the run could. Of a run that sends messages, its task tells.
    """
    if dag_run.dag_id.startswith(OUR_PREFIX) and dag_run.dag_id != MESSAGES:
        from pacsifier_ops.messages import noticing

        times = dag_run.start_date, dag_run.run_after
        noticing.ended(dag_run.dag_id, dag_run.run_id, dag_run.clear_number, failed, *times, dag_run.conf)


def _lacks_verdict(dag_run: Any) -> bool:
    """Return whether a run has a task that returns the verdict, and it has returned none."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    if (session := object_session(dag_run)) is None:
        return False
    which = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id, "task_id": _REPORT}
    with session.no_autoflush:
        reports = session.scalar(select(TaskInstance.id).filter_by(**which))
        verdict = session.scalar(select(XComModel.task_id).filter_by(**which, key="return_value"))
    return reports is not None and verdict is None
