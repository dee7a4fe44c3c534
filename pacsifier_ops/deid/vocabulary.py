"""Cleaning of descriptions (PS3.15 E.3.5): words of a list stay, all others are removed.

These stay: words of the package's list and compounds of them, small numbers, numbers with units, and short codes of
imaging (T2w, L4L5, B30f, b1000). These are removed: every other word; the word beside a title (`Dr. Stein`, `Stein MD`)
and two words of the patient's name, even where the list has them; and numbers that could be dates, times, telephone
numbers or identifiers. Words that are also names (`?` in the list), single letters, and words with digits are removed
beside a removed word: there they may be an initial, a house number, or half of an identifier.

In scripts without blanks between words, the list divides the text: of `王小东胸部` the last two characters stay. A
single letter stays only in Latin script: in others it may be a whole name.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from pacsifier_ops.deid.titles import PARTICLES, Word, names_in

#: Words chosen by hand, and words of public lists (see tables/README.md).
_FILES = ("vocabulary.txt", "vocabulary_anatomy.txt", "vocabulary_structures.txt")

#: Maximum number of letters of a word. Longer runs are no words, and slow to divide.
_LONGEST = 40
#: Units, the longer ones first.
_UNITS = (
    "mmol|phase|jahre|msec|grad|mol|mgi|kvp|kev|mev|mas|mgy|cgy|msv|usv|mbq|kbq|mci|khz|mhz|sec|min|hrs|wks|yrs|ppm|deg"
    "|bpm|fps|pct|mm2|mm3|cm2|cm3|mm|cm|dm|um|nm|ml|cc|dl|mg|kg|ug|kv|ma|gy|bq|hz|ms|hr|wk|mo|yr|hu|ph|sl|db|mv"
    "|m|l|g|t|s|h|d|w|y|j"
)
#: Scripts without blanks between words, and Hangul, which is often written so: Thai to Khmer, Han, kana.
_DENSE = (
    "\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc"
    "\U00020000-\U0003ffff"
)
_NUMBER = r"\d+(?:[.,]\d+)?"
_VALUE = r"\d{1,4}(?:[.,]\d{1,3})?"
#: A word: letters and digits, a decimal number with what follows, or a run of characters to divide later.
_WORD = re.compile(rf"{_NUMBER}[^\W_{_DENSE}]*|(?:(?=[{_DENSE}])[^\W\d_])+|[^\W\d_{_DENSE}][^\W_{_DENSE}]*")
_IS_DENSE = re.compile(rf"[{_DENSE}]")
#: Written dates and times: day, month and year; year, month and day; day and month; hours and minutes.
_MOMENT = re.compile(
    r"(?<!\d)(?:\d{1,2}\s?[./-]\s?\d{1,2}\s?[./-]\s?(?:\d{4}|\d{2})|(?:19|20)\d\d[./-]\d{1,2}(?:[./-]\d{1,2})?|\d{1,2}[./](?:19|20)\d\d"
    r"|\d{1,2}:\d\d(?::\d\d)?|\d{1,2}\.\s?\d{1,2}\."
    r"|(?<![^\W_])(?:[0-3]\d[/-][01]\d|[01]\d[/-][0-3]\d)(?![^\W_])"
    r"|[0-3]\d([ _])[01]\d\1\d\d|[01]\d([ _])[0-3]\d\2\d\d)(?!\d)"
)
#: Ages. Those over 89 years can identify a person.
_AGE = re.compile(
    r"(?<!\d)0?(\d{2,3})[\s_-]{0,2}"
    r"(?:y|yrs?|yo|y\.o\.|y/o|years?|j|jahre?|j(?:ä|ae)hrige?[nrs]?|ans?|anni|anno|a[nñ]os|jaar|år|(?<=\d)a)(?![^\W\d_])"
    r"|(?<![^\W\d_])(?:aged?|alter|âge|et[àa]|edad|idade)[\s:=_-]{1,3}0?(\d{2,3})(?!\d)",
    re.IGNORECASE,
)
#: The same in short form, with the sex: 95M, F/95.
_AGE_AND_SEX = re.compile(
    r"(?<![^\W_])(?:(?:9\d|1[01]\d)\s?/?\s?[fmw]|[fmw]\s?/?\s?(?:9\d|1[01]\d))(?![^\W_])", re.IGNORECASE
)
_ZONE = re.compile(r"[+-](?:0\d|1[0-4])(?:00|30|45)")
#: A b-value and a direction, as Canon and Toshiba write them into comments: b=1500(0.445,-0.895,0.000).
_DIFFUSION = re.compile(r"b=\d{1,5}(?:\((?:-?[01]\.\d{1,4},){2}-?[01]\.\d{1,4}\))?", re.ASCII)
#: Unambiguous measures: a number with a unit of several letters, a matrix, a field strength.
_SURE = re.compile(
    rf"{_VALUE}(?:{_UNITS.split('|m|')[0]})|{_VALUE}(?:x{_VALUE}){{1,2}}(?:mm|cm)?|[01]?[.,]?[1357]t|[234]d|t[12](?:w|map|star)?"
    r"|[bdhijtu][1-9]\d[fhs]"
)
#: Ambiguous measures: units of one letter, ordinals, nuclides.
_MEASURES = re.compile(
    rf"{_VALUE}(?:{_UNITS})|\d{{1,3}}(?:st|nd|rd|th|er|e|ere|eme)"
    r"|18f|64cu|68ga|82rb|89zr|90y|99mtc|111in|12[34]i|131i|177lu|201tl"
)
#: Codes: b values, dimensions, acceleration, versions; times and angles; levels of the spine; reconstruction kernels.
_CODES = re.compile(
    r"t[12](?:w|map|star)?|b\d{1,2}00|b\d{1,3}|[2-6]d|[prsvx]\d|[1-9]v"
    r"|(?:te|tr|ti|fa|ph|nex|et|dir|run|echo|ch)\d{1,4}"
    r"|(?:[ctls]|th)\d{1,2}(?:(?:[ctls]|th)?\d{1,2})?"
    r"|(?:[bdfhijtu]|br|bv|bl|fc|hc|hp|hr|hv|qr|sa|sn|tr|yc)\d{2}[dfhsu]?"
)
_UNIT = re.compile(_UNITS)
_PARTS = re.compile(
    r"^[23][dD](?=[a-z]{3})|[Tt][12][wW]?(?![a-z\d])|[2-6][dD](?![a-z])|\d+(?:[.,]\d+)?|[^\W\d_a-z]+(?![a-z])|[^\W\d_]?[^\W\d_A-Z]+"
)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text after cleaning, and the numbers of words kept and dropped."""

    text: str
    kept: int
    dropped: int


