"""Decides which objects must not be released, by named rules, before de-identification.

The engine cleans attributes. It does not see text in pixels, sound, video or documents. These rules hold such objects
back: they are excluded where the user chose that (`delete_identifiable`), else they go to quarantine for review. An
object of an unknown kind is held back as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacsifier_ops.deid.devices import Blackout, Catalogue, values
from pacsifier_ops.deid.reading import Parsed
from pacsifier_ops.deid.sr import is_narrative
from pacsifier_ops.dicom.encoding import Value

_STORAGE = "1.2.840.10008.5.1.4.1.1."


def _classes(*numbers: str) -> frozenset[str]:
    return frozenset(_STORAGE + number for number in numbers)


#: Storage SOP classes of grey images from devices (PS3.4 B.5).
_GREY = _classes(
    *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "2.1", "2.2", "4", "4.1", "4.4"),
    *("12.1", "12.1.1", "12.2", "12.2.1", "12.3", "13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5"),
    *("128", "128.1", "130", "481.1", "481.2", "481.23", "481.24", "77.1.5.4"),
)
#: Those with values of 16 bits (PS3.3 C.8.2.1, C.8.3.1, C.8.9.4, C.8.15). With eight bits they are pictures of a
#: screen.
_WORDS = _classes("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130")
_SLIDES = _classes("77.1.6")
#: Image flavours of a slide without its label (PS3.3 C.8.12.4.1.1; LOCALIZER is the older term for THUMBNAIL).
_FLAVOURS = frozenset({"LOCALIZER", "THUMBNAIL", "VOLUME"})
#: Maps and segmentations that software derives from images. Their pixels are numbers and no picture of a screen.
_DERIVED = _classes("30", "66.4", "66.7", "66.8")
#: Other images that may be released: nuclear medicine, colour MR, tomography of the eye and of vessels, whole slides.
_IMAGES = _GREY | _SLIDES | _DERIVED | _classes("4.3", "5", "20", "77.1.5.7", "77.1.5.8", "14.2")
#: Objects without pixels that may be released: radiotherapy, registrations, surfaces, spectra, waveforms,
#: presentations, measurements of the eye.
_OTHERS = _classes(
    *("481.3", "481.4", "481.5", "481.6", "481.7", "481.8", "481.9", "481.10", "481.11", "481.12", "481.13", "481.14"),
    *("481.15", "481.16", "481.17", "481.18", "481.19", "481.20", "481.21", "481.22", "481.25"),
    *("4.2", "66.1", "66.2", "66.3", "66.5", "66.6", "67", "91.1"),
    *("9.1.1", "9.1.2", "9.1.3", "9.1.4", "9.2.1", "9.3.1", "9.5.1", "9.6.1", "9.6.2", "9.7.1", "9.7.2", "9.7.3"),
    *("9.7.4", "9.8.1", "77.1.5.3"),
    *("78.1", "78.2", "78.3", "78.4", "78.5", "78.7", "78.8", "80.1"),
)
_ULTRASOUND = _classes("3", "3.1", "6", "6.1", "6.2", "6.3")
_CAPTURES = _classes("7", "7.1", "7.2", "7.3", "7.4")
_VISIBLE = _classes(
    *("77.1", "77.2", "77.1.1", "77.1.2", "77.1.3", "77.1.4", "77.1.5.1", "77.1.5.2", "77.1.5.5", "77.1.5.6"),
    *("77.1.7", "77.1.8", "77.1.9"),
)
_VIDEO = _classes("77.1.1.1", "77.1.2.1", "77.1.4.1")
_SOUND = _classes("9.4.1", "9.4.2")
#: Reports that people dictate: Basic Text SR, Procedure Log; and reports that people may dictate (PS3.3 A.35).
_DICTATED = _classes("88.11", "88.40")
_MAY_BE_DICTATED = _classes("88.1", "88.2", "88.3", "88.4", "88.22", "88.33", "88.34", "88.35")
_KEY_OBJECTS = _STORAGE + "88.59"
#: Templates of diagnostic imaging reports (PS3.16 TID 2000, 2005, 2006).
_NARRATIVE_TEMPLATES = frozenset({"2000", "2005", "2006"})
#: Maximum depth of content items, so that no file can exhaust the stack.
_DEEPEST = 100
_REPORTS, _PRESENTATIONS, _DOCUMENTS = _STORAGE + "88.", _STORAGE + "11.", _STORAGE + "104."
_DIRECTORY = "1.2.840.10008.1.3.10"
#: MPEG-2, MPEG-4 and HEVC; JPIP, whose pixels are on a server (PS3.6 A).
_VIDEO_SYNTAXES = "1.2.840.10008.1.2.4.10"
_JPIP_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (94, 95, 204, 205))

#: Modalities whose images may be released (PS3.3 C.7.3.1.1.1).
_MODALITIES = frozenset(
    {
        "CR",
        "CT",
        "DX",
        "IO",
        "IVOCT",
        "MG",
        "MR",
        "NM",
        "OPT",
        "PT",
        "PX",
        "RF",
        "RG",
        "RTDOSE",
        "RTIMAGE",
        "SEG",
        "SM",
        "XA",
        "DF",
        "DS",
        "VF",
    }
)
_ULTRASOUND_MODALITIES = frozenset({"US", "IVUS", "BDUS", "EC", "DD", "CD"})
_VISIBLE_MODALITIES = frozenset({"ES", "GM", "XC", "OP", "DMS", "DG", "TG", "CP", "CS", "LP", "AS", "LS", "FA", "OPM"})
_REPORT_MODALITIES = frozenset({"SR", "KO"})
_PAPER_MODALITIES = frozenset({"DOC", "HC", "OT"})
_RADIOTHERAPY = frozenset({"RTDOSE", "RTPLAN", "RTSTRUCT", "RTIMAGE", "RTRECORD"})

_SCREEN = re.compile(r"SCREEN|CAPTURE|SAVE|SNAPSHOT")
_DOSE_TYPE = re.compile(r"DOSE|REPORT|\bPROT\b")
_DOSE_TEXT = re.compile(
    r"DOSE[ _-]*(REPORT|INFO|SUMMARY|SHEET|PAGE|RECORD|SERIES|STRUCTURED)|RADIATION[ _-]*DOSE|DOS(IS|E)[ _-]*(BERICHT|"
    r"PROTOKOLL|INFORMATION)|(RAPPORT|R[EÉ]SUM[EÉ]|INFO\w*)[ _-]*(DE[ _-]*)?(LA[ _-]*)?DOSE|DOSIM[EÉ]TRI|CTDI|\bDLP\b|"
    r"(PATIENT|EXAM)[ _-]*PROTOCOL|PATIENTENPROTOKOLL|PROTOCOLE[ _-]*PATIENT|EXAM[ _-]*SUMMARY"
)
_PAPER = frozenset({"DF", "SD", "SI", "DRW", "DV"})


class Kind(StrEnum):
    """The decision on an object."""

    PASS = "pass"
    EXCLUDE = "exclude"
    QUARANTINE = "quarantine"


class Cure(StrEnum):
    """What makes an object releasable despite a rule: an entry of the device catalogue, or an option (PS3.15 E.3)."""

    NONE = ""
    BLACKOUT = "device catalogue"
    CONTENT = "clean_structured_content"
    GRAPHICS = "clean_graphics"
    NARRATIVES = "clean_narratives"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one object.

    Attributes:
        kind: the decision.
        rule: name of the rule that decided; empty where the object passes.
        blackout: regions to black out by the device catalogue, if the object passes.
    """

    kind: Kind
    rule: str = ""
    blackout: Blackout | None = None


