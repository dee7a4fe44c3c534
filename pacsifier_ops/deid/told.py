"""The public reason why an object is missing from a de-identified data set. It comes from a fixed list.

The run's folder keeps the full reason. The full reason names attributes. A reader of the data set could infer their
values from it: *PatientID found in SeriesNumber*, beside a folder whose name begins with that number, reveals the
PatientID. So the files that accompany the data set give only the name of a rule, or one of the reasons below. They
reveal nothing of the source.
"""

from __future__ import annotations

from pacsifier_ops.deid.run import DEIDENTIFIED, EXCLUDED, QUARANTINED

BY_RULE = "left out by a rule of the profile"
STILL_IDENTIFIES = "after de-identification it might still have told who it is"
PIXELS = "its pixels could not be blacked out"
WRITING = "writing may be left in its pixels"
UNASSIGNED = "it could not be said for certain whose it is"
NOT_LINKED = "its patient has no pseudonym"
UNFIT = "it could not be read, or not with certainty"

#: The beginning of each reason of a run, and the public reason that replaces it.
_PUBLIC_REASONS = {
    "the result still tells": STILL_IDENTIFIES,
    "the pixels cannot be blacked out": PIXELS,
    "what the device catalogue leaves of the image may hold writing": WRITING,
    "its patient has no pseudonym": NOT_LINKED,
    "it has no PatientID": UNASSIGNED,
    "it has several values in PatientID": UNASSIGNED,
    "its PatientID or its UIDs are read in two ways": UNASSIGNED,
    "another file has the same SOP Instance UID": UNASSIGNED,
    "it is of another patient": UNASSIGNED,
}


def public_reason(outcome: str, reason: str) -> tuple[str, str]:
    """Return the name of the rule and the reason that may be published for an object.

    Args:
        outcome: final state of the object, as `deid.run` names it.
        reason: full reason, as the run's folder keeps it.

    Returns:
        Rule name and public reason. The rule name is empty where no rule decided. Both are empty for an object that was
            de-identified.
    """
    from pacsifier_ops.deid.exclusion import RULES

    if outcome == DEIDENTIFIED:
        return "", ""
    if outcome in (EXCLUDED, QUARANTINED) and reason in {rule.name for rule in RULES}:
        return reason, BY_RULE
    if outcome == EXCLUDED:
        return "", BY_RULE
    return "", next((text for begin, text in _PUBLIC_REASONS.items() if reason.startswith(begin)), UNFIT)
