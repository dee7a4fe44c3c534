"""The verdict over a run: complete, incomplete, unbalanced."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsifier_ops.runs import accounts
from pacsifier_ops.runs.accounts import (
    EXIT_CODES,
    SAVE,
    UPLOAD,
    FileAccount,
    RowAccount,
    RunAccount,
    SeriesAccount,
    count_by,
)


def run(*parts: RowAccount | SeriesAccount, **fields: object) -> RunAccount:
    rows = [part for part in parts if isinstance(part, RowAccount)]
    series = [part for part in parts if isinstance(part, SeriesAccount)]
    return RunAccount("run", "pacs", SAVE, "", "", rows, series, **fields)  # type: ignore[arg-type]


def one(state: str, **numbers: int | None) -> SeriesAccount:
    return SeriesAccount(1, [2], "1.2", "1.2.3", state=state, **numbers)  # type: ignore[arg-type]


GOOD = one("complete", expected=5, present=2, received=3)


@pytest.mark.parametrize(
    ("account", "verdict", "code"),
    [
        (run(), "complete", 0),
        (run(RowAccount(2, {}, "found"), GOOD), "complete", 0),
        (run(RowAccount(2, {}, "empty")), "complete", 0),
        (run(one("listed", expected=None)), "complete", 0),
        *(
            (run(RowAccount(2, {}, state), GOOD), "incomplete", 3)
            for state in ("bad", "undecidable", "failed", "conflict")
        ),
        (run(GOOD, one("incomplete", expected=5, received=4, missing=1)), "incomplete", 3),
        (run(one("unverifiable", expected=None, unverifiable=4)), "incomplete", 3),
        (run(one("failed", expected=5, missing=5)), "incomplete", 3),
        (run(one("complete", expected=5, received=4)), "unbalanced", 4),
        (run(one("incomplete", expected=5, received=5, missing=1)), "unbalanced", 4),
        (run(GOOD, discrepancies=["a file too many"]), "unbalanced", 4),
        (run(one("complete", expected=5, received=5, warned=5)), "complete", 0),
        (run(GOOD, passed_over={"not DICOM": 7}), "complete", 0),
        (run(GOOD, bad_files=[FileAccount("a/b", "cut off")]), "incomplete", 3),
        (run(bad_files=[FileAccount("a/b", "cut off")]), "incomplete", 3),
        (run(one("complete", expected=5), bad_files=[FileAccount("a/b", "cut off")]), "unbalanced", 4),
    ],
)
def test_verdicts(account: RunAccount, verdict: str, code: int) -> None:
    assert account.verdict == verdict and EXIT_CODES[verdict] == code


NUMBERS = st.integers(0, 9)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)))
def test_sums_keep_the_balance(numbers: list[tuple[int, int, int, int]]) -> None:
    account = run(
        *(
            one("complete", expected=p + r + m, present=p, received=r, missing=m, unverifiable=u)
            for p, r, m, u in numbers
        )
    )
    totals = account.totals()
    assert totals["expected"] == totals["present"] + totals["received"] + totals["missing"]
    assert account.verdict == "complete"
    assert sum(s.delivered for s in account.series) == totals["present"] + totals["received"] + totals["unverifiable"]


def test_totals_hold_numbers_only() -> None:
    bad_files = [FileAccount("secret", "cut off")]
    series = one("incomplete", expected=2, received=1, missing=1, warned=1)
    series.missing_uids = ["1.2.3.4"]
    totals = run(RowAccount(2, {"PatientID": "secret"}), series, bad_files=bad_files).totals()
    assert all(isinstance(value, (int, float)) for value in totals.values())
    assert totals["rows"] == totals["series"] == totals["bad_files"] == totals["warned"] == 1


def test_accounts_are_plain_data() -> None:
    account = RunAccount("run", "", UPLOAD, "", "", series=[GOOD], destination="archive", folder="/data")
    account.bad_files.append(FileAccount("a/b", "cut off"))
    account.passed_over["DICOMDIR"] = 1
    plain = json.loads(json.dumps(asdict(account)))
    assert plain["bad_files"] == [{"path": "a/b", "reason": "cut off"}] and plain["passed_over"] == {"DICOMDIR": 1}
    assert (plain["action"], plain["destination"], plain["folder"]) == ("upload", "archive", "/data")
    assert SeriesAccount(**plain["series"][0]) == GOOD


def test_counting() -> None:
    rows = [RowAccount(n, {}, state) for n, state in enumerate(("found", "empty", "found"))]
    assert count_by(rows, "state") == {"found": 2, "empty": 1}
    assert accounts.count_by([], "state") == {}
