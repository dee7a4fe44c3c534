"""Removes files of the identified copy that are verified as delivered, and no others.

A file is verified as delivered if all of this holds:

- it is as it was when it was fetched;
- the object that was made of exactly this file is in `released/`, with the digest that was approved; where the data set
  is released straight to a store, it is in the de-identified folder, and the store has confirmed it;
- if the study uploads, the destination has confirmed this object.

First a list is made, in the run's `removal.jsonl`: a line per series of the identified copy. Then the listed files are
removed. A second call with the same list continues. Each file is marked in the ledger as handed on before it is removed
(see `ledger`): after a kill in between, the next run lists the file again, and no delta run fetches what was delivered.
Only files that the ledger knows are removed, and then the empty folders of series.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pacsifier_ops.base.errors import Cancelled, TreeError
from pacsifier_ops.base.files import (
    ascii_json,
    atomic_stream,
    read_json,
    read_jsonl,
    readable,
    storage_errors,
    write_json,
)
from pacsifier_ops.base.identity import SeriesId, digest_of
from pacsifier_ops.deid.run import DEIDENTIFIED, EXCLUDED, Settled, SourceSeries, series_of, store_of
from pacsifier_ops.dicom.files import DicomFile, inspect
from pacsifier_ops.dicom.scan import heads
from pacsifier_ops.extract.receiving import series_lease
from pacsifier_ops.runs.folder import Run, never, now
from pacsifier_ops.state.deliveries import Deliveries, deliveries_seen
from pacsifier_ops.state.facts import Facts, forget_facts
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import Entry, SeriesLedger, digest, ledger_seen
from pacsifier_ops.state.same import store_once
from pacsifier_ops.state.standing import UNKNOWN, Standing, stamp_now, stamp_of, stamps_if_readable
from pacsifier_ops.state.tree import IDENTIFIED, Tree, marker_of, refuse_unfinished
from pacsifier_ops.study.listing import DIGESTS, LIST, Part, files_of, parts_of
from pacsifier_ops.study.release import released_of, with_originals

#: Why a file stays.
BY_RULE, IN_QUARANTINE = "excluded by a rule", "in quarantine"
CHANGED, NOT_DEIDENTIFIED = "changed since it was fetched", "not de-identified as it is"
NOT_RELEASED, NOT_THERE = "not released", "released, and not there as it was released"
UNCONFIRMED = "not confirmed by the destination"


#: File of the sums of the list, in the run's folder.
_SUMS = "may_go.json"

T = TypeVar("T")

#: Looks at a file, whose status is known.
_Look: TypeAlias = Callable[[str, os.stat_result], T]


@dataclass(frozen=True)
class Places:
    """The places of the data of a study.

    Attributes:
        identified, deidentified: its folders.
        released: the folder that the released files lie in.
        destinations: `key` of each node, or store, that has to confirm the released data set.
    """

    identified: Path
    deidentified: Path
    released: Path
    destinations: Sequence[str] = ()


@dataclass
class Copy:
    """An identified file that may be removed, and the released file that was made of it.

    Attributes:
        file: its name in the folder of the series.
        size, mtime_ns: bytes, and modification time in nanoseconds since the epoch.
        released: path of the released file below the folder that it lies in.
        sha256: digest of the released file, hexadecimal.
        ctime_ns: time of the last change of the released file's inode when its digest was computed. No tool can set it.
    """

    file: str
    size: int
    mtime_ns: int
    released: str
    sha256: str
    ctime_ns: int


@dataclass
class SeriesListing:
    """The files of a series that may be removed: a line of the list.

    Attributes:
        series_uid, study_uid: original UIDs; identifying.
        folder: path below the identified copy; identifying.
        go: files that may be removed, by SOP Instance UID.
        stay: number of files that stay, by reason in words.
        handed_on: number of instances whose file was removed earlier.
        lost: number of those that are no longer in the released data set.
    """

    series_uid: str
    folder: str
    go: dict[str, Copy] = field(default_factory=dict)
    stay: dict[str, int] = field(default_factory=dict)
    handed_on: int = 0
    lost: int = 0
    study_uid: str = ""

    @property
    def series(self) -> SeriesId:
        """Identity of the series in the archive."""
        return SeriesId(self.study_uid, self.series_uid)


@dataclass
class Listing:
    """The sums of a list.

    Attributes:
        series: number of series with files that may be removed.
        files, bytes: number and size of these files.
        stay: number of files that stay, by reason in words.
        handed_on: number of instances whose file was removed earlier.
        lost: number of those that are no longer in the released data set; they can be fetched again (`refetch`).
    """

    series: int = 0
    files: int = 0
    bytes: int = 0
    stay: dict[str, int] = field(default_factory=dict)
    handed_on: int = 0
    lost: int = 0

    @classmethod
    def of(cls, run: Run) -> Listing:
        """Return the sums of the run's list; zeros if it has made none."""
        with suppress(FileNotFoundError):
            return cls(**read_json(run.folder / _SUMS))
        return cls.sum(map(cls.of_series, series_listed(run)))

    @classmethod
    def of_series(cls, series: SeriesListing) -> Listing:
        """Return the sums of a series."""
        size = sum(copy.size for copy in series.go.values())
        return cls(bool(series.go), len(series.go), size, series.stay, series.handed_on, series.lost)

    @classmethod
    def sum(cls, parts: Iterable[Listing]) -> Listing:
        """Return the sums of several."""
        whole, stay = cls(), Counter[str]()
        for part in parts:
            whole.series += part.series
            whole.files += part.files
            whole.bytes += part.bytes
            stay.update(part.stay)
            whole.handed_on += part.handed_on
            whole.lost += part.lost
        whole.stay = dict(stay.most_common())
        return whole


