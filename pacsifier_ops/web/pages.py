"""The pages as HTML: taking a request in, a run and its results, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pacsifier_ops.accounts import (
    COMPLETE,
    INCOMPLETE,
    ROW_EMPTY,
    ROW_FOUND,
    SERIES_COMPLETE,
    SERIES_LISTED,
    SERIES_UNVERIFIABLE,
    UNBALANCED,
)
from pacsifier_ops.html import Html, badge, bar, facts, join, page, plural, section, tag, verdict, when
from pacsifier_ops.plugins import REPORTS
from pacsifier_ops.progress import DEIDENTIFICATION, REPEATED, WAITING, Progress

#: States that give their part of a bar another colour than that of a failure.
_KINDS = {
    **dict.fromkeys((ROW_FOUND, SERIES_COMPLETE, "present"), "good"),
    **dict.fromkeys((ROW_EMPTY, REPEATED), "empty"),
    SERIES_LISTED: "listed",
    SERIES_UNVERIFIABLE: "doubt",
    **dict.fromkeys(("received", "de-identified"), "fresh"),
    **dict.fromkeys(("excluded", "in quarantine"), "listed"),
    WAITING: "apart",
}
_VERDICTS = {
    COMPLETE: "All that was asked for is there, and accounted for.",
    INCOMPLETE: "Something that was asked for is missing or could not be asked; the report says what and why.",
    UNBALANCED: "The books do not balance. Run it again; if it stays so, have it looked into.",
}
_RUN_STATES = {"queued": "listed", "running": "fresh", "success": "good"}


@dataclass(frozen=True)
class RunView:
    """What a page tells of a run.

    Attributes:
        state: of the DAG run; `going_on` while that is not its last.
        started, ended: of the DAG run, ISO 8601 or empty.
        progress: None where the run keeps no counts (yet).
        summary: how it ended, see `RunAccount.summary`; None before.
        report: whether there is one.
        thumbnails: modality by number of the series.
        readable: whether the user may see report and thumbnails.
        stages: of a study: progress and summary of each stage that has begun.
    """

    dag_id: str
    run_id: str
    state: str
    started: str = ""
    ended: str = ""
    progress: Progress | None = None
    summary: dict[str, Any] | None = None
    report: bool = False
    thumbnails: Mapping[int, str] = field(default_factory=dict)
    readable: bool = False
    stages: Mapping[str, tuple[Progress, dict[str, Any] | None]] = field(default_factory=dict)

    @property
    def going_on(self) -> bool:
        """Whether the run has yet to end."""
        return self.state in ("queued", "running")

    @property
    def path(self) -> str:
        """Its address, below that of the pages."""
        return f"runs/{quote(self.dag_id, safe='')}/{quote(self.run_id, safe='')}"

    def as_json(self, base: str) -> dict[str, Any]:
        """The same as plain data, in counts only; `base` is the address of the pages."""
        there = f"{base}/{self.path}"
        return {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "state": self.state,
            "progress": self.progress and self.progress.as_json(),
            "summary": self.summary,
            "stages": {name: {"progress": p.as_json(), "summary": s} for name, (p, s) in self.stages.items()},
            "report": f"{there}/report" if self.report and self.readable else None,
            "thumbnails": [f"{there}/thumbnails/{n}.png" for n in self.thumbnails] if self.readable else [],
        }


def _links(base: str, script: str = "") -> Sequence[Html]:
    style = Html(f'<link rel="stylesheet" href="{base}/static/page.css">')
    return [style, tag("script", src=f"{base}/static/{script}", defer="")] if script else [style]


def refusal(base: str, sentence: str) -> str:
    """A page that says why there is nothing to see."""
    return page("PACSIFIER", "PACSIFIER", section("Nothing to see here", "why", tag("p", sentence)), links=_links(base))


# A run


def run_page(base: str, airflow: str, view: RunView) -> str:
    """The page of a run.

    Args:
        base, airflow: addresses of the pages and of Airflow, without a slash at the end.
    """
    there = f"{airflow}/dags/{quote(view.dag_id, safe='')}/runs/{quote(view.run_id, safe='')}"
    told = [
        ("DAG", view.dag_id),
        ("Run", view.run_id),
        ("State", badge(view.state, _RUN_STATES.get(view.state, "bad"))),
        ("Start", when(view.started)),
        *([("End", when(view.ended))] if view.ended else []),
        *_amounts(view),
    ]
    lead = [facts(told), tag("p", tag("a", "The run in Airflow", href=there), class_="outside")]
    if view.summary:
        word = str(view.summary["verdict"])
        lead.insert(0, verdict(word, word.capitalize(), _VERDICTS[word]))
    sections = [_progress(view), _results(base, view), _sheet(base, view)]
    heading = view.dag_id.removeprefix("pacsifier_").replace("_", " ").capitalize()
    return page(
        f"{view.state}: {view.dag_id}", heading, *filter(None, sections), lead=lead, links=_links(base, "run.js")
    )


def _amounts(view: RunView) -> Iterable[tuple[str, object]]:
    progress = view.progress
    if progress and progress.planned and not progress.images.keys() & set(DEIDENTIFICATION.values()):
        yield "Transferred", f"{progress.bytes / 1e6:,.1f} MB"
        yield "One association", f"{progress.megabytes_per_second:,.1f} MB/s"


def _progress(view: RunView) -> Html:
    bars = [*_bars(view.progress, view.summary or {})] if view.progress and not view.stages else []
    for name, (progress, summary) in view.stages.items():
        word = str(summary["verdict"]) if summary else "under way" if view.going_on else "not ended"
        state = badge(word, {COMPLETE: "good", "under way": "fresh"}.get(word, "bad"))
        bars += [tag("h3", join([name.replace("_", " ").capitalize(), state], " ")), *_bars(progress, summary or {})]
    notes = [] if bars else [tag("p", "The run keeps no counts, or has none yet.")]
    if view.going_on:
        notes.append(tag("p", "This page refreshes itself while the run goes on.", class_="note", data_running=""))
    elif not view.summary and not view.report:
        notes.append(
            tag("p", "The run ended without a report; the logs of its tasks in Airflow say why.", class_="note")
        )
    return section("Progress", "progress", *bars, *notes)


def _bars(progress: Progress, summary: Mapping[str, Any]) -> Iterable[Html]:
    rows: Mapping[str, int] = summary.get("rows", progress.rows)
    series: Mapping[str, int] = summary.get("series", progress.series)
    if rows:
        yield bar("Rows of the query table", plural(sum(rows.values()), "row"), _parts(rows))
    if series:
        so_far = "" if progress.planned or summary else " so far"
        yield bar("Series", f"{sum(series.values()):,}{so_far}", _parts(series))
    if progress.planned:
        images = {name: count for name, count in progress.images.items() if name != "quarantined"}
        left = 0 if summary else progress.expected - sum(images.values())
        yield bar("Images", f"{sum(images.values()) + max(0, left):,}", _parts({**images, WAITING: left}))
        if apart := progress.images.get("quarantined"):
            yield tag(
                "p", f"{plural(apart, 'image')} that nobody asked for came as well, and was put apart.", class_="note"
            )


def _parts(counts: Mapping[str, int]) -> Iterable[tuple[str, int, str]]:
    return ((name, count, _KINDS.get(name, "bad")) for name, count in counts.items())


def _results(base: str, view: RunView) -> Html | None:
    if not (view.report or view.summary):
        return None
    there = f"{base}/{view.path}"
    items: list[object] = []
    if view.report and view.readable:
        items.append(
            join([tag("a", "Report", id="report", href=f"{there}/report"), ": all rows and series; it names patients"])
        )
    elif view.report:
        items.append(f"Report and thumbnails identify patients; they need the permission {REPORTS!r}")
    if view.summary:
        items.append(join([tag("a", "Summary", id="summary", href=f"{there}/summary"), ": counts only, as JSON"]))
    return section("Results", "results", tag("ul", *(tag("li", item) for item in items)))


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
        section("Query table", "choose", drop, said, tag("noscript", "This page needs JavaScript.")),
        tag("section", tag("h2", "Problems"), tag("div", id="problem-list"), id="problems", hidden=""),
        tag("section", tag("h2", "As understood"), tag("div", id="preview"), id="understood", hidden=""),
        tag("form", section("Options", "options", *_fields(connections)), id="extraction", **addresses),
        links=_links(base, "intake.js"),
    )


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
    yield _field("pacs", "PACS", pacs, "Connection of type dicom.")
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
