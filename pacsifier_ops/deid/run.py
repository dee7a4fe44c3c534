"""What a de-identification is asked for, and what its steps keep.

In the run's folder, beside the files of every job (see `runs.job`; the items of a unit are series, see SourceSeries):

| file                    | written by | what                                                                      |
|-------------------------|------------|---------------------------------------------------------------------------|
| manifest.jsonl          | report     | what became of every object, without identifiers                          |
| contact-sheets-<n>.html | report     | the contact sheets of fifty series                                        |
| sheets.json             | report     | first and last series of each of these, and its name                      |

Beside the state of the output tree, below `deid/<id>/`, for what is to outlive a run:

| file                    | written by | what                                                                      |
|-------------------------|------------|---------------------------------------------------------------------------|
| names.json              | prepare    | folder names given so far                                                 |
| series.jsonl            | prepare    | every series so far, see SourceSeries                                     |
| homes.json              | prepare    | in place: what folders or studies said of their patients, see `whose.Home`|
| unreadable.jsonl        | prepare    | files that cannot be taken for an object, with the reason                 |
| settled/<key>.jsonl     | convert    | what became of each object of a series, see Settled; lines are only added |
| sheets/<number>.png     | convert    | contact sheet of a series, as it is in the data set                       |
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import private_folder, private_handle, read_jsonl
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.options import Flag, Section, any_file, flag_only, option, result_folder, same, source_folder
from pacsifier_ops.deid.whose import IDENTITIES, PATIENT_ID
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.run import PseudonymRequest
from pacsifier_ops.pseudonyms.secret import DEFAULT_PROJECT
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.accounts import INCOMPLETE
from pacsifier_ops.runs.folder import Kept
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import CONTROL, Tree, marker_of

#: What becomes of an object. Whatever has none of these is missing.
DEIDENTIFIED, EXCLUDED, QUARANTINED = "de-identified", "excluded", "quarantined"

#: Why an object is in quarantine whose file is accounted for elsewhere.
WITHDRAWN = "it is of another patient or series by now, or another file contradicts it"

#: Where outputs lie while a folder is converted in place, below the folder.
STAGED = f"{CONTROL}/{DEIDENTIFIED}"


def _profile(value: str, name: str, study: str) -> str:
    """A profile: one that comes with the package, by its name, or a file below the data root."""
    from pacsifier_ops.deid.profile import is_shipped

    return value if is_shipped(value) else any_file(value, name)


@dataclass(frozen=True)
class DeidRequest(Kept):
    """What a run was asked for. Paths that are not given are empty; of the rest, the options tell.

    Attributes:
        allow_empty: a folder without any object is no error.
        contact_sheets: make a contact sheet of every series.
        started: ISO 8601.
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
    contact_sheets: bool = flag_only(
        True, Flag("make none to look for burned-in text on", name="no_contact_sheets", extra=True, off=True)
    )
    accept_incomplete: bool = common.accept_incomplete()
    allow_empty: bool = False
    started: str = ""

    @property
    def in_place(self) -> bool:
        """Whether the objects are replaced where they are."""
        return self.in_folder == self.out_folder


@dataclass
class SourceSeries:
    """A series to be de-identified, or a part of a large one: a line of a unit.

    Attributes:
        number: ordinal among the series of the output tree, from 1.
        key: opaque name of the series.
        patient_id, study_uid, series_uid: whose and which it is; of a patient without a PatientID, what stands for
            one (see `whose`).
        pseudonym, shift: who the patient becomes.
        folder: of the objects, below the input folder, for people.
        target: of the series below the output folder.
        known: values that tell who the patient is, of all objects of the patient so far, by keyword.
        counted: whether its images are counted with six or seven digits (see `numbers.Calendar`).
        parts: how many parts the series is in; part: which of them this is, from 0; only in units.
        files: path below the input folder (see `upload.run`), size, mtime_ns and SOP Instance UID of each; only in
            units.
        nameless: SOP Instance UIDs of those without a PatientID; only in units.
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
        """Which series of the archive it is; of one patient, where it is several's."""
        return SeriesId(self.study_uid, self.series_uid)

    @property
    def person(self) -> Person:
        """Who the patient becomes."""
        return Person(self.pseudonym, self.shift)


