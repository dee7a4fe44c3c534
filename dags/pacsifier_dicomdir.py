"""### DICOMDIR: a file-set for CDs, DVDs, and other media (PS3.10 8)

1. **prepare** inspects every file of the folder, and plans the name of each DICOM file, such as
   `P0000001/ST000001/SE000001/IM000001`, and its directory records.
2. **copy** copies the files series by series, without changes, and reads each copy again.
3. **assemble** writes the `DICOMDIR` that lists them, and packs the file-set into a zip file if that was asked for.
4. **report** closes the account. The report lists deviations from the standard, and files that could not be copied.

A second run copies only the files that are missing. An output folder with other files is refused.

**Results.** The report is at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.handover.request import DicomdirRequest
from pacsifier_ops.operators.groups import file_set
from pacsifier_ops.operators.params import common, form

with DAG(
    "pacsifier_dicomdir",
    description="Make a DICOM file-set with a DICOMDIR of the files of a folder",
    doc_md=__doc__,
    schedule=None,
    params=form(DicomdirRequest),
    tags=["pacsifier", "dicom"],
    **common("2.0.0"),
):
    file_set()
