"""Objects as devices make them, and what a key says of each: what is planted and must go, and what must stay.

Written from PS3.15 Annex E, from the rules that other tools publish, and from what their users report; it knows nothing
of the engine. A `Thing` is one object of one person. Its *planted* values must be nowhere in what goes out; its *stays*
must be there still. Both hold whatever becomes of the object: one that is kept back leaks nothing, and keeps nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

DAY_SHIFT = -37
ROOT = "1.2.826.0.1.3680043.8.498.77"  # of a hospital that does not exist
PROFILES = ("basic", "default", "research", "pacsifier")
#: Kinds of planted values that a profile may leave, by the options that docs/profiles.md says it has.
MAY_LEAVE: dict[str, frozenset[str]] = {
    "basic": frozenset({"code"}),
    "default": frozenset(),
    "research": frozenset({"device", "person"}),
    "pacsifier": frozenset({"date", "person"}),
}
#: Options under which a stay is asked for: all profiles; those that clean descriptions; and so on.
ALL, CLEANED = frozenset(PROFILES), frozenset({"default", "research", "pacsifier"})
PERSON, PRIVATE = frozenset({"research", "pacsifier"}), frozenset({"research", "pacsifier"})
MOVED = frozenset({"default", "research"})


@dataclass(frozen=True)
class Planted:
    """A value that must be nowhere.

    Attributes:
        kind: name, id, date, birth, contact, institution, device, code, uid, person.
        text: what is searched for, in any letters.
        exact: short enough to occur by chance, so it is searched for in values, as a word, and not in bytes.
    """

    kind: str
    text: str
    exact: bool = False


@dataclass(frozen=True)
class Stay:
    """What must be there still: a word of a text, or a value.

    Attributes:
        path: keywords and numbers of items, from the top; a tag and its creator; or `*` and a keyword, wherever it is.
        value: a word of the text, or the value itself, with its parts joined by backslashes.
    """

    path: tuple[str | int, ...]
    value: str
    profiles: frozenset[str] = ALL
    word: bool = False


@dataclass
class Thing:
    """One object and its key.

    Attributes:
        ordinary: a header can tell all of it, so it must come out.
        finish: what happens to its bytes after they are written.
    """

    title: str
    situation: str
    dataset: FileDataset
    planted: list[Planted]
    stays: list[Stay]
    ordinary: bool = True
    finish: Callable[[bytes], bytes] | None = None
    file: str = ""
    pseudonym: str = ""


@dataclass(frozen=True)
class Person:
    """Somebody who does not exist."""

    number: int
    family: str
    given: str
    charset: str | list[str] = "ISO_IR 192"
    name: str = ""

    @property
    def mrn(self) -> str:
        """PatientID."""
        return f"Q{7100000 + 7919 * self.number}"

    @property
    def birth(self) -> str:
        """Birth date: before 1970, day over 12."""
        return f"19{40 + self.number % 28}{1 + self.number % 11:02}{13 + self.number % 15}"

    @property
    def study(self) -> str:
        """Study date: of 2023, day over 12, and nobody's birthday."""
        return f"2023{1 + self.number % 9:02}{13 + (self.number * 7) % 15}"


FAMILIES = (
    *("Wattenhofer", "Zgraggen", "Thistlethwaite", "Szymborska", "Vandenberghe", "Etcheverry", "Lindqvist", "Oyelaran"),
    *("Castiglioni", "Dubochet", "Kowalewska", "Mbappenga", "Hrdlickova", "Featherstone", "Quackenbush", "Rasmusson"),
    *("Schnellmann", "Ntshingila", "Bogdanovic", "Tschannen", "Vuilleumier", "Abderrahmane", "Yamanashi", "Goldenberg"),
)
GIVENS = (
    "Annelore",
    "Thibault",
    "Wilhelmine",
    "Olumide",
    "Bartholomew",
    "Ludivine",
    "Eusebio",
    "Gwendolyn",
    "Radoslav",
)


