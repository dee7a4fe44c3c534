"""### Karnak tags: tell a Karnak gateway who the patients of a folder are to become

1. **prepare** looks at every file of the folder, and at who every patient becomes. A patient of whom that is not said
   ends the run here, before anything is touched.
2. **tag** writes pseudonym, album and day shift into private tags of each object, in place or into a folder apart.
   Nothing else of the object changes.
3. **report** closes the books: an HTML report in the run's folder.

The objects stay identified: it is Karnak that de-identifies them. Send them there with the DAG *pacsifier_upload*. Run
it again, and nothing that is right is touched.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.handover.request import KarnakRequest
from pacsifier_ops.operators.groups import karnak_tagging
from pacsifier_ops.operators.params import RETRIES, form

with DAG(
    "pacsifier_karnak",
    description="Tag the DICOM files of a folder for a Karnak gateway",
    doc_md=__doc__,
    schedule=None,
    params=form(KarnakRequest),
    tags=["pacsifier", "dicom"],
    default_args=RETRIES,
):
    karnak_tagging()
