"""Scores what a tool made of the corpus against the answer key, value by value, in the categories of MIDI-B.

The tool is a callable: it reads a folder, and writes what it makes of the files, under any names, into another.
"""

from __future__ import annotations

import re
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.values import convert_value

from tests.support.deid_corpus import DATE, OWN_UID, TOKEN, Source, keyword, needles, text_of
from tests.support.deid_key import STRICT, Category, Planted, Policy, Step, expected


@dataclass(frozen=True)
class Who:
    """Whom a patient is to become; tools that choose themselves are held to what they chose.

    Attributes:
        pseudonym: the new PatientID.
        shift: days that dates move by.
    """

    pseudonym: str
    shift: int


#: Reads a folder, writes another one; the third argument says who becomes whom, by PatientID.
Tool = Callable[[Path, Path, Mapping[str, Who]], None]


@dataclass(frozen=True)
class Miss:
    """A value that did not become what it must."""

    category: Category
    kind: str
    number: int
    where: str

    def __str__(self) -> str:
        return f"{self.category}: object {self.number}, {self.kind}: {self.where}"


@dataclass
class Score:
    """How a tool did.

    Attributes:
        asked, met: values per category.
        lost: objects that did not come out and should have.
        kept_back: objects that did not come out, and may: there is text in their pixels or documents.
        planted: values that must not be found in any file.
        survivors: those of them that are, as object and value.
    """

    asked: Counter[Category] = field(default_factory=Counter)
    met: Counter[Category] = field(default_factory=Counter)
    misses: list[Miss] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    kept_back: list[int] = field(default_factory=list)
    planted: int = 0
    survivors: list[tuple[int, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of all values, those that became what they must, in percent."""
        return 100 * sum(self.met.values()) / max(sum(self.asked.values()), 1)

    def of(self, category: Category) -> float:
        return 100 * self.met[category] / max(self.asked[category], 1)

    @property
    def is_safe(self) -> bool:
        """Whether nothing is left that had to go, and every reference holds."""
        return not self.survivors and all(self.met[category] == self.asked[category] for category in STRICT)

    def count(self, category: Category, met: bool, source: Source, planted: Planted | None = None) -> None:
        self.asked[category] += 1
        self.met[category] += met
        if not met:
            self.misses.append(Miss(category, source.kind, source.number, _where(planted) if planted else ""))


def table(scores: Mapping[str, Score]) -> list[str]:
    """Scores side by side, as Markdown: percent of the values that were asked for."""
    lines = [
        f"| category | {' | '.join(scores)} |",
        f"|---|{'---:|' * len(scores)}",
    ]
    for category in Category:
        cells = [
            f"{percent(score.of(category))} of {score.asked[category]:,}" if score.asked[category] else "–"
            for score in scores.values()
        ]
        lines.append(f"| {category} | {' | '.join(cells)} |")
    totals = [f"**{percent(score.share)}** of {sum(score.asked.values()):,}" for score in scores.values()]
    left = [f"{len(score.survivors):,} of {score.planted:,}" for score in scores.values()]
    lost = [str(len(score.lost)) for score in scores.values()]
    kept = [str(len(score.kept_back)) for score in scores.values()]
    return [
        *lines,
        f"| all | {' | '.join(totals)} |",
        f"| planted values found in the files | {' | '.join(left)} |",
        f"| objects kept back, with text in pixels or documents | {' | '.join(kept)} |",
        f"| other objects that did not come out | {' | '.join(lost)} |",
    ]


def percent(share: float) -> str:
    """Never 100 % where something was missed."""
    return "100 %" if share == 100 else f"{min(share, 99.99):.2f} %"


def score(
    sources: Iterable[Source],
    folder: Path,
    policy: Policy,
    who: Mapping[str, Who] | None = None,
) -> Score:
    """Score the files below a folder.

    Args:
        who: whom patients are to become; where it is not given, the tool's own choice counts, if it is one.
    """
    sources = list(sources)
    result = Score()
    found = outputs(folder)
    uids = _Uids()
    people = _People(sources, found, who)
    for source in sources:
        output = found.get(source.number)
        if source.burned is not None:
            result.count(Category.PIXELS_HIDDEN, output is None or _hidden(source, output), source)
        if output is None:
            if source.may_stay:
                result.kept_back.append(source.number)
            else:
                result.lost.append(source.number)
                _all_missed(result, source, policy)
            continue
        left = output.left()
        gone: set[str] = set()
        for planted in source.planted:
            asked = expected(planted, policy, source.sop_class)
            element = output.find(planted)
            if asked & {Category.TEXT_REMOVED, Category.DATE_SHIFTED, Category.UID_CHANGED}:
                gone.update(planted.needles)
            for category in asked:
                if category is Category.UID_CONSISTENT:
                    uids.note(planted, element, source)
                    continue
                met = _met(category, planted, element, left, people.shift(source.patient))
                result.count(category, met, source, planted)
        result.count(Category.PATIENT_ID, people.fits(source, output), source)
        if source.pixels is not None and source.burned is None:
            kept = output.dataset.get("PixelData") == source.pixels
            result.count(Category.PIXELS_RETAINED, kept, source)
        result.planted += len(gone)
        result.survivors += [(source.number, needle) for needle in sorted(gone & left)]
    uids.count(result)
    return result


def _all_missed(result: Score, source: Source, policy: Policy) -> None:
    for planted in source.planted:
        for category in expected(planted, policy, source.sop_class):
            result.count(category, False, source, planted)


def _where(planted: Planted) -> str:
    return ".".join(
        [*(f"{keyword(step.tag)}[{step.concept or step.item}]" for step in planted.path), keyword(planted.tag)]
    )


# What came out


Elements = dict[int, DataElement]


class _Output:
    """An object that a tool wrote."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path, self.dataset = path, dataset
        self._meta = _elements(dataset.file_meta)
        self._entered: dict[tuple[Step, ...], Elements] = {(): _elements(dataset)}
        self._items: dict[int, tuple[Dataset, Elements]] = {}

    def find(self, planted: Planted) -> DataElement | None:
        """The element in the place of a planted one."""
        if not planted.path and planted.tag >> 16 == 2:
            return self._meta.get(planted.tag)
        return _as(planted.vr, self._enter(planted.path).get(planted.tag))

    def _enter(self, path: tuple[Step, ...]) -> Elements:
        if path not in self._entered:
            item = _item(self._enter(path[:-1]), path[-1])
            self._entered[path] = {} if item is None else self._of(item)
        return self._entered[path]

    def _of(self, item: Dataset) -> Elements:
        if id(item) not in self._items:
            self._items[id(item)] = (item, _elements(item))
        return self._items[id(item)][1]

    def _values(self, elements: Elements) -> Iterator[str]:
        for element in elements.values():
            if element.VR == "SQ":
                for item in element.value:
                    yield from self._values(self._of(item))
            elif element.VR != "OW":
                yield text_of(element.value)

    def left(self) -> set[str]:
        """All tokens, dates and UIDs in the file: in its bytes, in several encodings, and in its values."""
        raw = self.path.read_bytes()
        if self.dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raw += _inflated(raw)
        found = _ascii(raw)
        found |= _ascii(raw.replace(b"\0", b""))  # UTF-16
        found |= set(needles(raw.decode("utf-8", "ignore")))
        found |= {needle for run in _JAPANESE.findall(raw) for needle in needles(_kanji(run))}
        for value in [*self._values(self._meta), *self._values(self._entered[()])]:
            found.update(needles(value))
        return found


#: Kanji between the escape sequences of ISO 2022 (PS3.3 C.12.1.1.2).
_JAPANESE = re.compile(rb"\x1b\$[@B]([\x21-\x7e]+)")
_BYTES = [re.compile(pattern.pattern.encode(), re.IGNORECASE) for pattern in (TOKEN, DATE, OWN_UID)]


def _kanji(run: bytes) -> str:
    return (b"\x1b$B" + run[: len(run) // 2 * 2] + b"\x1b(B").decode("iso2022_jp", "ignore")


def _ascii(raw: bytes) -> set[str]:
    return {needle for pattern in _BYTES for found in pattern.finditer(raw) for needle in needles(found[0].decode())}


def _inflated(raw: bytes) -> bytes:
    """The data set of a deflated file (PS3.5 A.5), which begins where the file meta information ends."""
    end = 144 + int.from_bytes(raw[140:144], "little")
    try:
        return zlib.decompress(raw[end:], -zlib.MAX_WBITS)
    except zlib.error:
        return b""


def _elements(dataset: Dataset) -> Elements:
    """All elements of a data set or item; those that cannot be decoded as bytes."""
    found: Elements = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag in sorted(dataset.keys()):
            try:
                found[int(tag)] = dataset[tag]
            except Exception:
                found[int(tag)] = DataElement(tag, "UN", getattr(dataset.get_item(tag), "value", b"") or b"")
    return found


def _as(vr: str, element: DataElement | None) -> DataElement | None:
    """An element as of the VR that was planted: private attributes have none in Implicit VR files."""
    if element is None or element.VR != "UN" or vr == "UN":
        return element
    raw = RawDataElement(element.tag, vr, len(element.value), element.value, 0, True, True)
    return DataElement(element.tag, vr, convert_value(vr, raw))


def _item(elements: Elements, step: Step) -> Dataset | None:
    """The item of a sequence that a step leads into."""
    element = _as("SQ", elements.get(step.tag))
    if element is None or element.VR != "SQ":
        return None
    if step.concept is None:
        return element.value[step.item] if step.item < len(element.value) else None
    for item in element.value:
        names = item.get("ConceptNameCodeSequence")
        if names and (str(names[0].get("CodeValue")), str(item.get("ValueType"))) == step.concept:
            return item
    return None


def outputs(folder: Path) -> dict[int, _Output]:
    """The objects below a folder by their InstanceNumber; of two with one number the first."""
    found: dict[int, _Output] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset = dcmread(path, force=path.suffix == ".dcm")
                number = int(dataset.InstanceNumber)
            except Exception:
                continue
        found.setdefault(number, _Output(path, dataset))
    return found


# What is asked


def _met(category: Category, planted: Planted, element: DataElement | None, left: set[str], shift: int | None) -> bool:
    text = "" if element is None or element.VR == "SQ" else text_of(element.value)
    match category:
        case Category.TAG_RETAINED:
            return element is not None
        case Category.TAG_REMOVED:
            return element is None
        case Category.TEXT_NOT_NULL:
            return bool(element is not None and (element.value if element.VR == "SQ" else text.strip()))
        case Category.TEXT_RETAINED:
            wanted = (
                planted.word if planted.word and planted.needles and not set(planted.needles) & left else planted.value
            )
            return wanted.lower() in text.lower() if planted.word else _same(text, planted.value)
        case Category.TEXT_REMOVED:
            if planted.needles:
                return not left.intersection(planted.needles)
            return text != planted.value
        case Category.DATE_SHIFTED:
            return shift is not None and text == _shifted(planted.value, shift)
        case Category.UID_CHANGED:
            old, new = planted.value.split("\\"), text.split("\\")
            return len(old) == len(new) and all(_is_uid(uid) for uid in new) and not set(old) & set(new)
    raise ValueError(category)


def _same(text: str, planted: str) -> bool:
    """Whether two texts say the same; 2.50 is 2.5."""
    if text.strip() == planted.strip():
        return True
    try:
        return [float(part) for part in text.split("\\")] == [float(part) for part in planted.split("\\")]
    except ValueError:
        return False


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", text) is not None


@cache
def _shifted(value: str, shift: int) -> str:
    """Dates of a DA or DT moved by days; time, fraction and zone as they were."""
    return "\\".join(_moved(part, shift) for part in value.split("\\"))


def _moved(value: str, shift: int) -> str:
    day = date.fromordinal(_day(value).toordinal() + shift)
    return f"{day:%Y%m%d}{value[8:]}"


def _day(value: str) -> date:
    return date(int(value[:4]), int(value[4:6]), int(value[6:8]))


class _People:
    """Who became whom, as the outputs tell it."""

    def __init__(self, sources: list[Source], outputs: Mapping[int, _Output], who: Mapping[str, Who] | None) -> None:
        self._who = who
        ids: dict[str, Counter[str]] = defaultdict(Counter)
        shifts: dict[str, Counter[int]] = defaultdict(Counter)
        for source in sources:
            output = outputs.get(source.number)
            if output is None:
                continue
            ids[source.patient][_patient_id(output)] += 1
            shifts[source.patient].update(_moves(source, output))
        self._ids = {patient: found.most_common(1)[0][0] for patient, found in ids.items()}
        self._shifts = {patient: found.most_common(1)[0][0] for patient, found in shifts.items() if found}
        self._owners = Counter(self._ids.values())

    def shift(self, patient: str) -> int | None:
        """Days that a patient's dates are to move by; none where the tool moved nothing."""
        return self._who[patient].shift if self._who else self._shifts.get(patient) or None

    def fits(self, source: Source, output: _Output) -> bool:
        """Whether the object bears its patient's new PatientID, which nobody else bears."""
        new = _patient_id(output)
        wanted = self._who[source.patient].pseudonym if self._who else self._ids[source.patient]
        return bool(new) and new == wanted and new != source.patient and self._owners[new] == 1


def _patient_id(output: _Output) -> str:
    return text_of(output.dataset.get("PatientID")).strip()


def _moves(source: Source, output: _Output) -> Iterator[int]:
    for planted in source.planted:
        if planted.path or planted.vr != "DA" or "\\" in planted.value:
            continue
        element = output.find(planted)
        text = "" if element is None else text_of(element.value)
        if DATE.fullmatch(text):
            yield _day(text).toordinal() - _day(planted.value).toordinal()


class _Uids:
    """What became of every UID, everywhere."""

    def __init__(self) -> None:
        self._notes: list[tuple[str, str | None, Source, Planted]] = []

    def note(self, planted: Planted, element: DataElement | None, source: Source) -> None:
        new = [] if element is None else text_of(element.value).split("\\")
        for number, old in enumerate(planted.value.split("\\")):
            self._notes.append((old, new[number] if number < len(new) else None, source, planted))

    def count(self, result: Score) -> None:
        """A UID is consistent if it became what it mostly became, and no other UID did."""
        became: dict[str, Counter[str]] = defaultdict(Counter)
        for old, new, _, _ in self._notes:
            if new:
                became[old][new] += 1
        mapping = {old: found.most_common(1)[0][0] for old, found in became.items()}
        owners = Counter(mapping.values())
        for old, new, source, planted in self._notes:
            met = bool(new) and mapping.get(old) == new and owners[str(new)] == 1
            result.count(Category.UID_CONSISTENT, met, source, planted)


def _hidden(source: Source, output: _Output) -> bool:
    """Whether the rows with burned-in text are of one colour in every frame."""
    dataset: Any = output.dataset
    try:
        frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    except Exception:
        return False
    assert source.burned is not None
    return len({tuple(pixel) for pixel in frames[:, : source.burned].reshape(-1, frames.shape[-1])}) == 1
