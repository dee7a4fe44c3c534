"""The linkage store of a project: who became whom, and by how many days each patient's dates are moved.

| file                    | what                                                             |
|-------------------------|------------------------------------------------------------------|
| new_ids_<project>.json  | pseudonym by PatientID                                           |
| day_shift_<project>.json| days by PatientID; 0: dates are not moved                        |
| issuers_<project>.json  | IssuerOfPatientID by PatientID, of patients of whom it was told  |

The first two are PACSIFIER's. Files are 0600, apart from every data set; the project's own folder is 0700. What is
written once stays: a patient is never given another pseudonym or shift, and no pseudonym is given twice.
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
    """Who a patient becomes.

    Attributes:
        pseudonym: the new PatientID, fit for LO and for the name of a folder.
        shift: days by which dates are moved; 0: they are not.
    """

    pseudonym: str
    shift: int = 0


def key_forms(patient_id: str) -> tuple[str, ...]:
    """The keys that may stand for a patient in PACSIFIER's files: the PatientID with and without `sub-`, its folder."""
    bare = patient_id.removeprefix("sub-")
    return (patient_id, f"sub-{patient_id}", bare, patient_folder({"PatientID": bare}))


class Keyed(Generic[T]):
    """What a file of PACSIFIER says of patients, whichever way it names them (see `key_forms`).

    Args:
        given: value by key.
    """

    def __init__(self, given: Mapping[str, T]) -> None:
        self.given = dict(given)

    def of(self, patient_id: str) -> T | None:
        """What it says of a patient; None where it says nothing.

        Raises:
            InputError: two of its keys name the patient, and differ.
        """
        found = [self.given[key] for key in dict.fromkeys(key_forms(patient_id)) if key in self.given]
        if any(value != found[0] for value in found):
            raise InputError("a patient is there under two keys, with and without sub-, and they differ; keep one")
        return found[0] if found else None

    def strangers(self, patient_ids: Iterable[str]) -> int:
        """How many of its keys name none of these patients."""
        return len(self.given.keys() - {form for patient_id in patient_ids for form in key_forms(patient_id)})


def read_new_ids(path: Path, what: str = "new_ids") -> Keyed[str]:
    """Pseudonyms from a file such as new_ids_<project>.json.

    Args:
        what: how errors name the file; its own name may be a patient's.

    Raises:
        InputError: names the file, and the number of the entry that cannot be used.
    """
    return Keyed(_checked(path, what, lambda value: check_pseudonym(value if isinstance(value, str) else "")))


def read_day_shifts(path: Path, what: str = "day_shift") -> Keyed[int]:
    """Day shifts from a file such as day_shift_<project>.json; numbers, or the text of numbers.

    Args:
        what: how errors name the file; its own name may be a patient's.

    Raises:
        InputError: names the file, and the number of the entry that cannot be used.
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
        folder: where its files are; by default, the project's folder below the state root.

    Raises:
        ConfigError: the name is not fit for one.
        InputError: the folder is part of a data set; or it is the project's own, and others may read it.
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
        """Whether others may enter its folder; as a rule they can read nothing in it, see `write`."""
        return _is_open(self.folder)

    def is_readable(self) -> bool:
        """Whether others may read its files all the same, as where a file system (of Windows, say) keeps no modes."""
        return self.is_open() and any(path.exists() and _is_open(path) for path in (self.new_ids, self.day_shifts))

    def write(self, path: Path, text: str) -> None:
        """Write a file of its folder; in one that is open to others it is the owner's alone, not the group's either.

        Raises:
            OSError: it cannot be written.
        """
        write_atomic(path, text, PRIVATE_FILE if self.is_open() else None)

    def people(self) -> Keyed[Person]:
        """Everybody who has both a pseudonym and a shift.

        Raises:
            InputError: a file of the store cannot be used.
        """
        pseudonyms, shifts = self._kept()
        return Keyed({key: Person(name, shifts[key]) for key, name in pseudonyms.items() if key in shifts})

    def add(self, people: Mapping[str, Person], issuers: Mapping[str, str] | None = None) -> int:
        """Keep who patients become; those that are known already must become the same again.

        Args:
            people: by PatientID.
            issuers: IssuerOfPatientID by PatientID, where it is known.

        Returns:
            How many are new.

        Raises:
            PatientsRefused: another answer than the one that is kept, another issuer, or a pseudonym that somebody
                else has; nothing was kept.
            InputError: a file of the store cannot be used.
            StorageError: it cannot be written.
            LeaseLost: we slept, and somebody else may have written meanwhile; nothing was kept.
        """
        with shared().acquire(f"linkage:{self.new_ids}") as lease:
            pseudonyms, shifts = self._kept()
            known_issuers = _checked(self._issuers, self._issuers.name, str) if self._issuers.exists() else {}
            told = {key: issuer for key, issuer in (issuers or {}).items() if issuer}
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
                if patient in told and known_issuers.get(patient, told[patient]) != told[patient]
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
            lease.check()  # who slept meanwhile knows less than what is kept by now
            with storage_errors("the linkage"):
                if told.keys() - known_issuers.keys():
                    self.write(self._issuers, json.dumps(known_issuers | told, indent=4))
                # A patient counts as known once in both, so a kill between them costs nothing.
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
    """What a PatientID or pseudonym is compared by: neither capitals nor `sub-` tell two of them apart.

    Of what stands for a patient without a PatientID (see `deid.whose`), the name of the folder or study is compared.
    """
    return name.rpartition("\\")[2].casefold().removeprefix("sub-")


def _key(patient_id: str, kept: Mapping[str, Any]) -> str:
    """The key under which a patient is kept, or is to be."""
    return next((key for key in key_forms(patient_id)[:3] if key in kept), patient_id)


def _repeated(values: Iterable[str]) -> list[int]:
    """Positions of the values that are there several times."""
    counts = Counter(every := list(values))
    return [place for place, value in enumerate(every) if counts[value] > 1]


def taken_twice(pseudonyms: Mapping[str, str]) -> set[str]:
    """The keys whose pseudonym another key has as well; letters of either case are the same, as in folder names."""
    first: dict[str, str] = {}
    twice: set[str] = set()
    for key, pseudonym in pseudonyms.items():
        other = first.setdefault(alike(pseudonym), key)
        if other != key:
            twice |= {key, other}
    return twice


def own_names(people: Mapping[str, Person]) -> list[int]:
    """Positions of the patients whose pseudonym is a PatientID of these patients: it would hide nobody."""
    ids = {alike(key) for key in people}
    return [place for place, person in enumerate(people.values()) if alike(person.pseudonym) in ids]
