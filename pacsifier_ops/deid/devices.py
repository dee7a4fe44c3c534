"""The device catalogue: which devices burn text into their images, and which areas of an image are blacked out.

With an entry a site promises: an image that matches it has nothing identifying outside the entry's areas. So entries of
different devices do not complement each other, but all entries that match an image are applied together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from pacsifier_ops.base.errors import ConfigError, not_known
from pacsifier_ops.base.given import Unusable, json_of, read_given

#: The catalogue that comes with the package.
SHIPPED = Path(__file__).with_name("devices.json")
#: Value of `keep`: the regions that an ultrasound image declares (PS3.3 C.8.5.5).
REGIONS = "ultrasound regions"
#: Id, in lists of applied entries, of the removal of overlays from unused bits of the pixels.
OVERLAY_BITS = "overlay-bits"
#: Id, in the same lists, of the blackout of writing that was found in the pixels.
WRITING = "writing"

#: Left, top, width and height, in pixels from the upper left corner.
Area = tuple[int, int, int, int]

#: Treatment of images whose remaining area looks like writing, the strictest first: the image goes to quarantine, the
#: writing is blacked out, or nothing is searched.
QUARANTINE, BLACK, KEEP = _TREATMENTS = "quarantine", "black", "keep"

#: What looks like writing (see `lettering`). Minimum contrast of a stroke, of 256 grey levels. For each contrast the
#: windows, for a few letters or for two: rows, columns, and the number of pixels in it that begin a stroke where there
#: is writing.
STROKES = (
    (64, ((10, 30, 20), (12, 14, 18))),
    (40, ((10, 30, 29), (12, 14, 22))),
)
#: The fraction of that number that means doubt.
DOUBT = 0.8

_FILE_KEYS = "shipped", "devices"
_ENTRY_KEYS = "id", "match", "banner", "black", "keep", "writing", "note", "source", "approved"
_ID = re.compile(r"[0-9a-z][0-9a-z._-]{0,63}")
#: Region Spatial Formats of images and traces: 2D, M-mode, spectral, waveform (PS3.3 C.8.5.5.1.1); not graphics.
_PICTURES = frozenset({1, 2, 3, 4})
#: Banners take 6 to 10 % of the height of an image. This share is blacked out where the banner of a device was not
#: measured.
_BANNER = 1 / 10


@dataclass(frozen=True, slots=True)
class Blackout:
    """Areas to black out in one image.

    Attributes:
        entries: ids of the catalogue entries that apply.
        black: areas to black out.
        keep: areas to keep: everything outside them is blacked out. Empty: everything is kept apart from `black`.
        overlay_bits: clear bits of the pixels that belong to no image: overlays are in them (PS3.5 8.1.2).
        writing: treatment of writing in the remaining area: `QUARANTINE`, `BLACK` or `KEEP`.
    """

    entries: tuple[str, ...] = ()
    black: tuple[Area, ...] = ()
    keep: tuple[Area, ...] = ()
    overlay_bits: bool = False
    writing: str = KEEP


@dataclass(frozen=True, slots=True)
class Device:
    """One entry of the catalogue.

    Attributes:
        id: name of the entry in manifests and reports.
        match: patterns by keyword. Each keyword needs one value that matches one of its patterns.
        black: areas to black out.
        keep_regions: keep only the regions that the image declares.
        banner: rows from the top to black out, over the whole width; 0 where they were not measured.
        writing: treatment of writing in the remaining area; empty where the entry has none.
    """

    id: str
    match: Mapping[str, tuple[str, ...]]
    black: tuple[Area, ...] = ()
    keep_regions: bool = False
    banner: int = 0
    writing: str = ""

    def matches(self, values_of: Callable[[str], tuple[str, ...]]) -> bool:
        """Return whether an image belongs to this device, by its values (see `values`)."""
        return all(
            any(fnmatchcase(value, pattern) for value in values_of(keyword) for pattern in patterns)
            for keyword, patterns in self.match.items()
        )

    def blacks(self, ds: Dataset) -> tuple[Area, ...]:
        """Return all areas of an image that are blacked out."""
        return (*self.black, *([(0, 0, ds.Columns, min(self.banner, ds.Rows))] if self.banner else []))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All entries in effect.

    Attributes:
        devices: the entries.
        digest: SHA-256, in hexadecimal digits, of everything that determines the result.
    """

    devices: tuple[Device, ...] = ()
    digest: str = field(default="", compare=False)

    def blackout(self, ds: Dataset) -> Blackout | None:
        """Return the areas to black out in an image before de-identification; None where there are none.

        An object without pixel data, Rows or Columns matches no entry.
        """
        if "PixelData" not in ds or _whole(ds, "Rows") is None or _whole(ds, "Columns") is None:
            return None
        values_of = cache(partial(values, ds))
        fitting = [device for device in self.devices if device.matches(values_of)]
        keep = regions_of(ds) if any(device.keep_regions for device in fitting) else ()
        applied = [device for device in fitting if keep or not device.keep_regions]
        overlays = _overlay_in_pixels(ds)
        if not applied and not overlays:
            return None
        black = {area for device in applied for area in device.blacks(ds)}
        banner = max(1, round(ds.Rows * _BANNER))
        measured = any(left == top == 0 and width == ds.Columns for left, top, width, _ in black)
        if any(top < banner for _, top, _, _ in keep) and not measured:
            black.add((0, 0, ds.Columns, banner))
        treatments = {device.writing for device in applied} - {""} or {BLACK if keep else KEEP}
        return Blackout(
            tuple(device.id for device in applied),
            tuple(sorted(black)),
            tuple(sorted(set(keep))),
            overlays,
            min(treatments, key=_TREATMENTS.index),
        )


