"""Tunes pynetdicom associations: without polling delays, and without logging.

pynetdicom polls: its upper layer sleeps a millisecond between two checks of the socket, reads 4,096 bytes at a time,
and keeps the default delays of TCP. Where a peer sends an image in several small segments, Nagle's algorithm there and
the delayed ACK here cost 40 ms and more per image. Pass the handlers of `tuned` to `AE.associate` or `Server`. They
tune an association of either role when its connection opens:

* `TCP_NODELAY`, and on Linux `TCP_QUICKACK` before every read (the kernel resets it after each);
* the upper layer waits for the socket, or for something to send, instead of sleeping;
* reads take as many bytes as have come, and P-DATA-TF PDUs take a short way (`upper`, `messages`);
* with TLS, the handshake comes first, in the association's own thread;
* whole messages can be sent as prepared PDUs (`send_data`);
* `dimse_timeout` counts silence: it restarts with every PDU, so that a large object over a slow line does not count as
silence; a peer that stops within a PDU ends the association.

Importing this module disables the logging of pynetdicom and pydicom in the process: their messages contain identifiers.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from pacsifier_ops.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from pacsifier_ops.dimse.messages import Dimse
from pacsifier_ops.dimse.upper import Block, Stream, UpperLayer, p_data_tf

#: Maximum length of a P-DATA-TF PDU that a peer may send, in bytes (PS3.8 D.1). DCMTK sends no longer ones, Orthanc
#: none above 16 KiB; larger values brought no gain.
MAX_PDU = 131_072

#: Seconds. A peer sends an A-ASSOCIATE-RQ at once; a connection without one after this time may be closed for a new
#: one.
_NEGOTIATION_GRACE = 1.0
#: Connections beyond the limit on associations, which get a rejection (PS3.8 9.3.4).
_TO_REFUSE = 8
#: Seconds to wait where no connection can be accepted because the limit on open files is reached.
_PAUSE = 0.1


def _silence() -> None:
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    for name in ("pynetdicom", "pydicom"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)


_silence()


@dataclass(frozen=True)
class Secure:
    """TLS for associations.

    Attributes:
        context: context of the requestor or of the acceptor.
        host: name that the acceptor's certificate must have; None on the acceptor's own side.
        timeout: seconds that the handshake may take.
        errors: errors of the requestor's handshake, or of the peer's check of our certificate. An acceptor has many
            handshakes, and records none.
    """

    context: ssl.SSLContext
    host: str | None = None
    timeout: float = 30.0
    errors: list[OSError] = field(default_factory=list)

    def wrap(self, plain: socket.socket) -> ssl.SSLSocket:
        """Perform the handshake.

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
    """Return event handlers that tune an association; put them first in the list for `associate` or `Server`."""

    def tune(event: evt.Event) -> None:
        assoc: Association = event.assoc
        stream = assoc.dul.socket
        assert stream is not None and stream.socket is not None
        if secure is not None:
            try:
                stream.socket = secure.wrap(stream.socket)
            except OSError:
                _end_wait_for_request(assoc)
                raise
        # This runs inside connect, where the objects are already in use. So they change their class instead of being
        # replaced.
        stream.__class__ = Stream
        requestor = secure is not None and secure.host is not None
        cast(Stream, stream).tune(assoc.dimse_timeout, secure.errors if secure and requestor else [])
        assoc.dul.__class__ = UpperLayer
        assoc.dul._run_loop_delay = 0.0001
        assoc.dimse = Dimse(assoc)

    return [(evt.EVT_CONN_OPEN, tune), (evt.EVT_CONN_CLOSE, lambda event: _end_wait_for_request(event.assoc))]


def _end_wait_for_request(assoc: Association) -> None:
    """End the wait of an acceptor whose connection ended before any request: it counts as an open association."""
    if assoc.is_acceptor and assoc.requestor.primitive is None:
        assoc.dul.to_user_queue.put(None)


#: Handlers of associations without TLS.
HANDLERS = tuned()

#: Number of bytes of PDUs that are passed to the upper layer at once.
_BLOCK = 256 * 1024


def send_data(association: Association, context_id: int, command: bytes, data: Iterable[bytes]) -> bool:
    """Send a DIMSE message (PS3.7 6.3) as P-DATA-TF PDUs (PS3.8 9.3.5) of the maximum length of the peer.

    Args:
        association: the association.
        context_id: id of the presentation context.
        command: the encoded command set.
        data: the encoded data set, in pieces of any length.

    Returns:
        False where the association ended meanwhile, or a stop was requested.
    """
    longest = association.acceptor.maximum_length or _BLOCK
    room = max(2, min(longest, _BLOCK) - 6) & ~1  # fragments have even length (PS3.7 F.1)
    ready = [p_data_tf(context_id, 0x03, command)]
    size, before = len(ready[0]), None

    def flush() -> Block:
        block = Block(b"".join(ready))
        association.dul.to_provider_queue.put(block)
        cast(Stream, association.dul.socket).wake()
        ready.clear()
        return block

    rest = memoryview(b"")
    for piece in data:
        rest = memoryview(bytes(rest) + piece) if rest else memoryview(piece)
        # The last fragment has a flag, so each one is kept until there is a next one.
        while len(rest) > room:
            ready.append(p_data_tf(context_id, 0x00, rest[:room]))
            rest = rest[room:]
            size += room
            if size >= _BLOCK:
                after, size = flush(), 0
                # Prepare one block while another is being sent.
                if before is not None and not _sent(before, association):
                    return False
                before = after
    ready.append(p_data_tf(context_id, 0x02, rest))
    last = flush()
    return all(_sent(block, association) for block in (before, last) if block is not None)


