"""What `make demo` keeps from the last time, and what it says of a run that fails."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pacsifier_ops.base.files import write_json
from pacsifier_ops.onebox import demo
from pacsifier_ops.onebox.up import HOST
from pacsifier_ops.runs.failures import keep
from pacsifier_ops.runs.folder import Run


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


def test_the_first_failure_with_a_sentence_is_told(tmp_path: Path) -> None:
    assert demo.first_failure(None) == demo.first_failure(tmp_path) == ""
    keep(Run(tmp_path), ("extract.route", -1, 1), "")
    keep(Run(tmp_path), ("extract.plan", -1, 1), "tasks is not a whole number")
    keep(Run(tmp_path), ("report", -1, 1), "another one")
    assert demo.first_failure(tmp_path) == " (extract.plan: tasks is not a whole number)"
