"""### Upload: from a folder of DICOM files to a PACS

1. **prepare** makes sure that the destination answers, looks at every file of the folder, and groups what is DICOM by
   series. Any folder will do; what is not DICOM is passed over and counted.
2. **store** sends each series by C-STORE, files as they are, and judges every answer.
3. **report** closes the books: `logs/pacsifier_log.csv` in the output folder, an HTML report in the run's folder.

Run it again and only what the destination has not confirmed yet is sent.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.operators.groups import sending
from pacsifier_ops.operators.params import RETRIES, form
from pacsifier_ops.upload.run import UploadRequest

with DAG(
    "pacsifier_upload",
    description="Send the DICOM files of a folder to a PACS",
    doc_md=__doc__,
    schedule=None,
    params=form(UploadRequest),
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    sending()
