"""Studies with a selection: its file is that of the beginning, and the flow goes on to what was delivered."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import ConfigError, InputError
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.study import steps
from pacsifier_ops.study.accounts import StudyAccount
from pacsifier_ops.study.project import read_project
from tests.support.embedded import node_of, series, serving
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

RULES = "anchor: closest\ndays: [-30, 30]\nstudies: 1\nseries: {exclude: [{name: reports, Modality: MR}]}\n"
ROWS = [{"PatientID": name, "anchor_date": "20200102"} for name in ("ZQX-1", "ZQX-2", "ZQX-9")]
IMAGES = [
    *series("ZQX-1", study_date="20200110", n_images=2),
    *series("ZQX-1", study_date="20200110", series_number=2, modality="MR"),
    *series("ZQX-1", study_date="20190110"),
    *series("ZQX-2", study_date="20180110"),
]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path / "images") as running:
        yield running


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    (folder / "selections").mkdir(parents=True)
    (folder / "selections" / "closest.yaml").write_text(RULES)
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(folder))
    return folder


def night(pacs: EmbeddedPacs, root: Path, **given: Any) -> StudyRun:
    return StudyRun(node_of(pacs), root, ROWS, {"source": "local", "selection": "selections/closest.yaml", **given})


def ended(run: StudyRun) -> StudyAccount:
    run.make()
    run.release()
    return steps.report(run.run)


def flow_of(run: StudyRun) -> list[tuple[str, str, str, str]]:
    with (run.run.folder / "flow.csv").open(encoding="utf-8", newline="") as stream:
        return [(one["stage"], one["left_out"], one["rows"], one["series"]) for one in csv.DictReader(stream)]


def test_the_flow_goes_from_what_was_asked_to_what_was_delivered(pacs: EmbeddedPacs, root: Path) -> None:
    run = night(pacs, root)
    (root / "selections" / "closest.yaml").write_text("studies: 9\n")  # what the run was begun with counts
    account = ended(run)
    assert account.verdict == "complete"
    assert [row.state for row in account.rows] == ["found", "unselected", "empty"]
    assert account.rows[0].left_out == {"excluded by reports": 1, "outside days": 1}
    assert flow_of(run) == [
        ("asked", "", "3", ""),
        ("found", "empty", "1", ""),
        ("found", "", "2", "4"),
        ("eligible", "outside days", "1", "2"),
        ("eligible", "excluded by reports", "0", "1"),
        ("eligible", "", "1", "1"),
        ("selected", "", "1", "1"),
        ("fetched", "", "1", "1"),
        ("delivered", "", "1", "1"),
    ]
    page = run.run.report.read_text()
    assert (run.run.folder / "flow.svg").read_text() in page and account.selection in page
    handed_over = (run.run.folder / "handover" / "report.html").read_text()
    assert "reports" not in handed_over and "outside days" not in handed_over


def test_a_later_night_keeps_what_was_selected(pacs: EmbeddedPacs, root: Path, tmp_path: Path) -> None:
    first = ended(night(pacs, root))
    pacs.add(write(series("ZQX-1", study_date="20200103", n_images=3), tmp_path / "closer"))
    pacs.add(write(series("ZQX-2", study_date="20200103"), tmp_path / "new"))
    second = ended(night(pacs, root))
    chosen = {one.series_uid for one in second.series}
    assert {one.series_uid for one in first.series} < chosen and len(chosen) == 2
    assert "reselect decides anew" in second.rows[0].warnings[0]
    assert [row.state for row in second.rows] == ["found", "found", "empty"]
    anew = ended(night(pacs, root, reselect=True))
    assert {one.series_uid for one in anew.series} & chosen == chosen - {one.series_uid for one in first.series}
    assert second.verdict == anew.verdict == "complete"


def test_what_cannot_be_used_is_told_when_the_study_is_set_up(pacs: EmbeddedPacs, root: Path) -> None:
    (root / "selections" / "bad.yaml").write_text("anchor: near")
    with pytest.raises(InputError, match=r"bad.yaml: line 1, anchor"):
        night(pacs, root, selection="selections/bad.yaml")
    with pytest.raises(InputError, match=r"none.yaml: cannot be read"):
        night(pacs, root, selection="selections/none.yaml")
    with pytest.raises(ConfigError, match="reselect: goes with a selection"):
        night(pacs, root, selection="", reselect=True)
    (root / "study.yaml").write_text("project: p\nqueryfile: table.csv\nselection: selections/closest.yaml\n")
    assert read_project(root / "study.yaml")["selection"] == "selections/closest.yaml"
