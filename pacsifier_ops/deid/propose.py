"""Proposals for the device catalogue, from a site's own images: the areas where the writing of a device varies.

A proposal contains attributes of the device and areas, and no data of a patient. A reviewer decides whether it becomes
an entry, by its sheet: images with the areas drawn on them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import dcmread

from pacsifier_ops.deid import lettering
from pacsifier_ops.deid.devices import REGIONS, Area, regions_of
from pacsifier_ops.extract.thumbnails import read_frame, shades

if TYPE_CHECKING:
    from PIL.Image import Image

#: Maximum number of images of a device to decode, and minimum number of patients among them.
MOST, PATIENTS = 40, 3
#: Minimum difference in grey levels of a pixel that varies.
_CHANGE = 24
#: Size in pixels of the cells that join writing to areas, and fraction of the height where banners are.
_CELL, _BANNER = 8, 0.15
#: Number of images on a sheet, and in a row.
_SHOWN, _ACROSS = 9, 3
#: Colours of areas to black out, of regions to keep, and of writing that is the same in all images.
_RED, _GREEN, _YELLOW = (255, 40, 40), (40, 255, 40), (255, 255, 40)
_HEAD = ["Modality", "Manufacturer", "ManufacturerModelName", "Rows", "Columns", "PatientID", "NumberOfFrames"]
_SEEN = [*_HEAD, "SequenceOfUltrasoundRegions"]


@dataclass(frozen=True, slots=True, order=True)
class Model:
    """Attributes by which an entry recognises the images of a device."""

    manufacturer: str
    model: str
    rows: int
    columns: int

    @property
    def id(self) -> str:
        """Id for an entry."""
        words = re.findall(r"[a-z0-9]+", f"{self.manufacturer} {self.model}".lower())
        return "-".join([*words, f"{self.columns}x{self.rows}"])[-64:].strip("-")


@dataclass
class DeviceImages:
    """The images of a device.

    Attributes:
        files: files by patient.
    """

    files: dict[str, list[Path]] = field(default_factory=dict)

    def spread(self) -> list[tuple[str, Path]]:
        """Choose images of as many patients as possible: patient and file."""
        turns = max(map(len, self.files.values()))
        every = [(who, files[n]) for n in range(turns) for who, files in sorted(self.files.items()) if n < len(files)]
        return every[:MOST]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed entry.

    Attributes:
        entry: entry in the form of the catalogue. `approved` is empty, so the catalogue refuses it as it is.
        sheet: PNG of images with the areas drawn on them; it shows data of patients.
        images, patients: number of images and patients examined.
    """

    entry: dict[str, Any]
    sheet: bytes
    images: int
    patients: int


def devices_in(folder: Path) -> dict[Model, DeviceImages]:
    """Return ultrasound images below a folder, by device and size. Other files are skipped."""
    found: dict[Model, DeviceImages] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            head = dcmread(path, specific_tags=_HEAD, stop_before_pixels=True)
            if head.get("Modality") != "US" or not head.get("ManufacturerModelName"):
                continue
            model = Model(
                str(head.get("Manufacturer") or "*"), str(head.ManufacturerModelName), int(head.Rows), int(head.Columns)
            )
        except Exception:  # the reader raises many types of exception on damaged files
            continue
        found.setdefault(model, DeviceImages()).files.setdefault(str(head.get("PatientID") or ""), []).append(path)
    return found


def propose(model: Model, found: DeviceImages) -> Proposal | None:
    """Propose an entry for a device; None where images cannot be decoded, or come from too few patients."""
    images = list(_decoded(model, found))
    patients = {image.patient for image in images}
    if len(patients) < PATIENTS:
        return None
    written = np.any([image.written for image in images], axis=0)
    changing = written & _varying(images)
    banner = _banner(changing)
    regions = all(image.regions for image in images)
    kept = np.any([_mask(image.regions, written.shape) for image in images], axis=0) if regions else np.True_
    black = _boxes(changing & kept & (np.arange(model.rows) >= banner)[:, None])
    entry: dict[str, Any] = {
        "id": model.id,
        "note": f"proposed from {len(images)} images of {len(patients)} patients",
        "approved": "",
        "match": {
            "Modality": "US",
            "Manufacturer": model.manufacturer,
            "ManufacturerModelName": model.model,
            "Rows": model.rows,
            "Columns": model.columns,
        },
        **({"keep": REGIONS} if regions else {}),
        **({"banner": banner} if banner else {}),
        **({"black": [list(box) for box in black]} if black else {}),
        "writing": "black",
    }
    same = _boxes(written & ~_mask(black, written.shape) & (np.arange(model.rows) >= banner)[:, None])
    drawn = [(0, 0, model.columns, banner)] if banner else []
    return Proposal(entry, _sheet(images, [*drawn, *black], same), len(images), len(patients))


