"""The operators of a de-identification. Airflow gets no identifiers and no pseudonyms from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.deid import steps
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.operators.pseudonyms import secret_of
from pacsifier_ops.runs.folder import Run

if TYPE_CHECKING:
    from pacsifier_ops.deid.books import DeidAccount


class DeidentifyPrepareOperator(PrepareOperator):
    """Inspect every file of the folder, and find the pseudonym of every patient. Contradicting sources end the run."""

    asks = DeidRequest
    kept = steps.KEPT

    def request(self, params: Any) -> DeidRequest:
        """Return the request of the run. In a stage, the folder may be empty: a night may have nothing new."""
        return request_of(DeidRequest, params, allow_empty=self.stage.may_be_empty)

    def prepare(self, run: Run, request: DeidRequest, params: Any) -> list[int]:
        """See `deid.steps.prepare`."""
        return steps.prepare(run, request, secret=secret_of(request.project), cancelled=self.cancelled)


class DeidentifyOperator(UnitOperator):
    """De-identify the objects of one unit of series."""

    ui_color = "#e6dcf2"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return sums over the series of the unit."""
        return steps.convert(run, self.unit, secret_of(params["project"]), self.cancelled)


class DeidentifyReportOperator(ReportOperator):
    """Write manifest, linkage and report, and mark the folder as de-identified."""

    result = "out_folder"

    def close(self, run: Run, params: Any) -> DeidAccount:
        """See `deid.steps.report`."""
        return steps.report(run, secret_of(params["project"]))
