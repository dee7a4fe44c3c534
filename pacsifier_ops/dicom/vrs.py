"""Value representations (PS3.5 6.2): their encodings."""

from __future__ import annotations

#: VRs of text in the character sets of the data set.
TEXT = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
#: VRs of values that are written as characters.
STRINGS = TEXT | frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"))
#: VRs with one value, where a backslash is no separator.
SINGLE = frozenset(("LT", "ST", "UR", "UT"))
#: Bytes of one value for binary VRs; one byte for VRs that are missing here.
SIZES = {"US": 2, "SS": 2, "OW": 2, "AT": 4, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4} | dict.fromkeys(
    ("FD", "OD", "OV", "SV", "UV"), 8
)

#: VRs by the size of their length field in explicit VR (PS3.5 7.1.2): 32 bits, and 16 bits.
LONG = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
SHORT = (STRINGS - LONG) | frozenset(("AT", "FD", "FL", "SL", "SS", "UL", "US"))


def padded(value: bytes, vr: str) -> bytes:
    """Pad a value to an even length (PS3.5 6.2)."""
    return value + (b"\0" if vr in ("OB", "UI", "UN") else b" ") if len(value) & 1 else value
