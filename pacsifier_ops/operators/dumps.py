"""The operators that move info dumps out of a data folder."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.handover import dumps
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.handover.request import DumpsRequest
from pacsifier_ops.operators.base import MappedOperator, PacsifierOperator
from pacsifier_ops.operators.handover import ToolReportOperator
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.folder import Run


class MoveDumpsPrepareOperator(PacsifierOperator):
    """List what is to be moved, and cut the patients' folders into units."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the units."""
        run.forget(dumps.KEPT)  # whatever fails next, a task that was cleared must not close the old books again
        check_conf(context)
        params = context["params"]
        request = request_of(DumpsRequest, params)
        units = dumps.prepare(run, request, cancelled=self.cancelled)
        self.log.info("%d unit(s) of patients; run folder %s", len(units), run.folder)
        return units


class MoveDumpsOperator(MappedOperator):
    """Move the dumps of one unit of patients, and look at what else is there.

    Args:
        unit: number of the unit, as the step before gave it.
    """

    template_fields = ("unit",)
    ui_color = "#efe8d8"

    def __init__(self, *, unit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Returns how many files ended how, and are left. What cannot be moved is recorded, not raised."""
        counts = dumps.move(run, self.unit, self.cancelled)
        self.log.info("unit %d: %s", self.unit + 1, counts)
        return counts

    def labelled(self, run: Run) -> str:
        """The patients of the unit, by number."""
        return labels.of_patients(run, self.unit)


class MoveDumpsReportOperator(ToolReportOperator):
    """Close the books, write list and report, and give the verdict of the run."""

    def close(self, run: Run) -> ToolAccount:
        """The closed account."""
        return dumps.report(run)
