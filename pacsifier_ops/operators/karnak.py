"""The operators that tag objects for a Karnak gateway. Airflow gets no identifiers and no pseudonyms from them."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.handover import karnak
from pacsifier_ops.handover.request import KarnakRequest
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.runs.folder import Run


class KarnakPrepareOperator(PrepareOperator):
    """Inspect every file of the folder, and find the pseudonym of every patient. Without one, the run ends."""

    asks = KarnakRequest
    steps = karnak

    def request(self, params: Any) -> KarnakRequest:
        """Return the request of the run. In a stage, the folder may be empty: a night may have nothing new."""
        return request_of(KarnakRequest, params, allow_empty=self.stage.may_be_empty)


class KarnakTagOperator(UnitOperator):
    """Tag the objects of one unit of series."""

    ui_color = "#f2dcdc"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return the number of objects by result."""
        return karnak.tag(run, self.unit, self.cancelled)


class KarnakReportOperator(ReportOperator):
    """Write the report."""

    result = "out_folder"
    steps = karnak
