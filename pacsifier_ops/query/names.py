"""Matches names of persons as people write them with names in archives.

The rules, all in `fold` and `name_matches`:

- A name is a set of words, separated by blanks, `^`, commas and hyphens. Every word of the pattern must match a
  different word in one component group (alphabetic, ideographic or phonetic, PS3.5 6.2.1) of the value. The order is
  ignored, and the value may have more words: `Doe` matches `Doe^John`.
- Case and accents are ignored: `muller` matches `Müller`. Spelling counts: `Mueller` is a different name.
- `*` and `?` are wildcards within a word. A word `*` matches everything.
- Where the pattern has several groups, each of them must match a group of the value.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from pacsifier_ops.query.keys import wildcard_match

# Letters that Unicode does not decompose into a plain letter and an accent, and the apostrophes that people type.
_ALIKE = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"}
    | dict.fromkeys("`´‘’ʼʹ′", "'")
)
_ACCENTS = re.compile("[\u0300-\u036f]")
_BETWEEN_WORDS = re.compile(r"[\s^,\-‐‒–・]+")


def fold(text: str) -> str:
    """Return `text` without case, accents and variants of letters; ß becomes ss (Unicode NFKC, case folding).

    Only accents of European scripts are removed: the marks of kana distinguish syllables and stay.
    """
    bare = _ACCENTS.sub("", unicodedata.normalize("NFD", text.casefold()))
    return unicodedata.normalize("NFKC", bare.translate(_ALIKE)).casefold()


@lru_cache(maxsize=4096)
def _groups(name: str) -> tuple[tuple[str, ...], ...]:
    """Return the folded words of each component group that has any."""
    groups = (words_of(fold(group)) for group in name.split("="))
    return tuple(tuple(words) for words in groups if words)


def words_of(group: str, with_empty: bool = False) -> list[str]:
    """Return the words of a component group. `with_empty` returns an empty word for each empty component."""
    words: list[str] = []
    for component in group.split("^"):
        some = [word for word in _BETWEEN_WORDS.split(component) if word]
        words += some or ([""] if with_empty else [])
    return words


def name_matches(pattern: str, value: str, exact: bool = False) -> bool:
    """Return whether a person's name matches a pattern by the rules of this module; `exact`: no wildcards."""
    groups = _groups(value)
    return bool(groups) and all(
        any(can_assign_words(patterns, words, partial(wildcard_match, exact=exact)) for words in groups)
        for group in _groups(pattern)
        if (patterns := [word for word in group if word.strip("*")])
    )


def can_assign_words(patterns: Sequence[str], words: Sequence[str], fit: Callable[[str, str], bool]) -> bool:
    """Return whether each pattern can be assigned a different word that fits it (augmenting paths)."""
    if len(patterns) > len(words):
        return False
    fits = [[w for w, word in enumerate(words) if fit(pattern, word)] for pattern in patterns]
    holder: dict[int, int] = {}

    def place(a: int, tried: set[int]) -> bool:
        for w in fits[a]:
            if w not in tried:
                tried.add(w)
                if w not in holder or place(holder[w], tried):
                    holder[w] = a
                    return True
        return False

    return all(place(a, set()) for a in range(len(patterns)))


# Results of folding the letters of the European Latin alphabets (U+00C0 to U+024F). Other letters of a to z have one
# form.
_FOLDED_TO = frozenset(itertools.chain.from_iterable(fold(chr(code)) for code in range(0xC0, 0x250)))
_UNACCENTED = frozenset("abcdefghijklmnopqrstuvwxyz") - _FOLDED_TO
_DIGITS = frozenset("0123456789")


def has_one_form(letter: str) -> bool:
    """Return whether a folded ASCII letter has no accented form in the European Latin alphabets."""
    return letter in _UNACCENTED or not letter.isalpha()


#: Letters of Latin, Greek and Cyrillic to which other letters fold.
_SEVERAL = frozenset(
    fold(char)
    for code in (*range(0xC0, 0x250), *range(0x370, 0x530), *range(0x1F00, 0x2000))
    if (char := chr(code)).isalpha() and char.casefold() != fold(char)
)


def blurred(word: str) -> str:
    """Return a typed word with `*` for each letter that can be written in several ways: `*v*` for Dvořák.

    A name that this pattern does not match, case aside, is not accepted by `name_matches`; rare variants of letters are
    an exception, as in `wide_name_keys`.
    """

    def kept(char: str) -> bool:
        return char == "?" or char.isdigit() or (char.isalpha() and fold(char) == char.casefold() not in _SEVERAL)

    letters = (char if kept(char) else "*" for char in unicodedata.normalize("NFC", word))
    return re.sub(r"\*+", "*", f"*{''.join(letters)}*")


def wide_name_keys(pattern: str) -> list[str]:
    """Return PatientName keys whose responses together contain every name that `name_matches` accepts.

    An archive may compare with or without case, and does not know our rules for accents and order. So the keys contain,
    of one word of the pattern, only digits and at most two letters without an accented form in any European Latin
    alphabet (b f m p q v x), in every combination of case. This is guaranteed where the matching group of the value is
    written in ASCII and U+00C0 to U+024F, with composed accents or not. It is not guaranteed for rare variants beyond
    (full-width, dotted b). An empty list means that the name cannot narrow the query: ask for every name.
    """
    words = itertools.chain.from_iterable(_groups(pattern))
    best = max((_unaccented_pattern(word) for word in words), key=lambda part: len(part.replace("*", "")), default="*")
    if best == "*":
        return []
    choices = (sorted({char, char.upper()}) for char in best)
    return ["".join(chars) for chars in itertools.product(*choices)]


def _unaccented_pattern(word: str) -> str:
    """Return a folded word as a wildcard pattern with only those characters that have one form, case aside."""
    letters = [place for place, char in enumerate(word) if char in _UNACCENTED][:2]
    kept = (char if char in _DIGITS or place in letters else "*" for place, char in enumerate(word))
    return re.sub(r"\*+", "*", f"*{''.join(kept)}*")
