"""Values: dates, ages, tokens, what is valid, and dummies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import codes, values
from pacsifier_ops.dicom import vrs
from pacsifier_ops.dicom.charsets import DEFAULT, Charset
from pacsifier_ops.pseudonyms.secret import Secret


@pytest.mark.parametrize(
    ("text", "days", "moved"),
    [
        ("20200301", -1, "20200229"),
        ("20191231", 1, "20200101"),
        ("1985.02.28", 1, "1985.03.01"),
        ("19020101", -1, "19011231"),
        ("19700102", -1, "19700101"),
        ("20200301", 0, "20200301"),
        ("19000101", 0, "19000101"),
        # stands for no date: moved, it would tell by how many days
        ("19000101", -1, None),
        ("1900.01.01", -1, None),
        ("18581117", -1, None),
        ("19700101", -1, None),
        ("19691231", -1, None),
        ("00010102", -1, None),
        ("99991231", -1, None),
        # not valid, or farther than dates go
        ("20200230", -1, None),
        ("00010101", -1, None),
        ("99991231", 1, None),
        ("20200301-20200305", 1, None),
        ("-20200305", 1, None),
        ("202003", 1, None),
        ("2020", 1, None),
        ("2020.03.1", 1, None),
        ("2020-03-01", 1, None),
        ("Müller", 1, None),
        ("٢٠٢٠٠٣٠١", 1, None),
    ],
)
def test_a_date_moves_in_the_form_that_it_has(text: str, days: int, moved: str | None) -> None:
    assert values.shifted_date(text, days) == moved


@pytest.mark.parametrize(
    ("text", "days", "moved"),
    [
        ("20200301123456.123456+0200", -1, "20200229123456.123456+0200"),
        ("20200301123456.1", -1, "20200229123456.1"),
        ("202003011234-0500", 1, "202003021234-0500"),
        ("2020030112", 1, "2020030212"),
        ("20200301", 1, "20200302"),
        ("202003", -1, "202002"),
        ("2020", -1, "2019"),
        ("2020+0100", 1, "2020+0100"),
        ("20200301235960", 1, "20200302235960"),
        ("19000101000000.000000+0000", 1, None),
        ("19700101010000+0100", 1, None),
        ("20200301250000", 1, None),
        ("2020030112345", 1, None),
        ("20200301-20200305", 1, None),
        ("20200301123456.1234567", 1, None),
        ("202013", 1, None),
    ],
)
def test_precision_fraction_and_zone_of_a_date_and_time_stay(text: str, days: int, moved: str | None) -> None:
    assert values.shifted_datetime(text, days) == moved


@given(st.text(max_size=30), st.integers(-40_000, 40_000))
def test_no_text_stops_a_shift(text: str, days: int) -> None:
    for move in (values.shifted_date, values.shifted_datetime):
        moved = move(text, days)
        assert moved is None or len(moved) == len(text)


@pytest.mark.parametrize(
    ("text", "capped"),
    [
        ("089Y", "089Y"),
        ("090Y", "090Y"),
        ("103Y", "090Y"),
        ("999M", "999M"),
        ("007D", "007D"),
        ("90Y", None),
        ("", None),
    ],
)
def test_nobody_is_older_than_ninety(text: str, capped: str | None) -> None:
    assert values.capped_age(text) == capped


@pytest.mark.parametrize(
    ("vr", "good", "bad"),
    [
        ("AE", ["STORE_1", "a b"], ["x" * 17, "ö"]),
        ("CS", ["ORIGINAL", "ISO_IR 100"], ["DOE^JANE", "Doe", "A" * 17]),
        ("DA", ["20200301", "1990.01.31"], ["20201301", "yesterday"]),
        ("DS", ["1", "-1.5e-10", "+.5", "0.12345678901234567", "12."], ["DOE", "1,5", "1 2", "nan", "1" * 33]),
        ("DT", ["2020", "20200301120000.000000+0100"], ["1.3.2020"]),
        ("IS", ["-12", "+0"], ["1.5", "1234567890123", "x"]),
        ("LO", ["a\tb".replace("\t", " "), "Müller"], ["a\nb", "x" * 65, "a\\b"]),
        ("LT", ["a\r\nb\\c"], ["a\x00b", "x" * 10241]),
        ("PN", ["Doe^Jane", "A=B=C"], ["a\x07", "A=B=C=D"]),
        ("SH", ["x" * 16], ["x" * 17]),
        ("TM", ["12", "1234", "123456.5", "12:34:56"], ["24", "1260", "noon"]),
        ("UI", ["1.2.840", "2.25.0"], ["1.02", "1.2.", "1.2.x", "1", "1." + "2" * 63]),
        ("UR", ["http://a/b?c"], ["a b"]),
        ("UT", ["any\nlines"], ["\x1b"]),
    ],
)
def test_what_is_valid(vr: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not values.is_valid(vr, text)] == []
    assert [text for text in bad if values.is_valid(vr, text)] == []
    assert values.is_valid(vr, "")


def test_dummies_are_valid_and_say_nothing() -> None:
    for vr in vrs.STRINGS - {"UI"}:
        text = values.dummy(vr).decode("ascii")
        assert text and values.is_valid(vr, text), vr
    assert all(not any(values.dummy(vr)) and len(values.dummy(vr)) == size for vr, size in vrs.SIZES.items())


def test_a_token_is_the_same_everywhere_and_another_for_another_attribute_and_project() -> None:
    one, other = Secret(b"1" * 32), Secret(b"2" * 32)
    token = values.token(one, "AccessionNumber", "A17")
    assert token == values.token(one, "AccessionNumber", "A17")
    others = {values.token(one, "StudyID", "A17"), values.token(one, "AccessionNumber", "A18")}
    assert len({token, *others, values.token(other, "AccessionNumber", "A17")}) == 4
    assert all(values.is_valid(vr, token) for vr in ("CS", "LO", "SH"))


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        (b"", b"Mueller", "Mueller"),
        (b"", "Müller".encode("latin-1"), None),
        (b"ISO_IR 100", "Müller".encode("latin-1"), "Müller"),
        (b"ISO_IR 192", "Müller 山田".encode(), "Müller 山田"),
        (b"ISO_IR 192", b"M\xfcller", None),
        (b"ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "Люкceмбypг"),
        (b"GB18030", "王\\小東".encode("gb18030"), "王\\小東"),
        (b"\\ISO 2022 IR 87", b"Yamada \x1b$B;3ED\x1b(B", "Yamada 山田"),
        (b"\\ISO 2022 IR 149", b"Hong \x1b$)C\xb1\xe6\xb5\xbf", "Hong 길동"),
        (b"\\ISO 2022 IR 87", b"Hong \x1b$)C\xb1\xe6\xb5\xbf", None),
        (b"ISO_IR 100", b"Yamada \x1b$B;3ED\x1b(B", None),
    ],
)
def test_text_is_decoded_strictly(declared: bytes, value: bytes, text: str | None) -> None:
    charset = Charset.of(declared) if declared else DEFAULT
    assert charset.decode(value) == text
    if text is not None:
        assert charset.decode(charset.encode(text) or b"") == text


def test_what_a_character_set_cannot_hold_is_not_encoded() -> None:
    assert Charset.of(b"ISO_IR 100").encode("山") is None
    assert Charset.of(b"ISO 2022 IR 6\\ISO 2022 IR 87").encode("길") is None


@pytest.mark.parametrize("declared", [b"LATIN1", b"ISO_IR 192\\ISO 2022 IR 87", b"DOE^JANE"])
def test_an_unknown_character_set_is_refused(declared: bytes) -> None:
    with pytest.raises(Unfit, match="SpecificCharacterSet"):
        Charset.of(declared)


def test_codes_of_public_schemes_have_a_meaning() -> None:
    assert codes.meaning("121058", "DCM") == "Procedure reported"
    assert codes.meaning("T-D1100", "SRT") == codes.meaning("69536005", "SCT") == "Head"
    assert codes.meaning("121058", "99LOCAL") == ""
