"""Codes (PS3.16 8): which belong to public coding schemes, their meanings, and substitutes for the others.

A code of a public scheme identifies no patient. A local code identifies the site: by its value, designator, scheme OID
and context group. The object's own claim does not count. A code is public if its scheme is in
`tables/coding_schemes.csv`, and its value is used by PS3.16 or has the form of the scheme's values. Values of vendors'
schemes are public where they are numbers of a product; other values there were typed by users.
"""

from __future__ import annotations

import csv
import hashlib
import re
from functools import cache, lru_cache
from pathlib import Path

from pacsifier_ops.deid import machine, vocabulary
from pacsifier_ops.deid.values import token
from pacsifier_ops.pseudonyms.secret import Secret

#: Designator of codes whose values are tokens. Designators of private schemes begin with 99 (PS3.3 8.2).
LOCAL = "99DEIDENTIFIED"

_FILE = Path(__file__).parent / "tables" / "coding_schemes.csv"
#: Coding schemes of languages of reports (ISO 639).
_OF_LANGUAGES = frozenset({"ISO639_1", "ISO639_2", "RFC3066", "RFC5646"})
_LANGUAGES = {
    code: name
    for codes, name in (
        ("en eng", "English"),
        ("de deu ger", "German"),
        ("fr fra fre", "French"),
        ("it ita", "Italian"),
        ("es spa", "Spanish"),
        ("nl nld dut", "Dutch"),
        ("ja jpn", "Japanese"),
        ("zh zho chi", "Chinese"),
        ("ko kor", "Korean"),
        ("pt por", "Portuguese"),
    )
    for code in codes.split()
}
#: Numbers that products give their concepts: GEU-1005-33, A-100, 250137. Longer ones identify people, or are dates.
_OF_PRODUCTS = re.compile(r"(?!(?:\D*\d){8})([A-Z]{0,4})[-.]?\d{1,6}(?:[-.]\d{1,4}){0,3}", re.ASCII)
#: A unit: numbers, atoms with their prefixes and exponents, annotations (UCUM 2.1).
_ATOMS = (
    "10[*^]|%|deg|''|'|sec|bpm|px|mol|rad|sr|Hz|Pa|Ohm|Wb|Cel|lm|lx|Bq|Gy|Sv|min|wk|mo|eV|bar|cal|osm|dB|Np|Ci|kat|eq"
    r"|dpt|bit|By|mm\[Hg\]|m\[H2O\]|\[(?:arb'U|iU|IU|hnsf'U|degF|in_i|ft_i|lb_av|oz_av|pH|ppm|ppb|ppth|pi|RAD|REM|car_m"
    r"|psi|hp_X|CFU|PFU|drp|HPF|LPF|kn_i|mi_i|diop|mesh_i|Ch|fr|FR)\]|[1ABCFGHJKLNRSTUVWadghlmstu]"
)
_FACTOR = rf"(?:\d+|\d*(?:da|[YZEPTGMkhdcmunpfazy]|[KMGT]i)?(?:{_ATOMS})[+-]?\d{{0,2}})?"
_UNIT = re.compile(rf"{_FACTOR}(?:[./]{_FACTOR})*")
_ANNOTATION = re.compile(r"\{([^{}]*)\}")
#: Annotations of PS3.16 CID 82 and 85, and common ones.
_ANNOTATIONS = re.compile(r"SUV(bw|lbm|bsa|ibw)(m|j|_j)?|H\.B\.|[Pp]ixels?|counts|breaths|cells|voxels?|frames?")


@cache
def _meanings() -> dict[tuple[str, str], str]:
    from pydicom.sr._snomed_dict import mapping
    from pydicom.sr.codedict import codes

    found: dict[tuple[str, str], str] = {}
    for scheme in codes.schemes():
        for code in getattr(codes, scheme).concepts.values():
            before = found.setdefault((code.value, scheme), code.meaning)
            found[code.value, scheme] = min(before, code.meaning, key=lambda meaning: (len(meaning), meaning))
    # DICOM used SRT codes until 2019; they correspond to SCT codes with other values (PS3.16 8.1).
    found |= {(old, "SRT"): found[new, "SCT"] for old, new in mapping["SRT"].items() if (new, "SCT") in found}
    return found


