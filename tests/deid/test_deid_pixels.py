"""Black-outs: native pixels in place, compressed ones on all frames, and the catalogue that says where."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from pacsifier_ops.base.errors import ConfigError, Unfit
from pacsifier_ops.deid import devices, pixels
from pacsifier_ops.deid.devices import BLACK, Blackout, Catalogue
from pacsifier_ops.deid.pixels import blackout

AREA = (2, 1, 5, 3)
PLAN = Blackout(("site",), (AREA,))
#: Stored values that are black, of 8 bits (PS3.3 C.7.6.3.1.2).
COLOURS = {"RGB": [0, 0, 0], "YBR_FULL": [0, 128, 128], "YBR_FULL_422": [0, 128, 128]}


def sample(name: str) -> Dataset:
    path = Path(pydicom.data.__file__).parent / "test_files" / name  # pydicom's own function might fetch it
    return dcmread(path)


def stored(ds: Dataset) -> np.ndarray:
    """Values of all frames as pydicom decodes them: frames, rows, columns, samples."""
    stream = io.BytesIO()
    ds.save_as(stream)
    values = pixel_array(stream, raw=True)
    return values.reshape(int(ds.get("NumberOfFrames") or 1), ds.Rows, ds.Columns, -1)


def inside(ds: Dataset, *areas: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((ds.Rows, ds.Columns), bool)
    for left, top, width, height in areas:
        mask[top : top + height, left : left + width] = True
    return mask


def an_image(values: np.ndarray, photometric: str, *, bits_stored: int, big: bool = False, **more: Any) -> Dataset:
    """An image with these values: frames, rows, columns, samples, or samples first if `PlanarConfiguration` is 1."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big else ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = UltrasoundMultiFrameImageStorage, "1.2.3"
    ds.Modality, ds.Manufacturer = "US", "Phantom"
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.SamplesPerPixel = values.shape
    ds.PhotometricInterpretation, ds.BitsAllocated = photometric, 8 * values.itemsize
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits_stored, bits_stored - 1, int(values.dtype.kind == "i")
    if values.shape[-1] > 1:
        ds.PlanarConfiguration = 0
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    if more.get("PlanarConfiguration"):
        values = np.moveaxis(values, -1, 1)
    data = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    data += bytes(len(data) % 2)
    if big and values.itemsize == 1:  # as OW, whose bytes are turned
        data = np.frombuffer(data, "u2").byteswap().tobytes()
    ds.add_new("PixelData", "OW" if big or values.itemsize > 1 else "OB", data)
    return ds


