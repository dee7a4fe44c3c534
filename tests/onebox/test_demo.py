"""`make demo`, twice, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsifier_ops.base.files import read_json
from pacsifier_ops.onebox import demo
from tests.support.places import REPO

STAGES = ("extract", "pseudonyms", "anonymize", "dumps", "search and approval", "release", "dicomdir", "upload")

pytestmark = [pytest.mark.archive, pytest.mark.airflow, pytest.mark.slow]


def test_a_second_demo_finds_that_everything_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("dags", "include"):
        (tmp_path / name).symlink_to(REPO / name)
    monkeypatch.setattr(demo, "REPO", tmp_path)
    monkeypatch.setattr(demo, "HOME", tmp_path / "demo")
    monkeypatch.delenv("PACSIFIER_STATE_ROOT", raising=False)

    def run() -> tuple[dict[str, int], int, list[str]]:
        before = set((tmp_path / "demo").glob("state/runs/*"))
        assert demo.main() == 0
        shown = capfd.readouterr().out.splitlines()
        (made,) = set((tmp_path / "demo").glob("state/runs/*")) - before
        (upload,) = made.glob("stages/*-upload/summary.json")
        return read_json(made / "summary.json")["totals"], read_json(upload)["totals"]["received"], shown

    first, sent, shown = run()
    assert first["received"] == first["new"] == 89 and first["released"] == first["delivered"] == sent == 88
    assert run()[:2] == ({**first, "new": 0}, 0)
    stages = {line.strip() for line in shown if line.startswith("   ")}
    assert stages == set(STAGES)
