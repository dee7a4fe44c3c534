"""The release of a data set: its files are listed, a person decides on exactly this list, and only these are released.

Only this module and the hand-over report write into `released/`. Every step that hands data over reads from there.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pacsifier_ops.base import settings
from pacsifier_ops.base.durable import Durable
from pacsifier_ops.base.errors import Cancelled, NotApproved
from pacsifier_ops.base.files import (
    clone,
    confined,
    data_file,
    data_folder,
    fsync_folder,
    name_below,
    private_folder,
    private_handle,
    read_json,
    read_jsonl,
    readable,
    storage_errors,
    write_atomic,
    write_json,
    write_jsonl,
)
from pacsifier_ops.dicom.files import inspect
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.approvals import RELEASE
from pacsifier_ops.runs.folder import Run, never, now, stage_run
from pacsifier_ops.state import audit
from pacsifier_ops.state.approved import LISTED, Approved, approve, approved_of, lies_in
from pacsifier_ops.state.facts import Facts, identity_at
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.standing import UNKNOWN, Standing, stamp_of, stamp_of_folder, stamps_of
from pacsifier_ops.state.tree import (
    CONTROL,
    DEIDENTIFIED,
    HANDOVER,
    begin,
    marker_of,
    refuse_around,
    refuse_unfinished,
    state_folder,
)
from pacsifier_ops.study.listing import DIGESTS, LIST, Part, files_below, files_of, parts_of, write_list
from pacsifier_ops.study.project import NOBODY, Study
from pacsifier_ops.study.run import ANONYMIZE, CONVERT, DICOMDIR, KARNAK, MOVE, RELEASE_TO, UPLOAD
from pacsifier_ops.upload.filestore import MANIFEST
from pacsifier_ops.upload.steps import in_store

#: Folders of a study, below its own.
IDENTIFIED_FOLDER, DEIDENTIFIED_FOLDER, RELEASED_FOLDER = FOLDERS = ("identified", "de-identified", "released")

#: Folder of the DICOM file-sets: each run makes one, in a folder of its own.
FILE_SETS = "dicomdir"

#: Folder of files that are not yet complete.
_UNFINISHED = f"{CONTROL}/unfinished"

_RELEASED = "released.json"


@dataclass(frozen=True)
class Stock:
    """The files that are to be released.

    Attributes:
        digest: SHA-256, hexadecimal, of the list of files with their digests, and of the originals to be handed over.
        files, bytes: number and total size of the files.
    """

    digest: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Released:
    """What was released.

    Attributes:
        digest: digest of the stock.
        by: who approved it; when: time of the release, ISO 8601.
        waived: findings of the search for identifiers were waived.
        files, bytes: number and total size of the files of the data set.
        new: number of files that were not released before, or have changed since.
        stale: number of files that were released once and no longer belong to the data set; they stay.
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
    """Return a folder of a study.

    Args:
        name: its path below the study's folder.

    Raises:
        PathRefused: it leads outside the data root.
    """
    return confined(f"{study.root}/{name}", settings.data_root(), "folder")


def take_stock(run: Run, cancelled: Callable[[], bool] = never) -> Stock:
    """List every file of the data set with its digest in the run's `output.jsonl`. Return the sums.

    In a study without de-identification, these are the identified files, which its gateway gets.

    Raises:
        TreeError: the data set is half de-identified.
        StorageError: it cannot be read, or the state root not be written.
        Cancelled: `cancelled` said so.
    """
    study = Study.of(run)
    root = folder_of(study, DEIDENTIFIED_FOLDER if study.has(ANONYMIZE) else IDENTIFIED_FOLDER)
    refuse_unfinished([root])
    with storage_errors("the state root, or the folder of the study"):
        files, parts = write_list(run, root, cancelled)
    return _stored(run, Stock(files, sum(part.files for part in parts), sum(part.bytes for part in parts)))


def _stored(run: Run, stock: Stock) -> Stock:
    """Store a stock. Its digest then covers the listed originals, so a decision on it holds for these as well."""
    with storage_errors("the state root"):
        stock = replace(stock, digest=with_originals(run, stock.digest))
        write_json(run.folder / "stock.json", asdict(stock))
    return stock