@st.composite
def native(draw: st.DrawFn) -> tuple[Dataset, tuple[int, int, int, int], list[int]]:
    """An image in any native layout, an area in it, and what is black there."""
    kind = draw(st.sampled_from(["u1", "u2", "u4", "i1", "i2", "i4"]))
    photometric = draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL"]))
    samples = 1 if photometric.startswith("MONO") else 3
    kind = kind if samples == 1 else kind.replace("i", "u")
    bits = 8 * int(kind[1])
    bits_stored = draw(st.integers(max(bits - 6, 2), bits)) if samples == 1 else bits
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low, high = (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if kind[0] == "i" else (0, (1 << bits_stored) - 1)
    values = rng.integers(low, high, (draw(st.integers(1, 3)), rows, columns, samples), np.int64, endpoint=True)
    more = {"PlanarConfiguration": draw(st.integers(0, 1))} if samples == 3 else {}
    ds = an_image(values.astype(kind), photometric, bits_stored=bits_stored, big=draw(st.booleans()), **more)
    left, top = draw(st.integers(0, columns - 1)), draw(st.integers(0, rows - 1))
    area = (left, top, draw(st.integers(1, columns - left)), draw(st.integers(1, rows - top)))
    middle = 1 << (bits - 1)
    black = {"MONOCHROME1": [high], "MONOCHROME2": [low], "RGB": [0, 0, 0], "YBR_FULL": [0, middle, middle]}
    return ds, area, black[photometric]


@given(native())
def test_native_pixels_in_the_area_are_black_and_all_others_are_as_they_were(
    case: tuple[Dataset, tuple[int, int, int, int], list[int]],
) -> None:
    ds, area, black = case
    before, size, syntax = stored(ds), len(ds.PixelData), ds.file_meta.TransferSyntaxUID
    assert blackout(ds, Blackout(("site",), (area,))) == ["site"]
    after, mask = stored(ds), inside(ds, area)
    assert (after[:, ~mask] == before[:, ~mask]).all() and (after[:, mask] == black).all()
    assert len(ds.PixelData) == size and ds.file_meta.TransferSyntaxUID == syntax


def test_all_outside_of_what_is_kept_is_black() -> None:
    ds = an_image(np.full((2, 20, 30, 1), 7, "u1"), "MONOCHROME2", bits_stored=8)
    blackout(ds, Blackout(("site",), black=((3, 4, 5, 5),), keep=((2, 3, 10, 8), (20, 5, 4, 4))))
    kept = inside(ds, (2, 3, 10, 8), (20, 5, 4, 4)) & ~inside(ds, (3, 4, 5, 5))
    assert (stored(ds)[:, kept] == 7).all() and (stored(ds)[:, ~kept] == 0).all()


def test_black_is_the_darkest_colour_of_a_palette() -> None:
    ds = sample("examples_palette.dcm")
    blackout(ds, PLAN)
    stream = io.BytesIO()
    ds.save_as(stream)
    colours = pydicom.pixels.apply_color_lut(pixel_array(stream), ds).astype(int).sum(axis=-1)
    mask = inside(ds, AREA)
    assert (colours[mask] == colours.min()).all() and len(np.unique(colours[~mask])) > 50


def test_pixels_that_share_their_colour_become_black_together() -> None:
    ds = sample("SC_ybr_full_422_uncompressed.dcm")
    before = stored(ds)
    blackout(ds, Blackout(("site",), ((3, 1, 2, 2),)))  # columns 3 and 4 are of two pairs
    after, mask = stored(ds), inside(ds, (2, 1, 4, 2))
    assert (after[:, ~mask] == before[:, ~mask]).all() and (after[:, mask] == COLOURS["YBR_FULL_422"]).all()


@pytest.mark.parametrize(
    ("name", "photometric", "lossy"),
    [
        ("MR_small_RLE.dcm", "MONOCHROME2", None),
        ("SC_rgb_rle_16bit_2frame.dcm", "RGB", None),
        ("SC_rgb_rle_32bit_2frame.dcm", "RGB", None),
        ("SC_rgb_jpeg_gdcm.dcm", "RGB", None),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", "YBR_FULL", "01"),
        ("SC_rgb_jpeg_lossy_gdcm.dcm", "YBR_FULL", "01"),
        ("SC_rgb_small_odd_jpeg.dcm", "YBR_FULL", "01"),
        ("MR_small_jpeg_ls_lossless.dcm", "MONOCHROME2", None),
        ("JPEGLSNearLossless_16.dcm", "MONOCHROME2", "01"),
        ("J2K_pixelrep_mismatch.dcm", "MONOCHROME2", None),
        ("GDCMJ2K_TextGBR.dcm", "RGB", None),
    ],
)
def test_compressed_pixels_are_decoded_blacked_out_and_kept_without_loss(
    name: str, photometric: str, lossy: str | None
) -> None:
    ds = sample(name)
    before, attributes = stored(ds), {element.tag for element in ds if element.tag.group != 0x0028}
    area = (1, 1, 2, 1) if ds.Rows < 8 else AREA
    assert blackout(ds, Blackout(("site",), (area,))) == ["site"]
    after, mask = stored(ds), inside(ds, area)
    assert (after[:, ~mask] == before[:, ~mask]).all()
    signed = ds.PixelRepresentation == 1
    assert (after[:, mask] == COLOURS.get(photometric, [-(1 << ds.BitsStored - 1) if signed else 0])).all()
    assert ds.PhotometricInterpretation == photometric
    expected = ExplicitVRLittleEndian if ds.BitsAllocated > 16 else RLELossless
    assert ds.file_meta.TransferSyntaxUID == expected
    assert ds.get("LossyImageCompression") == lossy
    assert photometric != "YBR_FULL" or ds.PlanarConfiguration == 1  # or ultrasound would not be valid
    if lossy:
        assert float(ds.LossyImageCompressionRatio) > 0 and ds.LossyImageCompressionMethod.startswith("ISO_1")
    added = {element.tag for element in ds if element.tag.group != 0x0028} - attributes
    assert added == {0x00120064} or ("DeidentificationMethodCodeSequence" in ds and not added)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "PALETTE COLOR", "RGB", "YBR_FULL"])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_all_that_rle_may_hold_is_blacked_out(photometric: str, size: tuple[int, int]) -> None:
    values = np.random.default_rng(1).integers(0, 256, (2, *size, 3 if photometric in COLOURS else 1), "u1")
    ds = an_image(values, photometric, bits_stored=8)
    if photometric == "PALETTE COLOR":
        for colour in ("Red", "Green", "Blue"):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(ds, f"{colour}PaletteColorLookupTableData", np.arange(65535, -1, -257).astype("u2").tobytes())
    ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    blackout(ds, PLAN)
    after, mask = stored(ds), inside(ds, AREA)
    assert (after[:, ~mask] == values[:, ~mask]).all() and ds.file_meta.TransferSyntaxUID == RLELossless
    assert (after[:, mask] == COLOURS.get(photometric, [255])).all(), "the palette is turned round"


