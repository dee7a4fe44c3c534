"""The embedded PACS, with every fault of its answers, against queries: none is silently wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.matrix_run import FAULTY, UNTOLD, cells, silently_wrong

pytestmark = [pytest.mark.archive, pytest.mark.slow]

KNOWN = {UNTOLD: pytest.mark.xfail(reason="nobody can know of it unless told: result_limit")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=KNOWN.get(name, ())) for name in FAULTY])
def test_no_cell_is_silently_wrong(name: str, tmp_path: Path, state_root: Path) -> None:
    (tmp_path / "cohort").mkdir()
    wrong = silently_wrong(name, cells(name, matrix.write(tmp_path / "cohort"), tmp_path, state_root))
    assert not wrong
