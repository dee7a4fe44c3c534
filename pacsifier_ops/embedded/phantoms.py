"""Synthetic DICOM objects, and the cohort of the demonstration. The bytes are the same every time."""

from __future__ import annotations

import functools
import hashlib
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydicom.data
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

#: Version of the generated objects. It is part of the UIDs' hash, so that other pixels get other UIDs.
EDITION = "pacsifier phantoms 1"

CT: dict[str, Any] = {
    "SOPClassUID": CTImageStorage,
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "RescaleType": "HU",
    "KVP": "120",
    "AcquisitionNumber": "1",
}
MR: dict[str, Any] = {
    "SOPClassUID": MRImageStorage,
    "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
    "ScanningSequence": "GR",
    "SequenceVariant": "SP",
    "ScanOptions": "",
    "MRAcquisitionType": "3D",
    "SequenceName": "*fl3d1",
    "RepetitionTime": "2300",
    "EchoTime": "2.98",
    "EchoTrainLength": "1",
    "AcquisitionNumber": "1",
}
SECONDARY_CAPTURE: dict[str, Any] = {
    "SOPClassUID": SecondaryCaptureImageStorage,
    "ImageType": ["DERIVED", "SECONDARY"],
    "ConversionType": "WSD",
}


def uid(*parts: object) -> UID:
    """Return a unique UID for these parts, below 2.25 (PS3.5 B.2), the same every time."""
    digest = hashlib.sha256("\0".join((EDITION, *map(str, parts))).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


@functools.cache
def _disc(rows: int, columns: int) -> Any:
    import numpy

    y, x = numpy.ogrid[:rows, :columns]
    radius = (2 * y / rows - 1) ** 2 + (2 * x / columns - 1) ** 2
    return (1000 * (radius < 0.8) + 300 * (radius < 0.1)).astype("<u2")


def phantom_series(
    *,
    patient_id: str,
    patient_name: str,
    study_uid: str | None = None,
    study_date: str = "20180102",
    study_time: str = "101500",
    series_uid: str | None = None,
    series_number: int = 1,
    modality: str = "CT",
    n_images: int = 4,
    rows: int = 64,
    columns: int = 64,
    charset: str | list[str] = "ISO_IR 192",
    transfer_syntax: str = ExplicitVRLittleEndian,
    secondary_capture: bool = False,
    **overrides: Any,
) -> list[Dataset]:
    """Make one series of a disc that grows brighter from image to image, 16 bit, 1 mm pixels.

    Modalities CT and MR make objects of those classes, any other (or `secondary_capture`) a Secondary Capture. The UIDs
    are derived from the patient's id, date, time and number, unless they are given.

    Args:
        n_images: number of objects in the series, 1 mm apart.
        rows, columns: size of an image in pixels.
        transfer_syntax: Explicit or Implicit VR Little Endian, or RLE Lossless.
        overrides: further attributes by keyword; a function is called with the image's index, from 0.
    """
    study_uid = study_uid or uid("study", patient_id, study_date, study_time)
    series_uid = series_uid or uid("series", study_uid, series_number, modality, overrides.get("SeriesDescription"))
    kind = SECONDARY_CAPTURE if secondary_capture else {"CT": CT, "MR": MR}.get(modality, SECONDARY_CAPTURE)
    common = {
        "SpecificCharacterSet": charset,
        "PatientID": patient_id,
        "PatientName": patient_name,
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "StudyInstanceUID": study_uid,
        "StudyDate": study_date,
        "StudyTime": study_time,
        "StudyID": "1",
        "BodyPartExamined": "WHOLEBODY",
        "StudyDescription": f"Phantom {modality}",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesInstanceUID": series_uid,
        "SeriesNumber": series_number,
        "SeriesDate": study_date,
        "SeriesTime": study_time,
        "SeriesDescription": f"Phantom {modality}",
        "ProtocolName": f"Phantom {modality}",
        "Modality": modality,
        "AcquisitionDate": study_date,
        "AcquisitionTime": study_time,
        "ContentDate": study_date,
        "ContentTime": study_time,
        "Manufacturer": "Phantom",
        "ManufacturerModelName": "Disc",
        "DeviceSerialNumber": "4711",
        "SoftwareVersions": "1",
    }
    return [
        _image(common | kind | overrides, number, rows, columns, UID(transfer_syntax)) for number in range(n_images)
    ]


def _image(attributes: dict[str, Any], number: int, rows: int, columns: int, transfer_syntax: UID) -> Dataset:
    image = Dataset()
    for keyword, value in attributes.items():
        setattr(image, keyword, value(number) if callable(value) else value)
    image.SOPInstanceUID = attributes.get("SOPInstanceUID") or uid("image", image.SeriesInstanceUID, number)
    image.InstanceNumber = number + 1
    if image.SOPClassUID == SecondaryCaptureImageStorage:
        image.PatientOrientation = ""
    else:
        image.FrameOfReferenceUID = uid("frame of reference", image.StudyInstanceUID)
        image.PositionReferenceIndicator = ""
        image.PatientPosition = "HFS"
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [-columns / 2, -rows / 2, number]
        image.PixelSpacing = [1, 1]
        image.SliceThickness = "1"
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = rows, columns
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.add_new("PixelData", "OW", (_disc(rows, columns) + 10 * number).tobytes())
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if transfer_syntax == RLELossless:
        image.compress(RLELossless, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = transfer_syntax
    return image


def write(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Write each data set as `<folder>/<SOPInstanceUID>.dcm` (PS3.10); return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for dataset in datasets:
        paths.append(folder / f"{dataset.SOPInstanceUID}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def shipped_files() -> list[Path]:
    """Return real objects of the installed pydicom: complete, readable, one file per SOP Instance UID."""
    chosen: dict[str, Path] = {}
    # Search the folder itself: pydicom's own functions would also download missing files.
    for path in sorted(Path(pydicom.data.__file__).parent.rglob("*")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                dataset = dcmread(path)
                for element in dataset.iterall():
                    _ = element.value
            except Exception:  # any invalid file is unfit for a demonstration
                continue
        keys = ("SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
        meta = dataset.file_meta
        announced = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
        if all(dataset.get(key) for key in keys) and announced == (
            dataset.SOPClassUID,
            dataset.SOPInstanceUID,
        ):
            chosen.setdefault(dataset.SOPInstanceUID, path)
    return list(chosen.values())


def _phantoms() -> list[Dataset]:
    """Make the synthetic patients of the demonstration."""
    series: list[list[Dataset]] = []

    def add(patient: tuple[str, str, str], study: tuple[str, str, str], number: int, **rest: Any) -> None:
        """Add a series of `patient` (id, name, birth date) in `study` (date, time, accession number)."""
        rest = {"PatientBirthDate": patient[2], "AccessionNumber": study[2]} | rest
        images = phantom_series(
            patient_id=patient[0],
            patient_name=patient[1],
            study_date=study[0],
            study_time=study[1],
            series_number=number,
            **rest,
        )
        series.append(images)

    # One day of one patient, and other days and patients.
    meier = ("123421", "Meier^Anna", "19800214")
    head, follow_up = ("20150512", "083000", "ACC123421A"), ("20150601", "141500", "ACC123421B")
    add(meier, head, 1, SeriesDescription="Topogram", ProtocolName="Head", n_images=1, rows=128, columns=128)
    add(meier, head, 2, SeriesDescription="Head native 5.0 H30s", ProtocolName="Head", n_images=12)
    add(meier, follow_up, 1, modality="MR", SeriesDescription="t1_mprage_sag", ProtocolName="t1_mprage")
    dubois = ("45322", "Dubois^Hélène", "19551130")
    add(
        dubois,
        ("20160310", "091000", "ACC45322A"),
        1,
        charset="ISO_IR 100",
        SeriesDescription="Thorax 1.0 B70f",
    )
    add(
        dubois,
        ("20160310", "091000", "ACC45322A"),
        2,
        charset="ISO_IR 100",
        SeriesDescription="Thorax 3.0 B40f",
    )
    add(dubois, ("20170921", "160500", "ACC45322B"), 1, charset="ISO_IR 100", modality="MR")
    rossi = ("124588", "Rossi^Marco", "19610708")
    for date in ("20150511", "20150512", "20150601", "20150612", "20150613"):
        add(rossi, (date, "113000", f"ACC124588{date[4:]}"), 1, SeriesDescription=f"Abdomen {date[4:]}")

    # The same family name in two character sets; 2 January 2018 and another day.
    juergen = ("200311", "Müller^Jürgen", "19480305")
    kaethe = ("200312", "Müller^Käthe", "19510917")
    add(juergen, ("20180102", "074500", "ACC200311A"), 1, charset="ISO_IR 100", StudyDescription="Schädel")
    add(juergen, ("20180105", "120000", "ACC200311B"), 1, charset="ISO_IR 100", modality="MR")
    add(kaethe, ("20180102", "101500", "ACC200312A"), 1, SeriesDescription="Übersicht äöü [1]")
    add(("200313", "Иванов^Пётр", "19721012"), ("20190417", "093000", "ACC200313A"), 1, charset="ISO_IR 144")
    yamada = ("200314", "Yamada^Tarou=山田^太郎=やまだ^たろう", "19660401")
    add(yamada, ("20190418", "093000", "ACC200314A"), 1, charset=["", "ISO 2022 IR 87"], modality="MR")

    # Variants of one protocol, of modalities and of birth dates.
    keller, moser = ("300115", "Keller^Beat", "19920611"), ("300116", "Moser^Ursula", "19920612")
    heart = ("20170314", "150000", "ACC300115A")
    add(keller, heart, 1, ProtocolName="BEAT_SelfNav_CTA", SeriesDescription="Heart CTA", n_images=6)
    add(keller, heart, 2, ProtocolName="BEAT_Nav", SeriesDescription="Heart navigated")
    add(
        keller,
        heart,
        3,
        ProtocolName="BEAT_SelfNav_3D",
        SeriesDescription="Heart 3D",
        modality="MR",
        n_images=8,
    )
    add(moser, ("20170315", "150000", "ACC300116A"), 1, ProtocolName="BEAT_SelfNav_CTA")

    # Names of output folders: equal number and description, equal after cleaning, empty, without date.
    lee = ("PT 01", "O'Neil^Mary Lou", "19840229")
    knee = ("20200229", "080000", "ACCPT01A")
    for name in ("first", "second"):
        part = {"series_uid": uid("series", "knee", name), "SeriesDescription": "pd_tse_sag"}
        add(lee, knee, 3, modality="MR", ProtocolName=f"pd_tse_{name}", **part)
    add(lee, knee, 4, modality="MR", SeriesDescription="")
    for patient in (("A-1", "Alpha^Ada", "19900101"), ("A.1", "Alpha^Otto", "19910101")):
        add(patient, ("20210506", "090000", f"ACC{patient[0]}"), 1, SeriesDescription="Spine 2.0", n_images=3)
    add(("200315", "Ohne^Datum", "19630606"), ("", "", "ACC200315A"), 1, SeriesDescription="Undated")

    # Kinds of images: a dose report and a screen save beside the images, a series of two kinds, compressed.
    weber = ("200316", "Weber^Lea", "20030303")
    body = ("20220704", "131500", "ACC200316A")
    add(weber, body, 1, SeriesDescription="Body 1.5", n_images=10)
    screen = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
    add(weber, body, 501, SeriesDescription="Patient Protocol", n_images=1, **screen)
    mixed = (["ORIGINAL", "PRIMARY", "OTHER"], ["DERIVED", "PRIMARY", "PHASE MAP"])
    add(weber, body, 2, modality="MR", SeriesDescription="Flow", ImageType=lambda i: mixed[i % 2], n_images=6)
    add(weber, body, 3, SeriesDescription="Body 1.5 packed", transfer_syntax=RLELossless)
    return [image for images in series for image in images]


def demo_cohort(folder: Path) -> list[Path]:
    """Write the cohort of the demonstration to `folder` and return its files.

    It consists of real objects from the installed pydicom, and of synthetic patients. Writing it again to the same
    folder gives the same bytes.

    Raises:
        OSError: the folder is not writable or the disk full.
    """
    paths = write(_phantoms(), folder)
    for source in shipped_files():
        paths.append(folder / f"{source.stem}-{uid('copy', source.name, source.stat().st_size)[-8:]}.dcm")
        shutil.copyfile(source, paths[-1])
    return paths
