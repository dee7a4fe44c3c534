"""What the operators of the tools for handing over share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.operators.base import PacsifierOperator
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import Run


class ToolReportOperator(PacsifierOperator):
    """Close the books of a tool, write the report, and give the verdict of the run."""

    @abstractmethod
    def close(self, run: Run) -> ToolAccount:
        """The closed account of the run, its books written."""

    def work(self, run: Run, context: Any) -> dict[str, Any]:
        """Returns the verdict, the counts, and where the report is.

        Raises:
            AirflowFailException: something could not be done, and that was not accepted beforehand.
        """
        account = self.close(run)
        result = {"verdict": account.verdict, **account.totals(), "report": str(run.report)}
        self.log.info("%s", result)
        if account.verdict != COMPLETE and not context["params"]["accept_incomplete"]:
            raise AirflowFailException(f"the run is {account.verdict}; see {run.report}")
        return result
