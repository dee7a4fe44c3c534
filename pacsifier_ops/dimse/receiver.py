"""The storage receiver: a C-STORE SCP that writes received objects to a spool, and does nothing else.

Hospitals register one AE title, one address and one port, and many tasks have series sent there. So the receiver does
not know which task requested an object. It stores every object unchanged:

    <spool>/<StudyInstanceUID>_<SeriesInstanceUID>/<SOPInstanceUID>.<SHA-256 of the file>

The holder of a series' lease takes its objects (`spooled`). Objects that nobody takes go to quarantine
(`quarantine_unasked`). The digest in the name distinguishes versions of an object, makes repeated transfers one file,
and reveals files that a power failure truncated.
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
from pacsifier_ops.dicom.uids import is_storable_uid
from pacsifier_ops.dimse.sink import SUCCESS, ReceivedObject, attach
from pacsifier_ops.dimse.transport import Server, make_ae

#: Folders of the spool beside those of series: incomplete objects, and objects that were not requested.
INCOMING, QUARANTINE = ".incoming", ".quarantine"
#: ServiceClass itself stands for SOP classes that pynetdicom does not know: private, retired and new ones.
_SERVICES = (ServiceClass, StorageServiceClass, VerificationServiceClass)
_MAX_ASSOCIATIONS = 64
#: Maximum number of connections of one address, so that others find room.
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
#: Transfer syntaxes that are always lossless: RLE, JPEG Lossless, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL.
_LOSSLESS = {
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70, 80, 90, 92, 110, 201, 202)),
}


def _preference(syntax: UID) -> int:
    """Return the rank of a transfer syntax among those of one presentation context; the lowest is accepted.

    A peer proposes a compressed transfer syntax because it stores objects in it. It can usually decompress them, but
    not compress others: if an uncompressed one were accepted, it would send something else than it has stored. Lossless
    precedes lossy, so that a peer with both does not degrade an image. Explicit VR precedes implicit VR: it keeps the
    VRs of private elements. Peers that propose one transfer syntax per presentation context are not affected.
    """
    if syntax in _UNCOMPRESSED:
        return 2 + _UNCOMPRESSED.index(syntax)
    return 0 if syntax in _LOSSLESS else 1


def _accept_storage(event: evt.Event) -> None:
    """Accept C-ECHO and every proposed storage SOP class, also private and unknown ones."""
    proposed: dict[UID, list[UID]] = {}
    for context in event.assoc.requestor.primitive.presentation_context_definition_list:
        if uid_to_service_class(context.abstract_syntax) in _SERVICES:
            proposed.setdefault(context.abstract_syntax, []).extend(context.transfer_syntax)
    event.assoc.acceptor.supported_contexts = [_context(uid, syntaxes) for uid, syntaxes in proposed.items()]


def _context(uid: UID, syntaxes: list[UID]) -> PresentationContext:
    return build_context(uid, sorted(dict.fromkeys(syntaxes), key=_preference))


class _Room:
    """Keeps the spool below its quota, and the free space of the disk above its minimum. Thread-safe."""

    def __init__(self, spool: Path, quota_bytes: int | None, free_floor_bytes: int) -> None:
        self._spool, self._quota, self._floor = spool, quota_bytes, free_floor_bytes
        self._lock = threading.Lock()
        self._used = 0
        self._counted = float("-inf")
        self._unchecked = _CHECK_FREE_EVERY
        self._recount()

    def take(self, size: int) -> None:
        """Reserve `size` more bytes; raise OSError where there is no room for them."""
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
        """Count the used bytes again, at most once a second: collected objects have made room."""
        if time.monotonic() - self._counted < 1:
            return
        self._counted = time.monotonic()
        self._used = 0
        for folder, _, names in os.walk(self._spool):
            for name in names:
                with contextlib.suppress(OSError):
                    self._used += os.lstat(os.path.join(folder, name)).st_size


class StorageReceiver:
    """Receives objects from a PACS; a context manager.

    Args:
        aet: our AE title; associations with another called AE title are rejected.
        port: TCP port; 0 means a free one (see `port`).
        spool: folder of the spool, created if necessary. Several receivers may share it.
        host: address to listen at; empty: all addresses, IPv4 and IPv6.
        allowed_calling: AE titles that may send; None allows all.
        allowed_addresses: IP addresses or networks (10.1.0.0/16) that may connect; None allows all.
        quota_bytes: size of the spool above which objects are refused with 0xA700; None: no limit.
        free_floor_bytes: free space of the disk below which objects are refused in the same way.
        tls: context for TLS (see `tls.receiver_context`); None: without TLS.

    Attributes:
        error: last error that prevented an object from being stored; may be reset to None.

    Raises:
        ConfigError: an allowed address is invalid.
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
        """Clean up after a crash, and listen. Return the receiver itself.

        Raises:
            ReceiverError: the port is in use, or we may not use it.
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
            # Only this receiver has the port, so only it uses the folder of that name.
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
        """Close the port and abort open associations; incomplete objects are removed. Harmless when repeated."""
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
            except FileNotFoundError:  # the folder was collected, or put into quarantine, at this moment
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
    """Return a folder of the spool, created if necessary. A file of that name is renamed before."""
    try:
        return private_folder(path)
    except FileExistsError:
        _aside(path)
        return private_folder(path)


def _aside(path: Path) -> None:
    """Rename a foreign file or folder to a hidden name in the same folder: foreign data are never removed."""
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))


def is_series(name: str) -> bool:
    """Return whether a folder of the spool belongs to a series.

    Earlier versions used the Series Instance UID alone as its name.
    """
    return all(map(is_storable_uid, name.split("_", 1)))


def _series_folders(spool: Path) -> list[Path]:
    with os.scandir(spool) as entries:
        return [Path(entry.path) for entry in entries if is_series(entry.name) and entry.is_dir(follow_symlinks=False)]


def _objects(folder: Path) -> list[Path]:
    """Return the files of a folder of the spool with the name of an object. All others are left alone."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if (named := _OBJECT.fullmatch(entry.name)) and is_storable_uid(named["uid"])
            if entry.is_file(follow_symlinks=False)
        )
    return []


