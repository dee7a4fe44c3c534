"""Closes the account of a de-identification: each object has exactly one state. Writes manifest and linkage.

| file                       | where                                   | content                                    |
|----------------------------|-----------------------------------------|--------------------------------------------|
| manifest.jsonl             | the run's folder                        | what became of each object, no identifiers |
| manifest.csv, .parquet     | the data set                            | the public part of it, see `told`          |
| series, instances          | the data set                            | what its files say, see `inventory`        |
| dataset.json               | the data set                            | its card, see `card`                       |
| accounts.json, report.html | the run's folder                        | the account, with names of source files    |
| mapper.json                | `data_sets/<id>` of the project's folder | PatientID by pseudonym                     |
| date_offsets.csv           | likewise, where dates are moved         | days by pseudonym                          |
| uid_map.csv                | likewise                                | every UID, and the one that replaced it    |
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from pacsifier_ops import __version__
from pacsifier_ops.base import settings
from pacsifier_ops.base.files import (
    atomic_stream,
    data_file,
    private_folder,
    read_json,
    read_jsonl,
    storage_errors,
    write_atomic,
    write_json,
)
from pacsifier_ops.base.tables import TEXT, parquet_of, write_table
from pacsifier_ops.deid import card, inventory, leftout, technique
from pacsifier_ops.deid.identity import split_key
from pacsifier_ops.deid.rules import ProfileOption, Rules
from pacsifier_ops.deid.run import (
    DEIDENTIFIED,
    EXCLUDED,
    QUARANTINED,
    WITHDRAWN,
    Counts,
    DeidRequest,
    Settled,
    SourceSeries,
    Store,
    series_of,
)
from pacsifier_ops.deid.told import public_reason
from pacsifier_ops.pseudonyms.secret import project_folder
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, UNBALANCED, incomplete, plain_modality
from pacsifier_ops.runs.approvals import Decision, ended_by
from pacsifier_ops.runs.figures import Figures
from pacsifier_ops.runs.folder import Run, now
from pacsifier_ops.runs.job import NOT_ATTEMPTED, prepared
from pacsifier_ops.state.facts import facts_folder, identity_of
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import Tree

#: The manifest of a data set, for people and for programs (see `base.tables`).
MANIFEST = "manifest.csv"
MANIFESTS = (MANIFEST, str(parquet_of(Path(MANIFEST))))
#: All files of a data set beside its objects.
BOOKS = (*MANIFESTS, *inventory.TABLES, card.CARD)
_KEYS = ("Folder", "SOPInstanceUID", "Outcome", "Reason", "Rules", "Profile")
_COLUMNS = dict.fromkeys(("Folder", "SOPInstanceUID", "Outcome", "Rule", "Reason", "Rules", "Profile"), TEXT)


@dataclass
class DeidSeries:
    """The account of a series. Counts are numbers of objects.

    Attributes:
        number: ordinal in the output tree, from 1; not identifying.
        folder: path below the output folder.
        source: path below the input folder; identifying.
        reason: why objects are missing, without values.
    """

    number: int
    modality: str
    folder: str
    source: str
    deidentified: int = 0
    excluded: int = 0
    quarantined: int = 0
    missing: int = 0
    reason: str = ""

    @property
    def state(self) -> str:
        """`incomplete` where objects are missing, else `complete`."""
        return INCOMPLETE if self.missing else COMPLETE


@dataclass
class DeidAccount:
    """The account of a run, and of earlier runs into the same folder.

    Attributes:
        run: opaque id of the run.
        in_folder, out_folder: the folders; equal for a conversion in place.
        profile, digest, method: profile of the run, digest of its rules, and its method as text.
        dates: treatment of dates, in words.
        linkage: folder of the linkage files.
        apart: folder of the files that left the input folder; in place only.
        patients: number of patients.
        told_by: number of patients by what identifies them (`identity.IDENTITIES`).
        sources: number of pseudonyms by source.
        strangers: number of keys of each file that match no patient of the folder.
        nameless: number of objects of this run without PatientID whose patient the folder or the study identifies.
        series: accounts of the series.
        rules: number of elements by rule id.
        set_apart: path below the input folder, outcome and reason of objects outside the data set; identifying.
        unreadable: number of files of no known series by outcome, quarantined or missing; `set_apart` has them too.
        passed_over: number of files that are no objects, by reason.
        discrepancies: contradictions between account and disk in words, without values.
        ended: the decision of a person that ended the run.
    """

    run: str
    started: str
    finished: str
    in_folder: str
    out_folder: str
    profile: str
    digest: str
    method: str
    dates: str = ""
    linkage: str = ""
    apart: str = ""
    patients: int = 0
    told_by: dict[str, int] = field(default_factory=dict)
    nameless: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    strangers: dict[str, int] = field(default_factory=dict)
    series: list[DeidSeries] = field(default_factory=list)
    rules: dict[str, int] = field(default_factory=dict)
    set_apart: list[tuple[str, str, str]] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    discrepancies: list[str] = field(default_factory=list)
    ended: Decision | None = None

    @property
    def missing(self) -> int:
        """Number of objects that are in no other state."""
        return sum(series.missing for series in self.series) + self.unreadable.get("missing", 0)

    @property
    def verdict(self) -> str:
        """`complete` where each object is de-identified, excluded by a rule, or quarantined with a reason; else
        `incomplete`; `unbalanced` where the disk contradicts the account.

        Where a person ended the run, it is `cancelled` or `rejected` instead of incomplete.

        A run that quarantines objects and de-identifies none is incomplete: the cause is probably not in the objects.
        """
        if self.discrepancies:
            return UNBALANCED
        totals = self.totals()
        lacking = self.missing or totals["quarantined"] > totals["deidentified"] == 0
        return incomplete(self.ended) if lacking else COMPLETE

    def totals(self) -> dict[str, int]:
        """Return sums over the run without identifiers, for XCom and logs."""
        counts = {name: sum(getattr(s, name) for s in self.series) for name in ("deidentified", "excluded")}
        quarantined = sum(s.quarantined for s in self.series) + self.unreadable.get(QUARANTINED, 0)
        objects = sum(counts.values()) + quarantined + self.missing
        return {
            "patients": self.patients,
            "series": len(self.series),
            "objects": objects,
            **counts,
            "quarantined": quarantined,
            "missing": self.missing,
            "passed_over": sum(self.passed_over.values()),
        }

    def summary(self) -> dict[str, Any]:
        """Return the result of the run in counts only, for everybody who may see the run."""
        return {
            "action": "de-identify",
            "verdict": self.verdict,
            "started": self.started,
            "finished": self.finished,
            "totals": self.totals(),
            "told_by": self.told_by,
            "series": dict(Counter(series.state for series in self.series)),
            "modalities": dict(Counter(plain_modality(series.modality) for series in self.series).most_common()),
        }

    def figures(self) -> Figures:
        """Return what stands of the data set, for monitoring. Reasons are those that may be published."""
        figures = Figures(data_set=sha256(self.out_folder.encode("utf-8", "surrogateescape")).hexdigest()[:16])
        for outcome in ("deidentified", "excluded", "quarantined", "missing"):
            figures.standing["pacsifier_dataset_objects", outcome] += self.totals()[outcome]
        for _, outcome, reason in self.set_apart:
            if outcome == QUARANTINED:
                rule, text = public_reason(outcome, reason)
                figures.standing["pacsifier_quarantined_objects", "de-identify", rule or text] += 1
        return figures


def account_again(run: Run, request: DeidRequest, before: Mapping[str, Any]) -> DeidAccount:
    """Return the account of a run that stands as an earlier one closed it.

    Args:
        run: the run.
        request: its request.
        before: the values of the earlier account.
    """
    account = DeidAccount(**before)
    series = [DeidSeries(**values) for values in before["series"]]
    return replace(
        account,
        run=run.name,
        started=request.started,
        finished=now(),
        series=series,
        passed_over=prepared(run)["passed_over"],
        ended=ended_by(run),
    )


def close(
    run: Run, request: DeidRequest, store: Store, rules: Rules, outcomes: Iterable[tuple[SourceSeries, Counts]]
) -> DeidAccount:
    """Count all objects: those of this run, and those of earlier runs into the same output tree.

    Args:
        run: the run.
        request: its request.
        store: what is known of the output tree.
        rules: the compiled profile.
        outcomes: the series of this run with their counts.
    """
    scan = prepared(run)
    account = DeidAccount(
        run=run.name,
        started=request.started,
        finished=now(),
        in_folder=str(request.in_folder),
        out_folder=str(request.out_folder),
        profile=request.profile,
        digest=rules.digest,
        method=rules.method,
        dates=card.dates_of(rules),
        passed_over=scan["passed_over"],
        sources=scan["sources"],
        strangers=scan["strangers"],
        nameless=scan["nameless"],
        ended=ended_by(run),
    )
    planned: dict[str, list[Any]] = {}
    reasons: dict[int, str] = {}
    for source, counts in outcomes:
        planned.setdefault(source.key, []).extend(source.files)
        if counts.reason not in ("", NOT_ATTEMPTED):
            reasons[source.number] = counts.reason
    used: Counter[str] = Counter()
    patients = set()
    for source in series_of(store):
        files = {uid: (size, mtime) for _, size, mtime, uid in planned.get(source.key, ())}
        series = DeidSeries(source.number, source.modality, source.target, source.folder)
        for item in _counted(request, store.settled(source.key), files):
            if item is None:
                series.missing += 1
                continue
            name = {DEIDENTIFIED: "deidentified", EXCLUDED: "excluded"}.get(item.outcome, "quarantined")
            setattr(series, name, getattr(series, name) + 1)
            used.update(item.rules)
            if item.outcome != DEIDENTIFIED:
                account.set_apart.append((item.source, item.outcome, item.reason))
        if series.missing:
            series.reason = reasons.get(source.number) or NOT_ATTEMPTED
        if not (series.deidentified or series.excluded or series.quarantined or series.missing):
            continue  # all its objects were withdrawn
        account.series.append(series)
        patients.add(source.patient_id)
    for item in read_jsonl(store.unreadable):
        outcome = "missing" if item["missing"] else QUARANTINED
        account.unreadable[outcome] = account.unreadable.get(outcome, 0) + 1
        account.set_apart.append((item["path"], outcome, item["reason"]))
    account.patients, account.rules = len(patients), dict(used.most_common())
    account.told_by = dict(Counter(split_key(patient)[0] for patient in patients))
    return account


def _counted(
    request: DeidRequest, settled: dict[str, Settled], files: dict[str, tuple[int, int]]
) -> Iterator[Settled | None]:
    """Yield the outcome of each object of a series; None for a missing one.

    Args:
        files: size and mtime_ns of the files of this run, by SOP Instance UID.
    """
    for uid, item in settled.items():
        # An object that has left the input folder counts if it is in the data set, or was moved apart by this job.
        if (uid in files and files[uid] == (item.size, item.mtime_ns)) or (
            uid not in files and (request.in_place or item.outcome == DEIDENTIFIED)
        ):
            yield item
        elif uid in files:
            yield None
    yield from (None for uid in files.keys() - settled.keys())


def check_outputs(account: DeidAccount, store: Store, base: Path) -> None:
    """Add contradictions between the account and the disk to the account.

    Args:
        account: the account.
        store: what is known of the output tree.
        base: folder of the outputs.
    """
    gone = 0
    for source in series_of(store):
        for item in store.settled(source.key).values():
            gone += item.outcome == DEIDENTIFIED and not item.stands_in(base)
    if gone:
        account.discrepancies.append(f"{gone} de-identified objects are not where they were written, or changed since")


def linkage_files(request: DeidRequest, store: Store, rules: Rules) -> list[Path]:
    """Return the paths of the linkage files."""
    folder = private_folder(project_folder(request.project) / "data_sets" / store.id)
    moved = ["date_offsets.csv"] if ProfileOption.MODIFIED_DATES in rules.options else []
    return [folder / name for name in ("mapper.json", *moved, "uid_map.csv")]


def write_linkage(request: DeidRequest, store: Store, rules: Rules) -> None:
    """Write the linkage files outside the data set."""
    mapper, *moved, uid_map = linkage_files(request, store, rules)
    people = {source.pseudonym: source for source in series_of(store)}
    write_atomic(mapper, json.dumps({new: s.patient_id for new, s in people.items()}, indent=4))
    for offsets in moved:
        lines = [("PatientID", "DayShift"), *((new, source.shift) for new, source in sorted(people.items()))]
        write_atomic(offsets, "".join(_line(line) for line in lines))
    with atomic_stream(uid_map) as stream:
        stream.write(b"new,old\n")
        seen: set[str] = set()
        for source in series_of(store):
            for old, new in store.uids(source.key):
                if old not in seen:
                    seen.add(old)
                    stream.write(_line((new, old)).encode())


def write(request: DeidRequest, tree: Tree, store: Store, rules: Rules, base: Path) -> None:
    """Write the manifest, the inventory, and the card of a data set.

    Args:
        request: request of the run.
        tree: the output tree.
        store: what is known of it.
        rules: the compiled profile.
        base: folder of the outputs.

    Raises:
        StorageError: one cannot be written.
    """
    with ExitStack() as stack:
        stack.enter_context(storage_errors("the state root or out_folder"))
        scratch = stack.enter_context(tree.workplace(shared()))
        with atomic_stream(store.manifest) as own:
            write_table(tree.root / MANIFEST, _COLUMNS, _public(store, rules.digest, own), data_file(), scratch)
        counts = inventory.write(store, base, tree.root, data_file(), scratch)
        digests = {name: digest(tree.root / name) for name in (*MANIFESTS, *inventory.TABLES)}
        card.write(store, card.About.of(request, rules), counts, digests, tree.root, data_file(), scratch)


class Standing:
    """What is known of the books of a data set: whether those of an earlier run stand as they would be written now.

    Args:
        store: the store of the data set.
        about: what the card says of the project and the profile.
        files: the files of the books.
    """

    def __init__(self, tree: Tree, store: Store, about: card.About, files: Iterable[Path]) -> None:
        self._path, self._files = facts_folder(tree.root) / "books.json", [*files, store.manifest]
        own = f"{about.digest} {technique.version()}"
        self._of = f"{__version__} {own} {store.digest()} {data_file():o}"

    def hold(self) -> bool:
        """Return whether nothing has changed since the books were written: neither in the store nor in their files."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = read_json(self._path)
            same = kept["of"] == self._of and 0 <= time.time() - kept["since"] < settings.verify_days() * 86400
            return same and kept["files"] == self._identities()
        return False

    def keep(self) -> None:
        """Note that the books were written.

        Raises:
            OSError: the state root cannot be written.
        """
        private_folder(self._path.parent)
        write_json(self._path, {"of": self._of, "since": time.time(), "files": self._identities()})

    def _identities(self) -> list[list[int]]:
        return [identity_of(path.stat()) for path in self._files]


