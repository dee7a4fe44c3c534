"""Every job: a stopped or killed task keeps its results, and the next one goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import Cancelled, ConfigError, InputError
from pacsifier_ops.convert import steps as conversion
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.deid import steps as deid
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.handover import dicomdir, dumps, karnak, reports
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.approvals import CANCELLED
from pacsifier_ops.runs.folder import Run, in_units, never
from pacsifier_ops.runs.job import Question, Worker, summary_of
from pacsifier_ops.runs.progress import progress_of
from pacsifier_ops.study.cohort import search_of
from pacsifier_ops.upload import steps as upload
from pacsifier_ops.upload.run import UploadRequest
from tests.support.embedded import node_of, planned_run, series
from tests.support.kills import killed
from tests.support.scans import deidentified

pytestmark = pytest.mark.archive

PATIENTS = [f"QX-{number}" for number in range(1, 5)]


@dataclass
class Job:
    """A job with one unit of four items.

    Attributes:
        begun: its run; worker: of the job.
        work: the step on the unit, given when it is to stop; close: its last step.
    """

    run: Run
    worker: type[Worker[Any, Any]]
    work: Callable[[Question], object]
    close: Callable[[], Any]

    def done(self) -> set[Any]:
        """Return the keys of the items that have a result."""
        told = self.worker.outcomes(self.run)
        return {self.worker.key(item) for item, result in told if result != self.worker.account(item)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A series of each patient, a report of it, and an info dump."""
    for patient in PATIENTS:
        place = tmp_path / "images" / f"sub-{patient}" / "ses-1" / "00001-CT"
        write(series(patient, n_images=3), place)
        place.with_suffix(".csv").write_text("PatientID\n")
    return tmp_path / "images"


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(folder=tmp_path / "pacs") as running:
        yield running


def _extract(folder: Path, out: Path, pacs: EmbeddedPacs) -> Job:
    from pacsifier_ops.extract import steps
    from pacsifier_ops.extract.fetching import Retrieval

    pacs.add(sorted(folder.rglob("*.dcm")))
    node = node_of(pacs)
    run, units = planned_run(node, [{"PatientID": patient} for patient in PATIENTS], out)
    every = [line for unit in units for line in map(json.loads, run.part("units", unit).open())]
    run.forget(["units"])
    run.write_part("units", 0, every)
    return Job(run, Retrieval, lambda stop: steps.retrieve(run, node, 0, stop), lambda: steps.report(run))


def _upload(folder: Path, out: Path, pacs: EmbeddedPacs) -> Job:
    run, node = Run.fresh(), node_of(pacs)
    upload.prepare(run, UploadRequest(folder, out), node, most=1)
    return Job(run, upload.Sending, lambda stop: upload.send(run, node, 0, stop), lambda: upload.report(run))


def _deid(folder: Path, out: Path, pacs: EmbeddedPacs) -> Job:
    run = Run.fresh()
    deid.prepare(run, DeidRequest(folder, out, "default", contact_sheets=False), most=1)
    return Job(run, deid.Converting, lambda stop: deid.convert(run, 0, cancelled=stop), lambda: deid.report(run))


def _karnak(folder: Path, out: Path, pacs: EmbeddedPacs) -> Job:
    run, ids = Run.fresh(), folder.with_name("ids.json")
    ids.write_text(json.dumps({patient: f"P{place}" for place, patient in enumerate(PATIENTS)}))
    karnak.prepare(run, karnak.KarnakRequest(folder, out, "album", new_ids=str(ids)), most=1)
    return Job(run, karnak.TaggingWorker, lambda stop: karnak.tag(run, 0, stop), lambda: karnak.report(run))


def _dicomdir(folder: Path, out: Path, pacs: EmbeddedPacs) -> Job:
    run = Run.fresh()
    dicomdir.prepare(run, dicomdir.DicomdirRequest(folder, out), most=1)

    def close() -> Any:
        with suppress(InputError):  # not all files were copied
            dicomdir.assemble(run)
        return dicomdir.report(run)

    return Job(run, dicomdir.CopyWorker, lambda stop: dicomdir.copy(run, 0, stop), close)


def _dumps(folder: Path, out: Path, pacs: EmbeddedPacs) -> Job:
    run = Run.fresh()
    dumps.prepare(run, dumps.DumpsRequest(folder, out), most=1)
    return Job(run, dumps.MovingWorker, lambda stop: dumps.move(run, 0, stop), lambda: dumps.report(run))


def _reports(folder: Path, out: Path, pacs: EmbeddedPacs) -> Job:
    for patient in PATIENTS:
        (image,) = series(patient, series_number=9)
        image.SOPClassUID, image.Modality, text = BasicTextSRStorage, "SR", Dataset()
        del image.PixelData
        text.RelationshipType, text.ValueType, text.TextValue = "CONTAINS", "TEXT", "A finding."
        image.ValueType, image.ContentSequence = "CONTAINER", [text]
        write([image], folder / patient)
    run = Run.fresh()
    reports.prepare(run, reports.ReportsRequest(folder, out), most=1)
    return Job(run, reports.ReportsWorker, lambda stop: reports.extract(run, 0, stop), lambda: reports.report(run))


