"""The HTML of the pages: the intake of query tables, a run and its results, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pacsifier_ops.base.options import Option
from pacsifier_ops.base.words import listed, plural, size
from pacsifier_ops.hooks.constants import REPORTS
from pacsifier_ops.query.reading import CHOICES, EXACT, INCLUDE, SKIP
from pacsifier_ops.runs.accounts import (
    COMPLETE,
    INCOMPLETE,
    NONE,
    ROW_EMPTY,
    ROW_FOUND,
    ROW_UNSELECTED,
    SERIES_COMPLETE,
    SERIES_LISTED,
    SERIES_RECALLED,
    SERIES_UNVERIFIABLE,
    UNBALANCED,
)
from pacsifier_ops.runs.approvals import APPROVE, CANCELLED, LONGEST_REASON, REASON, REJECT, REJECTED, WAIVE
from pacsifier_ops.runs.pages import Bar, VerdictBox, page
from pacsifier_ops.runs.progress import DEIDENTIFICATION, DONE, REPEATED, TAGGED, UNCHANGED, WAITING, Progress
from pacsifier_ops.study.run import ANONYMIZE, DESTINATIONS, EXTRACT, NOTHING_NEW, OFF
from pacsifier_ops.study.shown import decided, gate_counts, gate_findings, governed
from pacsifier_ops.study.viewer import ReleasedSeries
from pacsifier_ops.web.forms import Job, project_files
from pacsifier_ops.web.views import (
    AHEAD,
    ASKING,
    EXPIRED,
    MARKED_BY_HAND,
    OPEN,
    UNDER_WAY,
    OpenQuestion,
    RunView,
    StudyView,
)

#: Kind (colour) of the parts of a bar, by state. Other states are failures.
_KINDS = {
    **dict.fromkeys((ROW_FOUND, SERIES_COMPLETE, "present"), "good"),
    **dict.fromkeys((ROW_EMPTY, ROW_UNSELECTED, REPEATED), "empty"),
    SERIES_LISTED: "listed",
    **dict.fromkeys((SERIES_UNVERIFIABLE, SERIES_RECALLED), "doubt"),
    **dict.fromkeys(("received", "de-identified", TAGGED, DONE), "fresh"),
    UNCHANGED: "good",
    **dict.fromkeys(("excluded", "in quarantine"), "listed"),
    WAITING: "apart",
}
_UNBALANCED = "The account does not balance. Run it again; if the verdict stays, have it looked into."
#: Meaning of a verdict: for jobs with series, for studies, and for other jobs on a folder.
_VERDICTS = {
    COMPLETE: "All that was asked for is there, and accounted for.",
    INCOMPLETE: "Something that was asked for is missing or could not be asked; the report says what and why.",
    UNBALANCED: _UNBALANCED,
}
#: The same of a run that only found the series.
_COUNTED = "Every row was answered. The series were listed; none was to be fetched."
_STUDY_VERDICTS = {
    COMPLETE: "All that was asked for is delivered, excluded by a rule, or in quarantine for a reason.",
    INCOMPLETE: "Not all that was asked for is delivered; the report says what is missing, and why.",
    UNBALANCED: _UNBALANCED,
}
_TOOL_VERDICTS = {
    COMPLETE: "All that was asked for is done.",
    INCOMPLETE: "Something could not be done; the report says what and why.",
}
#: Meaning of the verdict of a run that a person ended.
_ENDED = {
    CANCELLED: "What was done before stays. To go on, start it again (on the page Extract: Repeat): only what is "
    "missing is done.",
    REJECTED: "What was asked about is not done; see the decisions below.",
}
_STAGE_STATES = {
    **dict.fromkeys((COMPLETE, NOTHING_NEW), "good"),
    **dict.fromkeys((INCOMPLETE, CANCELLED, REJECTED, ASKING), "doubt"),
    UNDER_WAY: "fresh",
    **dict.fromkeys((AHEAD, OFF), "empty"),
}
#: What to do about an unanswered question.
_UNANSWERED = {
    EXPIRED: "Nobody answered in time, so nothing was done. Clear the task {task} in Airflow to be asked again.",
    MARKED_BY_HAND: "The task {task} was marked as success by hand. That is no approval. Clear it to be asked again.",
}
#: DAG whose page names no patient.
PROBE = "pacsifier_probe"
#: What a step does, by the name of its task.
_STEPS = {
    "set_up": "sets the study up",
    "prepare": "reads what is asked for",
    "find": "asks the PACS",
    "plan": "plans the retrieval",
    "route": "plans the retrieval",
    "retrieve": "fetches images",
    "move": "has images moved",
    "pseudonymize": "gives patients pseudonyms",
    "deidentify": "de-identifies images",
    "check": "searches for identifiers",
    "approve": "asks, or keeps an answer",
    "release": "releases the data set",
    "store": "sends images",
    "tag": "tags images",
    "report": "closes the account",
}
_RUN_STATES = {"queued": "listed", "running": "fresh", "success": "good"}


def refusal(base: str, sentence: str) -> str:
    """Return a page that says why the user gets no content."""
    return page("web/templates/refusal.html", base=base, sentence=sentence)


# A run


def run_page(base: str, airflow: str, view: RunView) -> str:
    """Return the page of a run.

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
        amounts=_transfer_facts(view),
        governed=governed(view.study.project) if view.study else [],
        heading_of=_heading,
        run_kinds=_RUN_STATES,
        step=_step(view),
        questions=_questions(view),
        answers_of=lambda question: _answers(view, question),
        reason=REASON,
        reject=REJECT,
        longest_reason=LONGEST_REASON,
        release_links=[*_release_links(base, view)],
        sheets=_sheets(base, view),
        permission=REPORTS,
        report_content=_report_content(view),
        progress=[*_progress_bars(view.progress, view.summary or {})] if view.progress else [],
        bars_of=_progress_bars,
        stage_kinds=_STAGE_STATES,
        off=OFF,
        without=[_heading(name) for name, stage in stages.items() if stage.state == OFF],
        first_destination=DESTINATIONS[0],
        released=_release(view, view.study) if view.study else None,
        decisions=decided(view.decisions),
    )


