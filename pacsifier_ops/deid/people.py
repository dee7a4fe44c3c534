"""Assigns a pseudonym and a day shift to each patient, before any file is changed. All sources must agree.

| source                 | pseudonym | day shift |
|------------------------|-----------|-----------|
| `sub-X/new_id.txt`     | yes       |           |
| the file `new_ids`     | yes       |           |
| the file `day_shift`   |           | yes       |
| the project's linkage  | yes       | yes       |
| `out_folder`           | yes       | yes       |
| the project's secret   | for patients whom no other source has, unless `linked_only` is set |

The source `out_folder` has the patients of earlier runs into that folder. A patient is identified by the PatientID of
the objects, whatever the folders are called. For a patient without PatientID, the files have the name of the folder or
the Study Instance UID instead (see `whose`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pacsifier_ops.base.errors import InputError, PatientsRefused
from pacsifier_ops.base.given import Unusable, read_given, text_of
from pacsifier_ops.deid.identity import FOLDER, identifying, split_key
from pacsifier_ops.pseudonyms import local
from pacsifier_ops.pseudonyms.linkage import Linkage, Person, own_names, read_day_shifts, read_new_ids, taken_twice
from pacsifier_ops.pseudonyms.secret import Secret
from pacsifier_ops.query.pseudonym import check_pseudonym
from pacsifier_ops.state.tree import patient_folder

NEW_ID, _LINKAGE, _BEFORE = "new_id.txt", "the linkage", "out_folder"

T = TypeVar("T", str, int)


@dataclass
class SourcePatient:
    """A patient of the folder.

    Attributes:
        patient_id: PatientID (0010,0020) without surrounding blanks, or its substitute (see `whose`).
        issuers: values of IssuerOfPatientID (0010,0021), without the empty one.
        folders: folders with objects of the patient.
        names: values of PatientName.
        numbers: birth dates and accession numbers.
    """

    patient_id: str
    issuers: set[str] = field(default_factory=set)
    folders: set[Path] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Sources:
    """The sources of pseudonyms and day shifts.

    Attributes:
        root: folder with the objects, which may contain `new_id.txt`.
        new_ids, day_shift: PACSIFIER's files; None where none is given.
        linkage: linkage of the project.
        secret: secret of the project.
        before: patients of earlier runs into the same folder, by PatientID.
        linked_only: the secret gives no pseudonyms.
        moving: dates are shifted, so not all shifts may be 0.
    """

    root: Path
    new_ids: Path | None
    day_shift: Path | None
    linkage: Linkage
    secret: Secret
    before: Mapping[str, Person] = field(default_factory=dict)
    linked_only: bool = False
    moving: bool = False


@dataclass(frozen=True)
class Assignment:
    """The new identities of patients.

    Attributes:
        people: new identity by PatientID, in order. With `linked_only`, patients without a source are left out.
        sources: number of pseudonyms by source.
        strangers: number of keys of each file that match no patient of the folder: other folders, or mistyped.
    """

    people: dict[str, Person]
    sources: dict[str, int]
    strangers: dict[str, int] = field(default_factory=dict)


def who_becomes_whom(patients: Iterable[SourcePatient], sources: Sources) -> Assignment:
    """Assign pseudonyms and day shifts by all sources, and store them in the project's linkage.

    Raises:
        PatientsRefused: sources disagree, one PatientID has two issuers, or two patients would get one pseudonym.
            Patients are named by their number, in order of their PatientIDs.
        InputError: a file cannot be used, or all shifts are 0.
        StorageError: the linkage cannot be written.
    """
    ordered = sorted(patients, key=lambda patient: patient.patient_id)
    if two := [place for place, patient in enumerate(ordered) if len(patient.issuers) > 1]:
        raise PatientsRefused("objects with one PatientID have two IssuerOfPatientIDs: these are two patients", two)
    linked = sources.linkage.people()
    named = {"new_ids": read_new_ids(sources.new_ids)} if sources.new_ids else {}
    moved = {"day_shift": read_day_shifts(sources.day_shift)} if sources.day_shift else {}
    by_folder = _new_ids_of_folders(sources.root, ordered)
    people: dict[str, Person] = {}
    counts: Counter[str] = Counter()
    for place, patient in enumerate(ordered):
        key = patient.patient_id
        _, called = split_key(key)
        pseudonyms = {NEW_ID: by_folder.get(key), **{name: given.of(called) for name, given in named.items()}}
        shifts = {name: given.of(called) for name, given in moved.items()}
        if person := linked.of(key):
            pseudonyms[_LINKAGE], shifts[_LINKAGE] = person.pseudonym, person.shift
        if person := sources.before.get(key):
            pseudonyms[_BEFORE], shifts[_BEFORE] = person.pseudonym, person.shift
        source, pseudonym = _agreed(place, pseudonyms, "pseudonyms")
        _, shift = _agreed(place, shifts, "day shifts")
        if pseudonym is None and sources.linked_only:
            continue
        people[key] = Person(
            local.pseudonym(sources.secret, key) if pseudonym is None else pseudonym,
            local.shift(sources.secret, key) if shift is None else shift,
        )
        counts[source or "the project's secret"] += 1
    # Entries of the linkage are never removed, so all checks come before.
    _refuse_ambiguous(people, sources.before)
    given = {key: person.pseudonym for key, person in people.items()}
    if telling := [place for place, one in enumerate(ordered) if _tells(given.get(one.patient_id, ""), one)]:
        raise PatientsRefused(
            "the pseudonym holds the patient's name, PatientID, birth date or accession number; it would hide nobody",
            telling,
        )
    if sources.moving:
        _refuse_unmoved(people)
    issuers = {patient.patient_id: "".join(patient.issuers) for patient in ordered if patient.patient_id in people}
    sources.linkage.add(people, issuers)
    here = [split_key(patient.patient_id)[1] for patient in ordered]
    strangers = {name: file.strangers(here) for name, file in named.items()}
    strangers |= {name: file.strangers(here) for name, file in moved.items()}
    return Assignment(people, dict(counts.most_common()), {name: count for name, count in strangers.items() if count})


def _agreed(place: int, told: Mapping[str, T | None], what: str) -> tuple[str, T | None]:
    """Return the first source that has a value, and the value. All sources that have one must agree."""
    said = {source: value for source, value in told.items() if value is not None}
    if len(set(said.values())) > 1:
        raise PatientsRefused(f"the sources {' and '.join(said)} give different {what}; correct one", [place])
    return next(iter(said.items()), ("", None))


def _refuse_ambiguous(people: Mapping[str, Person], before: Mapping[str, Person]) -> None:
    twice = taken_twice({key: person.pseudonym for key, person in {**before, **people}.items()})
    if places := [place for place, key in enumerate(people) if key in twice]:
        raise PatientsRefused("the sources give several patients one pseudonym", places)
    if places := own_names(people):
        raise PatientsRefused("the pseudonym is a PatientID of these data; it would hide nobody", places)


def _tells(pseudonym: str, patient: SourcePatient) -> bool:
    """Return whether a pseudonym contains a whole name of the patient, or a number of six characters or more."""
    letters = _letters(pseudonym)
    numbers = map(_letters, (identifying(patient.patient_id), *patient.numbers))
    names = ({_letters(part) for part in re.split(r"[\^= _-]+", name)} - {""} for name in patient.names)
    return any(len(number) >= 6 and number in letters for number in numbers) or any(
        len("".join(parts)) >= 6 and all(part in letters for part in parts) for parts in names
    )


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def _refuse_unmoved(people: Mapping[str, Person]) -> None:
    if people and not any(person.shift for person in people.values()):
        raise InputError(
            "the profile moves dates, and the day shift of every patient is 0: they would stay as they are; give other "
            "shifts, or a profile that says what becomes of dates"
        )


def _new_ids_of_folders(root: Path, patients: Sequence[SourcePatient]) -> dict[str, str]:
    """Return pseudonyms from `new_id.txt` by PatientID. The file nearest to an object applies to its patient."""
    nearest: dict[Path, Path | None] = {}
    inside: dict[Path, set[str]] = {}
    for patient in patients:
        for folder in patient.folders:
            if home := _nearest(folder, root, nearest):
                inside.setdefault(home, set()).add(patient.patient_id)
    found: dict[str, str] = {}
    for number, home in enumerate(sorted(inside), 1):
        whose = inside[home]
        if len(whose) > 1:  # objects of another patient lie there as well; the folder's name decides
            whose = {
                key
                for key in whose
                if home.name == patient_folder({"PatientID": key}) or split_key(key) == (FOLDER, home.name)
            }
        if len(whose) != 1:
            raise InputError(
                f"folder {number} of those with {NEW_ID} holds objects of several patients, and its name does not "
                "tell whose pseudonym that is; take them apart"
            )
        (key,) = whose
        if found.setdefault(key, pseudonym := _read(home / NEW_ID, number)) != pseudonym:
            raise InputError(
                f"folder {number} of those with {NEW_ID} gives a patient another pseudonym than one before"
            )
    return found


def _nearest(folder: Path, root: Path, known: dict[Path, Path | None]) -> Path | None:
    """Return the folder with `new_id.txt`: this one, or the nearest above it, up to `root`."""
    if folder not in known:
        if (folder / NEW_ID).is_file():
            known[folder] = folder
        else:
            known[folder] = None if folder == root else _nearest(folder.parent, root, known)
    return known[folder]


def _read(path: Path, number: int) -> str:
    try:
        return check_pseudonym(text_of(read_given(path)).strip())
    except (Unusable, ValueError) as error:
        raise InputError(f"{NEW_ID} in folder {number} of those that have one: {error}") from None
