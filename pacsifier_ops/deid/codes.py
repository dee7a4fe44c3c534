"""Meanings of the codes of public coding schemes, as PS3.16 has them: they name no patient, whatever an object says."""

from __future__ import annotations

from functools import cache


@cache
def _meanings() -> dict[tuple[str, str], str]:
    from pydicom.sr._snomed_dict import mapping
    from pydicom.sr.codedict import codes

    found: dict[tuple[str, str], str] = {}
    for scheme in codes.schemes():
        for code in getattr(codes, scheme).concepts.values():
            before = found.setdefault((code.value, scheme), code.meaning)
            found[code.value, scheme] = min(before, code.meaning, key=lambda meaning: (len(meaning), meaning))
    # What DICOM called SRT until 2019 is SCT by other values (PS3.16 8.1).
    found |= {(old, "SRT"): found[new, "SCT"] for old, new in mapping["SRT"].items() if (new, "SCT") in found}
    return found


def meaning(value: str, scheme: str) -> str:
    """The meaning of a code by its scheme's designator; empty where it is not known."""
    return _meanings().get((value, scheme), "")
