"""Destinations that keep files below a root, under the paths that they have below the uploaded folder.

The manifest is put last, when a run is complete: `manifest.jsonl`, a line of JSON for each file with path, size in
bytes and SHA-256. Who finds it, finds all that it lists; what is there and not in it, belongs to no complete delivery.
So an earlier manifest is removed before a file is replaced. Its first line names the data set as well (`data_set`), and
where that is another one, nothing is put.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pacsifier_ops.base.errors import DestinationRefused, FileUnreadable, PacsError
from pacsifier_ops.base.files import json_line
from pacsifier_ops.base.identity import digest_of
from pacsifier_ops.base.waiting import pause
from pacsifier_ops.dicom.files import DicomFile
from pacsifier_ops.state.approved import DIFFERS
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.upload.destination import Answer, Destination, Outcome
from pacsifier_ops.upload.nodes import StoreNode

#: Name of the manifest below the root.
MANIFEST = "manifest.jsonl"
#: Beginning of the names of files that are not complete.
UNFINISHED = ".unfinished-"
#: Key in the first line of a manifest: the name of the data set.
DATA_SET = "data_set"
#: Number of bytes that are read at once.
PIECE = 1 << 20
#: Bytes of the longest line that a manifest may have; and what is raised where a file of its name is none.
LONGEST_LINE, _NOT_OURS = 1 << 16, (ValueError, LookupError, TypeError, AttributeError)
#: A small file to try whether files can be written.
_PROBE = Path(__file__).with_name("__init__.py")

NOT_ITS_PATH = "its path cannot be used at the destination; rename its folders in plain letters"
OCCUPIED = "another file has its name there, that was not sent from here; look at it, or choose another folder"
ANOTHERS = (
    f"{MANIFEST} there is that of another data set, and would not be true any more; choose another folder, or, if that "
    f"one is given up, remove {MANIFEST} there"
)
CHANGED_THERE = "what the destination holds is not what was sent"


class Reading:
    """Reads a file once, in pieces, and checks it. An error comes before the last piece, so nothing whole was sent.

    Args:
        path: the file.
        size: its size in bytes.
        mtime_ns: its modification time; None: any.
        offset: offset of the data set in bytes, see `data_set`.
        required: SHA-256 that it must have, hexadecimal; empty: any.
        block: size of the blocks that `blocks` has digests of, in bytes; a multiple of PIECE, or 0.

    Attributes:
        whole, data_set: SHA-256 of the file and of its data set, once it is read.
        md5: MD5 of the file; stores know it.
        blocks: SHA-256 and MD5 of each block.
    """

    def __init__(
        self, path: Path, size: int, mtime_ns: int | None = None, offset: int = 0, required: str = "", block: int = 0
    ) -> None:
        self.path, self.size, self._mtime_ns, self._offset = path, size, mtime_ns, offset
        self._required, self._block = required, block
        self._begin()

    @classmethod
    def of(cls, file: DicomFile, block: int = 0) -> Reading:
        """Return the reading of a file that is to be sent."""
        return cls(file.path, file.size, file.mtime_ns, file.offset, file.sha256, block)

    def _begin(self) -> None:
        self.whole, self.data_set = hashlib.sha256(), hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.blocks: list[tuple[bytes, bytes]] = []

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces.

        Raises:
            FileUnreadable: it cannot be read, has changed, or is not what was approved.
        """
        self._begin()
        sha256, md5, at = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        try:
            with self.path.open("rb", buffering=0) as stream:
                held = b""
                while piece := _filled(stream):
                    if held:
                        yield held
                    held = piece
                    self.whole.update(piece)
                    self.md5.update(piece)
                    self.data_set.update(piece[max(0, self._offset - at) :])
                    at += len(piece)
                    if self._block:
                        sha256.update(piece)
                        md5.update(piece)
                        if at % self._block == 0 or at >= self.size:
                            self.blocks.append((sha256.digest(), md5.digest()))
                            sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
                status = os.fstat(stream.fileno())
        except OSError as error:
            raise FileUnreadable(f"it cannot be read to its end: {error.strerror}") from error
        if at != self.size or status.st_size != self.size or self._mtime_ns not in (None, status.st_mtime_ns):
            raise FileUnreadable("it changed while it was being sent")
        if self._required and self.whole.hexdigest() != self._required:
            raise FileUnreadable(DIFFERS)
        yield held


def _filled(stream: BinaryIO) -> bytes:
    """Return the next PIECE bytes; fewer only at the end."""
    parts, left = [], PIECE
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Listed(NamedTuple):
    """A file in a list.

    Attributes:
        size: in bytes.
        mark: what changes with its content, and may change without it, such as an ETag; empty: nothing is told.
    """

    size: int
    mark: str = ""


