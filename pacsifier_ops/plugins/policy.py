"""Cluster policy: tasks that talk to a PACS run in the pool of its connection.

An operator cannot choose the pool by the conf of a run, because `pool` is not a templated field. This hook can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.policies import hookimpl

from pacsifier_ops.hooks.constants import ARCHIVES, COMMON_POOL, NODES

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


@hookimpl
def task_instance_mutation_hook(task_instance: TaskInstance, dag_run: DagRun | None) -> None:
    """Give a PACS task the pool of its connection, or the common pool if that does not exist (yet)."""
    if task_instance.operator not in _POOLED or dag_run is None:
        return
    from airflow.models.pool import Pool
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    group, _, task = task_instance.task_id.rpartition(".")
    within = f"{group}." if group else ""
    names = _xcom(dag_run, f"{within}prepare", NODES, session) or _of_conf(dag_run.conf or {})
    # A task that queries several archives runs in the pool of the first. A unit is of one archive.
    wanted = names[0]
    if len(names) > 1 and task in ("retrieve", "move"):
        first_units = _xcom(dag_run, f"{within}plan", ARCHIVES, session) or {}
        begun = [name for name, first in first_units.items() if first <= task_instance.map_index]
        wanted = max(begun, key=first_units.__getitem__, default=wanted)
    # A task in a pool that does not exist never starts.
    with session.no_autoflush:
        existing = set(session.scalars(select(Pool.pool).where(Pool.pool.in_((wanted, COMMON_POOL)))))
    pool = wanted if wanted in existing else COMMON_POOL
    if pool in existing:
        task_instance.pool = pool


def _of_conf(conf: Mapping[str, Any]) -> list[str]:
    """Return the connections of a run without an XCom of its first step, such as a probe."""
    return [COMMON_POOL if conf.get("config") else str(conf.get("pacs") or "pacs_default")]


def _xcom(dag_run: DagRun, task_id: str, key: str, session: Session) -> Any:
    """Return the value of a task's XCom; None before it exists."""
    from airflow.models.xcom import XComModel

    query = XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids=task_id, key=key)
    with session.no_autoflush:
        found = session.scalars(query).first()
    return XComModel.deserialize_value(found) if found is not None else None
