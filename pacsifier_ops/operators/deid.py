"""The operators of a de-identification. Neither identifiers nor pseudonyms leave the run's folder through them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.deid import steps
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.operators.pseudonyms import kept_secret
from pacsifier_ops.runs.folder import Run

if TYPE_CHECKING:
    from pacsifier_ops.deid.books import DeidAccount


class DeidentifyPrepareOperator(PrepareOperator):
    """Look at every file of the folder, and find out who becomes whom; sources that disagree end the run here."""

    asks = DeidRequest
    kept = steps.KEPT

    def request(self, params: Any) -> DeidRequest:
        """What is de-identified, and how."""
        return request_of(DeidRequest, params, allow_empty=self.stage.may_be_empty)  # a night without anything new

    def prepare(self, run: Run, request: DeidRequest, params: Any) -> list[int]:
        """See `deid.steps.prepare`."""
        return steps.prepare(run, request, secret=kept_secret(request.project), cancelled=self.cancelled)


class DeidentifyOperator(UnitOperator):
    """De-identify the objects of one unit of series, in any order, on any worker."""

    ui_color = "#e6dcf2"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Sums over the unit's series."""
        return steps.convert(run, self.unit, kept_secret(params["project"]), self.cancelled)


class DeidentifyReportOperator(ReportOperator):
    """Write manifest, linkage and report, and let the folder say what it is."""

    result = "out_folder"

    def close(self, run: Run, params: Any) -> DeidAccount:
        """See `deid.steps.report`."""
        return steps.report(run, kept_secret(params["project"]))