_LATE = """
import io
import sys
from pacsifier_ops.base.start import allow, start_light
start_light()
from pacsifier_ops.deid import convert, devices
assert not sys.modules.get("numpy")
allow("numpy")
from pydicom import dcmread
from pacsifier_ops.deid import pixels
ds = dcmread(io.BytesIO(sys.stdin.buffer.read()))
pixels.blackout(ds, devices.Blackout(("site",), ((2, 1, 5, 3),)))
sys.stdout.write(ds.PixelData.hex())
"""


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "PALETTE COLOR"])
def test_a_command_that_begins_without_numpy_blacks_out_as_any_other_process_does(photometric: str) -> None:
    """pydicom looks for numpy once, when it is loaded; colours of a palette are computed with it."""
    ds = an_image(np.random.default_rng(1).integers(0, 256, (2, 6, 8, 1), "u1"), photometric, bits_stored=8)
    if photometric == "PALETTE COLOR":
        for colour in ("Red", "Green", "Blue"):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(ds, f"{colour}PaletteColorLookupTableData", np.arange(65535, -1, -257).astype("u2").tobytes())
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    done = subprocess.run([sys.executable, "-c", _LATE], input=stream.getvalue(), capture_output=True, timeout=120)
    assert not done.returncode, done.stderr.decode()
    blackout(ds, PLAN)
    assert done.stdout.decode() == ds.PixelData.hex()


def a_cine(frames: int = 5) -> Dataset:
    """JPEG, as ultrasound devices send it: a grey sector below a white banner."""
    picture = np.zeros((1, 96, 128, 3), "u1")
    picture[:, 2:8], picture[:, 20:90, 20:100] = 255, 90
    ds = an_image(picture, "YBR_FULL_422", bits_stored=8, NumberOfFrames=frames)
    parts = []
    for _ in range(frames):
        stream = io.BytesIO()
        Image.fromarray(picture[0]).save(stream, "JPEG", quality=90)
        parts.append(stream.getvalue())
    ds.PixelData = encapsulate(parts)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.SequenceOfUltrasoundRegions = [a_region(20, 20, 99, 89)]
    return ds


def a_region(left: int, top: int, right: int, bottom: int, spatial_format: int = 1) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType = spatial_format, 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = right, bottom
    return region


