"""The nodes of `make demo` have the ports of the last time."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pacsifier_ops.base.files import write_json
from pacsifier_ops.onebox import demo
from pacsifier_ops.onebox.up import HOST


def test_a_port_of_the_last_time_is_taken_again_unless_another_program_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "HOME", tmp_path)
    assert demo.ports_of_before() == {}
    with socket.socket() as free, socket.socket() as taken:
        for each in (free, taken):
            each.bind((HOST, 0))
        taken.listen()
        ports = {"DEMOPACS": free.getsockname()[1], "RESEARCH": taken.getsockname()[1]}
        free.close()
        write_json(tmp_path / "ports.json", ports)
        assert demo.ports_of_before() == {"DEMOPACS": ports["DEMOPACS"]}
