"""Identity of series and persons. Two studies may have series with one UID, and two persons one PatientID."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple


class SeriesId(NamedTuple):
    """A series.

    Attributes:
        study_uid, series_uid: Study and Series Instance UID. Without the former, it is a record of earlier versions for
            all series with that UID.
    """

    study_uid: str
    series_uid: str

    def __str__(self) -> str:
        """Return the series as one word, fit for the name of a folder: no UID has an underscore (PS3.5 9.1)."""
        return f"{self.study_uid}_{self.series_uid}" if self.study_uid else self.series_uid

    @property
    def before(self) -> SeriesId:
        """The key of earlier versions for this series."""
        return SeriesId("", self.series_uid)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that identify the series without revealing it."""
        return digest_of(str(self))


def digest_of(text: str) -> str:
    """Return 32 hexadecimal digits that identify a text without revealing it."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def two_people(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether the attributes of two studies, by keyword, belong to two persons.

    They do where the PatientIDs differ, or the issuers of one PatientID. Where an issuer is missing, name and birth
    date both have to differ: names change by marriage, and birth dates are corrected.
    """

    def differ(keyword: str, form: Callable[[str], str] = str.strip) -> bool:
        values = {form(attributes.get(keyword, "")) for attributes in (one, other)} - {""}
        return len(values) > 1

    if differ("PatientID"):
        return True
    if one.get("IssuerOfPatientID") and other.get("IssuerOfPatientID"):
        return differ("IssuerOfPatientID")
    return differ("PatientName", _plain_name) and differ("PatientBirthDate")


def _plain_name(name: str) -> str:
    """Return the letters of the first component group of a name (PS3.5 6.2), without case."""
    return "".join(char for char in name.partition("=")[0].casefold() if char.isalnum())
