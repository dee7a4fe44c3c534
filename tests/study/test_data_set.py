"""What a released data set brings beside its objects: tables and card, in the stock, searched, and in the reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest
from pydicom import dcmread

from pacsifier_ops.base.files import read_json
from pacsifier_ops.deid import card, inventory
from pacsifier_ops.deid.books import BOOKS
from pacsifier_ops.deid.card import CARD
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import stage_run
from pacsifier_ops.runs.job import summary_of
from pacsifier_ops.state.approved import approved_of
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.study import release, steps
from pacsifier_ops.study.run import UPLOAD
from tests.support.embedded import node_of, series, serving
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

#: Days and ids that are numbers, as they may stand in tables.
EXAMINED = "20200301"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    images = [
        *series("80082", "Wurzelbacher^Kunigunde", n_images=3, study_date=EXAMINED),
        *series("12012", "Schnuerpel^Zebedaeus", n_images=2, series_number=2, study_date=EXAMINED),
    ]
    with serving(images, tmp_path / "images") as running:
        yield running


@pytest.fixture
def research(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(folder=tmp_path / "research") as running:
        yield running


def night(pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, **given: object) -> StudyRun:
    rows = [{"PatientID": "80082"}, {"PatientID": "12012"}]
    run = StudyRun(node_of(pacs), root, rows, {"upload": "research", "ethics": "EC 2026-00123", **given})
    run.make()
    run.release()
    run.upload(node_of(research))
    steps.report(run.run)
    return run


def findings(run: StudyRun) -> dict[str, int]:
    counts: dict[str, int] = read_json(run.run.folder / "gate.json")["counts"]
    return counts


def test_tables_and_card_are_approved_released_and_reported(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path
) -> None:
    run = night(pacs, research, root, description="Knees, for everybody", license="CC-BY-4.0")
    out = run.folder("released")
    assert not findings(run)
    approved = approved_of(out)
    assert approved and {name: approved.files[name] for name in BOOKS} == {name: digest(out / name) for name in BOOKS}
    # Chosen from without opening a file.
    chosen = pandas.read_parquet(out / "series.parquet").query("Instances == 3 and not Localizer")
    objects = pandas.read_parquet(out / "instances.parquet").merge(chosen[["Folder"]])
    assert len(objects) == 3
    for one in objects.itertuples():
        assert dcmread(out / one.Path).SOPInstanceUID == one.SOPInstanceUID and digest(out / one.Path) == one.SHA256
    found = json.loads((out / CARD).read_text())
    assert (found["ethics"], found["license"], found["description"]) == (
        "EC 2026-00123",
        "CC-BY-4.0",
        "Knees, for everybody",
    )
    assert "Data Manager" not in (out / CARD).read_text()
    for page in (out / "report" / "report.html", run.run.report):
        text = page.read_text()
        assert "What the data set holds" in text and "Knees, for everybody" in text and "CC-BY-4.0" in text
    # The tables are no objects: the node has what is released, and nothing failed.
    assert summary_of(stage_run(run.run, UPLOAD))["verdict"] == COMPLETE
    assert len([path for path in (root.parent / "research").rglob("*") if path.is_file()]) == 5


def test_an_identifier_in_a_table_or_in_the_card_blocks(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"PatientID": "80082"}]
    run = StudyRun(node_of(pacs), root, rows, {"description": "of Kunigunde Wurzelbacher"})
    run.make()
    steps.check(run.run)
    found = read_json(run.run.folder / "gate.json")
    assert {path for path, _ in (*found["blocking"], *found["waivable"])} == {CARD}
    before = inventory._described

    def spoilt(*given: object) -> object:
        row, lines = before(*given)  # type: ignore[arg-type]
        return {**row, "ProtocolName": "Wurzelbacher Kunigunde"}, lines

    monkeypatch.setattr(inventory, "_described", spoilt)
    other = StudyRun(node_of(pacs), root, rows, {"description": "Knees", "folder": "other/p"})
    other.folder = lambda name: root / "other" / "p" / name  # type: ignore[method-assign]
    other.make()
    steps.check(other.run)
    found = read_json(other.run.folder / "gate.json")
    assert {path for path, _ in found["blocking"]} == {"series.csv", "series.parquet"}


def test_the_day_of_the_card_is_no_finding(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(card, "now", lambda: f"{EXAMINED[:4]}-{EXAMINED[4:6]}-{EXAMINED[6:]}T00:00:00+00:00")
        first = night(pacs, research, root)
    assert json.loads((first.folder("released") / CARD).read_text())["dateModified"] == "2020-03-01"
    assert not findings(first)
    second = night(pacs, research, root)  # years later, nothing has changed
    assert not findings(second) and release.stock_of(second.run) == release.stock_of(first.run)


def test_what_is_new_is_in_tables_and_card(
    pacs: EmbeddedPacs, research: EmbeddedPacs, root: Path, tmp_path: Path
) -> None:
    first = night(pacs, research, root)
    before = json.loads((first.folder("released") / CARD).read_text())["counts"]["instances"]
    pacs.add(write(series("12012", series_number=7, n_images=2, study_date=EXAMINED), tmp_path / "new"))
    second = night(pacs, research, root)
    out = second.folder("released")
    assert json.loads((out / CARD).read_text())["counts"]["instances"] == before + 2
    assert set(pandas.read_parquet(out / "instances.parquet").Path) == {
        path.relative_to(out).as_posix() for path in out.rglob("*.dcm")
    }
    assert not findings(second) and release.stock_of(second.run) != release.stock_of(first.run)
