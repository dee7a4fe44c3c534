"""Pseudonyms from a mapping file: the custom mode of PACSIFIER."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pacsifier_ops.base.errors import InputError, PatientsRefused, numbers
from pacsifier_ops.pseudonyms import local
from pacsifier_ops.pseudonyms.linkage import Keyed, Person, alike
from pacsifier_ops.pseudonyms.secret import Secret
from pacsifier_ops.query.problems import TableRefused
from pacsifier_ops.query.pseudonym import check_pseudonym
from pacsifier_ops.query.records import read_records
from pacsifier_ops.runs.folder import never

#: Names of columns in an optional header of a mapping file, without case, blanks and underscores.
_OLD = {"old", "oldid", "oldpseudonym", "patientid", "original", "originalid", "id"}
_NEW = {"new", "newid", "newids", "newpseudonym", "pseudonym", "newpatientid"}


def read_mapping(path: Path) -> dict[str, str]:
    """Read the pseudonyms of a mapping file, by PatientID: two columns, old and new, with or without a header.

    Raises:
        InputError: names the file and the invalid lines: an empty cell, a wrong number of columns, an invalid
            pseudonym, a repeated patient or pseudonym, or a pseudonym that is the PatientID of a patient in the file.
    """
    try:
        records = [record for record in read_records(path) if any(map(str.strip, record.cells)) or record.faults]
    except TableRefused as error:
        raise InputError(f"the mapping file cannot be used: {'; '.join(map(str, error.problems))}") from None
    if records and _is_header(records[0].cells):
        records = records[1:]
    problems: list[str] = []
    mapping: dict[str, str] = {}
    lines: dict[str, int] = {}
    taken: dict[str, int] = {}
    for record in records:
        cells = [cell.strip() for cell in record.cells]
        while len(cells) > 2 and not cells[-1]:
            cells.pop()
        try:
            if record.faults:
                raise ValueError(next(iter(record.faults.values())))
            if len(cells) != 2:
                raise ValueError("give two cells, the old and the new PatientID")
            if not all(cells):
                raise ValueError("a cell is empty; give both")
            old, new = cells
            check_pseudonym(new)
            if other := lines.setdefault(old.removeprefix("sub-"), record.line) - record.line:
                raise ValueError(f"the patient is in line {record.line + other} already")
            if other := taken.setdefault(alike(new), record.line) - record.line:
                raise ValueError(f"line {record.line + other} has this pseudonym already")
            mapping[old] = new
        except ValueError as error:
            problems.append(f"line {record.line}: {error}")
    same = sorted(taken[alike(old)] for old in lines if alike(old) in taken)
    if same:
        problems.append(f"the pseudonym is a PatientID of this file in line {numbers(same)}; it would hide nobody")
    if not records:
        problems.append("holds nothing; give a line for each patient: old,new")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError(f"the mapping file cannot be used: {'; '.join(problems[:10])}{more}")
    return mapping


def _is_header(cells: Sequence[str]) -> bool:
    names = ["".join(char for char in cell.casefold() if char.isalnum()) for cell in cells]
    return len(names) >= 2 and names[0] in _OLD and names[1] in _NEW


@dataclass(frozen=True)
class MappingSource:
    """Provides the pseudonyms of a mapping file.

    Attributes:
        mapping: pseudonym by PatientID, from `read_mapping`.
        secret: secret from which date shifts are derived; None: dates are not shifted.
    """

    mapping: Mapping[str, str]
    secret: Secret | None = None
    batch_size: ClassVar[int] = 10_000

    def ask(self, project: str, patient_ids: Sequence[str], cancelled: Callable[[], bool] = never) -> dict[str, Person]:
        """Return the new identities of patients, by PatientID.

        Raises:
            PatientsRefused: the file lacks patients, or gives two of them one pseudonym.
        """
        known = Keyed(self.mapping)
        found = {patient: known.of(patient) for patient in patient_ids}
        if missing := [place for place, patient in enumerate(patient_ids) if found[patient] is None]:
            raise PatientsRefused("the mapping file says nothing of them; add them to it", missing)
        return {
            patient: Person(name, local.shift(self.secret, patient.removeprefix("sub-")) if self.secret else 0)
            for patient, name in found.items()
            if name is not None
        }
