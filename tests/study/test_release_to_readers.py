"""What reads a data set that was released straight to a store: conversion and reports, from the approved list alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from pacsifier_ops.handover import reports
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.study import steps
from pacsifier_ops.study.release import may_hand_over
from pacsifier_ops.study.run import CONVERT
from pacsifier_ops.upload.nodes import FolderNode
from tests.handover.test_reports import report, take_out, text
from tests.support import scans
from tests.support.embedded import node_of, serving
from tests.support.release_to import files_in, images
from tests.support.scans import NAME, PATIENT, names
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive


def test_nifti_and_reports_are_made_of_what_the_store_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files lie in the de-identified folder, where the work of the next night comes to lie as well."""
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(data := tmp_path / "data"))
    (store := tmp_path / "store").mkdir()
    structured = report(1, text("Finding", "Nothing to be seen."), PatientID=PATIENT, PatientName=NAME)
    with serving([*scans.t1w(), structured], tmp_path / "archive") as pacs:
        given = {"source": "local", "convert": "nifti", "profile": "default+clean_narratives", "release_to": "store"}
        night = StudyRun(node_of(pacs), data, [{"PatientID": PATIENT}], given)
        night.make()
        night.release_to(FolderNode("share", path=str(store)))
    released, working = night.folder("released"), night.folder("de-identified")
    assert not images(files_in(released)) and may_hand_over(night.run, CONVERT)
    [text_of] = [path for path in working.rglob("*.dcm") if dcmread(path, stop_before_pixels=True).Modality == "SR"]
    scan = next(path for path in sorted(working.rglob("*.dcm")) if path != text_of)
    for path in (text_of, scan):  # the work of another night, not released yet
        other = path.parent.with_name("00009-later") / path.name
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(path.read_bytes())

    assert night.convert().verdict == COMPLETE
    account = steps.report(night.run)
    assert account.verdict == COMPLETE and account.stage(CONVERT).totals["images"] == 1, account.bad_stages
    made = names(night.folder("nifti"))
    assert len([name for name in made if name.endswith(".nii.gz")]) == 1

    taken = take_out(released)
    assert taken.verdict == COMPLETE and (taken.counts["reports"], taken.counts[reports.WRITTEN]) == (1, 1)
    assert taken.passed_over["no part of what was released"] == 2
    [written] = data.rglob("Clean_Report_*.txt")
    assert written.parent == released / text_of.parent.relative_to(working) and PATIENT not in written.read_text()
