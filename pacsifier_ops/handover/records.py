"""Directory records of objects: their types and keys (PS3.3 F.4, F.5).

Values are copied from the object without a change of their encoding, with its Specific Character Set. A key of type 1
that the object does not have gets a made-up value in the record. The object is not changed, and the report names it.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from pydicom import DataElement, Dataset, dcmread
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from pacsifier_ops.dicom import vrs
from pacsifier_ops.dicom.encoding import element, item
from pacsifier_ops.dicom.files import DicomFile, attributes
from pacsifier_ops.dicom.uids import is_uid

#: Record types of the levels above the objects (PS3.3 F.4).
PATIENT, STUDY, SERIES = "PATIENT", "STUDY", "SERIES"
#: Record type for objects whose SOP class has no record type of its own (PS3.3 F.6.1).
PRIVATE = "PRIVATE"

_CHARACTER_SET, _INSTANCE_NUMBER, _CONTENT_SEQUENCE = 0x00080005, 0x00200013, 0x0040A730
_OBSERVERS, _VERIFIED, _VERIFICATION = 0x0040A073, 0x0040A030, 0x0040A493
_HL7_IDENTIFIER, _CDA = 0x0040E001, "1.2.840.10008.5.1.4.1.1.104.2"
#: VRs of keys whose encoding depends on the transfer syntax. All other keys are text.
_ENCODED = ("SQ", "UL", "US", "UV")
#: VRs that Specific Character Set applies to (PS3.5 6.1.2.3), and sequences, whose elements may have such VRs.
_TEXT = ("LO", "LT", "PN", "SH", "SQ", "ST")


@dataclass(frozen=True)
class RecordKey:
    """A key of a record.

    Attributes:
        tag, vr, keyword: of the attribute.
        optional: the key is of type 1C or 3: a record has it only if the object has it.
        made_up: value of a key of type 1 that the object does not have; `#` stands for the ordinal of the record.
            Empty for type 2.
    """

    tag: int
    vr: str
    keyword: str
    optional: bool = False
    made_up: str = ""


def _keys(*words: str) -> tuple[RecordKey, ...]:
    """Return keys: `Keyword=made-up value` is of type 1, `Keyword` of type 2, `Keyword?` of type 1C or 3."""
    keys = []
    for word in words:
        keyword, _, made_up = word.partition("=")
        optional = keyword.endswith("?")
        keyword = keyword.rstrip("?")
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        keys.append(RecordKey(tag, dictionary_VR(tag), keyword, optional, made_up))
    return tuple(sorted(keys, key=lambda key: key.tag))


_DATE, _TIME = "19000101", "000000"
_NUMBER = ("InstanceNumber=#",)
_CONTENT = (f"ContentDate={_DATE}", f"ContentTime={_TIME}")
_IDENTIFIED = (*_NUMBER, "ContentLabel=UNKNOWN", "ContentDescription", "ContentCreatorName")
_TITLED = (*_NUMBER, *_CONTENT, "ConceptNameCodeSequence=#", "ContentSequence?")
_PRESENTED = (f"PresentationCreationDate={_DATE}", f"PresentationCreationTime={_TIME}", *_IDENTIFIED)

#: The keys of each record type (PS3.3 F.5.1 to F.5.49). Every record may have Specific Character Set as well.
KEYS: dict[str, tuple[RecordKey, ...]] = {
    PATIENT: _keys("PatientName", "PatientID=NO_ID_#"),
    STUDY: _keys(
        *(f"StudyDate={_DATE}", f"StudyTime={_TIME}", "StudyDescription", "StudyInstanceUID=#", "StudyID=#"),
        "AccessionNumber",
    ),
    SERIES: _keys("Modality=OT", "SeriesInstanceUID=#", "SeriesNumber=#"),
    "IMAGE": _keys(*_NUMBER),
    "RT DOSE": _keys(*_NUMBER, "DoseSummationType=UNKNOWN", "DoseComment?"),
    "RT STRUCTURE SET": _keys(*_NUMBER, "StructureSetLabel=UNKNOWN", "StructureSetDate", "StructureSetTime"),
    "RT PLAN": _keys(*_NUMBER, "RTPlanLabel=UNKNOWN", "RTPlanDate", "RTPlanTime"),
    "RT TREAT RECORD": _keys(*_NUMBER, "TreatmentDate", "TreatmentTime"),
    "RADIOTHERAPY": _keys(
        *(*_NUMBER, "UserContentLabel?", "UserContentLongLabel?", "ContentDescription", "ContentCreatorName")
    ),
    "PLAN": (),
    "PRESENTATION": _keys(*_PRESENTED, "ReferencedSeriesSequence?", "BlendingSequence?"),
    "WAVEFORM PRESENTATION": _keys(*_PRESENTED, "ReferencedSeriesSequence?"),
    "WAVEFORM": _keys(*_NUMBER, *_CONTENT),
    "SR DOCUMENT": _keys(*_TITLED, "CompletionFlag=PARTIAL", "VerificationFlag=UNVERIFIED", "VerificationDateTime?"),
    "KEY OBJECT DOC": _keys(*_TITLED),
    "SPECTROSCOPY": _keys(
        *("ImageType=ORIGINAL\\PRIMARY", *_NUMBER, *_CONTENT, "ReferencedImageEvidenceSequence?"),
        *("NumberOfFrames=1", "Rows=1", "Columns=1", "DataPointRows=1", "DataPointColumns=1"),
    ),
    "RAW DATA": _keys(*_CONTENT, "InstanceNumber"),
    "REGISTRATION": _keys(*_CONTENT, *_IDENTIFIED),
    "FIDUCIAL": _keys(*_CONTENT, *_IDENTIFIED),
    "VALUE MAP": _keys(*_CONTENT, *_IDENTIFIED),
    "MEASUREMENT": _keys(*_CONTENT, *_IDENTIFIED),
    "SURFACE": _keys(*_CONTENT, *_IDENTIFIED),
    "SURFACE SCAN": _keys(*_CONTENT),
    "TRACT": _keys(*_CONTENT, *_IDENTIFIED),
    "ANNOTATION": _keys(*_CONTENT, *_IDENTIFIED),
    "STEREOMETRIC": _keys(*_IDENTIFIED),
    "ASSESSMENT": _keys(*_NUMBER, f"InstanceCreationDate={_DATE}", "InstanceCreationTime"),
    "ENCAP DOC": _keys(
        *(*_NUMBER, "ContentDate", "ContentTime", "DocumentTitle", "HL7InstanceIdentifier?"),
        *("ConceptNameCodeSequence", "MIMETypeOfEncapsulatedDocument=application/octet-stream"),
    ),
    "OVERLAY": _keys("OverlayNumber=#"),
    "CURVE": _keys("CurveNumber=#"),
    "MODALITY LUT": _keys("LUTNumber=#"),
    "VOI LUT": _keys("LUTNumber=#"),
    PRIVATE: _keys("InstanceNumber?"),
    "HANGING PROTOCOL": _keys(
        *("HangingProtocolName=UNKNOWN", "HangingProtocolDescription=UNKNOWN", "HangingProtocolLevel=SINGLE_USER"),
        *("HangingProtocolCreator=UNKNOWN", f"HangingProtocolCreationDateTime={_DATE}{_TIME}"),
        *("HangingProtocolDefinitionSequence=#", "NumberOfPriorsReferenced=0"),
        "HangingProtocolUserIdentificationCodeSequence",
    ),
    "PALETTE": _keys("ContentLabel=UNKNOWN", "ContentDescription"),
    "IMPLANT": _keys("Manufacturer=UNKNOWN", "ImplantName=UNKNOWN", "ImplantSize?", "ImplantPartNumber=UNKNOWN"),
    "IMPLANT ASSY": _keys("ImplantAssemblyTemplateName=UNKNOWN", "Manufacturer=UNKNOWN", "ProcedureTypeCodeSequence=#"),
    "IMPLANT GROUP": _keys("ImplantTemplateGroupName=UNKNOWN", "ImplantTemplateGroupIssuer=UNKNOWN"),
    "INVENTORY": _keys(
        *(*_CONTENT, "InventoryPurpose", "InventoryLevel=STUDY", "ScopeOfInventorySequence?"),
        *("InventoryCompletionStatus=PARTIAL", "TotalNumberOfStudyRecords=0"),
    ),
}

_STANDARD = "1.2.840.10008.5.1.4."
#: Record type by the part of the SOP Class UID after _STANDARD. A key that ends in a dot is a prefix; the longest match
#: counts. Storage SOP classes without another match are images.
_RECORD_TYPES = {
    "1.1.": "IMAGE",
    "1.1.4.2": "SPECTROSCOPY",
    "1.1.8": "OVERLAY",
    "1.1.9": "CURVE",
    "1.1.9.": "WAVEFORM",
    "1.1.9.100.": "WAVEFORM PRESENTATION",
    "1.1.10": "MODALITY LUT",
    "1.1.11": "VOI LUT",
    "1.1.11.": "PRESENTATION",
    "1.1.66": "RAW DATA",
    "1.1.66.1": "REGISTRATION",
    "1.1.66.2": "FIDUCIAL",
    "1.1.66.3": "REGISTRATION",
    "1.1.66.4": "IMAGE",
    "1.1.66.5": "SURFACE",
    "1.1.66.6": "TRACT",
    "1.1.66.7": "IMAGE",
    "1.1.66.8": "IMAGE",
    "1.1.67": "VALUE MAP",
    "1.1.68.": "SURFACE SCAN",
    "1.1.77.1.5.3": "STEREOMETRIC",
    "1.1.78.": "MEASUREMENT",
    "1.1.78.6": "SR DOCUMENT",
    "1.1.79.1": "SR DOCUMENT",
    "1.1.80.1": "MEASUREMENT",
    "1.1.88.": "SR DOCUMENT",
    "1.1.88.59": "KEY OBJECT DOC",
    "1.1.90.1": "ASSESSMENT",
    "1.1.91.": "ANNOTATION",
    "1.1.104.": "ENCAP DOC",
    "1.1.129": "CURVE",
    "1.1.131": "PRESENTATION",
    "1.1.200.": PRIVATE,
    "1.1.481.1": "IMAGE",
    "1.1.481.2": "RT DOSE",
    "1.1.481.3": "RT STRUCTURE SET",
    "1.1.481.4": "RT TREAT RECORD",
    "1.1.481.5": "RT PLAN",
    "1.1.481.6": "RT TREAT RECORD",
    "1.1.481.7": "RT TREAT RECORD",
    "1.1.481.8": "RT PLAN",
    "1.1.481.9": "RT TREAT RECORD",
    **{f"1.1.481.{number}": "RADIOTHERAPY" for number in (*range(10, 23), 25)},
    "34.": "PLAN",
}
#: Record types of SOP classes whose objects belong to no patient: they are at the level of patients (PS3.3 F.4).
_PATIENTLESS = {
    f"{_STANDARD}38.1": "HANGING PROTOCOL",
    f"{_STANDARD}39.1": "PALETTE",
    f"{_STANDARD}43.1": "IMPLANT",
    f"{_STANDARD}44.1": "IMPLANT ASSY",
    f"{_STANDARD}45.1": "IMPLANT GROUP",
    f"{_STANDARD}1.1.201.1": "INVENTORY",
}


@cache
def record_type(sop_class_uid: str) -> str:
    """Return the type of the records of a SOP class's objects (PS3.3 F.5), a key of KEYS."""
    if not sop_class_uid.startswith(_STANDARD):
        return PRIVATE
    name = sop_class_uid.removeprefix(_STANDARD)
    for length in range(len(name), 0, -1):
        start = name[:length]
        # A key without a dot at its end stands for one class.
        if start in _RECORD_TYPES and (length == len(name) or start.endswith(".")):
            return _RECORD_TYPES[start]
    return PRIVATE


