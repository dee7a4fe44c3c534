"""Tables for people hold no formulas, and lose nothing on the way to a spreadsheet and back."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from pacsifier_ops.base import cells
from pacsifier_ops.pseudonyms.steps import write_log
from pacsifier_ops.query.pseudonym import check_pseudonym
from pacsifier_ops.query.table import read_query_table
from tests.support.command import write_table
from tests.support.embedded import extract, node_of, series, serving

FORMULAS = ["=1+1", '=HYPERLINK("http://x/?"&A1,"see")', "+cmd|' /C calc'!A0", "-2+3+cmd|'x'!A0", "@SUM(A1)"]
FORMULAS += ["\t=1+1", "\r=1", "\n=1", "  =1+1", "＝1+1", "'=1", "''=1", "-rf", "=", "-"]
HARMLESS = ["", "a", "1", "-1", "+1.5", "-12.25", "a=b", "O'Neil", "'tis", "A;B", "Müller^Anna", "2020-01-01", "a\nb"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_and_comes_back(text: str) -> None:
    assert cells.safe(text) == f"'{text}" and cells.plain(cells.safe(text)) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_everything_else_is_as_it_was(text: str) -> None:
    assert cells.safe(text) == text and cells.plain(text) == text


def test_any_values_survive_the_way_there_and_back_and_no_divider_makes_a_cell() -> None:
    random_ = random.Random(7)
    for _ in range(2000):
        values = ["".join(random_.choices("=+-@'\"\t\r\n;,|a1 ", k=random_.randrange(6))) for _ in range(3)]
        line = cells.line([*values, "x"])
        (read,) = csv.reader(io.StringIO(line, newline=""))
        assert [cells.plain(cell) for cell in read] == [*values, "x"]
    for divider in ";\t|":
        (read,) = csv.reader(io.StringIO(cells.line([f"a{divider}=cmd()"]), newline=""), delimiter=divider)
        assert read == [f"a{divider}=cmd()"]
    assert cells.line([None, 3, True]) == ",3,True\n"


def test_a_cell_from_a_dicom_file_is_no_formula_in_dump_or_log(tmp_path: Path) -> None:
    with serving(series("=1+2", "=cmd^Doe", SeriesDescription="@SUM(A1)"), tmp_path / "archive") as pacs:
        account = extract(node_of(pacs), [{"PatientName": "=cmd^*"}], tmp_path / "out", info=True)
    assert account.verdict == "complete"
    (dump,) = (tmp_path / "out").glob("sub-*/**/*.csv")
    for path in (dump, tmp_path / "out" / "logs" / "pacsifier_log.csv"):
        with path.open(encoding="utf-8", newline="") as stream:
            found = [cell for line in csv.reader(stream) for cell in line]
        assert not [cell for cell in found if cell[:1] in ("=", "+", "-", "@", "\t") and cell]
    assert "'=1+2" in dump.read_text() and "'@SUM(A1)" in dump.read_text()


def test_a_table_that_a_person_hands_back_asks_for_the_same(tmp_path: Path) -> None:
    rows = [{"PatientID": "=1+2", "SeriesDescription": "-x"}, {"PatientID": "'=1", "SeriesDescription": "b;=c"}]
    first = read_query_table(write_table(tmp_path / "first.csv", rows))
    (tmp_path / "log.csv").write_text(
        cells.line(first.columns) + "".join(cells.line(row.cells.values()) for row in first.rows), encoding="utf-8"
    )
    second = read_query_table(tmp_path / "log.csv")
    assert [row.keys for row in second.rows] == [row.keys for row in first.rows]
    write_log(tmp_path / "new.csv", second, lambda _: None)
    assert first.rows[0].keys["PatientID"] == "=1+2" and "'=1+2" in (tmp_path / "new.csv").read_text()


@pytest.mark.parametrize("text", ["=cmd()", "-rf", "+1", "@x", "'=1", "'a"])
def test_no_pseudonym_is_a_formula_or_an_option(text: str) -> None:
    with pytest.raises(ValueError, match="begins otherwise") as told:
        check_pseudonym(text)
    assert text not in str(told.value)


@pytest.mark.parametrize("text", ["P-1", "P=1", "a+b", "0"])
def test_other_pseudonyms_are_fine(text: str) -> None:
    assert check_pseudonym(text) == text
