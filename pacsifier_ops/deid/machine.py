"""Text that machines write: what is known of it stays, word by word.

Attributes that a device or its software sets (models, versions, names of sequences and kernels, code strings) hold
words that people typed all the same: the name of a protocol, of a clinic, of a patient. So they are not believed
either. A value stays as it is where it is a term of PS3.3, or one that devices are known to write
(`tables/device_words.txt`). Else its words are looked at one by one. Those of that list and of the vocabulary of
descriptions stay, and so do the short codes that devices are full of: `B30f`, `fl3d1`, `16ns`, `VB17A`, `MR750w`,
`12.0`. All others go.
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

#: A word: letters and digits, also with dots between digits, as versions have them.
_WORD = re.compile(r"[^\W_]+(?:\.(?=\d)[^\W_]+)*")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_YEAR = re.compile(r"(?:19|20)\d\d")
#: Dates and times; with dots, a version has no years and no zeros in front.
_MOMENT = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([./-])\d{1,2}\1\d{1,2}|\d{1,2}([./-])\d{1,2}\2(?:19|20)\d\d"
    r"|[0-3]\d([./-])[01]\d\3\d\d|\d\d([/-])[01]\d\4[0-3]\d|\d{1,2}:\d\d(?::\d\d)?)(?!\d)"
)
#: What names somebody or a place whatever it is: between / and ^, where a protocol's folder is.
_NAMED = re.compile(r"(?<=/)[^/^]*(?=\^)")
#: A word that no list has.
_NOBODY = "Xqzxqz"
#: Digits in a row, and in a word: more could be somebody's number.
_IN_A_ROW, _IN_A_WORD = 5, 7


class Words:
    """A list of words and whole values.

    Args:
        text: lines of words; of values after `=`, with `|` between them; of remarks after `#`. A word with `?` is a
            name too.
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
                    found.update(part for part in _WORD.findall(fold(word.rstrip("?"))) if len(part) > 1)
        self._sure -= self._names
        everything = [*sorted(self._values), "=", *sorted(self._sure), "?", *sorted(self._names)]
        self.digest = hashlib.sha256("\n".join(everything).encode()).hexdigest()

    def clean(self, text: str, patient: str = "") -> str:
        """What is known of a value; empty where nothing is.

        Args:
            patient: the patient's names: two words of them in a value go. One that is a device's stays: else a whole
                cohort's models would tell by one that lacks whose it is.
        """
        if _normal(text) in self._values:
            return text
        text = _NAMED.sub(_NOBODY, _MOMENT.sub(_NOBODY, text))
        found = [Word(word[0], word.start(), word.end()) for word in _WORD.finditer(text)]
        # True: stays; None: stays unless its neighbour goes; False: goes.
        stays = [self._stays(word.text) for word in found]
        own = vocabulary.own_words(found, patient)
        alone = vocabulary.own_words(found, patient, least=1)
        own += [place for place in alone if stays[place] is None and fold(found[place].text) not in self._names]
        for place in (*own, *(place for place, surely in names_in(text, found) if surely)):
            stays[place] = False
        vocabulary.spread(stays)
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
        if vocabulary.clean(f"{word} {_NOBODY}") == word:  # beside what goes, words that are names too go as well
            return True
        if vocabulary.clean(word) == word and not any(character.isdigit() for character in word):
            return None
        return self._of_parts(word)

    def _of_parts(self, word: str) -> bool | None:
        """The verdict on a number, a version, a code, or words that are written as one."""
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
        """Whether letters are words of the list, each with a capital letter: LightSpeed, TrioTim, HeadNeck."""
        parts = [part.lower() for part in _PARTS.findall(word)]
        known = all(len(part) > 2 and (part in self._sure or part in self._names) for part in parts)
        return len(parts) > 1 and known and not self._sure.isdisjoint(parts)


def _normal(text: str) -> str:
    """A value without case, accents and needless blanks."""
    return " ".join(fold(text).split())


@cache
def shipped() -> Words:
    """The list that comes with the package."""
    return Words(_FILE.read_text(encoding="utf-8"))


def clean(text: str, patient: str = "") -> str:
    """What is known of a value that a machine wrote, by the shipped list.

    Args:
        patient: the patient's names, where they are known (see `vocabulary.names_of`).
    """
    words = [Word(word[0], word.start(), word.end()) for word in _WORD.finditer(text)] if patient else []
    return _remembered(text, patient if vocabulary.own_words(words, patient, least=1) else "")


@lru_cache(maxsize=16384)
def _remembered(text: str, patient: str) -> str:
    """Values repeat, also from patient to patient."""
    return shipped().clean(text, patient)
