"""A corpus for de-identification: objects of every kind, in which whatever could tell somebody is a value of its own.

Three patients, in Latin-1, Unicode and ISO 2022 Japanese, have one object of every kind each, with references among
them, and a third of the kinds once more stuffed with every attribute of PS3.15's tables and PS3.6's dictionary, at the
top, in sequences, in sequences of sequences and in private blocks. One series has an object for every transfer syntax.
The same bytes every time.

InstanceNumber (0020,0013), which no table lists and every tool keeps, is unique in the corpus: it pairs an object that
comes out of a tool with the one that went in.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pydicom.config
from pydicom import Dataset
from pydicom.datadict import DicomDictionary, dictionary_VM, keyword_for_tag, private_dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.support.deid_fragments import FRAGMENTS
from tests.support.deid_key import CONTENT_SEQUENCE, NUMBERS, Planted, Step, rows, tables

STORAGE = "1.2.840.10008.5.1.4.1.1."
#: What a token looks like: no word of any language, of any vocabulary, of any code.
TOKEN = re.compile(r"zq[bcdfghjklmnpqrstvwxz]{6}", re.IGNORECASE)
#: A date, by itself or at the head of a date and time.
DATE = re.compile(
    r"(?<![\d.])(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?=$|[^\d.]|\d{2,6}(?:\.\d{1,6})?(?:$|[^\d.]))"
)
#: A UID of the corpus.
OWN_UID = re.compile(r"1\.2\.(?:826\.0\.1\.3680043\.10\.99|840\.10008\.5\.1\.4\.1\.1\.2)\.\d{12}(?![\d.])")
#: A word that stays where descriptors are cleaned.
WORD = "chest"
_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_KANJI = "山川田中木林森石原野村井上下大小高松竹梅"
_GREEK = "αβγδεζηθικλμνξοπρστφ"


class Fresh:
    """Values that were not there before."""

    def __init__(self) -> None:
        self._tokens = self._days = self._uids = 0

    def _digits(self) -> list[int]:
        self._tokens += 1
        number, digits = self._tokens * 29_999_999 % 20**6, []
        for _ in range(6):
            number, digit = divmod(number, 20)
            digits.append(digit)
        return digits

    def token(self) -> str:
        return "Zq" + "".join(_CONSONANTS[digit] for digit in self._digits())

    def letters(self, charset: str) -> str:
        """A token in letters that only this character set has."""
        alphabet = {"latin": "", "unicode": _GREEK, "japanese": _KANJI}[charset]
        return "".join(alphabet[digit] for digit in self._digits()) if alphabet else "é" + self.token()

    def day(self) -> dt.date:
        """A date of 1930 to 2019 with an even number, so that an odd shift never meets another one; and a real one."""
        self._days += 1
        day = dt.date.fromordinal(704_556 + 2 * (self._days * 7919 % 16_001))
        return day if day != dt.date(1969, 12, 31) else self.day()

    def date(self) -> str:
        return f"{self.day():%Y%m%d}"

    def uid(self, plain: bool = False) -> str:
        """A UID; every tenth begins like one of the standard's, unless plain."""
        self._uids += 1
        root = "1.2.840.10008.5.1.4.1.1.2" if self._uids % 10 == 0 and not plain else "1.2.826.0.1.3680043.10.99"
        return f"{root}.{10**11 + self._uids}"


@dataclass
class Study:
    """A study of a patient, and what all its objects say of it."""

    attributes: dict[str, Any]
    frame_of_reference: str
    images: dict[str, list[Dataset]] = field(default_factory=dict)


@dataclass
class Patient:
    """A patient, and what all objects say of him.

    Attributes:
        charset: latin, unicode or japanese.
    """

    charset: str
    attributes: dict[str, Any]
    studies: list[Study] = field(default_factory=list)

    @property
    def patient_id(self) -> str:
        return str(self.attributes["PatientID"])


@dataclass
class Source:
    """One object of the corpus.

    Attributes:
        number: its InstanceNumber.
        stuffed: it holds attributes that its kind does not have.
        burned: rows of its images that have text burned in: the object must be kept back, or they be of one colour.
        may_stay: it holds what nobody can look into (burned-in text, documents, video), so that it may be kept back.
        pixels: its pixel data as in the file.
        planted: what is in it, place by place.
    """

    number: int
    kind: str
    patient: str
    sop_class: str
    path: Path
    stuffed: bool
    burned: int | None
    may_stay: bool
    pixels: bytes | None
    planted: list[Planted]


CHARSETS: dict[str, Any] = {"latin": "ISO_IR 100", "unicode": "ISO_IR 192", "japanese": ["", "ISO 2022 IR 87"]}


def item(**attributes: Any) -> Dataset:
    """A data set of attributes by keyword; lists of data sets become sequences."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    return [item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


class Builder:
    """Makes the objects of one series' worth of a kind."""

    def __init__(self) -> None:
        self.fresh = Fresh()
        self.number = 0

    # Entities

    def patient(self, charset: str) -> Patient:
        fresh = self.fresh
        name = f"{fresh.token()}^{fresh.token()}"
        if charset == "japanese":
            name += f"={fresh.letters(charset)}^{fresh.letters(charset)}"
        else:
            name = f"{fresh.letters(charset)}^{fresh.token()}"
        born = fresh.day()
        patient = Patient(
            charset,
            {
                "PatientName": name,
                "PatientID": fresh.token().upper(),
                "PatientBirthDate": f"{born:%Y%m%d}",
                "PatientSex": "F",
            },
        )
        patient.studies = [self.study(charset, number) for number in range(2)]
        return patient

    def study(self, charset: str, number: int) -> Study:
        fresh = self.fresh
        attributes = {
            "StudyInstanceUID": fresh.uid(),
            "StudyDate": fresh.date(),
            "StudyTime": "101500",
            "ReferringPhysicianName": fresh.token(),
            "StudyID": fresh.token(),
            "AccessionNumber": fresh.token(),
            "StudyDescription": f"{WORD} {fresh.letters(charset)}",
            # One is of an age that only few reach.
            "PatientAge": "093Y" if charset == "unicode" else f"04{number}Y",
        }
        return Study(attributes, fresh.uid())

    def series(self, charset: str, modality: str) -> dict[str, Any]:
        fresh = self.fresh
        return {
            "Modality": modality,
            "SeriesInstanceUID": fresh.uid(),
            "SeriesNumber": str(self.number + 1),
            "SeriesDescription": f"{WORD} {fresh.letters(charset)}",
            "SeriesDate": fresh.date(),
            "SeriesTime": "101530",
            "BodyPartExamined": "CHEST",
            "OperatorsName": fresh.token(),
            "Manufacturer": "Acme",
            "ManufacturerModelName": "Axial 4",
            "InstitutionName": fresh.token(),
            "InstitutionAddress": fresh.token(),
            "StationName": fresh.token().upper(),
            "DeviceSerialNumber": fresh.token(),
            "SoftwareVersions": "1.0",
        }

    # Objects

    def object(self, patient: Patient, study: Study, series: dict[str, Any], sop_class: str, **rest: Any) -> Dataset:
        self.number += 1
        dataset = item(
            SpecificCharacterSet=CHARSETS[patient.charset],
            SOPClassUID=STORAGE + sop_class,
            SOPInstanceUID=self.fresh.uid(),
            **patient.attributes,
            **study.attributes,
            **series,
        )
        dataset.InstanceNumber = str(self.number)
        dataset.InstanceCreationDate = self.fresh.date()
        dataset.InstanceCreationTime = "101531"
        for keyword, value in rest.items():
            setattr(dataset, keyword, value)
        meta = dataset.file_meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        meta.SourceApplicationEntityTitle = self.fresh.token().upper()
        return dataset

    def pixels(
        self, dataset: Dataset, *, bits: int = 16, frames: int = 0, colour: bool = False, size: int = 16
    ) -> None:
        """Pixels that no other object has."""
        dataset.SamplesPerPixel = 3 if colour else 1
        dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            dataset.PlanarConfiguration = 0
        dataset.Rows = dataset.Columns = size
        stored = 12 if bits == 16 else bits
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, stored, stored - 1
        dataset.PixelRepresentation = 0
        if frames:
            dataset.NumberOfFrames = str(frames)
        shape = (max(frames, 1), size, size, dataset.SamplesPerPixel)
        values = numpy.random.default_rng(int(dataset.InstanceNumber)).integers(1, 200, shape)
        dataset.add_new("PixelData", "OW" if bits == 16 else "OB", values.astype(f"<u{bits // 8}").tobytes())

    def plane(self, study: Study, position: float = 0) -> dict[str, Any]:
        return {
            "FrameOfReferenceUID": study.frame_of_reference,
            "PositionReferenceIndicator": "",
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0, 0, position],
            "PixelSpacing": [1, 1],
            "SliceThickness": "1",
        }

    def acquired(self) -> dict[str, Any]:
        """When, and how it is described."""
        return {
            "AcquisitionDate": self.fresh.date(),
            "AcquisitionTime": "101532",
            "ContentDate": self.fresh.date(),
            "ContentTime": "101533",
            "ImageComments": self.fresh.token(),
        }