@dataclass(frozen=True, slots=True)
class DirectoryObject:
    """An object with the values for its directory records.

    Attributes:
        file: the object.
        kind: type of its record, a key of KEYS.
        values: values of Specific Character Set and of the keys of this record and the records above, by tag, encoded
            in explicit VR little endian; only those that the object has.
        part10: whether the file has preamble and prefix (PS3.10 7.1).
    """

    file: DicomFile
    kind: str
    values: Mapping[int, bytes]
    part10: bool = True

    @property
    def character_set(self) -> bytes:
        """Return the encoded value of Specific Character Set."""
        return self.values.get(_CHARACTER_SET, b"")

    @property
    def number(self) -> tuple[float, str]:
        """Return the sort key of objects in a series: Instance Number (infinite if there is none), SOP Instance UID."""
        return ordinal(self.values.get(_INSTANCE_NUMBER, b"").decode("ascii", "replace")), self.file.sop_instance_uid


def ordinal(text: str) -> float:
    """Return the integer of a text; infinite if it is none, so that it is sorted to the end."""
    try:
        return int(text.strip("\0 "))
    except ValueError:
        return float("inf")


def describe(file: DicomFile) -> DirectoryObject:
    """Read the values for the records of an object, no further than the last of their tags.

    Raises:
        ValueError: the file is damaged; the reason in words.
        OSError: the file cannot be read.
    """
    kind = record_type(file.sop_class_uid)
    plain, encoded, last = _tags_of(kind)
    with file.path.open("rb") as stream:
        part10 = stream.read(132)[128:] == b"DICM"
        found = attributes(stream, file, plain, last)
    values = {tag: value for tag, value in found.items() if _is_valid(tag, value)}
    if encoded:
        values |= _encoded(file, encoded)
    if file.sop_class_uid != _CDA:
        values.pop(_HL7_IDENTIFIER, None)
    if values.get(_VERIFICATION, b"").strip() != b"VERIFIED":
        values.pop(_VERIFIED, None)
    return DirectoryObject(file, kind, values, part10)