@dataclass
class Removed:
    """The result of a removal.

    Attributes:
        files, bytes: number and size of the removed files, those of earlier attempts of this run included.
        kept: number of listed files that changed after the list was made, and stay.
    """

    files: int = 0
    bytes: int = 0
    kept: int = 0


def series_listed(run: Run) -> Iterator[SeriesListing]:
    """Yield the lines of the run's list."""
    path = run.part("removal")
    for item in read_jsonl(path) if path.exists() else ():
        yield SeriesListing(**{**item, "go": {uid: Copy(**copy) for uid, copy in item["go"].items()}})


def plan_removal(run: Run, places: Places, cancelled: Callable[[], bool] = never, read: bool = True) -> Listing:
    """List the files that may be removed. Each released file with an identified original is read; none is changed.

    Args:
        run: the run of the study that has released the data set.
        read: False: a released file that has not changed since it was read counts as read. So a list is made that
            nothing is removed by.

    Raises:
        TreeError: the folder of the identified copy holds something else, or the data set is half de-identified.
        StorageError: something cannot be read, or the state root not be written.
        Cancelled: `cancelled` said so.
    """
    tree = _tree(places)
    refuse_unfinished([places.deidentified])
    with (
        storage_errors("the state root, or the folder of the study"),
        Facts(places.released, DIGESTS, digest, whole=False) as sha256_of,
        heads(places.released, whole=False) as head_of,
    ):
        delivered = _Delivered(
            run,
            places,
            (lambda path, status: digest(Path(path))) if read else sha256_of,
            (lambda path, status: inspect(Path(path))) if read else head_of,
        )
        sums = []
        (run.folder / _SUMS).unlink(missing_ok=True)
        with (
            Standing(places.identified, "removal") as standing,
            atomic_stream(run.part("removal")) as stream,
        ):
            since = min(sha256_of.since, head_of.since)
            known = _Known(tree, delivered, standing, since) if tree and not read else None
            for line, sum_of_line in _lines(tree, delivered, known, cancelled) if tree else ():
                stream.write(line.encode() + b"\n")
                sums.append(sum_of_line)
        store_once(run.part("removal"), places.identified)
        listing = Listing.sum(sums)
        write_json(run.folder / _SUMS, asdict(listing))
    return listing


