"""Jobs for DAGs of your own: each function makes a task group in the DAG, or the task group, that is open.

    from pacsifier_ops.airflow import deidentify, extract

    with DAG("chest_ct", schedule="0 20 * * *"):
        fetched = extract(queryfile="queries/chest.csv", out_directory="chest/identified")
        made = deidentify(in_folder=fetched.output["folder"], out_folder="chest/de-identified", project="chest")
        convert(made.output["folder"])  # a task of yours

A function takes the options of the job as arguments: those of the form of the job's own DAG, by the same names. A value
may be a template, or the output of another task. An option that is not given is that of the DAG run's params if it has
one of that name, and else the default of the form. Arguments are paths below the data root, ids, and names of
connections: Airflow shows and keeps them, so nothing that identifies a patient belongs there.

Each group has a run of its own: the same job may occur several times in one DAG, with other arguments. Tasks that talk
to a node run in the pool of its connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow.sdk import TaskGroup
from airflow.sdk.definitions.xcom_arg import PlainXComArg

from pacsifier_ops.base.errors import InputError, not_known
from pacsifier_ops.base.options import IN_FORM, standing
from pacsifier_ops.operators import groups
from pacsifier_ops.operators.base import ReportOperator
from pacsifier_ops.operators.params import RETRIES
from pacsifier_ops.sensors.dicom import DicomArrivalSensor

__all__ = [
    "DicomArrivalSensor",
    "Job",
    "deidentify",
    "extract",
    "extract_reports",
    "make_dicomdir",
    "move_dumps",
    "pseudonymize",
    "tag_for_karnak",
    "upload",
]


class Job(TaskGroup):
    """The task group of a job. `>>` and `<<` order it.

    Attributes:
        output: the result, small values by name for other tasks: `output["verdict"]` (complete, incomplete or
            unbalanced), counts, `output["report"]` (path of the HTML report) and, where the job writes data,
            `output["folder"]` (path of the folder). A job that is not complete fails, unless `accept_incomplete` is
            given.
    """

    output: PlainXComArg


def _job(
    tasks: Callable[[str, Mapping[str, Any]], ReportOperator], request: type, group_id: str, arguments: dict[str, Any]
) -> Job:
    known = standing(request, IN_FORM)
    if unknown := [not_known(name, known) for name in arguments if name not in known]:
        raise InputError(f"{group_id}: {'; '.join(unknown)}")
    job = Job(group_id)
    job.default_args = {**RETRIES, **job.dag.default_args, **job.default_args}
    with job:
        job.output = PlainXComArg(tasks(str(job.group_id), arguments))
    return job


def extract(group_id: str = "extract", **arguments: Any) -> Job:
    """From a query table to verified series on disk, or at another node: the DAG pacsifier_extract.

    Args:
        group_id: id of the task group.
        arguments: options of the job, such as `queryfile`, `pacs`, `out_directory`.

    Raises:
        InputError: one of the arguments is no option of the job.
    """
    from pacsifier_ops.extract.run import Request

    return _job(groups.extraction, Request, group_id, arguments)


def pseudonymize(group_id: str = "pseudonymize", **arguments: Any) -> Job:
    """Pseudonyms and day shifts: the DAG pacsifier_pseudonymize. See `extract`."""
    from pacsifier_ops.pseudonyms.run import PseudonymRequest

    return _job(groups.pseudonymization, PseudonymRequest, group_id, arguments)


def deidentify(group_id: str = "deidentify", **arguments: Any) -> Job:
    """De-identify a folder of DICOM files: the DAG pacsifier_anonymize. See `extract`."""
    from pacsifier_ops.deid.run import DeidRequest

    return _job(groups.deidentification, DeidRequest, group_id, arguments)


def upload(group_id: str = "upload", **arguments: Any) -> Job:
    """Send the DICOM files of a folder to a node: the DAG pacsifier_upload. See `extract`."""
    from pacsifier_ops.upload.run import UploadRequest

    return _job(groups.sending, UploadRequest, group_id, arguments)


def make_dicomdir(group_id: str = "dicomdir", **arguments: Any) -> Job:
    """Make a file-set with a DICOMDIR: the DAG pacsifier_dicomdir. See `extract`."""
    from pacsifier_ops.handover.request import DicomdirRequest

    return _job(groups.file_set, DicomdirRequest, group_id, arguments)


def tag_for_karnak(group_id: str = "karnak", **arguments: Any) -> Job:
    """Tag the objects of a folder for a Karnak gateway: the DAG pacsifier_karnak. See `extract`."""
    from pacsifier_ops.handover.request import KarnakRequest

    return _job(groups.karnak_tagging, KarnakRequest, group_id, arguments)


def extract_reports(group_id: str = "reports", **arguments: Any) -> Job:
    """Write the text of the reports in a folder: the DAG pacsifier_reports. See `extract`."""
    from pacsifier_ops.handover.request import ReportsRequest

    return _job(groups.reporting, ReportsRequest, group_id, arguments)


def move_dumps(group_id: str = "dumps", **arguments: Any) -> Job:
    """Move info dumps out of a data folder: the DAG pacsifier_move_dumps. See `extract`."""
    from pacsifier_ops.handover.request import DumpsRequest

    return _job(groups.relocation, DumpsRequest, group_id, arguments)