class Vocabulary:
    """A list of words.

    Args:
        text: words between blanks and line ends; `#` begins a comment line, `?` marks words that are also names.
    """

    def __init__(self, text: str) -> None:
        self._sure: set[str] = set()
        self._names: set[str] = set()
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            for word in line.split():
                found = self._names if word.endswith("?") else self._sure
                word = word.rstrip("?")
                if word.isascii() and word.isalpha():  # most are
                    found.add(word.lower())
                    continue
                for part in _WORD.finditer(word):
                    found |= _forms(part[0])
        self._sure -= self._names
        # Parts of compounds. Short ones would occur in many names.
        self._stems = {word for word in self._sure if len(word) > 4}
        #: Words of scripts without blanks. One of a single character may be a name.
        self._known = {word for word in self._sure | self._names if not word.isascii() and _IS_DENSE.match(word)}
        self._names |= {word for word in self._known if len(word) == 1}
        self._sure -= self._names
        self._longest = max(map(len, self._known), default=0)
        self.digest = hashlib.sha256("\n".join([*sorted(self._sure), "?", *sorted(self._names)]).encode()).hexdigest()

    def clean(self, text: str, patient: str = "") -> Cleaned:
        """Return the part of a text that may stay.

        Args:
            text: one value.
            patient: names of the patient (see `names_of`). A word of them is removed even where the list has it as a
                possible name (`?`). Two words of them in one text are removed in any case.
        """
        # TimezoneOffsetFromUTC (0008,0201); diffusion in ImageComments (0020,4000).
        if _ZONE.fullmatch(text.strip()) or _DIFFUSION.fullmatch(text.strip()):
            return Cleaned(text.strip(), 1, 0)
        text = "".join(character if character.isprintable() else " " for character in text)
        text = _AGE.sub(lambda found: "9" * 9 if _is_old(found) else found[0], text)
        text = _AGE_AND_SEX.sub("9" * 9, text)
        text = _MOMENT.sub(lambda found: "9" * 9, text)
        words = list(self._words(text))
        # True: stays. None: stays unless a neighbour is removed. False: removed.
        stays = [self._stays(word.text) for word in words]
        _judge_numbers(text, words, stays)
        own = _words_of(patient) if patient else frozenset()
        for place, word in enumerate(words):
            if stays[place] is None and _fold(word.text) in own:
                stays[place] = False
        for place in patient_words(words, patient):
            stays[place] = False
        for place in _as_names_are_written(text, words, stays):
            stays[place] = False
        for place, surely in names_in(text, words):
            if surely or (stays[place] is None and not _UNIT.fullmatch(_fold(words[place].text))):
                stays[place] = False
        remove_neighbours(stays)
        kept = [place for place, verdict in enumerate(stays) if verdict is not False]
        return Cleaned(joined(text, words, kept, "_-/"), len(kept), len(words) - len(kept))

    def _words(self, text: str) -> Iterator[Word]:
        for found in _WORD.finditer(text):
            if _IS_DENSE.match(found[0]):
                yield from self._divided(found[0], found.start())
            else:
                yield Word(found[0], found.start(), found.end())

    def _divided(self, run: str, start: int) -> Iterator[Word]:
        """Yield the words of a run of characters: always the longest word of the list, and the rest between them."""
        begin = place = 0
        while place < len(run):
            ends = range(min(len(run), place + self._longest), place, -1)
            end = next((end for end in ends if _fold(run[place:end]) in self._known), place)
            if end > place:
                if place > begin:
                    yield Word(run[begin:place], start + begin, start + place)
                yield Word(run[place:end], start + place, start + end)
                begin = end
            place = max(end, place + 1)
        if begin < len(run):
            yield Word(run[begin:], start + begin, start + len(run))

    def _stays(self, word: str) -> bool | None:
        if len(word) > _LONGEST:
            return False
        folded = _fold(word)
        if _IS_DENSE.match(word):
            return None if folded in self._names else folded in self._sure
        if len(folded) > 1 and folded in self._sure:
            return True
        if folded in self._names or (len(folded) == 1 and "a" <= folded <= "z"):
            return None
        if re.fullmatch(_NUMBER, word):
            return None if _is_small(word) else False
        if _SURE.fullmatch(folded):
            return True
        if _MEASURES.fullmatch(folded) or _CODES.fullmatch(folded):
            return None
        # Shorter ones are more often names than compounds: Plantard.
        if len(folded) > 8 and folded.isalpha() and self._is_joined(folded, 0):
            return True
        return self._of_parts([part[0] for part in _PARTS.finditer(word)])

    def _of_parts(self, parts: list[str]) -> bool | None:
        """Decide on several words written as one, where case or digits change: AxT2FLAIR, sag2, eTHRIVE."""
        if len(parts) > 1 and len(parts[0]) == 1 and parts[0].islower() and parts[1].isupper() and len(parts[1]) > 1:
            parts = parts[1:]  # one small letter before capitals marks a variant of a sequence
        folded = [_fold(part) for part in parts]
        words = [part for part in folded if len(part) > 1 and (part in self._sure or part in self._names)]
        others = [part for part in folded if part not in words]
        letter = len(others) == 1 == len(others[0])  # ThoraxC
        if not words or not (
            letter or all(_CODES.fullmatch(part) or (part.isdigit() and _is_small(part)) for part in others)
        ):
            return False
        return None if others or self._names & set(words) else True

    def _is_joined(self, word: str, begin: int) -> bool:
        """Return whether a word consists of stems of the list, with or without a linking letter."""
        for end in range(len(word), begin + 4, -1):
            if word[begin:end] not in self._stems:
                continue
            if end == len(word):
                return begin > 0
            if self._is_joined(word, end) or (word[end] in "sn" and self._is_joined(word, end + 1)):
                return True
        return False


