"""What may stand in the JSON file beside an image: technique, and what the de-identified header says.

The converter also writes who, when, where and in whose words, part of it taken from private elements that no profile
has looked at, also where it was told to leave that out. So a key is kept only where it is on one of these lists:

* numbers of the technique: a number, or a list of numbers, and nothing else;
* codes of the technique: one short word of a fixed alphabet;
* texts of the header: never as the converter says them, but as the de-identified object has them, if it has them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Keys whose values are numbers. No number is among them that names a patient, a day, a device or an order.
NUMBERS = frozenset(
    re.findall(
        r"\w+",
        """
    AccelFact3D AcquisitionDuration AcquisitionMatrixPE AcquisitionVoxelSize AveragesDouble
    BandwidthPerPixelPhaseEncode BaseResolution BolusDuration CompressedSensingFactor DecayFactor DeepLearning
    DelayTime DerivedVendorReportedEchoSpacing DiffGradientCyclingGE Dosage DoseCalibrationFactor DwellTime
    EPIFactor EchoNumber EchoSpacingMicroSecondsGE EchoTime EchoTime1 EchoTime2 EchoTrainDuration
    EchoTrainLength EffectiveEchoSpacing EstimatedEffectiveEchoSpacing EstimatedTotalReadoutTime ExposureTime
    FlipAngle FrameDuration FrameReferenceTime FrameTimesStart FrequencyEncodingSteps
    ImageOrientationPatientDICOM ImagingFrequency InitialPostLabelDelay InjectedRadioactivity InjectedVolume
    Interpolation2D Interpolation3D InversionTime IsotopeHalfLife LabelingDistance LabelingDuration
    LabelingPulseAverageGradient LabelingPulseDuration LabelingPulseFlipAngle LabelingPulseMaximumGradient
    MTState MagneticFieldStrength MaximumT1Opt MeanGzx10 MultibandAccelerationFactor
    NotPhysicalNumberOfAcquiredPELinesGE NotPhysicalTotalReadOutTimeGE NumRFBlocks NumberOfArms NumberOfAverages
    NumberOfDiffusionDirectionGE NumberOfDiffusionT2GE NumberOfExcitations NumberOfPointsPerArm PLD0 PLD1 PLD2
    PLD3 PLD4 PLD5 ParallelReductionFactorInPlane ParallelReductionFactorOutOfPlane PartialFourier
    PercentPhaseFOV PercentSampling PhaseEncodingSteps PhaseEncodingStepsNoPartialFourier
    PhaseEncodingStepsOutOfPlane PhaseOversampling PhaseResolution PhilipsRWVIntercept PhilipsRWVSlope
    PhilipsRescaleIntercept PhilipsRescaleSlope PhilipsScaleSlope PixelBandwidth PostInversionDelay
    PostLabelingDelay Quadruped RFGap RadionuclideHalfLife RadionuclidePositronFraction ReconFilterSize
    ReconMatrixPE RefLinesPE RepetitionTime RepetitionTimeExcitation RepetitionTimeInversion
    RepetitionTimePreparation SAR SaturationStopTime ScatterFraction ShimSetting SliceThickness SliceTiming
    SpacingBetweenSlices T1 TablePosition TagDuration TagRFDuration TagRFFlipAngle TagRFSeparation
    TotalAcquiredPairs TotalReadoutTime TriggerDelayTime TxRefAmp UsePhilipsFloatNotDisplayScaling
    VendorReportedEchoSpacing WaterFatShift XRayExposure XRayTubeCurrent
    """,
    )
)

#: Keys whose values are one word of the converter's or the standard's own vocabulary.
CODES = frozenset(
    re.findall(
        r"\w+",
        """
    ArterialSpinLabelingType InPlanePhaseEncodingDirectionDICOM M0Type MRAcquisitionType MatrixCoilMode
    NonlinearGradientCorrection PASLType ParallelAcquisitionTechnique PartialFourierDirection
    PartialFourierEnabled PhaseEncodingAxis PhaseEncodingDirection PhaseEncodingDirectionDisplayed
    PhaseEncodingPolarityGE RawImage SpoilingState SpoilingType TracerRadionuclide VariableFlipAngleFlag
    """,
    )
)
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9+./-]{0,31}")

#: Keys that say what the header says, by keyword of the attribute (PS3.6 6). Lists are those with several values.
TEXTS: Mapping[str, str] = {
    "Modality": "Modality",
    "Manufacturer": "Manufacturer",
    "ManufacturersModelName": "ManufacturerModelName",
    "SoftwareVersions": "SoftwareVersions",
    "DeviceSerialNumber": "DeviceSerialNumber",
    "StationName": "StationName",
    "InstitutionName": "InstitutionName",
    "BodyPartExamined": "BodyPartExamined",
    "PatientPosition": "PatientPosition",
    "SeriesDescription": "SeriesDescription",
    "ProtocolName": "ProtocolName",
    "ScanningSequence": "ScanningSequence",
    "SequenceVariant": "SequenceVariant",
    "ScanOptions": "ScanOptions",
    "SequenceName": "SequenceName",
    "PulseSequenceName": "PulseSequenceName",
    "ImageType": "ImageType",
    "ReceiveCoilName": "ReceiveCoilName",
    "ConvolutionKernel": "ConvolutionKernel",
    "ContrastBolusAgent": "ContrastBolusAgent",
    "ReconstructionMethod": "ReconstructionMethod",
    "Radiopharmaceutical": "Radiopharmaceutical",
    "Units": "Units",
}
#: Of these, those that tell a device or a place. They have no place beside an image, whatever the profile keeps.
_NEVER = ("DeviceSerialNumber", "StationName", "InstitutionName")

#: Numbers that the header has and the converter may leave out, for matching and for people.
_HEADER_NUMBERS = ("KVP", "SliceThickness", "GantryDetectorTilt")

_LONGEST, _DEEPEST, _MOST = 256, 3, 1 << 20


def filtered(said: Mapping[str, Any], header: Dataset | None) -> dict[str, Any]:
    """Return what may stand beside an image.

    Args:
        said: what the converter has written.
        header: the de-identified header of one of its objects; None: no text is kept.
    """
    kept: dict[str, Any] = {}
    for key, value in said.items():
        fits = (key in NUMBERS and _is_number(value)) or (key in CODES and _is_code(value))
        if fits:
            kept[key] = value
    if header is not None:
        kept |= _texts_of(header)
    return dict(sorted(kept.items()))


def _is_number(value: Any, depth: int = 0) -> bool:
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return math.isfinite(value)
    if isinstance(value, list) and depth < _DEEPEST and len(value) <= _MOST:
        return all(_is_number(item, depth + 1) for item in value)
    return False


def _is_code(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and _CODE.fullmatch(value) is not None)


def _texts_of(header: Dataset) -> dict[str, Any]:
    """Return texts of a header, each as the object has it."""
    found: dict[str, Any] = {}
    for key, keyword in TEXTS.items():
        if key in _NEVER:
            continue
        value = _value(header, keyword)
        if isinstance(value, list):
            texts = [text for one in value if (text := str(one).strip()[:_LONGEST])]
            if texts:
                found[key] = texts
        elif value is not None and (text := str(value).strip()[:_LONGEST]):
            found[key] = [text] if key == "ImageType" else text
    for keyword in _HEADER_NUMBERS:
        value = _value(header, keyword)
        try:
            number = float(value) if value is not None else math.nan
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[keyword] = number
    return found


def _value(header: Dataset, keyword: str) -> Any:
    """Return a value of a header, a list for several; None where there is none, or it cannot be read."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom raises errors of many types for damaged values
        return None
    if value is None or value == "":
        return None
    return list(value) if getattr(value, "__iter__", None) and not isinstance(value, str | bytes) else value
