"""Writing in what is left of an ultrasound image: it becomes black, or the image waits for a person."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import devices, lettering
from pacsifier_ops.deid.pixels import blackout
from tests.deid.test_deid_pixels import a_region, an_image, sample, stored

ROWS, COLUMNS = 240, 320
NAMES = ("DOE^JOHN", "Müller Anna", "SMITH", "19560312", "ID 4711", "Li Wu")
COLOURS = {
    "white": (255, 255, 255),
    "grey": (190, 190, 190),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
}


def tissue(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """A sector of speckle on black, as an image of the body has it: grey levels."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(rows, columns)) + 1j * rng.normal(size=(rows, columns))
    far = np.hypot(np.fft.fftfreq(rows)[:, None] * 2, np.fft.fftfreq(columns)[None, :] * 4)
    echo = np.abs(np.fft.ifft2(np.fft.fft2(waves) * np.exp(-(far**2) * 9)))
    levels = 20 * np.log10(echo / echo.max() + 1e-3)
    y, x = np.mgrid[:rows, :columns]
    radius, angle = np.hypot(y + 30, x - columns / 2), np.arctan2(x - columns / 2, y + 30)
    inside = (radius > 55) & (radius < rows) & (np.abs(angle) < 0.6)
    return (np.clip((levels + 45) * 4, 0, 220) * inside).astype(np.uint8)


def lettered(image: np.ndarray, text: str, at: tuple[int, int], size: int, colour: Any = 255) -> np.ndarray:
    """An image with a text drawn on it."""
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(at, text, colour, font=ImageFont.load_default(size))
    return np.asarray(picture)


def shows(after: np.ndarray, before: np.ndarray, plain: np.ndarray) -> float:
    """Share of the pixels of a text that are still as they were drawn."""
    drawn = np.abs(before.astype(int) - plain) > 60
    return float((np.abs(after.astype(int) - before)[drawn] < 40).mean())


@pytest.mark.parametrize("size", [10, 12, 16, 24, 40])
@pytest.mark.parametrize("text", NAMES)
@pytest.mark.parametrize("at", [(110, 20), (4, 4), (140, 150), (4, 190)])
def test_a_name_is_found_whatever_its_size_and_place(size: int, text: str, at: tuple[int, int]) -> None:
    plain = tissue()
    with_name = lettered(plain, text, at, size)
    found = lettering.writing(with_name)
    left = np.where(found.where, 0, with_name)
    assert found.doubt or shows(left, with_name, plain) < 0.02


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("quality", [95, 75])
def test_a_name_in_colour_is_found_after_lossy_compression(colour: str, quality: int) -> None:
    plain = np.repeat(tissue()[..., None], 3, axis=2)
    stream = io.BytesIO()
    drawn = lettered(plain, "DOE^JOHN", (130, 120), 14, COLOURS[colour])
    Image.fromarray(drawn).save(stream, "JPEG", quality=quality, subsampling=1)
    with Image.open(stream) as picture:
        found = lettering.writing(np.asarray(picture))
    ink = (drawn != plain).any(axis=-1)
    assert found.doubt or found.where[ink].mean() > 0.98


def test_dark_letters_on_a_light_bar_are_found() -> None:
    image = tissue()
    image[4:24, 4:200] = 230
    found = lettering.writing(lettered(image, "DOE^JOHN 19560312", (8, 6), 14, 0))
    assert found.doubt or found.where[8:20, 10:120].all()


@pytest.mark.parametrize("seed", range(8))
def test_tissue_is_no_writing(seed: int) -> None:
    found = lettering.writing(tissue(seed, 480, 640))
    assert not found.where.any() and found.doubt is None


def test_flow_in_colour_is_no_writing() -> None:
    grey = np.repeat(tissue()[..., None], 3, axis=2)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    share = np.clip((44 - np.hypot(y - 130, x - 160)) / 8, 0, 1)[..., None]  # of a vessel that has no sharp wall
    flow = np.stack([np.full_like(x, 210), np.clip(2 * (y - 86), 0, 255), 0 * x], axis=-1)
    found = lettering.writing((grey * (1 - share) + flow * share).astype(np.uint8))
    assert not found.where.any() and found.doubt is None


def test_the_whole_word_becomes_black_with_what_is_beside_it() -> None:
    plain = tissue()
    found = lettering.writing(lettered(plain, "I. Illi, Dr. W. Wu", (60, 200), 14))
    rows, columns = np.nonzero(found.where)
    assert columns.min() <= 60 and columns.max() >= 175 and rows.max() - rows.min() < 80


def an_ultrasound(picture: np.ndarray, frames: int = 1, **more: Any) -> Dataset:
    """An image of a device that nobody has an entry for; its region is the whole of it."""
    frame = picture if picture.ndim == 3 else picture[..., None]
    photometric = "RGB" if frame.shape[-1] == 3 else "MONOCHROME2"
    ds = an_image(np.repeat(frame[None], frames, axis=0), photometric, bits_stored=8, **more)
    ds.SequenceOfUltrasoundRegions = [a_region(0, 0, COLUMNS - 1, ROWS - 1)]
    return ds