@cache
def shipped() -> Vocabulary:
    """Return the list that comes with the package."""
    return Vocabulary("\n".join(Path(__file__).with_name(file).read_text(encoding="utf-8") for file in _FILES))


def clean(text: str, patient: str = "") -> str:
    """Return the part of a text that may stay by the package's list; empty where nothing may.

    Args:
        text: one value.
        patient: names of the patient, where they are known (see `names_of`).
    """
    return judge(text, patient).text


def judge(text: str, patient: str = "") -> Cleaned:
    """Return the part of a text that may stay by the package's list, with counts. Cached: descriptions repeat."""
    return _clean_cached(text, patient) if len(text) <= 256 else shipped().clean(text, patient)


@lru_cache(maxsize=16384)
def _clean_cached(text: str, patient: str) -> Cleaned:
    return shipped().clean(text, patient)


@lru_cache(maxsize=256)
def _words_of(name: str) -> frozenset[str]:
    """Return the words of a name in all their forms, without initials."""
    words = (part[0] for part in _WORD.finditer(name) if len(part[0]) > 1 or not part[0].isascii())
    return frozenset(form for word in words for form in _forms(word))


def names_of(names: Iterable[str]) -> str:
    """Join all names of a patient (PN) into one text, whose order depends on the names alone."""
    return "\\".join(sorted({*names} - {""}))


