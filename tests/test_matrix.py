"""The embedded PACS, with every fault of its answers, against queries: none is silently wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import matrix
from tests.matrix_run import FAULTY, cells

pytestmark = [pytest.mark.archive, pytest.mark.slow]


@pytest.mark.parametrize("name", FAULTY)
def test_no_cell_is_silently_wrong(name: str, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    found = cells(name, matrix.write(tmp_path / "cohort"), tmp_path)
    assert not {title: cell.said for title, cell in found.items() if cell.verdict == matrix.WRONG}
