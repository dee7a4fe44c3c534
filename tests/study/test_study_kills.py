"""A study that is killed at changes of the disk and started again ends as if it had never been killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.study.closing import close
from tests.support.embedded import node_of, series, serving
from tests.support.kills import killed
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

IMAGES = [
    *series("ZQX-71830-KW", "Wurzelbacher^Kunigunde", study_date="20200101", n_images=3),
    *series("ZQX-71830-KW", "Wurzelbacher^Kunigunde", study_date="20200101", series_number=2, n_images=2),
    *series("YVJ-55912-ZS", "Prisma^Vida", study_date="20200102", n_images=3, modality="MR"),
]


def test_killed_anywhere_and_started_again_it_ends_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(data))
    given = {"source": "local", "upload": "research", "remove_identified": "remove"}
    rows = [{"PatientID": "ZQX-71830-KW"}, {"PatientID": "YVJ-55912-ZS"}]
    with serving(IMAGES, tmp_path / "pacs") as pacs, EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "there") as there:
        node = PacsNode("research", there.host, there.port, there.aet, retry_wait=0.005)

        def whole() -> StudyRun:
            study = StudyRun(node_of(pacs), data, rows, given)
            study.make()
            study.release()
            study.upload(node)
            study.remove(node)
            return study

        kills, after = 0, 3
        while killed(whole, after):
            kills, after = kills + 1, after + 29
        assert kills > 5
        account = close(whole().run)
        sent = list(there.stored)
    released = {path.stem for path in (data / "studies" / "p" / "released").rglob("*.dcm")}
    assert (account.verdict, account.totals()["delivered"], len(released)) == (COMPLETE, len(IMAGES), len(IMAGES))
    assert all(dcmread(path).PixelData for path in (data / "studies" / "p" / "released").rglob("*.dcm"))
    # Each patient has one pseudonym however often it was started; no delivered file is left identified.
    assert len(list((data / "studies" / "p" / "released").glob("sub-*"))) == 2
    assert set(sent) == released and not list((data / "studies" / "p" / "identified").rglob("*.dcm"))