def _remove_torn(spool: Path) -> None:
    """Remove files whose digest differs from their name: a power failure interrupted their writing."""
    for folder in _series_folders(spool):
        for path in _objects(folder):
            # An unreadable file is reported when it is collected.
            with contextlib.suppress(OSError), path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != path.suffix[1:]:
                    path.unlink()


def last_arrival(spool: Path, series: SeriesId) -> int:
    """Return a number that changes when an object of a series arrives in the spool. Its cost does not depend on them.

    It is the modification time of their folder in nanoseconds; 0 before the first one.
    """
    with contextlib.suppress(FileNotFoundError):
        return (spool / str(series)).stat().st_mtime_ns
    return 0


def spooled(spool: Path, series: SeriesId, known: Container[Path] = ()) -> Iterator[ReceivedObject]:
    """Yield the objects of one series in the spool. The caller must have the lease of the series.

    Each object is complete and unchanged, and the caller may move it. Its digest was computed when it arrived.

    Args:
        spool: folder of the spool.
        series: the series.
        known: paths to skip, those of an earlier call.

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
        except Exception:  # reading foreign files raises many types of exception
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
    """Move series without changes for a time to quarantine; return their number. Series that cannot be moved stay.

    Args:
        spool: folder of the spool.
        quarantine: folder on the file system of the spool.
        older_than_seconds: the time without changes.

    Raises:
        OSError: the quarantine cannot be written.
    """
    moved = 0
    _folder(quarantine)
    for folder in _series_folders(spool):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # collected at this moment; not ours
            if time.time() - folder.stat().st_mtime < older_than_seconds:
                continue
            with contextlib.suppress(OSError):
                folder.rmdir()  # collected: empty
                continue
            folder.rename(private_folder(quarantine) / f"{folder.name}.{secrets.token_hex(4)}")
            moved += 1
    return moved
