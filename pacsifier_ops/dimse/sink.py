"""Writes objects that arrive by C-STORE directly to disk, on our C-GET associations and at our receiver.

pynetdicom collects an object in memory (or in the default temporary folder) before it reports it. `attach` intercepts
the messages of an association before that: when the connection opens, the association gets a DIMSE provider that writes
the fragments of each data set to a file as they arrive, and sends the response. Of the pending responses of a retrieval,
one for every object, it keeps the counts. All other messages go on to pynetdicom. Of a data set only identifying attributes
are decoded, and nothing is changed.
(EVT_C_STORE of pynetdicom is not triggered.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, cast

from pynetdicom import evt
from pynetdicom._globals import STATUS_FAILURE
from pynetdicom.status import code_to_category

from pacsifier_ops.base.files import PRIVATE_FILE
from pacsifier_ops.dicom.heads import file_head, read_identity
from pacsifier_ops.dicom.uids import is_storable_uid
from pacsifier_ops.dimse.upper import Dimse, Fragment, UpperLayer, p_data_tf

#: Status of a C-STORE response (PS3.4 B.2.3).
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
_SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.6

_STORE_REQUEST, _STORE_RESPONSE, _NO_DATA_SET = 0x0001, 0x8001, 0x0101
#: Command fields of C-GET and C-MOVE responses, the status of one that is not the last, and its elements with the counts
#: of completed, failed and warning sub-operations (PS3.7 9.3.3.2, 9.3.4.2).
_RETRIEVE_RESPONSES, _PENDING, _COUNTS = (0x8010, 0x8021), 0xFF00, (0x1021, 0x1022, 0x1023)
#: Maximum size in bytes of a command set, and of a data set that is not stored: both are kept in memory.
_LARGEST_COMMAND, _LARGEST_PASSED_ON = 64 * 1024, 64 * 1024 * 1024


@dataclass(frozen=True)
class ReceivedObject:
    """One object, complete on disk, in the DICOM file format.

    Attributes:
        path: the file.
        sop_class_uid, sop_instance_uid, transfer_syntax_uid: values of the C-STORE request; also in the File Meta
            Information.
        study_uid, series_uid, patient_id, issuer: values of the data set; issuer is IssuerOfPatientID.
        size: size of the file in bytes.
        sha256: digest of the file, hexadecimal.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    issuer: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the object in spool and quarantine; different files have different names."""
        return f"{self.sop_instance_uid}.{self.sha256}"


def _read_command(encoded: bytes) -> dict[int, bytes]:
    """Return elements of a command set by element number (PS3.7 6.3.1: group 0000, implicit VR little endian)."""
    elements, at = {}, 0
    while at < len(encoded):
        number, length = struct.unpack_from("<2xHL", encoded, at)
        elements[number] = encoded[at + 8 : at + 8 + length]
        at += 8 + length
    return elements


def _number(command: dict[int, bytes], element: int) -> int:
    """Return the number that an element of a command set holds; 0 where there is none."""
    return int.from_bytes(command.get(element, b""), "little")


def _command(elements: dict[int, bytes]) -> bytes:
    """Encode a command set from elements by element number (PS3.7 6.3.1)."""
    body = b"".join(struct.pack("<HHL", 0, number, len(value)) + value for number, value in sorted(elements.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _store_response(request: dict[int, bytes], status: int) -> bytes:
    """Encode the command set of a C-STORE response (PS3.7 9.3.1.2)."""
    return _command(
        {
            0x0002: request[0x0002],
            0x0100: struct.pack("<H", _STORE_RESPONSE),
            0x0120: request[0x0110],
            0x0800: struct.pack("<H", _NO_DATA_SET),
            0x0900: struct.pack("<H", status),
            0x1000: request[0x1000],
        }
    )


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Encode the command set of a C-STORE request of medium priority (PS3.7 9.3.1.1)."""
    class_uid, instance_uid = (uid.encode() + b"\0" * (len(uid) % 2) for uid in (sop_class_uid, sop_instance_uid))
    return _command(
        {
            0x0002: class_uid,
            0x0100: struct.pack("<H", _STORE_REQUEST),
            0x0110: struct.pack("<H", message_id),
            0x0700: struct.pack("<H", 0),
            0x0800: struct.pack("<H", 0),
            0x1000: instance_uid,
        }
    )


