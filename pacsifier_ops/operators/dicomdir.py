"""The operators of a DICOMDIR: files are copied by series, the directory is written when all of them are there."""

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
    """Look at every file of the folder, and give each its name and its directory records."""

    asks = DicomdirRequest
    steps = dicomdir
    kept = dicomdir.KEPT


class DicomdirOperator(UnitOperator):
    """Copy the files of one unit of series under their names in the file-set."""

    ui_color = "#dcecf2"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """How many files are there."""
        return dicomdir.copy(run, self.unit, self.cancelled)


class DicomdirAssembleOperator(PacsifierOperator):
    """Write the DICOMDIR of every file-set, and its zip file where that is wanted."""

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Returns how many files are listed, in how many file-sets."""
        totals = dicomdir.assemble(run, self.cancelled)
        self.log.info("%s", totals)
        return totals


class DicomdirReportOperator(ReportOperator):
    """Write the report of a file-set."""

    result = "out_folder"
    steps = dicomdir
