"""The operators that tag objects for a Karnak gateway. Neither identifiers nor pseudonyms leave the run's folder."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.handover import karnak
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.handover.request import KarnakRequest
from pacsifier_ops.operators.base import MappedOperator, PacsifierOperator
from pacsifier_ops.operators.handover import ToolReportOperator
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.folder import Run


class KarnakPrepareOperator(PacsifierOperator):
    """Look at every file of the folder, and find out who every patient becomes; one that is missing ends the run."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the units."""
        run.forget(karnak.KEPT)  # whatever fails next, a task that was cleared must not close the old books again
        check_conf(context)
        params = context["params"]
        request = request_of(KarnakRequest, params, allow_empty=bool(self.stage))  # a night without anything new
        units = karnak.prepare(run, request, cancelled=self.cancelled)
        self.log.info("%d unit(s) of series; run folder %s", len(units), run.folder)
        return units


class KarnakTagOperator(MappedOperator):
    """Tag the objects of one unit of series.

    Args:
        unit: number of the unit, as the step before gave it.
    """

    template_fields = ("unit",)
    ui_color = "#f2dcdc"

    def __init__(self, *, unit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Returns how many ended how. What cannot be tagged is recorded, not raised."""
        totals = karnak.tag(run, self.unit, self.cancelled)
        self.log.info("unit %d: %s", self.unit + 1, totals)
        return totals

    def labelled(self, run: Run) -> str:
        """The series of the unit."""
        return labels.of_series(run, self.unit)


class KarnakReportOperator(ToolReportOperator):
    """Close the books, write the report, and give the verdict of the run."""

    def close(self, run: Run) -> ToolAccount:
        """The closed account."""
        return karnak.report(run)