def load(path: Path | None = None) -> Catalogue:
    """Load the catalogue of the package, or a file, with the package's entries if the file asks for them.

    Args:
        path: the file; None: the catalogue of the package.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; names the entry and the key.
    """
    shipped = _entries(_read(SHIPPED), SHIPPED.name)
    entries = shipped
    if path is not None:
        content = _read(path)
        with_shipped = content.get("shipped", False)
        if not isinstance(with_shipped, bool):
            raise ConfigError(f"{path.name}: shipped is neither true nor false")
        entries = (shipped if with_shipped else ()) + _entries(content, path.name)
    ids = [device.id for device in entries]
    if twice := next((one for one in ids if ids.count(one) > 1), None):
        raise ConfigError(f"{(path or SHIPPED).name}: the id {twice} stands there twice; name one of them otherwise")
    decides = [
        [d.id, sorted(d.match.items()), d.black, d.keep_regions, d.banner, d.writing, STROKES, DOUBT] for d in entries
    ]
    return Catalogue(entries, hashlib.sha256(json.dumps(decides).encode()).hexdigest())


def values(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the non-empty values of an attribute in capital letters, stripped."""
    value = ds.get(keyword)
    every = value if isinstance(value, MultiValue | list | tuple) else (value,)
    return tuple(text for one in every if one is not None and (text := str(one).strip(" \0").upper()))


def _whole(ds: Dataset, keyword: str) -> int | None:
    """Return the value of an attribute, if it is one integer."""
    value = ds.get(keyword)
    return value if isinstance(value, int) else None


def regions_of(ds: Dataset) -> tuple[Area, ...]:
    """Return the declared regions with an image or a trace; none where one of them exceeds the image."""
    regions = ds.get("SequenceOfUltrasoundRegions")
    keep = []
    for region in regions if isinstance(regions, Sequence) else ():
        if _whole(region, "RegionSpatialFormat") not in _PICTURES:
            continue
        left, top = _whole(region, "RegionLocationMinX0"), _whole(region, "RegionLocationMinY0")
        right, bottom = _whole(region, "RegionLocationMaxX1"), _whole(region, "RegionLocationMaxY1")
        if left is None or top is None or right is None or bottom is None:
            return ()
        # The lower right corner belongs to the region. Some devices give the corner after it.
        if not (0 <= left < right <= ds.Columns and 0 <= top < bottom <= ds.Rows):
            return ()
        keep.append((left, top, min(right + 1, ds.Columns) - left, min(bottom + 1, ds.Rows) - top))
    return tuple(keep)


def _overlay_in_pixels(ds: Dataset) -> bool:
    """Return whether unused bits of the pixels contain an overlay plane (PS3.5 8.1.2; retired, but still in use)."""
    tags = set(ds.keys())  # iterating over the data set would decode all elements
    planes = [tag for tag in tags if tag & 0xFF01FFFF == 0x60000010]
    in_pixels = any(tag + 0x2FF0 not in tags for tag in planes)
    allocated, stored = _whole(ds, "BitsAllocated"), _whole(ds, "BitsStored")
    return in_pixels and allocated is not None and stored is not None and allocated > stored


def _read(path: Path) -> dict[str, Any]:
    """Read the content of a catalogue file."""
    try:
        content = json_of(read_given(path))
    except Unusable as error:
        raise ConfigError(f"{path.name}: {error}; check the catalogue of devices") from None
    if not isinstance(content, dict) or not isinstance(content.get("devices"), list):
        raise ConfigError(f"{path.name}: is not a JSON object with a list of devices")
    _check_keys(content, _FILE_KEYS, path.name)
    return content


def _entries(content: dict[str, Any], name: str) -> tuple[Device, ...]:
    return tuple(_entry(entry, f"{name}: entry {n}") for n, entry in enumerate(content["devices"], 1))


def _entry(entry: Any, where: str) -> Device:
    """Check an entry and return it."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: is not a JSON object")
    _check_keys(entry, _ENTRY_KEYS, where)
    if not isinstance(entry.get("id"), str) or not _ID.fullmatch(entry["id"]) or entry["id"] in (OVERLAY_BITS, WRITING):
        raise ConfigError(f"{where}: id: give small letters, digits, dots and dashes, at most 64, a name of its own")
    where += f" ({entry['id']})"
    match = entry.get("match")
    if not isinstance(match, dict) or not match:
        raise ConfigError(f"{where}: match: give the attributes by which the device's images are recognised")
    patterns = {keyword: _patterns(keyword, wanted, where) for keyword, wanted in match.items()}
    keep = entry.get("keep", "")
    if keep not in ("", REGIONS):
        raise ConfigError(f"{where}: keep: can only be {json.dumps(REGIONS)}")
    writing = entry.get("writing", "")
    if writing not in ("", *_TREATMENTS):
        raise ConfigError(f"{where}: writing: give {', '.join(_TREATMENTS)}, or leave it out")
    for key in ("note", "source", "approved"):
        if not isinstance(entry.get(key, ""), str):
            raise ConfigError(f"{where}: {key}: is no text")
    if not entry.get("approved", "nobody has to").strip():
        raise ConfigError(f"{where}: approved: is empty; look at the proposal's sheet, and say who did and when")
    black, banner = entry.get("black", []), entry.get("banner", 0)
    if not isinstance(black, list) or not (black or keep or banner):
        raise ConfigError(
            f"{where}: black: give areas as [left, top, width, height], at least one unless keep or banner is there"
        )
    areas = tuple(_area(area, match, f"{where}: black: area {n}") for n, area in enumerate(black, 1))
    if "banner" in entry:
        _check_banner(banner, match.get("Rows"), where)
    return Device(entry["id"], patterns, areas, bool(keep), banner, writing)


