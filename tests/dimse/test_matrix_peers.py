"""Archives of others against queries: each cell is right, or the run says that it is not; none is silently wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import matrix
from tests.support.matrix_run import REAL, cells, silently_wrong

pytestmark = [pytest.mark.peers, pytest.mark.slow]


@pytest.mark.parametrize("name", REAL)
def test_no_cell_is_silently_wrong(name: str, tmp_path: Path, state_root: Path) -> None:
    (tmp_path / "cohort").mkdir()
    wrong = silently_wrong(name, cells(name, matrix.write(tmp_path / "cohort"), tmp_path, state_root))
    assert not wrong
