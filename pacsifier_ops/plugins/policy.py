"""Cluster policy: tasks that talk to a PACS run in the pool of its connection.

`pool` is no templated field, so the operator cannot choose it by the run's conf; this hook can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.policies import hookimpl

from pacsifier_ops.plugins import COMMON_POOL

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

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
    wanted = COMMON_POOL if conf.get("config") else str(conf.get("pacs") or "pacs_default")
    stage = task_instance.task_id.rpartition(".")[0]
    if stage:
        wanted = _of_stage(dag_run, stage, session)
    # A task in a pool that does not exist never starts.
    with session.no_autoflush:
        names = set(session.scalars(select(Pool.pool).where(Pool.pool.in_((wanted, COMMON_POOL)))))
    pool = wanted if wanted in names else COMMON_POOL
    if pool in names:
        task_instance.pool = pool


def _of_stage(dag_run: DagRun, stage: str, session: Session) -> str:
    """The connection of a stage of a study, as its first step told; the common pool before that."""
    from airflow.models.xcom import XComModel

    query = XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids="set_up", key="return_value")
    with session.no_autoflush:
        told = session.scalars(query).first()
    pools = XComModel.deserialize_value(told)["pools"] if told is not None else {}
    return str(pools.get(stage, COMMON_POOL))
