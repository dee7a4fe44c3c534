"""What the reports of a study and the page of its run show alike: what was decided, and what the last search found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pacsifier_ops.runs.approvals import APPROVED, COHORT, LIMITS, RELEASE, Decision

#: What is decided on, for people.
SUBJECTS = {COHORT: "Retrieval of the cohort", RELEASE: "Release of the data set"}


class Decided(NamedTuple):
    """A decision for people; the kind gives the colour of its word."""

    what: str
    word: str
    kind: str
    who: str = ""
    when: str = ""
    digest: str = ""
    waiver: str = ""


class Finding(NamedTuple):
    """A file that the search has found; its path may identify."""

    path: str
    told: str
    word: str
    kind: str


def decided(decisions: Iterable[Decision], asked: Iterable[str] = ()) -> list[Decided]:
    """Decisions, and after them the subjects that were `asked` about in vain."""
    lines = [
        Decided(
            SUBJECTS.get(one.subject, one.subject),
            one.word,
            "good" if one.word == APPROVED else "bad",
            "the limits given beforehand" if one.who == LIMITS else one.who,
            one.when,
            one.digest[:16],
            "yes" if one.waived else "no",
        )
        for one in decisions
    ]
    return lines + [Decided(SUBJECTS.get(subject, subject), "not answered", "doubt") for subject in asked]


def gate_counts(gate: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """What the search for identifiers found, in counts; nothing where it was not done.

    Args:
        gate: content of the run's gate.json.
    """
    if not gate:
        return []
    counts = gate.get("counts", {})
    return [
        ("Files searched", gate.get("searched", 0), "contents and names, whatever they are"),
        ("Patients", gate.get("patients", 0), "whose identifiers were searched for"),
        ("Blocking", counts.get("blocking", 0), "certain: nobody can release it"),
        ("To be waived", counts.get("waivable", 0), "may be something else: released with a waiver only"),
    ]


def gate_findings(gate: Mapping[str, Any]) -> list[Finding]:
    """The files that it found, at most `gate.MOST` of each kind."""
    found = [Finding(path, told, "blocking", "bad") for path, told in gate.get("blocking", ())]
    return found + [Finding(path, told, "waiver", "doubt") for path, told in gate.get("waivable", ())]