def _heading(dag_id: str) -> str:
    name = dag_id.removeprefix("pacsifier_").replace("_", " ")
    return {"dicomdir": "DICOMDIR", "convert": "NIfTI"}.get(name, name.capitalize())


def _verdict(view: RunView) -> VerdictBox | None:
    """Return the verdict of an ended run; None before."""
    if not view.summary:
        return None
    meanings = _STUDY_VERDICTS if view.study else _VERDICTS if "series" in view.summary else _TOOL_VERDICTS
    word = str(view.summary["verdict"])
    if word in _ENDED:
        left = listed([*_left(view)]) if word == CANCELLED else ""
        head = f"{word.capitalize()} by {view.summary['by']}"
        return VerdictBox(word, f"{head}: {left}" if left else head, (_ENDED[word],))
    counted = word == COMPLETE and view.summary.get("action") == NONE
    return VerdictBox(word, word.capitalize(), (_COUNTED if counted else meanings[word],))


def _left(view: RunView) -> Iterator[str]:
    """Yield what a cancelled run, or the stages of a study, did not do, in counts."""
    for name, one in {"": view.progress, **{name: stage.progress for name, stage in view.stages.items()}}.items():
        counts = one and {"row": one.rows, "series": one.series, "part": one.parts}
        for what, by_state in (counts or {}).items():
            if count := by_state.get(WAITING, 0):
                many = plural(count, what, what if what == "series" else "")
                verb = {"row": "asked", "series": "transferred"}.get(what, "done")
                yield f"{many} not {verb}" + (f" ({name.replace('_', ' ')})" if name else "")


def _transfer_facts(view: RunView) -> Iterator[tuple[str, str]]:
    progress = view.progress
    if progress and progress.bytes and not progress.images.keys() & set(DEIDENTIFICATION.values()):
        yield "Transferred", size(progress.bytes)
        if rate := progress.bytes_per_second:
            yield "One association", f"{size(rate)}/s"


def _step(view: RunView) -> str:
    """Return what the run does now; empty: it waits, or has ended."""
    step = view.step
    if step is None:
        return ""
    what = _STEPS.get(step.name, step.name.replace("_", " "))
    where = f"{step.stage.replace('_', ' ')}: " if step.stage else ""
    count = f", {step.done:,} of {plural(step.tasks, 'part')} done" if step.tasks > 1 else ""
    paces = [f"{amount:,.0f} {name} a minute" for name, amount in view.pace.items() if amount >= 0.5]
    return f"{where}{what}{count}" + "".join(f", {pace}" for pace in paces)


