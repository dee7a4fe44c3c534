"""Where each object goes in a file-set: patients, studies and series in order, their names, and volumes.

File IDs have four components of eight characters (PS3.10 8.2, 8.5), as `P0000001/ST000001/SE000001/IM000001`: ordinals
of the patient, of the study of that patient, and so on. The same files get the same names, whatever they are called
and wherever they lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from pydicom.uid import UID

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.dicom.files import DicomFile
from pacsifier_ops.handover.fileset import DirectoryRecord
from pacsifier_ops.handover.records import KEYS, PATIENT, PRIVATE, SERIES, STUDY, Described, ordinal, record

#: Transfer syntaxes of the general purpose profiles (PS3.11 D, H, J): plain, JPEG, JPEG 2000, and video.
PROFILES = frozenset(
    (
        "1.2.840.10008.1.2.1",
        *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70, 90, 91, *range(100, 107))),
    )
)

#: Bytes of a block of ISO 9660, the file system of CDs and DVDs (PS3.12): files and folders take whole ones.
_BLOCK = 2048
#: Bytes of a volume that are neither files, folders nor records: the head of the DICOMDIR and the file system's own.
_OVERHEAD = 1 << 20
#: Folders of an object: patient, study and series.
_FOLDERS = 3
#: Folder of the objects that belong to no patient.
_NOBODY = "NOBODY"


@dataclass(frozen=True, slots=True)
class Placed:
    """An object at its place.

    Attributes:
        object: the object.
        path: its File ID, with forward slashes.
        size: bytes that it takes on a volume, with its record.
        record: its record.
    """

    object: Described
    path: str
    size: int
    record: DirectoryRecord


@dataclass
class FileSetSeries:
    """A series at its place.

    Attributes:
        objects: its objects, in order.
        above: the records of patient, study and series, with the folder that each stands for.
    """

    objects: list[Placed]
    above: list[tuple[str, DirectoryRecord]]

    @property
    def size(self) -> int:
        """Bytes that it takes on a volume where nothing else of its patient is."""
        return sum(placed.size for placed in self.objects) + self.folders

    @property
    def folders(self) -> int:
        """Bytes of the folders and records above the objects."""
        return _FOLDERS * _BLOCK + sum(record.size for _, record in self.above)


@dataclass
class FileSet:
    """A file-set.

    Attributes:
        studies: its series, in order, by study.
        remarks: objects and what is to be told of them.
        patients: how many there are.
        made_up: records with keys that were made up.
        outside: objects that are outside of the general purpose profiles.
    """

    studies: list[list[FileSetSeries]] = field(default_factory=list)
    remarks: list[tuple[DicomFile, str]] = field(default_factory=list)
    patients: int = 0
    made_up: int = 0
    outside: int = 0

    def series(self) -> Iterator[FileSetSeries]:
        """All series, in order."""
        for study in self.studies:
            yield from study


def lay_out(objects: Iterable[Described], patientless: Iterable[Described] = ()) -> FileSet:
    """Give every object its place. An object belongs to the patient, study and series that itself says.

    Args:
        patientless: objects that belong to none; their records are of the root entity.

    Raises:
        InputError: there are more things in a folder than names.
    """
    tree: dict[str, dict[str, dict[str, list[Described]]]] = {}
    for described in objects:
        file = described.file
        # Without a PatientID, every study is somebody else.
        patient = file.patient_id or f"\0{file.study_uid}"
        tree.setdefault(patient, {}).setdefault(file.study_uid, {}).setdefault(file.series_uid, []).append(described)
    layout = FileSet(patients=len(tree))
    for number, patient in enumerate(sorted(tree), 1):
        _patient(layout, number, tree[patient])
    if patientless := sorted(patientless, key=lambda one: one.file.sop_instance_uid):
        layout.studies.append([FileSetSeries(_objects(layout, 0, _NOBODY, patientless), [])])
    _tell_of_mixtures(layout)
    return layout


def _patient(layout: FileSet, number: int, studies: dict[str, dict[str, list[Described]]]) -> None:
    ordered = sorted(
        ([sorted(objects, key=lambda one: one.number) for objects in series.values()] for series in studies.values()),
        key=lambda study: min((s[0].file.study_date, s[0].file.study_time, s[0].file.study_uid) for s in study),
    )
    for study in ordered:
        study.sort(key=lambda objects: (ordinal(objects[0].file.series_number), objects[0].file.series_uid))
    every = [described for study in ordered for series in study for described in series]
    patient = _name("P", number), _above(layout, 0, PATIENT, every, number)
    for described in every:
        if described.file.issuer != every[0].file.issuer:
            layout.remarks.append(
                (described.file, "its PatientID is of another issuer than its record's first object's")
            )
    for place, study in enumerate(ordered, 1):
        layout.studies.append(_study(layout, place, study, patient))


def _study(
    layout: FileSet, number: int, study: list[list[Described]], patient: tuple[str, DirectoryRecord]
) -> list[FileSetSeries]:
    folder = f"{patient[0]}/{_name('ST', number)}"
    entry = _above(layout, 1, STUDY, [described for series in study for described in series], number)
    return [_series(layout, place, series, [patient, (folder, entry)]) for place, series in enumerate(study, 1)]


def _series(
    layout: FileSet, number: int, series: list[Described], above: list[tuple[str, DirectoryRecord]]
) -> FileSetSeries:
    folder = f"{above[-1][0]}/{_name('SE', number)}"
    entry = _above(layout, 2, SERIES, series, number)
    return FileSetSeries(_objects(layout, 3, folder, series), [*above, (folder, entry)])


def _above(layout: FileSet, depth: int, kind: str, objects: list[Described], number: int) -> DirectoryRecord:
    """The record of a patient, study or series: what its first object says of it, and where that is silent, the next.

    Objects must agree on it; those that do not are told.
    """
    first = objects[0]
    values = dict(first.values)
    for described in objects:
        for key in KEYS[kind]:
            value = described.values.get(key.tag)
            if value is None or not (value.isascii() or described.character_set == first.character_set):
                continue
            if values.setdefault(key.tag, value).strip(b"\0 ") != value.strip(b"\0 "):
                layout.remarks.append((described.file, f"another {key.keyword} than its {kind} record"))
    return _record(layout, depth, kind, replace(first, values=values), number)


def _objects(layout: FileSet, depth: int, folder: str, objects: list[Described]) -> list[Placed]:
    placed = []
    for place, described in enumerate(objects, 1):
        _tell_of_profile(layout, described)
        path = f"{folder}/{_name('IM', place)}"
        entry = _record(layout, depth, described.kind, described, place, path)
        placed.append(Placed(described, path, -(-described.file.size // _BLOCK) * _BLOCK + entry.size, entry))
    return placed


def _record(
    layout: FileSet, depth: int, kind: str, described: Described, number: int, path: str = ""
) -> DirectoryRecord:
    file, references = described.file, {}
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
                (file, "its SOP class has no directory record of the standard's; it has a private one")
            )
    body, invented = record(kind, described.values, number, references)
    if invented:
        layout.made_up += 1
        layout.remarks.append((file, f"made up in its {kind} record: {', '.join(invented)}"))
    return DirectoryRecord(depth, path, body)


def _name(prefix: str, number: int) -> str:
    name = f"{prefix}{number:0{8 - len(prefix)}d}"
    if len(name) > 8:
        raise InputError("there are more things in a folder than File IDs can number; hand over less at once")
    return name


def _tell_of_profile(layout: FileSet, described: Described) -> None:
    """Objects are handed over as they are, also where a profile for media has no place for them."""
    syntax = described.file.transfer_syntax_uid
    if syntax not in PROFILES:
        reason = f"transfer syntax {UID(syntax).name}"
    elif not described.part10:
        reason = "no preamble and File Meta Information (PS3.10 7.1)"
    else:
        return
    layout.outside += 1
    layout.remarks.append((described.file, f"outside of the general purpose profiles (PS3.11): {reason}"))


def _tell_of_mixtures(layout: FileSet) -> None:
    studies = Counter(study[0].objects[0].object.file.study_uid for study in layout.studies)
    series = Counter(one.objects[0].object.file.series_uid for one in layout.series())
    for one in layout.series():
        file = one.objects[0].object.file
        if studies[file.study_uid] > 1:
            layout.remarks.append((file, "its study has objects of several patients; each is below its own"))
        if series[file.series_uid] > 1:
            layout.remarks.append((file, "its series has objects of several studies; each is below its own"))


def volumes(layout: FileSet, size: int) -> list[list[FileSetSeries]]:
    """Cut a file-set into volumes of at most `size` bytes, 0 for a single one: each is a file-set of its own.

    A study is kept together where a volume can hold it, and so is a series; else it goes on in the next volume.

    Raises:
        InputError: a file is larger than a volume.
    """
    if not size:
        return [list(layout.series())]
    room = size - _OVERHEAD
    if any(placed.size + series.folders > room for series in layout.series() for placed in series.objects):
        raise InputError("a file is larger than a volume; give a larger volume_size")
    cut: list[list[FileSetSeries]] = [[]]
    left = room
    for study in layout.studies:
        for together in [study] if sum(series.size for series in study) <= room else [[series] for series in study]:
            for part in [together] if together[0].size <= room else [[piece] for piece in _pieces(together[0], room)]:
                needed = sum(series.size for series in part)
                if needed > left:
                    cut.append([])
                    left = room
                cut[-1] += part
                left -= needed
    return [volume for volume in cut if volume]


def _pieces(series: FileSetSeries, room: int) -> Iterator[FileSetSeries]:
    """A series in pieces that fit into a volume each."""
    piece = FileSetSeries([], series.above)
    for placed in series.objects:
        if piece.size + placed.size > room:
            yield piece
            piece = FileSetSeries([], series.above)
        piece.objects.append(placed)
    yield piece


def index(volume: Iterable[FileSetSeries]) -> Iterator[DirectoryRecord]:
    """The records of a volume, each after the one that it is below."""
    last: list[str] = []
    for series in volume:
        folders = [folder for folder, _ in series.above]
        for folder, entry in series.above:
            if folder not in last:
                yield entry
        last = folders
        yield from (placed.record for placed in series.objects)
