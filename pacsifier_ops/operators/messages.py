"""The operator that sends messages, and the callback by which other DAGs tell of a failure."""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException

from pacsifier_ops.messages import noticing
from pacsifier_ops.operators.base import PacsifierOperator, adopt_settings, boundary
from pacsifier_ops.runs.folder import Run

_ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")


class MessagesOperator(PacsifierOperator):
    """Send the messages that wait, remind of open questions, and make the message on the night."""

    operator_extra_links = ()

    def execute(self, context: Any) -> dict[str, int]:
        """Do `work`. All runs of the DAG share one folder: there are hundreds of them a day."""
        adopt_settings()
        run = Run.named(context["dag"].dag_id)
        with boundary(run):
            return self.work(run, context)

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Return how many letters were sent, and how many messages wait no more though not all have got them.

        Raises:
            AirflowException: something could not be sent and is tried again; says why.
        """
        from pacsifier_ops.hooks import channels
        from pacsifier_ops.messages.sending import send_all

        base_url = str(conf.get("api", "base_url", fallback=""))
        sent = send_all(channels, _States(context["ti"]), base_url, dt.datetime.now().astimezone())
        counts = {"sent": sent.sent, "given_up": sent.given_up}
        self.log.info("%s", counts)
        if sent.problems:
            told = (f"{why} ({times:,} times)" if times > 1 else why for why, times in sent.problems.items())
            raise AirflowException("; ".join(told))
        return counts


class _States:
    """What Airflow knows of runs and tasks, with the task's access to it."""

    def __init__(self, ti: Any) -> None:
        self._ti = ti

    def state(self, dag_id: str, run_id: str) -> str:
        """See `digest.States`."""
        wanted = {"going on": ["queued", "running"], "success": ["success"], "failed": ["failed"]}
        for name, states in wanted.items():
            if self._ti.get_dr_count(dag_id, run_ids=[run_id], states=states):
                return name
        return ""

    def asks(self, dag_id: str, run_id: str, task_id: str) -> bool:
        """See `sending.States`."""
        states = self._ti.get_task_states(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id])
        found = states.get(run_id, {})
        return task_id in found and found[task_id] not in _ENDED


def tell_failure(context: Any) -> None:
    """Keep a message that a task has failed: an `on_failure_callback` of tasks, or of `default_args`.

    Not one of a DAG: Airflow 3 does not call these reliably (apache/airflow#63374).
    """
    ti, dag_run = context["ti"], context["dag_run"]
    noticing.task_failed(ti.dag_id, ti.run_id, dag_run.clear_number or 0)