class _Object:
    """The attributes of an object that rules test, each read once; text in capital letters."""

    def __init__(self, ds: Dataset) -> None:
        self.ds = ds
        self._texts: dict[str, str] = {}
        self.sop_class = str(ds.get("SOPClassUID") or "")
        meta = getattr(ds, "file_meta", None) or Dataset()
        self.meta_class = str(meta.get("MediaStorageSOPClassUID") or "")
        self.syntax = str(meta.get("TransferSyntaxUID") or "")
        self.modality = self.text("Modality")
        self.pixels = any(name in ds for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))

    def text(self, keyword: str) -> str:
        """Return all values of an attribute as one text."""
        if keyword not in self._texts:
            self._texts[keyword] = "\\".join(values(self.ds, keyword))
        return self._texts[keyword]

    @cached_property
    def image_type(self) -> tuple[str, ...]:
        return values(self.ds, "ImageType")


@dataclass(frozen=True, slots=True)
class ExclusionRule:
    """One rule.

    Attributes:
        name: id of the rule.
        looks_at: the attributes that decide.
        kind: decision on a matching object, with `delete_identifiable`.
        without: the same, without it.
        cure: what lets a matching object pass.
        why: the risk of such an object.
        applies: whether the rule matches an object.
    """

    name: str
    looks_at: str
    kind: Kind
    without: Kind
    cure: Cure
    why: str
    applies: Callable[[_Object], bool]

    @property
    def todo(self) -> str:
        """Advice how to let such objects pass; empty where there is no way."""
        return _ADVICE[self.cure]