@dataclass(frozen=True)
class _Sink:
    folder: Path
    on_object: Callable[[ReceivedObject], int]
    on_error: Callable[[Exception], None]
    make_room: Callable[[int], None]


def attach(
    folder: Path,
    on_object: Callable[[ReceivedObject], int],
    *,
    on_error: Callable[[Exception], None] = lambda error: None,
    make_room: Callable[[int], None] = lambda size: None,
) -> list[Any]:
    """Return event handlers that make an association, or all of a `Server`, write received objects into `folder`.

    They follow `transport.HANDLERS`. Incomplete files are named `*.part`. They are removed when the association ends;
    only a killed process leaves some.

    Args:
        folder: existing folder, which must remain.
        on_object: called with every complete object, in the association's own thread. It may move the file. It returns
            the status of the response; after a failure status, the file is removed unless it was moved. It must not
            abort or release the association. Where it raises, the status is 0xA700 for an OSError, else 0xC000.
        on_error: called with the error that prevented storage: an OSError where the disk is full, a ValueError where
            the data set cannot be read, any exception of `on_object`. The association continues.
        make_room: called with the number of bytes to write; refuses them by raising OSError.
    """
    sink = _Sink(folder, on_object, on_error, make_room)

    def connected(event: evt.Event) -> None:
        event.assoc.dimse = _StoreProvider(event.assoc, sink)

    def closed(event: evt.Event) -> None:
        if isinstance(event.assoc.dimse, _StoreProvider):
            event.assoc.dimse.drop()

    return [(evt.EVT_CONN_OPEN, connected), (evt.EVT_CONN_CLOSE, closed)]


class _StoreProvider(Dimse):
    """The DIMSE provider of an association with a sink."""

    def __init__(self, assoc: Any, sink: _Sink) -> None:
        super().__init__(assoc)
        self.sink = sink
        self.encoded_command = b""
        self.passed_on = 0
        self.incoming: _Incoming | None = None

    def receive(self, fragments: Iterable[Fragment]) -> None:
        """Receive fragments; those of one data set are written at once."""
        super().receive(fragments)
        if self.incoming is not None:
            self.incoming.write()

    def take(self, context_id: int, control: int, data: memoryview) -> None:
        """Handle a fragment of a C-STORE request; pass all others to pynetdicom."""
        command, last = control & 1, control & 2  # message control header (PS3.8 E.2)
        if self.incoming is not None:
            if command:
                raise ValueError("a command inside a data set")
            self.incoming.pieces.append(data)
            if last:
                incoming, self.incoming = self.incoming, None
                self._answer(context_id, incoming.request, incoming.finish())
        elif command:
            self.encoded_command += data
            if len(self.encoded_command) > _LARGEST_COMMAND:
                raise ValueError("a command set that is too large")
            if last:
                encoded, self.encoded_command = self.encoded_command, b""
                self._begin(context_id, encoded)
        else:
            self.passed_on = 0 if last else self.passed_on + len(data)
            if self.passed_on > _LARGEST_PASSED_ON:
                raise ValueError("a data set that is too large for its message")
            super().take(context_id, control, data)

    def _begin(self, context_id: int, encoded: bytes) -> None:
        request = _read_command(encoded)
        kind, with_data = _number(request, 0x0100), _number(request, 0x0800) != _NO_DATA_SET
        if kind in _RETRIEVE_RESPONSES and _number(request, 0x0900) == _PENDING and not with_data:
            counts = [_number(request, element) for element in _COUNTS]
            self.pending = [max(pair) for pair in zip(counts, self.pending or counts, strict=True)]
            return
        if kind != _STORE_REQUEST or not with_data:
            self.pass_on(context_id, b"\x03" + encoded)
            return
        context = self.assoc._accepted_cx[context_id]
        peer = self.assoc.acceptor if self.assoc.is_requestor else self.assoc.requestor
        self.incoming = _Incoming(self.sink, request, context, peer.ae_title.strip())

    def _answer(self, context_id: int, request: dict[int, bytes], status: int) -> None:
        cast(UpperLayer, self.dul).answer(p_data_tf(context_id, 0x03, _store_response(request, status)))

    def drop(self) -> None:
        """Remove the incomplete object of an association that ended."""
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            incoming.drop()


