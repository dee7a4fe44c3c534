"""UIDs: which are any, and those that name this implementation and ways of encoding (PS3.5 9, A)."""

from __future__ import annotations

import re

from pydicom.uid import DeflatedExplicitVRLittleEndian

#: Names this implementation in associations and files (PS3.7 D.3.3.2, PS3.10 7.1); made once, from a UUID.
IMPLEMENTATION_CLASS_UID = "2.25.182441154510849794285626515091719410876"
IMPLEMENTATION_VERSION = "PACSIFIER_OPS"
#: Transfer syntaxes whose data set is deflated as a whole (PS3.5 A.5).
DEFLATED = (DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
#: What archives hold for a UID, and a file may be called: with what names in the spool add, at most 255 characters.
_KEPT = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,99}")
#: GE: implicit VR, only the pixels are big endian.
PRIVATE_IMPLICIT = "1.2.840.113619.5.2"


def is_uid(value: str) -> bool:
    """Whether this is a UID (PS3.5 9.1; leading zeros are let pass)."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def is_kept(value: str) -> bool:
    """Whether we keep an object of this UID, be it one or not: safe as a file name."""
    return _KEPT.fullmatch(value) is not None


def fault_of(uid: str) -> str:
    """What is wrong with a UID (PS3.5 9.1), in words; empty where nothing is."""
    if is_uid(uid):
        return ""
    if len(uid) > 64:
        return "longer than 64 characters"
    strange = re.search(r"[^0-9.]", uid)
    return "with other characters than digits and dots" if strange else "with an empty component"