def _public(store: Store, digest: str, own: BinaryIO) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the manifest that lies in the data set.

    Args:
        own: gets the manifest of the state root, a line per object.
    """
    apart: Counter[tuple[str, str, str]] = Counter()
    for entry in _manifest(store, digest):
        own.write(json.dumps(entry).encode() + b"\n")
        if (outcome := entry["Outcome"]) != DEIDENTIFIED:
            apart[outcome, *public_reason(outcome, entry["Reason"])] += 1
            continue
        # Attributes that were emptied because they identified the patient are not listed: the list would say so.
        used = " ".join(f"{rule}:{count}" for rule, count in entry["Rules"].items() if rule != leftout.RULE)
        yield entry["Folder"], entry["SOPInstanceUID"], outcome, "", "", used, digest
    # Objects outside the data set are listed without folder, sorted, so that nothing links them to a patient.
    for (outcome, rule, reason), count in sorted(apart.items()):
        for _ in range(count):
            yield "", "", outcome, rule, reason, "", digest


def _manifest(store: Store, digest: str) -> Iterator[dict[str, Any]]:
    """Yield one line per object."""
    for source in series_of(store):
        for item in store.settled(source.key).values():
            if item.reason == WITHDRAWN:
                continue
            values = (source.target, item.new_uid, item.outcome, item.reason, item.rules, digest)
            yield dict(zip(_KEYS, values, strict=True))
    for bad in read_jsonl(store.unreadable):
        outcome = "missing" if bad["missing"] else QUARANTINED
        yield dict(zip(_KEYS, ("", "", outcome, bad["reason"], {}, digest), strict=True))


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
