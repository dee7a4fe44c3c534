"""The books of a de-identification: every object in exactly one state, the manifest, the linkage.

| file                       | where                                   | holds                                      |
|----------------------------|-----------------------------------------|--------------------------------------------|
| manifest.jsonl             | the run's folder                        | what became of each object, no identifiers |
| manifest.csv, .parquet     | the data set                            | what may be told of it, see `told`         |
| accounts.json, report.html | the run's folder                        | the accounts; they name files, so patients |
| mapper.json                | `data_sets/<id>` of the project's folder | PatientID by pseudonym                     |
| date_offsets.csv           | likewise, where dates are moved         | days by pseudonym                          |
| uid_map.csv                | likewise                                | every UID, and the one that replaced it    |
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pacsifier_ops.base.files import (
    atomic_stream,
    data_file,
    private_folder,
    read_jsonl,
    storage_errors,
    write_atomic,
)
from pacsifier_ops.base.tables import TEXT, parquet_of, write_table
from pacsifier_ops.deid import leftout
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
from pacsifier_ops.deid.whose import told_by
from pacsifier_ops.pseudonyms.secret import project_folder
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, UNBALANCED, plain_modality
from pacsifier_ops.runs.folder import Run, now
from pacsifier_ops.runs.job import NOT_ATTEMPTED, prepared, write_account
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import Tree

#: The manifest of a data set, for people and for programs (see `base.tables`).
MANIFEST = "manifest.csv"
MANIFESTS = (MANIFEST, str(parquet_of(Path(MANIFEST))))
_KEYS = ("Folder", "SOPInstanceUID", "Outcome", "Reason", "Rules", "Profile")
_COLUMNS = dict.fromkeys(("Folder", "SOPInstanceUID", "Outcome", "Rule", "Reason", "Rules", "Profile"), TEXT)


@dataclass
class DeidSeries:
    """A series; every number counts objects.

    Attributes:
        number: ordinal in the output tree, from 1; safe to show anywhere.
        folder: below the output folder.
        source: below the input folder; identifying.
        reason: why objects are missing; no values.
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
        """complete, or incomplete: objects are missing."""
        return INCOMPLETE if self.missing else COMPLETE


@dataclass
class DeidAccount:
    """A whole run, with what earlier ones into the same folder have left.

    Attributes:
        run: opaque id of the run.
        in_folder, out_folder: the same where it was done in place.
        profile, digest, method: what was done; `dates`: what became of dates, in words.
        linkage: folder of who became whom.
        apart: folder of what left the input folder; in place only.
        patients: how many; `told_by`: how many of them each of `whose.IDENTITIES` tells; `sources`: how many
            pseudonyms each source gave; `strangers`: how many keys of each file name nobody of the folder.
        nameless: objects of this run without a PatientID of which the folder or the study tells whose they are.
        series: their accounts.
        rules: how often each rule was applied.
        set_apart: path below the input folder, outcome and reason of what is not in the data set; identifying.
        unreadable: of these, files that are not known to be of a series, quarantined or missing.
        passed_over: files that are no objects, reason in words to count.
        discrepancies: contradictions between the books and the disk, in words, no values.
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

    @property
    def missing(self) -> int:
        """Objects that are in no other state."""
        return sum(series.missing for series in self.series) + self.unreadable.get("missing", 0)

    @property
    def verdict(self) -> str:
        """`complete`: every object is de-identified, excluded by a rule, or quarantined with a reason. Else
        `incomplete`, or `unbalanced`: the disk contradicts the books.

        Where all that might have been de-identified is in quarantine, something else than the objects is wrong.
        """
        if self.discrepancies:
            return UNBALANCED
        totals = self.totals()
        return INCOMPLETE if self.missing or totals["quarantined"] > totals["deidentified"] == 0 else COMPLETE

    def totals(self) -> dict[str, int]:
        """Sums over the run, without any identifier: fit for XCom and logs."""
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
        """How the run ended, in counts only: fit for everybody who may see the run."""
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


def close(
    run: Run, request: DeidRequest, store: Store, rules: Rules, outcomes: Iterable[tuple[SourceSeries, Counts]]
) -> DeidAccount:
    """Count every object: those of this run, and those that earlier ones have settled in the same output tree.

    Args:
        outcomes: the series of this run, and how far each is.
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
        dates=_dates(rules),
        passed_over=scan["passed_over"],
        sources=scan["sources"],
        strangers=scan["strangers"],
        nameless=scan["nameless"],
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
            continue  # all of it was taken back
        account.series.append(series)
        patients.add(source.patient_id)
    for item in read_jsonl(store.unreadable):
        outcome = "missing" if item["missing"] else QUARANTINED
        account.unreadable[outcome] = account.unreadable.get(outcome, 0) + 1
        account.set_apart.append((item["path"], outcome, item["reason"]))
    account.patients, account.rules = len(patients), dict(used.most_common())
    account.told_by = dict(Counter(told_by(patient)[0] for patient in patients))
    return account