def _answers(view: RunView, question: OpenQuestion) -> list[tuple[str, str]]:
    """Return the answers to a question, and why one is of no use here; empty: it is."""
    counts = view.study.gate.get("counts", {}) if view.study and not question.stage else {}
    if counts.get("waivable"):
        useless = {APPROVE: "There are findings: waive them, or reject."}
    else:
        useless = {WAIVE: "There are no findings to waive."}
    return [(word, useless.get(word, "")) for word in question.options]


def _sheets(base: str, view: RunView) -> list[str]:
    """Return the addresses of the contact sheets to look at before a release, if the user may see them."""
    if view.study is None or not view.readable:
        return []
    there = f"{base}/{view.stage_path(ANONYMIZE)}"
    return [f"{there}/contact-sheets-{number}.html" for number in range(1, view.stages[ANONYMIZE].sheets + 1)]


def _questions(view: RunView) -> list[tuple[OpenQuestion, str]]:
    """Return the open questions, and the unanswered ones with what to do about them."""
    shown = [one for one in view.questions if one.state == OPEN or one.state in _UNANSWERED]
    return [(one, _UNANSWERED.get(one.state, "").format(task=one.task_id)) for one in shown]


def _release_links(base: str, view: RunView) -> Iterator[tuple[str, str]]:
    """Yield text and address of the links to look at before a release, if the user may read reports."""
    if view.study is None or not view.readable:
        return
    if view.study.gate:
        yield "what the search found", f"{base}/{view.path}/findings"
    for name in (EXTRACT, ANONYMIZE):
        if view.stages[name].report:
            yield f"the report of {name}", f"{base}/{view.stage_path(name)}/report.html"
    addresses = _sheets(base, view)
    for number, address in enumerate(addresses, 1):
        yield f"contact sheets {number}" if len(addresses) > 1 else "contact sheets", address


class Release(NamedTuple):
    """The state of the release: a word, the kind of its badge, and facts as names and values."""

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
    facts: list[tuple[str, object]] = []
    if study.gate:
        counts = study.gate.get("counts", {})
        facts += [
            ("Files searched for identifiers", study.gate.get("searched", 0)),
            ("Findings that block the release", counts.get("blocking", 0)),
            ("Findings to be waived", counts.get("waivable", 0)),
        ]
    if study.released:
        facts += [("Files released", study.released["files"]), ("New", study.released["new"])]
        facts += [("Size", size(study.released["bytes"]))]
    elif study.stock:
        facts += [("Files to be released", study.stock["files"]), ("Size", size(study.stock["bytes"]))]
    return Release(*state, facts)


def _progress_bars(progress: Progress, summary: Mapping[str, Any]) -> Iterator[Bar | str]:
    """Yield the bars of a progress, and remarks on them.

    Args:
        summary: of the ended job; empty before. Its counts are preferred.
    """
    rows: Mapping[str, int] = summary.get("rows", progress.rows)
    series: Mapping[str, int] = summary.get("series", progress.series)
    if rows:
        yield Bar.of("Rows of the query table", plural(sum(rows.values()), "row"), _parts(rows))
    if several := summary.get("totals", {}).get("rows_with_several_studies"):
        included = (
            "were left with several studies"
            if progress.left_out
            else "found several studies, all of which are included"
        )
        yield f"{plural(several, 'row')} {included}."
    if progress.left_out:
        selected, so_far = sum(series.values()), "" if progress.planned else " so far"
        out = sorted(progress.left_out.items(), key=lambda one: -one[1])
        parts = [("selected", selected, "good"), *((f"left out: {why}", count, "empty") for why, count in out)]
        yield Bar.of("Series found", f"{selected + sum(progress.left_out.values()):,}{so_far}", parts)
    if series:
        so_far = "" if progress.planned or summary else " so far"
        yield Bar.of("Series", f"{sum(series.values()):,}{so_far}", _parts(series))
    images = {name: count for name, count in progress.images.items() if name != "quarantined"}
    waiting = 0 if summary else max(0, progress.expected - sum(images.values()))
    if progress.planned and (whole := sum(images.values()) + waiting):
        yield Bar.of("Images", f"{whole:,}", _parts({**images, WAITING: waiting}))
    if quarantined := progress.images.get("quarantined"):
        yield f"In quarantine: {plural(quarantined, 'received image')} that nobody asked for."
    if progress.parts and not summary:
        yield Bar.of("Parts of the work", f"{sum(progress.parts.values()):,}", _parts(progress.parts))


