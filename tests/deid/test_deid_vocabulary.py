"""Cleaning of descriptions: what people write about images stays, whom they are of goes."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from typing import Any

import pytest

from pacsifier_ops.deid import titles, vocabulary
from pacsifier_ops.deid.vocabulary import Vocabulary
from tests.support.places import DATA


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
        "hans@spital.ch", "14/03", "03/14", "12 03 63", "03_14_63", "14-03", "03-14",
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
    for text in (
        "95-year-old",
        "101 Jahre Thorax",
        "98 ans genou",
        "90 years",
        "age 95",
        "Alter: 98",
        "95a",
        "95 y/o",
        "92 años",
    ):
        assert not re.search("9[0-9]|101", vocabulary.clean(text)), text
    assert vocabulary.clean("90Y PET") == "90Y PET"


def test_of_descriptions_that_were_held_back_the_harmless_words_stay() -> None:
    kept, lost = 0, Counter[str]()
    for text in _lines("descriptions_held_back.txt"):
        harmless = Counter(re.findall(r"[^\W_]+", re.sub(r"\{.*?\}", " ", text)))
        left = Counter(re.findall(r"[^\W_]+", vocabulary.clean(text.translate({123: None, 125: None}))))
        lost += harmless - left
        kept += (harmless & left).total()
    print(f"kept {kept} of {kept + lost.total()} words")
    assert kept / (kept + lost.total()) > 0.95, lost


def test_names_of_structures_for_radiotherapy_stay() -> None:
    named = [vocabulary.judge(text) for text in _lines("structures.txt")]
    kept, dropped = sum(one.kept for one in named), sum(one.dropped for one in named)
    assert kept / (kept + dropped) > 0.97
    for text in re.split(
        " ", "GTVp GTVn ITV CTVn_L PTV_High PTV6600 z_ring Couch Bowel_Bag Parotid_L Lunge_re Lungs-GTV"
    ):
        assert vocabulary.clean(text) == text


def _rows(table: str) -> list[tuple[str, ...]]:
    return [tuple(part.strip() for part in line.split("->")) for line in table.strip().splitlines()]


_TITLES = """
    Dr. |Dr |Prof. |Prof. Dr. |Dr. med. |Mr |Mrs |Mrs. |Ms. |Miss |Herr |Frau |Mme |Mlle |M. |Sig. |Sig.ra |Sr. |Sra. |
    Dott. |Ing. |ref |ref by |referred by |by |per Dr |MTRA |tech |Arzt |Ärztin |Überweiser |Zuweiser: |Oberarzt |
    médecin |Name: """


def _planted(chance: random.Random, text: str, first: str, last: str) -> tuple[str, str]:
    """A description with a name at any place, and what of the name must not stay."""
    case = chance.choice((str.upper, str.lower, str, str))
    form = chance.choice(
        ("{0} {1}", "{1} {0}", "{1}, {0}", "{1}^{0}", "{1}_{0}", "{2}. {1}", "{1} {2}", "{1}", "{3}{1}", "{3}{1}")
    )
    name = form.format(case(first), case(last), first[0], chance.choice(_TITLES.split("|")).lstrip())
    words = re.split("(?<=[ _])", text)
    at = chance.randrange(len(words) + 1)
    return " ".join(
        ("".join(words[:at]).rstrip(), name, "".join(words[at:]))
    ), f"{first} {last}" if "{0}" in form else last


def test_names_of_many_countries_planted_in_descriptions_go() -> None:
    """At most 0.1 %: those are single names that are words as well, without a title."""
    texts = [text.translate({123: None, 125: None}) for text in _lines("descriptions_held_back.txt")]
    lists = [(line.split("\t")[1].split("|"), line.split("\t")[2].split("|")) for line in _lines("names_world.txt")]
    chance, leaks, planted = random.Random(263), [], 0
    while planted < 30_000:
        first_names, surnames = chance.choice(lists)
        text = chance.choice(texts)
        whole, secret = _planted(chance, text, chance.choice(first_names), chance.choice(surnames))
        words = {word for word in re.findall(r"[^\W_]+", secret.casefold()) if len(word) > 1 or not word.isascii()}
        words -= {"de", "la", "le", "el", "van", "von", "der", "di", "da", "al"}
        if words & (known := set(re.findall(r"[^\W_]+", text.casefold()))):
            continue
        planted += 1
        if words & (set(re.findall(r"[^\W_]+", vocabulary.clean(whole).casefold())) - known):
            leaks.append(whole)
    print(f"{len(leaks)} of {planted} names left something")
    assert len(leaks) / planted <= 0.001, leaks


_BEHIND_TITLES = """
    Dr. Stein Thorax -> Thorax
    Prof. Lang ->
    by Long ->
    ref Dr. Foot ankle -> ref ankle
    Ms White chest -> chest
    Frau Lang Schulter -> Schulter
    Mme Petit genou -> genou
    MTRA Klein Thorax -> Thorax
    DR. LONG THORAX -> THORAX
    Prof. Dr. med. K. van der Brain Thorax -> Thorax
    Name: Foot ->
    C. Long Thorax -> Thorax
    Long, C. ->
    De Block Thorax -> Thorax
    DR Thorax -> DR Thorax
    MR Thorax -> MR Thorax
    MS protocol -> MS protocol
    TR 30 ms Thorax -> TR 30 ms Thorax
    by protocol -> by protocol
    10 ml per min -> 10 ml per min
    M. Crohn -> M. Crohn
    Mb. Bechterew -> Mb. Bechterew
    CT HEAD W/O CONT -> CT HEAD W/O CONT
    Knee C+ -> Knee C
    J.D.K. knee -> knee
    J. D. Thorax -> Thorax
    Foot, Michael J ->
    Thorax p.a. und seitlich -> Thorax p.a. und seitlich
    MR L.W.S. -> MR L.W.S
    CT Hr. Klein -> CT
    PTV-Hr-Klein -> PTV
    48 Hr delayed -> 48 Hr delayed
    HR 60 -> HR 60
    Fr. Klein Thorax -> Thorax
    Kopf, Dr. ->
    Lang, Dr. / Black, MD ->
    Thorax, Dr. Klein -> Thorax
    CT Long MD -> CT
    CT Long, PhD -> CT
    MD CT Thorax -> MD CT Thorax
    Pt Long -> Pt
    pt supine -> pt supine
    Hand^Long ->
    Head^Brain -> Head^Brain
    Head^Neck -> Head^Neck