class World:
    """Makes the things, each of a person of its own."""

    def __init__(self) -> None:
        self.things: list[Thing] = []
        self._numbers = itertools.count(1)

    def person(self, **rest: Any) -> Person:
        """The next person."""
        number = next(self._numbers)
        return Person(number, **{"family": FAMILIES[number % 24], "given": GIVENS[number % 9], **rest})

    def add(
        self,
        situation: str,
        title: str,
        make: Callable[[Person], FileDataset],
        planted: list[Planted],
        *,
        who: Person | None = None,
        stays: list[Stay] | None = None,
        **rest: Any,
    ) -> FileDataset:
        """Make an object of a person who is planted with it, and return it to be filled."""
        who = who or self.person()
        dataset = make(who)
        everyone = [
            *(Planted("name", part) for part in (who.family, who.given) if len(part) > 2),
            *(Planted("id", who.mrn), Planted("birth", who.birth), Planted("date", who.study)),
            *(
                Planted("id", f"ACC{who.number:05}X"),
                Planted("name", "Ueberweisinger"),
                Planted("institution", "Kantonsspital"),
            ),
            *(
                Planted("uid", str(dataset[key].value))
                for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
            ),
        ]
        physics = [] if rest.get("ordinary") is False else list(_physics(dataset))
        thing = Thing(title, situation, dataset, everyone + planted, physics + (stays or []), **rest)
        thing.pseudonym = f"W{who.number:04}"
        self.things.append(thing)
        return dataset


#: Numbers and codes that Table E.3.9-1 and its like say nothing of, but that name, order or are personal.
_NOT_PHYSICS = {"SeriesNumber", "AcquisitionNumber", "InstanceNumber", "PatientSex", "PatientSize", "PatientWeight"}
_NOT_PHYSICS |= {"PatientIdentityRemoved", "BurnedInAnnotation", "DateTime", "SpecificCharacterSet"}
_NUMBERS = {"DS", "IS", "FD", "FL", "SL", "SS", "UL", "US", "CS", "OW", "OB", "OF"}


def _physics(dataset: Dataset, path: tuple[str | int, ...] = ()) -> Iterator[Stay]:
    """Numbers, codes and pixels of an object as its device made it, before anything is planted."""
    for element in dataset:
        if element.keyword == "WaveformAnnotationSequence":  # which the profile replaces as a whole
            continue
        if element.VR == "SQ" and not element.tag.is_private:
            for number, item in enumerate(element.value):
                yield from _physics(item, (*path, element.keyword, number))
        elif element.VR in _NUMBERS and element.keyword and element.keyword not in _NOT_PHYSICS and element.value != "":
            yield Stay((*path, element.keyword), plain(element.value))


def plain(value: Any) -> str:
    """A value as text, its parts joined by backslashes."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return f"{float(value):.10g}" if isinstance(value, float) else str(value)
    return "\\".join(plain(part) for part in value)


def value_at(dataset: Dataset, stay: Stay) -> str | None:
    """The value in a stay's place, as text; nothing where there is no such place, or it is empty."""
    here: Any = dataset
    path = stay.path
    if len(path) == 2 and isinstance(path[0], str) and path[0][4:5] == ",":
        tag, creator = int(path[0].replace(",", ""), 16), str(path[1])
        try:
            element = here.private_block(tag >> 16, creator)[tag & 0xFF]
        except KeyError:
            return None
        return None if element.is_empty else plain(element.value)
    if path[0] == "*":
        found = [plain(element.value) for element in dataset.iterall() if element.keyword == path[1]]
        return stay.value if stay.value in found else None
    for step in path:
        if isinstance(step, int):
            if len(here) <= step:
                return None
            here = here[step]
        else:
            if not isinstance(here, Dataset) or step not in here or here[step].is_empty:
                return None
            here = here[step].value
    return plain(here)


# --- what devices make -----------------------------------------------------------------------------------------------


def uid(who: Person, *parts: int) -> str:
    """A UID of the hospital, with the study's date and the person's number in it."""
    return ".".join(map(str, (ROOT, who.number, who.study, *parts)))


