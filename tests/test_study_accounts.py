"""The accounts of a study: every instance of the cohort in exactly one state, whatever happened to it on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from pacsifier_ops.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.config import PacsNode
from pacsifier_ops.deid.run import EXCLUDED, QUARANTINED
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.study.accounts import DELIVERED, MISSING, STATES, StudyAccount, close
from tests.embedded import node_of, series, serving
from tests.study import StudyRun

SCREEN: dict[str, Any] = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
HALF = series("ZQX-71830-KW", "Wurzelbacher^Kunigunde", study_date="20200101", n_images=3)
DAMAGED = series("YVJ-55912-ZS", "Prisma^Vida", study_date="20200102", n_images=2, modality="MR")
IMAGES = [
    *HALF,
    *series("ZQX-71830-KW", "Wurzelbacher^Kunigunde", study_date="20200101", series_number=2, n_images=2),
    *series("YVJ-55912-ZS", "Prisma^Vida", study_date="20200102", series_number=9, **SCREEN),
    *DAMAGED,
    *series("UNK-40404-ZZ", "Niemand^Nina", study_date="20200103", n_images=2),
]
ROWS = [{"PatientID": p} for p in ("ZQX-71830-KW", "YVJ-55912-ZS", "UNK-40404-ZZ", "NIX-00000-XX")]
WITHHELD = str(HALF[1].SOPInstanceUID)
DAMAGED[1].PixelData = DAMAGED[1].PixelData + b"pixels too many "


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path / "archive") as running:
        running.faults.withhold = {WITHHELD}
        yield running


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(folder))
    (folder / "mapping.csv").write_text("ZQX-71830-KW,P0001\nYVJ-55912-ZS,P0002\n")
    return folder


def night(pacs: EmbeddedPacs, data: Path, **given: Any) -> StudyRun:
    return StudyRun(node_of(pacs), data, ROWS, {"source": "custom", "mappingfile": "mapping.csv", **given})


def counted(account: StudyAccount) -> dict[str, int]:
    totals = account.totals()
    return {state: totals[state] for state in STATES if totals[state]}


def test_walk(pacs: EmbeddedPacs, data: Path) -> None:
    study = night(pacs, data)
    study.fetch()
    study.link()
    study.deidentify()
    study.release()
    account = close(study.run)
    print(account.totals(), account.verdict)
    for loss in account.losses():
        print(loss)
    for s in account.series:
        print(s)
    for r in account.rows:
        print(r)
    for r in account.stages:
        print(r)
    assert 0
