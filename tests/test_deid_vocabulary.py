"""Cleaning of descriptions: what people write about images stays, whom they are of goes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pacsifier_ops.deid import vocabulary
from pacsifier_ops.deid.vocabulary import Vocabulary

DATA = Path(__file__).parent / "data"


def _lines(name: str) -> list[str]:
    return [line for line in (DATA / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _names() -> tuple[list[str], list[str]]:
    """Surnames and first names."""
    _, _, surnames, first_names = (DATA / "names.txt").read_text(encoding="utf-8").split("# ")
    return surnames.split()[1:], first_names.split()[2:]


def test_what_is_written_about_images_stays() -> None:
    cleaned = {text: vocabulary.judge(text) for text in _lines("descriptions.txt")}
    kept, dropped = (sum(getattr(one, name) for one in cleaned.values()) for name in ("kept", "dropped"))
    whole = sum(not one.dropped for one in cleaned.values())
    print(f"kept {kept} of {kept + dropped} words, {whole} of {len(cleaned)} descriptions whole")
    assert kept / (kept + dropped) > 0.95, [text for text, one in cleaned.items() if one.dropped]
    assert all(one.text in text for text, one in cleaned.items() if not one.dropped)


def test_who_it_is_goes() -> None:
    """No name survives beside another, nor in a description; alone only those that are words of the list too."""
    surnames, first_names = _names()
    known = {name.lower() for name in first_names + surnames}
    leaks = []
    for place, surname in enumerate(surnames):
        first = first_names[place % len(first_names)]
        for form in ("{0}^{1}", "{1} {0}", "{0}, {1}", "{0}_{1}_19630412", "CT Thorax {0} {1} nativ"):
            for text in (form.format(surname, first), form.format(surname, first).upper()):
                words = {word.lower() for word in vocabulary.clean(text).replace("_", " ").replace(",", " ").split()}
                leaks += [text] * bool(words & known)
    assert not leaks
    alone = [name for name in sorted({*surnames, *first_names}) if vocabulary.clean(name)]
    print(f"{len(alone)} of {len({*surnames, *first_names})} names are words of the list: {' '.join(alone)}")
    assert len(alone) < 40


@pytest.mark.parametrize(
    "text",
    [
        "079 123 45 67", "+41 21 314 11 11", "756.1234.5678.97", "12.03.1963", "1963-03-12", "19630312", "12/3/63",
        "12. 3. 63", "geb. 1963", "8001", "45678", "A1234567", "P0001", "ID7F3A9", "a3f9c2", "14:35:20", "5c8e1f",
        "X-4711-22", "1.2.840.113619.2.55.3", "Bahnhofstr. 17", "Prof. Dr. Stern", "Kopf, Hans", "K. Kern",
        "hans@spital.ch", "14/03", "03/14", "12 03 63", "03_14_63",
    ],
)  # fmt: skip
def test_identifiers_dates_and_numbers_of_people_go(text: str) -> None:
    left = vocabulary.clean(text)
    assert not [word for word in left.split() if len(word) > 2], left
    assert not set(left) & set("0123456789") or left in ("17",), left


def test_an_age_over_89_goes() -> None:
    written = ["Thorax {} Jahre", "Thorax {}J", "Abdomen {} ans", "Head 0{}Y", "Head {} years", "Head {}_yo"]
    written += ["Thorax {}M", "Thorax F {}", "{}/w Thorax", "Thorax_m{}"]
    for form in written:
        assert "95" not in vocabulary.clean(form.format(95)), form
    assert vocabulary.clean("Thorax 85 Jahre") == "Thorax 85 Jahre"


def test_what_stays_keeps_its_place_and_what_separates_it() -> None:
    assert vocabulary.clean("t1_mprage_MUSTERMANN_sag") == "t1_mprage_sag"
    assert vocabulary.clean("Knie re., ap/lat (Meierhans)") == "Knie re., ap/lat"
    assert vocabulary.clean("CT Thorax 5.0 B30f Herr Muster") == "CT Thorax"
    assert vocabulary.clean("CT Thorax 5.0 B30f nativ Herr Muster") == "CT Thorax 5.0 B30f nativ"
    assert vocabulary.judge("Muster CT Thorax") == vocabulary.Cleaned("CT Thorax", 2, 1)
    assert vocabulary.clean("Muster") == "" == vocabulary.clean("") == vocabulary.clean("^^^")
    assert vocabulary.clean("+0100") == "+0100"
    assert vocabulary.clean("zeile eins\r\nThorax\tLunge\x00") == "eins  Thorax Lunge"


def test_a_word_that_is_a_name_too_stays_where_nobody_is_named() -> None:
    assert vocabulary.clean("CT Kopf nativ") == "CT Kopf nativ"
    assert vocabulary.clean("Hans Kopf") == ""
    assert vocabulary.clean("Kopf Kurz Hans") == ""
    assert vocabulary.clean("CT Kopf nativ Dr. Meier") == "CT Kopf nativ"


def test_accents_case_and_compounds_do_not_matter() -> None:
    for text in ("Schädel", "SCHAEDEL", "schadel", "crâne", "CRANE", "Schädelbasis", "Kniegelenk", "SagT2FLAIR"):
        assert vocabulary.clean(text) == text
    assert vocabulary.clean("Thorax" * 30_000) == ""
    assert Vocabulary("thorax").clean("thoraxthorax Thorax") == vocabulary.Cleaned("thoraxthorax Thorax", 2, 0)


def test_any_text_is_cleaned_and_cleaning_again_changes_nothing() -> None:
    pieces = [
        "CT",
        "Hans",
        "5.0",
        "Kopf",
        "K",
        "12.03.1963",
        "8001",
        "079",
        "mm",
        "(",
        "_",
        " ",
        "-",
        "ü\u0308",
        "日本",
        "\x00",
        "T2*",
    ]
    for parts in itertools.product(pieces, repeat=3):
        once = vocabulary.judge("".join(parts))
        assert once.kept + once.dropped >= 0
        assert vocabulary.clean(once.text) == once.text
