"""### Probe: what a PACS can do

The probe queries one archive over one association, with few narrow queries. It finds out which levels and keys the
archive supports, how many matches it returns at most, which character sets it uses, and whether C-GET and C-MOVE to us
deliver one small image.

The results are in the task's log and, as a page, in the run's folder, with proposed settings of the connection and
questions for the PACS team. They do not identify patients. The fetched image is removed at once.
"""

from airflow.sdk import DAG

from pacsifier_ops.operators.params import common, form
from pacsifier_ops.operators.probe import DicomProbeOperator
from pacsifier_ops.probe.request import ProbeRequest

with DAG(
    "pacsifier_probe",
    description="Find out what a PACS can do, and how to set its connection up",
    doc_md=__doc__,
    schedule=None,
    params=form(ProbeRequest),
    tags=["pacsifier", "dicom"],
    **common("2.0.0"),
):
    DicomProbeOperator(task_id="probe", retries=1)
