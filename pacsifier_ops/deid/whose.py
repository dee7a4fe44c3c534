"""Whose an object is that has no PatientID: told by its folder or by its study, where somebody asked for that.

An object with a PatientID is always that patient's. One without is

- of the one patient of whom the other objects of its folder, or study, have the PatientID; else
- of a patient who has no PatientID anywhere, and whom the folder or the study stands for.

It is nobody's, and goes to quarantine, where its folder or study holds objects of several patients, or names or birth
dates that contradict each other, or where its study lies in several folders. A folder is the topmost one below the
input folder; that in which an extraction puts whoever has no PatientID is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.files import readable
from pacsifier_ops.tree import patient_folder

if TYPE_CHECKING:
    from pacsifier_ops.deid.run import DeidRequest
    from pacsifier_ops.dimse.objects import DicomFile

#: What tells whose an object is.
PATIENT_ID, FOLDER, STUDY = "patient_id", "folder", "study"
IDENTITIES = (PATIENT_ID, FOLDER, STUDY)

NO_ID = "it has no PatientID, so nobody can say whose it is"
_NO_FOLDER = "it has no PatientID, and lies in no folder of its own that could tell whose it is"
_SEVERAL = "it has no PatientID, and its {} holds objects of several patients"
_CONTRADICTION = "it has no PatientID, and names or birth dates in its {} contradict each other"
_TWO_FOLDERS = "it has no PatientID, and its study lies in several folders; let the study tell whose it is"


@dataclass
class Home:
    """What the objects of a folder, or of a study, say of their patient.

    Attributes:
        ids, names, births: the different ones, without the empty; names as they are compared.
    """

    ids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)

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


class Homes:
    """Finds whose the objects of a folder are that have no PatientID.

    Args:
        files: all objects that the folder holds.
        request: names the folder, and what tells.
        before: what homes said in an earlier run, by name: in place, what was converted is there no more.
    """

    def __init__(self, files: Iterable[DicomFile], request: DeidRequest, before: dict[str, Home]) -> None:
        self.homes = before
        self._root, self._identity = request.in_folder, (identity := request.identity)
        studies: dict[str, set[str]] = {}
        for file in files if identity != PATIENT_ID else ():
            if not (name := self._name(file)):
                continue
            home = self.homes.setdefault(name, Home())
            home.ids |= {*file.patient_id.split("\\")} - {""}
            home.names |= {_compared(file.patient_name)} - {""}
            home.births |= {file.birth_date} - {""}
            if not file.patient_id:
                studies.setdefault(file.study_uid, set()).add(name)
        self._scattered = {study for study, names in studies.items() if len(names) > 1}

    def as_kept(self) -> dict[str, list[list[str]]]:
        """What the homes say, as JSON can hold it."""
        return {name: [sorted(h.ids), sorted(h.names), sorted(h.births)] for name, h in self.homes.items()}

    def whose(self, file: DicomFile) -> tuple[str, str]:
        """Who stands for the patient of an object without a PatientID; or why nobody does."""
        name = "" if self._identity == PATIENT_ID else self._name(file)
        if not name:
            return "", NO_ID if self._identity == PATIENT_ID else _NO_FOLDER
        home = self.homes[name]
        if fault := home.fault(self._identity) or (_TWO_FOLDERS if file.study_uid in self._scattered else ""):
            return "", fault
        return next(iter(home.ids), key_of(self._identity, name)), ""

    def _name(self, file: DicomFile) -> str:
        if self._identity == STUDY:
            return file.study_uid
        parts = file.path.relative_to(self._root).parts
        name = readable(Path(parts[0])) if len(parts) > 1 else ""
        return "" if name == patient_folder({}) or "\ufffd" in name else name


def _compared(name: str) -> str:
    """A name without case, accents, order and punctuation; empty where it stands for nobody."""
    from pacsifier_ops.deid.identifiers import names_nobody, normal

    letters, _, others = name.partition("=")  # the same name in letters and in ideographs
    words = normal(letters or others)
    return "" if names_nobody(words) else " ".join(sorted(words.split()))
