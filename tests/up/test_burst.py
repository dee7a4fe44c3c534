"""Many runs at once, while the database and components of Airflow are killed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from pacsifier_ops.onebox import up as local
from tests.support.airflow_home import DAG_ID, Up
from tests.support.processes import command_of
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]


def parts(up: Up, words: str) -> list[psutil.Process]:
    """Return the components of `make up` that have these words in their command line."""
    return [child for child in psutil.Process(up._process.pid).children() if words in command_of(child)]


def kill(up: Up, words: str) -> None:
    """Kill such a component, and wait until there is another."""
    (killed,) = parts(up, words)
    killed.kill()
    up.wait_for(lambda: any(part.pid != killed.pid for part in parts(up, words)))


def test_many_triggers_are_taken_and_runs_complete_whatever_is_killed(shared: SharedAirflow) -> None:
    up, data = shared.up, shared.up.home / "data"
    (data / "burst.csv").write_text("AccessionNumber\nQACC990171\n")
    outs = [f"burst-{number}" for number in range(4)]

    def start(out: str) -> str:
        return up.start(DAG_ID, queryfile="burst.csv" if out in outs else "no table", out_directory=out)

    with ThreadPoolExecutor(8) as people:
        runs = list(people.map(start, [*outs, *(["out"] * 36)]))
    for words in ("airflow scheduler", "airflow triggerer", "postgres -D"):
        kill(up, words)
    up.wait_for(lambda: local.is_healthy(up.ports[0]))
    assert [up.outcome(run) for run in runs] == ["success"] * len(outs) + ["failed"] * 36
    assert [len(list((data / out).rglob("*.dcm"))) for out in outs] == [5] * len(outs)
