"""Cluster policy: tasks that talk to a PACS run in the pool of its connection, and runs take turns.

An operator cannot choose pool and weight by the conf of a run, because they are no templated fields. This hook can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.policies import hookimpl

from pacsifier_ops.hooks.constants import ARCHIVES, COMMON_POOL, NODES, URGENCY
from pacsifier_ops.hooks.pools import pool_for
from pacsifier_ops.runs.options import BULK, DEFAULT_NODE, NORMAL, URGENT

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

#: Names of the operators that are `TalksToNode`. The hook gets only the name of a task's operator.
_POOLED = (
    "DicomFindOperator",
    "DicomMoveOperator",
    "DicomProbeOperator",
    "DicomRetrieveOperator",
    "DicomStoreOperator",
)


#: Weight of a task by the urgency of its run. Units of a run have less, see `_weight`.
_WEIGHTS = {URGENT: 100_000, NORMAL: 0, BULK: -100_000}


@hookimpl
def task_instance_mutation_hook(task_instance: TaskInstance, dag_run: DagRun | None) -> None:
    """Give a task of ours its weight, and one that talks to a PACS the pool of its connection."""
    task: Any = getattr(task_instance, "task", None)  # Airflow does not always know it
    ours = task_instance.operator in _POOLED or str(getattr(task, "_task_module", "")).startswith("pacsifier_ops.")
    if dag_run is None or not ours:
        return
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    given = {**_defaults(task), **(dag_run.conf or {})}
    urgency = given.get(URGENCY)
    if task_instance.operator in _POOLED:
        group, _, name = task_instance.task_id.rpartition(".")
        within = f"{group}." if group else ""
        told = _xcom(dag_run, f"{within}prepare", NODES, session)
        if isinstance(told, Mapping):
            urgency = told.get(URGENCY, urgency)
            told = told.get(NODES)
        names = told or _asked(given)  # a list: an earlier version has begun the run
        # A task that queries several archives runs in the pool of the first. A unit is of one archive.
        wanted = names[0]
        if len(names) > 1 and name in ("retrieve", "move"):
            first_units = _xcom(dag_run, f"{within}plan", ARCHIVES, session) or {}
            begun = [archive for archive, first in first_units.items() if first <= task_instance.map_index]
            wanted = max(begun, key=first_units.__getitem__, default=wanted)
        with session.no_autoflush:
            pool = pool_for(wanted, session)
        if pool is not None:
            task_instance.pool = pool
    task_instance.priority_weight = _weight(urgency, task_instance.map_index)


def _weight(urgency: object, unit: int) -> int:
    """Return the weight of a task.

    Runs take turns: of tasks that wait for a slot, the scheduler takes the one with the largest weight. So it is not
    the step that counts, but how much of its run was done before. The first units of a small run overtake the later
    units of a large one, and tasks that do not work on a unit overtake both. Airflow calls this hook for tasks that
    work on a unit; for others only where a site has hooks of its own, and else they have the weight that
    `PacsifierOperator` gives them.
    """
    return _WEIGHTS.get(str(urgency), 0) - max(0, unit + 1)


def _defaults(task: Any) -> Mapping[str, Any]:
    """Return the default values of the params of a task's DAG."""
    params = getattr(getattr(task, "dag", None), "params", None) or {}
    return params.dump() if hasattr(params, "dump") else dict(params)


def _asked(given: Mapping[str, Any]) -> list[str]:
    """Return the connections of a run without a first step that tells them, such as a probe."""
    return [COMMON_POOL if given.get("config") else str(given.get("pacs") or DEFAULT_NODE)]


def _xcom(dag_run: DagRun, task_id: str, key: str, session: Session) -> Any:
    """Return the value of a task's XCom; None before it exists."""
    from airflow.models.xcom import XComModel

    query = XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids=task_id, key=key)
    with session.no_autoflush:
        found = session.scalars(query).first()
    return XComModel.deserialize_value(found) if found is not None else None
