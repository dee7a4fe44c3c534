"""The inventory of a data set says what its files say, costs what is new, and depends on nothing but the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacsifier_ops.deid import inventory, steps, technique
from pacsifier_ops.deid.inventory import INSTANCES, SERIES, TABLES
from pacsifier_ops.deid.run import DeidRequest, store_of
from pacsifier_ops.dicom.scan import scan
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import CONTROL
from tests.support import deid_corpus
from tests.support.deid_corpus import item
from tests.support.realfiles_run import real_files
from tests.support.tables import parquet_as_csv


def images(patient: str, number: int = 1, **rest: Any) -> list[Dataset]:
    values: dict[str, Any] = {"n_images": 5, "rows": 8, "columns": 8, **rest}
    return phantom_series(patient_id=patient, patient_name="Tester^Tina", series_number=number, **values)


def put(folder: Path, datasets: list[Dataset]) -> list[Path]:
    return write(datasets, folder / f"sub-{datasets[0].PatientID}" / f"{int(datasets[0].SeriesNumber):05d}")


def deidentify(source: Path, out: Path, **values: Any) -> Run:
    run = Run.fresh()
    request = DeidRequest(source, out, **{"profile": "default", "contact_sheets": False, **values})
    for unit in steps.prepare(run, request):
        steps.convert(run, unit)
    steps.report(run)
    return run


def series_of(out: Path) -> pandas.DataFrame:
    return pandas.read_parquet(out / "series.parquet")


def instances_of(out: Path) -> pandas.DataFrame:
    return pandas.read_parquet(out / INSTANCES)


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose heads are read."""
    seen: list[Path] = []
    before = technique.read

    def read(path: Path) -> technique.Head:
        seen.append(path)
        return before(path)

    monkeypatch.setattr(technique, "read", read)
    return seen


# What the files say


def by_pydicom(path: Path) -> dict[str, Any]:
    """The columns of a file, by another reader."""
    ds = dcmread(path, stop_before_pixels=True)
    shown: dict[str, Any] = {}
    for column in technique.columns():
        value: Any = None
        for tag in column.tags:
            if tag == 0x00020010:
                value = str(ds.file_meta.TransferSyntaxUID)
            elif tag in ds and ds[tag].value not in (None, "", []):
                value = ds[tag].value
                if column.place is not None:
                    value = value[column.place]
                elif isinstance(value, pydicom.multival.MultiValue):
                    value = "\\".join(str(getattr(one, "original_string", one)) for one in value)
            if value is not None:
                break
        if value is not None:
            value = str(value) if column.kind == "string" else float(value)
        shown[column.name] = value
    return shown


