"""### DICOMDIR: a file-set for CDs, DVDs, and other media (PS3.10 8)

1. **prepare** looks at every file of the folder and gives each DICOM file its name, such as
   `P0000001/ST000001/SE000001/IM000001`, and its directory records. Nothing is written before all of that is known.
2. **copy** copies the files series by series, as they are, and reads each copy again.
3. **assemble** writes the `DICOMDIR` that lists them, and packs the file-set into a zip file where that is wanted.
4. **report** closes the books; what was outside of the standard, and what could not be copied, is in the report.

Run it again and only what is not there yet is copied. A folder that holds something else is refused.

**Results.** The report is at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.handover.request import DicomdirRequest
from pacsifier_ops.operators.groups import file_set
from pacsifier_ops.operators.params import RETRIES, form

with DAG(
    "pacsifier_dicomdir",
    description="Make a DICOM file-set with a DICOMDIR of the files of a folder",
    doc_md=__doc__,
    schedule=None,
    params=form(DicomdirRequest),
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    file_set()
