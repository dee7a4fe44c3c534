"""Follows every instance of a study: retrieval, de-identification, release, and the confirmations of nodes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from sys import intern
from types import TracebackType
from typing import Any, NamedTuple, Self

from pacsifier_ops.base.files import readable, unpacked
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.deid import outcome as deidentified
from pacsifier_ops.deid.run import DEIDENTIFIED, QUARANTINED, WITHDRAWN, Settled, SourceSeries, series_of, store_of
from pacsifier_ops.extract import outcome as extracted
from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.approvals import APPROVED, COHORT, REJECTED, RELEASE
from pacsifier_ops.runs.folder import Run, stage_folder
from pacsifier_ops.runs.index import Index
from pacsifier_ops.runs.job import NOT_ATTEMPTED
from pacsifier_ops.state.approved import lies_in
from pacsifier_ops.state.ledger import SeriesLedger, ledger_seen
from pacsifier_ops.state.standing import UNKNOWN, Standing, stamp_now, stamp_of, stamps_if_readable
from pacsifier_ops.state.tree import Tree
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.accounts import MISSING, RELEASED, SENDING, Loss, StudyAccount, StudySeries
from pacsifier_ops.study.project import NOBODY, Study
from pacsifier_ops.study.release import DEIDENTIFIED_FOLDER, IDENTIFIED_FOLDER, RELEASED_FOLDER, folder_of
from pacsifier_ops.study.removal import ReleasedFiles
from pacsifier_ops.upload import outcome as uploaded

_GONE = "received, and gone before it was de-identified"
_NOT_REACHED = "not de-identified: the de-identification did not get to it"
_NOT_APPROVED = "not released: it is no part of what was approved"
_NOT_ASKED_FOR = "came from the archive, and is not what was asked for"
_NOT_SENT = "not confirmed: it was not sent"
_NOT_THERE = "released, and not there any more as it was released"

#: Counts that accounts of series add to a reason. Without them, equal reasons can be summed up.
_COUNTED = re.compile(r"^\d+ of \d+ instances missing: | \(\d+ of them\)|; \d+ taken with a warning.*")


# The cohort: the series of a study, from the accounts of the first stage that knows them


def from_archive(run: Run, stage: str, chain: Chain) -> Iterator[StudySeries]:
    """Yield the series of a study that asks an archive.

    Args:
        stage: EXTRACT, or MOVE where the archive sends the series to another node.
    """
    for planned, retrieved in extracted.series(Run(stage_folder(run, stage))):
        if retrieved.reason == NOT_ATTEMPTED:
            retrieved.reason = chain.not_attempted
        patient = intern(planned.attributes.get("PatientID", "") or f"study {planned.study_uid}")
        series = _series(retrieved, patient, stage)
        if stage == stages.EXTRACT:
            chain.follow(series, chain.fetched(series), retrieved)
        else:
            _add_confirmed(series, retrieved, stage)
        yield series


def from_folder(run: Run, chain: Chain) -> Iterator[StudySeries]:
    """Yield the series of a study that asks no archive: the series of the folder that it de-identifies."""
    parts = deidentified.series(Run(stage_folder(run, stages.ANONYMIZE)))
    planned = Index(run, ((str(part.series), part.files) for part in parts))
    seen: set[SeriesId] = set()
    for source in chain.sources():
        if source.series in seen:  # it holds objects of several patients; its parts are counted together
            continue
        seen.add(source.series)
        number = len(seen)
        series = StudySeries(number, [], source.patient_id, source.study_uid, source.series_uid, source.modality)
        series.series_number, series.description = source.series_number, source.description
        series.folder = source.folder
        files = (file for part in planned.of(str(source.series)) for file in part)
        chain.follow(series, chain.in_folder(series, files), None)
        yield series
    if unfit := chain.unfit:
        series = StudySeries(len(seen) + 1, [], "", "", "", description="files of no known series")
        for state, reason in unfit.values():
            _lose(series, state, stages.ANONYMIZE, reason)
        series.expected = series.instances = series.received = len(unfit)
        yield series


def from_gateway(run: Run) -> Iterator[StudySeries]:
    """Yield the series of a study that neither fetches nor de-identifies: those sent to a gateway."""
    for _, sent in uploaded.series(Run(stage_folder(run, stages.KARNAK_UPLOAD))):
        series = _series(sent, sent.folder.split("/")[0], stages.KARNAK_UPLOAD)
        _add_confirmed(series, sent, stages.KARNAK_UPLOAD)
        yield series


def _series(first: SeriesAccount, patient: str, at: str) -> StudySeries:
    """Return a series as its account in the first stage describes it.

    Args:
        first: that account.
        at: the stage.
    """
    series = StudySeries(first.number, first.lines, patient, first.study_uid, first.series_uid, first.modality)
    series.series_number, series.description, series.folder = first.series_number, first.description, first.folder
    series.expected, series.received, series.new = first.expected, first.delivered, first.received
    series.instances = (first.expected or 0) + first.unverifiable + first.quarantined
    _lose(series, QUARANTINED, at, _NOT_ASKED_FOR, first.quarantined)
    _lose(series, MISSING, at, f"not received: {_plain(first.reason)}", first.missing)
    return series


def _add_confirmed(series: StudySeries, sent: SeriesAccount, stage: str) -> None:
    """Add the confirmed instances of a series that went straight to a node."""
    series.released = series.confirmed[stage] = sent.delivered
    series.unverifiable = sent.unverifiable
    series.delivered = sent.delivered - sent.unverifiable


def _lose(series: StudySeries, state: str, at: str, reason: str, count: int = 1) -> None:
    """Add instances that are not delivered."""
    if not count:
        return
    setattr(series, state, getattr(series, state) + count)
    for loss in series.lost:
        if (loss.state, loss.at, loss.reason) == (state, at, reason):
            loss.instances += count
            return
    series.lost.append(Loss(state, at, intern(reason), count))


def _find_again(series: StudySeries, at: str, count: int) -> int:
    """Take up to `count` instances off those that a stage has lost, since they are there. Return their number."""
    found = 0
    for loss in series.lost:
        if loss.state == MISSING and loss.at == at:
            some = min(loss.instances, count - found)
            loss.instances -= some
            found += some
    series.missing -= found
    series.lost = [loss for loss in series.lost if loss.instances]
    return found


# Through the chain


class _Fetched(NamedTuple):
    """An instance that was fetched.

    Attributes:
        uid: SOP Instance UID.
        source: path of its file below the identified folder.
        size, mtime_ns: bytes, and modification time in ns, of the file when it was fetched.
        there: the file is there as it was fetched, or was handed on and removed.
    """

    uid: str
    source: str
    size: int
    mtime_ns: int
    there: bool


class _Lost(NamedTuple):
    """Why an instance is not delivered: state, stage and reason, as in `accounts.Loss`."""

    state: str
    at: str
    reason: str


class Chain:
    """The records of what became of instances after they were fetched.

    Attributes:
        not_attempted: why a series was not fetched, if the retrieval did not try.
        unfit: state and reason of files that belong to no series of the de-identification, by path.
        twice: number of files of the data set that two instances claim.
    """

    def __init__(self, run: Run, study: Study, account: StudyAccount) -> None:
        self.twice, self.not_attempted = 0, _not_attempted(account)
        self._deidentifies, self._withheld = account.deidentifies, "" if account.released else _withheld(account, study)
        self._identified, made, released = (
            folder_of(study, name) for name in (IDENTIFIED_FOLDER, DEIDENTIFIED_FOLDER, RELEASED_FOLDER)
        )
        self._released = lies_in(released)
        self._fetched, self._files = Tree.existing(self._identified), ReleasedFiles(run)
        self._sent = {
            stage: _Confirmed(run, (_moved if stage == stages.MOVE else _sent)(Run(stage_folder(run, stage))))
            for stage in SENDING
            if study.has(stage)
        }
        self._begun = account.stage(stages.RELEASE_TO).verdict not in (stages.OFF, stages.NOT_RUN)
        self._store = store_of(made) if account.deidentifies else None
        self._parts: dict[SeriesId, list[_Part]] = {}
        for source in self.sources():
            part = _Part(source.number, source.key, source.target, intern(source.pseudonym))
            self._parts.setdefault(source.series, []).append(part)
        self._standing = Standing(made, "followed")
        self._stamps = {root: stamps_if_readable(root) for root in (self._identified, self._released)}
        self._reasons = deidentified.reasons(Run(stage_folder(run, stages.ANONYMIZE)))
        self.unfit = deidentified.unfit(self._store, MISSING) if self._store else {}
        self._with_unfit = {path.rpartition("/")[0] for path in self.unfit}

    def __enter__(self) -> Self:
        self._standing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._standing.__exit__(kind, error, trace)

    def sources(self) -> Iterator[SourceSeries]:
        """Yield the series of the de-identification."""
        return series_of(self._store) if self._store else iter(())

    def fetched(self, series: StudySeries) -> Iterator[_Fetched]:
        """Yield the instances of a series that were fetched, in any run."""
        if self._fetched is None:
            return
        folder = self._identified / series.folder
        for uid, entry in SeriesLedger(self._fetched.state, series.series).entries.items():
            there = entry.is_removed(folder) or entry.proven_by(folder)
            yield _Fetched(uid, readable(f"{series.folder}/{entry.file}"), entry.size, entry.mtime_ns, there)

    def in_folder(self, series: StudySeries, files: Iterable[list[Any]]) -> Iterator[_Fetched]:
        """Yield the instances of a series in a folder without a ledger, those that were there in earlier runs included.

        Args:
            files: path, size, modification time and SOP Instance UID of each file of this run.
        """
        seen = set()
        for name, size, mtime_ns, uid in files:
            seen.add(uid)
            yield _Fetched(uid, readable(Path(unpacked(name))), size, mtime_ns, True)
        for uid, items in self._settled(series).items():
            if uid not in seen and (item := items[-1]).outcome == DEIDENTIFIED:
                yield _Fetched(uid, item.source, item.size, item.mtime_ns, False)

    def follow(self, series: StudySeries, fetched: Iterable[_Fetched], retrieved: SeriesAccount | None) -> None:
        """Complete the account of a series: as before if all that it depends on is as before, see `_follow`."""
        before, twice = self._stamp(series, retrieved), self.twice
        if kept := self._standing.get(str(series.series), before):
            more, counts, lost = kept
            self.twice += more
            for name, value in counts.items():
                setattr(series, name, value)
            series.lost = [Loss(state, at, intern(reason), count) for state, at, reason, count in lost]
            return
        given = asdict(series)
        self._follow(series, fetched, retrieved)
        if before != UNKNOWN and self._stamp(StudySeries(**given), retrieved, now=True) == before:
            found = asdict(series)
            lost = [list(one.values()) for one in found.pop("lost")]
            changed = {name: value for name, value in found.items() if value != given[name]}
            self._standing.put(str(series.series), before, [self.twice - twice, changed, lost])

    def _stamp(self, series: StudySeries, retrieved: SeriesAccount | None, now: bool = False) -> str:
        """Return the stamp of all that the account of a series depends on.

        Args:
            series: the account as the first stage left it.
            now: look at the folders now.
        """
        if retrieved is None or self._fetched is None or self._store is None or series.folder in self._with_unfit:
            return UNKNOWN
        parts = self._parts.get(series.series, [])
        targets = [part.target for part in parts]
        walked = {} if now else self._stamps
        places = [(self._identified, series.folder), *((self._released, target) for target in targets)]
        keys = {stages.MOVE: [str(series.series)], stages.KARNAK_UPLOAD: [series.folder]}
        given = asdict(series)
        del given["number"], given["lines"]
        return stamp_of(
            *(walked.get(root, {}).get(folder) or stamp_now(root / folder, root) for root, folder in places),
            given,
            [retrieved.delivered, retrieved.unverifiable],
            ledger_seen(self._fetched.state, series.series),
            [[*part, self._store.seen(part.key), self._reasons.get(part.number)] for part in parts],
            [self._files.digests(target) for target in targets],
            [self._withheld, self._begun],
            [[stage, key, sent.of(key)] for stage, sent in self._sent.items() for key in keys.get(stage, targets)],
        )

    def _follow(self, series: StudySeries, fetched: Iterable[_Fetched], retrieved: SeriesAccount | None) -> None:
        """Complete the account of a series: add the fate of each of its instances.

        Args:
            series: its account, as the first stage left it.
            fetched: its instances.
            retrieved: its account in the retrieval; None if nothing is retrieved: then the instances that are there are
                the expected ones.
        """
        settled = self._settled(series)
        parts = self._parts.get(series.series, [])
        files = {path: file for part in parts for path, file in self._files.files(part.target).items()}
        if not self._deidentifies:
            files = dict(self._files.files(series.folder))
        made: set[str] = set()
        count = good = 0
        for instance in fetched:
            item = self._item(settled.get(instance.uid, ()), instance)
            if item is None and not instance.there:
                continue  # its file is lost; the retrieval has counted it as missing, or fetched it again
            count += 1
            lost = self._not_deidentified(series, instance, item) if self._deidentifies else None
            if item is not None and lost is None:
                self.twice += item.file in made
                made.add(item.file)
            series.deidentified += self._deidentifies and lost is None
            where = item.file if item else instance.source
            lost = lost or self._not_in_store(series, item) or self._not_released(where, files)
            series.released += lost is None
            lost = lost or self._not_confirmed(series, instance, item)
            good += lost is None
            if lost:
                _lose(series, *lost)
        self._add_new_names(series, parts, settled)
        if retrieved is None:
            series.expected = series.received = series.instances = count
            series.delivered = good
            return
        unexpected = retrieved.unverifiable
        if count < retrieved.delivered:
            _lose(series, MISSING, stages.EXTRACT, _GONE, retrieved.delivered - count)
        elif more := count - retrieved.delivered:
            more -= _find_again(series, stages.EXTRACT, more)
            unexpected, series.instances = unexpected + more, series.instances + more
            series.received = count
        series.unverifiable = min(unexpected, good)
        series.delivered = good - series.unverifiable

    def _settled(self, series: StudySeries) -> dict[str, list[Settled]]:
        """Return the results of the de-identification for a series, by SOP Instance UID.

        An instance has several if the series has parts, of several patients.
        """
        found: dict[str, list[Settled]] = {}
        for part in self._parts.get(series.series, ()) if self._store else ():
            for uid, item in self._store.settled(part.key).items():  # type: ignore[union-attr]
                if item.reason != WITHDRAWN:
                    found.setdefault(uid, []).append(item)
        return found

    def _item(self, items: Iterable[Settled], instance: _Fetched) -> Settled | None:
        """Return the result for exactly the file that was fetched; None where there is none."""
        for item in items:
            if item.source != instance.source or item.size != instance.size:
                continue
            if item.mtime_ns == instance.mtime_ns:
                return item
            with suppress(OSError):  # its modification time was changed, but not its content
                if (self._identified / instance.source).stat().st_mtime_ns == item.mtime_ns:
                    return item
        return None

    def _not_deidentified(self, series: StudySeries, instance: _Fetched, item: Settled | None) -> _Lost | None:
        if item is None:
            state, reason = self.unfit.get(instance.source, (MISSING, ""))
            parts = self._parts.get(series.series, ())
            why = next((self._reasons[part.number] for part in parts if part.number in self._reasons), "")
            return _Lost(state, stages.ANONYMIZE, reason or (f"not de-identified: {why}" if why else _NOT_REACHED))
        return None if item.outcome == DEIDENTIFIED else _Lost(item.outcome, stages.ANONYMIZE, item.reason)

    def _not_in_store(self, series: StudySeries, item: Settled | None) -> _Lost | None:
        """Add the confirmation of the store that the data set is released to, or return why there is none."""
        sent = self._sent.get(stages.RELEASE_TO)
        if sent is None or item is None or not self._begun:
            return None
        if reason := sent.why_not(item.file.rpartition("/")[0], item.new_uid):
            return _Lost(MISSING, stages.RELEASE_TO, reason)
        series.confirmed[stages.RELEASE_TO] = series.confirmed.get(stages.RELEASE_TO, 0) + 1
        return None

    def _not_released(self, path: str, files: Mapping[str, Mapping[str, Any]]) -> _Lost | None:
        if self._withheld:
            return _Lost(MISSING, RELEASED, self._withheld)
        if (file := files.get(readable(path))) is None:
            return _Lost(MISSING, RELEASED, _NOT_APPROVED)
        if self._deidentifies:
            try:
                there = os.stat(f"{self._released}/{path}").st_size == file["size"]
            except OSError:
                there = False
            if not there:
                return _Lost(MISSING, RELEASED, _NOT_THERE)
        return None

    def _not_confirmed(self, series: StudySeries, instance: _Fetched, item: Settled | None) -> _Lost | None:
        """Add the confirmations of an instance to its series. Return the first stage that has none, with its reason."""
        first: _Lost | None = None
        for stage, sent in self._sent.items():
            if stage == stages.RELEASE_TO:
                continue  # it is part of the release
            if stage == stages.MOVE:
                reason = sent.why_not(str(series.series), instance.uid)
            elif stage == stages.UPLOAD and item is not None:
                reason = sent.why_not(item.file.rpartition("/")[0], item.new_uid)
            else:
                reason = sent.why_not(series.folder, instance.uid)
            if reason:
                first = first or _Lost(MISSING, stage, reason)
            else:
                series.confirmed[stage] = series.confirmed.get(stage, 0) + 1
        return first

    def _add_new_names(self, series: StudySeries, parts: Iterable[_Part], settled: Mapping[str, list[Settled]]) -> None:
        """Add folders, UIDs and pseudonyms of a series in the data set, if any of its instances is there."""
        series.sources = [part.number for part in parts]
        if not series.deidentified:
            return
        made = {i.file.rpartition("/")[0] for items in settled.values() for i in items if i.outcome == DEIDENTIFIED}
        series.became = sorted(made)
        series.pseudonyms = sorted({part.pseudonym for part in parts if part.target in made})
        new = (i.uids.get(series.series_uid, "") for items in settled.values() for i in items)
        series.new_uids = sorted(set(new) - {""})


class _Part(NamedTuple):
    """A series of the de-identification: the objects of one patient in a series of the archive."""

    number: int
    key: str
    target: str
    pseudonym: str


def _not_attempted(account: StudyAccount) -> str:
    """Return why series were not fetched, if the retrieval did not try."""
    decided = [decision for decision in account.decisions if decision.subject == COHORT]
    if COHORT in account.asked:
        return "the cohort is above the limits, and nobody has answered"
    if decided and decided[-1].word == REJECTED:
        return "the cohort is above the limits, and was rejected"
    return "the retrieval did not get to it"


def _withheld(account: StudyAccount, study: Study) -> str:
    """Return why nothing was released."""
    decided = [decision for decision in account.decisions if decision.subject == RELEASE]
    if study.release == NOBODY:
        why = "nobody releases in this run"
    elif account.gate.get("counts", {}).get("blocking"):
        why = "identifiers of the cohort were found in the data set"
    elif RELEASE in account.asked:
        why = "nobody has answered"
    elif decided:
        why = "it was rejected"
        if decided[-1].word == APPROVED and study.release_to:
            why = "the store has not confirmed the whole data set, or something had changed since it was approved"
        elif decided[-1].word == APPROVED:
            why = "the release did not end, or something had changed since it was approved"
    else:
        why = "the run ended before anybody was asked"
    return f"not released: {why}"


class _Confirmed:
    """The confirmations of a node for what a stage sent to it.

    Args:
        series: for each series, its key (folder or identity); why instances are not confirmed; its SOP Instance UIDs,
            None if it stands for any; the UIDs that are not confirmed, None if they are unknown, so that none counts as
            confirmed.
    """

    def __init__(self, run: Run, series: Iterable[tuple[str, str, list[str] | None, frozenset[str] | None]]) -> None:
        self._index = Index(
            run, ((key, [why, uids, None if lost is None else list(lost)]) for key, why, uids, lost in series)
        )
        self._key: str | None = None
        self._series: list[tuple[str, set[str] | None, set[str] | None]] = []

    def of(self, key: str) -> list[Any]:
        """Return all that is known of the series with a key."""
        return list(self._index.of(key))

    def why_not(self, key: str, uid: str) -> str:
        """Return why an instance does not count as confirmed; empty if it does.

        Args:
            key: key of its series.
            uid: its SOP Instance UID.
        """
        if key != self._key:
            self._key, self._series = key, [(why, _set(uids), _set(lost)) for why, uids, lost in self._index.of(key)]
        for why, uids, lost in self._series:
            if uids is None or uid in uids:
                return why if lost is None or uid in lost else ""
        return _NOT_SENT


def _set(values: list[str] | None) -> set[str] | None:
    return None if values is None else set(values)


def _sent(run: Run) -> Iterator[tuple[str, str, list[str] | None, frozenset[str] | None]]:
    """Yield the series of a folder that was sent; the key is the folder of their files. See `_Confirmed`."""
    for account, uids, lost in uploaded.instances(run):
        yield account.folder, _why(account), uids, lost


def _moved(run: Run) -> Iterator[tuple[str, str, list[str] | None, frozenset[str] | None]]:
    """Yield the series that the archive was to send to another node; the key is their identity. See `_Confirmed`."""
    for planned, account in extracted.series(run):
        yield str(planned.series), _why(account), None, extracted.unconfirmed(account)


def _why(account: SeriesAccount) -> str:
    return _NOT_SENT if account.reason == NOT_ATTEMPTED else f"not confirmed: {_plain(account.reason)}"


def _plain(reason: str) -> str:
    """Return the reason of an account without its counts."""
    return _COUNTED.sub("", reason)
