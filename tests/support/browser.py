"""A real browser for tests of Airflow's user interface: Chromium without a window, driven as a person would.

It is told what to do over its DevTools protocol: find something by selector and text, wait until it is there, click
into it, type. Clicks and keys go through the browser's own input, so that a page sees what a person's hand makes.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest
from websockets.sync.client import ClientConnection, connect

#: Seconds that a page has to show what is waited for.
PATIENCE = 60.0

#: The documents of the page and of the frames in it that come from the same server.
_DOCUMENTS = """
var documents = within => [within, ...[...within.querySelectorAll('iframe')]
  .flatMap(frame => frame.contentDocument ? documents(frame.contentDocument) : [])];
"""

#: Finds the last element of a selector that can be seen, can be used and reads so (blanks folded), scrolls to it,
#: gives its middle and whether a click there would reach it (no dialog is in front, for one). The last, because
#: dialogs, and what has just been added, come last.
_FIND = (
    _DOCUMENTS
    + """
((selector, text, exact) => {
  const words = element => element.innerText?.replace(/\\s+/g, ' ').trim() ?? '';
  const found = documents(document).flatMap(within => [...within.querySelectorAll(selector)]).filter(element => {
    const box = element.getBoundingClientRect();
    const fits = exact ? words(element) === text : words(element).includes(text);
    return box.width && box.height && fits && !element.disabled;
  }).at(-1);
  if (!found) return null;
  found.scrollIntoView({block: 'center', behavior: 'instant'});
  const box = found.getBoundingClientRect(), around = found.ownerDocument;
  let [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const hit = around.elementFromPoint(x, y);
  const over = hit && hit !== around.body && hit !== around.documentElement && hit.contains(found);
  for (let frame = around.defaultView.frameElement; frame; frame = frame.ownerDocument.defaultView.frameElement) {
    const outer = frame.getBoundingClientRect();
    [x, y] = [x + outer.x, y + outer.y];
  }
  return {x, y, free: found.contains(hit) || over, text: words(found), value: found.value ?? null};
})(%s)
"""
)

#: An input for files, which may well be hidden behind a button.
_INPUT = _DOCUMENTS + "documents(document).map(within => within.querySelector(%s)).find(Boolean)"

#: A promise that is kept when the page has had nothing to do for a moment, or after two seconds.
_AT_REST = """
new Promise(done => setTimeout(() => requestIdleCallback(() => setTimeout(done, 100), {timeout: 1800}), 100))
"""

#: A list to choose from.
_SELECT = _DOCUMENTS + (
    "documents(document).map(within => within.querySelector(%s)).filter(Boolean).forEach("
    "list => { list.value = %s; list.dispatchEvent(new Event('change')); })"
)


def program() -> str:
    """Path of Chromium; skips the test where there is none, unless PACSIFIER_REQUIRE_PEERS=1 wants it."""
    if path := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"):
        return path
    missing = "a browser is missing; install it: apt-get install chromium"
    if os.environ.get("PACSIFIER_REQUIRE_PEERS") == "1":
        pytest.fail(missing)
    pytest.skip(missing)


class Browser:
    """One browser with one page; a context manager that ends it. It reaches this machine only and leaves nothing.

    Args:
        width, height: of the page, in CSS pixels.
    """

    def __init__(self, width: int = 1200, height: int = 1000) -> None:
        self._size = width, height
        self._said = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Not a folder of the test: the path of the browser's socket must be short.
            folder = stack.enter_context(TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True))
            self._profile = Path(folder)
            stack.enter_context(self._running())
            self._socket: ClientConnection = stack.enter_context(connect(self._page(), max_size=None, proxy=None))
            width, height = self._size
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self._send("Emulation.setDeviceMetricsOverride", **screen)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # What a person does

    def open(self, url: str) -> None:
        """Go to a page; it may still be loading when this returns."""
        self._send("Page.navigate", url=url)

    def log_in(self, user: str, password: str) -> None:
        """Fill in the login of Airflow, which shows the page that was opened afterwards."""
        self.fill("[name=username]", user)
        self.fill("[name=password]", password)
        self.click("button", "Sign in")

    def sees(self, selector: str, text: str = "", exact: bool = False) -> bool:
        """Whether such an element can be seen, and used, by now; see `wait_for`."""
        return bool(self._look(selector, text, exact))

    def wait_for(self, selector: str, text: str = "", exact: bool = False) -> str:
        """Wait until such an element can be seen, and used; returns its text.

        Args:
            selector: CSS selector.
            text: what the element reads, all of it where `exact`.

        Raises:
            AssertionError: it is not there in time; holds the text of the page.
        """
        return str(self._find(selector, text, exact)["text"])

    def click(self, selector: str, text: str = "", exact: bool = False) -> None:
        """Click into the middle of an element once it is there, at rest, with nothing in front; see `wait_for`."""
        before: dict[str, Any] = {}
        until = time.monotonic() + PATIENCE
        while before != (found := self._find(selector, text, exact)) or not found["free"]:
            assert time.monotonic() < until, f"{selector} {text!r} cannot be clicked in: {self.text()}"
            before = found
            time.sleep(0.1)
        at = {"x": found["x"], "y": found["y"]}
        self._send("Input.dispatchMouseEvent", type="mouseMoved", **at)
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def fill(self, selector: str, value: str) -> None:
        """Type into an input, in place of what is there; nothing where `value` is empty."""
        self.click(selector)
        self.press("a", "KeyA", 65, modifiers=2, commands=["selectAll"])
        if value:
            self._send("Input.insertText", text=value)
        else:
            self.press("Delete", "Delete", 46)
        # A form that has not taken it yet would lose it with the next change, which no person is quick enough for.
        self._send("Runtime.evaluate", expression=_AT_REST, awaitPromise=True)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in an input for files."""
        found = self._send("Runtime.evaluate", expression=_INPUT % json.dumps(selector))
        self._send("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def select(self, selector: str, value: str) -> None:
        """Choose from a list."""
        self._find(selector, "", False)
        self._evaluate(_SELECT % (json.dumps(selector), json.dumps(value)))

    def press(self, key: str, code: str, number: int, **more: Any) -> None:
        """Press a key: its value, code and number as the DevTools protocol has them."""
        for kind in ("rawKeyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number, **more)

    def wheel(self, selector: str, by: int) -> None:
        """Turn the wheel over the middle of an element, in CSS pixels; downwards where `by` is above 0."""
        found = self._find(selector, "", False)
        at = {"x": found["x"], "y": found["y"]}
        self._send("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=by, **at)

    def drag(self, selector: str, right: int, down: int) -> None:
        """Drag from the middle of an element, by CSS pixels."""
        found = self._find(selector, "", False)
        x, y = found["x"], found["y"]
        held: dict[str, Any] = {"button": "left", "buttons": 1}
        self._send("Input.dispatchMouseEvent", type="mousePressed", clickCount=1, x=x, y=y, **held)
        for step in (0.5, 1.0):
            self._send("Input.dispatchMouseEvent", type="mouseMoved", x=x + right * step, y=y + down * step, **held)
        there = {"x": x + right, "y": y + down}
        self._send("Input.dispatchMouseEvent", type="mouseReleased", clickCount=1, button="left", **there)

    def look(self, dark: bool = False, width: int = 0) -> None:
        """Prefer dark or light pages; on a screen of another width, in CSS pixels, if one is given."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])
        screen = {"width": width or self._size[0], "height": self._size[1], "deviceScaleFactor": 1, "mobile": False}
        self._send("Emulation.setDeviceMetricsOverride", **screen)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript in the page."""
        return self._evaluate(expression)

    def value(self, selector: str) -> str:
        """What is in an input."""
        return str(self._find(selector, "", False)["value"])

    def text(self) -> str:
        """All text of the page and of the frames in it."""
        return str(self._evaluate(_DOCUMENTS + "documents(document).map(d => d.body?.innerText ?? '').join('\\n')"))

    def too_wide(self) -> int:
        """CSS pixels by which the page, once it is whole, is wider than the screen and has to be moved sideways."""
        until = time.monotonic() + PATIENCE
        while self._evaluate("document.readyState") != "complete":
            assert time.monotonic() < until, "the page does not come to its end"
            time.sleep(0.05)
        return max(0, int(self._evaluate("document.documentElement.scrollWidth - window.innerWidth")))

    def screenshot(self, path: Path, home: Path | None = None) -> None:
        """Write what is seen of the page to a PNG file.

        Args:
            path: of the file.
            home: folder of the test, in place of which the picture shows another one.
        """
        if home is not None:
            shown = f"one.textContent = one.textContent.replace({json.dumps(str(home))}, '/srv/pacsifier')"
            places = "documents(document).flatMap(d => [...d.querySelectorAll('.place code')])"
            self._evaluate(f"{_DOCUMENTS} {places}.forEach(one => {{ {shown} }})")
        time.sleep(0.5)  # what opens or closes comes to rest
        path.write_bytes(base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"]))

    # Inside

    def _find(self, selector: str, text: str, exact: bool) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while not (found := self._look(selector, text, exact)):
            assert time.monotonic() < until, f"there is no {selector} {text!r} in: {self.text()}"
            time.sleep(0.1)
        return found

    def _look(self, selector: str, text: str, exact: bool) -> dict[str, Any]:
        return self._evaluate(_FIND % ", ".join(map(json.dumps, (selector, text, exact)))) or {}

    def _evaluate(self, expression: str) -> Any:
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer.get("result", {}).get("value")

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command; returns its result, passing over the events that come in between.

        A page that navigates while it is asked something answers with an error; that is an empty result.
        """
        self._said += 1
        self._socket.send(json.dumps({"id": self._said, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == self._said:
                return dict(message.get("result", {}))

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._process = subprocess.Popen(
            [
                program(),
                "--headless=new",
                "--no-sandbox",  # tests may run as root, for whom Chromium has none
                "--no-first-run",
                "--no-proxy-server",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--lang=en-US",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(self._profile), "TMPDIR": str(self._profile)},
        )
        try:
            yield
        finally:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _page(self) -> str:
        """Where the page is driven from; the browser writes its port to a file when it is ready."""
        told, until = self._profile / "DevToolsActivePort", time.monotonic() + PATIENCE
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            assert self._process.poll() is None and time.monotonic() < until, "the browser does not start"
            if told.exists() and (lines := told.read_text().split()):
                with direct.open(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as answer:
                    pages = [target for target in json.load(answer) if target["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.05)