#: How to let objects pass that a rule would hold back.
_ADVICE = {
    Cure.NONE: "",
    Cure.BLACKOUT: "An entry of the device catalogue lets those of a known device pass; pacsifier-devices proposes "
    "entries for ultrasound (docs/burned-in.md).",
    Cure.CONTENT: "The option clean_structured_content of the profile lets them pass.",
    Cure.GRAPHICS: "The option clean_graphics of the profile lets them pass.",
    Cure.NARRATIVES: "The option clean_narratives of the profile lets them pass; only words of descriptions stay.",
}


def _video_by_name_only(o: _Object) -> bool:
    """Return whether an image claims to be digitised video (DV) but cannot be, as with old scanners.

    A frame grabber has eight bits and does not know the position of a slice in the patient.
    """
    bits = o.text("BitsStored")
    return (
        o.text("ConversionType") == "DV"
        and o.sop_class in _WORDS
        and bits.isdecimal()
        and int(bits) > 8
        and bool(o.text("ImagePositionPatient"))
    )


def _rule(
    name: str,
    looks_at: str,
    why: str,
    applies: Callable[[_Object], bool],
    kind: Kind = Kind.EXCLUDE,
    cure: Cure = Cure.NONE,
    without: Kind = Kind.QUARANTINE,
) -> ExclusionRule:
    return ExclusionRule(name, looks_at, kind, without, cure, why, applies)


