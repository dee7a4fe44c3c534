"""What may be told of an object that is not in the data set, by whatever goes with that: from a fixed list.

Why an object was set apart is kept in full in the run's folder. That names attributes, and whoever has the data set
could work out from it what they held: *PatientID found in SeriesNumber* beside a folder that begins with that number.
So what goes with the data says a rule by its name, or one of the reasons below, and nothing of the source.
"""

from __future__ import annotations

from pacsifier_ops.deid.run import DEIDENTIFIED, EXCLUDED, QUARANTINED

BY_RULE = "left out by a rule of the profile"
STILL_TELLS = "after de-identification it might still have told who it is"
PIXELS = "its pixels could not be blacked out"
WRITING = "writing may be left in its pixels"
NOBODYS = "it could not be said for certain whose it is"
NOT_LINKED = "its patient has no pseudonym"
UNFIT = "it could not be read, or not with certainty"

#: How the reasons of a run begin, and what is told of them.
_TOLD = {
    "the result still tells": STILL_TELLS,
    "the pixels cannot be blacked out": PIXELS,
    "what the device catalogue leaves of the image may hold writing": WRITING,
    "its patient has no pseudonym": NOT_LINKED,
    "it has no PatientID": NOBODYS,
    "it has several values in PatientID": NOBODYS,
    "its PatientID or its UIDs are read in two ways": NOBODYS,
    "another file has the same SOP Instance UID": NOBODYS,
    "it is of another patient": NOBODYS,
}


def told(outcome: str, reason: str) -> tuple[str, str]:
    """The rule, empty where it was none, and the reason that may be told of an object.

    Args:
        outcome: what became of it.
        reason: as the run keeps it.
    """
    from pacsifier_ops.deid.exclusion import RULES

    if outcome == DEIDENTIFIED:
        return "", ""
    if outcome in (EXCLUDED, QUARANTINED) and reason in {rule.name for rule in RULES}:
        return reason, BY_RULE
    if outcome == EXCLUDED:
        return "", BY_RULE
    return "", next((text for begin, text in _TOLD.items() if reason.startswith(begin)), UNFIT)
