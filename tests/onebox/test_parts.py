"""The supervisor of `make up`: what ends by itself is started again, and what keeps ending stops everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

#: Leaves a process behind, in a session of its own, writes its number down, and ends.
PART = """
import subprocess, sys
left = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(left.pid, flush=True)
sys.exit(3)
"""
SUPERVISOR = """
import os, sys, time
from pathlib import Path
from pacsifier_ops.onebox import up
up.PAUSES = (0, 0)
with up.supervised(Path(sys.argv[1]), os.environ) as parts:
    parts.start_program("crooked", [sys.executable, "-c", sys.argv[2]])
    parts.start_program("well", ["sleep", "600"])
    while True:
        parts.mend()
        time.sleep(0.1)
"""


def test_what_ends_is_started_again_until_it_ends_too_often(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), PART]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    log = tmp_path / "crooked.log"
    assert done.stdout == f"crooked ended by itself and starts again in 0 s; its log is {log}\n" * 2
    assert done.returncode == 1 and done.stderr.endswith(f"crooked ended by itself; the whole log is {log}\n")
    left = [int(line) for line in log.read_text().splitlines()]
    assert len(left) == 3 and not any(map(psutil.pid_exists, left))


def test_wrong_settings_are_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pacsifier_ops.onebox import up

    monkeypatch.setenv("PACSIFIER_HOME", str(tmp_path))
    monkeypatch.setenv("PACSIFIER_WINDOW", "late")
    monkeypatch.setenv("PACSIFIER_TASKS", "many")
    monkeypatch.setattr("sys.argv", ["up"])
    with pytest.raises(SystemExit, match=r"correct PACSIFIER_WINDOW; .* correct PACSIFIER_TASKS"):
        up.main()
    assert not [*tmp_path.iterdir()]