def meaning(value: str, scheme: str) -> str:
    """Return the meaning of a code by its scheme's designator; empty where it is unknown."""
    if scheme in _OF_LANGUAGES:
        return _LANGUAGES.get(value.partition("-")[0], "")
    return _meanings().get((value, scheme), "")


@cache
def _schemes() -> dict[str, tuple[str, str]]:
    """Return UID and form of values of the public schemes, by designator."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return {row["designator"]: (row["uid"], row["form"]) for row in csv.DictReader(file)}


@lru_cache(maxsize=16384)
def is_public(value: str, scheme: str) -> bool:
    """Return whether a code belongs to a public scheme; without a value, whether the scheme is public.

    Args:
        value: code value.
        scheme: coding scheme designator (0008,0102); without one, nothing is public.
    """
    if scheme not in _schemes():
        return False
    if not value or (value, scheme) in _meanings():
        return True
    form = _schemes()[scheme][1]
    match scheme:
        case "UCUM":
            return _is_unit(value)
        case "DCMUID":
            from pydicom.uid import UID_dictionary

            return value in UID_dictionary
    if form == "@product":
        # Leading letters must be the product's; in a clinic's number they are the clinic's.
        found = _OF_PRODUCTS.fullmatch(value)
        return found is not None and (not found[1] or machine.clean(found[1]) == found[1])
    if re.fullmatch(form, value, re.ASCII) is None:
        return False
    return {"SCT": _is_checked_by_verhoeff, "LN": _is_checked_by_luhn}.get(scheme, bool)(value)


def is_public_uid(uid: str) -> bool:
    """Return whether a UID of a scheme, a context group or a mapping resource is in PS3.6 or PS3.16."""
    from pydicom.uid import UID_dictionary

    return uid in UID_dictionary or uid in _uids()


@cache
def digest() -> str:
    """Return the SHA-256, in hexadecimal digits, of the public schemes."""
    return hashlib.sha256(_FILE.read_bytes()).hexdigest()


@cache
def _uids() -> frozenset[str]:
    return frozenset(uid for uid, _ in _schemes().values() if uid)


def substitute(secret: Secret, value: str, scheme: str) -> str:
    """Return the substitute of a local code value, the same in a project for the same value and scheme."""
    return token(secret, "CodeValue", f"{scheme}\0{value}")


def _is_unit(value: str) -> bool:
    for word in _ANNOTATION.findall(value):
        if not _ANNOTATIONS.fullmatch(word) and not (word.islower() and vocabulary.clean(word) == word):
            return False
    return _UNIT.fullmatch(_ANNOTATION.sub("", value)) is not None


def _is_checked_by_luhn(value: str) -> bool:
    """Return whether the check digit of a LOINC number is correct."""
    digits = [int(digit) for digit in reversed(re.sub(r"\D", "", value))]
    doubled = [digit if place % 2 == 0 else digit * 2 - 9 * (digit > 4) for place, digit in enumerate(digits)]
    return sum(doubled) % 10 == 0


def _is_checked_by_verhoeff(value: str) -> bool:
    """Return whether a SNOMED CT identifier has a correct check digit and is a concept's (partition 00 or 10)."""
    check = 0
    for place, digit in enumerate(reversed(value)):
        check = _D5[check][_permuted(place, int(digit))]
    return check == 0 and value[-3:-1] in ("00", "10")


#: Multiplication in the dihedral group D5 (J. Verhoeff, 1969).
_D5 = [[(a + b if a < 5 else a - b) % 5 + 5 * ((a < 5) == (b > 4)) for b in range(10)] for a in range(10)]


@cache
def _permuted(place: int, digit: int) -> int:
    for _ in range(place % 8):
        digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
    return digit