def _sent(block: Block, association: Association) -> bool:
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
    """Make an application entity. Pass `tuned()` to its `associate`. All times are in seconds.

    Args:
        calling_aet: our AE title.
        connect_timeout: for the TCP connection.
        acse_timeout: for the negotiation of an association.
        dimse_timeout: silence of the peer during a service.
        network_timeout: an association that is idle for so long is aborted; None leaves it open.
        maximum_pdu_size: maximum length of a PDU that the peer may send, in bytes.
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
        stream: a duplicate of the socket; TLS takes over the original.
        address: address of the peer.
        since: time of its opening, on the clock of time.monotonic.
        established: its association is, or was, established.
        over: it was cut, and its threads are about to end.
    """

    stream: socket.socket
    address: str
    since: float = field(default_factory=time.monotonic)
    established: bool = False
    over: bool = False

    def cut(self) -> None:
        """Close it in both directions, so that readers see its end."""
        self.over = True
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)


class _Handler(RequestHandler):
    """Handles a connection from its opening to its end."""

    def handle(self) -> None:
        association = self._create_association()
        server = cast("Server", self.server)
        association.bind(evt.EVT_ESTABLISHED, server.established, [self.client_address])
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
        association.join()


class Server(ThreadedAssociationServer):
    """Accepts associations for an application entity in a thread of its own, until `stop`.

    Connections without an association cannot block other peers. From its opening to its association, a connection has
    the `acse_timeout` of the entity in total. Where there are too many connections, the oldest one that still
    negotiates is closed for a new one.

    Args:
        ae: see `make_ae`.
        address: host and port. No host means every address of the machine, with IPv6 where available; port 0 means a
            free one (see `port`). The port is bound at once, and served from `start` on.
        handlers: event handlers in addition to those of `tuned`.
        admit: called with the peer's address before a byte is read; False closes the connection.
        tls: context for TLS; None: without TLS.
        most_of_address: maximum number of connections of one address; None: no separate limit.

    Raises:
        OSError: the port is in use, or we may not use it.
    """

    #: stop() waits for the associations itself.
    daemon_threads = True
    #: Length of the queue of connections to accept. Beyond it, connections of any peer are dropped.
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
        """Start to accept associations."""
        self._thread.start()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind the port. A wildcard IPv6 address covers IPv4 as well."""
        assert self.socket is not None
        if self.address_family == socket.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> Any:
        """Accept a connection. After a failure, wait before the next attempt, which would fail again at once.

        An IPv4 peer is reported by its IPv4 address, also on an IPv6 socket.
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
        """Return whether the peer's address is allowed, and there is room for one more connection."""
        if self._admit is not None and not self._admit(client_address[0]):
            return False
        with self._changing:
            if not self._room_for(client_address[0]):
                return False
            handle = socket.socket(fileno=os.dup(request.fileno()))
            self._connections[client_address] = _Connection(handle, client_address[0])
        return True

    def _room_for(self, address: str) -> bool:
        """Return whether there is room for one more connection, if necessary after closing another one."""
        open_ones = [one for one in self._connections.values() if not one.over]
        of_address = [one for one in open_ones if one.address == address]
        if len(of_address) >= self._most_of_address:
            return _cut_oldest(of_address)
        most = self.ae.maximum_associations
        return len(open_ones) < most or _cut_oldest(open_ones) or len(open_ones) < most + _TO_REFUSE

    def established(self, event: evt.Event, client_address: Any) -> None:
        """Record that the association of a connection is established."""
        with self._changing:
            if client_address in self._connections:
                self._connections[client_address].established = True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection until its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Forget a failed connection, without a report."""
        self._forget(client_address)

    def _forget(self, client_address: Any) -> None:
        with self._changing:
            connection = self._connections.pop(client_address, None)
        if connection is not None:
            connection.cut()  # the upper layer may remain after a failed association
            connection.stream.close()

    def _serve(self) -> None:
        while not self._stopping:
            self.handle_request()
            self._end_overdue()

    def _end_overdue(self) -> None:
        """Cut the connections that have negotiated for too long, even if they are sending."""
        due = self.ae.acse_timeout
        if due is None:
            return
        with self._changing:
            for one in self._connections.values():
                if not one.established and not one.over and time.monotonic() - one.since > due:
                    one.cut()

    def stop(self, wait: float = 5.0) -> None:
        """Close the port, abort open associations, and wait for their end. May be called twice.

        Args:
            wait: maximum number of seconds to wait.
        """
        self._stopping = True
        # Ends the thread's wait at once on Linux; elsewhere it takes up to `timeout`.
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
    """Wait for a thread to end, until the deadline.

    Wait also for a thread that is about to start, which Python cannot join yet.
    """
    while (left := deadline - time.monotonic()) > 0:
        try:
            return thread.join(left)
        except RuntimeError:
            time.sleep(0.001)


def _cut_oldest(connections: Sequence[_Connection]) -> bool:
    """Cut one connection that still negotiates: the oldest one of the address with most of them."""
    before = time.monotonic() - _NEGOTIATION_GRACE
    idle = [one for one in connections if not one.established and one.since < before]
    if not idle:
        return False
    crowds = Counter(one.address for one in idle)
    min(idle, key=lambda one: (-crowds[one.address], one.since)).cut()
    return True
