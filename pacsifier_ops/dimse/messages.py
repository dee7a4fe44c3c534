"""DIMSE messages (PS3.7): command sets, and a provider that handles those that come once for every object by itself.

pynetdicom decodes a command set as a data set and makes several objects of each message. That takes as much time as the
writing of a small image. So the matches of a C-FIND are kept as they are encoded, and of the pending responses of a
retrieval only the counts. All other messages go on to pynetdicom, also the last response.
"""

from __future__ import annotations

import contextlib
import queue
import struct
import time
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, Protocol

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.pdu_primitives import P_DATA

from pacsifier_ops.dimse.upper import Fragment, Stream

#: The elements of a command set by element number (PS3.7 6.3.1: group 0000, implicit VR little endian).
Command = dict[int, bytes]

#: Elements of command sets (PS3.7 E.1).
SOP_CLASS, FIELD, MESSAGE_ID, RESPONDED_TO, PRIORITY, DATA_SET_TYPE, STATUS, SOP_INSTANCE = (
    0x0002,
    0x0100,
    0x0110,
    0x0120,
    0x0700,
    0x0800,
    0x0900,
    0x1000,
)
STORE_REQUEST, _STORE_RESPONSE, _FIND_RESPONSE, _RETRIEVE_RESPONSES = 0x0001, 0x8001, 0x8020, (0x8010, 0x8021)
#: Statuses of responses that are not the last.
PENDING, PENDING_KEYS_UNSUPPORTED = 0xFF00, 0xFF01
#: Numbers of completed, failed and warning sub-operations in the response of a retrieval.
_COUNTS = (0x1021, 0x1022, 0x1023)
_NO_DATA_SET = 0x0101
#: Bits of the message control header (PS3.8 E.2), and both.
_IS_COMMAND, _IS_LAST, WHOLE_COMMAND = 0x01, 0x02, 0x03
#: Maximum size in bytes of a command set, and of a data set that is not stored: both are kept in memory.
_LARGEST_COMMAND, _LARGEST_DATA = 64 * 1024, 64 * 1024 * 1024


def read_command(encoded: bytes) -> Command:
    """Return the elements of an encoded command set.

    Raises:
        struct.error: it ends within an element.
    """
    elements, at = {}, 0
    while at < len(encoded):
        element, length = struct.unpack_from("<2xHL", encoded, at)
        elements[element] = encoded[at + 8 : at + 8 + length]
        at += 8 + length
    return elements


def number(command: Command, element: int) -> int:
    """Return the number that an element holds; 0 where there is none."""
    return int.from_bytes(command.get(element, b""), "little")


