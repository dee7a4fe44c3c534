"""The operators that ask a person. The decision is kept in the run's folder, and checked by the step that needs it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.param import Param, ParamsDict
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.hitl import HITLUser

from pacsifier_ops.base.errors import ConfigError, NotAllowed
from pacsifier_ops.messages import noticing
from pacsifier_ops.operators.base import PacsifierOperator, boundary, page_of_run, run_of
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.approvals import APPROVE, LONGEST_PATIENCE, LONGEST_REASON, PATIENCE, REASON, REJECT, WAIVE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import expected


@dataclass(frozen=True)
class Question:
    """A question to a person.

    Attributes:
        subject: COHORT or RELEASE, see `approvals`.
        digest: of exactly what is decided on, hexadecimal.
        headline: the question in one line.
        facts: facts for the answer, one line each, in counts only: Airflow keeps them.
        waiver: whether an approval needs a waiver.
        approvers: users who may answer, by name or id; empty: all users whom Airflow allows.
        why_not: returns why a user (name, id) may not approve; empty if they may.
        counts: size of what is decided on, for messages.
    """

    subject: str
    digest: str
    headline: str
    facts: Sequence[str]
    waiver: bool = False
    approvers: Sequence[str] = ()
    why_not: Callable[[str, str], str] = lambda name, user: ""
    counts: Mapping[str, int] = field(default_factory=dict)


def assignees(approvers: Sequence[str]) -> list[HITLUser] | None:
    """Return the users to whom Airflow assigns the question; None: Airflow lets all answer, and we check who did.

    Airflow compares ids. In the simple auth manager these are the names. In others, such as FAB's, they are numbers.
    """
    ids_are_names = conf.get("core", "auth_manager", fallback="").endswith("SimpleAuthManager")
    if not approvers or not (ids_are_names or all(one.isdigit() for one in approvers)):
        return None
    return [HITLUser(id=one, name=one) for one in approvers]


class ApproveOperator(PacsifierOperator, HITLOperator):
    """Ask a person, in the web interface or over the API, if there is a question.

    The task waits without a worker. Without an answer in time, the task fails, and nothing is done.
    """

    template_fields = ()
    ui_color = "#fdf0c8"

    def __init__(self, **kwargs: Any) -> None:
        # No retries: a rejection, or no answer, is not a temporary error. The patience limits the wait for an answer.
        fixed = {"retries": 0, "execution_timeout": None}
        super().__init__(subject="PACSIFIER", options=[APPROVE, WAIVE, REJECT], **{**kwargs, **fixed})
        text = "It is kept with the decision. Airflow keeps it as well: write nothing about patients."
        # The fields of the answer, in place of the params of the DAG, which Airflow hands in. It may stay empty.
        reason = Param(None, text, "task", type=["null", "string"], title="Reason", maxLength=LONGEST_REASON)
        self.params = ParamsDict({REASON: reason})

    @abstractmethod
    def question(self, run: Run, params: Any) -> Question | None:
        """Return the question; None: there is nothing to ask, or the limits of the request decide."""

    def work(self, run: Run, context: Any) -> Any:
        """Ask, and defer until there is an answer."""
        question = self.question(run, params := context["params"])
        if question is None:
            self.log.info("there is nothing to ask")
            return None
        approvals.ask(run, question.subject, question.digest)
        dag_run = context["dag_run"]
        page = page_of_run(dag_run.dag_id, dag_run.run_id)
        self.subject = question.headline
        self.body = "\n".join([*(f"- {line}" for line in question.facts), "", f"[Report and results]({page})"])
        self.assigned_users = assignees(question.approvers)
        self.response_timeout = _patience(params)
        part = f"{self.task_id} {dag_run.clear_number or 0}"
        noticing.asked(run, dag_run.dag_id, dag_run.run_id, part, question.counts, self.response_timeout)
        return HITLOperator.execute(self, context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Keep the answer.

        Raises:
            AirflowFailException: the answer is a rejection or that of somebody who may not approve, nobody answered in
                time, or the digest has changed since.
        """
        run = run_of(context)
        with boundary(run, context):
            return self.keep_answer(*self.staged(run, context), event)

    def keep_answer(self, run: Run, context: Any, event: dict[str, Any]) -> Any:
        """Keep the answer of an event, see `execute_complete`."""
        if event.get("error_type") == "validation":  # the text of the error repeats the reason
            raise AirflowFailException(
                f"the reason is longer than {LONGEST_REASON} characters, or no text, so it does not count; clear this "
                "task to be asked again"
            )
        if "error" in event:
            raise AirflowFailException(
                "nobody answered in time, so nothing was done; clear this task to be asked again"
            )
        question = self.question(run, context["params"])
        if question is None:
            return None
        (word,) = event["chosen_options"]
        approved = word == WAIVE or (word == APPROVE and not question.waiver)
        user = event["responded_by_user"] or {}
        reason = str((event.get("params_input") or {}).get(REASON) or "").strip()[:LONGEST_REASON]
        name, identity = user.get("name") or "unknown", str(user.get("id") or "")
        if word != REJECT and (why := question.why_not(name, identity)):
            raise NotAllowed(f"{why}; clear this task to ask again", by=name, subject=question.subject)
        approvals.decide(
            run,
            question.subject,
            question.digest,
            approvals.APPROVED if approved else approvals.REJECTED,
            who=name,
            waived=word == WAIVE and question.waiver,
            user=identity,
            reason=reason,
        )
        if word == REJECT:
            raise AirflowFailException(f"it was rejected by {name}")
        if not approved:
            raise AirflowFailException(
                f"there are findings that need a waiver; clear this task, and answer {WAIVE!r} or {REJECT!r}"
            )
        self.log.info("approved")
        return {"approved": question.subject}


def _patience(params: Any) -> timedelta:
    """Return the time to wait for an answer.

    Raises:
        ConfigError: it is not a number of hours, or longer than a year.
    """
    hours = params.get("patience") or PATIENCE
    if not isinstance(hours, int | float) or not 0 < hours <= LONGEST_PATIENCE:
        raise ConfigError(f"patience is not a number of hours above 0, at most {LONGEST_PATIENCE:,}, which is a year")
    return timedelta(hours=hours)


class ApproveCohortOperator(ApproveOperator):
    """Ask before a cohort above the limits of its connection is retrieved."""

    def question(self, run: Run, params: Any) -> Question | None:
        """Return the question, with the limits and the sizes above them."""
        from pacsifier_ops.extract import steps

        asked = steps.question(run)
        if asked is None:
            return None
        headline = "May this cohort be retrieved?"
        return Question(approvals.COHORT, asked.digest, headline, asked.sentences, counts=expected(run))
