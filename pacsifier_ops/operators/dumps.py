"""The operators that move info dumps out of a data folder."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.handover import dumps
from pacsifier_ops.handover.request import DumpsRequest
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.folder import Run


class MoveDumpsPrepareOperator(PrepareOperator):
    """List the files to be moved, and divide the patients' folders into units."""

    asks = DumpsRequest
    steps = dumps
    units_of = "patients"


class MoveDumpsOperator(UnitOperator):
    """Move the dumps of one unit of patients, and inspect the files that stay."""

    ui_color = "#efe8d8"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return the number of files by result."""
        return dumps.move(run, self.unit, self.cancelled)

    def labelled(self, run: Run) -> str:
        """Return the label of the unit: the numbers of its patients."""
        return labels.of_patients(run, self.unit)


class MoveDumpsReportOperator(ReportOperator):
    """Write the list of moved files, and the report."""

    result = "info_folder"
    steps = dumps
