"""The operators that take reports out of their objects. No text of a report leaves its folder through them."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.handover import reports
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator, in_path, out_path
from pacsifier_ops.runs.folder import Run


class ExtractReportsPrepareOperator(PrepareOperator):
    """Look at every file of the folder, and find the reports."""

    steps = reports

    def request(self, params: Any) -> reports.ReportsRequest:
        """Whose reports are wanted, and where."""
        return reports.ReportsRequest(
            folder=in_path(params, "data_folder"),
            out_folder=out_path(params, "out_folder" if params["out_folder"] else "data_folder"),
            overwrite=params["overwrite"],
            accept_incomplete=params["accept_incomplete"],
        )


class ExtractReportsOperator(UnitOperator):
    """Take out the reports of one unit of series."""

    ui_color = "#dfe8d2"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """How many ended how."""
        return reports.extract(run, self.unit, self.cancelled)


class ExtractReportsReportOperator(ReportOperator):
    """Write summary and report."""

    steps = reports
