"""Thumbnails: a small picture of an image in the middle of each series, for the page of a run.

They are made after the run, for the first series, within a time limit. Decoders can crash on a damaged image, so they
run in a separate process. A series that cannot be decoded has no thumbnail.
"""

from __future__ import annotations

import io
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.files import private_folder, read_json, storage_errors, write_atomic, write_json
from pacsifier_ops.base.start import decoding
from pacsifier_ops.state.tree import NAMINGS, names_object

if TYPE_CHECKING:
    import numpy as np
    from pydicom.dataset import Dataset

    from pacsifier_ops.runs.accounts import RunAccount
    from pacsifier_ops.runs.folder import Run

#: Maximum number of thumbnails, pixels of the longer side, and seconds for all of them.
MOST, SIDE, SECONDS = 200, 96, 60.0
#: Maximum number of pixels of a frame, and bytes of memory of the process that decodes it.
_LARGEST_FRAME, _MEMORY = 100_000_000, 4 * 2**30
#: Number of images of a series that are read to find its middle.
_SAMPLE = 25


def make_thumbnails(run: Run, account: RunAccount) -> int:
    """Write `thumbnails/<series number>.png` into the run's folder, and `thumbnails.json`, which lists them.

    Args:
        run: the run.
        account: its account.

    Returns:
        The number of thumbnails.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    root = Path(account.folder)
    series = {s.number: s for s in account.series[:MOST] if s.delivered and s.folder}
    with storage_errors("the state root"):
        folder = private_folder(run.folder / "thumbnails")
        for old in folder.iterdir():
            old.unlink()
        _in_own_process([(number, root / s.folder) for number, s in series.items()], folder)
        made = [{"number": n, "modality": s.modality} for n, s in series.items() if (folder / f"{n}.png").exists()]
        write_json(run.folder / "thumbnails.json", made)
    return len(made)


def thumbnails_of(run: Run) -> dict[int, str]:
    """Return the modalities of the series with a thumbnail, by series number."""
    try:
        return {item["number"]: item["modality"] for item in read_json(run.folder / "thumbnails.json")}
    except FileNotFoundError:
        return {}


def thumbnail(folder: Path) -> bytes | None:
    """Return a PNG of an image in the middle of the series in `folder`; None if it cannot be decoded."""
    with suppress(Exception):  # decoders raise many types for damaged files
        if path := _middle(folder):
            return _png(path)
    return None


def _in_own_process(todo: list[tuple[int, Path]], target: Path) -> None:
    """Make thumbnails in a separate process; skip a series that crashes it, and end after SECONDS.

    Args:
        todo: number and folder of each series.
        target: folder of the thumbnails.
    """
    until = time.monotonic() + SECONDS
    while todo and (left := until - time.monotonic()) > 0:
        command = [*decoding("pacsifier_ops.extract.thumbnails"), str(target)]
        lines = "".join(json.dumps([number, str(folder)]) + "\n" for number, folder in todo)
        try:
            ended = subprocess.run(
                command, input=lines, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=left
            )
        except subprocess.TimeoutExpired:
            return
        if ended.returncode >= 0:
            return
        todo = todo[max(1, len(ended.stdout.splitlines())) :]  # killed by a signal: continue after the series it began


def _middle(folder: Path) -> Path | None:
    """Return the image with the median InstanceNumber of up to _SAMPLE images from all over the folder."""
    from pydicom import dcmread

    files = [path for path in folder.glob("*") if any(names_object(path.name, naming) for naming in NAMINGS)]
    files.sort(key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    spread = files[:: -(-len(files) // _SAMPLE) or 1]
    heads = ((dcmread(path, specific_tags=["InstanceNumber"], stop_before_pixels=True), path) for path in spread)
    numbered = sorted((int(head.get("InstanceNumber") or 0), place, path) for place, (head, path) in enumerate(heads))
    return numbered[len(numbered) // 2][2] if numbered else None


def _png(path: Path) -> bytes:
    """Return the middle frame of an image as a PNG, scaled down."""
    from PIL import Image

    shown = Image.fromarray(shades(*read_frame(path)))
    shown.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    shown.save(stream, "PNG")
    return stream.getvalue()


def read_frame(path: Path, frame: int | None = None) -> tuple[np.ndarray, Dataset, int]:
    """Return the pixels of a frame, the attributes of the image, and the index of the frame.

    Args:
        path: a DICOM file.
        frame: index of the frame, from 0; None: the middle one.

    Returns:
        The pixels have the shape (rows, columns), or (rows, columns, samples) for color.

    Raises:
        ValueError: the frame is too large. Decoders raise other errors for damaged files.
    """
    from pydicom import dcmread
    from pydicom.pixels import pixel_array

    head = dcmread(path, stop_before_pixels=True)
    if head.Rows * head.Columns > _LARGEST_FRAME:
        raise ValueError("the frame is too large")
    index = int(head.get("NumberOfFrames") or 1) // 2 if frame is None else frame
    return pixel_array(path, index=index), head, index


def shades(pixels: np.ndarray, head: Dataset, frame: int) -> np.ndarray:
    """Return pixels as bytes for display.

    Grey levels are mapped by the window of the image (PS3.3 C.11.2.1.2). If the result has nearly no contrast, they are
    mapped by their own range.

    Args:
        pixels, head, frame: see `read_frame`.
    """
    import numpy as np

    pixels = in_color(pixels, head)
    if pixels.ndim == 3:
        return pixels
    levels = Levels.of(pixels, head)
    return levels.shaded(head, frame).astype(np.uint8).take(levels.place)


@dataclass(frozen=True)
class Levels:
    """The grey levels of a frame, each once: a frame has far fewer than pixels.

    Attributes:
        values: the levels after the modality LUT (PS3.3 C.11.1), in the order of the stored values.
        counts: number of pixels of each level; 0 for some that do not occur.
        place: for each pixel, the index of its level. `table[levels.place]` is a picture.
    """

    values: np.ndarray
    counts: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray, head: Dataset) -> Levels:
        """Return the levels of a grey frame, see `read_frame`."""
        import numpy as np
        from pydicom.pixels import apply_modality_lut

        low, high = (pixels.min(), pixels.max()) if pixels.dtype.kind in "iu" else (0, 0)
        if pixels.dtype.kind in "iu" and int(high) - int(low) < 2**16:
            place = (pixels - low).astype(np.uint16)  # where it overflows, the lower 16 bits are right
            counts = np.bincount(place.ravel())
            stored = (np.arange(len(counts)) + int(low)).astype(pixels.dtype)
        else:
            stored, place, counts = np.unique(pixels, return_inverse=True, return_counts=True)
        values = np.nan_to_num(apply_modality_lut(stored, head).astype(np.float32))
        return cls(values, counts, place.reshape(pixels.shape))

    def shaded(self, head: Dataset, frame: int) -> np.ndarray:
        """Return the shade of each level on a display, from 0 (black) to 255."""
        shades = _shaded(self.values, *self.display_range(head, frame))
        return (1 - shades if head.PhotometricInterpretation == "MONOCHROME1" else shades) * 255

    def ranks(self) -> np.ndarray:
        """Return the share of pixels, from 0 to 1, whose stored values are below that of each level."""
        import numpy as np

        ranks: np.ndarray = (np.cumsum(self.counts) - self.counts / 2) / self.place.size
        return ranks

    def display_range(self, head: Dataset, frame: int) -> tuple[float, float]:
        """Return the values that are shown as black and as white (of MONOCHROME1: as white and as black)."""
        low = high = 0.0
        for low, high in chain(_window(head, frame), self._ranges()):
            if self._deviation(_shaded(self.values, low, high)) > 0.02:
                break
        return float(low), float(high)

    def _ranges(self) -> Iterator[tuple[float, float]]:
        """Yield the values with 1 % of the pixels below and above; then the least and the largest."""
        import numpy as np

        order = np.argsort(self.values, kind="stable")
        below = np.cumsum(self.counts[order])
        for shares in ((0.01, 0.99), (0.0, 1.0)):
            places = (np.clip(np.ceil(share * below[-1]), 1, None) for share in shares)
            low, high = (float(self.values[order[np.searchsorted(below, place)]]) for place in places)
            yield low, high

    def _deviation(self, shades: np.ndarray) -> float:
        """Return the standard deviation of a quantity over the pixels."""
        import numpy as np

        mean = np.average(shades, weights=self.counts)
        return float(np.sqrt(np.average((shades - mean) ** 2, weights=self.counts)))


def in_color(pixels: np.ndarray, head: Dataset) -> np.ndarray:
    """Return the pixels of a color image as bytes; those of other images as they are. See `read_frame`."""
    import numpy as np
    from pydicom.pixels import apply_color_lut

    if head.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, head)
    if pixels.ndim == 3:
        return (pixels >> 8 if pixels.dtype.itemsize > 1 else pixels).astype(np.uint8)
    return pixels


def _shaded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values from 0 (`low` and below) to 1 (`high` and above)."""
    import numpy as np

    return np.clip((values - low) / max(high - low, 1e-6), 0, 1)


def _window(head: Dataset, frame: int) -> Iterable[tuple[float, float]]:
    """Yield lower and upper end of each first window (PS3.3 C.11.2.1.2): of the image, of the frame, of all frames."""
    places: list[Any] = [head]
    for name, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = head.get(name) or []
        places += groups[place].get("FrameVOILUTSequence") or [] if place < len(groups) else []
    for item in places:
        if "WindowCenter" in item and "WindowWidth" in item:
            center, width = (_first(item[name].value) for name in ("WindowCenter", "WindowWidth"))
            yield center - width / 2, center + width / 2


def _first(value: Any) -> float:
    """Return the first value of an element with one or several values."""
    return float(value if isinstance(value, int | float) else value[0])


def main(argv: list[str], lines: Iterable[str]) -> None:
    """Make the thumbnails of the series that the lines name.

    The number of each series is printed before it is decoded, so the caller knows where a crash happened.
    """
    with suppress(ValueError, OSError):  # not all systems allow to set the limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in lines:
        number, folder = json.loads(line)
        print(number, flush=True)
        if picture := thumbnail(Path(folder)):
            write_atomic(Path(argv[0]) / f"{number}.png", picture)


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin)
