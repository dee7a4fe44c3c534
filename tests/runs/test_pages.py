"""Values in templates: escaped in every place; a missing value is an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from pacsifier_ops.runs import pages
from pacsifier_ops.runs.pages import Bar, environment

HOSTILE = "\"'><script>alert(1)</script>"


def parts() -> Any:
    return environment().get_template("runs/templates/parts.html").module


def test_values_are_escaped_in_attributes_as_in_text() -> None:
    drawn = parts().bar(Bar.of(HOSTILE, HOSTILE, [(HOSTILE, 1, HOSTILE)]))
    shown = [drawn, parts().badge(HOSTILE, HOSTILE), parts().table(HOSTILE, [HOSTILE], [[HOSTILE]])]
    for one in shown:
        assert "<script" not in one and "\"'>" not in one and one.count("&lt;script&gt;") >= 2


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        pages.page("web/templates/refusal.html", base="/pacsifier")


def test_integers_get_thousands_separators_but_not_in_addresses() -> None:
    shown = environment().from_string('<a id="{{ "n-" ~ count }}">{{ count }}</a>').render(count=1234567)
    assert shown == '<a id="n-1234567">1,234,567</a>'


def test_line_breaks_between_elements_are_not_in_the_page() -> None:
    shown = environment().from_string("<p>\n  {{ one }}\n  <b>two</b> three\n  four\n</p>\n").render(one="a\nb")
    assert shown == "<p>a\nb<b>two</b> three\n  four</p>"


def test_characters_that_utf_8_or_html_cannot_hold_are_replaced() -> None:
    page = pages.page("web/templates/refusal.html", base="", sentence="a\x00\ud800\x9f\tb")
    assert page.encode() and "a\ufffd\ufffd\ufffd\tb" in page


def test_every_template_can_be_read() -> None:
    names = environment().list_templates(["html"])
    assert len(names) > 10
    for name in names:
        environment().get_template(name)


def test_compiled_templates_are_kept_and_never_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> str:
        environment.cache_clear()
        return pages.page("web/templates/refusal.html", base="", sentence="no")

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "kept"))
    there = (tmp_path / "kept").joinpath(*Path(pages.__file__).parent.parts[1:])
    try:
        page = shown()
        assert not there.exists()  # what cannot be kept is compiled anew
        there.mkdir(parents=True)
        assert shown() == page
        kept = list(there.glob("*.jinja"))
        assert kept
        with monkeypatch.context() as patch:
            patch.setattr("jinja2.Environment.compile", lambda *_: pytest.fail("it is compiled already"))
            assert shown() == page
        whole = kept[0].read_bytes()
        flipped = [whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :] for at in (60, 300)]
        for damage in (b"", b"no code", whole[:40], whole[:-1], *flipped):
            for path in kept:
                path.write_bytes(damage)
            assert shown() == page
    finally:
        environment.cache_clear()
