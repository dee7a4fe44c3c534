"""The answer key itself, on cases by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.cohort_cases import (
    ANCHOR,
    REPORTED,
    SCOUTS,
    SENTENCES,
    Case,
    Series,
    described,
    keys_of,
    lines_of,
    one,
    rules,
)
from tests.support.cohort_oracle import BadRow, Decision, decide
from tests.support.cohort_world import listing


def run(case: Case) -> tuple[Decision, dict[str, str]]:
    """What the key decides, and the names of the series."""
    lines, names = lines_of(case)
    return decide(listing(lines), keys_of(case), ANCHOR, case.selection), names


@pytest.mark.parametrize("case", SENTENCES + REPORTED, ids=lambda case: case.sentence)
def test_by_hand(case: Case) -> None:
    decision, names = run(case)
    assert {names[uid] for _, uid in decision.kept} == set(case.kept.split())
    assert {names[uid]: why for (_, uid), why in decision.left.items()} == case.left
    assert decision.doubtful <= decision.kept


def test_a_row_without_an_anchor_date_is_a_bad_row() -> None:
    case = Case("", [one("A", "20200310")], {}, "A1")
    table = listing(lines_of(case)[0])
    for selection in ({"days": [0, 1]}, {"anchor": "closest"}):
        with pytest.raises(BadRow):
            decide(table, keys_of(case), None, selection)
    assert decide(table, keys_of(case), None, {"priors": {"studies": 1}}).kept


def test_kept_although_undecided_is_counted() -> None:
    decision, names = run(Case("", described("", "Lung"), rules(exclude=[SCOUTS]), "A1 A2"))
    assert {names[uid] for _, uid in decision.doubtful} == {"A1"}


@pytest.mark.parametrize(
    ("series", "selection", "ties"),
    [
        ([one("A", "20200307"), one("B", "20200313")], {"anchor": "closest", "studies": 1}, {"studies"}),
        ([one("A", "20200307"), one("B", "20200314")], {"anchor": "closest", "studies": 1}, set()),
        ([one("A", "20200307"), one("B", "20200307T08")], {"studies": 1}, {"studies"}),
        (
            [one("A", "20200310"), one("B", "20200307"), one("C", "20200307")],
            {"days": [0, 0], "priors": {"studies": 1}},
            {"priors"},
        ),
        ([one("A", "20200307"), one("A", "20200307")], {"prefer": ["thinnest"]}, {"series"}),
    ],
)
def test_where_something_else_than_days_or_words_decided(
    series: list[Series], selection: dict[str, Any], ties: set[str]
) -> None:
    assert run(Case("", series, selection, ""))[0].ties == ties
