"""Findings for people: one HTML page that stands alone, and the same as text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable

from pacsifier_ops.base.config import address_of
from pacsifier_ops.probe.findings import (
    FILTERED,
    MATCHED,
    MISSES,
    NO,
    NOT_TESTED,
    PARTLY,
    QUESTIONS,
    UNDECIDABLE,
    YES,
    Fact,
    Findings,
)
from pacsifier_ops.runs.html import Html, badge, beside, facts, page, plural, section, table, tag, verdict, when

_KINDS = {
    YES: "good",
    PARTLY: "doubt",
    NO: "bad",
    NOT_TESTED: "empty",
    MATCHED: "good",
    FILTERED: "listed",
    UNDECIDABLE: "bad",
    MISSES: "bad",
}
#: Questions whose "no" is no fault: hardly an archive does it, and nothing is lost without.
_HARMLESS = ("series_alone", "image_alone", "relational", "count", "availability")
#: Words for answers that are no yes or no.
_STATE_WORDS = {
    "peer": {YES: "known"},
    "latency": {YES: "measured"},
    "availability": {YES: "told", NO: "not told"},
    "result_limit": {YES: "none seen", NO: "cut off", PARTLY: "refused"},
    "kept": {NOT_TESTED: "not known"},
}
_WIDTH = 100


def _outcome(findings: Findings) -> tuple[str, str, list[str]]:
    """Kind, word and sentences."""
    if not findings.reachable:
        return "unbalanced", "Not reachable", [findings.of("association").text]
    if not findings.usable:
        return "unbalanced", "Reachable, not usable", [f"STUDY level: {findings.of('study').text}"]
    ways = [name for name, question in (("C-GET", "get"), ("C-MOVE", "move")) if findings.of(question).state == YES]
    came = f"An image came back by {' and by '.join(ways)}." if ways else "No image came back."
    keys = [f"{len(findings.keys_that(kind))} {kind}" for kind in (MATCHED, FILTERED, UNDECIDABLE, MISSES, NOT_TESTED)]
    sentences = [f"Studies can be searched for. {came}"]
    if findings.keys:
        told = ", ".join(text for text in keys if not text.startswith("0 "))
        sentences.append(f"Of {plural(len(findings.keys), 'key')} of a query table: {told}.")
    well = ways and not findings.keys_that(UNDECIDABLE, MISSES) and findings.of("image").state == YES
    return ("complete", "Usable", sentences) if well else ("incomplete", "Usable, with gaps", sentences)


def _state(question: str, fact: Fact) -> str:
    return _STATE_WORDS.get(question, {}).get(fact.state, fact.state)


def _asked(findings: Findings) -> Iterable[tuple[str, list[tuple[str, str, Fact]]]]:
    """Sections with what was asked in them: id, label, answer."""
    for title, questions in QUESTIONS.items():
        lines = [(name, label, findings.facts[name]) for name, label in questions.items() if name in findings.facts]
        if lines:
            yield title, lines


def to_html(findings: Findings) -> str:
    """The page."""

    def state(question: str, fact: Fact) -> Html:
        kind = "listed" if fact.state == NO and question in _HARMLESS else _KINDS[fact.state]
        return badge(_state(question, fact), kind)

    def points(texts: list[str], nothing: str) -> Html:
        return tag("ul", *(tag("li", text) for text in texts)) if texts else tag("p", nothing, class_="note")

    sections: list[object] = [
        beside(
            section(
                "For the connection",
                "settings",
                tag("p", "Extra of the connection, with what was found out:", class_="note"),
                tag("pre", json.dumps(findings.settings, indent=2, ensure_ascii=False)),
                points(findings.advice, ""),
            ),
            section("To ask the PACS team for", "ask", points(findings.ask_for, "Nothing.")),
        )
    ]
    for title, lines in _asked(findings):
        rows = [(label, state(name, fact), fact.text) for name, label, fact in lines]
        sections.append(section(title, title.lower(), table(title, ("Question", "Answer", "In words"), rows)))
    if findings.keys:
        known = {True: "yes", False: "no", None: "?"}
        lines_of_keys = [
            (
                key.keyword,
                key.level,
                badge(key.verdict, _KINDS[key.verdict]),
                key.returned or "no",
                known[key.matched],
                key.text,
            )
            for key in findings.keys
        ]
        columns = ("Key", "Asked at", "Verdict", "Returned at", "Matched", "For a query table")
        sections.append(
            section(
                "Keys of a query table",
                "keys",
                tag("p", f"Seen: {findings.sample}.", class_="note") if findings.sample else "",
                table("Keys", columns, lines_of_keys),
            )
        )
    kind, word, sentences = _outcome(findings)
    return page(
        f"Probe of {findings.pacs}",
        f"What the archive {findings.pacs} can do",
        *sections,
        lead=(verdict(kind, word, *sentences), facts(_head(findings))),
        footer="This page holds no value of any patient. What was fetched to see that it comes was removed at once.",
    )


def _head(findings: Findings) -> list[tuple[str, object]]:
    return [
        ("Called AE title", findings.called_aet),
        ("Calling AE title", findings.calling_aet),
        ("Address", address_of(findings.host, findings.port)),
        ("Probed", when(findings.started)),
        ("Took", f"{findings.seconds:,.1f} s"),
        ("C-FINDs", findings.queries),
    ]


def to_text(findings: Findings) -> str:
    """The same for a terminal or a log."""
    _, word, sentences = _outcome(findings)
    lines = [
        f"{findings.pacs}: {word.lower()}",
        f"{findings.called_aet} at {address_of(findings.host, findings.port)}, called by {findings.calling_aet}; "
        f"{findings.queries} C-FINDs in {findings.seconds:,.1f} s",
        *sentences,
    ]
    for title, asked in _asked(findings):
        lines += ["", title]
        lines += [_line(label, _state(name, fact), fact.text) for name, label, fact in asked]
    if findings.keys:
        lines += ["", f"Keys of a query table (seen: {findings.sample})"]
        lines += [_line(key.keyword, key.verdict, key.text) for key in findings.keys]
    lines += ["", "For the connection", *(_point(text) for text in findings.advice)]
    lines += textwrap.indent(json.dumps(findings.settings, indent=2, ensure_ascii=False), "  ").splitlines()
    lines += ["", "To ask the PACS team for", *(_point(text) for text in findings.ask_for or ["Nothing."])]
    return "\n".join(lines) + "\n"


def _line(label: str, state: str, text: str) -> str:
    head = f"  {label:<32}{state:<15}"
    return textwrap.fill(text, _WIDTH + 20, initial_indent=head, subsequent_indent=" " * len(head))


def _point(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
