"""A large series is converted in parts, and what a part costs does not grow with the series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base import files
from pacsifier_ops.deid import run as module
from pacsifier_ops.deid import steps
from pacsifier_ops.deid.run import DEIDENTIFIED, DeidRequest, Settled, Store, store_of
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.runs.folder import Run
from tests.support.airflow_home import KUNIGUNDE


def images(folder: Path, count: int) -> None:
    values: dict[str, Any] = {**KUNIGUNDE, "n_images": count, "rows": 8, "columns": 8}
    write(phantom_series(**values), folder)


def settled(out: Path) -> tuple[Store, Path]:
    store = store_of(out)
    assert store is not None
    (path,) = (store.folder / "settled").iterdir()
    return store, path


def test_a_part_decodes_the_outcomes_of_its_own_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "PART", 2)
    lines: list[str] = []

    def decoded_line(line: str) -> Any:
        lines.extend([line] if line else [])
        return files.json_line(line)

    monkeypatch.setattr(module, "json_line", decoded_line)
    images(tmp_path / "in", 12)
    for decoded in (0, 12):
        run, lines[:] = Run.fresh(), []
        for unit in steps.prepare(run, DeidRequest(tmp_path / "in", tmp_path / "out", profile="default")):
            steps.convert(run, unit)
        assert len(lines) == decoded
        assert steps.report(run).totals()["deidentified"] == 12


def test_outcomes_of_some_objects_are_those_of_all(tmp_path: Path) -> None:
    images(tmp_path / "in", 3)
    run = Run.fresh()
    for unit in steps.prepare(run, DeidRequest(tmp_path / "in", tmp_path / "out", profile="default")):
        steps.convert(run, unit)
    store, path = settled(tmp_path / "out")
    key = path.stem
    store.settle(key, Settled('1.2"\\ä', "x", 1, 1, DEIDENTIFIED), durable=False)
    with path.open("a") as stream:
        stream.write('\n{"uid":"1.2.3","sour')  # a kill
    every = store.settled(key)
    assert len(every) == 4
    for uid in every:
        of_one = store.settled(key, {uid})
        assert of_one[uid] == every[uid] and of_one.keys() <= {uid, '1.2"\\ä'}
    assert store.settled(key, {"1.2.3"}).keys() <= {'1.2"\\ä'}
