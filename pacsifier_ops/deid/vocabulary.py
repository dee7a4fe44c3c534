"""Cleaning of descriptions (PS3.15 E.3.5): words of a list stay, all others go.

What stays: words of the shipped list and compounds of them, small numbers, numbers with units, and the short codes of
imaging (T2w, L4L5, B30f, b1000). What goes: every other word, and numbers that could be dates, times, telephone numbers
or identifiers. Words that are names too (`?` in the list), single letters, and what has digits go where they stand
beside something that goes: it may be a name's initial, the number of a house, one half of an identifier.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

_FILE = Path(__file__).with_name("vocabulary.txt")

#: Letters of a word at most: longer ones are no words, and would take long to take apart.
_LONGEST = 40
#: Units, the longer ones first.
_UNITS = (
    "mmol|phase|jahre|msec|grad|mol|mgi|kvp|kev|mev|mas|mgy|cgy|msv|usv|mbq|kbq|mci|khz|mhz|sec|min|hrs|wks|yrs|ppm|deg"
    "|bpm|fps|pct|mm2|mm3|cm2|cm3|mm|cm|dm|um|nm|ml|cc|dl|mg|kg|ug|kv|ma|gy|bq|hz|ms|hr|wk|mo|yr|hu|ph|sl|db|mv"
    "|m|l|g|t|s|h|d|w|y|j"
)
_NUMBER = r"\d+(?:[.,]\d+)?"
_VALUE = r"\d{1,4}(?:[.,]\d{1,3})?"
#: A word: letters and digits, or a decimal number with what follows.
_WORD = re.compile(rf"{_NUMBER}[^\W_]*|[^\W\d_][^\W_]*")
#: Dates and times as people write them: day, month and year; year, month and day; day and month; hours and minutes.
_MOMENT = re.compile(
    r"(?<!\d)(?:\d{1,2}\s?[./-]\s?\d{1,2}\s?[./-]\s?(?:\d{4}|\d{2})|(?:19|20)\d\d[./-]\d{1,2}(?:[./-]\d{1,2})?|\d{1,2}[./](?:19|20)\d\d"
    r"|\d{1,2}:\d\d(?::\d\d)?|\d{1,2}\.\s?\d{1,2}\."
    r"|(?<![^\W_])(?:[0-3]\d/[01]\d|[01]\d/[0-3]\d)(?![^\W_])"
    r"|[0-3]\d([ _])[01]\d\1\d\d|[01]\d([ _])[0-3]\d\2\d\d)(?!\d)"
)
#: Ages, of which those over 89 years tell who somebody is.
_AGE = re.compile(
    r"(?<!\d)0?(\d{2,3})[\s_-]{0,2}"
    r"(?:y|yrs?|yo|y\.o\.|years?|j|jahre?|j(?:ä|ae)hrige?[nrs]?|ans?|anni|anno)(?![^\W\d_])",
    re.IGNORECASE,
)
#: The same in short, beside the sex: 95M, F/95.
_AGE_AND_SEX = re.compile(
    r"(?<![^\W_])(?:(?:9[1-9]|1[01]\d)\s?/?\s?[fmw]|[fmw]\s?/?\s?(?:9[1-9]|1[01]\d))(?![^\W_])", re.IGNORECASE
)
_ZONE = re.compile(r"[+-](?:0\d|1[0-4])(?:00|30|45)")
#: A b-value and a direction, as Canon and Toshiba write them into comments: b=1500(0.445,-0.895,0.000).
_DIFFUSION = re.compile(r"b=\d{1,5}(?:\((?:-?[01]\.\d{1,4},){2}-?[01]\.\d{1,4}\))?", re.ASCII)
#: Measures: a number with its unit, a matrix, a nuclide, a share.
_MEASURES = re.compile(
    rf"{_VALUE}(?:{_UNITS})|{_VALUE}(?:x{_VALUE}){{1,2}}(?:mm|cm)?|\d{{1,3}}(?:st|nd|rd|th|er|e|ere|eme)"
    r"|18f|64cu|68ga|82rb|89zr|90y|99mtc|111in|12[34]i|131i|177lu|201tl"
)
#: Codes: weightings, b values, dimensions, acceleration; times and angles; levels of the spine; reconstruction kernels.
_CODES = re.compile(
    r"t[12](?:w|map|star)?|b\d{1,2}00|b\d{1,3}|[2-6]d|[prsx]\d"
    r"|(?:te|tr|ti|fa|ph|nex)\d{1,4}"
    r"|(?:[ctls]|th)\d{1,2}(?:(?:[ctls]|th)?\d{1,2})?"
    r"|(?:[bdfhijtu]|br|bv|bl|fc|hc|hp|hr|hv|qr|sa|sn|tr|yc)\d{2}[dfhsu]?"
)
_PARTS = re.compile(
    r"[Tt][12][wW]?(?![a-z\d])|[2-6][dD](?![a-z])|\d+(?:[.,]\d+)?|[^\W\d_a-z]+(?![a-z])|[^\W\d_]?[^\W\d_A-Z]+"
)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text after cleaning, and how many of its words stayed and went."""

    text: str
    kept: int
    dropped: int


