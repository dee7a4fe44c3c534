"""The operators of an upload. The pool of the destination's connection bounds the sending (see plugins.policy)."""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from pacsifier_ops.base.options import request_of
from pacsifier_ops.operators.base import PacsifierOperator, UnitOperator, node_of
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload import steps


class UploadPrepareOperator(PacsifierOperator):
    """Make sure that the destination answers, and find out what the folder holds."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the units."""
        from pacsifier_ops.upload.run import UploadRequest

        run.forget(steps.KEPT)  # whatever fails next, a task that was cleared must not close the old books again
        check_conf(context)
        params = context["params"]
        request = request_of(UploadRequest, params, allow_empty=bool(self.stage))  # a night without anything new
        units = steps.prepare(run, request, node_of(params), cancelled=self.cancelled)
        self.log.info("%d unit(s) of series; run folder %s", len(units), run.folder)
        return units


class DicomStoreOperator(UnitOperator):
    """Send the series of one unit by C-STORE, and judge every answer."""

    ui_color = "#f4e3d7"

    def work(self, run: Run, context: Any) -> dict[str, int | float]:
        """Returns sums over the unit's series. What the destination refuses is recorded, not raised."""
        totals = steps.send(run, node_of(context["params"]), self.unit, self.cancelled)
        self.log.info("unit %d: %s", self.unit + 1, totals)
        return totals


class UploadReportOperator(PacsifierOperator):
    """Close the books, write log and report, and give the verdict of the run."""

    def work(self, run: Run, context: Any) -> dict[str, Any]:
        """Returns the verdict, the sums, and where the report is.

        Raises:
            AirflowFailException: the run is not complete, and that was not accepted beforehand.
        """
        account = steps.report(run)
        result = {"verdict": account.verdict, **account.totals(), "report": str(run.report)}
        self.log.info("%s", result)
        if account.verdict != COMPLETE and not context["params"]["accept_incomplete"]:
            raise AirflowFailException(f"the run is {account.verdict}; see {run.report}")
        return result
