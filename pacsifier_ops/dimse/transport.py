"""pynetdicom associations without their waits, and without their logging.

pynetdicom polls: its upper layer sleeps a millisecond between two looks at the socket, reads 4,096 bytes at
a time, and leaves TCP's delays as they are. Where a peer sends an image in several small segments, Nagle's
algorithm there and the delayed ACK here cost 40 ms and more per image. `HANDLERS`, handed to
`AE.associate` or `Server`, tunes an association of either role when its connection opens:

* `TCP_NODELAY`, and on Linux `TCP_QUICKACK` before every read (the kernel forgets it after each);
* the upper layer waits for the socket, or for something to send, instead of sleeping;
* reads take what the PDU still needs;
* `dimse_timeout` counts silence: it starts again with every PDU, so that a large object over a slow line
  is not taken for a peer that fell silent; a peer that falls silent inside a PDU ends the association.

Importing this module switches the logging of pynetdicom and pydicom off in the process: their messages hold
identifiers.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

#: Names this implementation in associations and files (PS3.7 D.3.3.2, PS3.10 7.1); made once, from a UUID.
IMPLEMENTATION_CLASS_UID = "2.25.182441154510849794285626515091719410876"
IMPLEMENTATION_VERSION = "PACSIFIER_OPS"

#: Longest P-DATA-TF PDU we let a peer send, in bytes (PS3.8 D.1). DCMTK sends no longer ones, Orthanc none
#: above 16 KiB; to allow more gained nothing.
MAX_PDU = 131_072

#: No PDU is longer than this in good faith; the length field alone would allow 4 GB.
_PDU_LIMIT = 16 * 1024 * 1024
_IDLE_WAIT = 0.05
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

    def tune(self, silence: float | None) -> None:
        """Set the connected socket up. `silence`: seconds that a read or a write may hang."""
        assert self.socket is not None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(silence)
        self.heard = time.monotonic()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)
        self._poll.register(self._ear, select.POLLIN)

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
        pending = getattr(self.socket, "pending", None)  # TLS: decrypted, and unknown to poll
        if pending is not None and pending():
            return True
        found = [handle for handle, _ in self._poll.poll(_IDLE_WAIT * 1000)]
        own = self._ear.fileno()
        if own in found:
            with contextlib.suppress(OSError):
                self._ear.recv(64)
        return any(handle != own for handle in found)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `nr_bytes`; fewer where the connection ends before.

        Raises:
            OSError: the connection is broken, silent for too long, or the PDU longer than anybody may send.
        """
        if nr_bytes > _PDU_LIMIT:
            raise OSError("the peer announces a PDU that is too long")
        assert self.socket is not None
        data = bytearray(nr_bytes)
        view, got = memoryview(data), 0
        while got < nr_bytes:
            if _QUICKACK is not None:
                self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            count = self.socket.recv_into(view[got:])
            if not count:
                break
            got += count
        self.heard = time.monotonic()
        view.release()
        del data[got:]
        return data

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        # pynetdicom's leaves a socket open whose peer was faster.
        for stream in (self.socket, self._bell, self._ear):
            if stream is not None:
                stream.close()


class _UpperLayer(DULServiceProvider):
    """The upper layer whose wait ends when something is to be sent."""

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        if threading.current_thread() is not self and isinstance(self.socket, _Socket):
            self.socket.wake()


class Dimse(DIMSEServiceProvider):
    """The DIMSE provider whose time-out counts silence, not time since the last message."""

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
                return self.msg_queue.get(timeout=wait)
            stream = self.assoc.dul.socket
            heard = stream.heard if isinstance(stream, _Socket) else float("-inf")
            wait = heard + self.dimse_timeout - time.monotonic()
        return None, None


def _tune(event: evt.Event) -> None:
    assoc: Association = event.assoc
    stream = assoc.dul.socket
    assert stream is not None
    # The objects are in use already (this runs inside connect), so they change class rather than place.
    stream.__class__ = _Socket
    cast(_Socket, stream).tune(assoc.dimse_timeout)
    assoc.dul.__class__ = _UpperLayer
    assoc.dul._run_loop_delay = 0.0001
    assoc.dimse = Dimse(assoc)


#: Event handlers that tune an association; the first ones of any list given to `associate` or `Server`.
HANDLERS: list[Any] = [(evt.EVT_CONN_OPEN, _tune)]


def make_ae(
    calling_aet: str,
    *,
    connect_timeout: float,
    acse_timeout: float,
    dimse_timeout: float,
    network_timeout: float | None = None,
    maximum_pdu_size: int = MAX_PDU,
) -> AE:
    """An application entity of ours; give `HANDLERS` to its `associate`. All times in seconds.

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


class Server(ThreadedAssociationServer):
    """Accepts associations for an application entity, in a thread of its own, until `stop`.

    Args:
        ae: see `make_ae`.
        address: host and port to listen at; port 0 takes a free one (see `port`). Taken at once, served from
            `start` on.
        handlers: event handlers beyond `HANDLERS`.
        admit: told the peer's address before a byte is read; false closes the connection.

    Raises:
        OSError: the port is taken, or not ours to take.
    """

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        handlers: Sequence[Any] = (),
        admit: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(ae, address, ae.ae_title, ae.supported_contexts, evt_handlers=[*HANDLERS, *handlers])
        self.timeout = 0.5
        self._admit = admit
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name=f"server-{self.port}", daemon=True)

    def start(self) -> None:
        """Begin to accept associations."""
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens at."""
        return int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the peer's address may talk to us."""
        return self._admit is None or self._admit(client_address[0])

    def _serve(self) -> None:
        while not self._stopping:
            self.handle_request()

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
            assoc.abort(block=False)
        deadline = time.monotonic() + wait
        for assoc in open_ones:
            assoc.join(max(0.0, deadline - time.monotonic()))
