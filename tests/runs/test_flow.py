"""The flow of a cohort: each thing counts once, and at every stage what reached it and what did not add up."""

from __future__ import annotations

import csv
import io
import random
from xml.etree import ElementTree

from pacsifier_ops.runs.flow import ASKED, ELIGIBLE, FOUND, LEVELS, SELECTED, FlowLine, Tally, as_csv, as_svg, drawing
from pacsifier_ops.selection.deciding import Step, step_of


def test_at_every_stage_what_reached_it_and_what_was_left_out_add_up() -> None:
    chance = random.Random(7)
    reasons = ["", "outside days", "age", "excluded by a", "not included", "not chosen", "not preferred"]
    for _ in range(50):
        tally = Tally({3: 4})
        for _ in range(chance.randrange(1, 200)):
            study = chance.randrange(30)
            reason = chance.choice(reasons)
            series = f"{study}.{chance.randrange(4)}"
            tally.add(step_of(reason), reason, [chance.randrange(9)], str(study // 3), str(study), series, 10)
        found = tally.line(FOUND, Step.CERTAIN)
        out = list(tally.left_out(ELIGIBLE, Step.CERTAIN, Step.SERIES))
        eligible = tally.line(ELIGIBLE, Step.STUDIES)
        later = list(tally.left_out(SELECTED, Step.STUDIES, Step.PREFERRED))
        selected = tally.line(SELECTED, Step.SELECTED)
        for level in LEVELS:
            assert getattr(found, level) == sum(getattr(line, level) for line in [*out, eligible])
            assert getattr(eligible, level) == sum(getattr(line, level) for line in [*later, selected])
        assert found.instances == 10 * (found.series or 0)


def test_what_one_row_leaves_out_and_another_takes_is_selected() -> None:
    tally = Tally()
    for line, reason in ((2, "outside days"), (3, ""), (4, "age")):
        tally.add(step_of(reason), reason, [line], "p", "s", "s.1", 5)
    assert tally.line(SELECTED, Step.SELECTED) == FlowLine(SELECTED, "", 1, 1, 1, 1, 5)
    assert list(tally.left_out(ELIGIBLE, Step.CERTAIN, Step.SERIES)) == [
        FlowLine(ELIGIBLE, "outside days", 1, 0, 0, 0, 0),
        FlowLine(ELIGIBLE, "age", 1, 0, 0, 0, 0),
    ]


def test_names_of_rules_are_text_in_table_and_picture() -> None:
    lines = [
        FlowLine(ASKED, rows=1),
        FlowLine(FOUND, "", 1, 1, 1, 2, 20),
        FlowLine(ELIGIBLE, "=1+1 </svg><script>&", 1, 1, 1, 2, 20),
        FlowLine(ELIGIBLE, "", 0, 0, 0, 0, 0),
    ]
    table = list(csv.reader(io.StringIO(as_csv(lines))))
    assert table[0] == ["stage", "left_out", *LEVELS] and table[3][1] == "'=1+1 </svg><script>&"
    picture = as_svg(lines)
    assert "<script>" not in picture and "nothing" in picture
    ElementTree.fromstring(picture)
    assert drawing([]) is None
