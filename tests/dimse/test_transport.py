"""Associations: tuned, silent in the logs, and objects that come back over C-GET."""

from __future__ import annotations

import datetime
import errno
import hashlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind as Find,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet as Get,
)

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.dicom.uids import IMPLEMENTATION_CLASS_UID, is_uid
from pacsifier_ops.dimse.session import Session, query
from pacsifier_ops.dimse.sink import SUCCESS, ReceivedObject, attach
from pacsifier_ops.dimse.transport import HANDLERS, Server, make_ae
from tests.dimse.test_receiver import body, make
from tests.support.processes import PATIENCE, until


def entity(aet: str, timeout: float = 20.0) -> Any:
    """An application entity that does everything the tests ask for."""
    ae = make_ae(aet, connect_timeout=timeout, acse_timeout=timeout, dimse_timeout=timeout)
    for sop_class in (Verification, Find, Get):
        ae.add_supported_context(sop_class)
        ae.add_requested_context(sop_class)
    ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    return ae


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[tuple[Server, list[Path]]]:
    """An SCP of C-GET that sends all it has, whatever is asked."""
    held = [make(tmp_path / "held", pixels=100_000) for _ in range(4)]

    def send_all(event: evt.Event) -> Iterator[Any]:
        yield len(held)
        for path in held:
            yield 0xFF00, dcmread(path)

    server = Server(entity("PACS"), ("127.0.0.1", 0), [(evt.EVT_C_GET, send_all)])
    server.start()
    yield server, held
    server.stop()


def get(server: Server, handlers: list[Any], timeout: float = 20.0, **associate: Any) -> Dataset:
    """C-GET everything; returns the last response."""
    association = entity("US", timeout).associate(
        "127.0.0.1",
        server.port,
        ae_title="PACS",
        ext_neg=[build_role(CTImageStorage, scp_role=True)],
        evt_handlers=[*HANDLERS, *handlers],
        **associate,
    )
    assert association.is_established
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    *_, (last, _) = association.send_c_get(query, Get)
    association.release()
    return last


def test_objects_of_c_get_go_to_the_folder(archive: tuple[Server, list[Path]], tmp_path: Path) -> None:
    server, held = archive
    folder = tmp_path / "in"
    folder.mkdir()
    got: list[ReceivedObject] = []

    def take(item: ReceivedObject) -> int:
        got.append(item)
        return SUCCESS

    last = get(server, attach(folder, take))
    assert (last.Status, last.NumberOfCompletedSuboperations) == (0, len(held))
    assert {item.sop_instance_uid for item in got} == {path.stem for path in held}
    assert set(folder.iterdir()) == {item.path for item in got}
    for item in got:
        source = tmp_path / "held" / f"{item.sop_instance_uid}.dcm"
        assert body(item.path) == body(source)
        ds = dcmread(item.path)
        assert ds.file_meta.SourceApplicationEntityTitle == "PACS"
        assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
        assert (ds.StudyInstanceUID, ds.SeriesInstanceUID) == (item.study_uid, item.series_uid)
        assert ds.PatientID == item.patient_id
        assert hashlib.sha256(item.path.read_bytes()).hexdigest() == item.sha256


