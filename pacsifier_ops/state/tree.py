"""The output tree: permanent folder names of patients, studies and series, and the states of a tree."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import TreeError
from pacsifier_ops.base.files import close_folder, data_folder, private_folder, read_json, storage_errors, write_json
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.state.leases import LeaseBusy, Leases, shared

#: Folder of the tree for its own state, and for incomplete objects.
CONTROL = ".pacsifier"
LOGS = "logs"
#: Folder of the hand-over report in a released tree.
HANDOVER = "report"
#: Folders in a tree that every run writes texts to.
OF_RUNS = (LOGS, HANDOVER)

#: States of a tree. A tree in conversion contains both kinds of data, and must not be used.
IDENTIFIED, CONVERTING, DEIDENTIFIED = "identified", "converting", "de-identified"

#: File in the state of a tree: the list of files that may be released, see `approved`.
APPROVED = "approved.jsonl"

#: Naming of folders and files of a tree: files by SOP Instance UID, or everything as PACSIFIER 1.0 and DCMTK do.
BY_UID, PACSIFIER = "uid", "pacsifier"
NAMINGS = (BY_UID, PACSIFIER)

_MARKER = "tree.json"
#: File that marks a DICOM file-set (PS3.10 8).
FILE_SET = "DICOMDIR"

_APART = "give a folder apart"
_ACCENTS = re.compile("[\u0300-\u036f]")


def safe(text: str) -> str:
    """Return a text as part of a folder name: without accents; each run of other characters than [0-9A-Za-z] is `_`."""
    return re.sub(r"[^0-9A-Za-z]+", "_", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


def _as_dumped(text: str) -> str:
    """Return a text as PACSIFIER 1.0 reads it in the output of DCMTK's findscu."""
    plain = re.split(r"[\[\]]", text.encode("ascii", "ignore").decode("ascii"))[0]
    return plain.replace(" ", "").replace("'", "_").replace("/", "")


def _kept(text: str) -> str:
    """Return a number or date, which PACSIFIER 1.0 leaves unchanged, without characters that could change the path."""
    return re.sub(r"[^0-9A-Za-z.+-]", "_", _as_dumped(text))


@cache
def _prefixes() -> dict[str, str]:
    with Path(__file__).with_name("dcmtk_names.csv").open(encoding="ascii", newline="") as stream:
        return {row["SOPClassUID"]: row["Prefix"] for row in csv.DictReader(stream)}


def file_name(naming: str, sop_class_uid: str, sop_instance_uid: str) -> str:
    """Return the file name of an object: `<SOPInstanceUID>.dcm`, or `CT.<SOPInstanceUID>` as of DCMTK's movescu."""
    if naming == PACSIFIER:
        return f"{_prefixes().get(sop_class_uid, 'UNKNOWN')}.{sop_instance_uid}"
    return f"{sop_instance_uid}.dcm"


def names_object(name: str, naming: str) -> bool:
    """Return whether a file in the folder of a series is an object, by its name."""
    if naming == PACSIFIER:
        return bool(re.fullmatch(r"[A-Za-z][0-9A-Za-z_]*\.[0-9][0-9.]*", name))
    return name.endswith(".dcm")


def short_hash(identity: str, digits: int = 8) -> str:
    """Return a suffix that separates equal names: hexadecimal digits of the hash of a UID or a patient's identity."""
    return hashlib.sha256(identity.encode()).hexdigest()[:digits]


def _limited(name: str, identity: str) -> str:
    # Values can exceed the length of their VR; a folder name has at most 255 bytes.
    return name if len(name) <= 150 else f"{name[:140]}_{short_hash(identity)}"


def patient_identity(attributes: Mapping[str, str], study_uid: str) -> str:
    """Return the identity of a patient: PatientID with its issuer.

    Without a PatientID, each study is a separate patient.
    """
    patient_id = attributes.get("PatientID", "")
    if not patient_id:
        return f"study:{study_uid}"
    return f"{patient_id}\0{attributes.get('IssuerOfPatientID', '')}"


def patient_folder(attributes: Mapping[str, str], naming: str = BY_UID) -> str:
    """Return `sub-<PatientID>`."""
    patient_id = attributes.get("PatientID", "")
    return "sub-" + (safe(_as_dumped(patient_id) if naming == PACSIFIER else patient_id) or "No_PatientID")


def study_folder(attributes: Mapping[str, str], naming: str = BY_UID) -> str:
    """Return `ses-<StudyDate><StudyTime>`, or empty for a study without a date."""
    clean = _kept if naming == PACSIFIER else safe
    date = clean(attributes.get("StudyDate", ""))
    return f"ses-{date}{clean(attributes.get('StudyTime', ''))}" if date else ""