@pytest.mark.slow
def test_the_tables_say_what_the_files_say(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    deid_corpus.build(corpus, with_stuffed=False)
    deidentify(corpus, out, profile="research")
    table = instances_of(out)
    assert set(table.Path) == {path.relative_to(out).as_posix() for path in out.rglob("*.dcm")} and len(table) > 50
    assert set(table.TransferSyntaxUID) >= {ExplicitVRBigEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian}
    compared = 0
    for row in table.to_dict("records"):
        path = out / row["Path"]
        assert row["SHA256"] == digest(path) and row["MB"] == round(path.stat().st_size / 1e6, 3)
        expected = by_pydicom(path)
        for name in set(expected) & set(row):
            if expected[name] is None or "Sequence" in name:
                continue
            found = row[name] if isinstance(row[name], str) else float(row[name])
            if isinstance(found, str):
                assert found == expected[name], (path, name)
            else:
                assert found == pytest.approx(expected[name]), (path, name)
            compared += 1
    assert compared > 1000


def test_nothing_is_there_that_the_profile_removes(source: Path, out: Path) -> None:
    for image in (datasets := images("ZQX-71830")):
        image.ProtocolName, image.SeriesDescription, image.Manufacturer = "Tester Tina knee", "Dr. Meier", "ACME"
        image.PatientComments = "Tester"
    put(source, datasets)
    deidentify(source, out, profile="basic")
    for path in (*(out / name for name in TABLES), out / "dataset.json"):
        data = path.read_bytes()
        assert not [text for text in (b"Tester", b"Meier", b"ZQX", b"Tina") if text in data], path.name
    row = series_of(out).iloc[0]
    (file, *_) = sorted(out.rglob("*.dcm"))
    assert row.PatientID == dcmread(file).PatientID and pandas.isna(row.ProtocolName)


def test_series_tell_counts_flags_and_what_varies(source: Path, out: Path) -> None:
    gap = images("P1", 1, n_images=10)
    twice = images("P1", 2, n_images=6)
    scout = images("P1", 3, n_images=3)
    echoes = images("P2", 4, n_images=6)
    for place, image in enumerate(gap):
        image.ImagePositionPatient = [0, 0, 2.5 * (place if place < 5 else place + 2)]
        image.SliceThickness = 2.5
    for place, image in enumerate(twice):
        image.ImagePositionPatient = [0, 0, 3.0 * min(place, 4)]
    for image in scout:
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    for place, image in enumerate(echoes):
        image.ImagePositionPatient, image.EchoTime = [0, 0, 3.0 * (place % 3)], 10.0 if place < 3 else 20.0
    for datasets in (gap, twice, scout, echoes):
        for image in datasets:
            image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        put(source, datasets)
    deidentify(source, out)
    rows = {int(row.SeriesNumber): row for row in series_of(out).itertuples()}
    assert len(rows) == 4 and {row.Localizer for row in rows.values()} == {True, False}
    assert (rows[1].Slices, rows[1].Spacing, rows[1].MissingSlices, rows[1].UnevenSpacing) == (10, 2.5, 2, False)
    assert (rows[2].Duplicates, rows[2].MissingSlices, rows[2].Volumes) == (1, 0, 1)
    assert rows[3].Localizer and pandas.isna(rows[3].MissingSlices) and pandas.isna(rows[3].Slices)
    assert (rows[4].Volumes, rows[4].MissingSlices, rows[4].Duplicates) == (2, 0, 0)
    assert pandas.isna(rows[4].EchoTime) and "EchoTime" in rows[4].Varying.split() and rows[1].SliceThickness == 2.5
    table = instances_of(out)
    assert set(table[table.Folder == rows[4].Folder].EchoTime) == {10.0, 20.0}
    assert table[table.Folder == rows[2].Folder].Duplicate.sum() == 1
    assert sorted(table[table.Folder == rows[1].Folder].SlicePosition)[:3] == [0.0, 2.5, 5.0]
    # The same in text, for spreadsheets.
    assert [*map(str, series_of(out).Folder)] == [line["Folder"] for line in parquet_as_csv(out / SERIES)]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_frames_of_an_enhanced_object_are_slices(syntax: UID, source: Path, out: Path) -> None:
    (ds,) = phantom_series(patient_id="P1", patient_name="Tester^Tina", n_images=1, rows=8, columns=8)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.4.1")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        if keyword in ds:
            delattr(ds, keyword)
    ds.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.25], SliceThickness="4")],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[item(TemporalPositionIndex=time)],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 4 * place])],
            MREchoSequence=[item(EffectiveEchoTime=12.5)],
        )
        for time in (1, 2)
        for place in (0, 1, 2, 3, 5, 6)
    ]
    ds.NumberOfFrames, ds.PixelData = 12, ds.PixelData * 12
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(source / "enhanced.dcm", implicit_vr=syntax.is_implicit_VR, little_endian=True)
    deidentify(source, out)
    row = series_of(out).iloc[0]
    assert (row.Instances, row.Images, row.Slices, row.Spacing, row.MissingSlices, row.Volumes) == (1, 12, 6, 4, 1, 2)
    assert (row.RowSpacing, row.ColumnSpacing, row.SliceThickness, row.EchoTime) == (0.5, 0.25, 4, 12.5)
    assert (row.Duplicates, row.IncompleteVolumes, row.TransferSyntaxUID) == (0, False, syntax)


# What it costs, and what it depends on


def test_a_file_is_read_once_and_only_if_what_was_written_does_not_say_it(
    source: Path, out: Path, reads: list[Path]
) -> None:
    put(source, images("P1"))
    deidentify(source, out)
    assert reads == []
    before = tables(out)
    deidentify(source, out)
    assert reads == [] and tables(out) == before
    multi_frame = images("P2", 2, n_images=1)
    multi_frame[0].NumberOfFrames, multi_frame[0].PixelData = 2, 2 * multi_frame[0].PixelData
    put(source, multi_frame)
    deidentify(source, out)
    deidentify(source, out)
    assert len(reads) == 1 and tables(out) != before


