"""pynetdicom associations without their waits, and without their logging.

pynetdicom polls: its upper layer sleeps a millisecond between two looks at the socket, reads 4,096 bytes at
a time, and leaves TCP's delays as they are. Where a peer sends an image in several small segments, Nagle's
algorithm there and the delayed ACK here cost 40 ms and more per image. The handlers that `tuned` gives, handed
to `AE.associate` or `Server`, tune an association of either role when its connection opens:

* `TCP_NODELAY`, and on Linux `TCP_QUICKACK` before every read (the kernel forgets it after each);
* the upper layer waits for the socket, or for something to send, instead of sleeping;
* reads take what the PDU still needs;
* with TLS, the handshake is done first, in the association's own thread;
* whole messages can be sent as ready-made PDUs (`send_data`);
* `dimse_timeout` counts silence: it starts again with every PDU, so that a large object over a slow line
  is not taken for a peer that fell silent; a peer that falls silent inside a PDU ends the association.

Importing this module switches the logging of pynetdicom and pydicom off in the process: their messages hold
identifiers.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import queue
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from pacsifier_ops.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

#: Longest P-DATA-TF PDU we let a peer send, in bytes (PS3.8 D.1). DCMTK sends no longer ones, Orthanc none
#: above 16 KiB; to allow more gained nothing.
MAX_PDU = 131_072

#: No PDU is longer than this in good faith, nor one before an association is established: 128 presentation contexts
#: with every transfer syntax that there is take less. The length field alone would allow 4 GB.
_PDU_LIMIT, _REQUEST_LIMIT = 16 * 1024 * 1024, 1024 * 1024
_IDLE_WAIT = 0.05
#: After a minute of silence, ask every 20 s; give up after four questions.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 4}
#: Who means it sends an A-ASSOCIATE-RQ at once: a connection that has not after so many seconds gives way to a new one.
_PATIENCE = 1.0
#: Connections beyond the limit on associations, to be told that there are too many (PS3.8 9.3.4).
_TO_REFUSE = 8
#: Seconds to wait where connections cannot be accepted: their number is used up.
_PAUSE = 0.1
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def _silence() -> None:
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    for name in ("pynetdicom", "pydicom"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)


_silence()


class _Socket(AssociationSocket):
    """Waits for the peer or for our own side to have something; reads and acknowledges without delay."""

    def tune(self, silence: float | None, errors: list[OSError]) -> None:
        """Set the connected socket up.

        Args:
            silence: seconds that a read or a write may hang.
            errors: those of TLS are added here.
        """
        self.errors = errors
        assert self.socket is not None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer that lost its power says nothing, as one does that is busy; this tells them apart.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.socket.settimeout(silence)
        self.heard = time.monotonic()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)
        self._poll.register(self._ear, select.POLLIN)
        self._ahead = b""

    def wake(self) -> None:
        """End the wait in `ready`: there is something to send. Any thread may call this."""
        # Full: it wakes anyway. Closed: nobody waits.
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    @property
    def ready(self) -> bool:
        """Wait for data for a while; whether there is some."""
        if self.socket is None or not self._is_connected:
            return False
        if self._ahead or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()):
            return True
        found = [handle for handle, _ in self._poll.poll(_IDLE_WAIT * 1000)]
        own = self._ear.fileno()
        if own in found:
            with contextlib.suppress(OSError):
                self._ear.recv(64)
        return any(handle != own for handle in found) and self._holds_data()

    def _holds_data(self) -> bool:
        """Whether what arrived is data. A TLS record may hold none: to read on would wait, and nothing be sent."""
        if not isinstance(self.socket, ssl.SSLSocket):
            return True
        silence = self.socket.gettimeout()
        self.socket.settimeout(0)
        try:
            self._ahead = self.socket.recv(1)
        except ssl.SSLWantReadError:
            return False
        except OSError as error:
            self.errors.append(error)  # such as the peer's opinion of our certificate
        finally:
            self.socket.settimeout(silence)
        return True  # or the end, as reading on will show

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `nr_bytes`; fewer where the connection ends before.

        Raises:
            OSError: the connection is broken, the PDU takes too long, or is longer than anybody may send.
        """
        stream = self._open_socket()
        negotiating = self.assoc.is_acceptor and not self.assoc.is_established
        if nr_bytes > (_REQUEST_LIMIT if negotiating else _PDU_LIMIT):
            # What comes behind would be taken for the next PDU.
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            raise OSError("the peer announces a PDU that is too long")
        silence, begun = stream.gettimeout(), time.monotonic()
        data = bytearray(nr_bytes)
        view, got = memoryview(data), len(self._ahead)
        data[:got], self._ahead = self._ahead, b""
        while got < nr_bytes:
            if _QUICKACK is not None:
                stream.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            count = stream.recv_into(view[got:])
            if not count:
                break
            got += count
            if silence is not None and time.monotonic() - begun > silence and got < nr_bytes:
                raise TimeoutError("the peer sends a PDU too slowly")
        self.heard = time.monotonic()
        view.release()
        del data[got:]
        return data

    def _open_socket(self) -> socket.socket:
        """The socket, or OSError where another thread has closed it."""
        if self.socket is None:
            raise OSError("the connection is closed")
        stream: socket.socket = self.socket
        return stream

    def send(self, bytestream: bytes) -> None:
        """Send all of it."""
        try:
            self._open_socket().sendall(bytestream)
        except OSError:
            self.event_queue.put("Evt17")  # PS3.8 9.2.2: transport connection closed

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        # pynetdicom's leaves a socket open whose peer was faster.
        for stream in (self.socket, self._bell, self._ear):
            if stream is not None:
                stream.close()


