"""The upper layer reads ahead: however the bytes of a peer come, pynetdicom's own path makes the same of them."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import Verification

from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.dimse.messages import store_request
from pacsifier_ops.dimse.session import Session, query
from pacsifier_ops.dimse.sink import SUCCESS, ReceivedObject, attach
from pacsifier_ops.dimse.transport import Server, make_ae
from pacsifier_ops.embedded.pacs import Faults
from tests.dimse.test_receiver import body, files, make
from tests.support import certificates
from tests.support.embedded import node_of, series, serving
from tests.support.processes import until

COMMAND, DATA, LAST = 1, 0, 2
RELEASE, RELEASED, ABORT = (struct.pack(">BBLL", kind, 0, 4, 0) for kind in (5, 6, 7))
#: Presentation contexts of our raw peer.
ECHO, CT = 1, 3


def entity() -> Any:
    ae = make_ae("RX", connect_timeout=40, acse_timeout=40, dimse_timeout=40)
    ae.add_supported_context(Verification)
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    return ae


class Receiving:
    """A server of ours with a sink, and what arrived there."""

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.got: list[ReceivedObject] = []
        self.server = Server(entity(), ("127.0.0.1", 0), attach(folder, self.keep), tls=tls)
        self.server.start()
        self.port = self.server.port

    def keep(self, item: ReceivedObject) -> int:
        self.got.append(item)
        return SUCCESS

    def bodies(self) -> list[bytes]:
        """The data sets that arrived since the last call."""
        got, self.got[:] = list(self.got), []
        return [body(item.path) for item in got]


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Receiving]:
    receiving = Receiving(tmp_path / "in")
    yield receiving
    receiving.server.stop()


@functools.cache
def request() -> bytes:
    """An A-ASSOCIATE-RQ as pynetdicom sends it."""
    ae, sent = AE("PEER"), list[bytes]()
    ae.add_requested_context(Verification)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        ae.acse_timeout = 0.1
        grab = (evt.EVT_DATA_SENT, lambda event: sent.append(event.data))
        ae.associate("127.0.0.1", nobody.getsockname()[1], ae_title="RX", evt_handlers=[grab])
    return sent[0]


class Raw:
    """A peer that sends bytes, in an association."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 20)  # sooner than the server gives up
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = tls.wrap_socket(plain, server_hostname="127.0.0.1") if tls else plain
        self.stream.sendall(request())
        assert self.pdu()[0] == 2

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        for piece in pieces:
            self.stream.sendall(piece)
            time.sleep(pause)

    def pdu(self) -> bytes:
        """The next PDU; empty at the end."""
        head = self._exactly(6)
        return head and head + self._exactly(struct.unpack(">BxL", head)[1])

    def _exactly(self, count: int) -> bytes:
        data = b""
        with contextlib.suppress(ConnectionError):
            while len(data) < count and (more := self.stream.recv(count - len(data))):
                data += more
        return data

    def status(self) -> int:
        """The status of the next response."""
        pdu = P_DATA_TF()
        pdu.decode(self.pdu())
        message = C_STORE_RSP()
        assert message.decode_msg(pdu.to_primitive())
        return int(message.command_set.Status)

    def ends(self) -> bool:
        """Whether the other side ends the connection; it may send an A-ABORT or an answer to a release before."""
        try:
            while self.pdu():
                pass
        except TimeoutError:
            return False
        return True


def pdv(control: int, data: bytes, context: int = CT) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context, control) + data


def pdu(*values: bytes) -> bytes:
    return struct.pack(">BBL", 4, 0, sum(map(len, values))) + b"".join(values)


@functools.cache
def message(folder: Path, pixels: int = 20) -> tuple[bytes, bytes]:
    """Command set and data set of a C-STORE."""
    path = make(folder, "1.2.3", pixels=pixels)
    return store_request(1, CTImageStorage, path.stem), body(path)