def base(sop_class: str, modality: str, who: Person) -> FileDataset:
    """What all objects of composite IODs have."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid(who, 1, 1, 1)
    meta.ImplementationClassUID = "1.2.3.4"
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SpecificCharacterSet = who.charset
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid(who, 1, 1, 1)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(who, 1), uid(who, 1, 1)
    dataset.Modality, dataset.Manufacturer = modality, "ACME Medical"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = who.study
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101500"
    dataset.PatientName = who.name or f"{who.family}^{who.given}"
    dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = who.mrn, who.birth, "F"
    dataset.AccessionNumber, dataset.StudyID = f"ACC{who.number:05}X", ""
    dataset.ReferringPhysicianName = "Ueberweisinger^Max"
    dataset.InstitutionName = "Kantonsspital Musterhausen"
    dataset.SeriesNumber, dataset.InstanceNumber = 3, 1
    return dataset


def pixels(dataset: Dataset, rows: int = 8, columns: int = 8, bits: int = 16, frames: int = 0) -> None:
    """A black image."""
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    if frames:
        dataset.NumberOfFrames = frames
    dataset.PixelData = bytes(rows * columns * bits // 8 * max(frames, 1))


def item(**values: Any) -> Dataset:
    """An item of a sequence."""
    made = Dataset()
    for keyword, value in values.items():
        setattr(
            made,
            keyword,
            Sequence(value) if isinstance(value, list) and value and isinstance(value[0], Dataset) else value,
        )
    return made


def code(value: str, scheme: str, meaning: str, **more: Any) -> Dataset:
    """An item of a code sequence."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning, **more)


def geometry(dataset: Dataset, who: Person) -> None:
    """Where an image lies."""
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uid(who, 1, 99), ""
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-120.5, -98.25, 33], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness, dataset.SliceLocation = [0.9375, 0.9375], 1.25, 33


def ct(who: Person) -> FileDataset:
    """CT, as a Siemens scanner makes it."""
    dataset = base("1.2.840.10008.5.1.4.1.1.2", "CT", who)
    dataset.Manufacturer, dataset.ManufacturerModelName = "SIEMENS", "SOMATOM Force"
    dataset.ImageType, dataset.BodyPartExamined, dataset.PatientPosition = (
        ["ORIGINAL", "PRIMARY", "AXIAL"],
        "CHEST",
        "HFS",
    )
    dataset.KVP, dataset.XRayTubeCurrent, dataset.Exposure, dataset.ConvolutionKernel = 120, 211, 98, "Br40d"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    dataset.SpiralPitchFactor, dataset.CTDIvol, dataset.WindowCenter, dataset.WindowWidth = 0.8, 6.31, 50, 350
    dataset.AcquisitionNumber = 2
    geometry(dataset, who)
    pixels(dataset)
    return dataset


def mr(who: Person) -> FileDataset:
    """MR, as a Siemens scanner makes it."""
    dataset = base("1.2.840.10008.5.1.4.1.1.4", "MR", who)
    dataset.Manufacturer, dataset.ManufacturerModelName = "SIEMENS", "Prisma_fit"
    dataset.ImageType, dataset.BodyPartExamined = ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], "BRAIN"
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = ["GR", "IR"], ["SP", "MP"], "IR"
    dataset.MRAcquisitionType, dataset.RepetitionTime, dataset.EchoTime, dataset.InversionTime = "3D", 2300, 2.98, 900
    dataset.FlipAngle, dataset.EchoTrainLength, dataset.MagneticFieldStrength = 9, 1, 3
    dataset.PixelBandwidth, dataset.SAR, dataset.ImagingFrequency = 240, 0.0521, 123.25
    dataset.InPlanePhaseEncodingDirection, dataset.AcquisitionMatrix = "ROW", [0, 256, 248, 0]
    dataset.AcquisitionNumber, dataset.PatientPosition = 1, "HFS"
    geometry(dataset, who)
    pixels(dataset)
    return dataset


def pet(who: Person) -> FileDataset:
    """PET with its radiopharmaceutical, as a GE scanner makes it."""
    dataset = base("1.2.840.10008.5.1.4.1.1.128", "PT", who)
    dataset.Manufacturer, dataset.ImageType = "GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY"]
    dataset.Units, dataset.DecayCorrection, dataset.CorrectedImage = "BQML", "START", ["DECY", "ATTN", "SCAT"]
    dataset.SeriesType, dataset.CountsSource, dataset.ActualFrameDuration = ["WHOLE BODY", "IMAGE"], "EMISSION", 120000
    dataset.FrameReferenceTime, dataset.DecayFactor, dataset.DoseCalibrationFactor = 60000, 1.02, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.AcquisitionDate = 2.5, 0, who.study
    dataset.AcquisitionTime, dataset.NumberOfSlices, dataset.ImageIndex = "101600", 47, 1
    dataset.RadiopharmaceuticalInformationSequence = Sequence(
        [
            item(
                RadionuclideTotalDose=3.7e8,
                RadionuclideHalfLife=6586.2,
                RadionuclidePositronFraction=0.97,
                RadiopharmaceuticalStartTime="091500",
                RadiopharmaceuticalStartDateTime=who.study + "091500",
                RadionuclideCodeSequence=[code("C-111A1", "SRT", "^18^Fluorine")],
            )
        ]
    )
    geometry(dataset, who)
    pixels(dataset)
    return dataset


