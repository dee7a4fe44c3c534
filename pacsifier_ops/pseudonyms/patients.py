"""Collects the patients that need pseudonyms, from a query table or from a folder of DICOM files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.base.errors import InputError, numbers
from pacsifier_ops.base.files import readable
from pacsifier_ops.base.identity import two_people
from pacsifier_ops.query.problems import TableRefused
from pacsifier_ops.query.table import QueryTable
from pacsifier_ops.runs.folder import never
from pacsifier_ops.state.standing import Standing, stamp_of_tree

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile
    from pacsifier_ops.dicom.scan import Scan


@dataclass
class Patient:
    """A patient.

    Attributes:
        patient_id: PatientID (0010,0020), without surrounding blanks.
        issuer: IssuerOfPatientID (0010,0021), where it is known.
        places: lines of the query table, or numbers of the folder's series in order of their paths; not confidential.
    """

    patient_id: str
    issuer: str = ""
    places: list[int] = field(default_factory=list)


@dataclass
class Cohort:
    """The patients of a run, each once.

    Attributes:
        patients: the patients, in order of their first place.
        place: unit of `places`, in the singular.
        passed_over: number of files that are no DICOM objects.
        unnamed: paths below the folder of files without a known patient.
        without_id: lines of the query table without a PatientID.
    """

    patients: list[Patient]
    place: str
    passed_over: int = 0
    unnamed: list[str] = field(default_factory=list)
    without_id: list[int] = field(default_factory=list)


def of_table(table: QueryTable) -> Cohort:
    """Collect the patients of a query table. Rows without a PatientID are skipped, as in PACSIFIER.

    Raises:
        TableRefused: names the invalid lines.
        InputError: names the lines whose PatientID has a wildcard; or no row has a PatientID.
    """
    if table.problems:
        raise TableRefused(table.problems, "the query table has errors")
    found: dict[str, Patient] = {}
    vague: list[int] = []
    without_id: list[int] = []
    for row in table.rows:
        patient_id = row.keys.get("PatientID", "")
        lines = [row.line, *row.duplicates]
        if not patient_id:
            without_id += lines
        elif set(patient_id) & set("*?") and not row.exact:
            vague += lines
        else:
            found.setdefault(patient_id, Patient(patient_id)).places += lines
    if vague:
        raise InputError(
            f"line {numbers(sorted(vague))}: a PatientID with a wildcard; extract first, and give the folder "
            "(in_folder) instead of the table"
        )
    if not found:
        raise InputError(
            "no row of the query table has a PatientID; extract first, and give the folder (in_folder) instead of it"
        )
    return Cohort(list(found.values()), "line", without_id=sorted(without_id))


_IDENTIFYING = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")


def _identifying(file: DicomFile) -> tuple[str, ...]:
    return file.patient_id, file.issuer, file.patient_name, file.birth_date


def of_folder(root: Path, cancelled: Callable[[], bool] = never, allow_empty: bool = False) -> Cohort:
    """Collect the patients of the DICOM files in a folder, whatever the names of files and folders.

    Args:
        root: the folder.
        cancelled: called regularly; True stops.
        allow_empty: accept a folder without any object.

    Raises:
        InputError: the folder cannot be read, has no object with a PatientID, or has one PatientID with two issuers.
        Cancelled: `cancelled` returned True.
    """
    if not root.is_dir():
        raise InputError("in_folder is not a folder; give the folder whose patients are to have pseudonyms")
    try:
        cohort, clashing = _in_tree(root.resolve(), cancelled)
    except OSError as error:
        raise InputError(f"in_folder cannot be read: {error.strerror}") from error
    if clashing:
        raise InputError(
            f"series {numbers(clashing)}, in order of their paths: the PatientID is in others under another "
            "IssuerOfPatientID, or with another name and birth date, so these are two patients who would get one "
            "pseudonym; take them apart"
        )
    if not cohort.patients and not (allow_empty and not cohort.unnamed):
        raise InputError("in_folder holds no DICOM object that names a patient")
    return cohort


def _in_tree(root: Path, cancelled: Callable[[], bool]) -> tuple[Cohort, list[int]]:
    """Return the cohort of a folder, and the series that clash. Nothing is scanned that is as it was."""
    from pacsifier_ops.dicom.scan import scan, texts_of_runs

    with Standing(root, "patients") as standing:
        before = stamp_of_tree(root)
        texts = texts_of_runs(root, cancelled)
        if texts is not None and (kept := standing.get("", before)):
            patients, passed_over, unnamed, clashing = kept
            return Cohort([Patient(**one) for one in patients], "series", passed_over + texts, unnamed), clashing
        scanned = scan(root, cancelled)
        cohort, clashing = _cohort_of(scanned, root)
        if texts is not None and texts_of_runs(root, cancelled) == texts and stamp_of_tree(root) == before:
            patients = [asdict(one) for one in cohort.patients]
            kept = [patients, cohort.passed_over - texts, cohort.unnamed, clashing]
            standing.put("", before, kept, scanned.since)
    return cohort, clashing


def _cohort_of(scanned: Scan, root: Path) -> tuple[Cohort, list[int]]:
    found: dict[str, Patient] = {}
    seen: dict[str, list[dict[str, str]]] = {}
    cohort = Cohort([], "series", sum(scanned.passed_over.values()), [file.path for file in scanned.bad_files])
    clashing = []
    for number, files in enumerate(scanned.series.values(), 1):
        cohort.unnamed += [readable(file.path.relative_to(root)) for file in files if not file.patient_id]
        for attributes in (
            dict(zip(_IDENTIFYING, values, strict=True)) for values in dict.fromkeys(map(_identifying, files))
        ):
            if not (patient_id := attributes["PatientID"]):
                continue
            patient = found.setdefault(patient_id, Patient(patient_id))
            patient.issuer = patient.issuer or attributes["IssuerOfPatientID"]
            if number not in patient.places:
                patient.places.append(number)
            others = seen.setdefault(patient_id, [])
            if any(two_people(attributes, other) for other in others) and number not in clashing:
                clashing.append(number)
            if attributes not in others:
                others.append(attributes)
    cohort.patients = list(found.values())
    return cohort, clashing
