"""How one archive changes letters in its responses, as its responses and test queries show."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset

from pacsifier_ops.archive.attempts import ArchiveSession
from pacsifier_ops.base.config import LETTERS_LOST
from pacsifier_ops.dimse.session import query
from pacsifier_ops.query.letters import LostLetters, garbled, may_be
from pacsifier_ops.query.match import matches
from pacsifier_ops.query.names import blurred

#: pydicom's name of the encoding of text without a declared character set.
_DEFAULT = "iso8859"
#: Encodings with the letters of several scripts. An archive that responds in one of them need not drop letters.
_WIDE = ("utf", "gb", "iso2022", "iso_2022", "shift_jis", "euc_kr", "johab")


def _holds_accents(encoding: str) -> bool:
    try:
        return bool("é".encode(encoding))
    except (UnicodeEncodeError, LookupError):
        return False


@dataclass
class Letters:
    """Decides whether a text in a response proves what is stored.

    Attributes:
        session: session with the archive.
        encodings: encodings of its responses, by Python's names.
        found_by_letters: the archive has found a name by letters beyond ASCII, so it supports that.
    """

    session: ArchiveSession
    encodings: set[str] = field(default_factory=set)
    found_by_letters: bool = False
    _whole: dict[tuple[str, str], bool] = field(default_factory=dict)
    _knows_names: bool | None = None

    def learn(self, answer: Dataset) -> None:
        """Record the character sets of a response."""
        if answer.get("SpecificCharacterSet"):
            self.encodings.update(convert_encodings(answer.SpecificCharacterSet))

    @property
    def dropped(self) -> bool:
        """Whether the archive may drop letters: it always responds in one set of few letters, or declares none."""
        setting = self.session.node.letters
        return setting == LETTERS_LOST if setting else self.in_few_letters

    @property
    def in_few_letters(self) -> bool:
        """Whether all responses so far were in one set of few letters, or in none that was declared."""
        own = self.encodings - {_DEFAULT}
        return len(own) < 2 and not any(name.startswith(_WIDE) for name in own)

    @property
    def without_accents(self) -> bool:
        """Whether no declared set of the responses has accented Latin letters, so that all of them may be lost."""
        return self.dropped and not any(_holds_accents(name) for name in self.encodings - {_DEFAULT})

    def leave_open(self, keyword: str, wanted: str, shown: Sequence[str]) -> bool:
        """Return whether the value in a response can be the wanted one, though it does not match. No query is sent."""
        lost = LostLetters.ALL if self.without_accents else LostLetters.ANY if self.dropped else LostLetters.TYPED
        return may_be(keyword, wanted, shown, self.encodings, lost)

    def absent(self, name: str, shown: str) -> bool:
        """Return whether a patient's name differs from the wanted one.

        Call it where the archive does not find the patient by the words of the name after `blurred`. False where the
        archive itself may have stored the name garbled, or has not shown that it supports such letters.
        """
        plain = all(blurred(word).isascii() for word in name.split())
        known = plain or (self.found_by_letters and not self.without_accents)
        return known and not garbled("PatientName", name, shown, self.encodings)

    def prove(self, study_uid: str, keyword: str, wanted: str, shown: Sequence[str]) -> bool:
        """Return whether the values in a response decide a key.

        They do where they match and are complete, or cannot be the wanted value.

        Args:
            study_uid: the study of the response.
            keyword: keyword of the key.
            wanted: the wanted value.
            shown: the decoded values.
        """
        name = keyword == "PatientName"
        if matches(keyword, wanted, shown):
            return not (name and self._drops_here) or self.whole(study_uid, shown)
        if not self.leave_open(keyword, wanted, shown):
            return True
        if garbled(keyword, wanted, "\\".join(shown), self.encodings):
            return False
        # An archive that could not decode an object has lost letters itself. That it lost just the typed ones is no
        # coincidence.
        typed = "*" not in wanted and may_be(keyword, wanted, shown, self.encodings, LostLetters.TYPED)
        return name and not typed and self.whole(study_uid, shown)

    @property
    def _drops_here(self) -> bool:
        """Whether there is evidence that the archive drops letters, and not just no evidence against it."""
        return self.dropped and (bool(self.encodings - {_DEFAULT}) or self.session.node.letters == LETTERS_LOST)

    def whole(self, study_uid: str, shown: Sequence[str]) -> bool:
        """Return whether a response shows the complete PatientName of a study: the archive finds the study by it.

        PatientName is a required key at STUDY level (PS3.4 C.6.2.1), so every archive supports the query.
        """
        name = "\\".join(shown)
        if not name or any(sign in name for sign in "?*\ufffd\\"):
            return False  # no usable key: Orthanc does not find a name without plain letters by ?* either
        if (study_uid, name) not in self._whole:
            self._whole[study_uid, name] = self._found(study_uid, name)
        return self._whole[study_uid, name] and self.names_are_matched(study_uid)

    def names_are_matched(self, study_uid: str) -> bool:
        """Return whether the archive matches on names at all: it does not find a study by a name that nobody has."""
        if self._knows_names is None:
            self._knows_names = not self._found(study_uid, f"*{secrets.token_hex(7).upper()}*")
        return self._knows_names

    def _found(self, study_uid: str, name: str) -> bool:
        answer = self.session.find(query("STUDY", StudyInstanceUID=study_uid, PatientName=name))
        return bool(answer.identifiers)
