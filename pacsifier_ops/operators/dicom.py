"""The operators that talk to a PACS. The pool of its connection bounds them (see plugins.policy)."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.extract import steps
from pacsifier_ops.operators.base import TalksToNode, UnitOperator, destination_of, nodes_of
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.folder import Run


class DicomFindOperator(TalksToNode, UnitOperator):
    """Find the series of one batch of query rows: the unit."""

    ui_color = "#d7e8f4"

    def labelled(self, run: Run) -> str:
        """The rows of the batch."""
        return labels.of_rows(run, self.unit)

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """How many rows ended in which state, and how many series they found."""
        return {**steps.find(run, nodes_of(params), self.unit, self.cancelled)}


class DicomRetrieveOperator(TalksToNode, UnitOperator):
    """Retrieve the series of one unit, by C-GET or C-MOVE, verified against what the archive lists."""

    ui_color = "#d5efe0"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Sums over the unit's series."""
        return steps.retrieve(run, nodes_of(params), self.unit, self.cancelled, self.resumed)


class DicomMoveOperator(TalksToNode, UnitOperator):
    """Have the series of one unit moved to another node by C-MOVE, and compare what was sent with what was expected."""

    ui_color = "#f4ead7"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Sums over the unit's series."""
        return steps.move(run, nodes_of(params), self.unit, destination_of(params), self.cancelled, self.resumed)
