"""The inbox: submissions are claimed, checked, and put away with an answer."""

from __future__ import annotations

import json
import os
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import read_json, storage_errors, write_atomic
from pacsifier_ops.extract.requests import is_request_id, new_request_id
from pacsifier_ops.nightly import REASONS, RESULTS, Folders, Runs, Start
from pacsifier_ops.nightly.options import OPTIONS, Connect, read_submission, run_conf
from pacsifier_ops.query.options import Refused
from pacsifier_ops.runs.folder import MOST
from pacsifier_ops.state.leases import shared

#: A file is complete if it has not changed for SETTLE seconds, and not between two looks PAUSE seconds apart. How it
#: came by its name says nothing: a file server changes attributes of a file while a copy to it goes on, which looks
#: like a rename, and a rename right after the copy leaves no trace in the times.
SETTLE, PAUSE = 120.0, 3.0

TABLES, YAML = (".csv", ".xlsx", ".parquet", ".duckdb"), (".yaml", ".yml")
#: Endings of files that are being copied, and files that operating systems make.
_UNFINISHED = (".part", ".filepart", ".crdownload", ".tmp")
_FOREIGN = ("thumbs.db", "desktop.ini")
#: File of a claim: the night, the names of its files, and the run to be started once the files were checked.
_CLAIM = ".claim.json"


@dataclass
class Collected:
    """The result of one look at the inbox.

    Attributes:
        starts: the runs to be started.
        rejected: folder names of submissions that cannot be used.
        copying: number of submissions with a file that may still be written.
        wait: seconds after which these files are complete, if they do not change any more; 0: there are none.
        without_table: number of options files without a query table.
        next_night: number of submissions that wait for the next night, because this one has its maximum.
        stuck: number of submissions with a file that cannot be moved.
    """

    starts: list[Start] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    copying: int = 0
    wait: float = 0.0
    without_table: int = 0
    next_night: int = 0
    stuck: int = 0


def complete_files(paths: Iterable[Path], pause: float = PAUSE) -> set[Path]:
    """Return the files that are no longer being written.

    They have not changed for SETTLE seconds, and not between two looks. A modification time in the future, from a clock
    that is ahead, is ignored.

    Args:
        paths: the files.
        pause: seconds between the two looks.
    """
    first = {path: _file_state(path) for path in paths}
    if first:
        time.sleep(pause)
    now = time.time()
    return {
        path
        for path, seen in first.items()
        if seen and _file_state(path) == seen and not 0 <= now - seen.st_mtime_ns / 1e9 < SETTLE
    }


def settled_in(paths: Iterable[Path]) -> float:
    """Return the seconds after which files are complete that `complete_files` left out, if they change no more."""
    now = time.time()
    ages = [now - seen.st_mtime_ns / 1e9 for path in paths if (seen := _file_state(path))]
    return max([PAUSE, *(SETTLE - age for age in ages if 0 <= age < SETTLE)])


@dataclass(frozen=True)
class _FileState:
    """The attributes of a file that change when it is written."""

    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int


