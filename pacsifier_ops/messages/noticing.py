"""What happens to a run, as messages. Nothing here fails: a run does not end otherwise because nobody can be told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.base.telling import FAILED, QUESTION, RELEASED
from pacsifier_ops.base.words import moment
from pacsifier_ops.messages import Message
from pacsifier_ops.messages.outbox import keep
from pacsifier_ops.runs.accounts import COMPLETE, UNBALANCED
from pacsifier_ops.runs.folder import Run, dag_run_name, kept_request, now
from pacsifier_ops.runs.job import summary_of


def ended(
    dag_id: str,
    run_id: str,
    attempt: int,
    failed: bool,
    since: dt.datetime | None = None,
    begun: dt.datetime | None = None,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Keep a message on the end of a run. A success without an account, as that of a night, needs none.

    Args:
        attempt: how often the run was cleared.
        failed: whether Airflow says so.
        since: when this attempt began. An account of an earlier one is none.
        begun: when the run was started.
        params: of the run. They hold where it ended before it kept its request.
    """
    summary = _account(dag_id, run_id, since)
    verdict = str(summary.get("verdict", ""))
    if failed and verdict in ("", COMPLETE, UNBALANCED):
        verdict = FAILED
    if verdict:
        request = _request(Run.planned(dag_run_name(dag_id, run_id))) or params or {}
        more = {"counts": summary.get("totals", {}), "begun": begun.isoformat() if begun else ""}
        keep(_message(verdict, dag_id, run_id, str(attempt), request, **more))


def asked(run: Run, dag_id: str, run_id: str, part: str, counts: Mapping[str, int], patience: dt.timedelta) -> None:
    """Keep a message on a question.

    Args:
        run: the run or the stage that asks.
        part: tells the questions of a run apart: its task, a blank, and the number of the attempt.
        patience: time until it expires.
    """
    until = dt.datetime.now().astimezone() + patience
    text = until.isoformat(timespec="seconds")
    keep(_message(QUESTION, dag_id, run_id, part, _request(run), counts=counts, until=text))


def released(run: Run, dag_id: str, run_id: str, attempt: int, counts: Mapping[str, int]) -> None:
    """Keep a message on a release, unless the data set stays as it was."""
    if counts["new"] or counts["stale"]:
        keep(_message(RELEASED, dag_id, run_id, str(attempt), _request(run), counts=counts))


def task_failed(dag_id: str, run_id: str, attempt: int) -> None:
    """Keep a message that a task of a DAG of the user has failed: one of each run, however many tasks fail."""
    keep(_message(FAILED, dag_id, run_id, str(attempt), {}))


def _message(about: str, dag_id: str, run_id: str, part: str, request: Mapping[str, Any], **more: Any) -> Message:
    named = request.get("tell") or ""
    return Message(
        about,
        dag_id,
        run_id,
        part,
        now(),
        project=str(request.get("project") or ""),
        named=", ".join(map(str, named)) if isinstance(named, list) else str(named),
        **more,
    )


def _request(run: Run) -> Mapping[str, Any]:
    """Return the request of the run that this is a stage of, or that of the stage; empty if there is none."""
    return kept_request(run.whole) or kept_request(run)


def _account(dag_id: str, run_id: str, since: dt.datetime | None) -> Mapping[str, Any]:
    with suppress(OSError, ValueError, PacsifierError):
        summary = summary_of(Run.planned(dag_run_name(dag_id, run_id)))
        finished = moment(str(summary.get("finished", "")))
        # The account tells seconds only.
        if finished and (since is None or finished.timestamp() >= int(since.timestamp())):
            return summary
    return {}
