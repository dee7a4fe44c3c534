"""Answers of people: kept with user, time and subject; refused if they do not fit the question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import Cancelled, NotApproved
from pacsifier_ops.base.files import read_json, read_jsonl, write_json
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.approvals import APPROVED, COHORT, LIMITS, REJECTED, RELEASE
from pacsifier_ops.runs.folder import Run, stage_run
from tests.support import airflow_home
from tests.support.airflow_home import Airflow

pytestmark = pytest.mark.airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def answer(run: Run, word: str, waiver: bool = False, digest: str = "d1", reason: Any = "") -> None:
    """Answer the question about `digest`; an AirflowFailException ends the run."""
    from pacsifier_ops.operators.approval import ApproveOperator, Question

    class Asking(ApproveOperator):
        """Return a question."""

        def question(self, run: Run, params: Any) -> Question:
            return Question(RELEASE, digest, "May it?", ["1 file"], waiver)

    event = {"chosen_options": [word], "responded_by_user": {"id": "1", "name": "Dr. Somebody"}}
    event["params_input"] = {"reason": reason}
    Asking(task_id="approve").keep_answer(run, {"params": {}}, event)


def test_an_answer_is_kept_and_is_valid_only_for_what_was_shown(airflow: Airflow) -> None:
    run = Run.fresh()
    with pytest.raises(NotApproved, match="nobody has approved the release"):
        approvals.approved(run, RELEASE, "d1")
    approvals.ask(run, RELEASE, "d1")
    answer(run, "Approve")
    decision = approvals.approved(run, RELEASE, "d1")
    assert (decision.who, decision.word, decision.waived) == ("Dr. Somebody", APPROVED, False)
    with pytest.raises(NotApproved, match="has changed since it was approved"):
        approvals.approved(run, RELEASE, "d2")
    with pytest.raises(NotApproved, match="has changed since it was asked about"):
        answer(run, "Approve", digest="d2")


def test_a_rejection_is_kept_and_may_be_followed_by_an_approval(airflow: Airflow) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    run = Run.fresh()
    approvals.ask(run, RELEASE, "d1")
    with pytest.raises(AirflowFailException, match="rejected"):
        answer(run, "Reject")
    with pytest.raises(NotApproved, match="was rejected"):
        approvals.approved(run, RELEASE, "d1")
    answer(run, "Approve")
    words = [item["word"] for item in read_jsonl(run.folder / "decisions" / "history.jsonl")]
    assert words == [REJECTED, APPROVED] and approvals.approved(run, RELEASE, "d1")


def test_a_reason_that_does_not_fit_is_told_and_not_repeated(airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    from types import SimpleNamespace
    from uuid import uuid4

    from airflow.providers.standard.triggers import hitl
    from airflow.sdk.exceptions import AirflowFailException

    from pacsifier_ops.operators.approval import ApproveOperator

    class Asking(ApproveOperator):
        """Asks nothing here."""

        def question(self, run: Run, params: Any) -> None:
            return None

    operator = Asking(task_id="approve")
    answered = SimpleNamespace(
        response_received=True, chosen_options=["Approve"], params_input={"reason": "Kunigunde" * 100}
    )
    monkeypatch.setattr(hitl, "get_hitl_detail_content_detail", lambda ti_id: answered)
    trigger = hitl.HITLTrigger(
        ti_id=uuid4(), options=operator.options, params=operator.serialized_params, timeout_datetime=None
    )
    event = asyncio.run(trigger._handle_response()).payload
    with pytest.raises(AirflowFailException, match="the reason is longer than 500 characters") as caught:
        operator.keep_answer(Run.fresh(), {"params": {}}, event)
    assert "Kunigunde" not in str(caught.value)
    with pytest.raises(AirflowFailException, match="nobody answered in time"):
        operator.keep_answer(Run.fresh(), {"params": {}}, {"error": "late", "error_type": "timeout"})


def test_findings_that_need_a_waiver_are_not_approved_without_one(airflow: Airflow) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    run = Run.fresh()
    approvals.ask(run, RELEASE, "d1")
    with pytest.raises(AirflowFailException, match="need a waiver"):
        answer(run, "Approve", waiver=True)
    with pytest.raises(NotApproved):
        approvals.approved(run, RELEASE, "d1")
    answer(run, "Approve and waive", waiver=True)
    assert approvals.approved(run, RELEASE, "d1").waived


@pytest.mark.parametrize(
    ("given", "kept"), [(None, ""), ("", ""), (" as agreed\n", "as agreed"), ("x" * 600, "x" * 500)]
)
def test_the_reason_of_an_answer_is_kept(airflow: Airflow, given: str | None, kept: str) -> None:
    run = Run.fresh()
    approvals.ask(run, RELEASE, "d1")
    answer(run, "Approve", reason=given)
    assert approvals.approved(run, RELEASE, "d1").reason == kept
    assert approvals.history(run)[-1].reason == kept


def test_a_decision_of_an_earlier_version_has_no_reason(airflow: Airflow) -> None:
    run = Run.fresh()
    approvals.decide(run, RELEASE, "d1", APPROVED, LIMITS, beforehand=True)
    path = run.folder / "decisions" / "release.json"
    write_json(path, {name: value for name, value in read_json(path).items() if name != "reason"})
    assert approvals.approved(run, RELEASE, "d1").reason == ""


def test_limits_decide_without_a_question(airflow: Airflow) -> None:
    run = Run.fresh()
    with pytest.raises(NotApproved):
        approvals.decide(run, RELEASE, "d1", APPROVED, "somebody")
    approvals.decide(run, RELEASE, "d1", APPROVED, LIMITS, beforehand=True)
    assert approvals.approved(run, RELEASE, "d1").who == LIMITS


def test_a_run_is_cancelled_once_until_it_is_begun_again(airflow: Airflow) -> None:
    study = Run.fresh()
    stage = stage_run(study, "extract")
    approvals.stop_if_cancelled(stage)
    first = approvals.cancel(study, 0, "somebody")
    assert approvals.cancel(study, 0, "somebody else") == first
    assert approvals.ended_by(study) == approvals.ended_by(stage) == first
    with pytest.raises(Cancelled, match="the run was cancelled by somebody"):
        approvals.stop_if_cancelled(stage)
    approvals.begin_again(study, 0)  # the same attempt
    assert approvals.cancellation(stage) == first
    approvals.begin_again(study, 1)
    assert approvals.cancellation(stage) is None and approvals.ended_by(study) is None
    assert approvals.cancel(study, 1, "somebody else").who == "somebody else"
    assert [one.who for one in approvals.history(study)] == ["somebody", "somebody else"]
    assert approvals.history(stage) == []


def test_a_rejection_in_a_stage_ends_the_study_until_it_is_asked_again(airflow: Airflow) -> None:
    study = Run.fresh()
    stage = stage_run(study, "extract")
    write_json(stage.folder / "request.json", {})
    approvals.ask(stage, COHORT, "d1")
    decision = approvals.decide(stage, COHORT, "d1", REJECTED, "somebody")
    assert approvals.ended_by(study) == approvals.ended_by(stage) == decision
    approvals.ask(stage, COHORT, "d1")
    assert approvals.ended_by(study) is None and approvals.history(stage) == [decision]
