"""The tasks of each job, in order, for the DAG of the job, for a stage of a study, and for DAGs of users.

Each function makes the tasks in the open DAG or task group, and returns the last task. For `stage` and `arguments` see
`base.PrepareOperator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from airflow.sdk import BaseOperator, TaskGroup, chain

from pacsifier_ops.hooks.constants import CONVERSION_POOL
from pacsifier_ops.operators.approval import ApproveCohortOperator
from pacsifier_ops.operators.base import PrepareOperator, ReportOperator, UnitOperator
from pacsifier_ops.operators.convert import (
    ConvertAssembleOperator,
    ConvertOperator,
    ConvertPrepareOperator,
    ConvertReportOperator,
)
from pacsifier_ops.operators.deid import DeidentifyOperator, DeidentifyPrepareOperator, DeidentifyReportOperator
from pacsifier_ops.operators.dicom import DicomFindOperator, DicomMoveOperator, DicomRetrieveOperator
from pacsifier_ops.operators.dicomdir import (
    DicomdirAssembleOperator,
    DicomdirOperator,
    DicomdirPrepareOperator,
    DicomdirReportOperator,
)
from pacsifier_ops.operators.dumps import MoveDumpsOperator, MoveDumpsPrepareOperator, MoveDumpsReportOperator
from pacsifier_ops.operators.extract import (
    ExtractPlanOperator,
    ExtractPrepareOperator,
    ExtractReportOperator,
    ExtractRouteOperator,
)
from pacsifier_ops.operators.karnak import KarnakPrepareOperator, KarnakReportOperator, KarnakTagOperator
from pacsifier_ops.operators.params import LABEL
from pacsifier_ops.operators.pseudonyms import (
    PseudonymizeOperator,
    PseudonymizePrepareOperator,
    PseudonymizeReportOperator,
)
from pacsifier_ops.operators.reports import (
    ExtractReportsOperator,
    ExtractReportsPrepareOperator,
    ExtractReportsReportOperator,
)
from pacsifier_ops.operators.stages import Stage, stage_of
from pacsifier_ops.operators.upload import DicomStoreOperator, UploadPrepareOperator, UploadReportOperator


def _begin(stage: Stage | str | None) -> dict[str, Any]:
    """Return the arguments of the first task."""
    return {"task_id": "prepare", "trigger_rule": stage_of(stage).begins}


#: Arguments of the last task.
_END: dict[str, Any] = {"task_id": "report"}


def in_turn(*steps: BaseOperator | TaskGroup) -> None:
    """Let each step begin when the one before has ended, unless the one before failed or did not begin."""
    chain(*steps)
    for before, after in pairwise(steps):
        if isinstance(before, TaskGroup):
            # Its last task is skipped where its first did not succeed, which alone would let the next step begin.
            list(before.get_roots()) >> after


def extraction(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Retrieve or move the series of a query table."""
    prepare = ExtractPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    find = DicomFindOperator.partial(task_id="find", stage=stage, map_index_template=LABEL).expand(unit=prepare.output)
    plan = ExtractPlanOperator(task_id="plan", stage=stage, trigger_rule="all_done_min_one_success")
    approve = ApproveCohortOperator(task_id="approve", stage=stage)
    route = ExtractRouteOperator(task_id="route", stage=stage)
    retrieve = DicomRetrieveOperator.partial(task_id="retrieve", stage=stage, map_index_template=LABEL).expand(
        unit=plan.output
    )
    move = DicomMoveOperator.partial(task_id="move", stage=stage, map_index_template=LABEL).expand(unit=plan.output)
    report = ExtractReportOperator(stage=stage, **_END)

    prepare >> find >> plan >> approve >> [retrieve, move] >> report
    prepare >> route >> [retrieve, move]
    return report


def _in_units(
    stage: Stage | str | None,
    arguments: Mapping[str, Any] | None,
    first: type[PrepareOperator],
    each: type[UnitOperator],
    last: type[ReportOperator],
    task_id: str,
    **more: Any,
) -> ReportOperator:
    """Make a job of three steps, the second of which is mapped over the units.

    Args:
        first, each, last: operators of the steps.
        task_id: of the second step.
        more: further arguments of the second step.
    """
    prepare = first(stage=stage, arguments=arguments, **_begin(stage))
    units = each.partial(task_id=task_id, stage=stage, map_index_template=LABEL, **more).expand(unit=prepare.output)
    report = last(stage=stage, **_END)

    prepare >> units >> report
    return report


def pseudonymization(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Give patients pseudonyms and day shifts."""
    return _in_units(
        stage,
        arguments,
        PseudonymizePrepareOperator,
        PseudonymizeOperator,
        PseudonymizeReportOperator,
        "pseudonymize",
        max_active_tis_per_dag=1,
    )


def deidentification(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """De-identify a folder of DICOM files."""
    return _in_units(
        stage, arguments, DeidentifyPrepareOperator, DeidentifyOperator, DeidentifyReportOperator, "deidentify"
    )


def sending(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Send the DICOM files of a folder to a node."""
    return _in_units(stage, arguments, UploadPrepareOperator, DicomStoreOperator, UploadReportOperator, "store")


def file_set(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Make a DICOM file-set of a folder."""
    prepare = DicomdirPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    copy = DicomdirOperator.partial(task_id="copy", stage=stage, map_index_template=LABEL).expand(unit=prepare.output)
    assemble = DicomdirAssembleOperator(task_id="assemble", stage=stage)
    report = DicomdirReportOperator(stage=stage, **_END)

    prepare >> copy >> assemble >> report
    return report


def conversion(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Convert de-identified images to NIfTI."""
    prepare = ConvertPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    convert = ConvertOperator.partial(
        task_id="convert", stage=stage, map_index_template=LABEL, pool=CONVERSION_POOL
    ).expand(unit=prepare.output)
    # Also where nothing is new, so that no task was mapped: rules may have changed, and series may have gone.
    assemble = ConvertAssembleOperator(task_id="assemble", stage=stage, trigger_rule="none_failed")
    report = ConvertReportOperator(stage=stage, **_END)

    prepare >> convert >> assemble >> report
    return report


def karnak_tagging(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Tag the objects of a folder for a Karnak gateway."""
    return _in_units(stage, arguments, KarnakPrepareOperator, KarnakTagOperator, KarnakReportOperator, "tag")


def report_extraction(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Extract the reports of a folder."""
    return _in_units(
        stage, arguments, ExtractReportsPrepareOperator, ExtractReportsOperator, ExtractReportsReportOperator, "extract"
    )


def moving_dumps(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Move info dumps out of a data folder."""
    return _in_units(stage, arguments, MoveDumpsPrepareOperator, MoveDumpsOperator, MoveDumpsReportOperator, "move")
