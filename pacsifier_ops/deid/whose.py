"""Whose an object is that has no PatientID: told by its folder or by its study, where somebody asked for that.

An object with a PatientID is always that patient's. One without is

- of the one patient of whom the other objects of its folder, or study, have the PatientID; else
- of a patient who has no PatientID anywhere, and whom the folder or the study stands for.

It is nobody's, and goes to quarantine, where its folder or study holds objects of several patients, or names or birth
dates that contradict each other, or where its study lies in several folders, also as a copy or a link. A folder is the
topmost one below the input folder; that in which an extraction puts whoever has no PatientID is nobody's.

Many discs have a folder `001` or `IMAGES`. So a project remembers what a folder said that stands for a patient, and one
of that name in a later run is the same patient only where it says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.base.files import read_json, readable, write_json
from pacsifier_ops.state.tree import patient_folder

if TYPE_CHECKING:
    from pacsifier_ops.deid.run import DeidRequest
    from pacsifier_ops.dicom.files import DicomFile
    from pacsifier_ops.pseudonyms.secret import Secret

#: What tells whose an object is.
PATIENT_ID, FOLDER, STUDY = "patient_id", "folder", "study"
IDENTITIES = (PATIENT_ID, FOLDER, STUDY)

NO_ID = "it has no PatientID, so nobody can say whose it is"
_NO_FOLDER = "it has no PatientID, and lies in no folder of its own that could tell whose it is"
_SEVERAL = "it has no PatientID, and its {} holds objects of several patients"
_CONTRADICTION = "it has no PatientID, and names or birth dates in its {} contradict each other"
_TWO_FOLDERS = "it has no PatientID, and its study lies in several folders; let the study tell whose it is"
_OTHER_RUN = (
    "it has no PatientID, and nothing shows that its folder is of the patient whose folder had this name in an earlier "
    "run of the project; rename the folder, give another project, or give both folders' objects in one folder"
)


@dataclass
class Home:
    """What the objects of a folder, or of a study, say of their patient.

    Attributes:
        ids, names, births, studies: the different ones, without the empty; names as they are compared.
    """

    ids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    studies: set[str] = field(default_factory=set)

    def fault(self, what: str) -> str:
        """Why it cannot tell who a patient is; empty where it can."""
        if len(self.ids) > 1:
            return _SEVERAL.format(what)
        return _CONTRADICTION.format(what) if len(self.names) > 1 or len(self.births) > 1 else ""


def key_of(identity: str, name: str) -> str:
    """What stands for a patient who has no PatientID; no PatientID has a backslash in it."""
    return f"{identity}\\{name}"


def told_by(patient: str) -> tuple[str, str]:
    """What tells who a patient is, and its name: the PatientID, or that of the folder or study."""
    identity, divided, name = patient.partition("\\")
    return (identity, name) if divided else (PATIENT_ID, patient)


def identifying(patient: str) -> str:
    """What must be found nowhere: the PatientID, or the name of the folder, without `sub-`; of a study, its UID is."""
    identity, name = told_by(patient)
    return "" if identity == STUDY else name.removeprefix("sub-") if identity == FOLDER else name


class Remembered:
    """What folders said that stood for patients in earlier runs of a project, as digests by the project's secret.

    Args:
        path: where it is kept.
        secret: the project's.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, secret: Secret) -> None:
        self._path, self._secret = path, secret
        self._kept: dict[str, list[list[str]]] = read_json(path) if path.exists() else {}

    def same(self, name: str, home: Home) -> bool:
        """Whether a folder is of the patient whom one of its name stood for, as far as anybody can say."""
        if name not in self._kept:
            return True
        pairs = [(set(kept), set(now)) for kept, now in zip(self._kept[name], self._digests(home), strict=True)]
        names, births, studies = pairs
        contradictory = any(len(kept | now) > 1 for kept, now in (names, births))
        return not contradictory and any(kept & now for kept, now in (names, studies))

    def keep(self, homes: dict[str, Home]) -> None:
        """Remember also what these folders say, by name.

        Raises:
            OSError: it cannot be written.
        """
        for name, home in homes.items():
            said = self._digests(home)
            kept = self._kept.get(name, [[] for _ in said])
            self._kept[name] = [sorted({*old, *new}) for old, new in zip(kept, said, strict=True)]
        if homes:
            write_json(self._path, self._kept)

    def _digests(self, home: Home) -> list[list[str]]:
        return [
            [self._secret.digest("folder", value).hex()[:32] for value in values]
            for values in (home.names, home.births, home.studies)
        ]


class Homes:
    """Finds whose the objects of a folder are that have no PatientID.

    Args:
        files: all objects that the folder holds, second copies too: which of them comes first must not matter.
        request: names the folder, and what tells.
        before: what homes said in an earlier run, by name: in place, what was converted is there no more.
        remembered: what folders said in earlier runs of the project.
    """

    def __init__(
        self, files: Iterable[DicomFile], request: DeidRequest, before: dict[str, Home], remembered: Remembered
    ) -> None:
        self.homes = before
        self._root, self._identity = request.in_folder, (identity := request.identity)
        for file in files if identity != PATIENT_ID else ():
            home = self.homes.setdefault(self._place(file), Home())
            home.ids |= {*file.patient_id.split("\\")} - {""}
            home.names |= {_compared(file.patient_name)} - {""}
            home.births |= {file.birth_date} - {""}
            home.studies.add(file.study_uid)
        counts = Counter(study for home in self.homes.values() for study in home.studies)
        self._scattered = {study for study, count in counts.items() if count > 1}
        self._same = cache(lambda name: identity != FOLDER or remembered.same(name, self.homes[name]))

    def as_kept(self) -> dict[str, list[list[str]]]:
        """What the homes say, as JSON can hold it."""
        return {name: [*map(sorted, (h.ids, h.names, h.births, h.studies))] for name, h in self.homes.items()}

    def scattered(self, file: DicomFile) -> bool:
        """Whether the study of an object lies in several folders, and folders are to tell whose it is."""
        return file.study_uid in self._scattered

    def whose(self, file: DicomFile) -> tuple[str, str]:
        """Who stands for the patient of an object without a PatientID; or why nobody does."""
        if self._identity == PATIENT_ID:
            return "", NO_ID
        name = self._place(file)
        if name in ("", patient_folder({})) or (self._identity == FOLDER and "\ufffd" in name):
            return "", _NO_FOLDER
        home = self.homes[name]
        if fault := home.fault(self._identity) or (_TWO_FOLDERS if self.scattered(file) else ""):
            return "", fault
        if home.ids:
            return next(iter(home.ids)), ""
        return (key_of(self._identity, name), "") if self._same(name) else ("", _OTHER_RUN)

    def _place(self, file: DicomFile) -> str:
        if self._identity == STUDY:
            return file.study_uid
        parts = file.path.relative_to(self._root).parts
        return readable(Path(parts[0])) if len(parts) > 1 else ""


def _compared(name: str) -> str:
    """A name without case, accents, order and punctuation; empty where it stands for nobody."""
    from pacsifier_ops.deid.identifiers import names_nobody, normal

    letters, _, others = name.partition("=")  # the same name in letters and in ideographs
    words = normal(letters or others)
    return "" if names_nobody(words) else " ".join(sorted(words.split()))
