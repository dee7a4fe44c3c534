"""The steps of a conversion: prepare → convert → assemble → report.

Each is one function over the run's folder. The DAG's operators and the command line call the same functions. Each may
be killed and called again. Series are converted one by one, in any order; they get their names, are searched for
identifiers and are published together, so that names do not depend on who was first.

The items of a unit are series that are new or have changed, see `series.ToConvert`. The run's folder has the files of
every job (see `runs.job`), and:

| file            | written by | content                                                                    |
|-----------------|------------|----------------------------------------------------------------------------|
| series.jsonl    | prepare    | every series of the folder, see `Listed`                                   |
| rules.yaml      | prepare    | the rules of BIDS                                                          |
| published.jsonl | assemble   | what became of every series that was converted, in this run or before      |
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import Cancelled, InputError, TreeError
from pacsifier_ops.base.files import (
    data_file,
    data_folder,
    folder_of_all,
    fsync_folder,
    name_below,
    packed,
    private_folder,
    read_jsonl,
    storage_errors,
    write_atomic,
    write_jsonl,
)
from pacsifier_ops.base.identity import digest_of
from pacsifier_ops.base.words import plural
from pacsifier_ops.convert import bids, converter, nifti
from pacsifier_ops.convert.naming import Wish
from pacsifier_ops.convert.request import BIDS, ConvertRequest
from pacsifier_ops.convert.rules import BidsRules, read_rules, rules_of, shipped_rules, values_of
from pacsifier_ops.convert.series import (
    CONVERTED,
    FAILED,
    NO_IMAGE,
    UNTRIED,
    Outcome,
    ToConvert,
    convert_series,
    digest_of_series,
    outcome_of,
)
from pacsifier_ops.convert.store import ImageRecord, SeriesRecord, Store, write_record
from pacsifier_ops.handover.account import ToolAccount, write_books
from pacsifier_ops.runs import job
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.folder import MOST, Run, never, now, slices
from pacsifier_ops.runs.job import Question, Worker, begin, cut, prepared
from pacsifier_ops.state import audit
from pacsifier_ops.state.approved import approve, approved_of
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import (
    DEIDENTIFIED,
    Tree,
    marker_of,
    refuse_around,
    refuse_mixed,
    refuse_unfinished,
    state_folder,
    state_of,
)
from pacsifier_ops.state.tree import begin as begin_tree

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile

#: Files and folders in the run's folder that the first step removes before it begins.
KEPT = (*job.KEPT, "series", "rules", "published")

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


def prepare(run: Run, request: ConvertRequest, most: int = MOST, cancelled: Question = never) -> list[int]:
    """Find the series of the folder, and divide those that are new or have changed into units.

    Args:
        most: largest number of units.

    Returns:
        Numbers of the units.

    Raises:
        InputError: the folder cannot be read or holds no object.
        ConfigError: the converter, or the rules, cannot be used.
        TreeError: the folder is not finished de-identified data, or out_folder belongs to something else.
        StorageError: the run's folder cannot be written.
        Cancelled: `cancelled` returned True.
    """
    from pacsifier_ops.dicom.scan import scan

    source, target = request.in_folder.resolve(), request.out_folder.resolve()
    request = begin(run, replace(request, in_folder=source, out_folder=target), KEPT)
    version = converter.version(converter.program())
    approved = _approved(source)
    _keep_rules(run, request)
    _check_target(request)
    try:
        found = scan(source, cancelled, approved=approved)
    except OSError as error:
        raise InputError(f"in_folder cannot be read: {error.strerror}") from error
    refuse_unfinished(found.trees)
    refuse_mixed(found.trees)
    if not (found.series or found.bad_files or request.allow_empty):
        raise InputError("in_folder holds no DICOM file")
    store = Store(_open(request))
    items = [_item(number, source, files, version) for number, files in enumerate(_series(found.series.values()), 1)]
    listed = [replace(one, known=_is_known(store, one)) for _, one in items]
    with storage_errors("the state root"):
        write_jsonl(run.part("series"), listed)
    todo = [item for (item, _), one in zip(items, listed, strict=True) if not one.known]
    units = [(todo[place] for place in part) for part in slices(len(todo), most)]
    counts = {"series": len(items), "instances": sum(one.objects for one in listed)}
    bad = [asdict(file) for file in found.bad_files]
    return cut(run, units, {"passed_over": found.passed_over, "bad_files": bad, **counts})


def _approved(source: Path) -> Any:
    """Return the approved list of the folder.

    Raises:
        InputError: it is no folder.
        TreeError: it is not finished de-identified data with such a list.
    """
    if not source.is_dir():
        raise InputError("in_folder is not a folder; give the released, or de-identified, folder")
    refuse_unfinished([source])
    if state_of(source) != DEIDENTIFIED:
        raise TreeError(
            "in_folder holds data that may identify patients; images are made of finished de-identified data only: "
            "give the folder released of a study, or one that pacsifier-anonymize has made"
        )
    approved = approved_of(source)
    if approved is None:  # anybody can write a marker
        raise TreeError(
            "in_folder says that it is de-identified, and this state root has no list of what was: it is a copy, or "
            "was moved; convert the original"
        )
    return approved


def _keep_rules(run: Run, request: ConvertRequest) -> None:
    if request.layout == BIDS:
        _, data = read_rules(Path(request.bids_rules) if request.bids_rules else shipped_rules())
        with storage_errors("the state root"):
            write_atomic(run.folder / "rules.yaml", data)


def _check_target(request: ConvertRequest) -> None:
    source, target = request.in_folder, request.out_folder
    if target == source or source in target.parents or target in source.parents:
        raise TreeError("out_folder and in_folder lie in each other; give a folder apart")
    refuse_around(target, DEIDENTIFIED, "out_folder", below=False)
    marker = marker_of(target)
    if not marker and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TreeError("out_folder holds something else already; give an empty folder, or one that is not there yet")
    if marker and marker.get("images_of") != _identity(request):
        raise TreeError(
            "out_folder holds something else: images of another folder, or in another layout; give a folder apart"
        )


def _identity(request: ConvertRequest) -> dict[str, str]:
    """Return what the images of a folder are bound to."""
    return {"of": state_folder(request.in_folder).name, "layout": request.layout}


def _open(request: ConvertRequest) -> Tree:
    """Open the folder of the images; create it if necessary.

    Raises:
        StorageError: it cannot be written.
        TreeError: it lies in other data.
    """
    target = request.out_folder
    with storage_errors("out_folder"):
        data_folder(target)
        if not marker_of(target):
            begin_tree(target, {"state": DEIDENTIFIED, "images_of": _identity(request)}, "out_folder")
    with storage_errors("the state root"):
        return Tree(target, private_folder(state_folder(target)))


def _series(found: Iterable[Sequence[DicomFile]]) -> list[list[DicomFile]]:
    """Return the files of each series of each patient, in the order of patients, studies and series."""
    parts: dict[tuple[str, ...], list[DicomFile]] = {}
    for files in found:
        for file in files:
            parts.setdefault((file.patient_id, file.issuer, file.study_uid, file.series_uid), []).append(file)

    def place(files: Sequence[DicomFile]) -> tuple[Any, ...]:
        first = files[0]
        return (first.patient_id, first.issuer, first.study_date, first.study_time, first.study_uid, *_order(first))

    each = [sorted(files, key=_place_in_series) for files in parts.values()]
    return sorted(each, key=place)


def _order(file: DicomFile | Listed) -> tuple[int, str]:
    """Return the place of a series in its study."""
    number = file.series_number
    return (int(number) if re.fullmatch(r"\d{1,12}", number, re.ASCII) else 10**12, file.series_uid)


def _place_in_series(file: DicomFile) -> tuple[int, str]:
    number = file.instance_number.strip()
    return (int(number) if re.fullmatch(r"-?\d{1,12}", number, re.ASCII) else 10**12, file.sop_instance_uid)


def _item(number: int, root: Path, files: Sequence[DicomFile], version: str) -> tuple[ToConvert, Listed]:
    first = files[0]
    patient = f"{first.patient_id}\0{first.issuer}" if first.patient_id else f"study:{first.study_uid}\0"
    study = f"{patient}\0{first.study_uid}"
    key = digest_of(f"{study}\0{first.series_uid}")
    state = digest_of_series([(file.sop_instance_uid, file.sha256) for file in files], version)
    names = [name_below(file.path, root) for file in files]
    folder = folder_of_all(names)
    item = ToConvert(
        number,
        key,
        state,
        first.study_uid,
        first.series_uid,
        first.modality,
        first.series_number,
        folder,
        [[packed(name), file.sop_class_uid, file.sha256] for name, file in zip(names, files, strict=True)],
    )
    return item, Listed(
        number,
        key,
        state,
        patient,
        study,
        first.patient_id,
        first.study_date,
        first.study_time,
        first.series_uid,
        first.series_number,
        folder,
        len(files),
    )


def _is_known(store: Store, one: Listed) -> bool:
    record = store.record(one.key)
    return record is not None and record.digest == one.digest and store.whole(record)


# The work on one unit


def convert(run: Run, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Convert the series of one unit. One that cannot be converted does not stop the others.

    Returns:
        The numbers of series by outcome, and of images.

    Raises:
        StorageError: the folder of the images, or the run's, cannot be written.
        Cancelled: `cancelled` returned True; converted series stay.
    """
    with Converting(run, cancelled) as worker:
        return worker.unit(unit)


