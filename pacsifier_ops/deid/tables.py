"""The standard's tables, by integer tag; `tables/README.md` gives their sources.

Keys are tags and no keywords: tables contain new attributes before any dictionary does.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pacsifier_ops.deid.rules import Mask, ProfileOption

_FOLDER = Path(__file__).parent / "tables"

#: Columns of the tables, by option.
_COLUMNS = {
    "rtn_uids": ProfileOption.UIDS,
    "rtn_dev_id": ProfileOption.DEVICE,
    "rtn_inst_id": ProfileOption.INSTITUTION,
    "rtn_pat_chars": ProfileOption.PATIENT_CHARACTERISTICS,
    "rtn_long_full_dates": ProfileOption.FULL_DATES,
    "rtn_long_modif_dates": ProfileOption.MODIFIED_DATES,
    "clean_desc": ProfileOption.CLEAN_DESCRIPTORS,
    "clean_struct": ProfileOption.CLEAN_STRUCTURED_CONTENT,
    "clean_graph": ProfileOption.CLEAN_GRAPHICS,
}


@dataclass(frozen=True, slots=True)
class Row:
    """Actions on one attribute or concept. `basic` may be a compound action, such as `X/Z/D`."""

    basic: str
    options: Mapping[ProfileOption, str]


@dataclass(frozen=True, slots=True)
class Concept:
    """Concept name and value type of a content item (PS3.3 C.17.3)."""

    value: str
    scheme: str
    value_type: str


def parse_tag(text: str) -> tuple[int, int]:
    """Parse a tag `(gggg,eeee)` of hexadecimal digits, with `x` for any digit.

    Returns:
        Tag and mask.

    Raises:
        ValueError: the text has another form.
    """
    found = re.fullmatch(r"\(?([0-9a-fA-FxX]{4}),?([0-9a-fA-FxX]{4})\)?", text.strip())
    if not found:
        raise ValueError("no tag; write it as (gggg,eeee), hexadecimal digits, x for any")
    digits = (found[1] + found[2]).lower()
    return int(digits.replace("x", "0"), 16), int("".join("0" if digit == "x" else "f" for digit in digits), 16)


@cache
def attributes() -> tuple[Mapping[int, Row], Mapping[Mask, Row]]:
    """Return PS3.15 Table E.1-1 by tag and by mask, without its row for private attributes."""
    tags: dict[int, Row] = {}
    masks: dict[Mask, Row] = {}
    for line in _read("ps3_15_e1_1.csv"):
        if "gggg" in line["tag"]:
            continue
        tag, mask = parse_tag(line["tag"])
        if mask == 0xFFFFFFFF:
            tags[tag] = _row(line, line["basic"])
        else:
            masks[Mask(mask, tag)] = _row(line, line["basic"])
    return tags, masks


@cache
def unlisted() -> Mapping[int, Row]:
    """Return attributes that E.1-1 does not list and whose VR's default does not suffice."""
    return {parse_tag(line["tag"])[0]: _row(line, line["basic"]) for line in _read("unlisted.csv")}


@cache
def concepts() -> Mapping[Concept, Row]:
    """Return PS3.15 Table E.3.4-1."""
    return {
        Concept(line["code_value"], line["coding_scheme_designator"], line["value_type"]): _row(
            {column.removesuffix("_opt"): action for column, action in line.items()}, line["basic_prof"]
        )
        for line in _read("sr_concepts_e3_4_1.csv")
    }


@cache
def uids() -> Mapping[int, bool]:
    """Return attributes of VR UI that E.1-1 does not list: True for structural UIDs, which stay, False for others."""
    return {
        parse_tag(line["tag"])[0]: line["role"] == "keep_structural"
        for line in _read("uid_rules.csv")
        if not line["role"].startswith("table:")
    }


@dataclass(frozen=True, slots=True)
class Types:
    """Types (PS3.3: 1, 1C, 2, 2C) of attributes that a SOP class requires and rules might remove, by tag.

    Attributes:
        top: types in the data set.
        nested: types in items of sequences; the strictest where an attribute occurs in several places.
    """

    top: Mapping[int, str]
    nested: Mapping[int, str]


@cache
def dates() -> tuple[Mapping[int, str], Mapping[tuple[str, str], str]]:
    """Return what each date is, by tag, and by code value and scheme of a concept.

    `moved` is a date of the patient alone; `shared` is common to many patients, or known elsewhere; `kept` is a version
    of the standard's codes; `birth` is the birth date.
    """
    tags: dict[int, str] = {}
    concepts: dict[tuple[str, str], str] = {}
    for line in _read("dates.csv"):
        if line["what"].startswith("("):
            tags[parse_tag(line["what"])[0]] = line["fate"]
        else:
            value, _, scheme = line["what"].partition(" ")
            concepts[value, scheme] = line["fate"]
    return tags, concepts


