"""The place of a job in its DAG run: the whole run, a stage of a study, or a task group in a DAG of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from pacsifier_ops.base import options, settings
from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import read_json, storage_errors, write_json
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.runs.folder import Run, stage_run

#: File in the run folder of a `GroupStage`, see there.
_PARAMS = "params.json"


class Stage:
    """The place of a job in its DAG run.

    Attributes:
        may_be_empty: the folder of the job may be empty, as after a night with nothing new.
        begins: trigger rule of its first task.
        single_values: its last task gives each value as an XCom of its own.
        is_whole: the DAG run consists of the job alone.
    """

    is_whole = False
    may_be_empty = True
    begins = "none_failed"  # also after a skipped stage
    single_values = False

    def begin(self, run: Run, context: Any, asks: type[Any], arguments: Mapping[str, Any]) -> None:
        """Keep the params for the tasks of the job; called before the work of its first task.

        Args:
            run: the run of the DAG run.
            asks: request of the job.
            arguments: options of the job by name, see `base.PrepareOperator`.

        Raises:
            InputError: an argument or a param cannot be used.
        """

    def check_conf(self, context: Any) -> None:
        """Check the conf of the DAG run, in the first task; see `params.check_conf`."""
        check_conf(context)

    def of(self, run: Run, params: Mapping[str, Any]) -> tuple[Run, Mapping[str, Any]]:
        """Return the run and the params of the job.

        Args:
            run, params: those of the DAG run.

        Raises:
            AirflowSkipException: the job is switched off in this DAG run.
        """
        return run, params

    @property
    def is_of_study(self) -> bool:
        """Whether the job is a stage of a study, which tells the audit file of its start and end itself."""
        return False

    def owners(self, run: Run) -> Sequence[str]:
        """Return the owners of the project of a run; empty: it has none."""
        return ()

    def check_begun(self, context: Any) -> None:
        """Check, before the last task of the job, that this attempt of the job has begun.

        Raises:
            AirflowSkipException: the job was skipped.
            AirflowFailException: its first task did not succeed.
        """


class WholeRun(Stage):
    """The DAG run consists of the job alone."""

    is_whole = True
    may_be_empty = False


@dataclass(frozen=True)
class GroupStage(Stage):
    """A job in a task group of a DAG of the user. It has a run of its own; its first task keeps its params.

    Attributes:
        group: id of the task group.
    """

    group: str
    begins = "all_success"
    single_values = True

    def begin(self, run: Run, context: Any, asks: type[Any], arguments: Mapping[str, Any]) -> None:
        """Keep the params of the job: its arguments, else what the DAG run has, else the defaults.

        Raises:
            InputError: see `Stage.begin`.
            StorageError: the state root cannot be written.
        """
        # Only params that the DAG declares count: the conf of a run must not change other options.
        of_run = {name: context["params"].get(name) for name in context["dag"].params}
        params = options.checked_params(asks, of_run, arguments)
        part = stage_run(run, self.group)
        with storage_errors("the state root"):
            write_json(part.folder / _PARAMS, params)

    def check_conf(self, context: Any) -> None:
        """Check the settings alone: the DAG of the user may have params that the job does not know."""
        settings.check()

    def of(self, run: Run, params: Mapping[str, Any]) -> tuple[Run, Mapping[str, Any]]:
        """See `Stage.of`.

        Raises:
            InputError: its first task did not begin.
        """
        part = stage_run(run, self.group)
        try:
            return part, read_json(part.folder / _PARAMS)
        except FileNotFoundError:
            raise InputError(f"{self.group} did not begin; see the error of its step prepare") from None

    def check_begun(self, context: Any) -> None:
        """See `Stage.check_begun`. Files of an earlier attempt are no result of this one."""
        task = f"{self.group}.prepare"
        state = state_of(context, task)
        if state == "skipped":
            raise AirflowSkipException("the job was skipped")
        if state != "success":
            raise AirflowFailException(f"the job did not begin; see its step {task}")


def state_of(context: Any, task: str) -> str | None:
    """Return the state of a task of the DAG run; None: it has none."""
    run_id = context["run_id"]
    states = context["ti"].get_task_states(dag_id=context["dag"].dag_id, task_ids=[task], run_ids=[run_id])
    found: str | None = states.get(run_id, {}).get(task)
    return found


def stage_of(stage: Stage | str | None) -> Stage:
    """Return the stage of an operator's argument: plain text is the id of a task group, None is the whole run."""
    if stage is None:
        return WholeRun()
    return stage if isinstance(stage, Stage) else GroupStage(stage)