def _file_state(path: Path) -> _FileState | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return _FileState(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def collect(folders: Folders, night: str, connect: Connect, most: int = MOST, pause: float = PAUSE) -> Collected:
    """Claim the submissions in the inbox, check them, and put away those that cannot be used.

    Submissions come first that an earlier call claimed and that were not started; then the oldest in the inbox.

    Args:
        folders: the folders of the nightly runs.
        night: date of the night.
        connect: checks names of connections.
        most: maximum number of submissions per night.
        pause: see `complete_files`.

    Raises:
        StorageError: a folder cannot be read or written.
    """
    collected = Collected()
    with _claims_lock():
        groups = _submissions(folders.inbox)
        ready = complete_files([path for group in groups for path in group], pause)
        claims = _claims(folders)
        awaited = {folders.inbox / name for claim in claims for name in claim.missing()}
        for group in groups:
            if awaited.intersection(group):
                continue
            if not ready.issuperset(group):
                collected.copying += 1
                collected.wait = max(collected.wait, settled_in(set(group) - ready))
            elif all(path.suffix.lower() in YAML for path in group):
                collected.without_table += 1
            elif len(claims) >= most:
                collected.next_night += 1
            elif claim := _claim_files(folders, group, night):
                claims.append(claim)
            else:
                collected.stuck += 1
        for claim in claims:
            if late := [path for path in claim.sources(folders) if os.path.lexists(path) and path not in ready]:
                collected.copying += 1
                collected.wait = max(collected.wait, settled_in(late))
            elif claim.gather(folders):
                _check(folders, claim, connect, collected)
            else:
                collected.stuck += 1
    return collected


def put_away_started(folders: Folders, runs: Runs, page_root: str) -> tuple[int, int]:
    """Put away the submissions whose runs exist.

    Args:
        folders: the folders of the nightly runs.
        runs: the runs in Airflow.
        page_root: see `Start.result`.

    Returns:
        The number of submissions that were put away, and of those without a run.

    Raises:
        StorageError: a folder cannot be written.
    """
    done = waiting = 0
    with _claims_lock():
        for claim in _claims(folders):
            if claim.start and runs.exists(claim.start.run_id):
                folders.write_result(claim.folder, claim.start, page_root)
                claim.put_away(folders.done)
                done += 1
            elif claim.start:
                waiting += 1
    return done, waiting


@contextmanager
def _claims_lock() -> Iterator[None]:
    """Acquire the lease for the claims: a claim that another process is making would look like an abandoned one."""
    with storage_errors("the folder of the nightly runs"), shared().acquire("nightly"):
        yield


def _submissions(inbox: Path) -> list[list[Path]]:
    """Return the files of each submission in the inbox, the oldest submission first.

    A table and its options have the same name without the ending. Upper and lower case, and the Unicode normal forms,
    count as equal, because file systems differ in them.
    """
    groups: dict[str, list[tuple[float, Path]]] = {}
    for entry in os.scandir(inbox):
        path, name = Path(entry.path), entry.name.casefold()
        if name.startswith((".", "~$")) or name.endswith(_UNFINISHED) or name in _FOREIGN:
            continue
        if not entry.is_file(follow_symlinks=False):
            continue
        ours = path.suffix.lower() in TABLES + YAML
        group = unicodedata.normalize("NFC", path.stem if ours else path.name).casefold()
        groups.setdefault(group, []).append((entry.stat(follow_symlinks=False).st_mtime, path))
    return [sorted(path for _, path in group) for group in sorted(groups.values(), key=lambda group: min(group)[0])]


@dataclass
class _Claim:
    """A submission in `claimed/<id>/`. Its request and its run have the same id.

    Attributes:
        folder: its folder.
        night: date of the night in which it was claimed.
        files: names of its files.
        start: the run to be started; None until the files were checked.
    """

    folder: Path
    night: str
    files: list[str]
    start: Start | None = None

    @property
    def name(self) -> str:
        """Name of its folder when it is put away."""
        return f"{self.night}-{self.folder.name}"

    def keep(self) -> None:
        """Write the claim to its file. Bytes in names of files that are not text are escaped."""
        kept = {"night": self.night, "files": self.files, "start": self.start and vars(self.start)}
        write_atomic(self.folder / _CLAIM, json.dumps(kept))

    def missing(self) -> list[str]:
        """Return the names of the files that are not in the folder of the claim."""
        return [name for name in self.files if not os.path.lexists(self.folder / name)]

    def sources(self, folders: Folders) -> list[Path]:
        """Return the paths in the inbox of the files that are not in the folder of the claim."""
        return [folders.inbox / name for name in self.missing()]

    def gather(self, folders: Folders) -> bool:
        """Move the files from the inbox to the folder of the claim; return False if one exists and cannot be moved."""
        for path in self.sources(folders):
            try:
                path.rename(self.folder / path.name)
            except FileNotFoundError:
                continue  # a person has removed it from the inbox
            except OSError:
                return False
        return True

    def put_away(self, where: Path) -> None:
        """Move the claim to another folder."""
        self.folder.rename(where / self.name)


def _claims(folders: Folders) -> list[_Claim]:
    """Return all claims. A claim without files is removed: its run was killed before it moved a file."""
    claims = []
    for folder in sorted(folders.claimed.iterdir()):
        if not is_request_id(folder.name) or folder.is_symlink():
            continue  # not a claim
        if (folder / _CLAIM).exists():
            kept: dict[str, Any] = read_json(folder / _CLAIM)
            start = Start(**kept["start"]) if kept["start"] else None
            claim = _Claim(folder, kept["night"], kept["files"], start)
            if len(claim.missing()) < len(claim.files):
                claims.append(claim)
                continue
        _remove_claim(folder)
    return claims


def _remove_claim(folder: Path) -> None:
    """Remove a claim without files of a submission. Its folder stays if it contains anything else."""
    for name in (_CLAIM, *(path.name for path in folder.glob(".*.part"))):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _claim_files(folders: Folders, group: list[Path], night: str) -> _Claim | None:
    """Claim files of the inbox; return None if none of them can be moved."""
    claim = _Claim(folders.claim(new_request_id()), night, [path.name for path in group])
    claim.keep()
    claim.gather(folders)
    if len(claim.missing()) < len(claim.files):
        return claim
    _remove_claim(claim.folder)
    return None


def _check(folders: Folders, claim: _Claim, connect: Connect, collected: Collected) -> None:
    """Determine the run of a claim, unless it is known; put the claim away if it cannot be used."""
    try:
        claim.start = claim.start or _start_of(claim, connect)
    except Refused as error:
        folders.write_answer(claim.folder / REASONS, "".join(f"{reason}\n" for reason in error.reasons))
        claim.put_away(folders.rejected)
        collected.rejected.append(claim.name)
    else:
        claim.keep()
        collected.starts.append(claim.start)


def _start_of(claim: _Claim, connect: Connect) -> Start:
    """Return the run of a claim.

    Raises:
        Refused: the files cannot be used; it has all reasons.
    """
    tables, options, reasons = [], [], []
    for name in claim.files:
        path = claim.folder / name
        if not os.path.lexists(path):
            reasons.append(f"{name}: was removed from the inbox too early; put all files in again")
        elif path.suffix.lower() in TABLES:
            tables.append(path)
        elif path.suffix.lower() in YAML:
            options.append(path)
        else:
            reasons.append(f"{name}: neither a query table ({', '.join(TABLES)}) nor an options file ({YAML[0]})")
    if not reasons and (len(tables), len(options)) not in ((1, 0), (1, 1)):
        reasons.append(f"{', '.join(claim.files)}: have the same name; give one query table and one options file")
    if reasons:
        raise Refused(reasons)
    values, data = read_submission(tables[0], options[0] if options else None, OPTIONS, connect)
    conf = {"out_directory": f"{RESULTS}/{claim.name}", **run_conf(values, data, claim.folder.name)}
    return Start(f"nightly__{claim.folder.name}", conf)
