"""The stage convert of a study: after the release, from what was released alone, night after night."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pacsifier_ops.base.errors import InputError, NotApproved
from pacsifier_ops.base.options import OWNER, request_of
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import stage_run
from pacsifier_ops.state.approved import approved_of
from pacsifier_ops.study import cohort, release, steps
from pacsifier_ops.study.release import may_hand_over
from pacsifier_ops.study.run import CONVERT, stages_of
from tests.support import scans
from tests.support.embedded import node_of, serving
from tests.support.scans import NAME, PATIENT, names
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive
ROWS = [{"PatientID": PATIENT}]
GIVEN = {"source": "local", "convert": "bids", "profile": "research"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


def test_what_was_released_is_converted_and_a_later_night_changes_no_name(data: Path, tmp_path: Path) -> None:
    march = [*scans.t1w(study_date="20180301"), *scans.in_time()]
    with serving(march, tmp_path / "archive") as pacs:
        study = StudyRun(node_of(pacs), data, ROWS, GIVEN)
        study.make()
        with pytest.raises(NotApproved):
            may_hand_over(study.run, CONVERT)  # nobody has released anything
        study.release()
        assert may_hand_over(study.run, CONVERT)
        assert study.convert().verdict == COMPLETE
        account = steps.report(study.run)
        stage = account.stage(CONVERT)
        assert stage.verdict == COMPLETE and stage.totals["images"] == 2 and not account.bad_stages
        out = study.folder("nifti")
        before = {name for name in names(out) if name.endswith(".nii.gz")}
        assert len(before) == 2
        (released,) = study.folder("released").glob("sub-*")
        assert {name.split("/")[1] for name in before} == {f"sub-{released.name[4:]}"}
    with serving([*march, *scans.t1w(study_date="20180102", study_time="090000")], tmp_path / "archive2") as pacs:
        night = StudyRun(node_of(pacs), data, ROWS, GIVEN)
        night.make()
        night.release()
        converted = night.convert()
        assert converted.verdict == COMPLETE and converted.counts["of these new"] == 1
    after = {name for name in names(out) if name.endswith(".nii.gz")}
    assert before < after and len(after) == 3
    assert approved_of(out).files.keys() == set(names(out))  # type: ignore[union-attr]
    for name in names(out):
        assert PATIENT not in name and "2018" not in name
        if not name.endswith(".gz"):
            text = (out / name).read_text()
            assert not any(word in text for word in (PATIENT, *NAME.split("^"), "20180102", "20180301"))


def test_the_stage_is_off_unless_asked_for_and_reads_released_data_only(data: Path, tmp_path: Path) -> None:
    with serving(scans.t1w(), tmp_path / "archive") as pacs:
        study = StudyRun(node_of(pacs), data, ROWS, {**GIVEN, "convert": ""})
        assert stages_of(study.run)[CONVERT] is None
        study = StudyRun(node_of(pacs), data, ROWS, {**GIVEN, "convert": "nifti"})
        params = stages_of(study.run)[CONVERT] or {}
        request = request_of(ConvertRequest, {**params, OWNER: "studies/p"})
        assert request.in_folder == data / "studies/p/released" and request.out_folder == data / "studies/p/nifti"
        study.make()
        with pytest.raises(InputError):  # nothing was released
            study.convert()


@pytest.mark.parametrize("waived", [False, True])
def test_a_finding_that_was_waived_for_the_release_is_none_of_the_conversion(
    waived: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person has looked at everyday words that are names; nobody can waive an identifier that is certain."""
    with serving(scans.t1w(patient_name="Head^Kunigunde"), tmp_path / "archive") as pacs:
        study = StudyRun(node_of(pacs), data, ROWS, GIVEN)
        study.make()
        study.release()
    released = release.released_of(study.run)
    assert released is not None
    monkeypatch.setattr(cohort, "released_of", lambda run: dataclasses.replace(released, waived=waived))
    for name, text in {"doubtful.json": "Kunigunde, t1", "certain.json": f"of {PATIENT}", "clean.json": "t1"}.items():
        (tmp_path / name).write_text(text)
    search = cohort.search_of(stage_run(study.run, CONVERT), study.folder("released"))
    found = dict(search(tmp_path, ["doubtful.json", "certain.json", "clean.json"], lambda: False))
    assert found["certain.json"] and not found["clean.json"] and bool(found["doubtful.json"]) is not waived