def remove(run: Run, places: Places, cancelled: Callable[[], bool] = never) -> Removed:
    """Remove the listed files that have not changed since. The run's `removal.json` gets the result.

    Raises:
        TreeError: the folder of the identified copy holds something else.
        StorageError: something cannot be read, marked or removed; every removed file is marked.
        Cancelled: `cancelled` returned True; likewise.
    """
    removed = Removed()
    if (tree := _tree(places)) is None:
        return removed
    try:
        for series in series_listed(run):
            if cancelled():
                raise Cancelled("stopped on request")
            with (
                shared().acquire(series_lease(series.series), cancelled=cancelled),
                storage_errors("the state root, or the folder of the study"),
            ):
                _remove(tree, places, series, removed)
    finally:
        write_json(run.folder / "removal.json", asdict(removed))
        if removed.files:
            forget_facts(places.identified)  # they tell of patients whose files are gone
    return removed


def _tree(places: Places) -> Tree | None:
    """Return the tree of the identified copy; None if nothing was ever fetched.

    Raises:
        TreeError: the folder holds something else.
    """
    if marker_of(places.identified).get("state", IDENTIFIED) != IDENTIFIED:
        raise TreeError("the folder of the identified copy holds something else, and nothing of it is removed")
    return Tree.existing(places.identified)


def _lines(
    tree: Tree, delivered: _Delivered, known: _Known | None, cancelled: Callable[[], bool]
) -> Iterator[tuple[str, Listing]]:
    """Yield the line of each series, and its sums.

    Args:
        known: the lines that stand; None: each file is looked at.
    """
    for key, folder in sorted(tree.load_names().of_series()):
        if cancelled():
            raise Cancelled("stopped on request")
        before = known.stamp(key, folder) if known else UNKNOWN
        if known and (kept := known.line(key, before)):
            yield kept
            continue
        of_series = delivered.series(key)
        if series := _listed(tree, of_series, key, folder, cancelled):
            line = ascii_json(asdict(series)), Listing.of_series(series)
            if known:
                known.keep(key, folder, before, of_series, *line)
            yield line


def _listed(
    tree: Tree, of_series: _DeliveredSeries, key: SeriesId, folder: str, cancelled: Callable[[], bool]
) -> SeriesListing | None:
    """Look at the files of a series; None where there is nothing to list."""
    entries, at = SeriesLedger(tree.state, key).entries, tree.root / folder
    if not entries or at.resolve() != at:
        return None  # nothing was fetched, or a link leads to a folder outside of the tree
    series, stay = SeriesListing(key.series_uid, folder, study_uid=key.study_uid), Counter[str]()
    for uid, entry in entries.items():
        if cancelled():
            raise Cancelled("stopped on request")
        path = f"{at}/{entry.file}"
        status = _status(path)
        if status is None and not os.path.lexists(path):
            if entry.handed_on:
                series.handed_on += 1
                series.lost += not of_series.is_there(uid)
            continue
        verdict = of_series.copy(at, folder, uid, entry, status)
        if isinstance(verdict, Copy):
            series.go[uid] = verdict
        else:
            stay[verdict] += 1
    series.stay = dict(stay)
    return series


class _Known:
    """The lines that stand: nothing that they depend on has changed.

    Args:
        tree: the tree of the identified copy.
        delivered: the released files.
        standing: the kept lines.
        since: time since when released files were read, in seconds since the epoch.
    """

    def __init__(self, tree: Tree, delivered: _Delivered, standing: Standing, since: float) -> None:
        self._tree, self._delivered, self._standing, self._since = tree, delivered, standing, since
        roots = {tree.root, delivered.places.deidentified, delivered.places.released}
        self._stamps = {root: stamps_if_readable(root) for root in roots}

    def stamp(self, key: SeriesId, folder: str, now: bool = False) -> str:
        """Return the stamp of what a line depends on, but the records of confirmations.

        Args:
            key: the series.
            folder: its folder below the identified copy.
            now: look at the folders now.
        """
        places, made = self._delivered.places, self._delivered.sources(key)
        targets = [one.target for one in made]
        roots = (places.deidentified, places.released)
        folders = [(self._tree.root, folder), *((root, target) for root in roots for target in targets)]
        walked = {} if now else self._stamps
        return stamp_of(
            *(walked.get(root, {}).get(one) or stamp_now(root / one, root) for root, one in folders),
            folder,
            str(places.released),
            [*places.destinations],
            ledger_seen(self._tree.state, key),
            [[one.key, one.target, self._delivered.seen(one)] for one in made],
            [self._delivered.released.digests(readable(Path(target))) for target in targets],
        )

    def line(self, key: SeriesId, stamp: str) -> tuple[str, Listing] | None:
        """Return the line of a series and its sums, if it stands."""
        if (kept := self._standing.get(str(key), stamp)) is None:
            return None
        line, sums, confirmed = kept
        # Which records it depends on was known only when the released files were read.
        same = all(deliveries_seen(digest_of(place), SeriesId(*uids)) == seen for place, uids, seen in confirmed)
        return (line, Listing(**sums)) if same else None

    def keep(
        self, key: SeriesId, folder: str, before: str, of_series: _DeliveredSeries, line: str, sums: Listing
    ) -> None:
        """Keep a line, if nothing that it depends on has changed since before it was made."""
        # An instance that was handed on may have been released in any folder.
        if sums.handed_on or self.stamp(key, folder, now=True) != before:
            return
        confirmed = [[place, [s.study_uid, s.series_uid], seen] for (place, s), seen in of_series.seen.items()]
        self._standing.put(str(key), before, [line, asdict(sums), confirmed], self._since)


