"""One PACS: from PACSIFIER's config.json, and from the fields of a connection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import (
    CONFIG_KEYS,
    EXTRA_FIELDS,
    PacsNode,
    node_from_connection,
    read_config,
    with_overrides,
)
from pacsifier_ops.base.errors import ConfigError

CONFIG: dict[str, Any] = {
    "server_address": "pacs01",
    "port": 4242,
    "server_AET": "PACS",
    "AET": "ME",
    "move_AET": "THIRD",
    "move_port": 11113,
    "batch_size": 20,
    "batch_wait_time": 5,
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in {**CONFIG, **changes}.items() if v != "absent"}), encoding="utf-8-sig")
    return path


def test_the_keys_people_know(tmp_path: Path) -> None:
    node = read_config(write(tmp_path))
    assert node == PacsNode(
        name="config",
        host="pacs01",
        port=4242,
        called_aet="PACS",
        calling_aet="ME",
        receiver_port=11113,
        move_aet="THIRD",
        batch_size=20,
        batch_wait_time=5.0,
    )
    assert node.destination == "ME" and node.key == "pacs01:4242:PACS"
    assert read_config(write(tmp_path, port="4242", batch_wait_time="0.5")).batch_wait_time == 0.5
    assert set(CONFIG) == set(CONFIG_KEYS)


def test_times_may_be_there_as_well(tmp_path: Path) -> None:
    times = {"connect_timeout": 1, "acse_timeout": "2.5", "dimse_timeout": 300, "recall_wait": 0}
    node = read_config(write(tmp_path, **times))
    assert (node.connect_timeout, node.acse_timeout, node.dimse_timeout, node.recall_wait) == (1.0, 2.5, 300.0, 0.0)
    with pytest.raises(ConfigError, match=r"did you mean dimse_timeout\?"):
        read_config(write(tmp_path, dimse_time_out=300))


def test_all_keys_that_are_off_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_config(write(tmp_path, port="absent", AET=None, Port=1, colour="blue"))
    text = str(raised.value)
    assert "port is missing" in text and "AET is missing" in text and "colour is not known" in text
    assert "(did you mean" not in text.split("colour is not known")[1].split(";")[0]
    assert "Port is not known (did you mean port?)" in text and raised.value.exit_code == 2


def test_fields_of_connections_are_told_from_unknown_keys(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"method is for connections in Airflow.* flag.*receiver_port is called move_port"
    ):
        read_config(write(tmp_path, method="get", receiver_port=11113))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": "x"}, "port is not a number"),
        ({"port": 0}, "not a port"),
        ({"port": 70000}, "not a port"),
        ({"move_port": -1}, "receiver_port is not a port"),
        ({"server_AET": "A" * 17}, "called_aet is not an AE title"),
        ({"AET": "A\\B"}, "calling_aet is not an AE title"),
        ({"AET": "Ä"}, "calling_aet is not an AE title"),
        ({"AET": " "}, "calling_aet is not an AE title"),
        ({"server_address": ""}, "host is empty"),
        ({"server_address": "a b"}, "host is empty or holds blanks"),
        ({"batch_size": -1}, "batch_size is negative"),
        ({"batch_wait_time": "nan"}, "batch_wait_time is negative or no number"),
        ({"dimse_timeout": "long"}, "dimse_timeout is not a number"),
        ({"dimse_timeout": 0}, "dimse_timeout is not a number of seconds above 0"),
        ({"recall_wait": -1}, "recall_wait is negative"),
        ({"recall_wait": 10**6}, "recall_wait is longer than a week"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', b"\xff\xfe\x00"])
def test_files_that_are_no_configuration(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "missing.json")


def test_a_connection_has_every_other_field() -> None:
    extra = {"called_aet": "PACS", "max_associations": "2", "retry_wait": "0.5", "method": "move", "move_aet": ""}
    node = node_from_connection("pacs_default", "localhost", None, extra)
    assert (node.port, node.max_associations, node.retry_wait, node.method, node.move_aet) == (104, 2, 0.5, "move", "")
    assert not {"name", "host", "port"} & set(EXTRA_FIELDS)
    for wrong, words in (
        ({"called_aet": "PACS", "color": 1}, "color"),
        ({}, "called_aet"),
        ({"called_aet": "PACS", "max_associations": "two"}, "max_associations is not a number"),
        ({"called_aet": "PACS", "max_associations": 0}, "max_associations is below 1"),
        ({"called_aet": "PACS", "method": "push"}, "method is none of"),
        ({"called_aet": "PACS", "dimse_timeout": 0}, "dimse_timeout"),
    ):
        with pytest.raises(ConfigError, match=words):
            node_from_connection("pacs_default", "localhost", 104, wrong)


def test_a_run_may_override_what_it_names() -> None:
    node = PacsNode("pacs", "localhost", 104, "PACS", method="get", max_series=5)
    assert with_overrides(node, method=None, max_series=None) == node
    assert with_overrides(node, method="move", max_series=9).max_series == 9
    with pytest.raises(ConfigError):
        with_overrides(node, method="push")
