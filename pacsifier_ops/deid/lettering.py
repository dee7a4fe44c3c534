"""Whether a frame shows anything that looks like writing: no character is read, strokes are counted.

An image of the body differs from writing: its edges are soft, and where they are hard, they are few. Writing has strokes
lighter or darker than what is on both sides of them, with edges of a pixel or two, of one shade from row to row, many of
them close together. So the strokes of every row are marked, and where a window as high as a line of writing holds many,
there may be writing. The frame is looked at in its own size and in smaller copies, so that large letters are found, too.

The same frame always has the same answer, with the place that decided.
"""

from __future__ import annotations

import numpy as np

#: Left, top, width and height, in pixels from the upper left corner.
Place = tuple[int, int, int, int]

#: How much lighter or darker a stroke is, of 256 grey levels. For each contrast the windows, as rows and columns, for a few
#: letters or for two, and how many pixels of them begin a stroke where there may be writing.
RULES = (
    (64, ((10, 30, 20), (12, 14, 18))),
    (40, ((10, 30, 29), (12, 14, 22))),
)
#: Pixels that a stroke is wide at most; wider ones are found in a smaller copy of the frame.
_STROKE = 6
#: Grey levels by which a stroke may change to the next row.
_SHADE = 16
#: Smaller copies of a frame, each half as large as the one before.
_COPIES = 3
#: Rows and columns that a frame, or a copy of it, has at least.
_SMALLEST = 8


def writing(frame: np.ndarray) -> Place | None:
    """Where a frame looks most like writing; None: it does so nowhere.

    Args:
        frame: rows and columns of grey levels, or rows, columns and red, green and blue; bytes.
    """
    best, place = 1.0, None
    for plane in _planes(frame):
        small, scale = plane, 1
        for _ in range(_COPIES + 1):
            if min(small.shape) < _SMALLEST:
                break
            rise, fall = _changes(small)
            for contrast, windows in RULES:
                up, down = rise >= contrast, fall >= contrast
                for edge, back, dark in ((up, down, 0), (down, up, 255)):
                    rows, columns = _strokes(edge, back, small, dark)
                    for height, width, enough in windows:
                        count, top, left = _most(rows, columns, height, width)
                        if count >= best * enough:
                            best = count / enough
                            place = left * scale, top * scale, width * scale, height * scale
            small, scale = _halved(small), scale * 2
    return place


def _planes(frame: np.ndarray) -> list[np.ndarray]:
    """Grey levels to look at: of colours how white they are, how coloured, and how bright.

    Flow is drawn in strong colours beside one another: it is seldom white, and always coloured.
    """
    if frame.ndim == 2:
        return [frame]
    red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]
    lowest, highest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    colour = highest - lowest
    return [lowest, colour, highest] if colour.any() else [lowest]


def _changes(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much lighter, and how much darker, it is on the right of each pixel than on its left; 0 where it is not."""
    rise, fall = np.zeros_like(plane), np.zeros_like(plane)
    left, right = plane[:, :-2], plane[:, 2:]
    lower = np.minimum(left, right)
    np.subtract(right, lower, out=rise[:, 1:-1])
    np.subtract(left, lower, out=fall[:, 1:-1])
    return rise, fall


def _strokes(edge: np.ndarray, back: np.ndarray, plane: np.ndarray, dark: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns where strokes begin that go on in the row above or below, in the same shade.

    Args:
        edge, back: where a stroke may begin and end.
        dark: 255 for strokes darker than what is beside them, else 0.
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


def _most(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> tuple[int, int, int]:
    """The window with most of some pixels: how many, and its top and left. Windows end at even rows and columns."""
    if not len(rows):
        return 0, 0, 0
    across, down = int(columns.max()) // 2 + 1, int(rows.max()) // 2 + 1
    pairs = np.bincount((rows >> 1) * across + (columns >> 1), minlength=down * across).reshape(down, across)
    sums = np.zeros((down + height // 2, across + width // 2), np.int32)
    sums[height // 2 :, width // 2 :] = pairs  # windows that reach beyond the frame count what of them is in it
    sums = sums.cumsum(axis=0).cumsum(axis=1)
    high, wide = height // 2, width // 2
    counts = np.zeros((down, across), np.int32)
    counts += sums[high:, wide:]
    counts -= sums[:-high, wide:]
    counts -= sums[high:, :-wide]
    counts += sums[:-high, :-wide]
    bottom, right = divmod(int(counts.argmax()), across)
    return int(counts[bottom, right]), max(0, (bottom + 1) * 2 - height), max(0, (right + 1) * 2 - width)


def _halved(plane: np.ndarray) -> np.ndarray:
    """Half as many rows and columns, each the mean of four pixels."""
    rows, columns = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    four = plane[:rows, :columns].astype(np.uint16)
    return ((four[::2, ::2] + four[1::2, ::2] + four[::2, 1::2] + four[1::2, 1::2] + 2) >> 2).astype(np.uint8)