def _reference(dataset: Dataset, **rest: Any) -> Dataset:
    return item(ReferencedSOPClassUID=dataset.SOPClassUID, ReferencedSOPInstanceUID=dataset.SOPInstanceUID, **rest)


def _series_reference(images: list[Dataset]) -> list[Dataset]:
    return [
        item(
            ReferencedSOPSequence=[_reference(image) for image in images],
            SeriesInstanceUID=images[0].SeriesInstanceUID,
        )
    ]


def _evidence(images: list[Dataset]) -> list[Dataset]:
    return [item(ReferencedSeriesSequence=_series_reference(images), StudyInstanceUID=images[0].StudyInstanceUID)]


#: Kinds whose content is text, drawn or written by people.
DOCUMENTS = frozenset({"SR", "RDSR", "KO", "PR", "PDF"})
#: MPEG-2, MPEG-4 and HEVC.
VIDEO = "1.2.840.10008.1.2.4.10"


Maker = Callable[[Builder, Patient, Study], list[Dataset]]
KINDS: dict[str, Maker] = {}


def kind(name: str) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        KINDS[name] = maker
        return maker

    return register


@kind("CT")
def _ct(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    series = b.series(patient.charset, "CT")
    images = []
    for place in range(2):
        ct = b.object(patient, study, series, "2", **b.plane(study, place), **b.acquired())
        ct.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ct.RescaleIntercept, ct.RescaleSlope, ct.RescaleType = "-1024", "1", "HU"
        ct.KVP, ct.AcquisitionNumber, ct.PatientPosition = "120", "1", "HFS"
        ct.ProtocolName = f"{WORD} {b.fresh.token()}"
        ct.ContrastBolusAgent = f"contrast {b.fresh.token()}"
        ct.IrradiationEventUID = b.fresh.uid()
        ct.RequestAttributesSequence = [
            item(ScheduledProcedureStepID=b.fresh.token(), RequestedProcedureID=b.fresh.token())
        ]
        b.pixels(ct)
        images.append(ct)
    images[1].ReferencedImageSequence = [_reference(images[0])]
    study.images["CT"] = images
    return images


@kind("MR")
def _mr(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    mr = b.object(patient, study, b.series(patient.charset, "MR"), "4", **b.plane(study), **b.acquired())
    mr.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    mr.ScanningSequence, mr.SequenceVariant, mr.ScanOptions, mr.MRAcquisitionType = "GR", "SP", "", "3D"
    mr.RepetitionTime, mr.EchoTime, mr.EchoTrainLength, mr.FlipAngle = "2300", "2.98", "1", "9"
    mr.SequenceName, mr.PatientPosition, mr.AcquisitionNumber = "*fl3d1", "HFS", "1"
    mr.PatientWeight, mr.PatientSize = "71.5", "1.74"
    b.pixels(mr)
    study.images["MR"] = [mr]
    return [mr]


@kind("PT")
def _pt(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    pt = b.object(patient, study, b.series(patient.charset, "PT"), "128", **b.plane(study), **b.acquired())
    pt.ImageType = ["ORIGINAL", "PRIMARY"]
    pt.Units, pt.CountsSource, pt.DecayCorrection, pt.CollimatorType = "BQML", "EMISSION", "START", "NONE"
    pt.SeriesType, pt.NumberOfSlices, pt.CorrectedImage = ["STATIC", "IMAGE"], 1, ["DECY", "ATTN"]
    pt.FrameReferenceTime, pt.ActualFrameDuration, pt.ImageIndex, pt.DecayFactor = "0", "60000", 1, "1"
    pt.RescaleIntercept, pt.RescaleSlope = "0", "1.5"
    pt.PatientOrientationCodeSequence = code("102538003", "SCT", "recumbent")
    pt.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = code("40199007", "SCT", "supine")
    pt.PatientGantryRelationshipCodeSequence = code("102540001", "SCT", "headfirst")
    pt.RadiopharmaceuticalInformationSequence = [
        item(
            RadionuclideCodeSequence=code("77004003", "SCT", "18^Fluorine"),
            Radiopharmaceutical="FDG",
            RadiopharmaceuticalStartDateTime=f"{b.fresh.date()}091500.250000+0100",
            RadionuclideTotalDose="350000000",
            RadionuclideHalfLife="6586.2",
        )
    ]
    pt.EnergyWindowRangeSequence = [item(EnergyWindowLowerLimit="435", EnergyWindowUpperLimit="650")]
    b.pixels(pt)
    pt.BitsStored, pt.HighBit = 16, 15
    return [pt]


@kind("US multi-frame")
def _us(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    us = b.object(patient, study, b.series(patient.charset, "US"), "3.1", **b.acquired())
    us.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL"]
    us.PatientOrientation, us.LossyImageCompression, us.BurnedInAnnotation = "", "00", "YES"
    us.FrameTime, us.FrameIncrementPointer = "40", 0x00181063
    us.SequenceOfUltrasoundRegions = [
        item(
            RegionSpatialFormat=1,
            RegionDataType=1,
            RegionFlags=0,
            RegionLocationMinX0=0,
            RegionLocationMinY0=8,
            RegionLocationMaxX1=15,
            RegionLocationMaxY1=15,
            PhysicalUnitsXDirection=3,
            PhysicalUnitsYDirection=3,
            PhysicalDeltaX=0.1,
            PhysicalDeltaY=0.1,
        )
    ]
    b.pixels(us, bits=8, frames=3, colour=True)
    us.UltrasoundColorDataPresent = 0
    return [us]


@kind("SC")
def _sc(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    sc = b.object(patient, study, b.series(patient.charset, "OT"), "7")
    sc.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    sc.ConversionType, sc.BurnedInAnnotation, sc.PatientOrientation = "WSD", "YES", ""
    sc.DateOfSecondaryCapture, sc.SecondaryCaptureDeviceID = b.fresh.date(), b.fresh.token()
    sc.SecondaryCaptureDeviceManufacturer = "Acme"
    b.pixels(sc, bits=8)
    return [sc]


@kind("CR")
def _cr(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    cr = b.object(patient, study, b.series(patient.charset, "CR"), "1", **b.acquired())
    cr.ImageType, cr.ViewPosition = ["ORIGINAL", "PRIMARY"], "PA"
    cr.PatientOrientation, cr.CassetteID, cr.PlateID = ["L", "F"], b.fresh.token(), b.fresh.token()
    b.pixels(cr)
    return [cr]


def _digital(b: Builder, patient: Patient, study: Study, modality: str, sop_class: str) -> Dataset:
    dx = b.object(patient, study, b.series(patient.charset, modality), sop_class, **b.acquired())
    dx.ImageType, dx.PresentationIntentType = ["ORIGINAL", "PRIMARY", ""], "FOR PRESENTATION"
    dx.PatientOrientation, dx.ImageLaterality = ["L", "F"], "U"
    dx.PixelIntensityRelationship, dx.PixelIntensityRelationshipSign = "LOG", -1
    dx.RescaleIntercept, dx.RescaleSlope, dx.RescaleType = "0", "1", "US"
    dx.PresentationLUTShape, dx.LossyImageCompression, dx.BurnedInAnnotation = "IDENTITY", "00", "NO"
    dx.WindowCenter, dx.WindowWidth = "2048", "4096"
    dx.DetectorType, dx.DetectorID = "DIRECT", b.fresh.token()
    dx.DateOfLastDetectorCalibration = b.fresh.date()
    dx.ImagerPixelSpacing = [0.1, 0.1]
    dx.AcquisitionContextSequence = []
    dx.AnatomicRegionSequence = code("51185008", "SCT", "Thorax")
    b.pixels(dx)
    return dx


@kind("DX")
def _dx(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    dx = _digital(b, patient, study, "DX", "1.1")
    dx.ViewCodeSequence = code("399348003", "SCT", "antero-posterior")
    dx.PositionerType = ""
    return [dx]


@kind("MG")
def _mg(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    mg = _digital(b, patient, study, "MG", "1.2")
    mg.PatientOrientation, mg.ImageLaterality, mg.OrganExposed = ["A", "F"], "R", "BREAST"
    mg.AnatomicRegionSequence = code("76752008", "SCT", "Breast")
    mg.PositionerType, mg.ViewCodeSequence = "MAMMOGRAPHIC", code("399162004", "SCT", "cranio-caudal")
    mg.ViewCodeSequence[0].ViewModifierCodeSequence = []
    mg.BreastImplantPresent, mg.PartialView = "NO", "NO"
    return [mg]


def _enhanced(b: Builder, patient: Patient, study: Study, modality: str, sop_class: str) -> Dataset:
    """What enhanced CT and MR share; two frames, with dates of their own."""
    image = b.object(patient, study, b.series(patient.charset, modality), sop_class)
    image.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = study.frame_of_reference, ""
    image.ContentDate, image.ContentTime = b.fresh.date(), "101533"
    image.AcquisitionDateTime, image.AcquisitionDuration = f"{b.fresh.date()}101532.500000", 1.5
    image.PatientPosition = "HFS"
    image.PixelPresentation, image.VolumetricProperties = "MONOCHROME", "VOLUME"
    image.VolumeBasedCalculationTechnique, image.PresentationLUTShape = "NONE", "IDENTITY"
    image.LossyImageCompression, image.BurnedInAnnotation = "00", "NO"
    image.ContentQualification, image.AcquisitionContextSequence = "RESEARCH", []
    organisation = b.fresh.uid()
    image.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
    image.DimensionIndexSequence = [
        item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=0x00200032,
            FunctionalGroupPointer=0x00209113,
        )
    ]
    image.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness="1")],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            FrameAnatomySequence=[item(FrameLaterality="U", AnatomicRegionSequence=code("51185008", "SCT", "Thorax"))],
        )
    ]
    image.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[
                item(
                    FrameAcquisitionNumber=1,
                    FrameReferenceDateTime=f"{b.fresh.date()}101532",
                    FrameAcquisitionDateTime=f"{b.fresh.date()}101532",
                    FrameAcquisitionDuration=500.0,
                    DimensionIndexValues=[frame + 1],
                    FrameComments=b.fresh.token(),
                )
            ],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, frame])],
        )
        for frame in range(2)
    ]
    b.pixels(image, frames=2)
    return image


