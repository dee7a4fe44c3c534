"""The answer key of the corpus: what must become of each planted value, read off the standard's tables.

It shares no code with the engine.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from pydicom.datadict import dictionary_has_tag, dictionary_VR

from tests.support.places import REPO

TABLES = REPO / "pacsifier_ops" / "deid" / "tables"

NUMBERS = frozenset({"AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})

#: Options of profiles, and the columns of the tables that they are in.
COLUMNS = {
    "safe_private": "rtn_safe_priv",
    "uids": "rtn_uids",
    "device": "rtn_dev_id",
    "institution": "rtn_inst_id",
    "patient_characteristics": "rtn_pat_chars",
    "full_dates": "rtn_long_full_dates",
    "modified_dates": "rtn_long_modif_dates",
    "clean_descriptors": "clean_desc",
    "clean_structured_content": "clean_struct",
    "clean_graphics": "clean_graph",
}
PATIENT_NAME, PATIENT_ID, PATIENT_AGE = 0x00100010, 0x00100020, 0x00101010
CONTENT_SEQUENCE = 0x0040A730
#: ContextGroupVersion, TemplateVersion: dates of the standard's publications.
VERSIONS = frozenset({0x00080106, 0x0040DB06})
#: When a machine was made, installed and calibrated: not one patient's, so that true or moved, it would tell the shift.
MACHINES = frozenset({0x00181200, 0x00181201, 0x00181202, 0x00181203, 0x00181204, 0x00181205, 0x0018700C, 0x0018700E})
MACHINES |= {0x0014407C, 0x0014407E, 0x00143076, 0x00143077}
#: Likewise: a trial approved, a product or a protocol expires, a source measured, a template or hanging protocol
#: issued, a site's own version of codes, an archive's changes and inventories, and what another system had a part in.
SHARED = MACHINES | {
    *(0x00120086, 0x00120087, 0x0044000B, 0x00141020, 0x00440104, 0x00440105, 0x300A022C, 0x300A022E),
    *(0x00686226, 0x00686270, 0x0072000A, 0x00720061, 0x00720063, 0x0072006B, 0x00080107, 0x0040DB07),
    *(0x00080015, 0x04000562, 0x0018A002, 0x00080404, 0x00080416, 0x00144076, 0x00144078, 0x0014407A),
}
CALIBRATED = "113723"
#: LongitudinalTemporalOffsetFromEvent and its type, which the corpus makes one that is nobody's event.
INTERVAL = frozenset({0x00120052, 0x00120053})
#: FrameLabelVector, StackID, identifiers of optical paths, GraphicLayer: tokens, since they tell parts apart.
PARTS = frozenset({0x00182002, 0x00209056, 0x00480106, 0x006A000E, 0x00700002})
#: CodeValue, CodingSchemeDesignator, LongCodeValue, URNCodeValue: tokens, where nobody knows the code.
CODES = frozenset({0x00080100, 0x00080102, 0x00080119, 0x00080120})
#: TimezoneOffsetFromUTC: a date by the table, a text by its VR; no words are kept of it.
TIMEZONE = 0x00080201
#: Manufacturer: nothing stays where its first word does not, or it could read like another one.
MANUFACTURER = 0x00080070


#: Names that sites give machines: with the device retained, tokens. StationName, TreatmentMachineName,
#: RadiationMachineName, DeviceID, SecondaryCaptureDeviceID, ScheduledStationName, PerformedStationName,
#: ModifyingSystem, DeviceLabel.
STATIONS = frozenset(
    {0x00081010, 0x300A00B2, 0x30020020, 0x00181003, 0x00181010, 0x00400010, 0x00400242, 0x04000563, 0x3010002D}
)
#: What people write of machines and places: with the device retained, cleaned. TimeSource, NTPSourceAddress,
#: XRayDetectorLabel, DeviceDescription, ScheduledStudyLocation, ScheduledProcedureStepLocation.
WRITTEN = frozenset({0x00181801, 0x00181803, 0x00189373, 0x00500020, 0x00321020, 0x00400011})


class Category(StrEnum):
    """What is asked of a value; the categories of the MIDI-B challenge."""

    TAG_RETAINED = "tag retained"
    TAG_REMOVED = "tag removed"
    TEXT_NOT_NULL = "text not null"
    TEXT_RETAINED = "text retained"
    TEXT_REMOVED = "text removed"
    DATE_SHIFTED = "date shifted"
    UID_CHANGED = "UID changed"
    UID_CONSISTENT = "UID consistent"
    PATIENT_ID = "patient id consistent"
    PIXELS_HIDDEN = "pixels hidden"
    PIXELS_RETAINED = "pixels retained"


#: Categories in which a single miss tells who a patient is, or breaks a reference.
STRICT = frozenset(
    {
        Category.TAG_REMOVED,
        Category.TEXT_REMOVED,
        Category.DATE_SHIFTED,
        Category.UID_CHANGED,
        Category.UID_CONSISTENT,
        Category.PATIENT_ID,
        Category.PIXELS_HIDDEN,
    }
)


@dataclass(frozen=True)
class Policy:
    """Options in force, by their names in profiles.

    Attributes:
        opened: sequences that a profile keeps, their items de-identified, though no option does.
    """

    options: frozenset[str]
    opened: frozenset[int] = frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for option, column in COLUMNS.items() if option in self.options)

    @property
    def dates(self) -> str:
        """What becomes of dates that no table lists: `K` kept, `C` shifted, or `X` gone."""
        return "K" if "full_dates" in self.options else "C" if "modified_dates" in self.options else "X"


@dataclass(frozen=True)
class Step:
    """One sequence on the way to a value, and the item of it that holds the value.

    Attributes:
        creator: private creator, of a private sequence.
        concept: of a content item its concept name and value type, as in Table E.3.4-1; it is found by these.
    """

    tag: int
    item: int = 0
    creator: str = ""
    concept: tuple[str, str] | None = None


@dataclass(frozen=True)
class Planted:
    """A value of its own in one place.

    Attributes:
        creator: private creator of a private attribute; empty where its block has none.
        value: as it is in the data set, several values joined by a backslash.
        needles: parts of the value that must not be left anywhere if its text must go.
        word: the part of it that may stay where descriptors are cleaned.
    """

    path: tuple[Step, ...]
    tag: int
    vr: str
    value: str
    needles: tuple[str, ...] = ()
    word: str = ""
    creator: str = ""


@dataclass(frozen=True)
class Tables:
    """The tables by tag."""

    attributes: dict[int, dict[str, str]] = field(default_factory=dict)
    masks: list[tuple[int, int, dict[str, str]]] = field(default_factory=list)
    types: dict[tuple[str, int, bool], str] = field(default_factory=dict)
    sop_classes: frozenset[str] = frozenset()
    roles: dict[int, str] = field(default_factory=dict)
    private: dict[tuple[str, int], str] = field(default_factory=dict)
    concepts: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)


def rows(name: str) -> list[dict[str, str]]:
    """A table that comes with the package."""
    with (TABLES / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def tag_of(text: str) -> int:
    """`(0010,0020)` as a number; digits that are left open count as 0."""
    return int(text.translate(str.maketrans("xX", "00", "(),")), 16)


@cache
def tables() -> Tables:
    """All tables."""
    attributes: dict[int, dict[str, str]] = {}
    masks: list[tuple[int, int, dict[str, str]]] = []
    # What PS3.15 does not list follows the project's list, in the same columns; then the default of its VR.
    for row in [*rows("unlisted.csv"), *rows("ps3_15_e1_1.csv")]:
        text = row["tag"].strip("()").replace(",", "")
        if len(text) != 8:
            continue  # the row on private attributes
        if "x" in text.lower():
            mask = int("".join("0" if digit in "xX" else "F" for digit in text), 16)
            masks.append((mask, tag_of(text), row))
        else:
            attributes[tag_of(text)] = row
    modules: dict[str, list[dict[str, str]]] = {}
    for row in rows("module_types.csv"):
        modules.setdefault(row["module"], []).append(row)
    types: dict[tuple[str, int, bool], str] = {}
    sop_classes = {row["sop_class_uid"]: row["modules"].split() for row in rows("iods.csv")}
    for sop_class, names in sop_classes.items():
        for row in (row for name in names for row in modules[name]):
            place = sop_class, tag_of(row["tag"]), row["level"] == "nested"
            types[place] = min(types.get(place, "3"), row["type"])
    return Tables(
        attributes,
        masks,
        types,
        frozenset(sop_classes),
        {tag_of(row["tag"]): row["role"] for row in rows("uid_rules.csv")},
        {(row["private_creator"], tag_of(row["tag_pattern"])): row["vr"] for row in rows("safe_private.csv")},
        {(row["code_value"], row["value_type"]): row for row in rows("sr_concepts_e3_4_1.csv")},
    )


def row_of(tag: int) -> dict[str, str] | None:
    """The row of a public attribute."""
    found = tables().attributes.get(tag)
    return found or next((row for mask, value, row in tables().masks if tag & mask == value), None)


def actions(tag: int, policy: Policy, sop_class: str, nested: bool) -> frozenset[str]:
    """The letters of E.1-1 that a listed attribute may be treated by; one, unless the tables leave it open."""
    if tag in policy.opened:
        return frozenset("C")
    row = row_of(tag)
    assert row is not None
    offered = {row[column] for column in policy.columns if row.get(column)}
    if row.get("rtn_long_modif_dates") and policy.dates == "C" and tag not in SHARED:
        return frozenset("C")  # a true date of the device would tell the shift of all others
    if "device" in policy.options and tag in STATIONS | WRITTEN:
        return frozenset("D" if tag in STATIONS else "C")  # a token is a dummy that says which are the same
    if "W" in offered:
        return frozenset("W")
    if offered and not (policy.dates == "C" and tag in SHARED):
        return frozenset("K" if "K" in offered else "C")
    choices = row["basic"].replace("*", "").split("/")
    if sop_class not in tables().sop_classes:
        return frozenset("D" if "D" in choices else "Z" if len(choices) > 1 else choices)
    return frozenset(_as_required(choices, tables().types.get((sop_class, tag, nested), "3")))


def _as_required(choices: list[str], kind: str) -> str:
    """One of the letters of a row, by the type that the attribute has in the object; if need be, another."""
    match kind, choices:
        case ("1", ["X" | "Z"]):
            return "D"
        case ("2" | "2C", ["X"]):
            return "Z"
        case (_, [letter]):
            return letter
        case ("3", _):
            return "X" if "X" in choices else "Z"
    if "U" in choices:
        return "U"
    first, second = "DZ" if kind in ("1", "1C") else "ZD"
    return first if first in choices else second


def expected(planted: Planted, policy: Policy, sop_class: str) -> frozenset[Category]:
    """What must become of a planted value."""
    return frozenset(_expected(planted, policy, sop_class))


def _expected(planted: Planted, policy: Policy, sop_class: str) -> Iterator[Category]:
    if planted.path and not all(_is_open(step, policy, sop_class, bool(n)) for n, step in enumerate(planted.path)):
        if planted.needles:
            yield Category.TEXT_REMOVED
    elif planted.path and planted.path[-1].concept:
        yield from _of_concept(planted, planted.path[-1].concept, policy)
    elif planted.tag & 0x10000:
        yield from _of_private(planted, policy)
    elif not planted.path and planted.tag == PATIENT_ID:
        yield from (Category.TAG_RETAINED, Category.TEXT_REMOVED)  # that it is consistent is asked once per object
    elif row_of(planted.tag) is not None:
        yield from _by_actions(planted, policy, actions(planted.tag, policy, sop_class, bool(planted.path)))
    else:
        yield from _unlisted(planted, policy)
        if (sop_class, planted.tag, bool(planted.path)) in tables().types and planted.vr == _known_vr(planted.tag):
            yield Category.TAG_RETAINED


def _is_open(step: Step, policy: Policy, sop_class: str, nested: bool) -> bool:
    """Whether a sequence stays, so that its items are treated by the rules for what is in them."""
    if step.tag & 0x10000:
        known = tables().private.get((step.creator, step.tag & 0xFFFF00FF))
        return "safe_private" in policy.options and known == "SQ"
    if step.concept and not of_concept(step.concept, policy) <= frozenset("KCUD"):
        return False
    if row_of(step.tag) is None:
        return True
    return actions(step.tag, policy, sop_class, nested) <= frozenset("KCU")


def _by_actions(planted: Planted, policy: Policy, letters: frozenset[str]) -> Iterator[Category]:
    if letters == {"K"} and planted.tag == PATIENT_AGE and planted.value > "089Y":
        yield from (Category.TAG_RETAINED, Category.TEXT_REMOVED)
    elif letters == {"W"} or (letters == {"K"} and planted.vr == "CS"):
        yield from _known(planted)
    elif planted.vr == "SQ" and letters <= frozenset("KCU"):
        yield Category.TAG_RETAINED
    elif letters == {"K"} or (letters == {"C"} and planted.vr == "TM"):
        yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)
    elif letters == {"C"}:
        yield from _cleaned(planted)
    elif letters == {"U"}:
        yield from (Category.TAG_RETAINED, Category.UID_CHANGED, Category.UID_CONSISTENT)
    else:
        if planted.needles:
            yield Category.TEXT_REMOVED
        if letters == {"X"}:
            yield Category.TAG_REMOVED
        elif "X" not in letters:
            yield Category.TAG_RETAINED
            if letters == {"D"}:
                yield Category.TEXT_NOT_NULL


def _known(planted: Planted) -> Iterator[Category]:
    """What is publicly known stays: of text that machines write, its words; of codes that no list has, nothing."""
    if planted.needles:
        yield Category.TEXT_REMOVED
    if planted.tag in PARTS | CODES:
        yield Category.TAG_RETAINED
    elif planted.tag == MANUFACTURER and not planted.value.startswith(planted.word):
        return
    elif planted.word and planted.vr != "UI" and planted.tag >> 8 != 0x000801:
        yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)


def _cleaned(planted: Planted) -> Iterator[Category]:
    if planted.tag in VERSIONS:
        yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)
    elif planted.vr in ("DA", "DT"):
        yield from (Category.TAG_RETAINED, Category.DATE_SHIFTED)
    else:
        if planted.needles:
            yield Category.TEXT_REMOVED
        if planted.word and planted.tag != TIMEZONE:
            yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)


def _known_vr(tag: int) -> str:
    return dictionary_VR(tag).split()[0] if dictionary_has_tag(tag) else ""


def _unlisted(planted: Planted, policy: Policy) -> Iterator[Category]:
    """The defaults per VR: names, text and what is unknown go, dates follow the date rule, UIDs are remapped."""
    known = _known_vr(planted.tag)
    if planted.tag >> 16 == 2 or known != planted.vr:
        if planted.needles:
            yield Category.TEXT_REMOVED
    elif (policy.dates == "C" and planted.tag in SHARED) or (policy.dates != "K" and planted.tag in INTERVAL):
        yield Category.TAG_REMOVED
    elif planted.vr == "UI":
        if tables().roles.get(planted.tag, "").startswith("keep"):
            yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)
        elif "uids" not in policy.options:
            yield from (Category.TAG_RETAINED, Category.UID_CHANGED, Category.UID_CONSISTENT)
    elif planted.vr in ("DA", "DT", "TM"):
        if policy.dates == "K" or (policy.dates == "C" and planted.vr == "TM"):
            yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)
        elif policy.dates == "C":
            yield from _cleaned(planted)
        elif planted.needles:
            yield Category.TEXT_REMOVED
    elif planted.vr == "SQ" or planted.tag in PARTS:
        yield Category.TAG_RETAINED
    elif planted.vr in NUMBERS or planted.vr == "CS":
        yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)
    elif planted.needles:
        yield Category.TEXT_REMOVED


def _of_private(planted: Planted, policy: Policy) -> Iterator[Category]:
    known = tables().private.get((planted.creator, planted.tag & 0xFFFF00FF))
    if "safe_private" in policy.options and known == planted.vr:
        yield Category.TAG_RETAINED
        if planted.vr != "SQ":
            yield Category.TEXT_RETAINED
        return
    yield Category.TAG_REMOVED
    if planted.needles:
        yield Category.TEXT_REMOVED


def of_concept(concept: tuple[str, str], policy: Policy) -> frozenset[str]:
    """The letters of Table E.3.4-1 that a content item may be treated by, by concept name and value type."""
    row = tables().concepts.get(concept)
    if row is None:
        # Concepts that no table lists: containers stay, text goes, dates follow the date rule.
        default = {"CONTAINER": "K", "NUM": "K", "CODE": "K", "DATE": policy.dates, "DATETIME": policy.dates}
        return frozenset(default.get(concept[1], "XD"))
    offered = {row[f"{column}_opt"] for column in policy.columns if row.get(f"{column}_opt")}
    if row["rtn_long_modif_dates_opt"] and policy.dates == "C":
        return frozenset("D" if concept[0] == CALIBRATED else "C")
    if offered:
        return frozenset("K" if "K" in offered else "C")
    return frozenset(row["basic_prof"].split("/"))


def _of_concept(planted: Planted, concept: tuple[str, str], policy: Policy) -> Iterator[Category]:
    letters = of_concept(concept, policy)
    if planted.vr == "SQ" and letters <= frozenset("KCUD"):
        yield Category.TAG_RETAINED
        return
    if planted.vr == "UI":
        # A UID that stands for another one is the dummy of a reference.
        if letters == {"X"}:
            yield Category.TEXT_REMOVED
        elif letters == {"D"}:
            yield from (Category.TAG_RETAINED, Category.UID_CHANGED, Category.UID_CONSISTENT)
        elif letters == {"K"}:
            yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)
    elif letters == {"C"} and planted.vr == "TM":
        yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)
    elif letters == {"C"}:
        yield from _cleaned(planted)
    elif letters == {"K"}:
        yield from (Category.TAG_RETAINED, Category.TEXT_RETAINED)
    else:
        if planted.needles:
            yield Category.TEXT_REMOVED
        if letters == {"X"}:
            yield Category.TAG_REMOVED
        elif letters == {"D"}:
            yield from (Category.TAG_RETAINED, Category.TEXT_NOT_NULL)
