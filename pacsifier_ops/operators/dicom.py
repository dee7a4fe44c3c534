"""The operators that talk to a PACS. The pool of its connection bounds them (see plugins.policy)."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.extract import steps
from pacsifier_ops.operators.base import MappedOperator, UnitOperator, destination_of, nodes_of
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.folder import Run


class DicomFindOperator(MappedOperator):
    """Find the series of one batch of query rows.

    Args:
        batch: number of the batch, as the step prepare gave it.
    """

    template_fields = ("batch",)
    ui_color = "#d7e8f4"

    def __init__(self, *, batch: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch = batch

    def labelled(self, run: Run) -> str:
        """The rows of the batch."""
        return labels.of_rows(run, self.batch)

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Returns how many rows ended in which state, and how many series they found."""
        counts = steps.find(run, nodes_of(context["params"]), self.batch, self.cancelled)
        self.log.info("batch %d: %s", self.batch + 1, counts)
        return counts


class DicomRetrieveOperator(UnitOperator):
    """Retrieve the series of one unit, by C-GET or C-MOVE, verified against what the archive lists."""

    ui_color = "#d5efe0"

    def work(self, run: Run, context: Any) -> dict[str, int | float]:
        """Returns sums over the unit's series. Data that are missing are recorded, not raised."""
        totals = steps.retrieve(run, nodes_of(context["params"]), self.unit, self.cancelled, self.resumed)
        self.log.info("unit %d: %s", self.unit + 1, totals)
        return totals


class DicomMoveOperator(UnitOperator):
    """Have the series of one unit moved to another node by C-MOVE, and compare what was sent with what was expected."""

    ui_color = "#f4ead7"

    def work(self, run: Run, context: Any) -> dict[str, int | float]:
        """Returns sums over the unit's series. Data that are missing are recorded, not raised."""
        params = context["params"]
        totals = steps.move(run, nodes_of(params), self.unit, destination_of(params), self.cancelled, self.resumed)
        self.log.info("unit %d: %s", self.unit + 1, totals)
        return totals
