"""Letters on their way from an object to an answer: read in another character set, replaced, or dropped.

What an answer shows of a text is then not what is stored. The functions here say whether it may be the text that
somebody asked for all the same; what cannot be excluded is no proof of the contrary.

- Read in another character set: the bytes of one set stand under the name of another, or of none (PS3.3 C.12.1.1.2).
- Replaced: a question mark, U+FFFD, a control character or the octal form of PS3.5 6.1.2.3 stands for a letter.
- Dropped: an archive that answers in one set leaves out the letters that this set lacks, and does not say so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache

from pacsifier_ops.query.keys import KEYS
from pacsifier_ops.query.match import matches
from pacsifier_ops.query.names import fold, is_sure, words_have_their_own, words_of

#: Sets that text is written in where it does not say so: those of DICOM, of Windows, KOI8 and the Cyrillic one of DOS.
#: The Latin letters of DOS and of the Mac are bytes that DICOM's sets have no letter for.
_SETS = (
    *("utf_8", "gb18030", "cp932", "euc_jp", "cp949", "big5", "iso2022_jp_2", "iso2022_kr"),
    *(f"iso8859_{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 15)),
    *(f"cp125{page}" for page in range(8)),
    *("cp874", "koi8_r", "cp866"),
)
#: Sets of one byte for each letter, in which any bytes can be read; text that names no set is read in the first.
_ONE_BYTE = ("iso8859_1", *(f"iso8859_{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 13, 15)))
#: What stands for a letter, or for a byte of one.
_REPLACED = r"(?:[?\ufffd\x7f-\x9f]|\\[0-7]{3})"
_BYTES_OF_A_LETTER = 4


class Lost(Enum):
    """Which letters may be missing without a trace: none, those typed beyond ASCII, or all that may have an accent.

    Of a word that was typed in plain letters one is left, as in an answer in Latin-1; or not even one, as in ASCII or
    in a Cyrillic set.
    """

    NONE = 0
    TYPED = 1
    ANY = 2
    ALL = 3


def may_be(keyword: str, wanted: str, shown: Sequence[str], encodings: Iterable[str], lost: Lost) -> bool:
    """Whether an attribute of which an answer shows this may be what is wanted, though it does not match.

    Args:
        shown: its values, decoded; none stands for an empty one.
        encodings: those in which the archive answers, as Python names them.
        lost: which letters the archive may drop.
    """
    text = "\\".join(shown)
    if KEYS[keyword].vr in ("DA", "TM", "IS", "UI", "CS"):
        return False  # of the default repertoire, whatever the set (PS3.5 6.1.2.2)
    if KEYS[keyword].vr != "PN" and wanted.isascii():
        return False  # so is each of its letters, and only names are found without their accents
    return garbled(keyword, wanted, text, encodings) or _remains(keyword, wanted, text, lost)


def garbled(keyword: str, wanted: str, text: str, encodings: Iterable[str]) -> bool:
    """Whether a text may be what is wanted, were it read in another set, or its replaced letters known."""
    if text.isascii() and not re.search(rf"{_REPLACED}|\x1b", text):
        return False
    if _remains(keyword, wanted, text, Lost.NONE):
        return True
    return any(matches(keyword, wanted, [reading]) for reading in _readings(text, frozenset(encodings)))


@lru_cache(maxsize=4096)
def _readings(text: str, encodings: frozenset[str]) -> frozenset[str]:
    """What the bytes of a text are in other sets."""
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


def _remains(keyword: str, wanted: str, text: str, lost: Lost) -> bool:
    """Whether a text may be all that is left of what is wanted."""
    if KEYS[keyword].vr != "PN":
        return _expression(wanted, False, lost).fullmatch(text) is not None
    if not text and lost in (Lost.NONE, Lost.TYPED):
        return False  # nameless, like many a phantom; what lost its letters has the delimiters still
    shown = [words_of(fold(group), with_empty=True) for group in text.split("=")]
    return all(
        any(words_have_their_own(asked, words, lambda a, word: _fits(a, word, lost)) for words in shown)
        for group in unicodedata.normalize("NFC", wanted).split("=")
        if (asked := [word for word in words_of(group) if word.strip("*")])
    )


def _fits(asked: str, word: str, lost: Lost) -> bool:
    return _expression(asked, True, lost).fullmatch(word) is not None


@lru_cache(maxsize=4096)
def _expression(wanted: str, of_name: bool, lost: Lost) -> re.Pattern[str]:
    """What may be left of a text; of a word of a name, folded."""
    parts: list[str] = []
    plain: list[int] = []  # places of letters that were typed without an accent, and may be missing
    stays = False
    for typed in wanted:
        for letter in fold(typed) if of_name else typed:
            replaced = f"{_REPLACED}{{1,{_BYTES_OF_A_LETTER}}}"
            if letter == "*":
                parts.append(".*")
            elif letter == "?":
                parts.append(f"(?:.|{replaced})" + ("" if lost is Lost.NONE else "?"))
            elif typed.isascii() and (not of_name or is_sure(letter)):
                parts.append(re.escape(letter))
                stays = True
            else:
                gone = lost in (Lost.ANY, Lost.ALL) or (lost is Lost.TYPED and not typed.isascii())
                if gone and typed.isascii():
                    plain.append(len(parts))
                parts.append(f"(?:{re.escape(letter)}|{replaced})" + ("?" if gone else ""))
    ways = [parts]
    if plain and not stays and lost is not Lost.ALL:  # one of them is there: nobody's letters are all beyond the set
        ways = [[*parts[:place], parts[place][:-1], *parts[place + 1 :]] for place in plain]
    return re.compile("|".join(map("".join, ways)), re.DOTALL)
