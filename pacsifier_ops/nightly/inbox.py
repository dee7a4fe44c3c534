"""The inbox: submissions are taken, judged, and put away with what became of them."""

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
from pacsifier_ops.nightly.options import OPTIONS, Connect, conf_of, understood
from pacsifier_ops.query.options import Refused
from pacsifier_ops.runs.folder import MOST
from pacsifier_ops.state.leases import shared

#: Seconds for which a file that is whole has not changed, and between the two looks at it.
SETTLE, PAUSE = 120.0, 3.0

TABLES, YAML = (".csv", ".xlsx"), (".yaml", ".yml")
_UNFINISHED = (".part", ".filepart", ".crdownload", ".tmp")
_FOREIGN = ("thumbs.db", "desktop.ini")
#: What a claim keeps of itself: the night, the names of its files, and the run to be started once it was judged good.
_CLAIM = ".claim.json"


@dataclass
class Collected:
    """What one look at the inbox came to.

    Attributes:
        starts: the runs to be started.
        rejected: names of the folders of those that cannot be used.
        copying: submissions with a file that may still be written.
        lonely: options files without a query table.
        left: submissions for the next night, since this one has enough.
        stuck: submissions with a file that cannot be moved.
    """

    starts: list[Start] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    copying: int = 0
    lonely: int = 0
    left: int = 0
    stuck: int = 0


def settled(paths: Iterable[Path], pause: float = PAUSE) -> set[Path]:
    """The files that nobody is writing: not changed for two minutes, and the same at two looks `pause` seconds apart.

    A time in the future, of a clock that is ahead, counts for nothing; then the two looks decide.
    """
    first = {path: _look(path) for path in paths}
    if first:
        time.sleep(pause)
    now = time.time()
    return {
        path
        for path, seen in first.items()
        if seen and _look(path) == seen and not 0 <= now - seen.st_mtime_ns / 1e9 < SETTLE
    }


@dataclass(frozen=True)
class _Look:
    """What changes where a file is written."""

    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int


