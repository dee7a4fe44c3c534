"""300 requests over a generated hospital in a real Orthanc: exactly what the answer key keeps, and its reasons."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support import cohort_world
from tests.support.cohort_oracle import BadRow, Decision, Key, decide
from tests.support.cohort_requests import Table, draw
from tests.support.command import extract, write_table
from tests.support.peers import Orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow]

TABLES = 6
#: How a row says that something else than days or words decided.
TIES = {"two studies are equally": "studies", "two earlier studies": "priors", "two series of a study": "series"}


@dataclass(frozen=True)
class Hospital:
    """The archive, its full listing, and the requests that are drawn over it."""

    archive: Orthanc
    listing: pd.DataFrame
    tables: list[Table]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    script = folder / "hiding.lua"
    script.write_text(cohort_world.HIDING)
    lines = cohort_world.hospital()
    listing = cohort_world.listing(lines)
    archive = Orthanc(
        folder, environment={"TCP_NODELAY": "1"}, options={"LuaScripts": [str(script)], "DefaultEncoding": "Utf8"}
    )
    archive.start()
    try:
        cohort_world.load(archive, lines)
        yield Hospital(archive, listing, draw(listing, tables=TABLES))
    finally:
        archive.stop()


def test_the_listing_is_the_archives(hospital: Hospital) -> None:
    held = cohort_world.held(hospital.archive)
    lines = {str(line["SeriesInstanceUID"]): line for line in hospital.listing.to_dict("records")}
    assert held.keys() == lines.keys()
    for uid, told in held.items():
        for keyword in told.keys() & set(cohort_world.COLUMNS):
            assert told[keyword].strip(" ") == lines[uid][keyword], (uid, keyword)


@dataclass
class Answer:
    """What a run says of one row."""

    state: str
    warnings: list[str]
    kept: set[Key] = field(default_factory=set)
    left: dict[Key, str] = field(default_factory=dict)
    priors: set[str] = field(default_factory=set)


def answers(folder: Path) -> dict[int, Answer]:
    """By line, from the accounts of a run and its list of what was decided."""
    accounts = json.loads((folder / "accounts.json").read_text(encoding="utf-8"))
    told = {row["line"]: Answer(row["state"], row["warnings"]) for row in accounts["rows"]}
    with (folder / "selection.csv").open(encoding="utf-8-sig", newline="") as stream:
        for line in csv.DictReader(stream):
            answer, key = told[int(line["line"])], (line["StudyInstanceUID"], line["SeriesInstanceUID"])
            assert key not in answer.kept and key not in answer.left, "a series has one reason"
            if line["left_out"]:
                answer.left[key] = line["left_out"]
            else:
                answer.kept.add(key)
            if line["selected_as"] == "prior":
                answer.priors.add(key[0])
    # What will be fetched is what is listed as selected.
    for series in accounts["series"]:
        for number in series["lines"]:
            assert (series["study_uid"], series["series_uid"]) in told[number].kept
    return told


@pytest.mark.parametrize("number", range(TABLES))
def test_exactly_what_the_answer_key_keeps(hospital: Hospital, number: int, state_root: Path, tmp_path: Path) -> None:
    table = hospital.tables[number]
    rules = tmp_path / "selection.yaml"
    rules.write_text(yaml.safe_dump(table.content(), allow_unicode=True, sort_keys=False), encoding="utf-8")
    query = write_table(tmp_path / "query.csv", [row.cells() for row in table.rows])
    result = extract(
        hospital.archive.config(tmp_path), query, tmp_path / "out", "--info", "--selection", str(rules)
    ).ended(0, 3)
    (folder,) = state_root.glob("runs/*/")
    told = answers(folder)
    kept: set[Key] = set()
    seen: set[Key] = set()
    differences = []
    for line, row in enumerate(table.rows, start=2):
        answer, selection = told[line], table.selection_of(row)
        try:
            wanted = decide(hospital.listing, row.keys, row.anchor, selection)
        except BadRow:
            texts = iter(() if answer.state == "bad" else [f"{answer.state} without an anchor date"])
        else:
            texts = compare(wanted, answer)
            kept |= wanted.kept
            seen |= wanted.kept | wanted.left.keys()
        differences += [f"line {line}, {row.cells()}, {selection}: {text}" for text in texts]
    assert not differences, f"{result.said}\n" + "\n".join(differences)
    assert flow(folder) == {"found": len(seen), "selected": len(kept)}


def flow(folder: Path) -> dict[str, int]:
    """Series at the stages of a paper's flow chart, each counted once."""
    with (folder / "flow.csv").open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.DictReader(stream))
    return {
        line["stage"]: int(line["series"])
        for line in lines
        if not line["left_out"] and line["stage"] in ("found", "selected")
    }


def compare(wanted: Decision, answer: Answer) -> Iterator[str]:
    """How an answer differs from the key's."""
    state = "found" if wanted.kept else "unselected" if wanted.left else "empty"
    if answer.state != state:
        yield f"{answer.state}, not {state}"
    for key in sorted(wanted.kept | wanted.left.keys() | answer.kept | answer.left.keys()):
        ours, theirs = ("selected" if key in one.kept else one.left.get(key, "not there") for one in (wanted, answer))
        if ours != theirs:
            yield f"{key} is {theirs}, to be {ours}"
    if (priors := {study for study, _ in wanted.kept if study in wanted.priors}) != answer.priors:
        yield f"priors are {answer.priors}, to be {priors}"
    if (undecided := _undecided(answer)) != len(wanted.doubtful):
        yield f"{undecided} series selected although an exclude was undecided, to be {len(wanted.doubtful)}"

    if (
        ties := {tie for start, tie in TIES.items() for text in answer.warnings if text.startswith(start)}
    ) != wanted.ties:
        yield f"ties of {ties}, to be of {wanted.ties}"


def _undecided(answer: Answer) -> int:
    """How many series were selected although an exclude was undecided, as the row says."""
    said = (re.match(r"(\d+) series selected although an exclude was undecided", text) for text in answer.warnings)
    return sum(int(match[1]) for match in said if match)