@kind("enhanced CT")
def _enhanced_ct(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    ct = _enhanced(b, patient, study, "CT", "2.1")
    ct.MultienergyCTAcquisition = "NO"
    shared = ct.SharedFunctionalGroupsSequence[0]
    shared.CTImageFrameTypeSequence = [
        item(
            FrameType=["DERIVED", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        )
    ]
    shared.CTAcquisitionTypeSequence = [item(AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")]
    shared.IrradiationEventIdentificationSequence = [item(IrradiationEventUID=b.fresh.uid())]
    shared.PixelValueTransformationSequence = [item(RescaleIntercept="-1024", RescaleSlope="1", RescaleType="HU")]
    return [ct]


@kind("enhanced MR")
def _enhanced_mr(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    mr = _enhanced(b, patient, study, "MR", "4.1")
    mr.ComplexImageComponent, mr.AcquisitionContrast = "MAGNITUDE", "T1"
    mr.ResonantNucleus = "1H"
    shared = mr.SharedFunctionalGroupsSequence[0]
    shared.MRImageFrameTypeSequence = [
        item(
            FrameType=["DERIVED", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
            ComplexImageComponent="MAGNITUDE",
            AcquisitionContrast="T1",
        )
    ]
    shared.PixelValueTransformationSequence = [item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")]
    mr.MagneticFieldStrength, mr.KSpaceFiltering, mr.ApplicableSafetyStandardAgency = 3.0, "NONE", "IEC"
    return [mr]


@kind("RTSTRUCT")
def _rtstruct(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    images = study.images["CT"]
    rt = b.object(patient, study, b.series(patient.charset, "RTSTRUCT"), "481.3")
    rt.StructureSetLabel, rt.StructureSetDate, rt.StructureSetTime = b.fresh.token(), b.fresh.date(), "120000"
    rt.ApprovalStatus, rt.FrameOfReferenceUID, rt.PositionReferenceIndicator = (
        "UNAPPROVED",
        study.frame_of_reference,
        "",
    )
    contours = [
        item(
            SeriesInstanceUID=images[0].SeriesInstanceUID,
            ContourImageSequence=[_reference(image) for image in images],
        )
    ]
    rt.ReferencedFrameOfReferenceSequence = [
        item(
            FrameOfReferenceUID=study.frame_of_reference,
            RTReferencedStudySequence=[
                item(
                    ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
                    ReferencedSOPInstanceUID=images[0].StudyInstanceUID,
                    RTReferencedSeriesSequence=contours,
                )
            ],
        )
    ]
    rt.StructureSetROISequence = [
        item(
            ROINumber="1",
            ReferencedFrameOfReferenceUID=study.frame_of_reference,
            ROIName=f"{WORD} {b.fresh.token()}",
            ROIGenerationAlgorithm="MANUAL",
        )
    ]
    rt.ROIContourSequence = [
        item(
            ReferencedROINumber="1",
            ContourSequence=[
                item(
                    ContourImageSequence=[_reference(images[0])],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints="3",
                    ContourData=[0, 0, 0, 4, 0, 0, 4, 4, 0],
                )
            ],
        )
    ]
    rt.RTROIObservationsSequence = [
        item(
            ObservationNumber="1", ReferencedROINumber="1", RTROIInterpretedType="ORGAN", ROIInterpreter=b.fresh.token()
        )
    ]
    study.images["RTSTRUCT"] = [rt]
    return [rt]


@kind("RTPLAN")
def _rtplan(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    rt = b.object(patient, study, b.series(patient.charset, "RTPLAN"), "481.5")
    rt.RTPlanLabel, rt.RTPlanDate, rt.RTPlanTime = b.fresh.token(), b.fresh.date(), "120000"
    rt.RTPlanGeometry, rt.ApprovalStatus = "PATIENT", "UNAPPROVED"
    rt.FrameOfReferenceUID, rt.PositionReferenceIndicator = study.frame_of_reference, ""
    rt.ReferencedStructureSetSequence = [_reference(study.images["RTSTRUCT"][0])]
    rt.DoseReferenceSequence = [
        item(
            DoseReferenceNumber="1",
            DoseReferenceUID=b.fresh.uid(),
            DoseReferenceStructureType="COORDINATES",
            DoseReferencePointCoordinates=[0, 0, 0],
            DoseReferenceType="TARGET",
            DoseReferenceDescription=b.fresh.token(),
        )
    ]
    rt.FractionGroupSequence = [
        item(
            FractionGroupNumber="1",
            NumberOfFractionsPlanned="20",
            NumberOfBeams="0",
            NumberOfBrachyApplicationSetups="0",
        )
    ]
    study.images["RTPLAN"] = [rt]
    return [rt]


@kind("RTDOSE")
def _rtdose(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    rt = b.object(patient, study, b.series(patient.charset, "RTDOSE"), "481.2", **b.plane(study))
    rt.DoseUnits, rt.DoseType, rt.DoseSummationType, rt.DoseGridScaling = "GY", "PHYSICAL", "PLAN", "0.001"
    rt.FrameIncrementPointer, rt.GridFrameOffsetVector = 0x3004000C, [0, 1]
    rt.ReferencedRTPlanSequence = [_reference(study.images["RTPLAN"][0])]
    rt.DoseComment = b.fresh.token()
    b.pixels(rt, frames=2)
    rt.BitsStored, rt.HighBit = 16, 15
    return [rt]


@kind("SEG")
def _seg(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    images = study.images["CT"]
    seg = b.object(patient, study, b.series(patient.charset, "SEG"), "66.4")
    seg.ImageType, seg.SegmentationType = ["DERIVED", "PRIMARY"], "FRACTIONAL"
    seg.SegmentationFractionalType, seg.MaximumFractionalValue = "PROBABILITY", 255
    seg.FrameOfReferenceUID, seg.PositionReferenceIndicator = study.frame_of_reference, ""
    seg.ContentDate, seg.ContentTime, seg.LossyImageCompression = b.fresh.date(), "101533", "00"
    seg.ContentLabel, seg.ContentDescription = "SEGMENTATION", f"{WORD} {b.fresh.token()}"
    seg.ContentCreatorName = b.fresh.token()
    seg.ReferencedSeriesSequence = [
        item(SeriesInstanceUID=images[0].SeriesInstanceUID, ReferencedInstanceSequence=[_reference(i) for i in images])
    ]
    seg.SegmentSequence = [
        item(
            SegmentNumber=1,
            SegmentLabel=f"{WORD} {b.fresh.token()}",
            SegmentAlgorithmType="MANUAL",
            SegmentedPropertyCategoryCodeSequence=code("123037004", "SCT", "Anatomical Structure"),
            SegmentedPropertyTypeCodeSequence=code("39607008", "SCT", "Lung"),
            TrackingID=b.fresh.token(),
            TrackingUID=b.fresh.uid(),
        )
    ]
    organisation = b.fresh.uid()
    seg.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
    seg.DimensionIndexSequence = [
        item(DimensionOrganizationUID=organisation, DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113)
    ]
    seg.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness="1")],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=1)],
        )
    ]
    seg.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[item(DimensionIndexValues=[frame + 1])],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, frame])],
            DerivationImageSequence=[
                item(
                    DerivationCodeSequence=code("113076", "DCM", "Segmentation"),
                    SourceImageSequence=[
                        _reference(
                            images[frame],
                            PurposeOfReferenceCodeSequence=code(
                                "121322", "DCM", "Source image for image processing operation"
                            ),
                        )
                    ],
                )
            ],
        )
        for frame in range(2)
    ]
    b.pixels(seg, bits=8, frames=2)
    return [seg]


