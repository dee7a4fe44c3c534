"""Attributes that are emptied because the final check found an identifier of the patient in them.

The final check (`verifier`) is strict, so some of its hits are coincidences: an earlier anonymiser wrote the same word
into twenty attributes, or a SeriesNumber equals the PatientID. The step empties such an attribute, writes the object
again and checks it again. An object goes to quarantine only where an identifier is in an attribute that the object
needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from pacsifier_ops.deid import tables
from pacsifier_ops.deid.identifiers import tags_of
from pacsifier_ops.deid.sr import VALUES

#: Id under which emptied attributes are counted.
RULE = "found/left-out"

#: Text attributes that some SOP classes require with a value (type 1). They get a dummy. All other text may be empty.
NEEDED = tags_of(
    """Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions PulseSequenceName SegmentLabel RTPlanLabel
    StructureSetLabel CodeMeaning"""
)
#: Attributes of other VRs that may be empty as well.
_OTHERS = tags_of("BodyPartExamined SeriesNumber AcquisitionNumber")
#: Attributes that have no meaning without their text: codes, and content of structured reports.
_WHOLE = tags_of("CodeValue CodingSchemeDesignator LongCodeValue URNCodeValue") | frozenset(VALUES.values())
_TEXT = frozenset(("AE", "LO", "LT", "SH", "ST", "UC", "UT"))


@cache
def may_be_empty(tag: int) -> bool:
    """Return whether an object stays valid without the value of an attribute."""
    if tag & 0x10000:
        return tag & 0xFFFF > 0xFF  # private creator elements must stay: they define the other elements
    text = tables.dictionary().get(tag, ("",))[0] in _TEXT
    return (text or tag in _OTHERS) and tag not in _WHOLE


def of(reasons: Iterable[str]) -> frozenset[int]:
    """Return the tags that reasons of the final check name (see `verifier.search`) and that may be emptied."""
    places = (match for reason in reasons for match in re.findall(r" in \(([0-9A-F]{4}),([0-9A-F]{4})\)$", reason))
    return frozenset(tag for group, element in places if may_be_empty(tag := int(group + element, 16)))
