"""The linkage store of a project: the pseudonym and the date shift of each patient.

| file                    | content                                                          |
|-------------------------|------------------------------------------------------------------|
| new_ids_<project>.json  | pseudonym by PatientID                                           |
| day_shift_<project>.json| days by PatientID; 0: dates are not shifted                      |
| issuers_<project>.json  | IssuerOfPatientID by PatientID, of patients with a known issuer  |

The first two have PACSIFIER's format. Files are 0600, outside of every data set; the project's own folder is 0700.
Entries never change: a patient never gets another pseudonym or shift, and no pseudonym is assigned twice.
"""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pacsifier_ops.base.errors import InputError, PatientsRefused
from pacsifier_ops.base.files import PRIVATE_FILE, group, private_folder, storage_errors, write_atomic
from pacsifier_ops.base.given import LARGE, Unusable, json_of, read_given
from pacsifier_ops.pseudonyms.secret import check_project, project_folder
from pacsifier_ops.query.pseudonym import check_pseudonym, check_shift
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import CONTROL, patient_folder

T = TypeVar("T")


@dataclass(frozen=True)
class Person:
    """The new identity of a patient.

    Attributes:
        pseudonym: the new PatientID, fit for LO and for the name of a folder.
        shift: days by which dates are shifted; 0: they are not.
    """

    pseudonym: str
    shift: int = 0


def key_forms(patient_id: str) -> tuple[str, ...]:
    """Return the possible keys of a patient in PACSIFIER's files: PatientID with and without `sub-`, and folder."""
    bare = patient_id.removeprefix("sub-")
    return (patient_id, f"sub-{patient_id}", bare, patient_folder({"PatientID": bare}))


class Keyed(Generic[T]):
    """The content of a file of PACSIFIER by patient, for all forms of its keys (see `key_forms`).

    Args:
        given: value by key.
    """

    def __init__(self, given: Mapping[str, T]) -> None:
        self.given = dict(given)

    def of(self, patient_id: str) -> T | None:
        """Return the value for a patient; None where there is none.

        Raises:
            InputError: two keys mean the patient, and their values differ.
        """
        found = [self.given[key] for key in dict.fromkeys(key_forms(patient_id)) if key in self.given]
        if any(value != found[0] for value in found):
            raise InputError("a patient is there under two keys, with and without sub-, and they differ; keep one")
        return found[0] if found else None

    def strangers(self, patient_ids: Iterable[str]) -> int:
        """Return the number of keys that mean none of these patients."""
        return len(self.given.keys() - {form for patient_id in patient_ids for form in key_forms(patient_id)})


def read_new_ids(path: Path, what: str = "new_ids") -> Keyed[str]:
    """Read pseudonyms from a file such as new_ids_<project>.json.

    Args:
        path: the file.
        what: name of the file in errors; its own name may be a patient's.

    Raises:
        InputError: names the file, and the number of the invalid entry.
    """
    return Keyed(_checked(path, what, lambda value: check_pseudonym(value if isinstance(value, str) else "")))


def read_day_shifts(path: Path, what: str = "day_shift") -> Keyed[int]:
    """Read date shifts from a file such as day_shift_<project>.json; numbers, or the text of numbers.

    Args:
        path: the file.
        what: name of the file in errors; its own name may be a patient's.

    Raises:
        InputError: names the file, and the number of the invalid entry.
    """
    return Keyed(_checked(path, what, check_shift))


def _checked(path: Path, name: str, check: Any) -> dict[str, Any]:
    pairs: list[tuple[str, Any]] = []
    try:
        found = json_of(read_given(path, LARGE), lambda items: pairs.extend(items))
    except Unusable as error:
        raise InputError(f"{name}: {error}; give an object of PatientIDs and values") from None
    if found is not None:
        raise InputError(f"{name}: is no JSON object of PatientIDs and values")
    checked: dict[str, Any] = {}
    for number, (key, value) in enumerate(pairs, 1):
        try:
            value = check(value)
            if checked.setdefault(key, value) != value:
                raise ValueError("its key is there twice, with another value")
        except (ValueError, TypeError) as error:
            raise InputError(f"{name}: entry {number}: {error}") from None
    return checked


