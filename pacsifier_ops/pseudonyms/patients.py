"""Whose pseudonyms are wanted: the patients of a query table, or of a folder of DICOM files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pacsifier_ops.errors import Cancelled, InputError, numbers
from pacsifier_ops.query.table import QueryTable
from pacsifier_ops.run import never
from pacsifier_ops.tree import CONTROL


@dataclass
class Patient:
    """A patient.

    Attributes:
        patient_id: PatientID (0010,0020), without blanks around it.
        issuer: IssuerOfPatientID (0010,0021), where it is known.
        places: lines of the query table, or numbers of the files in order of their paths; safe to show anywhere.
    """

    patient_id: str
    issuer: str = ""
    places: list[int] = field(default_factory=list)


@dataclass
class Cohort:
    """The patients of a run, each once.

    Attributes:
        patients: in the order in which they come.
        place: what their places are, in the singular.
        passed_over: files that are no DICOM.
        without_id: numbers of the files that name no patient: nobody can say whose they are.
    """

    patients: list[Patient]
    place: str
    passed_over: int = 0
    without_id: list[int] = field(default_factory=list)


def of_table(table: QueryTable) -> Cohort:
    """The patients of a query table.

    Raises:
        InputError: names the lines that are bad, or do not name one patient.
    """
    if table.problems:
        more = f"; and {len(table.problems) - 10} more" if len(table.problems) > 10 else ""
        raise InputError(f"the query table has errors: {'; '.join(map(str, table.problems[:10]))}{more}")
    found: dict[str, Patient] = {}
    vague = []
    for row in table.rows:
        patient_id = row.keys.get("PatientID", "")
        lines = [row.line, *row.duplicates]
        if not patient_id or set(patient_id) & set("*?"):
            vague += lines
        else:
            found.setdefault(patient_id, Patient(patient_id)).places += lines
    if vague:
        raise InputError(
            f"line {numbers(sorted(vague))}: no PatientID, or one with a wildcard; extract first, and give the folder "
            "(in_folder) instead of the table"
        )
    return Cohort(list(found.values()), "line")


def of_folder(root: Path, cancelled: Callable[[], bool] = never) -> Cohort:
    """The patients of the DICOM files of a folder, whatever its files and folders are called.

    Raises:
        InputError: the folder cannot be read, holds no DICOM file, or one PatientID under two issuers.
        Cancelled: `cancelled` said so.
    """
    if not root.is_dir():
        raise InputError("in_folder is not a folder; give the folder whose patients are to have pseudonyms")
    found: dict[str, Patient] = {}
    cohort = Cohort([], "file")
    clashing = []
    for number, path in enumerate(_files(root), 1):
        if cancelled():
            raise Cancelled("stopped on request")
        read = _identity(path)
        if read is None:
            cohort.passed_over += 1
        elif not read[0]:
            cohort.without_id.append(number)
        else:
            patient = found.setdefault(read[0], Patient(read[0]))
            patient.places.append(number)
            patient.issuer = patient.issuer or read[1]
            if read[1] not in ("", patient.issuer):
                clashing.append(number)
    if clashing:
        raise InputError(
            f"file {numbers(clashing)}: the PatientID is in other files under another IssuerOfPatientID, so these are "
            "two patients who would get one pseudonym; take them apart"
        )
    if not found:
        raise InputError("in_folder holds no DICOM file that names a patient")
    cohort.patients = list(found.values())
    return cohort


def _files(root: Path) -> list[Path]:
    """The files of a folder, in order of their paths."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name != CONTROL]
        found += [Path(folder, name) for name in names]
    return sorted(found)


def _identity(path: Path) -> tuple[str, str] | None:
    """PatientID and issuer of a file; None if it is no DICOM file."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        head = dcmread(path, specific_tags=["SpecificCharacterSet", "PatientID", "IssuerOfPatientID"])
    except (InvalidDicomError, OSError):
        return None
    return str(head.get("PatientID") or "").strip(), str(head.get("IssuerOfPatientID") or "").strip()
