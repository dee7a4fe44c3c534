"""### Karnak tags: give a Karnak gateway the pseudonyms of the patients of a folder

1. **prepare** inspects every file of the folder, and finds the pseudonym of every patient. If a patient has none, the
   run ends here, before any file is changed.
2. **tag** writes pseudonym, album and day shift into private tags of each object, in place or in an output folder.
   Nothing else of the object changes.
3. **report** closes the account: an HTML report in the run's folder.

The objects stay identified; Karnak de-identifies them. Send them to it with the DAG *pacsifier_upload*. A second run
does not change objects that have the right tags.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.handover.request import KarnakRequest
from pacsifier_ops.operators.groups import karnak_tagging
from pacsifier_ops.operators.params import common, form

with DAG(
    "pacsifier_karnak",
    description="Tag the DICOM files of a folder for a Karnak gateway",
    doc_md=__doc__,
    schedule=None,
    params=form(KarnakRequest),
    tags=["pacsifier", "dicom"],
    **common("2.0.0"),
):
    karnak_tagging()
