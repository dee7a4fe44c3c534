"""The findings of a probe about an archive, and the settings that follow from them; without values of patients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pacsifier_ops.base.config import EXTRA_FIELDS, LETTERS_KEPT, LETTERS_LOST, PacsNode
from pacsifier_ops.base.words import listed

#: States of a question.
YES, NO, PARTLY, NOT_TESTED = "yes", "no", "partly", "not tested"

#: Verdicts on a key. The archive matches on it; or it is compared here with the values that the archive returns.
MATCHED, FILTERED = "matched", "filtered here"
#: A value that the archive returned finds nothing; or the archive neither matches on the key nor returns it.
MISSES, UNDECIDABLE = "misses", "undecidable"

#: All questions in the order of the page: their labels by section and id.
QUESTIONS: dict[str, dict[str, str]] = {
    "Connection": {
        "association": "Association",
        "echo": "C-ECHO",
        "services": "Services accepted",
        "peer": "The other side",
        "latency": "Latency",
    },
    "Queries": {
        "study": "STUDY level",
        "series": "SERIES level",
        "image": "IMAGE level",
        "series_alone": "SERIES without the study's UID",
        "image_alone": "IMAGE without the UIDs above",
        "relational": "Relational queries",
        "result_limit": "Longest answer",
        "count": "Number of instances of a series",
        "sop_classes": "SOP classes of a series",
        "availability": "Slow storage",
        "characters": "Character sets",
    },
    "Retrieval": {
        "get": "C-GET",
        "move": "C-MOVE to us",
        "kept": "Transfer syntax unchanged",
    },
}


@dataclass
class Fact:
    """The answer to one question.

    Attributes:
        state: one of YES, NO, PARTLY and NOT_TESTED.
        text: the answer in one or two sentences.
        value: the answer for programs, such as a number or a name; None if there is none.
    """

    state: str
    text: str
    value: int | float | str | None = None


@dataclass
class KeyFinding:
    """What the archive does with one key of a query table.

    Attributes:
        keyword: its keyword.
        level: query level at which it is used.
        verdict: one of MATCHED, FILTERED, MISSES, UNDECIDABLE and NOT_TESTED.
        returned: query level at which the archive returns its value, or empty.
        matched: whether the archive matches on it; None: unknown.
        text: what this means for a row with this key.
    """

    keyword: str
    level: str
    verdict: str
    returned: str
    matched: bool | None
    text: str


@dataclass
class Findings:
    """All findings of a probe about one archive.

    Attributes:
        pacs: name of the connection or configuration.
        host, port, called_aet, calling_aet: address and AE titles.
        started: time of the start, ISO 8601.
        seconds: duration.
        reachable: whether an association was accepted.
        usable: whether studies can be searched for.
        queries: number of C-FIND requests.
        sample: the studies, series and images on which the answers are based, in words.
        facts: the answers by the ids of QUESTIONS.
        keys: the findings about keys of a query table.
        settings: recommended extra of the connection.
        advice: reasons for the settings, in sentences.
        ask_for: what to ask the PACS team for, in sentences.
    """

    pacs: str
    host: str
    port: int
    called_aet: str
    calling_aet: str
    started: str = ""
    seconds: float = 0.0
    reachable: bool = False
    usable: bool = False
    queries: int = 0
    sample: str = ""
    facts: dict[str, Fact] = field(default_factory=dict)
    keys: list[KeyFinding] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)
    ask_for: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the findings as plain JSON values."""
        return asdict(self)

    def counts(self) -> dict[str, int]:
        """Return the number of questions in each state, and of keys with each verdict."""
        ends = [fact.state for fact in self.facts.values()] + [f"keys {key.verdict}" for key in self.keys]
        return {end: ends.count(end) for end in sorted(set(ends))}

    def of(self, question: str) -> Fact:
        """Return the answer to a question; NOT_TESTED if it was not asked."""
        return self.facts.get(question, Fact(NOT_TESTED, "not asked"))

    def keys_with(self, *verdicts: str) -> list[str]:
        """Return the keywords of the keys with one of these verdicts."""
        return [key.keyword for key in self.keys if key.verdict in verdicts]


def conclude(findings: Findings, node: PacsNode) -> None:
    """Write settings, advice and what to ask for into the findings.

    Args:
        findings: the findings, with all facts.
        node: the archive with its present settings.
    """
    defaults = {f.name: f.default for f in fields(PacsNode)}
    kept = {name: getattr(node, name) for name in EXTRA_FIELDS if getattr(node, name) != defaults[name]}
    findings.settings = {**kept, "called_aet": node.called_aet, "calling_aet": node.calling_aet}
    findings.advice, findings.ask_for = [], []
    if not findings.reachable:
        findings.ask_for.append(f"A working association first. {findings.of('association').text}")
        return
    _recommend_method(findings, node)
    _recommend_limit(findings)
    _recommend_letters(findings)
    if findings.of("availability").value:
        findings.advice.append(
            "recall_wait: unchanged; some series have to be recalled. It should be longer than a recall takes."
        )
    findings.advice.append(
        "batch_size, batch_wait_time, max_associations: unchanged. The PACS team knows how much load the archive can "
        "take beside the clinic's work; a probe must not try it."
    )
    findings.ask_for += [*_retrieval_requests(findings, node), *_query_requests(findings)]


