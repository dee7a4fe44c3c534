"""Contact sheets: what a person needs to see to find burned-in text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.cli import anonymize
from pacsifier_ops.deid import contact, steps
from pacsifier_ops.deid.contact import MOST, SIDE, ContactSheets
from pacsifier_ops.embedded.phantoms import phantom_series, write

REAL = Path(pydicom.data.__file__).parent / "test_files"


def picture(data: bytes | None) -> np.ndarray:
    assert data
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def in_order(files: Sequence[Path]) -> list[tuple[int, Path, int]]:
    heads = [(file, dcmread(file, stop_before_pixels=True)) for file in files]
    return [(int(head.InstanceNumber or 0), file, int(head.get("NumberOfFrames") or 1)) for file, head in heads]


def contact_sheet(files: Sequence[Path]) -> bytes | None:
    with ContactSheets() as sheets:
        return sheets.of(in_order(files))


def a_series(count: int, side: int = 128) -> list[Dataset]:
    return phantom_series(patient_id="P", patient_name="P", n_images=count, rows=side, columns=side)


def tiles(sheet: np.ndarray, side: int) -> list[np.ndarray]:
    step = side + 4
    return [
        sheet[y : y + side, x : x + side] for y in range(0, len(sheet), step) for x in range(0, sheet.shape[1], step)
    ]


@pytest.mark.parametrize("shade", [3, 4000])
def test_text_is_seen_in_the_last_image_whatever_its_grey_level_and_the_window(shade: int, tmp_path: Path) -> None:
    images = a_series(20)
    for image in images:
        image.WindowCenter, image.WindowWidth = "0", "400"  # of the stored values, those from 824 to 1224
    text = Image.new("1", (128, 128))
    ImageDraw.Draw(text).text((4, 4), "DOE JOHN", 1)
    values, letters = images[-1].pixel_array.copy(), np.asarray(text)
    values[letters] = values[0, 0] + shade
    images[-1].PixelData = values.tobytes()
    files = write(images, tmp_path / "series")
    shown = tiles(picture(contact_sheet(sorted(files))), 128)
    assert len(shown) == MOST
    behind = int(np.median(shown[-1][:8, :8]))
    assert (shown[-1][letters].astype(int) > behind + 5).all() and not (shown[0][:8, :8] > behind + 5).any()


def test_first_middle_and_last_are_among_those_shown_in_instance_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(a_series(41, 16), tmp_path)
    monkeypatch.setattr(contact, "_tile", lambda path, frame: pytest.fail("nothing is decoded to choose"))
    chosen = [files.index(path) for path, frame in contact._spread(in_order(files)) if frame == 0]
    assert chosen == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    cine = REAL / "examples_ybr_color.dcm"  # of 30 frames
    assert [frame for _, frame in contact._spread(in_order([cine]))] == [0, 3, 7, 10, 14, 18, 21, 25, 29]
    assert len(contact._spread(in_order(files[:4]))) == 4


def test_all_kinds_of_pixels_and_sizes_are_shown(tmp_path: Path) -> None:
    for name in ("examples_ybr_color.dcm", "examples_palette.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm"):
        shown = picture(contact_sheet([REAL / name]))
        assert shown.std() > 5 and shown.shape[1] <= 3 * (SIDE + 4)


def test_an_image_that_cannot_be_shown_is_a_crossed_box_and_none_at_all_no_sheet(tmp_path: Path) -> None:
    images = a_series(2, 256)
    images[0].PixelData = bytes(10)
    first, second = tiles(picture(contact_sheet(write(images, tmp_path))), 256)
    assert first[0, 0] == first[255, 255] == first[0, 255] == 255 and first[0, 100] == 0
    assert second[128, 128] > 128
    assert contact_sheet([]) is None
    with ContactSheets() as sheets:
        (box,) = tiles(picture(sheets.of([(1, tmp_path / "not there", 1)])), 256)
    assert (box == first).all()


def test_time_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact, "_SECONDS", 0.01)
    assert contact_sheet(write(a_series(1), tmp_path)) is None


def test_one_process_makes_one_after_the_other_and_is_begun_anew(tmp_path: Path) -> None:
    images = in_order(write(a_series(3), tmp_path))
    with ContactSheets() as sheets:
        first = sheets.of(images)
        assert first and sheets.of([]) is None and sheets.of(images) == first
        process = sheets._process
        assert process
        process.kill()
        process.wait()
        assert sheets.of(images) == first and sheets._process is not process


def test_the_command_begins_the_process_first_where_it_will_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def noted(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def wrapper(*args: Any, **options: Any) -> Any:
            called.append(name)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, wrapper)

    noted(ContactSheets, "begin")
    noted(anonymize.steps, "prepare")
    write(a_series(1), tmp_path / "in")

    def first(*more: str, out: str) -> str:
        called.clear()
        assert anonymize.main(["-d", str(tmp_path / "in"), "-o", str(tmp_path / out), *more]) == 0
        return called[0]

    assert first(out="out") == "begin" and list((tmp_path / "state").rglob("sheets/1.png"))
    assert first(out="out") == "prepare"  # nothing new: no sheet
    assert first("--no_contact_sheets", out="other") == "prepare"


def test_the_sheet_shows_all_images_of_a_series_also_those_of_an_earlier_night(tmp_path: Path) -> None:
    images = a_series(3, 64)
    first, second, last = images
    first.InstanceNumber, second.InstanceNumber, last.InstanceNumber = 9, 5, 7
    plan = dcmread(REAL / "rtplan.dcm")

    def sheets(*objects: Dataset) -> list[bytes]:
        write(list(objects), tmp_path / "in")
        assert anonymize.main(["-d", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
        return [path.read_bytes() for path in sorted((tmp_path / "state").rglob("sheets/*.png"))]

    def expected(*objects: Dataset) -> bytes | None:
        results = {
            int(image.InstanceNumber): path
            for path in (tmp_path / "out").rglob("*.dcm")
            if "Rows" in (image := dcmread(path))
        }
        assert sorted(results) == sorted(int(image.InstanceNumber) for image in objects)
        return contact_sheet([results[number] for number in sorted(results)])

    assert sheets(first, second) == [expected(first, second)]
    assert sheets(last) == [expected(first, second, last)]
    assert sorted(sheets(plan), key=len) == [b"", expected(first, second, last)]


def test_a_sheet_does_not_outlive_the_images_that_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = a_series(4, 64)
    source, out = tmp_path / "in", tmp_path / "out"
    make_sheet, stopped = steps.make_sheet, list[bool]()

    def night() -> list[bytes]:
        assert anonymize.main(["-d", str(source), "-o", str(out)]) == 0
        return [path.read_bytes() for path in (tmp_path / "state").rglob("sheets/*.png")]

    def ended(*given: Any, **named: Any) -> None:
        if not stopped:
            stopped.append(True)
            raise Cancelled("stopped on request")
        make_sheet(*given, **named)

    def shown() -> bytes | None:
        return contact_sheet(sorted(out.rglob("*.dcm"), key=lambda path: int(dcmread(path).InstanceNumber)))

    first, *_ = write(images[:3], source)
    night()
    write(images[3:], source)
    with monkeypatch.context() as patched:
        patched.setattr(anonymize, "_cores", lambda: 1)
        patched.setattr(steps, "make_sheet", ended)
        assert night() == [shown()] and stopped
    assert len(list(out.rglob("*.dcm"))) == 4
    first.write_bytes(first.read_bytes()[:-40])  # it goes to quarantine, and nothing else is new
    assert night() == [shown()]
    assert len(list(out.rglob("*.dcm"))) == 3