def xray(who: Person, sop_class: str, modality: str, part: str) -> FileDataset:
    """CR, DX, mammography, angiography."""
    dataset = base(sop_class, modality, who)
    dataset.ImageType, dataset.BodyPartExamined = ["ORIGINAL", "PRIMARY", ""], part
    dataset.KVP, dataset.ExposureTime, dataset.XRayTubeCurrent, dataset.ExposureInuAs = 70, 12, 320, 3900
    dataset.ImagerPixelSpacing, dataset.PresentationLUTShape = [0.143, 0.143], "IDENTITY"
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LIN", 1
    dataset.PresentationIntentType, dataset.ImageLaterality, dataset.BurnedInAnnotation = "FOR PRESENTATION", "U", "NO"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "US"
    dataset.DistanceSourceToDetector, dataset.ExposureIndex, dataset.TargetExposureIndex = 1800, 250, 300
    pixels(dataset)
    return dataset


cr = partial(xray, sop_class="1.2.840.10008.5.1.4.1.1.1", modality="CR", part="HAND")
dx = partial(xray, sop_class="1.2.840.10008.5.1.4.1.1.1.1", modality="DX", part="KNEE")
mg = partial(xray, sop_class="1.2.840.10008.5.1.4.1.1.1.2", modality="MG", part="BREAST")
xa = partial(xray, sop_class="1.2.840.10008.5.1.4.1.1.12.1", modality="XA", part="HEART")


def nm(who: Person) -> FileDataset:
    """Nuclear medicine, several frames."""
    dataset = base("1.2.840.10008.5.1.4.1.1.20", "NM", who)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "WHOLE BODY", "EMISSION"]
    dataset.FrameIncrementPointer, dataset.EnergyWindowVector, dataset.DetectorVector = (
        [0x00540010, 0x00540020],
        [1, 1],
        [1, 2],
    )
    dataset.NumberOfEnergyWindows, dataset.NumberOfDetectors, dataset.CountsAccumulated = 1, 2, 912345
    dataset.ActualFrameDuration, dataset.PixelSpacing = 1800, [2.4, 2.4]
    dataset.EnergyWindowInformationSequence = Sequence(
        [item(EnergyWindowRangeSequence=[item(EnergyWindowLowerLimit=126.45, EnergyWindowUpperLimit=154.55)])]
    )
    pixels(dataset, frames=2)
    return dataset


def us(who: Person) -> FileDataset:
    """Ultrasound with a banner over its region."""
    dataset = base("1.2.840.10008.5.1.4.1.1.6.1", "US", who)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]
    pixels(dataset, 96, 96, 8)
    banner = bytearray(96 * 96)
    banner[96 * 2 : 96 * 10] = bytes(255 if (at // 3) % 2 else 40 for at in range(96 * 8))
    dataset.PixelData = bytes(banner)
    dataset.SequenceOfUltrasoundRegions = Sequence(
        [
            item(
                RegionSpatialFormat=1,
                RegionDataType=1,
                RegionFlags=2,
                RegionLocationMinX0=8,
                RegionLocationMinY0=16,
                RegionLocationMaxX1=88,
                RegionLocationMaxY1=90,
                PhysicalUnitsXDirection=3,
                PhysicalUnitsYDirection=3,
                PhysicalDeltaX=0.03,
                PhysicalDeltaY=0.03,
            )
        ]
    )
    return dataset


def rtstruct(who: Person) -> FileDataset:
    """A structure set of two volumes."""
    dataset = base("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", who)
    dataset.StructureSetLabel, dataset.StructureSetDate, dataset.StructureSetTime = "CTsim", who.study, "110000"
    dataset.FrameOfReferenceUID = uid(who, 1, 99)
    dataset.StructureSetROISequence = Sequence(
        [
            item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=uid(who, 1, 99),
                ROIName=name,
                ROIGenerationAlgorithm="MANUAL",
            )
            for number, name in ((1, "PTV_5000"), (2, "SpinalCord"))
        ]
    )
    dataset.ROIContourSequence = Sequence(
        [
            item(
                ReferencedROINumber=1,
                ROIDisplayColor=[255, 0, 0],
                ContourSequence=[
                    item(
                        ContourGeometricType="CLOSED_PLANAR",
                        NumberOfContourPoints=3,
                        ContourData=[1.5, 2, 3, 4, 5, 3, 6, 7, 3],
                    )
                ],
            )
        ]
    )
    dataset.RTROIObservationsSequence = Sequence(
        [item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="PTV", ROIInterpreter="")]
    )
    return dataset


