"""The tasks of each job, in order, in one place: as a DAG of its own, or as a stage of a study.

Each function makes the tasks in the DAG, or the task group, that is open where it is called, and returns the last one.
For `stage` and `arguments` see `base.PrepareOperator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pacsifier_ops.operators.approval import ApproveCohortOperator
from pacsifier_ops.operators.base import ReportOperator, Stage
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
from pacsifier_ops.operators.upload import DicomStoreOperator, UploadPrepareOperator, UploadReportOperator


def _begin(stage: Stage | str | None) -> dict[str, Any]:
    """How the first task begins. A stage of a study begins also after one that the study does without."""
    return {"task_id": "prepare", **({} if type(stage) is str else {"trigger_rule": "none_failed"})}


#: The last task tells how it went, also if tasks before it failed.
_END: dict[str, Any] = {"task_id": "report", "trigger_rule": "all_done"}


def extraction(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """From a query table to series on disk, or at another node."""
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


def pseudonymization(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Who becomes whom, and by how many days dates are moved."""
    prepare = PseudonymizePrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    pseudonymize = PseudonymizeOperator.partial(
        task_id="pseudonymize", stage=stage, map_index_template=LABEL, max_active_tis_per_dag=1
    ).expand(unit=prepare.output)
    report = PseudonymizeReportOperator(stage=stage, **_END)

    prepare >> pseudonymize >> report
    return report


def deidentification(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """De-identify a folder of DICOM files."""
    prepare = DeidentifyPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    deidentify = DeidentifyOperator.partial(task_id="deidentify", stage=stage, map_index_template=LABEL).expand(
        unit=prepare.output
    )
    report = DeidentifyReportOperator(stage=stage, **_END)

    prepare >> deidentify >> report
    return report


def sending(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Send the DICOM files of a folder to a node."""
    prepare = UploadPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    store = DicomStoreOperator.partial(task_id="store", stage=stage, map_index_template=LABEL).expand(
        unit=prepare.output
    )
    report = UploadReportOperator(stage=stage, **_END)

    prepare >> store >> report
    return report


def file_set(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Make a DICOM file-set of a folder."""
    prepare = DicomdirPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    copy = DicomdirOperator.partial(task_id="copy", stage=stage, map_index_template=LABEL).expand(unit=prepare.output)
    assemble = DicomdirAssembleOperator(task_id="assemble", stage=stage)
    report = DicomdirReportOperator(stage=stage, **_END)

    prepare >> copy >> assemble >> report
    return report


def karnak_tagging(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Tag the objects of a folder for a Karnak gateway."""
    prepare = KarnakPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    tag = KarnakTagOperator.partial(task_id="tag", stage=stage, map_index_template=LABEL).expand(unit=prepare.output)
    report = KarnakReportOperator(stage=stage, **_END)

    prepare >> tag >> report
    return report


def reporting(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """The text of the reports in a folder."""
    prepare = ExtractReportsPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    extract = ExtractReportsOperator.partial(task_id="extract", stage=stage, map_index_template=LABEL).expand(
        unit=prepare.output
    )
    report = ExtractReportsReportOperator(stage=stage, **_END)

    prepare >> extract >> report
    return report


def relocation(stage: Stage | str | None = None, arguments: Mapping[str, Any] | None = None) -> ReportOperator:
    """Move info dumps out of a data folder."""
    prepare = MoveDumpsPrepareOperator(stage=stage, arguments=arguments, **_begin(stage))
    move = MoveDumpsOperator.partial(task_id="move", stage=stage, map_index_template=LABEL).expand(unit=prepare.output)
    report = MoveDumpsReportOperator(stage=stage, **_END)

    prepare >> move >> report
    return report
