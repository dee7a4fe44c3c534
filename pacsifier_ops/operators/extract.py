"""The operators around those that talk to the PACS: take the table in, plan, report."""

from __future__ import annotations

from typing import Any

from airflow.sdk.bases.branch import BranchMixIn
from airflow.sdk.exceptions import AirflowFailException

from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.base.options import request_of
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.requests import reading_options, table_path
from pacsifier_ops.extract.run import Request
from pacsifier_ops.extract.thumbnails import make_thumbnails
from pacsifier_ops.hooks.constants import ARCHIVES, COMMON_POOL
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


class ExtractPrepareOperator(PrepareOperator):
    """Read and check the whole query table, and make sure that the PACS answers."""

    asks = Request
    kept = steps.KEPT
    units_of = "rows"

    def request(self, params: Any) -> Request:
        """What is wanted of the archive, and where it goes."""
        return request_of(
            Request,
            params,
            queryfile=table_path(params["queryfile"]),
            only=params.get(APPROVED, ""),
            **reading_options(params["queryfile"], params),
        )

    def nodes(self, params: Any) -> list[str]:
        """See `base.connections_of`; what has none runs in the common pool."""
        return connections_of(params) or [COMMON_POOL]

    def prepare(self, run: Run, request: Request, params: Any) -> list[int]:
        """See `extract.steps.prepare`."""
        return steps.prepare(run, request, nodes_of(params), destination=destination_of(params))


class ExtractRouteOperator(PacsifierOperator, BranchMixIn):
    """Where the images go: to the output folder (the task retrieve), or to another node (the task move)."""

    def work(self, run: Run, context: Any) -> None:
        """Skips the task that has nothing to do."""
        group = self.task_id.removesuffix("route")
        self.do_branch(context, group + ("move" if context["params"]["retrieve"] == MOVE else "retrieve"))


class ExtractPlanOperator(PacsifierOperator):
    """Merge what the rows found, stop a cohort that is too large, give folders, cut it into units."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the units."""
        archives = nodes_of(context["params"])
        plan = steps.plan(run, archives)
        self.log.info("%d series, about %d images, in %d unit(s)", plan.series, plan.instances, len(plan.units))
        if len(archives) > 1:
            # For the pools of the tasks that follow: the units of each archive begin at its first one.
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
            except StorageError as error:  # no reason not to give the verdict
                self.log.warning("no thumbnails: %s", error)
        return account

    def judge(self, run: Run) -> None:
        """Fail where the run ended before it had a plan, or the cohort was not approved."""
        if not steps.is_planned(run):
            raise AirflowFailException(
                f"the run ended before anything was fetched; see the steps before, and {run.report}"
            )
        if steps.question(run) is not None:
            raise AirflowFailException("the cohort was not approved, so nothing of it was fetched")
