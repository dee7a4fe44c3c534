"""What may become of a name on its way into an answer, and what such an answer still proves."""

from __future__ import annotations

import itertools

import pytest

from pacsifier_ops.query.letters import LostLetters, garbled, may_be
from pacsifier_ops.query.match import matches

#: Asked for, shown; the fault, from public reports.
MISREAD = [
    ("Иванов Пётр", "Èâàíîâ^Ï¸òð"),  # CP1251 without a character set, or as ISO 2022 IR 6
    ("Muller", "MÃ¼ller^Anna"),  # UTF-8 as ISO_IR 100, or as the misspelt ISO_IR_192
    ("Müller", "MÃ¼ller^Anna"),
    ("王", "Íõ^Ð¡Ã÷"),  # GBK
    ("山田 花子", "\x8eR\x93c^\x89Ô\x8eq"),  # Shift_JIS
    ("山田", "\x1b$B;3ED\x1b(B"),  # ISO 2022 IR 87 without a character set
    ("Παπάς", "ÐáðÜò^ÃéÜííçò"),  # ISO 8859-7
    ("Yildiz", "Yýldýz^Þükrü"),  # ISO 8859-9 as ISO_IR 100
    ("Dvorak Jiri", "Dvoøák^Jiøí"),  # ISO 8859-2 as ISO_IR 100
    ("Žižka", "\x8ei\x9eka^Jan"),  # CP1252 as ISO_IR 100
]
REPLACED = [
    ("ÄLÄ KÄYTÄ", "?L?^K?YT?"),
    ("Muller", "M?ller^J?rg"),
    ("Иванов", "??????^????"),
    ("山田 太郎", "Yamada^Tarou=??^??=???^???"),
    ("Gunther", "G\\374nther^Hans"),
    ("Zolc", "?ó??^?ukasz"),
    ("Muller", "M\ufffd\ufffdller^Hans"),
]
DROPPED = [
    ("Zolc", "ó^ukasz"),
    ("Żółć Łukasz", "ó^ukasz"),
    ("Dvorak", "Dvoák^Jií"),
    ("Yildiz", "Yldz^ükrü"),
    ("Erdos", "Erds^Pál"),
    ("Иванов", "^"),
    ("Иванов", ""),
    ("王 小东", "Wang^XiaoDong=^"),
    ("*rak", "Dvoák^Jií"),
]
#: Of the same alphabets, and other names all the same.
OTHERS = [
    ("Muller", "Möller^Anna"),
    ("Muller", "M?ier^Anna"),
    ("Ivanov", "??????^????"),
    ("Nobody", "ó^ukasz"),
    ("Doe", "^"),
    ("Doe*", "Yamada^Tarou=^=^"),
    ("Muller", "Müler^Anna"),
    ("Smith", "MÃ¼ller^Anna"),
    ("Zolc", "Żółw^Łukasz"),
    ("Doe Jane", "Doe^J?hn"),
]


@pytest.mark.parametrize(("wanted", "shown"), MISREAD + REPLACED)
def test_a_name_that_is_shown_wrong_may_be_the_wanted_one(wanted: str, shown: str) -> None:
    assert not matches("PatientName", wanted, [shown])
    assert garbled("PatientName", wanted, shown, {"latin_1"})
    assert may_be("PatientName", wanted, [shown], (), LostLetters.NONE)


@pytest.mark.parametrize(("wanted", "shown"), DROPPED)
def test_a_name_that_lacks_letters_may_be_the_wanted_one(wanted: str, shown: str) -> None:
    assert may_be("PatientName", wanted, [shown], {"latin_1"}, LostLetters.ANY)
    assert not may_be("PatientName", wanted, [shown], {"latin_1"}, LostLetters.NONE)


@pytest.mark.parametrize(("wanted", "shown"), OTHERS)
def test_another_name_is_another_name(wanted: str, shown: str) -> None:
    assert not may_be("PatientName", wanted, [shown], {"latin_1"}, LostLetters.NONE)
    if "l" not in shown:  # Müler lacks a letter of Müller
        assert not may_be("PatientName", wanted, [shown], {"latin_1"}, LostLetters.ANY)


def test_names_of_one_language_are_not_taken_for_misread_ones() -> None:
    names = [
        *("Müller", "Möller", "Moller", "Muller", "Höß", "Huß", "Weiß", "Gärtner", "Görtner", "Gurtner", "Dvořák"),
        *("Kovács", "Kováč", "Nuñez", "Núñez", "Pérez", "Peréz", "François", "Sørensen", "Sorensen", "Åberg", "Äberg"),
        *("Öberg", "Oberg", "Łukasz", "Lükasz", "Güler", "Göler"),
    ]
    for wanted, shown in itertools.product(names, names):
        if not matches("PatientName", wanted, [shown]):
            assert not may_be("PatientName", wanted, [shown], {"utf8", "latin_1", "iso8859_2"}, LostLetters.NONE)


@pytest.mark.parametrize(
    ("keyword", "wanted", "shown", "expected"),
    [
        ("StudyDescription", "Kopf Größe", "Kopf GrÃ¶Ã\x9fe", True),
        ("StudyDescription", "Kopf Größe", "Kopf Gr??e", True),
        ("StudyDescription", "Kopf Größe", "Kopf Gre", True),
        ("StudyDescription", "Kopf Größe", "Kopf Grose", False),
        ("StudyDescription", "Kopf", "K?pf", False),  # plain letters are never replaced
        ("StudyDate", "20200101", "2020????", False),
        ("Modality", "CT", "?T", False),
    ],
)
def test_other_texts(keyword: str, wanted: str, shown: str, expected: bool) -> None:
    assert may_be(keyword, wanted, [shown], {"latin_1"}, LostLetters.ANY) is expected
