"""The operators of a conversion to NIfTI. Series are converted one by one, in a pool; all are published together."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.convert import steps
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.operators.base import PacsifierOperator, PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.runs.folder import Run


class ConvertPrepareOperator(PrepareOperator):
    """Find the series of the folder that are new or have changed."""

    asks = ConvertRequest
    steps = steps
    kept = steps.KEPT

    def request(self, params: Any) -> ConvertRequest:
        """Return the request of the run. In a stage, the folder may be empty: a night may have nothing new."""
        return request_of(ConvertRequest, params, allow_empty=self.stage.may_be_empty)


class ConvertOperator(UnitOperator):
    """Convert the series of one unit by dcm2niix."""

    ui_color = "#e6e0f2"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return the numbers of series by outcome, and of images."""
        return steps.convert(run, self.unit, self.cancelled)


class ConvertAssembleOperator(PacsifierOperator):
    """Name the images, search them for identifiers of the cohort, and publish those that are clean."""

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Return the numbers of series that are published, set apart, and removed."""
        from pacsifier_ops.study.cohort import search_of

        totals = steps.assemble(run, search_of(run, ConvertRequest.of(run).in_folder), self.cancelled)
        self.log.info("%s", totals)
        return totals


class ConvertReportOperator(ReportOperator):
    """Write the report of a conversion."""

    result = "out_folder"
    steps = steps
