"""What a query table must find, worked out by brute force over the files that a peer holds.

It shares nothing with the code under test: every file is read, every key compared, by the plainest means.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue

SEVERAL = ("Modality", "ModalitiesInStudy", "StudyInstanceUID", "SeriesInstanceUID")
DATES = ("StudyDate", "PatientBirthDate", "AcquisitionDate")


@dataclass(frozen=True)
class Instance:
    """One file that a peer holds."""

    path: Path
    head: Dataset

    @property
    def uid(self) -> str:
        return str(self.head.SOPInstanceUID)

    @property
    def series(self) -> str:
        return str(self.head.SeriesInstanceUID)

    @property
    def patient(self) -> str:
        return str(self.head.get("PatientID", ""))

    def values(self, keyword: str) -> list[str]:
        """The values of an attribute as text, [] where there is none."""
        element = self.head.get(keyword)
        if element is None or element == "":
            return []
        many = element if isinstance(element, MultiValue) else [element]
        return [unicodedata.normalize("NFC", str(value)).strip(" ") for value in many]


@dataclass(frozen=True)
class Truth:
    """All that a peer holds."""

    instances: tuple[Instance, ...]

    @classmethod
    def of(cls, files: Iterable[Path]) -> Truth:
        return cls(tuple(Instance(path, dcmread(path, stop_before_pixels=True)) for path in files))

    def series(self, row: dict[str, str]) -> set[str]:
        """Series Instance UIDs with an image for which every key of the row holds."""
        return {
            i.series for i in self.instances if all(holds(k, cell, self._of(i, k)) for k, cell in row.items() if cell)
        }

    def _of(self, instance: Instance, keyword: str) -> list[str]:
        """The values of an attribute; those of ModalitiesInStudy are what the series of the study say."""
        if keyword != "ModalitiesInStudy":
            return instance.values(keyword)
        study = instance.head.StudyInstanceUID
        return sorted({str(i.head.Modality) for i in self.instances if i.head.StudyInstanceUID == study})

    def of_series(self, series: Iterable[str]) -> dict[str, Instance]:
        """The instances of these series by SOP Instance UID."""
        wanted = set(series)
        return {i.uid: i for i in self.instances if i.series in wanted}

    def distinct(self, keyword: str) -> list[str]:
        """What the attribute is anywhere, as a cell of a table; several values joined by backslashes."""
        cells = {"\\".join(i.values(keyword)) for i in self.instances}
        return sorted(cell for cell in cells if cell)


def holds(keyword: str, cell: str, values: list[str]) -> bool:
    """Whether a cell of a query table is fulfilled by the values of an attribute."""
    if not values or not values[0]:
        return False
    if keyword in SEVERAL and "\\" in cell:
        return any(holds(keyword, one, values) for one in cell.split("\\"))
    if keyword in DATES:
        low, _, high = cell.partition("-") if "-" in cell else (cell, "", cell)
        return (low or "0") <= values[0] <= (high or "9")
    if keyword == "StudyTime":
        low, _, high = cell.partition("-") if "-" in cell else (cell, "", cell)
        # What a time leaves out, it leaves open (PS3.4 C.2.2.2.5.3): 10 may be 10:59.
        first, last = (_filled(values[0], rest) for rest in ("000000.000000", "235959.999999"))
        return _filled(low, "000000.000000") <= last and first <= _filled(high, "235959.999999")
    if keyword == "SeriesNumber":
        return int(cell) == int(values[0])
    if keyword in ("PatientName", "ReferringPhysicianName"):
        return _name_holds(cell, values[0])
    if keyword == "ImageType":
        wanted = cell.split("\\")
        if len(wanted) == 1:
            return any(_like(cell, value) for value in values)
        return len(wanted) <= len(values) and all(map(_like, wanted, values))
    return any(_like(cell, value) for value in values)


def _like(pattern: str, text: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def _filled(time: str, rest: str) -> str:
    return time + rest[len(time) :]


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFD", text.casefold())
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn" or letter in "\u3099\u309a")


def _name_holds(cell: str, name: str) -> bool:
    """Every word asked for is a word of the name, in one of its groups, in any order, each word used once."""
    asked = [word for word in re.split(r"[\s^,=-]+", _plain(cell)) if word.strip("*")]
    for group in [name.replace("=", "^")] if "=" in cell else name.split("="):
        words = [word for word in re.split(r"[\s^,-]+", _plain(group)) if word]
        if any(all(map(_like, asked, chosen)) for chosen in permutations(words, len(asked))):
            return True
    return False
