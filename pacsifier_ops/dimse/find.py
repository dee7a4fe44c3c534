"""From the keys of one query row to the series that answer it, and no others (PS3.4 C.4.1).

The archive is asked for a superset, level by level; what counts is our own filter on what it returned.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from pacsifier_ops.dimse.session import Answer, Session, query
from pacsifier_ops.errors import PacsError, ResultLimit, Undecidable, Unsupported
from pacsifier_ops.query.keys import DUMP_COLUMNS, KEYS, Level
from pacsifier_ops.query.match import matches, value_to_send
from pacsifier_ops.query.names import wide_name_keys

#: What the folder names and the expectation need beside the dump's columns.
_MORE_RETURN_KEYS = ("IssuerOfPatientID", "NumberOfSeriesRelatedInstances")
_RETURN_KEYS = (*DUMP_COLUMNS, *_MORE_RETURN_KEYS)
_STUDY_KEYS = tuple(k for k in DUMP_COLUMNS if KEYS[k].level is Level.STUDY) + ("IssuerOfPatientID",)
#: With one of these an archive need not be asked by name: the answer is short enough to filter here.
_NARROW = frozenset(
    ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "StudyDate", "PatientBirthDate")
)
#: Values that nobody has, by VR; random text for the others.
_NOBODY = {"DA": "18581117", "TM": "235959.999999", "IS": "-99999999", "UI": "2.25.1"}
_UID_OF_LEVEL = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


@dataclass
class FoundSeries:
    """A series of the archive.

    Attributes:
        study_uid, series_uid: its identity.
        attributes: text of what the archive returned, by keyword; multiple values joined by a backslash.
    """

    study_uid: str
    series_uid: str
    attributes: dict[str, str]

    @property
    def instances(self) -> int | None:
        """NumberOfSeriesRelatedInstances, where the archive gives it."""
        text = self.attributes.get("NumberOfSeriesRelatedInstances", "")
        return int(text) if text.isdigit() else None


@dataclass
class Expectation:
    """What a series must hold to be complete.

    Attributes:
        instances: SOP Instance UID to SOP Class UID (empty where not returned); None: the archive lists none.
        count: how many, where only that is known; None: not even that.
    """

    instances: dict[str, str] | None
    count: int | None = None


def values_of(identifier: Dataset, keyword: str) -> list[str]:
    """The decoded values of an attribute as text; [] where it is absent or empty."""
    element = identifier.get(keyword)
    if element is None or element == "":
        return []
    items: Iterable[Any] = element if isinstance(element, (MultiValue, list)) else [element]
    return [text for text in (str(item).strip(" \0") for item in items) if text]


def _legible(answer: Dataset, wanted: str) -> bool:
    """Whether an answer could hold what is wanted: an archive that answers in Latin-1 drops all other letters.

    Without SpecificCharacterSet the answer is ASCII because the object is.
    """
    if wanted.isascii() or not answer.get("SpecificCharacterSet"):
        return True
    for encoding in convert_encodings(answer.SpecificCharacterSet):
        try:
            wanted.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            continue
        return True
    return False


def _holds_for(image: Dataset, keys: Mapping[str, str]) -> bool:
    return all(_legible(image, v) and matches(k, v, values_of(image, k)) for k, v in keys.items())


@dataclass
class Finder:
    """Asks one archive. What it learns of the archive's ways serves all rows asked through it.

    Attributes:
        session: the way to the archive.
        warnings: remarks on the last row, without values.
    """

    session: Session
    warnings: list[str] = field(default_factory=list)
    _relational: bool | None = None
    _studies: dict[str, Dataset | None] = field(default_factory=dict)
    _returned: set[str] = field(default_factory=set)

    def series(self, keys: Mapping[str, str]) -> list[FoundSeries]:
        """All series for which every key of the row holds; keys of images fold back to their series.

        Raises:
            Undecidable: the archive neither matches nor returns one of the keys.
            ResultLimit: the archive cuts its answers off and the query cannot be split any further.
            PacsError: the archive cannot be asked.
        """
        self.warnings, self._studies = [], {}
        found: dict[str, FoundSeries] = {}
        open_ones: dict[str, FoundSeries] = {}
        for candidate in self._candidates(keys):
            series = self._described(candidate)
            if series.series_uid in found or series.series_uid in open_ones:
                continue
            holds = self._holds(series, candidate, keys)
            if holds is None:
                open_ones[series.series_uid] = series
            elif holds:
                found[series.series_uid] = series
        for uid, series in open_ones.items():
            if self._holds_by_archive(series, keys):
                found[uid] = series
        return list(found.values())

    def expectation(self, study_uid: str, series_uid: str, count: int | None) -> Expectation:
        """The instances the archive lists for a series, else their number, else nothing.

        Args:
            count: NumberOfSeriesRelatedInstances, where known.
        """
        try:
            answer, cut = self._ask(
                "IMAGE", self._image_query(FoundSeries(study_uid, series_uid, {}), {"SOPClassUID": ""})
            )
        except Unsupported:
            return Expectation(None, count)
        listed = {
            str(i.SOPInstanceUID): str(i.get("SOPClassUID", ""))
            for i in answer.identifiers
            if i.get("SOPInstanceUID") and str(i.get("SeriesInstanceUID", series_uid)) == series_uid
        }
        if cut or (not listed and count != 0):
            return Expectation(None, count)
        return Expectation(listed)

    # Candidates: a superset, by UID once

    def _candidates(self, keys: Mapping[str, str]) -> Iterable[Dataset]:
        """Series in one query across the levels where the archive is known to do that, else level by level.

        Only negotiation makes a relational query reliable (PS3.4 C.4.1.3.2.1), and hardly an archive negotiates
        it; asked so, some ignore the keys of the upper levels and list everything. So it is tried out first,
        on one study. A row without a key of the study is asked across the levels anyway: level by level, it
        would list the whole archive.
        """
        of_study = {k: v for k, v in keys.items() if KEYS[k].level is Level.STUDY}
        if not of_study or self._relational:
            try:
                found = self._all("SERIES", keys, keys, _RETURN_KEYS)
                if found or self._relational:
                    return found
            except Unsupported:
                self._relational = False
        return self._hierarchically(keys, of_study)

    def _hierarchically(self, keys: Mapping[str, str], of_study: Mapping[str, str]) -> Iterable[Dataset]:
        of_series = {k: v for k, v in keys.items() if KEYS[k].level is Level.SERIES}
        for study in self._all("STUDY", of_study, of_study, _STUDY_KEYS):
            study_uid = str(study.StudyInstanceUID)
            self._studies[study_uid] = study
            found = self._all("SERIES", {}, {**of_series, "StudyInstanceUID": study_uid}, _RETURN_KEYS)
            if self._relational is None and found:
                self._relational = self._try_relational(study, found[0])
            for series in found:
                series.StudyInstanceUID = study_uid
                yield series

    def _try_relational(self, study: Dataset, series: Dataset) -> bool | None:
        """Whether a SERIES level query honours a key of the patient; None where this study cannot tell."""
        patient_id, uid = values_of(study, "PatientID"), str(series.SeriesInstanceUID)
        if not patient_id or not patient_id[0].isalnum() or not patient_id[0].isascii():
            return None
        study_uid = str(study.StudyInstanceUID)
        try:
            nobody = query("SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID="", PatientID=secrets.token_hex(8))
            if self._ask("SERIES", nobody)[0].identifiers:
                return False
            somebody = query("SERIES", StudyInstanceUID="", SeriesInstanceUID=uid, PatientID=patient_id[0])
            return [str(s.get("StudyInstanceUID", "")) for s in self._ask("SERIES", somebody)[0].identifiers] == [
                study_uid
            ]
        except Unsupported:
            return False

    def _all(
        self, level: str, keys: Mapping[str, str], sendable: Mapping[str, str], return_keys: Sequence[str]
    ) -> list[Dataset]:
        """Every match at a level, by UID once: over the spellings of the name, split where the archive cuts off."""
        uid = _UID_OF_LEVEL[level]
        # SeriesNumber: archives compare it as text, and 1 is not 01 to them; it is filtered here.
        sent = {k: value_to_send(k, v) for k, v in sendable.items() if KEYS[k].level is not Level.IMAGE}
        sent = {k: v for k, v in sent.items() if v and k != "SeriesNumber"}
        found: dict[str, Dataset] = {}
        for spelling in self._spellings(keys):
            identifier = query(level, **dict.fromkeys((*return_keys, uid), ""))
            for keyword, value in {**sent, **spelling}.items():
                setattr(identifier, keyword, value)
            for match in self._split(level, identifier):
                if match.get(uid):
                    found.setdefault(str(match[uid].value), match)
        return list(found.values())

    def _spellings(self, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Names are matched here; the archive is asked by name only where nothing else narrows the row."""
        if "PatientName" not in keys or _NARROW & keys.keys():
            return [{}]
        wide = wide_name_keys(keys["PatientName"])
        if not wide:
            self.warnings.append("PatientName cannot narrow the query on this archive: all its studies were listed")
        return [{"PatientName": spelling} for spelling in wide] or [{}]

    # Asking

    def _ask(self, level: str, identifier: Dataset) -> tuple[Answer, bool]:
        """One C-FIND; the second value tells whether the archive cut the answer off.

        0xA7xx counts as cut off: that is how archives refuse a query with too many matches.

        Raises:
            Unsupported: the archive refuses this level or these keys (0xA900, 0xCxxx, 0x0122).
        """
        answer = self.session.find(identifier)
        node, count = self.session.node, len(answer.identifiers)
        if 0xA700 <= answer.status <= 0xA7FF or answer.status == 0xB001:
            return answer, True
        if answer.status == 0xA900 or answer.status == 0x0122 or 0xC000 <= answer.status <= 0xCFFF:
            raise Unsupported(f"{node.name}: refuses a C-FIND at {level} level (0x{answer.status:04X})")
        if answer.status != 0x0000:
            raise PacsError(f"{node.name}: a C-FIND at {level} level ended with status 0x{answer.status:04X}")
        return answer, 0 < node.result_limit <= count

    def _split(self, level: str, identifier: Dataset) -> Iterable[Dataset]:
        """All matches of a query, split by StudyDate, then StudyTime, as often as the archive cuts it off."""
        answer, cut = self._ask(level, identifier)
        yield from answer.identifiers
        if cut:
            for part in _parts(identifier, answer.identifiers, self.session.node.name):
                yield from self._split(level, part)

    def _image_query(self, series: FoundSeries, keys: Mapping[str, str]) -> Dataset:
        uids = {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.series_uid, "SOPInstanceUID": ""}
        return query("IMAGE", **{**uids, **keys})

    # Deciding

    def _described(self, candidate: Dataset) -> FoundSeries:
        """The candidate with what its study level must tell where the series level did not."""
        if not candidate.get("StudyInstanceUID") or not candidate.get("SeriesInstanceUID"):
            raise PacsError(f"{self.session.node.name}: answers at SERIES level without the UIDs of study and series")
        attributes = {k: "\\".join(values_of(candidate, k)) for k in _RETURN_KEYS}
        study_uid = str(candidate.StudyInstanceUID)
        if any(k not in candidate for k in _STUDY_KEYS if k != "IssuerOfPatientID") or not attributes["PatientID"]:
            study = self._study(study_uid)
            for keyword in _STUDY_KEYS:
                if study is not None and not attributes[keyword]:
                    attributes[keyword] = "\\".join(values_of(study, keyword))
        return FoundSeries(study_uid, str(candidate.SeriesInstanceUID), attributes)

    def _study(self, study_uid: str) -> Dataset | None:
        if study_uid not in self._studies:
            identifier = query("STUDY", **{**dict.fromkeys(_STUDY_KEYS, ""), "StudyInstanceUID": study_uid})
            answer, _ = self._ask("STUDY", identifier)
            self._studies[study_uid] = answer.identifiers[0] if answer.identifiers else None
        return self._studies[study_uid]

    def _holds(self, series: FoundSeries, candidate: Dataset, keys: Mapping[str, str]) -> bool | None:
        """Whether every key of the row holds for the series, by what the archive returns; None: it returns too little."""
        undecided: dict[str, str] = {}
        for keyword, wanted in keys.items():
            text = series.attributes.get(keyword, "")
            if KEYS[keyword].level is Level.IMAGE or not text or not _legible(candidate, wanted):
                undecided[keyword] = wanted
            elif not matches(keyword, wanted, text.split("\\")):
                return False
        if not undecided:
            return True
        images = self._images(series, undecided)
        if any(_holds_for(image, undecided) for image in images):
            return True
        return None if self._silent(images, undecided) else False

    def _images(self, series: FoundSeries, keys: Iterable[str]) -> list[Dataset]:
        """What the archive returns of these keys for each image of the series."""
        try:
            answer, cut = self._ask("IMAGE", self._image_query(series, dict.fromkeys(keys, "")))
        except Unsupported:
            raise self._undecidable(keys) from None
        if cut:
            raise ResultLimit(
                f"{self.session.node.name}: cuts the images of a series off at its result limit, so that "
                f"{', '.join(keys)} cannot be decided for it"
            )
        self._returned.update(k for k in keys if any(values_of(image, k) for image in answer.identifiers))
        return answer.identifiers

    def _silent(self, images: Sequence[Dataset], keys: Mapping[str, str]) -> list[str]:
        """Keys of which these answers tell nothing: never returned by this archive so far, or not legible."""
        return [
            k
            for k, wanted in keys.items()
            if k not in self._returned or not all(_legible(image, wanted) for image in images)
        ]

    def _holds_by_archive(self, series: FoundSeries, keys: Mapping[str, str]) -> bool:
        """Whether an image satisfies all keys at once, where the archive itself must say so for some of them.

        Raises:
            Undecidable: it does not match on one of those.
        """
        asked = {k: v for k, v in keys.items() if KEYS[k].level is Level.IMAGE or not series.attributes.get(k)}
        asked |= {k: v for k, v in keys.items() if not v.isascii()}
        images = self._images(series, asked)
        silent = self._silent(images, asked)
        matched: dict[str, set[str]] = {}
        for keyword in silent:
            if not images or not self._archive_matches(series, keyword):
                raise self._undecidable([keyword])
            matched[keyword] = self._matched_by_archive(series, keyword, keys[keyword])
        spoken = {k: v for k, v in asked.items() if k not in matched}
        return any(
            _holds_for(image, spoken) and all(str(image.get("SOPInstanceUID", "")) in uids for uids in matched.values())
            for image in images
        )

    def _archive_matches(self, series: FoundSeries, keyword: str) -> bool:
        """Whether the archive matches on a key that it does not return: it must find nothing for a value nobody has."""
        value = _NOBODY.get(KEYS[keyword].vr) or f"*{secrets.token_hex(7).upper()}*"
        try:
            answer, _ = self._ask("IMAGE", self._image_query(series, {keyword: value}))
        except Unsupported:
            return False
        return not answer.identifiers and not answer.keys_unsupported

    def _matched_by_archive(self, series: FoundSeries, keyword: str, wanted: str) -> set[str]:
        """SOP Instance UIDs for which the archive itself says that a key holds; for a name, each of its words."""
        values = [value_to_send(keyword, wanted)]
        if KEYS[keyword].vr == "PN":
            values = [f"*{word}*" for word in wanted.replace("^", " ").replace(",", " ").replace("=", " ").split()]
        elif keyword == "ImageType":
            values = [f"*{part}*" for part in wanted.split("\\") if part]
        elif not wanted.isascii():
            values = [wanted]
        found = [self._ask("IMAGE", self._image_query(series, {keyword: v}))[0].identifiers for v in values]
        uids = set.intersection(*({str(image.get("SOPInstanceUID", "")) for image in images} for images in found))
        if uids and keyword == "ImageType":
            raise self._undecidable([keyword])  # it matched some part of some value; which, only an answer could tell
        return uids

    def _undecidable(self, keys: Iterable[str]) -> Undecidable:
        name = self.session.node.name
        return Undecidable(
            f"{name} neither matches nor returns {', '.join(keys)}: the row cannot be decided; "
            "use another key, or ask the PACS team to enable this one"
        )