def _content(b: Builder, relation: str, kind_: str, concept: list[Dataset], **rest: Any) -> Dataset:
    return item(RelationshipType=relation, ValueType=kind_, ConceptNameCodeSequence=concept, **rest)


def _document(
    b: Builder, patient: Patient, study: Study, modality: str, sop_class: str, title: list[Dataset]
) -> Dataset:
    sr = b.object(patient, study, b.series(patient.charset, modality), sop_class)
    sr.ContentDate, sr.ContentTime = b.fresh.date(), "101533"
    sr.ReferencedPerformedProcedureStepSequence, sr.PerformedProcedureCodeSequence = [], []
    sr.CompletionFlag, sr.VerificationFlag = "COMPLETE", "UNVERIFIED"
    sr.CurrentRequestedProcedureEvidenceSequence = _evidence(study.images["CT"])
    sr.ValueType, sr.ConceptNameCodeSequence, sr.ContinuityOfContent = "CONTAINER", title, "SEPARATE"
    return sr


def _concept_item(b: Builder, row: dict[str, str], images: list[Dataset]) -> Dataset | None:
    """A content item with a value of its own for a concept of Table E.3.4-1."""
    concept = code(row["code_value"], row["coding_scheme_designator"], row["code_meaning"])
    fresh, kind_ = b.fresh, row["value_type"]
    match kind_:
        case "TEXT":
            return _content(b, "CONTAINS", kind_, concept, TextValue=f"{WORD} {fresh.token()}")
        case "PNAME":
            return _content(b, "CONTAINS", kind_, concept, PersonName=fresh.token())
        case "DATE":
            return _content(b, "CONTAINS", kind_, concept, Date=fresh.date())
        case "DATETIME":
            return _content(b, "CONTAINS", kind_, concept, DateTime=f"{fresh.date()}101500")
        case "TIME":
            return _content(b, "CONTAINS", kind_, concept, Time="101500")
        case "UIDREF":
            return _content(b, "CONTAINS", kind_, concept, UID=fresh.uid())
        case "IMAGE" | "COMPOSITE" | "WAVEFORM":
            return _content(b, "CONTAINS", kind_, concept, ReferencedSOPSequence=[_reference(images[0])])
    return None


