"""While a web archive says nothing, or asks for a wait: a stop is noticed, and the slot is there for others."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import certifi
import pytest
from pydicom import dcmread

from pacsifier_ops.base.config import WebNode
from pacsifier_ops.base.errors import Cancelled, OutOfResources, PacsifierError, PacsTimeout
from pacsifier_ops.dicomweb.session import WebSession
from pacsifier_ops.dimse.session import query
from pacsifier_ops.embedded.authority import Authority
from pacsifier_ops.embedded.phantoms import phantom_series, write
from tests.support.faulty_web import FaultyWeb
from tests.support.processes import PATIENCE, eventually

#: Longer than a test may take: who waits for it has not noticed the stop.
LONG = 3600.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    images = phantom_series(patient_id="WAITS", patient_name="Waits^Web", n_images=3, rows=64, columns=64)
    return write(images, tmp_path_factory.mktemp("waits"))


@pytest.fixture(params=["http", "https"])
def web(
    request: pytest.FixtureRequest, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FaultyWeb, WebNode]]:
    """An archive, and how it is reached. The environment names authorities as well (psf/requests#3829)."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    context, trusted = None, ""
    if request.param == "https":
        authority = Authority(tmp_path, "ca")
        context, trusted = (
            authority.issue("localhost", "localhost").context(ssl.Purpose.CLIENT_AUTH),
            str(authority.path),
        )
    with FaultyWeb(tmp_path / "web", tls=context, host="localhost") as server:
        server.load(files)
        yield server, WebNode("vna", url=server.url, answer_timeout=LONG, tls_ca=trusted)


def asked(files: list[Path]) -> Any:
    head = dcmread(files[0], stop_before_pixels=True)
    return query("SERIES", StudyInstanceUID=head.StudyInstanceUID, SeriesInstanceUID=head.SeriesInstanceUID)


class Slot:
    """The slots of an archive: how often one was taken, and whether one is taken now."""

    taken, held = 0, False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        assert not self.held
        self.taken, self.held = self.taken + 1, True
        try:
            yield
        finally:
            self.held = False


@pytest.mark.parametrize("silent", ["before the answer", "in an object"])
def test_a_stop_ends_a_silent_wait(
    web: tuple[FaultyWeb, WebNode], files: list[Path], tmp_path: Path, silent: str
) -> None:
    server, node = web
    stop, ended = threading.Event(), list[PacsifierError]()
    name, value = ("wado.trickle", (20_000, LONG)) if silent == "in an object" else ("wado.silent", LONG)
    server.fail(name, value)
    incoming, slot = tmp_path / "incoming", Slot()
    incoming.mkdir()

    def fetch() -> None:
        with WebSession(node, slot, incoming, stop.is_set) as session:
            try:
                session.get(asked(files))
            except PacsifierError as error:
                ended.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    eventually(lambda: server.happened[name] or ended)
    assert server.happened[name] and not ended
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive() and isinstance(ended[0], Cancelled)
    assert not slot.held and not list(incoming.iterdir()), "nothing half-written is left"


def test_silence_still_ends_by_itself(files: list[Path], tmp_path: Path) -> None:
    with FaultyWeb(tmp_path / "web") as server:
        server.load(files)
        server.fail("wado.trickle", (20_000, LONG))
        node = WebNode("vna", url=server.url, answer_timeout=0.2)
        with WebSession(node, Slot(), tmp_path) as session, pytest.raises(PacsTimeout):
            session.get(asked(files))
    assert not list(tmp_path.glob("*.part"))


def test_the_slot_is_free_while_the_archive_asks_for_a_wait(files: list[Path], tmp_path: Path) -> None:
    with FaultyWeb(tmp_path / "web") as server:
        server.load(files)
        server.fail("wado.status", {"status": 429, "headers": {"Retry-After": "1"}}, times=1)
        slot, seen = Slot(), list[bool]()

        def cancelled() -> bool:
            if server.count(status=429):
                seen.append(slot.held)
            return False

        with WebSession(WebNode("vna", url=server.url), slot, tmp_path, cancelled) as session:
            with pytest.raises(OutOfResources):
                session.get(asked(files))
            assert seen and not any(seen) and not session.is_open
            session.get(asked(files))
            assert len(session.take()) == len(files) and slot.taken == 2
    assert not slot.held
