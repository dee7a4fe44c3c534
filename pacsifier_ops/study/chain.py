"""Every instance of a study followed through the chain: from what was fetched to what nodes have confirmed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from pacsifier_ops.base.files import read_jsonl, readable, unpacked
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.deid.run import DEIDENTIFIED, QUARANTINED, WITHDRAWN, Settled, SourceSeries, Store, series_of
from pacsifier_ops.extract.run import Planned
from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.approvals import APPROVED, COHORT, REJECTED, RELEASE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.worker import NOT_ATTEMPTED, accounts_of
from pacsifier_ops.state.ledger import SeriesLedger
from pacsifier_ops.state.tree import Tree, marker_of
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.accounts import MISSING, RELEASED, SENDING, Loss, StudyAccount, StudySeries
from pacsifier_ops.study.project import NOBODY, Study
from pacsifier_ops.study.release import DEIDENTIFIED_FOLDER, IDENTIFIED_FOLDER, RELEASED_FOLDER, folder_of
from pacsifier_ops.study.removal import Manifest
from pacsifier_ops.study.run import stage_folder
from pacsifier_ops.upload.run import SOP_INSTANCE, Outgoing

_GONE = "received, and gone before it was de-identified"
_NOT_REACHED = "not de-identified: the de-identification did not get to it"
_NOT_APPROVED_OF = "not released: it is no part of what was approved"
_NOT_ASKED_FOR = "came from the archive, and is not what was asked for"
_NOT_SENT = "not confirmed: it was not sent"
_NOT_THERE = "released, and not there any more as it was released"

#: What accounts of series say beside a reason: it counts, and reasons are to be summed up.
_COUNTED = re.compile(r"^\d+ of \d+ instances missing: | \(\d+ of them\)|; \d+ taken with a warning.*")


# The cohort: the series of a study, as the first stage tells that knows them


def from_archive(run: Run, stage: str, chain: Chain) -> Iterator[StudySeries]:
    """The series of a study that asks an archive."""
    patients: dict[int, str] = {}

    def planned(**item: Any) -> Planned:
        series = Planned(**item)
        patients[series.number] = intern(series.attributes.get("PatientID", "") or f"study {series.study_uid}")
        return series

    for told in accounts_of(Run(stage_folder(run, stage)), planned):
        if told.reason == NOT_ATTEMPTED:
            told.reason = chain.not_attempted
        series = _series(told, patients[told.number], stage)
        if stage == stages.EXTRACT:
            chain.follow(series, chain.fetched(series), told)
        else:
            _handed_over(series, told, stage)
        yield series


def from_folder(run: Run, chain: Chain) -> Iterator[StudySeries]:
    """The series of a study that asks no archive: those of the folder that it de-identifies."""
    planned: dict[SeriesId, list[tuple[Path, int]]] = {}
    for part in Run(stage_folder(run, stages.ANONYMIZE)).parts("units"):
        for place, item in _lines(part):
            planned.setdefault(SeriesId(item["study_uid"], item["series_uid"]), []).append((part, place))
    seen: set[SeriesId] = set()
    for source in chain.sources():
        if source.series in seen:  # that of another patient as well; its parts are counted together
            continue
        seen.add(source.series)
        number = len(seen)
        series = StudySeries(number, [], source.patient_id, source.study_uid, source.series_uid, source.modality)
        series.series_number, series.description = source.series_number, source.description
        series.folder = source.folder
        files = (file for where in planned.get(source.series, ()) for file in _line(*where)["files"])
        chain.follow(series, chain.lying(series, files), None)
        yield series
    if unfit := chain.unfit:
        series = StudySeries(len(seen) + 1, [], "", "", "", description="files of no known series")
        for state, reason in unfit.values():
            _lose(series, state, stages.ANONYMIZE, reason)
        series.expected = series.instances = series.received = len(unfit)
        yield series


def from_gateway(run: Run) -> Iterator[StudySeries]:
    """The series of a study that neither fetches nor de-identifies: those of the folder that a gateway gets."""
    for told in accounts_of(Run(stage_folder(run, stages.KARNAK_UPLOAD)), Outgoing):
        series = _series(told, told.folder.split("/")[0], stages.KARNAK_UPLOAD)
        _handed_over(series, told, stages.KARNAK_UPLOAD)
        yield series


def _series(told: SeriesAccount, patient: str, at: str) -> StudySeries:
    """A series as it came out of the first stage."""
    series = StudySeries(told.number, told.lines, patient, told.study_uid, told.series_uid, told.modality)
    series.series_number, series.description, series.folder = told.series_number, told.description, told.folder
    series.expected, series.received, series.new = told.expected, told.delivered, told.received
    series.instances = (told.expected or 0) + told.unverifiable + told.quarantined
    _lose(series, QUARANTINED, at, _NOT_ASKED_FOR, told.quarantined)
    _lose(series, MISSING, at, f"not received: {_plain(told.reason)}", told.missing)
    return series


def _handed_over(series: StudySeries, told: SeriesAccount, stage: str) -> None:
    """Enter what a node has confirmed of a series that goes there straight."""
    series.released = series.confirmed[stage] = told.delivered
    series.unverifiable = told.unverifiable
    series.delivered = told.delivered - told.unverifiable


def _lose(series: StudySeries, state: str, at: str, reason: str, count: int = 1) -> None:
    """Enter instances that are not delivered."""
    if not count:
        return
    setattr(series, state, getattr(series, state) + count)
    for loss in series.lost:
        if (loss.state, loss.at, loss.reason) == (state, at, reason):
            loss.instances += count
            return
    series.lost.append(Loss(state, at, intern(reason), count))


def _turned_up(series: StudySeries, at: str, count: int) -> int:
    """Take instances out of what counts as missing since a stage; returns how many there were."""
    taken = 0
    for loss in series.lost:
        if loss.state == MISSING and loss.at == at:
            some = min(loss.instances, count - taken)
            loss.instances -= some
            taken += some
    series.missing -= taken
    series.lost = [loss for loss in series.lost if loss.instances]
    return taken


# Through the chain


class _Held(NamedTuple):
    """An instance that was fetched.

    Attributes:
        uid: SOP Instance UID.
        source: path of its file below the identified folder.
        size, mtime_ns: of the file as it was fetched.
        there: whether it was handed on, or lies there as it was fetched.
    """

    uid: str
    source: str
    size: int
    mtime_ns: int
    there: bool


class _Lost(NamedTuple):
    """What became of an instance that is not delivered."""

    state: str
    at: str
    reason: str


class Chain:
    """What became of instances after they were fetched.

    Attributes:
        not_attempted: why nobody tried to fetch a series.
        unfit: state and reason of files that are of no series of the de-identification, by path.
        twice: files of the data set that two instances would have become.
    """

    def __init__(self, run: Run, study: Study, account: StudyAccount) -> None:
        self.twice, self.not_attempted = 0, _not_attempted(account)
        self._deidentifies, self._withheld = account.deidentifies, "" if account.released else _withheld(account, study)
        self._identified, deidentified, self._released = (
            folder_of(study, name) for name in (IDENTIFIED_FOLDER, DEIDENTIFIED_FOLDER, RELEASED_FOLDER)
        )
        self._fetched, self._manifest = Tree.existing(self._identified), Manifest(run)
        self._sent: dict[str, _Sent | _Moved] = {
            stage: (_Moved if stage == stages.MOVE else _Sent)(Run(stage_folder(run, stage)))
            for stage in SENDING
            if study.has(stage)
        }
        tree, marker = Tree.existing(deidentified), marker_of(deidentified)
        self._store = Store(tree, marker["id"]) if account.deidentifies and tree and "id" in marker else None
        self._parts: dict[SeriesId, list[_Part]] = {}
        for source in self.sources():
            part = _Part(source.number, source.key, source.target, intern(source.pseudonym))
            self._parts.setdefault(source.series, []).append(part)
        deid = Run(stage_folder(run, stages.ANONYMIZE))
        ended = (item for part in deid.parts("results") for item in read_jsonl(part))
        self._reasons = {item["number"]: intern(item["reason"]) for item in ended if item["reason"]}
        self.unfit: dict[str, tuple[str, str]] = {}
        if self._store and self._store.unreadable.exists():
            for item in read_jsonl(self._store.unreadable):
                state = MISSING if item["missing"] else QUARANTINED
                self.unfit[item["path"]] = state, intern(item["reason"])

    def sources(self) -> Iterator[SourceSeries]:
        """The series of the de-identification."""
        return series_of(self._store) if self._store else iter(())

    def fetched(self, series: StudySeries) -> Iterator[_Held]:
        """The instances of a series that were fetched, in any run."""
        if self._fetched is None:
            return
        folder = self._identified / series.folder
        for uid, entry in SeriesLedger(self._fetched.state, series.series).entries.items():
            there = entry.gone_on(folder) or entry.proven_by(folder)
            yield _Held(uid, readable(Path(series.folder, entry.file)), entry.size, entry.mtime_ns, there)

    def lying(self, series: StudySeries, files: Iterable[list[Any]]) -> Iterator[_Held]:
        """The instances of a series that lie in a folder of which nobody keeps a ledger, or lay there before."""
        seen = set()
        for name, size, mtime_ns, uid in files:
            seen.add(uid)
            yield _Held(uid, readable(Path(unpacked(name))), size, mtime_ns, True)
        for uid, items in self._settled(series).items():
            if uid not in seen and (item := items[-1]).outcome == DEIDENTIFIED:
                yield _Held(uid, item.source, item.size, item.mtime_ns, False)

    def follow(self, series: StudySeries, held: Iterable[_Held], told: SeriesAccount | None) -> None:
        """Enter what became of the instances of a series.

        Args:
            told: how it came out of the retrieval; None where nothing is retrieved, and what is there is expected.
        """
        settled = self._settled(series)
        parts = self._parts.get(series.series, [])
        files = {path: file for part in parts for path, file in self._manifest.files(part.target).items()}
        if not self._deidentifies:
            files = dict(self._manifest.files(series.folder))
        made: set[str] = set()
        count = good = 0
        for instance in held:
            item = self._item(settled.get(instance.uid, ()), instance)
            if item is None and not instance.there:
                continue  # it was lost, and counts as missing or as fetched again
            count += 1
            lost = self._not_deidentified(series, instance, item) if self._deidentifies else None
            if item is not None and lost is None:
                self.twice += item.file in made
                made.add(item.file)
            series.deidentified += self._deidentifies and lost is None
            lost = lost or self._not_released(item.file if item else instance.source, files)
            series.released += lost is None
            lost = lost or self._not_confirmed(series, instance, item)
            good += lost is None
            if lost:
                _lose(series, *lost)
        self._name(series, parts, settled)
        if told is None:
            series.expected = series.received = series.instances = count
            series.delivered = good
            return
        uncovered = told.unverifiable
        if count < told.delivered:
            _lose(series, MISSING, stages.EXTRACT, _GONE, told.delivered - count)
        elif more := count - told.delivered:
            more -= _turned_up(series, stages.EXTRACT, more)
            uncovered, series.instances = uncovered + more, series.instances + more
            series.received = count
        series.unverifiable = min(uncovered, good)
        series.delivered = good - series.unverifiable

    def _settled(self, series: StudySeries) -> dict[str, list[Settled]]:
        """What became of the objects of a series, by SOP Instance UID: it may be in parts, of several patients."""
        found: dict[str, list[Settled]] = {}
        for part in self._parts.get(series.series, ()) if self._store else ():
            for uid, item in self._store.settled(part.key).items():  # type: ignore[union-attr]
                if item.reason != WITHDRAWN:
                    found.setdefault(uid, []).append(item)
        return found

    def _item(self, items: Iterable[Settled], instance: _Held) -> Settled | None:
        """What became of exactly the file that was fetched."""
        for item in items:
            if item.source != instance.source or item.size != instance.size:
                continue
            if item.mtime_ns == instance.mtime_ns:
                return item
            with suppress(OSError):  # somebody has touched it
                if (self._identified / instance.source).stat().st_mtime_ns == item.mtime_ns:
                    return item
        return None

    def _not_deidentified(self, series: StudySeries, instance: _Held, item: Settled | None) -> _Lost | None:
        if item is None:
            state, reason = self.unfit.get(instance.source, (MISSING, ""))
            parts = self._parts.get(series.series, ())
            why = next((self._reasons[part.number] for part in parts if part.number in self._reasons), "")
            told = f"not de-identified: {why}" if why else _NOT_REACHED
            return _Lost(state, stages.ANONYMIZE, reason or told)
        return None if item.outcome == DEIDENTIFIED else _Lost(item.outcome, stages.ANONYMIZE, item.reason)

    def _not_released(self, path: str, files: Mapping[str, Mapping[str, Any]]) -> _Lost | None:
        if self._withheld:
            return _Lost(MISSING, RELEASED, self._withheld)
        if (file := files.get(readable(Path(path)))) is None:
            return _Lost(MISSING, RELEASED, _NOT_APPROVED_OF)
        if self._deidentifies:
            try:
                there = (self._released / path).stat().st_size == file["size"]
            except OSError:
                there = False
            if not there:
                return _Lost(MISSING, RELEASED, _NOT_THERE)
        return None

    def _not_confirmed(self, series: StudySeries, instance: _Held, item: Settled | None) -> _Lost | None:
        """Why an instance does not count as delivered; each node's confirmations are counted."""
        first: _Lost | None = None
        for stage, sent in self._sent.items():
            if stage == stages.MOVE:
                reason = sent.wanting(str(series.series), instance.uid)
            elif stage == stages.UPLOAD and item is not None:
                reason = sent.wanting(item.file.rpartition("/")[0], item.new_uid)
            else:
                reason = sent.wanting(series.folder, instance.uid)
            if reason:
                first = first or _Lost(MISSING, stage, reason)
            else:
                series.confirmed[stage] = series.confirmed.get(stage, 0) + 1
        return first

    def _name(self, series: StudySeries, parts: Iterable[_Part], settled: Mapping[str, list[Settled]]) -> None:
        """Enter what a series is called in the data set, if anything of it is there."""
        series.sources = [part.number for part in parts]
        if not series.deidentified:
            return
        made = {i.file.rpartition("/")[0] for items in settled.values() for i in items if i.outcome == DEIDENTIFIED}
        series.became = sorted(made)
        series.pseudonyms = sorted({part.pseudonym for part in parts if part.target in made})
        new = (i.uids.get(series.series_uid, "") for items in settled.values() for i in items)
        series.new_uids = sorted(set(new) - {""})


