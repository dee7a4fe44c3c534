"""The linker of a study: exact against an answer computed apart, and nothing of the source in what is shared."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydicom import dcmread

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.pseudonyms.secret import Secret, project_folder
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.study import linker, release, steps
from pacsifier_ops.study.closing import close
from pacsifier_ops.study.report import render
from pacsifier_ops.study.run import EXTRACT
from tests.support.embedded import node_of, series, serving
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

SCREEN: dict[str, Any] = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
KUNIGUNDE = ("ZQX-71830-KW", "Wurzelbacher^Kunigunde")
VIDA = ("YVJ-55912-ZS", "Prisma^Vida")
IMAGES = [
    *series(*KUNIGUNDE, study_date="20200101", n_images=3),
    *series(*KUNIGUNDE, study_date="20200101", series_number=2, n_images=2),
    *series(*KUNIGUNDE, study_date="20210201", series_number=3),
    *series(*VIDA, study_date="20200229", series_number=4),
    *series(*VIDA, study_date="20200229", series_number=9, **SCREEN),
]
#: Words that occur nowhere else.
SURGEON, WARD = "Chirurgicus", "Quarantänestation"
Row = tuple[str, str | None, str | None, dt.date | None]
ROWS: list[Row] = [  # row_id, PatientID, Modality, anchor date
    ("CASE-90017", KUNIGUNDE[0], None, dt.date(2020, 1, 31)),
    ("CASE-90018", VIDA[0], None, dt.date(2020, 3, 1)),
    ("CASE-90019", "NIX-00000-XX", None, dt.date(2020, 3, 1)),
    ("CASE-90020", KUNIGUNDE[0], None, None),
    ("CASE-90017", KUNIGUNDE[0], None, dt.date(2020, 1, 31)),  # as the first one
    ("CASE-90021", None, None, dt.date(2020, 3, 1)),  # asks for nothing
]
GIVEN = {
    "queryfile": "table.parquet",
    "columns": "row_id = fall, PatientID = mrn, anchor_date = operation",
    "source": "local",
    "delete_identifiable": True,
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root, with the query table."""
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    store(tmp_path / "data", ROWS)
    return tmp_path / "data"


def store(folder: Path, rows: list[Row]) -> None:
    ids, patients, modalities, days = (list(values) for values in zip(*rows, strict=True))
    columns = {
        "chirurg": [SURGEON] * len(rows),
        "fall": ids,
        "mrn": patients,
        "Modality": pa.array(modalities, pa.string()),
        "operation": days,
        WARD: list(range(len(rows))),
    }
    parquet.write_table(pa.table(columns), folder / "table.parquet")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path / "images") as running:
        yield running


def night(pacs: EmbeddedPacs, root: Path, **given: Any) -> StudyRun:
    run = StudyRun(node_of(pacs), root, [], {**GIVEN, **given})
    run.make()
    run.release()
    steps.report(run.run)
    return run


