"""The operators of a de-identification. Neither identifiers nor pseudonyms leave the run's folder through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pacsifier_ops.deid import steps
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator, data_path, in_path, out_path
from pacsifier_ops.operators.pseudonyms import kept_secret
from pacsifier_ops.runs.folder import Run

if TYPE_CHECKING:
    from pacsifier_ops.deid.books import Account


def _profile(params: Mapping[str, Any]) -> str:
    """The profile: one that comes with the package, by its name, or a file below the data root."""
    from pacsifier_ops.deid.profile import is_shipped

    return params["profile"] if is_shipped(params["profile"]) else str(data_path(params, "profile"))


class DeidentifyPrepareOperator(PrepareOperator):
    """Look at every file of the folder, and find out who becomes whom; sources that disagree end the run here."""

    kept = steps.KEPT

    def request(self, params: Any) -> DeidRequest:
        """What is de-identified, and how."""
        return DeidRequest(
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

    def prepare(self, run: Run, request: DeidRequest, params: Any) -> list[int]:
        """See `deid.steps.prepare`."""
        return steps.prepare(run, request, secret=kept_secret(request.project), cancelled=self.cancelled)


class DeidentifyOperator(UnitOperator):
    """De-identify the objects of one unit of series, in any order, on any worker."""

    ui_color = "#e6dcf2"

    def do(self, run: Run, params: Any) -> dict[str, int | float]:
        """Sums over the unit's series."""
        return steps.convert(run, self.unit, kept_secret(params["project"]), self.cancelled)


class DeidentifyReportOperator(ReportOperator):
    """Write manifest, linkage and report, and let the folder say what it is."""

    def close(self, run: Run, params: Any) -> Account:
        """See `deid.steps.report`."""
        return steps.report(run, kept_secret(params["project"]))