@dataclass
class Counts:
    """How far a series is.

    Attributes:
        number: of the series; part: of it, from 0.
        state: complete, or incomplete: objects are missing.
        present: objects that an earlier run, or an earlier attempt, has de-identified.
        missing: objects whose files cannot be read.
        bytes, seconds: of files read, and spent on them, in this run.
        reason: why objects are missing; no values.
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
    """What became of an object.

    Attributes:
        uid: SOP Instance UID that it had.
        source: path of its file below the input folder, as text for people.
        size, mtime_ns: of that file.
        outcome: one of the constants above.
        reason: the rule that excluded it, or why it is in quarantine; no values.
        new_uid, file, written, written_ns, sha256: SOP Instance UID that it has now, path of the file below the output
            folder, its size, when it was last modified, and the SHA-256 of its content, hexadecimal; of de-identified
            objects only. The last two are empty where an earlier version made it.
        rules: how often each rule was applied.
        uids: UIDs by the ones that they replace, those that the series had not before.
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
        """Whether the result is where it was put, as it was; it is read only where it was touched since.

        Args:
            base: the folder that results lie in.
        """
        path = base / self.file
        try:
            status = path.stat()
            same = status.st_size == self.written
            return same and (not self.sha256 or status.st_mtime_ns == self.written_ns or digest(path) == self.sha256)
        except OSError:
            return False


class Store:
    """What is known of an output tree, see the table above.

    Args:
        tree: the output tree.
        identity: the `id` that the tree says of itself.
    """

    def __init__(self, tree: Tree, identity: str) -> None:
        self.id = identity
        self.folder = private_folder(tree.state / "deid" / identity)
        self.names, self.series = self.folder / "names.json", self.folder / "series.jsonl"
        self.unreadable, self.homes = self.folder / "unreadable.jsonl", self.folder / "homes.json"

    def sheet(self, number: int) -> Path:
        """Where the contact sheet of a series lies, if it has one."""
        return private_folder(self.folder / "sheets") / f"{number}.png"

    def settled(self, key: str) -> dict[str, Settled]:
        """What became of the objects of a series so far, by SOP Instance UID; the last word on each holds."""
        return {item["uid"]: Settled(**item) for item in _lines(self._path(key))}

    def uids(self, key: str) -> Iterator[tuple[str, str]]:
        """Every UID of a series that was ever replaced, and the one that it became."""
        return (pair for item in _lines(self._path(key)) for pair in item["uids"].items())

    def settle(self, key: str, item: Settled, durable: bool) -> None:
        """Keep what became of an object.

        Args:
            durable: it is kept even if the machine fails the moment after.

        Raises:
            OSError: it cannot be kept.
        """
        handle = private_handle(self._path(key), os.O_WRONLY | os.O_APPEND)
        try:
            # The line's end comes first: a line that was torn spoils no other.
            line = b"\n" + json.dumps(vars(item), separators=(",", ":")).encode()
            if os.write(handle, line) < len(line):  # what a disk does that is about to be full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)

    def _path(self, key: str) -> Path:
        return private_folder(self.folder / "settled") / f"{key}.jsonl"


def store_of(root: Path) -> Store | None:
    """What is known of an output tree; None where nothing was de-identified into the folder."""
    tree, marker = Tree.existing(root), marker_of(root)
    return Store(tree, marker["id"]) if tree and "id" in marker else None


def series_of(store: Store) -> Iterator[SourceSeries]:
    """The series of an output tree."""
    return (SourceSeries(**item) for item in read_jsonl(store.series)) if store.series.exists() else iter(())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file that is only added to; nothing where it is not there."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.split("\n"):
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item, dict):
            yield item