@cache
def numbers() -> Mapping[int, int]:
    """Return the minimum number of digits, by tag, of numbers that only order or name things: they may be dates."""
    return {parse_tag(line["tag"])[0]: int(line["least_digits"]) for line in _read("numbers.csv")}


@cache
def types() -> Mapping[str, Types]:
    """Return the types by SOP class."""
    modules: dict[str, list[tuple[int, bool, str]]] = {}
    for line in _read("module_types.csv"):
        nested = line["level"] == "nested"
        modules.setdefault(line["module"], []).append((parse_tag(line["tag"])[0], nested, line["type"]))
    by_modules: dict[str, Types] = {}  # shared by SOP classes that have the same modules
    found = {}
    for line in _read("iods.csv"):
        names = line["modules"]
        if names not in by_modules:
            places: tuple[dict[int, str], dict[int, str]] = ({}, {})
            for tag, nested, kind in (row for name in names.split() for row in modules[name]):
                place = places[nested]
                place[tag] = min(place.get(tag, kind), kind)  # the order of the types is that of their letters
            by_modules[names] = Types(*places)
        found[line["sop_class_uid"]] = by_modules[names]
    return found


@cache
def required() -> Mapping[int, bool]:
    """Return text attributes that some IOD requires: True if a value is required (type 1, 1C), else False (2, 2C)."""
    return {parse_tag(line["tag"])[0]: line["type"] == "1" for line in _read("required.csv")}


@cache
def safe_private() -> Mapping[tuple[str, int], frozenset[str]]:
    """Return PS3.15 Table E.3.10-1: VRs (empty: unspecified) by private creator and tag without its block."""
    found: dict[tuple[str, int], frozenset[str]] = {}
    for line in _read("safe_private.csv"):
        key = line["private_creator"], parse_tag(line["tag_pattern"])[0]
        found[key] = found.get(key, frozenset()) | frozenset(filter(None, line["vr"].split("/")))
    return found


@cache
def imaging_private() -> Mapping[tuple[str, int], Mapping[str, str]]:
    """Return rows of `imaging_private.csv`, by private creator and tag without its block."""
    return {(line["private_creator"], parse_tag(line["tag_pattern"])[0]): line for line in _read("imaging_private.csv")}


@cache
def in_capitals() -> Mapping[str, str]:
    """Return private creators of the tables by their form in capitals, as in old devices: PHILIPS IMAGING DD 001."""
    return {creator.upper(): creator for creator, _ in (*safe_private(), *imaging_private())}


@cache
def imaging_fields() -> Mapping[tuple[str, str], Mapping[str, str]]:
    """Return rows of `imaging_fields.csv`, by parser and name."""
    return {(line["parser"], line["name"]): line for line in _read("imaging_fields.csv")}


@cache
def dictionary() -> Mapping[int, tuple[str, ...]]:
    """Return VRs of the public attributes of PS3.6 and of the tables, by tag; the usual VR first."""
    from pydicom.datadict import DicomDictionary

    return {tag: (vr,) for tag, (vr, _) in _newer().items()} | {
        tag: tuple(entry[0].split(" or ")) for tag, entry in DicomDictionary.items() if entry[0] != "NONE"
    }


@cache
def registered_uids() -> frozenset[str]:
    """Return the UIDs of PS3.6 Annex A, which identify nobody."""
    from pydicom.uid import UID_dictionary

    return frozenset(UID_dictionary) | {line["sop_class_uid"] for line in _read("iods.csv")}


@cache
def most_values(tag: int) -> int:
    """Return the maximum number of values of a public attribute (VM of PS3.6); 0 where it is unlimited."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VM

    vm = dictionary_VM(tag) if dictionary_has_tag(tag) else _newer().get(tag, ("", "1-n"))[1]
    last = vm.rpartition("-")[2]
    return int(last) if last.isdecimal() else 0


@cache
def _newer() -> Mapping[int, tuple[str, str]]:
    """Return VR and VM of attributes that are newer than pydicom's dictionary."""
    return {parse_tag(line["tag"])[0]: (line["vr"], line["vm"]) for line in _read("newer_attributes.csv")}


def _row(line: Mapping[str, str], basic: str) -> Row:
    return Row(basic, {option: line[column] for column, option in _COLUMNS.items() if line.get(column)})


def _read(name: str) -> Iterator[dict[str, str]]:
    with (_FOLDER / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