@dataclass(frozen=True, slots=True)
class _DecodedImage:
    """A decoded image, and the pixels of it that look like writing."""

    patient: str
    pixels: np.ndarray
    written: np.ndarray
    regions: tuple[Area, ...]


def _decoded(model: Model, found: DeviceImages) -> Iterator[_DecodedImage]:
    """Yield the first frame of some images of a device."""
    for patient, path in found.spread():
        try:
            pixels, head, _ = read_frame(path, 0)
            shown = shades(pixels, head, 0)
            regions = regions_of(dcmread(path, specific_tags=_SEEN, stop_before_pixels=True))
        except Exception:  # decoders raise many types of exception on damaged files
            continue
        if shown.shape[:2] == (model.rows, model.columns):
            yield _DecodedImage(patient, shown, lettering.writing(shown).where, regions)


def _varying(images: Sequence[_DecodedImage]) -> np.ndarray:
    """Return a boolean plane of the pixels where the images differ."""
    levels = [image.pixels.max(axis=-1) if image.pixels.ndim == 3 else image.pixels for image in images]
    lowest, highest = levels[0].copy(), levels[0].copy()
    for level in levels[1:]:
        np.minimum(lowest, level, out=lowest)
        np.maximum(highest, level, out=highest)
    return (highest - lowest) > _CHANGE


def _banner(changing: np.ndarray) -> int:
    """Return the number of rows from the top that contain a varying banner; 0 where there is none."""
    rows = np.flatnonzero(changing[: round(len(changing) * _BANNER)].any(axis=1))
    return int(rows[-1]) + 1 if len(rows) else 0


def _boxes(written: np.ndarray) -> list[Area]:
    """Return rectangles around groups of neighbouring written pixels, from the top."""
    down, across = -(-written.shape[0] // _CELL), -(-written.shape[1] // _CELL)
    cells = np.zeros((down * _CELL, across * _CELL), bool)
    cells[: written.shape[0], : written.shape[1]] = written
    left = {(int(y), int(x)) for y, x in np.argwhere(cells.reshape(down, _CELL, across, _CELL).any(axis=(1, 3)))}
    boxes = []
    while left:
        edge = [left.pop()]
        part = list(edge)
        while edge:
            y, x = edge.pop()
            near = left & {(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)}
            left -= near
            edge += near
            part += near
        rows, columns = [y for y, _ in part], [x for _, x in part]
        x, y = min(columns) * _CELL, min(rows) * _CELL
        right, bottom = (max(columns) + 1) * _CELL, (max(rows) + 1) * _CELL
        boxes.append((x, y, min(right, written.shape[1]) - x, min(bottom, written.shape[0]) - y))
    return sorted(boxes, key=lambda box: (box[1], box[0]))


def _inside(box: Area) -> tuple[slice, slice]:
    left, top, width, height = box
    return slice(top, top + height), slice(left, left + width)


def _mask(areas: Sequence[Area], shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for area in areas:
        mask[_inside(area)] = True
    return mask


def _sheet(images: Sequence[_DecodedImage], black: Sequence[Area], same: Sequence[Area]) -> bytes:
    """Draw the areas on some of the images."""
    from PIL import Image

    chosen = [images[n] for n in sorted({step * (len(images) - 1) // (_SHOWN - 1) for step in range(_SHOWN)})]
    tiles = [_drawn(image, black, same) for image in chosen]
    wide, high = tiles[0].size
    across = min(_ACROSS, len(tiles))
    sheet = Image.new("RGB", (across * (wide + 4), -(-len(tiles) // across) * (high + 4)), (64, 64, 64))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % across * (wide + 4), place // across * (high + 4)))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _drawn(image: _DecodedImage, black: Sequence[Area], same: Sequence[Area]) -> Image:
    from PIL import Image, ImageDraw

    tile = Image.fromarray(image.pixels).convert("RGB")
    draw = ImageDraw.Draw(tile)
    for areas, colour in ((image.regions, _GREEN), (same, _YELLOW), (black, _RED)):
        for left, top, width, height in areas:
            draw.rectangle([left, top, left + width - 1, top + height - 1], outline=colour, width=2)
    return tile
