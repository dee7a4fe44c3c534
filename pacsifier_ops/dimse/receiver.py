"""The storage receiver: a C-STORE SCP that spools what a PACS sends, and knows nothing else.

Hospitals register one AE title, one address and one port, and many tasks ask for series to be sent there. So
the receiver does not know who asked for what. It spools every object as it came:

    <spool>/<StudyInstanceUID>_<SeriesInstanceUID>/<SOPInstanceUID>.<SHA-256 of the file>

Whoever holds the lease of a series takes its objects (`spooled`); what nobody takes goes into quarantine
(`quarantine_unasked`). The digest in the name tells two versions of an object apart, makes one that is sent
twice one file, and finds files torn by a power failure.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import re
import secrets
import shutil
import ssl
import threading
import time
from collections.abc import Collection, Container, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass, VerificationServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class

from pacsifier_ops.base.errors import ConfigError, ReceiverError
from pacsifier_ops.base.files import private_folder
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.dicom.heads import read_head, read_identity
from pacsifier_ops.dicom.uids import is_kept
from pacsifier_ops.dimse.sink import SUCCESS, ReceivedObject, attach
from pacsifier_ops.dimse.transport import Server, make_ae

#: Folders of the spool beside those of series: objects on their way in, and what nobody asked for.
INCOMING, QUARANTINE = ".incoming", ".quarantine"
#: ServiceClass itself stands for SOP classes that pynetdicom does not know: private, retired and new ones.
_SERVICES = (ServiceClass, StorageServiceClass, VerificationServiceClass)
_MAX_ASSOCIATIONS = 64
#: Connections that one address may hold, so that others find room.
_MAX_OF_ADDRESS = 32
_FILE_ATTEMPTS = 5
#: Name of an object in the spool.
_OBJECT = re.compile(r"(?P<uid>.+)\.[0-9a-f]{64}")
_CHECK_FREE_EVERY = 16 * 1024 * 1024

_UNCOMPRESSED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
#: Compressed without loss whatever the object: RLE, JPEG Lossless, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL.
_LOSSLESS = {
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70, 80, 90, 92, 110, 201, 202)),
}


def _preference(syntax: UID) -> int:
    """Rank of a transfer syntax among those that one presentation context proposes; the lowest is accepted.

    A peer proposes a compressed transfer syntax because it holds objects in it, and can as a rule unpack
    them but not pack others: to accept an uncompressed one beside it would make it send something else than
    it has stored. Lossless goes before lossy, lest a peer that can do both degrade an image. Explicit VR
    goes before implicit: it keeps the VRs of private elements. Peers that propose one transfer syntax per
    presentation context are not affected.
    """
    if syntax in _UNCOMPRESSED:
        return 2 + _UNCOMPRESSED.index(syntax)
    return 0 if syntax in _LOSSLESS else 1


def _accept_storage(event: evt.Event) -> None:
    """Accept C-ECHO and every storage SOP class proposed, the private and unknown ones too, as proposed."""
    proposed: dict[UID, list[UID]] = {}
    for context in event.assoc.requestor.primitive.presentation_context_definition_list:
        if uid_to_service_class(context.abstract_syntax) in _SERVICES:
            proposed.setdefault(context.abstract_syntax, []).extend(context.transfer_syntax)
    event.assoc.acceptor.supported_contexts = [_context(uid, syntaxes) for uid, syntaxes in proposed.items()]


def _context(uid: UID, syntaxes: list[UID]) -> PresentationContext:
    return build_context(uid, sorted(dict.fromkeys(syntaxes), key=_preference))


class _Room:
    """Keeps the spool below its quota, and the file system above its floor. Any thread may ask."""

    def __init__(self, spool: Path, quota_bytes: int | None, free_floor_bytes: int) -> None:
        self._spool, self._quota, self._floor = spool, quota_bytes, free_floor_bytes
        self._lock = threading.Lock()
        self._used = 0
        self._counted = float("-inf")
        self._unchecked = _CHECK_FREE_EVERY
        self._recount()

    def take(self, size: int) -> None:
        """Count `size` more bytes; OSError where there is no room for them."""
        with self._lock:
            if self._quota is not None and self._used + size > self._quota:
                self._recount()
                if self._used + size > self._quota:
                    raise OSError(errno.EDQUOT, "the spool is over its quota")
            self._unchecked += size
            if self._unchecked > _CHECK_FREE_EVERY:
                if shutil.disk_usage(self._spool).free < self._floor:
                    raise OSError(errno.ENOSPC, "the disk of the spool is below its floor of free space")
                self._unchecked = 0
            self._used += size

    def _recount(self) -> None:
        """What was collected meanwhile makes room; looked at once a second at most."""
        if time.monotonic() - self._counted < 1:
            return
        self._counted = time.monotonic()
        self._used = 0
        for folder, _, names in os.walk(self._spool):
            for name in names:
                with contextlib.suppress(OSError):
                    self._used += os.lstat(os.path.join(folder, name)).st_size


class StorageReceiver:
    """Listens for what a PACS sends; a context manager.

    Args:
        aet: our AE title; associations that call another one are rejected.
        port: TCP port; 0 takes a free one (see `port`).
        spool: folder of the spool, made where it is not there. Several receivers may share it.
        host: address to listen at; empty: all, of IPv4 and IPv6.
        allowed_calling: AE titles that may send; None allows all.
        allowed_addresses: IP addresses or networks (10.1.0.0/16) that may connect; None allows all.
        quota_bytes: size of the spool beyond which objects are refused with 0xA700; None is no limit.
        free_floor_bytes: free space of the disk below which objects are refused likewise.
        tls: context for TLS (see `tls.receiver_context`); plain without.

    Attributes:
        error: what last kept an object from being stored; may be set back to None.

    Raises:
        ConfigError: an allowed address is none.
    """

    def __init__(
        self,
        aet: str,
        port: int,
        spool: Path,
        *,
        host: str = "",
        allowed_calling: Collection[str] | None = None,
        allowed_addresses: Collection[str] | None = None,
        quota_bytes: int | None = None,
        free_floor_bytes: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self.aet, self.port, self.host, self.spool = aet, port, host, spool
        self.error: Exception | None = None
        self._quota_bytes, self._free_floor_bytes = quota_bytes, free_floor_bytes
        self._networks = None if allowed_addresses is None else [_network(text) for text in allowed_addresses]
        self._ae = make_ae(aet, connect_timeout=10, acse_timeout=30, dimse_timeout=120, network_timeout=300)
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = sorted(allowed_calling or ())
        self._ae.maximum_associations = _MAX_ASSOCIATIONS
        self._ae.add_supported_context(Verification)
        self._server: Server | None = None

    def start(self) -> Self:
        """Clear up after a crash, and listen. Returns itself.

        Raises:
            ReceiverError: the port is taken, or not ours to take.
            OSError: the spool cannot be written.
        """
        try:
            handlers = [(evt.EVT_REQUESTED, _accept_storage)]
            server = Server(self._ae, (self.host, self.port), handlers, self._admit, self._tls, _MAX_OF_ADDRESS)
        except OSError as error:
            raise ReceiverError(
                f"the storage receiver {self.aet} cannot listen at port {self.port} ({error.strerror}); stop "
                "the program that holds the port, or choose another port here and declare it on the PACS "
                f"for {self.aet}"
            ) from error
        self.port, self._server = server.port, server
        try:
            # The port is ours alone, so a folder named after it is.
            folder = _folder(_folder(private_folder(self.spool) / INCOMING) / str(self.port))
            shutil.rmtree(folder, ignore_errors=True)
            private_folder(folder)
            _remove_torn(self.spool)
            room = _Room(self.spool, self._quota_bytes, self._free_floor_bytes)
        except BaseException:
            self.stop()
            raise
        for event, handler in attach(folder, self._file, on_error=self._note, make_room=room.take):
            server.bind(event, handler)
        server.start()
        return self

    def stop(self) -> None:
        """Close the port and abort what is open; what was not whole is gone. Harmless when repeated."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _admit(self, address: str) -> bool:
        if self._networks is None:
            return True
        peer = ipaddress.ip_address(address)
        return any(peer in network for network in self._networks)

    def _note(self, error: Exception) -> None:
        self.error = error

    def _file(self, received: ReceivedObject) -> int:
        series = SeriesId(received.study_uid, received.series_uid)
        for left in reversed(range(_FILE_ATTEMPTS)):
            folder = _folder(self.spool / str(series))
            try:
                received.path.rename(folder / received.name)
                break
            except FileNotFoundError:  # the folder was collected, or put into quarantine, just now
                if not left:
                    raise
            except IsADirectoryError:
                if not left:
                    raise
                _aside(folder / received.name)
        return SUCCESS


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"allowed addresses: {text!r} is no IP address and no network") from None