class Converting(Worker[ToConvert, Outcome]):
    """Converts the series of units of a run."""

    item, result = ToConvert, Outcome

    def open(self, stack: ExitStack) -> None:
        """Read the request, and make a folder for unfinished files."""
        self._request = ConvertRequest.of(self._run)
        tree = _open(self._request)
        self._store = Store(tree)
        self._scratch = stack.enter_context(tree.workplace(shared()))
        self._program = converter.program()

    def work(self, item: ToConvert, result: Outcome) -> Outcome:
        """Convert a series, unless it was converted and waits already."""
        if record := self._store.converted(item.key, item.digest):
            return outcome_of(item.number, record)
        request = self._request
        refuse_unfinished([request.in_folder])
        seconds = request.time_limit * 60
        return convert_series(
            *(item, request.in_folder, self._scratch, self._store, seconds),
            *(self._cancelled, self._run.note, self._program),
        )

    def is_settled(self, result: Outcome) -> bool:
        """Whether a series with this result is not converted again in this run."""
        return result.outcome == NO_IMAGE

    def totals(self, results: Sequence[Outcome]) -> dict[str, int | float]:
        """Return the numbers of series by outcome, and of images."""
        outcomes = Counter(result.outcome.replace(" ", "_") for result in results)
        return {**outcomes, "images": sum(result.images for result in results)}

    def counts(self, result: Outcome) -> dict[str, int | float]:
        """See `job.Worker.counts`."""
        return {f"series {result.outcome}": 1}