@kind("SR")
def _sr(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    """All concepts of Table E.3.4-1, and one that it does not list."""
    sr = _document(b, patient, study, "SR", "88.33", code("18748-4", "LN", "Diagnostic imaging report"))
    found = [_concept_item(b, row, study.images["CT"]) for row in rows("sr_concepts_e3_4_1.csv")]
    known = {(row["code_value"], row["value_type"]) for row in rows("sr_concepts_e3_4_1.csv")}
    assert ("139001", "TEXT") not in known
    unlisted = {"code_value": "139001", "coding_scheme_designator": "DCM", "code_meaning": b.fresh.token()}
    found += [
        _concept_item(b, unlisted | {"value_type": value_type}, study.images["CT"])
        for value_type in ("TEXT", "PNAME", "DATE", "DATETIME", "UIDREF")
    ]
    sr.ContentSequence = [content for content in found if content is not None]
    return [sr]


@kind("RDSR")
def _rdsr(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    sr = _document(b, patient, study, "SR", "88.67", code("113701", "DCM", "X-Ray Radiation Dose Report"))
    sr.ContentTemplateSequence = [item(MappingResource="DCMR", TemplateIdentifier="10011")]

    def text(concept: list[Dataset]) -> Dataset:
        return _content(b, "CONTAINS", "TEXT", concept, TextValue=f"{WORD} {b.fresh.token()}")

    event = _content(
        b, "CONTAINS", "CONTAINER", code("113819", "DCM", "CT Acquisition"), ContinuityOfContent="SEPARATE"
    )
    event.ContentSequence = [
        text(code("125203", "DCM", "Acquisition Protocol")),
        _content(b, "CONTAINS", "UIDREF", code("113769", "DCM", "Irradiation Event UID"), UID=b.fresh.uid()),
        _content(
            b,
            "CONTAINS",
            "NUM",
            code("113830", "DCM", "Mean CTDIvol"),
            MeasuredValueSequence=[item(NumericValue="12.5", MeasurementUnitsCodeSequence=code("mGy", "UCUM", "mGy"))],
        ),
    ]
    sr.ContentSequence = [
        _content(b, "HAS OBS CONTEXT", "UIDREF", code("121012", "DCM", "Device Observer UID"), UID=b.fresh.uid()),
        _content(
            b,
            "CONTAINS",
            "DATETIME",
            code("113809", "DCM", "Start of X-Ray Irradiation"),
            DateTime=f"{b.fresh.date()}101500",
        ),
        event,
    ]
    return [sr]


@kind("KO")
def _ko(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    ko = _document(b, patient, study, "KO", "88.59", code("113000", "DCM", "Of Interest"))
    del ko.CompletionFlag, ko.VerificationFlag, ko.PerformedProcedureCodeSequence
    ko.ContentTemplateSequence = [item(MappingResource="DCMR", TemplateIdentifier="2010")]
    ko.ContentSequence = [
        _content(
            b,
            "CONTAINS",
            "TEXT",
            code("113012", "DCM", "Key Object Description"),
            TextValue=f"{WORD} {b.fresh.token()}",
        ),
        *(
            item(RelationshipType="CONTAINS", ValueType="IMAGE", ReferencedSOPSequence=[_reference(image)])
            for image in study.images["CT"]
        ),
    ]
    return [ko]


@kind("PR")
def _pr(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    images = study.images["CT"]
    pr = b.object(patient, study, b.series(patient.charset, "PR"), "11.1")
    pr.ContentLabel, pr.ContentDescription, pr.ContentCreatorName = (
        "STATE",
        f"{WORD} {b.fresh.token()}",
        b.fresh.token(),
    )
    pr.PresentationCreationDate, pr.PresentationCreationTime = b.fresh.date(), "101533"
    pr.ReferencedSeriesSequence = [
        item(SeriesInstanceUID=images[0].SeriesInstanceUID, ReferencedImageSequence=[_reference(i) for i in images])
    ]
    pr.DisplayedAreaSelectionSequence = [
        item(
            DisplayedAreaTopLeftHandCorner=[1, 1],
            DisplayedAreaBottomRightHandCorner=[16, 16],
            PresentationSizeMode="SCALE TO FIT",
            PresentationPixelAspectRatio=[1, 1],
        )
    ]
    pr.GraphicLayerSequence = [item(GraphicLayer="LAYER", GraphicLayerOrder="1")]
    pr.GraphicAnnotationSequence = [
        item(
            GraphicLayer="LAYER",
            TextObjectSequence=[
                item(
                    AnchorPointAnnotationUnits="PIXEL",
                    UnformattedTextValue=f"{WORD} {b.fresh.token()}",
                    AnchorPoint=[4, 4],
                    AnchorPointVisibility="N",
                )
            ],
        )
    ]
    pr.PresentationLUTShape = "IDENTITY"
    return [pr]


@kind("PDF")
def _pdf(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    pdf = b.object(patient, study, b.series(patient.charset, "DOC"), "104.1", **b.acquired())
    pdf.AcquisitionDateTime, pdf.ConversionType, pdf.BurnedInAnnotation = "", "WSD", "YES"
    pdf.DocumentTitle, pdf.ConceptNameCodeSequence = b.fresh.token(), code("18748-4", "LN", "Diagnostic imaging report")
    pdf.MIMETypeOfEncapsulatedDocument = "application/pdf"
    text = f"%PDF-1.4\n1 0 obj<</Title({b.fresh.token()})>>endobj\ntrailer<</Info 1 0 R>>\n%%EOF\n".encode()
    pdf.EncapsulatedDocument = text + b"\n" * (len(text) % 2)
    return [pdf]


@kind("WSI")
def _wsi(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    slide = b.object(patient, study, b.series(patient.charset, "SM"), "77.1.6")
    slide.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    slide.FrameOfReferenceUID, slide.PositionReferenceIndicator = b.fresh.uid(), "SLIDE_CORNER"
    slide.ContentDate, slide.ContentTime = b.fresh.date(), "101533"
    slide.AcquisitionDateTime, slide.AcquisitionDuration = f"{b.fresh.date()}101532", 1.5
    slide.ImagedVolumeWidth, slide.ImagedVolumeHeight, slide.ImagedVolumeDepth = 15.0, 15.0, 1.0
    slide.TotalPixelMatrixColumns, slide.TotalPixelMatrixRows = 16, 16
    slide.TotalPixelMatrixOriginSequence = [
        item(XOffsetInSlideCoordinateSystem="20", YOffsetInSlideCoordinateSystem="40")
    ]
    slide.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    slide.SpecimenLabelInImage, slide.BurnedInAnnotation, slide.FocusMethod = "NO", "NO", "AUTO"
    slide.ExtendedDepthOfField, slide.LossyImageCompression, slide.VolumetricProperties = "NO", "00", "VOLUME"
    slide.DimensionOrganizationType, slide.TotalPixelMatrixFocalPlanes = "TILED_FULL", 1
    slide.NumberOfOpticalPaths, slide.AcquisitionContextSequence = 1, []
    slide.ContainerIdentifier, slide.IssuerOfTheContainerIdentifierSequence = b.fresh.token(), []
    slide.ContainerTypeCodeSequence = code("433466003", "SCT", "Microscope slide")
    slide.SpecimenDescriptionSequence = [
        item(
            SpecimenIdentifier=b.fresh.token(),
            SpecimenUID=b.fresh.uid(),
            IssuerOfTheSpecimenIdentifierSequence=[],
            SpecimenPreparationSequence=[],
        )
    ]
    organisation = b.fresh.uid()
    slide.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
    slide.DimensionIndexSequence = [
        item(DimensionOrganizationUID=organisation, DimensionIndexPointer=0x0048021E, FunctionalGroupPointer=0x0048021A)
    ]
    slide.OpticalPathSequence = [
        item(
            OpticalPathIdentifier="1",
            IlluminationTypeCodeSequence=code("111744", "DCM", "Brightfield illumination"),
            IlluminationColorCodeSequence=code("371251000", "SCT", "White"),
        )
    ]
    slide.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness="1")],
            WholeSlideMicroscopyImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
            OpticalPathIdentificationSequence=[item(OpticalPathIdentifier="1")],
        )
    ]
    b.pixels(slide, bits=8, frames=1)
    slide.PresentationLUTShape, slide.RescaleIntercept, slide.RescaleSlope = "IDENTITY", "0", "1"
    return [slide]


@kind("ECG")
def _ecg(b: Builder, patient: Patient, study: Study) -> list[Dataset]:
    ecg = b.object(patient, study, b.series(patient.charset, "ECG"), "9.1.1")
    ecg.ContentDate, ecg.ContentTime = b.fresh.date(), "101533"
    ecg.AcquisitionDateTime, ecg.AcquisitionContextSequence = f"{b.fresh.date()}101532.125000", []
    ecg.WaveformSequence = [
        item(
            MultiplexGroupLabel=f"{WORD} {b.fresh.token()}",
            WaveformOriginality="ORIGINAL",
            NumberOfWaveformChannels=1,
            NumberOfWaveformSamples=8,
            SamplingFrequency="500",
            ChannelDefinitionSequence=[
                item(
                    ChannelSourceSequence=code("2:1", "MDC", "Lead I"),
                    ChannelSensitivity="1.25",
                    ChannelSensitivityUnitsSequence=code("uV", "UCUM", "microvolt"),
                    ChannelSensitivityCorrectionFactor="1",
                    ChannelBaseline="0",
                    ChannelTimeSkew="0",
                    WaveformBitsStored=16,
                )
            ],
            WaveformBitsAllocated=16,
            WaveformSampleInterpretation="SS",
        )
    ]
    ecg.WaveformSequence[0].add_new(0x54001010, "OW", bytes(range(16)))
    ecg.WaveformAnnotationSequence = [
        item(UnformattedTextValue=b.fresh.token(), ReferencedWaveformChannels=[1, 0], AnnotationGroupNumber=1)
    ]
    return [ecg]


# Stuffing

#: Sequences that no table lists: what is in them is treated by the rules for what is in them.
CARRIERS = (0x00189006, 0x00081115, 0x00409096, 0x00189346, 0x00220015, 0x00480105)
#: Groups whose numbers tell how the pixels or waveforms are to be read.
_STRUCTURAL = frozenset({0x0028, 0x003A, 0x5400, 0x7FE0})
#: Headers of groups, character sets, classes that are told otherwise, and the markers of a de-identification.
_SKIPPED = frozenset({0x00080001, 0x00080005, 0x00080016, 0x0008001A, 0x00120062, 0x00120064, 0x00280301, 0x00280303})


@cache
def dictionary() -> dict[str, list[int]]:
    """Tags that stuffing takes, by VR: those of data sets that do not change how to read them."""
    found: dict[str, list[int]] = {}
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 in (0x0000, 0x0002, 0x0004, 0xFFFE) or not keyword or tag in _SKIPPED:
            continue
        found.setdefault(vr, []).append(tag)
    return {vr: sorted(tags) for vr, tags in found.items()}


def _value(fresh: Fresh, vr: str, tag: int, charset: str) -> Any:
    """A value of its own for a VR; None where it has none that tells anything."""
    listed = tables().attributes.get(tag)
    kept = listed is not None and listed["basic"] == "K" and listed["clean_desc"] != "W"
    many = 2 if dictionary_VM(tag).endswith("n") and vr not in ("LT", "ST", "UR", "UT") else 1
    match vr:
        case "PN":
            return [f"{fresh.letters(charset)}^{fresh.token()}" for _ in range(many)]
        case "AE":
            return [fresh.token().upper() for _ in range(many)]
        case "CS":
            return fresh.token().upper()
        case "UR":
            return "http://axial.example/" if kept else f"http://{fresh.token().lower()}.example/"
        case "SH" | "LO" | "UC" | "ST" | "LT" | "UT":
            if kept:
                return "axial"
            if vr == "SH":
                return [f"{WORD} {fresh.token()}" for _ in range(many)]
            return [f"{WORD} {fresh.token()} {fresh.letters(charset)}" for _ in range(many)]
        case "DA":
            return [fresh.date() for _ in range(many)]
        case "DT":
            return [f"{fresh.date()}081530.250000+0100" for _ in range(many)]
        case "TM":
            return "081530.250000"
        case "UI":
            if tables().roles.get(tag, "").startswith("keep"):
                return STORAGE + "2"
            # What may be kept as the device's own is not one that only looks like the standard's.
            plain = listed is not None and bool(listed["rtn_dev_id"])
            return [fresh.uid(plain) for _ in range(many)]
        case "AS":
            return "045Y"
        case "OB":
            return f"{fresh.token()}{fresh.token()}".encode()
    return None


def _number(vr: str, tag: int) -> Any:
    vm = re.match(r"\d+", dictionary_VM(tag))
    count = max(int(vm[0]) if vm else 1, 1)
    value: Any = {"AT": 0x00180050, "DS": "2.5", "FD": 2.5, "FL": 2.5}.get(vr, "7" if vr == "IS" else 7)
    return [value] * count if count > 1 else value


def _told(vr: str) -> str:
    """The VR to write an attribute in whose VR depends on others."""
    return {"US or SS": "US", "US or SS or OW": "US", "US or OW": "US", "OB or OW": "OB"}.get(vr, vr)


def stuff(b: Builder, dataset: Dataset, charset: str) -> None:
    """Every attribute that can hold a text, a name, a date or a UID, with values of their own."""
    for vr, tags in dictionary().items():
        for tag in tags:
            if tag in dataset or (vr == "OB" and tag >> 16 in _STRUCTURAL):
                continue
            listed = tables().attributes.get(tag, {"basic": "K", "clean_desc": ""})
            if vr == "CS" and listed["basic"] == "K" and listed["clean_desc"] != "W":
                continue
            value = _value(b.fresh, vr, tag, charset)
            if value is not None:
                dataset.add_new(tag, vr, value)


def stuff_numbers(dataset: Dataset) -> None:
    """Every number and code that no table lists: they are to stay."""
    for vr, tags in dictionary().items():
        vr = _told(vr)
        if vr not in NUMBERS and vr != "CS":
            continue
        for tag in tags:
            if tag in dataset or tag >> 16 in _STRUCTURAL or tag in tables().attributes:
                continue
            dataset.add_new(tag, vr, "AXIAL" if vr == "CS" else _number(vr, tag))


def stuff_sequences(b: Builder, dataset: Dataset) -> None:
    """Every sequence, with an item that tells a name, an id, a date and a UID."""
    for tag in dictionary()["SQ"]:
        if tag in dataset or tag == CONTENT_SEQUENCE:
            continue
        dataset.add_new(tag, "SQ", Sequence([_told_all(b)]))


def _told_all(b: Builder) -> Dataset:
    return item(
        OtherPatientNames=b.fresh.token(),
        InsurancePlanIdentification=b.fresh.token(),
        StudyDate=b.fresh.date(),
        ReferencedSOPInstanceUID=b.fresh.uid(),
    )


def stuff_private(b: Builder, dataset: Dataset) -> None:
    """Private blocks: unknown, without a creator, two of one creator, in a sequence, of VR UN; and safe ones."""
    fresh = b.fresh
    dataset.add_new(0x00290010, "LO", f"ACME {fresh.token()}")
    dataset.add_new(0x00291001, "LO", fresh.token())
    dataset.add_new(0x00291002, "PN", fresh.token())
    dataset.add_new(0x00291003, "DA", fresh.date())
    dataset.add_new(0x00291004, "UI", fresh.uid())
    dataset.add_new(0x00291005, "UN", fresh.token().encode())
    dataset.add_new(0x00291006, "SQ", Sequence([_told_all(b)]))
    dataset.add_new(0x00291007, "OB", fresh.token().encode() + bytes(range(8)))
    dataset.add_new(0x00311101, "LO", fresh.token())  # no creator
    dataset.add_new(0x00311102, "UN", fresh.token().encode())
    for number, row in enumerate(tables().private.items()):
        (creator, tag), vr = row
        if number % 4 or vr in ("", "OW/OB", "OW", "UN") or _told_private(tag, creator) not in ("", vr):
            continue
        group = tag >> 16
        block = next(
            (n for n in range(0x10, 0x100) if dataset.get((group, n)) is None or dataset[group, n].value == creator), 0
        )
        if (group, block) not in dataset:
            dataset.add_new((group, block), "LO", creator)
        place = group << 16 | block << 8 | tag & 0xFF
        if vr == "SQ":
            dataset.add_new(place, "SQ", Sequence([_told_all(b)]))
        elif vr == "UI":
            continue  # whether UIDs of devices' own that are safe stay is not told
        elif vr in NUMBERS:
            value: Any = {"AT": 0x00180050, "DS": "2.5", "FD": 2.5, "FL": 2.5}.get(vr, "7" if vr == "IS" else 7)
            dataset.add_new(place, vr, value)
        elif vr == "OB":
            dataset.add_new(place, vr, bytes(range(2, 10)))
        else:
            dataset.add_new(place, vr, "AXIAL")


def _told_private(tag: int, creator: str) -> str:
    """VR of a private attribute by pydicom, which reads Implicit VR files by it; empty where it does not know."""
    try:
        return private_dictionary_VR(tag | 0x1000, creator)
    except KeyError:
        return ""


def stuff_odd(b: Builder, dataset: Dataset, big_endian: bool) -> None:
    """What stands beside the attributes: overlay, curve, padding, unknown ones, an attribute of VR UN, file meta."""
    fresh = b.fresh
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60000011, "US", 8)
    dataset.add_new(0x60000022, "LO", fresh.token())
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60001500, "LO", fresh.token())
    dataset.add_new(0x60003000, "OW", fresh.token().encode())
    dataset.add_new(0x60004000, "LT", fresh.token())
    dataset.add_new(0x50000022, "LO", fresh.token())
    dataset.add_new(0x50003000, "OW", fresh.token().encode())
    dataset.add_new(0x00107777, "LO", fresh.token())
    if not big_endian:  # a tool may refuse what it cannot turn round
        dataset.add_new(0x00104001, "UN", fresh.token().encode())
    dataset.add_new(0xFFFCFFFC, "OB", fresh.token().encode() + fresh.token().encode())
    meta = dataset.file_meta
    meta.SendingApplicationEntityTitle = fresh.token().upper()
    meta.ReceivingApplicationEntityTitle = fresh.token().upper()
    meta.PrivateInformationCreatorUID = fresh.uid()
    meta.PrivateInformation = fresh.token().encode()


