"""The findings of a probe for people: an HTML page without other files, and text for a terminal."""

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

#: Kind of the badge (see `runs/templates/parts.html`) of a state or a verdict.
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
#: Questions whose "no" is no fault: few archives support it, and it is not needed.
_HARMLESS = ("series_alone", "image_alone", "relational", "count", "availability")
#: Words for the states of questions that are not answered by yes or no.
_STATE_WORDS = {
    "peer": {YES: "known"},
    "latency": {YES: "measured"},
    "availability": {YES: "returned", NO: "not returned"},
    "result_limit": {YES: "none seen", NO: "cut off", PARTLY: "refused"},
    "kept": {NOT_TESTED: "not known"},
}
#: Characters in a line of text.
_WIDTH = 100


def _verdict_box(findings: Findings) -> VerdictBox:
    """Return the verdict on an archive: its kind, its word, and sentences."""
    if not findings.reachable:
        return VerdictBox("unbalanced", "Not reachable", (findings.of("association").text,))
    if not findings.usable:
        return VerdictBox("unbalanced", "Reachable, not usable", (f"STUDY level: {findings.of('study').text}",))
    ways = [name for name, question in (("C-GET", "get"), ("C-MOVE", "move")) if findings.of(question).state == YES]
    retrieval = f"An image was retrieved by {' and by '.join(ways)}." if ways else "No image was retrieved."
    keys = [f"{len(findings.keys_with(kind))} {kind}" for kind in (MATCHED, FILTERED, UNDECIDABLE, MISSES, NOT_TESTED)]
    sentences = [f"Studies can be searched for. {retrieval}"]
    if findings.keys:
        counts = ", ".join(text for text in keys if not text.startswith("0 "))
        sentences.append(f"Of {plural(len(findings.keys), 'key')} of a query table: {counts}.")
    well = ways and not findings.keys_with(UNDECIDABLE, MISSES) and findings.of("image").state == YES
    kind, word = ("complete", "Usable") if well else ("incomplete", "Usable, with gaps")
    return VerdictBox(kind, word, tuple(sentences))


class _AnswerLine(NamedTuple):
    """A question and its answer: a word for its badge, the kind of the badge, and the whole fact."""

    label: str
    word: str
    kind: str
    fact: Fact


def _sections(findings: Findings) -> Iterable[tuple[str, list[_AnswerLine]]]:
    """Yield the title of each section, and its answers."""
    for title, questions in QUESTIONS.items():
        asked = [(name, label, findings.facts[name]) for name, label in questions.items() if name in findings.facts]
        if asked:
            yield title, [_answer_line(*one) for one in asked]


def _answer_line(question: str, label: str, fact: Fact) -> _AnswerLine:
    word = _STATE_WORDS.get(question, {}).get(fact.state, fact.state)
    kind = "listed" if fact.state == NO and question in _HARMLESS else _KINDS[fact.state]
    return _AnswerLine(label, word, kind, fact)


def to_html(findings: Findings) -> str:
    """Return the findings as an HTML page."""
    return page(
        "probe/templates/probe.html",
        findings=findings,
        verdict=_verdict_box(findings),
        address=address_of(findings.host, findings.port),
        settings=json.dumps(findings.settings, indent=2, ensure_ascii=False),
        asked=_sections(findings),
        kinds=_KINDS,
    )


def to_text(findings: Findings) -> str:
    """Return the findings as text for a terminal or a log."""
    verdict = _verdict_box(findings)
    lines = [
        f"{findings.pacs}: {verdict.word.lower()}",
        f"{findings.called_aet} at {address_of(findings.host, findings.port)}, called by {findings.calling_aet}; "
        f"{findings.queries} C-FINDs in {findings.seconds:,.1f} s",
        *verdict.sentences,
    ]
    for title, asked in _sections(findings):
        lines += ["", title]
        lines += [_text_line(one.label, one.word, one.fact.text) for one in asked]
    if findings.keys:
        lines += ["", f"Keys of a query table (sample: {findings.sample})"]
        lines += [_text_line(key.keyword, key.verdict, key.text) for key in findings.keys]
    lines += ["", "For the connection", *(_bullet(text) for text in findings.advice)]
    lines += textwrap.indent(json.dumps(findings.settings, indent=2, ensure_ascii=False), "  ").splitlines()
    lines += ["", "To ask the PACS team for", *(_bullet(text) for text in findings.ask_for or ["Nothing."])]
    return "\n".join(lines) + "\n"


def _text_line(label: str, state: str, text: str) -> str:
    head = f"  {label:<32}{state:<15}"
    return textwrap.fill(text, _WIDTH + 20, initial_indent=head, subsequent_indent=" " * len(head))


def _bullet(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
