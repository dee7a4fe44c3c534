"""The operators that extract reports from their objects. Airflow gets no text of a report from them."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.handover import reports
from pacsifier_ops.handover.request import ReportsRequest
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.runs.folder import Run


class ExtractReportsPrepareOperator(PrepareOperator):
    """Inspect every file of the folder, and find the reports."""

    asks = ReportsRequest
    steps = reports


class ExtractReportsOperator(UnitOperator):
    """Extract the reports of one unit of series."""

    ui_color = "#dfe8d2"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return the number of reports by outcome."""
        return reports.extract(run, self.unit, self.cancelled)


class ExtractReportsReportOperator(ReportOperator):
    """Write summary and report."""

    result = "out_folder"
    steps = reports
