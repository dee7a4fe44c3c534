"""The upper layer of an association (PS3.8): reads ahead, and passes P-DATA-TF PDUs on without a detour.

pynetdicom reads PDU by PDU, makes objects of each one, and passes them through a queue and its state machine. An image
of 512×512 pixels has 33 PDUs of 16 KiB, so most of the time of a retrieval went there. Here a read takes as many bytes
as have come. While the association is established, the fragments of all whole P-DATA-TF PDUs among them go directly to
the DIMSE provider, as views of the buffer. All other PDUs stay in the buffer for pynetdicom, which reads from it as
from a socket.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

#: Maximum length of a PDU, and of one before an association is established: 128 presentation contexts with every
#: transfer syntax take less. The length field alone would allow 4 GB.
_PDU_LIMIT, _REQUEST_LIMIT = 16 * 1024 * 1024, 1024 * 1024
#: Bytes of a read, at most.
_AHEAD = 256 * 1024
_IDLE_WAIT = 0.05
#: After a minute of silence, probe every 20 s; give up after four probes.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 4}
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)

_ESTABLISHED = "Sta6"  # PS3.8 9.2.1
_P_DATA_TF = 0x04
_PDU_HEAD, _PDV_HEAD = struct.Struct(">BxL"), struct.Struct(">LBB")

#: A presentation data value: presentation context id, message control header (PS3.8 E.2), and the fragment: a view that
#: is valid until the next read.
Fragment = tuple[int, int, memoryview]


class Stream(AssociationSocket):
    """Waits for data from the peer or for something to send; reads ahead, and acknowledges without delay."""

    def tune(self, silence: float | None, errors: list[OSError]) -> None:
        """Configure the connected socket.

        Args:
            silence: seconds that a read or a write may block.
            errors: list to which TLS errors are added.
        """
        self.errors = errors
        assert self.socket is not None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer without power is as silent as a busy one; keep-alive probes distinguish them.
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
        # Bytes that have been read and not taken lie between start and end.
        self._buffer = memoryview(bytearray(_AHEAD))
        self._start = self._end = 0

    def wake(self) -> None:
        """End the wait in `ready`: there is something to send. Thread-safe."""
        # A full buffer wakes the thread anyway; a closed one has no thread waiting.
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    @property
    def ready(self) -> bool:
        """Wait for data for a short time; return whether there is some."""
        if self.socket is None or not self._is_connected:
            return False
        if self._end > self._start or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()):
            return True
        found = [handle for handle, _ in self._poll.poll(_IDLE_WAIT * 1000)]
        own = self._ear.fileno()
        if own in found:
            with contextlib.suppress(OSError):
                self._ear.recv(64)
        return any(handle != own for handle in found) and self._holds_data()

    def _holds_data(self) -> bool:
        """Return whether the received bytes are data.

        A TLS record may contain none. A blocking read would then delay sending.
        """
        if not isinstance(self.socket, ssl.SSLSocket):
            return True
        silence = self.socket.gettimeout()
        self.socket.settimeout(0)
        try:
            self._read(self.socket, 1)
        except ssl.SSLWantReadError:
            return False
        except OSError as error:
            self.errors.append(error)  # such as the peer's rejection of our certificate
        finally:
            self.socket.settimeout(silence)
        return True  # or the end of the connection, which the next read shows

    def recv(self, nr_bytes: int) -> bytearray:
        """Take `nr_bytes`; fewer where the connection ends before. Raise OSError as `_wait_for` does."""
        data = bytearray(self._wait_for(nr_bytes))
        self._start += len(data)
        self.heard = time.monotonic()
        return data

    def _wait_for(self, count: int) -> memoryview:
        """Return the next `count` bytes and leave them in the buffer; fewer where the connection ends before.

        Raises:
            OSError: the connection is broken, the bytes take too long, or exceed the maximum length of a PDU.
        """
        stream = self.socket
        if stream is None:
            raise OSError("the connection is closed")  # by another thread
        negotiating = self.assoc.is_acceptor and not self.assoc.is_established
        if count > (_REQUEST_LIMIT if negotiating else _PDU_LIMIT):
            # The following bytes would be read as the next PDU.
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            raise OSError("the peer announces a PDU beyond the maximum length")
        silence, begun = stream.gettimeout(), time.monotonic()
        while self._end - self._start < count and self._read(stream, count):
            late = silence is not None and time.monotonic() - begun > silence
            if late and self._end - self._start < count:
                raise TimeoutError("the peer sends a PDU too slowly")
        return self._buffer[self._start : min(self._end, self._start + count)]

    def _read(self, stream: socket.socket, count: int) -> int:
        """Read once, with room for `count` bytes in all; return the number of bytes read."""
        held = self._buffer[self._start : self._end]
        size = max(_AHEAD, count)
        buffer = self._buffer if len(self._buffer) == size else memoryview(bytearray(size))
        buffer[: len(held)] = held
        self._buffer, self._start, self._end = buffer, 0, len(held)
        if _QUICKACK is not None:
            stream.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)  # the kernel resets it after each read
        got = _receive(stream, buffer[self._end :])
        self._end += got
        return got

    def wait_for_data(self) -> bool:
        """Return whether the next PDU is a P-DATA-TF PDU, when it has come whole. Raise OSError as `_wait_for` does."""
        head = self._wait_for(_PDU_HEAD.size)
        if len(head) < _PDU_HEAD.size or head[0] != _P_DATA_TF:
            return False
        self.heard = time.monotonic()  # a PDU that has begun is no silence; it has a time-out of its own
        size = _PDU_HEAD.size + _PDU_HEAD.unpack(head)[1]
        return len(self._wait_for(size)) == size

    def fragments(self) -> Iterator[Fragment]:
        """Take all whole P-DATA-TF PDUs from the buffer, up to any other PDU; yield their fragments (PS3.8 9.3.5).

        Raises:
            ValueError, struct.error: the lengths of a PDU contradict each other.
        """
        while self._end - self._start >= _PDU_HEAD.size:
            kind, length = _PDU_HEAD.unpack_from(self._buffer, self._start)
            at = self._start + _PDU_HEAD.size
            end = at + length
            if kind != _P_DATA_TF or end > self._end:
                return
            self._start, self.heard = end, time.monotonic()
            while at < end:
                length, context_id, control = _PDV_HEAD.unpack_from(self._buffer, at)
                begin, at = at + _PDV_HEAD.size, at + 4 + length
                if not begin <= at <= end:
                    raise ValueError("a presentation data value of another length than its PDU")
                yield context_id, control, self._buffer[begin:at]

    def send(self, bytestream: bytes) -> None:
        """Send all bytes."""
        try:
            if self.socket is None:
                raise OSError("the connection is closed")
            _send(self.socket, bytestream)
        except OSError:
            self.event_queue.put("Evt17")  # PS3.8 9.2.2: transport connection closed

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        # pynetdicom leaves the socket open where the peer closed first.
        for stream in (self.socket, self._bell, self._ear):
            if stream is not None:
                stream.close()


def _receive(stream: socket.socket, room: memoryview) -> int:
    """Read what has come, up to `room`, else wait for it as `recv_into` does; return the number of bytes.

    A socket with a time-out asks the system whether there is something before every call.
    """
    if not isinstance(stream, ssl.SSLSocket):
        with contextlib.suppress(BlockingIOError):
            return os.readv(stream.fileno(), [room])
    return stream.recv_into(room)


def _send(stream: socket.socket, data: bytes) -> None:
    """Send all bytes; wait as `sendall` does only where the system does not take them at once."""
    sent = 0
    if not isinstance(stream, ssl.SSLSocket):
        with contextlib.suppress(BlockingIOError):
            sent = os.write(stream.fileno(), data)
    if sent < len(data):
        stream.sendall(memoryview(data)[sent:])


@dataclass
class Block:
    """Prepared P-DATA-TF PDUs that wait to be sent."""

    data: bytes
    sent: threading.Event = field(default_factory=threading.Event)


def p_data_tf(context_id: int, control: int, fragment: bytes | memoryview) -> bytes:
    """Encode a P-DATA-TF PDU with one presentation data value; `control` is the message control header (PS3.8 E.2)."""
    length = len(fragment)
    return _PDU_HEAD.pack(_P_DATA_TF, length + 6) + _PDV_HEAD.pack(length + 2, context_id, control) + fragment


class UpperLayer(DULServiceProvider):
    """An upper layer whose wait ends when there is something to send, and that takes and sends whole runs of PDUs."""

    def _is_transport_event(self) -> bool:
        stream = self.socket
        if self.state_machine.current_state != _ESTABLISHED or not isinstance(stream, Stream):
            return super()._is_transport_event()
        came = False
        while stream.ready:
            came = True
            self._idle_timer.restart()
            try:
                if stream.wait_for_data():
                    self.assoc.dimse.receive(stream.fragments())
                else:
                    self._read_pdu_data()
            except OSError:
                self.event_queue.put("Evt17")  # PS3.8 9.2.2: transport connection closed
            if self._kill_thread or self.to_provider_queue.queue or self.event_queue.queue:
                break
        return came

    def _process_recv_primitive(self) -> bool:
        try:
            first = self.to_provider_queue.queue[0]
        except IndexError:
            return False
        if not isinstance(first, Block):
            return super()._process_recv_primitive()
        self.to_provider_queue.get()
        if self.state_machine.current_state == _ESTABLISHED and self.socket is not None:
            self.socket.send(first.data)
        first.sent.set()
        return True

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        if threading.current_thread() is not self and isinstance(self.socket, Stream):
            self.socket.wake()

    def answer(self, data: bytes) -> None:
        """Send PDUs from within the DIMSE provider: in this layer's own thread, and after all that waits to be sent."""
        if self.to_provider_queue.empty() and self.socket is not None:
            self.socket.send(data)
        else:
            self.to_provider_queue.put(Block(data))