def jpeg(ds: Dataset, kind: str, syntax: str, **how: Any) -> Dataset:
    """Its only frame compressed by Pillow."""
    picture = stored(ds)[0]
    stream = io.BytesIO()
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(stream, kind, **how)
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def coded(picture: np.ndarray, how: str) -> Dataset:
    """The picture in one of the ways in which devices and archives store it."""
    colour = np.repeat(picture[..., None], 3, axis=2)
    match how:
        case "native":
            return an_ultrasound(picture)
        case "inverted":
            return an_ultrasound(255 - picture, PhotometricInterpretation="MONOCHROME1")
        case "words":
            return an_ultrasound(picture.astype("u2") * 4, BitsStored=10, HighBit=9)
        case "palette":
            ds = an_ultrasound(picture, PhotometricInterpretation="PALETTE COLOR")
            for name in ("Red", "Green", "Blue"):
                setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
                setattr(ds, f"{name}PaletteColorLookupTableData", (np.arange(256, dtype="u2") * 256).tobytes())
            return ds
        case "planes":
            return an_ultrasound(colour, PlanarConfiguration=1)
        case "YBR_FULL_422":
            ds = an_ultrasound(colour, PhotometricInterpretation="YBR_FULL_422")
            pairs = picture.reshape(ROWS, COLUMNS // 2, 2)
            ds.PixelData = np.concatenate([pairs, np.full_like(pairs, 128)], axis=-1).tobytes()
            return ds
        case "JPEG":
            ds = jpeg(an_ultrasound(colour), "JPEG", JPEGBaseline8Bit, quality=90, subsampling=1)
            ds.PhotometricInterpretation = "YBR_FULL_422"
            return ds
        case "JPEG 2000":
            return jpeg(an_ultrasound(picture), "JPEG2000", JPEG2000, no_jp2=True, irreversible=True)
        case "JPEG 2000 lossless":
            return jpeg(an_ultrasound(colour), "JPEG2000", JPEG2000Lossless, no_jp2=True, mct=0)
    ds = an_ultrasound(colour)
    ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return ds


CODECS = [
    *("native", "inverted", "words", "palette", "planes", "YBR_FULL_422"),
    *("JPEG", "JPEG 2000", "JPEG 2000 lossless", "RLE"),
]


@pytest.mark.parametrize("how", CODECS)
def test_a_banner_and_a_name_in_the_image_become_black_in_every_coding(how: str) -> None:
    plain = tissue()
    picture = lettered(lettered(plain, "DOE^JOHN 1956", (8, 4), 14), "Lee", (130, 150), 16)
    ds = coded(picture, how)
    before = stored(ds)
    plan = devices.load().blackout(ds)
    assert plan and plan.black == ((0, 0, COLUMNS, 24),)
    assert blackout(ds, plan) == ["ultrasound-regions", "writing"]
    after = stored(ds)
    written = (np.abs(picture.astype(int) - plain) > 60) | (np.mgrid[:ROWS, :COLUMNS][0] < 24)
    dark = after[0, 0, 0]
    assert (after[0][written] == dark).all() and ds.BurnedInAnnotation == "NO"
    elsewhere = (slice(60, 140), slice(None))
    if how != "YBR_FULL_422":
        assert (after[0][elsewhere] == before[0][elsewhere]).all(), "the image is left as it was"
    assert ds.file_meta.TransferSyntaxUID in (ExplicitVRLittleEndian, RLELossless)


def test_a_name_in_one_frame_becomes_black_in_all() -> None:
    ds = an_ultrasound(tissue(), frames=6)
    pixels = stored(ds)
    pixels[4, ..., 0] = lettered(tissue(), "SMITH", (130, 120), 16)
    ds.PixelData = pixels.tobytes()
    blackout(ds, devices.load().blackout(ds) or pytest.fail("no plan"))
    after = stored(ds)[..., 0]
    assert (after[:, 124:134, 135:160] == 0).all() and (after[0, 60:100] == tissue()[60:100]).all()


def a_catalogue(tmp_path: Path, **more: Any) -> devices.Catalogue:
    entry = {"id": "site", "match": {"Modality": "US"}, "keep": devices.REGIONS} | more
    path = tmp_path / "site.json"
    path.write_text(json.dumps({"devices": [entry]}))
    return devices.load(path)


def test_a_site_says_what_is_done_with_writing(tmp_path: Path) -> None:
    picture = lettered(tissue(), "SMITH", (130, 120), 16)
    for writing, left in (("black", False), ("keep", True)):
        ds = an_ultrasound(picture)
        blackout(ds, a_catalogue(tmp_path, writing=writing).blackout(ds) or pytest.fail("no plan"))
        assert (stored(ds)[0, 124:134, 135:160] == 255).any() == left
    ds = an_ultrasound(picture)
    with pytest.raises(Unfit, match=r"may hold writing at column \d+, row \d+ of frame 1; .*add an entry"):
        blackout(ds, a_catalogue(tmp_path, writing="quarantine").blackout(ds) or pytest.fail("no plan"))


def test_a_page_of_text_waits_for_a_person() -> None:
    page = np.zeros((ROWS, COLUMNS), np.uint8)
    for row in range(30, ROWS - 20, 20):
        page = lettered(page, "Patient DOE^JOHN, LVEF 55 %, E/A 1.2", (6, row), 14)
    ds = coded(page, "RLE")
    with pytest.raises(Unfit, match="may hold writing in many places"):
        blackout(ds, devices.load().blackout(ds) or pytest.fail("no plan"))
    assert "BurnedInAnnotation" not in ds


def test_real_text_is_found_in_a_real_image() -> None:
    ds = sample("examples_palette.dcm")  # cut in its height, so its regions do not fit
    ds.SequenceOfUltrasoundRegions = [a_region(120, 60, 799, 349)]
    plan = devices.load().blackout(ds)
    assert plan and plan.entries == ("ultrasound-regions",)
    assert blackout(ds, plan) == ["ultrasound-regions", "writing"]