def rtplan(who: Person) -> FileDataset:
    """A plan of one beam."""
    dataset = base("1.2.840.10008.5.1.4.1.1.481.5", "RTPLAN", who)
    dataset.RTPlanLabel, dataset.RTPlanGeometry, dataset.ApprovalStatus = "Plan1", "PATIENT", "APPROVED"
    dataset.RTPlanDate, dataset.RTPlanTime = who.study, "111500"
    point = item(
        ControlPointIndex=0,
        NominalBeamEnergy=6,
        GantryAngle=181,
        BeamLimitingDeviceAngle=10,
        CumulativeMetersetWeight=0,
    )
    dataset.BeamSequence = Sequence(
        [item(BeamNumber=1, BeamName="1", BeamType="DYNAMIC", RadiationType="PHOTON", ControlPointSequence=[point])]
    )
    group = item(FractionGroupNumber=1, NumberOfFractionsPlanned=25, NumberOfBeams=1, NumberOfBrachyApplicationSetups=0)
    dataset.FractionGroupSequence = Sequence([group])
    return dataset


def rtdose(who: Person) -> FileDataset:
    """A dose grid."""
    dataset = base("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE", who)
    dataset.DoseUnits, dataset.DoseType, dataset.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    dataset.DoseGridScaling, dataset.GridFrameOffsetVector = 0.0125, [0, 3]
    dataset.FrameIncrementPointer = 0x3004000C
    geometry(dataset, who)
    pixels(dataset, frames=2)
    return dataset


def seg(who: Person) -> FileDataset:
    """A segmentation of one segment."""
    dataset = base("1.2.840.10008.5.1.4.1.1.66.4", "SEG", who)
    dataset.ImageType, dataset.SegmentationType, dataset.ContentLabel = ["DERIVED", "PRIMARY"], "BINARY", "SEGMENTATION"
    dataset.FrameOfReferenceUID, dataset.LossyImageCompression = uid(who, 1, 99), "00"
    dataset.SegmentSequence = Sequence(
        [
            item(
                SegmentNumber=1,
                SegmentLabel="Liver",
                SegmentAlgorithmType="MANUAL",
                SegmentedPropertyCategoryCodeSequence=[code("123037004", "SCT", "Anatomical Structure")],
                SegmentedPropertyTypeCodeSequence=[code("10200004", "SCT", "Liver")],
            )
        ]
    )
    pixels(dataset, 16, 16, 8, 1)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit, dataset.PixelData = 0, bytes(32)
    return dataset


def content(kind: str, concept: tuple[str, str, str], relation: str = "CONTAINS", **values: Any) -> Dataset:
    """A content item of a report."""
    return item(RelationshipType=relation, ValueType=kind, ConceptNameCodeSequence=[code(*concept)], **values)


def report(
    who: Person, sop_class: str, title: tuple[str, str, str], template: str, items: list[Dataset]
) -> FileDataset:
    """A structured report."""
    dataset = base(sop_class, "SR", who)
    dataset.CompletionFlag, dataset.VerificationFlag, dataset.ValueType = "COMPLETE", "UNVERIFIED", "CONTAINER"
    dataset.ContinuityOfContent, dataset.ConceptNameCodeSequence = "SEPARATE", Sequence([code(*title)])
    dataset.ContentTemplateSequence = Sequence([item(MappingResource="DCMR", TemplateIdentifier=template)])
    dataset.ContentSequence = Sequence(items)
    dataset.PerformedProcedureCodeSequence = Sequence()
    return dataset


