"""Runs give way to each other at a PACS: between two series, a task asks whether a run waits that goes first.

The pool of a connection has as many slots as the PACS allows associations. So a run that goes first needs a slot, not
only an association, and a task with many series would keep it waiting. A task that gives way defers, which frees its
slot; the scheduler gives the slot to the task with the largest weight (see `plugins.policy`). The task that gave way
continues when it gets a slot again.

Who works at a PACS is in the state root (see `state.turns`). Whether tasks of a run wait for a slot, Airflow is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError

from pacsifier_ops.base.config import Archive, Node
from pacsifier_ops.base.files import read_json, storage_errors, write_json
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.turns import Entry, Line

#: Steps whose tasks run in the pool of a PACS: those that query it, and those that transfer images.
_QUERIES, _TRANSFERS = ("find",), ("retrieve", "move", "store")
#: File in a run's folder: to which runs it has given way, see `Overtaken`.
_GIVEN = "gave_way.json"


def enter(run: Run, context: Any, nodes: Iterable[Node], urgency: str, task_id: str) -> None:
    """Let other runs know that this one works at nodes.

    Args:
        task_id: of the first step of the job, which is called prepare.

    Raises:
        StorageError: the state root cannot be written.
    """
    dag_run, group = context["dag_run"], task_id.rpartition(".")[0]
    places: dict[str, tuple[str, dict[str, None]]] = {}
    for node in nodes:
        giver = node.giver if isinstance(node, Archive) else None
        for place, steps in ((giver or node, _TRANSFERS), (node, _QUERIES)):
            known = places.setdefault(place.key, (place.name, {}))
            known[1].update(dict.fromkeys(f"{group}.{step}" if group else step for step in steps))
    for key, (name, task_ids) in places.items():
        entry = Entry(str(run.folder), name, urgency, dag_run.dag_id, dag_run.run_id, list(task_ids))
        Line(key).enter(run.name, entry)


def leave(run: Run) -> None:
    """Let other runs know that this one has ended. Harmless when repeated.

    Raises:
        StorageError: the state root cannot be written.
    """
    for one in Line.of_run(run.name):
        one.leave(run.name)


class Overtaken:
    """The question whether a run waits that goes before this one.

    A run gives way to another once for what that has done and how many of its tasks wait. Where that does not change,
    the slot was of no use to it: its DAG is paused, say. Before its first series, a task gives way only to a run that
    its own has given way to before. So it transfers one series at least for each run that goes first, and a small run
    is not interrupted by it again and again.

    Args:
        run: the run that asks.
        node: the PACS that it works at.
        ti: its task instance, which can ask Airflow.
    """

    def __init__(self, run: Run, node: Node, ti: Any) -> None:
        self._run, self._line, self._ti = run, Line(node.key), ti
        self._begun = False

    def __call__(self) -> bool:
        """Whether the task is to give way now."""
        entries = self._line.entries()
        mine, given, begun = entries.pop(self._run.name, None), self._given(), self._begun
        self._begun = True
        return mine is not None and any(
            entry.place.key < mine.place.key and self._waits(name, entry, given)
            for name, entry in entries.items()
            if begun or name in given
        )

    def _given(self) -> dict[str, list[int]]:
        """Return to which runs this one has given way, with the tasks that waited and the series that were done."""
        with suppress(FileNotFoundError, ValueError):
            return dict(read_json(self._run.folder / _GIVEN))
        return {}

    def _waits(self, name: str, entry: Entry, given: dict[str, list[int]]) -> bool:
        try:
            count = self._ti.get_ti_count(
                entry.dag_id, task_ids=entry.task_ids, run_ids=[entry.run_id], states=["scheduled"]
            )
        except AirflowRuntimeError:  # no answer; the order is not worth a failed transfer
            return False
        now = [count, entry.place.done]
        if not count or given.get(name) == now:
            return False
        with storage_errors("the state root"):
            write_json(self._run.folder / _GIVEN, {**given, name: now})
        return True
