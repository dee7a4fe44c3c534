"""A data set as it is encoded: elements by tag, values as bytes. Reader, engine and writer hand it to each other.

Values are not decoded unless somebody has to look at them, so that what is not touched stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, Union

from pydicom.uid import UID, UID_dictionary

from pacsifier_ops.errors import Unfit


class Fragments(bytes):
    """The items of encapsulated pixel data, without their delimiter (PS3.5 A.4)."""


#: Value of an element; of a sequence, its items.
Value: TypeAlias = Union[bytes, Fragments, "list[Elements]"]
#: VR and value by tag, in order.
Elements: TypeAlias = dict[int, tuple[str, Value]]

UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010

#: VRs by the length field that they have in explicit VR (PS3.5 7.1.2).
LONG_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
SHORT_VRS = frozenset(
    ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI")
) | {"UL", "US"}


@dataclass(frozen=True, slots=True)
class Syntax:
    """A transfer syntax (PS3.5 10)."""

    uid: str
    implicit: bool
    little: bool
    deflated: bool
    encapsulated: bool

    @classmethod
    def of(cls, uid: str) -> Syntax:
        """The syntax of a UID.

        Raises:
            Unfit: it is none of PS3.5.
        """
        return _syntax(uid)


@lru_cache(maxsize=128)
def _syntax(text: str) -> Syntax:
    if text not in UID_dictionary or not (uid := UID(text)).is_transfer_syntax:
        raise Unfit("its transfer syntax is none of the standard's")
    return Syntax(text, uid.is_implicit_VR, uid.is_little_endian, uid.is_deflated, uid.is_encapsulated)