@pytest.fixture
def stored(tmp_path: Path) -> tuple[bytes, bytes]:
    return message(tmp_path / "held")


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_a_message_may_be_cut_at_every_byte(tmp_path: Path, stored: tuple[bytes, bytes], secured: bool) -> None:
    command, data = stored
    whole = (
        pdu(pdv(COMMAND, command[:30]))
        + pdu(pdv(COMMAND | LAST, command[30:]), pdv(DATA, data[:50]), pdv(DATA, b""))
        + pdu(pdv(DATA, data[50:90]))
        + pdu(pdv(DATA | LAST, data[90:]))
    )
    shown = certificates.make(tmp_path / "tls")
    contexts = [shown.server.context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=shown.ca)]
    theirs, own = contexts if secured else (None, None)
    receiving = Receiving(tmp_path / "in", theirs)
    with Raw(receiving.port, own) as peer:
        for cut in range(1, len(whole)):
            peer.send(whole[:cut], whole[cut:], pause=0.001)
            assert peer.status() == SUCCESS
    assert receiving.bodies() == [data] * (len(whole) - 1)
    receiving.server.stop()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Receiving, int, list[bytes]]]:
    """Our server, and one that is pynetdicom's alone: its port, and what arrived there."""
    receiving, got = Receiving(tmp_path_factory.mktemp("pair") / "in"), list[bytes]()

    def keep(event: Any) -> int:
        got.append(event.request.DataSet.getvalue())
        return SUCCESS

    ae = AE("RX")
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    ae.add_supported_context(Verification)
    plain = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    assert plain is not None
    yield receiving, plain.server_address[1], got
    plain.shutdown()
    receiving.server.stop()


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    return [data[a:b] for a, b in pairwise([0, *sorted(place % (len(data) + 1) for place in places), len(data)])]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), pixels=st.sampled_from([20, 5000, 700_000]))
def test_pynetdicom_makes_the_same_of_it(
    pair: tuple[Receiving, int, list[bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    pixels: int,
) -> None:
    receiving, port, got = pair
    places = st.lists(st.integers(0, 2**20), max_size=8)
    command, encoded = message(receiving.folder.parent / "held", pixels)
    values: list[bytes] = []
    for control, part in ((COMMAND, command), (DATA, encoded)):
        pieces = cut(part, data.draw(places))
        values += [pdv(control | (LAST if n == len(pieces) else 0), piece) for n, piece in enumerate(pieces, 1)]
    whole = b""
    while values:  # some fragments to a PDU
        number = data.draw(st.integers(1, len(values)))
        whole += pdu(*values[:number])
        del values[:number]
    chunks = cut(whole, data.draw(places))
    for where in (receiving.port, port):
        with Raw(where) as peer:
            peer.send(*chunks)
            assert peer.status() == SUCCESS
            peer.send(RELEASE)
            assert peer.pdu() == RELEASED
    assert receiving.bodies() == got == [encoded]
    got.clear()


CUT_OFF = {
    "an abort": ABORT,
    "a release": RELEASE,
    "an end": b"",
    "an end within a PDU": pdu(pdv(DATA, bytes(20)))[:20],
    "an end within the header of a PDU": b"\4\0",
    "an unknown PDU": struct.pack(">BBL", 9, 0, 0),
    "a second request": b"\1\0\0\0\0\4" + bytes(4),
    "a PDU that is too long": struct.pack(">BBL", 4, 0, 2**31),
    "a fragment that is longer than its PDU": pdu(struct.pack(">LBB", 100, CT, DATA) + bytes(20)),
    "a fragment without a control header": pdu(struct.pack(">LB", 1, CT)),
    "a fragment without a context": pdu(struct.pack(">L", 0)),
    "half a header": pdu(pdv(DATA, bytes(4)), b"\0\0"),
    "a command": pdu(pdv(COMMAND | LAST, bytes(20))),
}


#: After these, the peer sends no more.
ENDS = [CUT_OFF[name] for name in ("an end", "an end within a PDU", "an end within the header of a PDU")]


@pytest.mark.parametrize("rest", CUT_OFF.values(), ids=CUT_OFF)
def test_what_ends_a_message_early_leaves_nothing(ours: Receiving, stored: tuple[bytes, bytes], rest: bytes) -> None:
    command, data = stored
    first = pdu(pdv(COMMAND | LAST, command), pdv(DATA, data[:60]))
    for before in (first + rest, first):  # at once, and when the object has been begun
        with Raw(ours.port) as peer:
            peer.send(before)
            if before == first:
                assert until(lambda: files(ours.folder))
                peer.send(rest)
            if rest in ENDS:
                peer.stream.shutdown(socket.SHUT_WR)
            assert peer.ends()
        assert until(lambda: not ours.server.active_associations and not files(ours.folder))
    with Raw(ours.port) as peer:
        peer.send(pdu(pdv(COMMAND | LAST, command), pdv(DATA | LAST, data)))
        assert peer.status() == SUCCESS
    assert ours.bodies() == [data]


def test_nothing_that_was_read_ahead_is_lost(ours: Receiving, stored: tuple[bytes, bytes]) -> None:
    """Messages for the sink and for pynetdicom, several in one PDU, and a release, all in one write."""
    command, data = stored
    asked = C_ECHO()
    asked.MessageID, asked.AffectedSOPClassUID = 7, Verification
    echo = C_ECHO_RQ()
    echo.primitive_to_message(asked)
    (primitive,) = echo.encode_msg(ECHO, 16382)
    ((_, encoded),) = primitive.presentation_data_value_list
    store = pdv(COMMAND | LAST, command) + pdv(DATA | LAST, data)
    with Raw(ours.port) as peer:
        peer.send(pdu(store, store) + pdu(store, pdv(encoded[0], encoded[1:], ECHO)) + pdu(store) + RELEASE)
        answers = [peer.pdu() for _ in range(6)]
        assert answers[-1] == RELEASED
    assert ours.bodies() == [data] * 4


def test_a_pdu_may_be_longer_than_a_read(ours: Receiving, tmp_path: Path) -> None:
    command, data = message(tmp_path / "held", 3_000_000)
    with Raw(ours.port) as peer:
        for values in ((pdv(DATA | LAST, data),), (pdv(DATA, data[:100]), pdv(DATA | LAST, data[100:]))):
            peer.send(pdu(pdv(COMMAND | LAST, command)) + pdu(*values))
            assert peer.status() == SUCCESS
    assert ours.bodies() == [data] * 2


def test_a_pdu_that_has_begun_is_no_silence(ours: Receiving, stored: tuple[bytes, bytes]) -> None:
    """A peer may pause, and then send a PDU over a slow line: both together may take longer than the time-out."""
    with Raw(ours.port) as peer:
        (association,) = ours.server.active_associations
        before = association.dul.socket.heard
        peer.send(pdu(pdv(COMMAND | LAST, stored[0]))[:20])
        assert until(lambda: association.dul.socket.heard > before)


@pytest.mark.archive
@pytest.mark.parametrize("counts", [True, False], ids=["counts", "no counts in the last response"])
def test_counts_of_pending_responses_are_kept(tmp_path: Path, counts: bool) -> None:
    held = series("A", n_images=5)
    with serving(held, tmp_path / "held") as pacs:
        pacs.faults = Faults(counts=counts)
        (tmp_path / "in").mkdir()
        with Session(node_of(pacs), nullcontext, tmp_path / "in") as session:
            keys = {"StudyInstanceUID": held[0].StudyInstanceUID, "SeriesInstanceUID": held[0].SeriesInstanceUID}
            for _ in range(2):  # those of one request do not count for the next
                result = session.get(query("SERIES", **keys), [held[0].SOPClassUID])
                assert (result.status, result.completed, result.failed) == (0, 5, 0)
                assert len(session.take()) == 5


@pytest.mark.archive
def test_a_cancelled_retrieval_ends_though_objects_go_on_coming(tmp_path: Path) -> None:
    held = series("A", n_images=50)
    with serving(held, tmp_path / "held") as pacs:
        pacs.faults = Faults(delay=0.2)
        (tmp_path / "in").mkdir()
        arrived: list[int] = []
        session = Session(node_of(pacs), nullcontext, tmp_path / "in", lambda: bool(arrived), arrived.append)
        keys = {"StudyInstanceUID": held[0].StudyInstanceUID, "SeriesInstanceUID": held[0].SeriesInstanceUID}
        with session, pytest.raises(Cancelled):
            session.get(query("SERIES", **keys), [held[0].SOPClassUID])
        assert 0 < len(arrived) < 50
