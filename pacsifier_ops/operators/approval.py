"""The operators that ask a person. What was decided is kept in the run's folder, where the step that acts looks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.hitl import HITLUser

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.operators.base import PacsifierOperator, boundary, page_of_run, run_of
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.approvals import LONGEST_PATIENCE, PATIENCE
from pacsifier_ops.runs.folder import Run

APPROVE, WAIVE, REJECT = "Approve", "Approve and waive", "Reject"


@dataclass(frozen=True)
class Question:
    """What a person is asked.

    Attributes:
        subject: see `approvals`.
        digest: of exactly what is decided on.
        headline: what it is about, in a line.
        told: what there is to know, a line each, in counts only: Airflow keeps it.
        waiver: approving takes a waiver.
        approvers: users who may answer, by name or id; empty: all whom Airflow lets.
        why_not: why a user of a name and an id may not approve; empty where they may.
    """

    subject: str
    digest: str
    headline: str
    told: Sequence[str]
    waiver: bool = False
    approvers: Sequence[str] = ()
    why_not: Callable[[str, str], str] = lambda name, user: ""


def assigned(approvers: Sequence[str]) -> list[HITLUser] | None:
    """The users to whom Airflow is to give the question; None where it cannot tell them, and we look at who answers.

    Airflow compares ids. In the simple auth manager these are the names; in others, such as FAB's, they are numbers.
    """
    named = conf.get("core", "auth_manager", fallback="").endswith("SimpleAuthManager")
    if not approvers or not (named or all(one.isdigit() for one in approvers)):
        return None
    return [HITLUser(id=one, name=one) for one in approvers]


class ApproveOperator(PacsifierOperator, HITLOperator):
    """Ask a person, in the web interface or over the API, unless there is nothing to ask.

    The task waits without a worker. No answer in time is none: the run ends there, and nothing is done.
    """

    template_fields = ()
    ui_color = "#fdf0c8"

    def __init__(self, **kwargs: Any) -> None:
        # Asked once: a rejection, or no answer, is no error that passes by itself.
        super().__init__(subject="PACSIFIER", options=[APPROVE, WAIVE, REJECT], **{**kwargs, "retries": 0})

    @abstractmethod
    def question(self, run: Run, params: Any) -> Question | None:
        """What is to be asked; None where nothing is, or limits that were given beforehand decide."""

    def work(self, run: Run, context: Any) -> Any:
        """Ask, and wait."""
        question = self.question(run, params := context["params"])
        if question is None:
            self.log.info("nobody needs to be asked")
            return None
        approvals.ask(run, question.subject, question.digest)
        page = page_of_run(context["dag_run"].dag_id, context["dag_run"].run_id)
        self.subject = question.headline
        self.body = "\n".join([*(f"- {line}" for line in question.told), "", f"[Report and results]({page})"])
        self.assigned_users = assigned(question.approvers)
        self.response_timeout = _patience(params)
        return HITLOperator.execute(self, context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Keep the answer.

        Raises:
            AirflowFailException: it was rejected, nobody answered in time, or what was asked about has changed since.
        """
        run = run_of(context)
        with boundary(run):
            return self.answered(*self.staged(run, context), event)

    def answered(self, run: Run, context: Any, event: dict[str, Any]) -> Any:
        """See `execute_complete`."""
        if "error" in event:
            raise AirflowFailException(
                "nobody answered in time, so nothing was done; clear this task to be asked again"
            )
        question = self.question(run, context["params"])
        if question is None:
            return None
        (word,) = event["chosen_options"]
        good = word == WAIVE or (word == APPROVE and not question.waiver)
        user = event["responded_by_user"] or {}
        name, identity = user.get("name") or "unknown", str(user.get("id") or "")
        if word != REJECT and (why := question.why_not(name, identity)):
            raise AirflowFailException(f"{why}; clear this task to ask again")
        approvals.decide(
            run,
            question.subject,
            question.digest,
            approvals.APPROVED if good else approvals.REJECTED,
            who=name,
            waived=word == WAIVE and question.waiver,
            user=identity,
        )
        if word == REJECT:
            raise AirflowFailException("it was rejected")
        if not good:
            raise AirflowFailException(
                f"there are findings that take a waiver; clear this task, and answer {WAIVE!r} or {REJECT!r}"
            )
        self.log.info("approved")
        return {"approved": question.subject}


def _patience(params: Any) -> timedelta:
    """How long an answer is waited for.

    Raises:
        ConfigError: it is no number of hours, or beyond all measure.
    """
    hours = params.get("patience") or PATIENCE
    if not isinstance(hours, int | float) or not 0 < hours <= LONGEST_PATIENCE:
        raise ConfigError(f"patience is not a number of hours above 0, at most {LONGEST_PATIENCE:,}, which is a year")
    return timedelta(hours=hours)


class ApproveCohortOperator(ApproveOperator):
    """Ask before a cohort is fetched that is larger than its connection allows without a person's word."""

    def question(self, run: Run, params: Any) -> Question | None:
        """What exceeds which limit."""
        from pacsifier_ops.extract import steps

        asked = steps.question(run)
        if asked is None:
            return None
        return Question(approvals.COHORT, asked.digest, "May this cohort be retrieved?", asked.sentences)