def _convert(folder: Path, out: Path, pacs: EmbeddedPacs) -> Job:
    made, run = deidentified((), folder.parent, source=folder), Run.fresh()
    conversion.prepare(run, ConvertRequest(made, out.with_name("nifti")), most=1)

    def close() -> Any:
        conversion.assemble(run, search_of(run, made))
        return conversion.report(run)

    return Job(run, conversion.Converting, lambda stop: conversion.convert(run, 0, stop), close)


@pytest.fixture(params=[_extract, _upload, _deid, _karnak, _dicomdir, _convert, _dumps, _reports])
def job(request: pytest.FixtureRequest, folder: Path, tmp_path: Path, pacs: EmbeddedPacs) -> Job:
    made: Job = request.param(folder, tmp_path / "out", pacs)
    return made


def test_a_stopped_task_keeps_its_results(job: Job) -> None:
    whole, stops = 4, 0
    for patience in range(0, 200, 3):
        asked, before = count(), job.done()
        try:
            job.work(lambda asked=asked, patience=patience: next(asked) > patience)  # type: ignore[misc]
        except Cancelled:
            stops += 0 < len(job.done()) < whole
            assert before <= job.done()
        else:
            break
    assert stops and len(job.done()) >= whole
    # Another task that is stopped soon removes no result.
    asked = count()
    with suppress(Cancelled):
        job.work(lambda: next(asked) > 1)
    assert len(job.done()) >= whole and job.close().verdict == COMPLETE


def test_a_cancelled_run_ends_between_two_items_and_closes_its_account(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Run.append_to_part

    def cancelled_after(run: Run, *what: Any) -> None:
        append(run, *what)
        approvals.cancel(run, 0, "somebody")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "append_to_part", cancelled_after)
        with pytest.raises(Cancelled, match="the run was cancelled by somebody"):
            job.work(never)
    assert len(job.done()) == 1
    assert job.close().verdict == CANCELLED
    assert (told := summary_of(job.run))["verdict"] == CANCELLED and told["by"] == "somebody"
    assert "Cancelled by somebody" in job.run.report.read_text()
    approvals.begin_again(job.run, 1)
    job.work(never)
    assert job.close().verdict == COMPLETE and "by" not in summary_of(job.run)


def test_a_killed_task_keeps_its_results(job: Job) -> None:
    partly = 0
    for after in range(3, 1000, 7):
        before = job.done()
        if not killed(lambda: job.work(lambda: False), after):
            break
        partly += 0 < len(job.done()) < 4
        assert before <= job.done()
    assert partly and len(job.done()) >= 4
    assert job.close().verdict == COMPLETE


def test_a_result_that_was_half_appended_is_no_result(job: Job) -> None:
    job.work(lambda: False)
    whole, results = job.done(), job.run.part("results", 0)
    lines = results.read_bytes().splitlines(keepends=True)
    # A process that is killed, or has no space, leaves the beginning of a line, and another one may append to it.
    for torn in ([*lines[:-1], lines[-1][:20]], [lines[0][:20], *lines[1:]], [*lines[1:], b"\xff\0\n"]):
        results.write_bytes(b"".join(torn))
        assert len(job.done()) >= len(whole) - 2 and progress_of(job.run)
    job.work(lambda: False)
    assert job.done() == whole and job.close().verdict == COMPLETE


def test_each_result_is_written_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[tuple[str, int]]()
    append, write = Run.append_to_part, Run.write_part

    def appended(run: Run, kind: str, number: int | None, line: Any) -> None:
        written.append((kind, 1))
        append(run, kind, number, line)

    def written_whole(run: Run, kind: str, number: int | None, lines: Any) -> None:
        written.append((kind, len(kept := list(lines))))
        write(run, kind, number, kept)

    monkeypatch.setattr(Run, "append_to_part", appended)
    monkeypatch.setattr(Run, "write_part", written_whole)
    job.work(lambda: False)
    lines = job.run.part("results", 0).read_text().splitlines()
    assert sum(count for kind, count in written if kind == "results") == len(lines) >= 4


def test_a_setting_says_into_how_many_units_a_step_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(in_units(7)) == 7 and len(in_units(7000)) == 500
    monkeypatch.setenv("PACSIFIER_TASKS", "2")
    assert in_units(7) == [range(4), range(4, 7)] and in_units(1) == [range(1)] and in_units(0) == []
    assert in_units(7, most=1) == [range(7)]
    monkeypatch.setenv("PACSIFIER_TASKS", "0")
    with pytest.raises(ConfigError, match=r"^tasks is not a whole number above 0; correct PACSIFIER_TASKS$"):
        in_units(7)
    monkeypatch.delenv("PACSIFIER_TASKS")
    monkeypatch.setattr(settings, "_variable", {"tasks": "many"})
    with pytest.raises(ConfigError, match=r"above 0; correct it in the Airflow variable pacsifier$"):
        in_units(7)
