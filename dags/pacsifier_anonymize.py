"""### Anonymize: de-identify a folder of DICOM files (PS3.15 Annex E)

1. **prepare** inspects every file of the folder and finds the pseudonym of every patient. If the sources contradict
   each other, the run ends here, before any file is changed.
2. **deidentify** treats the objects series by series: each is read, judged, de-identified and written, and the result
   is searched for identifiers. An object that is not certain goes to quarantine with a reason.
3. **report** closes the account: every object is de-identified, excluded by a rule, or in quarantine. It writes the
   manifest, the HTML report with contact sheets to find burned-in text, and, outside of the data set, the linkage of
   patients and pseudonyms.

A second run treats only the objects that are not finished.

**Results.** Progress and report are at *Results* on the run's page, and behind *Run and report* on each of its tasks.
"""

from airflow.sdk import DAG

from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.operators.groups import deidentification
from pacsifier_ops.operators.params import common, form

with DAG(
    "pacsifier_anonymize",
    description="De-identify the DICOM files of a folder",
    doc_md=__doc__,
    schedule=None,
    params=form(DeidRequest),
    tags=["pacsifier", "de-identification"],
    **common("2.0.0"),
):
    deidentification()
