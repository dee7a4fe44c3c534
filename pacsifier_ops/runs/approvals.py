"""Decisions of people on a run. They are kept in files, so that a later step can check them.

| file in the run's folder     | content                                                  |
|------------------------------|----------------------------------------------------------|
| decisions/<subject>.asked    | digest of the question                                   |
| decisions/<subject>.json     | the last decision                                        |
| decisions/history.jsonl      | every decision, in order                                 |

Anybody can mark a task of Airflow as a success by hand; this makes no decision. A decision is valid only for exactly
what was shown: its digest must be that of the data at hand.

To cancel a run is a decision as well. Its digest is the number of the attempt: a run that is begun again after it was
cancelled goes on. It lies in `cancelled/<run>.json` of the state root: the API server need not write into runs.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pacsifier_ops.base.errors import Cancelled, NotApproved
from pacsifier_ops.base.files import (
    append_jsonl,
    private_folder,
    read_appended,
    read_json,
    storage_errors,
    write_atomic,
    write_json,
)
from pacsifier_ops.runs.folder import Run, now, with_stages
from pacsifier_ops.state import audit

#: Subjects of decisions: the retrieval of a cohort, the release of a data set, and whether the run goes on.
COHORT, RELEASE, RUN = "cohort", "release", "run"

#: Answers to a question, and the field of an answer with what the person writes about it.
APPROVE, WAIVE, REJECT, REASON = "Approve", "Approve and waive", "Reject", "reason"

APPROVED, REJECTED, CANCELLED = "approved", "rejected", "cancelled"

#: Folder of the state root with the cancellations of runs.
CANCELLATIONS = "cancelled"

#: Stands for a person who marked a run in Airflow as ended; Airflow does not say who that was.
IN_AIRFLOW = "somebody in Airflow"

#: Stands for a person in decisions that follow from the limits of the request, without a question.
LIMITS = "limits"

#: Default and maximum of the option patience: hours to wait for an answer. The maximum is a year.
PATIENCE, LONGEST_PATIENCE = 72, 366 * 24

#: Maximum length of the reason of a decision, in characters.
LONGEST_REASON = 500


@dataclass(frozen=True)
class Decision:
    """A decision.

    Attributes:
        subject: COHORT, RELEASE or RUN.
        digest: of exactly what was decided on, hexadecimal; of RUN, the number of the attempt.
        word: APPROVED, REJECTED or CANCELLED.
        who: name of the Airflow user, LIMITS or IN_AIRFLOW.
        when: ISO 8601.
        waived: whether findings that need a waiver were waived.
        user: id of the Airflow user.
        reason: what the person wrote about it; Airflow keeps it as well.
    """

    subject: str
    digest: str
    word: str
    who: str
    when: str
    waived: bool = False
    user: str = ""
    reason: str = ""


def ask(run: Run, subject: str, digest: str) -> None:
    """Keep the digest of a question. Only decisions on this digest can then be kept; an earlier one holds no more.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    with storage_errors("the state root"):
        _path(run, subject).unlink(missing_ok=True)
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
    reason: str = "",
    when: str = "",
) -> Decision:
    """Keep a decision, and return it.

    Args:
        subject, digest, word, who, waived, user, reason: see `Decision`.
        beforehand: nobody was asked: the limits decide, or an earlier decision on the same digest.
        when: the time of that earlier decision; empty: now.

    Raises:
        NotApproved: the question had another digest.
        StorageError: the run's folder cannot be written.
    """
    asked = _path(run, subject).with_suffix(".asked")
    if not beforehand and (not asked.exists() or asked.read_text(encoding="utf-8") != digest):
        raise NotApproved(f"the {subject} has changed since it was asked about; run the step that asks again")
    decision = Decision(subject, digest, word, who, when or now(), waived, user, reason)
    # The plan of a cohort names patients, so its digest is keyed.
    shown = audit.keyed(digest.encode()) if subject == COHORT else digest
    audit.record(word, by=who, run=run.name, subject=subject, digest=shown, waived=waived, beforehand=beforehand)
    with storage_errors("the state root"):
        _append_to_history(run, decision)
        write_json(_path(run, subject), asdict(decision))
    return decision


