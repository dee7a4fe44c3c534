"""The card of a data set: read by the library of its format, true, and the same as long as the data set is."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import mlcroissant
import pandas
import pytest

from pacsifier_ops.cli import anonymize
from pacsifier_ops.deid import card, steps
from pacsifier_ops.deid.card import CARD
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.ledger import digest


def put(folder: Path, patient: str, number: int, **rest: Any) -> None:
    values: dict[str, Any] = {"n_images": 3, "rows": 8, "columns": 8, "study_date": "20200301", **rest}
    images = phantom_series(patient_id=patient, patient_name="Tester^Tina", series_number=number, **values)
    for image in images:
        image.Manufacturer, image.ManufacturerModelName = "SIEMENS", "Skyra"
    write(images, folder / patient / f"{number}")


def deidentify(source: Path, out: Path, **values: Any) -> None:
    run = Run.fresh()
    request = DeidRequest(source, out, **{"profile": "default+device", "contact_sheets": False, **values})
    for unit in steps.prepare(run, request):
        steps.convert(run, unit)
    steps.report(run)


def card_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / CARD).read_text(encoding="utf-8"))
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    put(tmp_path / "in", "P1", 1, modality="CT")
    put(tmp_path / "in", "P1", 2, modality="MR")
    put(tmp_path / "in", "P2", 3, modality="CT", n_images=2)
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_the_library_of_the_format_reads_card_and_tables(source: Path, out: Path) -> None:
    deidentify(source, out, license="https://creativecommons.org/licenses/by/4.0/", description="Knees, for everybody")
    read = mlcroissant.Dataset(str(out / CARD))
    assert not read.metadata.ctx.issues.errors
    assert {"citeAs", "version"} >= {one.rpartition("/")[2].split('"')[0] for one in read.metadata.ctx.issues.warnings}
    assert (read.metadata.name, read.metadata.description) == ("default", "Knees, for everybody")
    series = [*read.records("series")]
    assert len(series) == 3 and {one["series/Modality"] for one in series} == {b"CT", b"MR"}
    instances = [*read.records("instances")]
    assert len(instances) == 8 and {one["instances/Rows"] for one in instances} == {8}
    assert {one["instances/Path"].decode() for one in instances} == {
        path.relative_to(out).as_posix() for path in out.rglob("*.dcm")
    }


def test_the_card_counts_what_is_there(source: Path, out: Path) -> None:
    deidentify(source, out, ethics="2024-00123")
    found = card_of(out)
    counts = found["counts"]
    assert [counts[name] for name in ("patients", "studies", "series", "instances", "images")] == [2, 2, 3, 8, 8]
    assert counts["modalities"] == [
        {"modality": "CT", "series": 2, "instances": 5},
        {"modality": "MR", "series": 1, "instances": 3},
    ]
    assert counts["devices"] == [{"manufacturer": "SIEMENS", "model": "Skyra", "series": 3, "instances": 8}]
    table = pandas.read_parquet(out / "series.parquet")
    assert {one["year"]: one["series"] for one in counts["years"]} == table.StudyDate.str[:4].astype(
        int
    ).value_counts().to_dict()
    assert counts["years_are"].endswith(card.MOVED) and found["deidentification"]["dates"] == card.MOVED
    assert found["deidentification"]["profile"] == "default+device" and "device" in found["deidentification"]["options"]
    assert found["ethics"] == "2024-00123" and "license" not in found and "2 patients" in found["description"]
    files = {one["name"]: one["sha256"] for one in found["distribution"] if "sha256" in one}
    assert files == {name: digest(out / name) for name in files} and len(files) == 5
    assert "P1" not in (out / CARD).read_text() and "Tina" not in (out / CARD).read_text()


def test_without_dates_there_are_no_years(source: Path, out: Path) -> None:
    deidentify(source, out, profile="basic")
    assert card_of(out)["counts"]["years"] == [] and card_of(out)["deidentification"]["dates"] == card.REMOVED


def test_a_data_set_that_has_not_changed_keeps_its_card(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deidentify(source, out)
    before = (out / CARD).read_bytes()
    assert card_of(out)["dateModified"] == date.today().isoformat()
    monkeypatch.setattr(card, "now", lambda: "2031-02-03T04:05:06+00:00")
    monkeypatch.setattr(card, "_software", lambda: {"pacsifier-ops": "99"})
    forget_facts(out)  # the books are written again
    deidentify(source, out)
    assert (out / CARD).read_bytes() == before
    deidentify(source, out, license="none")
    assert (card_of(out)["dateModified"], card_of(out)["license"]) == ("2031-02-03", "none")
    put(source, "P3", 4)
    monkeypatch.setattr(card, "now", lambda: "2031-02-04T04:05:06+00:00")
    deidentify(source, out, license="none")
    assert (card_of(out)["dateModified"], card_of(out)["software"]) == ("2031-02-04", {"pacsifier-ops": "99"})


def test_an_empty_data_set_has_a_card(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    deidentify(tmp_path / "empty", out, allow_empty=True)
    assert card_of(out)["counts"]["series"] == 0 and not len(pandas.read_parquet(out / "series.parquet"))
    assert not mlcroissant.Dataset(str(out / CARD)).metadata.ctx.issues.errors


def test_the_command_has_it_as_well(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anonymize, "_cores", lambda: 1)
    arguments = ["-d", source, "-o", out, "--no_contact_sheets", "--license", "CC0-1.0", "--description", "Knees"]
    assert anonymize.main([*map(str, arguments)]) == 0
    assert (card_of(out)["license"], card_of(out)["description"]) == ("CC0-1.0", "Knees")


def test_a_card_that_is_none_is_not_shown(tmp_path: Path) -> None:
    assert card.shown(tmp_path) is None
    (tmp_path / CARD).write_text("[]")
    assert card.shown(tmp_path) is None