# Publication


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


def assemble(run: Run, search: Search, cancelled: Question = never) -> dict[str, int]:
    """Name all converted series, search what is to be written for identifiers, and publish what is clean.

    Images of series that are no longer in the folder are removed.

    Args:
        search: see `Search`.

    Returns:
        The numbers of series that are published, set apart, and removed.

    Raises:
        InputError: the run ended before the folder was looked at.
        TreeError: the folder is not what it was; see `prepare`.
        StorageError: something cannot be read or written.
        Cancelled: `cancelled` returned True; what was published stays.
    """
    prepared(run)
    request = ConvertRequest.of(run)
    _approved(request.in_folder)
    _check_target(request)
    tree = _open(request)
    store = Store(tree)
    with (
        shared().acquire(f"images:{tree.key}"),
        storage_errors("out_folder, or the state root"),
        tree.workplace(shared()) as scratch,
    ):
        return _Assembly(run, request, store, search, scratch, cancelled).done()


class _Assembly:
    """The publication of the series of a run."""

    def __init__(
        self, run: Run, request: ConvertRequest, store: Store, search: Search, scratch: Path, cancelled: Question
    ) -> None:
        self._run, self._store, self._search, self._cancelled = run, store, search, cancelled
        self._scratch = scratch
        rules = run.folder / "rules.yaml"
        self._rules: BidsRules | None = rules_of(rules.read_bytes()) if request.layout == BIDS else None
        self._listed: list[Listed] = [Listed(**line) for line in read_jsonl(run.part("series"))]
        self._failed = {item.key for item, result in Converting.outcomes(run) if result.outcome == FAILED}
        self._labels, self._paths = store.names()
        self._described: dict[str, str] = {}

    def done(self) -> dict[str, int]:
        removed = self._withdraw()
        self._label()
        records = {one.key: record for one in self._listed if (record := self._record(one))}
        published = {one.key: self._publication(one, records.get(one.key)) for one in self._listed}
        self._name(records, published)
        self._store.keep_names(self._labels, self._paths)
        waiting = [one for one in self._listed if one.key in records and self._make_wait(records[one.key])]
        found = self._searched([records[one.key] for one in waiting])
        for one in waiting:
            if self._cancelled():
                raise Cancelled("stopped on request")
            record, result = records[one.key], published[one.key]
            result.new = True
            if findings := found.get(one.key):
                result.state, result.findings, result.paths = APART, dict(findings), []
                self._set_apart(record)
                del records[one.key]
            else:
                self._publish(record)
        self._describe(records)
        self._approve(records.values())
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
                wishes.append(Wish(f"{key}/{image.name}", (*_order(one), place), wish))
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
            number = f"{_order(one)[0]:05d}" if _order(one)[0] < 10**12 else "series"
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
        if before := store.record(record.key):
            self._remove(before)
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

    def _describe(self, records: dict[str, SeriesRecord]) -> None:
        """Write the files that describe the data set, if no identifier is in them.

        Raises:
            InputError: there is one.
        """
        if self._rules is None:
            return
        sessions, versions = [], set()
        for one in self._listed:
            record = records.get(one.key)
            if record and any(image.path.startswith(f"{DATA_SET}/") for image in record.images):
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
                f"identifiers were found in {plural(len(bad), 'file')} that would describe the data set; nothing of "
                "them is written"
            )
        self._described = texts
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

    def _approve(self, records: Iterable[SeriesRecord]) -> None:
        """Write the list of what may leave the folder."""
        lines = [{"path": name, "sha256": _sha256(text)} for name, text in self._described.items()]
        for record in records:
            for image in record.images:
                lines += [{"path": f"{image.path}{end}", "sha256": sha} for end, (_, sha) in image.files.items()]
                lines.append({"path": f"{image.path}.json", "sha256": image.published[1]})
        approve(self._store.root, sorted(lines, key=lambda line: line["path"]), keep_former=False)