def with_originals(run: Run, files: str) -> str:
    """Return the digest of a stock, hexadecimal: of its files, and of the originals to be handed over, if any.

    Args:
        files: digest of the list of files.
    """
    if not (path := originals_of(run)).exists():
        return files
    whole = hashlib.sha256(files.encode())
    for file in read_jsonl(path):
        if file["instance"]:  # other files, such as logs, are new in every run
            whole.update(f"\n{file['path']}\0{file['sha256']}".encode())
    return whole.hexdigest()


def list_originals(run: Run, cancelled: Callable[[], bool] = never) -> None:
    """List the identified files as they are now, with the instances in them, in the run's `identified.jsonl`.

    A study does so if a gateway gets these files, or if the archive sends the same instances to another node. They are
    approved together with the data set. Files that come later are not handed over.

    Raises:
        StorageError: they cannot be read, or the state root not be written.
        Cancelled: `cancelled` said so.
    """
    study = Study.of(run)
    root = folder_of(study, IDENTIFIED_FOLDER)
    if not (study.has(KARNAK) or study.has(MOVE)):
        return
    files = files_below(root, cancelled) if study.has(ANONYMIZE) else listed(run)
    with (
        storage_errors("the state root, or the folder of the study"),
        Facts(root, "instances", _instance_in) as instance_in,
    ):
        write_jsonl(originals_of(run), ({**file, "instance": instance_in(root / file["path"])} for file in files))
    _stored(run, stock_of(run))  # the stock was taken before the originals were listed


def originals_of(run: Run) -> Path:
    """Return the path of the list of the identified files; it is there if the study hands any over."""
    return run.part("identified")


def _instance_in(path: Path) -> list[str]:
    """Return Study, Series and SOP Instance UID of a file; empty if it holds no instance."""
    try:
        file = inspect(path)
    except ValueError:
        return []
    return [file.study_uid, file.series_uid, file.sop_instance_uid] if file else []


def stock_of(run: Run) -> Stock:
    """Return the stock that was taken last.

    Raises:
        NotApproved: none was taken.
    """
    with suppress(FileNotFoundError):
        return Stock(**read_json(run.folder / "stock.json"))
    raise NotApproved("nobody has looked at the data set yet; run the step check")


def listed(run: Run) -> Iterator[dict[str, Any]]:
    """Yield path, size and digest of every file of the stock that was taken last."""
    return read_jsonl(listing_of(run))


def listing_of(run: Run) -> Path:
    """Return the path of the list of the stock that was taken last; it need not be there."""
    return run.part(LIST)


def released_objects(run: Run) -> Iterator[str]:
    """Yield the paths of the DICOM objects of the stock that was taken last, without the manifest."""
    return (file["path"] for file in listed(run) if file["path"].endswith(".dcm"))


def release(run: Run, cancelled: Callable[[], bool] = never) -> Released:
    """Copy the files of the data set to `released/`, if they are as they were approved.

    Where the study releases to a store, the stage RELEASE_TO has sent them before. They are released if the store has
    confirmed all of them. Then `released/` gets the tables, the card, and the manifest that lies in the store.

    Raises:
        NotAllowed: the project has expired.
        NotApproved: they are not approved, or have changed since; or the store has not confirmed all of them.
        TreeError: the data set is half de-identified.
        StorageError: something cannot be read or written; files that were copied stay.
        Cancelled: `cancelled` returned True; likewise.
    """
    study, decision = Study.of(run), _decision(run)
    stock = take_stock(run, cancelled)
    approvals.approved(run, RELEASE, stock.digest)
    if not study.has(ANONYMIZE):
        stock = Stock(stock.digest, 0, 0)  # identified files go to a gateway, and never to `released/`
    if study.release_to:
        _refuse_partial(run)
    else:
        _tell_audit(run, decision, stock)
    root, target = folder_of(study, DEIDENTIFIED_FOLDER), folder_of(study, RELEASED_FOLDER)
    with storage_errors("the folder of the study"):
        if stock.files:
            _make_ready(target)
        before = approved_of(target) if study.release_to and stock.files else None
        if not study.release_to and lies_in(target) != target.resolve():
            (target / MANIFEST).unlink(missing_ok=True)  # it tells of the store, and not of what comes here from now on
        with _Placing(run, root, target, before) as placing:
            for part in parts_of(run) if stock.files else ():
                if cancelled():
                    raise Cancelled("stopped on request")
                placing.place(part, cancelled)
            stale = placing.stale()
        if before is not None:
            manifest = in_store(stage_run(run, RELEASE_TO)).read_bytes()
            write_atomic(target / MANIFEST, manifest, _mode())
        if study.has(ANONYMIZE):
            files = digest(listing_of(run))
            approve(target, listed(run), lying_in=root if study.release_to else None, digest_of_files=files)
        if study.has(KARNAK):
            approve(folder_of(study, IDENTIFIED_FOLDER), read_jsonl(originals_of(run)))
        released = Released(
            stock.digest,
            decision.who,
            now(),
            decision.waived,
            stock.files,
            stock.bytes,
            len({*newly_released(run).read_text(encoding="utf-8").splitlines()}),  # also those of attempts before
            stale if lies_in(target) == target.resolve() else _former(target),
        )
        write_json(run.folder / _RELEASED, asdict(released))
    return released


