"""The operators of a pseudonymization."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from pacsifier_ops.base.options import request_of
from pacsifier_ops.base.words import plural
from pacsifier_ops.extract.requests import given_table, reading_options
from pacsifier_ops.hooks.databases import fetch_table
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.pseudonyms import steps as job
from pacsifier_ops.pseudonyms.run import DEID, PseudonymRequest
from pacsifier_ops.runs.folder import Run

#: Prefix of the id of a connection whose password is the secret of a project.
SECRET_CONNECTION = "pacsifier_project_"


def secret_of(project: str) -> str:
    """Return the secret of a project from a connection of Airflow or its secrets backend; empty: there is none.

    The id of a connection cannot contain blanks, so a colon stands for a blank. Names of projects have no colons.
    """
    try:
        return BaseHook.get_connection(SECRET_CONNECTION + project.replace(" ", ":")).password or ""
    except AirflowNotFoundException:
        return ""


def _source(request: PseudonymRequest, params: Any) -> job.Source:
    if request.source != DEID:
        return job.own_source(request, secret_of(request.project))
    from pacsifier_ops.hooks.deid_api import DeidApiHook

    return DeidApiHook(params["deid"]).get_conn()


class PseudonymizePrepareOperator(PrepareOperator):
    """Find the patients of the table or the folder, and those of them who are not linked yet."""

    asks = PseudonymRequest
    kept = job.KEPT
    units_of = "patients"

    def request(self, params: Any) -> PseudonymRequest:
        """Return the request of the run."""
        has_table = params["queryfile"] or params["sql_conn"]
        return request_of(
            PseudonymRequest,
            params,
            queryfile=str(given_table(params["queryfile"] or "", params["sql_conn"]) or "") if has_table else "",
            allow_empty=self.stage.may_be_empty,  # in a stage: a night may have nothing new
            **reading_options(params["queryfile"] or "", params),
        )

    def prepare(self, run: Run, request: PseudonymRequest, params: Any) -> list[int]:
        """See `pseudonyms.steps.prepare`."""
        if request.sql_conn:
            request = replace(request, queryfile=str(fetch_table(run, request.sql_conn, request.sql)))
        return job.prepare(run, request, _source(request, params).batch_size, self.cancelled)


class PseudonymizeOperator(UnitOperator):
    """Ask the source for the pseudonyms of one batch of patients, and keep them in the linkage store."""

    ui_color = "#dcefe4"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return the number of patients asked for, and of new ones."""
        return job.ask(run, _source(PseudonymRequest.of(run), params), self.unit, self.cancelled)

    def labelled(self, run: Run) -> str:
        """Return the label of the unit: the number of patients of each batch."""
        return "; ".join(
            f"batch {batch.number}: {plural(len(batch.patients), 'patient')}"
            for batch in job.PseudonymWorker.items(run, self.unit)
        )


class PseudonymizeReportOperator(ReportOperator):
    """Count the linked patients of the cohort, and write the log beside the linkage store."""

    steps = job
