"""300 requests over a generated hospital in a real Orthanc: exactly what the answer key keeps, and its reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.support import cohort_world
from tests.support.cohort_oracle import found
from tests.support.cohort_requests import Table, draw
from tests.support.command import extract, series_of_lines, write_table
from tests.support.peers import Orthanc

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


def test_each_row_finds_what_the_listing_has(hospital: Hospital, state_root: Path, tmp_path: Path) -> None:
    """Without a selection: what the selection has to decide on."""
    keys = [dict(one) for one in dict.fromkeys(tuple(row.keys.items()) for row in hospital.tables[0].rows)]
    query = write_table(tmp_path / "query.csv", keys)
    extract(hospital.archive.config(tmp_path), query, tmp_path / "out", "--info").ended(0)
    _, series = series_of_lines(state_root)
    for line, row in enumerate(keys, start=2):
        assert series[line] == set(found(hospital.listing, row)["SeriesInstanceUID"]), row
