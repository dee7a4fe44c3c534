"""Cluster policy: tasks that talk to a PACS run in the pool of its connection.

`pool` is no templated field, so the operator cannot choose it by the run's conf; this hook can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.policies import hookimpl

from pacsifier_ops.hooks.constants import ARCHIVES, COMMON_POOL

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

#: Names of the operators that are `TalksToNode`: Airflow knows a task by the name of its operator here.
_POOLED = (
    "DicomFindOperator",
    "DicomMoveOperator",
    "DicomProbeOperator",
    "DicomRetrieveOperator",
    "DicomStoreOperator",
)


@hookimpl
def task_instance_mutation_hook(task_instance: TaskInstance, dag_run: DagRun | None) -> None:
    """Give a PACS task the pool of its run's connection; the common one where that has none (yet)."""
    if task_instance.operator not in _POOLED or dag_run is None:
        return
    from airflow.models.pool import Pool
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    conf = dag_run.conf or {}
    given = COMMON_POOL if conf.get("config") else conf.get("pacs") or "pacs_default"
    stage, _, task = task_instance.task_id.rpartition(".")
    if stage:
        given = _told(dag_run, "set_up", "return_value", session).get("pools", {}).get(stage, COMMON_POOL)
    # Several archives are asked in order, and that begins in the pool of the first; each unit is of one of them.
    names = [name.strip() for name in (given.split(",") if isinstance(given, str) else map(str, given))]
    wanted = names[0]
    if len(names) > 1 and task in ("retrieve", "move"):
        first_units = _told(dag_run, f"{stage}.plan" if stage else "plan", ARCHIVES, session)
        begun = [name for name, first in first_units.items() if first <= task_instance.map_index]
        wanted = max(begun, key=first_units.__getitem__, default=wanted)
    # A task in a pool that does not exist never starts.
    with session.no_autoflush:
        there = set(session.scalars(select(Pool.pool).where(Pool.pool.in_((wanted, COMMON_POOL)))))
    pool = wanted if wanted in there else COMMON_POOL
    if pool in there:
        task_instance.pool = pool


def _told(dag_run: DagRun, task_id: str, key: str, session: Session) -> dict[str, Any]:
    """What a step has told; nothing before it has."""
    from airflow.models.xcom import XComModel

    query = XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids=task_id, key=key)
    with session.no_autoflush:
        told = session.scalars(query).first()
    return dict(XComModel.deserialize_value(told)) if told is not None else {}
