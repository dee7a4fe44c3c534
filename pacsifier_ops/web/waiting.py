"""What a run waits for at its PACS, its place among the runs that wait there, and when it may end.

In counts only: whose the other runs are is nobody's business.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from airflow.models import DagRun, TaskInstance
from airflow.models.pool import Pool
from airflow.utils.state import TaskInstanceState as State
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.words import plural
from pacsifier_ops.hooks.constants import POOLED
from pacsifier_ops.hooks.pools import receiving_nodes
from pacsifier_ops.runs.accounts import SERIES_RECALLED
from pacsifier_ops.runs.folder import Run, with_stages
from pacsifier_ops.runs.progress import WAITING, progress_of
from pacsifier_ops.state.turns import Line

#: What a run can wait for.
PERSON, WINDOW, SLOTS, WORKERS, RECALL = "person", "window", "slots", "workers", "recall"


@dataclass(frozen=True)
class Reason:
    """Something that a run waits for.

    Attributes:
        what: PERSON, WINDOW, SLOTS, WORKERS or RECALL.
        pacs: name of the connection; empty: it is not for a PACS.
        sentence: for people.
        place: place among the runs that wait for the slots, from 1; None: it does not wait for slots.
        tasks_before: number of tasks of other runs that go first.
        until: time at which it ends, ISO 8601; empty: nobody knows.
    """

    what: str
    sentence: str
    pacs: str = ""
    place: int | None = None
    tasks_before: int = 0
    until: str = ""


@dataclass(frozen=True)
class Waiting:
    """What a run waits for, and when it may end.

    Attributes:
        reasons: what it waits for; nothing while it works with all it may have.
        expected_end: time at which all is transferred if no other run comes, by the measured rate of the PACS, ISO
            8601; empty: it cannot be told (yet).
    """

    reasons: Sequence[Reason] = ()
    expected_end: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain data."""
        return {"for": [asdict(one) for one in self.reasons], "expected_end": self.expected_end or None}


def waiting_of(run: DagRun, folder: Run | None, asked: Sequence[str], session: Session) -> Waiting:
    """Return what a run waits for.

    Args:
        folder: the run's folder; None: it has none yet.
        asked: open questions.
        session: of Airflow's database.
    """
    nodes = {node.name: node for node in receiving_nodes(session)}
    reasons = [Reason(PERSON, f"An answer: {headline}") for headline in asked]
    states = _states(run, session)
    for pool in sorted({pool for pool, _ in states}):
        of_pool = Counter({state: count for (name, state), count in states.items() if name == pool})
        reasons += _at(pool, nodes.get(pool), of_pool, run, folder, session)
    return Waiting(reasons, _iso(_end(folder, nodes)) if folder else "")


def _states(run: DagRun, session: Session) -> Counter[tuple[str, str]]:
    """Return the tasks of a run that work at a PACS, and have not ended, by pool and state."""
    states = (State.SCHEDULED, State.QUEUED, State.RUNNING, State.DEFERRED)
    found = (
        select(TaskInstance.pool, TaskInstance.state, func.count())
        .where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
        .where(TaskInstance.operator.in_(POOLED), TaskInstance.state.in_(states))
        .group_by(TaskInstance.pool, TaskInstance.state)
    )
    return Counter({(pool, str(state)): count for pool, state, count in session.execute(found)})


