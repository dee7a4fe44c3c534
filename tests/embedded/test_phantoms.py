"""The synthetic objects: valid, the same every time, and a cohort in which every example finds its own."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from pacsifier_ops.embedded.phantoms import demo_cohort, phantom_series, uid, write
from tests.support.places import REPO

DEMO_TABLE = REPO / "include" / "queries" / "demo.csv"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return demo_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def objects(files: list[Path]) -> list[FileDataset]:
    return [dcmread(path) for path in files]


def series(objects: list[FileDataset], **keys: str) -> set[tuple[str, str, str]]:
    """(PatientID, StudyDate, SeriesDescription) of the series that hold these keys."""
    return {
        (str(o.PatientID), str(o.get("StudyDate")), str(o.get("SeriesDescription")))
        for o in objects
        if all(str(o.get(key)) == value for key, value in keys.items())
    }


def test_uids_are_valid_and_follow_from_their_parts() -> None:
    assert uid("a", 1) == uid("a", 1) != uid("a1")
    assert uid("a").is_valid
    assert str(uid("a")).startswith("2.25.")


@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, RLELossless])
def test_transfer_syntax_changes_the_encoding_and_not_the_pixels(tmp_path: Path, transfer_syntax: str) -> None:
    plain = phantom_series(patient_id="1", patient_name="A", n_images=2)
    other = phantom_series(patient_id="1", patient_name="A", n_images=2, transfer_syntax=transfer_syntax)
    for one, two in zip(plain, map(dcmread, write(other, tmp_path)), strict=True):
        assert two.file_meta.TransferSyntaxUID == transfer_syntax
        assert one.SOPInstanceUID == two.SOPInstanceUID == two.file_meta.MediaStorageSOPInstanceUID
        assert numpy.array_equal(one.pixel_array, two.pixel_array)


def test_overrides_may_depend_on_the_image() -> None:
    images = phantom_series(patient_id="1", patient_name="A", EchoNumbers=lambda i: i + 5, StudyID="X")
    assert [(image.EchoNumbers, image.StudyID) for image in images] == [(n, "X") for n in range(5, 9)]


def test_same_bytes_every_time(files: list[Path], tmp_path: Path) -> None:
    again = demo_cohort(tmp_path)
    assert [path.name for path in again] == [path.name for path in files]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(again, files, strict=True))
    assert set(tmp_path.iterdir()) == set(again)


def test_size_of_the_cohort(files: list[Path], objects: list[FileDataset]) -> None:
    assert sum(path.stat().st_size for path in files) < 15_000_000
    assert 200 <= len(objects) <= 500
    assert 40 <= len({o.SeriesInstanceUID for o in objects}) <= 80


def test_hierarchy_is_consistent(objects: list[FileDataset]) -> None:
    assert len({o.SOPInstanceUID for o in objects}) == len(objects)
    for below, above in (("SeriesInstanceUID", "StudyInstanceUID"), ("StudyInstanceUID", "PatientID")):
        owners = defaultdict(set)
        for o in objects:
            owners[o[below].value].add(o[above].value)
        assert all(len(found) == 1 for found in owners.values())
    for o in objects:
        assert o.file_meta.MediaStorageSOPInstanceUID == o.SOPInstanceUID


def test_names_and_character_sets(objects: list[FileDataset]) -> None:
    names = {(str(o.get("SpecificCharacterSet")), str(o.PatientName)) for o in objects}
    assert {
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "Müller^Käthe"),
        ("ISO_IR 144", "Иванов^Пётр"),
        ("['', 'ISO 2022 IR 87']", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    } <= names


def test_collisions_and_gaps(objects: list[FileDataset]) -> None:
    assert {o.PatientID for o in objects} >= {"A-1", "A.1", "PT 01"}
    twins = {o.SeriesInstanceUID for o in objects if o.get("SeriesDescription") == "pd_tse_sag"}
    assert len(twins) == 2
    assert any(o.get("SeriesDescription") == "" for o in objects)
    assert series(objects, PatientID="200315") == {("200315", "", "Undated")}
    kinds = {tuple(o.ImageType) for o in objects if o.get("SeriesDescription") == "Flow"}
    assert len(kinds) == 2
    assert any(list(o.get("ImageType", [])) == ["DERIVED", "SECONDARY", "SCREEN SAVE"] for o in objects)


def test_documented_examples_find_something_and_leave_something_out(objects: list[FileDataset]) -> None:
    def patients(**keys: str) -> set[str]:
        return {patient for patient, _, _ in series(objects, **keys)}

    assert patients(StudyDate="20150512") > {"123421"}
    assert len({date for _, date, _ in series(objects, PatientID="123421")}) == 2
    assert len({date for _, date, _ in series(objects, PatientID="45322")}) == 2
    assert len(patients(StudyDate="20180102")) == 2
    dates = {date for _, date, _ in series(objects, PatientID="124588")}
    assert dates == {"20150511", "20150512", "20150601", "20150612", "20150613"}
    self_nav = [o for o in objects if str(o.get("ProtocolName")).startswith("BEAT_SelfNav")]
    assert {(o.Modality, o.PatientBirthDate) for o in self_nav} == {
        ("CT", "19920611"),
        ("MR", "19920611"),
        ("CT", "19920612"),
    }
    assert any(str(o.get("ProtocolName")) == "BEAT_Nav" and o.PatientBirthDate == "19920611" for o in objects)


def _demo_rows() -> Iterator[dict[str, str]]:
    with DEMO_TABLE.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            yield {key: value for key, value in row.items() if value}


def test_demo_table_asks_for_what_the_cohort_holds(objects: list[FileDataset]) -> None:
    def holds(o: FileDataset, key: str, wanted: str) -> bool:
        stored = "\\".join(o.get(key) or []) if key == "ImageType" else str(o.get(key) or "")
        if key == "StudyDate" and "-" in wanted:
            first, _, last = wanted.partition("-")
            return first <= stored <= last
        if key == "PatientName":
            return wanted in stored.split("=")
        return stored.startswith(wanted[:-1]) if wanted.endswith("*") else stored == wanted

    found = [
        {o.SeriesInstanceUID for o in objects if all(holds(o, key, value) for key, value in row.items())}
        for row in _demo_rows()
    ]
    assert [len(row) for row in found].count(0) == 1
    assert 8 <= len(found) <= 10
    assert any(a & b for i, a in enumerate(found) for b in found[:i])


@pytest.mark.peers
def test_objects_are_valid(tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: install the package dicom3tools")
    for modality in ("CT", "MR", "OT"):
        made = phantom_series(patient_id="1", patient_name="A^B", n_images=1, modality=modality)
        for path in write(made, tmp_path):
            done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
            assert not [line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))]
