"""`pacsifier-audit`, and what commands tell the audit file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pacsifier_ops.cli import audit as command
from pacsifier_ops.cli import clean
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.state import audit
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE
from tests.support.command import extract
from tests.support.embedded import config_of


def test_verify_and_head(state_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["verify"]) == 2
    assert "there is no audit file" in capsys.readouterr().err
    audit.record(audit.STARTED, by="anna", run="a")
    assert command.main(["head"]) == 0
    head = capsys.readouterr().out.strip()
    audit.record(audit.STARTED, by="anna", run="b")
    assert command.main(["verify", "--head", head]) == 0
    assert capsys.readouterr().out == f"whole: 2 lines, head {audit.verify().head}\n"
    path = state_root / "audit" / "audit.jsonl"
    with path.open("ab") as stream:
        stream.write(b"{half")
    assert command.main(["verify"]) == 0
    assert "the last line is not whole" in capsys.readouterr().out
    audit.record(audit.STARTED, by="anna", run="c")
    assert command.main(["verify"]) == 0
    assert "line 3 is not whole: a process was killed while it wrote it; line 4 says so" in capsys.readouterr().out
    path.write_bytes(path.read_bytes().replace(b"anna", b"otto", 1))
    assert command.main(["verify"]) == 1
    assert capsys.readouterr().out.startswith("broken: line 2: the line before it was changed")
    assert command.main(["head"]) == 1
    with pytest.raises(SystemExit) as ended:
        command.main(["verify", "--head", "nothing"])
    assert ended.value.code == 2


@pytest.mark.archive
def test_a_command_tells_of_its_start_and_asks_for_no_right(tmp_path: Path, state_root: Path) -> None:
    files = airflow_home.build(tmp_path / "held")
    table = tmp_path / "table.csv"
    table.write_text(f"PatientID\n{KUNIGUNDE['patient_id']}\n")
    with EmbeddedPacs() as pacs:
        pacs.add(files)
        (tmp_path / "config.json").write_text(json.dumps(config_of(pacs)))
        assert extract(tmp_path / "config.json", table, tmp_path / "out", "--save").code == 0
    (line,) = [json.loads(line) for line in (state_root / "audit" / "audit.jsonl").read_text().splitlines()]
    assert (line["event"], line["by"], line["job"]) == ("started", audit.me(), "pacsifier")
    assert line["cohort"] == audit.keyed(table.read_bytes())
    assert airflow_home.traces(state_root / "audit", airflow_home.identifiers(files)) == []


def test_a_clean_up_that_removes_nothing_tells_nothing(state_root: Path) -> None:
    assert clean.main(["--remove"]) == 0
    assert not (state_root / "audit" / "audit.jsonl").exists()


def test_a_clean_up_is_told_before_it_removes(state_root: Path) -> None:
    lines, old = state_root / "audit" / "audit.jsonl", state_root / "messages" / "sent" / "1.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    os.utime(old, (0, 0))
    lines.mkdir(parents=True)
    assert clean.main(["--remove"]) != 0 and old.exists()
    lines.rmdir()
    assert clean.main(["--remove"]) == 0 and not old.exists()
    assert [json.loads(line)["event"] for line in lines.read_text().splitlines()] == ["removing", "removed"]
