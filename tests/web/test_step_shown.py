"""The step of a run that works, and its pace."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import airflow_home

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

pytestmark = pytest.mark.airflow

BEGAN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def session(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Iterator[Session]:
    """Return a session of an empty database with tasks only."""
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    from airflow.models import TaskInstance, import_all_models
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    import_all_models()
    engine = create_engine("sqlite://")
    TaskInstance.__table__.create(engine)
    with Session(engine) as opened:
        yield opened


def add(session: Session, task: str, *states: str | None, after: int = 0) -> None:
    """Add the tasks of a step, each of which began a minute after the one before.

    Args:
        after: minutes after BEGAN at which the first began.
    """
    from airflow.models import TaskInstance

    for index, state in enumerate(states):
        began = BEGAN + timedelta(minutes=after + index)
        values = {
            "id": uuid.uuid4(),
            "dag_id": "d",
            "run_id": "r",
            "task_id": task,
            "map_index": index if len(states) > 1 else -1,
            "state": state,
            "start_date": None if state in (None, "scheduled", "queued") else began,
            "pool": "default_pool",
            "pool_slots": 1,
        }
        session.execute(TaskInstance.__table__.insert().values(**values))


def under_way(session: Session) -> Any:
    from airflow.models import DagRun

    from pacsifier_ops.web.tasks import step_under_way

    return step_under_way(DagRun(dag_id="d", run_id="r"), session)


def test_the_step_that_works_is_told_with_its_parts(session: Session) -> None:
    assert under_way(session) is None
    add(session, "extract.prepare", "success")
    add(session, "extract.find", "success", "failed", "running", "running", "queued", None, after=5)
    add(session, "extract.report", None)
    step = under_way(session)
    assert (step.task_id, step.stage, step.name) == ("extract.find", "extract", "find")
    assert (step.done, step.running, step.tasks) == (2, 2, 6)
    assert step.since == BEGAN + timedelta(minutes=5)


def test_of_two_steps_that_which_began_last_is_told_and_none_that_waits(session: Session) -> None:
    add(session, "upload.store", "running")
    add(session, "karnak.tag", "running", after=3)
    add(session, "move.find", "scheduled", after=9)
    add(session, "approve", "awaiting_input", after=9)
    assert under_way(session).task_id == "karnak.tag"


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("find", "asks the PACS, 1 of 2 parts done, "),
        ("anonymize.deidentify", "anonymize: de-identifies images, 1 of 2 parts done, "),
        ("prepare", "reads what is asked for, 1 of 2 parts done"),
        ("anonymize.report", "anonymize: "),
    ],
)
def test_the_pace_of_a_step_is_that_of_what_it_does(task: str, said: str, session: Session) -> None:
    from pacsifier_ops.runs.progress import Progress
    from pacsifier_ops.web import pages, views
    from pacsifier_ops.web.tasks import Step

    step = Step(task, 1, 1, 2, datetime.now(UTC) - timedelta(minutes=2))
    images = {} if task in ("find", "prepare") else {"present": 4, "received": 96}
    progress = Progress({"found": 500, "empty": 100, "waiting": 100, "bad": 1, "repeated": 3}, images=images)
    stages = {"anonymize": views.StageView("under way", progress)}
    view = views._with_pace(views.RunView("d", "r", "running", step=step, progress=progress, stages=stages))
    told = pages._step(view)
    assert told.startswith(said)
    what = {"find": {"rows"}, "prepare": set(), "anonymize.report": set()}.get(task, {"images"})
    assert view.pace.keys() == what
    for pace in view.pace.values():
        assert 0 < pace < 301
    assert told.endswith(("a minute", "done"))
