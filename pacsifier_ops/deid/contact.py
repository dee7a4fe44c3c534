"""Contact sheets: several frames of a series in one picture, for a reviewer who looks for burned-in text.

Text is visible at any grey level. Half of each shade comes from the file's window, half from the rank of the value in
its frame, so that different values differ on the sheet. A separate process makes the sheets, because decoders are
native code that may crash on a damaged image.
"""

from __future__ import annotations

import io
from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.base.apart import Apart, serve
from pacsifier_ops.extract.thumbnails import Levels, in_color, read_frame

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from pydicom.dataset import Dataset

#: Maximum number of frames of a series, odd to include the middle one; longer side of a frame in pixels.
MOST, SIDE = 9, 512
#: Limits for one sheet: seconds, and bytes of memory.
_SECONDS, _MEMORY = 120.0, 4 * 2**30
_ACROSS, _GAP = 3, 4


class ContactSheets(Apart):
    """Makes contact sheets in a separate process, see `Apart`."""

    def __init__(self) -> None:
        super().__init__("pacsifier_ops.deid.contact", _SECONDS)

    def of(self, images: Iterable[tuple[int, Path, int]]) -> bytes | None:
        """Return a PNG with up to nine frames of a series, evenly spread in instance order.

        A crossed box replaces a frame that cannot be shown.

        Args:
            images: InstanceNumber, file and number of frames of each image.

        Returns:
            The PNG; None where there are no images, or they crash the decoder, or take too long.
        """
        chosen = _spread(images)
        return self.ask([[str(path), frame] for path, frame in chosen]) if chosen else None


def _spread(images: Iterable[tuple[int, Path, int]]) -> list[tuple[Path, int]]:
    """Choose frames spread evenly over those of a series, from the first to the last."""
    images = sorted(images)
    ends = list(accumulate(frames for _, _, frames in images))
    if not ends:
        return []
    chosen = []
    for number in sorted({step * (ends[-1] - 1) // (MOST - 1) for step in range(MOST)}):
        image = bisect(ends, number)
        chosen.append((images[image][1], number - (ends[image - 1] if image else 0)))
    return chosen


def _sheet(chosen: Sequence[tuple[Path, int]]) -> bytes:
    """Make the contact sheet of these frames."""
    from PIL import Image

    tiles = [_tile(path, frame) for path, frame in chosen]
    across = min(_ACROSS, len(tiles))
    width, height = (max(tile.size[axis] for tile in tiles) + _GAP for axis in (0, 1))
    grey = all(tile.mode == "L" for tile in tiles)
    sheet = Image.new(
        "L" if grey else "RGB", (across * width, -(-len(tiles) // across) * height), 64 if grey else (64,) * 3
    )
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % across * width, place // across * height))
    if grey:
        # As a palette: the library then tries no filters on each line, which takes longer than to compress it.
        sheet.putpalette([shade for shade in range(256) for _ in range(3)])
    stream = io.BytesIO()
    sheet.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _tile(path: Path, frame: int) -> Image:
    """Render one frame, not enlarged; a crossed box if it cannot be shown."""
    from PIL import Image, ImageDraw

    try:
        pixels, head, _ = read_frame(path, frame)
        tile = Image.fromarray(_visible(pixels, head, frame))
        tile.thumbnail((SIDE, SIDE))
    except Exception:  # decoders raise many types of exception on damaged files
        tile = Image.new("L", (SIDE // 2, SIDE // 2), 0)
        corner = SIDE // 2 - 1
        ImageDraw.Draw(tile).line([0, 0, corner, corner], 255)
        ImageDraw.Draw(tile).line([0, corner, corner, 0], 255)
    return tile


def _visible(pixels: np.ndarray, head: Dataset, frame: int) -> np.ndarray:
    """Return shades in which different values look different."""
    import numpy as np

    pixels = in_color(pixels, head)
    if pixels.ndim == 3:
        return pixels
    levels = Levels.of(pixels, head)
    ranks = levels.ranks()
    if head.PhotometricInterpretation == "MONOCHROME1":
        ranks = 1 - ranks
    return ((levels.shaded(head, frame) + 255 * ranks) / 2).astype(np.uint8).take(levels.place)


if __name__ == "__main__":
    # All that a sheet needs, while the process that asks loads its own.
    import PIL.PngImagePlugin  # noqa: F401
    import pydicom.pixels  # noqa: F401

    serve(lambda chosen: _sheet([(Path(path), frame) for path, frame in chosen]), _MEMORY)