def describe_patientless(path: Path) -> DirectoryObject | None:
    """Read the values for the record of an object that belongs to no patient, such as a hanging protocol.

    Returns:
        None if the file is no such object.

    Raises:
        OSError: the file cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of pydicom quote values
        try:
            head = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"])
            sop_class, uid = str(head.SOPClassUID), str(head.SOPInstanceUID)
            syntax = str(head.file_meta.TransferSyntaxUID)
        except OSError:
            raise
        except Exception:  # pydicom raises errors of many types for damaged files
            return None
    kind, status = _PATIENTLESS.get(sop_class), path.stat()
    if kind is None or not is_uid(uid):
        return None
    times = status.st_mtime_ns, status.st_ctime_ns
    file = DicomFile(path, 0, status.st_size, *times, sop_class, uid, syntax, study_uid="", series_uid="")
    return DirectoryObject(file, kind, _encoded(file, KEYS[kind]))


@cache
def _tags_of(kind: str) -> tuple[frozenset[int], tuple[RecordKey, ...], int]:
    """Return the tags of the keys that are text, the other keys, and the largest of these tags."""
    keys = [key for name in (PATIENT, STUDY, SERIES, kind) for key in KEYS[name]]
    plain = frozenset((_CHARACTER_SET, *(key.tag for key in keys if key.vr not in _ENCODED)))
    encoded = tuple(key for key in keys if key.vr in _ENCODED or key.tag == _VERIFIED)
    return plain - {_VERIFIED}, encoded, max(plain - {_VERIFIED})


def _encoded(file: DicomFile, keys: tuple[RecordKey, ...]) -> dict[int, bytes]:
    """Return the values of these keys, encoded in explicit VR little endian; only the valid ones."""
    tags = [key.tag for key in keys]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of pydicom quote values
        try:
            dataset = dcmread(file.path, force=True, stop_before_pixels=True, specific_tags=[*tags, _OBSERVERS])
            found = {tag: dataset[tag] for tag in tags if tag in dataset}
            if _CONTENT_SEQUENCE in found:
                found[_CONTENT_SEQUENCE] = _modifiers(dataset)
            if _CHARACTER_SET in dataset:
                found[_CHARACTER_SET] = dataset[_CHARACTER_SET]
            encodings = convert_encodings(dataset.get("SpecificCharacterSet") or "ISO_IR 6")
            values = {tag: _value(found[tag], encodings) for tag in found if _vr(tag) == found[tag].VR}
            if _VERIFIED in tags:
                times = [str(item.get("VerificationDateTime") or "") for item in dataset.get(_OBSERVERS, ())]
                values[_VERIFIED] = max(times, default="").encode("ascii", "replace")
            return {tag: value for tag, value in values.items() if value and _is_valid(tag, value)}
        except OSError:
            raise
        except Exception:  # pydicom raises errors of many types: a damaged object counts as one without these keys
            return {}


#: Valid values by VR (PS3.5 6.2), in the forms of older editions as well.
_FORMS = {
    "DA": re.compile(rb"\d{8}|\d{4}\.\d\d\.\d\d"),
    "TM": re.compile(rb"\d\d[\d:]*(\.\d+)?"),
    "IS": re.compile(rb"[+-]?\d{1,12}"),
}
#: Control characters that text of other VRs must not contain.
_NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
#: Longest value of a key that is text, in bytes.
_LONGEST = 4096


def _is_valid(tag: int, value: bytes) -> bool:
    """Whether a value is one of the VR of its attribute."""
    vr = _vr(tag)
    if vr in _ENCODED:
        return vr != "SQ" or _well_formed(value)
    value = value.strip(b"\0 ")
    if not value or len(value) > _LONGEST:
        return False
    form = _FORMS.get(vr)
    return form.fullmatch(value) is not None if form else not _NO_TEXT.search(value)


_vr = cache(dictionary_VR)


def _modifiers(dataset: Dataset) -> DataElement:
    """Return the content items that modify the title of a document (PS3.3 F.5.25)."""
    items = [item for item in dataset.ContentSequence if item.get("RelationshipType") == "HAS CONCEPT MOD"]
    return DataElement(_CONTENT_SEQUENCE, "SQ", items)


def _value(element: DataElement, encodings: list[str]) -> bytes:
    """Return a value encoded in explicit VR little endian, its sequences and items with explicit lengths."""
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    _with_lengths(element)
    write_data_element(stream, element, encodings)
    return stream.getvalue()[12 if element.VR in vrs.LONG else 8 :]


def _with_lengths(element: DataElement) -> None:
    element.is_undefined_length = False
    for dataset in element.value if element.VR == "SQ" else ():
        dataset.is_undefined_length_sequence_item = False
        for tag in list(dataset.keys()):
            # Text stays as it is encoded.
            if dataset.get_item(tag).VR in ("SQ", "UN", None):
                _with_lengths(dataset[tag])


def _well_formed(sequence: bytes) -> bool:
    """Whether the encoded value of a sequence consists of whole items, and these of whole elements."""
    at = 0
    while at < len(sequence):
        head, at = sequence[at : at + 8], at + 8
        if len(head) < 8 or head[:4] != b"\xfe\xff\0\xe0":
            return False
        (length,) = struct.unpack("<L", head[4:])
        content, at = sequence[at : at + length], at + length
        if len(content) < length or not _elements_well_formed(content):
            return False
    return True


def _elements_well_formed(content: bytes) -> bool:
    at = 0
    while at < len(content):
        head, at = content[at : at + 8], at + 8
        if len(head) < 8 or head[:2] == b"\xfe\xff":
            return False
        vr = head[4:6].decode("latin-1")
        if vr in vrs.LONG:
            size, at = content[at : at + 4], at + 4
        elif vr in vrs.SHORT:
            size = head[6:] + b"\0\0"
        else:
            return False
        if len(size) < 4:
            return False
        (length,) = struct.unpack("<L", size)
        value, at = content[at : at + length], at + length
        if len(value) < length or (vr == "SQ" and not _well_formed(value)):
            return False
    return True


#: Many records have the same elements.
_element = lru_cache(1024)(element)


def record(
    kind: str, values: Mapping[int, bytes], number: int, references: Mapping[int, str] | None = None
) -> tuple[bytes, list[str]]:
    """Return the elements of a record from Directory Record Type (0004,1430) on. `fileset` writes those before.

    Args:
        kind: record type, a key of KEYS.
        values: see DirectoryObject.
        number: ordinal among the records of its kind below the same record, from 1; it is part of made-up values.
        references: values that refer to the file, by tag: those of group 0004 from (0004,1432) on.

    Returns:
        The encoded elements, and the keywords of the made-up keys.
    """
    elements = {0x00041430: _element(0x00041430, "CS", kind.encode())}
    elements |= {tag: _element(tag, _vr(tag), text.encode()) for tag, text in (references or {}).items()}
    made_up = []
    extended = False
    for key in KEYS[kind]:
        value = values.get(key.tag, b"")
        if not value and key.optional:
            continue
        if not value and key.made_up:
            made_up.append(key.keyword)
            value = _made_up(key, number)
        elements[key.tag] = _element(key.tag, key.vr, value)
        extended |= key.vr in _TEXT and not (value.isascii() and b"\x1b" not in value)
    if extended and _CHARACTER_SET in values:
        elements[_CHARACTER_SET] = _element(_CHARACTER_SET, "CS", values[_CHARACTER_SET])
    return b"".join(elements[tag] for tag in sorted(elements)), made_up


def _made_up(key: RecordKey, number: int) -> bytes:
    """Return the encoded made-up value of a key; `number` is the ordinal of the record."""
    text = key.made_up.replace("#", str(number))
    match key.vr:
        case "SQ":
            return item(_NO_PROTOCOL if key.keyword == "HangingProtocolDefinitionSequence" else _NO_CODE)
        case "US":
            return struct.pack("<H", int(text))
        case "UL":
            return struct.pack("<L", int(text))
        case "UV":
            return struct.pack("<Q", int(text))
    return text.encode()


#: Made-up items: of a code sequence, and of Hanging Protocol Definition Sequence.
_NO_CODE = (
    element(0x00080100, "SH", b"UNKNOWN")
    + element(0x00080102, "SH", b"99PACSIFIER")
    + element(0x00080104, "LO", b"Unknown")
)
_NO_PROTOCOL = (
    element(0x00080060, "CS", b"OT")
    + element(0x00081032, "SQ", item(_NO_CODE))
    + element(0x0040100A, "SQ", item(_NO_CODE))
)