@dataclass
class _Block:
    """Ready-made P-DATA-TF PDUs on their way out."""

    data: bytes
    sent: threading.Event = field(default_factory=threading.Event)


class _UpperLayer(DULServiceProvider):
    """The upper layer whose wait ends when something is to be sent, and that takes ready-made PDUs."""

    def _process_recv_primitive(self) -> bool:
        try:
            first = self.to_provider_queue.queue[0]
        except IndexError:
            return False
        if not isinstance(first, _Block):
            return super()._process_recv_primitive()
        self.to_provider_queue.get()
        if self.state_machine.current_state == "Sta6" and self.socket is not None:  # established
            self.socket.send(first.data)
        first.sent.set()
        return True

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        if threading.current_thread() is not self and isinstance(self.socket, _Socket):
            self.socket.wake()


class Dimse(DIMSEServiceProvider):
    """The DIMSE provider whose time-out counts silence, not time since the last message.

    Attributes:
        cancelled: asked now and then while nothing comes; True ends the wait.
    """

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self.cancelled: Callable[[], bool] = lambda: False

    def get_msg(self, block: bool = False) -> Any:
        """The next message; (None, None) where there is none, the peer is silent or the association over."""
        if not block and self.assoc.is_requestor:
            # The association's own thread, looking for requests of the peer's. There are none, and where it
            # was not yet paused it would take the response that somebody is waiting for.
            return None, None
        if not block or self.dimse_timeout is None:
            return super().get_msg(block)
        wait = self.dimse_timeout
        while wait > 0:
            with contextlib.suppress(queue.Empty):
                message = self.msg_queue.get(timeout=min(wait, 0.5))
                if message[1] is None:  # the association is over, for whoever asks next as well
                    self.msg_queue.put(message)
                return message
            if self.cancelled():
                break
            stream = self.assoc.dul.socket
            heard = stream.heard if isinstance(stream, _Socket) else float("-inf")
            wait = heard + self.dimse_timeout - time.monotonic()
        return None, None


