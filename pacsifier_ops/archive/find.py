"""Finds the series of an archive that match the keys of one query row (PS3.4 C.4.1).

The archive is queried for a superset, level by level. Our own filter on its responses decides.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain, islice, product
from typing import Any

from pydicom.dataset import Dataset

from pacsifier_ops.archive.attempts import ArchiveSession
from pacsifier_ops.archive.letters import Letters
from pacsifier_ops.base.errors import AnswerUnreadable, PacsError, ResultLimit, Undecidable, Unsupported
from pacsifier_ops.base.identity import SeriesId, two_people
from pacsifier_ops.dimse.session import Matches, query, values_of
from pacsifier_ops.query.keys import DUMP_COLUMNS, FURTHER, KEYS, MODALITIES, Level
from pacsifier_ops.query.match import alternatives, matches, seconds_to_send, values_to_send
from pacsifier_ops.query.names import blurred, wide_name_keys

#: Return keys at SERIES level: the dump's columns, and attributes for folder names and the expected instances. And
#: those at STUDY level.
RETURN_KEYS = (*DUMP_COLUMNS, "IssuerOfPatientID", "NumberOfSeriesRelatedInstances", "InstanceAvailability")
STUDY_KEYS = (*(k for k in DUMP_COLUMNS if KEYS[k].level is Level.STUDY), "IssuerOfPatientID")
#: With one of these keys an archive need not match names: the responses are few enough to filter here.
_NARROW = frozenset(
    ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "StudyDate", "PatientBirthDate")
)
#: Keys of which one value belongs to one patient, study or series.
_IDS = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID")
#: Values that no object has, by VR (random text for other VRs), and ranges that match every value.
MATCH_NOTHING = {"DA": "18581117", "TM": "235959.999999", "IS": "-99999999", "UI": "2.25.1"}
MATCH_ALL = {"DA": "00010101-99991231", "TM": "000000-235959.999999"}
_LEFT_TO_ARCHIVE = "{} was left to the archive's own matching: its answers do not show it whole"
#: The unique key of each level (PS3.4 C.6.2.1).
UID_OF_LEVEL = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_PATIENT = ("PatientID", "IssuerOfPatientID")
#: Patterns before and after a word of a name (PS3.5 6.2.1).
_BEFORE = ("", "*^", "*=", "* ")
_BEHIND = ("", "^*", "=*", " *")


@dataclass
class FoundSeries:
    """A series of the archive.

    Attributes:
        study_uid, series_uid: its UIDs.
        attributes: returned values as text, by keyword; multiple values joined by a backslash.
    """

    study_uid: str
    series_uid: str
    attributes: dict[str, str]

    @property
    def series(self) -> SeriesId:
        """Study and series UID. An archive may still have the series under two patients."""
        return SeriesId(self.study_uid, self.series_uid)


@dataclass
class Expectation:
    """The instances that a complete series has.

    Attributes:
        instances: SOP Class UID (empty where not returned) by SOP Instance UID; None where the archive lists none.
        count: their number, where only that is known; None where it is unknown too.
    """

    instances: dict[str, str] | None
    count: int | None = None


def return_keys(level: str, further: Iterable[str]) -> tuple[str, ...]:
    """Return the return keys at STUDY or SERIES level, with these keys beyond PACSIFIER's."""
    if level == "STUDY":
        return (*STUDY_KEYS, *(key for key in further if KEYS[key].level is Level.STUDY))
    return (*RETURN_KEYS, *(key for key in further if key != MODALITIES))


def entity(level: str, answer: Dataset) -> tuple[str, ...]:
    """Return the entity of a response: its patient, and its UIDs from the study down, as far as they are returned.

    A Study Instance UID may occur under two patients, and a Series Instance UID in two studies.
    """
    uids = list(UID_OF_LEVEL.values())[: list(UID_OF_LEVEL).index(level) + 1]
    return tuple("\\".join(values_of(answer, keyword)) for keyword in (*_PATIENT, *uids))


def listed_instances(session: ArchiveSession, series: SeriesId) -> set[str] | None:
    """Return the SOP Instance UIDs that an archive lists for a series, also none; None where it does not tell."""
    uids = dict(zip(("StudyInstanceUID", "SeriesInstanceUID"), series, strict=True))
    try:
        answer = session.find_uids(query("IMAGE", **uids, SOPInstanceUID=""))
    except PacsError:
        return None
    cut = 0 < session.node.result_limit <= len(answer.identifiers)
    if answer.status or answer.unreadable or cut:
        return None
    found = FoundSeries(*series, {})
    return {image["SOPInstanceUID"] for image in answer.identifiers if _belongs_to(image, found)} - {""}


def has_none_of(listed: set[str] | None, missing: Collection[str]) -> bool:
    """Return whether an archive that lists these instances has nothing of what is missing; "" stands for any."""
    return listed is not None and not listed.intersection(listed if "" in missing else missing)


def expectation_of_giver(session: ArchiveSession, series: SeriesId, count: int | None) -> Expectation:
    """Return what an archive that gives images lists for a series, where the one that was searched lists nothing.

    Args:
        session: with the former.
        series: the series.
        count: the number of instances that the latter gives; a list that is shorter is not used.
    """
    found = Finder(session).expectation(*series, count)
    if len(found.instances or ()) < (count or 0):
        return Expectation(None, count)
    return found