def _command(elements: Command) -> bytes:
    """Encode a command set."""
    body = b"".join(struct.pack("<HHL", 0, element, len(value)) + value for element, value in sorted(elements.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def store_response(request: Command, status: int) -> bytes:
    """Encode the command set of a C-STORE response (PS3.7 9.3.1.2)."""
    return _command(
        {
            SOP_CLASS: request[SOP_CLASS],
            FIELD: struct.pack("<H", _STORE_RESPONSE),
            RESPONDED_TO: request[MESSAGE_ID],
            DATA_SET_TYPE: struct.pack("<H", _NO_DATA_SET),
            STATUS: struct.pack("<H", status),
            SOP_INSTANCE: request[SOP_INSTANCE],
        }
    )


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Encode the command set of a C-STORE request of medium priority (PS3.7 9.3.1.1)."""
    class_uid, instance_uid = (uid.encode() + b"\0" * (len(uid) % 2) for uid in (sop_class_uid, sop_instance_uid))
    return _command(
        {
            SOP_CLASS: class_uid,
            FIELD: struct.pack("<H", STORE_REQUEST),
            MESSAGE_ID: struct.pack("<H", message_id),
            PRIORITY: struct.pack("<H", 0),
            DATA_SET_TYPE: struct.pack("<H", 0),
            SOP_INSTANCE: instance_uid,
        }
    )


class Collector(Protocol):
    """Takes the data set of one message.

    Attributes:
        pieces: fragments that have come and are not taken yet: views that are valid until the next read.
    """

    pieces: list[bytes | memoryview]

    def take(self) -> None:
        """Take the pieces, as there may be another read."""

    def finish(self) -> None:
        """Take the pieces, which are the last ones."""


class Dimse(DIMSEServiceProvider):
    """The DIMSE provider of an association. Its time-out counts silence instead of the time since the last message.

    Attributes:
        cancelled: called regularly while nothing arrives; True ends the wait.
        pending: highest counts of completed, failed and warning sub-operations in the pending responses of a retrieval,
            which `get_msg` does not return; None where there was none.
        matches: statuses and encoded identifiers of the pending responses of a C-FIND. `get_msg` does not return these.
        most: from this number of matches on, it returns a response without identifier for each of them; 0: never.
        open: takes the data set that is arriving; None where pynetdicom does, or none is arriving.
    """

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self.cancelled: Callable[[], bool] = lambda: False
        self.pending: list[int] | None = None
        self.matches: list[tuple[int, bytes]] = []
        self.most = 0
        self.open: Collector | None = None
        self._command = b""
        self._passed_on = 0

    def receive(self, fragments: Iterable[Fragment]) -> None:
        """Receive fragments that have come at once. What is no message ends the association, and nothing is logged."""
        try:
            for context_id, control, data in fragments:
                if control & _IS_COMMAND:
                    self._take_command(context_id, control, data)
                else:
                    self._take_data(context_id, control, data)
                if self.dul.event_queue.queue:
                    break  # the association ends
            if self.open is not None:
                self.open.take()
        except Exception:
            self.dul.event_queue.put("Evt19")  # PS3.8 9.2.2: invalid PDU

    def collector(self, context_id: int, command: Command) -> Collector | None:
        """Return what takes the data set of a message; None: pynetdicom takes the message."""
        pending = number(command, STATUS) in (PENDING, PENDING_KEYS_UNSUPPORTED) and RESPONDED_TO in command
        match = number(command, FIELD) == _FIND_RESPONSE and pending and has_data_set(command)
        return _Match(self, context_id, command) if match else None

    def _take_command(self, context_id: int, control: int, data: memoryview) -> None:
        if self.open is not None:
            raise ValueError("a command inside a data set")
        self._command += data
        if len(self._command) > _LARGEST_COMMAND:
            raise ValueError("a command set that is too large")
        if control & _IS_LAST:
            encoded, self._command = self._command, b""
            command = read_command(encoded)
            if _is_pending(command):
                counts = [number(command, element) for element in _COUNTS]
                self.pending = [max(pair) for pair in zip(counts, self.pending or counts, strict=True)]
                return
            self.open = self.collector(context_id, command)
            if self.open is None:
                self._pass_on(context_id, WHOLE_COMMAND, encoded)

    def _take_data(self, context_id: int, control: int, data: memoryview) -> None:
        if self.open is None:
            self._passed_on = 0 if control & _IS_LAST else self._passed_on + len(data)
            if self._passed_on > _LARGEST_DATA:
                raise ValueError("a data set that is too large for its message")
            self._pass_on(context_id, control, data)
            return
        self.open.pieces.append(data)
        if control & _IS_LAST:
            whole, self.open = self.open, None
            whole.finish()

    def _pass_on(self, context_id: int, control: int, data: bytes | memoryview) -> None:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes((control,)) + data))
        self.receive_primitive(primitive)

    def get_msg(self, block: bool = False) -> Any:
        """Return the next message; (None, None) where there is none, the peer is silent or the association ended."""
        if not block and self.assoc.is_requestor:
            # This is the association's own thread, which looks for requests of the peer. There are none, and before it
            # is paused it could take the response for which another thread waits.
            return None, None
        if not block or self.dimse_timeout is None:
            return super().get_msg(block)
        wait = self.dimse_timeout
        while wait > 0:
            with contextlib.suppress(queue.Empty):
                message = self.msg_queue.get(timeout=min(wait, 0.5))
                if message[1] is None:  # the association ended; the next call must see this as well
                    self.msg_queue.put(message)
                return message
            if self.cancelled():
                break
            stream = self.assoc.dul.socket
            heard = stream.heard if isinstance(stream, Stream) else float("-inf")
            wait = heard + self.dimse_timeout - time.monotonic()
        return None, None


def has_data_set(command: Command) -> bool:
    """Return whether a data set follows a command set."""
    return command[DATA_SET_TYPE] != struct.pack("<H", _NO_DATA_SET)


def _is_pending(command: Command) -> bool:
    """Return whether a message is a response of a retrieval that goes on."""
    pending = number(command, STATUS) == PENDING and RESPONDED_TO in command
    return number(command, FIELD) in _RETRIEVE_RESPONSES and pending and not has_data_set(command)


class _Match:
    """Keeps a match of a C-FIND (PS3.7 9.1.2.1)."""

    def __init__(self, provider: Dimse, context_id: int, command: Command) -> None:
        self.pieces: list[bytes | memoryview] = []
        self._provider, self._context_id, self._command = provider, context_id, command
        self._identifier = b""

    def take(self) -> None:
        self._identifier += b"".join(self.pieces)
        self.pieces.clear()
        if len(self._identifier) > _LARGEST_DATA:
            raise ValueError("a data set that is too large for its message")

    def finish(self) -> None:
        self.take()
        provider, status = self._provider, number(self._command, STATUS)
        provider.matches.append((status, self._identifier))
        if 0 < provider.most <= len(provider.matches):
            match = C_FIND()
            match.MessageIDBeingRespondedTo = number(self._command, RESPONDED_TO)
            match.Status = status
            match.Identifier = BytesIO()
            provider.msg_queue.put((self._context_id, match))
