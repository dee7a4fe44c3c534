"""The layout of a file-set: its order, the File IDs of the objects, their directory records, and volumes.

File IDs have four components of eight characters (PS3.10 8.2, 8.5), such as `P0000001/ST000001/SE000001/IM000001`: the
ordinal of the patient, of the study of that patient, of the series of that study, and of the object. They depend on the
content of the files, not on their names and folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from pydicom.uid import UID

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.dicom.files import DicomFile
from pacsifier_ops.handover.fileset import DirectoryRecord
from pacsifier_ops.handover.records import KEYS, PATIENT, PRIVATE, SERIES, STUDY, DirectoryObject, ordinal, record

#: Transfer syntaxes of the general purpose profiles (PS3.11 D, H, J): uncompressed, JPEG, JPEG 2000, and video.
PROFILES = frozenset(
    (
        "1.2.840.10008.1.2.1",
        *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70, 90, 91, *range(100, 107))),
    )
)

#: Bytes of a block of ISO 9660, the file system of CDs and DVDs (PS3.12). Files and folders take whole blocks.
_BLOCK = 2048
#: Bytes of a volume for the head of the DICOMDIR and the structures of the file system.
_OVERHEAD = 1 << 20
#: Number of folders above an object: patient, study and series.
_FOLDERS = 3
#: Folder of the objects that belong to no patient, such as hanging protocols.
_PATIENTLESS = "NOBODY"


@dataclass(frozen=True, slots=True)
class Placed:
    """An object with its place in the file-set.

    Attributes:
        object: the object.
        path: its File ID, with forward slashes.
        size: bytes that the object and its record take on a volume.
        record: its directory record.
    """

    object: DirectoryObject
    path: str
    size: int
    record: DirectoryRecord


@dataclass
class FileSetSeries:
    """A series with its place in the file-set.

    Attributes:
        objects: its objects, in order.
        above: folder and record of its patient, of its study, and of the series; none for objects without a patient.
    """

    objects: list[Placed]
    above: list[tuple[str, DirectoryRecord]]

    @property
    def size(self) -> int:
        """Return the bytes that the series takes on a volume without other objects of its patient."""
        return sum(placed.size for placed in self.objects) + self.folders

    @property
    def folders(self) -> int:
        """Return the bytes of the folders and records above the objects."""
        return _FOLDERS * _BLOCK + sum(record.size for _, record in self.above)


@dataclass
class FileSet:
    """A file-set.

    Attributes:
        studies: the series of each study, in order.
        remarks: objects, and a remark on each for the report.
        patients: number of patients.
        made_up: number of records with made-up keys.
        outside: number of objects outside of the general purpose profiles.
    """

    studies: list[list[FileSetSeries]] = field(default_factory=list)
    remarks: list[tuple[DicomFile, str]] = field(default_factory=list)
    patients: int = 0
    made_up: int = 0
    outside: int = 0

    def series(self) -> Iterator[FileSetSeries]:
        """Yield all series, in order."""
        for study in self.studies:
            yield from study


def lay_out(objects: Iterable[DirectoryObject], patientless: Iterable[DirectoryObject] = ()) -> FileSet:
    """Return the file-set of these objects. Patient, study and series of an object are those of its own attributes.

    Args:
        patientless: objects that belong to no patient; their records are of the root entity.

    Raises:
        InputError: a folder has more entries than File IDs can number.
    """
    tree: dict[str, dict[str, dict[str, list[DirectoryObject]]]] = {}
    for one in objects:
        file = one.file
        # Without PatientIDs, each study counts as another patient.
        patient = file.patient_id or f"\0{file.study_uid}"
        tree.setdefault(patient, {}).setdefault(file.study_uid, {}).setdefault(file.series_uid, []).append(one)
    layout = FileSet(patients=len(tree))
    for number, patient in enumerate(sorted(tree), 1):
        _add_patient(layout, number, tree[patient])
    if patientless := sorted(patientless, key=lambda one: one.file.sop_instance_uid):
        layout.studies.append([FileSetSeries(_objects(layout, 0, _PATIENTLESS, patientless), [])])
    _remark_on_shared_uids(layout)
    return layout


def _add_patient(layout: FileSet, number: int, studies: dict[str, dict[str, list[DirectoryObject]]]) -> None:
    """Add the studies of a patient to a file-set, the earliest study first.

    Args:
        number: ordinal of the patient, from 1.
        studies: objects by StudyInstanceUID and SeriesInstanceUID.
    """
    ordered = sorted(
        ([sorted(objects, key=lambda one: one.number) for objects in series.values()] for series in studies.values()),
        key=lambda study: min((s[0].file.study_date, s[0].file.study_time, s[0].file.study_uid) for s in study),
    )
    for study in ordered:
        study.sort(key=lambda objects: (ordinal(objects[0].file.series_number), objects[0].file.series_uid))
    every = [one for study in ordered for series in study for one in series]
    patient = _name("P", number), _record_above(layout, 0, PATIENT, every, number)
    for one in every:
        if one.file.issuer != every[0].file.issuer:
            layout.remarks.append((one.file, "its IssuerOfPatientID is not that of the first object of its patient"))
    for place, study in enumerate(ordered, 1):
        layout.studies.append(_study(layout, place, study, patient))


def _study(
    layout: FileSet, number: int, study: list[list[DirectoryObject]], patient: tuple[str, DirectoryRecord]
) -> list[FileSetSeries]:
    folder = f"{patient[0]}/{_name('ST', number)}"
    entry = _record_above(layout, 1, STUDY, [one for series in study for one in series], number)
    return [_series(layout, place, series, [patient, (folder, entry)]) for place, series in enumerate(study, 1)]


def _series(
    layout: FileSet, number: int, series: list[DirectoryObject], above: list[tuple[str, DirectoryRecord]]
) -> FileSetSeries:
    folder = f"{above[-1][0]}/{_name('SE', number)}"
    entry = _record_above(layout, 2, SERIES, series, number)
    return FileSetSeries(_objects(layout, 3, folder, series), [*above, (folder, entry)])


def _record_above(
    layout: FileSet, depth: int, kind: str, objects: list[DirectoryObject], number: int
) -> DirectoryRecord:
    """Return the record of a patient, study or series. A key has the value of the first object that has one.

    An object with another value gets a remark.
    """
    first = objects[0]
    values, tags = dict(first.values), [key.tag for key in KEYS[kind]]
    known: dict[tuple[bytes | None, ...], list[str]] = {}  # most objects of a series have the same values
    for one in objects:
        own = one.character_set, *map(one.values.get, tags)
        if own not in known:
            known[own] = differing = []
            for key in KEYS[kind]:
                value = one.values.get(key.tag)
                if value is None or not (value.isascii() or one.character_set == first.character_set):
                    continue
                if values.setdefault(key.tag, value).strip(b"\0 ") != value.strip(b"\0 "):
                    differing.append(key.keyword)
        for keyword in known[own]:
            layout.remarks.append((one.file, f"another {keyword} than its {kind} record"))
    return _record(layout, depth, kind, replace(first, values=values), number)


def _objects(layout: FileSet, depth: int, folder: str, objects: list[DirectoryObject]) -> list[Placed]:
    placed = []
    for number, one in enumerate(objects, 1):
        _remark_on_profile(layout, one)
        path = f"{folder}/{_name('IM', number)}"
        entry = _record(layout, depth, one.kind, one, number, path)
        placed.append(Placed(one, path, -(-one.file.size // _BLOCK) * _BLOCK + entry.size, entry))
    return placed


def _record(
    layout: FileSet, depth: int, kind: str, source: DirectoryObject, number: int, path: str = ""
) -> DirectoryRecord:
    """Return a directory record with the values of an object.

    Args:
        kind: a key of KEYS.
        number: ordinal among the records of its kind below the same record, from 1.
        path: File ID of the object; empty for a patient, study or series.
    """
    file, references = source.file, {}
    if path:
        references = {
            0x00041500: path.replace("/", "\\"),
            0x00041510: file.sop_class_uid,
            0x00041511: file.sop_instance_uid,
            0x00041512: file.transfer_syntax_uid,
        }
        if kind == PRIVATE:
            references[0x00041432] = file.sop_class_uid
            layout.remarks.append(
                (file, "the standard has no directory record for its SOP class; it has a private one")
            )
    body, made_up = record(kind, source.values, number, references)
    if made_up:
        layout.made_up += 1
        layout.remarks.append((file, f"made up in its {kind} record: {', '.join(made_up)}"))
    return DirectoryRecord(depth, path, body)


def _name(prefix: str, number: int) -> str:
    name = f"{prefix}{number:0{8 - len(prefix)}d}"
    if len(name) > 8:
        raise InputError("a folder has more entries than File IDs can number; hand over less at once")
    return name


def _remark_on_profile(layout: FileSet, one: DirectoryObject) -> None:
    """Add a remark on an object that no general purpose profile allows. It is handed over all the same."""
    syntax = one.file.transfer_syntax_uid
    if syntax not in PROFILES:
        reason = f"transfer syntax {UID(syntax).name}"
    elif not one.part10:
        reason = "no preamble and File Meta Information (PS3.10 7.1)"
    else:
        return
    layout.outside += 1
    layout.remarks.append((one.file, f"outside of the general purpose profiles (PS3.11): {reason}"))


def _remark_on_shared_uids(layout: FileSet) -> None:
    """Add remarks on studies of several patients, and on series of several studies."""
    studies = Counter(study[0].objects[0].object.file.study_uid for study in layout.studies)
    series = Counter(one.objects[0].object.file.series_uid for one in layout.series())
    for one in layout.series():
        file = one.objects[0].object.file
        if studies[file.study_uid] > 1:
            layout.remarks.append((file, "its study has objects of several patients; each is below its own patient"))
        if series[file.series_uid] > 1:
            layout.remarks.append((file, "its series has objects of several studies; each is below its own study"))


def volumes(layout: FileSet, size: int) -> list[list[FileSetSeries]]:
    """Divide a file-set into volumes, each a file-set of its own.

    A study that fits into a volume is not divided, nor is a series that does.

    Args:
        size: largest size of a volume, in bytes; 0: one volume of any size.

    Returns:
        The series of each volume; a series may be divided.

    Raises:
        InputError: a file is larger than a volume.
    """
    if not size:
        return [list(layout.series())]
    room = size - _OVERHEAD
    if any(placed.size + series.folders > room for series in layout.series() for placed in series.objects):
        raise InputError("a file is larger than a volume; give a larger volume_size")
    made: list[list[FileSetSeries]] = [[]]
    left = room
    for part in _parts(layout, room):
        needed = sum(series.size for series in part)
        if needed > left:
            made.append([])
            left = room
        made[-1] += part
        left -= needed
    return [volume for volume in made if volume]


def _parts(layout: FileSet, room: int) -> Iterator[list[FileSetSeries]]:
    """Yield what goes into one volume together: a study, or a series or part of a series of a larger study."""
    for study in layout.studies:
        if sum(series.size for series in study) <= room:
            yield study
            continue
        for series in study:
            yield from ([piece] for piece in ([series] if series.size <= room else _pieces(series, room)))


def _pieces(series: FileSetSeries, room: int) -> Iterator[FileSetSeries]:
    """Divide a series into pieces of at most `room` bytes."""
    piece = FileSetSeries([], series.above)
    for placed in series.objects:
        if piece.size + placed.size > room:
            yield piece
            piece = FileSetSeries([], series.above)
        piece.objects.append(placed)
    yield piece


def index(volume: Iterable[FileSetSeries]) -> Iterator[DirectoryRecord]:
    """Yield the directory records of a volume, each before those below it."""
    last: list[str] = []
    for series in volume:
        folders = [folder for folder, _ in series.above]
        for folder, entry in series.above:
            if folder not in last:
                yield entry
        last = folders
        yield from (placed.record for placed in series.objects)
