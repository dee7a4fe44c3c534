"""What a command shows while it works: on a terminal a line that stays up to date, on a pipe nothing."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

_WORK = """
from pacsifier_ops.base.terminal import Asking, Meter
with Asking() as line:
    line.show("asking: [b]C-GET[/b]")
with Meter(3, "series") as meter:
    meter.show(1)
    print("one more line")
    meter.show(3, "60 images  1.5 MB/s [b]")
"""


def _on_a_terminal(code: str) -> tuple[str, str]:
    """What it writes to a terminal that is its stderr alone, and to stdout."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        said, _ = process.communicate()
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode(), said.decode()


def test_a_terminal_shows_how_far_it_is() -> None:
    shown, said = _on_a_terminal(_WORK)
    assert "asking: [b]C-GET[/b]" in shown
    last = re.sub(r"\x1b\[[0-9;?]*\w", "", shown).strip().rpartition("\r")[2]
    assert last.endswith("3/3 series  60 images  1.5 MB/s [b]")
    assert said == "one more line\n"


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_nothing(forced: dict[str, str]) -> None:
    code = _WORK + "import sys; assert 'rich' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **forced})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "one more line\n", "")


def test_commands_start_without_what_draws_or_writes_tables() -> None:
    code = "import sys, pacsifier_ops.cli.pacsifier; print({'jinja2', 'rich', 'pandas', 'pyarrow'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
