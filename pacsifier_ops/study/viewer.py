"""Frames of released images, for the viewer of the page of a run.

What is shown is named by the run's own list of released files: by the number of a series, of a file in it, and of a
frame. Another process opens and decodes the file (see `base.apart`): it may be damaged on purpose. Attributes beside
those that the display needs do not leave it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.apart import Apart, serve
from pacsifier_ops.base.errors import InputError, PacsifierError, StorageError
from pacsifier_ops.base.given import open_below
from pacsifier_ops.extract.thumbnails import Levels, in_color, read_frame
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.approved import lies_in
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.release import RELEASED_FOLDER, folder_of, listing_of, released_of, stock_of

if TYPE_CHECKING:
    import numpy as np
    from pydicom.dataset import Dataset

#: Maximum size of a frame as it is sent, in bytes. Of a larger one, only every second, third, … row and column is.
_LARGEST = 2**24
#: Limits of the process: seconds for an answer, bytes of memory, seconds without a request after which it ends.
_SECONDS, _MEMORY, _IDLE = 20.0, 4 * 2**30, 600
#: Seconds that a request waits for those before it.
_PATIENCE = 30.0

#: Maximum number of files that one request looks through: a series may have more than can be read in _SECONDS, and
#: people who look at other images have their turn in between.
_PORTION = 1000
#: Maximum number of frames of a file that are offered; a file may say any number.
_MOST_FRAMES = 100_000
#: InstanceNumber, NumberOfFrames, Rows.
_NUMBER, _FRAMES, _ROWS = 0x00200013, 0x00280008, 0x00280010
_UNSHOWN = "the image cannot be shown: it is gone, has changed, is damaged, or of a kind that no decoder knows"


@dataclass(frozen=True)
class ReleasedSeries:
    """A series of a released data set.

    Attributes:
        number: its number in the run, from 1.
        folder: path of its folder below that of the data set.
        files: number of its files.
        start: position of its first line in the list of released files, in bytes.
    """

    number: int
    folder: str
    files: int
    start: int


def series_of(run: Run) -> Sequence[ReleasedSeries]:
    """Return the series that a run of a study has released, in the order of their folders.

    There are none before the release, and where this process does not see the data set.
    """
    try:
        released, study = released_of(run), Study.of(run)
        if released is None or not released.files or stock_of(run).digest != released.digest:
            return ()
        if not lies_in(folder_of(study, RELEASED_FOLDER)).is_dir():
            return ()
        status = listing_of(run).stat()
    except (FileNotFoundError, PacsifierError):
        return ()
    return _series(listing_of(run), status.st_mtime_ns, status.st_size)


@lru_cache(8)
def _series(path: Path, mtime_ns: int, size: int) -> tuple[ReleasedSeries, ...]:
    """Return the series in a list of files. The files of a folder follow each other in it."""
    places: list[tuple[str, int]] = []
    with path.open("rb") as lines:
        at = 0
        for line in lines:
            name = json.loads(line)["path"]
            if name.endswith(".dcm"):
                places.append((name.rpartition("/")[0], at))
            at += len(line)
    groups = ((folder, list(files)) for folder, files in groupby(places, key=lambda place: place[0]))
    return tuple(
        ReleasedSeries(number, folder, len(files), files[0][1]) for number, (folder, files) in enumerate(groups, 1)
    )


def images_of(run: Run, number: int) -> list[tuple[int, int]]:
    """Return the images of a series in instance order: the number of the file in the series, and of its frames.

    Raises:
        InputError: the run has not released such a series, or it takes too long to look through it.
        StorageError: many people are looking at images.
    """
    root, files = _files(run, number)
    found: list[list[int]] = []
    for start in range(0, len(files), _PORTION):
        names = [file["path"] for file in files[start : start + _PORTION]]
        answer = _asked({"root": str(root), "files": names, "start": start})
        if answer is None:
            raise InputError("the images of this series could not be looked through in time")
        found += json.loads(answer)
    return [(int(place), min(int(frames), _MOST_FRAMES)) for _, place, frames in sorted(found)]


def frame_of(run: Run, number: int, file: int, frame: int) -> bytes:
    """Return a frame for display: a line of JSON (see `_for_display`), and the values of its pixels.

    Args:
        number: number of the series, from 1.
        file: number of the file in the series, from 0.
        frame: number of the frame in the file, from 0.

    Raises:
        InputError: the run has not released such an image, or it cannot be shown.
        StorageError: many people are looking at images.
    """
    root, files = _files(run, number)
    if not 0 <= file < len(files) or frame < 0:
        raise InputError("this run has released no such image")
    request = {"root": str(root), "file": files[file]["path"], "size": files[file]["size"], "frame": frame}
    if root != folder_of(Study.of(run), RELEASED_FOLDER):  # the files of a folder that work goes on in may change
        request["sha256"] = files[file]["sha256"]
    answer = _asked(request)
    if answer is None:
        raise InputError(_UNSHOWN)
    return answer


def _files(run: Run, number: int) -> tuple[Path, list[dict[str, Any]]]:
    """Return the folder of the data set, and path and size of the files of a series.

    Raises:
        InputError: the run has not released such a series.
    """
    series = series_of(run)
    if not 1 <= number <= len(series):
        raise InputError("this run has released no such series")
    path = listing_of(run)
    status = path.stat()
    files = _lines(path, status.st_mtime_ns, status.st_size, series[number - 1])
    return lies_in(folder_of(Study.of(run), RELEASED_FOLDER)), files


@lru_cache(8)
def _lines(path: Path, mtime_ns: int, size: int, series: ReleasedSeries) -> list[dict[str, Any]]:
    """Return the files of a series in a list of files."""
    files: list[dict[str, Any]] = []
    with path.open("rb") as lines:
        lines.seek(series.start)
        while len(files) < series.files:
            file = json.loads(lines.readline())
            if file["path"].endswith(".dcm"):
                files.append(file)
    return files


#: Requests that may wait at the same time: a server has 40 threads for all that it does.
_queue = BoundedSemaphore(16)
_decoder = Apart("pacsifier_ops.study.viewer", _SECONDS, _LARGEST + 2**16)
_turn = Lock()


def _asked(request: Any) -> bytes | None:
    """Ask the process, one request after the other.

    Raises:
        StorageError: too many requests wait.
    """
    busy = StorageError("many people are looking at images now; try it again")
    if not _queue.acquire(blocking=False):
        raise busy
    try:
        if not _turn.acquire(timeout=_PATIENCE):
            raise busy
        try:
            return _decoder.ask(request)
        finally:
            _turn.release()
    finally:
        _queue.release()


# In the process that decodes


def _answer(request: dict[str, Any]) -> bytes | None:
    """Return the answer to a request of `images_of` or `frame_of`; None: there is none."""
    root = Path(request["root"])
    if "files" in request:
        found = (_image(root, name, place) for place, name in enumerate(request["files"], request["start"]))
        return json.dumps([*filter(None, found)]).encode()
    try:
        with open_below(root, request["file"]) as stream:
            if stream.seek(0, 2) != request["size"]:
                return None
            if "sha256" in request and digest(_path_of(stream)) != request["sha256"]:
                return None
            return _for_display(*read_frame(_path_of(stream), request["frame"]))
    except Exception:  # decoders raise many types of exception on damaged files
        return None


def _image(root: Path, name: str, place: int) -> tuple[int, int, int] | None:
    """Return InstanceNumber, `place` and the number of frames of an image; None: it is none."""
    with suppress(InputError), open_below(root, name) as stream:
        return _image_in(_path_of(stream), place)
    return None


def _image_in(path: Path, place: int) -> tuple[int, int, int] | None:
    """Return InstanceNumber, `place` and the number of frames of an image; None for other and for damaged files."""
    from pacsifier_ops.dicom.files import top_level

    with suppress(ValueError, OSError), path.open("rb") as stream:
        found = top_level(stream, (_NUMBER, _FRAMES, _ROWS), _ROWS).values
        if _ROWS in found:
            number, frames = (found.get(tag, b"").decode("latin-1") for tag in (_NUMBER, _FRAMES))
            return _whole(number, 0), place, max(1, _whole(frames, 1))
    return None


def _whole(text: str, otherwise: int) -> int:
    """Return the number that a text contains."""
    with suppress(ValueError, OverflowError):
        return int(float(text.strip("\0 "))) or otherwise
    return otherwise


def _path_of(stream: Any) -> Path:
    """Return a path of an open file. It stays that of this file, whatever happens in its folder."""
    return Path(f"/dev/fd/{stream.fileno()}")


def _for_display(pixels: np.ndarray, head: Dataset, frame: int) -> bytes:
    """Return a frame as a line of JSON, and its pixels, row by row, little endian.

    The JSON has `rows`, `columns` and `type` of the values (of JavaScript's arrays), `samples` (3: red, green, blue),
    `slope` and `intercept` of grey levels (level = slope * value + intercept), `low` and `high` (see
    `Levels.display_range`), `invert`, and `spacing`, the ratio of the heights and widths of pixels.
    """
    import numpy as np
    from pydicom.pixels import apply_modality_lut

    told: dict[str, Any] = {"slope": 1.0, "intercept": 0.0, "low": 0.0, "high": 255.0, "invert": False}
    pixels = in_color(pixels, head)
    step = 1
    while -(-pixels.shape[0] // step) * -(-pixels.shape[1] // step) * (3 if pixels.ndim == 3 else 2) > _LARGEST:
        step += 1
    pixels = pixels[::step, ::step]
    if pixels.ndim == 2:
        told["low"], told["high"] = Levels.of(pixels, head).display_range(head, frame)
        levels = np.nan_to_num(apply_modality_lut(pixels, head).astype(np.float64))
        told["invert"] = head.PhotometricInterpretation == "MONOCHROME1"
        least, most = levels.min(), levels.max()
        if (levels == np.rint(levels)).all() and least >= -(2**15) and most < 2**15:
            pixels = levels.astype("<i2")
        else:
            told["slope"], told["intercept"] = float(max(most - least, 1e-9) / 65535), float(least)
            pixels = np.rint((levels - least) / told["slope"]).astype("<u2")
    told["type"] = {"i": "Int16Array", "u": "Uint16Array"}[pixels.dtype.kind] if pixels.ndim == 2 else "Uint8Array"
    told |= {"rows": pixels.shape[0], "columns": pixels.shape[1], "samples": 1 if pixels.ndim == 2 else 3}
    told |= {"step": step, "spacing": _spacing(head)}
    return json.dumps(told).encode() + b"\n" + np.ascontiguousarray(pixels).tobytes()


def _spacing(head: Dataset) -> float:
    """Return the height of a pixel divided by its width (PS3.3 C.7.6.3.1.7); 1 where the image does not say it."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        with suppress(TypeError, ValueError, ZeroDivisionError, IndexError):
            high, wide = (float(value) for value in head[name].value) if name in head else (0.0, 0.0)
            if high > 0 and wide > 0:
                return high / wide
    return 1.0


if __name__ == "__main__":
    serve(_answer, _MEMORY, _IDLE)
