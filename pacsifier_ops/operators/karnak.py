"""The operators that tag objects for a Karnak gateway. Neither identifiers nor pseudonyms leave the run's folder."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.handover import karnak
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator, data_path, in_path, out_path
from pacsifier_ops.runs.folder import Run


class KarnakPrepareOperator(PrepareOperator):
    """Look at every file of the folder, and find out who every patient becomes; one that is missing ends the run."""

    steps = karnak

    def request(self, params: Any) -> karnak.KarnakRequest:
        """What is tagged, and with what."""
        return karnak.KarnakRequest(
            in_folder=in_path(params, "in_folder"),
            out_folder=out_path(params, "out_folder" if params["out_folder"] else "in_folder"),
            album_name=params["album_name"],
            new_ids=str(data_path(params, "new_ids")) if params["new_ids"] else "",
            day_shift=str(data_path(params, "day_shift")) if params["day_shift"] else "",
            project=params["project"],
            leave_out=params["leave_out"],
            allow_empty=bool(self.stage),  # a night without anything new
            accept_incomplete=params["accept_incomplete"],
        )


class KarnakTagOperator(UnitOperator):
    """Tag the objects of one unit of series."""

    ui_color = "#f2dcdc"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """How many ended how."""
        return karnak.tag(run, self.unit, self.cancelled)


class KarnakReportOperator(ReportOperator):
    """Write the report."""

    steps = karnak