@dataclass(frozen=True)
class Secure:
    """TLS for associations.

    Attributes:
        context: of the requestor or of the acceptor.
        host: name that the acceptor's certificate is to bear; None on the acceptor's own side.
        timeout: seconds that the handshake may take.
        errors: what kept the requestor's handshake from succeeding, or the peer from liking our certificate, is
            added here. An acceptor outlives many of them, and keeps none.
    """

    context: ssl.SSLContext
    host: str | None = None
    timeout: float = 30.0
    errors: list[OSError] = field(default_factory=list)

    def wrap(self, plain: socket.socket) -> ssl.SSLSocket:
        """Do the handshake.

        Raises:
            OSError: it failed; the socket is closed.
        """
        plain.settimeout(self.timeout)
        server = self.host is None
        try:
            return self.context.wrap_socket(plain, server_side=server, server_hostname=self.host)
        except OSError as error:
            if not server:
                self.errors.append(error)
            plain.close()
            raise


def tuned(secure: Secure | None = None) -> list[Any]:
    """Event handlers that tune an association; the first ones of any list given to `associate` or `Server`."""

    def tune(event: evt.Event) -> None:
        assoc: Association = event.assoc
        stream = assoc.dul.socket
        assert stream is not None and stream.socket is not None
        if secure is not None:
            try:
                stream.socket = secure.wrap(stream.socket)
            except OSError:
                _end_early(assoc)
                raise
        # The objects are in use already (this runs inside connect), so they change class rather than place.
        stream.__class__ = _Socket
        requestor = secure is not None and secure.host is not None
        cast(_Socket, stream).tune(assoc.dimse_timeout, secure.errors if secure and requestor else [])
        assoc.dul.__class__ = _UpperLayer
        assoc.dul._run_loop_delay = 0.0001
        assoc.dimse = Dimse(assoc)

    return [(evt.EVT_CONN_OPEN, tune), (evt.EVT_CONN_CLOSE, lambda event: _end_early(event.assoc))]


def _end_early(assoc: Association) -> None:
    """Let an acceptor whose connection ended before any request not wait for one: it counts among the open ones."""
    if assoc.is_acceptor and assoc.requestor.primitive is None:
        assoc.dul.to_user_queue.put(None)


#: Handlers of associations without TLS.
HANDLERS = tuned()

#: Bytes of PDUs that are handed to the upper layer at once.
_BLOCK = 256 * 1024


def send_data(association: Association, context_id: int, command: bytes, data: Iterable[bytes]) -> bool:
    """Send a DIMSE message (PS3.7 6.3) as P-DATA-TF PDUs (PS3.8 9.3.5), as long as the peer lets them be.

    Args:
        command: the encoded command set.
        data: the encoded data set, in pieces of any length.

    Returns:
        False where the association ended meanwhile, or somebody wants to stop.
    """
    longest = association.acceptor.maximum_length or _BLOCK
    room = max(2, min(longest, _BLOCK) - 6) & ~1  # fragments are of even length (PS3.7 F.1)
    ready = [_pdu(context_id, 0x03, command)]
    size, before = len(ready[0]), None

    def flush() -> _Block:
        block = _Block(b"".join(ready))
        association.dul.to_provider_queue.put(block)
        cast(_Socket, association.dul.socket).wake()
        ready.clear()
        return block

    rest = memoryview(b"")
    for piece in data:
        rest = memoryview(bytes(rest) + piece) if rest else memoryview(piece)
        # The last fragment bears a mark, so one is kept back until it is known not to be the last.
        while len(rest) > room:
            ready.append(_pdu(context_id, 0x00, rest[:room]))
            rest = rest[room:]
            size += room
            if size >= _BLOCK:
                after, size = flush(), 0
                # One block is made while another is being sent.
                if before is not None and not _sent(before, association):
                    return False
                before = after
    ready.append(_pdu(context_id, 0x02, rest))
    last = flush()
    return all(_sent(block, association) for block in (before, last) if block is not None)