def _folder(path: Path) -> Path:
    """A folder of the spool, made if it is not there; what has its name and is none makes way."""
    try:
        return private_folder(path)
    except FileExistsError:
        _aside(path)
        return private_folder(path)


def _aside(path: Path) -> None:
    """Give something that is none of ours another name, hidden, in the same folder: nothing of anybody's is removed."""
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))


def is_series(name: str) -> bool:
    """Whether a folder of the spool is that of a series; earlier versions named it by the Series Instance UID alone."""
    return all(map(is_kept, name.split("_", 1)))


def _series_folders(spool: Path) -> list[Path]:
    with os.scandir(spool) as entries:
        return [Path(entry.path) for entry in entries if is_series(entry.name) and entry.is_dir(follow_symlinks=False)]


def _objects(folder: Path) -> list[Path]:
    """The files of a folder of the spool that are named as ours are; whatever else lies there is left alone."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if (named := _OBJECT.fullmatch(entry.name)) and is_kept(named["uid"])
            if entry.is_file(follow_symlinks=False)
        )
    return []


def _remove_torn(spool: Path) -> None:
    """Remove what is not what its name says: written in the moment of a power failure."""
    for folder in _series_folders(spool):
        for path in _objects(folder):
            # What cannot be read is found out by who collects it.
            with contextlib.suppress(OSError), path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != path.suffix[1:]:
                    path.unlink()


def waiting(spool: Path, series: SeriesId) -> int:
    """How many objects of a series wait in the spool."""
    return len(_objects(spool / str(series)))


def spooled(spool: Path, series: SeriesId, known: Container[Path] = ()) -> Iterator[ReceivedObject]:
    """What lies in the spool of one series. Whoever calls this holds the lease of the series.

    Each object is whole, is as it came, and is the caller's to move away. The digest is the one computed
    when it arrived.

    Args:
        known: paths to pass over, those of an earlier call.

    Raises:
        OSError: the spool cannot be read.
    """
    folder = spool / str(series)
    if not is_series(folder.name) or not folder.is_dir():
        return
    for path in _objects(folder):
        if path in known:
            continue
        try:
            with path.open("rb") as stream:
                sop_class, syntax = read_head(stream)
                identity, size = read_identity(stream, syntax), os.fstat(stream.fileno()).st_size
        except OSError:
            raise
        except Exception:  # whatever reading makes of what is no object: the receiver has not put it there
            _aside(path)
            continue
        yield ReceivedObject(
            path=path,
            sop_class_uid=sop_class,
            sop_instance_uid=identity.sop_instance_uid,
            transfer_syntax_uid=syntax,
            study_uid=identity.study_uid,
            series_uid=identity.series_uid,
            patient_id=identity.patient_id,
            issuer=identity.issuer,
            size=size,
            sha256=path.suffix[1:],
        )


def quarantine_unasked(spool: Path, quarantine: Path, older_than_seconds: float) -> int:
    """Move series that nobody added to or took from for so long; returns how many. What cannot be moved stays.

    Args:
        quarantine: on the file system of the spool.

    Raises:
        OSError: the quarantine cannot be written.
    """
    moved = 0
    _folder(quarantine)
    for folder in _series_folders(spool):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # collected at this moment; somebody else's
            if time.time() - folder.stat().st_mtime < older_than_seconds:
                continue
            with contextlib.suppress(OSError):
                folder.rmdir()  # collected: empty
                continue
            folder.rename(private_folder(quarantine) / f"{folder.name}.{secrets.token_hex(4)}")
            moved += 1
    return moved
