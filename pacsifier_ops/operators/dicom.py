"""The operators that query and retrieve. They run in the pool of their connection (see plugins.policy)."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.extract import steps
from pacsifier_ops.operators.base import TalksToNode, UnitOperator, destination_of, nodes_of
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.folder import Run


class DicomFindOperator(TalksToNode, UnitOperator):
    """Find the series of one batch of query rows."""

    ui_color = "#d7e8f4"

    def labelled(self, run: Run) -> str:
        """Return the label of the batch: the lines of its rows."""
        return labels.of_rows(run, self.unit)

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return the number of rows by state, and the number of series."""
        return {**steps.find(run, nodes_of(params), self.unit, self.cancelled)}


class DicomRetrieveOperator(TalksToNode, UnitOperator):
    """Retrieve the series of one unit by C-GET or C-MOVE, and compare them with the archive's lists of instances."""

    ui_color = "#d5efe0"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return sums over the series of the unit."""
        archives = nodes_of(params)
        overtaken = self.overtaken(run, steps.archive_of(run, archives, self.unit).source)
        return steps.retrieve(run, archives, self.unit, self.cancelled, self.resumed, overtaken)


class DicomMoveOperator(TalksToNode, UnitOperator):
    """Move the series of one unit to another node by C-MOVE, and compare the sent instances with the expected ones."""

    ui_color = "#f4ead7"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return sums over the series of the unit."""
        archives = nodes_of(params)
        overtaken = self.overtaken(run, steps.archive_of(run, archives, self.unit).source)
        return steps.move(run, archives, self.unit, destination_of(params), self.cancelled, self.resumed, overtaken)
