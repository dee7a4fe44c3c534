"""Cluster policy: tasks that talk to a PACS run in the pool of its connection, runs take turns, and tasks have a text.

An operator cannot choose pool and weight by the conf of a run, because they are no templated fields. A hook can.
"""

from __future__ import annotations

import datetime as dt
import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.policies import hookimpl

from pacsifier_ops.hooks.constants import ARCHIVES, COMMON_POOL, GIVERS, ITEMS, NODES, POOLED, URGENCY
from pacsifier_ops.hooks.pools import pool_for
from pacsifier_ops.runs.options import DEFAULT_NODE
from pacsifier_ops.state.turns import PATIENCE, URGENT, Place

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

#: Weight that an urgent run has more than others. It is more than any run has series, and fits into 32 bits.
_URGENT = 10**9
#: Weight of a task of a run that has waited for too long.
_FORGOTTEN = 2 * 10**9
#: Number of new tasks after which a run that has waited for too long gets a turn.
_NEW_PER_OLD = 10


@hookimpl
def task_policy(task: Any) -> None:
    """Give a task of ours the text that its page in Airflow shows: that of its operator, for people.

    It also gives up its copies of the DAG's params. Airflow merges the two anyway, and in a DAG with a large form the
    copies are most of what Airflow keeps of it and reads again: 1.2 of 1.3 MB of pacsifier_study.
    """
    mapped = getattr(task, "partial_kwargs", None)
    operator = type(task) if mapped is None else task.operator_class
    if not operator.__module__.startswith("pacsifier_ops."):
        return
    for name in [name for name, param in task.params.items() if param.source == "dag"]:
        del task.params[name]
    if task.doc_md:
        return
    text = _for_people(operator)
    if mapped is None:
        task.doc_md = text
    else:
        mapped["doc_md"] = text


def _for_people(operator: type) -> str:
    """Return the docstring of an operator up to the first section for programmers."""
    text = inspect.getdoc(operator) or ""
    return re.split(r"^(?:Args|Attributes|Raises):$", text, maxsplit=1, flags=re.MULTILINE)[0].strip()


@hookimpl
def task_instance_mutation_hook(task_instance: TaskInstance, dag_run: DagRun | None) -> None:
    """Give a task of ours its weight, and one that talks to a PACS the pool of its connection."""
    task: Any = getattr(task_instance, "task", None)  # Airflow does not always know it
    ours = task_instance.operator in POOLED or str(getattr(task, "_task_module", "")).startswith("pacsifier_ops.")
    if dag_run is None or not ours:
        return
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        return
    given = {**_defaults(task), **(dag_run.conf or {})}
    urgency, items = given.get(URGENCY), 1
    if task_instance.operator in POOLED:
        group, _, name = task_instance.task_id.rpartition(".")
        within = f"{group}." if group else ""
        told = _xcom(dag_run, f"{within}prepare", NODES, session)
        givers: Mapping[str, str] = {}
        if isinstance(told, Mapping):
            urgency, items, givers = told.get(URGENCY, urgency), told.get(ITEMS, 1), told.get(GIVERS, givers)
            told = told.get(NODES)
        names = told or _asked(given)  # a list: an earlier version has begun the run
        # A task that queries several archives runs in the pool of the first. A unit is of one archive, and is
        # transferred in the pool of the one that gives the images.
        wanted = names[0]
        if name in ("retrieve", "move"):
            items = _xcom(dag_run, f"{within}plan", ITEMS, session) or 1
            first_units = (_xcom(dag_run, f"{within}plan", ARCHIVES, session) or {}) if len(names) > 1 else {}
            begun = [archive for archive, first in first_units.items() if first <= task_instance.map_index]
            wanted = max(begun, key=first_units.__getitem__, default=wanted)
            wanted = givers.get(wanted, wanted)
        with session.no_autoflush:
            pool = pool_for(wanted, session)
            if pool is not None:
                task_instance.pool = pool
                if task_instance.map_index % _NEW_PER_OLD == 0:
                    _let_forgotten_run_begin(pool, session)
    task_instance.priority_weight = _weight(str(urgency), task_instance.map_index, items)


def _weight(urgency: str, unit: int, items: int) -> int:
    """Return the weight of a task.

    Runs take turns: of tasks that wait for a slot, the scheduler takes the one with the largest weight. So it is not
    the step that counts, but how much of its run was done before, in series or rows (see `turns`). The first units of a
    small run overtake the later units of a large one, and tasks that do not work on a unit overtake both. Airflow calls
    this hook for tasks that work on a unit; for others only where a site has hooks of its own, and else they have the
    weight that `PacsifierOperator` gives them.

    Args:
        unit: number of the unit; -1: the task works on none.
        items: items of each unit.
    """
    first = 0 if unit < 0 else 1 + Place(urgency, unit * items).position
    return (_URGENT if urgency == URGENT else 0) - first


def _let_forgotten_run_begin(pool: str, session: Session) -> None:
    """Put a task first whose run has waited for PATIENCE and got no turn meanwhile.

    A weight is given once, and a run that goes last could wait for ever where new runs keep coming. Nothing else can
    keep it waiting, so this is the moment to look. A row that the scheduler has locked is left for the next time.
    """
    from airflow.models.taskinstance import TaskInstance as Task
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import func, or_, select, update
    from sqlalchemy.orm import aliased

    other, long_ago = aliased(Task), dt.datetime.now(dt.UTC) - dt.timedelta(seconds=PATIENCE)
    served = select(other.id).where(
        *(other.dag_id == Task.dag_id, other.run_id == Task.run_id, other.pool == Task.pool),
        or_(other.start_date > long_ago, other.end_date > long_ago, other.priority_weight == _FORGOTTEN),
    )
    forgotten = (
        select(Task.id)
        .where(Task.pool == pool, Task.state == TaskInstanceState.SCHEDULED, Task.scheduled_dttm < long_ago)
        .where(~served.exists())
        .order_by(Task.scheduled_dttm, -func.coalesce(Task.priority_weight, 0), Task.map_index)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if (found := session.scalar(forgotten)) is not None:
        session.execute(
            update(Task).where(Task.id == found).values(priority_weight=_FORGOTTEN),
            execution_options={"synchronize_session": False},
        )


def _defaults(task: Any) -> Mapping[str, Any]:
    """Return the default values of the params of a task's DAG. They were checked where the DAG was read."""
    params = getattr(getattr(task, "dag", None), "params", None) or {}
    return {name: getattr(param, "value", param) for name, param in params.items()}


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