def _pdu(context_id: int, control: int, fragment: bytes | memoryview) -> bytes:
    """A P-DATA-TF PDU with one presentation data value; `control` as in PS3.8 E.2."""
    length = len(fragment)
    return struct.pack(">BBLLBB", 0x04, 0, length + 6, length + 2, context_id, control) + fragment


def _sent(block: _Block, association: Association) -> bool:
    while not block.sent.wait(0.5):
        if not association.is_established or association.dimse.cancelled():
            return False
    return association.is_established


def make_ae(
    calling_aet: str,
    *,
    connect_timeout: float,
    acse_timeout: float,
    dimse_timeout: float,
    network_timeout: float | None = None,
    maximum_pdu_size: int = MAX_PDU,
) -> AE:
    """An application entity of ours; give `tuned()` to its `associate`. All times in seconds.

    Args:
        calling_aet: our AE title.
        connect_timeout: for the TCP connection.
        acse_timeout: for the negotiation of an association.
        dimse_timeout: silence of the peer in a service.
        network_timeout: an association that lies idle so long is aborted; None leaves it open.
        maximum_pdu_size: longest PDU that the peer may send us, in bytes.
    """
    ae = AE(ae_title=calling_aet)
    ae.connection_timeout = connect_timeout
    ae.acse_timeout = acse_timeout
    ae.dimse_timeout = dimse_timeout
    ae.network_timeout = network_timeout
    ae.maximum_pdu_size = maximum_pdu_size
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION
    return ae


@dataclass(eq=False)
class _Connection:
    """A connection to a server.

    Attributes:
        stream: a handle of its own; TLS takes the other one over.
        address: of the peer.
        since: when it was opened, as time.monotonic has it.
        established: its association is, or was.
        over: it was cut, and its threads are about to end.
    """

    stream: socket.socket
    address: str
    since: float = field(default_factory=time.monotonic)
    established: bool = False
    over: bool = False

    def cut(self) -> None:
        """Close it in both directions; whoever reads from it sees its end."""
        self.over = True
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)


class _Handler(RequestHandler):
    """Attends to a connection from its opening to its end."""

    def handle(self) -> None:
        association = self._create_association()
        server = cast("Server", self.server)
        association.bind(evt.EVT_ESTABLISHED, server.established, [self.client_address])
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
        association.join()