def series_folder(attributes: Mapping[str, str], naming: str = BY_UID) -> str:
    """Return `<SeriesNumber:05d>-<SeriesDescription>`."""
    number, description = attributes.get("SeriesNumber", ""), attributes.get("SeriesDescription", "")
    if naming == PACSIFIER:
        number, description = _kept(number), _as_dumped(description)
    else:
        number = safe(number)
    return f"{number.zfill(5)}-{safe(description) or 'No_series_description'}"


@dataclass
class Names:
    """Assigned folder names by identity. They never change, and no two identities share a folder.

    Names are compared without case, as in some file systems.

    Attributes:
        given: path below the output folder, by identity.
        naming: one of NAMINGS.
    """

    given: dict[str, str] = field(default_factory=dict)
    naming: str = BY_UID

    def __post_init__(self) -> None:
        self._taken = {path.casefold() for path in self.given.values()}

    def give(self, identity: str, parent: str, name: str) -> str:
        """Return the path of `identity` below the output folder; assign one with `name` below `parent` if necessary."""
        if identity in self.given:
            return self.given[identity]
        name = _limited(name, identity)
        path = f"{parent}/{name}" if parent else name
        wanted, digits = path, 8
        while path.casefold() in self._taken:
            path, digits = f"{wanted}_{short_hash(identity, digits)}", digits + 8
        self.given[identity] = path
        self._taken.add(path.casefold())
        return path

    def series(self, attributes: Mapping[str, str], study_uid: str, series_uid: str) -> str:
        """Return the folder of a series, as a path below the output folder with forward slashes."""
        patient = patient_identity(attributes, study_uid)
        path = self.give("patient:" + patient, "", patient_folder(attributes, self.naming))
        session = study_folder(attributes, self.naming)
        if session:
            # The patient is part of the identity, so two patients' studies never share a folder.
            path = self.give(f"study:{study_uid}\0{patient}", path, session)
        series = SeriesId(study_uid, series_uid)
        before = f"series:{series.before}"
        if self.given.get(before, "").rpartition("/")[0] == path:
            # An earlier version assigned it by the series UID alone: it belongs to this series, or to one of another
            # study.
            self.given.setdefault(f"series:{series}", self.given.pop(before))
        return self.give(f"series:{series}", path, series_folder(attributes, self.naming))

    def folder_of(self, series: SeriesId) -> str | None:
        """Return the folder of a series; None where it has none yet."""
        return self.given.get(f"series:{series}") or self.given.get(f"series:{series.before}")

    def of_series(self) -> Iterator[tuple[SeriesId, str]]:
        """Yield every series with a folder, and the folder."""
        for identity, folder in self.given.items():
            kind, _, uids = identity.partition(":")
            if kind == "series":
                study_uid, _, series_uid = uids.rpartition("_")
                yield SeriesId(study_uid, series_uid), folder


def marker_of(root: Path) -> dict[str, Any]:
    """Return the marker of a tree, above all its `state`; empty where the folder is no tree. Writes nothing.

    Raises:
        TreeError: the marker is invalid.
    """
    try:
        marker = read_json(root / CONTROL / _MARKER)
        if marker["state"] in (IDENTIFIED, CONVERTING, DEIDENTIFIED):
            return dict(marker)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError):
        pass
    raise TreeError(f"{CONTROL}/{_MARKER} of a folder is damaged, so its state is unknown; restore the file")


def naming_of(root: Path) -> str:
    """Return the naming of a tree, one of NAMINGS; BY_UID for one of an earlier version."""
    return str(marker_of(root).get("names", BY_UID))


def state_of(folder: Path) -> str:
    """Return the state of the tree that a folder is, or belongs to; `identified` where it belongs to none."""
    return next((marker["state"] for above in (folder, *folder.parents) if (marker := marker_of(above))), IDENTIFIED)


def refuse_mixed(trees: Iterable[Path]) -> None:
    """Check that these folders are trees of one state, as far as they are trees, before their data are released.

    Raises:
        TreeError: their states differ.
    """
    if len({marker["state"] for root in trees if (marker := marker_of(root))}) > 1:
        raise TreeError("the folder holds both identified and de-identified data; hand over one of them")


