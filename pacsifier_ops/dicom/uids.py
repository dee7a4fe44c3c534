"""UIDs: their form, and those of this implementation and of transfer syntaxes (PS3.5 9, A)."""

from __future__ import annotations

import re

from pydicom.uid import DeflatedExplicitVRLittleEndian

#: Identifies this implementation in associations and files (PS3.7 D.3.3.2, PS3.10 7.1); derived once from a UUID.
IMPLEMENTATION_CLASS_UID = "2.25.182441154510849794285626515091719410876"
IMPLEMENTATION_VERSION = "PACSIFIER_OPS"
#: Transfer syntaxes whose data set is deflated as a whole (PS3.5 A.5).
DEFLATED = (DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
#: UIDs that archives use and that are safe in file names. With the suffix in the spool, a name has at most 255
#: characters.
_KEPT = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,99}")
#: Private transfer syntax of GE: implicit VR, only the pixels are big endian.
PRIVATE_IMPLICIT = "1.2.840.113619.5.2"


def is_uid(value: str) -> bool:
    """Return whether this is a UID (PS3.5 9.1; leading zeros are accepted)."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def is_storable_uid(value: str) -> bool:
    """Return whether an object with this UID is stored, even if the UID is invalid: it is safe as a file name."""
    return _KEPT.fullmatch(value) is not None


def fault_of(uid: str) -> str:
    """Return why a UID is invalid (PS3.5 9.1); empty where it is valid."""
    if is_uid(uid):
        return ""
    if len(uid) > 64:
        return "longer than 64 characters"
    strange = re.search(r"[^0-9.]", uid)
    return "with other characters than digits and dots" if strange else "with an empty component"