def stuffed(b: Builder, dataset: Dataset, charset: str, number: int) -> Dataset:
    """An object with everything in it."""
    first, second, third = CARRIERS[number % 3], CARRIERS[3 + number % 3], CARRIERS[(number + 1) % 3]
    inner, middle = Dataset(), Dataset()
    stuff(b, inner, charset)
    stuff(b, middle, charset)
    stuff_private(b, inner)
    middle.add_new(third, "SQ", Sequence([inner]))
    dataset.add_new(first, "SQ", Sequence([middle]))
    other = Dataset()
    stuff_private(b, other)
    dataset.add_new(second, "SQ", Sequence([_told_all(b), other]))
    stuff(b, dataset, charset)
    stuff_private(b, dataset)
    syntax = NATIVE[number % 5 % 4]
    stuff_odd(b, dataset, syntax == ExplicitVRBigEndian)
    if number % 4 == 0:
        stuff_numbers(dataset)
        stuff_sequences(b, dataset)
    _recoded(dataset, syntax)
    return dataset


NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def _recoded(dataset: Dataset, syntax: UID) -> None:
    """Have a data set with native pixels be written in another native transfer syntax."""
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and dataset.get("BitsAllocated") == 16 and "PixelData" in dataset:
        dataset.PixelData = numpy.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()


