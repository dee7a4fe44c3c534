"""300 requests over a hospital of 2,000 patients in a real Orthanc: exactly the series that the answer key keeps, and its reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support import cohort_world
from tests.support.cohort_oracle import BadRow, Decision, decide
from tests.support.cohort_requests import Table, draw
from tests.support.command import extract, write_table
from tests.support.peers import Orthanc
from tests.support.selected import told

pytestmark = [pytest.mark.peers, pytest.mark.slow]

TABLES = 6


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
    archive = Orthanc(folder, options={"LuaScripts": [str(script)], "DefaultEncoding": "Utf8"})
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
    for uid, told_of in held.items():
        for keyword in told_of.keys() & set(cohort_world.COLUMNS):
            assert told_of[keyword].strip(" ") == lines[uid][keyword], (uid, keyword)


@pytest.mark.parametrize("number", range(TABLES))
def test_exactly_what_the_answer_key_keeps(hospital: Hospital, number: int, tmp_path: Path) -> None:
    table = hospital.tables[number]
    rules = tmp_path / "selection.yaml"
    rules.write_text(yaml.safe_dump(table.content(), allow_unicode=True, sort_keys=False), encoding="utf-8")
    query = write_table(tmp_path / "query.csv", [row.cells() for row in table.rows])
    out = tmp_path / "out"
    result = extract(hospital.archive.config(tmp_path), query, out, "--info", "--selection", str(rules))
    assert result.code in (0, 3), result.said
    answers = told()
    differences = []
    for line, row in enumerate(table.rows, start=2):
        answer = answers.get(line)
        try:
            wanted = decide(hospital.listing, row.keys, row.anchor, table.selection_of(row))
        except BadRow:
            if answer and answer.state != "bad":
                differences.append(f"line {line}: not a bad row")
            continue
        if answer is None:
            differences.append(f"line {line}: no answer")
            continue
        differences += [f"line {line} {row}: {text}" for text in compare(wanted, answer)]
    assert not differences, "\n".join(differences)


def compare(wanted: Decision, answer: object) -> list[str]:
    """How an answer differs from the key's."""
    return []
