"""Frames for the viewer: only of what the run has released, whatever is in its place; for any kind of pixels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from pydicom import Dataset, dcmread

from pacsifier_ops.base.apart import Apart
from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import read_json, write_json
from pacsifier_ops.base.given import Unusable, open_below
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.study import viewer
from tests.support.embedded import node_of, series, serving
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

REAL = Path(pydicom.data.__file__).parent / "test_files"
KUNIGUNDE = "ZQX-71830-KW"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """Return a study that has released two series of three and two images."""
    folder = tmp_path_factory.mktemp("study")
    patch = pytest.MonkeyPatch()
    patch.setenv("PACSIFIER_DATA_ROOT", str(folder / "data"))
    patch.setenv("PACSIFIER_STATE_ROOT", str(folder / "state"))
    images = [*series(KUNIGUNDE, n_images=3), *series(KUNIGUNDE, n_images=2, series_number=2)]
    with serving(images, folder / "archive") as pacs:
        made = StudyRun(node_of(pacs), folder / "data", [{"PatientID": KUNIGUNDE}], {"source": "local"})
        made.make()
        assert viewer.series_of(made.run) == ()
        made.release()
    yield made
    patch.undo()


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    viewer._decoder.close()


def shown(answer: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """Return what is told of a frame, and the values of its pixels."""
    line, _, data = answer.partition(b"\n")
    told = json.loads(line)
    kinds = {"Int16Array": "<i2", "Uint16Array": "<u2", "Uint8Array": "u1"}
    shape = (told["rows"], told["columns"]) + ((3,) if told["samples"] == 3 else ())
    return told, np.frombuffer(data, kinds[told["type"]]).reshape(shape)


def of_file(name: str, frame: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    path = REAL / name
    answer = viewer._asked({"root": str(REAL), "file": name, "size": path.stat().st_size, "frame": frame})
    assert answer
    return shown(answer)


def levels(image: Dataset) -> np.ndarray:
    return image.pixel_array.astype(int) * int(image.get("RescaleSlope", 1)) + int(image.get("RescaleIntercept", 0))


def test_every_released_image_is_shown_with_its_values_and_its_window(study: StudyRun) -> None:
    found = viewer.series_of(study.run)
    assert [(one.number, one.files) for one in found] == [(1, 3), (2, 2)]
    assert all((study.folder("released") / one.folder).is_dir() for one in found)
    for one in found:
        folder = study.folder("released") / one.folder
        numbers = []
        for file, frames in viewer.images_of(study.run, one.number):
            assert frames == 1
            told, values = shown(viewer.frame_of(study.run, one.number, file, 0))
            (image,) = (one for one in map(dcmread, folder.glob("*.dcm")) if np.array_equal(levels(one), values))
            numbers.append(image.InstanceNumber)
            assert told["slope"] == 1 and told["low"] < told["high"]
            assert KUNIGUNDE not in json.dumps(told) and "Patient" not in json.dumps(told)
        assert numbers == sorted(numbers) and len(numbers) == one.files


def test_a_large_series_is_looked_through_in_portions(study: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = viewer.images_of(study.run, 1)
    looked: list[int] = []
    ask = viewer._asked

    def asked(request: Any) -> bytes | None:
        looked.append(len(request["files"]))
        return ask(request)

    monkeypatch.setattr(viewer, "_asked", asked)
    monkeypatch.setattr(viewer, "_PORTION", 2)
    assert viewer.images_of(study.run, 1) == whole and len(whole) == 3
    assert looked == [2, 1]


def test_nothing_else_has_an_address(study: StudyRun) -> None:
    for number, file, frame in ((0, 0, 0), (3, 0, 0), (-1, 0, 0), (1, 3, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1)):
        with pytest.raises(InputError):
            viewer.frame_of(study.run, number, file, frame)
    with pytest.raises(InputError):
        viewer.images_of(study.run, 3)


def test_what_was_put_in_the_place_of_an_image_is_not_shown(study: StudyRun, tmp_path: Path) -> None:
    folder = study.folder("released") / viewer.series_of(study.run)[0].folder
    path = sorted(folder.glob("*.dcm"))[0]
    secret = tmp_path / "secret.dcm"
    shutil.copy(path, secret)
    kept = tmp_path / "kept.dcm"
    shutil.move(path, kept)
    try:
        for put in (lambda: path.symlink_to(secret), path.mkdir, lambda: path.write_bytes(b"DICM"), lambda: None):
            put()
            with pytest.raises(InputError, match="the image cannot be shown"):
                viewer.frame_of(study.run, 1, 0, 0)
            assert len(viewer.images_of(study.run, 1)) == 2
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        # A folder on the way is none that somebody made to lead elsewhere.
        elsewhere = tmp_path / "elsewhere"
        shutil.move(folder, elsewhere)
        folder.symlink_to(elsewhere)
        with pytest.raises(InputError):
            viewer.frame_of(study.run, 1, 1, 0)
        folder.unlink()
        shutil.move(elsewhere, folder)
    finally:
        shutil.move(kept, path)
    assert viewer.frame_of(study.run, 1, 0, 0)


def test_only_the_list_that_was_approved_counts(study: StudyRun) -> None:
    stock = study.run.folder / "stock.json"
    good = read_json(stock)
    write_json(stock, {**good, "digest": "another"})  # the data set was listed again, and nobody has approved it
    assert viewer.series_of(study.run) == ()
    write_json(stock, good)
    assert viewer.series_of(study.run) and viewer.series_of(Run.fresh()) == ()


def test_all_kinds_of_pixels_are_shown() -> None:
    told, values = of_file("CT_small.dcm")
    head = dcmread(REAL / "CT_small.dcm")
    assert np.array_equal(values, levels(head))
    assert not told["invert"] and told["spacing"] == 1
    for name in ("MR_small_RLE.dcm", "JPEG2000.dcm", "MR_small_jp2klossless.dcm"):
        assert of_file(name)[1].std() > 1, name
    for name in ("examples_palette.dcm", "examples_ybr_color.dcm", "SC_rgb_rle_16bit.dcm"):
        told, values = of_file(name)
        assert told["samples"] == 3 and values.std() > 5, name
    first, last = (of_file("examples_ybr_color.dcm", frame)[1] for frame in (0, 29))
    assert not np.array_equal(first, last)
    told, values = of_file("rtdose.dcm")  # of 32 bits
    doses = dcmread(REAL / "rtdose.dcm").pixel_array[0]
    assert np.allclose(values * told["slope"] + told["intercept"], doses, atol=np.ptp(doses) / 60000)


def test_a_large_frame_is_shown_with_fewer_pixels(tmp_path: Path) -> None:
    image = series(KUNIGUNDE, n_images=1)[0]
    image.Rows, image.Columns, image.BitsAllocated, image.PixelSpacing = 4000, 3000, 16, [0.2, 0.1]
    image.PixelData = np.arange(4000 * 3000, dtype="<u2").tobytes()
    image.save_as(tmp_path / "large.dcm", enforce_file_format=True)
    size = (tmp_path / "large.dcm").stat().st_size
    answer = viewer._asked({"root": str(tmp_path), "file": "large.dcm", "size": size, "frame": 0})
    assert answer and len(answer) < viewer._LARGEST + 1000
    told, values = shown(answer)
    assert (told["step"], values.shape, told["spacing"]) == (2, (2000, 1500), 2)


def test_a_series_that_takes_too_long_is_not_told_to_be_empty(study: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with Apart("pacsifier_ops.study.viewer", 0.0) as late:
        monkeypatch.setattr(viewer, "_decoder", late)
        with pytest.raises(InputError, match="in time"):
            viewer.images_of(study.run, 1)


def test_a_damaged_or_hostile_file_ends_no_more_than_its_own_request(tmp_path: Path) -> None:
    files = {
        "none.dcm": b"",
        "text.dcm": b"<html>" * 100,
        "cut.dcm": (REAL / "MR_small.dcm").read_bytes()[:5000],
        "huge.dcm": b"",
    }
    image = series(KUNIGUNDE, n_images=1)[0]
    image.Rows = image.Columns = 65535
    image.save_as(tmp_path / "huge.dcm", enforce_file_format=True)
    for name, data in files.items():
        if data or name == "none.dcm":
            (tmp_path / name).write_bytes(data)
        size = (tmp_path / name).stat().st_size
        assert viewer._asked({"root": str(tmp_path), "file": name, "size": size, "frame": 0}) is None, name
    assert of_file("CT_small.dcm")
    process = viewer._decoder._process
    assert process
    process.kill()
    process.wait()
    assert of_file("CT_small.dcm")
    with Apart("pacsifier_ops.study.viewer", 0.0) as late, Apart("pacsifier_ops.study.viewer", 20, 10) as small:
        size = (REAL / "CT_small.dcm").stat().st_size
        request = {"root": str(REAL), "file": "CT_small.dcm", "size": size, "frame": 0}
        assert late.ask(request) is None and small.ask(request) is None
        assert late._process is small._process is None


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "../out.txt", "in/../../out.txt", "in//a.txt", "./in/a.txt", "in/\0"]
)
def test_a_name_leads_nowhere_but_into_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "out.txt").write_text("out")
    (tmp_path / "root" / "in" / "a.txt").write_text("in")
    with pytest.raises(Unusable):
        open_below(tmp_path / "root", name)
    with open_below(tmp_path / "root", "in/a.txt") as stream:
        assert stream.read() == b"in"
