"""The inventory of a data set: what its files say of themselves, so that it can be chosen from without opening one.

| file                       | a row is                                                                              |
|----------------------------|---------------------------------------------------------------------------------------|
| series.csv, series.parquet | a series: technique, counts, and whether its slices are all there, see `slices`        |
| instances.parquet          | an object: path, digest, technique, and place                                          |

The values are those of the de-identified files (see `technique`). A value of a series is there where all its objects
have the same; the column `Varying` names the others, which the table of instances has.

What a file says is kept in the state of the tree, by the worker that has written it; so few are read at all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import ascii_json, private_handle, read_appended
from pacsifier_ops.base.tables import BOOLEAN, INTEGER, NUMBER, TEXT, Columns, open_table
from pacsifier_ops.deid import slices, technique
from pacsifier_ops.deid.run import DEIDENTIFIED, Settled, Store, series_of
from pacsifier_ops.deid.slices import Slices
from pacsifier_ops.deid.technique import BOTH, Head, Value
from pacsifier_ops.state.ledger import digest

SERIES, INSTANCES = "series.csv", "instances.parquet"
#: All files of the inventory.
TABLES = (SERIES, "series.parquet", INSTANCES)

#: Columns of the table of series before and after those of `technique`, with what they mean.
_BEFORE = {
    "Folder": (TEXT, "folder of the series in the data set"),
    "Instances": (INTEGER, "number of objects"),
    "Images": (INTEGER, "number of images: frames of multi-frame objects count one by one"),
    "MB": (NUMBER, "size of its files, in millions of bytes"),
}
_AFTER = {
    "Varying": (TEXT, "columns of which the objects of the series have different values; their cells are empty"),
    "Localizer": (BOOLEAN, "it is a scout, by ImageType or by a word in its descriptions"),
    "Orientations": (INTEGER, "number of different orientations of its images; 0: none has one"),
    "Slices": (INTEGER, "number of places in the stack of parallel slices"),
    "Spacing": (NUMBER, "mm between neighbouring slices along the normal, the median"),
    "Tilt": (NUMBER, "degrees between the normal and the line through the slices"),
    "Volumes": (INTEGER, "largest number of images at one place, without duplicates"),
    "MissingSlices": (INTEGER, "number of slices that are missing between others"),
    "UnevenSpacing": (BOOLEAN, "distances differ, and not for single missing slices"),
    "Duplicates": (INTEGER, "number of second images of the same place, time, echo, …"),
    "IncompleteVolumes": (BOOLEAN, "some places have fewer images than others"),
    "VaryingSize": (BOOLEAN, "Rows, Columns or the spacing of pixels differ"),
    "VaryingOrientation": (BOOLEAN, "images have different orientations"),
    "Tilted": (BOOLEAN, "Tilt is above half a degree"),
    "NumberGaps": (INTEGER, "numbers that are missing between the first and the last InstanceNumber"),
}
#: Columns of the table of instances before and after those of `technique`.
_OBJECT = {
    "Path": (TEXT, "path of the file in the data set"),
    "Folder": (TEXT, "folder of its series"),
    "MB": (NUMBER, "size of the file, in millions of bytes"),
    "SHA256": (TEXT, "digest of the file, hexadecimal"),
}
_PLACE = {
    "SlicePosition": (NUMBER, "mm along the normal; empty outside the stack, and for multi-frame objects"),
    "Duplicate": (BOOLEAN, "it is a second image of the same place, time, echo, …"),
}
_OF_SIZE = frozenset(("Rows", "Columns", "RowSpacing", "ColumnSpacing"))
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName")

#: Rows of the wide table that are in memory at once.
_BATCH = 10_000
#: Largest range of InstanceNumber of which gaps are counted: beyond, numbers are made of dates and the like.
_MOST_NUMBERS = 1_000_000


def series_columns() -> dict[str, tuple[str, str]]:
    """Return type and meaning of the columns of the table of series, by name."""
    return {**_BEFORE, **_technique(technique.SERIES), **_AFTER}


def instance_columns() -> dict[str, tuple[str, str]]:
    """Return type and meaning of the columns of the table of instances, by name."""
    return {**_OBJECT, **_technique(technique.INSTANCES), **_PLACE}


def _technique(where: str) -> dict[str, tuple[str, str]]:
    return {one.name: (one.kind, one.meaning) for one in technique.columns() if one.where in (where, BOTH)}


def _types(columns: dict[str, tuple[str, str]]) -> Columns:
    return {name: kind for name, (kind, _) in columns.items()}


@dataclass
class Counts:
    """What a data set holds, in counts, for its card.

    Attributes:
        patients: their pseudonyms.
        studies: their UIDs.
        series, instances, images: their numbers; megabytes: size of the objects, in millions of bytes.
        modalities, devices, years: number of series and of objects by modality, by manufacturer and model, and by year
            of StudyDate; empty texts where the files do not say.
    """

    patients: set[str] = field(default_factory=set)
    studies: set[str] = field(default_factory=set)
    series: int = 0
    instances: int = 0
    images: int = 0
    megabytes: float = 0
    modalities: dict[str, Counter[str]] = field(default_factory=dict)
    devices: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    years: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, row: dict[str, Any]) -> None:
        """Add a series, by its row."""
        count = Counter(series=1, instances=row["Instances"])
        self.series, self.instances = self.series + 1, self.instances + row["Instances"]
        self.images, self.megabytes = self.images + row["Images"], self.megabytes + row["MB"]
        self.patients.add(row["PatientID"] or "")
        self.studies.add(row["StudyInstanceUID"] or "")
        device = (row["Manufacturer"] or "", row["ManufacturerModelName"] or "")
        year = (row["StudyDate"] or "")[:4]
        self.modalities.setdefault(row["Modality"] or "", Counter()).update(count)
        self.devices.setdefault(device, Counter()).update(count)
        self.years.setdefault(year, Counter()).update(count)


def write(store: Store, base: Path, folder: Path, mode: int, scratch: Path) -> Counts:
    """Write the tables of a data set. Equal objects give equal bytes, in whichever order they were made.

    Args:
        store: what is known of the data set.
        base: folder of its objects.
        folder: where the tables go.
        mode, scratch: see `base.tables.write_table`.

    Raises:
        OSError: a table, or the state root, cannot be written.
    """
    counts = Counts()
    with ExitStack() as stack:
        of_series, of_instances = _types(series_columns()), _types(instance_columns())
        add_series = stack.enter_context(open_table(folder / SERIES, of_series, mode, scratch, _BATCH))
        add_instance = stack.enter_context(open_table(folder / INSTANCES, of_instances, mode, scratch, _BATCH))
        for target, key in sorted((source.target, source.key) for source in series_of(store)):
            items = [item for item in store.settled(key).values() if item.outcome == DEIDENTIFIED]
            if not items:
                continue
            for item in items:
                with suppress(OSError):  # it is gone, which the account says
                    with_digest(store, key, item, base)
            row, rows = _described(target, items, heads_of(store, base, key, items))
            counts.add(row)
            add_series([row[name] for name in of_series])
            for line in rows:
                add_instance(line)
    return counts


# What the heads of files say


def keep_heads(
    store: Store, base: Path, key: str, items: Iterable[Settled], known: Mapping[str, Head] = {}
) -> dict[str, Head]:
    """Keep the heads of results. Return them by new UID; those that cannot be read are left out.

    Args:
        store: what is known of the data set.
        base: folder of its objects.
        key: of the series.
        items: results of this series.
        known: heads by new UID; the others are read.

    Raises:
        OSError: the state root cannot be written.
    """
    heads = {}
    lines = []
    for item in items:
        with suppress(OSError, ValueError):
            head = heads[item.new_uid] = known.get(item.new_uid) or technique.read(base / item.file)
            kept = [technique.version(), item.new_uid, _stamp(item), technique.as_kept(head)]
            lines.append(ascii_json(kept).encode() + b"\n")
    if lines:
        # The line end comes first, so that a line that was cut off does not damage the next one.
        handle = private_handle(store.heads(key), os.O_WRONLY | os.O_APPEND)
        with os.fdopen(handle, "ab", buffering=0) as stream:
            data = b"\n" + b"".join(lines)
            while data:
                data = data[stream.write(data) :]
    return heads


def images_of(store: Store, base: Path, key: str, known: Mapping[str, Head] = {}) -> list[tuple[int, Path, int]]:
    """Return InstanceNumber, file and number of frames of the images of a series.

    A file of which nothing is known counts as an image, so that somebody looks at it.

    Args:
        store, base, key: see `keep_heads`.
        known: heads by new UID, as they are now.

    Raises:
        OSError: the state root cannot be written.
    """
    items = [item for item in store.settled(key).values() if item.outcome == DEIDENTIFIED]
    heads = {**known, **heads_of(store, base, key, [item for item in items if item.new_uid not in known])}
    number, rows = (_place_of(name) for name in ("InstanceNumber", "Rows"))
    images = []
    for item in items:
        head = heads.get(item.new_uid)
        if head is None or head.values[rows] is not None:
            told = head.values[number] if head else None
            images.append((told if isinstance(told, int) else 0, base / item.file, head.images if head else 1))
    return images


def heads_of(store: Store, base: Path, key: str, items: Sequence[Settled]) -> dict[str, Head]:
    """Return the heads of results, by new UID. Those that are not kept are read; see `keep_heads`."""
    wanted = {item.new_uid: _stamp(item) for item in items}
    if not wanted:
        return {}
    heads: dict[str, Head] = {}
    alike: dict[Any, Any] = {}  # slices of a series have most of their values in common
    with suppress(FileNotFoundError):
        for line in read_appended(store.heads(key)):
            with suppress(ValueError, TypeError):
                version, uid, stamp, kept = line
                if version == technique.version() and wanted.get(uid) == stamp:
                    kept[0] = [alike.setdefault((place, value), value) for place, value in enumerate(kept[0])]
                    heads[uid] = technique.of_kept(kept)
    return heads | keep_heads(store, base, key, (item for item in items if item.new_uid not in heads))


@cache
def _place_of(name: str) -> int:
    """Return the place of a column among the values of a head."""
    return [column.name for column in technique.columns()].index(name)


def _stamp(item: Settled) -> str:
    """Return what changes with the content of a result. Earlier versions took no digest."""
    return item.sha256 or f"{item.written} {item.written_ns}"


# Rows


def _described(
    target: str, items: Sequence[Settled], heads: dict[str, Head]
) -> tuple[dict[str, Any], Iterator[list[object]]]:
    """Return the row of a series, by column, and those of its objects.

    Args:
        target: folder of the series.
        items: its objects.
        heads: by new UID.
    """
    columns = technique.columns()
    number = _place_of("InstanceNumber")
    unread = technique.unknown()
    pairs = [(item, heads.get(item.new_uid, unread)) for item in items]

    def order(pair: tuple[Settled, Head]) -> tuple[float, str]:
        value = pair[1].values[number]
        return value if isinstance(value, int) else float("inf"), pair[0].new_uid

    pairs.sort(key=order)
    found: dict[str, Value] = {}
    varying = []
    for place, column in enumerate(columns):
        values = {head.values[place] for _, head in pairs}
        found[column.name] = next(iter(values)) if len(values) == 1 else None
        if len(values) > 1 and column.where != technique.INSTANCES:
            varying.append(column.name)
    owner = [index for index, (_, head) in enumerate(pairs) for _ in head.frames]
    frames = [frame for _, head in pairs for frame in head.frames]
    numbers = [pairs[index][1].values[number] if len(pairs[index][1].frames) == 1 else None for index in owner]
    judged = slices.judge(frames, numbers)
    image_types = {str(head.values[_place_of("ImageType")] or "") for _, head in pairs}
    texts = [str(found[name] or "") for name in _DESCRIPTIONS]
    localizer = all(slices.is_localizer(image_type, texts) for image_type in image_types)
    row = {
        **found,
        "Folder": target,
        "Instances": len(pairs),
        "Images": sum(head.images for _, head in pairs),
        "MB": round(sum(item.written for item, _ in pairs) / 1e6, 3),
        "Varying": " ".join(varying),
        "Localizer": localizer,
        "VaryingSize": not _OF_SIZE.isdisjoint(varying),
        "NumberGaps": _number_gaps(head.values[number] for _, head in pairs),
        **_flags(judged, localizer),
    }
    return row, _rows(target, pairs, dict(zip(owner, judged.positions, strict=True)), {owner[i] for i in judged.copies})


def _flags(judged: Slices, localizer: bool) -> dict[str, object]:
    flags = {
        "Slices": judged.slices,
        "Spacing": judged.spacing,
        "Tilt": judged.tilt,
        "Volumes": judged.volumes,
        "MissingSlices": judged.missing,
        "UnevenSpacing": judged.uneven,
        "Duplicates": judged.duplicates,
        "IncompleteVolumes": judged.incomplete,
        "Tilted": None if judged.tilt is None else judged.tilt > slices.TILTED,
    }
    # The images of a localizer are no volume, and nothing is missing between them.
    shown: dict[str, object] = dict.fromkeys(flags) if localizer else {**flags}
    shown["Orientations"] = judged.orientations
    shown["VaryingOrientation"] = judged.orientations > 1 if judged.orientations else None
    return shown


def _rows(
    target: str, pairs: Sequence[tuple[Settled, Head]], positions: dict[int, float | None], copies: set[int]
) -> Iterator[list[object]]:
    shown = [place for place, one in enumerate(technique.columns()) if one.where in (technique.INSTANCES, BOTH)]
    for index, (item, head) in enumerate(pairs):
        place = positions.get(index) if len(head.frames) == 1 else None
        copy = index in copies if head.frames else None
        values = [head.values[place] for place in shown]
        yield [item.file, target, round(item.written / 1e6, 3), item.sha256, *values, place, copy]


def _number_gaps(numbers: Iterable[Value]) -> int | None:
    there = {number for number in numbers if isinstance(number, int)}
    if len(there) < 2 or (among := max(there) - min(there) + 1) > _MOST_NUMBERS:
        return None
    return among - len(there)


def with_digest(store: Store, key: str, item: Settled, base: Path) -> Settled:
    """Return a result with its SHA-256, of which earlier versions took none.

    Raises:
        OSError: it cannot be read, or the state root not be written.
    """
    if item.sha256:
        return item
    item.sha256 = digest(base / item.file)
    store.settle(key, item, durable=False)
    return item