def _at(
    pool: str, node: Node | None, states: Counter[str], run: DagRun, folder: Run | None, session: Session
) -> Iterator[Reason]:
    """Yield what tasks wait for in a pool."""
    if deferred := states[State.DEFERRED]:
        opens = _window_opens(node)
        if opens is not None:
            sentence = f"The retrieval window of {pool}, which opens at {opens:%Y-%m-%d %H:%M %Z}"
            yield Reason(WINDOW, sentence, pool, until=_iso(opens))
        elif folder and any(progress_of(part).series.get(SERIES_RECALLED) for part in with_stages(folder)):
            yield Reason(RECALL, f"{plural(deferred, 'task')} for series that {pool} recalls from slow storage", pool)
    if waiting := states[State.SCHEDULED]:
        slots = session.scalar(select(Pool.slots).where(Pool.pool == pool)) or 0
        taken = _taken(pool, session)
        if taken >= slots:
            others = taken - states[State.RUNNING] - states[State.QUEUED]
            runs, tasks = _before(pool, run, session)
            sentence = f"{plural(waiting, 'task')} for one of the {plural(slots, 'association')} with {pool}"
            sentence += f"; other runs have {others} of them" if others else ", all of which this run has"
            if runs:
                sentence += f"; place {runs + 1} in the queue, behind {plural(tasks, 'task')} of {plural(runs, 'run')}"
            yield Reason(SLOTS, sentence, pool, runs + 1, tasks)
        else:
            yield Reason(WORKERS, f"{plural(waiting, 'task')} for a free worker, or about to begin", pool)
    if states[State.QUEUED]:
        yield Reason(WORKERS, f"{plural(states[State.QUEUED], 'task')} for a free worker, or about to begin", pool)


def _taken(pool: str, session: Session) -> int:
    """Return the number of slots of a pool that are taken."""
    states = (State.QUEUED, State.RUNNING)
    taken = select(func.coalesce(func.sum(TaskInstance.pool_slots), 0))
    return int(session.scalar(taken.where(TaskInstance.pool == pool, TaskInstance.state.in_(states))) or 0)


def _before(pool: str, run: DagRun, session: Session) -> tuple[int, int]:
    """Return how many other runs, and how many of their tasks, wait for a pool and go before the first of this run."""
    waits = (TaskInstance.pool == pool, TaskInstance.state == State.SCHEDULED)
    mine = (TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
    best = session.scalar(select(func.max(TaskInstance.priority_weight)).where(*waits, *mine))
    others = (
        select(TaskInstance.dag_id, TaskInstance.run_id, func.count())
        .where(*waits, TaskInstance.priority_weight > best)
        .where(tuple_(TaskInstance.dag_id, TaskInstance.run_id) != (run.dag_id, run.run_id))
        .group_by(TaskInstance.dag_id, TaskInstance.run_id)
    )
    counts = [count for _, _, count in session.execute(others)]
    return len(counts), sum(counts)


def _window_opens(node: Node | None) -> dt.datetime | None:
    try:
        return node.retrieval_window.opens_at(dt.datetime.now(dt.UTC)) if node else None
    except ConfigError:  # a setting is wrong, which the tasks tell
        return None


def _end(folder: Run, nodes: dict[str, Node]) -> dt.datetime | None:
    """Return when the transfer of a run will have ended; None: its series are not known yet, or nothing was measured.

    Those that go before it are done first. Where it works at several PACS, nobody knows what each has left.
    """
    lines = ((part, line) for part in with_stages(folder) for line in Line.of_run(part.name))
    at_work = [(part, line) for part, line in lines if line.transfers(part.name)]
    if len(at_work) != 1:
        return None
    ((part, line),) = at_work
    entries = line.entries()
    mine = entries.pop(part.name, None)
    node = nodes.get(mine.pacs) if mine else None
    if mine is None or node is None or not progress_of(part).planned:
        return None
    before = [Run(entry.path) for entry in entries.values() if entry.place.key < mine.place.key]
    seconds = 0.0
    for one in (part, *before):
        progress = progress_of(one)
        series = progress.series.get(WAITING, 0)
        there = sum(count for name, count in progress.images.items() if name != "quarantined")
        left = line.rate.seconds_for(series, max(0, progress.expected - there))
        if left is None:
            return None
        seconds += left if series else 0.0
    try:
        return node.retrieval_window.after(dt.datetime.now(dt.UTC), seconds / node.max_associations)
    except ConfigError:
        return None


def _iso(moment: dt.datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""
