"""Metrics for Prometheus: what ended runs have counted, and what goes on now. Labels never hold data of patients.

Names follow https://prometheus.io/docs/practices/naming: base units, and `_total` for counts that never fall.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from airflow.models import DagRun, Pool, TaskInstance
from airflow.models.hitl import HITLDetail
from airflow.utils.state import DagRunState, State, TaskInstanceState
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pacsifier_ops.hooks.constants import COMMON_POOL, CONVERSION_POOL, OUR_PREFIX
from pacsifier_ops.hooks.pools import dicom_nodes
from pacsifier_ops.runs.accounts import EXIT_CODES, IMAGES, MOVE, NONE, SAVE, UPLOAD
from pacsifier_ops.runs.figures import COUNTS, NO_STATUS, STANDING, Figures, Sum
from pacsifier_ops.state.leases import shared

#: Stands for nodes without a connection: they are told by a configuration file, or their connection was removed.
OTHER = "other"
#: Metrics of what goes on now: their labels, and what they are.
NOW: Mapping[str, tuple[tuple[str, ...], str]] = {
    "pacsifier_associations": (("pacs",), "Associations with the node that are open."),
    "pacsifier_associations_limit": (("pacs",), "Associations with the node that may be open at once."),
    "pacsifier_pool_slots": (("pool", "state"), "Slots of the pool of a node, or of conversion, by their state."),
    "pacsifier_active_runs": (("dag", "state"), "DAG runs that wait or go on."),
    "pacsifier_tasks": (("dag", "state"), "Tasks that wait or go on."),
    "pacsifier_questions": (("dag", "task"), "Questions to people without an answer."),
    "pacsifier_question_wait_seconds": (("dag", "task"), "How long the oldest of them has waited."),
}
_POOL_STATES = ("open", "running", "queued", "scheduled", "deferred")
_sum = Sum()


def exposition(session: Session) -> bytes:
    """Return all metrics in the text format of Prometheus.

    Args:
        session: session of Airflow's database.

    Raises:
        StorageError: the leases cannot be read.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(session))
    return generate_latest(registry)


class _Collector(Collector):
    """Yields the metrics of one moment."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._nodes = {node.name: node for node in dicom_nodes(session)}

    def collect(self) -> Iterator[Metric]:
        figures = self._without_strangers(_sum.look())
        for table, numbers, kind in (
            (COUNTS, figures.counts, CounterMetricFamily),
            (STANDING, figures.standing, GaugeMetricFamily),
            (NOW, dict(self._now()), GaugeMetricFamily),
        ):
            for name, (labels, text) in table.items():
                metric = kind(name, text, labels=labels)
                for key, value in sorted(numbers.items()):
                    if key[0] == name:
                        metric.add_metric(list(key[1:]), value)
                yield metric

    def _without_strangers(self, figures: Figures) -> Figures:
        """Return figures in which only ids of connections name nodes: a configuration file may have any name."""
        known = Figures(Counter(dict.fromkeys(self._zeros(), 0)), figures.standing)
        for (name, *values), count in figures.counts.items():
            if COUNTS[name][0][0] == "pacs" and values[0] not in self._nodes:
                values[0] = OTHER
            known.counts[name, *values] += count
        return known

    def _zeros(self) -> Iterator[tuple[str, ...]]:
        """Yield counts that are there from the beginning: Prometheus sees no increase where a count appears."""
        for action in (SAVE, NONE, MOVE, UPLOAD, "de-identify", "study"):
            yield from (("pacsifier_runs", action, verdict) for verdict in EXIT_CODES)
        for pacs in self._nodes:
            for action in (SAVE, MOVE, UPLOAD):
                yield from (("pacsifier_images", pacs, action, state) for state in IMAGES)
                yield ("pacsifier_transferred_bytes", pacs, action)
                yield ("pacsifier_transfer_seconds", pacs, action)
                yield ("pacsifier_failures", pacs, action, NO_STATUS)

    def _now(self) -> Iterator[tuple[tuple[str, ...], float]]:
        leases = shared()
        for name, node in self._nodes.items():
            yield ("pacsifier_associations", name), leases.count(node.slots)
            yield ("pacsifier_associations_limit", name), node.max_associations
        for pool, slots in Pool.slots_stats(session=self._session).items():
            if pool in (COMMON_POOL, CONVERSION_POOL, *self._nodes):
                for state in _POOL_STATES:
                    yield ("pacsifier_pool_slots", pool, state), slots[state]  # type: ignore[literal-required]
        ours = DagRun.dag_id.startswith(OUR_PREFIX, autoescape=True), DagRun.state.in_(State.unfinished_dr_states)
        runs = select(DagRun.dag_id, DagRun.state, func.count()).where(*ours).group_by(DagRun.dag_id, DagRun.state)
        for dag, run_state, count in self._session.execute(runs):
            yield ("pacsifier_active_runs", dag, str(DagRunState(run_state).value)), count
        yield from self._tasks()
        yield from self._questions()

    def _tasks(self) -> Iterator[tuple[tuple[str, ...], float]]:
        waiting = [state for state in State.unfinished if state is not None]
        tasks = (
            select(TaskInstance.dag_id, TaskInstance.state, func.count())
            .where(TaskInstance.dag_id.startswith(OUR_PREFIX, autoescape=True), TaskInstance.state.in_(waiting))
            .group_by(TaskInstance.dag_id, TaskInstance.state)
        )
        for dag, state, count in self._session.execute(tasks):
            yield ("pacsifier_tasks", dag, str(TaskInstanceState(state).value)), count

    def _questions(self) -> Iterator[tuple[tuple[str, ...], float]]:
        open_states = (TaskInstanceState.AWAITING_INPUT, TaskInstanceState.DEFERRED)
        questions = (
            select(TaskInstance.dag_id, TaskInstance.task_id, func.count(), func.min(HITLDetail.created_at))
            .join(TaskInstance, HITLDetail.ti_id == TaskInstance.id)
            .where(HITLDetail.responded_at.is_(None), TaskInstance.state.in_(open_states))
            .where(TaskInstance.operator.in_(("ApproveCohortOperator", "ApproveReleaseOperator")))
            .group_by(TaskInstance.dag_id, TaskInstance.task_id)
        )
        for dag, task, count, oldest in self._session.execute(questions):
            since = oldest if oldest.tzinfo else oldest.replace(tzinfo=UTC)
            yield ("pacsifier_questions", dag, task), count
            yield ("pacsifier_question_wait_seconds", dag, task), (datetime.now(UTC) - since).total_seconds()
