"""The operators of a pseudonymization."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

from pacsifier_ops.base.options import request_of
from pacsifier_ops.extract.requests import options_of, resolve
from pacsifier_ops.operators.base import MappedOperator, PacsifierOperator
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.pseudonyms import steps
from pacsifier_ops.pseudonyms.run import DEID, PseudonymRequest
from pacsifier_ops.runs.accounts import COMPLETE
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


def _source(request: PseudonymRequest, params: Any) -> steps.Source:
    if request.source != DEID:
        return steps.own_source(request, kept_secret(request.project))
    from pacsifier_ops.hooks.deid_api import DeidApiHook

    return DeidApiHook(params["deid"]).get_conn()


class PseudonymizePrepareOperator(PacsifierOperator):
    """Find out whose pseudonyms are wanted, and who of them is linked already."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the batches that are to be asked for."""
        run.forget(steps.KEPT)  # whatever fails next, a task that was cleared must not close the old books again
        check_conf(context)
        params = context["params"]
        request = request_of(
            PseudonymRequest,
            params,
            queryfile=str(resolve(params["queryfile"])) if params["queryfile"] else "",
            allow_empty=bool(self.stage),  # a night without anything new
            **options_of(params["queryfile"] or "", params),
        )
        source = _source(request, params)
        batches = steps.prepare(run, request, source.batch_size, self.cancelled)
        self.log.info("%d batch(es) of patients; run folder %s", len(batches), run.folder)
        return batches


class PseudonymizeOperator(MappedOperator):
    """Have the source say who the patients of one batch become, and keep it in the linkage store.

    Args:
        batch: number of the batch, as the step before gave it.
    """

    template_fields = ("batch",)
    ui_color = "#dcefe4"

    def __init__(self, *, batch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Returns how many were asked for, and how many are new."""
        request = PseudonymRequest.of(run)
        counts = steps.ask(run, _source(request, context["params"]), self.batch, self.cancelled)
        self.log.info("batch %d: %s", self.batch + 1, counts)
        return counts

    def labelled(self, run: Run) -> str:
        """How many patients the batch has."""
        lines = run.part("batches", self.batch).read_bytes().count(b"\n")
        return f"batch {self.batch + 1}: {lines} patient{'' if lines == 1 else 's'}"


class PseudonymizeReportOperator(PacsifierOperator):
    """Tell who of the cohort is linked now, and write the log beside the linkage store."""

    def work(self, run: Run, context: Any) -> dict[str, Any]:
        """Returns the verdict, the counts, and where the report is.

        Raises:
            AirflowFailException: somebody is not linked, and that was not accepted beforehand.
        """
        summary = steps.report(run)
        result = {"verdict": summary.verdict, **summary.totals(), "report": str(run.report)}
        self.log.info("%s", result)
        if summary.verdict != COMPLETE and not context["params"]["accept_incomplete"]:
            raise AirflowFailException(f"the run is {summary.verdict}; see {run.report}")
        return result