class _Part(NamedTuple):
    """A series of the de-identification: of the archive's one, that which is one patient's."""

    number: int
    key: str
    target: str
    pseudonym: str


def _not_attempted(account: StudyAccount) -> str:
    """Why nobody tried to fetch a series."""
    decided = [decision for decision in account.decisions if decision.subject == COHORT]
    if COHORT in account.asked:
        return "the cohort is above the limits, and nobody has answered"
    if decided and decided[-1].word == REJECTED:
        return "the cohort is above the limits, and was rejected"
    return "the retrieval did not get to it"


def _withheld(account: StudyAccount, study: Study) -> str:
    """Why nothing was released."""
    decided = [decision for decision in account.decisions if decision.subject == RELEASE]
    if study.release == NOBODY:
        why = "nobody releases in this run"
    elif account.gate.get("counts", {}).get("blocking"):
        why = "identifiers of the cohort were found in the data set"
    elif RELEASE in account.asked:
        why = "nobody has answered"
    elif decided:
        good = decided[-1].word == APPROVED
        why = "the release did not end, or something had changed since it was approved" if good else "it was rejected"
    else:
        why = "the run ended before anybody was asked"
    return f"not released: {why}"


class _Sent:
    """What a node has confirmed of a folder that a stage has sent."""

    def __init__(self, run: Run) -> None:
        self._places: dict[str, list[tuple[Path, int]]] = {}
        self._results: dict[int, tuple[Path, int]] = {}
        for part in run.parts("units"):
            for place, item in _lines(part):
                self._places.setdefault(item["folder"], []).append((part, place))
        for part in run.parts("results"):
            for place, item in _lines(part):
                self._results[item["number"]] = part, place
        self._folder: str | None = None
        self._wanting: dict[str, str] = {}

    def wanting(self, folder: str, uid: str) -> str:
        """Why an instance does not count as confirmed; empty where it does.

        Args:
            folder: of the file, below the folder that was sent.
        """
        if folder != self._folder:
            self._folder, self._wanting = folder, self._read(folder)
        return self._wanting.get(uid, _NOT_SENT)

    def _read(self, folder: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for where in self._places.get(folder, ()):
            unit = _line(*where)
            result = _line(*self._results[unit["number"]]) if unit["number"] in self._results else None
            lost = set(result["missing_uids"]) if result else set()
            why = f"not confirmed: {_plain(result['reason'])}" if result else _NOT_SENT
            for file in unit["files"]:
                uid = file[SOP_INSTANCE]
                found[uid] = why if result is None or uid in lost else ""
        return found


class _Moved:
    """What another node has confirmed of series that the archive was to send there."""

    def __init__(self, run: Run) -> None:
        self._results: dict[str, tuple[Path, int]] = {}
        for part in run.parts("results"):
            for place, item in _lines(part):
                self._results[str(SeriesId(item["study_uid"], item["series_uid"]))] = part, place
        self._series = ""
        self._lost: tuple[str, frozenset[str] | None] = "", None

    def wanting(self, series: str, uid: str) -> str:
        """Why an instance does not count as confirmed; empty where it does."""
        if series != self._series:
            self._series, self._lost = series, self._read(series)
        why, lost = self._lost
        return why if lost is None or uid in lost else ""

    def _read(self, series: str) -> tuple[str, frozenset[str] | None]:
        """Why instances are missing, and which; None: nobody can say which, so none counts."""
        if series not in self._results:
            return _NOT_SENT, None
        told = SeriesAccount(**_line(*self._results[series]))
        why = f"not confirmed: {_plain(told.reason)}"
        certain = told.expected is not None and told.missing == len(told.missing_uids)
        return why, frozenset(told.missing_uids) if certain else None


def _plain(reason: str) -> str:
    """A reason that an account gives, without its counts."""
    return _COUNTED.sub("", reason)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON lines, each with the place where it begins."""
    place = 0
    with path.open("rb") as stream:
        for line in stream:
            yield place, json.loads(line)
            place += len(line)


def _line(path: Path, place: int) -> Any:
    """The value that begins at a place of a file of JSON lines."""
    with path.open("rb") as stream:
        stream.seek(place)
        return json.loads(stream.readline())
