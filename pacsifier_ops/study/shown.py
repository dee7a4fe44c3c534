"""Parts that the reports of a study and the page of its run share: decisions, and findings of the last search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pacsifier_ops.base.words import listed
from pacsifier_ops.runs.approvals import APPROVED, COHORT, LIMITS, RELEASE, RUN, Decision

#: Subjects of decisions, for people.
SUBJECTS = {COHORT: "Retrieval of the cohort", RELEASE: "Release of the data set", RUN: "The run"}


class Decided(NamedTuple):
    """A decision for people. The kind gives the colour of its word."""

    what: str
    word: str
    kind: str
    who: str = ""
    when: str = ""
    digest: str = ""
    waiver: str = ""
    reason: str = ""


class Finding(NamedTuple):
    """A file with a finding of the search. Its path may identify."""

    path: str
    what: str
    word: str
    kind: str


def decided(decisions: Iterable[Decision], asked: Iterable[str] = ()) -> list[Decided]:
    """Return decisions, and after them the subjects of questions that nobody answered.

    Args:
        asked: those subjects.
    """
    lines = [
        Decided(
            SUBJECTS.get(one.subject, one.subject),
            one.word,
            "good" if one.word == APPROVED else "bad",
            "the limits given beforehand" if one.who == LIMITS else one.who,
            one.when,
            *(("", "") if one.subject == RUN else (one.digest[:16], "yes" if one.waived else "no")),
            one.reason,
        )
        for one in decisions
    ]
    return lines + [Decided(SUBJECTS.get(subject, subject), "not answered", "doubt") for subject in asked]


def gate_counts(gate: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Return the findings of the search for identifiers in counts; nothing if it was not done.

    Args:
        gate: content of the run's gate.json.

    Returns:
        Name, number and meaning of each count.
    """
    if not gate:
        return []
    counts = gate.get("counts", {})
    return [
        ("Files searched", gate.get("searched", 0), "contents and names, whatever they are"),
        (
            "Files read",
            gate.get("read", 0),
            "for this search; the others are as they were in an equal search",
        ),
        ("Patients", gate.get("patients", 0), "whose identifiers were searched for"),
        ("Blocking", counts.get("blocking", 0), "certain: nobody can release it"),
        ("To be waived", counts.get("waivable", 0), "may be something else: released with a waiver only"),
    ]


def gate_findings(gate: Mapping[str, Any]) -> list[Finding]:
    """Return the files with findings, at most `gate.MOST` of each kind."""
    found = [Finding(path, what, "blocking", "bad") for path, what in gate.get("blocking", ())]
    return found + [Finding(path, what, "waiver", "doubt") for path, what in gate.get("waivable", ())]


def governed(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return who answers for a project, who may release, and on what ground, as names and values for people.

    Args:
        told: values by name, as of `project.Study.told`.
    """
    shown = {
        "Owners": listed([*told.get("owners", ())]),
        "Approvers": listed([*told.get("approvers", ())]),
        "Ethics": told.get("ethics"),
        "Expires": told.get("expires"),
    }
    return [(name, str(value)) for name, value in shown.items() if value]