"""


@pytest.mark.parametrize(("text", "left"), _rows(_BEHIND_TITLES))
def test_what_stands_behind_a_title_goes(text: str, left: str) -> None:
    assert vocabulary.clean(text) == left


_SCRIPTS = """
    王 Thorax nativ -> Thorax nativ
    CT Thorax 王小东 -> CT Thorax
    王小东胸部平扫 -> 胸部平扫
    李 四 Thorax -> Thorax
    森 先生 胸部 -> 胸部
    김 복부 -> 복부
    김철수CT -> CT
    やまだ 頭部単純 -> 頭部単純
    Э Thorax -> Thorax
    Thorax Я -> Thorax
    पटेल Thorax -> Thorax
    สมชาย Thorax -> Thorax
    ע Thorax -> Thorax
    王3次 ->
    左小东 Thorax -> Thorax
    金属伪影 -> 金属伪影
    左膝关节 -> 左膝关节
    胸部CT -> 胸部CT
    胸腹部造影CT -> 胸腹部造影CT
    두부 조영 -> 두부 조영
    МРТ голова -> МРТ голова
    θώρακας -> θώρακας
    大腿 -> 大腿
"""


@pytest.mark.parametrize(("text", "left"), _rows(_SCRIPTS))
def test_scripts_without_blanks_are_divided_by_the_list(text: str, left: str) -> None:
    assert vocabulary.clean(text) == left


_HARMLESS = """
    3 mm|1.25 mm axial|RT ANKLE|XR KNEE LT|R/L|re/li|dx/sin|droite/gauche|MoCo|TRACEW|SSFP|W/WO|TAVR|ICA|mDIXON|
    bSSFP|
    PROPELLER|XR CHEST 1 VW|ep2d_b0_50_400_800|TDM thoraco-abdomino-pelvienne|
    RM encefalo senza mdc|TC de Tórax con Contraste|
    DT buk med kontrast|T1_mprage_sag_p2_iso_1.0"""


@pytest.mark.parametrize("text", map(str.strip, _HARMLESS.split("|")))
def test_sides_sequences_and_measures_stay(text: str) -> None:
    assert vocabulary.clean(text) == text


def test_the_patients_own_name_goes_even_where_it_is_a_word() -> None:
    assert vocabulary.clean("Thorax Stein nativ", "Meier^Anna") == "Thorax Stein nativ"
    assert vocabulary.clean("Thorax Stein nativ", "Stein^Anna") == "Thorax nativ"
    assert vocabulary.clean("Thorax nativ", "Thorax^Phantom") == "Thorax nativ"  # no name
    assert vocabulary.clean("Lộc Thorax") == "Thorax"  # another word than loc


@pytest.mark.parametrize(
    ("text", "patient", "left"),
    [
        ("MR Tran Anh", "Tran^Anh", "MR"),
        ("Free Flash T1", "Flash^Free", "T1"),
        ("Flash T1", "Flash^Free", "Flash T1"),  # one that is surely a word names nobody
        ("Flash flash T1", "Flash^Free", "Flash flash T1"),
        ("FreeFlash T1", "Flash^Free", "T1"),
        ("T1 Flash 2", "Flash^2", "T1 Flash 2"),
        ("Free Flash T1", vocabulary.names_of(["Flash^Anna", "", "Free"]), "T1"),
    ],
)
def test_two_words_of_the_patients_name_go_even_where_they_are_surely_words(text: str, patient: str, left: str) -> None:
    assert vocabulary.clean(text, patient) == left


def test_names_of_a_patient_are_the_same_in_any_order() -> None:
    assert vocabulary.names_of(["B^C", "A", "A", ""]) == vocabulary.names_of({"A", "B^C"}) != ""


class _Counted(list[Any]):
    """Counts how often it is looked into."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return super().__getitem__(place)


@pytest.mark.parametrize("piece", ["Dr. ", "Dr. van ", "pat: ", "A. ", "Lang, Dr. / "])
def test_many_titles_take_no_longer_than_many_other_words(piece: str) -> None:
    text = piece * 1000
    words = _Counted(vocabulary.shipped()._words(text))
    list(titles.names_in(text, words))
    assert words.looks < 100 * len(words)


def test_what_stays_keeps_its_place_and_what_separates_it() -> None:
    assert vocabulary.clean("t1_mprage_MUSTERMANN_sag") == "t1_mprage_sag"
    assert vocabulary.clean("Knie re., ap/lat (Meierhans)") == "Knie re., ap/lat"
    assert vocabulary.clean("CT Thorax 5.0 A30 Herr Muster") == "CT Thorax"
    assert vocabulary.clean("CT Thorax 5.0 B30f Herr Muster") == "CT Thorax 5.0 B30f"  # a kernel is nobody
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