def _dates(rules: Rules) -> str:
    if ProfileOption.FULL_DATES in rules.options:
        return "as they were"
    return "moved by the days of each patient" if ProfileOption.MODIFIED_DATES in rules.options else "removed"


def _counted(
    request: DeidRequest, settled: dict[str, Settled], files: dict[str, tuple[int, int]]
) -> Iterator[Settled | None]:
    """What became of the objects of a series; None for one that is missing.

    Args:
        files: size and mtime_ns of the files of this run, by SOP Instance UID.
    """
    for uid, item in settled.items():
        # What is not in the input folder any more counts if it is in the data set, or was put apart by us.
        if (uid in files and files[uid] == (item.size, item.mtime_ns)) or (
            uid not in files and (request.in_place or item.outcome == DEIDENTIFIED)
        ):
            yield item
        elif uid in files:
            yield None
    yield from (None for uid in files.keys() - settled.keys())


def check_outputs(account: DeidAccount, store: Store, base: Path) -> None:
    """Note in the account where the disk contradicts the books.

    Args:
        base: the folder that the outputs lie in.
    """
    gone = 0
    for source in series_of(store):
        for item in store.settled(source.key).values():
            gone += item.outcome == DEIDENTIFIED and not item.stands_in(base)
    if gone:
        account.discrepancies.append(f"{gone} de-identified objects are not where they were written, or changed since")


def write_linkage(request: DeidRequest, store: Store, rules: Rules) -> Path:
    """Write who became whom, apart from the data set; returns the folder."""
    folder = private_folder(project_folder(request.project) / "data_sets" / store.id)
    people = {source.pseudonym: source for source in series_of(store)}
    write_atomic(folder / "mapper.json", json.dumps({new: s.patient_id for new, s in people.items()}, indent=4))
    if ProfileOption.MODIFIED_DATES in rules.options:
        lines = [("PatientID", "DayShift"), *((new, source.shift) for new, source in sorted(people.items()))]
        write_atomic(folder / "date_offsets.csv", "".join(_line(line) for line in lines))
    with atomic_stream(folder / "uid_map.csv") as stream:
        stream.write(b"new,old\n")
        seen: set[str] = set()
        for source in series_of(store):
            for old, new in store.uids(source.key):
                if old not in seen:
                    seen.add(old)
                    stream.write(_line((new, old)).encode())
    return folder


def write(run: Run, account: DeidAccount, tree: Tree, store: Store, linkage: Path, rules: Rules) -> None:
    """Write manifest and accounts.

    Raises:
        StorageError: one of them cannot be written.
    """
    account.linkage = str(linkage)
    with ExitStack() as stack:
        stack.enter_context(storage_errors("the state root or out_folder"))
        scratch = stack.enter_context(tree.workplace(shared()))
        own = stack.enter_context(atomic_stream(run.part("manifest")))
        write_table(tree.root / MANIFEST, _COLUMNS, _public(store, rules.digest, own), data_file(), scratch)
    write_account(run, account)


def _public(store: Store, digest: str, own: BinaryIO) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the manifest that lies in the data set.

    Args:
        own: gets the run's own manifest, a line per object.
    """
    apart: Counter[tuple[str, str, str]] = Counter()
    for entry in _manifest(store, digest):
        own.write(json.dumps(entry).encode() + b"\n")
        if (outcome := entry["Outcome"]) != DEIDENTIFIED:
            apart[outcome, *public_reason(outcome, entry["Reason"])] += 1
            continue
        # What was left out since the patient was found in it is not told: an empty value would say what it held.
        used = " ".join(f"{rule}:{count}" for rule, count in entry["Rules"].items() if rule != leftout.RULE)
        yield entry["Folder"], entry["SOPInstanceUID"], outcome, "", "", used, digest
    # Of what is not there, not even beside what of its patient it was.
    for (outcome, rule, reason), count in sorted(apart.items()):
        for _ in range(count):
            yield "", "", outcome, rule, reason, "", digest


def _manifest(store: Store, digest: str) -> Iterator[dict[str, Any]]:
    """A line per object."""
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