class Server(ThreadedAssociationServer):
    """Accepts associations for an application entity, in a thread of its own, until `stop`.

    Nobody can keep others out by connections that come to nothing: from its opening to its association a connection
    has the `acse_timeout` of the entity, in all; where there are too many, the oldest of those that are still
    negotiating gives way to a new one.

    Args:
        ae: see `make_ae`.
        address: host and port to listen at; no host is every address of the machine, of IPv6 as well where it has
            that; port 0 takes a free one (see `port`). Taken at once, served from `start` on.
        handlers: event handlers beyond those of `tuned`.
        tls: context for TLS; plain without.
        admit: told the peer's address before a byte is read; false closes the connection.
        most_of_address: connections that one address may hold; None: all that there may be.

    Raises:
        OSError: the port is taken, or not ours to take.
    """

    #: stop() waits for the associations itself.
    daemon_threads = True
    #: Connections that wait to be accepted: where more come at once, those of honest peers are dropped among them.
    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        handlers: Sequence[Any] = (),
        admit: Callable[[str], bool] | None = None,
        tls: ssl.SSLContext | None = None,
        most_of_address: int | None = None,
    ) -> None:
        secure = Secure(tls, timeout=ae.acse_timeout or Secure.timeout) if tls else None
        self._connections: dict[Any, _Connection] = {}
        self._changing = threading.Lock()
        host, port = address
        everywhere = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
        super().__init__(
            ae,
            (host or everywhere, port),
            ae.ae_title,
            ae.supported_contexts,
            evt_handlers=[*tuned(secure), *handlers],
            request_handler=_Handler,
        )
        self.timeout = 0.5
        self._admit = admit
        self._most_of_address = most_of_address or ae.maximum_associations + _TO_REFUSE
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name=f"server-{self.port}", daemon=True)

    def start(self) -> None:
        """Begin to accept associations."""
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens at."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Take the port; at all addresses of IPv6, at those of IPv4 as well."""
        assert self.socket is not None
        if self.address_family == socket.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> Any:
        """Accept a connection; not at once again where that fails, for then it would fail again.

        A peer is told by its IPv4 address where it has come by that.
        """
        try:
            request, address = super().get_request()
            mapped = getattr(ipaddress.ip_address(address[0]), "ipv4_mapped", None)
            return request, (str(mapped), address[1]) if mapped else address
        except OSError:
            if not self._stopping:
                time.sleep(_PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the peer's address may talk to us, and there is room for one more connection."""
        if self._admit is not None and not self._admit(client_address[0]):
            return False
        with self._changing:
            if not self._room_for(client_address[0]):
                return False
            handle = socket.socket(fileno=os.dup(request.fileno()))
            self._connections[client_address] = _Connection(handle, client_address[0])
        return True

    def _room_for(self, address: str) -> bool:
        """Whether one more connection may be held, for which another one gives way if need be."""
        held = [one for one in self._connections.values() if not one.over]
        of_address = [one for one in held if one.address == address]
        if len(of_address) >= self._most_of_address:
            return _give_way(of_address)
        most = self.ae.maximum_associations
        return len(held) < most or _give_way(held) or len(held) < most + _TO_REFUSE

    def established(self, event: evt.Event, client_address: Any) -> None:
        """Note that the association of a connection is established."""
        with self._changing:
            if client_address in self._connections:
                self._connections[client_address].established = True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Attend to a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that came to nothing; nobody is told."""
        self._forget(client_address)

    def _forget(self, client_address: Any) -> None:
        with self._changing:
            connection = self._connections.pop(client_address, None)
        if connection is not None:
            connection.cut()  # the upper layer may be left, where its association has failed
            connection.stream.close()

    def _serve(self) -> None:
        while not self._stopping:
            self.handle_request()
            self._end_overdue()

    def _end_overdue(self) -> None:
        """Cut the connections that have negotiated for too long, whatever they are sending."""
        due = self.ae.acse_timeout
        if due is None:
            return
        with self._changing:
            for one in self._connections.values():
                if not one.established and not one.over and time.monotonic() - one.since > due:
                    one.cut()

    def stop(self, wait: float = 5.0) -> None:
        """Close the port, abort what is still open, wait for it to end. May be called twice.

        Args:
            wait: seconds to wait for the associations to end.
        """
        self._stopping = True
        # Ends the wait of the thread at once on Linux; elsewhere that takes `timeout`.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()
        self.server_close()
        open_ones = self.active_associations
        for assoc in open_ones:
            if assoc.is_established:
                assoc.abort(block=False)
        with self._changing:
            # Nothing was negotiated, so there is nothing to abort (PS3.8 9.2.3, Sta2); their threads see the end.
            for one in self._connections.values():
                if not one.established:
                    one.cut()
        deadline = time.monotonic() + wait
        for assoc in open_ones:
            _join(assoc, deadline)


def _join(thread: threading.Thread, deadline: float) -> None:
    """Wait for a thread to end, until the deadline; one that is about to start counts, which Python cannot join yet."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            return thread.join(left)
        except RuntimeError:
            time.sleep(0.001)


def _give_way(connections: Sequence[_Connection]) -> bool:
    """Cut one of the connections that are still negotiating: the oldest of the address that has most of them."""
    before = time.monotonic() - _PATIENCE
    idle = [one for one in connections if not one.established and one.since < before]
    if not idle:
        return False
    crowds = Counter(one.address for one in idle)
    min(idle, key=lambda one: (-crowds[one.address], one.since)).cut()
    return True
