"""Reads the identifying attributes of a file that is to be de-identified.

It accepts more than `dicom.files.inspect`, which serves to send files on. A file that `inspect` refuses is parsed
completely, as the conversion will parse it. A defect that the conversion mends is no reason to leave the file out. Nor
are UIDs of a form that PS3.5 9.1 forbids: the conversion replaces them anyway.
"""

from __future__ import annotations

import re
from pathlib import Path

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import reading
from pacsifier_ops.deid.reading import Parsed
from pacsifier_ops.deid.sr import text_of
from pacsifier_ops.dicom.charsets import Charset
from pacsifier_ops.dicom.files import DicomFile, Directory, inspect
from pacsifier_ops.dicom.uids import is_uid

_CHARACTER_SET, _SOP_CLASS = 0x00080005, 0x00080016
_UIDS = {"sop_instance_uid": 0x00080018, "study_uid": 0x0020000D, "series_uid": 0x0020000E}
_TEXTS = {
    "modality": 0x00080060,
    "series_number": 0x00200011,
    "description": 0x0008103E,
    "study_date": 0x00080020,
    "study_time": 0x00080030,
    "patient_id": 0x00100020,
    "issuer": 0x00100021,
    "patient_name": 0x00100010,
    "birth_date": 0x00100030,
    "accession": 0x00080050,
    "instance_number": 0x00200013,
}
_BIRTH_DATE, _STUDY_DATE = 0x00100030, 0x00080020


def look(path: Path) -> DicomFile | None:
    """Read the identifying attributes of a file.

    Returns:
        The file's attributes; None where it is not DICOM.

    Raises:
        Directory: it is a DICOMDIR.
        ValueError: it is DICOM, but damaged; the text gives the reason.
        OSError: it cannot be read.
    """
    try:
        return inspect(path)
    except Directory:
        raise
    except ValueError as error:
        status = path.stat()
        try:
            parsed = reading.read(path)
            uids = {name: text_of(parsed.elements, tag) for name, tag in _UIDS.items()}
            texts = {name: _text(parsed, tag) for name, tag in _TEXTS.items()}
        except Unfit:
            raise error from None
        sop_class = text_of(parsed.elements, _SOP_CLASS)
        if not is_uid(sop_class) or not all(re.fullmatch(r"[ -\[\]-~]+", uid) for uid in uids.values()):
            raise
        return DicomFile(
            path=path,
            offset=0,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
            sop_class_uid=sop_class,
            transfer_syntax_uid=parsed.syntax.uid,
            **uids,
            **texts,
            dates=_days(parsed),
        )


def _days(parsed: Parsed) -> str:
    """Return the dates (`YYYYMMDD`, joined by backslashes) at the top level, without birth date and study date."""
    found = (
        text.strip(" \0").replace(".", "")[:8]
        for tag, (vr, value) in parsed.elements.items()
        if vr in ("DA", "DT") and tag not in (_BIRTH_DATE, _STUDY_DATE) and isinstance(value, bytes)
        for text in value.decode("latin-1").split("\\")
    )
    return "\\".join(sorted({day for day in found if len(day) == 8 and day.isdecimal()}))


def _text(parsed: Parsed, tag: int) -> str:
    """Decode the text of an element by the object's character set."""
    value = parsed.elements[tag][1] if tag in parsed.elements else b""
    if not isinstance(value, bytes):
        return ""
    declared = parsed.elements.get(_CHARACTER_SET, ("CS", b""))[1]
    text = Charset.of(declared if isinstance(declared, bytes) else b"").decode(value)
    return (value.decode("ascii", "replace") if text is None else text).strip("\0 ")