def refuse_around(root: Path, state: str, what: str, below: bool = True, itself: bool = True) -> None:
    """Check that data of a state may be written to a folder: trees around it must have the same state.

    Args:
        root: the folder, resolved; it need not exist.
        state: the state of the data.
        what: name of the parameter, for the error.
        below: check trees in the folder as well; all its folders are visited.
        itself: check the folder itself as well.

    Raises:
        TreeError: a tree above, the folder itself, or one below has another state; or it lies in a DICOM file-set.
    """
    identified = state == IDENTIFIED
    for folder in (root, *root.parents) if itself else root.parents:
        found = marker_of(folder).get("state")
        if found is not None and (found == IDENTIFIED) is not identified:
            raise TreeError(f"{what} lies in data that is {found}, and is to hold data that is {state}; {_APART}")
        if folder != root and (folder / FILE_SET).is_file():
            raise TreeError(f"{what} lies in a DICOM file-set, which lists all that belongs to it; {_APART}")
    for folder in _trees_below(root) if below else ():
        found = marker_of(folder)["state"]
        if (found == IDENTIFIED) is not identified:
            raise TreeError(f"{what} holds a folder of data that is {found}, and is to hold {state} data; {_APART}")


def begin(root: Path, marker: Mapping[str, Any], what: str, below: bool = True) -> None:
    """Make a folder a tree with this marker, if trees around it have the same state.

    Args:
        root, what, below: see `refuse_around`.
        marker: the marker.

    Raises:
        TreeError: a tree around it has another state.
    """
    with shared().acquire("trees"):  # if two processes begin nested trees, the second sees the first
        new = not marker_of(root)
        refuse_around(root, marker["state"], what, below and new, itself=False)
        if new:  # an existing list belongs to a tree that was removed
            (state_folder(root) / APPROVED).unlink(missing_ok=True)
        private_folder(root / CONTROL)
        write_marker(root, marker)


def _trees_below(root: Path) -> Iterator[Path]:
    """Yield the trees in a folder, without the folder itself; links are not followed."""
    for folder, below, _ in os.walk(root):
        if CONTROL in below:
            below.remove(CONTROL)
            if Path(folder) != root and marker_of(Path(folder)):
                yield Path(folder)


def write_marker(root: Path, marker: Mapping[str, Any]) -> None:
    """Write the marker of a tree."""
    write_json(root / CONTROL / _MARKER, marker)


def refuse_unfinished(folders: Iterable[Path]) -> None:
    """Check that none of these folders is, or belongs to, a tree in conversion, before its data are released.

    Raises:
        TreeError: one is.
    """
    looked_at: set[Path] = set()
    for folder in folders:
        for root in (folder, *folder.parents):
            if root in looked_at:
                break
            looked_at.add(root)
            if marker_of(root).get("state") == CONVERTING:
                raise TreeError(
                    "the folder is half de-identified, and nothing of it is handed over; de-identify it again"
                )


def state_folder(root: Path) -> Path:
    """Return the protected folder for the state of a tree; it need not exist."""
    return settings.state_root() / "trees" / hashlib.sha256(str(root).encode()).hexdigest()[:16]


def _has_links(root: Path) -> bool:
    """Return whether the control folder is a link, so that cleaning up would change files elsewhere."""
    return (root / CONTROL).is_symlink() or (root / CONTROL / "incoming").is_symlink()


def _refuse_links(root: Path) -> None:
    if _has_links(root):
        raise TreeError(f"{CONTROL} in the output folder is a link; give another out_directory")