def test_an_ultrasound_cine_keeps_its_regions_and_says_what_was_done() -> None:
    ds = a_cine()
    ds.BurnedInAnnotation, ds.LargestImagePixelValue, ds.IconImageSequence = "YES", 255, [Dataset()]
    before = stored(ds)
    plan = devices.load().blackout(ds)
    assert plan == Blackout(("ultrasound-regions",), keep=((20, 20, 80, 70),), writing=BLACK)
    for _ in range(2):  # a second time changes nothing
        assert blackout(ds, plan) == ["ultrasound-regions"]
        after, kept = stored(ds), inside(ds, (20, 20, 80, 70))
        assert (after[:, kept] == before[:, kept]).all() and (after[:, ~kept] == COLOURS["YBR_FULL"]).all()
        assert ds.BurnedInAnnotation == "NO" and "LargestImagePixelValue" not in ds and "IconImageSequence" not in ds
        (code,) = ds.DeidentificationMethodCodeSequence
        assert (code.CodeValue, code.CodingSchemeDesignator) == ("113101", "DCM")
        assert ds.LossyImageCompression == "01" and ds.LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.parametrize("bits", ["unsigned", "signed"])
def test_overlays_in_unused_bits_are_cleared_whatever_the_catalogue_says(bits: str) -> None:
    values = np.arange(-8, 8) if bits == "signed" else np.arange(16)
    image = values.astype("<i2").reshape(1, 4, 4, 1)
    with_overlay = (image.view("u2") & 0x0FFF) | np.uint16(0x1000)
    ds = an_image(with_overlay, "MONOCHROME2", bits_stored=12, PixelRepresentation=int(bits == "signed"))
    assert Catalogue().blackout(ds) is None
    ds.add_new(0x60020010, "US", 4)
    plan = Catalogue().blackout(ds)
    assert plan and plan.overlay_bits
    assert blackout(ds, plan) == ["overlay-bits"]
    assert np.frombuffer(ds.PixelData, "<i2").tolist() == values.tolist()
    assert "BurnedInAnnotation" not in ds, "nobody has looked for burned-in text"
    ds.add_new(0x60023000, "OW", bytes(2))
    assert Catalogue().blackout(ds) is None, "this overlay is an element of its own"


def broken(how: str) -> Dataset:
    compressed = ("truncated JPEG", "not encapsulated", "frames", "video", "HTJ2K", "syntax")
    ds = a_cine() if how in compressed else sample("CT_small.dcm")
    match how:
        case "truncated JPEG":
            ds.PixelData = encapsulate([b"\xff\xd8\xff\xe0" + bytes(40)] * 5)
        case "not encapsulated":
            ds.PixelData = bytes(100)
        case "frames":
            ds.NumberOfFrames = 6
        case "video":
            ds.file_meta.TransferSyntaxUID = MPEG2MPML
        case "HTJ2K":
            ds.file_meta.TransferSyntaxUID = HTJ2K
        case "syntax":
            del ds.file_meta.TransferSyntaxUID
        case "short":
            ds.PixelData = ds.PixelData[:-2]
        case "long":
            ds.PixelData += b"DOE^JOHN"
        case "bits":
            ds.BitsStored = 17
        case "one bit":
            ds = sample("liver_1frame.dcm")
        case "colour":
            ds.PhotometricInterpretation = "CMYK"
        case "description":
            del ds.HighBit
    return ds


@pytest.mark.parametrize(
    "how",
    [
        *(
            "truncated JPEG",
            "not encapsulated",
            "frames",
            "video",
            "HTJ2K",
            "syntax",
            "short",
            "long",
            "bits",
            "one bit",
        ),
        *("colour", "description"),
    ],
)
def test_what_is_not_understood_is_not_fit(how: str) -> None:
    ds = broken(how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Unfit, match="pixels cannot be blacked out"):
            blackout(ds, PLAN)
    assert ds.get("BurnedInAnnotation") != "NO"


