"""Proposals for the device catalogue, from a site's own images: where a device writes what varies.

A proposal holds what the device is, and areas; nothing of a patient. Whether it becomes an entry, a person says, who
looks at its sheet: images with the areas drawn on them.
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

#: Images of a device that are decoded at most, and patients that have to be among them at least.
MOST, PATIENTS = 40, 3
#: Grey levels by which a pixel changes that is said to vary.
_CHANGE = 24
#: Pixels of a cell in which writing is joined to areas, and share of the height that banners are in.
_CELL, _BANNER = 8, 0.15
#: Images on a sheet, and across.
_SHOWN, _ACROSS = 9, 3
#: Colours of what becomes black, of regions that are kept, and of writing that is the same on all images.
_RED, _GREEN, _YELLOW = (255, 40, 40), (40, 255, 40), (255, 255, 40)
_HEAD = ["Modality", "Manufacturer", "ManufacturerModelName", "Rows", "Columns", "PatientID", "NumberOfFrames"]
_SEEN = [*_HEAD, "SequenceOfUltrasoundRegions"]


@dataclass(frozen=True, slots=True, order=True)
class Model:
    """What an entry recognises a device's images by."""

    manufacturer: str
    model: str
    rows: int
    columns: int

    @property
    def id(self) -> str:
        """A name for an entry."""
        words = re.findall(r"[a-z0-9]+", f"{self.manufacturer} {self.model}".lower())
        return "-".join([*words, f"{self.columns}x{self.rows}"])[-64:].strip("-")


@dataclass
class DeviceImages:
    """The images of a device.

    Attributes:
        files: one list for each patient.
    """

    files: dict[str, list[Path]] = field(default_factory=dict)

    def spread(self) -> list[tuple[str, Path]]:
        """Some of the images, of as many patients as can be: patient and file."""
        turns = max(map(len, self.files.values()))
        every = [(who, files[n]) for n in range(turns) for who, files in sorted(self.files.items()) if n < len(files)]
        return every[:MOST]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed entry.

    Attributes:
        entry: as the catalogue has it; who approved it is left empty, and with that the catalogue refuses it.
        sheet: PNG of images with the areas drawn on them; it shows patients.
        images, patients: how many were looked at.
    """

    entry: dict[str, Any]
    sheet: bytes
    images: int
    patients: int


def devices_in(folder: Path) -> dict[Model, DeviceImages]:
    """Ultrasound images below a folder, by their device and size. What is no such image is passed over."""
    found: dict[Model, DeviceImages] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            head = dcmread(path, specific_tags=_HEAD, stop_before_pixels=True)
            if head.get("Modality") != "US" or not head.get("ManufacturerModelName"):
                continue
            model = Model(
                str(head.get("Manufacturer") or "*"), str(head.ManufacturerModelName), int(head.Rows), int(head.Columns)
            )
        except Exception:  # whatever foreign files make the reader raise
            continue
        found.setdefault(model, DeviceImages()).files.setdefault(str(head.get("PatientID") or ""), []).append(path)
    return found


def propose(model: Model, found: DeviceImages) -> Proposal | None:
    """What an entry for a device may look like; None: its images cannot be decoded, or are of too few patients."""
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
class _Seen:
    """An image that was decoded, and what of it looks like writing."""

    patient: str
    pixels: np.ndarray
    written: np.ndarray
    regions: tuple[Area, ...]


def _decoded(model: Model, found: DeviceImages) -> Iterator[_Seen]:
    """The first frame of some of a device's images."""
    for patient, path in found.spread():
        try:
            pixels, head, _ = read_frame(path, 0)
            shown = shades(pixels, head, 0)
            regions = regions_of(dcmread(path, specific_tags=_SEEN, stop_before_pixels=True))
        except Exception:  # whatever foreign files make the decoders raise
            continue
        if shown.shape[:2] == (model.rows, model.columns):
            yield _Seen(patient, shown, lettering.writing(shown).where, regions)


def _varying(images: Sequence[_Seen]) -> np.ndarray:
    """Rows and columns where the images differ."""
    levels = [image.pixels.max(axis=-1) if image.pixels.ndim == 3 else image.pixels for image in images]
    lowest, highest = levels[0].copy(), levels[0].copy()
    for level in levels[1:]:
        np.minimum(lowest, level, out=lowest)
        np.maximum(highest, level, out=highest)
    return (highest - lowest) > _CHANGE


def _banner(changing: np.ndarray) -> int:
    """Rows from the top that end with writing that varies, of those that may be a banner; 0: there is none."""
    rows = np.flatnonzero(changing[: round(len(changing) * _BANNER)].any(axis=1))
    return int(rows[-1]) + 1 if len(rows) else 0


def _boxes(written: np.ndarray) -> list[Area]:
    """Rectangles around what is written close together, from the top."""
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


def _sheet(images: Sequence[_Seen], black: Sequence[Area], same: Sequence[Area]) -> bytes:
    """Some of the images with areas drawn on them."""
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


def _drawn(image: _Seen, black: Sequence[Area], same: Sequence[Area]) -> Image:
    from PIL import Image, ImageDraw

    tile = Image.fromarray(image.pixels).convert("RGB")
    draw = ImageDraw.Draw(tile)
    for areas, colour in ((image.regions, _GREEN), (same, _YELLOW), (black, _RED)):
        for left, top, width, height in areas:
            draw.rectangle([left, top, left + width - 1, top + height - 1], outline=colour, width=2)
    return tile
