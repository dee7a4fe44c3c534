"""Scans a folder: its objects by series, and its other files."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from sys import intern
from typing import Any

from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.base.files import LEVELS, readable, unreadable
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.dicom.files import DicomFile, Directory, inspect
from pacsifier_ops.runs.accounts import FileAccount
from pacsifier_ops.state.approved import DIFFERS, FORMER, NOT_APPROVED, NOT_THERE, NOT_YET, TAKEN_AWAY, Approved
from pacsifier_ops.state.facts import Facts
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import CONTROL, OF_RUNS

#: What is kept of a file: all but the path, and the digest that a caller requires.
_KEPT = [field.name for field in fields(DicomFile)][1:-1]
_values_of = attrgetter(*_KEPT)
#: Those that differ from file to file. Texts that many files have in common are shared: there may be a million files.
_OWN = {_KEPT.index(name) for name in ("offset", "size", "mtime_ns", "ctime_ns", "sop_instance_uid", "instance_number")}
_SHARED = [place for place in range(len(_KEPT)) if place not in _OWN]

#: Reason for a folder that is not scanned.
TOO_DEEP = f"more than {LEVELS} folders lie in each other, and what is in this one was not looked at"
#: Reasons for files that are skipped: they contain nothing to send.
NOT_DICOM, DICOMDIR, SECOND_COPY = "not DICOM", "DICOMDIR", "second copy of an instance"
LEADS_OUTSIDE = "link that leads outside"
_CONTRADICTION = "another file has the same SOP Instance UID and another content; neither is used"


@dataclass
class Scan:
    """The content of a folder.

    Attributes:
        series: objects by series, in order of their paths; no SOP Instance UID occurs twice in a series.
        copies: second copies of these objects, which are skipped.
        passed_over: numbers of skipped files, by reason.
        bad_files: files that should be sent and cannot be.
        trees: the folder, and folders below it that are output trees themselves.
        since: time since when what was read is kept, in seconds since the epoch, see `Facts`.
    """

    series: dict[SeriesId, list[DicomFile]] = field(default_factory=dict)
    copies: list[DicomFile] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    bad_files: list[FileAccount] = field(default_factory=list)
    trees: list[Path] = field(default_factory=list)
    since: float = 0


def scan(
    root: Path,
    cancelled: Callable[[], bool] = lambda: False,
    every: bool = False,
    approved: Approved | None = None,
    look: Callable[[Path], DicomFile | None] = inspect,
) -> Scan:
    """Read the beginning of every file below `root`. Folders named CONTROL are left out.

    What was read of the files of an output tree is kept, and a file is read again only where it has changed (see
    `Facts`).

    Two files of a series may have the same SOP Instance UID. The second is skipped where the data sets are equal. Where
    they differ, both are bad files, because it is unknown which is right.

    Args:
        root: the folder.
        cancelled: called for each file; True stops the scan.
        every: return all files, also those with the same SOP Instance UID.
        approved: decisions which files of the folder may be released, where there are any. Objects without approval are
            bad files.
        look: reads the identifying attributes of a file; see `inspect`.

    Raises:
        Cancelled: `cancelled` returned True.
        OSError: `root` cannot be read.
    """
    with heads(root, look) as read:
        found = _scan(root, cancelled, every, approved, read)
        found.since = read.since
        return found


def heads(
    root: Path, look: Callable[[Path], DicomFile | None] = inspect, whole: bool = True
) -> Facts[DicomFile | None]:
    """Return what is known of the identifying attributes of the files of a tree.

    Args:
        root: the tree.
        look: see `scan`.
        whole: see `Facts`.
    """
    # The ways of looking accept different files.
    return Facts(root, f"heads-{look.__module__.rpartition('.')[2]}", look, _packed, _unpacked, whole=whole)


def texts_of_runs(
    root: Path, cancelled: Callable[[], bool] = lambda: False, look: Callable[[Path], DicomFile | None] = inspect
) -> int | None:
    """Return the number of files in the folders of a tree that every run writes to (see OF_RUNS).

    Args:
        root: the tree.
        cancelled, look: see `scan`.

    Returns:
        None if one of them is no plain text, or cannot be read.

    Raises:
        Cancelled: `cancelled` returned True.
    """
    texts = 0
    for name in OF_RUNS:
        if cancelled():
            raise Cancelled("stopped on request")
        try:
            found = scan(root / name, cancelled, look=look)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        if found.series or found.bad_files or not set(found.passed_over) <= {NOT_DICOM}:
            return None
        texts += found.passed_over[NOT_DICOM]
    return texts


def with_texts(found: Mapping[str, Any], texts: int) -> dict[str, Any]:
    """Return what was found in a tree earlier, as it is with so many texts of runs now.

    Args:
        found: has `passed_over` (see `Scan`), and `texts`: the number of texts of runs among them.
        texts: see `texts_of_runs`.
    """
    passed_over = Counter(found["passed_over"])
    passed_over[NOT_DICOM] += texts - found["texts"]
    return {**found, "passed_over": +passed_over, "texts": texts}


def _packed(item: DicomFile | None) -> list[Any] | None:
    return None if item is None else list(_values_of(item))


def _unpacked(values: list[Any] | None, path: Path | str) -> DicomFile | None:
    if values is None:
        return None
    for place in _SHARED:
        values[place] = intern(values[place])
    return DicomFile(path if isinstance(path, Path) else Path(path), *values)


def _scan(
    root: Path,
    cancelled: Callable[[], bool],
    every: bool,
    approved: Approved | None,
    look: Callable[[Path], DicomFile | None],
) -> Scan:
    found = Scan(trees=[root])
    first: dict[tuple[SeriesId, str], DicomFile] = {}
    contradicting: set[tuple[SeriesId, str]] = set()

    handled: set[str] = set()

    def bad(path: Path, reason: str) -> None:
        handled.add(str(path))
        found.bad_files.append(FileAccount(readable(path.relative_to(root)), reason))

    for path in _files(root, found, bad):
        if cancelled():
            raise Cancelled("stopped on request")
        try:
            item = look(path)
            if item is None:
                found.passed_over[NOT_DICOM] += 1
                continue
            if approved is not None:
                if not (sha256 := approved.sha256(path)):
                    if (reason := approved.why_not(path)) in (FORMER, NOT_YET):
                        found.passed_over[reason] += 1
                    else:
                        bad(path, reason)
                    continue
                handled.add(str(path))
                item = DicomFile(*(path, *_values_of(item), sha256))
            instance = item.series, item.sop_instance_uid
            other = first.get(instance)
            if every:
                found.series.setdefault(item.series, []).append(item)
            elif approved is not None and other is not None and digest(path) != item.sha256:
                bad(path, DIFFERS)  # otherwise the good one might be skipped as its copy
            elif approved is not None and other is not None and digest(other.path) != other.sha256:
                bad(other.path, DIFFERS)
                files = found.series[item.series]
                files[files.index(other)] = first[instance] = item
            elif instance in contradicting:
                bad(path, _CONTRADICTION)
            elif other is None:
                first[instance] = item
                found.series.setdefault(item.series, []).append(item)
            elif _same(item, other):
                found.copies.append(item)
                found.passed_over[SECOND_COPY] += 1
            else:
                contradicting.add(instance)
                bad(other.path, _CONTRADICTION)
                bad(path, _CONTRADICTION)
        except Directory:
            found.passed_over[DICOMDIR] += 1
        except ValueError as error:
            listed = approved is None or approved.sha256(path)
            if listed or approved is None or not approved.elsewhere:
                bad(path, str(error) if listed else NOT_APPROVED)
        except OSError as error:
            bad(path, unreadable(error))
    if approved is not None:
        for name in approved.listed(root):
            if name in handled:
                continue
            if not os.path.lexists(name):
                if approved.released:
                    bad(Path(name), NOT_THERE)
                else:
                    found.passed_over[TAKEN_AWAY] += 1
            elif name.endswith(".dcm"):  # it is no object any more, or a link to the outside
                bad(Path(name), DIFFERS)
    if contradicting:
        left = {
            series: [file for file in files if (series, file.sop_instance_uid) not in contradicting]
            for series, files in found.series.items()
        }
        found.series = {series: files for series, files in left.items() if files}
    return found


def _files(root: Path, found: Scan, bad: Callable[[Path, str], None]) -> Iterator[Path]:
    """Yield the regular files below a folder, and links to such files, in order of their names."""
    inside, passed_over = root.resolve(), found.passed_over
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise
            bad(folder, unreadable(error))
            continue
        below = []
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                try:
                    target = path.resolve()
                    if inside not in target.parents and target != inside:
                        passed_over[LEADS_OUTSIDE] += 1
                        continue
                    mode = target.stat().st_mode
                except OSError as error:
                    bad(path, unreadable(error))
                    continue
                except RuntimeError:  # raised by Path.resolve up to Python 3.12
                    bad(path, "a link that leads to itself")
                    continue
                if stat.S_ISDIR(mode):
                    continue  # its files are scanned at their own place
                if not stat.S_ISREG(mode):
                    passed_over[NOT_DICOM] += 1
                    continue
            elif entry.is_dir():
                if entry.name != CONTROL:
                    if len(path.parts) - len(root.parts) > LEVELS:
                        bad(path, TOO_DEEP)
                        continue
                    below.append(path)
                elif folder != root:
                    found.trees.append(folder)
                continue
            elif not entry.is_file():
                passed_over[NOT_DICOM] += 1  # a pipe, a socket or a device: opening it may block forever
                continue
            yield path
        folders += reversed(below)


def _same(one: DicomFile, other: DicomFile) -> bool:
    """Return whether two files have the same data set. They are read only where their sizes are equal."""
    lengths = one.size - one.offset, other.size - other.offset
    return one.kind == other.kind and lengths[0] == lengths[1] and one.digest() == other.digest()
