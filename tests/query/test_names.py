"""Names as people write them against names as archives hold them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pacsifier_ops.query.names import name_matches, wide_name_keys

MATCH = [
    ("Doe", "Doe^John"),
    ("John", "Doe^John"),
    ("Doe^John", "DOE^JOHN"),
    ("John Doe", "Doe^John"),
    ("Doe, John", "Doe^John"),
    ("DOE JOHN", "Doe^John^Q^Dr"),
    ("John^Doe", "Doe^John"),
    ("Doe*", "Doesburg^Jan"),
    ("*doe", "Doe^John"),
    ("Doe^J*", "Doe^John"),
    ("Doe^*", "Doe"),
    ("D?e", "Döe^John"),
    ("Müller", "Muller^Jürg"),
    ("Muller Jürg", "MÜLLER^JURG"),
    ("Müller", "Mu\u0308ller^J"),
    ("Strauß", "STRAUSS^Anna"),
    ("Bjork", "Björk"),
    ("Sorensen", "Sørensen^Søren"),
    ("Łukasz Đorđević", "Dordevic^Lukasz"),
    ("Laetitia Lœb", "LOEB^LÆTITIA"),
    ("isik", "IŞIK^Ayşe"),
    ("O'Neil", "O’NEIL^Ryan"),
    ("O´Neil", "O'Neil"),
    ("Jean-Pierre Dupont", "DUPONT^JEAN PIERRE"),
    ("Dupont Jean Pierre", "Dupont^Jean-Pierre"),
    ("Meyer", "Meyer-Schmidt^Anna"),
    ("van der Berg", "Berg^Jan^van der"),
    ("山田", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("山田^太郎", "Yamada^Tarou=山田　太郎"),
    ("Yamada^Tarou", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("たろう やまだ", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("ヤマダ", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    ("Иванов Пётр", "ИВАНОВ^ПЕТР"),
    ("Παπαδόπουλος", "ΠΑΠΑΔΟΠΟΥΛΟΣ^ΝΙΚΟΣ"),
    ("김", "Kim^Hie=김^희"),
    ("Anna Anna", "Anna^Anna"),
]
NO_MATCH = [
    ("Doe", "Doesburg^Jan"),
    ("Doe^John", "Doe^Jane"),
    ("Doe John", "Doe"),
    ("Doe Doe", "Doe^John"),
    ("oe", "Doe^John"),
    ("D?e", "Dooe"),
    ("Doe*", "Adoe"),
    ("Müller", "Mueller^Jürg"),
    ("Jean*Pierre", "Dupont^Jean-Pierre"),
    ("Jean-Pierre", "Dupont^Jean"),
    ("Yamada 太郎", "Yamada^Tarou=山田^太郎"),
    ("Yamada=鈴木", "Yamada^Tarou=山田^太郎"),
    ("カメラ", "ガメラ"),
    ("[D]oe", "Doe"),
    ("Doe", ""),
    ("Doe", "^^^="),
]


@pytest.mark.parametrize(("pattern", "value"), MATCH)
def test_names_that_match(pattern: str, value: str) -> None:
    assert name_matches(pattern, value)
    keys = wide_name_keys(pattern)
    assert not keys or any(fnmatchcase(value, key) for key in keys)


@pytest.mark.parametrize(("pattern", "value"), NO_MATCH)
def test_names_that_do_not_match(pattern: str, value: str) -> None:
    assert not name_matches(pattern, value)


def test_each_word_needs_a_word_of_its_own() -> None:
    # The first word that fits is not always the right one to take.
    assert name_matches("a* ab*", "Abc^Axe")
    assert name_matches("ab* a*", "Abc^Axe")
    assert not name_matches("ab* abc", "Abc^Axe")


def test_a_hostile_pattern_is_answered_too() -> None:
    assert not name_matches("*a" * 32, "a" * 63 + "b")
    assert not name_matches("a* " * 30 + "b", "a " * 31)


def test_wide_keys() -> None:
    assert wide_name_keys("Müller") == ["*M*", "*m*"]
    assert wide_name_keys("Doe^P?f*") == ["*P*F*", "*P*f*", "*p*F*", "*p*f*"]
    assert wide_name_keys("test 01") == ["*01*"]
    for pattern in ("Doe", "山田", "Иванов", "O'Neil"):
        assert wide_name_keys(pattern) == []


sure = st.sampled_from("bfmpqvxBFMPQVX09")
latin = st.sampled_from("aoAO'" + "".join(chr(code) for code in range(0xC0, 0x250) if chr(code).isalpha()))
word = st.lists(st.one_of(sure, latin), min_size=1, max_size=6).map("".join)
name = st.lists(word, min_size=1, max_size=4)
SPELLINGS: list[Callable[[str], str]] = [str, str.upper, str.lower, str.title, str.swapcase]
spelling = st.sampled_from(SPELLINGS)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """A name as an archive holds it, and how somebody may ask for it."""
    words = draw(name)
    value = "^".join(draw(spelling)(part) for part in words)
    if draw(st.booleans()):
        value = unicodedata.normalize("NFD", value)
    asked = []
    for part in draw(st.permutations(words))[: draw(st.integers(1, len(words)))]:
        if draw(st.booleans()):
            bare = unicodedata.normalize("NFD", part)
            part = "".join(char for char in bare if not unicodedata.combining(char))
        start, end = sorted((draw(st.integers(0, len(part))), draw(st.integers(0, len(part)))))
        part = part[:start] + draw(st.sampled_from(["", "*", "?"])) + part[end:]
        asked.append(draw(spelling)(part))
    return draw(st.sampled_from([" ", "^", ", ", "-"])).join(asked), value


@given(pairs() | st.tuples(name.map(" ".join), name.map("^".join)))
@example(("mcdonald", "McDonald^Fiona"))
@example(("deboever", "DeBoever"))
@example(("pfaffm", "Pfaffm"))
def test_wide_keys_lose_no_name_that_matches(pair: tuple[str, str]) -> None:
    pattern, value = pair
    keys = wide_name_keys(pattern)
    assert len(keys) <= 4 and len(set(keys)) == len(keys)
    assert all(key.isascii() and "?" not in key and key.strip("*") for key in keys)
    if keys and name_matches(pattern, value):
        assert any(fnmatchcase(value, key) for key in keys)


@given(pairs())
def test_a_name_matches_whatever_its_spelling(pair: tuple[str, str]) -> None:
    _, value = pair
    words = value.split("^")
    assert name_matches(value, value)
    assert name_matches(" ".join(reversed(words)), value)
    assert name_matches(", ".join(words).upper(), value)
    assert name_matches(value, f"other=={value}")