def _remove(tree: Tree, places: Places, series: SeriesListing, removed: Removed) -> None:
    """Remove the listed files of a series. The caller holds the lease of the series."""
    folder = tree.root / series.folder
    if folder.resolve() != folder:
        return
    ledger = SeriesLedger(tree.state, series.series)
    going: dict[Path, Copy] = {}
    for uid, copy in series.go.items():
        path, entry = folder / copy.file, ledger.entries.get(uid)
        if entry is None or not (entry.is_removed(folder) or _as_listed(path, places, copy)):
            removed.kept += 1
            continue
        entry.handed_on = entry.handed_on or now()
        going[path] = copy
    if going:
        ledger.save()
    for path, copy in going.items():
        path.unlink(missing_ok=True)
        removed.files += 1
        removed.bytes += copy.size
    with suppress(OSError):  # the folder has other files, or does not exist
        if going or series.handed_on:
            folder.rmdir()


def _as_listed(path: Path, places: Places, copy: Copy) -> bool:
    """Return whether an identified file and its released one are as they were when the list was made."""
    identified, released = _status(path), places.released / copy.released
    if identified is None or (identified.st_size, identified.st_mtime_ns) != (copy.size, copy.mtime_ns):
        return False
    status = _status(released)
    return status is not None and (status.st_ctime_ns == copy.ctime_ns or digest(released) == copy.sha256)


