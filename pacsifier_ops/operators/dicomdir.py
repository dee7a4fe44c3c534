"""The operators of a DICOMDIR. The files are copied by series; the directory is written after all copies."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.handover import dicomdir
from pacsifier_ops.handover.request import DicomdirRequest
from pacsifier_ops.operators.base import (
    PacsifierOperator,
    PrepareOperator,
    ReportOperator,
    UnitOperator,
)
from pacsifier_ops.runs.folder import Run


class DicomdirPrepareOperator(PrepareOperator):
    """Inspect every file of the folder, and plan its name and its directory records."""

    asks = DicomdirRequest
    steps = dicomdir
    kept = dicomdir.KEPT


class DicomdirOperator(UnitOperator):
    """Copy the files of one unit of series into the file-set."""

    ui_color = "#dcecf2"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return the numbers of copied and of failed files."""
        return dicomdir.copy(run, self.unit, self.cancelled)


class DicomdirAssembleOperator(PacsifierOperator):
    """Write the DICOMDIR of every file-set, and its zip file if the request says so."""

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Return the numbers of listed files and of file-sets."""
        totals = dicomdir.assemble(run, self.cancelled)
        self.log.info("%s", totals)
        return totals


class DicomdirReportOperator(ReportOperator):
    """Write the report of a file-set."""

    result = "out_folder"
    steps = dicomdir