def _recommend_method(findings: Findings, node: PacsNode) -> None:
    get, move = findings.of("get"), findings.of("move")
    if get.state == YES and move.state == YES:
        method, why = "auto", "C-GET and C-MOVE both work; C-GET is used where possible."
        if findings.of("sop_classes").state != YES:
            why = "Both work; as the archive does not return SOP classes, images come by C-MOVE."
    elif get.state == YES:
        method, why = "get", "C-GET works; C-MOVE to us was not successful or not tested."
    elif move.state == YES:
        method, why = "move", "C-MOVE to us works; C-GET was not successful or not tested."
    else:
        findings.advice.append("method: unchanged; neither C-GET nor C-MOVE was successful.")
        return
    findings.settings["method"] = method
    findings.advice.append(f"method = {method}: {why}")
    if not node.receiver_port:
        findings.advice.append(
            f"receiver_port: not set. C-MOVE needs a port of this machine that the PACS has for AE title "
            f"{node.destination}; set it and probe again."
        )


def _recommend_limit(findings: Findings) -> None:
    limit = findings.of("result_limit")
    if limit.state == NO and isinstance(limit.value, int):
        findings.settings["result_limit"] = limit.value
        findings.advice.append(
            f"result_limit = {limit.value}: the archive cuts longer answers off with status success; such queries are "
            "then split by date and time."
        )
    elif limit.state == PARTLY:
        findings.advice.append("result_limit: not needed; the archive refuses too long answers with a status.")
    elif limit.state == YES and findings.settings.pop("result_limit", 0):
        findings.advice.append(f"result_limit: removed; {limit.text}")


def _recommend_letters(findings: Findings) -> None:
    state = findings.of("characters").state
    if state == NO:
        findings.settings["letters"] = LETTERS_LOST
        findings.advice.append(
            f"letters = {LETTERS_LOST}: names in responses lack letters. A row with such a name is undecidable unless "
            "the name is written as it is stored; use PatientID instead."
        )
    elif state == YES:
        findings.settings["letters"] = LETTERS_KEPT
        findings.advice.append(f"letters = {LETTERS_KEPT}: no name in a response was found to lack letters.")
    else:
        findings.settings.pop("letters", None)


def _retrieval_requests(findings: Findings, node: PacsNode) -> Iterable[str]:
    get, move = findings.of("get"), findings.of("move")
    declare = (
        f"Declare AE title {node.destination} as a C-MOVE destination, with the address of this machine and port "
        f"{node.receiver_port or '(one that you agree on: receiver_port)'}, and let the firewall pass it."
    )
    if get.state != YES and move.state != YES:
        yield f"Allow {node.calling_aet} to retrieve: by C-GET, or by C-MOVE to itself."
        yield declare
    elif move.state == NO:
        yield declare
    elif move.state == NOT_TESTED and not node.receiver_port:
        yield f"If C-MOVE is wanted beside C-GET: {declare[0].lower()}{declare[1:]}"
    if findings.of("kept").state == NO:
        yield "Send images in the transfer syntax in which they are stored, without conversion for our AE title."


def _query_requests(findings: Findings) -> Iterable[str]:
    if not findings.usable:
        yield f"Allow {findings.calling_aet} to query: C-FIND in the Study Root model."
        return
    if lost := findings.keys_with(MISSES):
        yield f"Correct the matching on {listed(lost)}: a value that the archive itself returns finds nothing."
    if unknown := findings.keys_with(UNDECIDABLE):
        yield f"Match on, or at least return, {listed(unknown)}; until then rows with such a key are undecidable."
    image, count = findings.of("image"), findings.of("count")
    if image.state == NO:
        reason = "" if count.state == YES else " Without it, the completeness of a series cannot be checked."
        yield f"Allow C-FIND at IMAGE level.{reason}"
    elif findings.of("sop_classes").state == NO:
        yield "Return SOPClassUID (0008,0016) at IMAGE level: C-GET must propose a context for each SOP class."
    if findings.of("result_limit").state == NO:
        yield "Raise the limit on the number of matches for our AE title; otherwise more queries are needed."
    if findings.of("availability").value:
        yield "Tell us how long a recall from slow storage takes, and how many recalls are allowed at once."
    if findings.of("characters").state in (NO, PARTLY):
        yield "Answer in UTF-8 (Specific Character Set ISO_IR 192), so that no letter of a name is lost."
