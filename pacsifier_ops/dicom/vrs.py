"""Value representations (PS3.5 6.2): how each is written."""

from __future__ import annotations

#: VRs whose values are text of a data set's character sets.
TEXT = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
#: VRs whose values are written in characters.
STRINGS = TEXT | frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"))
#: VRs with one value, in which a backslash is a backslash.
SINGLE = frozenset(("LT", "ST", "UR", "UT"))
#: Bytes of one value of the other VRs; of those that are not here, one.
SIZES = {"US": 2, "SS": 2, "OW": 2, "AT": 4, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4} | dict.fromkeys(
    ("FD", "OD", "OV", "SV", "UV"), 8
)

#: VRs by the length field that they have in explicit VR (PS3.5 7.1.2): 32 bits, and 16 bits.
LONG = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
SHORT = (STRINGS - LONG) | frozenset(("AT", "FD", "FL", "SL", "SS", "UL", "US"))


def padded(value: bytes, vr: str) -> bytes:
    """A value of an even length (PS3.5 6.2)."""
    return value + (b"\0" if vr in ("OB", "UI", "UN") else b" ") if len(value) & 1 else value
