"""The operators that tag objects for a Karnak gateway. Neither identifiers nor pseudonyms leave the run's folder."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.handover import karnak
from pacsifier_ops.handover.request import KarnakRequest
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.runs.folder import Run


class KarnakPrepareOperator(PrepareOperator):
    """Look at every file of the folder, and find out who every patient becomes; one that is missing ends the run."""

    asks = KarnakRequest
    steps = karnak

    def request(self, params: Any) -> KarnakRequest:
        """What is tagged, and with what."""
        return request_of(KarnakRequest, params, allow_empty=self.stage.may_be_empty)  # a night without anything new


class KarnakTagOperator(UnitOperator):
    """Tag the objects of one unit of series."""

    ui_color = "#f2dcdc"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """How many ended how."""
        return karnak.tag(run, self.unit, self.cancelled)


class KarnakReportOperator(ReportOperator):
    """Write the report."""

    result = "out_folder"
    steps = karnak
