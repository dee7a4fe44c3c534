"""Proposals for the device catalogue: what varies becomes black, and nothing of a patient is told."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.cli.devices import main
from pacsifier_ops.deid import devices
from pacsifier_ops.deid.pixels import blackout
from tests.deid.test_deid_lettering import COLUMNS, ROWS, an_ultrasound, lettered, tissue
from tests.deid.test_deid_pixels import a_region, stored

PEOPLE = ("DOE^JOHN", "MUELLER^ANNA", "SMITH^ZOE", "GARCIA^EVA")


def an_image_of(name: str, seed: int, regions: bool = True) -> Dataset:
    """A banner with a name, the maker's name beside it, and a number typed into the image."""
    picture = lettered(lettered(tissue(seed), name, (8, 2), 12), "PHANTOM", (250, 2), 12)
    picture = lettered(picture, f"ID {seed * 7919 % 10000:04}", (8, 210), 14)
    ds = an_ultrasound(picture, PatientID=f"P{seed}", PatientName=name, ManufacturerModelName="Model 1")
    ds.SequenceOfUltrasoundRegions = [a_region(0, 0, COLUMNS - 1, ROWS - 1)] if regions else []
    return ds


def a_folder(folder: Path, people: tuple[str, ...] = PEOPLE, regions: bool = True) -> Path:
    folder.mkdir()
    for seed, name in enumerate(people):
        an_image_of(name, seed, regions).save_as(folder / f"{seed}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("no image")
    return folder


def proposed(tmp_path: Path, regions: bool = True) -> Path:
    out = tmp_path / "proposed"
    assert main(["-d", str(a_folder(tmp_path / "images", regions=regions)), "-o", str(out)]) == 0
    return out / "devices.json"


def test_what_varies_becomes_black_once_a_person_has_approved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = proposed(tmp_path)
    content = json.loads(path.read_text())
    (entry,) = content["devices"]
    assert entry["match"] == {
        **{"Modality": "US", "Manufacturer": "Phantom", "ManufacturerModelName": "Model 1"},
        **{"Rows": ROWS, "Columns": COLUMNS},
    }
    assert 14 <= entry["banner"] <= 40 and entry["keep"] == devices.REGIONS
    assert any(top <= 210 and top + height >= 224 for _, top, _, height in entry["black"])
    told = path.read_text() + capsys.readouterr().out
    assert not any(part in told for name in PEOPLE for part in name.split("^")) and "4 images of 4 patients" in told
    with pytest.raises(ConfigError, match=r"phantom-model-1-320x240\): approved: is empty"):
        devices.load(path)
    entry["approved"] = "A. Radiographer, 2026-01-05"
    path.write_text(json.dumps(content))
    ds = an_image_of("NOBODY^SEEN", 9)
    plan = devices.load(path).blackout(ds)
    assert plan and "phantom-model-1-320x240" in plan.entries
    blackout(ds, plan)
    after = stored(ds)[0, ..., 0]
    assert not after[:14].any() and not after[212:224, 8:60].any()
    assert (after[60:150] == tissue(9)[60:150]).all()


def test_its_sheet_shows_the_images_with_the_areas_and_is_private(tmp_path: Path) -> None:
    sheet = proposed(tmp_path).with_name("phantom-model-1-320x240.png")
    assert sheet.stat().st_mode & 0o077 == 0
    with Image.open(io.BytesIO(sheet.read_bytes())) as picture:
        assert picture.size == (3 * (COLUMNS + 4), 2 * (ROWS + 4))
        pixels = np.asarray(picture)
    assert (pixels == (255, 40, 40)).all(axis=-1).sum() > 4 * 300, "boxes around what becomes black"


def test_without_regions_only_the_areas_are_proposed(tmp_path: Path) -> None:
    (entry,) = json.loads(proposed(tmp_path, regions=False).read_text())["devices"]
    assert "keep" not in entry and entry["banner"] and entry["black"] and entry["writing"] == "black"


def test_few_patients_are_not_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_folder(tmp_path / "images", people=PEOPLE[:2])
    assert main(["-d", str(folder), "-o", str(tmp_path / "out")]) == 3
    assert "fewer than 3 patients" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_what_is_no_folder_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-d", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    assert "--in_folder: is not a folder" in capsys.readouterr().err
