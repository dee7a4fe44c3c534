"""The release of a data set: stock is taken, somebody decides on exactly that, and nothing else becomes public.

Only this module writes into `released/`, and all that hands data over reads from there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import Cancelled, NotApproved
from pacsifier_ops.base.files import (
    atomic_stream,
    below,
    confined,
    data_file,
    data_folder,
    fsync_folder,
    read_json,
    read_jsonl,
    readable,
    storage_errors,
    write_json,
    write_jsonl,
)
from pacsifier_ops.dicom.files import inspect
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.approvals import RELEASE
from pacsifier_ops.runs.folder import Run, never, now
from pacsifier_ops.state.approved import LISTED, approve, approved_of
from pacsifier_ops.state.facts import Facts
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import CONTROL, DEIDENTIFIED, begin, marker_of, refuse_around, refuse_unfinished
from pacsifier_ops.study.project import NOBODY, Study
from pacsifier_ops.study.run import ANONYMIZE, DICOMDIR, KARNAK, MOVE, UPLOAD

#: Folders of a study, below its own.
IDENTIFIED_FOLDER, DEIDENTIFIED_FOLDER, RELEASED_FOLDER = FOLDERS = ("identified", "de-identified", "released")

#: Where each run's file-set is, in a folder of its own.
FILE_SETS = "dicomdir"

#: Where files are that do not have their place yet.
_UNFINISHED = f"{CONTROL}/unfinished"

#: Name of what is known of the files of a tree, see `Facts`.
_DIGESTS = "digests"

_STOCK, _RELEASED = "output.jsonl", "released.json"


@dataclass(frozen=True)
class Stock:
    """All that is about to be released.

    Attributes:
        digest: SHA-256 of the list of files with their digests, hexadecimal; of originals that are handed over as well.
        files, bytes: how many, and of what size together.
    """

    digest: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Released:
    """What was released.

    Attributes:
        digest: of the stock.
        by, when: whose word it was, and when it was released, ISO 8601.
        waived: findings of the search for identifiers were waived.
        files, bytes: of the data set.
        new: files that had not been released before, or have changed since.
        stale: files that were released once and are no part of the data set any more; they stay.
    """

    digest: str
    by: str
    when: str
    waived: bool
    files: int
    bytes: int
    new: int
    stale: int


def folder_of(study: Study, name: str) -> Path:
    """A folder of a study.

    Raises:
        PathRefused: it leads outside the data root.
    """
    return confined(f"{study.root}/{name}", settings.data_root(), "folder")


def take_stock(run: Run, cancelled: Callable[[], bool] = never) -> Stock:
    """List every file of the data set with its digest, in the run's `output.jsonl`.

    Of a study without de-identification, these are the identified files: they are what its gateway gets.

    Raises:
        TreeError: the data set is half de-identified.
        StorageError: it cannot be read, or the state root not be written.
        Cancelled: `cancelled` said so.
    """
    study = Study.of(run)
    root = folder_of(study, DEIDENTIFIED_FOLDER if study.has(ANONYMIZE) else IDENTIFIED_FOLDER)
    refuse_unfinished([root])
    with storage_errors("the state root, or the folder of the study"), atomic_stream(run.folder / _STOCK) as stream:
        stock = _written(_files_of(root, cancelled), stream.write)
    return _kept(run, stock)


def _kept(run: Run, stock: Stock) -> Stock:
    """Keep a stock, its digest bound to the originals that are listed: a decision on it is one on these as well."""
    with storage_errors("the state root"):
        stock = replace(stock, digest=with_originals(run, stock.digest))
        write_json(run.folder / "stock.json", asdict(stock))
    return stock


def with_originals(run: Run, files: str) -> str:
    """The digest of a stock, hexadecimal: of its files, and of the originals that are handed over, if any are.

    Args:
        files: digest of the list of files.
    """
    if not (path := originals_of(run)).exists():
        return files
    whole = hashlib.sha256(files.encode())
    for file in read_jsonl(path):
        if file["instance"]:  # the logs beside them are new in every run
            whole.update(f"\n{file['path']}\0{file['sha256']}".encode())
    return whole.hexdigest()


def list_originals(run: Run, cancelled: Callable[[], bool] = never) -> None:
    """List the identified files as they are now, with the instances in them, in the run's `identified.jsonl`.

    Where a gateway gets them, or the archive sends the same to another node, this is what was approved of with the data
    set: what comes later is not handed over.

    Raises:
        StorageError: they cannot be read, or the state root not be written.
        Cancelled: `cancelled` said so.
    """
    study = Study.of(run)
    root = folder_of(study, IDENTIFIED_FOLDER)
    if not (study.has(KARNAK) or study.has(MOVE)):
        return
    files = _files_of(root, cancelled) if study.has(ANONYMIZE) else listed(run)
    with (
        storage_errors("the state root, or the folder of the study"),
        Facts(root, "instances", _instance_in) as instance_in,
    ):
        write_jsonl(originals_of(run), ({**file, "instance": instance_in(root / file["path"])} for file in files))
    _kept(run, stock_of(run))  # taken before they were listed


def originals_of(run: Run) -> Path:
    """Where the list of the identified files is, if the study hands any over."""
    return run.part("identified")


def _instance_in(path: Path) -> list[str]:
    """Study, Series and SOP Instance UID of a file; empty where it holds no instance."""
    try:
        file = inspect(path)
    except ValueError:
        return []
    return [file.study_uid, file.series_uid, file.sop_instance_uid] if file else []


def stock_of(run: Run) -> Stock:
    """The stock that was taken last.

    Raises:
        NotApproved: none was.
    """
    with suppress(FileNotFoundError):
        return Stock(**read_json(run.folder / "stock.json"))
    raise NotApproved("nobody has looked at the data set yet; run the step check")


def listed(run: Run) -> Iterator[dict[str, Any]]:
    """Path, size and digest of every file of the stock that was taken last."""
    return read_jsonl(run.folder / _STOCK)


def _written(files: Iterator[dict[str, Any]], write: Callable[[bytes], Any]) -> Stock:
    whole, count, size = hashlib.sha256(), 0, 0
    for file in files:
        line = json.dumps(file, separators=(",", ":")).encode() + b"\n"
        whole.update(line)
        write(line)
        count, size = count + 1, size + file["size"]
    return Stock(whole.hexdigest(), count, size)


def _files_of(root: Path, cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Path, size and digest of every file, in order of their paths; links are not followed."""
    with Facts(root, _DIGESTS, digest) as digest_of:
        for path in _files(root):
            if cancelled():
                raise Cancelled("stopped on request")
            name = path.relative_to(root)
            yield {"path": readable(name), "size": path.stat().st_size, "sha256": digest_of(path)}


