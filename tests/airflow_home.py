"""An Airflow of the tests' own: its home, runs through `dag.test()`, and the search for what must not be in it."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacsifier_ops import local
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import phantom_series, write

REPO = Path(__file__).parents[1]
DAG_ID = "pacsifier_extract"

#: Values that occur nowhere else, so that finding one in Airflow's home means that it leaked.
KUNIGUNDE = {"patient_id": "ZQX-71830-KW", "patient_name": "Wurzelbacher^Kunigunde", "PatientBirthDate": "19370419"}
ZEBEDAEUS = {"patient_id": "YVJ-55912-ZS", "patient_name": "Schnürpel^Zebedäus", "PatientBirthDate": "19481107"}
THEOBALD = {"patient_id": "WPL-20477-TQ", "patient_name": "Quandtmeyer^Theobald", "PatientBirthDate": "19520930"}
_IDENTIFYING = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SeriesDescription",
)


def cohort() -> list[Dataset]:
    """Four series of three patients."""

    def series(patient: Mapping[str, str], date: str, accession: str, number: int, images: int) -> list[Dataset]:
        return phantom_series(
            **patient,
            study_date=date,
            study_time="070809",
            AccessionNumber=accession,
            series_number=number,
            SeriesDescription=f"Zwerchfell {accession[-2:]}{number}",
            n_images=images,
            rows=8,
            columns=8,
        )

    return [
        *series(KUNIGUNDE, "19931224", "QACC990171", 1, 3),
        *series(KUNIGUNDE, "19931224", "QACC990171", 2, 2),
        *series(ZEBEDAEUS, "19940331", "QACC990288", 1, 2),
        *series(THEOBALD, "19950606", "QACC990399", 1, 2),
    ]


def build(folder: Path) -> list[Path]:
    """Write the cohort below `folder`; returns its files."""
    return write(cohort(), folder)


def identifiers(files: Iterable[Path]) -> set[str]:
    """Everything in the files that tells who the patient is, and the parts of it that do."""
    values = set()
    for path in files:
        head = dcmread(path, stop_before_pixels=True)
        values |= {str(head.get(keyword) or "") for keyword in _IDENTIFYING}
    return {word for value in values for word in words_of(value)}


def words_of(value: str) -> set[str]:
    """A value, and those of its parts that are long enough to be told from other text."""
    plain = value.replace("-", "_")  # as it is in the name of a folder
    return {word for word in (value, plain, *re.split(r"[\W_\d]+", value)) if len(word) >= 4}


def traces(home: Path, words: Iterable[str]) -> list[str]:
    """Where in the files below `home` (their names included) one of the words occurs, in any case or encoding."""
    spellings = {
        spelling.lower().encode(encoding)
        for word in words
        for spelling in (word, json.dumps(word)[1:-1])
        for encoding in ("utf-8", "utf-16-le")
    } | {word.lower().encode("latin-1", "ignore") for word in words}
    wanted = re.compile(b"|".join(re.escape(spelling) for spelling in sorted(spellings)))
    found = []
    for path in home.rglob("*"):
        texts = [str(path.relative_to(home)).lower().encode()]
        if path.is_file():
            texts.append(path.read_bytes().lower())
        for text in texts:
            for match in wanted.finditer(text):
                around = text[max(0, match.start() - 120) : match.end() + 60]
                found.append(f"{path.relative_to(home)}: {around!r}")
    return found


@functools.cache
def migrated(folder: Path) -> tuple[Path, Mapping[str, str]]:
    """A home with an empty database below `folder`, made once for all tests, and its environment."""
    home = folder / "airflow_home"
    environment = local.airflow_environment(home)
    run_airflow(environment, "db", "migrate")
    return home, environment


def run_airflow(environment: Mapping[str, str], *arguments: str) -> str:
    """What an airflow command prints, in a process of its own."""
    command = [sys.executable, "-m", "airflow", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class DagRun:
    """How a DAG run ended: the states of its tasks (and map indexes), their XComs, and their pools."""

    run_id: str
    state: str
    tasks: dict[str, dict[int, str]] = field(default_factory=dict)
    xcoms: dict[str, dict[int, Any]] = field(default_factory=dict)

    @property
    def states(self) -> dict[str, list[str]]:
        """The states of each task, in order of its map indexes."""
        return {task: [states[index] for index in sorted(states)] for task, states in self.tasks.items()}


class Airflow:
    """The tests' Airflow within this process, in front of one PACS."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
        self.home, self.data = home, data
        self._monkeypatch = monkeypatch
        data.mkdir()
        monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(data))
        from airflow import settings

        assert Path(settings.AIRFLOW_HOME) == home / "airflow", "something imported Airflow before its home was made"

    def connect(self, pacs: EmbeddedPacs, name: str = "pacs_default", **extra: Any) -> None:
        """Let the connection `name` be this PACS."""
        fields = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", **extra}
        connection = {"conn_type": "dicom", "host": pacs.host, "port": pacs.port, "extra": fields}
        self._monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))

    def table(self, rows: str, name: str = "table.csv") -> str:
        """Put a query table below the data root; returns the parameter that names it."""
        (self.data / name).write_text(rows, encoding="utf-8")
        return name

    def run(self, **conf: Any) -> DagRun:
        """One run of the extract DAG, to its end; no task is tried twice."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        done = fresh_dag().test(run_conf={"queryfile": "table.csv", "out_directory": "out", **conf})
        run = DagRun(done.run_id, str(done.state))
        for ti in done.get_task_instances():
            run.tasks.setdefault(ti.task_id, {})[ti.map_index] = str(ti.state)
        with create_session() as session:
            for xcom in session.scalars(select(XComModel).where(XComModel.run_id == done.run_id)):
                if xcom.key == "return_value":
                    run.xcoms.setdefault(xcom.task_id, {})[xcom.map_index] = XComModel.deserialize_value(xcom)
        return run


def fresh_dag() -> Any:
    """The extract DAG, read anew, for a run in this process leaves its params in it; without retries."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(REPO / "dags")
    assert not bag.import_errors
    dag = bag.dags[DAG_ID]
    for task in dag.tasks:
        if task.is_mapped:
            task.partial_kwargs["retries"] = 0
        else:
            task.retries = 0
    return dag


def enter(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, data: Path
) -> Airflow:
    """This process within the tests' Airflow, as long as `monkeypatch` lasts."""
    home, environment = migrated(tmp_path_factory.getbasetemp())
    state = os.environ["PACSIFIER_STATE_ROOT"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", state)  # the test's own
    return Airflow(home, monkeypatch, data)


def tree(out: Path) -> set[str]:
    """The files of an output folder, without the tree's own folder."""
    return {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and path.relative_to(out).parts[0] != ".pacsifier"
    }


def simple(value: Any) -> bool:
    """Whether a value is of small integers, rates and words, fit for XCom."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and simple(item) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(isinstance(item, int) for item in value)
    return isinstance(value, int | float | str | None)
