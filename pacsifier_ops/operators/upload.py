"""The operators of an upload. The sending tasks run in the pool of their connection (see plugins.policy)."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.options import request_of
from pacsifier_ops.base.rights import IDENTIFIED, SEND
from pacsifier_ops.hooks.constants import COMMON_POOL, URGENCY
from pacsifier_ops.operators.base import (
    APPROVED,
    PrepareOperator,
    ReportOperator,
    TalksToNode,
    UnitOperator,
    connections_of,
    receiver_of,
)
from pacsifier_ops.runs.accounts import RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.people import Need, urgency_needs
from pacsifier_ops.state.approved import approved_of
from pacsifier_ops.state.tree import DEIDENTIFIED, state_of
from pacsifier_ops.upload import steps as job
from pacsifier_ops.upload.run import UploadRequest


class UploadPrepareOperator(PrepareOperator):
    """Check that the destination answers, and inspect every file of the folder."""

    asks = UploadRequest
    kept = job.KEPT

    def request(self, params: Any) -> UploadRequest:
        """Return the request of the run. In a stage, the folder may be empty: a night may have nothing new."""
        return request_of(UploadRequest, params, allow_empty=self.stage.may_be_empty, release=params.get(APPROVED, ""))

    def nodes(self, params: Any) -> list[str]:
        """Return the connections for the pools of the tasks; the common pool without a connection."""
        return connections_of(params) or [COMMON_POOL]

    def needs(self, request: UploadRequest, params: Any) -> list[Need]:
        """Return the rights that the run needs. What is not de-identified by us counts as identified."""
        node = receiver_of(params)
        needs = [(SEND, node), *urgency_needs(params.get(URGENCY), [node])]
        folder = request.folder.resolve()
        if state_of(folder) != DEIDENTIFIED or approved_of(folder) is None:  # anybody can write a marker
            needs.append((IDENTIFIED, node))
        return needs

    def reached(self, params: Any) -> list[Node]:
        """Return the destination."""
        return [receiver_of(params)]

    def prepare(self, run: Run, request: UploadRequest, params: Any) -> list[int]:
        """See `upload.steps.prepare`."""
        return job.prepare(run, request, receiver_of(params), cancelled=self.cancelled)


class DicomStoreOperator(TalksToNode, UnitOperator):
    """Send the series of one unit, by C-STORE or as the destination wants them, and evaluate every answer."""

    ui_color = "#f4e3d7"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Return sums over the series of the unit."""
        node = receiver_of(params)
        return job.send(run, node, self.unit, self.cancelled, self.resumed, self.overtaken(run, node))


class UploadReportOperator(ReportOperator):
    """Write log and report; a store that has got everything gets the manifest."""

    steps = job

    def close(self, run: Run, params: Any) -> RunAccount:
        """See `upload.steps.report`."""
        return job.report(run, lambda: receiver_of(params), self.cancelled)