def test_what_the_caller_refuses_or_fails_at_is_removed(archive: tuple[Server, list[Path]], tmp_path: Path) -> None:
    server, _ = archive
    outcomes: Iterator[Any] = iter([0xA700, OSError(errno.ENOSPC, "full"), KeyError("key"), SUCCESS])
    errors: list[Exception] = []

    def take(item: ReceivedObject) -> int:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return int(outcome)

    last = get(server, attach(tmp_path, take, on_error=errors.append))
    assert (last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (1, 3)
    assert [type(error) for error in errors] == [OSError, KeyError]
    assert len(list(tmp_path.glob("*.dcm"))) == 1 and not list(tmp_path.glob("*.part"))


def test_a_slow_peer_is_not_a_silent_one(archive: tuple[Server, list[Path]], tmp_path: Path) -> None:
    server, _ = archive

    def slow(event: evt.Event) -> None:
        stream = event.assoc.dul.socket
        send = stream.send

        def send_late(data: bytes) -> None:
            time.sleep(0.1)
            send(data)

        stream.send = send_late

    server.bind(evt.EVT_CONN_OPEN, slow)
    # Each object takes longer than the time-out; no pause between two PDUs does.
    handlers = attach(tmp_path, lambda item: SUCCESS)
    assert get(server, handlers, timeout=0.6, max_pdu=16384).Status == 0


def test_a_silent_peer_is_given_up(tmp_path: Path) -> None:
    answer = threading.Event()
    handlers = [(evt.EVT_C_ECHO, lambda event: (answer.wait(PATIENCE), 0)[1])]
    server = Server(entity("PACS", 0.3), ("127.0.0.1", 0), handlers)
    server.start()
    association = entity("US", 0.3).associate("127.0.0.1", server.port, evt_handlers=HANDLERS)
    assert "Status" not in association.send_c_echo()
    assert association.is_aborted
    answer.set()
    # One that falls silent inside a PDU ends as well, and holds no thread.
    with socket.create_connection(("127.0.0.1", server.port)) as peer:
        peer.sendall(b"\x01\x00\x00\x00\x10\x00")
        assert until(lambda: server.active_associations)
        assert until(lambda: not server.active_associations)
    # So does one that announces more than anybody may send.
    with socket.create_connection(("127.0.0.1", server.port)) as peer:
        peer.sendall(b"\x01\x00\xff\xff\xff\xff")
        peer.settimeout(PATIENCE)
        assert peer.recv(100) == b""
    server.stop()


def test_both_sides_send_without_delay() -> None:
    sockets: list[socket.socket] = []
    grab = [(evt.EVT_ESTABLISHED, lambda event: sockets.append(event.assoc.dul.socket.socket))]
    server = Server(entity("PACS"), ("127.0.0.1", 0), grab)
    server.start()
    association = entity("US").associate("127.0.0.1", server.port, evt_handlers=[*HANDLERS, *grab])
    assert association.send_c_echo().Status == 0
    assert len(sockets) == 2
    assert all(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for s in sockets)
    # The library's own thread never takes the response that somebody waits for.
    association.dimse.msg_queue.put((1, object()))
    assert association.dimse.get_msg(block=False) == (None, None)
    assert association.dimse.get_msg(block=True)[0] == 1
    association.release()
    server.stop()


def test_an_association_that_is_over_stays_over_for_whoever_asks_next() -> None:
    server = Server(entity("PACS"), ("127.0.0.1", 0))
    server.start()
    association = entity("US", timeout=3600).associate("127.0.0.1", server.port, evt_handlers=HANDLERS)
    server.stop()
    assert [association.dimse.get_msg(block=True) for _ in range(2)] == [(None, None), (None, None)]


def test_a_stopped_server_is_gone() -> None:
    server = Server(entity("PACS"), ("127.0.0.1", 0))
    server.start()
    association = entity("US").associate("127.0.0.1", server.port, evt_handlers=HANDLERS)
    server.stop()
    assert until(lambda: association.is_aborted) and not server.active_associations
    server.stop()
    again = Server(entity("PACS"), ("127.0.0.1", server.port), admit=lambda address: False)
    again.start()
    assert not entity("US").associate("127.0.0.1", again.port, evt_handlers=HANDLERS).is_established
    again.stop()
    assert not entity("US").associate("127.0.0.1", again.port, evt_handlers=HANDLERS).is_established
    Server(entity("PACS"), ("127.0.0.1", server.port)).stop()  # never started


def test_a_stop_waits_for_an_association_that_is_about_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class Starting(threading.Thread):
        is_established = False

    starting = Starting(target=time.sleep, args=(0.2,))
    server = Server(entity("PACS"), ("127.0.0.1", 0))
    monkeypatch.setattr(Server, "active_associations", [starting])
    server.start()
    threading.Timer(0.1, starting.start).start()
    server.stop()
    assert starting.ident and not starting.is_alive()


def test_tls(archive: tuple[Server, list[Path]], tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + datetime.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = tmp_path / "pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    server, held = archive
    server.ssl_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.ssl_context.load_cert_chain(path)
    folder = tmp_path / "in"
    folder.mkdir()
    tls = (ssl.create_default_context(cafile=path), "localhost")
    assert get(server, attach(folder, lambda item: SUCCESS), tls_args=tls).Status == 0
    assert sorted(map(body, folder.iterdir())) == sorted(map(body, held))


def test_nothing_is_logged(archive: tuple[Server, list[Path]], tmp_path: Path) -> None:
    """Also under an application whose root logger writes everything down."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    root, keep, level = logging.getLogger(), Keep(), logging.getLogger().level
    root.addHandler(keep)
    root.setLevel(logging.DEBUG)
    try:
        server, _ = archive

        def fail(item: ReceivedObject) -> int:
            raise ValueError(item.patient_id)

        get(server, attach(tmp_path, fail))
        association = entity("US").associate("127.0.0.1", server.port, evt_handlers=HANDLERS)
        query = Dataset()
        query.QueryRetrieveLevel, query.PatientName = "PATIENT", "Müller^Jörg"
        assert [status.Status for status, _ in association.send_c_find(query, Find)] == [0xC311]
        association.abort()
    finally:
        root.removeHandler(keep)
        root.setLevel(level)
    assert not [r for r in records if r.name.startswith(("pynetdicom", "pydicom", "root", "pacsifier"))]


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "0.1." + "2" * 60])
def test_uids(uid: str) -> None:
    assert is_uid(uid)


@pytest.mark.parametrize("uid", ["", ".", "..", "1..2", "1.", ".1", "1/2", "1.2\n", "a", "١.٢", "1" * 65])
def test_what_is_no_uid(uid: str) -> None:
    assert not is_uid(uid)


@pytest.mark.parametrize("many", [1, 150])
def test_a_match_without_a_data_set_is_unreadable_and_cancels_nothing(many: int) -> None:
    model, cancelled = StudyRootQueryRetrieveInformationModelFind, []

    def found(number: int) -> Dataset:
        match = Dataset()
        match.QueryRetrieveLevel, match.SeriesInstanceUID = "SERIES", f"1.2.{number}"
        return match

    def answer(event: evt.Event) -> Iterator[Any]:
        yield 0xFF00, found(1)
        for _ in range(many):
            bare = C_FIND()
            bare.MessageIDBeingRespondedTo, bare.AffectedSOPClassUID = event.request.MessageID, model
            bare.Status = 0xFF00
            event.assoc.dimse.send_msg(bare, event.context.context_id)
        for number in range(2, 8):
            cancelled.append(event.is_cancelled)
            yield 0xFF00, found(number)

    ae = AE("PACS")
    ae.add_supported_context(model)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    try:
        node = PacsNode("pacs", "127.0.0.1", server.socket.getsockname()[1], "PACS")
        with Session(node, lambda: nullcontext()) as session:
            matches = session.find(query("SERIES", SeriesInstanceUID=""))
    finally:
        server.shutdown()
    assert (len(matches.identifiers), matches.status, matches.unreadable) == (7, 0x0000, True)
    assert cancelled == [False] * 6