def _joined(name: str, image: ImageRecord) -> str:
    return "_".join(filter(None, (name, image.postfix)))


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


# The account


def report(run: Run) -> ToolAccount:
    """Close the account, and write the report. An unfinished run is closed as well.

    Raises:
        InputError: the run ended before the step prepare had inspected the folder.
        StorageError: the report cannot be written.
    """
    found, request = prepared(run), ConvertRequest.of(run)
    listed = [Listed(**line) for line in read_jsonl(run.part("series"))]
    results = {item.number: result for item, result in Converting.outcomes(run)}
    path = run.part("published")
    published = {line["number"]: Publication(**line) for line in read_jsonl(path)} if path.exists() else {}
    problems = [(item["path"], item["reason"]) for item in found["bad_files"]]
    done: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    no_images: Counter[str] = Counter()
    remarks: Counter[str] = Counter()
    unassigned: Counter[str] = Counter()
    for one in listed:
        name = one.folder or f"series {one.number}"
        result = results.get(one.number) or Outcome(one.number, CONVERTED, "")
        publication = published.get(one.number)
        if publication and publication.state != LOST:
            result = Outcome(**publication.outcome)
        remarks.update(result.warnings.keys())
        counts["objects that are no images"] += result.others
        if result.outcome == NO_IMAGE:
            no_images[f"not an image: {result.reason}"] += 1
            counts["series without images"] += 1
        elif result.outcome in (FAILED, UNTRIED):
            counts[f"series {result.outcome}"] += 1
            problems.append((name, f"{'not converted' if result.outcome == FAILED else UNTRIED}: {result.reason}"))
        elif publication is None or publication.state == LOST:
            counts["series not published"] += 1
            problems.append((name, "converted, and not published: the run ended before; run it again"))
        elif publication.state == APART:
            counts["series set apart"] += 1
            kinds = "; ".join(f"{kind} ({count})" for kind, count in sorted(publication.findings.items()))
            problems.append((name, f"set apart, since identifiers of the cohort were found: {kinds}"))
        else:
            counts["series converted"] += 1
            counts["of these new"] += publication.new
            counts["images"] += result.images
            counts["volumes"] += result.volumes
            unassigned.update(publication.unassigned)
            done.append((name, _remark(result, publication)))
            if result.unused:
                counts["objects not used"] += result.unused
                problems.append(
                    (name, f"the converter has not used {plural(result.unused, 'object')} of {result.objects}")
                )
    order = ("series converted", "of these new", "series without images", "series failed", "series set apart")
    rest = sorted(counts.keys() - set(order) - {"images", "volumes"})
    account = ToolAccount(
        run=run.name,
        action="NIfTI",
        started=request.started,
        finished=now(),
        ended=ended_by(run),
        folder=str(request.in_folder),
        out_folder=str(request.out_folder),
        counts={
            "series": len(listed),
            **{name: counts[name] for name in (*order, "images", "volumes")},
            **{name: counts[name] for name in rest if counts[name]},
            **{f"unassigned, {why}": count for why, count in sorted(unassigned.items())},
            **{f"series with a remark, {kind}": count for kind, count in sorted(remarks.items())},
        },
        done=done,
        problems=problems,
        passed_over={**found["passed_over"], **no_images},
    )
    write_books(run, account, "NIfTI")
    audit.record(audit.EXPORTED, run=run.name, to="folder", objects=counts["images"], verdict=account.verdict)
    return account


def _remark(result: Outcome, publication: Publication) -> str:
    parts = [f"{plural(result.images, 'image')} of {plural(result.volumes, 'volume')}"]
    parts += [f"{count} unassigned: {why}" for why, count in publication.unassigned.items()]
    parts += sorted(result.warnings)
    return "; ".join(parts) + ("" if publication.new else "; as before")