def _check_banner(banner: Any, rows: Any, where: str) -> None:
    if not _is_whole(rows):
        raise ConfigError(f"{where}: match has to give Rows as a whole number; a banner is of one height of image")
    if not _is_whole(banner) or not 0 < banner < rows:
        raise ConfigError(f"{where}: banner: give the rows that become black from the top, fewer than Rows")


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _patterns(keyword: str, wanted: Any, where: str) -> tuple[str, ...]:
    """Check the patterns of an attribute and return them."""
    if tag_for_keyword(keyword) is None:
        raise ConfigError(
            f"{where}: match: {not_known(keyword, ('Manufacturer', 'ManufacturerModelName', 'Modality'))}"
        )
    every = wanted if isinstance(wanted, list) else [wanted]
    texts = [
        str(one).strip().upper() if isinstance(one, str | int) and not isinstance(one, bool) else "" for one in every
    ]
    if not texts or not all(texts):
        raise ConfigError(
            f"{where}: match: {keyword}: give a text, in which * and ? may stand, a number, or a list of them"
        )
    return tuple(texts)


def _area(area: Any, match: dict[str, Any], where: str) -> Area:
    """Check an area and return it. It must lie within an image of the entry's Rows and Columns."""
    rows, columns = match.get("Rows"), match.get("Columns")
    if not (_is_whole(rows) and _is_whole(columns)):
        raise ConfigError(
            f"{where}: match has to give Rows and Columns as whole numbers; areas are of one size of image"
        )
    whole = isinstance(area, list) and len(area) == 4 and all(type(n) is int for n in area)
    if not whole:
        raise ConfigError(f"{where}: is not [left, top, width, height] in whole pixels")
    left, top, width, height = area
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > columns or top + height > rows:
        raise ConfigError(f"{where}: does not lie within an image of these Rows and Columns")
    return left, top, width, height


def _check_keys(content: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: {not_known(key, known)}")
