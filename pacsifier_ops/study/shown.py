"""What the reports of a study and the page of its run show alike: what was decided, and what the last search found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pacsifier_ops.runs.approvals import APPROVED, COHORT, LIMITS, RELEASE, Decision
from pacsifier_ops.runs.html import Html, badge, join, table, tag, when

#: What is decided on, for people.
SUBJECTS = {COHORT: "Retrieval of the cohort", RELEASE: "Release of the data set"}

DECISION_COLUMNS = ("What", "Word", "Who", "When", "On exactly", "Waiver")


def decision_lines(decisions: Iterable[Decision]) -> list[tuple[object, ...]]:
    """Decisions as lines of a table."""
    return [
        (
            SUBJECTS.get(one.subject, one.subject),
            badge(one.word, "good" if one.word == APPROVED else "bad"),
            "the limits given beforehand" if one.who == LIMITS else one.who,
            when(one.when),
            tag("span", one.digest[:16], class_="whole"),
            "yes" if one.waived else "no",
        )
        for one in decisions
    ]


def gate_counts(gate: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """What the search for identifiers found, in counts.

    Args:
        gate: content of the run's gate.json.
    """
    counts = gate.get("counts", {})
    return [
        ("Files searched", gate.get("searched", 0), "contents and names, whatever they are"),
        ("Patients", gate.get("patients", 0), "whose identifiers were searched for"),
        ("Blocking", counts.get("blocking", 0), "certain: nobody can release it"),
        ("To be waived", counts.get("waivable", 0), "may be something else: released with a waiver only"),
    ]


def gate_findings(gate: Mapping[str, Any]) -> Html:
    """The same with the files that were found, at most `gate.MOST` of each kind. Paths may identify."""
    parts = [table("Search", ("What", "Count#", "What it says"), gate_counts(gate))]
    found = [(tag("bdi", path), told, badge("blocking", "bad")) for path, told in gate.get("blocking", ())]
    found += [(tag("bdi", path), told, badge("waiver", "doubt")) for path, told in gate.get("waivable", ())]
    if found:
        parts += [tag("h3", "Findings"), table("Findings", ("File", "What was found", ""), found)]
    return join(parts)