def number(concept: tuple[str, str, str], value: float, unit: str) -> Dataset:
    """A measurement."""
    measured = item(NumericValue=value, MeasurementUnitsCodeSequence=[code(unit, "UCUM", unit)])
    return content("NUM", concept, MeasuredValueSequence=[measured])


def rdsr(who: Person) -> FileDataset:
    """A dose report of a CT."""
    event = content(
        "CONTAINER",
        ("113819", "DCM", "CT Acquisition"),
        ContinuityOfContent="SEPARATE",
        ContentSequence=[
            content("CODE", ("123014", "DCM", "Target Region"), ConceptCodeSequence=[code("51185008", "SCT", "Chest")]),
            content("UIDREF", ("113769", "DCM", "Irradiation Event UID"), UID=uid(who, 1, 7)),
            number(("113830", "DCM", "Mean CTDIvol"), 6.31, "mGy"),
            number(("113838", "DCM", "DLP"), 214.5, "mGy.cm"),
        ],
    )
    observer = [
        content("PNAME", ("121008", "DCM", "Person Observer Name"), "HAS OBS CONTEXT", PersonName="Strahlemann^Egon"),
        content("TEXT", ("121013", "DCM", "Device Observer Name"), "HAS OBS CONTEXT", TextValue="CTKSMH2"),
        content("DATETIME", ("113809", "DCM", "Start of X-Ray Irradiation"), DateTime=who.study + "101500"),
    ]
    title = ("113701", "DCM", "X-Ray Radiation Dose Report")
    return report(who, "1.2.840.10008.5.1.4.1.1.88.67", title, "10011", [*observer, event])


def measurements(who: Person) -> FileDataset:
    """A report of measurements."""
    group = content(
        "CONTAINER",
        ("125007", "DCM", "Measurement Group"),
        ContinuityOfContent="SEPARATE",
        ContentSequence=[
            content(
                "TEXT", ("112039", "DCM", "Tracking Identifier"), "HAS OBS CONTEXT", TextValue=f"Lesion1 {who.family}"
            ),
            content("UIDREF", ("112040", "DCM", "Tracking Unique Identifier"), "HAS OBS CONTEXT", UID=uid(who, 1, 8)),
            number(("410668003", "SCT", "Length"), 17.25, "mm"),
        ],
    )
    title = ("126000", "DCM", "Imaging Measurement Report")
    return report(who, "1.2.840.10008.5.1.4.1.1.88.33", title, "1500", [group])


def key_object(who: Person) -> FileDataset:
    """A selection of images, with a word to a colleague."""
    words = content("TEXT", ("113012", "DCM", "Key Object Description"), TextValue="bitte Kollege Hasenfratz zeigen")
    dataset = report(who, "1.2.840.10008.5.1.4.1.1.88.59", ("113000", "DCM", "Of Interest"), "2010", [words])
    dataset.Modality = "KO"
    referenced = item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=uid(who, 1, 1, 5))
    dataset.ContentSequence.append(
        item(RelationshipType="CONTAINS", ValueType="IMAGE", ReferencedSOPSequence=[referenced])
    )
    series = item(SeriesInstanceUID=uid(who, 1, 1), ReferencedSOPSequence=[referenced])
    evidence = item(StudyInstanceUID=uid(who, 1), ReferencedSeriesSequence=[series])
    dataset.CurrentRequestedProcedureEvidenceSequence = Sequence([evidence])
    return dataset


def presentation(who: Person) -> FileDataset:
    """A presentation state with a note on the image."""
    dataset = base("1.2.840.10008.5.1.4.1.1.11.1", "PR", who)
    dataset.ContentLabel, dataset.ContentDescription = "PRESENTATION", "fuer Rapport Dr. Hasenfratz"
    dataset.ContentCreatorName, dataset.PresentationLUTShape = "Befunderin^Ute", "IDENTITY"
    dataset.PresentationCreationDate, dataset.PresentationCreationTime = who.study, "120000"
    note = item(
        BoundingBoxAnnotationUnits="PIXEL",
        UnformattedTextValue=f"Aorta {who.family}, {who.study[6:]}.{who.study[4:6]}.2023",
        BoundingBoxTopLeftHandCorner=[1.0, 1.0],
        BoundingBoxBottomRightHandCorner=[5.0, 5.0],
        BoundingBoxTextHorizontalJustification="LEFT",
    )
    dataset.GraphicAnnotationSequence = Sequence([item(GraphicLayer="LAYER1", TextObjectSequence=[note])])
    dataset.GraphicLayerSequence = Sequence([item(GraphicLayer="LAYER1", GraphicLayerOrder=1)])
    referenced = item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=uid(who, 1, 1, 5))
    dataset.ReferencedSeriesSequence = Sequence(
        [item(SeriesInstanceUID=uid(who, 1, 1), ReferencedImageSequence=[referenced])]
    )
    area = item(PixelSpacing=[1, 1], DisplayedAreaTopLeftHandCorner=[1, 1], DisplayedAreaBottomRightHandCorner=[8, 8])
    area.PresentationSizeMode = "SCALE TO FIT"
    dataset.DisplayedAreaSelectionSequence = Sequence([area])
    return dataset


