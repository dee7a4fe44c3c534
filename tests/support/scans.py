"""Series as scanners make them, for conversion: volumes with a geometry, echoes, tilts, gaps, several volumes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedMRImageStorage, JPEG2000Lossless

from pacsifier_ops.convert import steps
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.deid import steps as deid
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.embedded.phantoms import phantom_series, uid
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.study.cohort import search_of

PATIENT, NAME = "ZQX-71830-KW", "Wurzelbacher^Kunigunde"
SHAPE: dict[str, Any] = {"rows": 32, "columns": 32, "StudyDescription": "Study of a disc"}


def _series(number: int, modality: str, description: str, n_images: int, **more: Any) -> list[Dataset]:
    who = {"patient_id": PATIENT, "patient_name": NAME}
    words = {"SeriesDescription": description, "ProtocolName": description}
    return phantom_series(
        **{**who, **SHAPE, **words, **more}, series_number=number, modality=modality, n_images=n_images
    )


def ct(number: int = 1, description: str = "Thorax 1.0 B70f", n_images: int = 12, **more: Any) -> list[Dataset]:
    """A volume of computed tomography."""
    return _series(number, "CT", description, n_images, **more)


def tilted(number: int = 2, degrees: float = 15.0) -> list[Dataset]:
    """A volume whose gantry was tilted: each slice is shifted against the one before."""
    images = ct(number, "Head native tilted", GantryDetectorTilt=str(degrees), Manufacturer="SIEMENS")
    angle = math.radians(degrees)
    for place, image in enumerate(images):
        image.PixelRepresentation = 1  # it corrects no others
        image.ImageOrientationPatient = [1, 0, 0, 0, math.cos(angle), -math.sin(angle)]
        image.ImagePositionPatient = [-16, -16, 3 * place]
    return images


def with_gap(number: int = 3) -> list[Dataset]:
    """A volume of which one slice is missing."""
    images = ct(number, "Abdomen with a gap")
    return images[:5] + images[6:]


def echoes(number: int = 4, description: str = "gre_two_echoes") -> list[Dataset]:
    """Two echoes of one volume in one series."""
    images = _series(
        number,
        "MR",
        description,
        16,
        EchoTime=lambda place: "4.92" if place < 8 else "7.38",
        EchoNumbers=lambda place: 1 if place < 8 else 2,
    )
    for place, image in enumerate(images):
        image.ImagePositionPatient = [-16, -16, place % 8]
    return images


def in_time(number: int = 5, description: str = "rest_bold", volumes: int = 12, slices: int = 4) -> list[Dataset]:
    """One volume after the other, in one series."""
    images = _series(
        number,
        "MR",
        description,
        volumes * slices,
        RepetitionTime="2000",
        MRAcquisitionType="2D",
        ScanningSequence="EP",
        AcquisitionNumber=lambda place: str(place // slices + 1),
        AcquisitionTime=lambda place: f"1015{2 * (place // slices):02d}",
        ContentTime=lambda place: f"1015{2 * (place // slices):02d}",
        NumberOfTemporalPositions=str(volumes),
        TemporalPositionIdentifier=lambda place: str(place // slices + 1),
    )
    for place, image in enumerate(images):
        image.ImagePositionPatient = [-16, -16, 3 * (place % slices)]
        image.SliceThickness = "3"
    return images


def localizer(number: int = 6) -> list[Dataset]:
    """Slices of three directions in one series."""
    images = _series(number, "MR", "localizer", 9)
    axes = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])
    for place, image in enumerate(images):
        image.ImageOrientationPatient = axes[place // 3]
        position: list[float] = [-16, -16, 16]
        position[(2, 1, 0)[place // 3]] = 5 * (place % 3)
        image.ImagePositionPatient = position
    return images


def packed(number: int = 7) -> list[Dataset]:
    """A volume in JPEG 2000."""
    images = ct(number, "Thorax packed")
    for image in images:
        stream = BytesIO()
        pixels = numpy.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
        Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
        image.PixelData = encapsulate([stream.getvalue()])
        image["PixelData"].VR = "OB"
        image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return images


def t1w(number: int = 8, description: str = "t1_mprage_sag", n_images: int = 10, **more: Any) -> list[Dataset]:
    """A volume of magnetic resonance."""
    return _series(number, "MR", description, n_images, **more)


def multiframe(number: int = 9, frames: int = 6) -> list[Dataset]:
    """A volume in one object (PS3.3 A.36)."""
    (image,) = _series(number, "MR", "t2_multiframe", 1, SOPClassUID=EnhancedMRImageStorage)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "EchoTime"):
        delattr(image, keyword)
    image.NumberOfFrames = frames
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    image.AcquisitionDateTime = "20180102101500"
    organization = uid("dimensions", image.SOPInstanceUID)
    image.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    image.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=0x00209057,
            FunctionalGroupPointer=0x00209111,
        )
    ]
    image.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[_item(PixelSpacing=[1, 1], SliceThickness="1", SpacingBetweenSlices="1")],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            MREchoSequence=[_item(EffectiveEchoTime=90.0)],
        )
    ]
    image.PerFrameFunctionalGroupsSequence = [
        _item(
            FrameContentSequence=[
                _item(StackID="1", InStackPositionNumber=place + 1, DimensionIndexValues=[place + 1])
            ],
            PlanePositionSequence=[_item(ImagePositionPatient=[-16, -16, place])],
            PixelValueTransformationSequence=[_item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")],
        )
        for place in range(frames)
    ]
    pixels = numpy.frombuffer(image.PixelData, "<u2")
    image.PixelData = numpy.concatenate([pixels + 10 * place for place in range(frames)]).astype("<u2").tobytes()
    return [image]


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def deidentified(
    images: Iterable[Dataset], folder: Path, profile: str = "research", source: Path | None = None
) -> Path:
    """Write objects, de-identify their folder by our own steps, and return the new folder."""
    source = source or folder / "in"
    source.mkdir(parents=True, exist_ok=True)
    for image in images:
        image.save_as(source / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
    run = Run.fresh()
    for unit in deid.prepare(run, DeidRequest(source, folder / "out", profile, contact_sheets=False)):
        deid.convert(run, unit)
    deid.report(run)
    return folder / "out"


def converted(source: Path, out: Path, layout: str = "nifti", **given: Any) -> tuple[Run, ToolAccount]:
    """Convert a folder, all steps."""
    run = Run.fresh()
    for unit in steps.prepare(run, ConvertRequest(source, out, layout, **given)):
        steps.convert(run, unit)
    steps.assemble(run, search_of(run, source))
    return run, steps.report(run)


def names(out: Path) -> list[str]:
    """The files of a folder of images, without its control folder."""
    every = (path.relative_to(out) for path in out.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in every if path.parts[0] != ".pacsifier")
