"""The files of a file-set: copies, each read again and compared before it gets its name.

The file-sets of a folder share what stays the same. A file that was approved is copied once; later file-sets have a
hard link to the copy in the one before, if that is as it was when it was compared. So a night with few new files copies
these alone, and each file-set stays whole when others are deleted. Such copies are read-only: who changed one would
change it in several file-sets.

What is known of the copies stands with the facts of the folder (see `state.standing`), for `settings.verify_days`. Then
all files are copied anew.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pacsifier_ops.base.errors import Cancelled, FileUnreadable, StorageError
from pacsifier_ops.base.files import PRIVATE_FILE, clone, fsync_files, fsync_folder, packed, unreadable
from pacsifier_ops.state.approved import DIFFERS
from pacsifier_ops.state.facts import identity_of
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.standing import Standing, stamp_of

CHANGED = "the file changed while it was being copied; run it again"
#: Bytes that are read at once; number of files that are made durable at once.
_PIECE, _FILES = 1 << 20, 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that a file-set is to have.

    Attributes:
        source, target: the file, and its place in the file-set.
        size, mtime: of the file as it was found, in bytes and ns.
        sha256: that it must have, hexadecimal; empty: any.
        earlier: a copy of it in another file-set; empty: there is none.
        identity: of that copy when it was compared, see `facts`; empty: it has to be read.
    """

    source: str
    target: str
    size: int
    mtime: int
    sha256: str = ""
    earlier: str = ""
    identity: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of a file.

    Attributes:
        problem: why it was not copied; else empty.
        mtime, ctime: times of the copy, in ns.
        sha256: of the copy, hexadecimal.
    """

    problem: str = ""
    mtime: int = 0
    sha256: str = ""
    ctime: int = 0


@dataclass
class Copier:
    """Copies files into a folder of a file-set, unless they are there. A context manager, which completes the copies.

    Several are made durable at once, and get their names then. A killed process may leave files that begin with a dot.

    Attributes:
        folder: the folder.
        mode: of the copies.
        results: by place of the file.
    """

    folder: Path
    mode: int
    results: dict[str, Copied] = field(default_factory=dict)
    _unnamed: list[tuple[Wanted, str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None or isinstance(error, Cancelled):  # what is copied stays
                self._complete()
        finally:
            for _, temporary in self._unnamed:
                Path(temporary).unlink(missing_ok=True)

    def copy(self, wanted: Wanted) -> None:
        """Copy a file.

        Raises:
            StorageError: a copy differs from what was written.
            OSError: a copy cannot be written.
        """
        try:
            status = self._link(wanted) or self._there(wanted)
            if status is None:
                self._write(wanted)
            else:
                self._note(wanted, status, wanted.sha256 or _source_digest(wanted))
        except FileUnreadable as error:
            self.results[wanted.target] = Copied(str(error))
        if len(self._unnamed) >= _FILES:
            self._complete()

    def _note(self, wanted: Wanted, status: os.stat_result, sha256: str) -> None:
        self.results[wanted.target] = Copied("", status.st_mtime_ns, sha256, status.st_ctime_ns)

    def _link(self, wanted: Wanted) -> os.stat_result | None:
        """Link the earlier copy of a file.

        Returns:
            The status of the link; None: there is no right copy, or the file system has no links.

        Raises:
            FileUnreadable: the file was changed.
        """
        if not (wanted.earlier and wanted.sha256):
            return None
        try:
            found = os.stat(wanted.source)
        except OSError as error:
            raise _unreadable(error) from error
        _refuse_changed(wanted, found)
        try:
            status = os.lstat(wanted.earlier)
            if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != self.mode:
                return None
            if identity_of(status) != wanted.identity:
                if status.st_uid != os.geteuid() or digest(Path(wanted.earlier)) != wanted.sha256:
                    return None
                if identity_of(os.lstat(wanted.earlier)) != identity_of(status):
                    return None
            if wanted.earlier == wanted.target:
                return status
            os.link(wanted.earlier, wanted.target, follow_symlinks=False)
            link = os.lstat(wanted.target)
        except OSError:  # also: too many links, another file system, another user's file, a file in its place
            return None
        if identity_of(link)[:3] != identity_of(status)[:3]:  # another file has taken the place of the copy
            os.unlink(wanted.target)
            return None
        return link

    def _there(self, wanted: Wanted) -> os.stat_result | None:
        """Return the status of a file in its place; None: there is none, or it differs."""
        with suppress(FileNotFoundError):
            status = os.lstat(wanted.target)
            if not stat.S_ISREG(status.st_mode) or status.st_size != wanted.size:
                return None
            if digest(Path(wanted.target)) != (wanted.sha256 or _source_digest(wanted)):
                return None
            if wanted.sha256 and stat.S_IMODE(status.st_mode) != self.mode:
                os.chmod(wanted.target, self.mode)
                status = os.lstat(wanted.target)
            return status
        return None

    def _write(self, wanted: Wanted) -> None:
        """Write a copy, still without its name."""
        temporary = f"{self.folder}/.{os.path.basename(wanted.target)}.{secrets.token_hex(4)}.part"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        self._unnamed.append((wanted, temporary))
        with os.fdopen(handle, "wb", buffering=0) as copy:
            os.fchmod(handle, self.mode)
            try:
                with _opened(wanted) as source:
                    if not clone(source, copy):
                        for piece in _pieces(source):
                            copy.write(piece)
                    _refuse_changed(wanted, os.fstat(source.fileno()))
                    if os.fstat(handle).st_size != wanted.size:
                        raise FileUnreadable(CHANGED)
            except FileUnreadable:
                self._unnamed.pop()
                os.unlink(temporary)
                raise

    def _complete(self) -> None:
        """Compare the copies, make them durable, and give them their names."""
        if self._unnamed:  # threads for nothing would take longer than links
            fsync_files(Path(temporary) for _, temporary in self._unnamed)
        while self._unnamed:
            wanted, temporary = self._unnamed[-1]
            try:
                sha256 = _compared(wanted, temporary)
            except FileUnreadable as error:
                self.results[wanted.target] = Copied(str(error))
                os.unlink(temporary)
            else:
                os.replace(temporary, wanted.target)
                self._note(wanted, os.lstat(wanted.target), sha256)
            self._unnamed.pop()
        fsync_folder(self.folder)


@contextmanager
def _opened(wanted: Wanted) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open(wanted.source, "rb", buffering=0))
        except OSError as error:
            raise _unreadable(error) from error
        yield stream


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    try:
        while piece := stream.read(_PIECE):
            yield piece
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> FileUnreadable:
    return FileUnreadable(unreadable(error))


def _refuse_changed(wanted: Wanted, status: os.stat_result) -> None:
    if (status.st_size, status.st_mtime_ns) != (wanted.size, wanted.mtime):
        raise FileUnreadable(CHANGED)


def _source_digest(wanted: Wanted) -> str:
    sha256 = hashlib.sha256()
    with _opened(wanted) as stream:
        for piece in _pieces(stream):
            sha256.update(piece)
        _refuse_changed(wanted, os.fstat(stream.fileno()))
    return sha256.hexdigest()


def _compared(wanted: Wanted, copy: str) -> str:
    """Return the SHA-256 of a copy.

    Raises:
        FileUnreadable: the file is not the approved one.
        StorageError: the copy differs from the file.
    """
    there = digest(Path(copy))
    if there != wanted.sha256 and there != _source_digest(wanted):
        raise StorageError("a copy in out_folder differs from what was written; check the disk, then run again")
    if wanted.sha256 and there != wanted.sha256:
        raise FileUnreadable(DIFFERS)
    return there


#: `earlier` and `identity` of a file without a copy.
NO_COPY: list[Any] = ["", []]


@dataclass(frozen=True)
class Known:
    """What is known of the copies in the last file-set of a folder.

    Attributes:
        since: time at which the oldest of them was made, in seconds since the epoch.
        folder: of the file-set.
        copies: path below it, and identity (see `facts`), by SHA-256.
    """

    since: float
    folder: str = ""
    copies: Mapping[str, list[Any]] = field(default_factory=dict)

    def copy(self, sha256: str) -> list[Any]:
        """Return `earlier` (text of `packed`) and `identity` of `Wanted`."""
        if sha256 not in self.copies:
            return NO_COPY
        name, *identity = self.copies[sha256]
        return [packed(f"{self.folder}/{name}"), identity]


_STAMP = stamp_of("copies")


def known_copies(root: Path) -> Known:
    """Return what is known of the copies of a tree's approved files.

    Raises:
        StorageError: the state root cannot be read.
    """
    with Standing(root, "copies") as standing:
        return Known(*(standing.get("", _STAMP) or (time.time(),)))


def keep_copies(root: Path, known: Known) -> None:
    """Keep what is known of the copies of a tree's approved files.

    Raises:
        StorageError: the state root cannot be written.
    """
    with Standing(root, "copies") as standing:
        standing.put("", _STAMP, [known.since, known.folder, known.copies], known.since)