def _is_cut_off(status: int) -> bool:
    """Return whether a C-FIND ended because of too many matches. 0xFE00 is a cancel that we did not request."""
    return 0xA700 <= status <= 0xA7FF or status in (0xB001, 0xFE00)


def _values(text: str) -> list[str]:
    return text.split("\\") if text else []


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\s^,=]+", name) if word.strip("*")]


def _forms(word: str) -> set[str]:
    """Return the usual spellings of a word of a name."""
    return {word, word.upper(), word.lower(), word.title()}


def _texts(answer: Dataset) -> dict[str, str]:
    """Return the patient attributes of a response."""
    return {key: "\\".join(values_of(answer, key)) for key in (*_PATIENT, "PatientName", "PatientBirthDate")}


def _by_patient(answers: Iterable[Dataset], attributes: Mapping[str, str]) -> list[Dataset]:
    """Return the responses that may belong to a patient with these attributes, one for each person."""
    people: list[Dataset] = []
    for answer in answers:
        own = _texts(answer)
        if not two_people(own, attributes) and all(two_people(own, _texts(other)) for other in people):
            people.append(answer)
    return people


def _belongs_to(image: Dataset | Mapping[str, str], series: FoundSeries) -> bool:
    """Return whether a response at IMAGE level belongs to a series. Archives need not return the keys of the query."""
    wanted = zip(("StudyInstanceUID", "SeriesInstanceUID"), series.series, strict=True)
    return all(str(image.get(keyword) or uid) == uid for keyword, uid in wanted)


