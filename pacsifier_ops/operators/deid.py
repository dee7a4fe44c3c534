"""The operators of a de-identification. Neither identifiers nor pseudonyms leave the run's folder through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from pacsifier_ops.deid import steps
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.operators.base import MappedOperator, PacsifierOperator, data_path, in_path, out_path
from pacsifier_ops.operators.params import check_conf
from pacsifier_ops.operators.pseudonyms import kept_secret
from pacsifier_ops.runs import labels
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import Run


def _profile(params: Mapping[str, Any]) -> str:
    """The profile: one that comes with the package, by its name, or a file below the data root."""
    from pacsifier_ops.deid.profile import is_shipped

    return params["profile"] if is_shipped(params["profile"]) else str(data_path(params, "profile"))


class DeidentifyPrepareOperator(PacsifierOperator):
    """Look at every file of the folder, and find out who becomes whom; sources that disagree end the run here."""

    def work(self, run: Run, context: Any) -> list[int]:
        """Returns the numbers of the units."""
        run.forget(steps.KEPT)  # whatever fails next, a task that was cleared must not close the old books again
        check_conf(context)
        params = context["params"]
        request = DeidRequest(
            in_folder=in_path(params, "in_folder"),
            out_folder=out_path(params, "out_folder"),
            profile=_profile(params),
            devices=str(data_path(params, "devices")) if params["devices"] else "",
            new_ids=str(data_path(params, "new_ids")) if params["new_ids"] else "",
            day_shift=str(data_path(params, "day_shift")) if params["day_shift"] else "",
            project=params["project"],
            identity=params["identity"],
            linked_only=params["linked_only"],
            allow_empty=bool(self.stage),  # a night without anything new
            delete_identifiable=params["delete_identifiable"],
            remove_private_tags=params["remove_private_tags"],
            fuzz_acq_dates=params["fuzz_acq_dates"],
            keep_patient_dir_names=params["keep_patient_dir_names"],
            accept_incomplete=params["accept_incomplete"],
        )
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
