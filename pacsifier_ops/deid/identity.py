"""Assigns objects without a PatientID to a patient, by their folder or their study, where the user chose that.

An object with a PatientID always belongs to that patient. An object without one belongs

- to the one patient whose PatientID the other objects of its folder (or study) have; else
- to a patient without any PatientID, whom the folder (or study) represents.

The object stays unassigned and goes to quarantine in these cases: its folder or study holds objects of several
patients; patient names or birth dates there contradict each other; or its study lies in several folders, also as a copy
or a link. A folder here is a topmost folder below the input folder. The folder in which an extraction collects all
patients without a PatientID represents nobody.

Many discs have a folder `001` or `IMAGES`. So a project records what it knows of each folder that represents a patient.
A folder of the same name in a later run is the same patient only where its objects agree with that record.
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
IDENTITIES = {
    PATIENT_ID: "nothing else does, and it is quarantined",
    FOLDER: "the topmost folder that it lies in",
    STUDY: "its Study Instance UID",
}

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
class ObjectGroup:
    """Attribute values that the objects of a folder, or of a study, have for their patient.

    Attributes:
        ids, names, births, studies: distinct non-empty values of PatientID, PatientName (normalised for comparison),
            PatientBirthDate and StudyInstanceUID.
    """

    ids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    studies: set[str] = field(default_factory=set)

    def fault(self, what: str) -> str:
        """Return why the values do not determine one patient; empty where they do.

        Args:
            what: `folder` or `study`, for the message.
        """
        if len(self.ids) > 1:
            return _SEVERAL.format(what)
        return _CONTRADICTION.format(what) if len(self.names) > 1 or len(self.births) > 1 else ""


def key_of(identity: str, name: str) -> str:
    """Return the key of a patient without a PatientID. It contains a backslash, which no PatientID does."""
    return f"{identity}\\{name}"


def split_key(patient: str) -> tuple[str, str]:
    """Split a patient's key into the kind of identity (`IDENTITIES`) and the PatientID, folder name or study UID."""
    identity, divided, name = patient.partition("\\")
    return (identity, name) if divided else (PATIENT_ID, patient)


def identifying(patient: str) -> str:
    """Return the identifier that must appear nowhere in the results.

    This is the PatientID, or the name of the folder without `sub-`. It is empty for a study: its UID is checked as a
    UID.
    """
    identity, name = split_key(patient)
    return "" if identity == STUDY else name.removeprefix("sub-") if identity == FOLDER else name


class FolderRecords:
    """What earlier runs of a project knew of the folders that represent patients.

    The values are digests by the project's secret.

    Args:
        path: JSON file of the records.
        secret: secret of the project.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, secret: Secret) -> None:
        self._path, self._secret = path, secret
        self._kept: dict[str, list[list[str]]] = read_json(path) if path.exists() else {}

    def same(self, name: str, group: ObjectGroup) -> bool:
        """Return whether a folder may represent the same patient as the recorded folder of that name."""
        if name not in self._kept:
            return True
        pairs = [(set(kept), set(now)) for kept, now in zip(self._kept[name], self._digests(group), strict=True)]
        names, births, studies = pairs
        contradictory = any(len(kept | now) > 1 for kept, now in (names, births))
        return not contradictory and any(kept & now for kept, now in (names, studies))

    def keep(self, groups: dict[str, ObjectGroup]) -> None:
        """Add the values of these folders, by name, to the records.

        Raises:
            OSError: the file cannot be written.
        """
        for name, group in groups.items():
            said = self._digests(group)
            kept = self._kept.get(name, [[] for _ in said])
            self._kept[name] = [sorted({*old, *new}) for old, new in zip(kept, said, strict=True)]
        if groups:
            write_json(self._path, self._kept)

    def _digests(self, group: ObjectGroup) -> list[list[str]]:
        return [
            [self._secret.digest("folder", value).hex()[:32] for value in values]
            for values in (group.names, group.births, group.studies)
        ]


class PatientAssigner:
    """Assigns objects without a PatientID to patients.

    Args:
        files: all objects of the input folder, also duplicates: the result must not depend on their order.
        request: has the input folder and the kind of identity.
        before: values from an earlier run, by name of the folder or study. A conversion in place has removed those
            objects since.
        records: those of earlier runs of the project.
    """

    def __init__(
        self, files: Iterable[DicomFile], request: DeidRequest, before: dict[str, ObjectGroup], records: FolderRecords
    ) -> None:
        self.groups = before
        self._root, self._identity = request.in_folder, (identity := request.identity)
        for file in files if identity != PATIENT_ID else ():
            group = self.groups.setdefault(self._place(file), ObjectGroup())
            group.ids |= {*file.patient_id.split("\\")} - {""}
            group.names |= {_compared(file.patient_name)} - {""}
            group.births |= {file.birth_date} - {""}
            group.studies.add(file.study_uid)
        counts = Counter(study for group in self.groups.values() for study in group.studies)
        self._scattered = {study for study, count in counts.items() if count > 1}
        self._same = cache(lambda name: identity != FOLDER or records.same(name, self.groups[name]))

    def as_kept(self) -> dict[str, list[list[str]]]:
        """Return the values of all folders or studies, fit for JSON."""
        return {name: [*map(sorted, (h.ids, h.names, h.births, h.studies))] for name, h in self.groups.items()}

    def scattered(self, file: DicomFile) -> bool:
        """Return whether the study of an object lies in several folders while folders determine the patient."""
        return file.study_uid in self._scattered

    def patient_of(self, file: DicomFile) -> tuple[str, str]:
        """Return the key of the patient of an object without a PatientID.

        Returns:
            The key and an empty text, or an empty key and the reason why there is none.
        """
        if self._identity == PATIENT_ID:
            return "", NO_ID
        name = self._place(file)
        if name in ("", patient_folder({})) or (self._identity == FOLDER and "\ufffd" in name):
            return "", _NO_FOLDER
        group = self.groups[name]
        if fault := group.fault(self._identity) or (_TWO_FOLDERS if self.scattered(file) else ""):
            return "", fault
        if group.ids:
            return next(iter(group.ids)), ""
        return (key_of(self._identity, name), "") if self._same(name) else ("", _OTHER_RUN)

    def _place(self, file: DicomFile) -> str:
        if self._identity == STUDY:
            return file.study_uid
        parts = file.path.relative_to(self._root).parts
        return readable(Path(parts[0])) if len(parts) > 1 else ""


def _compared(name: str) -> str:
    """Return a name without case, accents, word order and punctuation; empty where it is a placeholder."""
    from pacsifier_ops.deid.identifiers import is_placeholder_name, normal

    letters, _, others = name.partition("=")  # alphabetic and ideographic forms of the same name (PS3.5 6.2.1)
    words = normal(letters or others)
    return "" if is_placeholder_name(words) else " ".join(sorted(words.split()))
