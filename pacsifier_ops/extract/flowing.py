"""The flow of an extract run (see `runs.flow`): as far as the plan, and then what was fetched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from pacsifier_ops.base.files import read_json, read_jsonl
from pacsifier_ops.extract import outcome
from pacsifier_ops.extract.run import Planned, instances_of
from pacsifier_ops.extract.size import Size
from pacsifier_ops.runs.accounts import MOVE, NONE, ROW_BAD, SeriesAccount
from pacsifier_ops.runs.flow import ASKED, ELIGIBLE, FETCHED, FOUND, MOVED, SELECTED, FlowLine, Tally
from pacsifier_ops.runs.folder import Run, with_stages
from pacsifier_ops.runs.job import expected
from pacsifier_ops.selection.deciding import Step, step_of
from pacsifier_ops.state.tree import patient_identity

_MISSING = "images missing"
_NOT_PLANNED = "rows or answers contradict each other"


def chosen(run: Run) -> list[FlowLine]:
    """Return the flow from what was asked for to what is selected, from what the step find has written."""
    weights = _weights(run)
    tally, states, rows = Tally(weights), Counter[str](), 0
    for part in run.parts("found"):
        records = read_jsonl(part)
        for row in records:
            count = weights.get(row["line"], 1)
            rows += count
            if not (row["series"] or row["left_out"]):
                states[row["state"]] += count
            for study, series, told, *_ in islice(records, row["series"]):
                _add(tally, row["line"], study, series, "", told)
    for part in run.parts("left_out"):
        for line, study, series, reason, told in read_jsonl(part):
            _add(tally, line, study, series, reason, told)
    bad = expected(run).get("bad_rows", 0)
    without = [FlowLine(FOUND, state, rows=count) for state, count in [(ROW_BAD, bad), *states.most_common()] if count]
    return [
        FlowLine(ASKED, rows=rows + bad),
        *without,
        tally.line(FOUND, Step.CERTAIN),
        *tally.left_out(ELIGIBLE, Step.CERTAIN, Step.SERIES),
        tally.line(ELIGIBLE, Step.STUDIES),
        *tally.left_out(SELECTED, Step.STUDIES, Step.PREFERRED),
        tally.line(SELECTED, Step.SELECTED),
    ]


def tally_of(run: Run) -> Tally:
    """Return a tally for the rows of a run."""
    return Tally(_weights(run))


def _weights(run: Run) -> dict[int, int]:
    """Return the number of rows that a line stands for: those that ask the same are asked once."""
    table = outcome.table(run)
    return {line: count + 1 for line, count in Counter((table.same_as if table else {}).values()).items()}


def _add(tally: Tally, line: int, study: str, series: str, reason: str, told: dict[str, str]) -> None:
    patient = patient_identity(told, study)
    tally.add(step_of(reason), reason, [line], patient, study, series, instances_of(told) or 0)


def with_fetched(
    run: Run, action: str, lines: Sequence[FlowLine], series: Iterable[tuple[Planned, SeriesAccount]]
) -> list[FlowLine]:
    """Return the flow with what was fetched of the selected series, or moved by the archive."""
    if action == NONE:
        return list(lines)
    stage = MOVED if action == MOVE else FETCHED
    tally, missing = Tally(_weights(run)), 0
    for planned, account in series:
        there = account.delivered
        missing += account.missing if there else 0
        patient = patient_identity(planned.attributes, planned.study_uid)
        instances = there or account.missing
        tally.add(
            bool(there),
            "" if there else account.state,
            planned.lines,
            patient,
            planned.study_uid,
            planned.series_uid,
            instances,
        )
    reached, left_out = tally.line(stage, 1), list(tally.left_out(stage, 0, 0))
    if missing:
        left_out.append(FlowLine(stage, _MISSING, instances=missing))
    return [*lines, *_rest(lines[-1], [reached, *left_out], stage), *left_out, reached]


def _rest(selected: FlowLine, told: Sequence[FlowLine], stage: str) -> Iterator[FlowLine]:
    """Yield the line of selected series that the plan has left out."""
    rows, patients, studies, series = (
        (getattr(selected, level) or 0) - sum(getattr(line, level) or 0 for line in told)
        for level in ("rows", "patients", "studies", "series")
    )
    if series > 0:
        yield FlowLine(stage, _NOT_PLANNED, max(0, rows), max(0, patients), max(0, studies), series)


def sizes(plan: Mapping[str, Any]) -> list[str]:
    """Return how large a cohort is, in counts: what is to be fetched, or would be.

    Args:
        plan: content of the run's plan.json.
    """
    each = {name: Size(**size).sentences() for name, size in plan["sizes"].items()}
    return [f"{name}: {text}" if len(each) > 1 else text for name, texts in each.items() for text in texts]


def sizes_of(run: Run) -> list[str]:
    """Return the same of a run, or of its stage that asks the archive; nothing before its plan."""
    for one in with_stages(run):
        with suppress(FileNotFoundError):
            if "sizes" in (plan := read_json(one.folder / "plan.json")):
                return sizes(plan)
    return []


def sentences(plan: Mapping[str, Any], names: bool = True) -> list[str]:
    """Return what the selection does, in counts; nothing without one.

    Args:
        plan: content of the run's plan.json.
        names: with the names of rules. What goes to Airflow has none: people choose them.
    """
    lines = [FlowLine(**line) for line in plan.get("flow", ())]
    if not lines:
        return []
    reached = {line.stage: line for line in lines if not line.left_out}
    found, selected = reached[FOUND].series or 0, reached[SELECTED].series or 0
    told = [f"the selection: {found:,} series found, {selected:,} selected"]
    counts: Counter[str] = Counter()
    for line in lines:
        by_rule = step_of(line.left_out) == Step.SERIES and not names
        if line.left_out and line.series:
            counts["rules for series" if by_rule else line.left_out] += line.series
    return told + [f"left out, {reason}: {count:,} series" for reason, count in counts.items()]
