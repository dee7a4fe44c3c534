"""The operators of an upload. The pool of the destination's connection bounds the sending (see plugins.policy)."""

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
    """Make sure that the destination answers, and find out what the folder holds."""

    asks = UploadRequest

    def request(self, params: Any) -> UploadRequest:
        """What is sent."""
        return request_of(UploadRequest, params, allow_empty=self.stage.may_be_empty)  # a night without anything new

    def nodes(self, params: Any) -> list[str]:
        """See `base.connections_of`; what has none runs in the common pool."""
        return connections_of(params) or [COMMON_POOL]

    def prepare(self, run: Run, request: UploadRequest, params: Any) -> list[int]:
        """See `upload.steps.prepare`."""
        return job.prepare(run, request, node_of(params), cancelled=self.cancelled)


class DicomStoreOperator(TalksToNode, UnitOperator):
    """Send the series of one unit by C-STORE, and judge every answer."""

    ui_color = "#f4e3d7"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Sums over the unit's series."""
        return job.send(run, node_of(params), self.unit, self.cancelled)


class UploadReportOperator(ReportOperator):
    """Write log and report."""

    steps = job
