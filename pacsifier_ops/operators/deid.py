"""The operators of a de-identification. Neither identifiers nor pseudonyms leave the run's folder through them."""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from pacsifier_ops.base.options import request_of
from pacsifier_ops.deid import steps
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.operators.base import MappedOperator, PacsifierOperator
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.operators.pseudonyms import kept_secret
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import Run


class DeidentifyPrepareOperator(PacsifierOperator):
    """Look at every file of the folder, and find out who becomes whom; sources that disagree end the run here."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the units."""
        run.forget(steps.KEPT)  # whatever fails next, a task that was cleared must not close the old books again
        check_conf(context)
        params = context["params"]
        request = request_of(DeidRequest, params, allow_empty=bool(self.stage))  # a night without anything new
        secret = kept_secret(request.project)
        units = steps.prepare(run, request, secret=secret, cancelled=self.cancelled)
        self.log.info("%d unit(s) of series; run folder %s", len(units), run.folder)
        return units


class DeidentifyOperator(MappedOperator):
    """De-identify the objects of one unit of series, in any order, on any worker.

    Args:
        unit: number of the unit, as the step before gave it.
    """

    template_fields = ("unit",)
    ui_color = "#e6dcf2"

    def __init__(self, *, unit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def work(self, run: Run, context: Any) -> dict[str, int]:
        """Returns sums over the unit's series. What is excluded or quarantined is recorded, not raised."""
        secret = kept_secret(context["params"]["project"])
        totals = steps.convert(run, self.unit, secret, self.cancelled)
        self.log.info("unit %d: %s", self.unit + 1, totals)
        return totals

    def labelled(self, run: Run) -> str:
        """The series of the unit."""
        return labels.of_series(run, self.unit)


class DeidentifyReportOperator(PacsifierOperator):
    """Close the books, write manifest, linkage and report, let the folder say what it is, and give the verdict."""

    def work(self, run: Run, context: Any) -> dict[str, Any]:
        """Returns the verdict, the sums, and where the report is.

        Raises:
            AirflowFailException: the run is not complete, and that was not accepted beforehand.
        """
        account = steps.report(run, kept_secret(context["params"]["project"]))
        result = {"verdict": account.verdict, **account.totals(), "report": str(run.report)}
        self.log.info("%s", result)
        if account.verdict != COMPLETE and not context["params"]["accept_incomplete"]:
            raise AirflowFailException(f"the run is {account.verdict}; see {run.report}")
        return result
