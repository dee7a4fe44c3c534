"""What one archive does to the letters of its answers, as far as it has shown or can be asked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset

from pacsifier_ops.base.config import LETTERS_LOST
from pacsifier_ops.dimse.session import Session, query
from pacsifier_ops.query.letters import Lost, garbled, may_be
from pacsifier_ops.query.match import matches
from pacsifier_ops.query.names import blurred

#: As pydicom calls the encoding of text that names no character set.
_DEFAULT = "iso8859"
#: Encodings that hold the letters of more than one script: who answers in one of them has no need to drop any.
_WIDE = ("utf", "gb", "iso2022", "iso_2022", "shift_jis", "euc_kr", "johab")


def _holds_accents(encoding: str) -> bool:
    try:
        return bool("é".encode(encoding))
    except (UnicodeEncodeError, LookupError):
        return False


@dataclass
class Letters:
    """Judges whether a text in an answer proves what is stored.

    Attributes:
        session: the way to the archive.
        encodings: those of its answers, as Python names them.
        found_by_letters: it has found a name by letters beyond ASCII, so it knows how to.
    """

    session: Session
    encodings: set[str] = field(default_factory=set)
    found_by_letters: bool = False
    _whole: dict[tuple[str, str], bool] = field(default_factory=dict)
    _knows_names: bool | None = None

    def learn(self, answer: Dataset) -> None:
        """Note in which character sets the archive answers."""
        if answer.get("SpecificCharacterSet"):
            self.encodings.update(convert_encodings(answer.SpecificCharacterSet))

    @property
    def dropped(self) -> bool:
        """Whether it may drop letters: it always answers in one set of few letters, or nobody knows in which."""
        said = self.session.node.letters
        return said == LETTERS_LOST if said else self.in_few_letters

    @property
    def in_few_letters(self) -> bool:
        """Whether it has answered in one set of few letters only, or in none that it named."""
        own = self.encodings - {_DEFAULT}
        return len(own) < 2 and not any(name.startswith(_WIDE) for name in own)

    @property
    def without_accents(self) -> bool:
        """Whether no set that it has named in its answers holds Latin letters with an accent: all may be lost."""
        return self.dropped and not any(_holds_accents(name) for name in self.encodings - {_DEFAULT})

    def leave_open(self, keyword: str, wanted: str, shown: Sequence[str]) -> bool:
        """Whether what an answer shows may be what is wanted, though it does not match; the archive is not asked."""
        lost = Lost.ALL if self.without_accents else Lost.ANY if self.dropped else Lost.TYPED
        return may_be(keyword, wanted, shown, self.encodings, lost)

    def absent(self, name: str, shown: str) -> bool:
        """Whether a patient has another name than the wanted one, where the archive does not find it by what is
        `blurred` of that.

        Not where the archive itself may have the name garbled, nor where it has not shown that it knows such letters.
        """
        plain = all(blurred(word).isascii() for word in name.split())
        known = plain or (self.found_by_letters and not self.without_accents)
        return known and not garbled("PatientName", name, shown, self.encodings)

    def prove(self, study_uid: str, keyword: str, wanted: str, shown: Sequence[str]) -> bool:
        """Whether what an answer shows of a key decides about it: it matches and is whole, or cannot be what is wanted.

        Args:
            study_uid: the study of which it is.
            shown: its values, decoded.
        """
        name = keyword == "PatientName"
        if matches(keyword, wanted, shown):
            return not (name and self._drops_here) or self.whole(study_uid, shown)
        if not self.leave_open(keyword, wanted, shown):
            return True
        if garbled(keyword, wanted, "\\".join(shown), self.encodings):
            return False
        # An archive that could not read an object has lost the letters itself; just those that were typed is no chance.
        typed = "*" not in wanted and may_be(keyword, wanted, shown, self.encodings, Lost.TYPED)
        return name and not typed and self.whole(study_uid, shown)

    @property
    def _drops_here(self) -> bool:
        """Whether there is a reason to believe that it drops letters, not merely none to believe that it keeps them."""
        return self.dropped and (bool(self.encodings - {_DEFAULT}) or self.session.node.letters == LETTERS_LOST)

    def whole(self, study_uid: str, shown: Sequence[str]) -> bool:
        """Whether a study's PatientName is just what an answer shows: the archive finds the study by that.

        PatientName is a required key at STUDY level (PS3.4 C.6.2.1), so every archive can be asked.
        """
        name = "\\".join(shown)
        if not name or any(sign in name for sign in "?*\ufffd\\"):
            return False  # nothing to ask by: Orthanc does not find a name of no plain letter by ?* either
        if (study_uid, name) not in self._whole:
            self._whole[study_uid, name] = self._found(study_uid, name)
        return self._whole[study_uid, name] and self.names_are_matched(study_uid)

    def names_are_matched(self, study_uid: str) -> bool:
        """Whether the archive matches on names at all: it does not find a study by one that nobody has."""
        if self._knows_names is None:
            self._knows_names = not self._found(study_uid, f"*{secrets.token_hex(7).upper()}*")
        return self._knows_names

    def _found(self, study_uid: str, name: str) -> bool:
        answer = self.session.find(query("STUDY", StudyInstanceUID=study_uid, PatientName=name))
        return bool(answer.identifiers)