# Transfer syntaxes

#: Those without a frame to show: fragments of anything, since nobody is to look into them.
OPAQUE = (92, 93, 100, 101, 102, 103, 104, 105, 106, 107, 108, 201, 202, 203)


def _syntaxes(b: Builder, patient: Patient, study: Study) -> Iterator[Dataset]:
    """An image in every transfer syntax."""
    series = b.series(patient.charset, "CT")
    radiographs = b.series(patient.charset, "CR")

    def image(bits: int = 16) -> Dataset:
        if bits == 8:  # a CT of 8 bits would be a picture of a screen
            cr = b.object(patient, study, radiographs, "1", **b.acquired())
            cr.ViewPosition, cr.PatientOrientation = "PA", ["L", "F"]
            b.pixels(cr, bits=bits)
            return cr
        ct = b.object(patient, study, series, "2", **b.plane(study, b.number), **b.acquired())
        ct.ImageType, ct.PatientPosition, ct.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "HFS", "120"
        ct.RescaleIntercept, ct.RescaleSlope, ct.AcquisitionNumber = "-1024", "1", "1"
        b.pixels(ct)
        return ct

    for native in NATIVE:
        ct = image()
        _recoded(ct, native)
        yield ct
    rle = image()
    rle.compress(RLELossless, generate_instance_uid=False)
    yield rle
    for syntax, (bits, frame) in FRAGMENTS.items():
        yield _encapsulated(image(bits), syntax, [frame])
    for number in OPAQUE:
        ct = image()
        yield _encapsulated(ct, f"1.2.840.10008.1.2.4.{number}", [ct.PixelData[:200], ct.PixelData[200:]])


