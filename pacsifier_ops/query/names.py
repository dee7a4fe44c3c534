"""Names of persons as people write them, against names as archives hold them.

The rules, all in `fold` and `name_matches`:

- A name is a set of words, divided by blanks, `^`, commas and hyphens. Every word of the pattern must match
  a word of its own in one component group (alphabetic, ideographic or phonetic, PS3.5 6.2.1) of the value;
  order does not matter, and the value may hold more words: `Doe` matches `Doe^John`.
- Case and accents do not matter: `muller` matches `Müller`. Spelling does: `Mueller` is another name.
- `*` and `?` hold within a word. A word that is only `*` asks for nothing.
- Where the pattern has several groups, each of them must match a group of the value.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from pacsifier_ops.query.keys import wildcard_match

# Letters that Unicode does not take apart into a plain letter and an accent, and the apostrophes people type.
_ALIKE = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}
    | dict.fromkeys("`´‘’ʼʹ′", "'")
)
_ACCENTS = re.compile("[\u0300-\u036f]")
_BETWEEN_WORDS = re.compile(r"[\s^,\-‐‒–・]+")


def fold(text: str) -> str:
    """`text` without case, accents and forms of the same letter; ß is ss (Unicode NFKC, case folding).

    Only the accents of European scripts fall away: the marks of kana tell syllables apart and stay.
    """
    bare = _ACCENTS.sub("", unicodedata.normalize("NFD", text.casefold()))
    return unicodedata.normalize("NFKC", bare.translate(_ALIKE)).casefold()


@lru_cache(maxsize=4096)
def _groups(name: str) -> tuple[tuple[str, ...], ...]:
    """The folded words of each component group that holds any."""
    groups = (words_of(fold(group)) for group in name.split("="))
    return tuple(tuple(words) for words in groups if words)


def words_of(group: str, with_empty: bool = False) -> list[str]:
    """The words of a component group; `with_empty` makes a word of a component that holds none."""
    words: list[str] = []
    for component in group.split("^"):
        some = [word for word in _BETWEEN_WORDS.split(component) if word]
        words += some or ([""] if with_empty else [])
    return words


def name_matches(pattern: str, value: str, exact: bool = False) -> bool:
    """Whether a person's name answers what somebody asked for, by the rules of this module; `exact`: no wildcards."""
    groups = _groups(value)
    return bool(groups) and all(
        any(words_have_their_own(asked, words, partial(wildcard_match, exact=exact)) for words in groups)
        for group in _groups(pattern)
        if (asked := [word for word in group if word.strip("*")])
    )


def words_have_their_own(asked: Sequence[str], words: Sequence[str], fit: Callable[[str, str], bool]) -> bool:
    """Whether every word asked for can be given a different word that fits it (augmenting paths)."""
    if len(asked) > len(words):
        return False
    fits = [[w for w, word in enumerate(words) if fit(pattern, word)] for pattern in asked]
    holder: dict[int, int] = {}

    def place(a: int, tried: set[int]) -> bool:
        for w in fits[a]:
            if w not in tried:
                tried.add(w)
                if w not in holder or place(holder[w], tried):
                    holder[w] = a
                    return True
        return False

    return all(place(a, set()) for a in range(len(asked)))


# What the letters of the European Latin alphabets (U+00C0 to U+024F) fold to; the rest of a to z is sure.
_FOLDED_TO = frozenset(itertools.chain.from_iterable(fold(chr(code)) for code in range(0xC0, 0x250)))
_SURE_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz") - _FOLDED_TO
_DIGITS = frozenset("0123456789")


def is_sure(letter: str) -> bool:
    """Whether a folded letter of ASCII has no accented form in the European Latin alphabets."""
    return letter in _SURE_LETTERS or not letter.isalpha()


#: Letters of Latin, Greek and Cyrillic that others, with an accent or of another form, fold to.
_SEVERAL = frozenset(
    fold(char)
    for code in (*range(0xC0, 0x250), *range(0x370, 0x530), *range(0x1F00, 0x2000))
    if (char := chr(code)).isalpha() and char.casefold() != fold(char)
)


def blurred(word: str) -> str:
    """A word as typed, with `*` for each letter that people write in several ways: `*v*` for Dvořák.

    What it does not find, with case aside, is no name that `name_matches` accepts; rare forms of letters aside, as in
    `wide_name_keys`.
    """

    def kept(char: str) -> bool:
        return char == "?" or char.isdigit() or (char.isalpha() and fold(char) == char.casefold() not in _SEVERAL)

    letters = (char if kept(char) else "*" for char in unicodedata.normalize("NFC", word))
    return re.sub(r"\*+", "*", f"*{''.join(letters)}*")


def wide_name_keys(pattern: str) -> list[str]:
    """PatientName keys whose answers together hold every name that `name_matches` accepts.

    An archive may compare with or without case and knows nothing of our rules on accents and order. So the
    keys hold, of one word of the pattern, only digits and letters that have no accented form in any European
    Latin alphabet (b f m p q v x), at most two letters, in every combination of case. Guaranteed where the
    group of the value that matches is written in ASCII and U+00C0 to U+024F, accents composed or not; not for
    rare forms of those letters and digits beyond (full-width, dotted b). An empty list says that the name
    cannot narrow the query: ask for every name.
    """
    words = itertools.chain.from_iterable(_groups(pattern))
    best = max((_sure_part(word) for word in words), key=lambda part: len(part.replace("*", "")), default="*")
    if best == "*":
        return []
    choices = (sorted({char, char.upper()}) for char in best)
    return ["".join(chars) for chars in itertools.product(*choices)]


def _sure_part(word: str) -> str:
    """A folded word as a wildcard pattern that keeps only characters written in one way, case aside."""
    letters = [place for place, char in enumerate(word) if char in _SURE_LETTERS][:2]
    kept = (char if char in _DIGITS or place in letters else "*" for place, char in enumerate(word))
    return re.sub(r"\*+", "*", f"*{''.join(kept)}*")
