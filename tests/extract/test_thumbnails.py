"""Thumbnails: every kind of pixels, and files that have none or crash a decoder."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom.data
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.extract import thumbnails
from pacsifier_ops.extract.thumbnails import make_thumbnails, thumbnail, thumbnails_of
from pacsifier_ops.runs.accounts import SAVE, RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run
from tests.support.processes import command_of, eventually, runs


def picture(folder: Path) -> np.ndarray:
    data = thumbnail(folder)
    assert data
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG" and max(image.size) <= thumbnails.SIDE
        return np.asarray(image)


def put(folder: Path, *images: Dataset) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        image.save_as(folder / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
    return folder


def sample(name: str) -> Dataset:
    path = pydicom.data.get_testdata_file(name, download=False)
    assert path, name
    return dcmread(path)


def phantoms(**attributes: Any) -> list[Dataset]:
    return phantom_series(patient_id="P", patient_name="P", rows=128, columns=64, **attributes)


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("CT_small.dcm", False),
        ("MR_small_RLE.dcm", False),
        ("JPEG2000.dcm", False),
        ("SC_rgb_jpeg_gdcm.dcm", True),
        ("examples_palette.dcm", True),
        ("examples_ybr_color.dcm", True),
        ("rtdose_rle.dcm", False),
        ("liver_1frame.dcm", False),
    ],
)
def test_all_kinds_of_pixels(name: str, colour: bool, tmp_path: Path) -> None:
    shown = picture(put(tmp_path / "series", sample(name)))
    assert shown.ndim == (3 if colour else 2)
    assert shown.std() > 5, "it shows nothing"


def test_the_image_in_the_middle_is_shown(tmp_path: Path) -> None:
    images = phantoms(n_images=41)
    for image in images:  # the grey level depends on the third of the series that an image is in
        shades = np.full((128, 64), 500 * ((image.InstanceNumber - 1) * 3 // 41), "<u2")
        shades[:, :32] = 1000
        image.PixelData, image.RescaleIntercept = shades.tobytes(), "0"
        image.WindowCenter, image.WindowWidth = "500", "1000"
    shown = picture(put(tmp_path / "all", *images))
    assert shown.shape == (96, 48) and 120 < shown[48, -5] < 135 and shown[48, 5] == 255


def test_grey_levels_follow_the_window_and_the_photometric_interpretation(tmp_path: Path) -> None:
    (image,) = phantoms(n_images=1)
    half = np.zeros((128, 64), "<u2")
    half[:, 32:] = 400
    image.PixelData, image.RescaleIntercept = half.tobytes(), "0"
    image.WindowCenter, image.WindowWidth = ["200", "1"], ["800", "2"]
    shown = picture(put(tmp_path / "window", image))
    assert 55 < shown[48, 5] < 75 and 180 < shown[48, -5] < 200  # -200 to 600: a quarter, three quarters
    image.WindowCenter, image.WindowWidth = "5000", "10"  # shows nothing
    image.PhotometricInterpretation = "MONOCHROME1"
    shown = picture(put(tmp_path / "inverted", image))
    assert shown[48, 5] == 255 and shown[48, -5] == 0


def test_an_image_that_cannot_be_decoded_has_no_thumbnail(tmp_path: Path) -> None:
    assert thumbnail(tmp_path / "not there") is None
    (image,) = phantoms(n_images=1)
    image.Rows = 65000
    image.Columns = 65000
    assert thumbnail(put(tmp_path / "huge", image)) is None
    (image,) = phantoms(n_images=1)
    del image.PixelData
    assert thumbnail(put(tmp_path / "empty", image)) is None
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "1.2.dcm").write_text("not DICOM")
    assert thumbnail(tmp_path / "text") is None


def a_run(root: Path, count: int) -> tuple[Run, RunAccount]:
    series = []
    for number in range(1, count + 1):
        folder = f"sub-Ö\n{number}"
        write(phantoms(n_images=1, series_number=number), root / folder)
        series.append(SeriesAccount(number, [2], "1", f"1.{number}", modality="CT", folder=folder, received=1))
    return Run.fresh(), RunAccount("run", "pacs", SAVE, "", "", series=series, folder=str(root))


def test_a_run_has_them_for_its_first_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, account = a_run(tmp_path / "out", 4)
    account.series[1].folder = "elsewhere"
    monkeypatch.setattr(thumbnails, "MOST", 3)
    assert make_thumbnails(run, account) == make_thumbnails(run, account) == 2
    assert thumbnails_of(run) == {1: "CT", 3: "CT"}
    made = sorted((run.folder / "thumbnails").iterdir())
    assert [path.name for path in made] == ["1.png", "3.png"] and made[0].stat().st_mode & 0o777 == 0o600
    assert thumbnails_of(Run.fresh()) == {}


def test_a_decoder_that_crashes_costs_one_thumbnail_and_there_is_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, account = a_run(tmp_path / "out", 3)
    (stuck,) = (tmp_path / "out" / account.series[1].folder).iterdir()
    stuck.unlink()
    os.mkfifo(stuck)  # a process that opens it waits for ever
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_the_child, stuck)
        assert make_thumbnails(run, account) == 2 and killed.result()
    assert thumbnails_of(run) == {1: "CT", 3: "CT"}
    monkeypatch.setattr(thumbnails, "SECONDS", 1.0)
    account.series.reverse()
    account.series.pop(0)
    assert make_thumbnails(run, account) == 0 and not decoders()


def decoders() -> list[psutil.Process]:
    """Return the processes of the decoders, without child processes of other tests."""
    children = psutil.Process().children()
    return [one for one in children if runs(one) and "pacsifier_ops.extract.thumbnails" in command_of(one)]


def kill_the_child(stuck: Path) -> bool:
    """Kill the process of the decoders once it has begun to read the pipe; this has the effect of a crash."""
    opened: list[int] = []

    def reads() -> bool:
        with suppress(OSError):  # refused while no process reads
            opened.append(os.open(stuck, os.O_WRONLY | os.O_NONBLOCK))
        return bool(opened)

    eventually(reads)
    (child,) = decoders()
    child.kill()
    os.close(opened[0])
    return True
