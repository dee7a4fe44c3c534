"""What an archive does with each key of a query table: shows it, matches on it, or neither."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from pacsifier_ops.base.errors import Cancelled, PacsifierError
from pacsifier_ops.dimse.find import MATCH_ALL, MATCH_NOTHING, UID_OF_LEVEL, values_of
from pacsifier_ops.dimse.session import query
from pacsifier_ops.probe.asking import Archive, QueryRefused, TooMany
from pacsifier_ops.probe.findings import FILTERED, MATCHED, MISSES, NOT_TESTED, UNDECIDABLE, KeyFinding
from pacsifier_ops.query.keys import KEYS, MODALITIES, Key, Level
from pacsifier_ops.query.match import value_to_send

#: Levels from the root down, and the unique keys above each.
LEVELS = ("STUDY", "SERIES", "IMAGE")
#: Entities on which a key is tried whose value no answer shows.
_TRIALS = 8
#: Keys whose value never goes to an archive: see `value_to_send` and `Finder`.
_NEVER_SENT = ("ImageType", "SeriesNumber")


@dataclass(frozen=True)
class Sample:
    """What the archive has shown: answers by level, each with the UIDs of its level and of those above."""

    studies: Sequence[Dataset]
    series: Sequence[Dataset]
    images: Sequence[Dataset]

    def at(self, level: str) -> Sequence[Dataset]:
        """The answers of a level."""
        return (self.studies, self.series, self.images)[LEVELS.index(level)]


def uids_above(entity: Dataset, level: str) -> dict[str, str]:
    """The unique keys of the levels above, with their values, and that of the level itself, empty."""
    above = {UID_OF_LEVEL[name]: "" for name in LEVELS[: LEVELS.index(level) + 1]}
    return {key: str(entity.get(key) or "") if key != UID_OF_LEVEL[level] else "" for key in above}


@dataclass
class Keys:
    """Tries the keys on a sample."""

    archive: Archive
    sample: Sample

    def findings(self, progress: Callable[[str], None]) -> list[KeyFinding]:
        """One finding per key of a query table, in the table's order."""
        found = []
        for key in KEYS.values():
            progress(f"key {key.keyword}")
            found.append(self._finding(key))
        return found

    def _finding(self, key: Key) -> KeyFinding:
        level = key.level.value
        shown = [entity for entity in self.sample.at(level) if values_of(entity, key.keyword)]
        returned = level if shown else ""
        if not shown and any(values_of(image, key.keyword) for image in self.sample.images):
            returned = "IMAGE"
        try:
            matched, finds_own = self._tried(key, level, shown)
            verdict, text = self._judged(key, returned, matched, finds_own)
        except Cancelled:
            raise
        except PacsifierError as error:
            matched, verdict, text = None, NOT_TESTED, f"Asking for a value failed: {error}."
        return KeyFinding(key.keyword, level, verdict, returned, matched, text)

    # Trying

    def _tried(self, key: Key, level: str, shown: Sequence[Dataset]) -> tuple[bool | None, bool]:
        """Whether the archive matches on the key (None: nothing tells), and finds what it has shown by its value."""
        entities = self.sample.at(level)
        if not entities:
            return None, True
        nobody = MATCH_NOTHING.get(key.vr) or secrets.token_hex(7).upper()
        if shown:
            entity, value = _told_best(key, shown)
            if self._finds(entity, level, key.keyword, nobody):
                return False, True
            return (True, True) if self._finds(entity, level, key.keyword, value) else (False, False)
        # No answer shows a value. An archive that does not know the key may find nothing for any.
        anybody = MATCH_ALL.get(key.vr, "?*") if key.vr not in ("IS", "UI") else None
        for entity in entities[:_TRIALS]:
            if self._finds(entity, level, key.keyword, nobody):
                return False, True
            if anybody and self._finds(entity, level, key.keyword, anybody):
                return True, True
        return None, True

    def _finds(self, entity: Dataset, level: str, keyword: str, value: str) -> bool:
        """Whether the archive finds the entity by this value, within the one above it."""
        own = UID_OF_LEVEL[level]
        keys = uids_above(entity, level)
        if level == "STUDY" and keyword != own:
            keys[own] = str(entity[own].value)  # studies have nothing above them to stay within
        try:
            answer = self.archive.find(query(level, **{**keys, keyword: value}))
        except TooMany:
            return True
        except QueryRefused as error:
            if error.too_many:
                return True
            raise
        found = {str(match.get(own) or "") for match in answer.identifiers}
        return answer.keys_unsupported or str(entity[own].value) in found

    # Judging

    def _judged(self, key: Key, returned: str, matched: bool | None, finds_own: bool) -> tuple[str, str]:
        if matched and returned == "IMAGE" and key.level is not Level.IMAGE:
            return (
                MATCHED,
                "Narrows the search in the archive; the images of what it finds are asked for it.",
            )
        if matched and returned and key.keyword in _NEVER_SENT:
            return MATCHED, f"Compared here all the same: archives differ in how they compare it.{_of_image(key)}"
        if matched and returned:
            return MATCHED, "Narrows the search in the archive." + _names(key)
        if matched:
            return MATCHED, (
                "The archive matches on it without showing it: its own comparing decides, which may be stricter "
                "(upper and lower case, accents)."
            )
        if returned == "IMAGE" and key.level is not Level.IMAGE:
            return FILTERED, (
                "Only images show it: rows are decided here, with one more query for every series that the row's "
                "other keys leave. Give such keys: PatientID, StudyDate."
            )
        if returned and not finds_own and key.keyword not in _NEVER_SENT and key.vr != "PN":
            return MISSES, (
                "A value that the archive itself returned finds nothing: rows with this key would miss series. "
                "Leave it out until that is mended."
            )
        if returned:
            return FILTERED, _filtered(key)
        entities = self.sample.at(key.level.value)
        if not entities:
            return NOT_TESTED, f"There was no answer at {key.level} level to try it on."
        if key.keyword == MODALITIES:
            return FILTERED, "Not returned: it is worked out here, of what the series of a study say."
        if matched is None and any(key.keyword in entity for entity in entities):
            return NOT_TESTED, f"Nothing in the sample has a value ({len(entities)} at {key.level} level)."
        if matched is None:
            return UNDECIDABLE, f"No value was shown, none found: not in the sample, or not known. {_UNDECIDABLE}"
        return UNDECIDABLE, _UNDECIDABLE