def _look(path: Path) -> _Look | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return _Look(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def collect(folders: Folders, night: str, connect: Connect, most: int = MOST, pause: float = PAUSE) -> Collected:
    """Take what lies in the inbox, judge it, and put away what cannot be used.

    Submissions that an earlier run took and did not see started come first, then the oldest of the inbox.

    Args:
        night: date of the night.
        most: submissions of a night at most.
        pause: see `settled`.

    Raises:
        StorageError: a folder cannot be read or written.
    """
    collected = Collected()
    with _alone():
        groups = _submissions(folders.inbox)
        ready = settled([path for group in groups for path in group], pause)
        claims = _claims(folders)
        awaited = {folders.inbox / name for claim in claims for name in claim.missing()}
        for group in groups:
            if awaited.intersection(group):
                continue
            if not ready.issuperset(group):
                collected.copying += 1
            elif all(path.suffix.lower() in YAML for path in group):
                collected.lonely += 1
            elif len(claims) >= most:
                collected.left += 1
            elif claim := _take(folders, group, night):
                claims.append(claim)
            else:
                collected.stuck += 1
        for claim in claims:
            if any(os.path.lexists(path) and path not in ready for path in claim.sources(folders)):
                collected.copying += 1
            elif claim.gather(folders):
                _judge(folders, claim, connect, collected)
            else:
                collected.stuck += 1
    return collected


def settle(folders: Folders, runs: Runs, page_root: str) -> tuple[int, int]:
    """Put away the submissions whose runs exist.

    Args:
        page_root: see `Start.result`.

    Returns:
        How many were put away, and how many have no run yet.

    Raises:
        StorageError: a folder cannot be written.
    """
    done = waiting = 0
    with _alone():
        for claim in _claims(folders):
            if claim.start and runs.exists(claim.start.run_id):
                folders.tell_result(claim.folder, claim.start, page_root)
                claim.put_away(folders.done)
                done += 1
            elif claim.start:
                waiting += 1
    return done, waiting


@contextmanager
def _alone() -> Iterator[None]:
    """Whoever looks at claims does so alone: one that another is making could be taken for one that was given up."""
    with storage_errors("the folder of the nightly runs"), shared().acquire("nightly"):
        yield


def _submissions(inbox: Path) -> list[list[Path]]:
    """The files of the inbox, those together that are one submission; the oldest first.

    A table and its options have the same name but for the ending, in any case and normal form: file systems differ.
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
    """A submission that was taken: `claimed/<id>/`. The request and the run that it becomes have the same id.

    Attributes:
        night: when it was taken.
        files: names of its files.
        start: the run to be started, once it was judged good.
    """

    folder: Path
    night: str
    files: list[str]
    start: Start | None = None

    @property
    def name(self) -> str:
        """Of its folder once it is put away."""
        return f"{self.night}-{self.folder.name}"

    def keep(self) -> None:
        """Write what must outlive this run; names that are no text are escaped."""
        kept = {"night": self.night, "files": self.files, "start": self.start and vars(self.start)}
        write_atomic(self.folder / _CLAIM, json.dumps(kept))

    def missing(self) -> list[str]:
        """The files that have not been moved here."""
        return [name for name in self.files if not os.path.lexists(self.folder / name)]

    def sources(self, folders: Folders) -> list[Path]:
        """Where the files that have not been moved here should be."""
        return [folders.inbox / name for name in self.missing()]

    def gather(self, folders: Folders) -> bool:
        """Move its files here; False where one is there and cannot be moved."""
        for path in self.sources(folders):
            try:
                path.rename(self.folder / path.name)
            except FileNotFoundError:
                continue  # somebody has thought better of it
            except OSError:
                return False
        return True

    def put_away(self, where: Path) -> None:
        """Move the whole of it."""
        self.folder.rename(where / self.name)


def _claims(folders: Folders) -> list[_Claim]:
    """The claims that there are. One that holds no file yet was being made when its run was killed: it never was."""
    claims = []
    for folder in sorted(folders.claimed.iterdir()):
        if not is_request_id(folder.name) or folder.is_symlink():
            continue  # none of ours
        if (folder / _CLAIM).exists():
            kept: dict[str, Any] = read_json(folder / _CLAIM)
            start = Start(**kept["start"]) if kept["start"] else None
            claim = _Claim(folder, kept["night"], kept["files"], start)
            if len(claim.missing()) < len(claim.files):
                claims.append(claim)
                continue
        _give_up(folder)
    return claims


def _give_up(folder: Path) -> None:
    """Remove a claim that holds nothing of anybody's; whatever else is in it stays, with it."""
    for name in (_CLAIM, *(path.name for path in folder.glob(".*.part"))):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _take(folders: Folders, group: list[Path], night: str) -> _Claim | None:
    """Make a submission of files of the inbox: the first that is moved makes it one. None where none can be moved."""
    claim = _Claim(folders.claim(new_request_id()), night, [path.name for path in group])
    claim.keep()
    claim.gather(folders)
    if len(claim.missing()) < len(claim.files):
        return claim
    _give_up(claim.folder)
    return None


def _judge(folders: Folders, claim: _Claim, connect: Connect, collected: Collected) -> None:
    """Find out what run a claim asks for, unless that is known, and put it away if it cannot be used."""
    try:
        claim.start = claim.start or _start_of(claim, connect)
    except Refused as error:
        folders.tell(claim.folder / REASONS, "".join(f"{reason}\n" for reason in error.reasons))
        claim.put_away(folders.rejected)
        collected.rejected.append(claim.name)
    else:
        claim.keep()
        collected.starts.append(claim.start)


def _start_of(claim: _Claim, connect: Connect) -> Start:
    """The run that a claim asks for.

    Raises:
        Refused: with every reason.
    """
    tables, options, reasons = [], [], []
    for name in claim.files:
        path = claim.folder / name
        if not os.path.lexists(path):
            reasons.append(f"{name}: was taken out of the inbox meanwhile; put all in again")
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
    values, data = understood(tables[0], options[0] if options else None, OPTIONS, connect)
    conf = {"out_directory": f"{RESULTS}/{claim.name}", **conf_of(values, data, claim.folder.name)}
    return Start(f"nightly__{claim.folder.name}", conf)