def _parts(counts: Mapping[str, int]) -> Iterator[tuple[str, int, str]]:
    return ((name, count, _KINDS.get(name, "bad")) for name, count in counts.items())


def _report_content(view: RunView) -> str:
    """Return what the report of a run contains."""
    if view.study:
        return "the whole chain, all rows and series; it names patients"
    if view.dag_id == PROBE:
        return "what the PACS can do, and which settings fit; it names no patient"
    if view.summary and "series" not in view.summary:
        return "what was done, and what could not be done"
    return "all rows and series; it names patients"


def findings_page(base: str, run: str, gate: Mapping[str, Any]) -> str:
    """Return the page with the findings of the search before a release.

    Args:
        base: address of the pages, without a slash at the end.
        run: address of the page of the run, relative to that.
        gate: content of the run's gate.json.
    """
    shown = {"search": gate_counts(gate), "found": gate_findings(gate)}
    return page("web/templates/findings.html", base=base, back=f"{base}/{run}", **shown)


def viewer_page(base: str, run: str, series: Sequence[ReleasedSeries]) -> str:
    """Return the page with the viewer of released images.

    Args:
        base: address of the pages, without a slash at the end.
        run: address of the page of the run, relative to that.
        series: the released series.
    """
    return page("web/templates/viewer.html", base=base, back=f"{base}/{run}", series=series)


def back_link(base: str, run: str) -> str:
    """Return the link that leads from a report to the page of its run; for the arguments see `findings_page`."""
    return page("web/templates/back.html", back=f"{base}/{run}")


# Intake


def intake_page(
    base: str,
    airflow: str,
    jobs: Sequence[Job],
    connections: Sequence[str] | None,
    paused: Mapping[str, bool],
    largest: int,
    receivers: Sequence[str] = (),
) -> str:
    """Return the page on which a user sends a query table, sees how it is understood, starts a run, and sees the last.

    Args:
        base, airflow: addresses of the pages and of Airflow, without a slash at the end.
        jobs: what the user may start.
        connections: ids of the connections of type dicom; None if the user may not see them.
        paused: the paused ones of the DAGs, and whether the user may unpause them.
        largest: maximum size of a table, in bytes.
        receivers: ids of the connections of other types that can be sent to.
    """
    return page(
        "web/templates/intake.html",
        base=base,
        airflow=airflow,
        jobs=jobs,
        connections=connections,
        paused=paused,
        largest=largest,
        project_files=project_files() if jobs else [],
        dates={"": "YYYYMMDD only", **{one: one for one in CHOICES["date_format"]}},
        exact=EXACT,
        include=INCLUDE,
        skip=SKIP,
        control=_control,
        default_of=lambda one: json.dumps(None if one.optional and not one.default else one.default),
        text_of=lambda one: "" if one.several or (one.optional and not one.default) else str(one.default),
        choices_of=partial(_choices, connections=connections, receivers=receivers),
    )


def _control(one: Option) -> str:
    """Return the kind of field that a person fills an option in with, a name of the macros in intake.html."""
    if one.kind is bool:
        return "switch"
    if one.several:
        return "several" if one.choices else "list"
    return "number" if one.kind in (int, float) else "text"


def _choices(one: Option, connections: Sequence[str] | None, receivers: Sequence[str]) -> Mapping[str, str] | None:
    """Return words by value of an option that is chosen from a list; None: it is typed."""
    if one.choices:
        shown = {value: f"{value}: {text}" if text else value for value, text in one.choices.items()}
        return {"": one.unsaid, **shown} if one.optional else shown
    if one.node and connections is not None:
        # A connection may be defined in a place that the page does not see, so the default is always offered.
        none = {"": "none"} if one.optional else {}
        every = {*connections, *(receivers if one.receives else ())}
        return {**none, **{name: name for name in filter(None, (one.default, *sorted(every - {one.default})))}}
    return None
