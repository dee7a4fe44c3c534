"""A person's word where it counts, kept so that the step which acts on it can make sure of it.

| file                         | what                                                     |
|------------------------------|----------------------------------------------------------|
| decisions/<subject>.asked    | digest of what was asked about                           |
| decisions/<subject>.json     | the decision that was made last                          |
| decisions/history.jsonl      | every decision, in order                                 |

They lie in the run's folder. A task of a graph can be marked a success by hand; that leaves no decision. And a decision
is one on exactly what was shown: when that has changed since, it holds no more.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pacsifier_ops.base.errors import NotApproved
from pacsifier_ops.base.files import (
    private_folder,
    private_handle,
    read_json,
    read_jsonl,
    storage_errors,
    write_atomic,
    write_json,
)
from pacsifier_ops.runs.folder import Run, now

#: What is decided on: the retrieval of a cohort, and the release of a data set.
COHORT, RELEASE = "cohort", "release"

APPROVED, REJECTED = "approved", "rejected"

#: Who decides where nobody was asked: the limits that were given beforehand.
LIMITS = "limits"

#: Hours that an answer is waited for, where the run does not say, and at most: a year.
PATIENCE, LONGEST_PATIENCE = 72, 366 * 24


@dataclass(frozen=True)
class Decision:
    """A decision.

    Attributes:
        subject: COHORT or RELEASE.
        digest: of exactly what was decided on, hexadecimal.
        word: APPROVED or REJECTED.
        who: name of the Airflow user, or LIMITS.
        when: ISO 8601.
        waived: findings that need a waiver were waived.
        user: id of the Airflow user.
    """

    subject: str
    digest: str
    word: str
    who: str
    when: str
    waived: bool = False
    user: str = ""


def ask(run: Run, subject: str, digest: str) -> None:
    """Keep what is asked about; an earlier decision on something else holds no more.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    with storage_errors("the state root"):
        write_atomic(private_folder(run.folder / "decisions") / f"{subject}.asked", digest)


def decide(
    run: Run,
    subject: str,
    digest: str,
    word: str,
    who: str,
    waived: bool = False,
    beforehand: bool = False,
    user: str = "",
) -> Decision:
    """Keep a decision.

    Args:
        beforehand: nobody was asked: limits decide, or what somebody has said of the same before.

    Raises:
        NotApproved: something else was asked about.
        StorageError: the run's folder cannot be written.
    """
    asked = _path(run, subject).with_suffix(".asked")
    if not beforehand and (not asked.exists() or asked.read_text(encoding="utf-8") != digest):
        raise NotApproved(f"the {subject} has changed since it was asked about; run the step that asks again")
    decision = Decision(subject, digest, word, who, now(), waived, user)
    with storage_errors("the state root"):
        folder = private_folder(run.folder / "decisions")
        handle = private_handle(folder / "history.jsonl", os.O_WRONLY | os.O_APPEND)
        with os.fdopen(handle, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(decision)) + "\n")
        write_json(_path(run, subject), asdict(decision))
    return decision


def decision_on(run: Run, subject: str) -> Decision | None:
    """The decision that was made last on a subject; None where there is none."""
    try:
        return Decision(**read_json(_path(run, subject)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def history(run: Run) -> list[Decision]:
    """Every decision that was made, in order."""
    made = []
    with suppress(FileNotFoundError, ValueError, TypeError):  # a kill may have left half a line
        for line in read_jsonl(run.folder / "decisions" / "history.jsonl"):
            made.append(Decision(**line))
    return made


def approved(run: Run, subject: str, digest: str) -> Decision:
    """Make sure that what is about to be done was approved.

    Args:
        digest: of what is there now.

    Raises:
        NotApproved: it was not, or something else was.
    """
    decision = decision_on(run, subject)
    if decision is None:
        raise NotApproved(f"nobody has approved the {subject}, whatever the tasks before say; run the step that asks")
    if decision.word != APPROVED:
        raise NotApproved(f"the {subject} was rejected")
    if decision.digest != digest:
        raise NotApproved(f"the {subject} has changed since it was approved; run the step that asks again")
    return decision


def _path(run: Run, subject: str) -> Path:
    return run.folder / "decisions" / f"{subject}.json"
