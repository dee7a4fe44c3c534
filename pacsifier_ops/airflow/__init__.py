"""Jobs for DAGs of your own: each function makes a task group in the open DAG or task group.

    from pacsifier_ops.airflow import deidentify, extract

    with DAG("chest_ct", schedule="0 20 * * *"):
        fetched = extract(queryfile="queries/chest.csv", out_directory="chest/identified")
        made = deidentify(in_folder=fetched.output["folder"], out_folder="chest/de-identified", project="chest")
        convert(made.output["folder"])  # a task of yours

The arguments of a function are the options of the job, with the names of the form of its own DAG. A value may be a
template, or the output of another task. An option that is not given is taken from the params of the DAG run if they
have its name, else the default of the form is used. Arguments are paths below the data root, ids, and names of
connections. Airflow shows and keeps them, so they must not identify a patient.

Each group has a run of its own, so one DAG may have the same job several times, with other arguments. Tasks that talk
to a node run in the pool of its connection.

`default_args={"on_failure_callback": tell_failure}` has people told where a task of such a DAG fails.
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
from pacsifier_ops.operators.messages import tell_failure
from pacsifier_ops.operators.params import of_tasks
from pacsifier_ops.sensors.dicom import DicomArrivalSensor

__all__ = [
    "DicomArrivalSensor",
    "Job",
    "convert",
    "deidentify",
    "extract",
    "extract_reports",
    "make_dicomdir",
    "move_dumps",
    "pseudonymize",
    "tag_for_karnak",
    "tell_failure",
    "upload",
]


class Job(TaskGroup):
    """The task group of a job. `>>` and `<<` order it.

    Attributes:
        output: the result for other tasks, small values by name: `output["verdict"]` (complete, incomplete or
            unbalanced), counts, `output["report"]` (path of the HTML report) and, if the job writes data,
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
    job.default_args = {**of_tasks(), **job.dag.default_args, **job.default_args}
    with job:
        job.output = PlainXComArg(tasks(str(job.group_id), arguments))
    return job


def extract(group_id: str = "extract", **arguments: Any) -> Job:
    """Retrieve or move the series of a query table, as the DAG pacsifier_extract does.

    Args:
        group_id: id of the task group.
        arguments: options of the job, such as `queryfile`, `pacs`, `out_directory`.

    Raises:
        InputError: an argument is not an option of the job.
    """
    from pacsifier_ops.extract.run import Request

    return _job(groups.extraction, Request, group_id, arguments)


def pseudonymize(group_id: str = "pseudonymize", **arguments: Any) -> Job:
    """Give patients pseudonyms and day shifts, as the DAG pacsifier_pseudonymize does. See `extract`."""
    from pacsifier_ops.pseudonyms.run import PseudonymRequest

    return _job(groups.pseudonymization, PseudonymRequest, group_id, arguments)


def deidentify(group_id: str = "deidentify", **arguments: Any) -> Job:
    """De-identify a folder of DICOM files, as the DAG pacsifier_anonymize does. See `extract`."""
    from pacsifier_ops.deid.run import DeidRequest

    return _job(groups.deidentification, DeidRequest, group_id, arguments)


def upload(group_id: str = "upload", **arguments: Any) -> Job:
    """Send the DICOM files of a folder to a node, as the DAG pacsifier_upload does. See `extract`."""
    from pacsifier_ops.upload.run import UploadRequest

    return _job(groups.sending, UploadRequest, group_id, arguments)


def make_dicomdir(group_id: str = "dicomdir", **arguments: Any) -> Job:
    """Make a file-set with a DICOMDIR, as the DAG pacsifier_dicomdir does. See `extract`."""
    from pacsifier_ops.handover.request import DicomdirRequest

    return _job(groups.file_set, DicomdirRequest, group_id, arguments)


def convert(group_id: str = "convert", **arguments: Any) -> Job:
    """Convert de-identified images to NIfTI, as the DAG pacsifier_convert does. See `extract`."""
    from pacsifier_ops.convert.request import ConvertRequest

    return _job(groups.conversion, ConvertRequest, group_id, arguments)


def tag_for_karnak(group_id: str = "karnak", **arguments: Any) -> Job:
    """Tag the objects of a folder for a Karnak gateway, as the DAG pacsifier_karnak does. See `extract`."""
    from pacsifier_ops.handover.request import KarnakRequest

    return _job(groups.karnak_tagging, KarnakRequest, group_id, arguments)


def extract_reports(group_id: str = "reports", **arguments: Any) -> Job:
    """Write the text of the reports in a folder, as the DAG pacsifier_reports does. See `extract`."""
    from pacsifier_ops.handover.request import ReportsRequest

    return _job(groups.report_extraction, ReportsRequest, group_id, arguments)


def move_dumps(group_id: str = "dumps", **arguments: Any) -> Job:
    """Move info dumps out of a data folder, as the DAG pacsifier_move_dumps does. See `extract`."""
    from pacsifier_ops.handover.request import DumpsRequest

    return _job(groups.moving_dumps, DumpsRequest, group_id, arguments)
