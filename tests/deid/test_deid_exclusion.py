"""Which objects cannot go out, by which rule, with and without `delete_identifiable`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    MPEG2MPML,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    CTPerformedProcedureProtocolStorage,
    EncapsulatedCDAStorage,
    EncapsulatedPDFStorage,
    EncapsulatedSTLStorage,
    EnhancedMRImageStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    GeneralAudioWaveformStorage,
    GeneralECGWaveformStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MammographyCADSRStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    OphthalmicPhotography8BitImageStorage,
    PositronEmissionTomographyImageStorage,
    ProcedureLogStorage,
    RawDataStorage,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    SpatialRegistrationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VideoEndoscopicImageStorage,
    VLEndoscopicImageStorage,
    VLMicroscopicImageStorage,
    VLPhotographicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
    XRayRadiationDoseSRStorage,
)

from pacsifier_ops.deid import devices, profile
from pacsifier_ops.deid.exclusion import RULES, Cure, Kind, judge
from pacsifier_ops.deid.rules import ProfileOption
from tests.support.places import REPO

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # archives hold such values

#: Attributes of a CT image that may go out; `None` takes one away.
CT: dict[str, Any] = {
    "SOPClassUID": CTImageStorage,
    "Modality": "CT",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "SeriesDescription": "Thorax 1.0 B70f",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": 4,
    "Columns": 4,
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "PixelData": bytes(32),
}
NO_PIXELS: dict[str, Any] = {"PixelData": None, "SamplesPerPixel": None, "PhotometricInterpretation": None}

KEPT_BACK: list[tuple[str, dict[str, Any]]] = [
    ("directory", {"SOPClassUID": MediaStorageDirectoryStorage} | NO_PIXELS),
    ("encapsulated-document", {"SOPClassUID": EncapsulatedPDFStorage, "Modality": "DOC"} | NO_PIXELS),
    ("encapsulated-document", {"SOPClassUID": EncapsulatedCDAStorage} | NO_PIXELS),
    ("encapsulated-document", {"SOPClassUID": EncapsulatedSTLStorage, "Modality": "M3D"} | NO_PIXELS),
    ("encapsulated-document", {"EncapsulatedDocument": b"%PDF"}),
    ("video", {"SOPClassUID": VideoEndoscopicImageStorage, "Modality": "ES"}),
    ("video", {"syntax": MPEG2MPML}),
    ("video", {"syntax": "1.2.840.10008.1.2.4.106.1"}),
    ("sound", {"SOPClassUID": GeneralAudioWaveformStorage, "Modality": "AU"} | NO_PIXELS),
    ("structured-report", {"SOPClassUID": XRayRadiationDoseSRStorage, "Modality": "SR"} | NO_PIXELS),
    ("structured-report", {"SOPClassUID": EnhancedSRStorage, "Modality": "SR"} | NO_PIXELS),
    ("structured-report", {"SOPClassUID": "1.2.3", "Modality": "SR"} | NO_PIXELS),
    ("structured-report", {"SOPClassUID": "1.2.3", "Modality": "KO"} | NO_PIXELS),
    (
        "presentation-graphics",
        {
            "SOPClassUID": GrayscaleSoftcopyPresentationStateStorage,
            "Modality": "PR",
            "GraphicAnnotationSequence": [{"TextObjectSequence": [{}]}],
        }
        | NO_PIXELS,
    ),
    (
        "slide-label",
        {"SOPClassUID": VLWholeSlideMicroscopyImageStorage, "Modality": "SM", "ImageType": ["ORIGINAL", "", "LABEL"]},
    ),
    ("slide-label", {"SOPClassUID": VLWholeSlideMicroscopyImageStorage, "SpecimenLabelInImage": "YES"}),
    ("recognizable-features", {"RecognizableVisualFeatures": "YES"}),
    ("burned-in-annotation", {"BurnedInAnnotation": "yes "}),
    ("burned-in-annotation", {"SOPClassUID": ComputedRadiographyImageStorage, "BurnedInAnnotation": "YES"}),
    ("screen-save", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "Modality": "MR"}),
    ("screen-save", {"ImageType": ["DERIVED", "PRIMARY", "Screenshot"]}),
    ("dose-screen", {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 PROT"]}),
    ("dose-screen", {"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}),
    ("dose-screen", {"SeriesDescription": "Dose Report"}),
    ("dose-screen", {"SeriesDescription": "Dosisbericht"}),
    ("dose-screen", {"SeriesDescription": "Patient Protocol", "SOPClassUID": SecondaryCaptureImageStorage}),
    ("secondary-capture", {"SOPClassUID": SecondaryCaptureImageStorage, "BurnedInAnnotation": "NO"}),
    ("secondary-capture", {"SOPClassUID": MultiFrameTrueColorSecondaryCaptureImageStorage, "Modality": "MR"}),
    ("ultrasound", {"SOPClassUID": UltrasoundImageStorage, "Modality": "US", "BurnedInAnnotation": "NO"}),
    ("ultrasound", {"SOPClassUID": UltrasoundMultiFrameImageStorage}),
    ("ultrasound", {"Modality": "IVUS"}),
    ("visible-light", {"SOPClassUID": VLEndoscopicImageStorage, "Modality": "ES"}),
    ("visible-light", {"SOPClassUID": VLPhotographicImageStorage, "Modality": "XC"}),
    ("visible-light", {"SOPClassUID": VLMicroscopicImageStorage, "Modality": "GM"}),
    ("visible-light", {"SOPClassUID": OphthalmicPhotography8BitImageStorage, "Modality": "OP"}),
    ("scanned-document", {"Modality": "DOC"}),
    ("scanned-document", {"Modality": "OT"}),
    ("secondary-ct", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
]
FOR_A_PERSON: list[tuple[str, dict[str, Any]]] = [
    ("burned-in-unclear", {"BurnedInAnnotation": "MAYBE"}),
    (
        "slide-unclear",
        {"SOPClassUID": VLWholeSlideMicroscopyImageStorage, "Modality": "SM", "ImageType": ["DERIVED", "", "MACRO"]},
    ),
    ("slide-unclear", {"SOPClassUID": VLWholeSlideMicroscopyImageStorage, "Modality": "SM", "ImageType": None}),
    ("digitised", {"ConversionType": "DF", "SOPClassUID": ComputedRadiographyImageStorage, "Modality": "CR"}),
    ("colour", {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}),
    ("colour", {"PhotometricInterpretation": "PALETTE COLOR"}),
    ("colour", {"SamplesPerPixel": None}),
    ("eight-bit", {"BitsAllocated": 8}),
    ("pixels-elsewhere", {"PixelDataProviderURL": "https://pacs.example/4711"} | NO_PIXELS),
    ("no-sop-class", {"SOPClassUID": None}),
    ("contradictory-sop-class", {"meta": MRImageStorage}),
    ("unknown-sop-class", {"SOPClassUID": "1.3.12.2.1107.5.9.1"}),
    ("unknown-sop-class", {"SOPClassUID": RawDataStorage} | NO_PIXELS),
    ("unknown-sop-class", {"SOPClassUID": CTPerformedProcedureProtocolStorage} | NO_PIXELS),
    ("pixels-out-of-place", {"SOPClassUID": RTStructureSetStorage, "Modality": "RTSTRUCT"}),
    ("unknown-modality", {"Modality": None}),
    ("unknown-modality", {"Modality": "XYZ"}),
    ("unknown-modality", {"Modality": ["CT", "MR"]}),
]
FIT: list[dict[str, Any]] = [
    {},
    {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "BurnedInAnnotation": "NO"},
    {"SeriesDescription": "Thorax low dose 1.0"},
    {"SOPClassUID": MRImageStorage, "Modality": "MR", "ImageType": ["DERIVED", "SECONDARY", "MPR"]},
    {"SOPClassUID": EnhancedMRImageStorage, "Modality": "MR"},
    {"SOPClassUID": PositronEmissionTomographyImageStorage, "Modality": "PT"},
    {"SOPClassUID": NuclearMedicineImageStorage, "Modality": "NM", "PhotometricInterpretation": "PALETTE COLOR"},
    {"SOPClassUID": ComputedRadiographyImageStorage, "Modality": "CR", "BitsAllocated": 8},
    {"SOPClassUID": RTDoseStorage, "Modality": "RTDOSE", "SeriesDescription": "Dose report"},
    {"SOPClassUID": RTPlanStorage, "Modality": "RTPLAN"} | NO_PIXELS,
    {"SOPClassUID": SegmentationStorage, "Modality": "SEG", "BitsAllocated": 1},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7", "Modality": "SEG", "PhotometricInterpretation": "PALETTE COLOR"},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.8", "Modality": "SEG"},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30", "Modality": "OT"},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.8", "Modality": "OPT"},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.78.3", "Modality": "KER"} | NO_PIXELS,
    {"ConversionType": "DV", "BitsStored": 12, "ImagePositionPatient": [0, 0, 1]},
    {"SOPClassUID": SpatialRegistrationStorage, "Modality": "REG"} | NO_PIXELS,
    {"SOPClassUID": GeneralECGWaveformStorage, "Modality": "ECG"} | NO_PIXELS,
    {"SOPClassUID": GrayscaleSoftcopyPresentationStateStorage, "Modality": "PR"} | NO_PIXELS,
    {
        "SOPClassUID": GrayscaleSoftcopyPresentationStateStorage,
        "Modality": "PR",
        "GraphicAnnotationSequence": [{"GraphicObjectSequence": [{}]}],
    }
    | NO_PIXELS,
    {"SOPClassUID": KeyObjectSelectionDocumentStorage, "Modality": "KO"} | NO_PIXELS,
    {"SOPClassUID": VLWholeSlideMicroscopyImageStorage, "Modality": "SM", "ImageType": ["ORIGINAL", "", "VOLUME"]},
]
#: Reports by what is in them, and whether it is narrative; all of them are cleaned.
REPORTS: list[tuple[dict[str, Any], bool]] = [
    ({"SOPClassUID": XRayRadiationDoseSRStorage, "ContentSequence": [{"TextValue": "A long remark. " * 9}]}, False),
    ({"SOPClassUID": MammographyCADSRStorage}, False),
    ({"SOPClassUID": EnhancedSRStorage, "ContentSequence": [{"TextValue": "Lesion 1"}]}, False),
    ({"SOPClassUID": Comprehensive3DSRStorage, "ContentTemplateSequence": [{"TemplateIdentifier": "1500"}]}, False),
    ({"SOPClassUID": BasicTextSRStorage, "ContentSequence": [{"TextValue": "Lesion 1"}]}, True),
    ({"SOPClassUID": ProcedureLogStorage}, True),
    ({"SOPClassUID": EnhancedSRStorage, "ContentTemplateSequence": [{"TemplateIdentifier": "2000"}]}, True),
    ({"SOPClassUID": ComprehensiveSRStorage, "ContentSequence": [{"TextValue": "Findings:\r\nnone"}]}, True),
    (
        {"SOPClassUID": EnhancedSRStorage, "ContentSequence": [{"ContentSequence": [{"TextValue": "She said. " * 9}]}]},
        True,
    ),
]


def _item(values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in dict(values).items() if isinstance(values, dict) else ():
        setattr(item, keyword, [_item(one) for one in value] if keyword.endswith("Sequence") else value)
    return item


def an_object(changes: dict[str, Any]) -> Dataset:
    """The CT image with other attributes."""
    changes = dict(changes)
    syntax, meta_class = changes.pop("syntax", ExplicitVRLittleEndian), changes.pop("meta", None)
    ds = Dataset()
    for keyword, value in (CT | changes).items():
        if value is not None:
            setattr(ds, keyword, [_item(item) for item in value] if keyword.endswith("Sequence") else value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    if meta_class or "SOPClassUID" in ds:
        ds.file_meta.MediaStorageSOPClassUID = meta_class or ds.SOPClassUID
    return ds


@pytest.mark.parametrize(("rule", "changes"), KEPT_BACK)
def test_what_may_show_a_name_is_excluded_by_a_named_rule_or_waits_for_a_person(
    rule: str, changes: dict[str, Any]
) -> None:
    ds = an_object(changes)
    asked, unasked = (judge(ds, delete_identifiable=asked) for asked in (True, False))
    assert (asked.kind, asked.rule) == (Kind.EXCLUDE, rule)
    if rule == "secondary-ct":
        assert unasked.kind == Kind.PASS
    else:
        assert (unasked.kind, unasked.rule) == (Kind.QUARANTINE, rule)


@pytest.mark.parametrize(("rule", "changes"), FOR_A_PERSON)
def test_what_looks_risky_and_is_not_sure_waits_for_a_person(rule: str, changes: dict[str, Any]) -> None:
    for asked in (True, False):
        verdict = judge(an_object(changes), delete_identifiable=asked)
        assert (verdict.kind, verdict.rule) == (Kind.QUARANTINE, rule)


@pytest.mark.parametrize("changes", FIT)
def test_images_and_other_objects_of_known_kinds_go_out(changes: dict[str, Any]) -> None:
    for asked in (True, False):
        verdict = judge(an_object(changes), delete_identifiable=asked, catalogue=devices.load())
        assert (verdict.kind, verdict.rule, verdict.blackout) == (Kind.PASS, "", None)


def test_cleaned_content_and_graphics_let_reports_and_presentation_states_out() -> None:
    cured = {rule.name: rule.cure for rule in RULES}
    for name, changes in KEPT_BACK:
        if cured[name] not in (Cure.CONTENT, Cure.GRAPHICS):
            continue
        ds = an_object(changes)
        other = {Cure.CONTENT: Cure.GRAPHICS, Cure.GRAPHICS: Cure.CONTENT}[cured[name]]
        assert judge(ds, delete_identifiable=True, options=[other]).rule == name
        cleaned = judge(ds, delete_identifiable=True, options=[cured[name]])
        assert cleaned.rule == ("unknown-sop-class" if ds.SOPClassUID == "1.2.3" else "")


@pytest.mark.parametrize(("changes", "narrative"), REPORTS)
def test_doses_and_measurements_leave_once_they_are_cleaned_and_narratives_only_by_name(
    changes: dict[str, Any], narrative: bool
) -> None:
    ds = an_object({"Modality": "SR"} | NO_PIXELS | changes)
    assert judge(ds, delete_identifiable=True, options=profile.load("basic").options).rule == "structured-report"
    for name in ("default", "research", "pacsifier"):
        options = profile.load(name).options
        assert judge(ds, delete_identifiable=True, options=options).rule == ("narrative-report" if narrative else "")
        named = {*options, ProfileOption.CLEAN_NARRATIVES}
        assert judge(ds, delete_identifiable=True, options=named).kind == Kind.PASS


def test_the_catalogue_lets_burned_in_text_out_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "site.json"
    path.write_text('{"devices": [{"id": "all", "match": {"Rows": 4, "Columns": 4}, "black": [[0, 0, 4, 1]]}]}')
    catalogue = devices.load(path)
    cured = {rule.name: rule.cure for rule in RULES}
    for name, changes in KEPT_BACK + FOR_A_PERSON:
        verdict = judge(an_object(changes), delete_identifiable=True, catalogue=catalogue)
        if cured[name] == Cure.BLACKOUT:
            assert verdict.kind == Kind.PASS and verdict.blackout and verdict.blackout.entries == ("all",), name
        else:
            assert verdict.rule == name and verdict.blackout is None


@pytest.mark.parametrize("value", [b"\1\2", None, ["1", "2"]])
def test_odd_values_are_judged_and_never_raise(value: Any) -> None:
    keywords = ["SequenceOfUltrasoundRegions", "EncapsulatedDocument", "GraphicAnnotationSequence", *CT]
    for keyword in [*keywords, "BurnedInAnnotation", "SpecimenLabelInImage", "RecognizableVisualFeatures"]:
        ds = an_object({"SOPClassUID": UltrasoundImageStorage, "Modality": "US"})
        ds.add_new(0x60000010, "US", 4)
        ds.add_new(keyword, "LO" if isinstance(value, list) else "OB", value)
        assert judge(ds, delete_identifiable=True, catalogue=devices.load()).kind != Kind.PASS


def test_the_documentation_lists_the_rules_as_they_are() -> None:
    text = (REPO / "docs" / "burned-in.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \| (.+?) \| (exclude|quarantine) \| (.*?) ?\| (.+) \|$", text, re.M)
    said = [(name, looks_at, kind, cure.strip("` "), why) for name, looks_at, kind, cure, why in listed]
    assert said == [(r.name, r.looks_at, r.kind, r.cure, r.why) for r in RULES]
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert {name for name, _ in KEPT_BACK + FOR_A_PERSON} == {rule.name for rule in RULES} - {"narrative-report"}
