"""Finds out for each key of a query table whether an archive returns it, and whether it matches on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from pacsifier_ops.archive.find import MATCH_ALL, MATCH_NOTHING, UID_OF_LEVEL, values_of
from pacsifier_ops.base.errors import Cancelled, PacsifierError
from pacsifier_ops.dimse.session import query
from pacsifier_ops.probe.asking import Archive, QueryRefused, TooManyMatches
from pacsifier_ops.probe.findings import FILTERED, MATCHED, MISSES, NOT_TESTED, UNDECIDABLE, KeyFinding
from pacsifier_ops.query.keys import KEYS, MODALITIES, Key, Level
from pacsifier_ops.query.match import value_to_send

#: Query levels of the Study Root model (PS3.4 C.6.2.1) from the root down.
LEVELS = ("STUDY", "SERIES", "IMAGE")
#: Maximum number of entities with which a key is tried that the archive does not return.
_TRIALS = 8
#: Keys whose value is never sent to an archive, see `value_to_send` and `Finder`.
_NEVER_SENT = ("ImageType", "SeriesNumber")


@dataclass(frozen=True)
class Sample:
    """Responses of the archive by level. Each has the UIDs of its level and of the levels above."""

    studies: Sequence[Dataset]
    series: Sequence[Dataset]
    images: Sequence[Dataset]

    def at(self, level: str) -> Sequence[Dataset]:
        """Return the responses at a level."""
        return (self.studies, self.series, self.images)[LEVELS.index(level)]


def uids_above(entity: Dataset, level: str) -> dict[str, str]:
    """Return the unique keys of the levels above with their values, and the unique key of the level itself, empty."""
    above = {UID_OF_LEVEL[name]: "" for name in LEVELS[: LEVELS.index(level) + 1]}
    return {key: str(entity.get(key) or "") if key != UID_OF_LEVEL[level] else "" for key in above}


@dataclass
class KeyTrials:
    """Tries the keys with the values of a sample."""

    archive: Archive
    sample: Sample

    def findings(self, progress: Callable[[str], None]) -> list[KeyFinding]:
        """Return a finding for each key of a query table.

        Args:
            progress: called with the name of each question.
        """
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
            matched, finds_shown = self._try_key(key, level, shown)
            verdict, text = self._verdict(key, returned, matched, finds_shown)
        except Cancelled:
            raise
        except PacsifierError as error:
            matched, verdict, text = None, NOT_TESTED, f"Asking for a value failed: {error}."
        return KeyFinding(key.keyword, level, verdict, returned, matched, text)

    # Trying

    def _try_key(self, key: Key, level: str, shown: Sequence[Dataset]) -> tuple[bool | None, bool]:
        """Try a key.

        Args:
            key: the key.
            level: its level.
            shown: responses at this level with a value of the key.

        Returns:
            Whether the archive matches on the key, None if unknown; and whether a value that it returned finds the
            entity.
        """
        entities = self.sample.at(level)
        if not entities:
            return None, True
        nothing = MATCH_NOTHING.get(key.vr) or secrets.token_hex(7).upper()
        if shown:
            entity, value = _simplest_value(key, shown)
            if self._finds(entity, level, key.keyword, nothing):
                return False, True
            return (True, True) if self._finds(entity, level, key.keyword, value) else (False, False)
        # The archive returns no value. If it does not support the key, it may find nothing for any value.
        everything = MATCH_ALL.get(key.vr, "?*") if key.vr not in ("IS", "UI") else None
        for entity in entities[:_TRIALS]:
            if self._finds(entity, level, key.keyword, nothing):
                return False, True
            if everything and self._finds(entity, level, key.keyword, everything):
                return True, True
        return None, True

    def _finds(self, entity: Dataset, level: str, keyword: str, value: str) -> bool:
        """Return whether the archive finds the entity by a value, within the entity above it."""
        own = UID_OF_LEVEL[level]
        keys = uids_above(entity, level)
        if level == "STUDY" and keyword != own:
            keys[own] = str(entity[own].value)  # nothing above limits the query
        try:
            answer = self.archive.find(query(level, **{**keys, keyword: value}))
        except TooManyMatches:
            return True
        except QueryRefused as error:
            if error.too_many:
                return True
            raise
        found = {str(match.get(own) or "") for match in answer.identifiers}
        return answer.keys_unsupported or str(entity[own].value) in found

    # Judging

    def _verdict(self, key: Key, returned: str, matched: bool | None, finds_shown: bool) -> tuple[str, str]:
        """Return the verdict on a key, and what it means for a query table."""
        if matched and returned == "IMAGE" and key.level is not Level.IMAGE:
            return (
                MATCHED,
                "Narrows the search in the archive; the images of the series that it finds are queried as well.",
            )
        if matched and returned and key.keyword in _NEVER_SENT:
            return MATCHED, f"Compared here nevertheless: archives compare it in different ways.{_image_note(key)}"
        if matched and returned:
            return MATCHED, "Narrows the search in the archive." + _name_note(key)
        if matched:
            return MATCHED, (
                "The archive matches on it without returning it: its own comparison decides, which may be stricter "
                "(upper and lower case, accents)."
            )
        if returned == "IMAGE" and key.level is not Level.IMAGE:
            return FILTERED, (
                "Returned for images only: it is compared here, with one more query for every series that the other "
                "keys of the row find. Give other keys as well, such as PatientID or StudyDate."
            )
        if returned and not finds_shown and key.keyword not in _NEVER_SENT and key.vr != "PN":
            return MISSES, (
                "A value that the archive itself returned finds nothing: rows with this key would miss series. "
                "Do not use it until the archive is corrected."
            )
        if returned:
            return FILTERED, _filtered_text(key)
        entities = self.sample.at(key.level.value)
        if not entities:
            return NOT_TESTED, f"There was no response at {key.level} level to try it with."
        if key.keyword == MODALITIES:
            return FILTERED, "Not returned: it is determined here from the series of a study."
        if matched is None and any(key.keyword in entity for entity in entities):
            return NOT_TESTED, f"No entity of the sample has a value ({len(entities)} at {key.level} level)."
        if matched is None:
            return (
                UNDECIDABLE,
                "No value was returned, and none matched: no entity of the sample has one, or the archive does not "
                f"support the key. {_UNDECIDABLE_TEXT}",
            )
        return UNDECIDABLE, _UNDECIDABLE_TEXT


_UNDECIDABLE_TEXT = "Neither matched nor returned: a row with this key is undecidable, and nothing is fetched for it."


def _filtered_text(key: Key) -> str:
    if key.keyword in _NEVER_SENT:
        return f"Compared here, never sent: archives compare it in different ways.{_image_note(key)}"
    return (
        "The archive returns it, but does not match on it: what the other keys of the row find is filtered here. "
        f"This is slow without a key such as PatientID or StudyDate.{_image_note(key)}"
    )


def _image_note(key: Key) -> str:
    return " The images of each series that the other keys find are queried." if key.level is Level.IMAGE else ""


def _name_note(key: Key) -> str:
    return " Upper and lower case, accents and the order of words are compared here." if key.vr == "PN" else ""


def _simplest_value(key: Key, shown: Iterable[Dataset]) -> tuple[Dataset, str]:
    """Return an entity and its value, preferably a single value in ASCII, which archives compare alike."""

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
    except ValueError:  # the value does not fit its VR
        return entity, value
