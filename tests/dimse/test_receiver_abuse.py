"""The receiver under abuse: connections that come to nothing, and a spool in which somebody else has left things."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import AE, evt
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.sop_class import Verification

from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.cli import receiver as command
from pacsifier_ops.dimse.receiver import StorageReceiver, quarantine_unasked, spooled
from pacsifier_ops.dimse.transport import HANDLERS, Server, make_ae
from tests.dimse.test_receiver import STUDY, connect, make, send
from tests.support import certificates
from tests.support.processes import PATIENCE, until

pytestmark = pytest.mark.archive

#: A-ASSOCIATE-RQ that announces 4 GB, and one that announces 10 MB; each with a byte behind its header.
TOO_LONG, LONG = (struct.pack(">BBL", 1, 0, length) + b"\1" for length in (0xFFFFFFF0, 10_000_000))


@contextlib.contextmanager
def serving(
    acse_timeout: float = 30,
    most: int = 10,
    of_address: int = 5,
    dimse_timeout: float = 30,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    """A server with small limits."""
    ae = make_ae("RX", connect_timeout=5, acse_timeout=acse_timeout, dimse_timeout=dimse_timeout)
    ae.maximum_associations = most
    ae.add_supported_context(Verification)
    server = Server(ae, ("127.0.0.1", 0), tls=tls, most_of_address=of_address)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def opened(port: int, number: int, sent: bytes = b"", source: str = "127.0.0.1") -> list[socket.socket]:
    """Connections of a peer that sends no more than this."""
    found = []
    for _ in range(number):
        stream = socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))
        stream.settimeout(PATIENCE)
        with contextlib.suppress(OSError):  # closed already
            stream.sendall(sent)
        found.append(stream)
    return found


def ends(stream: socket.socket) -> bool:
    """Whether the other side closes the connection; it may say A-ABORT before."""
    try:
        while stream.recv(100):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def echoed(port: int) -> bool:
    """Whether an honest peer gets its association and its answer."""
    association = connect(port)
    if not association.is_established:
        return False
    status = association.send_c_echo().Status
    association.release()
    return bool(status == 0)


@pytest.mark.parametrize("sent", [TOO_LONG, LONG])
def test_a_request_that_is_too_long_ends_its_connection_at_once(sent: bytes) -> None:
    with serving(acse_timeout=3600) as server:
        for stream in opened(server.port, 5, sent):
            assert ends(stream)
        assert until(lambda: not server.active_associations)
        assert echoed(server.port)


def test_a_pdu_that_is_too_long_ends_an_association_at_once() -> None:
    with serving() as server:
        association = connect(server.port)
        assert association.is_established
        assert association.dul.socket is not None and association.dul.socket.socket is not None
        association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 0xFFFFFFF0) + b"\1")
        association.join(PATIENCE)
        assert not association.is_alive()
        assert echoed(server.port)


def test_negotiation_has_one_deadline_whatever_a_peer_sends() -> None:
    with serving(acse_timeout=1, most=100, of_address=100) as server:
        silent, half = opened(server.port, 1), opened(server.port, 1, struct.pack(">BBL", 1, 0, 200))
        (drip,) = opened(server.port, 1, b"\1\0")
        with dripping(drip):
            assert all(map(ends, [*silent, *half, drip]))
        assert until(lambda: not server.active_associations)


@contextlib.contextmanager
def dripping(stream: socket.socket) -> Iterator[None]:
    """A byte now and then, as long as the other side listens."""
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.1):
                stream.sendall(b"\0")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_pdu_that_comes_byte_by_byte_ends_its_association() -> None:
    with serving(dimse_timeout=1) as server:
        association = connect(server.port)
        assert association.dul.socket is not None and association.dul.socket.socket is not None
        stream = association.dul.socket.socket
        stream.sendall(struct.pack(">BBL", 4, 0, 100_000))
        with dripping(stream):
            association.join(PATIENCE)
        assert not association.is_alive()
        assert until(lambda: not server.active_associations)


def test_a_handshake_that_does_not_come_has_the_same_deadline(tmp_path: Path) -> None:
    shown = certificates.make(tmp_path).server
    with serving(acse_timeout=1, tls=shown.context(ssl.Purpose.CLIENT_AUTH)) as server:
        silent, plain = opened(server.port, 1), opened(server.port, 1, b"\1")
        (drip,) = opened(server.port, 1, b"\x16\x03\x01\x40\x00")  # a record of 16 KiB, byte by byte
        with dripping(drip):
            assert all(map(ends, [*silent, *plain, drip]))
        assert until(lambda: not server._connections)


def test_a_command_without_an_end_ends_its_association(tmp_path: Path) -> None:
    with StorageReceiver("RX", 0, tmp_path / "spool", host="127.0.0.1") as receiver:
        association = connect(receiver.port)
        assert association.is_established
        fragment = b"\1\1" + bytes(30_000)  # of a command set, and not the last one
        pdu = struct.pack(">BBLL", 4, 0, len(fragment) + 4, len(fragment)) + fragment
        assert association.dul.socket is not None and association.dul.socket.socket is not None
        with contextlib.suppress(OSError):
            for _ in range(5):
                association.dul.socket.socket.sendall(pdu)
        association.join(PATIENCE)
        assert not association.is_alive()
        assert send(receiver.port, make(tmp_path / "in", "1.2.3")) == [0]


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    """One that all examples talk to."""
    with serving(acse_timeout=2, most=64, of_address=64) as server:
        yield server


def request() -> bytes:
    """An A-ASSOCIATE-RQ as an honest peer sends it, with every kind of item."""
    ae = AE("PEER")
    ae.add_requested_context(Verification)
    user = UserIdentityNegotiation()
    user.user_identity_type, user.primary_field, user.server_response_requested = 1, b"user", True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = Verification, b"\1"
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    sent: list[bytes] = []
    with serving() as server:
        grab = (evt.EVT_DATA_SENT, lambda event: sent.append(event.data))
        ae.associate(
            "127.0.0.1", server.port, ae_title="RX", evt_handlers=[grab], ext_neg=[user, extended, window]
        ).abort()
    return sent[0]


REQUEST = functools.cache(request)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=100)
    | st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=8)).map(
        lambda change: REQUEST()[: change[0]] + change[1] + REQUEST()[change[0] + len(change[1]) :]
    )
)
def test_no_bytes_harm_the_server(shared_server: Server, data: bytes) -> None:
    (stream,) = opened(shared_server.port, 1, data)
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_WR)
    assert ends(stream)
    stream.close()


def test_the_server_is_well_after_that(shared_server: Server) -> None:
    assert until(lambda: not shared_server._connections)
    assert until(lambda: not [t for t in threading.enumerate() if isinstance(t, DULServiceProvider)])
    assert echoed(shared_server.port)


def test_an_association_outlives_the_deadline_of_negotiation() -> None:
    with serving(acse_timeout=1) as server:
        association = connect(server.port)
        (overdue,) = opened(server.port, 1)
        assert ends(overdue)  # it was opened later
        assert association.send_c_echo().Status == 0
        association.release()
        assert association.is_released


def test_connections_that_come_to_nothing_keep_nobody_out() -> None:
    with serving(acse_timeout=3600, most=10, of_address=5) as server:
        crowd = opened(server.port, 30, b"\1")
        # Even from the crowd's own address; once those have had their second.
        assert until(lambda: echoed(server.port))
        for source in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            crowd += opened(server.port, 30, b"\1", source)
        assert until(lambda: echoed(server.port))
        assert len(server.active_associations) <= 18
        for stream in crowd:
            stream.close()


def test_one_address_leaves_room_for_others() -> None:
    with serving(most=10, of_address=5) as server:
        held = [connect(server.port) for _ in range(5)]
        assert all(association.is_established for association in held)
        assert not connect(server.port).is_established
        ae = AE("PEER")
        ae.add_requested_context(Verification)
        other = ae.associate(
            "127.0.0.1", server.port, ae_title="RX", evt_handlers=HANDLERS, bind_address=("127.0.0.2", 0)
        )
        assert other.is_established
        for association in [*held, other]:
            association.release()
        assert until(lambda: echoed(server.port))


def test_who_is_over_the_limit_is_told() -> None:
    rejected = []
    with serving(most=2, of_address=10) as server:
        held = [connect(server.port) for _ in range(2)]
        ae = AE("PEER")
        ae.add_requested_context(Verification)
        note = (evt.EVT_REJECTED, lambda event: rejected.append(event.assoc.acceptor.primitive.diagnostic))
        assert ae.associate("127.0.0.1", server.port, ae_title="RX", evt_handlers=[*HANDLERS, note]).is_rejected
        for association in held:
            association.release()
    assert rejected == [2]  # local-limit-exceeded (PS3.8 9.3.4)


def test_a_loop_that_cannot_accept_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    waited: list[float] = []
    enough = threading.Event()
    pause = time.sleep

    def sleep(seconds: float) -> None:
        if threading.current_thread() is server._thread:
            waited.append(seconds)
            seconds = 0.01
        pause(seconds)

    with serving() as server:
        real = server.socket

        class Full:
            """A listening socket that has no number left for one more."""

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

            def accept(self) -> None:
                tried.append(1)
                if len(tried) == 3:
                    enough.set()
                raise OSError(24, os.strerror(24))

        monkeypatch.setattr(time, "sleep", sleep)
        server.socket = Full()
        (stream,) = opened(server.port, 1)
        assert enough.wait(PATIENCE)
        server.socket = real
        assert until(lambda: echoed(server.port))
        stream.close()
    assert len(waited) >= 2


def test_strays_in_the_spool_stop_nobody(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    ids = {number: SeriesId(STUDY, f"1.2.{number}") for number in range(3, 8)}
    strange = spool / str(ids[3]) / "logs"
    strange.mkdir(parents=True)
    (strange / "log.csv").write_text("theirs")
    (strange.parent / "notes.txt").write_text("theirs")
    (spool / str(ids[4])).write_text("theirs")
    (spool / ".incoming").write_text("theirs")
    (spool / ".quarantine").write_text("theirs")
    os.mkfifo(strange.parent / f"1.5.{'0' * 64}")
    (strange.parent / "loop").symlink_to("loop")
    (spool / str(ids[7])).symlink_to(tmp_path)
    with StorageReceiver("RX", 0, spool, host="127.0.0.1") as receiver:
        assert send(receiver.port, make(tmp_path / "in", "1.2.3"), make(tmp_path / "in", "1.2.4")) == [0, 0]
        for later in (5, 6):
            (spool / str(ids[later])).write_text("theirs")
            assert send(receiver.port, source := make(tmp_path / "in", ids[later].series_uid)) == [0]
        assert [len(list(spooled(spool, ids[number]))) for number in (3, 4, 5, 6)] == [1, 1, 1, 1]
        # A folder where an object is to be.
        (item,) = spooled(spool, ids[6])
        item.path.unlink()
        item.path.mkdir()
        assert send(receiver.port, source) == [0]
        assert len(list(spooled(spool, ids[6]))) == 1
        assert quarantine_unasked(spool, spool / ".quarantine", -1) == 4
    kept = [
        path.read_text()
        for path in spool.rglob("*")
        if path.is_file() and path.suffix != "" and path.stat().st_size == 6
    ]
    assert kept == ["theirs"] * 7


def test_an_empty_list_lets_nobody_in_by_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--allow-aet", "--allow-address"):
        assert command.main(["--aet", "RX", "--port", "11113", option, " , "]) == 2
        assert f"{option} is empty" in capsys.readouterr().err
    assert command.main(["--aet", "RX", "--port", "11113", "--allow-aet", "PACS,far too long an AE title"]) == 2
    assert command._listed(["A,B C", "D"], "--allow-aet") == ["A", "B C", "D"]
