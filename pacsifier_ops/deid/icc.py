"""Cleans colour profiles (ICC.1, ISO 15076-1): colours stay; text, dates and serial numbers are removed.

The result has the length of the original. It copies the numbers from which a transform is computed, at the same
offsets, for the tags and types listed here. The required texts, description and copyright, become empty. Everything
else becomes zeros: other tags, creator, device and date, and bytes that belong to no tag.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import pairwise

_HEADER, _TABLE = 128, 132
#: Parts of the header that stay (7.2): length; version, class and colour spaces; signature; flags; attributes, intent
#: and illuminant.
_KEPT = ((0, 4), (8, 10), (12, 24), (36, 40), (44, 48), (56, 80))
#: Tags from which transforms and their adaptation are computed (9.2).
_TAGS = frozenset(
    (
        *("A2B0", "A2B1", "A2B2", "A2B3", "B2A0", "B2A1", "B2A2", "B2A3"),
        *("B2D0", "B2D1", "B2D2", "B2D3", "D2B0", "D2B1", "D2B2", "D2B3"),
        *("bTRC", "gTRC", "kTRC", "rTRC", "bXYZ", "gXYZ", "rXYZ", "bkpt", "chad", "chrm", "cicp", "gamt", "lumi"),
        *("meas", "pre0", "pre1", "pre2", "rig0", "rig2", "view", "wtpt"),
    )
)
#: Types that contain numbers only (10).
_NUMBERS = frozenset(
    (
        *("XYZ_", "cicp", "chrm", "curv", "mAB_", "mBA_", "meas", "mft1", "mft2", "mpet", "para", "sf32", "sig_"),
        *("ui08", "ui16", "uf32", "view"),
    )
)
#: Required tags of text, and how an empty element of each type begins, after the type and the reserved bytes.
_WORDS = frozenset(("cprt", "desc"))
_EMPTY = {"desc": struct.pack(">L", 1), "mluc": struct.pack(">LL", 0, 12), "text": b""}
#: Maximum number of tags of a profile.
_MOST = 256


@lru_cache(maxsize=8)
def cleaned(profile: bytes) -> bytes | None:
    """Remove everything but colours from a profile.

    Returns:
        A profile of the same length; None where the bytes are no profile, or not understood.
    """
    if len(profile) < _TABLE or profile[36:40] != b"acsp":
        return None
    size, count = (int.from_bytes(profile[at : at + 4], "big") for at in (0, _HEADER))
    table = _TABLE + 12 * count
    if not table <= size <= len(profile) or count > _MOST:
        return None
    made, kept = bytearray(len(profile)), []
    for start, stop in _KEPT:
        made[start:stop] = profile[start:stop]
    places: dict[int, int] = {}
    for number in range(count):
        name, start, length = struct.unpack_from(">4sLL", profile, _TABLE + 12 * number)
        if start < table or length < 8 or start + length > size or places.setdefault(start, length) != length:
            return None
        tag, kind = (part.decode("latin-1").replace(" ", "_") for part in (name, profile[start : start + 4]))
        if tag in _TAGS and kind in _NUMBERS:
            end = start + min(length, _length(kind, profile, start))
            made[start:end] = profile[start:end]
        elif tag in _WORDS and kind in _EMPTY:
            begin = (profile[start : start + 4] + bytes(4) + _EMPTY[kind])[:length]
            made[start : start + len(begin)] = begin
        elif tag in _TAGS:
            return None
        else:
            continue
        kept.append((name, start, length))
    ordered = sorted(places.items())
    if any(start + length > following for (start, length), (following, _) in pairwise(ordered)):
        return None
    struct.pack_into(">L", made, _HEADER, len(kept))
    for number, entry in enumerate(kept):
        struct.pack_into(">4sLL", made, _TABLE + 12 * number, *entry)
    return bytes(made)


def _length(kind: str, profile: bytes, start: int) -> int:
    """Return the number of bytes of an element, where its type tells it. Bytes after them could contain text."""
    if kind == "XYZ_":
        return 20
    if kind == "curv" and start + 12 <= len(profile):
        return 12 + 2 * int.from_bytes(profile[start + 8 : start + 12], "big")
    return len(profile)
