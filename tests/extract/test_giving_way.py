"""Runs that share the only association of a PACS: between two series, the large one gives way to the small one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import GaveWay
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.fetching import Retrieval
from pacsifier_ops.runs.accounts import COMPLETE, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.turns import BULK, NORMAL, URGENT, Entry, Line, Place, count_turn
from tests.support import airflow_home
from tests.support.embedded import node_of, planned_run, series, serving
from tests.support.processes import eventually

pytestmark = pytest.mark.archive

#: Series by patient.
LARGE, SMALL = 8, 3


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    images = [image for number in range(LARGE) for image in series("LARGE", series_number=number + 1)]
    images += [image for number in range(SMALL) for image in series("SMALL", series_number=number + 1)]
    with serving(images, tmp_path / "images") as running:
        yield running


@pytest.fixture
def in_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_TASKS", "1")


@pytest.mark.parametrize(
    ("of_large", "of_small", "after"),
    [(NORMAL, NORMAL, 2), (NORMAL, URGENT, 2), (BULK, NORMAL, 2), (NORMAL, BULK, LARGE), (URGENT, NORMAL, LARGE)],
)
@pytest.mark.usefixtures("in_one_unit")
def test_a_small_run_goes_before_the_next_series_of_a_large_one(
    pacs: EmbeddedPacs, tmp_path: Path, of_large: str, of_small: str, after: int
) -> None:
    node = node_of(pacs, max_associations=1, method="get")

    def plan(patient: str, urgency: str) -> tuple[Run, list[int]]:
        return planned_run(node, [{"PatientID": patient}], tmp_path / patient, urgency=urgency)

    large, small = plan("LARGE", of_large), plan("SMALL", of_small)
    done: list[str] = []
    other = threading.Thread(target=lambda: steps.retrieve(small[0], node, 0, overtaken=lambda: False))

    def ended(account: SeriesAccount) -> None:
        done.append(account.series_uid)
        if len(done) == 2:
            other.start()
            eventually(lambda: shared().waiting(node.slots) == 1)

    with Retrieval(large[0], node, done=ended) as retrieval:
        retrieval.units(large[1])
    other.join()
    sent = ["LARGE" if uid in sent_of(large[0], tmp_path / "LARGE") else "SMALL" for uid in pacs.sent]
    assert sent == ["LARGE"] * after + ["SMALL"] * SMALL + ["LARGE"] * (LARGE - after)
    assert [steps.report(run).verdict for run, _ in (large, small)] == [COMPLETE] * 2
    assert pacs.peak_associations == 1
    rate = Line(node.key).rate
    assert 1 < rate.series < LARGE + SMALL and 0 < rate.seconds < 60


def sent_of(run: Run, out: Path) -> set[str]:
    return {path.stem for path in out.rglob("*.dcm")}


@pytest.mark.usefixtures("in_one_unit")
def test_a_task_goes_on_where_it_gave_way(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    """After each series, here."""
    node = node_of(pacs, method="get")
    run, (unit,) = planned_run(node, [{"PatientID": "LARGE"}], tmp_path / "out")
    for number in range(1, LARGE):
        with pytest.raises(GaveWay):
            steps.retrieve(run, node, unit, resumed=number > 1, overtaken=iter([False, True]).__next__)
        assert len(pacs.sent) == number and shared().holder(node.slots) is None
    with pytest.raises(GaveWay):
        steps.retrieve(run, node, unit, resumed=True, overtaken=lambda: True)
    assert steps.retrieve(run, node, unit, resumed=True)["received"] == LARGE
    assert len(set(pacs.sent)) == len(pacs.sent) == LARGE


class FakeTask:
    """A task instance that asks Airflow how many tasks of a run wait for a slot."""

    def __init__(self, **waiting: int) -> None:
        self.waiting = waiting

    def get_ti_count(self, dag_id: str, task_ids: list[str], run_ids: list[str], states: list[str]) -> int:
        assert (dag_id, task_ids, states) == ("pacsifier_extract", ["find", "retrieve"], ["scheduled"])
        return self.waiting.get(run_ids[0], 0)


@pytest.mark.airflow
def test_a_task_gives_way_to_runs_that_go_first_and_wait(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    from pacsifier_ops.operators.line import Overtaken

    node, task, runs = node_of(pacs), FakeTask(), {}

    def enter(name: str, done: int, urgency: str = NORMAL, **more: Any) -> None:
        runs[name] = run = Run.named(name)
        for _ in range(done):
            count_turn(run.folder)
        tasks = ["find", "retrieve"]
        Line(node.key).enter(name, Entry(str(run.folder), "pacs", urgency, "pacsifier_extract", name, tasks, **more))

    enter("mine", done=40)
    asks = Overtaken(runs["mine"], node, task)
    assert not asks()
    enter("larger", done=50)
    enter("small", done=2)
    task.waiting = {"mine": 3, "larger": 3}
    assert not asks()  # the small one does not wait
    task.waiting["small"] = 3
    assert not Overtaken(runs["mine"], node, task)()  # a task does one series first
    assert asks() and not asks()  # its tasks still wait: the slot was of no use to it
    count_turn(runs["small"].folder)
    assert asks() and not asks()
    task.waiting["small"] = 2
    assert Overtaken(runs["mine"], node, task)()  # unless its run has given way to that one before
    enter("urgent", done=99, urgency=URGENT)
    enter("bulk", done=0, urgency=BULK)
    task.waiting = {"bulk": 1}
    assert not asks()
    task.waiting = {"urgent": 1}
    assert asks()
    Line(node.key).leave("mine")
    assert not asks()  # begun by an earlier version
    assert Place(NORMAL, 40).key == Place(NORMAL, 50).key
