"""The pages as HTML: taking a request in, a run and its results, refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pacsifier_ops.base.words import plural, size
from pacsifier_ops.hooks.constants import REPORTS
from pacsifier_ops.query.reading import CHOICES, EXACT, INCLUDE, SKIP
from pacsifier_ops.runs.accounts import (
    COMPLETE,
    INCOMPLETE,
    ROW_EMPTY,
    ROW_FOUND,
    SERIES_COMPLETE,
    SERIES_LISTED,
    SERIES_RECALLED,
    SERIES_UNVERIFIABLE,
    UNBALANCED,
)
from pacsifier_ops.runs.pages import Bar, VerdictBox, page
from pacsifier_ops.runs.progress import DEIDENTIFICATION, DONE, REPEATED, TAGGED, UNCHANGED, WAITING, Progress
from pacsifier_ops.study.run import ANONYMIZE, DESTINATIONS, EXTRACT, NOTHING_NEW, OFF
from pacsifier_ops.study.shown import decided, gate_counts, gate_findings
from pacsifier_ops.web.views import (
    AHEAD,
    ASKING,
    EXPIRED,
    OPEN,
    PASSED_BY,
    UNDER_WAY,
    OpenQuestion,
    RunView,
    StudyView,
)

#: States that give their part of a bar another colour than that of a failure.
_KINDS = {
    **dict.fromkeys((ROW_FOUND, SERIES_COMPLETE, "present"), "good"),
    **dict.fromkeys((ROW_EMPTY, REPEATED), "empty"),
    SERIES_LISTED: "listed",
    **dict.fromkeys((SERIES_UNVERIFIABLE, SERIES_RECALLED), "doubt"),
    **dict.fromkeys(("received", "de-identified", TAGGED, DONE), "fresh"),
    UNCHANGED: "good",
    **dict.fromkeys(("excluded", "in quarantine"), "listed"),
    WAITING: "apart",
}
_BOOKS = "The books do not balance. Run it again; if it stays so, have it looked into."
#: What a verdict means: of what asks for rows and series, of a study, and of what works on a folder.
_VERDICTS = {
    COMPLETE: "All that was asked for is there, and accounted for.",
    INCOMPLETE: "Something that was asked for is missing or could not be asked; the report says what and why.",
    UNBALANCED: _BOOKS,
}
_STUDY_VERDICTS = {
    COMPLETE: "All that was asked for is delivered, excluded by a rule, or in quarantine for a reason.",
    INCOMPLETE: "Not all that was asked for is delivered; the report says what is missing, and why.",
    UNBALANCED: _BOOKS,
}
_TOOL_VERDICTS = {
    COMPLETE: "All that was asked for is done.",
    INCOMPLETE: "Something could not be done; the report says what and why.",
}
_STAGE_STATES = {
    **dict.fromkeys((COMPLETE, NOTHING_NEW), "good"),
    **dict.fromkeys((INCOMPLETE, ASKING), "doubt"),
    UNDER_WAY: "fresh",
    **dict.fromkeys((AHEAD, OFF), "empty"),
}
#: What to do about a question that nobody has answered.
_UNANSWERED = {
    EXPIRED: "Nobody answered in time, so nothing was done. Clear the task {task} in Airflow to be asked again.",
    PASSED_BY: "The task {task} was marked as success by hand, and that approves nothing. Clear it to be asked again.",
}
_RUN_STATES = {"queued": "listed", "running": "fresh", "success": "good"}


def refusal(base: str, sentence: str) -> str:
    """A page that says why there is nothing to see."""
    return page("web/templates/refusal.html", base=base, sentence=sentence)


# A run


def run_page(base: str, airflow: str, view: RunView) -> str:
    """The page of a run.

    Args:
        base, airflow: addresses of the pages and of Airflow, without a slash at the end.
    """
    stages = view.stages if view.study else {}
    return page(
        "web/templates/run.html",
        base=base,
        airflow=airflow,
        view=view,
        verdict=_verdict(view),
        amounts=_amounts(view),
        heading_of=_heading,
        run_kinds=_RUN_STATES,
        questions=_questions(view),
        looks=[*_looks(base, view)],
        permission=REPORTS,
        holds=_holds(view),
        progress=[*_counted(view.progress, view.summary or {})] if view.progress else [],
        counted_of=_counted,
        stage_kinds=_STAGE_STATES,
        off=OFF,
        without=[_heading(name) for name, stage in stages.items() if stage.state == OFF],
        first_destination=DESTINATIONS[0],
        released=_release(view, view.study) if view.study else None,
        decisions=decided(view.decisions),
    )


def _heading(dag_id: str) -> str:
    name = dag_id.removeprefix("pacsifier_").replace("_", " ")
    return {"dicomdir": "DICOMDIR"}.get(name, name.capitalize())


def _verdict(view: RunView) -> VerdictBox | None:
    """How the run ended, if it has."""
    if not view.summary:
        return None
    meanings = _STUDY_VERDICTS if view.study else _VERDICTS if "series" in view.summary else _TOOL_VERDICTS
    word = str(view.summary["verdict"])
    return VerdictBox(word, word.capitalize(), (meanings[word],))


def _amounts(view: RunView) -> Iterator[tuple[str, str]]:
    progress = view.progress
    if progress and progress.bytes and not progress.images.keys() & set(DEIDENTIFICATION.values()):
        yield "Transferred", f"{progress.bytes / 1e6:,.1f} MB"
        yield "One association", f"{progress.megabytes_per_second:,.1f} MB/s"


def _questions(view: RunView) -> list[tuple[OpenQuestion, str]]:
    """The questions to people that are open, and those that nobody has answered, with what to do about these."""
    shown = [one for one in view.questions if one.state == OPEN or one.state in _UNANSWERED]
    return [(one, _UNANSWERED.get(one.state, "").format(task=one.task_id)) for one in shown]


def _looks(base: str, view: RunView) -> Iterator[tuple[str, str]]:
    """What to look at before a data set is released, for those who may: words and address."""
    if view.study is None or not view.readable:
        return
    if view.study.gate:
        yield "what the search found", f"{base}/{view.path}/findings"
    for name in (EXTRACT, ANONYMIZE):
        if view.stages[name].report:
            yield f"the report of {name}", f"{base}/{view.stage_path(name)}/report.html"
    count = view.stages[ANONYMIZE].sheets
    for number in range(1, count + 1):
        words = f"contact sheets {number}" if count > 1 else "contact sheets"
        yield words, f"{base}/{view.stage_path(ANONYMIZE)}/contact-sheets-{number}.html"


class Release(NamedTuple):
    """How far the release has come: a word, its kind, and names and values."""

    word: str
    kind: str
    facts: list[tuple[str, object]]


def _release(view: RunView, study: StudyView) -> Release:
    if study.released:
        state = ("released", "good")
    elif any(one.state == OPEN and not one.stage for one in view.questions):
        state = (ASKING, "doubt")
    else:
        state = (AHEAD, "empty") if view.going_on else ("not released", "bad")
    told: list[tuple[str, object]] = []
    if study.gate:
        counts = study.gate.get("counts", {})
        told += [
            ("Files searched for identifiers", study.gate.get("searched", 0)),
            ("Findings that block the release", counts.get("blocking", 0)),
            ("Findings to be waived", counts.get("waivable", 0)),
        ]
    if study.released:
        told += [("Files released", study.released["files"]), ("New", study.released["new"])]
        told += [("Size", size(study.released["bytes"]))]
    elif study.stock:
        told += [("Files to be released", study.stock["files"]), ("Size", size(study.stock["bytes"]))]
    return Release(*state, told)


def _counted(progress: Progress, summary: Mapping[str, Any]) -> Iterator[Bar | str]:
    """How far something has come: bars, and remarks on them."""
    rows: Mapping[str, int] = summary.get("rows", progress.rows)
    series: Mapping[str, int] = summary.get("series", progress.series)
    if rows:
        yield Bar.of("Rows of the query table", plural(sum(rows.values()), "row"), _parts(rows))
    if several := summary.get("totals", {}).get("rows_with_several_studies"):
        yield f"{plural(several, 'row')} found several studies, all of which are included."
    if series:
        so_far = "" if progress.planned or summary else " so far"
        yield Bar.of("Series", f"{sum(series.values()):,}{so_far}", _parts(series))
    images = {name: count for name, count in progress.images.items() if name != "quarantined"}
    left = 0 if summary else max(0, progress.expected - sum(images.values()))
    if progress.planned and (whole := sum(images.values()) + left):
        yield Bar.of("Images", f"{whole:,}", _parts({**images, WAITING: left}))
    if apart := progress.images.get("quarantined"):
        yield f"{plural(apart, 'image')} that nobody asked for came as well, and was put apart."
    if progress.parts and not summary:
        yield Bar.of("Parts of the work", f"{sum(progress.parts.values()):,}", _parts(progress.parts))


def _parts(counts: Mapping[str, int]) -> Iterator[tuple[str, int, str]]:
    return ((name, count, _KINDS.get(name, "bad")) for name, count in counts.items())


def _holds(view: RunView) -> str:
    """What is in the report of a run."""
    if view.study:
        return "the whole chain, all rows and series; it names patients"
    if view.summary and "series" not in view.summary:
        return "what was done, and what could not be"
    return "all rows and series; it names patients"


def findings_page(base: str, gate: Mapping[str, Any]) -> str:
    """The page of what the search before a release found.

    Args:
        base: address of the pages, without a slash at the end.
        gate: content of the run's gate.json.
    """
    return page("web/templates/findings.html", base=base, search=gate_counts(gate), found=gate_findings(gate))


# Intake


def intake_page(base: str, airflow: str, dag_id: str, connections: Sequence[str] | None, largest: int) -> str:
    """The page on which a query table is handed in, checked, and started.

    Args:
        base, airflow: addresses of the pages and of Airflow, without a slash at the end.
        dag_id: what is started.
        connections: ids of the connections of type dicom; None where the user may not know them.
        largest: bytes of a table at most.
    """
    # What there is first; pacs_default is there even if the page does not know of it.
    first = "pacs_default"
    names = [first, *sorted(set(connections or ()) - {first})]
    return page(
        "web/templates/intake.html",
        base=base,
        airflow=airflow,
        dag_id=dag_id,
        connections=None if connections is None else {name: name for name in names},
        largest=largest,
        dates={"": "YYYYMMDD only", **{one: one for one in CHOICES["date_format"]}},
        exact=EXACT,
        include=INCLUDE,
        skip=SKIP,
    )
