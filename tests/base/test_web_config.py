"""Configurations of web archives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pacsifier_ops.base.config import WebNode, read_archive
from pacsifier_ops.base.errors import ConfigError


@pytest.mark.parametrize(
    "url", ["", "https://a b/x", "https://a/x y", "https://a/x\ny", "https://a\t/x", "https://a/\x7f", "http://[::1/x"]
)
def test_what_is_no_address_is_named(tmp_path: Path, url: str) -> None:
    config = tmp_path / "web.json"
    config.write_text(json.dumps({"url": url}))
    with pytest.raises(ConfigError, match="url is not an address"):
        read_archive(config)


@pytest.mark.parametrize("token", ["tok\u20acen", "two words", "end\n", "t\u00f6ken"])
def test_what_is_no_token_is_named_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigError, match="no token") as told:
        WebNode("vna", "https://vna.example", "", token)
    assert token not in str(told.value)


def test_a_login_may_have_any_letters() -> None:
    assert WebNode("vna", "https://vna.example", "Jörg", "pass word €").password == "pass word €"