def _encapsulated(dataset: Dataset, syntax: str, frames: list[bytes]) -> Dataset:
    dataset.PixelData = encapsulate(frames, has_bot=False)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return dataset


# The whole


def build(folder: Path, with_stuffed: bool = True) -> list[Source]:
    """Write the corpus below `folder`: `<patient>/<study>/<series>/<SOPInstanceUID>.dcm`, as PACSIFIER's trees are.

    Args:
        with_stuffed: also objects with attributes that their kind does not have; they take most of the time.
    """
    b = Builder()
    sources: list[Source] = []
    with _no_validation():
        for number, charset in enumerate(CHARSETS):
            patient = b.patient(charset)
            for place, (name, maker) in enumerate(KINDS.items()):
                for dataset in maker(b, patient, patient.studies[0]):
                    sources.append(_written(dataset, name, patient, folder, False))
                if with_stuffed and place % len(CHARSETS) == number:
                    patient.studies[1].images = dict(patient.studies[0].images)
                    dataset = stuffed(b, maker(b, patient, patient.studies[1])[0], charset, place)
                    sources.append(_written(dataset, name, patient, folder, True))
            if number == 0:
                for dataset in _syntaxes(b, patient, patient.studies[0]):
                    sources.append(_written(dataset, "transfer syntaxes", patient, folder, False))
    return sources


class _no_validation:
    """Values are as they are meant, whatever pydicom thinks of them."""

    def __enter__(self) -> None:
        self._before = pydicom.config.settings.writing_validation_mode, pydicom.config.settings.reading_validation_mode
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

    def __exit__(self, *_: object) -> None:
        pydicom.config.settings.writing_validation_mode, pydicom.config.settings.reading_validation_mode = self._before


def _written(dataset: Dataset, name: str, patient: Patient, folder: Path, is_stuffed: bool) -> Source:
    place = folder / f"sub-{patient.patient_id}" / f"ses-{dataset.StudyDate}{dataset.StudyTime}"
    path = place / f"{int(dataset.SeriesNumber):05d}-{name.replace(' ', '_')}" / f"{dataset.SOPInstanceUID}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    pixels = dataset.get("PixelData")
    burned = {"US multi-frame": 8, "SC": 16}.get(name)
    return Source(
        int(dataset.InstanceNumber),
        name,
        patient.patient_id,
        str(dataset.SOPClassUID),
        path,
        is_stuffed,
        burned,
        is_stuffed or burned is not None or name in DOCUMENTS or dataset.file_meta.TransferSyntaxUID.startswith(VIDEO),
        pixels,
        [*planted(dataset.file_meta), *planted(dataset)],
    )


# What is in an object


def planted(dataset: Dataset, path: tuple[Step, ...] = ()) -> Iterator[Planted]:
    """Every value of a data set that something is expected of."""
    for element in dataset:
        tag = int(element.tag)
        if tag in _SKIPPED or tag == 0x7FE00010 or (tag >> 16 == 2 and not needles(text_of(element.value))):
            continue
        creator = _creator(dataset, tag)
        if element.VR == "SQ":
            yield Planted(path, tag, "SQ", "", creator=creator)
            for number, inner in enumerate(element.value):
                yield from planted(inner, (*path, Step(tag, number, creator, _concept(tag, inner))))
            continue
        value = text_of(element.value)
        found = needles(value)
        if element.VR in ("OB", "OW", "OF", "OD", "OL", "OV", "UN") and not found and not tag & 0x10000:
            continue
        if tag & 0x10000 and tag & 0xFF00 == 0 and not found:
            continue  # the creator of a block that may be safe
        if value:
            yield Planted(path, tag, str(element.VR), value, found, WORD if WORD in value.lower() else "", creator)


def _concept(tag: int, content: Dataset) -> tuple[str, str] | None:
    names = content.get("ConceptNameCodeSequence")
    if tag != CONTENT_SEQUENCE or not names:
        return None
    return str(names[0].CodeValue), str(content.ValueType)


def _creator(dataset: Dataset, tag: int) -> str:
    block = tag >> 8 & 0xFF
    if not tag & 0x10000 or not block:
        return ""
    found = dataset.get(tag & 0xFFFF0000 | block)
    return str(found.value) if found is not None else ""


def text_of(value: Any) -> str:
    """A value as text, several joined by a backslash."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def needles(value: str) -> tuple[str, ...]:
    """What of a value tells somebody: tokens, letters of other alphabets, dates, UIDs."""
    found = [match[0].lower() for match in TOKEN.finditer(value)]
    found += re.findall(rf"[{_KANJI}]{{6}}|[{_GREEK}]{{6}}", value)
    found += [match[0] for match in DATE.finditer(value)]
    found += [match[0] for match in OWN_UID.finditer(value)]
    return tuple(dict.fromkeys(found))


def keyword(tag: int) -> str:
    """The keyword of an attribute, else its tag."""
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
