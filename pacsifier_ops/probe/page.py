"""Findings for people: one HTML page that stands alone, and the same as text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from pacsifier_ops.base.config import address_of
from pacsifier_ops.base.words import plural
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
from pacsifier_ops.runs.pages import VerdictBox, page

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


def _outcome(findings: Findings) -> VerdictBox:
    if not findings.reachable:
        return VerdictBox("unbalanced", "Not reachable", (findings.of("association").text,))
    if not findings.usable:
        return VerdictBox("unbalanced", "Reachable, not usable", (f"STUDY level: {findings.of('study').text}",))
    ways = [name for name, question in (("C-GET", "get"), ("C-MOVE", "move")) if findings.of(question).state == YES]
    came = f"An image came back by {' and by '.join(ways)}." if ways else "No image came back."
    keys = [f"{len(findings.keys_that(kind))} {kind}" for kind in (MATCHED, FILTERED, UNDECIDABLE, MISSES, NOT_TESTED)]
    sentences = [f"Studies can be searched for. {came}"]
    if findings.keys:
        told = ", ".join(text for text in keys if not text.startswith("0 "))
        sentences.append(f"Of {plural(len(findings.keys), 'key')} of a query table: {told}.")
    well = ways and not findings.keys_that(UNDECIDABLE, MISSES) and findings.of("image").state == YES
    kind, word = ("complete", "Usable") if well else ("incomplete", "Usable, with gaps")
    return VerdictBox(kind, word, tuple(sentences))


class _Line(NamedTuple):
    """A question and its answer: in a word, with the kind of its badge, and in full."""

    label: str
    word: str
    kind: str
    fact: Fact


def _asked(findings: Findings) -> Iterable[tuple[str, list[_Line]]]:
    """Sections, and what was asked in them."""
    for title, questions in QUESTIONS.items():
        asked = [(name, label, findings.facts[name]) for name, label in questions.items() if name in findings.facts]
        if asked:
            yield title, [_line_of(*one) for one in asked]


def _line_of(question: str, label: str, fact: Fact) -> _Line:
    word = _STATE_WORDS.get(question, {}).get(fact.state, fact.state)
    kind = "listed" if fact.state == NO and question in _HARMLESS else _KINDS[fact.state]
    return _Line(label, word, kind, fact)


def to_html(findings: Findings) -> str:
    """The page."""
    return page(
        "probe/templates/probe.html",
        findings=findings,
        verdict=_outcome(findings),
        address=address_of(findings.host, findings.port),
        settings=json.dumps(findings.settings, indent=2, ensure_ascii=False),
        asked=_asked(findings),
        kinds=_KINDS,
    )


def to_text(findings: Findings) -> str:
    """The same for a terminal or a log."""
    outcome = _outcome(findings)
    lines = [
        f"{findings.pacs}: {outcome.word.lower()}",
        f"{findings.called_aet} at {address_of(findings.host, findings.port)}, called by {findings.calling_aet}; "
        f"{findings.queries} C-FINDs in {findings.seconds:,.1f} s",
        *outcome.sentences,
    ]
    for title, asked in _asked(findings):
        lines += ["", title]
        lines += [_line(one.label, one.word, one.fact.text) for one in asked]
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
