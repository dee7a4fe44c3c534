"""### Upload: from a folder of DICOM files to a PACS

1. **prepare** checks that the destination answers, inspects every file of the folder, and groups DICOM files by series.
   Other files are passed over and counted.
2. **store** sends each series by C-STORE, without changes, and evaluates every response.
3. **report** closes the account: `logs/pacsifier_log.csv` in the output folder, an HTML report in the run's folder.

A second run sends only the instances that the destination has not confirmed.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.operators.groups import sending
from pacsifier_ops.operators.params import common, form
from pacsifier_ops.upload.run import UploadRequest

with DAG(
    "pacsifier_upload",
    description="Send the DICOM files of a folder to a PACS",
    doc_md=__doc__,
    schedule=None,
    params=form(UploadRequest),
    tags=["pacsifier", "dicom"],
    **common("2.0.0"),
):
    sending()
