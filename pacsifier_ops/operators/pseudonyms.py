"""The operators of a pseudonymization."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from pacsifier_ops.base.options import request_of
from pacsifier_ops.base.words import plural
from pacsifier_ops.extract.requests import reading_options, table_path
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.pseudonyms import steps as job
from pacsifier_ops.pseudonyms.run import DEID, PseudonymRequest
from pacsifier_ops.runs.folder import Run

#: Begins the id of the connection whose password is a project's secret, where an administrator keeps it in Airflow.
SECRET_CONNECTION = "pacsifier_project_"


def kept_secret(project: str) -> str:
    """The secret of a project as a connection or secrets backend of Airflow has it; empty where none has.

    The id of a connection cannot hold blanks: a colon, which no project's name has, stands for one.
    """
    try:
        return BaseHook.get_connection(SECRET_CONNECTION + project.replace(" ", ":")).password or ""
    except AirflowNotFoundException:
        return ""


def _source(request: PseudonymRequest, params: Any) -> job.Source:
    if request.source != DEID:
        return job.own_source(request, kept_secret(request.project))
    from pacsifier_ops.hooks.deid_api import DeidApiHook

    return DeidApiHook(params["deid"]).get_conn()


class PseudonymizePrepareOperator(PrepareOperator):
    """Find out whose pseudonyms are wanted, and who of them is linked already."""

    asks = PseudonymRequest
    kept = job.KEPT
    units_of = "patients"

    def request(self, params: Any) -> PseudonymRequest:
        """Whose pseudonyms are wanted, and where they come from."""
        return request_of(
            PseudonymRequest,
            params,
            queryfile=str(table_path(params["queryfile"])) if params["queryfile"] else "",
            allow_empty=self.stage.may_be_empty,  # a night without anything new
            **reading_options(params["queryfile"] or "", params),
        )

    def prepare(self, run: Run, request: PseudonymRequest, params: Any) -> list[int]:
        """See `pseudonyms.steps.prepare`."""
        return job.prepare(run, request, _source(request, params).batch_size, self.cancelled)


class PseudonymizeOperator(UnitOperator):
    """Have the source say who the patients of one batch become, and keep it in the linkage store."""

    ui_color = "#dcefe4"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """How many were asked for, and how many are new."""
        return job.ask(run, _source(PseudonymRequest.of(run), params), self.unit, self.cancelled)

    def labelled(self, run: Run) -> str:
        """How many patients the batch has."""
        return "; ".join(
            f"batch {batch.number}: {plural(len(batch.patients), 'patient')}"
            for batch in job.PseudonymWorker.items(run, self.unit)
        )


class PseudonymizeReportOperator(ReportOperator):
    """Tell who of the cohort is linked now, and write the log beside the linkage store."""

    steps = job
