"""The output tree: which folder a patient, study and series get, once and for ever, and who may write there."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pacsifier_ops import settings
from pacsifier_ops.errors import TreeError
from pacsifier_ops.files import private_folder, read_json, storage_errors, write_json
from pacsifier_ops.leases import LeaseBusy, Leases

#: The tree's own folder: its state, and objects on their way in.
CONTROL = ".pacsifier"
LOGS = "logs"
IDENTIFIED = "identified"

_ACCENTS = re.compile("[\u0300-\u036f]")


def safe(text: str) -> str:
    """Text as part of a folder name: accents dropped, everything but [0-9A-Za-z] becomes one `_` per run."""
    return re.sub(r"[^0-9A-Za-z]+", "_", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


def short_hash(identity: str, digits: int = 8) -> str:
    """What tells colliding names apart: hexadecimal digits of a UID or of a patient's identity."""
    return hashlib.sha256(identity.encode()).hexdigest()[:digits]


def _limited(name: str, identity: str) -> str:
    # Values longer than their VR allows do occur; a folder name has room for 255 bytes.
    return name if len(name) <= 150 else f"{name[:140]}_{short_hash(identity)}"


def patient_identity(attributes: Mapping[str, str], study_uid: str) -> str:
    """Who the patient is: PatientID with its issuer; without a PatientID every study is somebody else."""
    patient_id = attributes.get("PatientID", "")
    if not patient_id:
        return f"study:{study_uid}"
    return f"{patient_id}\0{attributes.get('IssuerOfPatientID', '')}"


def patient_folder(attributes: Mapping[str, str]) -> str:
    """`sub-<PatientID>`."""
    return "sub-" + (safe(attributes.get("PatientID", "")) or "No_PatientID")


def study_folder(attributes: Mapping[str, str]) -> str:
    """`ses-<StudyDate><StudyTime>`, or empty for a study without a date."""
    date = safe(attributes.get("StudyDate", ""))
    return f"ses-{date}{safe(attributes.get('StudyTime', ''))}" if date else ""


def series_folder(attributes: Mapping[str, str]) -> str:
    """`<SeriesNumber:05d>-<SeriesDescription>`."""
    number = safe(attributes.get("SeriesNumber", "")).zfill(5)
    return f"{number}-{safe(attributes.get('SeriesDescription', '')) or 'No_series_description'}"


@dataclass
class Names:
    """Folder names given so far: identity → name, never changed; no two identities share a folder.

    Names are compared without regard to case, as some file systems do.
    """

    given: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._taken = {path.casefold() for path in self.given.values()}

    def give(self, identity: str, parent: str, name: str) -> str:
        """The path below the output folder for `identity`, which wants to be called `name` below `parent`."""
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
        """The folder of a series, as a path below the output folder with forward slashes."""
        patient = patient_identity(attributes, study_uid)
        path = self.give("patient:" + patient, "", patient_folder(attributes))
        session = study_folder(attributes)
        if session:
            # The patient belongs to the identity: two patients' studies never share a folder.
            path = self.give(f"study:{study_uid}\0{patient}", path, session)
        return self.give("series:" + series_uid, path, series_folder(attributes))


def _state_of(root: Path) -> Path:
    return settings.state_root() / "trees" / hashlib.sha256(str(root).encode()).hexdigest()[:16]


def _leads_away(root: Path) -> bool:
    """Whether what we clear up in an output folder would lie elsewhere."""
    return (root / CONTROL).is_symlink() or (root / CONTROL / "incoming").is_symlink()


@dataclass(frozen=True)
class Tree:
    """An output folder and its protected state outside of it.

    Attributes:
        root: the folder.
        state: folder of the ledger and the names of this tree.
    """

    root: Path
    state: Path

    @classmethod
    def open(cls, root: Path) -> Tree:
        """Open an output folder for writing identified data, making it where needed.

        Raises:
            TreeError: the folder cannot be written, or holds data that is not identified.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            root = root.resolve()
            private_folder(root / CONTROL)
            if _leads_away(root):
                raise TreeError(f"{CONTROL} in the output folder is a link; give another out_directory")
            marker = root / CONTROL / "tree.json"
            state = read_json(marker).get("state") if marker.exists() else IDENTIFIED
            if state != IDENTIFIED:
                raise TreeError(
                    f"the output folder holds data that is {state}; identified data is never mixed with it: "
                    "give another out_directory"
                )
            if not marker.exists():
                write_json(marker, {"state": IDENTIFIED})
        except OSError as error:
            raise TreeError(f"the output folder cannot be written: {error.strerror}; check out_directory") from error
        return cls(root, private_folder(_state_of(root)))

    @classmethod
    def existing(cls, root: Path) -> Tree | None:
        """The tree of an output folder that was opened before; None if it was not. Writes nothing."""
        root = root.resolve()
        there = (root / CONTROL / "tree.json").is_file() and not _leads_away(root)
        return cls(root, _state_of(root)) if there else None

    @property
    def incoming(self) -> Path:
        """Where the workplaces are, each held by a lease as long as somebody works there."""
        return self.root / CONTROL / "incoming"

    @contextmanager
    def workplace(self, leases: Leases) -> Iterator[Path]:
        """A folder for objects on their way in, on the tree's own file system; gone at the end.

        Removes first what processes left that were killed: nobody holds the lease of their folder any more.

        Raises:
            StorageError: the output folder cannot be written.
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
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def workplace_lease(self, folder: Path) -> str:
        """Name of the lease of a workplace."""
        return f"incoming:{self.key}:{folder.name}"

    @property
    def key(self) -> str:
        """Opaque name of the tree, for leases."""
        return self.state.name

    def load_names(self) -> Names:
        """The names given so far. Call under the tree's `names` lease when going to add to them."""
        path = self.state / "names.json"
        return Names(read_json(path) if path.exists() else {})

    def save_names(self, names: Names) -> None:
        """Keep the names."""
        write_json(self.state / "names.json", names.given)
