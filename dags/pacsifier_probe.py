"""### Probe: what a PACS can do

Asks one archive over one association, with narrow questions: which levels and keys it can be queried by, where it
cuts answers off, in which character sets it answers, whether one small image comes by C-GET and by C-MOVE to us.

The answers are in the task's log and, as a page, in the run's folder, with the settings to put on the connection and
what to ask the PACS team for. Nothing in them identifies a patient; what was fetched is removed at once.
"""

from datetime import timedelta

from airflow.sdk import DAG

from pacsifier_ops.operators.params import form
from pacsifier_ops.operators.probe import DicomProbeOperator
from pacsifier_ops.probe.request import ProbeRequest

with DAG(
    "pacsifier_probe",
    description="Find out what a PACS can do, and how to set its connection up",
    doc_md=__doc__,
    schedule=None,
    params=form(ProbeRequest),
    tags=["pacsifier", "dicom"],
    default_args={"retries": 1, "retry_delay": timedelta(minutes=1)},
):
    DicomProbeOperator(task_id="probe")
