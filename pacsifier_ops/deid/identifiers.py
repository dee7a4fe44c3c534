"""Collects the identifiers of an object before de-identification, in all the forms in which they may be written.

These are names, ids, birth dates, addresses, telephone numbers, and UIDs that must be replaced. Names of all persons
count: the patient, physicians and operators.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from itertools import product
from typing import Any, NamedTuple

from pydicom import Dataset
from pydicom.datadict import DicomDictionary
from pydicom.tag import Tag

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import tables, vocabulary
from pacsifier_ops.deid.reading import Parsed, Run, sequence
from pacsifier_ops.deid.rules import Action, ObjectRules, ProfileOption, Rules
from pacsifier_ops.deid.sr import VALUES, rule_of, text_of
from pacsifier_ops.dicom.charsets import DEFAULT, Charset
from pacsifier_ops.dicom.encoding import Elements, Stretch
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.query.names import fold

CHARACTER_SET = 0x00080005
_SOP_CLASS, _MODALITY, _UID_VALUE = 0x00080016, 0x00080060, VALUES["UIDREF"]
_INSTANCE, _SOP_INSTANCE = 0x00020003, 0x00080018


def words_of(text: str) -> frozenset[str]:
    """Split a text at blanks."""
    return frozenset(text.split())


def tags_of(keywords: str) -> frozenset[int]:
    """Return the tags of the attributes with these keywords."""
    return frozenset(int(Tag(keyword)) for keyword in keywords.split())


#: Identifiers of a patient, a visit or an order. Names are recognised by their VR.
IDS = tags_of(
    """PatientID OtherPatientIDs MedicalRecordLocator InsurancePlanIdentification AccessionNumber StudyID AdmissionID
    ServiceEpisodeID RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID SpecimenAccessionNumber
    PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest ContainerIdentifier SpecimenIdentifier
    PlacerOrderNumberImagingServiceRequestRetired FillerOrderNumberImagingServiceRequestRetired
    ClinicalTrialSubjectID ClinicalTrialSubjectReadingID"""
)
#: Those of them that a department assigns. They may be short and ambiguous.
_PROCEDURES = tags_of("StudyID RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID")
#: Names of places where people work.
_PLACES = tags_of("InstitutionName InstitutionAddress InstitutionalDepartmentName StationName")
#: A name whose VR is not PN: Name to Use. Older dictionaries lack it.
_NAMES = frozenset({0x00100012})
_CONTACTS = tags_of(
    """PatientAddress PatientTelephoneNumbers PatientTelecomInformation PersonAddress PersonTelephoneNumbers
    PersonTelecomInformation ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers OrderCallbackPhoneNumber
    OrderCallbackTelecomInformation"""
)
_BIRTH_DATES = tags_of("PatientBirthDate PatientBirthDateInAlternativeCalendar")
#: Dates of an examination. That of a newborn may be on the day of birth.
_EXAMINED = tags_of("StudyDate SeriesDate AcquisitionDate ContentDate AcquisitionDateTime")

#: Words that occur in names, and in objects for other reasons.
_PLAIN = words_of(
    """anonym anonymous anonymized anonymised anonymisiert anonyme anonymus removed dummy unknown unbekannt
    inconnu none null patient phantom test name prof docteur doctor doktor herr frau monsieur madame admin
    administrator system user users service operator technician tech mtra mtrm default radiologie radiology
    radiologia notfall emergency external della delle dello degli dalla vander saint sankt santa philips
    siemens canon toshiba varian hitachi fuji fujifilm hologic general electric healthcare medical systems
    carestream agfa elekta esaote mindray samsung shimadzu konica minolta bruker marconi picker vida sola
    lumina prisma aera skyra altea amira avanto verio free prime force drive pulse spirit flash edge sense
    definition sensation ingenia achieva intera panorama ambition elition signa discovery optima revolution
    voyager pioneer architect premier hero explorer creator artist aquilion vantage orian galan titan elan
    azurion allura artis zee pheno brilliance iqon spectral incisive vereos gemini ingenuity biograph horizon
    vision luminos selenia dimensions senographe iris safire admire sinus norm real imaginary magnitude water
    dixon stir haste mixed other derived original primary secondary axial localizer localiser default spin
    echo turbo"""
)
#: Makers of software, which name themselves as the author of its objects.
_MAKERS = words_of(
    """qiicr dcmqi dcmtk highdicom pydicom pixelmed slicer osirix horos orthanc pmod brainlab medtronic accuray
    raysearch raystation terarecon openrad dicomweb dicognito"""
)
#: Body parts as BodyPartExamined writes several in one word (PS3.16 L).
_BODY_PARTS = words_of(
    """headneck chestabdomen chestabdpelvis abdomenpelvis abdpelvis wholebody cspine tspine lspine sspine ctspine
    tlspine lsspine tlsspine neckchest neckchestabdomen neckchestabdpelvis cardiac maxilla zygoma extremity"""
)
#: Placeholders that scanners, and tools that removed names, put in place of a name.
_PLACEHOLDERS = words_of(
    """anonym anonymous anonymized anonymised anonymisiert anonyme anonymus anonymise anonymize anon removed dummy
    unknown unbekannt inconnu deidentified deidentify pseudonymized pseudonymised redacted unspecified
    undefined noname noid null none"""
)
#: Words beside a placeholder, as in *Removed by CTP*.
_BESIDE = words_of("by ctp tcia rsna de identified no name id not available patient study na n a")


class FoundIdentifier(NamedTuple):
    """One identifier, as the object had it.

    Attributes:
        kind: `name`, `id`, `contact`, `birth` or `date`; determines the search.
        tag: tag of the attribute.
        text: its value.
    """

    kind: str
    tag: int
    text: str


@dataclass(frozen=True, slots=True)
class Identifiers:
    """Identifiers of the patient and of other persons. Join those of a patient's objects with `|`.

    Attributes:
        found: names, ids, addresses, telephone numbers and birth dates. Where dates are shifted, also the original
            other dates: one that stays, beside a shifted one, would reveal the number of days.
        uids: UIDs that must be replaced.
        dates: other dates after the shift (`YYYYMMDD`): the birth date of a newborn may be one of them.
        days: other dates before the shift, without those that stay.
        pseudonyms: pseudonym of the patient, normalised; equal identifiers are not searched.
        places: words of place names that the profile keeps; names of staff may contain them.
        examined: original dates of studies, series and images.
    """

    found: frozenset[FoundIdentifier] = frozenset()
    uids: frozenset[str] = frozenset()
    dates: frozenset[str] = frozenset()
    days: frozenset[str] = frozenset()
    pseudonyms: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    examined: frozenset[str] = frozenset()

    @classmethod
    def of(cls, ds: Dataset, person: Person, rules: Rules | None = None) -> Identifiers:
        """Collect the identifiers of an object, at every depth.

        Args:
            ds: the object before de-identification. Structured content is recognised only in data sets of
                `reading.read`.
            person: pseudonym and date shift of the patient.
            rules: the compiled profile. Values that it keeps, such as a device's UIDs, are not searched.
        """
        of_object = None if rules is None else rules.of(*(_first(ds, tag) for tag in (_SOP_CLASS, _MODALITY)))
        collector = _Collector(rules, of_object)
        collector.collect(ds)
        instance = _instance_of_file(ds)
        if instance and not collector.stays(_SOP_INSTANCE, "UI"):
            collector.uids.update(_uids_in(instance, DEFAULT))
        shifted = rules is not None and person.shift and ProfileOption.FULL_DATES not in rules.options
        return replace(_identifiers(tuple(collector.values), person, bool(shifted)), uids=frozenset(collector.uids))

    @classmethod
    def of_dates(cls, dates: Iterable[str]) -> Identifiers:
        """Return identifiers made of dates (`YYYYMMDD`) that must be removed."""
        return cls(frozenset(FoundIdentifier("date", _STUDY_DATE, date) for date in dates if len(date) == 8))

    def __or__(self, other: Identifiers) -> Identifiers:
        return Identifiers(
            self.found | other.found,
            self.uids | other.uids,
            self.dates | other.dates,
            self.days | other.days,
            self.pseudonyms | other.pseudonyms,
            self.places | other.places,
            self.examined | other.examined,
        )

    @property
    def births(self) -> frozenset[str]:
        """Birth dates (`YYYYMMDD`), without that of a newborn examined on that day: it is shifted like other dates."""
        return _births(self.found) - self.examined

    @property
    def terms(self) -> SearchTerms:
        """All written forms of the identifiers, apart from the UIDs."""
        return _terms_of(self.found, self.pseudonyms, self.places)


# Collecting


class _FoundValue(NamedTuple):
    """The value of an element with identifiers.

    Attributes:
        kind: `name`, `id`, `contact`, `birth`, `date` or `place`.
        tag: tag of the attribute.
        value: its value.
        charset: its character sets.
        stays: the profile leaves this date unchanged.
    """

    kind: str
    tag: int
    value: bytes
    charset: Charset
    stays: bool


class _Collector:
    """Traverses an object and collects values with identifiers.

    Args:
        rules: the compiled profile, if there is one.
        of_object: its rules for the object.
    """

    def __init__(self, rules: Rules | None, of_object: ObjectRules | None) -> None:
        self._rules, self._object_rules = rules, of_object
        self.uids: set[str] = set()
        self.values: list[_FoundValue] = []

    def collect(self, ds: Dataset) -> None:
        """Collect from an object."""
        if not isinstance(ds, Parsed):
            self.walk(ds, DEFAULT)
            return
        charset = DEFAULT
        for piece in ds.layout:
            if isinstance(piece, Run):
                uids, values = _in_run(piece, charset, self._rules, self._object_rules)
                self.uids |= uids
                self.values += values
            else:
                charset = self.walk({piece: ds.elements[piece]}, charset)

    def walk(self, ds: Dataset | Elements, charset: Charset, item: Elements | None = None) -> Charset:
        """Collect from elements, and return the character sets after them.

        Args:
            ds: the elements.
            charset: character sets before them.
            item: the item that they are, if they are one.
        """
        for tag, vr, value in _elements(ds):
            kind = _kind(tag, vr)
            if kind == "date" and tables.dates()[0].get(tag) == "kept":
                continue  # a version is no date of the patient, and a date of the patient there is still found
            if tag == CHARACTER_SET and isinstance(value, bytes):
                charset = charset_of(value)
            elif not isinstance(value, bytes):
                for one in value:
                    self.walk(one, charset, one if isinstance(one, dict) else None)
            elif vr == "UN" and value[:4] == _ITEM:
                with suppress(Unfit):
                    for one in sequence(value):
                        self.walk(one, charset, one)
            elif kind and value and self.stays(tag, vr, item) == (kind == "place"):
                if kind == "uid":
                    self.uids.update(_uids_in(value, charset))
                else:
                    stays = kind == "date" and self._is_left(tag, vr)
                    self.values.append(_FoundValue(kind, tag, value, charset, stays))
        return charset

    def _is_left(self, tag: int, vr: str) -> bool:
        """Return whether the profile leaves a public attribute unchanged."""
        return self._object_rules is not None and self._object_rules.find(tag, vr).action is Action.KEEP

    def _is_kept(self, item: Elements | None) -> bool:
        """Return whether the profile leaves a content item unchanged."""
        return self._rules is not None and item is not None and rule_of(item, self._rules)[0].action is Action.KEEP

    def stays(self, tag: int, vr: str, item: Elements | None = None) -> bool:
        """Return whether the profile leaves an attribute of a data set or an item unchanged, whatever its value."""
        if tag == _UID_VALUE and self._is_kept(item):
            return True
        if self._rules is not None and not tag & 0x10000:
            return vr not in ("DA", "DT") and self._is_left(tag, vr)
        return vr == "UI" and tables.uids().get(tag, False)


@lru_cache(maxsize=100)
def _in_run(
    run: Run, charset: Charset, rules: Rules | None, of_object: ObjectRules | None
) -> tuple[set[str], list[_FoundValue]]:
    """Return the UIDs and values in a run of elements of an object, for a `_Collector`."""
    collector = _Collector(rules, of_object)
    collector.walk(run.elements, charset)
    return collector.uids, collector.values


@lru_cache(maxsize=256)
def _identifiers(found_values: tuple[_FoundValue, ...], person: Person, shifted: bool) -> Identifiers:
    """Return the identifiers in values, without UIDs; cached, because most objects of a series have the same.

    Args:
        found_values: the values.
        person: pseudonym and date shift of the patient.
        shifted: dates are shifted, so that an original one must not stay.
    """
    found, moved = set[FoundIdentifier](), set[FoundIdentifier]()
    dates, stay, places, examined = set[str](), set[str](), set[str](), set[str]()
    for kind, tag, value, charset, stays in found_values:
        for texts in _values_in(value, charset):
            if kind == "date":
                days = {text.replace(".", "")[:8] for text in texts}
                dates |= days
                if tag in _EXAMINED:
                    examined |= days
                if stays:
                    stay |= days
                else:
                    moved.update(FoundIdentifier(kind, tag, day) for day in days if len(day) == 8)
            elif kind == "place":
                places.update(word for text in texts for form in forms_of(text) for word in form.split())
            else:
                found.update(FoundIdentifier(kind, tag, text) for text in texts)
    births = _births(found) - examined
    moved = {date for date in moved if date.text not in births}
    if shifted:
        found |= {date for date in moved if date.text not in stay}
    return Identifiers(
        found=frozenset(found),
        dates=frozenset(filter(None, (_shifted(date, person.shift) for date in dates - births))),
        days=frozenset(date.text for date in moved) - stay,
        pseudonyms=frozenset({normal(person.pseudonym)}),
        places=frozenset(places),
        examined=frozenset(examined),
    )


@lru_cache(maxsize=4096)
def _uids_in(value: bytes, charset: Charset) -> frozenset[str]:
    """Return the UIDs of a value that must be replaced."""
    return frozenset(uid for texts in _values_in(value, charset) for uid in texts) - tables.registered_uids()


def _values_in(value: bytes, charset: Charset) -> Iterator[list[str]]:
    """Yield the texts of an element, for each way to decode them."""
    for reading in readings(value, charset):
        yield [text for one in reading.split("\\") if (text := one.strip("\0 "))]


#: Kinds of identifiers, by VR.
_KINDS = {"PN": "name", "UI": "uid"}
_ITEM = b"\xfe\xff\x00\xe0"


@cache
def _kinds() -> Mapping[int, str]:
    """Return the kinds of identifiers by tag. The tag decides, whatever the VR in the object."""
    by_vr = {**_KINDS, "DA": "date", "DT": "date"}
    kinds = {tag: by_vr[entry[0]] for tag, entry in DicomDictionary.items() if entry[0] in by_vr}
    for tags, kind in (
        (_NAMES, "name"),
        (IDS, "id"),
        (_CONTACTS, "contact"),
        (_BIRTH_DATES, "birth"),
        (_PLACES, "place"),
    ):
        kinds |= dict.fromkeys(tags, kind)
    return kinds


@lru_cache(maxsize=1 << 15)
def _kind(tag: int, vr: str) -> str | None:
    """Return the kind of the identifiers in an element; an empty text where only the items of a sequence may have any;
    None for all other elements.
    """
    kind = _KINDS.get(vr) or _kinds().get(tag)
    return kind or ("" if vr in ("SQ", "UN") or tag == CHARACTER_SET else None)


def _births(found: Iterable[FoundIdentifier]) -> frozenset[str]:
    return frozenset(one.text.replace(".", "")[:8] for one in found if one.kind == "birth")


def _first(ds: Dataset, tag: int) -> str:
    if isinstance(ds, Parsed):
        return text_of(ds.elements, tag)
    return str(ds[tag].value) if tag in ds else ""


def _instance_of_file(ds: Dataset) -> bytes:
    """Return MediaStorageSOPInstanceUID (0002,0003) of the file meta information; empty where there is none."""
    if isinstance(ds, Parsed):
        return ds.meta.get(_INSTANCE, b"")
    meta = getattr(ds, "file_meta", None)
    return _encoded(meta.get_item(_INSTANCE).value) if meta and _INSTANCE in meta else b""


def _shifted(date: str, days: int) -> str:
    try:
        return (dt.datetime.strptime(date, "%Y%m%d") + dt.timedelta(days)).strftime("%Y%m%d")
    except (ValueError, OverflowError):
        return ""


def _elements(ds: Dataset | Elements) -> Iterator[tuple[int, str, bytes | Iterable[Dataset | Elements]]]:
    """Yield tag, VR and value of the elements of a data set or an item, those that may have identifiers."""
    if isinstance(ds, dict):
        for tag, (vr, value) in ds.items():
            if _kind(tag, vr) is not None and not isinstance(value, Stretch):
                yield tag, vr, value
        return
    for element in ds:
        yield int(element.tag), str(element.VR), element.value if element.VR == "SQ" else _encoded(element.value)


def _encoded(value: Any) -> bytes:
    """Encode a decoded value in UTF-8."""
    if isinstance(value, bytes):
        return value
    many = isinstance(value, Iterable) and not isinstance(value, str) and not hasattr(value, "components")
    return "\\".join(map(str, value if many else [value])).encode() if value is not None else b""


def readings(value: bytes, charset: Charset) -> list[str]:
    """Decode a text in its character set, and in UTF-8 where that works; in Latin-1 where neither does.

    Some writers omit the escape sequences (PS3.5 6.1.2.5). Then the character sets that these would select are tried.
    """
    found = [text for text in (charset.decode(value), _UTF_8.decode(value)) if text is not None]
    if not found:
        found = [text for codec in charset.codecs[1:] if (text := Charset((codec,)).decode(value)) is not None]
    return list(dict.fromkeys(found)) or [_ESCAPE.sub("", value.decode("latin-1"))]


_UTF_8 = Charset(("utf-8",))
_ESCAPE = re.compile(r"\x1b[ -/]*[0-~]")


def charset_of(value: bytes) -> Charset:
    """Return the character sets of SpecificCharacterSet (0008,0005); the default where they are unknown."""
    try:
        return Charset.of(value)
    except Unfit:
        return DEFAULT


# What is looked for


@dataclass(frozen=True)
class SearchTerms:
    """Texts to search for, by the method of comparison. Each maps to the tag that it comes from.

    Attributes:
        words: a word in text.
        phrases: consecutive words in text; with a blank at either end.
        parts: anywhere in text: names in scripts that do not separate words.
        lone: in text, without a neighbour of the same script: names of one character.
        whole: a whole text.
        same: the whole value of the same attribute, or of any name (tag 0).
        numbers: a whole number.
        dates: a date.
        raw: encoded text, in all bytes; with the width of a character in bytes.
        opaque: the same, in binary values only.
    """

    words: dict[str, int] = field(default_factory=dict)
    phrases: dict[str, int] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    lone: dict[str, int] = field(default_factory=dict)
    whole: dict[str, int] = field(default_factory=dict)
    same: dict[tuple[int, str], int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    dates: dict[str, int] = field(default_factory=dict)
    raw: dict[tuple[bytes, int], int] = field(default_factory=dict)
    opaque: dict[tuple[bytes, int], int] = field(default_factory=dict)

    @cached_property
    def phrases_by_word(self) -> dict[str, list[tuple[str, int]]]:
        """The phrases by their first word, so that a search of a whole cohort tests only the few that may match."""
        index: dict[str, list[tuple[str, int]]] = {}
        for phrase, tag in self.phrases.items():
            index.setdefault(phrase[1 : phrase.index(" ", 1)], []).append((phrase, tag))
        return index

    @cached_property
    def in_all(self) -> ByPrefix:
        """Encoded texts to search for in all bytes."""
        return ByPrefix(self.raw)

    @cached_property
    def in_binary(self) -> ByPrefix:
        """Encoded texts to search for in binary values."""
        return ByPrefix({**self.raw, **self.opaque})


class ByPrefix:
    """Encoded texts by their first bytes, so that one pass over the data serves for the texts of a whole cohort.

    Args:
        forms: tag by bytes and width of a character in bytes.
    """

    _LENGTH = 3

    def __init__(self, forms: Mapping[tuple[bytes, int], int]) -> None:
        self._forms: dict[bytes, list[tuple[bytes, int, int]]] = {}
        for (form, width), tag in forms.items():
            self._forms.setdefault(form[: self._LENGTH], []).append((form, width, tag))
        self._few = len(self._forms) < 1000

    def candidates_in(self, data: bytes) -> Iterator[tuple[bytes, int, int]]:
        """Yield bytes, width and tag of all texts that may occur in `data`."""
        length = self._LENGTH
        if self._few:
            there = [prefix for prefix in self._forms if prefix in data]
        else:
            there = [*({data[at : at + length] for at in range(len(data) - length + 1)} & self._forms.keys())]
        return (form for prefix in there for form in self._forms[prefix])


@lru_cache(maxsize=64)
def _terms_of(found: frozenset[FoundIdentifier], pseudonyms: frozenset[str], places: frozenset[str]) -> SearchTerms:
    """Build the forms to search for, with a cache: the identifiers of a series are mostly the same."""
    terms = SearchTerms()
    for one in sorted(found, key=lambda one: (one.tag, one.text)):
        if normal(one.text) not in pseudonyms:
            match one.kind:
                case "name":
                    _add_name(terms, one.tag, one.text, frozenset() if one.tag >> 16 == 0x0010 else places)
                case "id":
                    _add_id(terms, one.tag, one.text)
                case "contact":
                    _add_contact(terms, one.tag, one.text)
                case "birth" | "date":
                    _add_date(terms, one.tag, one.text)
    return terms


def terms_of_cohort(
    people: Iterable[tuple[Iterable[str], Iterable[str]]], pseudonyms: frozenset[str]
) -> tuple[SearchTerms, SearchTerms]:
    """Return the unambiguous and the ambiguous identifiers of a cohort.

    Full names, and ids of six characters or more, are unambiguous. Shorter ids, parts of names, and names that are
    everyday words are ambiguous.

    Args:
        people: names, and ids of any kind (PatientID, accession numbers), of each patient.
        pseudonyms: normalised pseudonyms (see `normal`); equal identifiers are not searched.
    """
    certain, doubtful = SearchTerms(), SearchTerms()
    for names, ids in people:
        for text in names:
            if normal(text) not in pseudonyms:
                _add_name(parts := SearchTerms(), _NAME, text, frozenset())
                certain.phrases.update(parts.phrases)
                doubtful.words.update(parts.words)
                doubtful.parts.update(parts.parts)
                doubtful.lone.update(parts.lone)
                doubtful.whole.update(parts.whole)
                doubtful.raw.update(parts.raw)
        for text in ids:
            if normal(text) not in pseudonyms:
                long = len(re.sub(r"[\W_]", "", text)) >= 6
                _add_id(certain if long else doubtful, _ID, text)
    return certain, doubtful


def dates_of(days: Iterable[str]) -> dict[str, int]:
    """Return dates (`YYYYMMDD`, also with dots) for `SearchTerms.dates`, without invalid ones and placeholders."""
    terms = SearchTerms()
    for day in days:
        _add_date(terms, _STUDY_DATE, day)
    return terms.dates


_NAME, _ID, _STUDY_DATE = int(Tag("PatientName")), int(Tag("PatientID")), int(Tag("StudyDate"))


#: A word: letters, or digits with dots between them. `MR12_Meier` has three.
WORD = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)*|\x1d")
#: Separates values that are searched together.
BETWEEN = "\x1d"
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})


def normal(text: str) -> str:
    """Return the words of a text without case and accents, separated by one blank."""
    return " ".join(WORD.findall(text.lower() if text.isascii() else fold(text)))


def forms_of(text: str) -> list[str]:
    """Return all normal forms of a text: with umlauts as plain letters, and as two letters."""
    if text.isascii():
        return [normal(text)]
    return list(dict.fromkeys((normal(text), normal(expand_umlauts(text)))))


def expand_umlauts(text: str) -> str:
    """Return a text with ä, ö and ü as ae, oe and ue."""
    return unicodedata.normalize("NFC", text.casefold()).translate(_UMLAUTS)


_EVERYDAY = _PLAIN | _PLACEHOLDERS | _MAKERS | _BODY_PARTS


@lru_cache(maxsize=4096)
def _everyday(word: str) -> bool:
    return word in _EVERYDAY or (bool(left := vocabulary.clean(word)) and (left == word or not ideographic(word)))


def ideographic(word: str) -> bool:
    """Return whether a word is in Han, kana or Hangul; text in these scripts may have no blanks between words."""
    return any(character >= "\u2e80" for character in word)


#: A character of these scripts without a neighbour of them.
LONE = re.compile(r"(?<![\u2e80-\U0003ffff])[\u2e80-\U0003ffff](?![\u2e80-\U0003ffff])")


@lru_cache(maxsize=4096)
def is_placeholder_name(words: str) -> bool:
    """Return whether a text is a placeholder: one of the list, with words beside it, or one letter repeated."""
    found = set(words.split())
    placeholders = {word for word in found if word in _PLACEHOLDERS or re.fullmatch(r"([a-z])\1\1+", word)}
    return found <= placeholders | _BESIDE and bool(placeholders or found <= {"na", "n", "a"})


def _add_name(terms: SearchTerms, tag: int, text: str, places: frozenset[str]) -> None:
    for group in text.split("="):
        if is_placeholder_name(normal(group)):
            continue
        family, _, rest = group.partition("^")
        given = " ".join(rest.split("^")[:2])
        for words in forms_of(group):
            terms.same.setdefault((0, words), tag)
            for word in set(words.split()) - places:
                _add_word(terms, tag, word)
        if not given and ideographic(family):
            _add_undivided(terms, tag, normal(family))
        elif ideographic(group):
            _add_word(terms, tag, normal(family + given).replace(" ", ""))
        elif not family.isascii() and len(normal(family)) == 1:
            terms.words.setdefault(normal(family), tag)  # Cyrillic, Greek
        for one, other in product(forms_of(family), forms_of(given)):
            if one and other and (len(one + other) > 5 or not (one + other).isascii()):
                everyday = all(map(_everyday, f"{one} {other}".split()))
                for phrase in (f"{one} {other}", f"{other} {one}"):
                    if everyday:
                        terms.whole.setdefault(phrase, tag)
                    else:
                        terms.phrases.setdefault(f" {phrase} ", tag)
        for word in re.findall(r"[^\W\d_]+", group):
            # The two or three bytes of a single ideograph occur inside other words.
            if (
                normal(word) not in places
                and not _everyday(normal(word))
                and not (ideographic(word) and len(word) == 1)
            ):
                _add_raw(terms.raw, tag, word)


def _add_undivided(terms: SearchTerms, tag: int, name: str) -> None:
    """Add a name without separator between family and given name, if short: split it at each possible place."""
    for at in range(1, len(name)) if len(name) < 5 and " " not in name else ():
        terms.phrases.setdefault(f" {name[:at]} {name[at:]} ", tag)
        if at == len(name) // 2:
            for part in (name[:at], name[at:]):
                if len(part) > 1:
                    _add_word(terms, tag, part)


def _add_word(terms: SearchTerms, tag: int, word: str) -> None:
    if _everyday(word) or (len(word) == 1 and not ideographic(word)):
        terms.same.setdefault((0, word), tag)
    elif ideographic(word):
        (terms.parts if len(word) > 1 else terms.lone).setdefault(word, tag)
    elif len(word) < 4:
        terms.whole.setdefault(word, tag)
    else:
        terms.words.setdefault(word, tag)


def _add_id(terms: SearchTerms, tag: int, text: str) -> None:
    for words in forms_of(text):
        joined = re.sub("[ .]", "", words)
        if is_placeholder_name(words) or not joined.strip("0") or (tag in _PROCEDURES and len(set(joined)) == 1):
            continue
        terms.same.setdefault((tag, words), tag)
        digits = sum(map(str.isdigit, joined))
        if digits == len(joined):
            _add_number(terms, tag, words, joined)
        elif digits >= 4 and len(joined) >= 6:
            terms.phrases.setdefault(f" {words} ", tag)
            _add_raw(terms.raw, tag, text)
            for part in re.findall(r"\d{6,}", words):
                if not re.fullmatch(r"(19|20)\d\d(0\d|1[0-2])([0-2]\d|3[01])", part):
                    terms.words.setdefault(part, tag)
        elif digits or len(joined) < 5 or all(map(_everyday, words.split())):
            if len(joined) > 3 and digits and tag not in _PROCEDURES:
                terms.whole.setdefault(words, tag)
        else:
            terms.phrases.setdefault(f" {words} ", tag)
            _add_raw(terms.raw, tag, text)


def _add_number(terms: SearchTerms, tag: int, words: str, joined: str) -> None:
    """Add an identifier of digits: unchanged, without separators, and without leading zeros."""
    for number in dict.fromkeys((joined, joined.lstrip("0"))):
        if len(number) > 5:
            terms.words.setdefault(number, tag)
            terms.numbers.setdefault(number, tag)
            _add_raw(terms.opaque, tag, number)
        elif len(number) > 3 and tag not in _PROCEDURES:
            terms.whole.setdefault(number, tag)
    if len(joined) > 5 and words != joined:
        parts = re.findall(r"\d+", words)
        terms.words.setdefault(".".join(parts), tag)
        terms.phrases.setdefault(f" {' '.join(parts)} ", tag)


def _add_contact(terms: SearchTerms, tag: int, text: str) -> None:
    """Add an address or a telephone number: the whole text, and its lines that have a number and a word."""
    for part in dict.fromkeys((text, *re.split(r"[\r\n\\^;,]+", text))):
        for words in forms_of(part):
            joined = re.sub("[ .]", "", words)
            if len(joined) < 7:
                continue
            if joined.isdigit():
                _add_number(terms, tag, words, joined)
            elif (
                len(words.split()) > 1
                and re.search(r"\d|@", part)
                and not re.fullmatch(r"(\D{1,2} )?\d{4,5} \D+", words)
            ):
                terms.phrases.setdefault(f" {words} ", tag)
                _add_raw(terms.raw, tag, part.strip())


def _add_date(terms: SearchTerms, tag: int, text: str) -> None:
    try:
        day = dt.datetime.strptime(re.sub(r"\D", "", text)[:8], "%Y%m%d")
    except ValueError:
        return
    if day.year < 1850 or (day.month, day.day, day.year) == (1, 1, 1900):
        return  # a placeholder
    terms.dates.setdefault(f"{day:%Y%m%d}", tag)


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@lru_cache(maxsize=256)
def written(date: str) -> tuple[frozenset[str], tuple[str, ...], tuple[bytes, ...]]:
    """Return the forms of a written date: single words, phrases, and bytes."""
    year, month, day = date[:4], date[4:6], date[6:]
    short = str(int(day)), str(int(month))
    words = {date, f"{day}{month}{year}", f"{day}.{month}.{year}", ".".join((*short, year)), f"{year}.{month}.{day}"}
    phrases = {f"{year} {month} {day}", f"{day} {month} {year}", f"{month} {day} {year}"}
    phrases |= {" ".join((*short, year)), f"{day} {_MONTHS[int(month) - 1]} {year}"}
    raw = (date, f"{year}-{month}-{day}", f"{day}.{month}.{year}", f"{day}/{month}/{year}")
    return frozenset(words), tuple(f" {phrase} " for phrase in phrases), tuple(one.encode() for one in raw)


def _add_raw(into: dict[tuple[bytes, int], int], tag: int, text: str) -> None:
    """Add the encodings of a text, ASCII letters in lower case."""
    least = 3 if ideographic(text) else 5
    for form in dict.fromkeys((text, text.lower(), text.upper(), text.title(), *forms_of(text))):
        for encoding, width in _UNICODE if form.isascii() else _UNICODE + _NATIONAL:
            with suppress(UnicodeEncodeError):
                data = form.encode(encoding).lower().removesuffix(b"\x1b(b")
                if len(data) >= least * width:
                    into.setdefault((data, width), tag)


#: Encodings of text, and the minimum number of bytes of a character.
_UNICODE = (("utf-8", 1), ("utf-16-le", 2), ("utf-16-be", 2))
_NATIONAL = tuple(
    (encoding, 1)
    for encoding in (
        *(f"iso8859-{part}" for part in (1, 2, 5, 6, 7, 8, 9)),
        *("iso2022_jp_2", "iso2022_kr", "shift_jis", "euc_jp", "euc_kr", "gb18030"),
    )
)
