"""Publication of converted series: they are named, searched for identifiers, and put in their places together."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import Cancelled, InputError
from pacsifier_ops.base.files import (
    data_file,
    data_folder,
    fsync_folder,
    private_folder,
    read_jsonl,
    write_atomic,
    write_jsonl,
)
from pacsifier_ops.base.words import plural
from pacsifier_ops.convert import bids, nifti
from pacsifier_ops.convert.naming import Wish
from pacsifier_ops.convert.request import BIDS, ConvertRequest
from pacsifier_ops.convert.rules import BidsRules, rules_of, values_of
from pacsifier_ops.convert.series import (
    outcome_of,
)
from pacsifier_ops.convert.store import ImageRecord, SeriesRecord, Store, write_record
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import Question
from pacsifier_ops.state.approved import approve

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile


#: Searches files for identifiers of the whole cohort. Called with a folder and the paths of files below it; yields the
#: path of each with what was found in it or its name, in words without values. It belongs to whoever knows the cohort.
Search = Callable[[Path, Iterable[str], Question], Iterator[tuple[str, Sequence[str]]]]

#: Folders of the images in the layout BIDS: the data set, and what no rule fits.
DATA_SET, UNASSIGNED = "bids", "unassigned"

#: Endings of the files of an image, in the order of their publication: an image is never there without the others.
_ORDER = (".json", ".bval", ".bvec", ".nii.gz")

APART, PUBLISHED, LOST = "set apart", "published", "lost"


@dataclass(frozen=True)
class Listed:
    """A series of the folder.

    Attributes:
        number: number of the series in the run, from 1.
        key, digest: see `series.ToConvert`.
        patient, study: identities, of the patient and of the patient's study.
        pseudonym, date, time: of the patient, and of the study, as the objects have them.
        series_uid, series_number, folder: of the series.
        objects: number of its objects.
        known: exactly this series is published.
    """

    number: int
    key: str
    digest: str
    patient: str
    study: str
    pseudonym: str
    date: str
    time: str
    series_uid: str
    series_number: str
    folder: str
    objects: int
    known: bool = False


def order_of(file: DicomFile | Listed) -> tuple[int, str]:
    """Return the place of a series in its study."""
    number = file.series_number
    return (int(number) if re.fullmatch(r"\d{1,12}", number, re.ASCII) else 10**12, file.series_uid)


@dataclass
class Publication:
    """What became of a converted series.

    Attributes:
        number: number of the series.
        state: PUBLISHED, APART, or LOST: it was converted, and is not there any more.
        new: it was not published before, or not in this form.
        outcome: the result of its conversion, in this run or before.
        paths: paths of its images without ending.
        unassigned: number of its images that no rule fits, by reason.
        findings: number of findings of identifiers, by kind.
    """

    number: int
    state: str
    new: bool = False
    outcome: dict[str, Any] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    unassigned: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)


class Assembly:
    """The publication of the series of a run.

    Args:
        run, request: the run.
        store: of the folder of the images.
        failed: keys of series that could not be converted in this run.
        search: see `Search`.
        scratch: folder for unfinished files, on the file system of the store.
        cancelled: called regularly; True ends the work.
    """

    def __init__(
        self,
        run: Run,
        request: ConvertRequest,
        store: Store,
        failed: Collection[str],
        search: Search,
        scratch: Path,
        cancelled: Question,
    ) -> None:
        self._run, self._store, self._search, self._cancelled = run, store, search, cancelled
        self._scratch = scratch
        rules = run.folder / "rules.yaml"
        self._rules: BidsRules | None = rules_of(rules.read_bytes()) if request.layout == BIDS else None
        self._listed: list[Listed] = [Listed(**line) for line in read_jsonl(run.part("series"))]
        self._failed = failed
        self._labels, self._paths = store.names()

    def done(self) -> dict[str, int]:
        """Publish what is clean. Return the numbers of series that are published, set apart, and removed.

        Raises:
            InputError: identifiers were found in the tables of the data set.
            OSError: something cannot be read or written.
            Cancelled: `cancelled` said so.
        """
        removed = self._withdraw()
        self._label()
        records = {one.key: record for one in self._listed if (record := self._record(one))}
        published = {one.key: self._publication(one, records.get(one.key)) for one in self._listed}
        self._name(records, published)
        self._store.keep_names(self._labels, self._paths)
        waiting = [one for one in self._listed if one.key in records and self._make_wait(records[one.key])]
        found = self._searched([records[one.key] for one in waiting])
        clean = []
        for one in waiting:
            record, result = records[one.key], published[one.key]
            result.new = True
            if findings := found.get(one.key):
                result.state, result.findings, result.paths = APART, dict(findings), []
                self._set_apart(record)
                del records[one.key]
            else:
                clean.append(record)
        texts = self._described(records)  # before anything is published, since identifiers in them end it all
        for record in clean:  # all of them before the first: what one had may be the name of another now
            if before := self._store.record(record.key):
                self._remove(before)
        for record in clean:
            if self._cancelled():
                raise Cancelled("stopped on request")
            self._publish(record)
        self._write(texts)
        self._approve(records.values(), texts)
        lines = [one for one in published.values() if one.outcome or one.state != LOST]
        write_jsonl(self._run.part("published"), lines)
        states = Counter(one.state for one in lines)
        return {"published": states[PUBLISHED], "set_apart": states[APART], "removed": removed}

    def _withdraw(self) -> int:
        """Remove the images of series that are not in the folder any more, or whose new state cannot be converted."""
        there = {one.key: one.digest for one in self._listed}
        removed = 0
        for record in list(self._store.records()):
            gone = record.key not in there
            if gone or (record.digest != there[record.key] and record.key in self._failed):
                self._remove(record)
                removed += gone
        with suppress(FileNotFoundError):
            for place in self._store.waiting.iterdir():
                if place.name not in there:
                    shutil.rmtree(place, ignore_errors=True)
        return removed

    def _remove(self, record: SeriesRecord) -> None:
        for image in record.images:
            for ending in _ORDER[::-1]:
                (self._store.root / f"{image.path}{ending}").unlink(missing_ok=True)
            self._prune((self._store.root / image.path).parent)
        self._store.forget(record.key)

    def _prune(self, folder: Path) -> None:
        """Remove folders that are empty now."""
        while folder != self._store.root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    def _label(self) -> None:
        """Give patients their labels, and studies their numbers in the order of their dates."""
        by_patient: dict[str, dict[str, Listed]] = {}
        for one in self._listed:
            by_patient.setdefault(one.patient, {}).setdefault(one.study, one)
        for patient, studies in sorted(by_patient.items()):
            self._labels.patient(patient, next(iter(studies.values())).pseudonym)
            order = sorted(studies.values(), key=lambda one: (one.date or "9", one.time, one.study))
            self._labels.number(patient, [one.study for one in order])

    def _record(self, one: Listed) -> SeriesRecord | None:
        """Return the record of a series that waits, or is published as it is."""
        if record := self._store.converted(one.key, one.digest):
            return record
        record = self._store.record(one.key)
        return record if record and record.digest == one.digest and self._store.whole(record) else None

    def _publication(self, one: Listed, record: SeriesRecord | None) -> Publication:
        if record is None:
            return Publication(one.number, LOST)
        return Publication(one.number, PUBLISHED, outcome=asdict(outcome_of(one.number, record)))

    def _name(self, records: dict[str, SeriesRecord], published: dict[str, Publication]) -> None:
        """Give each image its path, and its final sidecar."""
        self._final: dict[tuple[str, str], dict[str, Any]] = {}
        wishes, order = [], {one.key: one for one in self._listed}
        for key, record in records.items():
            one = order[key]
            for place, image in enumerate(record.images):
                wish, more, why = self._wish(one, image)
                if why:
                    published[key].unassigned[why] = published[key].unassigned.get(why, 0) + 1
                self._final[key, image.name] = {**image.sidecar, **more}
                wishes.append(Wish(f"{key}/{image.name}", (*order_of(one), place), wish))
        self._paths.give(wishes)
        for key, record in records.items():
            published[key].paths = [self._paths.path(f"{key}/{image.name}") for image in record.images]

    def _wish(self, one: Listed, image: ImageRecord) -> tuple[str, dict[str, Any], str]:
        """Return the name that an image would like, keys for its sidecar, and why no rule fits it."""
        if self._rules is None:
            name = one.folder.rpartition("/")[2] if one.folder not in ("", ".") else "series"
            folder = one.folder if one.folder not in ("", ".") else one.key[:8]
            return f"{folder}/{_joined(name, image)}{{run}}", {}, ""
        labels = f"sub-{self._labels.patients[one.patient]}", f"ses-{self._labels.sessions[one.study]}"
        rule, why = self._rules.rule_for(image)
        if rule is None:
            number = f"{order_of(one)[0]:05d}" if order_of(one)[0] < 10**12 else "series"
            return f"{UNASSIGNED}/{'/'.join(labels)}/{_joined(number, image)}{{run}}", {}, why
        return f"{DATA_SET}/{rule.name_of('_'.join(labels), values_of(image))}", dict(rule.sidecar), ""

    def _make_wait(self, record: SeriesRecord) -> bool:
        """Take a series back that is published under another name or with another sidecar. Return whether it waits."""
        store, key = self._store, record.key
        if store.converted(key, record.digest):
            return True
        images = {image.name: image for image in record.images}
        if all(
            image.path == self._paths.path(f"{key}/{name}") and image.published[1] == _sha256(self._text(record, image))
            for name, image in images.items()
        ):
            return False
        place = private_folder(store.place(key, record.digest))
        bare = replace(record, images=[replace(image, path="", published=[]) for image in record.images])
        write_record(place, bare)
        for image in record.images:
            for ending in image.files:
                with suppress(FileNotFoundError):
                    os.replace(store.root / f"{image.path}{ending}", place / f"{image.name}{ending}")
        self._remove(record)
        record.images = bare.images
        return store.converted(key, record.digest) is not None

    def _text(self, record: SeriesRecord, image: ImageRecord) -> str:
        return bids.as_json(self._final[record.key, image.name])

    def _searched(self, records: Sequence[SeriesRecord]) -> dict[str, Counter[str]]:
        """Search names, sidecars, vectors and headers for identifiers. Return the findings of each series by kind.

        They are searched as they are to be published, in a folder that nobody can see yet.
        """
        folder = private_folder(self._scratch / "searched")
        whose: dict[str, str] = {}
        for record in records:
            place = self._store.place(record.key, record.digest)
            for image in record.images:
                path = self._paths.path(f"{record.key}/{image.name}")
                private_folder((folder / path).parent)
                for ending in (".json", *image.files):
                    whose[path + ending] = record.key
                    target = folder / f"{path}{ending}"
                    if ending == ".json":
                        target.write_text(self._text(record, image), encoding="utf-8")
                    elif ending == ".nii.gz":
                        target.write_text(nifti.texts(place / f"{image.name}{ending}"), encoding="utf-8")
                    else:
                        shutil.copyfile(place / f"{image.name}{ending}", target)
        found: dict[str, Counter[str]] = {}
        for name, findings in self._search(folder, sorted(whose), self._cancelled) if whose else ():
            if findings:
                found.setdefault(whose[name], Counter()).update(findings)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    def _set_apart(self, record: SeriesRecord) -> None:
        if before := self._store.record(record.key):
            self._remove(before)
        apart = self._store.apart(record.key)
        private_folder(apart.parent)
        shutil.rmtree(apart, ignore_errors=True)
        shutil.move(self._store.place(record.key, record.digest), apart)
        self._store.drop(record.key)

    def _publish(self, record: SeriesRecord) -> None:
        """Publish a series that waits. Its record comes first: it tells what is half published, if this is killed."""
        store = self._store
        place = store.place(record.key, record.digest)
        texts = {}
        for image in record.images:
            image.path = self._paths.path(f"{record.key}/{image.name}")
            texts[image.name] = text = self._text(record, image)
            image.published = [len(text.encode()), _sha256(text)]
        store.keep(record)
        for image in record.images:
            target = store.root / image.path
            data_folder(target.parent)
            for ending in _ORDER:
                final = target.with_name(target.name + ending)
                if ending == ".json":
                    write_atomic(final, texts[image.name], data_file(), place)
                elif ending in image.files:
                    waiting = place / f"{image.name}{ending}"
                    waiting.chmod(data_file())
                    os.replace(waiting, final)
            fsync_folder(target.parent)
        store.drop(record.key)

    # The data set as a whole

    def _described(self, records: dict[str, SeriesRecord]) -> dict[str, str]:
        """Return the texts of the files that describe the data set, by path.

        Raises:
            InputError: there is an identifier in one.
        """
        if self._rules is None:
            return {}
        sessions, versions = [], set()
        for one in self._listed:
            record = records.get(one.key)
            paths = [self._paths.path(f"{one.key}/{image.name}") for image in record.images] if record else []
            if record and any(path.startswith(f"{DATA_SET}/") for path in paths):
                patient = self._labels.patients[one.patient]
                sessions.append(bids.Session(patient, one.pseudonym, self._labels.sessions[one.study], one.date))
                versions.add(record.converter)
        first = {(one.patient, one.number): one for one in reversed(sessions)}
        files = bids.described(first.values(), self._rules.ignored, versions) if sessions else {}
        texts = {f"{DATA_SET}/{name}": text for name, text in files.items()}
        folder = private_folder(self._scratch / "described")
        for name, text in texts.items():
            private_folder((folder / name).parent)
            (folder / name).write_text(text, encoding="utf-8")
        bad = [name for name, found in (self._search(folder, sorted(texts), self._cancelled) if texts else ()) if found]
        if bad:
            raise InputError(
                f"identifiers were found in {plural(len(bad), 'file')} that would describe the data set; nothing new "
                "is published"
            )
        return texts

    def _write(self, texts: Mapping[str, str]) -> None:
        """Write the files that describe the data set, and remove those of before."""
        root = self._store.root
        for name, text in texts.items():
            target = root / name
            if not target.is_file() or target.read_text(encoding="utf-8") != text:
                data_folder(target.parent)
                write_atomic(target, text, data_file(), self._scratch)
        for path in [*(root / DATA_SET).glob("sub-*/sub-*_sessions.tsv"), *(root / DATA_SET).glob("*.*")]:
            if path.is_file() and path.relative_to(root).as_posix() not in texts:
                path.unlink()
                self._prune(path.parent)

    def _approve(self, records: Iterable[SeriesRecord], texts: Mapping[str, str]) -> None:
        """Write the list of what may leave the folder."""
        lines = [{"path": name, "sha256": _sha256(text)} for name, text in texts.items()]
        for record in records:
            for image in record.images:
                lines += [{"path": f"{image.path}{end}", "sha256": sha} for end, (_, sha) in image.files.items()]
                lines.append({"path": f"{image.path}.json", "sha256": image.published[1]})
        approve(self._store.root, sorted(lines, key=lambda line: line["path"]), keep_former=False)


def _joined(name: str, image: ImageRecord) -> str:
    return "_".join(filter(None, (name, image.postfix)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
