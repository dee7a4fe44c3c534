"""### Anonymize: de-identify a folder of DICOM files (PS3.15 Annex E)

1. **prepare** looks at every file of the folder and finds out who becomes whom. Sources that disagree end the run here,
   before anything is touched.
2. **deidentify** does it, series by series: each object is read, judged, de-identified and written, and the result
   searched for what it must not hold. What is not certain goes to quarantine with a reason.
3. **report** closes the books: every object is de-identified, excluded by a rule, or in quarantine. It writes the
   manifest, the HTML report with contact sheets to look for burned-in text, and, apart from the data set, who became
   whom.

Run it again and only what is not settled is done.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.operators.groups import deidentification
from pacsifier_ops.operators.params import RETRIES, form

with DAG(
    "pacsifier_anonymize",
    description="De-identify the DICOM files of a folder",
    doc_md=__doc__,
    schedule=None,
    params=form(DeidRequest),
    tags=["pacsifier", "de-identification"],
    default_args=RETRIES,
):
    deidentification()
