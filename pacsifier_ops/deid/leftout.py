"""What is left out of an object since the last look found its patient in it, so that the rest of it can go out.

The last look is strict, and sometimes right by accident: who anonymised an object before wrote one word into twenty
attributes, or a series has the number of its patient. Such an attribute is left out, the object is written again, and
looked at again; only what is found in something that an object cannot be without keeps it in quarantine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from pacsifier_ops.deid import tables
from pacsifier_ops.deid.identifiers import tags_of
from pacsifier_ops.deid.sr import VALUES

#: Counts what is left out.
RULE = "found/left-out"

#: Text that some SOP classes need (type 1): a dummy takes its place. All other text may be without a value.
NEEDED = tags_of(
    """Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions PulseSequenceName SegmentLabel RTPlanLabel
    StructureSetLabel CodeMeaning"""
)
#: What is no text, and may be without a value all the same.
_OTHERS = tags_of("BodyPartExamined SeriesNumber AcquisitionNumber")
#: What means nothing without its text: codes, and content of reports.
_WHOLE = tags_of("CodeValue CodingSchemeDesignator LongCodeValue URNCodeValue") | frozenset(VALUES.values())
_TEXT = frozenset(("AE", "LO", "LT", "SH", "ST", "UC", "UT"))


@cache
def can_go(tag: int) -> bool:
    """Whether an object can be without the value of an attribute."""
    if tag & 0x10000:
        return tag & 0xFFFF > 0xFF  # a private creator says what others are
    text = tables.dictionary().get(tag, ("",))[0] in _TEXT
    return (text or tag in _OTHERS) and tag not in _WHOLE


def of(reasons: Iterable[str]) -> frozenset[int]:
    """The attributes that the last look names (see `verifier.search`) and that can go."""
    places = (match for reason in reasons for match in re.findall(r" in \(([0-9A-F]{4}),([0-9A-F]{4})\)$", reason))
    return frozenset(tag for group, element in places if can_go(tag := int(group + element, 16)))