def test_what_takes_too_long_to_decode_is_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_SECONDS", 0.01)
    with pytest.raises(Unfit, match="took too long"):
        blackout(a_cine(), PLAN)


@pytest.mark.parametrize(
    ("why", "regions"),
    [
        ("there are none", []),
        ("one lies outside", [a_region(20, 20, 99, 89), a_region(20, 20, 200, 89)]),
        ("one is turned round", [a_region(99, 20, 20, 89)]),
        ("they hold graphics", [a_region(20, 20, 99, 89, spatial_format=5)]),
        ("a corner is missing", [Dataset()]),
    ],
)
def test_regions_are_not_believed_where(why: str, regions: list[Dataset]) -> None:
    ds = a_cine(frames=1)
    ds.SequenceOfUltrasoundRegions = regions
    for region in regions:
        region.setdefault("RegionSpatialFormat", region.get("RegionSpatialFormat", 1))
    assert devices.load().blackout(ds) is None, why


def catalogue(tmp_path: Path, *entries: dict[str, Any], **more: Any) -> Catalogue:
    path = tmp_path / "site.json"
    path.write_text(json.dumps({"devices": entries, **more}))
    return devices.load(path)


BANNER: dict[str, Any] = {
    "id": "site-banner",
    "match": {"Manufacturer": "phan*", "Modality": ["CT", "US"], "Rows": 96, "Columns": 128},
    "black": [[0, 0, 128, 10]],
}


def test_a_site_replaces_the_catalogue_or_adds_to_it(tmp_path: Path) -> None:
    ds, shipped = a_cine(frames=1), devices.load()
    alone, both = catalogue(tmp_path, BANNER), catalogue(tmp_path, BANNER, shipped=True)
    assert alone.blackout(ds) == Blackout(("site-banner",), ((0, 0, 128, 10),))
    plan = both.blackout(ds)
    whole = ("ultrasound-regions", "site-banner"), ((0, 0, 128, 10),), ((20, 20, 80, 70),)
    assert plan == Blackout(*whole, writing=BLACK)
    assert len({each.digest for each in (shipped, alone, both)}) == 3 and devices.load().digest == shipped.digest
    looked_at = catalogue(tmp_path, BANNER | {"writing": "keep"}, shipped=True)
    assert looked_at.blackout(ds) == Blackout(*whole), "the site has looked at what is written there"
    searched = catalogue(tmp_path, BANNER | {"writing": "quarantine"})
    assert searched.blackout(ds) == Blackout(("site-banner",), ((0, 0, 128, 10),), writing="quarantine")


@pytest.mark.parametrize(
    ("entry", "black"),
    [
        ({}, (0, 0, 128, 10)),
        ({"banner": 4}, (0, 0, 128, 4)),
        ({"banner": 30}, (0, 0, 128, 30)),
        ({"black": [[0, 0, 128, 6]]}, (0, 0, 128, 6)),
    ],
)
def test_of_regions_in_the_uppermost_rows_the_banner_becomes_black(
    entry: dict[str, Any], black: tuple[int, int, int, int], tmp_path: Path
) -> None:
    ds = a_cine(frames=1)
    ds.SequenceOfUltrasoundRegions = [a_region(0, 0, 127, 95)]
    site = {"id": "site", "match": {"Rows": 96, "Columns": 128}, "keep": devices.REGIONS} | entry
    plan = catalogue(tmp_path, site, shipped=True).blackout(ds)
    assert plan == Blackout(("ultrasound-regions", "site"), (black,), ((0, 0, 128, 96),), writing=BLACK)


def test_the_shipped_entries_know_banners_and_say_where_from() -> None:
    content = json.loads(devices.SHIPPED.read_text(encoding="utf-8"))
    first, *others = content["devices"]
    assert len(others) >= 60 and first["id"] == "ultrasound-regions"
    for entry in others:
        assert entry["source"] and entry["keep"] == devices.REGIONS and entry["match"]["Modality"] == "US"
        assert 0.05 < entry["banner"] / entry["match"]["Rows"] < 0.15, entry["id"]