@dataclass
class Finder:
    """Queries one archive. What it learns about the archive serves all rows.

    Attributes:
        session: session with the archive.
        warnings: remarks on the last row, without values.
        doubt: why the archive may have more series for the last row than were found; empty where it has not.
        letters: what the archive does to letters in its responses.
        also: further return keys at SERIES level, which a selection looks at.
    """

    session: ArchiveSession
    also: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    doubt: str = ""
    _exact: bool = False
    _further: tuple[str, ...] = ()
    _modalities: dict[str, str] = field(default_factory=dict)
    _relational: bool | None = None
    _studies: dict[str, list[Dataset]] = field(default_factory=dict)
    _listed: dict[str, list[Dataset]] = field(default_factory=dict)
    _returned: set[str] = field(default_factory=set)
    _matched: set[str] = field(default_factory=set)
    _known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.letters = Letters(self.session)

    def series(self, keys: Mapping[str, str], exact: bool = False) -> list[FoundSeries]:
        """Return all series that match every key of the row.

        A key at IMAGE level matches if one image of the series does.

        Args:
            keys: values by keyword.
            exact: `*` and `?` are ordinary characters.

        Raises:
            Undecidable: the archive neither matches on a key nor returns it.
            ResultLimit: the archive truncates its responses, and the query cannot be split any further.
            AnswerUnreadable: a response cannot be decoded.
            Unsupported: the archive refuses the query, or returns no UIDs.
            PacsError: the archive cannot be queried.
        """
        self.warnings, self.doubt, self._studies, self._listed, self._modalities = [], "", {}, {}, {}
        self._exact, self._further = exact, tuple(key for key in FURTHER if key in keys)
        candidates: dict[tuple[str, ...], tuple[FoundSeries, Dataset]] = {}
        for answer in self._candidates(keys):
            series = self._with_study_attributes(answer)
            patient = (series.attributes[key] for key in _PATIENT)
            candidates.setdefault((*patient, *series.series), (series, answer))
            self._learn(answer, [key for key in keys if KEYS[key].level is not Level.IMAGE])
        found: dict[tuple[str, ...], FoundSeries] = {}
        undecided: dict[tuple[str, ...], tuple[FoundSeries, dict[str, str]]] = {}
        for which, (series, _) in candidates.items():
            left = self._undecided_keys(series, keys)
            if left:
                undecided[which] = series, left
            elif left is not None:
                found[which] = series
        self._decide_by_name(undecided, keys)
        # Last, because responses for other series show which keys the archive supports.
        others = [series for series, _ in undecided.values()]
        for which, (series, left) in undecided.items():
            if not left or self._matches_by_archive(series, left, others):
                found[which] = series
        if found:
            self._known.update(keys)
        elif not self.doubt and (unknown := self._unsupported_keys(keys)):
            raise Undecidable(
                f"{self.session.node.name} has shown no value of {', '.join(unknown)} at all: that it finds nothing by "
                "it proves nothing; use another key, or ask the PACS team what it knows of this one"
            )
        return list(found.values())

    def _unsupported_keys(self, keys: Iterable[str]) -> list[str]:
        """Return the keys of a row without results by which this archive finds nothing at all.

        An archive that does not support a key may return no match, instead of ignoring the key (PS3.4 C.4.1.2.2.1). So
        such a key is queried once for any value. An archive without any study has nothing to return; this is queried
        first, because a study that arrives in between would look like one without the key.
        """
        unshown = [k for k in keys if k not in self._returned | self._known and KEYS[k].level is not Level.IMAGE]
        unshown = [k for k in unshown if KEYS[k].vr not in ("UI", "IS") and k != MODALITIES]
        if not unshown or not self._finds_any(query("STUDY", StudyInstanceUID="")):
            return []
        self._known.update(key for key in unshown if self._finds_by_any_value(key))
        return [key for key in unshown if key not in self._known]

    def _finds_by_any_value(self, keyword: str) -> bool:
        """Return whether the archive finds anything by any value of a key, first within studies of the row."""
        level = KEYS[keyword].level.value
        anybody = {keyword: MATCH_ALL.get(KEYS[keyword].vr, "?*"), UID_OF_LEVEL[level]: ""}
        within = [{"StudyInstanceUID": uid} for uid in islice(self._listed, 3)] if level == "SERIES" else []
        return any(self._finds_any(query(level, **{**anybody, **above})) for above in [*within, {}])

    def _finds_any(self, identifier: Dataset) -> bool:
        """Return whether a query finds anything, or too much.

        An archive that refuses the query counts as having found nothing.
        """
        answer = self.session.find(identifier, most=1)
        return bool(answer.identifiers) or answer.unreadable or _is_cut_off(answer.status)

    def _learn(self, answer: Dataset, keys: Iterable[str]) -> None:
        """Record which of these keys the archive returns, and in which character sets."""
        self._returned.update(key for key in keys if values_of(answer, key))
        self.letters.learn(answer)

    def expectation(self, study_uid: str, series_uid: str, count: int | None) -> Expectation:
        """Return the instances that the archive lists for a series, else their number, else nothing.

        A list shorter than the archive's own number is not used: some archives truncate it.

        Args:
            study_uid, series_uid: the series.
            count: NumberOfSeriesRelatedInstances, if an earlier response had it.
        """
        series = FoundSeries(study_uid, series_uid, {})
        try:
            answer = self.session.find_uids(self._image_query(series, {"SOPClassUID": ""}))
            cut = self._is_truncated("IMAGE", answer)
        except Unsupported:
            return Expectation(None, self._count(series, count))
        listed = {
            i["SOPInstanceUID"]: i["SOPClassUID"]
            for i in answer.identifiers
            if i["SOPInstanceUID"] and _belongs_to(i, series)
        }
        with_series = all(image["SeriesInstanceUID"] for image in answer.identifiers)
        if cut or answer.unreadable or not listed or len(listed) < (count or 0) or not with_series:
            # Where images do not return their series, the response may contain those of the whole study.
            count = self._count(series, count)
            if count is None or len(listed) < count or (len(listed) > count and not with_series):
                return Expectation(None, count)
        return Expectation(listed)

    def acquisition_date(self, study_uid: str, series_uid: str) -> str:
        """Return the first AcquisitionDate of a series' images, for an archive that does not return it for the series.

        Empty where it does not return it for images either.

        Raises:
            PacsError: the archive cannot be queried.
        """
        try:
            images = self._images(FoundSeries(study_uid, series_uid, {}), ["AcquisitionDate"])
        except (AnswerUnreadable, ResultLimit, Undecidable):
            return ""
        return min((date for image in images for date in values_of(image, "AcquisitionDate")), default="")

    def image_values(self, study_uid: str, series_uid: str, keywords: Sequence[str]) -> dict[str, list[str]]:
        """Return what the images of a series tell of attributes: the different values, by keyword.

        Empty where the archive does not tell, or not in a way that can be read.

        Raises:
            PacsError: the archive cannot be queried.
        """
        try:
            images = self._images(FoundSeries(study_uid, series_uid, {}), keywords)
        except (AnswerUnreadable, ResultLimit, Undecidable):
            return {}
        values = ((k, dict.fromkeys(chain.from_iterable(values_of(i, k) for i in images))) for k in keywords)
        return {keyword: list(told) for keyword, told in values if told}

    def _count(self, series: FoundSeries, known: int | None) -> int | None:
        """Return NumberOfSeriesRelatedInstances now; the known number where the archive does not return it.

        Zero counts as unknown: archives that do not count return it, and no series is empty.
        """
        counts = self._values_for_series(series, "NumberOfSeriesRelatedInstances")
        return (int(counts[0]) if len(counts) == 1 and counts[0].isdigit() else known) or None

    def availability(self, study_uid: str, series_uid: str) -> str:
        """Return Instance Availability (0008,0056; PS3.4 C.4.1.1.3) of a series now; empty where it is not returned."""
        values = self._values_for_series(FoundSeries(study_uid, series_uid, {}), "InstanceAvailability")
        return values[0] if len(values) == 1 else ""

    def _values_for_series(self, series: FoundSeries, keyword: str) -> list[str]:
        """Return the values of a key that the archive returns for a series."""
        keys = {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.series_uid}
        try:
            answer, _ = self._ask("SERIES", query("SERIES", **keys, **{keyword: ""}))
        except Unsupported:
            return []
        return [value for match in answer.identifiers for value in values_of(match, keyword)]

    # Candidates: a superset, each once

    def _candidates(self, keys: Mapping[str, str]) -> Iterable[Dataset]:
        """Yield candidate series: by one relational query where the archive supports it, else level by level.

        Relational queries are reliable only if they were negotiated (PS3.4 C.4.1.3.2.1), which hardly any archive does.
        Some archives then ignore the keys of the upper levels and list everything. So one study is queried as a test
        first. A row without a study key is queried relationally in any case: level by level, it would list the whole
        archive. An empty result of a relational query counts only where no study key can have caused it.
        """
        of_study = {k: v for k, v in keys.items() if KEYS[k].level is Level.STUDY}
        if not of_study or (self._relational and MODALITIES not in keys):
            try:
                found = self._all("SERIES", keys, keys)
                if found or (self._relational and not of_study):
                    return found
            except Unsupported:
                self._relational = False
        return self._hierarchically(keys, of_study)

    def _hierarchically(self, keys: Mapping[str, str], of_study: Mapping[str, str]) -> Iterator[Dataset]:
        of_series = {k: v for k, v in keys.items() if KEYS[k].level is Level.SERIES}
        studies = self._all("STUDY", of_study, of_study)
        for study in studies:
            self._learn(study, of_study)
        for study in studies:
            if all(self._may_match(study, k, v) for k, v in of_study.items()):
                self._listed.setdefault(str(study.StudyInstanceUID), []).append(study)
        for study_uid, (study, *_) in self._listed.items():  # a study under two patients is queried once
            found = self._all("SERIES", {}, {**of_series, "StudyInstanceUID": study_uid})
            if self._relational is None and found:
                self._relational = self.try_relational(study, found[0])
            for series in found:
                if str(series.get("StudyInstanceUID") or study_uid) == study_uid:
                    series.StudyInstanceUID = study_uid
                    yield series
            if self._relational and not of_study:
                return  # the relational query before was equivalent

    def _may_match(self, answer: Dataset, keyword: str, wanted: str) -> bool:
        values = values_of(answer, keyword)
        return not values or self._matches(keyword, wanted, values) or self.letters.leave_open(keyword, wanted, values)

    def _matches(self, keyword: str, wanted: str, values: Sequence[str]) -> bool:
        return matches(keyword, wanted, values, self._exact)

    def try_relational(self, study: Dataset, series: Dataset) -> bool | None:
        """Return whether a query at SERIES level respects a patient key; None where this study cannot tell."""
        patient_id = "".join(values_of(study, "PatientID"))
        study_uid, uid = str(study.StudyInstanceUID), str(series.SeriesInstanceUID)
        if not (patient_id.isalnum() and patient_id.isascii()):
            return None
        try:
            of_no_patient = query(
                "SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID="", PatientID=secrets.token_hex(8)
            )
            if self._ask("SERIES", of_no_patient)[0].identifiers:
                return False
            somebody = query("SERIES", StudyInstanceUID="", SeriesInstanceUID=uid, PatientID=patient_id)
            answers = self._ask("SERIES", somebody)[0].identifiers
        except Unsupported:
            return False
        return [str(answer.get("StudyInstanceUID", "")) for answer in answers] == [study_uid]

    def _all(self, level: str, keys: Mapping[str, str], sendable: Mapping[str, str]) -> list[Dataset]:
        """Return every match at a level once.

        The query is repeated for spellings of names and several values of a key, and split where the archive truncates.
        """
        wanted = (*return_keys(level, self._further), *(self.also if level == "SERIES" else ()), UID_OF_LEVEL[level])
        identifier = query(level, **dict.fromkeys(wanted, ""))
        sent = {k: values_to_send(k, v) for k, v in sendable.items() if self._may_be_sent(k, level, keys)}
        times: dict[str, str] = {}
        if any(set(keys.get(k, "*")).isdisjoint("*?") for k in _IDS):
            # An id is narrow enough. An archive may store a date as 2020.01.01, and not find it by the sent value.
            times = {k: one for k, (one, *_) in sent.items() if KEYS[k].vr in ("DA", "TM") and one}
            sent = {k: values for k, values in sent.items() if k not in times}
        sent |= self._spellings(keys)
        found: dict[tuple[str, ...], Dataset] = {}
        for values in product(*sent.values()):
            one = deepcopy(identifier)
            for keyword, value in zip(sent, values, strict=True):
                setattr(one, keyword, value)
            for which, match in self._complete(level, one, times).items():
                found.setdefault(which, match)
        return list(found.values())

    def _may_be_sent(self, keyword: str, level: str, keys: Mapping[str, str]) -> bool:
        """Return whether the archive may narrow its responses by a key; otherwise the key is filtered here.

        SeriesNumber: archives compare it as text, where 1 and 01 differ. ModalitiesInStudy: below STUDY level Orthanc
        finds nothing by it, and some archives do not compare each of its values.
        """
        if keyword == MODALITIES:
            return level == "STUDY" and not _NARROW & keys.keys()
        return KEYS[keyword].level is not Level.IMAGE and keyword != "SeriesNumber"

    def _spellings(self, keys: Mapping[str, str]) -> dict[str, list[str]]:
        """Return the spellings of names to send.

        Names are matched here. They are sent only where nothing else narrows the row.
        """
        if _NARROW & keys.keys():
            return {}
        wide = {key: wide_name_keys(name) for key, name in keys.items() if KEYS[key].vr == "PN"}
        for key in (key for key, spellings in wide.items() if not spellings):
            self._warn(f"{key} cannot narrow the query: all studies that the other keys allow were listed")
        return {key: spellings for key, spellings in wide.items() if spellings}

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    # Querying

    def _ask(self, level: str, identifier: Dataset, may_be_undecodable: bool = False) -> tuple[Matches[Dataset], bool]:
        """Send one C-FIND. The second value is whether the archive truncated its responses.

        0xA7xx and 0xFE00 (which we did not request) count as truncated: archives refuse a query with too many matches
        so.

        Args:
            level: query/retrieve level.
            identifier: the query.
            may_be_torn: the caller handles undecodable matches.

        Raises:
            Unsupported: the archive refuses this level or these keys (any other failure, such as 0xA900, 0xCxxx).
            AnswerUnreadable: a match cannot be decoded.
        """
        answer = self.session.find(identifier)
        if answer.unreadable and not may_be_undecodable:
            raise self._unreadable(level)
        return answer, self._is_truncated(level, answer)

    def _is_truncated(self, level: str, answer: Matches[Any]) -> bool:
        """Return whether the archive truncated its responses. Raise Unsupported as `_ask` does."""
        node, status = self.session.node, answer.status
        if status != 0x0000 and not _is_cut_off(status):
            raise Unsupported(f"{node.name}: refuses a C-FIND at {level} level (0x{status:04X})")
        return status != 0x0000 or 0 < node.result_limit <= len(answer.identifiers)

    def _fetch_undecodable(self, level: str, identifier: Dataset, answer: Matches[Dataset]) -> None:
        """Add the matches that could not be decoded: query their UIDs alone, then each of them by its UID.

        Raises:
            AnswerUnreadable: these responses cannot be decoded either.
        """
        uid = UID_OF_LEVEL[level]
        uids = list(UID_OF_LEVEL.values())
        bare = Dataset()
        bare.update({e.tag: e for e in identifier if not e.is_empty or e.keyword in uids})
        read = {str(match.get(uid)) for match in answer.identifiers}
        for match in self._ask(level, bare)[0].identifiers:
            if (one := str(match.get(uid) or "")) not in read:
                alone = deepcopy(identifier)
                setattr(alone, uid, one)
                answer.identifiers += self._ask(level, alone)[0].identifiers
                read.add(one)

    def _unreadable(self, level: str) -> AnswerUnreadable:
        return AnswerUnreadable(
            f"{self.session.node.name}: a match at {level} level cannot be decoded, so the row may have more than was "
            "found; have the PACS team look at what it holds"
        )

    def _complete(
        self, level: str, identifier: Dataset, narrower: Mapping[str, str] | None = None
    ) -> dict[tuple[str, ...], Dataset]:
        """Return all matches of a query. It is split by StudyDate, then StudyTime, as often as the archive truncates.

        Args:
            level: query/retrieve level.
            identifier: the query.
            narrower: keys that are added first in that case.

        Raises:
            ResultLimit: it cannot be split any further, or no range finds a match that the archive has returned.
            AnswerUnreadable: a match cannot be decoded, even alone.
        """
        answer, cut = self._ask(level, identifier, may_be_undecodable=True)
        uid, name = UID_OF_LEVEL[level], self.session.node.name
        if answer.unreadable:
            self._fetch_undecodable(level, identifier, answer)
        if not all(match.get(uid) for match in answer.identifiers):
            raise Unsupported(f"{name}: answers at {level} level without {uid}")
        seen = {entity(level, match): match for match in answer.identifiers}
        if not cut:
            return seen
        if narrower:
            within = deepcopy(identifier)
            for keyword, value in narrower.items():
                setattr(within, keyword, value)
            return self._complete(level, within)
        if identifier.get("StudyInstanceUID"):
            raise ResultLimit(f"{name}: cuts the answer off at its result limit within one study; {_ADVICE}")
        axis = axis_of(identifier)
        parts = axis.parts(identifier, seen.values())
        if not parts:
            raise ResultLimit(f"{name}: cuts the answer off at its result limit within one second; {_ADVICE}")
        found: dict[tuple[str, ...], Dataset] = {}
        for part in parts:
            found.update(self._complete(level, part))
        if not identifier.get(axis.keyword):
            # A range finds no study without the attribute. If the archive has returned such a study, the loss is
            # certain; if not, it is possible.
            if seen.keys() - found.keys():
                raise ResultLimit(
                    f"{name}: cuts the answer off, and holds studies without {axis.keyword} that no range finds; "
                    f"{_ADVICE}"
                )
            self._doubt(
                f"{name}: cuts the answer off, and was asked by ranges of {axis.keyword}: studies without one, should "
                f"there be any, are not found so; {_ADVICE}"
            )
        return found

    def _image_query(self, series: FoundSeries, keys: Mapping[str, str]) -> Dataset:
        uids = {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.series_uid, "SOPInstanceUID": ""}
        return query("IMAGE", **{**uids, **keys})

    # Deciding

    def _with_study_attributes(self, candidate: Dataset) -> FoundSeries:
        """Return the candidate, with study attributes from STUDY level where the SERIES level did not return them."""
        if not candidate.get("StudyInstanceUID"):
            raise Unsupported(f"{self.session.node.name}: answers at SERIES level without StudyInstanceUID")
        attributes = {
            k: "\\".join(values_of(candidate, k))
            for k in (*return_keys("SERIES", self._further), *self._further, *self.also)
        }
        study_uid = str(candidate.StudyInstanceUID)
        series = FoundSeries(study_uid, str(candidate.SeriesInstanceUID), attributes)
        of_study = return_keys("STUDY", self._further)
        wanted = ("PatientID", *of_study[len(STUDY_KEYS) :])
        if any(k not in candidate for k in STUDY_KEYS if k != "IssuerOfPatientID") or not all(
            attributes[k] for k in wanted
        ):
            study = self._study_of(series)
            for keyword in of_study:
                if study is not None and not attributes[keyword]:
                    attributes[keyword] = "\\".join(values_of(study, keyword))
        if not attributes.get(MODALITIES, "-"):
            attributes[MODALITIES] = self._modalities_of(study_uid)
        return series

    def _modalities_of(self, study_uid: str) -> str:
        """Return ModalitiesInStudy from the series of a study; empty where it is uncertain.

        This is for archives that do not return the attribute.
        """
        if study_uid not in self._modalities:
            series = query("SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID="", Modality="")
            answer, cut = self._ask("SERIES", series)
            modalities = [values_of(match, "Modality") for match in answer.identifiers]
            sure = not cut and all(modalities) and not self.has_several_patients(study_uid)
            self._modalities[study_uid] = "\\".join(sorted(set(chain.from_iterable(modalities)))) if sure else ""
        return self._modalities[study_uid]

    def _study_of(self, series: FoundSeries) -> Dataset | None:
        """Return the response at STUDY level for the study of a series.

        Where several patients have the study, it is the response for the patient of the series.

        Raises:
            Undecidable: the archive does not return the patient of the series.
        """
        uid, attributes = series.study_uid, series.attributes
        studies = _by_patient(
            (attributes["PatientID"] and self._listed.get(uid)) or self._studies_with_uid(uid), attributes
        )
        if len(studies) > 1:
            # Below STUDY level archives may omit patient keys, but return them for images.
            try:
                patients = _by_patient(self._images(series, _PATIENT), {})
            except Undecidable:  # it refuses to list images
                patients = []
            known = len(patients) == 1 and values_of(patients[0], "PatientID")
            studies = _by_patient(studies, _texts(patients[0])) if known else []
            if len(studies) != 1:
                raise Undecidable(
                    f"{self.session.node.name} holds a study under several patients, and tells of none of its series "
                    "whose it is: the row cannot be decided; see with the PACS team whose the study is"
                )
        return studies[0] if studies else None

    def has_several_patients(self, study_uid: str) -> bool:
        """Return whether the archive has a study under several patients."""
        return len(_by_patient(self._studies_with_uid(study_uid), {})) > 1

    def has_another_patient(self, study_uid: str, attributes: Mapping[str, str]) -> bool:
        """Return whether the archive has a study, maybe among others, under another patient than these attributes say.

        Raises:
            PacsError: the archive cannot be queried.
        """
        return any(two_people(_texts(answer), attributes) for answer in self._studies_with_uid(study_uid))

    def _studies_with_uid(self, study_uid: str) -> list[Dataset]:
        """Return all studies with a Study Instance UID: there may be one for each of several patients."""
        if study_uid not in self._studies:
            wanted = dict.fromkeys(return_keys("STUDY", self._further), "")
            identifier = query("STUDY", **{**wanted, "StudyInstanceUID": study_uid})
            answer, _ = self._ask("STUDY", identifier)
            self._studies[study_uid] = answer.identifiers
        return self._studies[study_uid]

    def _undecided_keys(self, series: FoundSeries, keys: Mapping[str, str]) -> dict[str, str] | None:
        """Return keys of the row that the responses do not decide; None where another key does not match the series.

        A key without a value is queried again at IMAGE level: archives that return series keys empty may return them
        there.
        """
        untold: dict[str, str] = {}
        unproven: dict[str, str] = {}
        for keyword, wanted in keys.items():
            text = series.attributes.get(keyword, "")
            if KEYS[keyword].level is Level.IMAGE or not text:
                untold[keyword] = wanted
            elif not self.letters.prove(series.study_uid, keyword, wanted, text.split("\\")):
                unproven[keyword] = wanted
            elif not self._matches(keyword, wanted, text.split("\\")):
                return None
        if untold:
            images = self._images(series, untold)
            if any(self._image_matches(image, untold) for image in images):
                return untold | unproven if unproven else {}
            if not self._undecided_by_images(series, images, untold):
                return None
        return untold | unproven

    def _image_matches(self, image: Dataset, keys: Mapping[str, str]) -> bool:
        return all(self._matches(k, v, values_of(image, k)) for k, v in keys.items())

    def _is_literal(self, wanted: str) -> bool:
        """Return whether a value contains characters that an archive would treat as wildcards, but must not."""
        return self._exact and not set("*?").isdisjoint(wanted)

    def _images(self, series: FoundSeries, keys: Collection[str]) -> list[Dataset]:
        """Return the values of these keys for each image of the series."""
        try:
            answer, cut = self._ask("IMAGE", self._image_query(series, dict.fromkeys(keys, "")))
        except Unsupported:
            if unknown := [key for key in keys if key not in self._returned]:
                raise self._undecidable(unknown) from None
            return []
        if cut:
            raise ResultLimit(
                f"{self.session.node.name}: cuts the images of a series off at its result limit, so that "
                f"{', '.join(keys)} cannot be decided for it"
            )
        images = [image for image in answer.identifiers if _belongs_to(image, series)]
        for image in images:
            self._learn(image, keys)
        return images

    def _undecided_by_images(
        self, series: FoundSeries, images: Sequence[Dataset], keys: Mapping[str, str]
    ) -> list[str]:
        """Return the keys that these responses do not decide: never returned by this archive so far, or unreliable."""

        def proven(key: str, wanted: str) -> bool:
            # Without any image, the response for the series is all there is.
            shown = [values_of(image, key) for image in images] or [_values(series.attributes.get(key, ""))]
            return all(self.letters.prove(series.study_uid, key, wanted, values) for values in shown)

        return [key for key, wanted in keys.items() if key not in self._returned or not proven(key, wanted)]

    def _matches_by_archive(
        self, series: FoundSeries, keys: Mapping[str, str], others: Collection[FoundSeries]
    ) -> bool:
        """Return whether an image matches all keys at once, where the archive's own matching decides some of them.

        Args:
            series: the series.
            keys: keys that the responses so far leave open.
            others: series with which to test whether the archive matches on these keys.

        Raises:
            Undecidable: it does not, or not as exactly as the row requires.
        """
        images = self._images(series, keys)
        matched: dict[str, set[str]] = {}
        for keyword in self._undecided_by_images(series, images, keys):
            if not images or not self._archive_matches(keyword, images, others):
                raise self._undecidable([keyword])
            matched[keyword] = self._matched_by_archive(series, keyword, keys[keyword])
            self._warn(_LEFT_TO_ARCHIVE.format(keyword))
        spoken = {k: v for k, v in keys.items() if k not in matched}
        return any(
            self._image_matches(image, spoken)
            and all(str(image.get("SOPInstanceUID", "")) in uids for uids in matched.values())
            for image in images
        )

    def _decide_by_name(
        self, undecided: dict[tuple[str, ...], tuple[FoundSeries, dict[str, str]]], keys: Mapping[str, str]
    ) -> None:
        """Decide on the series that only the patient's name leaves open, by how the archive finds their studies.

        PatientName is a required key at STUDY level (PS3.4 C.6.2.1), so every archive can match on names, even if it
        does not return them. A study that it finds by each word, as a separate word, matches. One that it does not find
        by wide keys does not match. Others may match where archives and people write names differently.

        Raises:
            Undecidable: the archive returns no names, so these others cannot be decided.
        """
        unclear = {which: series for which, (series, left) in undecided.items() if "PatientName" in left}
        if not unclear:
            return
        name = keys["PatientName"]
        if self._is_literal(name):
            raise self._undecidable(["PatientName"])
        self._warn(_LEFT_TO_ARCHIVE.format("PatientName"))
        known = self.letters.names_are_matched(next(iter(unclear.values())).study_uid)
        words = [_forms(word) for word in _words(name)] if known else []
        near = self._named(([f"*{form}*" for form in forms] for forms in words), keys)
        exact = self._named(([b + f + e for f in w for b in _BEFORE for e in _BEHIND] for w in words if near), keys)
        wide = [{blurred(form) for form in _forms(word)} for word in _words(name)]
        possible = near if wide == words else self._named(wide if known else [], keys)
        self.letters.found_by_letters |= bool(near) and not name.isascii()
        for which, series in unclear.items():
            uid, shown = series.study_uid, series.attributes["PatientName"]
            if uid in exact and not self.has_several_patients(uid):
                del undecided[which][1]["PatientName"]
                continue
            del undecided[which]
            returned = "PatientName" in self._returned or name.isascii()
            if not (known and returned and uid not in possible | near and self.letters.absent(name, shown)):
                if "PatientName" not in self._returned:
                    raise self._undecidable(["PatientName"])
                self._doubt(
                    f"{self.session.node.name}: names in its answers have lost letters, and one of them may be the "
                    "wanted one; ask by PatientID, or have the PACS team let it answer in UTF-8 (ISO_IR 192)"
                )

    def _named(self, words: Iterable[Iterable[str]], keys: Mapping[str, str]) -> set[str]:
        """Return the studies that the archive finds by one pattern of each word, and by the row's other keys."""
        of_study = {k: v for k, v in keys.items() if KEYS[k].level is Level.STUDY and k != "PatientName"}
        values = {k: values_to_send(k, v) for k, v in of_study.items() if self._may_be_sent(k, "STUDY", keys)}
        sent = {k: one for k, (one, *others) in values.items() if one and not others}
        named: list[set[str]] = []
        for patterns in words:
            queries = (query("STUDY", **{"StudyInstanceUID": "", **sent, "PatientName": p}) for p in patterns)
            found = chain.from_iterable(self._complete("STUDY", identifier).values() for identifier in queries)
            named.append({str(match.StudyInstanceUID) for match in found})
        return set.intersection(*named) if named else set()

    def _doubt(self, why: str) -> None:
        if why not in self.doubt:
            self.doubt = "; ".join(filter(None, (self.doubt, why)))

    def _archive_matches(self, keyword: str, images: Sequence[Dataset], others: Collection[FoundSeries]) -> bool:
        """Return whether the archive matches on a key that it does not return.

        Then it finds nothing for a value that no object has. But an archive that does not support the key may find
        nothing for any value. So some series must also match a pattern for every value, unless the archive returns the
        key empty, as an attribute without value (PS3.4 C.2.2.1.3).
        """
        if keyword in self._matched:
            return True
        if keyword == MODALITIES:
            return False  # no image has it, so a query below STUDY level shows nothing
        vr = KEYS[keyword].vr
        without_match = MATCH_NOTHING.get(vr) or f"*{secrets.token_hex(7).upper()}*"
        try:
            if any(self._uids_matching(series, keyword, without_match) for series in others):
                return False
            if all(keyword in image for image in images):
                return True
            # No pattern matches every number or every UID.
            anybody = None if vr in ("IS", "UI") else MATCH_ALL.get(vr, "?*")
            if anybody is None or not any(self._uids_matching(series, keyword, anybody) for series in others):
                return False
        except Unsupported:
            return False
        self._matched.add(keyword)
        return True

    def _uids_matching(self, series: FoundSeries, keyword: str, value: str) -> set[str]:
        """Return SOP Instance UIDs of the images that the archive finds by a value; all where it ignores the key."""
        answer, _ = self._ask("IMAGE", self._image_query(series, {keyword: value}))
        uids = {str(image.get("SOPInstanceUID", "")) for image in answer.identifiers}
        return {*uids, ""} if answer.keys_unsupported else uids

    def _matched_by_archive(self, series: FoundSeries, keyword: str, wanted: str) -> set[str]:
        """Return SOP Instance UIDs for which, by the archive's own matching, a key matches.

        Raises:
            Undecidable: something similar matches, and only a returned value could decide.
        """
        if KEYS[keyword].vr == "PN" or self._is_literal(wanted):
            raise self._undecidable([keyword])
        if keyword == "ImageType":
            if any(self._uids_matching(series, keyword, f"*{part}*") for part in wanted.split("\\") if part):
                raise self._undecidable([keyword])
            return set()
        if KEYS[keyword].vr == "TM":
            try:
                return self._uids_matching(series, keyword, seconds_to_send(wanted))
            except ValueError:
                raise self._undecidable([keyword]) from None
        # The typed value: a value widened for the filter here would match too much. Brackets are sets of characters in
        # some archives.
        bracketed = not set("[]").isdisjoint(wanted)
        sent = values_to_send(keyword, wanted) if bracketed else alternatives(keyword, wanted)
        found = set.union(*(self._uids_matching(series, keyword, value) for value in sent))
        if bracketed and found:
            raise self._undecidable([keyword])
        return found

    def _undecidable(self, keys: Iterable[str]) -> Undecidable:
        name = self.session.node.name
        return Undecidable(
            f"{name} neither matches nor returns {', '.join(keys)}: the row cannot be decided; "
            "use another key, or ask the PACS team to enable this one"
        )


# Splitting a query by date, then time

_ADVICE = "narrow the row, or have the limit raised on the PACS"
_DAY = dt.date.max.toordinal()


def _day(text: str) -> int:
    return dt.datetime.strptime(text, "%Y%m%d").toordinal()


def _day_text(day: int) -> str:
    return dt.date.fromordinal(day).isoformat().replace("-", "")


def _second(text: str) -> int:
    clock = text.split(".")[0].ljust(6, "0")
    return int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + min(59, int(clock[4:6]))


def _second_text(second: int) -> str:
    return f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"


@dataclass(frozen=True)
class _Axis:
    """An ordered attribute of the study, whose values are numbered from `first` to `last`.

    Attributes:
        keyword: the attribute.
        first, last: first and last number.
        number, text: convert a value to its number (raises ValueError), and back.
        end: suffix that turns the text of a number into the last moment that it covers.
    """

    keyword: str
    first: int
    last: int
    number: Callable[[str], int]
    text: Callable[[int], str]
    end: str = ""

    def parts(self, identifier: Dataset, answers: Iterable[Dataset]) -> list[Dataset]:
        """Return narrower queries that together cover this one: before, at and after a value in its middle.

        Empty where the query has a single value already.
        """
        low, dash, high = str(identifier.get(self.keyword) or "-").partition("-")
        begin = self.number(low) if low else self.first
        end = (self.number(high) if high else self.last) if dash else begin
        if begin == end:
            return []
        seen = sorted(n for n in (self._value(answer) for answer in answers) if n is not None and begin <= n <= end)
        middle = seen[len(seen) // 2] if seen else (begin + end) // 2
        ranges = [(begin, middle - 1), (middle, middle), (middle + 1, end)]
        return [self._part(identifier, a, b) for a, b in ranges if a <= b]

    def _value(self, answer: Dataset) -> int | None:
        try:
            return self.number(values_of(answer, self.keyword)[0])
        except (IndexError, ValueError):
            return None

    def _part(self, identifier: Dataset, begin: int, end: int) -> Dataset:
        # Open at both ends: some archives then return studies without the attribute as well.
        low = "" if begin == self.first else self.text(begin)
        high = "" if end == self.last else self.text(end) + self.end
        part = deepcopy(identifier)  # a shallow copy shares its elements
        setattr(part, self.keyword, low if low == high else f"{low}-{high}")
        return part


_DATES = _Axis("StudyDate", 1, _DAY, _day, _day_text)
_TIMES = _Axis("StudyTime", 0, 86_399, _second, _second_text, ".999999")


def axis_of(identifier: Dataset) -> _Axis:
    """Return the axis along which to split a query: days, or the seconds of a single day."""
    low, _, high = str(identifier.get("StudyDate") or "-").partition("-")
    return _TIMES if low and high in ("", low) and not str(identifier.StudyDate).endswith("-") else _DATES
