"""The request of a de-identification, and the files of its steps.

Files in the run's folder, beside those of every job (see `runs.job`; the items of a unit are series, see SourceSeries):

| file                    | written by | what                                                                      |
|-------------------------|------------|---------------------------------------------------------------------------|
| manifest.jsonl          | report     | what became of every object, without identifiers                          |
| contact-sheets-<n>.html | report     | the contact sheets of fifty series                                        |
| sheets.json             | report     | first and last series of each of these, and its name                      |

Files that outlive a run, beside the state of the output tree below `deid/<id>/`:

| file                    | written by | what                                                                      |
|-------------------------|------------|---------------------------------------------------------------------------|
| names.json              | prepare    | folder names given so far                                                 |
| series.jsonl            | prepare    | all series so far, see SourceSeries                                       |
| homes.json              | prepare    | in place: patients of folders or studies, see identity.ObjectGroup        |
| unreadable.jsonl        | prepare    | files that are no usable object, with the reason                          |
| manifest.jsonl          | report     | what became of every object, without identifiers                          |
| settled/<key>.jsonl     | convert    | outcome of each object of a series, see Settled; lines are only added     |
| heads/<key>.jsonl       | convert    | what the heads of results say, see inventory; lines are only added        |
| card.json               | report     | when what the data set's card says was last changed                       |
| sheets/<number>.png     | convert    | contact sheet of a series, as it is in the data set                       |
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import ascii_json, json_line, private_folder, private_handle, read_jsonl
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.options import Flag, Section, any_file, flag_only, option, result_folder, same, source_folder
from pacsifier_ops.deid.identity import IDENTITIES, PATIENT_ID
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.run import PseudonymRequest
from pacsifier_ops.pseudonyms.secret import DEFAULT_PROJECT
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.accounts import INCOMPLETE
from pacsifier_ops.runs.folder import KeptRequest
from pacsifier_ops.state.facts import identity_at, identity_of
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import CONTROL, Tree, marker_of

#: Outcomes of objects. An object without one is missing.
DEIDENTIFIED, EXCLUDED, QUARANTINED = "de-identified", "excluded", "quarantined"

#: Reason of a quarantined object whose file is counted elsewhere.
WITHDRAWN = "it is of another patient or series by now, or another file contradicts it"

#: Folder of the outputs during a conversion in place, below the converted folder.
STAGED = f"{CONTROL}/{DEIDENTIFIED}"


def _profile(value: str, name: str, study: str) -> str:
    """A profile: one that comes with the package, by its name, or a file below the data root."""
    from pacsifier_ops.deid.profile import is_shipped

    return value if is_shipped(value) else any_file(value, name)


@dataclass(frozen=True)
class DeidRequest(KeptRequest):
    """The request of a run. A path that is not given is empty. The options describe themselves.

    Attributes:
        allow_empty: a folder without objects is no error.
        contact_sheets: make a contact sheet of each series.
        started: time of the start, ISO 8601.
    """

    in_folder: Path = option(
        "Folder",
        "The folder to be de-identified, with all below it, as a path below the data root.",
        Section.WHAT,
        form="out",
        path=source_folder,
        flag=Flag("folder of the files, with all below it", "-d"),
    )
    out_folder: Path = option(
        "Output folder",
        "Where the results go, as a path below the data root. It is made if need be. The folder itself: in place, and "
        "the originals are gone afterwards.",
        Section.WHERE_TO,
        form="deidentified",
        path=result_folder,
        flag=Flag("where they go, made if need be; the same: in place", "-o"),
    )
    profile: str = option(
        "Profile",
        "default (the basic profile, with dates moved and descriptions cleaned), basic, research or pacsifier, options "
        "of PS3.15 upon it after plus signs, such as pacsifier+device, or the path of a YAML file below the data root.",
        Section.RULES,
        form="default",
        path=_profile,
        flag=Flag(
            "default, basic, research or pacsifier, options of PS3.15 upon it after plus signs, such as "
            "pacsifier+device, or a YAML file (pacsifier)",
            metavar="NAME",
            default="pacsifier",
            extra=True,
        ),
    )
    project: str = same(
        PseudonymRequest,
        "project",
        help="Its linkage says who becomes whom, and its secret for whom no other source does.",
        section=Section.WHO,
        flag=Flag(f"whose secret and linkage hold ({DEFAULT_PROJECT})", metavar="NAME", extra=True),
    )
    identity: str = option(
        "Without PatientID",
        "What tells whose an object is that has no PatientID, where all objects of the folder or study agree.",
        Section.WHO,
        default=PATIENT_ID,
        choices=IDENTITIES,
        flag=Flag(
            "what tells whose an object is that has no PatientID; by itself nothing, and it is quarantined "
            f"({PATIENT_ID})",
            extra=True,
        ),
    )
    linked_only: bool = option(
        "Linked patients only",
        "Objects of patients of whom no source says anything go to quarantine. Otherwise the project's secret says who "
        "they become.",
        Section.WHO,
        default=False,
    )
    new_ids: str = option(
        "Pseudonyms",
        "Path below the data root of a JSON file of pseudonyms by PatientID.",
        Section.WHO,
        default="",
        path=any_file,
        flag=Flag("JSON file of pseudonyms by PatientID", "-n", metavar="FILE"),
    )
    day_shift: str = option(
        "Day shifts",
        "Path below the data root of a JSON file of days by PatientID.",
        Section.WHO,
        default="",
        path=any_file,
        flag=Flag("JSON file of days to move dates by, by PatientID", metavar="FILE", extra=True),
    )
    delete_identifiable: bool = option(
        "Delete identifiable",
        "Leave out objects that likely show who it is, such as screen saves and dose reports. Otherwise they go to "
        "quarantine; into the data set they never go.",
        Section.WHAT,
        default=False,
        form=True,
        flag=Flag(
            "leave out objects that likely show who it is, such as dose reports; without, they are quarantined", "-i"
        ),
    )
    devices: str = option(
        "Device catalogue",
        "Path below the data root of a JSON file that says what to black out of which images.",
        Section.RULES,
        default="",
        path=any_file,
        flag=Flag("JSON file of what to black out of which images", metavar="FILE", extra=True),
    )
    remove_private_tags: bool = option(
        "Remove private tags",
        "No private element stays, whatever profile says.",
        Section.RULES,
        default=False,
        flag=Flag("remove private elements that are safe, too", "-p"),
    )
    fuzz_acq_dates: bool = option(
        "Fuzz acquisition dates",
        "Dates that would stay as they are, are moved by the patient's days.",
        Section.RULES,
        default=False,
        flag=Flag("move dates that the profile would keep", "-a"),
    )
    keep_patient_dir_names: bool = option(
        "Keep names of patients' folders",
        "Only for folders whose names tell nobody who it is: they are not looked at.",
        Section.WHERE_TO,
        default=False,
        flag=Flag("folders of patients keep their names", "-k"),
    )
    description: str = option(
        "Description",
        "What the data set is, and for whom, for its card. Empty: its counts, in a sentence.",
        Section.WHERE_TO,
        default="",
        longest=2000,
        flag=Flag("what the data set is, for its card", metavar="TEXT", extra=True),
    )
    license: str = option(
        "Licence",
        "Licence or terms of use of the data set, for its card: a name, or an address.",
        Section.WHERE_TO,
        default="",
        longest=500,
        flag=Flag("its licence or terms of use, for its card", metavar="TEXT", extra=True),
    )
    ethics: str = option(
        "Ethics",
        "Reference of the approval by the ethics committee, for the card of the data set.",
        Section.WHERE_TO,
        default="",
        longest=200,
        flag=Flag("reference of the ethics committee, for its card", metavar="TEXT", extra=True),
    )
    contact_sheets: bool = flag_only(
        True, Flag("make none to look for burned-in text on", name="no_contact_sheets", extra=True, off=True)
    )
    accept_incomplete: bool = common.accept_incomplete()
    allow_empty: bool = False
    started: str = ""

    @property
    def in_place(self) -> bool:
        """Whether the results replace the objects in their folder."""
        return self.in_folder == self.out_folder


@dataclass
class SourceSeries:
    """A series to be de-identified, or a part of a large one. One line of a unit.

    Attributes:
        number: ordinal among the series of the output tree, from 1.
        key: opaque name of the series.
        patient_id, study_uid, series_uid: identifiers of the series; a patient without PatientID has a substitute (see
            `whose`).
        pseudonym, shift: new identity of the patient.
        folder: folder of the objects below the input folder, for display.
        target: folder of the series below the output folder.
        known: values that identify the patient, by keyword, from all objects of the patient so far.
        counted: whether its images are counted with six or seven digits (see `numbers.Calendar`).
        parts: number of parts of the series; only in units.
        files: path below the input folder (see `upload.run`), size, mtime_ns and SOP Instance UID of each file; only in
            units.
        nameless: SOP Instance UIDs of objects without PatientID; only in units.
        part: ordinal of this part, from 0; only in units.
    """

    number: int
    key: str
    patient_id: str
    study_uid: str
    series_uid: str
    modality: str
    series_number: str
    description: str
    pseudonym: str
    shift: int
    folder: str
    target: str
    known: dict[str, list[str]] = field(default_factory=dict)
    counted: bool = False
    parts: int = 1
    files: list[list[Any]] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)
    part: int = 0

    @property
    def series(self) -> SeriesId:
        """The series in the archive. It may have objects of several patients; this is the part of one."""
        return SeriesId(self.study_uid, self.series_uid)

    @property
    def person(self) -> Person:
        """The new identity of the patient."""
        return Person(self.pseudonym, self.shift)


@dataclass
class Counts:
    """The counts of a series, or of a part of one.

    Attributes:
        number: number of the series.
        state: `incomplete` where objects are missing, else `complete`.
        present: number of objects that an earlier run or attempt de-identified.
        missing: number of objects whose files cannot be read.
        bytes: size of the files of this run.
        seconds: time spent on them.
        reason: why objects are missing, without values.
        part: ordinal of the part, from 0.
    """

    number: int
    modality: str
    state: str = INCOMPLETE
    present: int = 0
    deidentified: int = 0
    excluded: int = 0
    in_quarantine: int = 0
    missing: int = 0
    bytes: int = 0
    seconds: float = 0.0
    reason: str = ""
    part: int = 0


@dataclass
class Settled:
    """The outcome of an object. De-identified objects alone have a new UID and a file.

    Attributes:
        uid: original SOP Instance UID.
        source: path of the source file below the input folder, for display.
        size, mtime_ns: size and modification time of that file.
        outcome: one of the constants above.
        reason: the rule that excluded the object, or why it is in quarantine, without values.
        new_uid: new SOP Instance UID.
        file: path of the result below the output folder.
        written, written_ns: its size and modification time; the time is 0 in results of earlier versions.
        sha256: SHA-256 of its content, hexadecimal; empty in results of earlier versions.
        rules: number of elements by rule id.
        uids: replacement UIDs by original UID, without those that the series had before.
    """

    uid: str
    source: str
    size: int
    mtime_ns: int
    outcome: str
    reason: str = ""
    new_uid: str = ""
    file: str = ""
    written: int = 0
    written_ns: int = 0
    sha256: str = ""
    rules: dict[str, int] = field(default_factory=dict)
    uids: dict[str, str] = field(default_factory=dict)

    def stands_in(self, base: Path) -> bool:
        """Return whether the result is unchanged in its place. It is read only where its time of modification changed.

        Args:
            base: folder of the results.
        """
        path = f"{base}/{self.file}"
        try:
            status = os.stat(path)
            same = status.st_size == self.written
            as_written = not self.sha256 or status.st_mtime_ns == self.written_ns
            return same and (as_written or digest(Path(path)) == self.sha256)
        except OSError:
            return False


class Store:
    """The files that outlive a run (see the second table above).

    Args:
        tree: the output tree.
        identity: the `id` in the marker of the tree.
    """

    def __init__(self, tree: Tree, identity: str) -> None:
        self.id = identity
        self.folder = private_folder(tree.state / "deid" / identity)
        self.names, self.series = self.folder / "names.json", self.folder / "series.jsonl"
        self.unreadable, self.homes = self.folder / "unreadable.jsonl", self.folder / "homes.json"
        self.manifest, self.card = self.folder / "manifest.jsonl", self.folder / "card.json"

    def sheet(self, number: int) -> Path:
        """Return the path of the contact sheet of a series."""
        return private_folder(self.folder / "sheets") / f"{number}.png"

    def heads(self, key: str) -> Path:
        """Return the path of what the heads of the results of a series say."""
        return private_folder(self.folder / "heads") / f"{key}.jsonl"

    def settled(self, key: str, of: AbstractSet[str] | None = None) -> dict[str, Settled]:
        """Return the outcomes of the objects of a series so far, by SOP Instance UID; the last line of each counts.

        Args:
            of: SOP Instance UIDs of the objects that matter; None: all of the series. A large series is converted in
                parts, and to decode all of its lines for each of them takes longer than the parts.
        """
        return {item["uid"]: Settled(**item) for item in _lines(self._path(key), of)}

    def seen(self, key: str) -> list[int]:
        """Return the identity of the file with the outcomes of a series, see `facts.identity_of`; empty without any."""
        return identity_at(self._path(key))

    def uids(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield original and new UID of all replacements in a series, also former ones."""
        return (pair for item in _lines(self._path(key)) for pair in item["uids"].items())

    def digest(self) -> str:
        """Return a SHA-256, hexadecimal, that changes with the series, the unusable files, and every outcome.

        Files of outcomes are looked at, and not read: lines are only added to them.
        """
        whole = hashlib.sha256()
        for path in (self.series, self.unreadable):
            whole.update(f"{digest(path) if path.exists() else ''}\n".encode())
        with os.scandir(self._settled) as entries:
            for name, status in sorted((entry.name, entry.stat()) for entry in entries):
                whole.update(f"{name} {identity_of(status)}\n".encode())
        return whole.hexdigest()

    def settle(self, key: str, item: Settled, durable: bool) -> None:
        """Store the outcome of an object.

        Args:
            key: key of the series.
            item: the outcome.
            durable: flush it to disk, so that it survives a power failure.

        Raises:
            OSError: it cannot be written.
        """
        handle = private_handle(self._path(key), os.O_WRONLY | os.O_APPEND)
        try:
            # The newline comes first, so that a line that was cut off does not damage the next one.
            line = b"\n" + ascii_json(vars(item)).encode()
            if os.write(handle, line) < len(line):  # the disk is almost full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)

    @cached_property
    def _settled(self) -> Path:
        return private_folder(self.folder / "settled")

    def _path(self, key: str) -> Path:
        return self._settled / f"{key}.jsonl"


def store_of(root: Path) -> Store | None:
    """Return the store of an output tree; None where nothing was de-identified into the folder."""
    tree, marker = Tree.existing(root), marker_of(root)
    return Store(tree, marker["id"]) if tree and "id" in marker else None


def series_of(store: Store) -> Iterator[SourceSeries]:
    """Yield the series of an output tree."""
    return (SourceSeries(**item) for item in read_jsonl(store.series)) if store.series.exists() else iter(())


#: Begin of a line with the outcome of an object, as `Store.settle` writes it.
_SETTLED = re.compile(rb'\{"uid":"([^"\\]*)"')


def _lines(path: Path, of: AbstractSet[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file to which lines are added; none where it does not exist.

    Args:
        of: see `Store.settled`. Lines that do not tell at their begin whose they are come as well.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    wanted = None if of is None else {uid.encode(errors="replace") for uid in of}
    for line in lines:
        if wanted is not None and (begin := _SETTLED.match(line)) and begin[1] not in wanted:
            continue
        try:
            item = json_line(line.decode(errors="replace"))
        except ValueError:
            continue
        if isinstance(item, dict):
            yield item