def _files(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        for entry, problem in below(
            folder, lambda entry: entry.name == CONTROL and entry.is_dir(follow_symlinks=False)
        ):
            if problem is not None:
                raise problem
            if entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def release(run: Run, cancelled: Callable[[], bool] = never) -> Released:
    """Give the files of the data set their place in `released/`, if what is there now is what was approved.

    Raises:
        NotApproved: it was not, or has changed since.
        TreeError: the data set is half de-identified.
        StorageError: something cannot be read or written; what has its place keeps it.
        Cancelled: `cancelled` said so.
    """
    study = Study.of(run)
    decision = approvals.approved(run, RELEASE, stock_of(run).digest)
    if decision.who != approvals.LIMITS and (why := study.may_release(decision.who, decision.user)):
        raise NotApproved(why)
    stock = take_stock(run, cancelled)
    approvals.approved(run, RELEASE, stock.digest)
    root, target = folder_of(study, DEIDENTIFIED_FOLDER), folder_of(study, RELEASED_FOLDER)
    new = 0
    with storage_errors("the folder of the study"):
        if not study.has(ANONYMIZE):
            stock = Stock(stock.digest, 0, 0)  # what is identified goes to a gateway, and is never public
        if stock.files:
            _make_ready(target)
        with Facts(target, _DIGESTS, digest) as digest_of:
            for file in listed(run) if stock.files else ():
                if cancelled():
                    raise Cancelled("stopped on request")
                new += _place(root / file["path"], target / file["path"], file, target / _UNFINISHED, digest_of)
        if study.has(ANONYMIZE):
            approve(target, listed(run))
        if study.has(KARNAK):
            approve(folder_of(study, IDENTIFIED_FOLDER), read_jsonl(originals_of(run)))
        released = Released(
            stock.digest,
            decision.who,
            now(),
            decision.waived,
            stock.files,
            stock.bytes,
            new,
            _stale(run, target),
        )
        write_json(run.folder / _RELEASED, asdict(released))
    return released


def _make_ready(target: Path) -> None:
    """Have a folder for what is released, which says so."""
    refuse_around(target, DEIDENTIFIED, "the folder for what is released", below=False)
    shutil.rmtree(target / _UNFINISHED, ignore_errors=True)  # what a run left that was killed
    data_folder(target)
    if not marker_of(target).get(LISTED):
        begin(target, {"state": DEIDENTIFIED, LISTED: True}, "the folder for what is released")
        approve(target, ())  # until all have their place, nothing is to be handed over
    (target / _UNFINISHED).mkdir()


def _place(
    source: Path, target: Path, file: Mapping[str, Any], scratch: Path, digest_of: Callable[[Path], str]
) -> bool:
    """Let a file of its own be in its place, as it was approved; False where it was already.

    Args:
        scratch: folder for what is unfinished.
        digest_of: gives the SHA-256 of a released file.

    Raises:
        NotApproved: the file has changed since it was approved.
    """
    with suppress(FileNotFoundError):
        status = target.lstat()
        own = stat.S_ISREG(status.st_mode) and status.st_nlink == 1  # earlier versions made hard links
        if own and status.st_size == file["size"] and digest_of(target) == file["sha256"]:
            if stat.S_IMODE(status.st_mode) != _mode():
                target.chmod(_mode())
            return False
    data_folder(target.parent)
    temporary = scratch / secrets.token_hex(8)
    try:
        if _copied(source, temporary) != file["sha256"]:
            raise NotApproved("the release has changed since it was approved; run the step that asks again")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(target.parent)
    return True


#: ioctl that lets a file share the blocks of another until one of them is written to, where the file system can.
_FICLONE = 0x40049409
_PIECE = 1 << 20


def _mode() -> int:
    """Mode of what is released: nobody is to write to it."""
    return data_file() & ~0o222


def _copied(source: Path, target: Path) -> str:
    """Make a copy that nobody is to write to; returns the SHA-256 of what is in it, hexadecimal."""
    sha256 = hashlib.sha256()
    with source.open("rb") as stream, target.open("xb+") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, stream.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            shutil.copyfileobj(stream, copy, _PIECE)
            copy.flush()
            copy.seek(0)
        while piece := copy.read(_PIECE):
            sha256.update(piece)
        os.fchmod(copy.fileno(), _mode())
        os.fsync(copy.fileno())
    return sha256.hexdigest()


def _stale(run: Run, target: Path) -> int:
    stock = {file["path"] for file in listed(run)}
    own = f"{HANDOVER}/"
    names = (readable(path.relative_to(target)) for path in _files(target))
    return sum(name not in stock and not name.startswith(own) for name in names)


#: Folder of the report that goes with the data, in `released/`.
HANDOVER = "report"


def released_of(run: Run) -> Released | None:
    """What the run has released; None where it has not."""
    with suppress(FileNotFoundError):
        return Released(**read_json(run.folder / _RELEASED))
    return None


def may_hand_over(run: Run, stage: str) -> bool:
    """Make sure that somebody has approved of what the run has released: for whatever hands data over.

    Returns:
        False where nobody was to release anything in this run, or a file-set would be empty, or that of an earlier run.

    Raises:
        NotApproved: nobody has, or nothing was released.
        TreeError: it was released without a list of what was approved, by an earlier version.
    """
    study = Study.of(run)
    if study.release == NOBODY:
        return False
    released = released_of(run)
    if released is None:
        raise NotApproved("nothing was released in this run, whatever the tasks before say")
    approvals.approved(run, RELEASE, released.digest)
    if stage in (DICOMDIR, UPLOAD) and released.files:
        approved_of(folder_of(study, RELEASED_FOLDER))
    if stage != DICOMDIR:
        return True
    made = folder_of(study, FILE_SETS)
    return released.files > 0 and (released.new > 0 or not made.is_dir() or (made / run.name[-8:]).exists())
