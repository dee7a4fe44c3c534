"""The operators of a DICOMDIR: files are copied by series, the directory is written when all of them are there."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.handover import dicomdir as steps
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.handover.request import DicomdirRequest
from pacsifier_ops.operators.base import MappedOperator, PacsifierOperator
from pacsifier_ops.operators.handover import ToolReportOperator
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.folder import Run


class DicomdirPrepareOperator(PacsifierOperator):
    """Look at every file of the folder, and give each its name and its directory records."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the units."""
        run.forget(steps.KEPT)  # whatever fails next, a task that was cleared must not close the old books again
        check_conf(context)
        params = context["params"]
        request = request_of(DicomdirRequest, params)
        units = steps.prepare(run, request, cancelled=self.cancelled)
        self.log.info("%d unit(s) of series; run folder %s", len(units), run.folder)
        return units


class DicomdirOperator(MappedOperator):
    """Copy the files of one unit of series under their names in the file-set.

    Args:
        unit: number of the unit, as the step before gave it.
    """

    template_fields = ("unit",)
    ui_color = "#dcecf2"

    def __init__(self, *, unit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Returns how many files are there. What cannot be read is recorded, not raised."""
        totals = steps.copy(run, self.unit, self.cancelled)
        self.log.info("unit %d: %s", self.unit + 1, totals)
        return totals

    def labelled(self, run: Run) -> str:
        """The series of the unit."""
        return labels.of_series(run, self.unit)


class DicomdirAssembleOperator(PacsifierOperator):
    """Write the DICOMDIR of every file-set, and its zip file where that is wanted."""

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Returns how many files are listed, in how many file-sets."""
        totals = steps.assemble(run, self.cancelled)
        self.log.info("%s", totals)
        return totals


class DicomdirReportOperator(ToolReportOperator):
    """Close the books of a file-set, write the report, and give the verdict of the run."""

    def close(self, run: Run) -> ToolAccount:
        """The account of the run."""
        return steps.report(run)
