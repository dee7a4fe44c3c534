"""Contact sheets: frames spread over a series on one picture, for a person who looks for burned-in text.

Text stands out whatever its grey level: half of each shade is the file's window, half the rank of the value among those
of its frame, so that what differs from its surroundings differs on the sheet. Made in a process of its own, since
decoders are foreign code that may crash on a damaged image.
"""

from __future__ import annotations

import io
import json
import os
import resource
import select
import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pacsifier_ops.extract.thumbnails import read_frame, shades

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from pydicom.dataset import Dataset

#: Frames of a series at most, odd so that the middle one is among them; pixels of a frame's longer side.
MOST, SIDE = 9, 512
#: Seconds and bytes of memory for one sheet.
_SECONDS, _MEMORY = 120.0, 4 * 2**30
_ACROSS, _GAP = 3, 4
#: Bytes that tell the length of a sheet.
_PREFIX = 8


class ContactSheets:
    """Makes contact sheets in a process that is kept from one to the next, and begun anew where it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process. Harmless when repeated."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            with suppress(OSError):  # what it had not read yet
                process.communicate()

    def of(self, files: Sequence[Path]) -> bytes | None:
        """PNG with up to nine frames of a series: the first, the middle, the last and some between, in instance order.

        A frame that cannot be shown has a crossed box.

        Returns:
            None where there is nothing to show: no images, or they crash the decoder, or take too long.
        """
        if self._process is not None and self._process.poll() is not None:
            self.close()
        process = self._process = self._process or subprocess.Popen(
            [sys.executable, "-m", "pacsifier_ops.deid.contact"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin
        try:
            process.stdin.write(json.dumps([str(path) for path in files]).encode() + b"\n")
            process.stdin.flush()
            until = time.monotonic() + _SECONDS
            size = int.from_bytes(_received(process, _PREFIX, until), "big")
            return _received(process, size, until) or None
        except (OSError, EOFError):
            self.close()
            return None


def _received(process: subprocess.Popen[bytes], size: int, until: float) -> bytes:
    """So many bytes of what a process says.

    Raises:
        TimeoutError: they do not come in time.
        EOFError: it ends before.
    """
    assert process.stdout
    said = b""
    while len(said) < size:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(process.stdout.fileno(), size - len(said))
        if not piece:
            raise EOFError
        said += piece
    return said


def _sheet(files: Sequence[Path]) -> bytes | None:
    """The contact sheet of a series."""
    from PIL import Image

    chosen = _spread(files)
    if not chosen:
        return None
    tiles = [_tile(path, frame) for path, frame in chosen]
    across = min(_ACROSS, len(tiles))
    width, height = (max(tile.size[axis] for tile in tiles) + _GAP for axis in (0, 1))
    grey = all(tile.mode == "L" for tile in tiles)
    sheet = Image.new(
        "L" if grey else "RGB", (across * width, -(-len(tiles) // across) * height), 64 if grey else (64,) * 3
    )
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % across * width, place // across * height))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _spread(files: Sequence[Path]) -> list[tuple[Path, int]]:
    """Frames spread evenly over all those of a series, from its first to its last."""
    from pydicom import dcmread

    images = []
    for place, path in enumerate(files):
        with suppress(Exception):  # whatever foreign files make the reader raise
            head = dcmread(path, specific_tags=["InstanceNumber", "NumberOfFrames", "Rows"], stop_before_pixels=True)
            if "Rows" in head:
                images.append((int(head.get("InstanceNumber") or 0), place, int(head.get("NumberOfFrames") or 1)))
    images.sort()
    ends = list(accumulate(max(1, frames) for _, _, frames in images))
    if not ends:
        return []
    chosen = []
    for number in sorted({step * (ends[-1] - 1) // (MOST - 1) for step in range(MOST)}):
        image = bisect(ends, number)
        chosen.append((files[images[image][1]], number - (ends[image - 1] if image else 0)))
    return chosen


def _tile(path: Path, frame: int) -> Image:
    """One frame as a picture, not larger than it is; a crossed box if it cannot be shown."""
    from PIL import Image, ImageDraw

    try:
        pixels, head, _ = read_frame(path, frame)
        tile = Image.fromarray(_visible(pixels, head, frame))
        tile.thumbnail((SIDE, SIDE))
    except Exception:  # whatever foreign files make the decoders raise
        tile = Image.new("L", (SIDE // 2, SIDE // 2), 0)
        corner = SIDE // 2 - 1
        ImageDraw.Draw(tile).line([0, 0, corner, corner], 255)
        ImageDraw.Draw(tile).line([0, corner, corner, 0], 255)
    return tile


def _visible(pixels: np.ndarray, head: Dataset, frame: int) -> np.ndarray:
    """Shades in which all that differs is seen to differ."""
    import numpy as np

    windowed = shades(pixels, head, frame)
    if windowed.ndim == 3:
        return windowed
    values = pixels.astype(np.float64)
    low, high = values.min(), values.max()
    levels = ((values - low) * (65535 / max(high - low, 1e-9))).astype(np.uint16)
    counts = np.bincount(levels.ravel(), minlength=65536)
    ranks = ((np.cumsum(counts) - counts / 2) / levels.size)[levels]
    if head.PhotometricInterpretation == "MONOCHROME1":
        ranks = 1 - ranks
    return ((windowed + 255 * ranks) / 2).astype(np.uint8)


def main() -> None:
    """Read the files' paths, a line of JSON for each series, and write their contact sheets, each after its length."""
    with suppress(ValueError, OSError):  # not everywhere may it be set
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # what the decoders print is no part of it
        for line in sys.stdin.buffer:
            sheet = _sheet([Path(path) for path in json.loads(line)]) or b""
            answer.write(len(sheet).to_bytes(_PREFIX, "big") + sheet)
            answer.flush()


if __name__ == "__main__":
    main()