def _items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence; none where the attribute is no sequence."""
    found = ds.get(keyword)
    return found if isinstance(found, Sequence) else Sequence()


def _has_narrative(ds: Dataset) -> bool:
    """Return whether a report may contain narrative text."""
    if any(
        str(item.get("TemplateIdentifier") or "") in _NARRATIVE_TEMPLATES
        for item in _items(ds, "ContentTemplateSequence")
    ):
        return True
    below = [(ds, 0)]
    while below:
        item, depth = below.pop()
        if depth > _DEEPEST or is_narrative(str(item.get("TextValue") or "")):
            return True
        below += [(one, depth + 1) for one in _items(item, "ContentSequence")]
    return False


def _has_text_annotations(ds: Dataset) -> bool:
    """Return whether a presentation state has text in its annotations, and not only drawings."""
    annotations = ("GraphicAnnotationSequence", "VolumetricAnnotationSequence")
    if any(ds.get(name) and not _items(ds, name) for name in annotations):
        return True
    written = ("TextObjectSequence", "CompoundGraphicSequence", "UnformattedTextValue")
    return any(item.get(keyword) for name in annotations for item in _items(ds, name) for keyword in written)


#: The first matching rule decides, so the more certain ones come first.
RULES: tuple[ExclusionRule, ...] = (
    _rule(
        "directory",
        "SOP class",
        "a DICOMDIR lists the patients' names",
        lambda o: o.sop_class == _DIRECTORY or o.meta_class == _DIRECTORY,
    ),
    _rule(
        "encapsulated-document",
        "SOP class, Encapsulated Document",
        "PDF, CDA and meshes hold text that is not seen into",
        lambda o: o.sop_class.startswith(_DOCUMENTS) or "EncapsulatedDocument" in o.ds,
    ),
    _rule(
        "video",
        "SOP class, transfer syntax",
        "video may show names and faces, and is not seen into",
        lambda o: o.sop_class in _VIDEO or o.syntax.startswith(_VIDEO_SYNTAXES),
    ),
    _rule(
        "sound",
        "SOP class, Modality AU",
        "voices are recognised, and say names",
        lambda o: o.sop_class in _SOUND or o.modality == "AU",
    ),
    _rule(
        "structured-report",
        "SOP class, Modality SR or KO; key object selections pass",
        "reports and dose reports are full of text about the patient, unless it is cleaned",
        lambda o: (
            o.sop_class != _KEY_OBJECTS and (o.sop_class.startswith(_REPORTS) or o.modality in _REPORT_MODALITIES)
        ),
        cure=Cure.CONTENT,
    ),
    _rule(
        "narrative-report",
        "SOP class Basic Text SR or Procedure Log; template or text of other reports that people may write",
        "sentences tell more than their words: text of over 64 characters or of lines, a diagnostic imaging report",
        lambda o: o.sop_class in _DICTATED or (o.sop_class in _MAY_BE_DICTATED and _has_narrative(o.ds)),
        cure=Cure.NARRATIVES,
    ),
    _rule(
        "presentation-graphics",
        "SOP class; text in Graphic or Volumetric Annotation Sequence",
        "presentation states with text; names are written so, too",
        lambda o: o.sop_class.startswith(_PRESENTATIONS) and _has_text_annotations(o.ds),
        cure=Cure.GRAPHICS,
    ),
    _rule(
        "slide-label",
        "Image Type LABEL or OVERVIEW, Specimen Label in Image YES",
        "the label of a glass slide names the patient",
        lambda o: (
            o.text("SpecimenLabelInImage") == "YES"
            or ((o.modality == "SM" or o.sop_class in _SLIDES) and not {"LABEL", "OVERVIEW"}.isdisjoint(o.image_type))
        ),
    ),
    _rule(
        "recognizable-features",
        "Recognizable Visual Features YES",
        "a person is recognised by the image itself",
        lambda o: o.text("RecognizableVisualFeatures") == "YES",
    ),
    _rule(
        "burned-in-annotation",
        "Burned In Annotation YES",
        "the device says that text is burned in",
        lambda o: o.text("BurnedInAnnotation") == "YES",
        cure=Cure.BLACKOUT,
    ),
    _rule(
        "screen-save",
        "Image Type with SCREEN, CAPTURE, SAVE or SNAPSHOT",
        "pictures of a screen show the patient's name",
        lambda o: any(_SCREEN.search(value) for value in o.image_type),
        cure=Cure.BLACKOUT,
    ),
    _rule(
        "dose-screen",
        "Image Type, Series Description, Protocol Name",
        "dose reports as pictures show the patient's name",
        lambda o: (
            o.pixels
            and o.modality not in _RADIOTHERAPY
            and (
                any(_DOSE_TYPE.search(value) for value in o.image_type)
                or any(_DOSE_TEXT.search(o.text(keyword)) for keyword in ("SeriesDescription", "ProtocolName"))
            )
        ),
        cure=Cure.BLACKOUT,
    ),
    _rule(
        "secondary-capture",
        "SOP class, also multi-frame, Modality SC",
        "pictures of a screen, film or paper; Burned In Annotation NO is not believed",
        lambda o: o.sop_class in _CAPTURES or o.modality == "SC",
        cure=Cure.BLACKOUT,
    ),
    _rule(
        "ultrasound",
        f"SOP class, Modality {', '.join(sorted(_ULTRASOUND_MODALITIES))}",
        "devices burn a banner with the patient's name in, and the image declares no regions to keep instead; "
        "Burned In Annotation NO is not believed",
        lambda o: o.sop_class in _ULTRASOUND or o.modality in _ULTRASOUND_MODALITIES,
        cure=Cure.BLACKOUT,
    ),
    _rule(
        "visible-light",
        f"SOP class, Modality {', '.join(sorted(_VISIBLE_MODALITIES))}",
        "photographs show faces, wristbands and labels, and their devices burn names in",
        lambda o: o.sop_class in _VISIBLE or o.modality in _VISIBLE_MODALITIES,
        cure=Cure.BLACKOUT,
    ),
    _rule(
        "scanned-document",
        "Modality DOC, HC or OT",
        "scanned paper, printed film and what has no modality of its own",
        lambda o: o.modality in _PAPER_MODALITIES and not (o.modality == "OT" and o.sop_class in _DERIVED),
        cure=Cure.BLACKOUT,
    ),
    _rule(
        "secondary-ct",
        "Modality CT, Image Type SECONDARY",
        "images that workstations made; some are pictures of their screen",
        lambda o: o.modality == "CT" and "SECONDARY" in o.image_type,
        cure=Cure.BLACKOUT,
        without=Kind.PASS,
    ),
    _rule(
        "burned-in-unclear",
        "Burned In Annotation neither YES nor NO",
        "what the device says is not understood",
        lambda o: o.text("BurnedInAnnotation") not in ("", "YES", "NO"),
        Kind.QUARANTINE,
        Cure.BLACKOUT,
    ),
    _rule(
        "slide-unclear",
        f"Image Type of whole slides, none of {', '.join(sorted(_FLAVOURS))}",
        "what of the slide is seen is not said; it may be the label",
        lambda o: o.sop_class in _SLIDES and _FLAVOURS.isdisjoint(o.image_type),
        Kind.QUARANTINE,
    ),
    _rule(
        "digitised",
        f"Conversion Type {', '.join(sorted(_PAPER))}; not DV with more than eight bits and a position",
        "film and paper have names written on them",
        lambda o: o.text("ConversionType") in _PAPER and not _video_by_name_only(o),
        Kind.QUARANTINE,
        Cure.BLACKOUT,
    ),
    _rule(
        "colour",
        "Samples per Pixel and Photometric Interpretation of classes of grey images",
        "colour where the class has none is a picture of a screen",
        lambda o: (
            o.sop_class in _GREY
            and "PixelData" in o.ds
            and (o.text("SamplesPerPixel") != "1" or not o.text("PhotometricInterpretation").startswith("MONOCHROME"))
        ),
        Kind.QUARANTINE,
        Cure.BLACKOUT,
    ),
    _rule(
        "eight-bit",
        "Bits Allocated of CT, MR and PET",
        "eight bits where the class has sixteen are a picture of a screen",
        lambda o: o.sop_class in _WORDS and "PixelData" in o.ds and o.text("BitsAllocated") == "8",
        Kind.QUARANTINE,
        Cure.BLACKOUT,
    ),
    _rule(
        "pixels-elsewhere",
        "transfer syntax, Pixel Data Provider URL",
        "the pixels are on a server, by an address that may identify",
        lambda o: o.syntax in _JPIP_SYNTAXES or "PixelDataProviderURL" in o.ds,
        Kind.QUARANTINE,
    ),
    _rule(
        "no-sop-class",
        "SOP Class UID",
        "what the object is, is not said",
        lambda o: not o.sop_class,
        Kind.QUARANTINE,
    ),
    _rule(
        "contradictory-sop-class",
        "SOP Class UID, Media Storage SOP Class UID",
        "the file and the object in it say different things",
        lambda o: o.meta_class not in ("", o.sop_class),
        Kind.QUARANTINE,
    ),
    _rule(
        "unknown-sop-class",
        "SOP Class UID",
        "private, new and rare classes, raw data among them: what is in them is not known",
        lambda o: (
            not (
                o.sop_class in _IMAGES
                or o.sop_class in _OTHERS
                or o.sop_class.startswith((_REPORTS, _PRESENTATIONS))
                or o.sop_class in _CAPTURES | _ULTRASOUND | _VISIBLE
            )
        ),
        Kind.QUARANTINE,
    ),
    _rule(
        "pixels-out-of-place",
        "SOP class, pixel data",
        "pixels in an object of a class that has none",
        lambda o: o.pixels and (o.sop_class in _OTHERS or o.sop_class.startswith((_REPORTS, _PRESENTATIONS))),
        Kind.QUARANTINE,
    ),
    _rule(
        "unknown-modality",
        "Modality of objects with pixel data",
        "what made the image is not known",
        lambda o: o.pixels and o.modality not in _MODALITIES and o.sop_class not in _DERIVED,
        Kind.QUARANTINE,
        Cure.BLACKOUT,
    ),
)


#: Attributes that matter to whoever decodes others: SpecificCharacterSet, PixelRepresentation.
_OF_DECODING = frozenset({0x00080005, 0x00280103})
#: Group length and MediaStorageSOPInstanceUID: no rule looks at them, and they differ between files.
_OF_ONE_FILE = frozenset({0x00020000, 0x00020003})
#: Maximum numbers of remembered decisions: by what was looked at, and of each such kind; maximum length of values.
_MOST_KINDS, _MOST, _SHORT = 64, 100, 256


class Judge:
    """Decides on objects, and remembers its decisions.

    A decision holds for all objects that have the same tags, and the same values where it looked (`Parsed.looked_at`).

    Args:
        delete_identifiable, catalogue, options: see `judge`.
        remembers: remember decisions. They are the same without.
    """

    def __init__(
        self, delete_identifiable: bool, catalogue: Catalogue, options: Collection[str], *, remembers: bool = True
    ) -> None:
        self._delete_identifiable, self._catalogue, self._options = delete_identifiable, catalogue, options
        self._remembers = remembers
        self._decided: dict[Hashable, dict[tuple[int, ...], dict[Hashable, Verdict]]] = {}

    def verdict(self, ds: Parsed) -> Verdict:
        """Return the decision on an object."""
        meta = tuple((tag, value) for tag, value in ds.meta.items() if tag not in _OF_ONE_FILE)
        kind = ds.syntax, meta, tuple(ds.elements)
        for tags, verdicts in self._decided.get(kind, {}).items():
            if (verdict := verdicts.get(_values_of(ds, tags))) is not None:
                return verdict
        ds.looked_at.clear()
        verdict = judge(
            ds, delete_identifiable=self._delete_identifiable, catalogue=self._catalogue, options=self._options
        )
        tags = tuple(sorted(_OF_DECODING | ds.looked_at))
        key = _values_of(ds, tags)
        if self._remembers and key is not None:
            if len(self._decided) >= _MOST_KINDS:
                self._decided.clear()
            verdicts = self._decided.setdefault(kind, {}).setdefault(tags, {})
            if len(verdicts) >= _MOST:
                verdicts.clear()
            verdicts[key] = verdict
        return verdict


def _values_of(ds: Parsed, tags: Iterable[int]) -> tuple[tuple[str, Value] | None, ...] | None:
    """Return VRs and values of elements; None where one of them is a sequence, or long."""
    found = tuple(ds.elements.get(tag) for tag in tags)
    if any(one is not None and not (isinstance(one[1], bytes) and len(one[1]) <= _SHORT) for one in found):
        return None
    return found


def judge(
    ds: Dataset,
    *,
    delete_identifiable: bool,
    catalogue: Catalogue | None = None,
    options: Collection[str] = (),
) -> Verdict:
    """Decide whether an object may be released, before it is de-identified.

    Args:
        ds: the object.
        delete_identifiable: objects that a rule matches are excluded; otherwise they go to quarantine, and are never
            released.
        catalogue: the device catalogue. It lets images pass for which it has regions to black out.
        options: names of the options of PS3.15 in effect.
    """
    plan = (catalogue or Catalogue()).blackout(ds)
    cures = {*options, *([Cure.BLACKOUT] if plan and plan.entries else [])}
    seen = _Object(ds)
    for rule in RULES:
        kind = rule.kind if delete_identifiable else rule.without
        if kind is not Kind.PASS and rule.cure not in cures and rule.applies(seen):
            return Verdict(kind, rule.name)
    return Verdict(Kind.PASS, blackout=plan)
