"""From a de-identified folder to NIfTI: each series accounted, only what is new converted, names that stay."""

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from pacsifier_ops.base.errors import InputError, TreeError
from pacsifier_ops.convert import series as one_series
from pacsifier_ops.convert import steps
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.embedded.phantoms import phantom_series, uid, write
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.approved import approved_of
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import DEIDENTIFIED, Tree, marker_of, write_marker
from pacsifier_ops.study.cohort import search_of
from tests.support import scans
from tests.support.kills import killed
from tests.support.scans import converted, deidentified, names


def _by_series(out: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names(out):
        found.setdefault(Path(name).parent.name[:5], []).append(Path(name).name)
    return found


def _header(path: Path) -> bytes:
    with gzip.open(path) as stream:
        return stream.read(352)


def _dims(path: Path) -> tuple[int, ...]:
    rank, *lengths = struct.unpack_from("<8h", _header(path), 40)
    return tuple(lengths[:rank])


def test_every_kind_of_series_becomes_what_it_is(tmp_path: Path) -> None:
    """One account for each series, also for the one that becomes several images."""
    kinds = [scans.ct(), scans.tilted(), scans.with_gap(), scans.echoes(), scans.in_time(), scans.localizer()]
    kinds += [scans.packed(), scans.t1w(), scans.multiframe()]
    source = deidentified([image for images in kinds for image in images], tmp_path)
    run, account = converted(source, tmp_path / "nii")
    assert account.verdict == COMPLETE and not account.problems
    assert account.counts["series"] == account.counts["series converted"] == 9
    found = _by_series(tmp_path / "nii")
    images = {key: [name for name in each if name.endswith(".nii.gz")] for key, each in found.items()}
    assert {key: len(each) for key, each in images.items()} == {
        **dict.fromkeys(("00001", "00003", "00005", "00007", "00008", "00009"), 1),
        **{"00002": 2, "00004": 2, "00006": 3},
    }
    assert account.counts["images"] == sum(map(len, images.values())) == 13
    whole = {path.parent.name[:5]: path for path in (tmp_path / "nii").rglob("*.nii.gz")}
    assert _dims(whole["00001"]) == _dims(whole["00007"]) == (32, 32, 12)
    assert _dims(whole["00005"]) == (32, 32, 4, 12) and _dims(whole["00009"]) == (32, 32, 6)
    told = {name.rpartition("/")[2][:5]: remark for name, remark in account.done}
    assert "gantry tilt" in told["00002"] and "missing images" in told["00003"] and "2 images" in told["00004"]
    assert "uneven slice distances" in told["00003"] and "several images of one series" in told["00006"]
    assert not any(word in remark for remark in told.values() for word in ("15", "4.92", scans.PATIENT))
    for path in whole.values():
        head = _header(path)
        assert not any(head[148:252]) and not any(head[328:344]) and not any(head[348:352]), path
    assert approved_of(tmp_path / "nii").files.keys() == set(names(tmp_path / "nii"))  # type: ignore[union-attr]
    assert json.loads((run.folder / "summary.json").read_text())["totals"]["images"] == 13


def test_what_is_no_image_is_told_as_such(tmp_path: Path) -> None:
    scan = scans.ct()
    report = _without_pixels(scan[0], "1.2.840.10008.5.1.4.1.1.88.22", "SR", 20)
    state = _without_pixels(scan[0], "1.2.840.10008.5.1.4.1.1.11.1", "PR", 21)
    source = deidentified([*scan, report, state], tmp_path)
    _, account = converted(source, tmp_path / "nii")
    kinds = {reason: count for reason, count in account.passed_over.items() if reason.startswith("not an image")}
    assert account.counts["series"] == 1 + sum(kinds.values()) and account.counts["series converted"] == 1
    assert set(kinds) <= {"not an image: structured report", "not an image: presentation state"} and kinds


def _without_pixels(like: Dataset, sop_class: str, modality: str, number: int) -> Dataset:
    image = copy.deepcopy(like)
    image.SOPClassUID, image.Modality, image.SeriesNumber = sop_class, modality, number
    image.file_meta.MediaStorageSOPClassUID = sop_class
    image.SeriesInstanceUID, image.SOPInstanceUID = uid("no image", number), uid("no image", number, "object")
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"):
        delattr(image, keyword)
    return image


@pytest.mark.parametrize(
    ("sop_class", "modality", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.59", "KO", "key objects"),
        ("1.2.840.10008.5.1.4.1.1.88.67", "SR", "structured report"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "SEG", "segmentation"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "structures of a treatment plan"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "DOC", "document"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "ECG", "waveform"),
        ("1.2.840.10008.5.1.4.1.1.66", "MR", "raw data"),
        ("1.2.840.10008.5.1.4.1.1.2", "CT", ""),
        ("1.2.840.10008.5.1.4.1.1.4.1", "MR", ""),
        ("1.2.840.10008.5.1.4.1.1.7", "OT", ""),
        ("1.3.12.2.1107.5.9.1", "MR", ""),
    ],
)
def test_kinds_of_objects(sop_class: str, modality: str, kind: str) -> None:
    assert one_series.kind_of_no_image(sop_class, modality) == kind


def test_a_second_run_converts_only_what_is_new_or_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [*scans.ct(), *scans.t1w()]
    source, out = deidentified(first, tmp_path), tmp_path / "nii"
    converted(source, out)
    before = {name: ((out / name).stat().st_mtime_ns, digest(out / name)) for name in names(out)}
    _, account = converted(source, out)
    assert account.counts["of these new"] == 0 and account.counts["series converted"] == 2
    assert {name: ((out / name).stat().st_mtime_ns, digest(out / name)) for name in names(out)} == before
    # one series gets another slice, and a new one comes
    deidentified([*scans.ct(n_images=13)[12:], *scans.in_time()], tmp_path)
    seen: list[str] = []
    whole = one_series.convert_series

    def noting(item: one_series.ToConvert, *rest: Any) -> one_series.Outcome:
        seen.append(item.series_number)
        return whole(item, *rest)

    monkeypatch.setattr(steps, "convert_series", noting)
    _, account = converted(source, out)
    assert sorted(seen) == ["1", "5"] and account.counts["of these new"] == 2 and account.verdict == COMPLETE
    assert _dims(next(out.rglob("00001-*.nii.gz"))) == (32, 32, 13)
    again = {name: ((out / name).stat().st_mtime_ns, digest(out / name)) for name in names(out)}
    unchanged = [name for name in before if "/00008-" in name]
    assert unchanged and all(again[name] == before[name] for name in unchanged)


def test_equal_objects_make_equal_bytes(tmp_path: Path) -> None:
    source = deidentified([*scans.ct(), *scans.echoes()], tmp_path)
    converted(source, tmp_path / "one")
    converted(source, tmp_path / "two")
    assert names(tmp_path / "one") == names(tmp_path / "two")
    for name in names(tmp_path / "one"):
        assert digest(tmp_path / "one" / name) == digest(tmp_path / "two" / name), name


def test_a_file_that_is_gone_or_cut_is_made_again(tmp_path: Path) -> None:
    source, out = deidentified(scans.ct(), tmp_path), tmp_path / "nii"
    converted(source, out)
    (image,) = out.rglob("*.nii.gz")
    whole = digest(image)
    image.unlink()
    converted(source, out)
    assert digest(image) == whole
    image.write_bytes(image.read_bytes()[:100])
    converted(source, out)
    assert digest(image) == whole


def test_images_of_what_is_taken_away_go_as_well(tmp_path: Path) -> None:
    source, out = deidentified([*scans.ct(), *scans.t1w()], tmp_path), tmp_path / "nii"
    converted(source, out)
    shutil.rmtree(next(source.rglob("00008-*")))
    converted(source, out)
    assert list(_by_series(out)) == ["00001"] and not list(out.rglob("00008-*"))
    assert approved_of(out).files.keys() == set(names(out))  # type: ignore[union-attr]


def test_a_file_that_is_not_as_it_was_approved_is_not_converted(tmp_path: Path) -> None:
    """A part of a series is another series: it does not become an image with a hole."""
    source, out = deidentified([*scans.ct(), *scans.t1w()], tmp_path), tmp_path / "nii"
    run = Run.fresh()
    units = steps.prepare(run, ConvertRequest(source, out))
    victim = sorted(next(source.rglob("00001-*")).glob("*.dcm"))[3]
    image = dcmread(victim)
    image.PatientComments = "Wurzelbacher was here"
    image.save_as(victim)
    for unit in units:
        steps.convert(run, unit)
    steps.assemble(run, search_of(run, source))
    account = steps.report(run)
    assert account.verdict == INCOMPLETE and list(_by_series(out)) == ["00008"]
    (problem,) = account.problems
    assert "1 of 12 objects" in problem[1] and "approved" in problem[1]


def test_only_finished_deidentified_data_is_converted(tmp_path: Path) -> None:
    write(scans.ct(), tmp_path / "plain")
    with pytest.raises(TreeError, match="may identify patients"):
        steps.prepare(Run.fresh(), ConvertRequest(tmp_path / "plain", tmp_path / "nii"))
    write_marker_of(tmp_path / "plain")  # anybody can do this
    with pytest.raises(TreeError, match="no list of what was"):
        steps.prepare(Run.fresh(), ConvertRequest(tmp_path / "plain", tmp_path / "nii"))
    source = deidentified(scans.ct(), tmp_path)
    write_marker(source, {**marker_of(source), "state": "converting"})
    with pytest.raises(TreeError, match="half de-identified"):
        steps.prepare(Run.fresh(), ConvertRequest(source, tmp_path / "nii"))
    assert not (tmp_path / "nii").exists()


def write_marker_of(folder: Path) -> None:
    (folder / ".pacsifier").mkdir()
    write_marker(folder, {"state": DEIDENTIFIED})


def test_a_folder_of_images_belongs_to_one_data_set_and_one_layout(tmp_path: Path) -> None:
    source, out = deidentified(scans.ct(), tmp_path), tmp_path / "nii"
    converted(source, out)
    with pytest.raises(TreeError, match="another layout"):
        converted(source, out, "bids")
    with pytest.raises(TreeError, match="in each other"):
        converted(source, source / "nii")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(TreeError, match="something else"):
        converted(source, tmp_path / "full")
    Tree.open(tmp_path / "identified")
    with pytest.raises(TreeError):
        converted(source, tmp_path / "identified" / "nii")


def test_a_folder_without_objects(tmp_path: Path) -> None:
    source = deidentified(scans.ct(), tmp_path)
    shutil.rmtree(next(source.glob("sub-*")))
    with pytest.raises(InputError, match="no DICOM file"):
        converted(source, tmp_path / "nii")
    _, account = converted(source, tmp_path / "nii", allow_empty=True)
    assert account.verdict == COMPLETE and account.counts["series"] == 0


def test_series_of_two_patients_with_one_uid_are_two(tmp_path: Path) -> None:
    """Equal UIDs in two places are two things."""
    images = []
    for patient in ("QQ-1-A", "QQ-1-B"):
        images += phantom_series(patient_id=patient, patient_name=f"Zwei^{patient[-1]}", study_uid="2.25.7", n_images=3)
    for place, image in enumerate(images):
        image.SOPInstanceUID = f"2.25.{1000 + place}"
    source = deidentified(images, tmp_path)
    _, account = converted(source, tmp_path / "nii")
    assert account.counts["series converted"] == 2 and account.counts["images"] == 2


def test_a_run_that_was_killed_before_its_publication_heals(tmp_path: Path) -> None:
    source, out = deidentified([*scans.ct(), *scans.t1w()], tmp_path), tmp_path / "nii"
    run = Run.fresh()
    for unit in steps.prepare(run, ConvertRequest(source, out)):
        steps.convert(run, unit)
    account = steps.report(run)
    assert account.verdict == INCOMPLETE and names(out) == []
    assert all("run it again" in reason for _, reason in account.problems)
    _, account = converted(source, out)
    assert account.verdict == COMPLETE and len(names(out)) == 4
    assert not list((out / ".pacsifier" / "converted").glob("*"))


@pytest.mark.parametrize("renames", range(4))
def test_a_publication_that_was_killed_anywhere_heals(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = deidentified([*scans.ct(), *scans.t1w()], tmp_path), tmp_path / "nii"
    converted(source, tmp_path / "good")
    wanted = {name: digest(tmp_path / "good" / name) for name in names(tmp_path / "good")}
    count = 0
    replace_file = os.replace

    class Killed(BaseException):
        pass

    def replace(*paths: Path) -> None:
        nonlocal count
        if Path(paths[0]).parent.parent.parent.name == "converted":
            count += 1
            if count > renames:
                raise Killed
        replace_file(*paths)

    run = Run.fresh()
    for unit in steps.prepare(run, ConvertRequest(source, out)):
        steps.convert(run, unit)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        steps.assemble(run, search_of(run, source))
    for path in out.rglob("*.nii.gz"):  # an image is never there without its sidecar
        assert ".pacsifier" in path.parts or path.with_name(path.name.replace(".nii.gz", ".json")).exists()
    monkeypatch.setattr(os, "replace", replace_file)
    converted(source, out)
    assert {name: digest(out / name) for name in names(out)} == wanted


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["nifti", "bids"])
def test_killed_at_changes_of_the_disk_again_and_again_it_heals(layout: str, tmp_path: Path) -> None:
    """Names are the same as those of a run that nobody has killed."""
    images = [*scans.ct(n_images=3), *scans.t1w(n_images=3), *scans.echoes()]
    source, out = deidentified(images, tmp_path), tmp_path / "nii"
    converted(source, tmp_path / "good", layout)
    wanted = {name: digest(tmp_path / "good" / name) for name in names(tmp_path / "good")}
    run = Run.fresh()
    for unit in steps.prepare(run, ConvertRequest(source, out, layout)):
        steps.convert(run, unit)
    kills = 0
    for after in range(5, 1000, 9):
        if not killed(lambda: steps.assemble(run, search_of(run, source)), after):
            break
        kills += 1
        for path in out.rglob("*.nii.gz"):
            if ".pacsifier" not in path.parts:
                assert path.with_name(path.name.replace(".nii.gz", ".json")).exists()
    assert kills > 5
    converted(source, out, layout)  # what was half published in between is made again
    assert {name: digest(out / name) for name in names(out)} == wanted