def _decision(run: Run) -> approvals.Decision:
    """Return the decision by which the stock may be released now.

    Raises:
        NotAllowed: the project has expired.
        NotApproved: there is none, or it is that of a person who may not.
    """
    study = Study.of(run)
    study.refuse_expired()
    decision = approvals.approved(run, RELEASE, stock_of(run).digest)
    if decision.who != approvals.LIMITS and (why := study.may_release(decision.who, decision.user)):
        raise NotApproved(why)
    return decision


def _tell_audit(run: Run, decision: approvals.Decision, stock: Stock) -> None:
    facts = {"by": decision.who, "digest": stock.digest, "files": stock.files, "waived": decision.waived}
    audit.record(audit.RELEASED, run=run.name, project=Study.of(run).project, **facts)


def begin_sending(run: Run) -> None:
    """Check that the data set may be sent to the store that it is released to, before its first file is.

    Raises:
        NotAllowed: the project has expired.
        NotApproved: nobody has approved exactly what is listed.
    """
    decision, stock = _decision(run), stock_of(run)
    if with_originals(run, digest(listing_of(run))) != stock.digest:
        raise NotApproved("the list of the files is not the one that was approved; run the step check again")
    _tell_audit(run, decision, stock)


def _refuse_partial(run: Run) -> None:
    """Check that the store has confirmed all files of the stock, as they are listed.

    Raises:
        NotApproved: it has not.
    """
    path = in_store(stage_run(run, RELEASE_TO))
    there = {file["path"]: file["sha256"] for file in read_jsonl(path)} if path.exists() else {}
    if there != {file["path"]: file["sha256"] for file in listed(run)}:
        raise NotApproved(
            "the store has not confirmed the whole data set, so it is not released; the report of the stage release_to "
            "says what is missing: clear the failed tasks, or start the study again"
        )


def newly_released(run: Run) -> Path:
    """Return the path of the list of the files that a run has released for the first time, or anew.

    It has their paths below `released/`, one per line. A file that the run was killed at may be there twice.
    """
    return run.folder / "released-new.txt"


@contextmanager
def _noting_new(run: Run) -> Iterator[Callable[[str], object]]:
    """Yield a function that adds a path to the list of new files, before the file is there. Attempts share the list."""
    handle = private_handle(newly_released(run), os.O_WRONLY | os.O_APPEND)
    with os.fdopen(handle, "a", encoding="utf-8") as stream:
        yield lambda path: print(path, file=stream, flush=True)


def _make_ready(target: Path) -> None:
    """Prepare `released/`: it is marked as released, and has an approved list."""
    refuse_around(target, DEIDENTIFIED, "the folder for what is released", below=False)
    shutil.rmtree(target / _UNFINISHED, ignore_errors=True)  # files of a run that was killed
    data_folder(target)
    if not marker_of(target).get(LISTED):
        begin(target, {"state": DEIDENTIFIED, LISTED: True}, "the folder for what is released")
        approve(target, ())  # until all files are there, nothing may be handed over
    (target / _UNFINISHED).mkdir()