class Vocabulary:
    """A list of words.

    Args:
        text: words between blanks and line ends; `#` begins a comment line, `?` marks words that are names too.
    """

    def __init__(self, text: str) -> None:
        self._sure: set[str] = set()
        self._names: set[str] = set()
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            for word in line.split():
                found = self._names if word.endswith("?") else self._sure
                for form in _forms(word.rstrip("?")):
                    found.update(_fold(part[0]) for part in _WORD.finditer(form))
        self._sure -= self._names
        # Parts of compounds: short ones would be found in any name.
        self._stems = {word for word in self._sure if len(word) > 3}
        self.digest = hashlib.sha256("\n".join([*sorted(self._sure), "?", *sorted(self._names)]).encode()).hexdigest()

    def clean(self, text: str) -> Cleaned:
        """What may stay of a text."""
        # TimezoneOffsetFromUTC (0008,0201); diffusion in ImageComments (0020,4000).
        if _ZONE.fullmatch(text.strip()) or _DIFFUSION.fullmatch(text.strip()):
            return Cleaned(text.strip(), 1, 0)
        text = _AGE.sub(lambda found: found[0] if int(found[1]) <= 90 else "9" * 9, text)  # 90Y is a nuclide too
        text = _AGE_AND_SEX.sub("9" * 9, text)
        text = _MOMENT.sub(lambda found: "9" * 9, text)
        words = list(_WORD.finditer(text))
        # True: stays; None: stays unless its neighbour goes; False: goes.
        stays = [self._stays(word[0]) for word in words]
        _judge_numbers(text, words, stays)
        for order in (range(len(words)), reversed(range(len(words)))):
            for place in order:
                if stays[place] is None and False in stays[max(place - 1, 0) : place + 2]:
                    stays[place] = False
        kept = [place for place, verdict in enumerate(stays) if verdict is not False]
        return Cleaned("".join(_joined(text, words, kept)), len(kept), len(words) - len(kept))

    def _stays(self, word: str) -> bool | None:
        if len(word) > _LONGEST:
            return False
        folded = _fold(word)
        if len(folded) > 1 and folded in self._sure:
            return True
        if folded in self._names or (len(folded) == 1 and folded.isalpha()):
            return None
        if re.fullmatch(_NUMBER, word):
            return None if _is_small(word) else False
        if _MEASURES.fullmatch(folded) or _CODES.fullmatch(folded):
            return None
        # Shorter ones are names more often than compounds: Plantard.
        if len(folded) > 8 and folded.isalpha() and self._is_joined(folded, 0):
            return True
        return self._of_parts([part[0] for part in _PARTS.finditer(word)])

    def _of_parts(self, parts: list[str]) -> bool | None:
        """The verdict on a word that is written as several, where case or digits change: AxT2FLAIR, sag2, eTHRIVE."""
        if len(parts) > 1 and len(parts[0]) == 1 and parts[0].islower() and parts[1].isupper() and len(parts[1]) > 1:
            parts = parts[1:]  # one small letter before capitals tells variants of a sequence apart
        folded = [_fold(part) for part in parts]
        words = [part for part in folded if len(part) > 1 and (part in self._sure or part in self._names)]
        others = [part for part in folded if part not in words]
        if not words or not all(_CODES.fullmatch(part) or (part.isdigit() and len(part) < 4) for part in others):
            return False
        return None if others or self._names & set(words) else True

    def _is_joined(self, word: str, begin: int) -> bool:
        """Whether a word is stems of the list one after the other, with or without a linking letter."""
        for end in range(len(word), begin + 3, -1):
            if word[begin:end] not in self._stems:
                continue
            if end == len(word):
                return begin > 0
            if self._is_joined(word, end) or (word[end] in "sn" and self._is_joined(word, end + 1)):
                return True
        return False


@cache
def shipped() -> Vocabulary:
    """The list that comes with the package."""
    return Vocabulary(_FILE.read_text(encoding="utf-8"))


def clean(text: str) -> str:
    """What may stay of a text by the shipped list; empty where nothing may."""
    return judge(text).text


def judge(text: str) -> Cleaned:
    """What may stay of a text by the shipped list, with counts. Descriptions repeat, so they are remembered."""
    return _remembered(text) if len(text) <= 256 else shipped().clean(text)


@lru_cache(maxsize=16384)
def _remembered(text: str) -> Cleaned:
    return shipped().clean(text)


def _is_small(number: str) -> bool:
    """Whether a bare number is a measure rather than an identifier: three digits, or a round number of four."""
    whole = re.split("[.,]", number)[0]
    return len(number) <= 6 and (len(whole) < 4 or (len(whole) == 4 and whole.endswith("00") and whole != "1900"))


def _judge_numbers(text: str, words: list[re.Match[str]], stays: list[bool | None]) -> None:
    """Numbers in a row that are many digits together go together: a telephone number, a date with blanks."""
    row: list[int] = []
    for place, word in enumerate([*words, None]):
        if word is not None and word[0][0].isdigit() and re.fullmatch(_NUMBER, word[0]):
            row.append(place)
            continue
        digits = sum(character.isdigit() for place in row for character in words[place][0])
        if len(row) > 1 and (digits > 6 or any(stays[place] is False for place in row)):
            for place in row:
                stays[place] = False
        row = []


def _joined(text: str, words: list[re.Match[str]], kept: list[int]) -> Iterator[str]:
    """Words that stay, with what stood between them; beside one that went, its first separator."""
    for number, place in enumerate(kept):
        if number:
            between = text[words[place - 1].end() : words[place].start()]
            if kept[number - 1] != place - 1:
                between = next((character for character in between if character in "_-/"), " ")
            yield "".join(character if character.isprintable() else " " for character in between)
        yield words[place][0]


def _forms(word: str) -> tuple[str, ...]:
    """A word as it is, and with its umlauts written out."""
    written = word
    for umlaut, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("Ä", "ae"), ("Ö", "oe"), ("Ü", "ue")):
        written = written.replace(umlaut, letters)
    return (word,) if written == word else (word, written)


def _fold(word: str) -> str:
    """A word without case and accents."""
    if word.isascii():
        return word.lower()
    decomposed = unicodedata.normalize("NFKD", word.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character)).replace("œ", "oe")
