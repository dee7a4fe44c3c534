"""Compares texts whose letters an archive has changed in its responses.

The text in a response may then differ from the stored one. The functions here tell whether it can still be the wanted
text. A mismatch proves nothing where that is possible.

- Decoded in another character set: the response declares another set than that of the bytes, or none (PS3.3
  C.12.1.1.2).
- Replaced: a question mark, U+FFFD, a control character or the octal form of PS3.5 6.1.2.3 replaces a letter.
- Dropped: an archive that responds in one set omits the letters that this set lacks, without notice.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache

from pacsifier_ops.query.keys import KEYS
from pacsifier_ops.query.match import matches
from pacsifier_ops.query.names import can_assign_words, fold, has_one_form, words_of

#: Encodings of text that declares none: those of DICOM, of Windows, KOI8 and the Cyrillic one of DOS. The Latin letters
#: of DOS and of the Mac are bytes without a letter in DICOM's sets.
_SETS = (
    *("utf_8", "gb18030", "cp932", "euc_jp", "cp949", "big5", "iso2022_jp_2", "iso2022_kr"),
    *(f"iso8859_{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 15)),
    *(f"cp125{page}" for page in range(8)),
    *("cp874", "koi8_r", "cp866"),
)
#: Single-byte encodings, which can decode any bytes. Text without a declared set is decoded with the first one.
_ONE_BYTE = ("iso8859_1", *(f"iso8859_{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 13, 15)))
#: A replacement of a letter, or of one of its bytes.
_REPLACED = r"(?:[?\ufffd\x7f-\x9f]|\\[0-7]{3})"
_BYTES_OF_A_LETTER = 4


class LostLetters(Enum):
    """Letters that may be missing without a trace: none, those typed beyond ASCII, or all that may have an accent.

    With `ANY`, at least one letter is left of a word that was typed in plain letters, as in a response in Latin-1. With
    `ALL`, not even one is left, as in ASCII or a Cyrillic set.
    """

    NONE = 0
    TYPED = 1
    ANY = 2
    ALL = 3


def may_be(keyword: str, wanted: str, shown: Sequence[str], encodings: Iterable[str], lost: LostLetters) -> bool:
    """Return whether an attribute can have the wanted value, although its text in a response does not match.

    Args:
        keyword: keyword of the attribute.
        wanted: the wanted value.
        shown: decoded values in the response; no value means an empty attribute.
        encodings: encodings of the archive's responses, by Python's names.
        lost: letters that the archive may drop.
    """
    text = "\\".join(shown)
    if KEYS[keyword].vr in ("DA", "TM", "IS", "UI", "CS"):
        return False  # in the default repertoire under every character set (PS3.5 6.1.2.2)
    if KEYS[keyword].vr != "PN" and wanted.isascii():
        return False  # all its letters are ASCII, and only names are matched without accents
    return garbled(keyword, wanted, text, encodings) or _can_be_rest(keyword, wanted, text, lost)


def garbled(keyword: str, wanted: str, text: str, encodings: Iterable[str]) -> bool:
    """Return whether a text can be the wanted one, if it was decoded wrongly or letters were replaced."""
    if text.isascii() and not re.search(rf"{_REPLACED}|\x1b", text):
        return False
    if _can_be_rest(keyword, wanted, text, LostLetters.NONE):
        return True
    return any(matches(keyword, wanted, [reading]) for reading in _readings(text, frozenset(encodings)))


@lru_cache(maxsize=4096)
def _readings(text: str, encodings: frozenset[str]) -> frozenset[str]:
    """Return the bytes of a text decoded in other encodings."""
    written, readings = set(), set()
    for name in {_ONE_BYTE[0], *(e for e in encodings if e.replace("-", "_").lower() in _ONE_BYTE)}:
        try:
            written.add(text.encode(name))
        except (UnicodeEncodeError, LookupError):
            continue
    for raw in written:
        for name in _SETS:
            try:
                readings.add(raw.decode(name))
            except UnicodeDecodeError:
                continue
    return frozenset(readings - {text})


def _can_be_rest(keyword: str, wanted: str, text: str, lost: LostLetters) -> bool:
    """Return whether a text can be the rest of the wanted one."""
    if KEYS[keyword].vr != "PN":
        return _expression(wanted, False, lost).fullmatch(text) is not None
    if not text and lost in (LostLetters.NONE, LostLetters.TYPED):
        return False  # such as a phantom's; a name that lost its letters still has its delimiters
    shown = [words_of(fold(group), with_empty=True) for group in text.split("=")]
    return all(
        any(can_assign_words(patterns, words, lambda a, word: _fits(a, word, lost)) for words in shown)
        for group in unicodedata.normalize("NFC", wanted).split("=")
        if (patterns := [word for word in words_of(group) if word.strip("*")])
    )


def _fits(pattern: str, word: str, lost: LostLetters) -> bool:
    return _expression(pattern, True, lost).fullmatch(word) is not None


@lru_cache(maxsize=4096)
def _expression(wanted: str, of_name: bool, lost: LostLetters) -> re.Pattern[str]:
    """Return a pattern of what can be left of a text, or of a folded word of a name."""
    parts: list[str] = []
    plain: list[int] = []  # indices of letters typed without an accent that may be missing
    stays = False
    for typed in wanted:
        for letter in fold(typed) if of_name else typed:
            replaced = f"{_REPLACED}{{1,{_BYTES_OF_A_LETTER}}}"
            if letter == "*":
                parts.append(".*")
            elif letter == "?":
                parts.append(f"(?:.|{replaced})" + ("" if lost is LostLetters.NONE else "?"))
            elif typed.isascii() and (not of_name or has_one_form(letter)):
                parts.append(re.escape(letter))
                stays = True
            else:
                gone = lost in (LostLetters.ANY, LostLetters.ALL) or (lost is LostLetters.TYPED and not typed.isascii())
                if gone and typed.isascii():
                    plain.append(len(parts))
                parts.append(f"(?:{re.escape(letter)}|{replaced})" + ("?" if gone else ""))
    ways = [parts]
    if plain and not stays and lost is not LostLetters.ALL:  # at least one is left: a name has some letter of the set
        ways = [[*parts[:place], parts[place][:-1], *parts[place + 1 :]] for place in plain]
    return re.compile("|".join(map("".join, ways)), re.DOTALL)
