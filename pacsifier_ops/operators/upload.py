"""The operators of an upload. The sending tasks run in the pool of their connection (see plugins.policy)."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.options import request_of
from pacsifier_ops.hooks.constants import COMMON_POOL
from pacsifier_ops.operators.base import (
    PrepareOperator,
    ReportOperator,
    TalksToNode,
    UnitOperator,
    connections_of,
    node_of,
)
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload import steps as job
from pacsifier_ops.upload.run import UploadRequest


class UploadPrepareOperator(PrepareOperator):
    """Check that the destination answers, and inspect every file of the folder."""

    asks = UploadRequest

    def request(self, params: Any) -> UploadRequest:
        """Return the request of the run. In a stage, the folder may be empty: a night may have nothing new."""
        return request_of(UploadRequest, params, allow_empty=self.stage.may_be_empty)

    def nodes(self, params: Any) -> list[str]:
        """Return the connections for the pools of the tasks; the common pool without a connection."""
        return connections_of(params) or [COMMON_POOL]

    def prepare(self, run: Run, request: UploadRequest, params: Any) -> list[int]:
        """See `upload.steps.prepare`."""
        return job.prepare(run, request, node_of(params), cancelled=self.cancelled)


class DicomStoreOperator(TalksToNode, UnitOperator):
    """Send the series of one unit by C-STORE, and evaluate every response."""

    ui_color = "#f4e3d7"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return sums over the series of the unit."""
        node = node_of(params)
        return job.send(run, node, self.unit, self.cancelled, self.resumed, self.overtaken(run, node))


class UploadReportOperator(ReportOperator):
    """Write log and report."""

    steps = job