class _Incoming:
    """One object that is being received. An error is kept until the data set ends, and then returned as status.

    Attributes:
        pieces: what has come and is not written yet: views that are valid until the next read.
    """

    def __init__(self, sink: _Sink, request: dict[int, bytes], context: Any, source_aet: str) -> None:
        self.sink, self.request = sink, request
        self.sop_class_uid = request[0x0002].rstrip(b"\0 ").decode("ascii")
        self.sop_instance_uid = request[0x1000].rstrip(b"\0 ").decode("ascii")
        self.transfer_syntax_uid = str(context.transfer_syntax[0])
        self.digest = hashlib.sha256()
        self.size = 0
        self.path = sink.folder / f"{secrets.token_hex(8)}.part"
        self.stream: FileIO | None = None
        self.status = SUCCESS
        self.pieces: list[bytes | memoryview] = []
        if self.sop_class_uid != context.abstract_syntax or not context.as_scp:
            self.status = _SOP_CLASS_NOT_SUPPORTED
        elif not is_storable_uid(self.sop_instance_uid):
            self.status = CANNOT_UNDERSTAND
        else:
            head = file_head(self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid, source_aet)
            self.head_size = len(head)
            self.pieces.append(head)

    def write(self) -> None:
        """Append the pieces to the file; after the first error, discard them."""
        pieces, self.pieces = self.pieces, []
        if self.status != SUCCESS or not pieces:
            return
        # One piece costs one call of the system and one of the digest, both without the interpreter's lock.
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            self.sink.make_room(len(data))
            if self.stream is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
                self.stream = FileIO(os.open(self.path, flags, PRIVATE_FILE), "w+b")
            left = memoryview(data)
            while left:
                left = left[self.stream.write(left) :]
        except OSError as error:
            self._fail(OUT_OF_RESOURCES, error)
            return
        self.digest.update(data)
        self.size += len(data)

    def finish(self) -> int:
        """Check the object and pass it to `on_object`; return the status of the response."""
        self.write()
        if self.status == SUCCESS:
            try:
                self.status = self._deliver()
            except OSError as error:
                self._fail(OUT_OF_RESOURCES, error)
            except Exception as error:
                self._fail(CANNOT_UNDERSTAND, error)
        if code_to_category(self.status) == STATUS_FAILURE:
            self.drop()
        return self.status

    def _deliver(self) -> int:
        assert self.stream is not None
        self.stream.seek(self.head_size)
        identity = read_identity(BufferedReader(self.stream), self.transfer_syntax_uid)
        self.stream.close()
        if identity.sop_instance_uid != self.sop_instance_uid:
            self.sink.on_error(ValueError("the data set is another instance than the command announces"))
            return DOES_NOT_MATCH
        self.path = self.path.rename(self.path.with_suffix(".dcm"))
        return self.sink.on_object(
            ReceivedObject(
                path=self.path,
                sop_class_uid=self.sop_class_uid,
                sop_instance_uid=self.sop_instance_uid,
                transfer_syntax_uid=self.transfer_syntax_uid,
                study_uid=identity.study_uid,
                series_uid=identity.series_uid,
                patient_id=identity.patient_id,
                issuer=identity.issuer,
                size=self.size,
                sha256=self.digest.hexdigest(),
            )
        )

    def _fail(self, status: int, error: Exception) -> None:
        self.status = status
        self.drop()
        self.sink.on_error(error)

    def drop(self) -> None:
        """Close the file, and remove it unless it was moved."""
        if self.stream is not None:
            with contextlib.suppress(OSError):  # a disk over the network tells of an error only now
                self.stream.close()
            self.path.unlink(missing_ok=True)