@dataclass(frozen=True)
class Tree:
    """An output folder and its protected state outside of it.

    Attributes:
        root: the folder.
        state: folder of the ledger and the names of this tree.
        holds: state that the folder must have during work there; empty: any.
        naming: one of NAMINGS; the naming never changes.
    """

    root: Path
    state: Path
    holds: str = ""
    naming: str = BY_UID

    @classmethod
    def open(cls, root: Path, naming: str | None = None) -> Tree:
        """Open an output folder for writing identified data; create it if necessary.

        Args:
            root: the folder.
            naming: one of NAMINGS; None: the naming with which it was begun, BY_UID for a new one.

        Raises:
            TreeError: the folder cannot be written, contains data that are not identified, or was begun with another
                naming: other names would create second copies.
        """
        try:
            root = root.resolve()
            refuse_around(root, IDENTIFIED, "the output folder", below=False)  # before anything is created there
            private_folder(root)
            _refuse_links(root)
            if not marker_of(root):
                begin(root, {"state": IDENTIFIED, "names": naming or BY_UID}, "the output folder")
                close_folder(root)
            begun = naming_of(root)
        except OSError as error:
            raise TreeError(f"the output folder cannot be written: {error.strerror}; check out_directory") from error
        if naming not in (None, begun):
            raise TreeError(
                f"the output folder was begun with names: {begun}, and keeps them, or it would hold everything twice; "
                "leave names out, or give another out_directory"
            )
        return cls(root, private_folder(state_folder(root)), IDENTIFIED, begun)

    @classmethod
    def existing(cls, root: Path) -> Tree | None:
        """Return the tree of an output folder that was opened before; None otherwise. Writes nothing."""
        root = root.resolve()
        there = (root / CONTROL / _MARKER).is_file() and not _has_links(root)
        return cls(root, state_folder(root)) if there else None

    @classmethod
    def around(cls, folder: Path) -> Tree | None:
        """Return the tree that a folder is, or is part of; None otherwise. Writes nothing."""
        return next((tree for above in (folder, *folder.parents) if (tree := cls.existing(above))), None)

    @classmethod
    def convert(cls, root: Path, stamp: Mapping[str, str], in_place: bool, run: str) -> Tree:
        """Open a folder for writing de-identified data, and mark it as being converted.

        Args:
            root: the folder.
            stamp: summary of the settings that determine the result; it must be the same for all data in the folder.
            in_place: the identified data are in the folder itself.
            run: id of the run that converts it and may mark it as de-identified; of several, the last one.

        Raises:
            TreeError: the folder cannot be written, has other content, or was begun with another stamp.
        """
        try:
            root = root.resolve()
            refuse_around(root, CONVERTING, "out_folder", below=False, itself=False)  # before anything is created there
            data_folder(root)
            _refuse_links(root)
            marker = marker_of(root)
            if marker.get("state", IDENTIFIED) == IDENTIFIED:
                if not in_place and (marker or any(entry.name != CONTROL for entry in root.iterdir())):
                    raise TreeError(
                        "out_folder holds something else already; de-identified data is never mixed with it: "
                        "give an empty folder, or one that is not there yet"
                    )
                marker = {"id": secrets.token_hex(8), "in_place": in_place, "stamp": dict(stamp)}
            elif marker.get("in_place") is not in_place or (in_place and marker["state"] == DEIDENTIFIED):
                raise TreeError(f"the folder holds data that is {marker['state']} already; give another one")
            elif marker["stamp"] != dict(stamp):
                wrong = [name for name, value in stamp.items() if marker["stamp"].get(name) != value]
                raise TreeError(
                    f"the data in out_folder was begun with other settings ({', '.join(wrong)}), and would not fit "
                    "together; give another folder, or the settings of before"
                )
            begin(root, {**marker, "state": CONVERTING, "run": run}, "out_folder", below=not in_place)
        except OSError as error:
            raise TreeError(f"out_folder cannot be written: {error.strerror}; check it") from error
        return cls(root, private_folder(state_folder(root)))

    def in_use(self, leases: Leases) -> bool:
        """Return whether a process is adding objects to the tree."""
        with suppress(FileNotFoundError):
            return any(leases.holder(self.workplace_lease(folder)) is not None for folder in self.incoming.iterdir())
        return False

    @property
    def incoming(self) -> Path:
        """Folder of the workplaces, each protected by a lease during work there."""
        return self.root / CONTROL / "incoming"

    @contextmanager
    def workplace(self, leases: Leases) -> Iterator[Path]:
        """Yield a folder for incomplete objects, on the tree's own file system; it is removed at the end.

        Folders of killed processes, whose leases have no holder, are removed before.

        Raises:
            StorageError: the output folder cannot be written.
            TreeError: the folder has another state by now.
        """
        with storage_errors("the output folder"):
            home = private_folder(self.incoming)
            for left in home.iterdir():
                with suppress(LeaseBusy), leases.acquire(self.workplace_lease(left), wait=0):
                    shutil.rmtree(left, ignore_errors=True)
        folder = home / secrets.token_hex(8)
        with leases.acquire(self.workplace_lease(folder), wait=0):
            with storage_errors("the output folder"):
                private_folder(folder)
            try:
                # A conversion marks the folder first and then looks for workplaces, so one of the two sees the other.
                if self.holds and (state := marker_of(self.root).get("state")) != self.holds:
                    raise TreeError(f"the output folder holds data that is {state} by now; give another out_directory")
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def workplace_lease(self, folder: Path) -> str:
        """Return the name of the lease of a workplace."""
        return f"incoming:{self.key}:{folder.name}"

    @property
    def key(self) -> str:
        """Opaque name of the tree, for leases."""
        return self.state.name

    def load_names(self) -> Names:
        """Read the assigned names. Hold the tree's `names` lease if you will add names."""
        path = self.state / "names.json"
        return Names(read_json(path) if path.exists() else {}, self.naming)

    def save_names(self, names: Names) -> None:
        """Store the names."""
        write_json(self.state / "names.json", names.given)
