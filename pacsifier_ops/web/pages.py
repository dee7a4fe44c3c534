"""The pages as HTML: taking a request in, a run and its results, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
from pacsifier_ops.runs.html import (
    Html,
    badge,
    bar,
    facts,
    join,
    listed,
    page,
    plural,
    section,
    table,
    tag,
    verdict,
    when,
)
from pacsifier_ops.runs.progress import DEIDENTIFICATION, DONE, REPEATED, TAGGED, UNCHANGED, WAITING, Progress
from pacsifier_ops.runs.report_html import size
from pacsifier_ops.study.run import ANONYMIZE, DESTINATIONS, EXTRACT, NOTHING_NEW, OFF
from pacsifier_ops.study.shown import DECISION_COLUMNS, decision_lines, gate_findings
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


def _links(base: str, script: str = "") -> Sequence[Html]:
    style = Html(f'<link rel="stylesheet" href="{base}/static/page.css">')
    if not script:
        return [style]
    # Not deferred, and after the style: nothing of the page is there before both have had their effect.
    frame = tag("script", src=f"{base}/static/frame.js")
    return [style, frame, tag("script", src=f"{base}/static/{script}", defer="")]


def refusal(base: str, sentence: str) -> str:
    """A page that says why there is nothing to see."""
    return page("PACSIFIER", "PACSIFIER", section("Nothing to see here", "why", tag("p", sentence)), links=_links(base))


# A run


def run_page(base: str, airflow: str, view: RunView) -> str:
    """The page of a run.

    Args:
        base, airflow: addresses of the pages and of Airflow, without a slash at the end.
    """
    told = [
        ("DAG", view.dag_id),
        ("Run", view.run_id),
        ("State", badge(view.state, _RUN_STATES.get(view.state, "bad"))),
        ("Start", when(view.started)),
        *([("End", when(view.ended))] if view.ended else []),
        *_amounts(view),
    ]
    there = tag("a", "The run in Airflow", href=f"{airflow}/{view.in_airflow}")
    lead = [facts(told), tag("p", there, class_="outside")]
    if view.summary:
        word = str(view.summary["verdict"])
        lead.insert(0, verdict(word, word.capitalize(), _meaning(view, view.summary)[word]))
    sections = [_asked(base, airflow, view), _results(base, view), _progress(base, view), _decided(view)]
    return page(
        f"{view.state}: {view.dag_id}",
        _heading(view.dag_id),
        *filter(None, [*sections, _sheet(base, view)]),
        lead=lead,
        links=_links(base, "run.js"),
    )


def _heading(dag_id: str) -> str:
    name = dag_id.removeprefix("pacsifier_").replace("_", " ")
    return {"dicomdir": "DICOMDIR"}.get(name, name.capitalize())


def _meaning(view: RunView, summary: Mapping[str, Any]) -> Mapping[str, str]:
    """What verdicts mean in a run."""
    if view.study:
        return _STUDY_VERDICTS
    return _VERDICTS if "series" in summary else _TOOL_VERDICTS


def _amounts(view: RunView) -> Iterable[tuple[str, object]]:
    progress = view.progress
    if progress and progress.bytes and not progress.images.keys() & set(DEIDENTIFICATION.values()):
        yield "Transferred", f"{progress.bytes / 1e6:,.1f} MB"
        yield "One association", f"{progress.megabytes_per_second:,.1f} MB/s"


def _totals(summary: Mapping[str, Any]) -> Iterable[Html]:
    """The counts of what has no bar of its series."""
    if "series" not in summary:
        named = ((name[:1].upper() + name[1:]).replace("_", " ") for name in summary["totals"])
        yield facts(zip(named, summary["totals"].values(), strict=True))


def _asked(base: str, airflow: str, view: RunView) -> Html | None:
    """The questions to people that are open, or that nobody has answered."""
    shown: list[Html] = []
    for one in view.questions:
        if one.state in _UNANSWERED:
            shown.append(tag("p", one.headline, " ", _UNANSWERED[one.state].format(task=one.task_id)))
        elif one.state == OPEN:
            shown += _open(base, airflow, view, one)
    return section("A question", "question", *shown) if shown else None


def _open(base: str, airflow: str, view: RunView, one: OpenQuestion) -> Iterable[Html]:
    yield tag("p", tag("b", one.headline), class_="asked")
    yield tag("ul", *(tag("li", line) for line in one.told))
    looks = [*_looks(base, view)] if not one.stage else []
    if looks:
        yield tag("p", "Look first at ", join(looks, ", "), ".")
    link = tag("a", "Answer in Airflow", id="answer", href=f"{airflow}/{view.answer_path(one)}")
    answers = " / ".join(one.options)
    until = join([", until ", when(one.until)]) if one.until else ""
    yield tag("p", link, f": {answers}", until, ".", class_="outside")
    yield tag("p", "Answer at ", tag("b", "Required Actions"), f" above: {answers}", until, ".", class_="inside")
    yield tag("p", "Asked ", when(one.asked), ". The run goes on when somebody has answered.", class_="note")


def _looks(base: str, view: RunView) -> Iterable[Html]:
    """What to look at before a data set is released, for those who may."""
    if view.study is None or not view.readable:
        return
    if view.study.gate:
        yield tag("a", "what the search found", href=f"{base}/{view.path}/findings")
    for name in (EXTRACT, ANONYMIZE):
        if view.study.stages[name].report:
            yield tag("a", f"the report of {name}", href=f"{base}/{view.stage_path(name)}/report.html")
    yield from _sheet_links(f"{base}/{view.stage_path(ANONYMIZE)}", view.study.stages[ANONYMIZE].sheets)


def _sheet_links(there: str, count: int) -> Iterable[Html]:
    """Links to the pages of contact sheets."""
    for number in range(1, count + 1):
        name = f"contact sheets {number}" if count > 1 else "contact sheets"
        yield tag("a", name, href=f"{there}/contact-sheets-{number}.html")


def _progress(base: str, view: RunView) -> Html:
    if view.study:
        shown = [*_stages(base, view, view.study)]
    else:
        shown = [*_bars(view.progress, view.summary or {})] if view.progress else []
        shown += [*_totals(view.summary)] if view.summary else []
    if not shown and not view.summary:
        shown.append(tag("p", "The run keeps no counts, or has none yet."))
    if view.going_on:
        shown.append(tag("p", "This page refreshes itself while the run goes on.", class_="note", data_running=""))
    elif not view.summary and not view.report:
        ended = "The run ended without a report; the logs of its tasks in Airflow say why."
        shown.append(tag("p", ended, class_="note"))
    return section("Progress", "progress", *shown) if shown else Html()


def _stages(base: str, view: RunView, study: StudyView) -> Iterable[Html]:
    for name, stage in study.stages.items():
        if name == DESTINATIONS[0]:
            yield from _release(view, study)
        if stage.state == OFF:
            continue
        links = []
        if view.readable:
            there = f"{base}/{view.stage_path(name)}"
            links = [tag("a", "report", href=f"{there}/report.html")] if stage.report else []
            links += _sheet_links(there, stage.sheets)
        state = badge(stage.state, _STAGE_STATES.get(stage.state, "bad"))
        yield tag("h3", join([_heading(name), state, *links], " "), id=f"stage-{name}")
        if stage.progress:
            yield from _bars(stage.progress, stage.summary or {})
        if stage.summary:
            yield from _totals(stage.summary)
    if without := [name for name, stage in study.stages.items() if stage.state == OFF]:
        words = listed([_heading(name) for name in without])
        yield tag("p", f"The study does without: {words}.", class_="note")


def _release(view: RunView, study: StudyView) -> Iterable[Html]:
    """What lies between the stages that make a data set and those that hand it over."""
    if study.released:
        state = badge("released", "good")
    elif any(one.state == OPEN and not one.stage for one in view.questions):
        state = badge(ASKING, "doubt")
    else:
        state = badge(AHEAD, "empty") if view.going_on else badge("not released", "bad")
    yield tag("h3", join(["Release", state], " "), id="stage-release")
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
    if told:
        yield facts(told)


def _bars(progress: Progress, summary: Mapping[str, Any]) -> Iterable[Html]:
    rows: Mapping[str, int] = summary.get("rows", progress.rows)
    series: Mapping[str, int] = summary.get("series", progress.series)
    if rows:
        yield bar("Rows of the query table", plural(sum(rows.values()), "row"), _parts(rows))
    if several := summary.get("totals", {}).get("rows_with_several_studies"):
        yield tag("p", f"{plural(several, 'row')} found several studies, all of which are included.", class_="note")
    if series:
        so_far = "" if progress.planned or summary else " so far"
        yield bar("Series", f"{sum(series.values()):,}{so_far}", _parts(series))
    images = {name: count for name, count in progress.images.items() if name != "quarantined"}
    left = 0 if summary else max(0, progress.expected - sum(images.values()))
    if progress.planned and (whole := sum(images.values()) + left):
        yield bar("Images", f"{whole:,}", _parts({**images, WAITING: left}))
    if apart := progress.images.get("quarantined"):
        yield tag(
            "p", f"{plural(apart, 'image')} that nobody asked for came as well, and was put apart.", class_="note"
        )
    if progress.parts and not summary:
        yield bar("Parts of the work", f"{sum(progress.parts.values()):,}", _parts(progress.parts))


def _parts(counts: Mapping[str, int]) -> Iterable[tuple[str, int, str]]:
    return ((name, count, _KINDS.get(name, "bad")) for name, count in counts.items())


def _decided(view: RunView) -> Html | None:
    """Who decided what, and when."""
    if not view.decisions:
        return None
    return section("Decisions", "decisions", table("Decisions", DECISION_COLUMNS, decision_lines(view.decisions)))


def _results(base: str, view: RunView) -> Html | None:
    there = f"{base}/{view.path}"
    items: list[object] = []
    if view.report and view.readable:
        items.append(join([tag("a", "Report", id="report", href=f"{there}/report"), f": {_holds(view)}"]))
    if view.study and view.study.handover and view.readable:
        link = tag("a", "Hand-over report", id="handover", href=f"{there}/handover")
        items.append(join([link, ": goes with the data; counts and pseudonyms"]))
    if view.study and view.study.gate and view.readable:
        link = tag("a", "Search before the release", id="findings", href=f"{there}/findings")
        items.append(join([link, ": what was found, and in which files"]))
    if view.sheets and view.readable:
        sheets = join(_sheet_links(there, view.sheets), ", ")
        items.append(join([sheets, ": to be looked at for burned-in text"]))
    if not view.readable and (view.report or view.study):
        items.append(f"Reports and pictures identify patients; they need the permission {REPORTS!r}")
    if view.summary:
        items.append(join([tag("a", "Summary", id="summary", href=f"{there}/summary"), ": counts only, as JSON"]))
    return section("Results", "results", tag("ul", *(tag("li", item) for item in items))) if items else None


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
    heading = "Search for identifiers before the release"
    footer = "Names of files may identify patients: keep this page with the identified data."
    return page(
        heading, heading, section("What was found", "gate", gate_findings(gate)), footer=footer, links=_links(base)
    )


def _sheet(base: str, view: RunView) -> Html | None:
    if not (view.thumbnails and view.readable):
        return None
    pictures = []
    for number, modality in view.thumbnails.items():
        label = f"Series {number}, {modality}" if modality else f"Series {number}"
        address = f"{base}/{view.path}/thumbnails/{number}.png"
        image = _void("img", src=address, alt=f"An image of series {number}", loading="lazy", width="96", height="96")
        pictures.append(tag("figure", image, tag("figcaption", label)))
    note = tag("p", "One image from the middle of each of the first series.", class_="note")
    return section("Thumbnails", "sheet", note, tag("div", *pictures, class_="sheet"))


def _void(name: str, **attributes: object) -> Html:
    """An element without content or end."""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


# Intake


def intake_page(base: str, airflow: str, dag_id: str, connections: Sequence[str] | None, largest: int) -> str:
    """The page on which a query table is handed in, checked, and started.

    Args:
        base, airflow: addresses of the pages and of Airflow, without a slash at the end.
        dag_id: what is started.
        connections: ids of the connections of type dicom; None where the user may not know them.
        largest: bytes of a table at most.
    """
    addresses = {
        "data_requests": f"{base}/requests",
        "data_start": f"{airflow}/api/v2/dags/{dag_id}/dagRuns",
        "data_runs": f"{base}/runs/{dag_id}/",
        "data_largest": largest,
    }
    drop = tag(
        "label",
        tag("b", "Choose a csv or xlsx file, or drop it here"),
        tag("span", "It is checked as a whole before anything else happens. The archive is not asked.", class_="below"),
        _void("input", type="file", id="table", accept=".csv,.tsv,.txt,.xlsx", aria_describedby="said"),
        id="drop",
    )
    said = tag("p", id="said", role="status", aria_live="polite")
    return page(
        "New extraction",
        "New extraction",
        section(
            "Query table",
            "choose",
            drop,
            tag("div", *_reading(), id="reading"),
            said,
            tag("noscript", "This page needs JavaScript."),
        ),
        tag("section", tag("h2", "Problems"), tag("div", id="problem-list"), id="problems", hidden=""),
        tag("section", tag("h2", "As understood"), tag("div", id="preview"), id="understood", hidden=""),
        tag("form", section("Options", "options", *_fields(connections)), id="extraction", **addresses),
        links=_links(base, "intake.js"),
    )


def _reading() -> Iterable[Html]:
    """How the table is read; the script sends these fields with it, and again with whatever is changed."""
    dates = {"": "YYYYMMDD only", **{one: one for one in CHOICES["date_format"]}}
    hidden = {"": "refuse: they are bad rows", INCLUDE: "include: they count like the others", SKIP: "skip: left out"}
    match = {"": "* and ? are wildcards", EXACT: "* and ? are characters"}
    yield _field("date_format", "Dates", _select("date_format", dates), "Beside YYYYMMDD; nothing is guessed.")
    yield _field("match", "Wildcards", _select("match", match))
    yield _field("sheet", "Sheet", _text("sheet"), "Of a workbook: name or number. Empty: the one that is seen.")
    yield _field("hidden_rows", "Hidden rows", _select("hidden_rows", hidden), "Of a workbook.")


def _fields(connections: Sequence[str] | None) -> Iterable[Html]:
    first = "pacs_default"
    known = "known" if connections is not None else ""
    # What there is first; pacs_default is there even if the page does not know of it.
    names = [first, *sorted(set(connections or ()) - {first})]
    pacs = _select("pacs", {name: name for name in names}) if known else _text("pacs", first)
    destination = (
        _select("destination", {"": "the PACS's own move_aet", **{n: n for n in names}})
        if known
        else _text("destination")
    )
    actions = {
        "save": "save: fetch them into the output folder",
        "move": "move: have the PACS send them to another node",
        "none": "none: only find the series",
    }
    yield _field("pacs", "PACS", pacs, "Connection of type dicom." + ("" if known else " Several with commas."))
    if known and len(names) > 1:
        more = _select("more", {"": "no other", **{name: name for name in names}})
        yield _field("more", "Other PACS", more, "Is asked next, for the rows that the first has not found.")
    yield _field(
        "out_directory", "Output folder", _text("out_directory", "out"), "Below the data root; made if need be."
    )
    yield _field("retrieve", "Images", _select("retrieve", actions))
    yield _field(
        "destination", "Destination", destination, "Connection of the node that images are moved to.", hidden=""
    )
    yield _switch(
        "strict", "Strict", "Any bad row stops the run before the PACS is asked. Otherwise the good rows run."
    )
    yield _switch("accept_incomplete", "Accept incomplete", "The run counts as a success even if something is missing.")
    yield tag("p", id="note", class_="note", role="status", aria_live="polite")
    yield tag("button", "Start the extraction", id="start", type="submit", disabled="")


def _field(name: str, label: str, control: Html, hint: str = "", **attributes: object) -> Html:
    below = [tag("span", hint, class_="below")] if hint else []
    return tag("div", tag("label", label, for_=name), control, *below, class_="field", **attributes)


def _text(name: str, value: str = "") -> Html:
    return _void("input", type="text", id=name, name_=name, value=value, autocomplete="off", spellcheck="false")


def _select(name: str, choices: Mapping[str, str]) -> Html:
    return tag("select", *(tag("option", text, value=value) for value, text in choices.items()), id=name, name_=name)


def _switch(name: str, label: str, hint: str) -> Html:
    box = _void("input", type="checkbox", id=name, name_=name)
    return tag("div", box, tag("label", label, for_=name), tag("span", hint, class_="below"), class_="switch")