def patient_words(words: Sequence[Word], patient: str, least: int = 2) -> list[int]:
    """Return the indices of words that are part of the patient's name, if at least `least` different ones occur."""
    own = _name_of(patient) if patient else frozenset()
    if len(own) < least:
        return []
    parts = [own & {_fold(part) for part in (word.text, *_PARTS.findall(word.text))} for word in words]
    return [place for place, found in enumerate(parts) if found] if len(frozenset().union(*parts)) >= least else []


@lru_cache(maxsize=256)
def _name_of(patient: str) -> frozenset[str]:
    """Return the significant words of a name. Particles such as `de` count only with at most one other word."""
    words = frozenset(word for word in _words_of(patient) if not any(map(str.isdigit, word)))
    return words - PARTICLES if len(words - PARTICLES) > 1 else words


def _as_names_are_written(text: str, words: list[Word], stays: list[bool | None]) -> Iterator[int]:
    """Yield the indices of two words in the form of a PN (`Hand^Long`), where both can be names."""
    if stays == [None, None] and "^" in text[words[0].end : words[1].start]:
        yield from (place for place in (0, 1) if all(word.text.isalpha() for word in words))


def _is_old(age: re.Match[str]) -> bool:
    """Return whether an age is over 89 years; 90Y is a nuclide."""
    return int(age[1] or age[2]) > 89 and age[0].lower() != "90y"


def _is_small(number: str) -> bool:
    """Return whether a bare number is a measure rather than an identifier: three digits, or a round number of four."""
    whole = re.split("[.,]", number)[0]
    if whole in ("1024", "2048", "4096"):
        return True
    return len(number) <= 6 and (len(whole) < 4 or (len(whole) == 4 and whole.endswith("00") and whole != "1900"))


def _judge_numbers(text: str, words: list[Word], stays: list[bool | None]) -> None:
    """Treat adjacent numbers with many digits in total as one: a telephone number, or a date with blanks.

    Rows of b-values, which are multiples of 50, are exempt. A number and the unit after it are a measure.
    """
    row: list[int] = []
    for place, word in enumerate([*words, None]):
        if word is not None and word.text[0].isdigit() and re.fullmatch(_NUMBER, word.text):
            row.append(place)
            continue
        numbers = [words[place].text for place in row]
        if len(row) > 1 and (
            (sum(map(len, numbers)) > 6 and not all(number.isdigit() and int(number) % 50 == 0 for number in numbers))
            or any(stays[place] is False for place in row)
        ):
            for place in row:
                stays[place] = False
        elif row and word is not None and _UNIT.fullmatch(_fold(word.text)):
            number, last = row[-1], words[row[-1]]
            if stays[number] is None and text[last.end : word.start] in (" ", "_", "\t"):
                stays[number] = stays[number + 1] = len(word.text) > 1 or None
        row = []


def remove_neighbours(stays: list[bool | None]) -> None:
    """Remove words marked None beside a removed word, repeatedly."""
    for order in (range(len(stays)), reversed(range(len(stays)))):
        for place in order:
            if stays[place] is None and False in stays[max(place - 1, 0) : place + 2]:
                stays[place] = False


def joined(text: str, words: Sequence[Word], kept: Sequence[int], separators: str) -> str:
    """Join the words that stay, with the text between them. One separator, or a blank, replaces removed words."""
    left = ""
    for number, place in enumerate(kept):
        if number:
            between = text[words[place - 1].end : words[place].start]
            if kept[number - 1] != place - 1:
                between = next((character for character in between if character in separators), " ")
            left += between
        left += words[place].text
    return left


def _forms(word: str) -> set[str]:
    """Return a word unchanged, without accents, and with umlauts as two letters."""
    written = _fold(word)
    if written.isascii():
        return {written}
    decomposed = unicodedata.normalize("NFD", written)
    bare = "".join(character for character in decomposed if not "\u0300" <= character <= "\u036f")
    return {written, bare, written.translate(_SPELT_OUT), *([bare.replace("œ", "oe")] if "œ" in bare else [])}


_SPELT_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


def _fold(word: str) -> str:
    """Return a word without case. Accents count: `Lộc` is a name, `loc` a localizer."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word.casefold())
