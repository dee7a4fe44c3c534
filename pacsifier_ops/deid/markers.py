"""Attributes that mark an object as de-identified (PS3.15 E.2 and E.3.6, PS3.3 C.12.1)."""

from __future__ import annotations

from collections.abc import Iterable

from pacsifier_ops.deid.sr import text_of
from pacsifier_ops.dicom.encoding import Elements
from pacsifier_ops.dicom.vrs import padded

_REMOVED, _METHOD, _CODES, _DATES = 0x00120062, 0x00120063, 0x00120064, 0x00280303
_VALUE, _SCHEME, _MEANING = 0x00080100, 0x00080102, 0x00080104
#: Values of LongitudinalTemporalInformationModified (0028,0303). Later ones replace earlier ones.
UNMODIFIED, MODIFIED, REMOVED = _STATUSES = ("UNMODIFIED", "MODIFIED", "REMOVED")


def mark(elements: Elements, method: str, codes: Iterable[tuple[str, str, str]], dates: str) -> None:
    """Mark an object as de-identified and record the method. Marks of an earlier de-identification stay.

    Args:
        elements: data set of the object; changed in place.
        method: text for DeidentificationMethod (0012,0063); one or more values.
        codes: code value, coding scheme designator and code meaning of each method (PS3.16 CID 7050).
        dates: `UNMODIFIED`, `MODIFIED` or `REMOVED`.
    """
    elements[_REMOVED] = ("CS", b"YES ")
    earlier = [text for text in text_of(elements, _METHOD).split("\\") if text and text not in method.split("\\")]
    elements[_METHOD] = ("LO", padded("\\".join([*earlier, method]).encode("latin-1"), "LO"))
    items = elements[_CODES][1] if _CODES in elements else []
    items = list(items) if isinstance(items, list) else []
    known = {(text_of(item, _VALUE), text_of(item, _SCHEME)) for item in items}
    items += [_code(*code) for code in codes if code[:2] not in known]
    if items:
        elements[_CODES] = ("SQ", items)
    before = text_of(elements, _DATES)
    status = max(dates, before, key=lambda status: _STATUSES.index(status) if status in _STATUSES else -1)
    elements[_DATES] = ("CS", padded(status.encode(), "CS"))


def _code(value: str, scheme: str, meaning: str) -> Elements:
    return {
        _VALUE: ("SH", padded(value.encode(), "SH")),
        _SCHEME: ("SH", padded(scheme.encode(), "SH")),
        _MEANING: ("LO", padded(meaning.encode(), "LO")),
    }