def _append_to_history(run: Run, decision: Decision) -> None:
    append_jsonl(private_folder(run.folder / "decisions") / "history.jsonl", asdict(decision))


def decision_on(run: Run, subject: str) -> Decision | None:
    """Return the last decision on a subject; None: there is none."""
    return _read(_path(run, subject))


def history(run: Run) -> list[Decision]:
    """Return every decision, in order."""
    made = []
    with suppress(FileNotFoundError, TypeError):
        for line in read_appended(run.folder / "decisions" / "history.jsonl"):
            made.append(Decision(**line))
    present = cancellation(run) if run.whole is run else None
    return [*made, present] if present else made


def approved(run: Run, subject: str, digest: str) -> Decision:
    """Return the approval of a subject.

    Args:
        digest: of the data that is there now.

    Raises:
        NotApproved: nobody decided, the subject was rejected, or the approval was for another digest.
    """
    decision = decision_on(run, subject)
    if decision is None:
        raise NotApproved(
            f"nobody has approved the {subject}; a task that was marked as a success does not count; run the step that "
            "asks"
        )
    if decision.word != APPROVED:
        raise NotApproved(f"the {subject} was rejected")
    if decision.digest != digest:
        raise NotApproved(f"the {subject} has changed since it was approved; run the step that asks again")
    return decision


def cancel(run: Run, attempt: int, who: str, user: str = "") -> Decision:
    """Cancel a run. Its tasks end before the next query or series; the last one closes the account.

    Args:
        attempt: number of the attempt: how often the run was cleared in Airflow.
        who, user: see `Decision`.

    Returns:
        The decision; of a run that was cancelled before, the one of then.

    Raises:
        StorageError: the state root cannot be written.
    """
    before = cancellation(run)
    if before is not None and before.digest == str(attempt):
        return before
    decision = Decision(RUN, str(attempt), CANCELLED, who, now(), user=user)
    with storage_errors("the state root"):
        private_folder(_mark(run).parent)
        write_json(_mark(run), asdict(decision))
    return decision


def cancellation(run: Run) -> Decision | None:
    """Return the decision to cancel a run, or the run that it is a stage of; None: it goes on."""
    return _read(_mark(run))


def begin_again(run: Run, attempt: int) -> None:
    """Let a run go on if it was cancelled in an earlier attempt.

    Raises:
        StorageError: the state root cannot be written.
    """
    decision = cancellation(run)
    if decision is not None and decision.digest != str(attempt):
        with storage_errors("the state root"), suppress(FileNotFoundError):  # another task was faster
            _mark(run).unlink()
            _append_to_history(run.whole, decision)


def forget_cancellation(run: Run) -> None:
    """Forget that a run was cancelled, after its folder is removed: a later one may get the same id.

    Raises:
        StorageError: the state root cannot be written.
    """
    with storage_errors("the state root"):
        _mark(run).unlink(missing_ok=True)


def stop_if_cancelled(run: Run) -> None:
    """Check that a run goes on; called between two queries and between two items of a unit.

    Raises:
        Cancelled: it was cancelled.
    """
    if decision := cancellation(run):
        raise Cancelled(f"the run was cancelled by {decision.who}")


def ended_by(run: Run) -> Decision | None:
    """Return the decision of a person that ended a run before its work was done; None: there is none.

    That is a cancellation, or the rejection of a cohort or a release, of a study also in one of its stages.
    """
    if decision := cancellation(run):
        return decision
    made = (decision_on(part, subject) for part in with_stages(run) for subject in (COHORT, RELEASE))
    return next((decision for decision in made if decision and decision.word == REJECTED), None)


def _path(run: Run, subject: str) -> Path:
    return run.folder / "decisions" / f"{subject}.json"


def _mark(run: Run) -> Path:
    folder = run.whole.folder
    return folder.parent.with_name(CANCELLATIONS) / f"{folder.name}.json"


def _read(path: Path) -> Decision | None:
    try:
        return Decision(**read_json(path))
    except (FileNotFoundError, ValueError, TypeError):
        return None