@pytest.mark.parametrize(
    ("model", "rows", "ids", "banner"),
    [
        (("Philips Medical Systems", "EPIQ 7C"), 768, ["philips-epiq-768"], 49),
        (("Philips Medical Systems", "EPIQ 7C"), 770, [], 77),
        (("GE Healthcare", "LOGIQE9"), 720, ["ge-logiq-e9-720"], 70),
        (("TOSHIBA_MEC_US", "TUS-A500"), 720, ["toshiba-aplio-500-720"], 60),
        (("SIEMENS", "ACUSON S2000"), 768, ["siemens-s2000-768"], 60),
        (("Other", "EPIQ 7C"), 768, [], 77),
    ],
)
def test_a_device_is_known_by_its_model_and_the_size_of_its_images(
    model: tuple[str, str], rows: int, ids: list[str], banner: int
) -> None:
    ds = a_cine(frames=1)
    ds.Manufacturer, ds.ManufacturerModelName, ds.Rows, ds.Columns = *model, rows, 1024
    ds.SequenceOfUltrasoundRegions = [a_region(0, 0, 1023, rows - 1)]
    plan = devices.load().blackout(ds)
    assert plan == Blackout(("ultrasound-regions", *ids), ((0, 0, 1024, banner),), ((0, 0, 1024, rows),), writing=BLACK)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("Manufacturer", "Other"), ("Manufacturer", ""), ("Modality", "MR"), ("Rows", 95), ("Columns", 1280)],
)
def test_every_attribute_of_an_entry_has_to_match(keyword: str, value: Any, tmp_path: Path) -> None:
    ds = a_cine(frames=1)
    setattr(ds, keyword, value)
    assert catalogue(tmp_path, BANNER).blackout(ds) is None


def test_one_of_several_values_is_enough_to_match(tmp_path: Path) -> None:
    entry = BANNER | {"match": {"ImageType": "*SCREEN*", "Rows": 96, "Columns": 128}}
    ds = a_cine(frames=1)
    ds.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    assert catalogue(tmp_path, entry).blackout(ds)
    del ds.PixelData
    assert catalogue(tmp_path, entry).blackout(ds) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "Site Banner"}, r"entry 2: id: "),
        ({"match": {}}, r"entry 2 \(site-banner\): match: "),
        ({"match": {"ManufacturerModel": "x"}}, r"\(site-banner\): match: .*did you mean ManufacturerModelName"),
        ({"match": {"Modality": ""}}, r"match: Modality: "),
        ({"match": {"Modality": True}}, r"match: Modality: "),
        ({"match": {"Modality": "US"}}, r"black: area 1: match has to give Rows and Columns"),
        ({"black": []}, r"\(site-banner\): black: "),
        ({"black": [[0, 0, 128, 10], [0, 0, 129, 10]]}, r"black: area 2: does not lie within"),
        ({"black": [[0, 0, 128.5, 10]]}, r"black: area 1: is not"),
        ({"keep": "all"}, r"keep: can only be"),
        ({"writing": "yes"}, r"\(site-banner\): writing: give quarantine, black, keep"),
        ({"banner": 96}, r"banner: give the rows"),
        ({"banner": True}, r"banner: give the rows"),
        ({"banner": 9, "black": [], "match": {"Modality": "US"}}, r"match has to give Rows as a whole number"),
        ({"source": 5}, r"source: is no text"),
        ({"blak": []}, r"blak is not known \(did you mean black\?\)"),
        ({"id": "first"}, r"the id first stands there twice"),
    ],
)
def test_a_mistake_in_the_catalogue_names_entry_and_key(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^site\.json: .*{said}|^site\.json: {said}"):
        catalogue(tmp_path, BANNER | {"id": "first"}, BANNER | change)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"devices": [], "extra": 1}', '{"devices": [], "shipped": 1}', "\xff"]
)
def test_what_is_no_catalogue_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "site.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"^site\.json: "):
        devices.load(path)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        devices.load(path)
