"""A study whose data set is released straight into a store: no image of it lies in `released/`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.state.tree import CONTROL
from pacsifier_ops.study import removal, steps
from pacsifier_ops.study.project import LIST
from pacsifier_ops.study.run import RELEASE_TO
from pacsifier_ops.upload.filestore import MANIFEST
from pacsifier_ops.upload.nodes import FolderNode
from tests.support.embedded import node_of, series, serving
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

DAY = "20200301"
FIRST = series("80082", "Wurzelbacher^Kunigunde", n_images=3, study_date=DAY)
SECOND = series("12012", "Schnuerpel^Zebedaeus", n_images=2, series_number=2, study_date=DAY)
ROWS = [{"PatientID": "80082"}, {"PatientID": "12012"}]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving([*FIRST, *SECOND], tmp_path / "images") as found:
        yield found


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def listed_in(there: dict[str, bytes]) -> dict[str, str]:
    return {line["path"]: line["sha256"] for line in map(json.loads, there[MANIFEST].splitlines())}


def is_whole(there: dict[str, bytes], night: StudyRun) -> None:
    """A store has exactly what was approved, and its manifest says so."""
    made = contents(night.folder("de-identified"))
    approved = {name: data for name, data in made.items() if not name.startswith(f"{CONTROL}/")}
    assert {name: data for name, data in there.items() if name != MANIFEST} == approved
    assert listed_in(there) == {name: hashlib.sha256(data).hexdigest() for name, data in approved.items()}


def sent(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage_run(run, RELEASE_TO).folder / "accounts.json").read_text())["totals"]
    return found


def test_images_lie_in_the_store_alone(pacs: EmbeddedPacs, data: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    node = FolderNode("share", path=str(share), retry_wait=0.01)
    night = StudyRun(node_of(pacs), data, ROWS, {"release_to": "share", "remove_identified": LIST})
    night.make()
    night.release_to(node)
    night.remove(node)
    account = steps.report(night.run)
    assert account.verdict == COMPLETE, (account.losses(), account.bad_stages, account.discrepancies)
    assert account.confirmed() == {RELEASE_TO: 5}
    assert removal.Listing.of(night.run).files == 5, "the store has confirmed them, so the identified may go"
    there = contents(share)
    is_whole(there, night)
    released = contents(night.folder("released"))
    assert not [name for name in released if name.endswith(".dcm")]
    assert {"manifest.csv", "series.csv", "dataset.json", MANIFEST, "report/report.html"} <= released.keys()
    names = " ".join(there) + there[MANIFEST].decode()
    assert not any(text in names for text in ("80082", "12012", "Wurzelbacher", DAY))

    again = StudyRun(node_of(pacs), data, ROWS, {"release_to": "share"})
    again.make()
    again.release_to(node)
    assert steps.report(again.run).verdict == COMPLETE
    assert sent(again.run)["present"] == 5 and sent(again.run)["received"] == 0