class FileStore(Destination):
    """A destination that keeps files. A subclass knows how; names have forward slashes and are below the root."""

    #: Size of the blocks whose digests `write` needs, see `Reading`.
    block = 0
    keeps_files = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._listings: dict[str, dict[str, Listed]] = {}
        self._has_manifest = True

    @abstractmethod
    def entries(self, folder: str) -> dict[str, Listed]:
        """Return the files in a folder, by name; empty where it does not exist."""

    @abstractmethod
    def write(self, name: str, content: Reading) -> None:
        """Write a file, so that it is there whole or not at all, and confirm size and digest.

        Raises:
            FileUnreadable: `content` said so; nothing has changed under this name.
            Corrupted: the destination does not hold what was sent.
            PacsError: the connection failed, or there is no room.
        """

    def mark(self, name: str) -> str:
        """Return the mark of a file that was just written, see `Listed`; empty where lists tell none."""
        return ""

    @abstractmethod
    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file there."""

    def beginning(self, name: str) -> bytes:
        """Return the first LONGEST_LINE bytes of a file there that is not empty, without asking for all of it."""
        return next(self.pieces(name), b"")[:LONGEST_LINE]

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file there; none is no error."""

    def check(self) -> None:
        """Write a small file and remove it again; look whose manifest is there. The file tells nothing.

        For an uploaded folder its name is the same every time: what a kill has left is removed by the next attempt.
        """
        uploaded = self._root != Path()
        name = f"{UNFINISHED}{digest_of(str(self._root))[:16] if uploaded else secrets.token_hex(8)}"
        try:
            self._try(name)
        except PacsError as error:
            if not error.retryable:
                raise
            self.close(abort=True)
            pause(self.node.retry_wait, self._cancelled)
            self._try(name)  # the same name, so that nothing of the first time stays

    def _try(self, name: str) -> None:
        self.open()
        self._refuse_anothers()
        self.write(name, Reading(_PROBE, _PROBE.stat().st_size, block=self.block))
        self.remove(name)

    def name_of(self, file: DicomFile) -> str:
        """Return the path of a file below the root.

        Raises:
            ValueError: it cannot be used there.
        """
        return checked(file.path.relative_to(self._root).as_posix())

    def put(self, files: Sequence[DicomFile], again: bool) -> Mapping[str, Answer]:
        """Put one object, unless exactly this one is there."""
        (file,) = files
        self.open()
        self.go_on()
        name = self.name_of(file)
        reading = Reading.of(file, self.block)
        there = self._listed(name)
        if there is not None and not again:
            for _ in reading:
                pass
            if there.size == file.size and self._digest(name) == reading.whole.hexdigest():
                return {file.sop_instance_uid: Answer(Outcome.STORED, reading.data_set.hexdigest(), mark=there.mark)}
            return {file.sop_instance_uid: Answer(Outcome.UNFIT, text=OCCUPIED)}
        if there is not None and self._has_manifest:
            self._refuse_anothers()
            self.remove(MANIFEST)
            self._has_manifest = False
        try:
            self.write(name, reading)
        except Corrupted:
            return {file.sop_instance_uid: Answer(Outcome.DOUBTFUL, text=CHANGED_THERE)}
        mark = self.mark(name)
        self._listing(name)[name.rpartition("/")[2]] = Listed(file.size, mark)
        return {file.sop_instance_uid: Answer(Outcome.STORED, reading.data_set.hexdigest(), mark=mark)}

    @property
    def _takes_away(self) -> bool:
        return isinstance(self.node, StoreNode) and self.node.takes_away

    def there(self, files: Iterable[DicomFile]) -> set[str] | None:
        """Return those of which a file of the right size is there; None where files are taken away."""
        if self._takes_away:
            return None
        self.open()
        self._listings.clear()
        found = set()
        for file in files:
            try:
                name = self.name_of(file)
            except ValueError:
                continue
            if (there := self._listed(name)) is not None and there.size == file.size:
                found.add(file.sop_instance_uid)
        return found

    def marks(self, files: Iterable[DicomFile]) -> Mapping[str, str]:
        """See `Destination`."""
        if self._takes_away:
            return {}
        self.open()
        found = {}
        for file in files:
            with suppress(ValueError):
                if (there := self._listed(self.name_of(file))) is not None and there.mark:
                    found[file.sop_instance_uid] = there.mark
        return found

    def holds(self, file: DicomFile) -> bool:
        """See `Destination`."""
        self.open()
        return self._digest(self.name_of(file)) == (file.sha256 or digest(file.path))

    def occupied(self, files: Iterable[DicomFile]) -> bool:
        """See `Destination`. One with the same content is no other file."""
        self.open()
        self._listings.clear()
        for file in files:
            name = self.name_of(file)
            there = self._listed(name)
            if there is not None and (there.size != file.size or self._digest(name) != file.sha256):
                return True
        return False

    def listed(self, file: DicomFile) -> Mapping[str, object]:
        """Return the line of the manifest for a file."""
        sha256 = file.sha256 or digest(file.path)
        status = file.path.stat()
        if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
            raise FileUnreadable("a file changed after it was sent, so no manifest was put; run the upload again")
        return {"path": self.name_of(file), "size": file.size, "sha256": sha256}

    def unnamed(self) -> set[str]:
        """See `Destination`."""
        self.open()
        if self._owner() != "":
            return set()
        try:
            return {json_line(line)["path"] for line in self._lines()}
        except _NOT_OURS:
            return {""}  # nothing was ever sent under this path

    def _refuse_anothers(self) -> None:
        """Refuse a place that has the manifest of another data set.

        Raises:
            DestinationRefused: it has.
        """
        if self._data_set and self._owner() not in (None, "", self._data_set):
            raise DestinationRefused(f"{self.node.name}: {ANOTHERS}")

    def _owner(self) -> str | None:
        """Return the data set whose manifest is there; None: there is none; empty: it names none."""
        if (there := self.entries("").get(MANIFEST)) is None:
            return None
        try:
            first = json_line(self.beginning(MANIFEST).partition(b"\n")[0].decode() if there.size else "")
            return str(first.get(DATA_SET, "") if first["path"] else "?")
        except _NOT_OURS:
            return "?"  # a file of that name which we have not made

    def _lines(self) -> Iterator[str]:
        """Yield the lines of the manifest there."""
        left = b""
        for piece in self.pieces(MANIFEST):
            *lines, left = (left + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
            if len(left) > LONGEST_LINE:
                raise ValueError("no manifest has such a line")
            self.go_on()
        if left:
            yield left.decode(errors="replace")

    def finish(self, manifest: Path) -> None:
        """Put the manifest. It replaces that of an earlier run; the same one stays, or it would be taken for news."""
        self.open()
        self._refuse_anothers()
        size = manifest.stat().st_size
        there = self.entries("").get(MANIFEST)
        if there is None or there.size != size or self._digest(MANIFEST) != digest(manifest):
            self.write(MANIFEST, Reading(manifest, size, block=self.block))

    def close(self, abort: bool = False) -> None:
        """See `Destination`; what was listed may change now."""
        self._listings.clear()
        super().close(abort)

    def verify(self, name: str, content: Reading) -> None:
        """Read a file back, and compare size and digest.

        Raises:
            Corrupted: it is not what was sent.
        """
        if self._digest(name) != content.whole.hexdigest():
            raise Corrupted(CHANGED_THERE)

    def _digest(self, name: str) -> str:
        found = hashlib.sha256()
        for piece in self.pieces(name):
            found.update(piece)
            self.go_on()
        return found.hexdigest()

    def _listed(self, name: str) -> Listed | None:
        return self._listing(name).get(name.rpartition("/")[2])

    def _listing(self, name: str) -> dict[str, Listed]:
        folder = name.rpartition("/")[0]
        if folder not in self._listings:
            if len(self._listings) > 64:  # series come folder by folder
                self._listings.clear()
            self._listings[folder] = self.entries(folder)
        return self._listings[folder]


class Server(FileStore):
    """A server of files: temporary name, size and digest by reading back, rename. A subclass knows its commands."""

    def write(self, name: str, content: Reading) -> None:
        """See `FileStore`."""
        with self.errors():
            self.make(name.rpartition("/")[0])
            unfinished = temporary(name)
            try:
                self.send(unfinished, content)
                if self.size(unfinished) not in (None, content.size):
                    raise Corrupted("its size differs")
                self.verify(unfinished, content)
                self.rename(unfinished, name)
            except BaseException:
                with suppress(Exception):
                    self.delete(unfinished)
                raise

    @abstractmethod
    def errors(self) -> AbstractContextManager[None]:
        """Turn errors of the library into ours."""

    @abstractmethod
    def make(self, folder: str) -> None:
        """Make a folder below the root, with those above it; none if it is there, or empty."""

    @abstractmethod
    def send(self, name: str, content: Reading) -> None:
        """Send a file to a name of which only an unfinished file may be there."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None where this kind of server need not tell it."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Rename over what may be there."""


class Corrupted(PacsError):
    """The destination does not hold what was sent."""


def checked(name: str) -> str:
    """Return a path below the root, if it can be used at any destination.

    Raises:
        ValueError: it leads elsewhere, or has characters that mean something else there.
    """
    parts = name.split("/")
    if (
        name.startswith("/")
        or any(part in ("", ".", "..") or part != part.strip() or part.startswith(UNFINISHED) for part in parts)
        or not name.isprintable()
        or any(letter in name for letter in '\\:*?"<>|#%')
        or name == MANIFEST
        or len(name.encode(errors="replace")) > 900
    ):
        raise ValueError(NOT_ITS_PATH)
    return name


def temporary(name: str) -> str:
    """Return the name under which a file is written before it is complete, in the same folder.

    It is the same every time: what a kill has left is replaced by the next attempt, and does not stay for ever.
    """
    folder, _, _ = name.rpartition("/")
    return f"{folder}/{UNFINISHED}{digest_of(name)[:16]}".lstrip("/")
