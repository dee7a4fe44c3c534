"""The keys of a query table: the DICOM attribute of each, valid values of its cells, and DICOM's wildcards."""

from __future__ import annotations

import datetime
import difflib
import fnmatch
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Level of an attribute (PS3.4 C.6.2). Under Study Root, patient attributes belong to the study."""

    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


@dataclass(frozen=True)
class Key:
    """An attribute that rows may query.

    Attributes:
        keyword: keyword of the attribute.
        vr: its VR.
        level: its level.
        max_length: maximum number of characters per value, for PN per component group (PS3.5 6.2).
        weak: whether a row with only such keys may match a large part of an archive.
    """

    keyword: str
    vr: str
    level: Level
    max_length: int
    weak: bool


_LENGTHS = {"CS": 16, "DA": 8, "IS": 12, "LO": 64, "PN": 64, "SH": 16, "TM": 14, "UI": 64}
_WEAK = ("Modality", "SeriesNumber", "StudyTime", "ImageType")
#: An archive derives it from the series of a study (PS3.4 C.3.4); no object has it.
MODALITIES = "ModalitiesInStudy"
#: Keys that accept several values in a cell, separated by backslashes. One of them has to match.
SEVERAL = ("Modality", MODALITIES, "StudyInstanceUID", "SeriesInstanceUID")
_ATTRIBUTES = (
    ("StudyDate", "DA", Level.STUDY),
    ("StudyTime", "TM", Level.STUDY),
    ("SeriesDescription", "LO", Level.SERIES),
    ("PatientID", "LO", Level.STUDY),
    ("ProtocolName", "LO", Level.SERIES),
    ("StudyInstanceUID", "UI", Level.STUDY),
    ("PatientName", "PN", Level.STUDY),
    ("PatientBirthDate", "DA", Level.STUDY),
    ("SeriesInstanceUID", "UI", Level.SERIES),
    ("DeviceSerialNumber", "LO", Level.SERIES),
    ("Modality", "CS", Level.SERIES),
    ("ImageType", "CS", Level.IMAGE),
    ("SeriesNumber", "IS", Level.SERIES),
    ("StudyDescription", "LO", Level.STUDY),
    ("AccessionNumber", "SH", Level.STUDY),
    ("SequenceName", "SH", Level.IMAGE),
    ("AcquisitionDate", "DA", Level.IMAGE),
)
#: Keys beyond PACSIFIER's. They are optional everywhere, and queried only for rows that have them. None narrows a
#: search much.
_FURTHER = (
    (MODALITIES, "CS", Level.STUDY),
    ("PatientSex", "CS", Level.STUDY),
    ("StudyID", "SH", Level.STUDY),
    ("ReferringPhysicianName", "PN", Level.STUDY),
    ("BodyPartExamined", "CS", Level.SERIES),
    ("InstitutionName", "LO", Level.SERIES),
    ("StationName", "SH", Level.SERIES),
)

#: Keys by keyword, and the keywords of the keys beyond PACSIFIER's.
KEYS = {word: Key(word, vr, level, _LENGTHS[vr], word in _WEAK) for word, vr, level in _ATTRIBUTES} | {
    word: Key(word, vr, level, _LENGTHS[vr], weak=True) for word, vr, level in _FURTHER
}
FURTHER = tuple(word for word, *_ in _FURTHER)

#: Columns of an info dump, in PACSIFIER's order.
DUMP_COLUMNS = tuple(word for word, *_ in _ATTRIBUTES)

#: Column with the pseudonym of the row's patient; no key.
NEW_IDS = "new_ids"
#: Column that decides which PatientID is accepted where those of archive and objects differ; no key.
ACCEPT = "accept_patient_id_of"
#: Columns of the selection: the day that days are counted from, the name of the row's set of rules, and the row's own
#: id, which the linker gives back. No keys: an archive never sees them.
ANCHOR, SELECTION, ROW_ID = "anchor_date", "selection", "row_id"
#: Columns that ask for nothing.
NO_KEYS = (NEW_IDS, ACCEPT, ANCHOR, SELECTION, ROW_ID)
COLUMNS = (*KEYS, *NO_KEYS)
#: Characters of a row's own id, and of the name of a set, at most.
LONGEST_TEXT = 64

#: Other names of columns, without case, blanks and punctuation. In PS3.6 some names have an apostrophe.
ALIASES = {
    "mrn": "PatientID",
    "medicalrecordnumber": "PatientID",
    "patientsname": "PatientName",
    "patientsbirthdate": "PatientBirthDate",
    "dateofbirth": "PatientBirthDate",
    "birthdate": "PatientBirthDate",
    "dob": "PatientBirthDate",
    "patientssex": "PatientSex",
    "accessionno": "AccessionNumber",
    "accessionnr": "AccessionNumber",
    "studyuid": "StudyInstanceUID",
    "seriesuid": "SeriesInstanceUID",
    "referringphysiciansname": "ReferringPhysicianName",
    "selection": SELECTION,
}

_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")
_TIME = re.compile(r"(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?)?)?")
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_CODES = ("Modality", MODALITIES, "PatientSex")
_CODE = re.compile(r"[A-Z0-9_ *?]+")
_NOTHING = re.compile(r"[*?^=,\\\s]*")

#: How a date is to be written, where no `date_format` is given.
DATE_FORM = "write the date as YYYYMMDD, without wildcards, or say with date_format how the table has it"
_TIME_FORM = "write the time as HH, HHMM or HHMMSS, with all leading zeros and without wildcards"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


_PLAIN = {_plain(column): column for column in COLUMNS}


def column_of(name: str) -> str:
    """Return the column that a header names; empty where it is unknown.

    A DICOM keyword must have its exact spelling: `patientID` is no column. The case of separate words is ignored:
    `patient id`.
    """
    if name in COLUMNS:
        return name
    plain = _plain(name)
    in_words = re.search(r"\w[\s_-]+\w", name) is not None
    return ALIASES.get(plain) or (_PLAIN.get(plain, "") if in_words else "")


def nearest_column(name: str) -> str:
    """Return the known column most similar to `name`; empty where none is similar."""
    near = difflib.get_close_matches(_plain(name), _PLAIN, 1, 0.6)
    return _PLAIN[near[0]] if near else ""


def wildcard_match(pattern: str, text: str, exact: bool = False) -> bool:
    """Return whether `text` matches `pattern` with the wildcards `*` and `?` (PS3.4 C.2.2.2.4); `exact`: without."""
    return text == pattern if exact else fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def _ends(text: str) -> tuple[str, str]:
    """Return both ends of a range, or a single value twice."""
    low, hyphen, high = (part.strip() for part in text.partition("-"))
    if not (low or high):
        raise ValueError("the range has neither a beginning nor an end; give at least one")
    return (low, high) if hyphen else (low, low)


def date_range(text: str) -> tuple[str, str]:
    """Return first and last day of a date or a range (PS3.4 C.2.2.2.5): YYYYMMDD, both included, empty where open.

    Raises:
        ValueError: gives the reason, without the value.
    """
    ends = _ends(text)
    for end in filter(None, ends):
        parts = _DATE.fullmatch(end)
        if not parts:
            raise ValueError(f"not a date; {DATE_FORM}")
        try:
            datetime.date(*map(int, parts.groups()))
        except ValueError:
            raise ValueError("no such day in the calendar; correct the date") from None
    if all(ends) and ends[0] > ends[1]:
        raise ValueError("the range ends before it begins; swap its two dates")
    return ends


def time_range(text: str) -> tuple[str, str]:
    """Return first and last moment of a time or a range: HHMMSS.FFFFFF, both included, empty where open.

    A time with hour, minute or second precision covers the whole of it: 1015 is 101500.000000 to 101559.999999. A range
    whose end precedes its beginning spans midnight.

    Raises:
        ValueError: gives the reason, without the value.
    """
    ends = _ends(text)
    if not all(_TIME.fullmatch(end) for end in filter(None, ends)):
        raise ValueError(f"not a time; {_TIME_FORM}")

    def filled(end: str, clock: str, fraction: str) -> str:
        whole, _, part = end.partition(".")
        return f"{whole}{clock[len(whole) :]}.{part}{fraction[len(part) :]}" if end else ""

    return filled(ends[0], "000000", "000000"), filled(ends[1], "235959", "999999")


def check_day(text: str) -> str:
    """Return a day, YYYYMMDD.

    Raises:
        ValueError: it is none, or a range of days; gives the reason, without the value.
    """
    if "-" in text:
        raise ValueError(f"a range is not allowed here; {DATE_FORM}")
    return date_range(text)[0]


def check_text(text: str) -> str:
    """Return a text that no archive sees: a row's own id, or a name.

    Raises:
        ValueError: it is too long, or holds characters that nobody sees; gives the reason, without the value.
    """
    refuse_hidden(text)
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"longer than {LONGEST_TEXT} characters; shorten it")
    return text


def _check_date(key: Key, text: str) -> str:
    if "-" not in text or key.keyword == "PatientBirthDate":
        return check_day(text)
    return "-".join(date_range(text))


def _check_time(key: Key, text: str) -> str:
    time_range(text)
    return "-".join(part.strip() for part in text.split("-"))


def _check_uid(key: Key, text: str) -> str:
    if not _UID.fullmatch(text) or len(text) > key.max_length:
        raise ValueError(f"not a UID; give at most {key.max_length} digits and dots, without wildcards (PS3.5 9.1)")
    return text


def _check_integer(key: Key, text: str) -> str:
    if not _INTEGER.fullmatch(text) or len(text) > key.max_length or not -(2**31) <= int(text) < 2**31:
        raise ValueError("not an integer; write digits only, without wildcards")
    return str(int(text))


def _check_name(key: Key, text: str) -> str:
    groups = text.split("=")
    if len(groups) > 3 or any(group.count("^") > 4 for group in groups):
        raise ValueError("not a person's name; at most 3 groups divided by = of 5 components divided by ^")
    for group in groups:
        _check_length(key, group)
    return text


def _check_text(key: Key, text: str) -> str:
    values = [value.strip() for value in text.split("\\")]
    for value in values:
        _check_length(key, value)
    if key.keyword in _CODES and not _CODE.fullmatch(text):
        raise ValueError("not a code; write capitals, digits, blanks and _ only, with * and ? as wildcards")
    return "\\".join(values)


def _check_length(key: Key, value: str) -> None:
    # An asterisk may match nothing, so it does not count.
    if len(value.replace("*", "")) > key.max_length:
        raise ValueError(f"longer than the {key.max_length} characters that {key.vr} allows; shorten it")


_CHECKS = {
    "DA": _check_date,
    "TM": _check_time,
    "UI": _check_uid,
    "IS": _check_integer,
    "PN": _check_name,
}


def refuse_hidden(text: str) -> None:
    """Refuse control and invisible characters (PS3.5 6.1.3), except the joiners of some scripts.

    Raises:
        ValueError: gives the reason, without the value.
    """
    if not text.isprintable() and any(
        unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in "\u200c\u200d" for char in text
    ):
        raise ValueError("holds a line break, control or invisible character; type the cell anew")


def check_cell(keyword: str, text: str) -> str:
    """Return the value of a cell in DICOM's form; `text` has no surrounding blanks and is in NFC.

    Raises:
        ValueError: gives the reason and what to do, without the value.
    """
    refuse_hidden(text)
    if keyword in SEVERAL:
        return "\\".join(dict.fromkeys(_check_one(keyword, one.strip()) for one in text.split("\\")))
    if "\\" in text and keyword != "ImageType" and not _NOTHING.fullmatch(text):
        raise ValueError("a backslash is not allowed here; give one value per row")
    return _check_one(keyword, text)


def _check_one(keyword: str, text: str) -> str:
    if _NOTHING.fullmatch(text):
        raise ValueError("only wildcards; leave the cell empty, or give part of the value as in ABC*")
    key = KEYS[keyword]
    return _CHECKS.get(key.vr, _check_text)(key, text)


def is_weak(keyword: str, value: str) -> bool:
    """Return whether a key alone may match a large part of an archive."""
    key = KEYS[keyword]
    return key.weak or (key.vr == "DA" and (value.startswith("-") or value.endswith("-")))
