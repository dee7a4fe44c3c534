"""Cleans text that devices write: known terms stay, word by word.

Attributes that a device or its software sets (models, versions, names of sequences and kernels, code strings) can still
contain words that people typed: the name of a protocol, a clinic or a patient. So this text is checked as well. A value
stays unchanged where it is a term of PS3.3, or one that devices are known to write (`tables/device_words.txt`).
Otherwise each word is checked. Words of that list and of the vocabulary of descriptions stay, and so do typical short
codes of devices: `B30f`, `fl3d1`, `16ns`, `VB17A`, `MR750w`, `12.0`. All other words are removed.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache, lru_cache
from pathlib import Path

from pacsifier_ops.deid import vocabulary
from pacsifier_ops.deid.titles import Word, names_in
from pacsifier_ops.query.names import fold

_FILE = Path(__file__).parent / "tables" / "device_words.txt"

#: A word: letters and digits. Dots between digits belong to it, as in versions.
_WORD = re.compile(r"[^\W_]+(?:\.(?=\d)[^\W_]+)*")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_YEAR = re.compile(r"(?:19|20)\d\d")
#: Dates and times. With dots, a form with two-digit years or leading zeros is a date and not a version.
_MOMENT = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([./-])\d{1,2}\1\d{1,2}|\d{1,2}([./-])\d{1,2}\2(?:19|20)\d\d"
    r"|[0-3]\d([./-])[01]\d\3\d\d|\d\d([/-])[01]\d\4[0-3]\d|\d{1,2}:\d\d(?::\d\d)?)(?!\d)"
)
#: The text between / and ^, the folder of a protocol. It may name a person or a place, whatever its words are.
_NAMED = re.compile(r"(?<=/)[^/^]*(?=\^)")
#: A word that is in no list.
_NOBODY = "Xqzxqz"
#: Maximum number of digits in a row, and in a word. A longer number could identify a person.
_IN_A_ROW, _IN_A_WORD = 5, 7


class Words:
    """A list of words and of whole values.

    Args:
        text: lines of words; after `=`, lines of values separated by `|`; after `#`, comments. A word with `?` can also
            be a name.
    """

    def __init__(self, text: str) -> None:
        self._values: set[str] = set()
        self._sure: set[str] = set()
        self._names: set[str] = set()
        for line in text.splitlines():
            if line.startswith("="):
                self._values.update(_normal(value) for value in line[1:].split("|"))
            elif not line.startswith("#"):
                for word in line.split():
                    found = self._names if word.endswith("?") else self._sure
                    word = word.rstrip("?")
                    parts = [word.lower()] if word.isascii() and word.isalpha() else _WORD.findall(fold(word))
                    found.update(part for part in parts if len(part) > 1)
        self._sure -= self._names
        everything = [*sorted(self._values), "=", *sorted(self._sure), "?", *sorted(self._names)]
        self.digest = hashlib.sha256("\n".join(everything).encode()).hexdigest()

    def clean(self, text: str, patient: str = "") -> str:
        """Return the known part of a value; empty where no part is known.

        Args:
            text: one value.
            patient: names of the patient. Two of them in one value are removed. A single one stays if it is a device's
                word: otherwise, in a cohort with one model of device, the object that lacks the model would reveal its
                patient.
        """
        if _normal(text) in self._values:
            return text
        text = _NAMED.sub(_NOBODY, _MOMENT.sub(_NOBODY, text))
        found = [Word(word[0], word.start(), word.end()) for word in _WORD.finditer(text)]
        # True: stays. None: stays unless a neighbour is removed. False: removed.
        stays = [self._stays(word.text) for word in found]
        own = vocabulary.patient_words(found, patient)
        alone = vocabulary.patient_words(found, patient, least=1)
        own += [place for place in alone if stays[place] is None and fold(found[place].text) not in self._names]
        for place in (*own, *(place for place, surely in names_in(text, found) if surely)):
            stays[place] = False
        vocabulary.remove_neighbours(stays)
        if False not in stays:
            return text if text.isprintable() else ""
        kept = [place for place, verdict in enumerate(stays) if verdict is not False]
        left = vocabulary.joined(text, found, kept, "_-/,")
        return left if left.isprintable() else ""

    def _stays(self, word: str) -> bool | None:
        folded = fold(word)
        if len(folded) < 2:
            return None if folded.isascii() else False
        if folded in self._sure:
            return True
        if folded in self._names:
            return None
        if vocabulary.clean(f"{word} {_NOBODY}") == word:  # a word that can be a name is removed beside a removed word
            return True
        if vocabulary.clean(word) == word and not any(character.isdigit() for character in word):
            return None
        return self._of_parts(word)

    def _of_parts(self, word: str) -> bool | None:
        """Decide on a number, a version, a code, or several words written as one; the result is that of `_stays`."""
        if not word.isascii():
            return False
        digits, letters = re.findall(r"\d+", word), re.findall(r"[A-Za-z]+", word)
        if not digits:
            return self._is_joined(word) or False
        if re.fullmatch(r"\d{1,4}\.\d{1,6}", word):
            return None
        if max(map(len, digits)) > (_IN_A_ROW if len(letters) < 2 else 4):
            return False
        if "." not in word and sum(map(len, digits)) > _IN_A_WORD:
            return False
        if letters and any(_YEAR.fullmatch(part) for part in digits) and not re.fullmatch(r"\d{4}[A-Z]", word):
            return False
        others = [part for part in letters if part.lower() not in self._sure and not self._is_joined(part)]
        return None if all(len(part) < 3 for part in others) and len(word) < 21 else False

    def _is_joined(self, word: str) -> bool:
        """Return whether letters are known words joined with a capital letter each: LightSpeed, TrioTim, HeadNeck."""
        parts = [part.lower() for part in _PARTS.findall(word)]
        known = all(len(part) > 2 and (part in self._sure or part in self._names) for part in parts)
        return len(parts) > 1 and known and not self._sure.isdisjoint(parts)


def _normal(text: str) -> str:
    """Return a value without case, accents and extra blanks."""
    return " ".join(fold(text).split())


@cache
def shipped() -> Words:
    """Return the list of words that comes with the package."""
    return Words(_FILE.read_text(encoding="utf-8"))


def clean(text: str, patient: str = "") -> str:
    """Return the part of a device's text that the list of the package knows.

    Args:
        text: one value.
        patient: names of the patient, where they are known (see `vocabulary.names_of`).
    """
    words = [Word(word[0], word.start(), word.end()) for word in _WORD.finditer(text)] if patient else []
    return _clean_cached(text, patient if vocabulary.patient_words(words, patient, least=1) else "")


@lru_cache(maxsize=16384)
def _clean_cached(text: str, patient: str) -> str:
    """Clean a value, with a cache: values repeat, also from patient to patient."""
    return shipped().clean(text, patient)
