"""A folder elsewhere as a destination, such as a mounted share."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pacsifier_ops.base.errors import AssociationAborted, DestinationRefused, OutOfResources
from pacsifier_ops.base.files import data_file, data_folder, fsync_folder
from pacsifier_ops.upload.filestore import PIECE, FileStore, Listed, Reading, temporary
from pacsifier_ops.upload.nodes import FolderNode

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _listed(status: os.stat_result) -> Listed:
    return Listed(status.st_size, str(status.st_mtime_ns))


class Folder(FileStore):
    """A folder: temporary name, fsync, rename; what was written is read back before it gets its name."""

    method = "folder"

    @property
    def _place(self) -> Path:
        assert isinstance(self.node, FolderNode)
        return Path(self.node.path)

    def connect(self, stack: ExitStack) -> None:
        """See that the folder is there."""
        with self._errors():
            if not self._place.is_dir():
                raise DestinationRefused(
                    f"{self.node.name}: path is no folder, or it is not mounted; make the folder, or mount the share"
                )

    def entries(self, folder: str) -> dict[str, Listed]:
        """See `FileStore`."""
        with self._errors():
            try:
                entries = os.scandir(self._place / folder)
            except FileNotFoundError:
                return {}
            with entries:
                return {entry.name: _listed(entry.stat(follow_symlinks=False)) for entry in entries}

    def mark(self, name: str) -> str:
        """See `FileStore`."""
        with self._errors():
            return _listed((self._place / name).lstat()).mark

    def write(self, name: str, content: Reading) -> None:
        """See `FileStore`."""
        with self._errors():
            target, unfinished = self._place / name, temporary(name)
            path = self._place / unfinished
            if target.parent.resolve() != self._place.resolve() / target.parent.relative_to(self._place):
                raise DestinationRefused(f"{self.node.name}: a link in the folder leads elsewhere; remove it")
            data_folder(target.parent)
            path.unlink(missing_ok=True)  # what a kill has left
            try:
                with path.open("xb", buffering=0) as stream:
                    for piece in content:
                        self.go_on()
                        left = memoryview(piece)
                        while left:
                            left = left[stream.write(left) :]
                    os.fchmod(stream.fileno(), data_file())
                    os.fsync(stream.fileno())
                    with suppress(OSError, AttributeError):  # read back from the disk, where the system can do that
                        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                self.verify(unfinished, content)
                os.replace(path, target)
            finally:
                path.unlink(missing_ok=True)
            fsync_folder(target.parent)

    def pieces(self, name: str) -> Iterator[bytes]:
        """See `FileStore`."""
        with self._errors(), (self._place / name).open("rb", buffering=0) as stream:
            while piece := stream.read(PIECE):
                yield piece

    def remove(self, name: str) -> None:
        """See `FileStore`."""
        with self._errors():
            (self._place / name).unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            told = f"{self.node.name}: the folder cannot be written or read: {error.strerror}"
            if error.errno in _FULL:
                raise OutOfResources(told) from error
            if error.errno in _REFUSED:
                raise DestinationRefused(f"{told}; check path and permissions") from error
            raise AssociationAborted(told) from error