def document(who: Person) -> FileDataset:
    """A report as PDF."""
    dataset = base("1.2.840.10008.5.1.4.1.1.104.1", "DOC", who)
    dataset.DocumentTitle, dataset.MIMETypeOfEncapsulatedDocument = f"Befund {who.family}", "application/pdf"
    dataset.BurnedInAnnotation, dataset.ConversionType = "YES", "WSD"
    text = f"%PDF-1.4\nBT (Patient {who.given} {who.family} {who.birth}) Tj ET\n%%EOF\n".encode()
    dataset.EncapsulatedDocument = text + bytes(len(text) % 2)
    return dataset


def slide(who: Person) -> FileDataset:
    """A slide."""
    dataset = base("1.2.840.10008.5.1.4.1.1.77.1.6", "SM", who)
    dataset.ImageType, dataset.ContainerIdentifier = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "S23-0471188"
    dataset.TotalPixelMatrixColumns = dataset.TotalPixelMatrixRows = 8
    dataset.ImagedVolumeWidth, dataset.ImagedVolumeHeight, dataset.ImagedVolumeDepth = 15.0, 15.0, 0.001
    dataset.VolumetricProperties, dataset.FocusMethod, dataset.ExtendedDepthOfField = "VOLUME", "AUTO", "NO"
    specimen = item(SpecimenIdentifier="S23-0471188-A1", SpecimenUID=uid(who, 1, 6))
    specimen.SpecimenShortDescription = f"Biopsy liver {who.family}"
    dataset.SpecimenDescriptionSequence = Sequence([specimen])
    pixels(dataset, 8, 8, 8, 1)
    return dataset


def ecg(who: Person) -> FileDataset:
    """An ECG of one channel."""
    dataset = base("1.2.840.10008.5.1.4.1.1.9.1.1", "ECG", who)
    dataset.AcquisitionDateTime = who.study + "101500"
    source = [code("2:1", "MDC", "Lead I")]
    channel = item(ChannelSourceSequence=source, ChannelSensitivity=4.88, WaveformBitsStored=16, ChannelSampleSkew=0)
    channel.ChannelSensitivityUnitsSequence = Sequence([code("uV", "UCUM", "microvolt")])
    wave = item(
        WaveformOriginality="ORIGINAL", NumberOfWaveformChannels=1, NumberOfWaveformSamples=4, SamplingFrequency=500
    )
    wave.ChannelDefinitionSequence = Sequence([channel])
    wave.WaveformBitsAllocated, wave.WaveformSampleInterpretation, wave.WaveformData = 16, "SS", bytes(8)
    dataset.WaveformSequence = Sequence([wave])
    note = item(UnformattedTextValue=f"Sinusrhythmus, {who.family} {who.given}", AnnotationGroupNumber=0)
    note.ReferencedWaveformChannels = [1, 0]
    dataset.WaveformAnnotationSequence = Sequence([note])
    return dataset


def capture(who: Person) -> FileDataset:
    """A screen, secondary capture."""
    dataset = base("1.2.840.10008.5.1.4.1.1.7", "OT", who)
    dataset.ConversionType, dataset.ImageType = "WSD", ["DERIVED", "SECONDARY"]
    pixels(dataset, 8, 8, 8)
    return dataset


def private(dataset: Dataset, group: int, creator: str, **elements: tuple[str, Any]) -> None:
    """Add a private block: `x08=("LO", "value")`."""
    block = dataset.private_block(group, creator, create=True)
    for key, (vr, value) in elements.items():
        block.add_new(int(key[1:], 16), vr, value)
