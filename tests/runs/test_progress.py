"""The progress of a run, in counts only, read while the run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.files import read_json, read_jsonl, write_json
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Request
from pacsifier_ops.handover import dicomdir, karnak
from pacsifier_ops.handover.dicomdir import DicomdirRequest
from pacsifier_ops.handover.karnak import KarnakRequest
from pacsifier_ops.runs.accounts import SERIES_COMPLETE, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import COUNTED, Worker, cut, expect
from pacsifier_ops.runs.progress import Progress, _counted, progress_of
from pacsifier_ops.runs.series import SeriesWorker
from pacsifier_ops.upload import steps as upload_steps
from pacsifier_ops.upload.run import UploadRequest
from tests.support.command import write_table
from tests.support.embedded import node_of, series, serving

pytestmark = pytest.mark.archive

ROWS = [{"PatientID": "ZQX-1"}, {"PatientID": "ZQX-1"}, {"PatientID": "NOBODY"}, {"PatientID": "^"}]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    """Two series of one patient, of three images and of one."""
    images = series("ZQX-1", n_images=3) + series("ZQX-1", series_number=2)
    with serving(images, tmp_path / "images") as running:
        yield running


def told(run: Run) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return rows, series and images so far; the progress contains nothing but sums."""
    progress = progress_of(run)
    assert "ZQX" not in json.dumps(progress.as_json())
    return progress.rows, progress.series, {name: count for name, count in progress.images.items() if count}


def test_progress_shows_every_step_of_an_extraction(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    run, node = Run.fresh(), node_of(pacs)
    assert progress_of(run) == Progress(images=dict.fromkeys(progress_of(run).images, 0))
    table = write_table(tmp_path / "table.csv", ROWS)
    batches = steps.prepare(run, Request(table, tmp_path / "out"), node, most=2)
    assert told(run) == ({"waiting": 2, "bad": 1, "repeated": 1}, {}, {})
    steps.find(run, node, batches[0])
    assert told(run) == ({"found": 1, "waiting": 1, "bad": 1, "repeated": 1}, {"waiting": 2}, {})
    assert not progress_of(run).planned
    steps.find(run, node, batches[1])
    units = steps.plan(run, node).units
    done = {"found": 1, "empty": 1, "bad": 1, "repeated": 1}
    assert told(run) == (done, {"waiting": 2}, {})
    progress = progress_of(run)
    assert progress.planned and progress.expected == 4 and progress.bytes == 0
    steps.retrieve(run, node, units[0])
    assert told(run)[1] == {"complete": 1, "waiting": 1}
    for unit in units:
        steps.retrieve(run, node, unit)
    assert told(run) == (done, {"complete": 2}, {"received": 4})
    progress = progress_of(run)
    assert progress.bytes > 1000
    took = sum(item["seconds"] for part in run.parts("results") for item in read_jsonl(part))
    assert progress.seconds == pytest.approx(took)  # of the series, without the waits between them
    account = steps.report(run)
    summary = read_json(run.folder / "summary.json")
    assert summary == json.loads(json.dumps(account.summary())) and summary["totals"]["received"] == 4
    assert summary["verdict"] == "incomplete" and summary["modalities"] == {"CT": 2}
    assert "ZQX" not in json.dumps(summary)
    # A run that begins anew has no end.
    run.forget(steps.KEPT)
    assert not (run.folder / "summary.json").exists() and told(run)[1:] == ({}, {})


def test_progress_shows_an_upload(tmp_path: Path) -> None:
    write(series("ZQX-1", n_images=3) + series("ZQX-1", series_number=2), tmp_path / "images")
    run, request = Run.fresh(), UploadRequest(tmp_path / "images", tmp_path / "log")
    with EmbeddedPacs(folder=tmp_path / "pacs") as pacs:
        units = upload_steps.prepare(run, request, node_of(pacs))
        assert told(run) == ({}, {"waiting": 2}, {}) and progress_of(run).expected == 4
        for unit in units:
            upload_steps.send(run, node_of(pacs), unit)
    assert told(run) == ({}, {"complete": 2}, {"received": 4})


def test_progress_shows_the_hand_over_jobs(tmp_path: Path) -> None:
    images, tagged = tmp_path / "images", tmp_path / "tagged"
    write(series("ZQX-1", n_images=3) + series("ZQX-1", series_number=2), images)
    write_json(ids := tmp_path / "ids.json", {"ZQX-1": "P1"})
    run = Run.fresh()
    units = karnak.prepare(run, KarnakRequest(images, tagged, "album", new_ids=str(ids)))
    assert told(run) == ({}, {"waiting": 2}, {}) and progress_of(run).expected == 4
    for unit in units:
        karnak.tag(run, unit)
    assert told(run) == ({}, {"complete": 2}, {"tagged": 4}) and not progress_of(run).parts
    for unit in units:
        karnak.tag(run, unit)
    assert told(run)[2] == {"unchanged": 4}
    # Without series, there are parts of the work.
    run = Run.fresh()
    units = dicomdir.prepare(run, DicomdirRequest(images, tmp_path / "file-set"))
    assert told(run) == ({}, {}, {}) and progress_of(run).parts == {"waiting": 2}
    dicomdir.copy(run, units[0])
    assert progress_of(run).parts == {"done": 1, "waiting": 1}


def test_only_changed_files_of_a_large_cohort_are_read_again() -> None:
    run = Run.fresh()
    expect(run, series=2000, instances=4000)
    for unit in range(20):
        run.write_part("results", unit, [line(unit * 100 + n) for n in range(100)])
    assert told(run) == ({}, {"complete": 2000}, {"received": 4000})
    before = _counted.cache_info().misses
    run.write_part("results", 7, [line(700)])
    assert told(run)[1] == {"complete": 1901, "waiting": 99} and _counted.cache_info().misses == before + 1


@dataclass
class Count:
    """An item of `Counting`, and its result."""

    number: int
    done: int = 0

    def account(self) -> Count:
        return Count(self.number)


class Counting(Worker[Count, Count]):
    """Works on items, and asks before each."""

    item = result = Count

    def work(self, item: Count, result: Count) -> Count:
        self._cancelled()
        return Count(result.number, result.done + 1)

    @classmethod
    def counts(cls, result: Count) -> dict[str, int | float]:
        return {"series complete": 1, "images received": result.done}

    def totals(self, results: Sequence[Count]) -> dict[str, int | float]:
        return {"done": len(results)}


def test_a_task_that_was_given_up_and_the_next_one_count_an_item_once() -> None:
    run = Run.fresh()
    cut(run, [[Count(number) for number in range(3)]], {"series": 3})

    next_one = iter([lambda: Counting(run).unit(0)])
    Counting(run, lambda: bool([start() for start in next_one])).unit(0)
    assert told(run) == ({}, {"complete": 3}, {"received": 3})


def line(number: int) -> dict[str, Any]:
    account = SeriesAccount(number, [2], "1.2", f"1.2.{number}", state=SERIES_COMPLETE, expected=2, received=2)
    return {**vars(account), COUNTED: SeriesWorker(Run.fresh()).counts(account)}