def own(run: StudyRun) -> Path:
    """Folder of the protected linker."""
    [folder] = (project_folder("p") / "data_sets").iterdir()
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a linker, which is the same as csv and as Parquet."""
    frame = pd.read_parquet(path.with_suffix(".parquet"))
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert text.to_dict("records") == frame.astype(object).where(frame.notna(), "").astype(str).to_dict("records")
    return [
        {str(name): cell for name, cell in row.items()}
        for row in frame.astype(object).where(frame.notna(), None).to_dict("records")
    ]


def answer(run: StudyRun) -> list[tuple[Any, ...]]:
    """Row id, patient, study, series, days, images and state, from the images of the archive and the linkage."""
    home = own(run)
    people = {old.split("\\")[-1]: new for new, old in json.loads((home / "mapper.json").read_text()).items()}
    with (home / "uid_map.csv").open() as stream:
        uids = {row["old"]: row["new"] for row in csv.DictReader(stream)}
    found: list[tuple[Any, ...]] = []
    for row_id, patient, _, anchor in ROWS[:5]:
        mine = {image.SeriesInstanceUID: image for image in IMAGES if image.PatientID == patient}
        for uid, image in mine.items():
            days = (dt.datetime.strptime(image.StudyDate, "%Y%m%d").date() - anchor).days if anchor else None
            if "SCREEN SAVE" in image.ImageType:
                found.append((row_id, None, None, None, days, 0, "excluded"))
                continue
            images = sum(one.SeriesInstanceUID == uid for one in IMAGES)
            new = (people[patient], uids[image.StudyInstanceUID], uids[uid])
            found.append((row_id, *new, days, images, "in the data set"))
        if not mine:
            found.append((row_id, None, None, None, None, None, "empty"))
    return found


SHOWN = ("patient", "study_uid", "series_uid", "days", "images", "state")


def key(values: tuple[Any, ...]) -> list[str]:
    return [str(value) for value in values]


def test_both_linkers_are_exact(pacs: EmbeddedPacs, root: Path) -> None:
    run = night(pacs, root)
    protected, public = read(own(run) / "linker.csv"), read(run.folder("released") / "linker.csv")
    expected = answer(run)
    shown = [tuple(line[name] for name in ("row_id", *SHOWN)) for line in protected]
    assert sorted(shown, key=key) == sorted(expected, key=key)
    assert {(line["line"], line["chirurg"], line[WARD], line["anchor_date"]) for line in protected} == {
        (1, SURGEON, "0", "20200131"),
        (2, SURGEON, "1", "20200301"),
        (3, SURGEON, "2", "20200301"),
        (4, SURGEON, "3", None),
        (5, SURGEON, "4", "20200131"),
    }
    # The one beside the data: the same without what is of the source; equal rows are one.
    tokens = {line["row_id"]: line["row_token"] for line in protected}
    assert len(set(tokens.values())) == len(tokens) == 4
    assert list(public[0]) == list(linker.COLUMNS)
    assert sorted((tuple(line[name] for name in ("row_token", *SHOWN)) for line in public), key=key) == sorted(
        {(tokens[row_id], *rest) for row_id, *rest in expected}, key=key
    )
    assert [line["row_token"] for line in public] == sorted(line["row_token"] for line in public)
    reasons = {(line["state"], line["reason"]) for line in public}
    assert ("empty", "the archive has nothing for it") in reasons
    assert any(
        state == "excluded" and reason.startswith("left out by a rule of the profile") for state, reason in reasons
    )
    # What it names is what the images hold.
    objects = [dcmread(path, stop_before_pixels=True) for path in run.folder("released").rglob("*.dcm")]
    held = {(o.PatientID, o.StudyInstanceUID, o.SeriesInstanceUID) for o in objects}
    assert held == {tuple(line[name] for name in SHOWN[:3]) for line in public if line["series_uid"]}


def test_the_dates_were_moved_and_the_days_are_true(pacs: EmbeddedPacs, root: Path) -> None:
    run = night(pacs, root)
    true = {image.StudyDate for image in IMAGES}
    moved = {dcmread(path, stop_before_pixels=True).StudyDate for path in run.folder("released").rglob("*.dcm")}
    assert not true & moved
    assert {line["days"] for line in read(run.folder("released") / "linker.csv")} == {-30, -1, 367, None}


def test_nothing_of_the_source_is_in_what_is_released_or_shown(pacs: EmbeddedPacs, root: Path) -> None:
    run = night(pacs, root)
    words = [SURGEON, WARD, "chirurg", "CASE-9001", "CASE-9002", "fall", KUNIGUNDE[0], "operation"]
    for path in (path for path in run.folder("released").rglob("*") if path.is_file()):
        data = path.read_bytes().lower()
        names = [word for word in words if word.lower().encode() in data or word.lower() in path.name.lower()]
        assert not names, path
    # In the run's folder, columns that are not ours are in one protected file.
    extraction = stage_run(run.run, EXTRACT).folder
    for path in (path for path in run.run.folder.rglob("*") if path.is_file()):
        if path != extraction / "beside.parquet":
            assert SURGEON.encode() not in path.read_bytes() and WARD.encode() not in path.read_bytes(), path
    for path in (extraction / "beside.parquet", own(run) / "linker.csv", own(run) / "linker.parquet"):
        assert path.stat().st_mode & 0o077 == 0
    page = render(close(run.run))
    assert "4 of 5 rows linked" in page and str(own(run)) in page
    assert str(own(run)) not in (run.folder("released") / "report" / "report.html").read_text()


def test_a_night_without_news_asks_nobody(pacs: EmbeddedPacs, root: Path) -> None:
    first = night(pacs, root)
    before = [
        (path.stat().st_ino, path.read_bytes()) for path in sorted(first.folder("de-identified").glob("linker.*"))
    ]
    again = StudyRun(node_of(pacs), root, [], GIVEN)
    again.make()
    steps.check(again.run)
    assert len(before) == 2 and before == [
        (path.stat().st_ino, path.read_bytes()) for path in sorted(first.folder("de-identified").glob("linker.*"))
    ]
    assert release.stock_of(again.run) == release.stock_of(first.run)


def test_a_row_that_cannot_be_asked_tonight_keeps_its_lines(pacs: EmbeddedPacs, root: Path) -> None:
    first = night(pacs, root)
    again = StudyRun(node_of(pacs), root, [], GIVEN)
    again.make()
    part = stage_run(again.run, EXTRACT)
    for path in part.parts("found"):  # as after a search that the archive did not answer
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if isinstance(line, dict):
                line |= {"state": "failed", "series": 0}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in part.parts("units"):
        path.write_text("")
    steps.check(again.run)
    before = read(first.folder("released") / "linker.csv")
    after = read(again.folder("de-identified") / "linker.csv")
    assert [line for line in after if line["series_uid"]] == [line for line in before if line["series_uid"]]
    assert {line["state"] for line in after} == {"in the data set", "failed"}


def test_another_row_id_is_another_linker(pacs: EmbeddedPacs, root: Path) -> None:
    first = night(pacs, root)
    store(root, [(f"{row[0]}-b", *row[1:]) for row in ROWS])
    again = StudyRun(node_of(pacs), root, [], GIVEN)
    again.make()
    steps.check(again.run)
    assert release.stock_of(again.run).digest != release.stock_of(first.run).digest
    gate = json.loads((again.run.folder / "gate.json").read_text())
    assert gate["counts"].get("blocking", 0) == 0


def test_without_days(pacs: EmbeddedPacs, root: Path) -> None:
    run = night(pacs, root, linker_days=False)
    assert {line["days"] for line in read(run.folder("released") / "linker.csv")} == {None}
    assert {line["days"] for line in read(own(run) / "linker.csv")} == {-30, -1, 367, None}


def test_rows_without_ids_are_known_by_their_lines(pacs: EmbeddedPacs, root: Path) -> None:
    (root / "table.csv").write_text(f"PatientID,Modality\n{KUNIGUNDE[0]},\n{VIDA[0]},\n{KUNIGUNDE[0]},\n")
    run = night(pacs, root, queryfile="table.csv", columns="")
    protected = read(own(run) / "linker.csv")
    assert {line["line"] for line in protected} == {2, 3, 4} and {line["row_id"] for line in protected} == {None}
    assert len({line["row_token"] for line in protected}) == 3


def test_a_linker_that_somebody_has_changed_is_foreign(
    pacs: EmbeddedPacs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = night(pacs, root)
    again = StudyRun(node_of(pacs), root, [], {**GIVEN, "without": ("extract",)})
    path = run.folder("de-identified") / "linker.csv"
    steps.check(again.run)  # it asks no archive, and the earlier linker stands
    assert json.loads((again.run.folder / "gate.json").read_text())["counts"].get("blocking", 0) == 0
    path.write_text(path.read_text() + "x\n")
    steps.check(again.run)
    assert json.loads((again.run.folder / "gate.json").read_text())["counts"]["blocking"] == 1


def test_tokens() -> None:
    tokens, others = linker.Tokens(Secret(b"x" * 32)), linker.Tokens(Secret(b"y" * 32))
    made = [tokens.of("", line) for line in range(20_000)] + [tokens.of(str(n), 1) for n in range(20_000)]
    assert len(set(made)) == len(made) and all(len(token) == 20 and token.isalpha() for token in made)
    assert tokens.of("7", 3) == tokens.of("7", 4) != others.of("7", 3)
    assert not {*"aeiouy0123456789"} & {*"".join(made)}


def test_a_study_that_finds_nothing(pacs: EmbeddedPacs, root: Path) -> None:
    store(root, [("A", "NIX-00000-XX", None, None)])
    run = night(pacs, root)
    if linker.linked(Run(run.run.folder)):
        assert {line["state"] for line in read(own(run) / "linker.csv")} == {"empty"}


def test_what_the_selection_leaves_out(pacs: EmbeddedPacs, root: Path) -> None:
    """The study within 60 days of the operation; of Vida, nothing is old enough."""
    (root / "rules.yaml").write_text(
        "anchor: closest\ndays: [-60, 60]\nseries:\n  exclude:\n    - {name: Vidas, Modality: OT}\n"
    )
    store(root, [ROWS[0], ("CASE-90018", VIDA[0], None, dt.date(2021, 1, 1))])
    run = night(pacs, root, selection="rules.yaml")
    protected, public = read(own(run) / "linker.csv"), read(run.folder("released") / "linker.csv")
    assert sorted((line["row_id"], line["days"], line["state"], line["left_out"]) for line in protected) == [
        ("CASE-90017", -30, "in the data set", "outside days: 1"),
        ("CASE-90017", -30, "in the data set", "outside days: 1"),
        ("CASE-90018", None, "left out", "outside days: 2"),
    ]
    assert {line["reason"] for line in public if line["state"] == "left out"} == {"left out by the selection"}
    assert not any(b"Vidas" in path.read_bytes() for path in run.folder("released").glob("linker.*"))


def failed(run: StudyRun) -> None:
    """As after a search that the archive did not answer."""
    part = stage_run(run.run, EXTRACT)
    for path in part.parts("found"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [line | {"state": "failed", "series": 0} for line in lines if isinstance(line, dict)]
        path.write_text("".join(json.dumps(line) + "\n" for line in rows))
    for path in part.parts("units"):
        path.write_text("")
    steps.check(run.run)


def test_lines_that_a_row_keeps_are_its_own(pacs: EmbeddedPacs, root: Path) -> None:
    """Rows that share an id, one whose patient is another one since, and one with another anchor."""
    day = dt.date(2020, 1, 31)
    store(root, [("A", KUNIGUNDE[0], None, day), ("A", VIDA[0], None, day), ("B", VIDA[0], None, day), ROWS[0]])
    first = night(pacs, root, linker_days=False)
    before = read(own(first) / "linker.csv")
    later = (ROWS[0][0], ROWS[0][1], None, dt.date(2020, 2, 1))
    store(root, [("A", VIDA[0], None, day), ("A", KUNIGUNDE[0], None, day), ("B", KUNIGUNDE[0], None, day), later])
    again = StudyRun(node_of(pacs), root, [], {**GIVEN, "linker_days": False})
    again.make()
    failed(again)

    def of(lines: list[dict[str, Any]], place: int) -> list[tuple[Any, ...]]:
        return [tuple(line[name] for name in SHOWN) for line in lines if line["line"] == place and line["series_uid"]]

    after = read(own(again) / "linker.csv")
    assert of(after, 1) == of(before, 2) and of(after, 2) == of(before, 1) and of(before, 1) and of(before, 2)
    assert {line["days"] for line in after if line["line"] == 2} == {-30, 367}  # also where the receiver has none
    assert [(line["line"], line["state"]) for line in after if line["line"] > 2] == [(3, "failed"), (4, "failed")]
    # A second night without an answer changes nothing.
    failed(again)
    assert read(own(again) / "linker.csv") == after


def test_lines_are_in_one_order(tmp_path: Path) -> None:
    lines = [linker.Line("a", "P", "1", "2", days, 1) for days in (0, None, *range(-9, 10))]
    for folder, every in (("one", lines), ("two", lines[::-1])):
        (tmp_path / folder).mkdir()
        linker._write_public(tmp_path / folder, {1: every}, True, tmp_path)
    keys = ["" if line["days"] is None else str(line["days"]) for line in read(tmp_path / "one" / "linker.csv")]
    assert keys == sorted(keys) and len(keys) == 20
    assert (tmp_path / "one" / "linker.csv").read_bytes() == (tmp_path / "two" / "linker.csv").read_bytes()


def test_days_of_a_date_that_the_archive_writes_with_points(pacs: EmbeddedPacs, root: Path) -> None:
    """As the selection reads it."""
    run = night(pacs, root)
    part = stage_run(run.run, EXTRACT)
    for path in part.parts("units"):
        path.write_text(path.read_text().replace('"StudyDate":"20200101"', '"StudyDate":"2020.01.01"'))
    assert any("2020.01.01" in path.read_text() for path in part.parts("units"))
    steps.check(run.run)
    assert -30 in {line["days"] for line in read(own(run) / "linker.csv")}
