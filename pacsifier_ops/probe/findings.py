"""What a probe finds out about an archive, and what follows for its connection. No value of any patient is in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pacsifier_ops.base.config import EXTRA_FIELDS, LETTERS_KEPT, LETTERS_LOST, PacsNode
from pacsifier_ops.base.words import listed

#: How a question ended.
YES, NO, PARTLY, NOT_TESTED = "yes", "no", "partly", "not tested"

#: What becomes of a key that a row asks for.
MATCHED = "matched"
FILTERED = "filtered here"
MISSES = "misses"
UNDECIDABLE = "undecidable"

#: Every question, in the order in which a reader wants the answers: section, then id and label.
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
        "kept": "Images as they are stored",
    },
}


@dataclass
class Fact:
    """The answer to one question.

    Attributes:
        state: yes, no, partly or not tested.
        text: the answer in a sentence or two.
        value: what of it a program wants: a number, a name.
    """

    state: str
    text: str
    value: int | float | str | None = None


@dataclass
class KeyFinding:
    """What the archive does with one key of a query table.

    Attributes:
        level: level at which it is asked.
        verdict: matched, filtered here, misses, undecidable or not tested.
        returned: level at which the archive shows its value, or empty.
        matched: whether it matches on it; None: could not be tried.
        text: what it means for a row with this key.
    """

    keyword: str
    level: str
    verdict: str
    returned: str
    matched: bool | None
    text: str


@dataclass
class Findings:
    """All that a probe found out about one archive.

    Attributes:
        pacs: name of the connection or configuration.
        started, seconds: when, and how long it took.
        reachable: an association came about.
        usable: studies can be searched for.
        queries: C-FINDs it took.
        sample: what the answers rest on, in words.
        facts: by the ids of QUESTIONS.
        settings: extra of the connection, as recommended.
        advice: why the settings are what they are.
        ask_for: what to ask the PACS team for.
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
        """The same as plain JSON values."""
        return asdict(self)

    def counts(self) -> dict[str, int]:
        """How many questions, and how many keys, ended how."""
        ends = [fact.state for fact in self.facts.values()] + [f"keys {key.verdict}" for key in self.keys]
        return {end: ends.count(end) for end in sorted(set(ends))}

    def of(self, question: str) -> Fact:
        """The answer to a question; one that was never asked is not tested."""
        return self.facts.get(question, Fact(NOT_TESTED, "not asked"))

    def keys_that(self, *verdicts: str) -> list[str]:
        """Keywords of the keys that ended so."""
        return [key.keyword for key in self.keys if key.verdict in verdicts]


def conclude(findings: Findings, node: PacsNode) -> None:
    """Write settings, advice and what to ask for into the findings."""
    defaults = {f.name: f.default for f in fields(PacsNode)}
    kept = {name: getattr(node, name) for name in EXTRA_FIELDS if getattr(node, name) != defaults[name]}
    findings.settings = {**kept, "called_aet": node.called_aet, "calling_aet": node.calling_aet}
    findings.advice, findings.ask_for = [], []
    if not findings.reachable:
        findings.ask_for.append(f"A working association first. {findings.of('association').text}")
        return
    _method(findings, node)
    _limit(findings)
    _letters(findings)
    if findings.of("availability").value:
        findings.advice.append(
            "recall_wait: left as it is; some series have to be recalled. It should be longer than a recall takes."
        )
    findings.advice.append(
        "batch_size, batch_wait_time, max_associations: left as they are. What the archive bears beside the clinic's "
        "work, its team knows and a probe must not try out."
    )
    findings.ask_for += [*_of_retrieval(findings, node), *_of_queries(findings)]


def _method(findings: Findings, node: PacsNode) -> None:
    get, move = findings.of("get"), findings.of("move")
    if get.state == YES and move.state == YES:
        method, why = "auto", "C-GET and C-MOVE both work; C-GET is taken where it can be."
        if findings.of("sop_classes").state != YES:
            why = "Both work; as the archive does not tell SOP classes, images come by C-MOVE."
    elif get.state == YES:
        method, why = "get", "C-GET works, C-MOVE to us is not proven."
    elif move.state == YES:
        method, why = "move", "C-MOVE to us works, C-GET does not."
    else:
        findings.advice.append("method: left as it is; neither C-GET nor C-MOVE is proven to work.")
        return
    findings.settings["method"] = method
    findings.advice.append(f"method = {method}: {why}")
    if not node.receiver_port:
        findings.advice.append(
            f"receiver_port: not set. C-MOVE needs a port of this machine that the PACS has for AE title "
            f"{node.destination}; set it and probe again."
        )


def _limit(findings: Findings) -> None:
    limit = findings.of("result_limit")
    if limit.state == NO and isinstance(limit.value, int):
        findings.settings["result_limit"] = limit.value
        findings.advice.append(
            f"result_limit = {limit.value}: the archive cuts answers off there without a word; longer ones are then "
            "asked for in parts, by date and time."
        )
    elif limit.state == PARTLY:
        findings.advice.append("result_limit: not needed, the archive says itself when an answer is too long.")
    elif limit.state == YES and findings.settings.pop("result_limit", 0):
        findings.advice.append(f"result_limit: taken away, {limit.text}")


def _letters(findings: Findings) -> None:
    state = findings.of("characters").state
    if state == NO:
        findings.settings["letters"] = LETTERS_LOST
        findings.advice.append(
            f"letters = {LETTERS_LOST}: names in answers lack letters. A row by such a name is undecidable unless it "
            "is typed as stored; PatientID is better."
        )
    elif state == YES:
        findings.settings["letters"] = LETTERS_KEPT
        findings.advice.append(f"letters = {LETTERS_KEPT}: names in answers are taken as they are.")
    else:
        findings.settings.pop("letters", None)


def _of_retrieval(findings: Findings, node: PacsNode) -> Iterable[str]:
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
        yield "Send images in the transfer syntax in which they are stored (no conversion for our AE title)."


def _of_queries(findings: Findings) -> Iterable[str]:
    if not findings.usable:
        yield f"Allow {findings.calling_aet} to query: C-FIND in the Study Root model."
        return
    if lost := findings.keys_that(MISSES):
        yield f"Mend the matching on {listed(lost)}: a value that the archive itself returns finds nothing."
    if unknown := findings.keys_that(UNDECIDABLE):
        yield f"Match on, or at least return, {listed(unknown)}; until then rows with such a key fetch nothing."
    image, count = findings.of("image"), findings.of("count")
    if image.state == NO:
        tells = "" if count.state == YES else " Without it, nobody can tell whether a series came whole."
        yield f"Allow C-FIND at IMAGE level.{tells}"
    elif findings.of("sop_classes").state == NO:
        yield "Return SOPClassUID (0008,0016) at IMAGE level: C-GET has to announce the classes that it takes."
    if findings.of("result_limit").state == NO:
        yield "Raise the limit on the length of answers for our AE title; it works without, with more queries."
    if findings.of("availability").value:
        yield "Tell how long a recall from slow storage takes, and how many at once are welcome."
    if findings.of("characters").state in (NO, PARTLY):
        yield "Answer in UTF-8 (Specific Character Set ISO_IR 192), so that no letter of a name is lost."
