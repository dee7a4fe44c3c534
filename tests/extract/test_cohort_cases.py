"""Situations with the outcome written by hand, all in one real archive, and a row of one query table for each."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import cohort_world
from tests.support.cohort_cases import ANCHOR, REPORTED, SENTENCES, Case, keys_of, lines_of
from tests.support.command import extract, write_table
from tests.support.peers import Orthanc

pytestmark = pytest.mark.peers

CASES = [case for case in SENTENCES + REPORTED if case.archive]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("cases")
    (folder / "hiding.lua").write_text(cohort_world.HIDING)
    options: dict[str, object] = {"LuaScripts": [str(folder / "hiding.lua")], "DefaultEncoding": "Utf8"}
    archive = Orthanc(folder, environment={"TCP_NODELAY": "1"}, options=options)
    archive.start()
    try:
        cohort_world.load(archive, [line for number, case in enumerate(CASES) for line in lines_of(case, number)[0]])
        yield archive
    finally:
        archive.stop()


def test_each_case_comes_out_as_written(archive: Orthanc, state_root: Path, tmp_path: Path) -> None:
    rules = tmp_path / "selection.yaml"
    sets = {f"case {number}": case.selection for number, case in enumerate(CASES)}
    rules.write_text(yaml.safe_dump({"sets": sets}, allow_unicode=True), encoding="utf-8")
    day = cohort_world.text_of(ANCHOR)
    rows = [
        keys_of(case, number) | {"anchor_date": day, "selection": name}
        for (number, case), name in zip(enumerate(CASES), sets, strict=True)
    ]
    query = write_table(tmp_path / "query.csv", rows)
    extract(archive.config(tmp_path), query, tmp_path / "out", "--info", "--selection", str(rules)).ended(0)
    (listed,) = state_root.glob("runs/*/selection.csv")
    told: dict[int, dict[str, str]] = defaultdict(dict)
    with listed.open(encoding="utf-8-sig", newline="") as stream:
        for line in csv.DictReader(stream):
            told[int(line["line"]) - 2][line["SeriesInstanceUID"]] = line["left_out"]
    wrong = [
        f"{case.sentence}: {answer}, to be {wanted}"
        for number, case in enumerate(CASES)
        if (answer := _named(case, number, told[number]))
        != (wanted := dict.fromkeys(case.kept.split(), "") | case.left)
    ]
    assert not wrong, "\n".join(wrong)


def _named(case: Case, number: int, told: dict[str, str]) -> dict[str, str]:
    names = lines_of(case, number)[1]
    return {names[uid]: reason for uid, reason in told.items()}