def test_what_a_killed_worker_did_not_keep_is_read_again(source: Path, out: Path, reads: list[Path]) -> None:
    put(source, images("P1"))
    deidentify(source, out)
    before = tables(out)
    store = store_of(out)
    assert store
    (path,) = (store.folder / "heads").iterdir()
    lines = path.read_bytes()
    path.write_bytes(lines[: len(lines) // 2])
    (out / SERIES).unlink()
    reads.clear()
    deidentify(source, out)
    assert 0 < len(reads) < 5 and tables(out) == before


def test_equal_files_give_equal_tables_in_whatever_order_they_came(source: Path, out: Path, tmp_path: Path) -> None:
    put(source, images("P2", 2))
    deidentify(source, out)
    put(source, images("P1", 1))
    put(source, images("P2", 3))
    deidentify(source, out)
    deidentify(source, tmp_path / "other")
    assert tables(out) == tables(tmp_path / "other")


def test_in_place_the_tables_lie_where_the_files_end_up(source: Path) -> None:
    put(source, images("P1"))
    deidentify(source, source)
    table = instances_of(source)
    assert {source / path for path in table.Path} == set(source.rglob("*.dcm")) and len(table) == 5
    assert not any(CONTROL in path for path in table.Path)


def test_what_is_withdrawn_or_gone_is_no_row(source: Path, out: Path) -> None:
    first, *_ = put(source, images("P1"))
    deidentify(source, out)
    other = dcmread(first)
    other.PatientComments = "another content"
    other.save_as(first.with_name("copy.dcm"))
    deidentify(source, out)
    assert len(instances_of(out)) == 4 and series_of(out).Instances.sum() == 4


def test_the_tables_are_no_objects(source: Path, out: Path) -> None:
    put(source, images("P1"))
    deidentify(source, out)
    found = scan(out)
    assert sum(map(len, found.series.values())) == 5 and not found.bad_files


def test_a_data_set_of_an_earlier_version_gets_tables(source: Path, out: Path, reads: list[Path]) -> None:
    put(source, images("P1"))
    deidentify(source, out)
    before = tables(out)
    store = store_of(out)
    assert store
    for path in (*(store.folder / "heads").iterdir(), *(out / name for name in TABLES), out / "dataset.json"):
        path.unlink()
    (settled,) = (store.folder / "settled").iterdir()
    lines = [json.loads(line) for line in settled.read_text().splitlines() if line]
    settled.write_text("".join(f"\n{json.dumps({**line, 'sha256': '', 'written_ns': 0})}" for line in lines))
    reads.clear()
    deidentify(source, out)
    assert len(reads) == 5 and tables(out) == before


def test_rows_of_a_large_data_set_are_never_in_memory_as_a_whole(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        put(source, images("P1", number + 1, n_images=2))
    monkeypatch.setattr(inventory, "_BATCH", 4)
    deidentify(source, out)
    from pyarrow import parquet

    assert parquet.read_metadata(out / INSTANCES).num_row_groups == 6 and len(instances_of(out)) == 24
    assert parquet.read_metadata(out / "series.parquet").num_row_groups == 3


@pytest.mark.slow
def test_places_that_cannot_be_reckoned_with_are_none(source: Path, out: Path) -> None:
    each = images("P1")
    each[1].ImagePositionPatient = ["1e308", "0", "1e308"]
    each[2].ImagePositionPatient = ["0", "0", "-1e308"]
    put(source, each)
    deidentify(source, out)
    (row,) = series_of(out).itertuples()
    assert row.Instances == len(each) and row.Slices == len(each) - 2


def test_heads_of_files_that_devices_made() -> None:
    if (folder := real_files()) is None:
        pytest.skip("no real files: PACSIFIER_REAL_FILES names no folder")
    read = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                head = technique.read(path)
            except ValueError:
                continue
            read += 1
            assert len(head.values) == len(technique.columns()) and len(head.frames) in (0, head.images)
            assert technique.of_kept(json.loads(json.dumps(technique.as_kept(head)))) == head
    assert read > 200


def test_the_documentation_has_every_column() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data-set.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): (row[2], row[3]) for row in rows if len(row) == 4}
    tags = {one.name: one.tags for one in technique.columns()}
    for name, (_, meaning) in {**inventory.series_columns(), **inventory.instance_columns()}.items():
        shown = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags.get(name, ()))
        if name not in ("Folder", "MB"):  # of both tables, with another meaning in each
            assert told[name] == (shown, meaning), name
