"""Finds regions of a frame that look like writing. It counts strokes and reads no characters.

Images of the body have soft edges, and few hard ones. Writing has strokes that are lighter or darker than both their
sides, with edges of one or two pixels, of one shade from row to row, and close together. So the strokes of every row
are marked. A window of the height of a line of writing counts as writing where it contains many strokes. The frame is
searched in its own size and in smaller copies, so that large letters are found as well. The result is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pacsifier_ops.deid.devices import DOUBT, STROKES

#: The fraction of the pixels of `STROKES` that suffices next to writing.
_BESIDE = 0.5
#: Maximum width of a stroke in pixels. Wider strokes are found in a smaller copy of the frame.
_STROKE = 6
#: Grey levels by which a stroke may differ in the next row.
_SHADE = 16
#: Number of smaller copies of a frame, each half as large as the one before.
_COPIES = 3
#: Minimum number of rows and columns of a frame or a copy.
_SMALLEST = 8
#: Pixels around a window into which letters may extend; multiplied by the scale in smaller copies.
_AROUND = 6


@dataclass(frozen=True, slots=True)
class Writing:
    """Regions of a frame that look like writing.

    Attributes:
        where: boolean array (rows, columns): pixels that belong to writing, with a margin.
        doubt: column and row of a place that may be writing; None where there is no such place.
    """

    where: np.ndarray
    doubt: tuple[int, int] | None


def writing(frame: np.ndarray) -> Writing:
    """Find regions of a frame that look like writing.

    Args:
        frame: array of bytes: rows and columns of grey levels, or rows, columns and red, green, blue.
    """
    windows = np.concatenate([np.zeros((0, 5)), *(found for plane in _planes(frame) for found in _windows(plane))])
    places, shares = windows[:, :4].astype(np.int64), windows[:, 4]
    where = _covered(places[shares >= 1], frame.shape[:2])
    for _ in range(2 if where.any() else 0):  # the rest of a word, and then the next word
        where = _covered(places[(shares >= 1) | _overlap(places, where)], frame.shape[:2])
    doubtful = places[(shares >= DOUBT) & ~_overlap(places, where)]
    if not len(doubtful):
        return Writing(where, None)
    top, left, bottom, right = doubtful[0]
    return Writing(where, (int(left + right) // 2, int(top + bottom) // 2))


def _planes(frame: np.ndarray) -> list[np.ndarray]:
    """Return the grey planes to search. For a colour frame: its whiteness, its saturation and its brightness.

    Doppler flow has strong colours side by side: it is seldom white and always saturated.
    """
    if frame.ndim == 2:
        return [frame]
    red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]
    lowest, highest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    colour = highest - lowest
    return [lowest, colour, highest] if colour.any() else [lowest]


def _windows(plane: np.ndarray) -> list[np.ndarray]:
    """Return windows with many strokes: top, left, bottom, right, and the count of strokes over the required count."""
    found = []
    for copy in range(_COPIES + 1):
        if min(plane.shape) < _SMALLEST:
            break
        rise, fall = _changes(plane)
        for contrast, windows in STROKES:
            up, down = rise >= contrast, fall >= contrast
            for edge, back, dark in ((up, down, 0), (down, up, 255)):
                rows, columns = _strokes(edge, back, plane, dark)
                if len(rows):
                    found += [_dense_windows(rows, columns, window, 1 << copy) for window in windows]
        plane = _halved(plane)
    return found


def _changes(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much the right neighbour of each pixel is lighter, and darker, than the left one; at least 0."""
    rise, fall = np.zeros_like(plane), np.zeros_like(plane)
    left, right = plane[:, :-2], plane[:, 2:]
    lower = np.minimum(left, right)
    np.subtract(right, lower, out=rise[:, 1:-1])
    np.subtract(left, lower, out=fall[:, 1:-1])
    return rise, fall


def _strokes(edge: np.ndarray, back: np.ndarray, plane: np.ndarray, dark: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns where strokes begin that continue in the row above or below, in the same shade.

    Args:
        edge, back: boolean planes: where a stroke may begin, and where it may end.
        plane: grey levels.
        dark: 255 for strokes that are darker than their sides, else 0.
    """
    begins = edge.copy()
    begins[:, 1:] &= ~edge[:, :-1]
    rows, columns = np.divmod(np.flatnonzero(begins), plane.shape[1])
    last = plane.shape[1] - 1
    ends = np.zeros(len(rows), bool)
    for step in range(1, _STROKE + 1):
        ends |= back[rows, np.minimum(columns + step, last)]
    rows, columns = rows[ends], columns[ends]
    shades = np.zeros(len(rows), np.uint8)
    for step in range(4):
        np.maximum(shades, plane[rows, np.minimum(columns + step, last)] ^ dark, out=shades)
    shades = shades.astype(np.int16)
    edged = np.full((plane.shape[0] + 2, plane.shape[1] + 2), -_SHADE - 1, np.int16)
    edged[rows + 1, columns + 1] = shades
    goes_on = np.zeros(len(rows), bool)
    for down in (0, 2):
        for aside in (0, 1, 2):
            goes_on |= np.abs(edged[rows + down, columns + aside] - shades) <= _SHADE
    return rows[goes_on], columns[goes_on]


def _dense_windows(rows: np.ndarray, columns: np.ndarray, window: tuple[int, int, int], scale: int) -> np.ndarray:
    """Return windows with many of the given pixels, in the form of `_windows`. They end at even rows and columns.

    Args:
        rows, columns: the pixels.
        window: rows, columns, and the number of pixels that is enough.
        scale: pixels of the frame per pixel of the copy, in each direction.
    """
    height, width, enough = window
    high, wide = height // 2, width // 2
    down, across = int(rows.max()) // 2 + high + 1, int(columns.max()) // 2 + wide + 1
    pixels = np.bincount((rows >> 1) * across + (columns >> 1), minlength=down * across).reshape(down, across)
    sums = np.zeros((down + high, across + wide), np.int32)
    np.cumsum(pixels, axis=0, out=sums[high:, wide:])
    np.cumsum(sums, axis=1, out=sums)
    counts = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    bottom, right = np.nonzero(counts >= _BESIDE * enough)
    bottoms, rights = 2 * bottom + 2, 2 * right + 2
    around = _AROUND * scale
    return np.stack(
        [
            (bottoms - height) * scale - around // 2,
            (rights - width) * scale - around,
            bottoms * scale + around // 2,
            rights * scale + around,
            counts[bottom, right] / enough,
        ],
        axis=1,
    )


def _covered(places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a boolean plane of the pixels that lie in one of the rectangles."""
    edges = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
    top, left, bottom, right = _within(places, shape)
    for y, x, step in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(edges, (y, x), step)
    return edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0


def _overlap(places: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return which rectangles overlap a boolean plane."""
    sums = np.zeros((where.shape[0] + 1, where.shape[1] + 1), np.int32)
    np.cumsum(where, axis=0, out=sums[1:, 1:])
    np.cumsum(sums, axis=1, out=sums)
    top, left, bottom, right = _within(places, where.shape)
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] > 0


def _within(places: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Clip rectangles to a frame: top, left, bottom and right."""
    rows, columns = places[:, 0::2].clip(0, shape[0]), places[:, 1::2].clip(0, shape[1])
    return rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]


def _halved(plane: np.ndarray) -> np.ndarray:
    """Halve rows and columns; each pixel becomes the mean of four."""
    rows, columns = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    four = plane[:rows, :columns].astype(np.uint16)
    return ((four[::2, ::2] + four[1::2, ::2] + four[::2, 1::2] + four[1::2, 1::2] + 2) >> 2).astype(np.uint8)
