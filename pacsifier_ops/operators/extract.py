"""The operators of an extraction that do not retrieve: prepare, route, plan, report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airflow.sdk.bases.branch import BranchMixIn
from airflow.sdk.exceptions import AirflowFailException

from pacsifier_ops.base.config import with_givers
from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.base.options import request_of
from pacsifier_ops.base.rights import IDENTIFIED, SEND, TAKE
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.requests import given_table, reading_options
from pacsifier_ops.extract.run import Request
from pacsifier_ops.extract.thumbnails import make_thumbnails
from pacsifier_ops.hooks.constants import ARCHIVES, COMMON_POOL, ITEMS, URGENCY
from pacsifier_ops.hooks.databases import fetch_table
from pacsifier_ops.operators.base import (
    APPROVED,
    PacsifierOperator,
    PrepareOperator,
    ReportOperator,
    connections_of,
    destination_of,
    nodes_of,
)
from pacsifier_ops.runs.accounts import MOVE, SAVE, RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.people import Need, urgency_needs


class ExtractPrepareOperator(PrepareOperator):
    """Read and check the whole query table, and check that the PACS answers."""

    asks = Request
    kept = steps.KEPT
    units_of = "rows"

    def request(self, params: Any) -> Request:
        """Return the request of the run."""
        return request_of(
            Request,
            params,
            queryfile=given_table(params["queryfile"] or "", params["sql_conn"]) or "",
            only=params.get(APPROVED, ""),
            **reading_options(params["queryfile"] or "", params),
        )

    def nodes(self, params: Any) -> list[str]:
        """Return the connections for the pools of the tasks; the common pool without a connection."""
        return connections_of(params) or [COMMON_POOL]

    def needs(self, request: Request, params: Any) -> list[Need]:
        """Return the rights that the run needs. What a study retrieves stays in its own folder until its release."""
        archives, destination = with_givers(nodes_of(params)), destination_of(params)
        needs = [(TAKE, node) for node in archives] + urgency_needs(params.get(URGENCY), archives)
        if destination is not None:
            needs += [(SEND, destination)]
        if params["retrieve"] == MOVE or not self.stage.is_of_study:
            needs += [(IDENTIFIED, node) for node in (*archives, destination) if node is not None]
        return needs

    def prepare(self, run: Run, request: Request, params: Any) -> list[int]:
        """See `extract.steps.prepare`."""
        if request.sql_conn:
            request = replace(request, queryfile=fetch_table(run, request.sql_conn, request.sql))
        return steps.prepare(run, request, nodes_of(params), destination=destination_of(params))


class ExtractRouteOperator(PacsifierOperator, BranchMixIn):
    """Skip the task retrieve if images go to another node, else the task move."""

    def work(self, run: Run, context: Any) -> None:
        """Skip the task that has nothing to do."""
        group = self.task_id.removesuffix("route")
        self.do_branch(context, group + ("move" if context["params"]["retrieve"] == MOVE else "retrieve"))


class ExtractPlanOperator(PacsifierOperator):
    """Merge the series of all rows, stop a cohort that is too large, name the folders, and divide it into units."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Return the numbers of the units."""
        archives = nodes_of(context["params"])
        plan = steps.plan(run, archives)
        self.log.info("%d series, about %d images, in %d unit(s)", plan.series, plan.instances, len(plan.units))
        context["ti"].xcom_push(ITEMS, -(-plan.series // max(1, len(plan.units))))
        if len(archives) > 1:
            # The cluster policy chooses the pools of the next tasks by the first unit of each archive.
            context["ti"].xcom_push(ARCHIVES, {name: units[0] for name, units in plan.units_of.items()})
        return plan.units


class ExtractReportOperator(ReportOperator):
    """Write log, report and thumbnails."""

    result = "out_directory"

    def close(self, run: Run, params: Any) -> RunAccount:
        """See `extract.steps.report`."""
        account = steps.report(run)
        if account.action == SAVE:
            try:
                self.log.info("%d thumbnail(s)", make_thumbnails(run, account))
            except StorageError as error:  # the run does not need thumbnails
                self.log.warning("no thumbnails: %s", error)
        return account

    def judge(self, run: Run) -> None:
        """Fail if the run ended before it had a plan, or the cohort was not approved."""
        if not steps.is_planned(run):
            raise AirflowFailException(
                f"the run ended before anything was fetched; see the steps before, and {run.report}"
            )
        if steps.question(run) is not None:
            raise AirflowFailException("the cohort was not approved, so nothing of it was fetched")