def _status(path: Path | str) -> os.stat_result | None:
    """Return the status of a regular file; None if there is none."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


class _Delivered:
    """The released files of a run, by series.

    Args:
        digest_of, head_of: return the SHA-256 and the identifying attributes of a released file, from its path and
            its status.
    """

    def __init__(
        self,
        run: Run,
        places: Places,
        digest_of: _Look[str],
        head_of: _Look[DicomFile | None],
    ) -> None:
        self.places, self.released = places, ReleasedFiles(run)
        self.digest_of, self.head_of = digest_of, head_of
        self.store = store_of(places.deidentified)
        self._sources: dict[str, list[SourceSeries]] = {}
        for source in series_of(self.store) if self.store else ():
            self._sources.setdefault(source.series_uid, []).append(source)

    def sources(self, series: SeriesId) -> list[SourceSeries]:
        """Return the series of the de-identification that were made of a series of the archive."""
        sources = self._sources.get(series.series_uid, [])
        return [source for source in sources if series.study_uid in ("", source.study_uid)]

    def seen(self, source: SourceSeries) -> list[int]:
        """Return the identity of the file with the outcomes of a series."""
        return self.store.seen(source.key) if self.store else []

    def series(self, series: SeriesId) -> _DeliveredSeries:
        """Return the released files of a series of the archive."""
        return _DeliveredSeries(self, self.sources(series))


class _DeliveredSeries:
    """The released files of one series. Its objects may belong to several patients, so it may have several sources."""

    def __init__(self, delivered: _Delivered, sources: list[SourceSeries]) -> None:
        self._places, self._digest_of, self._head_of = delivered.places, delivered.digest_of, delivered.head_of
        self._files: dict[str, Mapping[str, Any]] = {}
        self._settled: dict[str, list[Settled]] = {}
        self._deliveries: dict[tuple[str, SeriesId], Deliveries] = {}
        self.seen: dict[tuple[str, SeriesId], list[list[int]]] = {}  # the files of these, as they were read
        for source in sources:
            assert delivered.store is not None
            self._files |= delivered.released.files(readable(Path(source.target)))
            for uid, item in delivered.store.settled(source.key).items():
                self._settled.setdefault(uid, []).append(item)

    def is_there(self, uid: str) -> bool:
        """Return whether the released object that was made of an instance is still there."""
        made = (item for item in self._settled.get(uid, ()) if item.outcome == DEIDENTIFIED)
        return any(
            (status := _status(self._places.released / item.file)) and status.st_size == item.written for item in made
        )

    def copy(self, at: Path, folder: str, uid: str, entry: Entry, status: os.stat_result | None) -> Copy | str:
        """Return the identified file of an instance if it may be removed; otherwise the reason why it stays.

        Args:
            at: folder of the series.
            folder: its path below the identified copy.
            uid: SOP Instance UID of the instance.
            entry: its entry in the ledger.
            status: status of its file; None: there is no regular file in its place.
        """
        if status is None or not entry.proven_by(at, status):
            return CHANGED
        made_of = (readable(f"{folder}/{entry.file}"), status.st_size, status.st_mtime_ns)
        item = next((i for i in self._settled.get(uid, ()) if (i.source, i.size, i.mtime_ns) == made_of), None)
        if item is None:
            return NOT_DEIDENTIFIED
        if item.outcome != DEIDENTIFIED:
            return BY_RULE if item.outcome == EXCLUDED else IN_QUARANTINE
        file = self._files.get(readable(item.file))
        if file is None or file["size"] != item.written:
            return NOT_RELEASED
        released = f"{self._places.released}/{item.file}"
        there, working = _status(released), _status(f"{self._places.deidentified}/{item.file}")
        if there is None or working is None or self._digest_of(released, there) != file["sha256"]:
            return NOT_THERE
        if self._places.destinations and not self._confirmed(released, there):
            return UNCONFIRMED
        return Copy(entry.file, status.st_size, status.st_mtime_ns, item.file, file["sha256"], there.st_ctime_ns)

    def _confirmed(self, path: str, status: os.stat_result) -> bool:
        """Return whether every destination has confirmed the object with the content of the file."""
        try:
            file = self._head_of(path, status)
        except ValueError:
            return False
        if file is None:
            return False
        return all(self._confirmed_by(destination, file) for destination in self._places.destinations)

    def _confirmed_by(self, destination: str, file: DicomFile) -> bool:
        key = destination, file.series
        if key not in self._deliveries:
            self.seen[key] = deliveries_seen(digest_of(destination), file.series)
            self._deliveries[key] = Deliveries(*key)
        known = self._deliveries[key].confirmed.get(file.sop_instance_uid)
        if known is None or not known.sha256:
            return False
        return (known.size, known.ctime_ns) == (file.size, file.ctime_ns) or known.sha256 == file.digest()


class ReleasedFiles:
    """The files that a run has released; none if its stock was taken again after the release, and differs."""

    def __init__(self, run: Run) -> None:
        path, released = run.part(LIST), released_of(run)
        same = released and path.exists() and with_originals(run, digest(path)) == released.digest
        self._run = run
        self._parts: dict[str, list[Part]] = {}
        for part in parts_of(run) if same else ():
            self._parts.setdefault(part.folder, []).append(part)

    def digests(self, folder: str) -> list[str]:
        """Return the digests of the lines of the released files of a folder."""
        return [part.digest for part in self._parts.get(folder, ())]

    def files(self, folder: str) -> dict[str, Mapping[str, Any]]:
        """Return the released files of a folder, by path."""
        parts = self._parts.get(folder)
        return {file["path"]: file for _, files in files_of(self._run, parts) for file in files} if parts else {}