#: A file of the stock, its copy without a place, and the identity of the copy.
_Copy = tuple[Mapping[str, Any], Path, list[int]]


class _Placing:
    """Copies the files of a stock to their places in `released/`. A context manager.

    A folder that is as it was when exactly these files were there, with their mode, is not looked into.

    Args:
        run: the run.
        root: the data set.
        target: the folder `released/`.
        before: the approved list of a data set that is released to a store: its images go there, and not here.

    Attributes:
        new: number of files that were copied in this attempt.
    """

    def __init__(self, run: Run, root: Path, target: Path, before: Approved | None) -> None:
        self.new = 0
        self._run, self._root, self._target, self._before = run, root, target, before
        self._digest_of, self._standing = Facts(target, DIGESTS, digest), Standing(target, "released")
        self._stamps = stamps_of(target) if target.is_dir() else {}
        self._others: dict[str, int] = {}  # of folders that stand
        self._placed: dict[str, str] = {}  # stamps of folders in which all was there
        self._stock: set[str] = set()
        self._unfinished = target / _UNFINISHED
        self._copies: Durable[_Copy] = Durable(self._name)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._standing)
        self._stack.enter_context(self._digest_of)
        self._note_new = self._stack.enter_context(_noting_new(self._run))
        self._stack.enter_context(self._copies)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        finally:
            for left in self._unfinished.iterdir() if self._unfinished.is_dir() else ():  # copies that got no place
                left.unlink(missing_ok=True)

    def place(self, part: Part, cancelled: Callable[[], bool]) -> None:
        """Copy the files of a part of the stock.

        Raises:
            NotApproved: a file has changed since it was approved.
            OSError: something cannot be read or written.
            Cancelled: `cancelled` returned True.
        """
        there = self._stamps.get(part.folder, UNKNOWN) if self._before is None else UNKNOWN
        stamp = stamp_of(there, part.stamp, part.digest, _mode())
        others = self._standing.get(part.folder, stamp)
        if others is not None:
            self._others[part.folder] = others
            self._digest_of.hold(part.folder)
            return
        before = self.new
        for _, files in files_of(self._run, [part]):
            for file in files:
                if cancelled():
                    raise Cancelled("stopped on request")
                path = file["path"]
                self._stock.add(path)
                if self._before is not None and path.endswith(".dcm"):
                    if self._before.files.get(path) != file["sha256"]:
                        self._note_new(path)
                elif not self._is_there(file):
                    self._copy(file)
        self._copies.flush()
        if self.new == before:
            self._placed[part.folder] = stamp

    def _is_there(self, file: Mapping[str, Any]) -> bool:
        """Return whether exactly this file of the stock is in its place."""
        place = f"{self._target}/{file['path']}"
        with suppress(FileNotFoundError):
            status = os.lstat(place)
            own = stat.S_ISREG(status.st_mode) and status.st_nlink == 1  # earlier versions made hard links
            if own and status.st_size == file["size"] and self._digest_of(place, status) == file["sha256"]:
                if stat.S_IMODE(status.st_mode) != _mode():
                    os.chmod(place, _mode())
                return True
        return False

    def _copy(self, file: Mapping[str, Any]) -> None:
        """Copy a file of the stock. It gets its place together with others.

        Raises:
            NotApproved: it has changed since it was approved.
        """
        temporary = self._unfinished / secrets.token_hex(8)
        if _copied(self._root / file["path"], temporary) != file["sha256"]:
            raise NotApproved("the release has changed since it was approved; run the step that asks again")
        self._copies.add((file, temporary, identity_at(temporary)), temporary, file["size"])

    def _name(self, copies: Sequence[_Copy]) -> None:
        """Give copies that are durable their places."""
        for file, temporary, identity in copies:
            target = self._target / file["path"]
            data_folder(target.parent)
            self._note_new(file["path"])
            unchanged = identity_at(temporary) == identity  # since it was written; else it is read the next time
            os.replace(temporary, target)
            if unchanged:
                self._digest_of.tell(str(target), file["sha256"])
            self.new += 1
        for folder in {(self._target / file["path"]).parent for file, *_ in copies}:
            fsync_folder(folder)

    def stale(self) -> int:
        """Return the number of files that are in the folder and not in the stock, all of which was placed."""
        whole, own = 0, f"{HANDOVER}/"
        for folder, stamp in self._stamps.items():
            others = self._others.get(folder)
            if others is None:
                names = _names_in(self._target / folder, self._target)
                others = sum(
                    name not in self._stock and name != MANIFEST and not name.startswith(own) for name in names
                )
                # What was looked at is what stands if the folder is still as it was before.
                if folder in self._placed and stamp_of_folder(self._target / folder, self._target) == stamp:
                    self._standing.put(folder, self._placed[folder], others, self._digest_of.since)
            whole += others
        return whole


