"""Writes objects that arrive by C-STORE directly to disk, on our C-GET associations and at our receiver.

pynetdicom collects an object in memory (or in the default temporary folder) before it reports it. `attach` intercepts
the messages of an association before that: when the connection opens, the association gets a DIMSE provider that writes
the fragments of each data set to a file as they arrive, and sends the response. All messages other than C-STORE
requests go on. Of a data set only identifying attributes are decoded, and nothing is changed.
(EVT_C_STORE of pynetdicom is not triggered.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

from pynetdicom import evt
from pynetdicom._globals import STATUS_FAILURE
from pynetdicom.status import code_to_category

from pacsifier_ops.base.files import PRIVATE_FILE
from pacsifier_ops.dicom.heads import HEAD, Identity, file_head, quick_identity, read_identity
from pacsifier_ops.dicom.uids import is_storable_uid
from pacsifier_ops.dimse.messages import (
    FIELD,
    SOP_CLASS,
    SOP_INSTANCE,
    STORE_REQUEST,
    WHOLE_COMMAND,
    Collector,
    Command,
    Dimse,
    has_data_set,
    number,
    store_response,
)
from pacsifier_ops.dimse.upper import UpperLayer, p_data_tf

#: Status of a C-STORE response (PS3.4 B.2.3).
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
_SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.6


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


@dataclass(frozen=True)
class _Sink:
    folder: Path
    on_object: Callable[[ReceivedObject], int]
    on_error: Callable[[Exception], None]
    make_room: Callable[[int], None]
    # Random, since several sinks may share the folder; the number of the object follows.
    _prefix: str = field(default_factory=lambda: secrets.token_hex(8))
    _numbers: Iterator[int] = field(default_factory=count)

    def place(self) -> str:
        """Return the path of a new file, without suffix. Thread-safe."""
        return f"{self.folder}/{self._prefix}-{next(self._numbers)}"


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

    def collector(self, context_id: int, command: Command) -> Collector | None:
        """Return what writes the data set of a C-STORE request; None for what pynetdicom takes."""
        if number(command, FIELD) != STORE_REQUEST or not has_data_set(command):
            return super().collector(context_id, command)
        context = self.assoc._accepted_cx[context_id]
        peer = self.assoc.acceptor if self.assoc.is_requestor else self.assoc.requestor

        def answer(status: int) -> None:
            response = p_data_tf(context_id, WHOLE_COMMAND, store_response(command, status))
            cast(UpperLayer, self.dul).answer(response)

        return _Incoming(self.sink, command, context, peer.ae_title.strip(), answer)

    def drop(self) -> None:
        """Remove the incomplete object of an association that ended."""
        incoming, self.open = self.open, None
        if isinstance(incoming, _Incoming):
            incoming.drop()


class _Incoming:
    """One object that is being received: a `Collector`. An error is kept until the data set ends, and then answered."""

    def __init__(
        self, sink: _Sink, request: Command, context: Any, source_aet: str, answer: Callable[[int], None]
    ) -> None:
        self.sink, self.answer = sink, answer
        self.sop_class_uid = request[SOP_CLASS].rstrip(b"\0 ").decode("ascii")
        self.sop_instance_uid = request[SOP_INSTANCE].rstrip(b"\0 ").decode("ascii")
        self.transfer_syntax_uid = str(context.transfer_syntax[0])
        self.digest = hashlib.sha256()
        self.size = 0
        self.begin = b""
        self.place = sink.place()
        self.path = f"{self.place}.part"
        self.handle: int | None = None
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

    def take(self) -> None:
        """Append the pieces to the file; after the first error, discard them."""
        pieces, self.pieces = self.pieces, []
        if self.status != SUCCESS or not pieces:
            return
        # One piece costs one call of the system and one of the digest, both without the interpreter's lock.
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            self.sink.make_room(len(data))
            if self.handle is None:
                self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
            left = memoryview(data)
            while left:
                left = left[os.write(self.handle, left) :]
        except OSError as error:
            self._fail(OUT_OF_RESOURCES, error)
            return
        if (missing := self.head_size + HEAD - self.size) > 0:
            self.begin += data[:missing]
        self.digest.update(data)
        self.size += len(data)

    def finish(self) -> None:
        """Check the object, pass it to `on_object`, and send the response."""
        self.take()
        if self.status == SUCCESS:
            try:
                self.status = self._deliver()
            except OSError as error:
                self._fail(OUT_OF_RESOURCES, error)
            except Exception as error:
                self._fail(CANNOT_UNDERSTAND, error)
        if code_to_category(self.status) == STATUS_FAILURE:
            self.drop()
        self.answer(self.status)

    def _deliver(self) -> int:
        identity = self._identity()
        self._close()
        if identity.sop_instance_uid != self.sop_instance_uid:
            self.sink.on_error(ValueError("the data set is another instance than the command announces"))
            return DOES_NOT_MATCH
        whole = f"{self.place}.dcm"
        os.rename(self.path, whole)
        self.path = whole
        return self.sink.on_object(
            ReceivedObject(
                path=Path(self.path),
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

    def _identity(self) -> Identity:
        """Return the identifying attributes, from the begin of the data set if they are there."""
        identity = quick_identity(self.begin[self.head_size :], self.transfer_syntax_uid)
        if identity is None:
            with open(self.path, "rb") as stream:
                stream.seek(self.head_size)
                identity = read_identity(stream, self.transfer_syntax_uid)
        return identity

    def _fail(self, status: int, error: Exception) -> None:
        self.status = status
        self.drop()
        self.sink.on_error(error)

    def drop(self) -> None:
        """Close the file, and remove it unless it was moved."""
        with contextlib.suppress(OSError):  # a disk over the network tells of an error only now
            self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _close(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            os.close(handle)