_UNDECIDABLE = "Neither matched nor returned: a row with this key fetches nothing, and says so."


def _filtered(key: Key) -> str:
    if key.keyword in _NEVER_SENT:
        return f"Compared here, never sent: archives differ in how they compare it.{_of_image(key)}"
    return (
        "The archive returns it, but does not match on it: what the other keys of the row find is filtered here. "
        f"Works, and is slow without a key such as PatientID or StudyDate.{_of_image(key)}"
    )


def _of_image(key: Key) -> str:
    return " Asks for the images of each series that the other keys leave." if key.level is Level.IMAGE else ""


def _names(key: Key) -> str:
    return " Upper and lower case, accents and the order of words are compared here." if key.vr == "PN" else ""


def _told_best(key: Key, shown: Iterable[Dataset]) -> tuple[Dataset, str]:
    """The entity, and the value to send, that leave the archive the least room: one value, plain letters."""

    def rank(entity: Dataset) -> tuple[bool, bool]:
        values = values_of(entity, key.keyword)
        return not values[0].isascii(), len(values) > 1

    entity = min(shown, key=rank)
    value = values_of(entity, key.keyword)[0]
    if key.vr == "PN":
        letters = "".join(letter if letter.isascii() else "*" for letter in value)
        return entity, letters if any(c.isalnum() for c in letters) else "?*"
    if key.keyword in _NEVER_SENT:
        return entity, value
    try:
        return entity, value_to_send(key.keyword, value) or "?*"
    except ValueError:  # not a date, time or number, whatever its representation says
        return entity, value