def _names_in(folder: Path, root: Path) -> list[str]:
    """Return the paths of the files in a folder below another one."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return [readable(name_below(entry.path, root)) for entry in entries if entry.is_file(follow_symlinks=False)]
    return []


_PIECE = 1 << 20


def _mode() -> int:
    """Return the mode of released files: read-only."""
    return data_file() & ~0o222


def _copied(source: Path, target: Path) -> str:
    """Make a read-only copy, which is not flushed to disk yet. Return the SHA-256 of its content, hexadecimal."""
    with source.open("rb") as stream, target.open("xb+") as copy:
        os.fchmod(copy.fileno(), _mode())
        if clone(stream, copy):
            return hashlib.file_digest(copy, "sha256").hexdigest()
        sha256 = hashlib.sha256()
        while piece := stream.read(_PIECE):
            sha256.update(piece)
            copy.write(piece)
    return sha256.hexdigest()


def _former(target: Path) -> int:
    """Return the number of files that were released to a store, and are not in the stock any more."""
    known = approved_of(target)
    return len(known.former) if known else 0


def released_of(run: Run) -> Released | None:
    """Return what the run has released; None if it has not released anything."""
    with suppress(FileNotFoundError):
        return Released(**read_json(run.folder / _RELEASED))
    return None


def may_hand_over(run: Run, stage: str) -> bool:
    """Check that a stage may hand data over: a person has approved exactly what the run has released.

    Returns:
        False if the run is not to release anything; for a DICOM file-set, also if it would be empty, or an earlier run
        has made it.

    Raises:
        NotApproved: nothing was released, or something that nobody approved.
        TreeError: an earlier version released it, without an approved list.
    """
    study = Study.of(run)
    if study.release == NOBODY:
        return False
    if stage == RELEASE_TO:  # the release waits for it
        stock = stock_of(run)
        approvals.approved(run, RELEASE, stock.digest)
        return stock.files > 0
    released = released_of(run)
    if released is None:
        raise NotApproved("nothing was released in this run, whatever the tasks before say")
    approvals.approved(run, RELEASE, released.digest)
    if stage in (DICOMDIR, CONVERT, UPLOAD) and released.files:
        approved_of(folder_of(study, RELEASED_FOLDER))
    if stage == CONVERT:
        return released.files > 0
    if stage != DICOMDIR:
        return True
    if not released.files or next(released_objects(run), None) is None:  # a manifest makes no file-set
        return False
    return not has_file_set(run)


def has_file_set(run: Run) -> bool:
    """Return whether an earlier run has made a DICOM file-set of exactly the files that this one has released.

    One that was killed, or failed, has made none, whatever it has released. Somebody may have removed it since.
    """
    study = Study.of(run)
    with suppress(FileNotFoundError):
        files, maker = read_json(_file_set_note(study))
        return files == digest(listing_of(run)) and maker != run.name and folder_of(study, FILE_SETS).is_dir()
    return False


def note_file_set(run: Run) -> None:
    """Note that the run has made a DICOM file-set of the files that it has released.

    Raises:
        StorageError: the state root cannot be written.
    """
    with storage_errors("the state root"):
        write_json(_file_set_note(Study.of(run)), [digest(listing_of(run)), run.name])


def _file_set_note(study: Study) -> Path:
    return private_folder(state_folder(folder_of(study, RELEASED_FOLDER).resolve())) / "file-set.json"
