"""One running Airflow, as `make up` starts it, for all tests of a session that need no Airflow of their own.

A test gives its runs output folders, projects and connections that no other test uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import demo_cohort
from tests.support import airflow_home
from tests.support.airflow_home import Up
from tests.support.places import REPO

#: A DAG that is none of the package's.
FOREIGN = "somebody_elses"
_FOREIGN_DAG = f"""
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
with DAG("{FOREIGN}", schedule=None):
    EmptyOperator(task_id="nothing")
"""
#: What of the examples of DAGs is another here: connections, and nothing starts by itself.
SITE = {'"pacs_old"': '"pacs_crooked"', '"0 20 * * *"': "None"}
#: What of the chain of docs/sensor.md is another here.
CHAIN = {
    "settle=300": "settle=2",
    "poke_interval=60": "poke_interval=1",
    'schedule="0 20 * * *"': "schedule=None",
    "pacs_default": "pacs_night",
}
VIEWER, USER = "viola", "ursula"


class Crooked(EmbeddedPacs):
    """Answers with values that their VR does not allow, for the software that reads them to stumble over."""

    def __init__(self, **wrong: str) -> None:
        super().__init__()
        self.wrong = wrong

    def _answer(self, *arguments: Any) -> Dataset:
        answer = super()._answer(*arguments)
        for keyword, value in self.wrong.items():
            if keyword in answer:
                answer[keyword] = DataElement(keyword, "LO", value)  # the peer reads it by the dictionary's VR
        return answer


@dataclass(frozen=True)
class SharedAirflow:
    """The Airflow, and the nodes that it knows.

    Attributes:
        files: four series of three patients, which `pacs_crooked` holds, and `pacs_default` beside the demonstration's.
        cohort, busy, crooked: PACS of the connections `pacs_default`, `pacs_busy` (which holds nothing) and
            `pacs_crooked`.
        research: node of the connection `research`, to send to.
    """

    up: Up
    files: list[Path]
    cohort: EmbeddedPacs
    busy: EmbeddedPacs
    crooked: EmbeddedPacs
    research: EmbeddedPacs


def _with(text: str, changes: Mapping[str, str]) -> str:
    for theirs, ours in changes.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    return text


@contextmanager
def running(folder: Path) -> Iterator[SharedAirflow]:
    """Start it below `folder`; it is stopped with the block."""
    dags = folder / "dags"
    dags.mkdir()
    (dags / "foreign.py").write_text(_FOREIGN_DAG)
    examples = (REPO / "include" / "dags" / "site_examples.py").read_text(encoding="utf-8")
    (dags / "site_examples.py").write_text(_with(examples, SITE))
    (chain,) = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "sensor.md").read_text(encoding="utf-8"), re.S)
    (dags / "nightly.py").write_text(_with(chain, CHAIN))
    files = airflow_home.build(folder / "cohort")
    with (
        EmbeddedPacs() as cohort,
        EmbeddedPacs() as busy,
        Crooked(SeriesNumber="Wurzelbacher") as crooked,
        EmbeddedPacs(aet="RESEARCH", folder=folder / "research") as research,
    ):
        cohort.add([*files, *demo_cohort(folder / "demo")])
        crooked.add(files)
        nodes = {"pacs_default": cohort, "pacs_busy": busy, "pacs_crooked": crooked, "research": research}
        with Up(folder / "home", nodes, dags, {VIEWER: "viewer", USER: "user"}) as up:
            yield SharedAirflow(up, files, cohort, busy, crooked, research)