# Splitting a query by date, then time


def _parts(identifier: Dataset, answers: Sequence[Dataset], name: str) -> list[Dataset]:
    """Three narrower queries that together cover the one cut off: before, at and after a value in the middle.

    Raises:
        ResultLimit: the query asks for one second already, or holds studies that no range can find.
    """
    date = str(identifier.get("StudyDate", "") or "")
    if date and "-" not in date:
        return _around(identifier, answers, name, "StudyTime")
    return _around(identifier, answers, name, "StudyDate")


_BOUNDS = {"StudyDate": ("00010101", "99991231"), "StudyTime": ("000000", "235959")}


def _around(identifier: Dataset, answers: Sequence[Dataset], name: str, keyword: str) -> list[Dataset]:
    advice = "narrow the row, or have the limit raised on the PACS"
    if "StudyInstanceUID" in identifier and identifier.StudyInstanceUID:
        raise ResultLimit(f"{name}: cuts the answer off at its result limit within one study; {advice}")
    lowest, highest = _BOUNDS[keyword]
    wanted = str(identifier.get(keyword, "") or "")
    low, dash, high = wanted.partition("-")
    low, high = low.split(".")[0] or lowest, (high.split(".")[0] if dash else low.split(".")[0]) or highest
    given = [v[0].split(".")[0] for v in (values_of(a, keyword) for a in answers) if v]
    seen = sorted(v.ljust(len(lowest), "0") for v in given if v.isdigit())
    if len(seen) < len(answers) and not wanted:
        # A range finds no study without the attribute, so no set of ranges covers this query.
        raise ResultLimit(
            f"{name}: cuts the answer off, and holds studies without {keyword} that no range finds; {advice}"
        )
    inside = [v for v in seen if low <= v <= high]
    if low == high:
        if keyword == "StudyDate":
            return [_with(identifier, "StudyDate", low)]
        raise ResultLimit(f"{name}: cuts the answer off at its result limit within one second; {advice}")
    middle = inside[len(inside) // 2] if inside else _between(keyword, low, high)
    parts = []
    if low < middle:
        parts.append(_with(identifier, keyword, _range(keyword, low, _step(keyword, middle, -1))))
    parts.append(_with(identifier, keyword, _range(keyword, middle, middle)))
    if middle < high:
        parts.append(_with(identifier, keyword, _range(keyword, _step(keyword, middle, +1), high)))
    return parts


def _with(identifier: Dataset, keyword: str, value: str) -> Dataset:
    part = Dataset()
    part.update(identifier)
    setattr(part, keyword, value)
    return part


def _range(keyword: str, low: str, high: str) -> str:
    if keyword == "StudyTime":
        return f"{low}-{high}.999999"
    return low if low == high else f"{low}-{high}"


def _moment(keyword: str, text: str) -> dt.datetime:
    if keyword == "StudyDate":
        return dt.datetime.strptime(text, "%Y%m%d")
    return dt.datetime.strptime("20000101" + text, "%Y%m%d%H%M%S")


def _text(keyword: str, moment: dt.datetime) -> str:
    # strftime does not pad years below 1000.
    if keyword == "StudyDate":
        return f"{moment.year:04d}{moment.month:02d}{moment.day:02d}"
    return f"{moment.hour:02d}{moment.minute:02d}{moment.second:02d}"


def _step(keyword: str, text: str, by: int) -> str:
    unit = dt.timedelta(days=1) if keyword == "StudyDate" else dt.timedelta(seconds=1)
    return _text(keyword, _moment(keyword, text) + by * unit)


def _between(keyword: str, low: str, high: str) -> str:
    start = _moment(keyword, low)
    return _text(keyword, start + (_moment(keyword, high) - start) / 2)
