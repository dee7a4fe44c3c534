"""Series of Jane Doe whose physics stands in private elements, as the devices of each manufacturer write it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID

from pacsifier_ops.embedded.phantoms import phantom_series

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
#: How types of fields are told in a CSA header.
_TYPES = {"DS": 3, "FD": 4, "IS": 6, "LO": 19, "SH": 22, "UN": 0, "US": 10, "UT": 27}

PROTOCOL = b"""<XProtocol>
{
  <Name> "PhoenixMetaProtocol"
  <ParamString."PatientName"> { "Doe^Jane" }
}
### ASCCONV BEGIN object=MrProtDataImpl@MrProtocolData version=51130001 ###
ulVersion = 0x30c0783
tReferenceImage0 = ""1.3.12.2.1107.5.2.43.67093.19700101""
tProtocolName = ""Doe Jane""
tSequenceFileName = ""%SiemensSeq%\\ep2d_bold""
sSliceArray.ucMode = 0x4
sKSpace.lBaseResolution = 16
sKSpace.lPhaseEncodingLines = 16
sKSpace.ucPhasePartialFourier = 0x10
sFastImaging.lEchoSpacing = 590
sFastImaging.lEPIFactor = 16
sPat.lAccelFactPE = 2
sPat.ucPATMode = 0x2
sGRADSPEC.asGPAData[0].lOffsetX = -1718
sTXSPEC.asNucleusInfo[0].flReferenceAmplitude = 245.022
sWipMemBlock.tFree = ""Doe Jane""
### ASCCONV END ###
<PatientID> 4711234
"""


def csa(fields: Mapping[str, tuple[str, Sequence[str | bytes]]], named: bool = True) -> bytes:
    """A CSA header: VR and items by name of the field. Devices write six items at least, or none."""
    first = 0
    made = [b"SV10\4\3\2\1" if named else b"", struct.pack("<LL", len(fields), 77)]
    for name, (vr, given) in fields.items():
        items = [item.encode() if isinstance(item, str) else item for item in given]
        items += [b""] * (max(6 - len(items), 0) if items else 0)
        first = first or (0 if named else len(items))
        made.append(struct.pack("<64si4siii", name.encode(), len(given), vr.encode(), _TYPES[vr], len(items), 77))
        for item in items:
            text = item + b"\0" if item else b""
            made.append(struct.pack("<4i", len(text) + first, len(text), 77, len(text)) + text + bytes(-len(text) % 4))
    return b"".join(made)


def _images(manufacturer: str, count: int, **more: Any) -> list[Dataset]:
    """Images of 16x16 voxels of 3 mm, one after the other."""
    given: dict[str, Any] = {
        "modality": "MR",
        "rows": 16,
        "columns": 16,
        "Manufacturer": manufacturer,
        "MRAcquisitionType": "2D",
        "ScanningSequence": "EP",
        "SequenceVariant": "SK",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "RepetitionTime": "2000",
        "EchoTime": "30",
        "FlipAngle": "90",
        "MagneticFieldStrength": "3",
        "EchoTrainLength": "16",
        "PatientPosition": "HFS",
        "InPlanePhaseEncodingDirection": "COL",
        "AcquisitionMatrix": [16, 0, 0, 16],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [3, 3],
        "SliceThickness": "3",
        "SpacingBetweenSlices": "3",
        **more,
    }
    made = phantom_series(patient_id="4711234", patient_name="Doe^Jane", n_images=count, **given)
    for number, image in enumerate(made):
        image.InstanceNumber = number + 1
    return made


def _places(images: list[Dataset], slices: int) -> None:
    """Volume after volume of so many slices."""
    for number, image in enumerate(images):
        image.ImagePositionPatient = [-24, -24, 3 * (number % slices)]
        image.SliceLocation = 3 * (number % slices)
        image.AcquisitionNumber = number // slices + 1
        image.AcquisitionTime = f"1015{number // slices:02}"


def siemens() -> list[Dataset]:
    """A functional series of Siemens: a volume of three slices, and an empty one, in each image (mosaic)."""
    images = _images("SIEMENS", 3, rows=32, columns=32, SoftwareVersions="syngo MR E11")
    for number, image in enumerate(images):
        image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        image.ImagePositionPatient = [-48, -48, 0]
        image.AcquisitionNumber = number + 1
        image.AcquisitionTime = f"1015{2 * number:02}"
        block = image.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x08, "CS", "IMAGE NUM 4")
        block.add_new(0x0A, "US", 3)
        block.add_new(0x16, "DS", str(2 * number))
        block.add_new(0x28, "FD", 52.966)
        block.add_new(0x29, "FD", [0.0, 1000.0, 500.0])
        block = image.private_block(0x0051, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0B, "LO", "16*16")
        block.add_new(0x0F, "LO", "HE1-4")
        block.add_new(0x11, "LO", "p2")
        block = image.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x09, "LO", "20180102")
        block.add_new(
            0x10,
            "OB",
            csa(
                {
                    "NumberOfImagesInMosaic": ("US", ["3"]),
                    "MosaicRefAcqTimes": ("FD", ["0.0", "1000.0", "500.0"]),
                    "BandwidthPerPixelPhaseEncode": ("FD", ["52.966"]),
                    "PhaseEncodingDirectionPositive": ("IS", ["1"]),
                    "SliceNormalVector": ("FD", ["0.0", "0.0", "1.0"]),
                    "SliceMeasurementDuration": ("DS", ["2000.0"]),
                    "ProtocolSliceNumber": ("IS", ["0"]),
                    "ICE_Dims": ("LO", ["X_1_1_1_1_1_1_1_1_1_1_1_38"]),
                    "ImaCoilString": ("LO", ["HE1-4"]),
                }
            ),
        )
        block.add_new(0x20, "OB", csa({"MrPhoenixProtocol": ("UN", [PROTOCOL])}))
    return images


def siemens_diffusion() -> list[Dataset]:
    """A diffusion series of Siemens, slice by slice."""
    images = _images("SIEMENS", 6, SoftwareVersions="syngo MR B17")
    _places(images, 3)
    for number, image in enumerate(images):
        weighted = number >= 3
        image.SequenceName = "*ep_b1000#1" if weighted else "*ep_b0"
        block = image.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        direction = ("FD", ["0.6", "-0.8", "0.0"] if weighted else [])
        fields = {
            "B_value": ("IS", ["1000" if weighted else "0"]),
            "DiffusionGradientDirection": direction,
            "PhaseEncodingDirectionPositive": ("IS", ["0"]),
            "BandwidthPerPixelPhaseEncode": ("FD", ["20.0"]),
            "SliceNormalVector": ("FD", ["0.0", "0.0", "1.0"]),
        }
        block.add_new(0x10, "OB", csa(fields))
        block.add_new(0x20, "OB", csa({"MrPhoenixProtocol": ("UN", [PROTOCOL])}))
    return images


def ge() -> list[Dataset]:
    """A functional series of GE: the order of the slices stands in a block that is compressed."""
    images = _images("GE MEDICAL SYSTEMS", 8, SoftwareVersions=["27", "LX", "MR Software release:DV26.0_R02_1810.b"])
    _places(images, 4)
    text = b'SEDESC "Doe Jane"\nPSEQ "Gradient Echo"\nIOPT "EPI, FMRI"\nSLICEORDER "1"\nVIEWORDER "1"\nNOSLC "4"\n'
    packed = gzip.compress(text, mtime=1515000000)
    packed = packed[:3] + b"\x08" + packed[4:10] + b"Ex4711234Ser2Rx\0" + packed[10:]
    for image in images:
        block = image.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", "epiRT")
        block.add_new(0x9E, "LO", "EPI")
        image.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x4F, "SS", 4)
        block = image.private_block(0x0025, "GEMS_SERS_01", create=True)
        block.add_new(0x1A, "SH", "DOE")
        block.add_new(0x1B, "OB", struct.pack("<L", len(packed)) + packed + bytes(len(packed) & 1))
        block = image.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x2A, "OB", ge_user())
        block.add_new(0x2C, "SS", 590)
        block.add_new(0x39, "IS", [0, 0, 0, 0])
        block.add_new(0x83, "DS", ["0.5", "1"])
    return images


def ge_user(flags: int = 0x0004, filling: bytes = b"Doe Jane") -> bytes:
    """User data of GE: an EPI, its polarity in the flags; the rest is filled with whatever."""
    made = bytearray((filling * 256)[:2048])
    made[24:26] = struct.pack("<H", 64)
    made[64:68] = struct.pack("<f", 26.002)
    start = 64 + 0x4C
    for place, number in ((0x30, 0xF000 | flags), (0x3A, 0xF800), (0x0394 - 0x8C, 2)):
        made[start + place : start + place + 2] = struct.pack("<H", number)
    return bytes(made)


def philips() -> list[Dataset]:
    """A diffusion series of Philips, scaled."""
    images = _images("Philips Medical Systems", 6, RescaleSlope="2", RescaleIntercept="0")
    _places(images, 3)
    for number, image in enumerate(images):
        weighted = number >= 3
        block = image.private_block(0x2001, "Philips Imaging DD 001", create=True)
        for element, vr, value in (
            *((0x03, "FL", 1000.0 * weighted), (0x08, "IS", "1"), (0x0A, "IS", str(number % 3 + 1))),
            *((0x0B, "CS", "TRANSVERSAL"), (0x13, "SL", 15), (0x18, "SL", 3), (0x22, "FL", 11.5), (0x63, "CS", "NO")),
        ):
            block.add_new(element, vr, value)
        block = image.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        for element, value in ((0x0D, 0.0), (0x0E, 0.25), (0xB0, 0.6 * weighted), (0xB1, -0.8 * weighted), (0xB2, 0.0)):
            block.add_new(element, "FL", value)
        block = image.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
        block.add_new(0x12, "IS", str(1 + weighted))
        block.add_new(0x13, "IS", "1")
        block.add_new(0x3A, "LT", "Doe Jane")
    return images


def uih() -> list[Dataset]:
    """A diffusion series of United Imaging."""
    images = _images("UIH", 6)
    _places(images, 3)
    for number, image in enumerate(images):
        weighted = number >= 3
        block = image.private_block(0x0065, "Image Private Header", create=True)
        block.add_new(0x05, "SH", "A->P")
        block.add_new(0x09, "FD", 1000.0 * weighted)
        block.add_new(0x0D, "SH", "F:2.50")
        block.add_new(0x2D, "ST", "Doe Jane")
        block.add_new(0x37, "FD", [0.6 * weighted, -0.8 * weighted, 0.0])
        block.add_new(0x58, "IS", "1")
    return images


def canon() -> list[Dataset]:
    """A diffusion series of Canon, which writes directions into a comment."""
    images = _images("CANON_MEC", 6)
    _places(images, 3)
    for number, image in enumerate(images):
        image.DiffusionBValue = 1000.0 * (number >= 3)
        image.ImageComments = "b=1000(0.600,-0.800,0.000)" if number >= 3 else "b=0(0.000,0.000,0.000)"
    return images


def xa() -> list[Dataset]:
    """A functional series of Siemens' later devices: an object of two volumes of two slices."""
    (image,) = _images("SIEMENS", 1, SoftwareVersions="syngo MR XA30")
    pixels = image.PixelData
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = UID(ENHANCED_MR)
    image.NumberOfFrames, image.PixelData = 4, pixels * 4
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceLocation",
        "SliceThickness",
    ):
        if keyword in image:
            delattr(image, keyword)
    image.AcquisitionDateTime = "20180102101500"
    index = Dataset()
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00209057, 0x00209111
    other = Dataset()
    other.DimensionIndexPointer, other.FunctionalGroupPointer = 0x00209128, 0x00209111
    image.DimensionIndexSequence = [index, other]
    shared = _item(
        PixelMeasuresSequence=_item(PixelSpacing=[3, 3], SliceThickness="3", SpacingBetweenSlices="3"),
        PlaneOrientationSequence=_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        MRFOVGeometrySequence=_item(InPlanePhaseEncodingDirection="COLUMN"),
    )
    series = Dataset()
    block = series.private_block(0x0021, "SIEMENS MR SDS 01", create=True)
    block.add_new(0x19, "OB", PROTOCOL + b"\0" * (len(PROTOCOL) & 1))
    block.add_new(0x2B, "ST", "1;HFS;70;Doe Jane")
    block.add_new(0x60, "DT", "20180102101500")
    shared.private_block(0x0021, "SIEMENS MR SDS 01", create=True).add_new(0xFE, "SQ", [series])
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in range(4):
        volume, place = divmod(number, 2)
        frame = _item(
            PlanePositionSequence=_item(ImagePositionPatient=[-24, -24, 3 * place]),
            FrameContentSequence=_item(
                StackID="1",
                InStackPositionNumber=place + 1,
                TemporalPositionIndex=volume + 1,
                DimensionIndexValues=[place + 1, volume + 1],
                FrameAcquisitionDateTime=f"201801021015{2 * volume:02}",
            ),
            MRTimingAndRelatedParametersSequence=_item(RepetitionTime="2000", FlipAngle="90", EchoTrainLength="16"),
            MREchoSequence=_item(EffectiveEchoTime=30.0),
        )
        item = Dataset()
        block = item.private_block(0x0021, "SIEMENS MR SDI 02", create=True)
        for element, vr, value in (
            *((0x04, "DS", str(place + 2 * volume)), (0x06, "LO", "X_1_1_1_1_1_1_1_1_1_1_1_38"), (0x1C, "IS", "1")),
            *((0x42, "IS", "2600"), (0x4F, "LO", "HE1-4"), (0x53, "FD", 24.414), (0x58, "SH", "16*16")),
            (0x75, "CS", ["ORIGINAL", "PRIMARY", "M", "ND"]),
        ):
            block.add_new(element, vr, value)
        frame.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0xFE, "SQ", [item])
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    return [image]


def _item(**attributes: Any) -> Dataset:
    """An item; what is a data set in it is a sequence of one."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, [value] if isinstance(value, Dataset) else value)
    return made


#: What makes a series, and fields of the sidecar, or files, that only private elements give.
SERIES: dict[str, tuple[Callable[[], list[Dataset]], tuple[str, ...]]] = {
    "siemens": (siemens, ("SliceTiming", "PhaseEncodingDirection", "TotalReadoutTime", "EffectiveEchoSpacing")),
    "siemens-diffusion": (siemens_diffusion, (".bval", ".bvec", "PhaseEncodingDirection")),
    "ge": (ge, ("SliceTiming", "PhaseEncodingDirection", "EffectiveEchoSpacing")),
    "philips": (philips, (".bval", ".bvec", "PhilipsScaleSlope", "WaterFatShift")),
    "uih": (uih, (".bval", ".bvec", "PhaseEncodingDirection")),
    "canon": (canon, (".bval", ".bvec")),
    "xa": (xa, ("SliceTiming", "PhaseEncodingDirection", "EffectiveEchoSpacing")),
}