class Linkage:
    """The linkage store of a project.

    Args:
        project: its name.
        folder: folder of its files; default: the project's folder below the state root.

    Raises:
        ConfigError: the name is invalid.
        InputError: the folder is part of a data set; or it is the project's own, and other users may read it.
        StorageError: it cannot be written.
    """

    def __init__(self, project: str, folder: Path | None = None) -> None:
        check_project(project)
        with storage_errors("the folder of the linkage"):
            self.folder = private_folder(folder.resolve()) if folder else project_folder(project)
            if any((parent / CONTROL).exists() for parent in (self.folder, *self.folder.parents)):
                raise InputError(
                    "the linkage would lie within a data set, and tells who is who in it; give a folder elsewhere"
                )
            if folder is None and self.is_open():
                raise InputError("the folder of the linkage is open to others; chmod 700 it")
        self.new_ids = self.folder / f"new_ids_{project}.json"
        self.day_shifts = self.folder / f"day_shift_{project}.json"
        self._issuers = self.folder / f"issuers_{project}.json"

    def is_open(self) -> bool:
        """Return whether other users may enter its folder. They usually cannot read its files, see `write`."""
        return _is_open(self.folder)

    def is_readable(self) -> bool:
        """Return whether other users can read its files, for example on a file system (of Windows) without modes."""
        return self.is_open() and any(path.exists() and _is_open(path) for path in (self.new_ids, self.day_shifts))

    def write(self, path: Path, text: str) -> None:
        """Write a file of its folder.

        In a folder that is open to other users, the owner alone may read the file, and not the group.

        Raises:
            OSError: it cannot be written.
        """
        write_atomic(path, text, self.mode)

    @property
    def mode(self) -> int | None:
        """Mode of its files: in a folder that is open to other users, the owner alone may read them."""
        return PRIVATE_FILE if self.is_open() else None

    def people(self) -> Keyed[Person]:
        """Return the identities of all patients with a pseudonym and a shift.

        Raises:
            InputError: a file of the store is invalid.
        """
        pseudonyms, shifts = self._kept()
        return Keyed({key: Person(name, shifts[key]) for key, name in pseudonyms.items() if key in shifts})

    def add(self, people: Mapping[str, Person], issuers: Mapping[str, str] | None = None) -> int:
        """Store identities of patients. Those of known patients must be equal to the stored ones.

        Args:
            people: identity by PatientID.
            issuers: IssuerOfPatientID by PatientID, where it is known.

        Returns:
            Number of new patients.

        Raises:
            PatientsRefused: an identity or issuer differs from the stored one, or another patient has the pseudonym;
                nothing was stored.
            InputError: a file of the store is invalid.
            StorageError: it cannot be written.
            LeaseLost: the process slept, and another may have written meanwhile; nothing was stored.
        """
        with shared().acquire(f"linkage:{self.new_ids}") as lease:
            pseudonyms, shifts = self._kept()
            known_issuers = _checked(self._issuers, self._issuers.name, str) if self._issuers.exists() else {}
            given = {key: issuer for key, issuer in (issuers or {}).items() if issuer}
            keys = {patient: _key(patient, pseudonyms) for patient in people}
            if shared_keys := _repeated(keys.values()):
                raise PatientsRefused("one key of the linkage, with or without sub-, stands for both", shared_keys)
            changed = [
                place
                for place, (patient, person) in enumerate(people.items())
                if pseudonyms.get(keys[patient], person.pseudonym) != person.pseudonym
                or shifts.get(keys[patient], person.shift) != person.shift
            ]
            if changed:
                raise PatientsRefused(
                    "the source gives another pseudonym or day shift than the linkage has; neither was changed, "
                    "find out which is right",
                    changed,
                )
            clash = [
                place
                for place, patient in enumerate(people)
                if patient in given and known_issuers.get(patient, given[patient]) != given[patient]
            ]
            if clash:
                raise PatientsRefused("the PatientID was linked before for another IssuerOfPatientID", clash)
            before = len(set(pseudonyms) & set(shifts))
            pseudonyms |= {keys[patient]: person.pseudonym for patient, person in people.items()}
            shifts |= {keys[patient]: person.shift for patient, person in people.items()}
            if twice := taken_twice(pseudonyms):
                raise PatientsRefused(
                    "the pseudonym is somebody else's already",
                    [place for place, patient in enumerate(people) if keys[patient] in twice],
                )
            names = {alike(name) for name in pseudonyms.values()} & {alike(key) for key in pseudonyms}
            if names:
                raise PatientsRefused(
                    "the pseudonym is the PatientID of somebody in the linkage; it would hide nobody",
                    [
                        place
                        for place, (patient, person) in enumerate(people.items())
                        if {alike(patient), alike(person.pseudonym)} & names
                    ],
                )
            lease.check()  # after a sleep, the store may contain more than was read
            with storage_errors("the linkage"):
                if given.keys() - known_issuers.keys():
                    self.write(self._issuers, json.dumps(known_issuers | given, indent=4))
                # A patient counts as known only if both files have an entry, so a kill between the two writes does no
                # harm.
                if len(set(pseudonyms) & set(shifts)) > before or (people and not self.new_ids.exists()):
                    self.write(self.day_shifts, json.dumps(shifts, indent=4))
                    self.write(self.new_ids, json.dumps(pseudonyms, indent=4))
            return len(set(pseudonyms) & set(shifts)) - before

    def _kept(self) -> tuple[dict[str, str], dict[str, int]]:
        pseudonyms = read_new_ids(self.new_ids, self.new_ids.name).given if self.new_ids.exists() else {}
        shifts = read_day_shifts(self.day_shifts, self.day_shifts.name).given if self.day_shifts.exists() else {}
        return pseudonyms, shifts


def _is_open(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & (0o077 if group() is None else 0o027))


def alike(name: str) -> str:
    """Return the form in which PatientIDs and pseudonyms are compared: without case and without `sub-`.

    For the key of a patient without a PatientID (see `deid.identity`), this is the name of the folder or study.
    """
    return name.rpartition("\\")[2].casefold().removeprefix("sub-")


def _key(patient_id: str, kept: Mapping[str, Any]) -> str:
    """Return the key of a patient in the store, existing or new."""
    return next((key for key in key_forms(patient_id)[:3] if key in kept), patient_id)


def _repeated(values: Iterable[str]) -> list[int]:
    """Return the indices of the values that occur several times."""
    counts = Counter(every := list(values))
    return [place for place, value in enumerate(every) if counts[value] > 1]


def taken_twice(pseudonyms: Mapping[str, str]) -> set[str]:
    """Return the keys whose pseudonym another key has as well. Case is ignored, as in folder names."""
    first: dict[str, str] = {}
    twice: set[str] = set()
    for key, pseudonym in pseudonyms.items():
        other = first.setdefault(alike(pseudonym), key)
        if other != key:
            twice |= {key, other}
    return twice


def own_names(people: Mapping[str, Person]) -> list[int]:
    """Return the indices of patients whose pseudonym is a PatientID of these patients, so that it would hide nobody."""
    ids = {alike(key) for key in people}
    return [place for place, person in enumerate(people.values()) if alike(person.pseudonym) in ids]
