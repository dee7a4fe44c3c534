"""The viewer in a real browser, under the policy of the server: what is on the screen is what is in the files."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from pacsifier_ops.runs.pages import style
from pacsifier_ops.study import viewer
from pacsifier_ops.study.viewer import ReleasedSeries
from tests.support import airflow_home
from tests.support.browser import PATIENCE, Browser
from tests.support.embedded import series
from tests.support.places import REPO

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

STATIC = REPO / "pacsifier_ops" / "web" / "static"
SIDE = 64

#: Red, green and blue of the middle of the left and of the right half of the image on the screen.
HALVES = """(() => {
  const canvas = document.querySelector('#viewport canvas');
  const at = (x) => [...canvas.getContext('2d').getImageData(x, canvas.height / 2, 1, 1).data.slice(0, 3)];
  return [at(canvas.width / 2 - canvas.height / 4), at(canvas.width / 2 + canvas.height / 4)];
})()"""


def image(left: Any, right: Any, **attributes: Any) -> Dataset:
    """Return an image whose halves have two values, of 16 bits where nothing else is said."""
    made = series("P", n_images=1)[0]
    made.Rows = made.Columns = SIDE
    made.BitsAllocated = made.BitsStored = attributes.pop("bits", 16)
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, attributes.pop("signed", 0)
    made.WindowCenter, made.WindowWidth = attributes.pop("window", (500, 1000))
    made.RescaleSlope, made.RescaleIntercept = 1, 0
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    kind = np.dtype(f"<{'i' if made.PixelRepresentation else 'u'}{made.BitsAllocated // 8}")
    half = [np.broadcast_to(np.asarray(value, kind), (SIDE, SIDE // 2, *np.shape(value))) for value in (left, right)]
    made.PixelData = np.concatenate(half, axis=1).tobytes()
    return made


RGB = {"bits": 8, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
#: Images, and what their halves look like.
CASES: dict[str, tuple[Callable[[], Dataset], list[list[int]]]] = {
    "grey": (lambda: image(0, 1000), [[0] * 3, [255] * 3]),
    "half": (lambda: image(250, 750), [[64] * 3, [191] * 3]),
    "signed": (lambda: image(-1000, 0, signed=1, window=(-500, 1000)), [[0] * 3, [255] * 3]),
    "rescaled": (lambda: image(24, 2024, RescaleIntercept=-1024, window=(0, 2000)), [[0] * 3, [255] * 3]),
    "inverted": (lambda: image(0, 1000, PhotometricInterpretation="MONOCHROME1"), [[255] * 3, [0] * 3]),
    "of 8 bits": (lambda: image(0, 255, bits=8, window=(128, 256)), [[0] * 3, [255] * 3]),
    "of 32 bits": (lambda: image(0, 2**31, bits=32, window=(2**30, 2**31)), [[0] * 3, [255] * 3]),
    "of small levels": (
        lambda: image(0, 1000, RescaleSlope="0.000001", window=(0.0005, 0.001)),
        [[0] * 3, [255] * 3],
    ),
    "colour": (lambda: image([255, 0, 0], [0, 0, 255], **RGB), [[255, 0, 0], [0, 0, 255]]),
}


@pytest.fixture
def address(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Return the address of a server with a page of the viewer, each case a series of it."""
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    from pacsifier_ops.web import app, pages

    for number, (make, _) in enumerate(CASES.values(), 1):
        make().save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    shown = [ReleasedSeries(number, name, 1, 0) for number, name in enumerate(CASES, 1)]

    def answer(path: str) -> tuple[str, bytes]:
        *_, last = path.split("/")
        if path == "/page":
            return "text/html", pages.viewer_page("", "run", shown).encode()
        if path == "/static/page.css":
            return "text/css", style().encode()
        if path.startswith("/static/"):
            return "text/javascript", (STATIC / last).read_bytes()
        number = path.removeprefix("/run/images/").partition("/")[0]
        if path.count("/") == 3:
            return "application/json", json.dumps({"images": [[0, 3]]}).encode()  # the same image thrice
        size = (tmp_path / f"{number}.dcm").stat().st_size
        asked = {"root": str(tmp_path), "file": f"{number}.dcm", "size": size, "frame": 0}
        return "application/octet-stream", viewer._asked(asked) or b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, data = answer(self.path)
            self.send_response(200)
            for name, value in {**app._HEADERS, "Content-Type": kind, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/page"
        server.shutdown()
    viewer._decoder.close()


def test_every_kind_of_image_looks_as_its_values_say(address: str, tmp_path: Path) -> None:
    with Browser(900, 900) as browser:
        browser.open(address)
        for number, (_, wanted) in enumerate(CASES.values(), 1):
            browser.select("#series", f"/run/images/{number}")
            browser.wait_for("#shown", f"{SIDE} × {SIDE} pixels")
            shows(browser, partial(_are_close, wanted))
            browser.screenshot(tmp_path / f"{number}.png")


def _are_close(wanted: Any, seen: Any) -> bool:
    return bool(np.abs(np.subtract(seen, wanted)).max() <= 2)


def shows(browser: Browser, wanted: Callable[[Any], bool]) -> None:
    """Wait until the image shows something: the browser draws it after the line beside it has changed."""
    until = time.monotonic() + PATIENCE
    while not wanted(seen := browser.evaluate(HALVES)):
        assert time.monotonic() < until, seen
        time.sleep(0.05)


def test_a_person_scrolls_and_changes_the_window(address: str) -> None:
    with Browser(900, 900) as browser:
        browser.open(address)
        browser.wait_for("#shown", "Image 2 of 3")
        browser.select("#series", "/run/images/2")  # half black, half white
        first = browser.wait_for("#shown", "Image 2 of 3, 64 × 64 pixels, centre 500, width 1,000")
        before = browser.evaluate(HALVES)
        browser.wheel("#viewport", 100)
        assert browser.wait_for("#shown", "Image 3 of 3").partition(",")[2] == first.partition(",")[2]
        browser.wheel("#viewport", 100)
        browser.click("#viewport")
        browser.press("Home", "Home", 36)
        browser.wait_for("#shown", "Image 1 of 3")
        browser.drag("#viewport", 0, 60)
        moved = browser.wait_for("#shown", "centre 700, width 1,000")
        shows(browser, lambda after: all(dark[0] < light[0] for dark, light in zip(after, before, strict=True)))
        browser.press("End", "End", 35)
        assert browser.wait_for("#shown", "Image 3 of 3").partition(",")[2] == moved.partition(",")[2]
        browser.drag("#viewport", 30, 0)
        browser.wait_for("#shown", "centre 700, width 1,100")
        browser.click("#reset")
        browser.wait_for("#shown", "Image 3 of 3, 64 × 64 pixels, centre 500, width 1,000")
        shows(browser, lambda after: bool(after == before))
